# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Encoders without the parts that no token depends on. A dry run on the meta device finds these parts, and the size of
each token."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from .config_checks import ConfigError
from .encoders import construct_encoder, in_reach
from .encoding import run_encoder
from .modality import modality_of


logger = logging.get_logger(__name__)


class FeatureLayerError(ValueError):
    """The encoder does not have this feature layer."""


class Bypass(nn.Module):
    """Replaces a part of an encoder that no token depends on (a pooler, a norm of the pooled vector)."""

    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states


def build_encoder(
    config: PreTrainedConfig, modality: str, feature_layers: list[int] | None
) -> tuple[PreTrainedModel, list[tuple[int, ...]], list[int] | None]:
    """Builds an encoder without the parts that no used token depends on (poolers, layers above the last one used,
    norms of the pooled vector): unused parameters would stop distributed training.

    Args:
        config: the encoder's own config.
        modality: its name.
        feature_layers: indices into `hidden_states`, negative ones from the end; None for `last_hidden_state`.

    Returns:
        the encoder; the shape of each level for one item of the size in the config (`(H, h, w)` of a feature map,
        `(T, H)` of a sequence); and the feature layers as indices from 0.

    Raises:
        ValueError: the encoder does not have a feature layer.
    """
    layers = None if feature_layers is None else tuple(feature_layers)
    findings = dry_run(cast(Any, type(config)), config.to_json_string(use_diff=False), modality, layers)
    encoder = construct_encoder(config, modality)
    drop_unused(encoder, findings.trained, findings.needed)
    return encoder, list(findings.shapes), None if findings.feature_layers is None else list(findings.feature_layers)


@dataclass(frozen=True)
class DryRun:
    """What was found by running an encoder once.

    Args:
        trained: names of the parameters that the tokens depend on.
        needed: these, and all parameters of modules without which the encoder does not run.
        shapes: the shape of each level, for one item.
        feature_layers: as indices from 0.
    """

    trained: frozenset[str]
    needed: frozenset[str]
    shapes: tuple[tuple[int, ...], ...]
    feature_layers: tuple[int, ...] | None


@functools.lru_cache(maxsize=64)
def dry_run(config_class: Any, config_json: str, modality: str, feature_layers: tuple[int, ...] | None) -> DryRun:
    """Runs an encoder forward and backward on the meta device, which computes nothing. This gives the shapes, and the
    parameters that take part. Some encoders read values, which the meta device does not have (DeBERTa its mask,
    Longformer its window): these run on the CPU. The result is cached by config, because it costs more than building a
    small encoder."""
    run = partial(dry_run_on, modality=modality, feature_layers=feature_layers)
    return on_some_device(config_class, config_json, run)


Found = TypeVar("Found")


def on_some_device(config_class: Any, config_json: str, run: Callable[[str, bool, PreTrainedConfig], Found]) -> Found:
    """Runs a function with the config of an encoder on the meta device, or on the CPU if that fails: see `dry_run`.
    The function takes the device, whether to give a mask, and the config."""
    config = config_class.from_dict(json.loads(config_json))
    config._attn_implementation = "eager"  # the meta device needs no fast kernel
    for device, masked in (("meta", False), ("meta", True), ("cpu", True)):
        config._experts_implementation = "batched_mm" if device == "meta" else "eager"
        try:
            return run(device, masked, config)
        except (FeatureLayerError, ImportError, ConfigError):
            raise
        except Exception as error:  # models raise any exception when values are missing
            if device == "cpu":
                raise
            logger.debug("%s cannot run on the %s device: %s", config.model_type, device, error)
    raise AssertionError("one of them gives or raises")


@contextlib.contextmanager
def probe_on(
    device: str, masked: bool, config: PreTrainedConfig, modality: str
) -> Iterator[tuple[PreTrainedModel, dict[str, torch.Tensor]]]:
    """An encoder of a config on a device, with all its parameters trainable, and the smallest input for it. Inside the
    `with` block, new tensors are on this device and gradients are computed."""
    with torch.random.fork_rng(devices=[]), torch.device(device), torch.enable_grad():
        probe = in_reach(lambda: construct_encoder(config, modality), f"The {modality} encoder ({config.model_type})")
        probe.eval()
        share_weights(probe)
        probe.requires_grad_(True)  # Whisper's positions do not train, but they are used
        if device != "meta":
            fill_weights(probe)
        dummy = modality_of(modality).dummy_inputs(config, device=device)
        inputs = {modality_of(modality).renamed.get(name, name): value for name, value in dummy.items()}
        if not masked:
            inputs.pop("attention_mask", None)
        yield probe, inputs


