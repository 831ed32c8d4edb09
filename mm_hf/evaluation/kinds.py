"""What metrics of classes, of numbers and of texts share."""

from collections.abc import Callable

import torch


Metric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # takes answers and targets


def rows_by_kind(kinds: list) -> dict[str, torch.Tensor]:
    """The rows of each kind, `(N,)` bool, by its name; None is no kind."""
    names = sorted({kind for kind in kinds if kind is not None}, key=str)
    return {name: torch.tensor([kind == name for kind in kinds]) for name in names}
