"""Measures whether sets and intervals contain the truth as often as requested, for all rows and for each group."""

from typing import Any

import torch

from ..models.confidence import place_of
from .intervals import CONFIDENCE


LEAST_ROWS = 10  # a share of fewer rows means little, so smaller groups are left out
MOST_GROUPS = 40


def measure_coverage(
    task: Any, logits: torch.Tensor, labels: torch.Tensor, coverage: float, groups: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Measures the sets or intervals of a calibrated model on rows that they were not learned on.

    Args:
        task: see `how_sure`.
        logits, labels: `(N, C)`, and the labels of the same rows. All rows have a label.
        coverage: the requested coverage of the sets.
        groups: by name, which rows belong to a group, bool `(N,)`. Conformal prediction guarantees the coverage for
            all rows together, and not for a group. Only this measurement shows a group with less coverage.

    Returns:
        `asked`; `expected`, see `expected_range`; `covered`, the share of rows with the truth in their set, with `low`
        and `high` (binomial, by Clopper and Pearson; it is too narrow if rows belong together); `size`, the mean of
        `measure`; `within_threshold`, the share of rows that would have the truth in a set without the answer. This is
        what was requested. `covered` is larger if the answers alone are right more often; `alone`, the share of rows
        with a single class in their set (None for intervals); `groups`, the same for each group. Groups of fewer than
        ten rows are left out, and the smallest ones if there are more than forty.
    """
    covered, sizes = task.covered(logits, labels, coverage), task.set_sizes(logits, coverage)
    known = {name: rows for name, rows in groups.items() if rows.sum() >= LEAST_ROWS}
    largest = sorted(known, key=lambda name: -int(known[name].sum()))[:MOST_GROUPS]
    return {
        "asked": coverage,
        "expected": expected_range(coverage, task.head_for(logits).confidence.rows, len(covered)),
        "measure": task.set_measure,
        **shares(covered, sizes),
        "within_threshold": task.within(logits, labels, coverage).double().mean().item(),
        "alone": (sizes == 1).double().mean().item() if task.answers_in_sets else None,
        "groups": {name: shares(covered[known[name]], sizes[known[name]]) for name in known if name in largest},
        "groups_left_out": len(groups) - min(len(known), MOST_GROUPS),
    }


def expected_range(coverage: float, validation_rows: int, rows: int) -> list[float]:
    """The range that contains 95 % of all measured coverages, if validation rows and these rows come from the same
    distribution. It follows from a beta-binomial distribution (Angelopoulos and Bates 2021, section 3.2). Few
    validation rows make it wide. A model that is right more often than requested is above it, because its answer is in
    every set."""
    from scipy.stats import betabinom

    place = place_of(validation_rows, coverage)
    drawn = betabinom(rows, place, validation_rows + 1 - place)
    return [float(drawn.ppf(share)) / rows for share in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)]


def shares(covered: torch.Tensor, sizes: torch.Tensor) -> dict[str, Any]:
    """The share of covered rows with its interval, and the mean size of their sets."""
    rows, count = len(covered), int(covered.sum())
    low, high = binomial_interval(count, rows)
    return {"rows": rows, "covered": count / rows, "low": low, "high": high, "size": sizes.double().mean().item()}


def binomial_interval(count: int, rows: int) -> tuple[float, float]:
    """The interval of the share `count` of `rows`, by Clopper and Pearson (1934). It contains the true share in at
    least 95 % of all draws."""
    from scipy.stats import binomtest

    interval = binomtest(count, rows).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)
