"""Tensors made of named blocks, such as one block per modality or label: copies the blocks that two tensors share."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


Axes = Mapping[int, Sequence[Any]]


def carry(
    tensor: torch.Tensor, old: torch.Tensor, axes: Axes, old_axes: Axes, allowed: Axes | None = None
) -> set[Any] | None:
    """Copies the blocks that two tensors have in common.

    Args:
        tensor: the tensor to copy into; it is changed in place.
        old: the tensor to copy from.
        axes, old_axes: per axis, the names of its blocks, which have equal sizes; other axes must have equal lengths.
        allowed: per axis, the names of old blocks that may be copied; left out, all of them.

    Returns:
        the names of the new tensor's blocks that were not copied; None if nothing was copied.
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
    """Copies the weights if all names and shapes agree; returns whether they do."""
    if {key: value.shape for key, value in weights.items()} != {key: value.shape for key, value in others.items()}:
        return False
    for key, value in weights.items():
        value.copy_(others[key])
    return True


def grid(places: list[torch.Tensor], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Turns positions along each axis into an index of all their combinations."""
    return tuple(
        place.to(device).reshape([-1 if other == axis else 1 for other in range(len(places))])
        for axis, place in enumerate(places)
    )
