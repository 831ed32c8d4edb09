# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Runs the encoders: the states of the distinct items of a batch.

Notation used for tensor shapes: see `modeling_outputs`.
"""

import contextlib
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from .modality import modality_of
from .modeling_outputs import EncoderStates


def encode_items(
    encoder: PreTrainedModel,
    modality: str,
    inputs: dict[str, torch.Tensor | None],
    feature_layers: list[int] | None,
    index: torch.Tensor | None,
    frozen: bool,
    interpolate: bool = False,
    by_length: bool = False,
    seeded: bool = False,
) -> EncoderStates:
    """Encodes the distinct items of one modality.

    Args:
        inputs: the encoder's inputs (see `build_encoder`), `(U, …)` each; None for inputs that were not given.
        index: `(B,)` int64, see `EncoderStates`.
        frozen: run without gradients.
        interpolate, by_length, seeded: see `interpolate_pos_encoding`, `encode_by_length` and `seeded_encoders` of
            `MMFusionConfig`.

    Returns:
        states, without levels if there is no item and the encoder does not train: see `MMFusionModel.encode`. In texts
        and sounds the tokens come first and the padding last, on whichever side the input was padded.
    """
    kind = modality_of(modality)
    given = {name: value for name, value in inputs.items() if value is not None}
    main = next((given[name] for name in kind.inputs if name in given), None)
    if main is None or main.shape[0] == 0:
        if frozen or not trains(encoder):
            return EncoderStates(index=index)
        given = kind.dummy_inputs(encoder.config, device=encoder.device, dtype=encoder.dtype)
    given = kind.encoder_inputs(encoder, given)
    if kind.has_lengths:
        given = to_the_right(given)
    mask = given.get("attention_mask")
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        if by_length and mask is not None:
            levels, mask = run_by_length(encoder, given, feature_layers, seeded)
            return EncoderStates(levels=levels, mask=mask, index=index)
        levels = run_encoder(encoder, given, feature_layers, interpolate, seeded)
    if mask is not None:
        mask = kind.token_mask(encoder, mask, levels[0].shape[1])
    return EncoderStates(levels=levels, mask=mask, index=index)


def run_encoder(
    encoder: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    feature_layers: Sequence[int] | None,
    interpolate: bool = False,
    seeded: bool = False,
) -> tuple[torch.Tensor, ...]:
    """Runs an encoder, see `build_encoder`, on inputs with the encoder's own names. Returns the levels that
    `EncoderStates` describes. Inputs that its `forward` does not name are left out: tokenizers make `token_type_ids`
    for some encoders that have none.

    Args:
        interpolate: stretch learned positions to the size of the pictures, if the encoder can.
        seeded: let an encoder in eval mode draw the same random numbers in every call.
    """
    accepted = inspect.signature(encoder.forward).parameters
    inputs = {name: value for name, value in inputs.items() if name in accepted}
    options: dict[str, Any] = {"return_dict": True}
    if "use_cache" in accepted:  # an encoder does not generate, so it needs no cache
        options["use_cache"] = False
    if interpolate and "interpolate_pos_encoding" in accepted:
        options["interpolate_pos_encoding"] = True
    if "noise" in accepted and getattr(encoder.config, "mask_ratio", None) == 0:
        options["noise"] = patch_order(encoder, inputs["pixel_values"])
    if feature_layers is not None:
        options["output_hidden_states"] = True
    with same_draws(encoder, seeded):
        outputs = encoder(**inputs, **options)
    if feature_layers is None:
        states = getattr(outputs, "last_hidden_state", None)
        levels = (outputs.feature_maps[-1] if states is None else states,)
    else:
        states = getattr(outputs, "reshaped_hidden_states", None) or outputs.hidden_states
        levels = tuple(states[layer] for layer in feature_layers)
    # Swin's tokens do not contain their place (its position biases are relative): restore their grid.
    if hasattr(outputs, "reshaped_hidden_states") and levels[0].ndim == 3:
        height, width = inputs["pixel_values"].shape[-2:]
        rows = [round(math.sqrt(level.shape[1] * height / width)) for level in levels]
        levels = tuple(level.transpose(1, 2).unflatten(2, (h, -1)) for level, h in zip(levels, rows))  # (U, H, h, w)
    return levels


def run_by_length(
    encoder: PreTrainedModel, inputs: dict[str, torch.Tensor], feature_layers: list[int] | None, seeded: bool
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Runs an encoder that padding would disturb: items of each length are run together, without padding. The inputs
    have a mask, and all padding at the end, see `to_the_right`. Returns the levels, zero at padding, and their mask
    `(U, T)` int64."""
    mask = inputs["attention_mask"]
    steps = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = (mask.bool() * steps).amax(1).clamp(min=1)  # (U,): up to the last step that is not padding
    states_by_length = {}
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().flatten()
        inputs_of_length = {
            name: value[rows, :length] if value.shape[:2] == mask.shape else value[rows]
            for name, value in inputs.items()
        }
        states_by_length[length] = rows, run_encoder(encoder, inputs_of_length, feature_layers, seeded=seeded)
    tokens = max(levels[0].shape[1] for _, levels in states_by_length.values())
    heard = torch.zeros(len(mask), tokens, dtype=torch.int64, device=mask.device)
    joined = []
    for number, level in enumerate(next(iter(states_by_length.values()))[1]):
        states = level.new_zeros(len(mask), tokens, *level.shape[2:])
        for rows, levels in states_by_length.values():
            states[rows, : levels[number].shape[1]] = levels[number]
            heard[rows, : levels[number].shape[1]] = 1
        joined.append(states)
    return tuple(joined), heard


def to_the_right(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Moves padding from the beginning of an item to its end, in all inputs, `(U, T)` or `(U, T, …)`, that have one
    step for each step of the mask.

    Encoders count positions from the first step, even if it is padding, and causal encoders give padding at the
    beginning a state of its own. With all padding at the end, an item's states do not depend on the padding side."""
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2 or not mask.numel():
        return inputs
    items, steps = mask.shape
    lead = mask.bool().long().argmax(1, keepdim=True)  # (U, 1): steps of padding at the beginning
    places = torch.arange(steps, device=mask.device) + lead
    places = torch.where(places < steps, places, places - steps)  # (U, T)

    def moved(value: torch.Tensor) -> torch.Tensor:
        index = places.reshape(items, steps, *[1] * (value.ndim - 2)).expand_as(value)
        return value.gather(1, index)

    return {name: moved(value) if value.shape[:2] == mask.shape else value for name, value in inputs.items()}


def patch_order(encoder: PreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """The noise, `(U, patches)`, with which a ViT-MAE that masks nothing keeps its patches in order."""
    size = encoder.config.patch_size
    rows, columns = (size, size) if isinstance(size, int) else size
    count = (pixel_values.shape[-2] // rows) * (pixel_values.shape[-1] // columns)
    return torch.linspace(0, 1, count, device=pixel_values.device).expand(pixel_values.shape[0], -1)


def trains(encoder: nn.Module) -> bool:
    """Whether any part of an encoder is in training mode; if only a part trains, the encoder itself is not."""
    return any(part.training for part in encoder.modules())


@contextlib.contextmanager
def same_draws(encoder: PreTrainedModel, seeded: bool):
    """Lets an encoder in eval mode draw the same numbers in every call, and restores the random generators."""
    if not seeded or trains(encoder):
        yield
        return
    devices = [encoder.device] if encoder.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        yield
