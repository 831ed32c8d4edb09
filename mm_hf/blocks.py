"""Tensors that are made of blocks with names, such as one a modality or one a label, and what two of them share."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


Axes = Mapping[int, Sequence[Any]]


def carry(
    tensor: torch.Tensor, old: torch.Tensor, axes: Axes, old_axes: Axes, allowed: Axes | None = None
) -> set[Any] | None:
    """Copies what two tensors have in common.

    Args:
        tensor: changed in place.
        old: the one that is read.
        axes, old_axes: by axis the names of its equally large blocks; other axes have to be equally long.
        allowed: by axis those of the old names that are taken over; left out, all.

    Returns:
        names of the new tensor's blocks that were not copied; None where nothing was.
    """
    if tensor.ndim != old.ndim:
        return None
    places: list[torch.Tensor] = []
    old_places: list[torch.Tensor] = []
    lacking: set[Any] = set()
    for axis, (size, old_size) in enumerate(zip(tensor.shape, old.shape)):
        names, old_names = list(axes.get(axis, [None])), list(old_axes.get(axis, [None]))
        width = size // len(names)
        if width != old_size // len(old_names):
            return None
        known = old_names if allowed is None or axis not in allowed else allowed[axis]
        both = [block for block in names if block in known]
        lacking |= set(names) - set(both)
        for order, where in ((names, places), (old_names, old_places)):
            blocks = [torch.arange(width) + width * order.index(block) for block in both]
            where.append(torch.cat(blocks) if blocks else torch.arange(0))
    if not all(len(place) for place in places):
        return None
    tensor[grid(places, tensor.device)] = old[grid(old_places, old.device)].to(tensor)
    return lacking


def copy_weights(weights: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> bool:
    """Copies weights where all names and shapes agree; says whether they do."""
    if {key: value.shape for key, value in weights.items()} != {key: value.shape for key, value in others.items()}:
        return False
    for key, value in weights.items():
        value.copy_(others[key])
    return True


def grid(places: list[torch.Tensor], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Places along each axis as an index of all their combinations."""
    return tuple(
        place.to(device).reshape([-1 if other == axis else 1 for other in range(len(places))])
        for axis, place in enumerate(places)
    )
