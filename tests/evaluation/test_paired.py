"""Two models on the same rows: every figure against one worked out by hand, or by scipy and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sklearn_metrics

from mm_hf.evaluation import figure, gap
from mm_hf.evaluation.outcomes import MeasuredRows, Outcome, compare_outcomes
from mm_hf.evaluation.paired import (
    counted,
    differing_rows,
    paired_metrics,
    paired_verdict,
    sign_test,
    winner,
)
from mm_hf.tasks import task_of


CLASSES = task_of("single_label_classification")
LABELS = task_of("multi_label_classification")
NUMBERS = task_of("regression")


def draw(rows: int, right_a: float, right_b: float, seed: int = 0):
    """Answers of A and B to questions of three classes, and the truths."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(3, size=rows)
    said = [np.where(generator.random(rows) < right, truth, (truth + 1) % 3) for right in (right_a, right_b)]
    return tuple(map(torch.from_numpy, said)), torch.from_numpy(truth)


def test_the_interval_is_that_of_the_paired_bootstrap():
    """Of accuracy it comes close to that of a mean of differences, by scipy's own bootstrap; of the scores taken one
    by one it would be wider."""
    said, truth = draw(400, 0.9, 0.9)
    said = said[0], torch.where(torch.arange(400) % 20 == 0, (said[0] + 1) % 3, said[0])  # they err together
    found = paired_metrics(CLASSES, said, truth, 3, torch.arange(400), samples=1000)["metrics"]
    right = [(answers == truth).double().numpy() for answers in said]
    accuracy = found["accuracy"]
    assert (accuracy["a"], accuracy["b"]) == pytest.approx((right[0].mean(), right[1].mean()))
    assert accuracy["difference"] == pytest.approx(right[0].mean() - right[1].mean())
    ours = [accuracy["low"], accuracy["high"]]
    theirs = stats.bootstrap((right[0] - right[1],), np.mean, n_resamples=2000, method="percentile", rng=1)
    assert ours == pytest.approx(list(theirs.confidence_interval), abs=0.006)
    alone = 1.96 * math.sqrt(sum(values.var() for values in right) / 400)
    assert ours[1] - ours[0] < 0.8 * 2 * alone
    f1 = [sklearn_metrics.f1_score(truth, answers, average="macro") for answers in said]
    assert found["macro_f1"]["difference"] == pytest.approx(f1[0] - f1[1], abs=1e-6)


def test_rows_that_belong_together_are_drawn_together():
    """Ten times the same rows are no more than the rows once."""
    said, truth = draw(60, 0.9, 0.7)
    groups = torch.arange(60)
    once = paired_metrics(CLASSES, said, truth, 3, groups, samples=300)["metrics"]["accuracy"]
    tenfold = tuple(answers.repeat(10) for answers in said)
    more = paired_metrics(CLASSES, tenfold, truth.repeat(10), 3, groups.repeat(10), samples=300)["metrics"]["accuracy"]
    assert more == pytest.approx(once)
    votes = [(answers == truth).double() for answers in said]
    differences = votes[0] - votes[1]
    assert sign_test(differences.repeat(10), groups.repeat(10)) == sign_test(differences, groups)


def test_regression_and_kinds():
    truth = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    said = truth + torch.tensor([[1.0], [0.0], [-1.0], [2.0]]), truth + torch.tensor([[2.0], [0.0], [0.0], [-2.0]])
    kinds = ["x", "x", "y", None]
    found = paired_metrics(NUMBERS, said, truth, 1, torch.arange(4), kinds, samples=20)
    rmse, mae = found["metrics"]["rmse"], found["metrics"]["mae"]
    assert (rmse["a"], rmse["b"]) == pytest.approx((math.sqrt(6 / 4), math.sqrt(8 / 4)))
    assert (mae["a"], mae["b"], mae["difference"]) == pytest.approx((1.0, 1.0, 0.0))
    assert found["by_kind"]["x"]["difference"] == pytest.approx(math.sqrt(1 / 2) - math.sqrt(4 / 2))
    assert {kind: values["rows"] for kind, values in found["by_kind"].items()} == {"x": 2, "y": 1}
    scores = tuple(NUMBERS.row_scores(answers, truth) for answers in said)
    assert scores[0].tolist() == [-1, 0, -1, -2]
    assert counted(NUMBERS, said, truth, scores) == {"a_closer": 1, "b_closer": 1, "equal": 2, "differ": 3}
    assert differing_rows(said, scores) == [0, 2, 3]  # row 3 is answered differently, and equally wrong


def test_scores_of_rows():
    labels = torch.tensor([[1, 0, 1], [0, 0, 0]])
    said = torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert LABELS.row_scores(said, labels).tolist() == pytest.approx([1 / 3, 1])
    texts = ["a red cat", "a red dog"]
    scores = task_of("generation", texts).row_scores(torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert scores[0] == 1
    assert 0 < scores[1] < 1


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (9, 2), (3, 3), (130, 171), (6000, 5500)])
def test_the_sign_test_is_mcnemars(only_a, only_b):
    differences = torch.cat([torch.ones(only_a), -torch.ones(only_b), torch.zeros(7)])
    found = sign_test(differences, torch.arange(len(differences)))
    assert (found["a"], found["b"], found["equal"]) == (only_a, only_b, 7)
    expected = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    assert found["p"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("metric", "low", "high", "better"),
    [
        ("accuracy", 0.01, 0.2, "a"),
        ("accuracy", -0.2, -0.01, "b"),
        ("rmse", 0.01, 0.2, "b"),
        ("price_mae", -0.2, -0.1, "a"),
        ("accuracy", -0.1, 0.2, None),
        ("accuracy", 0.0, 0.2, None),
        ("accuracy", None, None, None),
    ],
)
def test_who_is_better(metric, low, high, better):
    assert winner(metric, low, high) == better


