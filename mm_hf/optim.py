"""What training adds to the optimizers of torch and the schedules of the library: parameter groups with a learning
rate for each layer, gradual unfreezing, averaged weights, and a guard against losses that are not finite."""

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
    """Groups the parameters that train by module, by layer and by whether they decay, for an optimizer.

    New modules learn faster than pretrained ones (METER, Dou et al. 2022: five times), and within an encoder the lower
    layers, whose features are more general, slower than the upper ones (ULMFiT, Howard & Ruder 2018, section 3.2; as
    one factor a layer in ELECTRA, Clark et al. 2020, and BEiT, Bao et al. 2022). Biases, norms, gates and other
    vectors do not decay.

    Args:
        model: a model of mm_hf, with or without adapters; PEFT's `PeftModel` around one too.
        learning_rate: of all modules that are not named otherwise.
        weight_decay: of matrices.
        learning_rates: by module: the name of a modality for its encoder (`"vision"`), of a part of the head
            (`"decoder"`), or the beginning of parameter names within the base model (`"fusion"`,
            `"projections.text"`). The longest that fits counts.
        layer_decay: an encoder's layer `i` from the top learns at its module's rate times `layer_decay**i`; embeddings
            and stem count as the layer below the lowest (see `encoder_layers`). 1: all alike.

    Returns:
        dicts with `params`, `lr`, `weight_decay` and, to tell them apart, `name`, `module` (the modality for an
        encoder's parameters, else the name in `learning_rates` or `"all"`) and `layer` (0 for embeddings; None outside
        of encoders).

    Raises:
        ValueError: a module without any parameter, so probably misspelt, or a layer decay outside of (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, got {layer_decay}.")
    if hasattr(model, "get_base_model"):  # PEFT's wrapper: the model within has the same parameters
        model = cast(Any, model).get_base_model()
    base, prefix = model.base_model, ""
    if base is not model:
        prefix = model.base_model_prefix + "."
    of_head = [name for name, child in model.named_children() if child is not base]  # of the head
    scopes = {}
    for name, rate in (learning_rates or {}).items():
        scope = f"encoders.{name}." if name in base.config.modalities else name
        scopes[f"{name}." if name in of_head else f"{prefix}{scope}"] = (name, rate)
    names = [name for name, _ in model.named_parameters()]
    for scope, (module, _) in scopes.items():
        if not any(name.startswith(scope) for name in names):
            children = [*base.config.modalities, *(name for name, _ in base.named_children()), *of_head]
            raise ValueError(f"No parameter belongs to {module!r}: known modules are {children}.")
    norms = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if "norm" in type(module).__name__.lower() or isinstance(module, nn.Embedding)
        for name, _ in module.named_parameters(recurse=False)
    } | {name for name in names if name.endswith("place_embeddings")}
    # Of the encoders' parameters: modality, layer, layers from the top.
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
    """Lets the encoders' layers begin to learn one after the other, from the top down (ULMFiT, Howard & Ruder 2018,
    section 3.3): first fusion and head alone, after `steps_per_stage` steps the top layer of each encoder too, after
    twice as many the one below it.

    A layer that waits has a learning rate of 0, rather than `requires_grad=False`: DDP fixes at its start which
    parameters have gradients. Its weights stay as they are, bit for bit, with every optimizer whose step is
    proportional to the rate (AdamW and its weight decay, SGD); its gradients are computed, count in the clipping of
    their norm, and warm up the optimizer's moments, so nothing is saved. Call it before the first step, and again when
    a run resumes, before the scheduler's state is loaded: the stages follow from the step that is kept there.

    Args:
        scheduler: any of `transformers.get_scheduler` but `reduce_lr_on_plateau` and `greedy`.
        groups: what `parameter_groups` gave, or the `param_groups` of the scheduler's optimizer.
        steps_per_stage: steps of the optimizer from one layer to the next.

    Raises:
        ValueError: a scheduler of another kind, groups that are not the scheduler's, no encoder that trains, or less
            than one step.
    """
    if not isinstance(scheduler, LambdaLR):
        raise ValueError(
            f"Gradual unfreezing needs a schedule that gives a factor for each step (LambdaLR), got "
            f"{type(scheduler).__name__}: choose another lr_scheduler_type than reduce_lr_on_plateau or greedy."
        )
    if steps_per_stage < 1:
        raise ValueError(f"steps_per_stage must be at least 1, got {steps_per_stage}.")
    if len(groups) != len(scheduler.lr_lambdas) or any("layer" not in group for group in groups):
        raise ValueError(
            f"Gradual unfreezing needs the {len(scheduler.lr_lambdas)} groups of the scheduler's optimizer, each with "
            f"its layer as parameter_groups gives it: got {len(groups)}, "
            f"{sum('layer' in group for group in groups)} with a layer."
        )
    if all(group["layer"] is None for group in groups):
        raise ValueError("Gradual unfreezing needs an encoder that trains, and all are frozen: see freeze_encoders.")
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
    """The schedule from step `start` on, 0 before. A plain function, so that a scheduler's state leaves it out."""
    return lambda step: schedule(step) if step >= start else 0.0


