# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Which encoders train: freezing and thawing, whole or from the top, and warnings of what would silently not learn."""

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
        """Stops encoders from training: their weights and running statistics stay as they are, they are in eval mode,
        and their forward runs without gradients. The config keeps it, so a saved model comes back so.

        Args:
            names: modalities; none: all encoders but those of tables and series, which start from random weights, as
                `freeze_encoders=True` has it.

        Returns:
            the same model.

        Raises:
            ValueError: a modality that the model does not have, or a model with adapters.
        """
        base = cast(Any, self).base_model
        chosen = check_names(base, "freeze", names) or pretrained(base)
        frozen = {*base.config.frozen_encoders, *chosen}
        partly = {name: n for name, n in (base.config.trained_layers or {}).items() if name not in frozen}
        return write_freezing(self, frozen, partly)

    def unfreeze(self, *names: str, layers: int | None = None):
        """Lets encoders train, whole or from the top down.

        An optimizer that was made before does not have their parameters, unless it was given frozen ones too, as
        `AdamW(model.parameters())` was; those without a gradient cost it nothing. (The library's `Trainer` makes one
        of what trains at its start.) A warning comes behind its second step. `DistributedDataParallel` has to be made
        anew.

        Args:
            names: modalities; none: all encoders.
            layers: only the top ones train, and what follows them (a last norm). Those below, with embeddings and
                stem, stay as they are, in eval mode, and get no gradient. What a layer is, the encoder says: a block
                of a transformer, a stage of ResNet, ConvNeXt or Swin, a block of MobileNet, a layer of an LSTM. Layers
                that the model does not use (see `vision_feature_layer`) do not count. Without names: so many of each
                pretrained encoder.

        Returns:
            the same model.

        Raises:
            ValueError: a modality that the model does not have, more layers than there are or less than one, layers of
                an encoder that starts from random weights (tables, series), or a model with adapters.
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
    """The modalities that `freeze` or `unfreeze` was given; raises what these say."""
    if unknown := [name for name in names if name not in base.encoders]:
        known = list(base.encoders)
        meant = did_you_mean(unknown[0], known)
        raise ValueError(f"{method} names {unknown}, but this model has the encoders {known}.{meant}")
    if held := [name for name, encoder in base.encoders.items() if holds_adapters(encoder)]:
        raise ValueError(
            f"{method} is for models without adapters, and there are some in {held}, which train in place of the "
            "encoder's own weights: take them into the weights first (merge_lora, or merge_and_unload of PEFT)."
        )
    return list(names)


def pretrained(base: Any) -> list[str]:
    """The encoders that do not start from random weights."""
    return [name for name in base.encoders if modality_of(name).pretrained]


def write_freezing(model: Any, frozen: Collection[str], partly: dict[str, int]):
    """Writes into the config which encoders are frozen and which train in part, and brings the model in line."""
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
    """Parameters of a model that `unfreeze` let train: watched until an optimizer has them.

    Args:
        names, others: of them, and of those that trained before.
        held: ids of what optimizers of this model have.
        steps: that they have made since.
    """

    names: set[str]
    others: set[str]
    held: set[int] = field(default_factory=set)
    steps: int = 0


WATCHED: "WeakKeyDictionary[nn.Module, Thawed]" = WeakKeyDictionary()
HOOK: list[Any] = []


def look_at_optimizer(optimizer: torch.optim.Optimizer, *args):
    """Behind a step of any optimizer: warns, once, where one was made before parameters were thawed, and so does not
    have them."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for base, thawed in list(WATCHED.items()):
        parameters = {id(p): name for name, p in base.named_parameters() if p.requires_grad}
        thawed.held |= held & parameters.keys()
        if not thawed.others & {parameters.get(key) for key in held}:
            continue  # another model's, or that of what was thawed alone
        thawed.steps += 1
        lacking = [name for key, name in parameters.items() if name in thawed.names and key not in thawed.held]
        if lacking and thawed.steps > 1:  # there may be a second optimizer
            logger.warning(
                f"{len(lacking)} parameters were thawed, as {lacking[0]!r}, and the optimizer does not have them: "
                "they do not learn. Give it all of model.parameters() when it is made (those without a gradient "
                "cost it nothing), or add these by optimizer.add_param_group. This is said once."
            )
        if not lacking or thawed.steps > 1:
            del WATCHED[base]


def freezing_of(config: MMFusionConfig) -> tuple[list[str], dict[str, int]]:
    """What the config says: the frozen encoders, and by modality how many layers of the others train, if not all."""
    frozen = config.frozen_encoders
    return frozen, {name: n for name, n in (config.trained_layers or {}).items() if name not in frozen}


def top_of(base: Any, name: str, layers: int) -> set[str]:
    """Names of the parameters of the top layers of an encoder; raises what `unfreeze` says."""
    encoder = base.encoders[name]
    if not modality_of(name).pretrained:
        raise ValueError(
            f"layers is for pretrained encoders, of which this model has {pretrained(base)}; that of {name!r} starts "
            f"from random weights, and trains as a whole: unfreeze({name!r})."
        )
    untrained = {key.removeprefix(f"encoders.{name}.") for key in base.untrained}
    most = len(usable_layers(encoder, untrained))
    if not most:
        raise ValueError(f"The {name} encoder has no stack of layers that train: leave layers out, for all of it.")
    if not isinstance(layers, int) or isinstance(layers, bool) or not 1 <= layers <= most:
        raise ValueError(
            f"The {name} encoder has {most} layers that this model uses, so layers must be a whole number from 1 to "
            f"{most}, or left out for all of it, embeddings too; got {layers!r}."
        )
    config = base.config.encoder_config(name)
    return top_layers(encoder, config, name, base.feature_layers[name], layers, untrained)


