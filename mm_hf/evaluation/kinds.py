"""Functions that metrics of classes, numbers and texts share."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch


Metric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # takes answers and targets


def rows_by_kind(kinds: list) -> dict[str, torch.Tensor]:
    """The rows of each kind, `(N,)` bool, by the name of the kind. None is not a kind."""
    names = sorted({kind for kind in kinds if kind is not None}, key=str)
    return {name: torch.tensor([kind == name for kind in kinds]) for name in names}


def figures_of(
    functions: Mapping[str, Metric],
    first: tuple[str, Metric],
    answers: torch.Tensor,
    targets: torch.Tensor,
    kinds: Any,
) -> dict[Any, float]:
    """Every metric by its name, and the first metric by its name and each kind. NaN for a kind without rows.

    Args:
        functions: the metrics by name.
        first: the name and function of the first metric.
        answers, targets: of some rows.
        kinds: by name, which of these rows belong to a kind, `(N,)` bool.
    """
    figures: dict[Any, float] = {name: function(answers, targets).item() for name, function in functions.items()}
    name, function = first
    for kind, rows in kinds.items():
        figures[name, kind] = function(answers[rows], targets[rows]).item() if rows.any() else math.nan
    return figures
