"""Additions to the optimizers of torch and the schedules of transformers: parameter groups with a learning rate per
layer, gradual unfreezing, averaged weights, and a guard against losses that are not finite."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from .models.layers import encoder_layers
from .models.pretrained_mm_fusion import MMFusionPreTrainedModel


def parameter_groups(
    model: MMFusionPreTrainedModel,
    learning_rate: float,
    weight_decay: float = 0.0,
    learning_rates: dict[str, float] | None = None,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups the parameters that train by module, by layer and by weight decay, for an optimizer.

    New modules learn faster than pretrained ones (METER, Dou et al. 2022: five times). Within an encoder the lower
    layers have more general features, so they learn more slowly than the upper ones (ULMFiT, Howard & Ruder 2018,
    section 3.2; with one factor per layer in ELECTRA, Clark et al. 2020, and BEiT, Bao et al. 2022). Biases, norms,
    gates and other vectors do not decay.

    Args:
        model: a model of mm_hf, with or without adapters; also inside PEFT's `PeftModel`.
        learning_rate: the rate of all modules that `learning_rates` does not name.
        weight_decay: the weight decay of matrices.
        learning_rates: the rates of some modules. A key is the name of a modality for its encoder (`"vision"`), of a
            part of the head (`"decoder"`), or the beginning of parameter names in the base model (`"fusion"`,
            `"projections.text"`). If several keys fit, the longest one is used.
        layer_decay: layer `i` of an encoder, counted from the top, learns at its module's rate times `layer_decay**i`.
            Embeddings and stem count as the layer below the lowest one (see `encoder_layers`). 1: all learn alike.

    Returns:
        dicts with `params`, `lr`, `weight_decay` and three keys that identify the group: `name`, `module` (the
        modality for an encoder's parameters, else the key in `learning_rates` or `"all"`) and `layer` (0 for
        embeddings; None outside of encoders).

    Raises:
        ValueError: a module has no parameters, so its name is probably misspelt, or the layer decay is not in (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, got {layer_decay}.")
    if hasattr(model, "get_base_model"):  # PEFT's wrapper: the model inside has the same parameters
        model = cast(Any, model).get_base_model()
    base, prefix = model.base_model, ""
    if base is not model:
        prefix = model.base_model_prefix + "."
    of_head = [name for name, child in model.named_children() if child is not base]  # parts of the head
    scopes = {}
    for name, rate in (learning_rates or {}).items():
        scope = f"encoders.{name}." if name in base.config.modalities else name
        scopes[f"{name}." if name in of_head else f"{prefix}{scope}"] = (name, rate)
    names = [name for name, _ in model.named_parameters()]
    for scope, (module, _) in scopes.items():
        if not any(name.startswith(scope) for name in names):
            children = [*base.config.modalities, *(name for name, _ in base.named_children()), *of_head]
            raise ValueError(f"No parameter belongs to {module!r}: the modules are {children}.")
    norms = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if "norm" in type(module).__name__.lower() or isinstance(module, nn.Embedding)
        for name, _ in module.named_parameters(recurse=False)
    } | {name for name in names if name.endswith("place_embeddings")}
    # For the parameters of encoders: modality, layer, layers from the top.
    places: dict[str, tuple[str, int | None, int]] = {}
    for modality, encoder in base.encoders.items():
        layers, depth = encoder_layers(encoder)
        for name, number in layers.items():
            places[f"{prefix}encoders.{modality}.{name}"] = (modality, number, depth - number)
    groups: dict[tuple, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = max((scope for scope in scopes if name.startswith(scope)), key=len, default=None)
        title, rate = ("all", learning_rate) if inner is None else scopes[inner]
        module, layer, from_top = places.get(name, (title, None, 0))
        decays = parameter.ndim > 1 and name not in norms
        parts = [title] if title == module else [title, module]
        parts += [] if layer is None else [f"layer {layer}"]
        group = groups.setdefault(
            (title, module, layer, decays),
            {
                "params": [],
                "lr": rate * layer_decay**from_top,
                "weight_decay": weight_decay if decays else 0.0,
                "name": ", ".join([*parts, "decay" if decays else "no decay"]),
                "module": module,
                "layer": layer,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def unfreeze_gradually(scheduler: LambdaLR, groups: Sequence[dict[str, Any]], steps_per_stage: int):
    """Lets the layers of the encoders begin to learn one after the other, from the top down (ULMFiT, Howard & Ruder
    2018, section 3.3). At first only fusion and head learn. After `steps_per_stage` steps the top layer of each
    encoder learns too, after twice as many the layer below it, and so on.

    A layer that waits has a learning rate of 0. It keeps `requires_grad=True`, because DDP decides at its start which
    parameters have gradients. Its weights stay the same, bit for bit, with every optimizer that makes steps
    proportional to the rate (AdamW with its weight decay, SGD). Its gradients are computed, count in the clipping of
    their norm, and warm up the optimizer's moments, so no time is saved. Call this before the first step, and again
    when a run resumes, before the scheduler's state is loaded: the stages follow from the step in that state.

    Args:
        scheduler: any scheduler of `transformers.get_scheduler`, except `reduce_lr_on_plateau` and `greedy`.
        groups: the result of `parameter_groups`, or the `param_groups` of the scheduler's optimizer.
        steps_per_stage: the number of optimizer steps from one layer to the next.

    Raises:
        ValueError: the scheduler is of another kind, the groups are not its own, no encoder trains, or
            `steps_per_stage` is below one.
    """
    if not isinstance(scheduler, LambdaLR):
        raise ValueError(
            f"Gradual unfreezing needs a schedule that gives a factor for each step (LambdaLR), got "
            f"{type(scheduler).__name__}: choose an lr_scheduler_type other than reduce_lr_on_plateau and greedy."
        )
    if steps_per_stage < 1:
        raise ValueError(f"steps_per_stage must be at least 1, got {steps_per_stage}.")
    if len(groups) != len(scheduler.lr_lambdas) or any("layer" not in group for group in groups):
        raise ValueError(
            f"Gradual unfreezing needs the {len(scheduler.lr_lambdas)} groups of the scheduler's optimizer, each with "
            f"the key `layer` that parameter_groups sets; got {len(groups)} groups, "
            f"{sum('layer' in group for group in groups)} of them with this key."
        )
    if all(group["layer"] is None for group in groups):
        raise ValueError("Gradual unfreezing needs an encoder that trains, but all are frozen: see freeze_encoders.")
    tops: dict[str, int] = {}
    for group in groups:
        if group["layer"] is not None:
            tops[group["module"]] = max(tops.get(group["module"], 0), group["layer"])
    for number, group in enumerate(groups):
        if group["layer"] is not None:
            start = (tops[group["module"]] - group["layer"] + 1) * steps_per_stage
            scheduler.lr_lambdas[number] = zero_until(start, scheduler.lr_lambdas[number])
    scheduler._last_lr = [
        rate * factor(scheduler.last_epoch) for rate, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas)
    ]
    for group, rate in zip(scheduler.optimizer.param_groups, scheduler._last_lr):
        group["lr"] = rate


def zero_until(start: int, schedule: Callable[[int], float]) -> Callable[[int], float]:
    """The schedule from step `start` on, and 0 before. A plain function: a scheduler's state does not contain it."""
    return lambda step: schedule(step) if step >= start else 0.0


