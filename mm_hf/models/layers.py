# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The layers of an encoder: the layer of each parameter, and the parameters of the top layers."""

import functools
from collections.abc import Collection, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig

from .dry_run import on_some_device, probe_on
from .encoding import run_encoder


def stack_of(encoder: nn.Module) -> tuple[tuple[str, ...], int]:
    """The paths of the lists that form the stack of layers, and the number of layers; none and 0 without a list.

    The stack is the `nn.ModuleList` with the most parameters (not the longest: a stage of Swin may have more blocks
    than Swin has stages), together with the lists of the same length beside it (PVT's patch embeddings)."""
    lists = {path: module for path, module in encoder.named_modules() if isinstance(module, nn.ModuleList)}
    lists = {path: module for path, module in lists.items() if any(True for _ in module.parameters())}
    if not lists:
        return (), 0
    # Of two equal lists (a stack of one layer that contains a list), the first one, which is the outer one.
    stack = max(lists, key=lambda path: sum(parameter.numel() for parameter in lists[path].parameters()))
    depth, parent = len(lists[stack]), stack.rpartition(".")[0]
    beside = (path for path in lists if len(lists[path]) == depth and path.rpartition(".")[0] == parent)
    return tuple(beside), depth


def layer_in_stack(name: str, lists: tuple[str, ...]) -> int | None:
    """The layer of a parameter in the stack, from its name, 1 for the lowest; None for a parameter outside of it."""
    path = next((path for path in lists if name.startswith(f"{path}.")), None)
    return None if path is None else 1 + int(name[len(path) + 1 :].split(".")[0])


def encoder_layers(encoder: nn.Module) -> tuple[dict[str, int], int]:
    """Finds the layer of every parameter of an encoder, see `stack_of`. Parameters defined before the stack count as
    layer 0, parameters defined after it as part of the top layer.

    Returns:
        the layer by parameter name (0 for embeddings and stem, 1 for the lowest layer of the stack); and the number of
        the top layer. An encoder without a stack is one single layer, 1.
    """
    names = [name for name, _ in encoder.named_parameters()]
    lists, depth = stack_of(encoder)
    if not lists:
        return dict.fromkeys(names, 1), 1
    layers, below = {}, True
    for name in names:
        layer = layer_in_stack(name, lists)
        below = below and layer is None
        layers[name] = (0 if below else depth) if layer is None else layer
    return layers, depth


def top_layers(
    encoder: nn.Module,
    config: PreTrainedConfig,
    modality: str,
    feature_layers: list[int] | None,
    count: int,
    untrained: Collection[str] = (),
) -> set[str]:
    """Names of the parameters of an encoder's `count` top layers (see `build_encoder` and `usable_layers`). They are
    the parameters in the stack, and those outside of it that process the output of the layers below (the last norm),
    wherever they are defined: Wav2Vec2 defines its last norm before its layers, BART its norm of the embeddings after
    them. Parameters that never train are left out.

    Raises:
        ValueError: the encoder's layers cannot be told apart by their inputs.
    """
    lists, _ = stack_of(encoder)
    lowest = usable_layers(encoder, untrained)[-count]
    used = None if feature_layers is None else tuple(feature_layers)
    fed = names_below(cast(Any, type(config)), config.to_json_string(use_diff=False), modality, used, lists, lowest)
    names = set()
    for name, _ in encoder.named_parameters():
        layer = layer_in_stack(name, lists)
        if name not in untrained and (name not in fed if layer is None else layer >= lowest):
            names.add(name)
    return names


def usable_layers(encoder: nn.Module, untrained: Collection[str] = ()) -> list[int]:
    """Numbers of the layers that can train, from the lowest up: the layers with a parameter of their own that trains.
    Empty for an encoder without a stack."""
    lists, _ = stack_of(encoder)
    layers = {layer_in_stack(name, lists) for name, _ in encoder.named_parameters() if name not in untrained}
    return sorted(layer for layer in layers if layer is not None)


@functools.lru_cache(maxsize=64)
def names_below(
    config_class: Any,
    config_json: str,
    modality: str,
    feature_layers: tuple[int, ...] | None,
    lists: tuple[str, ...],
    layer: int,
) -> frozenset[str]:
    """Names of the parameters that the input of a layer of the stack depends on. Found by a run without numbers, as in
    `dry_run`; cached by config. Refuses layers that do not follow one another: the input of the second does not depend
    on the first (lists of embeddings), or cannot be traced back (Reformer's)."""
    run = partial(names_below_on, modality=modality, feature_layers=feature_layers, lists=lists, layer=layer)
    return on_some_device(config_class, config_json, run)


def names_below_on(
    device: str,
    masked: bool,
    config: PreTrainedConfig,
    modality: str,
    feature_layers: tuple[int, ...] | None,
    lists: tuple[str, ...],
    layer: int,
) -> frozenset[str]:
    """See `names_below`."""
    with probe_on(device, masked, config, modality) as (probe, inputs):
        depth = len(cast(nn.ModuleList, probe.get_submodule(lists[0])))
        entered: dict[int, dict[str, list[torch.Tensor]]] = {}
        chain = min(max(layer, 2), depth)  # the input of this layer must depend on the layer below it
        for number in {layer, chain}:
            entered[number] = {}
            for path in lists:
                for module in probe.get_submodule(f"{path}.{number - 1}").modules():
                    module.register_forward_pre_hook(partial(note_inputs, entered[number], path), with_kwargs=True)
        run_encoder(probe, inputs, feature_layers, seeded=True)
        parameters = dict(probe.named_parameters(remove_duplicate=False))

        def feeding(number: int) -> frozenset[str]:
            outputs = [tensor for tensors in entered[number].values() for tensor in tensors if tensor.requires_grad]
            if not outputs:
                return frozenset()
            starts = [torch.ones_like(tensor) for tensor in outputs]
            gradients = torch.autograd.grad(
                outputs, list(parameters.values()), starts, retain_graph=True, allow_unused=True
            )
            return frozenset(name for name, gradient in zip(parameters, gradients) if gradient is not None)

        fed = feeding(layer)
        follow = chain == 1 or any(layer_in_stack(name, lists) == chain - 1 for name in feeding(chain))
        if not follow or not entered[layer]:
            raise ValueError(
                f"The layers of the {modality} encoder ({config.model_type}) do not visibly follow one another, so it "
                f"trains as a whole or not at all: leave layers out, to train all of {modality!r}."
            )
    return fed


def note_inputs(entered: dict[str, list[torch.Tensor]], path: str, module: nn.Module, args, kwargs):
    """A forward hook: records the input of the first module of a layer that is called."""
    if path not in entered:
        entered[path] = [tensor for tensor in tensors_in((args, kwargs)) if tensor.is_floating_point()]


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors_in(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors_in(one)
