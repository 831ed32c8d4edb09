"""Floors: wrong pairs that are wrong, and rows that lose what they should."""

from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest
import torch

from mm_hf.evaluation import derangement, majority_accuracy, measure_answers, rows_without
from mm_hf.tasks import task_of


def guesses(labels, kind, outputs):
    """By name the answers that look at no row."""
    return {name: guess.answer for name, guess in task_of(kind).constants(labels, outputs).items()}


def metrics_of_guess(answer, labels, kind):
    """What one answer to every row scores, over the rows that have a label."""
    task = task_of(kind)
    targets = task.targets(labels[task.has_label(labels)])
    return measure_answers(task, answer.expand(len(targets), *answer.shape), targets, targets.shape[1])["metrics"]


@pytest.mark.parametrize("seed", range(20))
def test_no_row_keeps_its_picture(seed):
    """Groups of all sizes up to half of the rows, some rows without a picture."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 8, size=draw.integers(2, 30))
    sizes[0] = sum(sizes[1:])
    items = [None] * int(draw.integers(0, 5)) + [name for name, size in enumerate(sizes.tolist()) for _ in range(size)]
    draw.shuffle(items)
    order = derangement(items, seed)
    assert sorted(order) == list(range(len(items)))
    given = [items[row] for row in order]
    assert Counter(given) == Counter(items)
    assert all((one is None and other is None) or one != other for one, other in zip(items, given))
    assert order == derangement(items, seed)


def test_a_picture_that_most_rows_share_stays_where_it_must():
    items = ["a"] * 7 + ["b", "c", "d"]
    order = derangement(items, 0)
    assert sum(items[row] == items[other] for row, other in enumerate(order)) == 7 - 3
    assert derangement(["a", "a"], 0) == [0, 1] or derangement(["a", "a"], 0) == [1, 0]
    assert derangement([None, None], 0) == [0, 1]


def test_the_order_is_drawn():
    items = list(range(40))
    assert derangement(items, 0) != derangement(items, 1)


def test_rows_that_lose_something_are_nested():
    lost = [rows_without(101, share, [7, 1]) for share in (0, 0.3, 0.5, 0.7, 1)]
    assert [len(rows) for rows in lost] == [0, 30, 50, 71, 101]
    assert all(fewer < more for fewer, more in pairwise(lost))
    assert lost[-1] == frozenset(range(101))
    assert rows_without(101, 0.5, [7, 1]) == lost[2]
    assert rows_without(101, 0.5, [8, 1]) != lost[2]
    assert rows_without(101, 0.5, [7, 0]) != lost[2]


@pytest.mark.parametrize("seed", range(10))
def test_no_constant_labels_are_better(seed):
    """Of all that could be answered to every row, the floor has the best F1 (micro)."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(40, 5, generator=generator) < torch.rand(5, generator=generator)).float()

    def score(answer):
        return metrics_of_guess(torch.tensor(answer), labels, "multi_label_classification")["f1_micro"]

    best = max(score(answer) for answer in product((0, 1), repeat=5))
    found = score(guesses(labels, "multi_label_classification", 5)["majority"].tolist())
    assert found == pytest.approx(best)
    assert found > 0


def test_no_constant_number_is_better():
    labels = torch.tensor([1.0, 2.0, 2.5, 40.0, float("nan"), 1e3])
    known = labels[~labels.isnan()]
    mean, median = guesses(labels, "regression", 1).values()
    assert (mean.item(), median.item()) == (pytest.approx(209.1), 2.5)
    for answer, name in ((mean, "rmse"), (median, "mae")):
        found, *others = (
            metrics_of_guess(answer + step, labels, "regression")[name] for step in (0, -1, 1, 100, -100)
        )
        assert found < min(others)
        assert found == pytest.approx({"rmse": known.std(correction=0).item(), "mae": 1037 / 5}[name])


def test_the_majority():
    labels = torch.tensor([2, 2, 0, 1, -100, -100, -100])
    answer = guesses(labels, "single_label_classification", 4)["majority"]
    assert answer.item() == 2
    test = torch.tensor([2, 0, 2, 1])
    assert (test == answer).float().mean().item() == majority_accuracy([2, 2, 0, 1], test.tolist())
    several = torch.tensor([[1.0, 0, 1], [1, 0, 0], [0, 1, 0], [float("nan")] * 3])
    (labels,) = guesses(several, "multi_label_classification", 3).values()
    assert labels.tolist() == [1, 1, 1]  # F1 .615, of the first .571
    rare = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert guesses(rare, "multi_label_classification", 3)["majority"].tolist() == [0, 1, 0]
    assert guesses(torch.tensor([1.0, 4.0, float("nan")]), "regression", 1)["mean"].tolist() == [2.5]
