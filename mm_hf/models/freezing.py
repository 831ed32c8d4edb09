# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Which encoders train: freezes and unfreezes them, whole or from the top, and warns of parts that would not learn."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers.utils import logging

from .configuration_mm_fusion import MMFusionConfig
from .layers import top_layers, usable_layers
from .modality import modality_of
from .names import did_you_mean


logger = logging.get_logger(__name__)


class FreezingMixin:
    """`freeze` and `unfreeze`, for every class of mm_hf."""

    def freeze(self, *names: str):
        """Stops encoders from training. Their weights and running statistics stay as they are, they are in eval mode,
        and their forward runs without gradients. The config records it, so a saved model is frozen when loaded.

        Args:
            names: modalities; without names: all encoders except tables and series, which start from random weights,
                as with `freeze_encoders=True`.

        Returns:
            the same model.

        Raises:
            ValueError: the model does not have this modality, or it has adapters.
        """
        base = cast(Any, self).base_model
        chosen = check_names(base, "freeze", names) or pretrained(base)
        frozen = {*base.config.frozen_encoders, *chosen}
        partly = {name: n for name, n in (base.config.trained_layers or {}).items() if name not in frozen}
        return write_freezing(self, frozen, partly)

    def unfreeze(self, *names: str, layers: int | None = None):
        """Lets encoders train, as a whole or only their top layers.

        An optimizer that was made before does not contain their parameters, unless it was given frozen parameters
        too, as in `AdamW(model.parameters())`; parameters without a gradient cost it nothing. (The library's `Trainer`
        makes one from the parameters that train at its start.) A warning follows after its second step.
        `DistributedDataParallel` must be made again.

        Args:
            names: modalities; without names: all encoders.
            layers: only this many top layers train, and what follows them (a last norm). The layers below, with
                embeddings and stem, stay as they are, in eval mode, and get no gradient. The encoder defines what a
                layer is: a block of a transformer, a stage of ResNet, ConvNeXt or Swin, a block of MobileNet, a layer
                of an LSTM. Layers that the model does not use (see `vision_feature_layer`) do not count. Without
                names, this holds for each pretrained encoder.

        Returns:
            the same model.

        Raises:
            ValueError: the model does not have this modality, `layers` is below one or above the number of layers, it
                is set for an encoder that starts from random weights (tables, series), or the model has adapters.
        """
        base = cast(Any, self).base_model
        chosen = check_names(base, "unfreeze", names)
        if layers is None:
            chosen = chosen or list(base.encoders)
            partly = {name: n for name, n in (base.config.trained_layers or {}).items() if name not in chosen}
        else:
            chosen = chosen or pretrained(base)
            for name in chosen:
                top_of(base, name, layers)
            partly = {**(base.config.trained_layers or {}), **dict.fromkeys(chosen, layers)}
        return write_freezing(self, {*base.config.frozen_encoders} - {*chosen}, partly)


def check_names(base: Any, method: str, names: Collection[str]) -> list[str]:
    """The modalities that were given to `freeze` or `unfreeze`; raises the errors that these document."""
    if unknown := [name for name in names if name not in base.encoders]:
        known = list(base.encoders)
        meant = did_you_mean(unknown[0], known)
        raise ValueError(f"{method} names {unknown}, but this model has the encoders {known}.{meant}")
    if held := [name for name, encoder in base.encoders.items() if holds_adapters(encoder)]:
        raise ValueError(
            f"{method} is for models without adapters, but {held} have adapters, which train instead of the encoder's "
            "own weights: merge the adapters first (merge_lora, or merge_and_unload of PEFT)."
        )
    return list(names)


def pretrained(base: Any) -> list[str]:
    """The encoders that start from pretrained weights."""
    return [name for name in base.encoders if modality_of(name).pretrained]


def write_freezing(model: Any, frozen: Collection[str], partly: dict[str, int]):
    """Writes into the config which encoders are frozen and which train in part, and updates the model."""
    base, config = model.base_model, model.base_model.config
    before = {name for name, parameter in base.named_parameters() if parameter.requires_grad}
    config.freeze_encoders = [name for name in config.modalities if name in frozen]
    config.trained_layers = {name: partly[name] for name in config.modalities if name in partly} or None
    model.apply_freezing()
    training = {name for name, parameter in base.named_parameters() if parameter.requires_grad}
    if training - before and training & before:
        if not HOOK:
            HOOK.append(register_optimizer_step_post_hook(look_at_optimizer))
        WATCHED[base] = Thawed(training - before, training & before)
    return model


@dataclass
class Thawed:
    """Parameters that `unfreeze` let train. They are watched until an optimizer contains them.

    Args:
        names, others: these parameters, and the parameters that trained before.
        held: ids of the parameters that optimizers of this model contain.
        steps: steps of these optimizers since.
    """

    names: set[str]
    others: set[str]
    held: set[int] = field(default_factory=set)
    steps: int = 0


