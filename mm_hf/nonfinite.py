"""Checks for numbers that are not finite (NaN or infinite): such weights, moments and averages are not saved, and such
answers are not measured."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checkpoints import newest_checkpoint
from .optim import NonFiniteLossError


class NonFiniteWeightsError(NonFiniteLossError):
    """Weights, their average or an optimizer's moments are not finite, so they are neither saved nor measured."""


def is_finite(tensor: torch.Tensor, mask: bool = False) -> bool:
    """Whether a tensor has neither NaN nor infinite numbers; `mask`: negative infinity is allowed."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta:
        return True
    if hasattr(tensor, "to_local"):  # for a sharded model: the part of this process
        tensor = tensor.to_local()
    if tensor.element_size() == 1:  # types of 8 bits have no sum
        tensor = tensor.float()
    # A sum reads each number once and stores nothing. If it overflows, each number is checked.
    if tensor.is_floating_point() and math.isfinite(tensor.sum().item()):
        return True
    if mask:
        tensor = tensor.masked_fill(tensor.isneginf(), 0)
    return bool(tensor.isfinite().all())


def nonfinite_tensor(tensors: Iterable[tuple[str, torch.Tensor]], masks: Collection[str] = ()) -> str | None:
    """The name of the first tensor that is not finite; None if all are. `masks`: names that may hold negative
    infinity."""
    return next((name for name, tensor in tensors if not is_finite(tensor, name in masks)), None)


def masks_of(model: nn.Module) -> set[str]:
    """Names of the tensors that are not parameters: they may be masks, which hold negative infinity."""
    return {name for name, _ in model.named_buffers()}


def kept_tensors(model: nn.Module, frozen: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and the buffers that are saved with them, by name. `frozen`: also parameters that do not train."""
    yield from ((name, parameter) for name, parameter in model.named_parameters() if frozen or parameter.requires_grad)
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, buffer


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that an optimizer keeps for each parameter, with names that say so."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                yield f"the optimizer's {key} of {names.get(parameter, 'a parameter')}", value


def check_finite(
    model: nn.Module,
    run_dir: str | Path | None = None,
    more: Iterable[tuple[str, torch.Tensor]] = (),
    frozen: bool = True,
):
    """Raises before a model is saved or measured if its weights are not finite.

    Args:
        model: its parameters are checked, and all buffers that are saved with it.
        run_dir: the folder of the run's checkpoints: the message names the newest complete one.
        more: further tensors to check, by name.
        frozen: check the parameters that do not train too. False if they have been checked before.

    Raises:
        NonFiniteWeightsError: naming the tensor.
    """
    with torch.no_grad():
        bad = nonfinite_tensor(kept_tensors(model, frozen), masks_of(model)) or nonfinite_tensor(more)
    if bad is not None:
        last = None if run_dir is None else newest_checkpoint(run_dir)
        raise NonFiniteWeightsError(
            f"{bad} is not finite (NaN or infinite), so the weights are neither saved nor measured. "
            + ("" if last is None else f"The last complete checkpoint is {last}. ")
            + "Try a lower learning rate, or clip the gradients (max_grad_norm above 0)."
        )


def fault_of_answers(logits: Any) -> str | None:
    """Why the answers of a model cannot be measured; None if they can. They are `(N, C)` or a dict of such arrays (see
    `Predictions`). Negative infinity is allowed: it marks an answer that is ruled out."""
    for name, values in nested(logits):
        if isinstance(values, torch.Tensor) and not is_finite(values, mask=True):
            rows = (~values.isfinite() & ~values.isneginf()).flatten(1).any(1).nonzero().flatten().tolist()
            of_task = f" of {name}" if name else ""
            return f"{len(rows)} of {len(values)} answers{of_task} are not finite; the first is for row {rows[0]}"
    return None


def nested(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All values in nested dicts, lists and tuples, each with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from nested(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from nested(inner, f"{name}[{place}]")
    else:
        yield name, value
