"""Metrics against values worked out by hand."""

import math

import pytest
import torch

from mm_hf.evaluation import majority_accuracy
from mm_hf.tasks import classification_metrics, task_of


def logits_of(classes, count=3):
    return torch.nn.functional.one_hot(torch.tensor(classes), count).float() * 5


def test_classes():
    labels = torch.tensor([0, 1, 2, 2, -100])
    report = classification_metrics(
        logits_of([0, 1, 1, 2, 0]), labels, "single_label_classification", ["a", "a", "b", "b", "b"]
    )
    assert report["rows"] == 4
    assert report["metrics"]["accuracy"] == pytest.approx(3 / 4)
    # F1 of the classes: 1; 2·(1/2·1)/(1/2+1) = 2/3; 2·(1·1/2)/(1+1/2) = 2/3
    assert report["metrics"]["macro_f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert report["by_kind"] == {"a": pytest.approx(1.0), "b": pytest.approx(0.5)}


def test_several_labels():
    logits = torch.tensor([[5.0, -5.0], [5.0, 5.0], [-5.0, 5.0]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [float("nan"), float("nan")]])
    report = classification_metrics(logits, labels, "multi_label_classification")
    assert report["rows"] == 2
    assert report["metrics"]["f1_micro"] == pytest.approx(2 * 2 / (2 * 2 + 1))


def test_regression():
    logits, labels = torch.tensor([[1.0], [2.0], [9.0]]), torch.tensor([2.0, 4.0, float("nan")])
    report = classification_metrics(logits, labels, "regression")
    assert report["metrics"]["rmse"] == pytest.approx(((1 + 4) / 2) ** 0.5)
    assert report["metrics"]["pearson"] == pytest.approx(1.0)


def test_ranks():
    """Spearman sees the order alone: 1 - 6 Σd² / (n (n² - 1))."""
    logits, labels = torch.tensor([[1.0], [2.0], [90.0], [4.0]]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    report = classification_metrics(logits, labels, "regression")
    assert report["metrics"]["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15), abs=1e-5)
    assert list(report["metrics"]) == ["rmse", "mae", "r2", "pearson", "spearman"]


@pytest.mark.parametrize(("unit", "shift"), [(1, 0), (1, 1e9), (1e-9, 0), (1e-4, 0), (1e9, 0)])
def test_the_share_of_variance_that_is_explained(unit, shift):
    """Truths 1, 2, 3, 6 (mean 3, squares about it 14 in all); the answers are off by 1, 0, -1, 2 (squares 6). A shift
    changes nothing, though squares of such numbers fill a float64, nor does a unit, though their squares are tiny."""
    targets = torch.tensor([[1.0], [2.0], [3.0], [6.0]], dtype=torch.float64) * unit + shift
    answers = torch.tensor([[2.0], [2.0], [2.0], [8.0]], dtype=torch.float64) * unit + shift
    found = {name: function(answers, targets).item() for name, function in task_of("regression").metrics(1).items()}
    assert found["r2"] == pytest.approx(1 - 6 / 14)
    assert found["mae"] == pytest.approx(unit)
    assert found["rmse"] == pytest.approx(unit * (6 / 4) ** 0.5)
    assert task_of("regression").metrics(1)["r2"](targets * 0 + targets.mean(), targets).item() == pytest.approx(0)


def test_several_outputs_have_one_share():
    targets = torch.tensor([[0.0, 0.0], [2.0, 20.0]])
    answers = torch.tensor([[0.0, 5.0], [2.0, 20.0]])
    assert task_of("regression").metrics(2)["r2"](answers, targets).item() == pytest.approx(1 - 25 / (2 + 200))


@pytest.mark.parametrize("labels", [[3.0], [2.0, 2.0, 2.0]])
def test_labels_that_are_alike_explain_nothing(labels):
    targets = torch.tensor(labels)[:, None]
    assert math.isnan(task_of("regression").metrics(1)["r2"](targets + 1, targets))


def test_a_row_may_have_no_kind():
    report = classification_metrics(
        logits_of([0, 1, 2]), torch.tensor([0, 1, 1]), "single_label_classification", ["a", None, "a"]
    )
    assert report["by_kind"] == {"a": pytest.approx(0.5)}


def test_no_labels():
    with pytest.raises(ValueError, match=r"\b1\b.*label"):
        classification_metrics(logits_of([0]), torch.tensor([-100]), "single_label_classification")


def test_majority():
    assert majority_accuracy([1, 1, 0, None], [1, 0, 0, None]) == pytest.approx(1 / 3)
