"""Calibration, confusion and mistakes against values worked out by hand."""

import math

import pytest
import torch

from mm_hf.evaluation import confusion, label_scores, worst_mistakes
from mm_hf.models.losses import classification_loss
from mm_hf.tasks import task_of


SINGLE, SEVERAL = "single_label_classification", "multi_label_classification"


def logits_of(probabilities):
    return torch.tensor(probabilities).log()


def calibration(logits, labels, problem_type):
    return task_of(problem_type).diagnostics(logits, labels)["calibration"]


def test_overconfidence():
    """Says 90 % and is right half of the time."""
    found = calibration(logits_of([[0.9, 0.05, 0.05]] * 40), torch.tensor([0, 1] * 20), SINGLE)
    assert found["ece"] == pytest.approx(0.4, abs=1e-6)
    assert (found["confidence"], found["accuracy"]) == (pytest.approx(0.9), pytest.approx(0.5))
    (filled,) = (place for place in found["bins"] if place["rows"])
    assert (filled["rows"], filled["confidence"], filled["accuracy"]) == (40, pytest.approx(0.9), 0.5)
    assert filled["low"] < 0.9 < filled["high"]


def test_certainty_is_in_the_last_bin():
    """Logits so large that the probability is 1: torchmetrics alone would give it a bin that no diagram has."""
    logits = torch.cat([logits_of([[0.95, 0.05]] * 10), torch.tensor([[90.0, 0.0]] * 10)])
    found = calibration(logits, torch.tensor([0] * 10 + [1] * 10), SINGLE)
    assert found["bins"][-1]["rows"] == 20
    assert found["ece"] == pytest.approx((0.95 + 1) / 2 - 0.5, abs=1e-6)


def test_several_labels_are_judged_by_how_often_they_are_there():
    logits = torch.tensor([[math.log(4), -20.0]] * 10)  # 80 %, and never
    labels = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 0.0]] * 7)
    found = calibration(logits, labels, SEVERAL)
    assert found["ece"] == pytest.approx((0.8 - 0.3) / 2, abs=1e-6)


def test_the_bins_are_those_of_the_error():
    generator = torch.Generator().manual_seed(0)
    logits, labels = 2 * torch.randn(500, 6, generator=generator), torch.randint(6, (500,), generator=generator)
    found = calibration(logits, labels, SINGLE)
    gaps = [
        place["rows"] / 500 * abs(place["confidence"] - place["accuracy"]) for place in found["bins"] if place["rows"]
    ]
    assert len(gaps) > 5
    assert sum(gaps) == pytest.approx(found["ece"], abs=1e-5)
    assert sum(place["rows"] for place in found["bins"]) == 500


def test_confusion():
    targets, said = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 2, 0])
    found = confusion(said, targets, ["cat", "dog", "cow"])
    assert found["matrix"] == [[1, 2, 0], [0, 1, 1], [1, 0, 0]]  # rows by truth
    assert found["pairs"][0] == {"truth": "cat", "answer": "dog", "rows": 2, "of": 3}
    assert [(pair["truth"], pair["answer"]) for pair in found["pairs"][1:]] == [("dog", "cow"), ("cow", "cat")]


def test_many_classes_have_pairs_alone():
    names = [f"class {number}" for number in range(31)]
    found = confusion(torch.arange(31).roll(1), torch.arange(31), names)
    assert found["matrix"] is None
    assert len(found["pairs"]) == 20
    assert found["pairs"][1] == {"truth": "class 1", "answer": "class 0", "rows": 1, "of": 1}
    assert confusion(torch.arange(31), torch.arange(31), names)["pairs"] == []


def test_scores_of_labels():
    targets = torch.tensor([[1, 0], [1, 1], [0, 1]])
    found = label_scores(torch.tensor([[1, 0], [1, 0], [1, 0]]), targets, ["cat", "dog"])
    assert found == {"cat": {"f1": pytest.approx(0.8), "rows": 2}, "dog": {"f1": 0.0, "rows": 2}}


def test_worst_mistakes():
    logits, task = logits_of([[0.9, 0.1], [0.6, 0.4], [0.99, 0.01], [0.2, 0.8]]), task_of(SINGLE, ["no", "yes"])
    found = worst_mistakes(task, logits, torch.tensor([1, 1, 0, 0]))
    assert [mistake["place"] for mistake in found] == [0, 3, 1]  # the third is right
    first = found[0]
    assert (first["answer"], first["truth"]) == ("no", "yes")
    assert (first["probability"], first["truth_probability"]) == (pytest.approx(0.9), pytest.approx(0.1))
    assert first["loss"] == pytest.approx(-math.log(0.1))
    assert len(worst_mistakes(task, logits, torch.tensor([1, 1, 0, 0]), count=2)) == 2
    assert worst_mistakes(task, logits, torch.tensor([0, 0, 0, 1])) == []


def test_mistakes_of_other_problems():
    logits = torch.tensor([[3.0, -3.0, 3.0], [-3.0, -3.0, -3.0]])
    labels = torch.tensor([[0.0, 1, 0], [1, 0, 0]])
    (mistake, other) = worst_mistakes(task_of(SEVERAL, ["a", "b", "c"]), logits, labels)
    assert (mistake["place"], mistake["answer"], mistake["truth"]) == (0, "a, c", "b")
    assert other["answer"] == "(none)"
    labels = torch.tensor([1.0, 4.0, 7.0])
    found = worst_mistakes(task_of("regression"), torch.tensor([[1.0], [2.0], [7.5]]), labels)
    assert [(mistake["place"], mistake["answer"], mistake["truth"]) for mistake in found] == [
        (1, "2", "4"),
        (2, "7.5", "7"),
    ]


@pytest.mark.parametrize("problem_type", [SINGLE, SEVERAL, "regression"])
def test_the_losses_of_rows_are_parts_of_the_loss(problem_type):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 1 if problem_type == "regression" else 4, generator=generator)
    labels = {
        SINGLE: torch.randint(4, (20,), generator=generator),
        SEVERAL: torch.rand(20, 4, generator=generator),
        "regression": torch.randn(20, generator=generator),
    }[problem_type]
    losses = task_of(problem_type).row_losses(logits, labels)
    assert losses.shape == (20,)
    torch.testing.assert_close(losses.mean(), classification_loss(logits, labels, problem_type))


def test_answers_and_targets():
    assert task_of(SINGLE).answers(torch.tensor([[0.0, 2.0]])).tolist() == [1]
    assert task_of(SEVERAL).answers(torch.tensor([[-0.1, 2.0]])).tolist() == [[0, 1]]
    assert task_of(SEVERAL).targets(torch.tensor([[0.3, 0.6]])).tolist() == [[0, 1]]
    assert task_of("regression").targets(torch.tensor([0.3, 0.6])).shape == (2, 1)
