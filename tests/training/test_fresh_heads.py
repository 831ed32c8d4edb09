"""Heads that know none of their labels are fitted to what the rest makes of the rows."""

import numpy as np
import pytest
import torch
from torch import nn

from mm_hf.heads import Head
from mm_hf.training.fresh_heads import fit


@pytest.fixture
def vectors() -> np.ndarray:
    """300 rows of 8 numbers, in units and places of their own."""
    draw = np.random.default_rng(0)
    return (draw.normal(size=(300, 8)) * 10.0 ** np.arange(-3, 5) + 7).astype(np.float32)


@pytest.fixture
def answers(vectors):
    """What a layer says of the rows; numbers in their own unit."""

    def answer(head: Head) -> np.ndarray:
        with torch.no_grad():
            found = head.layer.double()(torch.from_numpy(vectors).double())
        return (found * torch.tensor(head.scale or [1.0]) + torch.tensor(head.mean or [0.0])).numpy()

    return answer


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_classes(classes, vectors, answers):
    """The rows' own classes come out, also where a class has no row (the last one) or a row no class."""
    edges = np.quantile(vectors[:, 3], np.linspace(0, 1, classes + 1)[1:-1])
    truth = np.digitize(vectors[:, 3], edges).astype(np.int64)
    labels = truth.copy()
    labels[::10] = -100
    head = Head(nn.Linear(8, classes + 1), "labels", [*"abcde"][: classes + 1])
    assert fit(head, vectors, labels, None) == 270
    found = answers(head).argmax(1)
    assert (found != classes).all()
    assert (found == truth).mean() > {2: 0.95, 3: 0.8, 4: 0.7}[classes]
    assert (found[::10] == truth[::10]).mean() > 0.6


def test_rare_classes_count_where_the_recipe_says_so(vectors, answers):
    labels = (vectors[:, 0] > np.quantile(vectors[:, 0], 0.95)).astype(np.int64) * (np.arange(300) % 2)
    found = []
    for weight in (None, "balanced"):
        head = Head(nn.Linear(8, 2), "labels", ["often", "rarely"])
        fit(head, vectors, labels, weight)
        found.append((answers(head).argmax(1) == 1).sum())
    assert found[0] < found[1]


def test_several_labels(vectors, answers):
    """Each by itself; one that all rows have, or whose rows nobody labelled, stays as it is."""
    head = Head(nn.Linear(8, 4), "labels", [*"abcd"])
    before = head.layer.weight[2:].detach().clone()
    labels = np.stack([vectors[:, 1] > 7, vectors[:, 2] < 7, np.ones(300), np.full(300, np.nan)], 1).astype(np.float32)
    labels[:20, 0] = np.nan
    fit(head, vectors, labels, None)
    found = answers(head)[:, :2] > 0
    assert (found == np.stack([vectors[:, 1] > 7, vectors[:, 2] < 7], 1)).mean() > 0.95
    said = answers(head)
    assert np.isfinite(said).all()
    assert torch.allclose(head.layer.weight[2:].float(), before, atol=1e-6)


@pytest.mark.parametrize("unit", [1.0, 1e6])
def test_numbers_in_their_unit(unit, vectors, answers):
    truth = unit * (3 + vectors[:, 2] * 40 - vectors[:, 6] / 500)
    labels = truth.astype(np.float32).copy()
    labels[:30] = np.nan
    head = Head(nn.Linear(8, 1), "numbers", mean=[float(truth.mean())], scale=[float(truth.std())])
    assert fit(head, vectors, labels, None) == 270
    error = np.abs(answers(head)[:, 0] - truth).mean() / truth.std()
    assert error < 0.35  # the penalty holds back, without making another number of it


@pytest.mark.parametrize(
    "labels",
    [np.full(300, -100), np.zeros(300, dtype=np.int64), np.full(300, np.nan, dtype=np.float32)],
    ids=["none known", "one class", "no number"],
)
def test_nothing_to_fit(labels, vectors):
    kind = "numbers" if labels.dtype.kind == "f" else "labels"
    head = Head(nn.Linear(8, 1 if kind == "numbers" else 3), kind, None if kind == "numbers" else [*"abc"])
    before = [part.detach().clone() for part in head.layer.parameters()]
    assert fit(head, vectors, labels, None) == 0
    assert all(torch.equal(*pair) for pair in zip(before, head.layer.parameters()))