class EMA:
    """The exponential moving average of the parameters that train (Polyak & Juditsky 1992), in float32.

    The average of noisy weights is often better than the last weights. The first averages would be close to the random
    start, so the decay warms up as `min(decay, (1 + t) / (10 + t))` over the updates `t` (as in TensorFlow's
    `ExponentialMovingAverage`). torch's `AveragedModel` copies the whole model, with the frozen encoders, and averages
    in the dtype of the parameters. In bfloat16 the small differences are then lost.

    Args:
        model: any module; it must already be on its device.
        decay: the weight of the old average, in [0, 1).

    Raises:
        ValueError: a decay outside of [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay}.")
        self.decay = decay
        self.num_updates = 0
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self):
        """Adds the current weights to the average: call it after each step of the optimizer."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        current = [parameter.detach().float() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.averages.values()), current, 1 - decay)
        self.num_updates += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the `with` block the model has the averaged weights; afterwards its own again, bit for bit."""
        current = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.write()
        try:
            yield
        finally:
            self._write(current)

    def write(self):
        """Writes the averaged weights into the model, in place of its own."""
        self._write(self.averages)

    @torch.no_grad()
    def _write(self, tensors: dict[str, torch.Tensor]):
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averaged weights by parameter name, float32, in a form that safetensors can store."""
        return {name: average.contiguous() for name, average in self.averages.items()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages under `averages.<parameter>`, and `num_updates` as an int64 scalar. All values are tensors."""
        averages = {f"averages.{name}": average for name, average in self.tensors().items()}
        return {**averages, "num_updates": torch.tensor(self.num_updates)}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, torch.Tensor]):
        """Restores the result of `state_dict`.

        Raises:
            ValueError: in that model other parameters train, or the averages are not finite.
        """
        given = {key.removeprefix("averages.") for key in state_dict if key.startswith("averages.")}
        if given != set(self.averages):
            differing = sorted(given ^ set(self.averages))
            raise ValueError(
                f"This average has {len(given)} parameters, but {len(self.averages)} parameters of this model train; "
                f"{len(differing)} differ, such as {differing[0]!r}."
            )
        for name, average in self.averages.items():
            value = state_dict[f"averages.{name}"]
            if value.shape != average.shape:
                shapes = f"{tuple(value.shape)}, its parameter {tuple(average.shape)}"
                raise ValueError(f"The average of {name} has the shape {shapes}.")
            if not value.isfinite().all():
                raise ValueError(f"The average of {name} is not finite.")
        for name, average in self.averages.items():
            average.copy_(state_dict[f"averages.{name}"])
        self.num_updates = int(state_dict["num_updates"])


class NonFiniteLossError(ValueError):
    """Too many steps in succession had a loss that is not finite: the run cannot recover."""


class NonFiniteGuard:
    """Skips steps whose gradients are not finite, and stops the run when it does not recover.

    One broken row should cost one step, not the weights: a single NaN in a gradient would make all weights NaN. Under
    DDP all processes have the same gradients, so all skip the same steps, but each records its own rows. With float16,
    the gradient scaler causes some steps that overflow at the start: let `max_nonfinite` be above ten or so.

    Args:
        max_nonfinite: how many steps in succession may be skipped before `check` raises.
        folder: the folder of the run; `nonfinite_rows.json` is written there.
        rank: the number of this process; the files of the others are `nonfinite_rows.rank1.json` and so on.

    Raises:
        ValueError: `max_nonfinite` is below one.
    """

    def __init__(self, max_nonfinite: int, folder: str | Path, rank: int = 0):
        if max_nonfinite < 1:
            raise ValueError(f"max_nonfinite must be at least 1, got {max_nonfinite}.")
        self.max_nonfinite = max_nonfinite
        self.file = Path(folder) / (f"nonfinite_rows.rank{rank}.json" if rank else "nonfinite_rows.json")
        self.total = 0
        self.skipped: list[dict[str, Any]] = []  # the current series of skipped steps: step and row_ids

    @property
    def in_a_row(self) -> int:
        """How many steps in succession, up to now, were skipped."""
        return len(self.skipped)

    def check(
        self,
        model: nn.Module,
        step: int,
        row_ids: Sequence[int] | torch.Tensor = (),
        norm: torch.Tensor | float | None = None,
    ) -> bool:
        """Checks the gradients: call it after the last backward pass of a step, before `optimizer.step()`.

        Args:
            model: if its gradients are not finite, they are set to None: `optimizer.step()` then changes nothing.
            row_ids: the ids of the rows that this process had in the step.
            norm: the global norm of the gradients (as `clip_grad_norm_` gives it before clipping), if it is already
                known; else it is computed. A loss that is the same on every process works too.

        Returns:
            whether the step may be taken.

        Raises:
            NonFiniteLossError: this is the `max_nonfinite`th skipped step in succession.
        """
        if norm is None:
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
        if math.isfinite(norm):
            self.skipped = []
            return True
        model.zero_grad(set_to_none=True)
        self.total += 1
        rows = row_ids.tolist() if isinstance(row_ids, torch.Tensor) else list(row_ids)
        self.skipped.append({"step": step, "row_ids": rows})
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.skipped, indent=1) + "\n")
        if self.in_a_row >= self.max_nonfinite:
            raise NonFiniteLossError(
                f"{self.in_a_row} steps in succession, up to step {step}, had a loss or gradients that are not finite "
                f"(norm {float(norm)}): their rows are in {self.file}. Try a lower learning rate, or check the rows."
            )
        return False

    def state_dict(self) -> dict[str, Any]:
        """The state, as numbers only."""
        return {"total": self.total, "skipped": list(self.skipped)}

    def load_state_dict(self, state_dict: dict[str, Any]):
        """Restores the result of `state_dict`."""
        self.total, self.skipped = state_dict["total"], list(state_dict["skipped"])