def bring_in_line(base: Any):
    """Brings `requires_grad` and the modes of the encoders of a `MMFusionModel` in line with the config; encoders with
    adapters keep what PEFT or `add_lora` gave them."""
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
    base.config.trained_layers = partly or None  # what is frozen has none
    base.applied_freezing, base.looked_at_processes = freezing_of(base.config), False
    base.train(base.training)


def outermost(encoder: nn.Module, names: Collection[str]) -> list[str]:
    """Paths of the largest modules all of whose parameters that can train are among the named ones."""
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
    """Corrects what `train(mode)` set: frozen encoders, the lower layers of those that train in part, and batch norms
    under `config.freeze_batch_norm`, stay in eval mode."""
    for name, encoder in base.encoders.items():
        frozen, partly = name in base.config.frozen_encoders, name in base.modules_in_training
        if frozen or partly:
            encoder.eval()
        if mode and partly and not frozen:
            for path in base.modules_in_training[name]:
                encoder.get_submodule(path).train()
        if not mode:
            continue
        for module in encoder.modules():  # what stands around others comes first
            if (frozen or partly) and is_of_peft(module):
                train_adapter(module)
            elif base.config.freeze_batch_norm and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def train_adapter(module: nn.Module):
    """Puts an adapter that trains, with its dropout, into training mode, and not what it stands around."""
    if any(parameter.requires_grad for parameter in module.parameters()):
        module.training = True
        for key, child in module.named_children():
            if key not in ("base_layer", "original_module"):
                child.train()


def is_of_peft(module: nn.Module) -> bool:
    """Whether PEFT put this module in."""
    return type(module).__module__.partition(".")[0] == "peft"


def holds_adapters(module: nn.Module) -> bool:
    """Whether PEFT put something into a module: adapters, or copies to train."""
    return any(is_of_peft(part) for part in module.modules())


def runs_frozen(base: Any, name: str) -> bool:
    """Whether an encoder of a `MMFusionModel` is to run without gradients: a frozen one is, unless there are adapters
    in it that train. Warns, once, where parameters of a frozen one were asked to train by hand."""
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
            f"{sum(asked)} of {len(asked)} parameters of the {name} encoder require a gradient, and none arrives: "
            f"the encoder is frozen. Call model.unfreeze({name!r}) to train it (layers=2: its top two layers), or "
            f"model.freeze({name!r}) to leave it frozen. This is said once."
        )
    return True


def look_for_changes(base: Any):
    """Warns, once, where the config was changed by hand and the model not brought in line, and refuses parameters that
    began to train after `DistributedDataParallel` was made: the processes would not share their gradients. For each
    forward in training mode: it looks at names alone."""
    asked = freezing_of(base.config)
    if asked != base.applied_freezing and "config" not in base.warned_of:
        base.warned_of.add("config")
        logger.warning(
            f"The config freezes {asked[0]} and trains the top layers {asked[1]}, but the model was set up for "
            f"{base.applied_freezing[0]} and {base.applied_freezing[1]}: after a change of the config call "
            "model.apply_freezing(), or use model.freeze and model.unfreeze. This is said once."
        )
    parallel: Any = getattr(DistributedDataParallel, "_active_ddp_module", None)
    if parallel is None or base.looked_at_processes:
        return
    base.looked_at_processes = True
    shared = parallel._get_ddp_logging_data().get("num_parameter_tensors")
    trainable = [name for name, parameter in parallel.module.named_parameters() if parameter.requires_grad]
    if shared is not None and len(trainable) > shared:
        raise ValueError(
            f"{len(trainable)} parameters train, and DistributedDataParallel was made for {shared}: processes would "
            "not share the gradients of those that were thawed since. Unfreeze before it is made, or make it anew."
        )


def look_at_given(base: Any, name: str, levels: tuple[torch.Tensor, ...] | None):
    """Warns, once, where an encoder of a `MMFusionModel` trains and states of before are given in its place, which
    pass no gradient back."""
    if not levels or not torch.is_grad_enabled() or any(level.requires_grad for level in levels):
        return
    asked = sum(parameter.requires_grad for parameter in base.encoders[name].parameters())
    if asked and name not in base.warned_of:
        base.warned_of.add(name)
        logger.warning(
            f"{asked} parameters of the {name} encoder train, and none gets a gradient: its states are given, made "
            f"before. Leave them out, or call model.freeze({name!r}). This is said once."
        )


def check_checkpointing(base: Any, name: str):
    """Refuses a way of recomputing activations, `use_reentrant=True`, that loses the gradients of layers above frozen
    ones. For each forward in training mode of an encoder that trains in part or by adapters."""
    if name not in base.modules_in_training and name not in base.config.frozen_encoders:
        return
    for module in base.encoders[name].modules():
        way = getattr(module, "_gradient_checkpointing_func", None)
        if getattr(module, "gradient_checkpointing", False) and getattr(way, "keywords", {}).get("use_reentrant"):
            raise ValueError(
                f"Of the {name} encoder only a part trains, and gradient checkpointing with use_reentrant=True loses "
                "the gradients of layers above frozen ones: use use_reentrant=False, the default."
            )
