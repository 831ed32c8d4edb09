# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""How sure an answer is. This is learned on validation rows, and saved in the config under the key `confidence`."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .config_checks import ConfigError, has_finite, shown
from .names import did_you_mean


# The coverages that have a threshold. Any other coverage uses the next higher one, which covers a little more.
COVERAGES = (*(percent / 100 for percent in range(50, 100)), 0.995, 0.999)
TEMPERATURES = (0.01, 100.0)
# The scores of one row differ in their last digits from batch to batch. If many rows are alike, as in a table with few
# categories, many of them share a score, which can be a threshold. None of these may drop out because of such a digit.
SLACK = 1e-4
KEYS = ("rows", "temperature", "thresholds")


@dataclass(frozen=True)
class Confidence:
    """What was learned on validation rows about the answers of one task.

    Args:
        rows: n, the number of labelled validation rows that it was learned on.
        temperature: logits are divided by it before they become probabilities (Guo et al. 2017); 1: no change.
        thresholds: for each of `COVERAGES`, the score that the true answer does not exceed in that share of new rows.
            Only the coverages that n rows are enough for; see `TaskHead.answer_scores` and `conformal_thresholds`.
    """

    rows: int
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()

    def threshold(self, coverage: float) -> float:
        """The threshold of a coverage: an answer with a score up to it is in the set, or in the interval.

        Raises:
            ValueError: the coverage is out of range, or there were too few validation rows for it.
        """
        check_coverage(coverage)
        place = next(place for place, known in enumerate(COVERAGES) if known >= coverage - 1e-9)
        if place >= len(self.thresholds):
            least = math.ceil(1 / (1 - COVERAGES[place]) - 1 - 1e-9)
            highest = "none" if self.highest is None else f"at most {self.highest:g}"
            raise ValueError(
                f"coverage {coverage:g} needs at least {least:,} labelled validation rows, but there were "
                f"{self.rows:,}, which are enough for {highest}."
            )
        return self.thresholds[place]

    @property
    def highest(self) -> float | None:
        """The highest coverage that there were enough rows for; None if there is none."""
        return COVERAGES[len(self.thresholds) - 1] if self.thresholds else None

    def as_key(self) -> dict[str, Any]:
        """The value for the key `confidence` of the config."""
        return {**asdict(self), "thresholds": list(self.thresholds)}


def check_coverage(coverage: Any):
    """Refuses a value that is not a coverage with a threshold."""
    check_share("coverage", coverage)
    if not COVERAGES[0] <= coverage <= COVERAGES[-1]:
        raise ValueError(f"coverage must be from {COVERAGES[0]} to {COVERAGES[-1]}, got {coverage!r}.")


def check_share(name: str, value: Any):
    """Refuses a value that is not a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {shown(value)}.")


def conformal_thresholds(scores: torch.Tensor) -> tuple[float, ...]:
    """The thresholds of split conformal prediction (Vovk et al. 2005; Angelopoulos and Bates 2021, arXiv 2107.07511,
    section 1): the ⌈(n + 1) coverage⌉-th of n sorted scores, which is the finite-sample correction. If this number is
    above n, the threshold would be infinite; such a coverage gets none.

    Args:
        scores: of the true answers of rows that the model was not trained on, `(n,)`.

    Returns:
        one threshold for each of the first of `COVERAGES`.
    """
    ordered = scores.double().sort().values.tolist()
    return tuple(ordered[place - 1] * (1 + SLACK) for place in places_of(len(ordered)))


def place_of(rows: int, coverage: float) -> int:
    """The number, from 1 on, of the sorted score that is the threshold of a coverage; above `rows` if there is
    none."""
    return math.ceil((rows + 1) * coverage - 1e-9)


def places_of(rows: int) -> list[int]:
    """The same for each of `COVERAGES` that this number of rows is enough for; these are the first ones."""
    return [place for place in (place_of(rows, coverage) for coverage in COVERAGES) if place <= rows]


def read_confidence(value: Any, prefix: str = "") -> Confidence | None:
    """The value of the key `confidence`, checked; None if there is none.

    Raises:
        ConfigError: it has an unknown key, or a value is out of range.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ConfigError(f"{prefix}confidence must be a dict of {', '.join(KEYS)}, got {shown(value)}.")
    if unknown := sorted(map(str, set(value) - set(KEYS))):
        meant = did_you_mean(unknown[0], KEYS)
        raise ConfigError(f"{prefix}confidence has no key {unknown[0]!r}; the keys are {', '.join(KEYS)}.{meant}")
    rows, temperature = value.get("rows"), value.get("temperature", 1.0)
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise ConfigError(f"{prefix}confidence: rows must be a whole number of at least 1, got {shown(rows)}.")
    low, high = TEMPERATURES
    if not (has_finite([temperature]) and low <= temperature <= high):
        raise ConfigError(f"{prefix}confidence: temperature must be from {low} to {high}, got {shown(temperature)}.")
    thresholds = value.get("thresholds", ())
    most = len(places_of(rows))
    if not (has_finite(thresholds) and len(thresholds) <= most and list(thresholds) == sorted(thresholds)):
        raise ConfigError(
            f"{prefix}confidence: thresholds must be finite numbers in ascending order, at most {most}, got "
            f"{shown(thresholds)}."
        )
    if thresholds and thresholds[0] < 0:
        raise ConfigError(f"{prefix}confidence: thresholds must be at least 0, got {shown(thresholds[0])}.")
    return Confidence(rows, float(temperature), tuple(map(float, thresholds)))
