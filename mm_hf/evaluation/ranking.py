"""Measures a search: the rank of the right item."""

import math
from collections.abc import Callable
from typing import Any

import torch

from ..models.text import Text


RECALLS = (1, 5, 10)


def distinct(embeddings: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each item once: its embedding and its id. A negative id means no item."""
    first = {number: row for row, number in reversed(list(enumerate(ids.tolist()))) if number >= 0}
    rows = sorted(first.values())
    return embeddings[rows], ids[rows]


def ranks(scores: torch.Tensor, relevant: torch.Tensor) -> torch.Tensor:
    """The rank of the best relevant item of each query, from 1. Among items with equal scores the relevant one comes
    last, so that a search with equal scores for all items finds nothing.

    Args:
        scores: `(Q, N)`, higher is better.
        relevant: `(Q, N)` bool, at least one per query.

    Returns:
        `(Q,)` int64.
    """
    best = scores.masked_fill(~relevant, -torch.inf).max(-1, keepdim=True).values
    return ((scores >= best) & ~relevant).sum(-1) + 1


def ranking_metrics(places: torch.Tensor) -> dict[str, float]:
    """Recall at 1, 5 and 10 (the share of queries with a relevant item among the first k, which torchmetrics calls the
    hit rate), and the median rank. `places` `(Q,)` are ranks, see `ranks`."""
    recalls = {f"recall_at_{k}": (places <= k).float().mean().item() for k in RECALLS}
    return {**recalls, "median_rank": places.float().quantile(0.5).item()}


def retrieval_metrics(embeddings: dict[str, torch.Tensor], ids: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Search in both directions, among the distinct items of some rows.

    Args:
        embeddings: `"text"` and the searched modality, `"image"` or `"audio"`, `(N, E)` for each row, with length 1.
        ids: for both modalities, `(N,)` int64. Equal items have equal ids; a negative id means no item.

    Returns:
        `metrics`: `mean_recall`, the mean over both directions and 1, 5 and 10, then `ranking_metrics` of each
        direction; `by_kind` (empty) and `rows`, as in `measure_rows`.

    Raises:
        ValueError: no row has both modalities.
    """
    item = item_of(ids)
    paired = (ids[Text.name] >= 0) & (ids[item] >= 0)
    if not paired.any():
        raise ValueError(f"None of {len(paired)} rows has a {Text.name} and an {item}, so nothing can be measured.")
    texts, text_ids = distinct(embeddings[Text.name][paired], ids[Text.name][paired])
    items, item_ids = distinct(embeddings[item][paired], ids[item][paired])
    of_text = ids[Text.name][paired] == text_ids[:, None]  # (U_text, N)
    of_item = ids[item][paired] == item_ids[:, None]
    relevant = (of_text.float() @ of_item.float().T) > 0  # (U_text, U_item)
    scores = texts @ items.T
    directions = {
        f"text_to_{item}": ranking_metrics(ranks(scores, relevant)),
        f"{item}_to_text": ranking_metrics(ranks(scores.T, relevant.T)),
    }
    recalls = [figures[f"recall_at_{k}"] for figures in directions.values() for k in RECALLS]
    metrics = {"mean_recall": sum(recalls) / len(recalls)}
    for direction, figures in directions.items():
        metrics |= {f"{direction}_{name}": value for name, value in figures.items()}
    return {"metrics": metrics, "by_kind": {}, "rows": int(paired.sum())}


def recall_of_rows(
    predictions: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]], ids: dict[str, torch.Tensor]
) -> Callable[[torch.Tensor, int], float]:
    """A function that measures two searches on the same resamples: the `mean_recall` of `retrieval_metrics`.

    Args:
        predictions: the embeddings of A and of B, see `retrieval_metrics`.
        ids: see `retrieval_metrics`.

    Returns:
        a function of rows, int64, and 0 for A or 1 for B. It gives NaN if no row has both a text and an item.
    """
    item = item_of(ids)
    paired = (ids[Text.name] >= 0) & (ids[item] >= 0)
    hits = torch.zeros(2, 2, len(paired), dtype=torch.float64)  # by model (A, B), direction and row
    weights = torch.zeros(2, len(paired), dtype=torch.float64)
    for place, embeddings in enumerate(predictions):
        texts, text_ids = distinct(embeddings[Text.name][paired], ids[Text.name][paired])
        items, item_ids = distinct(embeddings[item][paired], ids[item][paired])
        of_text = ids[Text.name][paired] == text_ids[:, None]  # (U_text, N)
        of_item = ids[item][paired] == item_ids[:, None]
        relevant, scores = (of_text.float() @ of_item.float().T) > 0, texts @ items.T
        for direction, (positions, asked) in enumerate(
            ((ranks(scores, relevant), of_text), (ranks(scores.T, relevant.T), of_item))
        ):
            share = torch.stack([positions <= k for k in RECALLS]).double().mean(0)  # (U,)
            hits[place, direction, paired] = share[asked.long().argmax(0)]
            weights[direction, paired] = 1 / asked.sum(1).double()[asked.long().argmax(0)]

    def measure(rows: torch.Tensor, place: int) -> float:
        chosen = weights[:, rows]
        return ((hits[place][:, rows] * chosen).sum(1) / chosen.sum(1)).mean().item()

    return measure


def chance_mean_recall(ids: dict[str, torch.Tensor]) -> float:
    """The expected `mean_recall` of a search in random order, in both directions, with the given numbers of items and
    of right items per query. For `ids` see `retrieval_metrics`."""
    item = item_of(ids)
    paired = (ids[Text.name] >= 0) & (ids[item] >= 0)
    texts, items = torch.stack([ids[Text.name][paired], ids[item][paired]]).unique(dim=1)
    return (mean_chance(texts, items) + mean_chance(items, texts)) / 2


def mean_chance(queries: torch.Tensor, matches: torch.Tensor) -> float:
    """The mean over 1, 5 and 10 of the expected recall of a random order. `queries` and `matches`, `(P,)` int64, are
    the distinct pairs of a query and a right item."""
    items, total = len(matches.unique()), 0.0
    counts, rows = queries.unique(return_counts=True)[1].unique(return_counts=True)
    for right, share in zip(counts.tolist(), (rows / rows.sum()).tolist()):
        for k in (min(k, items) for k in RECALLS):
            total += share * (1 - math.comb(items - right, k) / math.comb(items, k)) / len(RECALLS)
    return total


def item_of(ids: dict[str, torch.Tensor]) -> str:
    """The name of the modality that is searched by texts."""
    return next(name for name in ids if name != Text.name)


def chance_recall(ids: dict[str, torch.Tensor]) -> dict[str, float]:
    """The expected recall at 1, 5 and 10 of a search in random order. It depends on the number of items; each text has
    one right item. For `ids` see `retrieval_metrics`."""
    numbers = ids[item_of(ids)]
    items = len(numbers[numbers >= 0].unique())
    return {f"chance_recall_at_{k}": min(1.0, k / items) for k in RECALLS}