def words(a, b, low, high, metric="accuracy", rows=500, groups=100):
    found = {"a": a, "b": b, "difference": a - b, "low": low, "high": high, "winner": winner(metric, low, high)}
    return paired_verdict(found, metric, ("A (one)", "B (two)"), rows, groups, "rows of the same picture")


def test_words():
    said = words(0.9, 0.85, 0.02, 0.08)
    assert said.startswith("A (one) is better than B (two) by 5.0 points of accuracy")
    assert "[+2.0, +8.0]" in said
    assert "500 rows (100 groups: rows of the same picture)" in said
    said = words(12.0, 10.5, 0.5, 2.5, "rmse")
    assert said.startswith("B (two) is better than A (one) by 1.5000 of rmse")
    said = words(0.9, 0.89, -0.02, 0.04)
    assert said.startswith("No clear difference between A (one) and B (two)")
    assert "contains 0" in said
    assert "rough" not in said
    assert "rough" in words(0.9, 0.85, 0.02, 0.08, groups=6)
    assert "is better" not in words(0.9, 0.89, None, None)
    assert gap(-0.1234, "wer") == "-12.3"
    assert gap(3.5, "mae") == f"+{figure(3.5)}"


def outcome(names, answers, truth, labelled=None) -> Outcome:
    truth = torch.tensor(truth)
    task = task_of("single_label_classification", names)
    return Outcome(task, torch.tensor(answers), truth, truth >= 0 if labelled is None else labelled)


def compared(one, other, rows):
    about = MeasuredRows(list(range(10, 10 + rows)), list(range(rows)), "rows")
    return compare_outcomes("colour", one, other, ("A", "B"), about, samples=20)


def test_classes_go_by_their_names():
    """Other numbers, and a class that one does not have: a row of it is one that this model gets wrong."""
    one = outcome(["red", "green", "blue"], [0, 1, 2, 0], [0, 1, 2, 1])
    other = outcome(["green", "red"], [1, 0, 0, 0], [1, 0, -100, 0])
    found = compared(one, other, 4)
    assert found["rows"] == 4
    assert found["left_out"] == 0
    assert (found["labels_of_a_alone"], found["labels_of_b_alone"]) == (["blue"], [])
    assert found["metrics"]["accuracy"] | {"low": 0, "high": 0, "winner": None} == {
        **{"a": 0.75, "b": 0.75, "difference": 0.0, "low": 0, "high": 0, "winner": None}
    }
    assert found["counts"] == {"both_right": 2, "only_a_right": 1, "only_b_right": 1, "both_wrong": 0, "differ": 2}
    lines = [(row["row"], row["truth"], row["a"], row["b"], row["better"]) for row in found["differing"]]
    assert lines == [(12, "blue", "blue", "green", "A"), (13, "green", "red", "green", "B")]


def test_rows_that_one_cannot_read_count_for_neither():
    one, other = outcome(["x", "y"], [0, 1, 1], [0, -100, 1]), outcome(["x", "y"], [0, 1, 1], [0, 1, -100])
    found = compared(one, other, 3)
    assert (found["rows"], found["left_out"], found["differing"]) == (1, 2, [])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (outcome(["x", "y"], [0, 1], [0, 0]), "row 11"),
        (outcome(["x", "y"], [0, 1], [-100, -100]), "column 'colour'"),
        (
            Outcome(NUMBERS, torch.zeros(2, 1), torch.zeros(2, 1), torch.ones(2, dtype=torch.bool)),
            "regression",
        ),
    ],
)
def test_what_cannot_be_compared(other, message):
    with pytest.raises(ValueError, match=message):
        compared(outcome(["x", "y"], [0, 1], [0, 1]), other, 2)


def test_few_groups_have_no_winner():
    """One row of a kind, or three groups in all, tell nothing, however they are answered."""
    truth = torch.zeros(40, dtype=torch.int64)
    said = truth.clone(), torch.cat([truth[:39], torch.tensor([1])])
    kinds = ["x"] * 39 + ["y"]
    found = paired_metrics(CLASSES, said, truth, 3, torch.arange(40), kinds=kinds, samples=50)
    lonely = found["by_kind"]["y"]
    assert (lonely["rows"], lonely["difference"], lonely["winner"], lonely["low"]) == (1, 1.0, None, None)
    assert found["by_kind"]["x"]["low"] == 0.0
    three = paired_metrics(CLASSES, (truth, truth + 1), truth, 3, torch.arange(40) % 3, samples=50)["metrics"]
    assert (three["accuracy"]["difference"], three["accuracy"]["winner"]) == (1.0, None)


def test_ties_of_rounded_sums_are_ties():
    """Ten labels: A is wrong in 0, 0 and 3 of them, B in 0, 1 and 2. Their sums are equal but for rounding."""
    scores = torch.tensor([[1.0, 1.0, 0.7], [1.0, 0.9, 0.8]], dtype=torch.float64)
    assert sign_test(scores[0] - scores[1], torch.zeros(3, dtype=torch.int64)) == {"a": 0, "b": 0, "equal": 1, "p": 1}