def dry_run_on(
    device: str,
    masked: bool,
    config: PreTrainedConfig,
    modality: str,
    feature_layers: tuple[int, ...] | None,
) -> DryRun:
    """See `dry_run`; with a mask or without one."""
    with probe_on(device, masked, config, modality) as (probe, inputs):
        if feature_layers is not None:
            count = len(probe(**inputs, output_hidden_states=True).hidden_states)
            outside = [layer for layer in feature_layers if not -count <= layer < count]
            if outside:
                raise FeatureLayerError(
                    f"Feature layer {outside} of the {modality} encoder ({config.model_type}): it has {count} hidden "
                    f"states, so an index from {-count} to {count - 1} is needed."
                )
            feature_layers = tuple(layer % count for layer in feature_layers)
        indexing: set[nn.Module] = set()
        hooks = [part.register_forward_hook(partial(note_indexing, indexing)) for part in probe.modules()]
        levels = run_encoder(probe, inputs, feature_layers, seeded=True)
        for hook in hooks:
            hook.remove()
        try:
            sum(level.sum() for level in levels).backward()
        except Exception:
            if device == "meta":
                raise
            logger.warning(
                f"The {modality} encoder ({config.model_type}) passes no gradients back outside of training mode, so "
                "all its parts are kept. It can be frozen."
            )
            for parameter in probe.parameters():
                parameter.grad = torch.zeros_like(parameter)
        # A module that is used in several places has a name in each.
        parameters = dict(probe.named_parameters(remove_duplicate=False))
        trained = frozenset(name for name, parameter in parameters.items() if parameter.grad is not None)
        of_indexing = {id(parameter) for part in indexing for parameter in part.parameters()}
        needed = trained | {name for name, parameter in parameters.items() if id(parameter) in of_indexing}
        try:
            drop_unused(probe, trained, needed)
            same = run_encoder(probe, inputs, feature_layers, seeded=True)
        except Exception as error:  # it reads a weight that no gradient reaches (LayoutLMv3's positions)
            logger.debug("%s does not run without its unused parts: %s", config.model_type, error)
            needed = frozenset(parameters)
        else:
            if device != "meta" and not all(map(torch.equal, levels, same)):
                needed = frozenset(parameters)
    return DryRun(trained, frozenset(needed), tuple(tuple(level.shape[1:]) for level in levels), feature_layers)


def share_weights(module: PreTrainedModel):
    """Ties weights that are shared: while a checkpoint is loaded, the library does this later."""
    for name, source in getattr(module, "all_tied_weights_keys", {}).items():
        place, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(place), attribute, module.get_parameter(source))


@torch.no_grad()
def fill_weights(module: nn.Module):
    """Gives all weights some finite numbers: while a checkpoint is loaded, new modules hold uninitialised memory."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.uniform_(-0.1, 0.1, generator=generator)


def note_indexing(indexing: set[nn.Module], module: nn.Module, inputs, outputs):
    """A forward hook: records modules that no gradient reaches although tokens may depend on them. These are modules
    that return whole numbers (which tokens to attend to), and modules that run without gradients."""
    whole = isinstance(outputs, torch.Tensor) and not outputs.is_floating_point()
    if whole or not torch.is_grad_enabled():
        indexing.add(module)


def drop_unused(module: nn.Module, trained: frozenset[str], needed: frozenset[str], prefix: str = ""):
    """Removes the sub-modules of an encoder that have no needed parameter. Single parameters that the tokens do not
    depend on are frozen. See `DryRun`. For a part of the encoder, the names begin with `prefix`."""
    for name, parameter in module.named_parameters(recurse=False):
        if prefix + name not in trained:
            parameter.requires_grad_(False)
    for name, child in list(module.named_children()):
        path = f"{prefix}{name}."
        names = [path + key for key, _ in child.named_parameters()]
        if not names or not needed.isdisjoint(names):
            drop_unused(child, trained, needed, path)
        elif isinstance(module, nn.ModuleList):
            behind = [f"{prefix}{key}" for key, _ in module.named_parameters() if int(key.split(".")[0]) > int(name)]
            if not needed.isdisjoint(behind):
                child.requires_grad_(False)
                continue
            # Used layers come first, so all layers after the first unused one are unused too. The first layer always
            # stays, untrained, because the library records the input of a stack where its first layer is called.
            del module[max(int(name), 1) :]
            if name == "0":
                child.requires_grad_(False)
            return
        elif any(isinstance(part, nn.ModuleList) for part in child.modules()):
            drop_unused(child, trained, needed, path)  # a stack without its layers can still be called
        else:
            setattr(module, name, Bypass())
