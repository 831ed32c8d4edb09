"""Intervals against what statistics says of them."""

import math

import pytest
import torch

from mm_hf.evaluation import bootstrap, group_codes, metrics_with_intervals
from mm_hf.tasks import classification_metrics, task_of


def answers(rows: int, right: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers and targets of 5 classes, of which exactly this share agrees."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(5, (rows,), generator=generator)
    wrong = torch.randperm(rows, generator=generator)[: round(rows * (1 - right))]
    said = targets.clone()
    said[wrong] = (said[wrong] + 1) % 5
    return said, targets


def measured(said, targets, groups=None, **more):
    groups = torch.arange(len(said)) if groups is None else groups
    return metrics_with_intervals(task_of("single_label_classification"), said, targets, 5, groups, **more)


def half_width(found):
    return (found["high"] - found["low"]) / 2


@pytest.mark.parametrize(("rows", "right"), [(400, 0.8), (2000, 0.95)])
def test_single_rows_give_the_binomial_interval(rows, right):
    found = measured(*answers(rows, right), samples=4000)["metrics"]["accuracy"]
    expected = 1.96 * math.sqrt(right * (1 - right) / rows)
    assert found["value"] == pytest.approx(right)
    assert half_width(found) == pytest.approx(expected, rel=0.06)
    assert (found["high"] + found["low"]) / 2 == pytest.approx(right, abs=expected / 10)


def test_an_interval_narrows_with_the_root_of_the_rows():
    few, many = (measured(*answers(rows, 0.7), samples=2000)["metrics"] for rows in (100, 1600))
    for metric in ("accuracy", "macro_f1"):
        assert few[metric]["low"] < few[metric]["value"] < few[metric]["high"]
        assert half_width(few[metric]) / half_width(many[metric]) == pytest.approx(4, rel=0.15)


def test_rows_of_one_picture_count_as_one():
    """Each row four times over is no more to go by than once."""
    said, targets = answers(300, 0.7)
    once = measured(said, targets)["metrics"]["accuracy"]
    copies = said.repeat(4), targets.repeat(4)
    grouped = measured(*copies, groups=torch.arange(300).repeat(4))["metrics"]["accuracy"]
    assert grouped == pytest.approx(once)  # the same draws
    alone = measured(*copies)["metrics"]["accuracy"]
    assert half_width(alone) == pytest.approx(half_width(once) / 2, rel=0.1)


def test_the_seed_decides():
    said, targets = answers(200, 0.7)
    assert measured(said, targets, seed=3) == measured(said, targets, seed=3)
    assert measured(said, targets, seed=3) != measured(said, targets, seed=4)


def test_values_are_those_of_the_plain_metrics():
    generator = torch.Generator().manual_seed(0)
    kinds = ["a", "b", None, "c"] * 25
    for problem_type, logits, labels in (
        ("single_label_classification", torch.randn(100, 5, generator=generator), torch.arange(100) % 5),
        ("multi_label_classification", torch.randn(100, 5, generator=generator), torch.eye(5).repeat(20, 1)),
        ("regression", torch.randn(100, 1, generator=generator), torch.randn(100, generator=generator)),
    ):
        plain, task = classification_metrics(logits, labels, problem_type, kinds), task_of(problem_type)
        found = metrics_with_intervals(
            task,
            task.answers(logits),
            task.targets(labels),
            logits.shape[1],
            torch.arange(100),
            kinds,
            samples=200,
        )
        assert {name: values["value"] for name, values in found["metrics"].items()} == plain["metrics"]
        assert {kind: values["value"] for kind, values in found["by_kind"].items()} == plain["by_kind"]
        assert [values["rows"] for values in found["by_kind"].values()] == [25, 25, 25]
        assert all(values["low"] < values["value"] < values["high"] for values in found["metrics"].values())


def test_the_first_metric_alone():
    said, targets = answers(100, 0.7)
    only = measured(said, targets, first_only=True)["metrics"]
    assert only == {"accuracy": measured(said, targets)["metrics"]["accuracy"]}


def test_a_kind_of_one_row():
    """It is missing in a third of the resamples, and right or wrong in all others."""
    said, targets = answers(50, 0.8)
    found = measured(said, targets, kinds=["rare", *["common"] * 49])["by_kind"]
    right = float(said[0] == targets[0])
    assert found["rare"] == {"value": right, "low": right, "high": right, "rows": 1}


def test_what_is_not_defined_has_no_interval():
    found = bootstrap(lambda rows: {"a": math.nan, "b": float(len(rows))}, torch.arange(5), samples=10)
    assert found == {"a": {"value": None, "low": None, "high": None}, "b": {"value": 5.0, "low": 5.0, "high": 5.0}}


def test_groups():
    assert group_codes(["x", "y", None, "x", float("nan"), None]).tolist() == [0, 1, 2, 0, 3, 4]
    assert group_codes([7, 7, 0]).tolist() == [0, 0, 1]