class EMA:
    """The exponential moving average of the parameters that train (Polyak & Juditsky 1992), in float32.

    The average of noisy weights is often better than the last ones. The first averages would be little but the random
    start, so the decay warms up as `min(decay, (1 + t) / (10 + t))` over updates `t` (as in TensorFlow's
    `ExponentialMovingAverage`). torch's `AveragedModel` copies the whole model, frozen encoders included, and averages
    in the parameters' own dtype, where bfloat16 loses the small differences.

    Args:
        model: any module, on its device already.
        decay: weight of the old average, in [0, 1).

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
        """Takes the weights as they are now into the average: call it after each step of the optimizer."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        current = [parameter.detach().float() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.averages.values()), current, 1 - decay)
        self.num_updates += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model has the averaged weights; behind, its own again, bit for bit."""
        current = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.write()
        try:
            yield
        finally:
            self._write(current)

    def write(self):
        """Leaves the averaged weights in the model, in place of its own."""
        self._write(self.averages)

    @torch.no_grad()
    def _write(self, tensors: dict[str, torch.Tensor]):
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averaged weights by parameter name, float32, in a form that safetensors stores."""
        return {name: average.contiguous() for name, average in self.averages.items()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages under `averages.<parameter>` and `num_updates` as an int64 scalar: tensors alone."""
        averages = {f"averages.{name}": average for name, average in self.tensors().items()}
        return {**averages, "num_updates": torch.tensor(self.num_updates)}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, torch.Tensor]):
        """Takes up what `state_dict` gave.

        Raises:
            ValueError: the state of a model in which other parameters train, or averages that are not finite.
        """
        given = {key.removeprefix("averages.") for key in state_dict if key.startswith("averages.")}
        if given != set(self.averages):
            differing = sorted(given ^ set(self.averages))
            raise ValueError(
                f"This is the average of {len(given)} parameters, and in this model {len(self.averages)} train; "
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
    """So many losses or gradients in a row were not finite that the run cannot recover."""


class NonFiniteGuard:
    """Skips steps whose gradients are not finite, and stops the run when it does not recover.

    One broken row should cost one step, and not the weights: a single NaN in a gradient makes all of them NaN. Under
    DDP every process has the same gradients, so all skip alike, but each its own rows. With float16 the gradient
    scaler has steps that overflow as a matter of course: leave `max_nonfinite` room for some ten of them at the start.

    Args:
        max_nonfinite: steps in a row that may be skipped before `check` raises.
        folder: of the run; `nonfinite_rows.json` is written there.
        rank: this process; the others' files are called `nonfinite_rows.rank1.json` and so on.

    Raises:
        ValueError: `max_nonfinite` below one.
    """

    def __init__(self, max_nonfinite: int, folder: str | Path, rank: int = 0):
        if max_nonfinite < 1:
            raise ValueError(f"max_nonfinite must be at least 1, got {max_nonfinite}.")
        self.max_nonfinite = max_nonfinite
        self.file = Path(folder) / (f"nonfinite_rows.rank{rank}.json" if rank else "nonfinite_rows.json")
        self.total = 0
        self.skipped: list[dict[str, Any]] = []  # of the present series: step and row_ids

    @property
    def in_a_row(self) -> int:
        """How many steps up to now were skipped without a finite one in between."""
        return len(self.skipped)

    def check(
        self,
        model: nn.Module,
        step: int,
        row_ids: Sequence[int] | torch.Tensor = (),
        norm: torch.Tensor | float | None = None,
    ) -> bool:
        """Looks at the gradients: call it after the last backward of a step, before `optimizer.step()`.

        Args:
            model: its gradients are set to None where they are not finite: `optimizer.step()` then changes nothing.
            row_ids: of the rows that this process had in the step.
            norm: the global norm of the gradients (as `clip_grad_norm_` gives it before clipping), where it is known
                already; else it is computed. A loss that is the same on every process will do as well.

        Returns:
            whether the step may be made.

        Raises:
            NonFiniteLossError: the `max_nonfinite`th in a row.
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
                f"{self.in_a_row} steps in a row, up to step {step}, had a loss or gradients that are not finite "
                f"(norm {float(norm)}): their rows are in {self.file}. Try a lower learning rate, or look at the rows."
            )
        return False

    def state_dict(self) -> dict[str, Any]:
        """Numbers alone."""
        return {"total": self.total, "skipped": list(self.skipped)}

    def load_state_dict(self, state_dict: dict[str, Any]):
        """Takes up what `state_dict` gave."""
        self.total, self.skipped = state_dict["total"], list(state_dict["skipped"])
