"""Floors: wrong pairs that are wrong, and rows that lose what they should."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from mm_hf.evaluation import derangement, majority_accuracy, majority_answer, rows_without


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


def test_the_majority():
    labels = torch.tensor([2, 2, 0, 1, -100, -100, -100])
    answer = majority_answer(labels, "single_label_classification", 4)
    assert answer.item() == 2
    test = torch.tensor([2, 0, 2, 1])
    assert (test == answer).float().mean().item() == majority_accuracy([2, 2, 0, 1], test.tolist())
    several = torch.tensor([[1.0, 0, 1], [1, 0, 0], [0, 1, 0], [float("nan")] * 3])
    assert majority_answer(several, "multi_label_classification", 3).tolist() == [1, 0, 0]
    rare = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert majority_answer(rare, "multi_label_classification", 3).tolist() == [0, 1, 0]
    assert majority_answer(torch.tensor([1.0, 4.0, float("nan")]), "regression", 1).tolist() == [2.5]
