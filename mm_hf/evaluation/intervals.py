"""Confidence intervals of figures: percentiles of the bootstrap (Efron 1979), by groups of rows that belong
together."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..progress_bar import progress_bar
from .kinds import figures_of, rows_by_kind


CONFIDENCE = 0.95


def group_codes(values: Sequence[Any]) -> torch.Tensor:
    """Numbers the groups of equal values, in the order of their first rows. Each None or NaN is a separate group.

    Returns:
        `(N,)` int64.
    """
    codes: dict[Any, int] = {}
    keys = (("row", row) if value is None or value != value else value for row, value in enumerate(values))
    return torch.tensor([codes.setdefault(key, len(codes)) for key in keys], dtype=torch.int64)


def resamples(groups: torch.Tensor, samples: int, seed: int) -> Iterator[torch.Tensor]:
    """Draws as many groups as there are, with replacement, many times (the cluster bootstrap). Questions about one
    picture are right or wrong together. Drawing them one by one would give intervals that are too narrow.

    Args:
        groups: `(N,)` int64, see `group_codes`.
        samples: how many samples to draw.
        seed: the seed of the draws.

    Yields:
        the rows of one sample, int64: all rows of the drawn groups.
    """
    generator = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    rows = torch.arange(len(groups))
    for _ in range(samples):
        times = torch.from_numpy(np.bincount(generator.integers(count, size=count), minlength=count))
        yield rows.repeat_interleave(times[groups])


def bootstrap(
    measure: Callable[[torch.Tensor], dict[Any, float]],
    groups: torch.Tensor,
    samples: int = 1000,
    seed: int = 0,
    title: str | None = None,
) -> dict[Any, dict[str, float | None]]:
    """Measures all rows, and the middle 95 % of the results on resamples.

    Args:
        measure: takes rows, int64, and gives figures by name; NaN if a figure is not defined for these rows.
        groups, samples, seed: see `resamples`.
        title: of a progress bar, shown if it takes longer than a second; None: no bar.

    Returns:
        by name `value`, `low` and `high`; None if not defined.
    """
    figures = measure(torch.arange(len(groups)))
    drawn: dict[Any, list[float]] = {name: [] for name in figures}
    for rows in progress_bar(
        resamples(groups, samples, seed), total=samples, desc=title, leave=False, delay=1, disable=title is None
    ):
        for name, value in measure(rows).items():
            if not math.isnan(value):
                drawn[name].append(value)
    intervals: dict[Any, dict[str, float | None]] = {}
    for name, value in figures.items():
        low = high = None
        if drawn[name]:
            low, high = np.quantile(drawn[name], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
        intervals[name] = {"value": None if math.isnan(value) else value, "low": low, "high": high}
    return intervals


def metrics_with_intervals(
    task: Any,
    answers: torch.Tensor,
    targets: torch.Tensor,
    outputs: int,
    groups: torch.Tensor,
    kinds: list | None = None,
    samples: int = 1000,
    seed: int = 0,
    first_only: bool = False,
    only: str | None = None,
    title: str | None = None,
) -> dict[str, Any]:
    """The results of `measure_answers`, each with its interval. torchmetrics measures every resample.

    Args:
        task, answers, targets, outputs: see `measure_answers`.
        groups: `(N,)` int64, see `group_codes`.
        kinds: the kind of each row, by which the first metric is split; None: it is not.
        samples, seed, title: see `bootstrap`.
        first_only: measure only the first metric.
        only: the name of a metric: measure only this one. The kinds still use the first metric.

    Returns:
        `metrics`: by name `value`, `low`, `high`; `by_kind`: the same for the first metric by kind, and `rows`.
    """
    functions = task.metrics(outputs, validate=False)
    first, by_first = next(iter(functions.items()))
    only = first if first_only and only is None else only
    if only is not None:
        functions = {only: functions[only]}
    chosen = rows_by_kind(kinds or [])

    def measure(rows: torch.Tensor) -> dict[Any, float]:
        members = {kind: of_kind[rows] for kind, of_kind in chosen.items()}
        return figures_of(functions, (first, by_first), answers[rows], targets[rows], members)

    intervals = bootstrap(measure, groups, samples, seed, title)
    by_kind = {kind: {**intervals[first, kind], "rows": int(rows.sum())} for kind, rows in chosen.items()}
    return {"metrics": {name: intervals[name] for name in functions}, "by_kind": by_kind}
