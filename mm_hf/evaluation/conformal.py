"""Whether sets and intervals hold the truth as often as they say, in all and in each group of rows."""

from typing import Any

import torch

from ..models.confidence import place_of
from .intervals import CONFIDENCE


LEAST_ROWS = 10  # of a group: of fewer a share says nothing
MOST_GROUPS = 40


def measure_coverage(
    task: Any, logits: torch.Tensor, labels: torch.Tensor, coverage: float, groups: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Measures the sets or intervals of a calibrated model on rows that they were not learned on.

    Args:
        task: see `how_sure`.
        logits, labels: `(N, C)`, and of the same rows, which all have a label.
        coverage: that the sets are said to have.
        groups: by name which rows belong to it, bool `(N,)`. Conformal prediction says something about all rows
            together, and nothing about a group: how much one falls short is to be seen here alone.

    Returns:
        `asked`; `expected`, see `expected_range`; `covered`, the share of rows whose truth is in the set, with `low`
        and `high` (binomial, by Clopper and Pearson; rows that belong together make it too narrow); `size`, the mean
        of what `measure` says; `within_threshold`, the share of rows whose truth would be in a set without the answer:
        this is what was asked, and `covered` is more where the answers alone are right more often; `alone`, the share
        of rows whose set has one class (None of intervals); `groups`, the same of each, those of fewer than ten rows
        left out, and of more than forty the smallest.
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
    """Between which shares 95 % of all measured coverages lie, where validation rows and these are drawn alike: from a
    beta-binomial distribution (Angelopoulos and Bates 2021, section 3.2). Few validation rows make it wide. Above it
    lies a model that is right more often than was asked, since its answer is in every set."""
    from scipy.stats import betabinom

    place = place_of(validation_rows, coverage)
    drawn = betabinom(rows, place, validation_rows + 1 - place)
    return [float(drawn.ppf(share)) / rows for share in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)]


def shares(covered: torch.Tensor, sizes: torch.Tensor) -> dict[str, Any]:
    """How many rows are covered, as a share with its interval, and how large their sets are."""
    rows, count = len(covered), int(covered.sum())
    low, high = binomial_interval(count, rows)
    return {"rows": rows, "covered": count / rows, "low": low, "high": high, "size": sizes.double().mean().item()}


def binomial_interval(count: int, rows: int) -> tuple[float, float]:
    """The interval of a share, `count` of so many rows, by Clopper and Pearson (1934): it holds the true share in at
    least 95 % of all draws."""
    from scipy.stats import binomtest

    interval = binomtest(count, rows).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)
