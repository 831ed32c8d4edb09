"""What written texts are worth."""

from collections import Counter

import pytest
import torch

from mm_hf.evaluation import TextTable, analyse, generation_metrics, token_metrics
from mm_hf.evaluation.texts import TextScore, chrf, exact
from mm_hf.tasks import task_of


def chrf_by_hand(answer: str, target: str) -> float:
    """The mean of F2 over n-grams of one to six characters (or as many as the truth has), spaces left out."""
    scores = []
    for size in range(1, 1 + min(6, len(target.replace(" ", "")))):
        said, true = (
            Counter(text[place : place + size] for place in range(len(text) - size + 1))
            for text in (answer.replace(" ", ""), target.replace(" ", ""))
        )
        both = (said & true).total()
        precision, recall = both / max(said.total(), 1), both / max(true.total(), 1)
        scores.append(5 * precision * recall / (4 * precision + recall) if both else 0.0)
    return sum(scores) / len(scores)


PAIRS = [
    ("red", "red"),
    ("red heart", "heart"),
    ("red heart", "black heart"),
    ("cat face", "dog"),
    ("grinning cat", "grinning face"),
]


def test_chrf_and_exact_match():
    answers, targets = map(list, zip(*PAIRS))
    assert chrf(answers, targets) == pytest.approx([chrf_by_hand(*pair) for pair in PAIRS], abs=1e-5)
    assert chrf(["red"], ["red"]) == [1]
    assert exact(answers, targets) == [1, 0, 0, 0, 0]
    found = generation_metrics([*answers, "nobody asked"], [*targets, None], kinds=["a", "a", None, "b", None, "b"])
    assert found["metrics"]["chrf"] == pytest.approx(sum(chrf_by_hand(*pair) for pair in PAIRS) / 5, abs=1e-5)
    assert found["metrics"]["exact_match"] == pytest.approx(0.2)
    assert found["by_kind"]["b"] == pytest.approx(chrf_by_hand(*PAIRS[3]), abs=1e-5)
    assert found["rows"] == 5
    with pytest.raises(ValueError, match=r"\b1\b.*text"):
        generation_metrics(["a"], [None])


def test_equal_pairs_are_scored_once():
    asked = []

    def score(answers, targets):
        asked.extend(zip(answers, targets))
        return exact(answers, targets)

    table = TextTable(["a", "b"])
    answers, targets = table.codes(["a", "a", "c", "a"]), table.codes(["a", "b", "a", "b"])
    scores = TextScore(table.texts, score)
    assert scores.rows(answers, targets).tolist() == [1, 0, 0, 0]
    assert scores(answers[1:], targets[1:]) == 0
    assert sorted(asked) == [("a", "a"), ("a", "b"), ("c", "a")]
    assert table.codes(["c", None]).tolist() == [2, -100]


def test_what_is_found_out_of_texts():
    table = TextTable()
    said, true = table.codes(["red", "red", "blue", "blu"] * 10), table.codes(["red", "blue", "blue", "blue"] * 10)
    nearest = table.codes(["red"] * 40)
    task = task_of("generation", table.texts)
    majority = task.constants(true, 0)["majority"].answer.expand(40)
    assert table.texts[int(majority[0])] == "blue"
    found = analyse(
        task,
        said,
        true,
        torch.arange(40),
        kinds=["a", "b"] * 20,
        floors={"majority": (majority, {"meaning": "most"}), "nearest": (nearest, {"meaning": "near"})},
        curves={"vision": [(0.0, said), (1.0, majority)]},
        samples=50,
        progress=False,
    )
    exact_match = found["metrics"]["exact_match"]
    assert exact_match["value"] == 0.5
    assert exact_match["low"] < 0.5 < exact_match["high"]
    assert found["floors"]["nearest"]["value"] == pytest.approx((1 + 3 * chrf_by_hand("red", "blue")) / 4, abs=1e-5)
    assert found["missing"]["by_modality"]["vision"][1]["value"] == found["floors"]["majority"]["value"]
    assert found["calibration"] is found["confusion"] is None
    worst = found["mistakes"][0]
    assert (worst["answer"], worst["truth"]) == ("red", "blue")
    assert worst["loss"] == pytest.approx(1 - chrf_by_hand("red", "blue"), abs=1e-5)
    assert {mistake["answer"] for mistake in found["mistakes"]} == {"red", "blu"}


def test_the_right_next_token():
    labels = torch.tensor([[5, 6, 2], [7, 2, -100], [-100, -100, -100]])
    tokens = torch.tensor([[5, 9, 2], [7, 2, 3], [1, 1, 1]])
    assert token_metrics(tokens, labels) == {
        "metrics": {"token_accuracy": pytest.approx(0.8)},
        "by_kind": {},
        "rows": 2,
    }
