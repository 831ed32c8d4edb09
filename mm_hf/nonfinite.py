"""What is not finite (NaN or infinite) is neither kept nor measured: weights, moments, averages, answers."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checkpoints import newest_checkpoint
from .optim import NonFiniteLossError


class NonFiniteWeightsError(NonFiniteLossError):
    """Weights, their average or an optimizer's moments are not finite, so they are neither kept nor measured."""


def is_finite(tensor: torch.Tensor, mask: bool = False) -> bool:
    """Whether there is neither NaN nor an infinite number in a tensor; `mask`: negative infinity may be."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta:
        return True
    if hasattr(tensor, "to_local"):  # of a sharded model this process's part
        tensor = tensor.to_local()
    if tensor.element_size() == 1:  # 8 bits know no sum
        tensor = tensor.float()
    # A sum reads once and stores nothing; where it overflows, each number is looked at.
    if tensor.is_floating_point() and math.isfinite(tensor.sum().item()):
        return True
    if mask:
        tensor = tensor.masked_fill(tensor.isneginf(), 0)
    return bool(tensor.isfinite().all())


def nonfinite_tensor(tensors: Iterable[tuple[str, torch.Tensor]], masks: Collection[str] = ()) -> str | None:
    """The name of the first tensor that is not finite; None where all are. `masks`: of those with infinity below 0."""
    return next((name for name, tensor in tensors if not is_finite(tensor, name in masks)), None)


def masks_of(model: nn.Module) -> set[str]:
    """Names of the tensors that are no parameters: masks among them may hold negative infinity."""
    return {name for name, _ in model.named_buffers()}


def kept_tensors(model: nn.Module, frozen: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, those that do not train among them or not, and the buffers that are saved with them, by name."""
    yield from ((name, parameter) for name, parameter in model.named_parameters() if frozen or parameter.requires_grad)
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, buffer


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """What an optimizer keeps of each parameter, by names that say so."""
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
    """Stops what would keep or measure a model whose weights are not finite.

    Args:
        model: its parameters, and all buffers that are saved with it.
        run_dir: holds the run's checkpoints: the message names the newest that is complete.
        more: further tensors by name.
        frozen: look at the parameters that do not train too: False where that has been done.

    Raises:
        NonFiniteWeightsError: naming the tensor.
    """
    with torch.no_grad():
        bad = nonfinite_tensor(kept_tensors(model, frozen), masks_of(model)) or nonfinite_tensor(more)
    if bad is not None:
        last = None if run_dir is None else newest_checkpoint(run_dir)
        raise NonFiniteWeightsError(
            f"{bad} is not finite (NaN or infinite), so the weights are neither kept nor measured. "
            + ("" if last is None else f"The last complete checkpoint is {last}. ")
            + "Try a lower learning rate, or gradients that are clipped (max_grad_norm above 0)."
        )


def fault_of_answers(logits: Any) -> str | None:
    """Why what a model answered, `(N, C)` or a dict of them (see `Predictions`), cannot be measured; None where it
    can. Negative infinity may be, for what is ruled out."""
    for name, values in nested(logits):
        if isinstance(values, torch.Tensor) and not is_finite(values, mask=True):
            rows = (~values.isfinite() & ~values.isneginf()).flatten(1).any(1).nonzero().flatten().tolist()
            of_task = f" of {name}" if name else ""
            return f"{len(rows)} of {len(values)} answers{of_task} are not finite, the first to row {rows[0]}"
    return None


def nested(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All that dicts, lists and tuples hold, each with the way to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from nested(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from nested(inner, f"{name}[{place}]")
    else:
        yield name, value