WATCHED: "WeakKeyDictionary[nn.Module, Thawed]" = WeakKeyDictionary()
HOOK: list[Any] = []


def look_at_optimizer(optimizer: torch.optim.Optimizer, *args):
    """Runs after each step of any optimizer: warns, once, if the optimizer was made before parameters were unfrozen,
    and so does not contain them."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for base, thawed in list(WATCHED.items()):
        parameters = {id(p): name for name, p in base.named_parameters() if p.requires_grad}
        thawed.held |= held & parameters.keys()
        if not thawed.others & {parameters.get(key) for key in held}:
            continue  # it belongs to another model, or was made for the unfrozen parameters only
        thawed.steps += 1
        lacking = [name for key, name in parameters.items() if name in thawed.names and key not in thawed.held]
        if lacking and thawed.steps > 1:  # a second optimizer may contain them
            logger.warning(
                f"{len(lacking)} parameters were unfrozen, such as {lacking[0]!r}, but the optimizer does not contain "
                "them, so they do not learn. Give the optimizer all of model.parameters() when it is made (parameters "
                "without a gradient cost nothing), or use optimizer.add_param_group. This is said once."
            )
        if not lacking or thawed.steps > 1:
            del WATCHED[base]


def freezing_of(config: MMFusionConfig) -> tuple[list[str], dict[str, int]]:
    """What the config says: the frozen encoders, and for those that train in part the number of layers that train."""
    frozen = config.frozen_encoders
    return frozen, {name: n for name, n in (config.trained_layers or {}).items() if name not in frozen}


def top_of(base: Any, name: str, layers: int) -> set[str]:
    """Names of the parameters of the top layers of an encoder; raises the errors that `unfreeze` documents."""
    encoder = base.encoders[name]
    if not modality_of(name).pretrained:
        raise ValueError(
            f"layers is for pretrained encoders, {pretrained(base)} in this model; the encoder of {name!r} starts "
            f"from random weights, and trains as a whole: unfreeze({name!r})."
        )
    untrained = {key.removeprefix(f"encoders.{name}.") for key in base.untrained}
    most = len(usable_layers(encoder, untrained))
    if not most:
        raise ValueError(f"The {name} encoder has no stack of layers that train: leave layers out to train it all.")
    if not isinstance(layers, int) or isinstance(layers, bool) or not 1 <= layers <= most:
        raise ValueError(
            f"The {name} encoder has {most} layers that this model uses, so layers must be a whole number from 1 to "
            f"{most}, or left out to train all of it, with embeddings; got {layers!r}."
        )
    config = base.config.encoder_config(name)
    return top_layers(encoder, config, name, base.feature_layers[name], layers, untrained)


def bring_in_line(base: Any):
    """Updates `requires_grad` and the modes of the encoders of a `MMFusionModel` from the config. Encoders with
    adapters keep what PEFT or `add_lora` set."""
    frozen, partly = freezing_of(base.config)
    held = {name for name, encoder in base.encoders.items() if holds_adapters(encoder)}
    tops = {name: top_of(base, name, layers) for name, layers in partly.items() if name not in held}
    for name, encoder in base.encoders.items():
        if name in held:
            continue
        base.modules_in_training.pop(name, None)
        encoder.requires_grad_(name not in frozen)
        for key, parameter in encoder.named_parameters():
            if f"encoders.{name}.{key}" in base.untrained:
                parameter.requires_grad_(False)
        if name in tops:
            base.modules_in_training[name] = outermost(encoder, tops[name])
            for key, parameter in encoder.named_parameters():
                parameter.requires_grad_(key in tops[name])
    base.config.trained_layers = partly or None  # frozen encoders are not in it
    base.applied_freezing, base.looked_at_processes = freezing_of(base.config), False
    base.train(base.training)


def outermost(encoder: nn.Module, names: Collection[str]) -> list[str]:
    """Paths of the largest modules in which all parameters that can train are among the named ones."""
    chosen = {id(parameter) for name, parameter in encoder.named_parameters() if name in names}
    paths: list[str] = []

    def look(path: str, module: nn.Module):
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if trainable and all(id(parameter) in chosen for parameter in trainable):
            paths.append(path)
        elif trainable:
            for key, child in module.named_children():
                look(f"{path}.{key}" if path else key, child)

    look("", encoder)
    return paths


def set_modes(base: Any, mode: bool):
    """Corrects the modes after `train(mode)`: frozen encoders, the lower layers of encoders that train in part, and
    batch norms under `config.freeze_batch_norm`, stay in eval mode."""
    for name, encoder in base.encoders.items():
        frozen, partly = name in base.config.frozen_encoders, name in base.modules_in_training
        if frozen or partly:
            encoder.eval()
        if mode and partly and not frozen:
            for path in base.modules_in_training[name]:
                encoder.get_submodule(path).train()
        if not mode:
            continue
        for module in encoder.modules():  # outer modules come first
            if (frozen or partly) and is_of_peft(module):
                train_adapter(module)
            elif base.config.freeze_batch_norm and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def train_adapter(module: nn.Module):
    """Puts an adapter that trains, with its dropout, into training mode, but not the layer that it wraps."""
    if any(parameter.requires_grad for parameter in module.parameters()):
        module.training = True
        for key, child in module.named_children():
            if key not in ("base_layer", "original_module"):
                child.train()


def is_of_peft(module: nn.Module) -> bool:
    """Whether PEFT added this module."""
    return type(module).__module__.partition(".")[0] == "peft"


def holds_adapters(module: nn.Module) -> bool:
    """Whether PEFT added something to a module: adapters, or trainable copies."""
    return any(is_of_peft(part) for part in module.modules())


def runs_frozen(base: Any, name: str) -> bool:
    """Whether an encoder of a `MMFusionModel` must run without gradients: it is frozen, and has no adapters that
    train. Warns, once, if parameters of a frozen encoder were set to train by hand."""
    if name not in base.config.frozen_encoders or not torch.is_grad_enabled():
        return name in base.config.frozen_encoders
    encoder = base.encoders[name]
    asked = [parameter.requires_grad for parameter in encoder.parameters()]
    if not any(asked):
        return True
    if holds_adapters(encoder):
        return False
    if base.training and name in base.applied_freezing[0] and name not in base.warned_of:
        base.warned_of.add(name)
        logger.warning(
            f"{sum(asked)} of {len(asked)} parameters of the {name} encoder require a gradient, but get none, because "
            f"the encoder is frozen. Call model.unfreeze({name!r}) to train it (layers=2: its top two layers), or "
            f"model.freeze({name!r}) to leave it frozen. This is said once."
        )
    return True


def look_for_changes(base: Any):
    """Checks in each forward in training mode; it compares only names. Warns, once, if the config was changed by hand
    and the model was not updated. Refuses parameters that began to train after `DistributedDataParallel` was made:
    the processes would not share their gradients."""
    asked = freezing_of(base.config)
    if asked != base.applied_freezing and "config" not in base.warned_of:
        base.warned_of.add("config")
        logger.warning(
            f"The config freezes {asked[0]} and trains the top layers {asked[1]}, but the model was set up for "
            f"{base.applied_freezing[0]} and {base.applied_freezing[1]}: call model.apply_freezing() after changing "
            "the config, or use model.freeze and model.unfreeze. This is said once."
        )
    parallel: Any = getattr(DistributedDataParallel, "_active_ddp_module", None)
    if parallel is None or base.looked_at_processes:
        return
    base.looked_at_processes = True
    shared = parallel._get_ddp_logging_data().get("num_parameter_tensors")
    trainable = [name for name, parameter in parallel.module.named_parameters() if parameter.requires_grad]
    if shared is not None and len(trainable) > shared:
        raise ValueError(
            f"{len(trainable)} parameters train, but DistributedDataParallel was made for {shared}: the processes "
            "would not share the gradients of the new ones. Unfreeze before you make it, or make it again."
        )


def look_at_given(base: Any, name: str, levels: tuple[torch.Tensor, ...] | None):
    """Warns, once, if an encoder of a `MMFusionModel` trains but earlier states are given instead of its inputs: no
    gradient can flow back through them."""
    if not levels or not torch.is_grad_enabled() or any(level.requires_grad for level in levels):
        return
    asked = sum(parameter.requires_grad for parameter in base.encoders[name].parameters())
    if asked and name not in base.warned_of:
        base.warned_of.add(name)
        logger.warning(
            f"{asked} parameters of the {name} encoder train, but get no gradient, because its states are given. "
            f"Give its inputs instead, or call model.freeze({name!r}). This is said once."
        )


def check_checkpointing(base: Any, name: str):
    """Refuses activation checkpointing with `use_reentrant=True`, which loses the gradients of layers above frozen
    ones. Checked in each forward in training mode, for an encoder that trains in part or by adapters."""
    if name not in base.modules_in_training and name not in base.config.frozen_encoders:
        return
    for module in base.encoders[name].modules():
        way = getattr(module, "_gradient_checkpointing_func", None)
        if getattr(module, "gradient_checkpointing", False) and getattr(way, "keywords", {}).get("use_reentrant"):
            raise ValueError(
                f"Only a part of the {name} encoder trains, and gradient checkpointing with use_reentrant=True loses "
                "the gradients of layers above frozen ones: set use_reentrant=False, the default."
            )
