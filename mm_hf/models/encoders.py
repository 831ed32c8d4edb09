# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Encoders of any `AutoModel` type.

Notation used for tensor shapes: see `modeling_outputs`.
"""

import contextlib
import functools
import inspect
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
import transformers
from huggingface_hub import ModelCard
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from .config_checks import ConfigError, check_parameters
from .modeling_outputs import EncoderStates


logger = logging.get_logger(__name__)

# The inputs that each modality's encoder may read; the first of those present counts the items.
MODALITY_INPUTS = {
    "vision": ("pixel_values",),
    "text": ("input_ids", "inputs_embeds", "attention_mask", "token_type_ids"),
    "audio": ("input_features", "input_values", "audio_attention_mask"),
    "tabular": ("numerical_values", "categorical_ids"),
    "series": ("series_values", "series_attention_mask"),
}
# Inputs whose own name another modality has: what their encoder calls them.
NAME_IN_ENCODER = {
    "audio_attention_mask": "attention_mask",
    "series_values": "input_features",
    "series_attention_mask": "attention_mask",
}


# Of Whisper, which hears a frame every 10 ms and joins two.
POSITIONS_A_SECOND = 50


class FeatureLayerError(ValueError):
    """A feature layer that the encoder does not have."""


class Bypass(nn.Module):
    """Stands where a part of an encoder was that no token depends on (a pooler, a norm of the pooled vector)."""

    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states


def dummy_inputs(config: PreTrainedConfig, modality: str, device=None, dtype=None) -> dict[str, torch.Tensor]:
    """The smallest valid input of one item, all zeros: for dry runs, and for encoders that have nothing to encode."""
    if modality == "vision":
        size = getattr(config, "image_size", None) or 64
        height, width = (size, size) if isinstance(size, int) else size
        channels = getattr(config, "num_channels", 3)
        return {"pixel_values": torch.zeros(1, channels, height, width, device=device, dtype=dtype)}
    if modality == "text":
        ids = torch.zeros(1, 4, dtype=torch.long, device=device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if modality == "tabular":
        numbers = torch.zeros(1, config.num_numerical, device=device, dtype=dtype)
        ids = torch.zeros(1, len(config.vocab_sizes), dtype=torch.long, device=device)
        found = {"numerical_values": numbers, "categorical_ids": ids}
        return {name: value for name, value in found.items() if value.shape[1]}
    if getattr(config, "input_size", None):  # a recurrent encoder of frames
        return {"input_features": torch.zeros(1, 4, config.input_size, device=device, dtype=dtype)}
    if hasattr(config, "feature_projection_input_dim"):  # Wav2Vec2-BERT
        return {"input_features": torch.zeros(1, 16, config.feature_projection_input_dim, device=device, dtype=dtype)}
    if hasattr(config, "max_source_positions") and hasattr(config, "num_mel_bins"):  # Whisper: two frames a position
        shape = (1, config.num_mel_bins, 2 * config.max_source_positions)
        return {"input_features": torch.zeros(shape, device=device, dtype=dtype)}
    if hasattr(config, "num_mel_bins"):  # AST
        shape = (1, config.max_length, config.num_mel_bins)
        return {"input_values": torch.zeros(shape, device=device, dtype=dtype)}
    return {"input_values": torch.zeros(1, 4000, device=device, dtype=dtype)}  # waves: Wav2Vec2 and its kin


def model_from_config(config: PreTrainedConfig) -> PreTrainedModel:
    """`AutoModel.from_config`, also for the parts of dual encoders that it does not list (SigLIP's text part), and for
    types that have a backbone alone (PP-LCNet)."""
    names = [type(config).__name__.replace("Config", part) for part in ("Model", "Backbone")]
    name = next((name for name in names if hasattr(transformers, name)), None)
    known = MODEL_MAPPING.get(type(config), None)
    if isinstance(known, (tuple, list)) and not config.architectures:  # Funnel: the library stumbles over the choice
        return known[0]._from_config(config)
    if known is not None or name is None:
        return AutoModel.from_config(config)
    return getattr(transformers, name)._from_config(config)


def construct_encoder(config: PreTrainedConfig, modality: str) -> PreTrainedModel:
    """Builds the encoder of a config as the library does, from this very config object; encoder-decoders give their
    encoder.

    Raises:
        ValueError: the model does not read this modality, or needs more than it is given.
        ImportError: a library that the model needs is not installed.
    """
    if getattr(config, "languages", None) and getattr(config, "default_language", "") is None:  # X-MOD
        config.default_language = config.languages[0]
        logger.warning_once(
            f"The {modality} encoder has one adapter a language, and its config no default_language: "
            f"{config.default_language!r} is taken, of {list(config.languages)}. This is said once."
        )
    try:
        encoder = model_from_config(config)
    except KeyError as error:  # such as an activation
        raise ConfigError(
            f"The {modality} encoder ({config.model_type}) cannot be built: its config names {error!s:.80}, which the "
            "library does not have."
        ) from None
    except ValueError as error:
        # Some (ResNet) have no choice of attention to make, and refuse one that was made for the whole model.
        if "attention" not in str(error) or config._attn_implementation in (None, "eager"):
            raise
        config._attn_implementation = "eager"
        encoder = model_from_config(config)
    if config.is_encoder_decoder:
        encoder = encoder.get_encoder()
    readable = [NAME_IN_ENCODER.get(name, name) for name in MODALITY_INPUTS[modality]]
    if encoder.main_input_name not in readable:
        raise ValueError(
            f"The {modality} encoder is of type {config.model_type!r}, which reads {encoder.main_input_name!r}; "
            f"needed is one that reads {readable[0]!r}."
        )
    needed = [
        name
        for name, parameter in inspect.signature(encoder.forward).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if lacking := [name for name in needed if name not in readable]:
        raise ValueError(
            f"The {modality} encoder is of type {config.model_type!r}, which needs {lacking} beside {readable[0]!r}: "
            f"mm_hf does not make them. Take a type that reads {readable[0]!r} alone (of SigLIP 2 the checkpoints of "
            "one picture size, not those named NaFlex)."
        )
    return encoder


def build_encoder(
    config: PreTrainedConfig, modality: str, feature_layers: list[int] | None
) -> tuple[PreTrainedModel, list[tuple[int, ...]], list[int] | None]:
    """Builds an encoder without the parts that no used token depends on (poolers, layers above the last one used,
    norms of the pooled vector): unused parameters stop distributed training.

    Args:
        config: the encoder's own config.
        modality: its name.
        feature_layers: indices into `hidden_states`, negative ones from the end; None for `last_hidden_state`.

    Returns:
        the encoder, the shape of each level for one item of the size that the config names (`(H, h, w)` of a feature
        map, `(T, H)` of a sequence), and the feature layers as indices from 0.

    Raises:
        ValueError: a feature layer that the encoder does not have.
    """
    layers = None if feature_layers is None else tuple(feature_layers)
    found = dry_run(cast(Any, type(config)), config.to_json_string(use_diff=False), modality, layers)
    encoder = construct_encoder(config, modality)
    drop_unused(encoder, found.trained, found.needed)
    return encoder, list(found.shapes), None if found.feature_layers is None else list(found.feature_layers)


@dataclass(frozen=True)
class DryRun:
    """What running an encoder once told.

    Args:
        trained: names of the parameters that the tokens depend on.
        needed: those, and all of modules without which the encoder does not run.
        shapes: of each level, for one item.
        feature_layers: as indices from 0.
    """

    trained: frozenset[str]
    needed: frozenset[str]
    shapes: tuple[tuple[int, ...], ...]
    feature_layers: tuple[int, ...] | None


@functools.lru_cache(maxsize=64)
def dry_run(config_class: Any, config_json: str, modality: str, feature_layers: tuple[int, ...] | None) -> DryRun:
    """Runs an encoder forward and backward on the meta device, where nothing is computed: that tells the shapes, and
    which parameters take part. Some look at values that the meta device does not have (DeBERTa at its mask,
    Longformer at its window): these are run on the CPU. Remembered by config, since it costs more than building a
    small encoder.

    Raises:
        ValueError: a feature layer that the encoder does not have.
    """
    return on_some_device(
        config_class,
        config_json,
        lambda device, masked, config: dry_run_on(device, masked, config, modality, feature_layers),
    )


Found = TypeVar("Found")


def on_some_device(config_class: Any, config_json: str, run: Callable[[str, bool, PreTrainedConfig], Found]) -> Found:
    """Does something with an encoder on the meta device, or on the CPU where it does not run there: see `dry_run`.

    Args:
        config_class, config_json: of the encoder.
        run: takes the device, whether to give a mask, and the config.
    """
    config = config_class.from_dict(json.loads(config_json))
    config._attn_implementation = "eager"  # no kernel is asked for on the meta device
    for device, masked in (("meta", False), ("meta", True), ("cpu", True)):
        config._experts_implementation = "batched_mm" if device == "meta" else "eager"
        try:
            return run(device, masked, config)
        except (FeatureLayerError, ImportError, ConfigError):
            raise
        except Exception as error:  # whatever a model makes of values that are not there
            if device == "cpu":
                raise
            logger.debug("%s cannot run on the %s device: %s", config.model_type, device, error)
    raise AssertionError("one of them gives or raises")


@contextlib.contextmanager
def probe_on(
    device: str, masked: bool, config: PreTrainedConfig, modality: str
) -> Iterator[tuple[PreTrainedModel, dict[str, torch.Tensor]]]:
    """An encoder of a config on a device, all of it training, and the smallest input for it; within, new tensors are
    on this device and gradients are computed."""
    with torch.random.fork_rng(devices=[]), torch.device(device), torch.enable_grad():
        probe = in_reach(lambda: construct_encoder(config, modality), f"The {modality} encoder ({config.model_type})")
        probe.eval()
        share_weights(probe)
        probe.requires_grad_(True)  # Whisper keeps its positions from training, and uses them all the same
        if device != "meta":
            fill_weights(probe)
        inputs = dummy_inputs(config, modality, device=device)
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
                f"The {modality} encoder ({config.model_type}) passes no gradients back outside of training mode: all "
                "of it is kept. It can be frozen."
            )
            for parameter in probe.parameters():
                parameter.grad = torch.zeros_like(parameter)
        # A module that stands in several places has a name in each.
        parameters = dict(probe.named_parameters(remove_duplicate=False))
        trained = frozenset(name for name, parameter in parameters.items() if parameter.grad is not None)
        of_indexing = {id(parameter) for part in indexing for parameter in part.parameters()}
        needed = trained | {name for name, parameter in parameters.items() if id(parameter) in of_indexing}
        try:
            drop_unused(probe, trained, needed)
            same = run_encoder(probe, inputs, feature_layers, seeded=True)
        except Exception as error:  # a weight is asked for that no gradient reaches (LayoutLMv3's positions)
            logger.debug("%s does not run without its unused parts: %s", config.model_type, error)
            needed = frozenset(parameters)
        else:
            if device != "meta" and not all(map(torch.equal, levels, same)):
                needed = frozenset(parameters)
    return DryRun(trained, frozenset(needed), tuple(tuple(level.shape[1:]) for level in levels), feature_layers)


def in_reach(build: Callable[[], PreTrainedModel], what: str) -> PreTrainedModel:
    """Builds a model on the meta device, where weights take no memory, and says so where no machine could hold them.

    Args:
        build: gives the model.
        what: it is.

    Raises:
        ConfigError: it has more than `MAX_PARAMETERS`, or sizes that cannot be multiplied.
    """
    try:
        model = build()
    except (RuntimeError, TypeError) as error:
        if "overflow" not in str(error).lower():
            raise
        model = None
    count = math.inf if model is None else sum(parameter.numel() for parameter in model.parameters())
    check_parameters(count, what)
    return cast(PreTrainedModel, model)


def share_weights(module: PreTrainedModel):
    """Lets places that share a weight do so: while a checkpoint is loaded the library puts that off."""
    for name, source in getattr(module, "all_tied_weights_keys", {}).items():
        place, _, own = name.rpartition(".")
        setattr(module.get_submodule(place), own, module.get_parameter(source))


@torch.no_grad()
def fill_weights(module: nn.Module):
    """Gives all weights some numbers: while a checkpoint is loaded new modules have whatever is in the memory."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.uniform_(-0.1, 0.1, generator=generator)


def note_indexing(found: set[nn.Module], module: nn.Module, inputs, outputs):
    """A forward hook: takes down modules that no gradient reaches though tokens may depend on them: those that give
    whole numbers (which tokens to look at), and those that run without gradients."""
    whole = isinstance(outputs, torch.Tensor) and not outputs.is_floating_point()
    if whole or not torch.is_grad_enabled():
        found.add(module)


def drop_unused(module: nn.Module, trained: frozenset[str], needed: frozenset[str], prefix: str = ""):
    """Removes the sub-modules none of whose parameters is needed; single parameters that do not train stop to.

    Args:
        module: the encoder, or a part of it.
        trained, needed: see `DryRun`.
        prefix: of the part's parameters in the encoder.
    """
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
            # Used layers come first: all that follow are unused too. The first one stays in any case, untrained,
            # since the library records what goes into a stack where its first layer is called.
            del module[max(int(name), 1) :]
            if name == "0":
                child.requires_grad_(False)
            return
        elif any(isinstance(part, nn.ModuleList) for part in child.modules()):
            drop_unused(child, trained, needed, path)  # a stack without its layers can still be called
        else:
            setattr(module, name, Bypass())


def run_encoder(
    encoder: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    feature_layers: Sequence[int] | None,
    interpolate: bool = False,
    seeded: bool = False,
) -> tuple[torch.Tensor, ...]:
    """Runs an encoder and gives the levels that `EncoderStates` describes.

    Inputs that the encoder's `forward` does not name are left out: tokenizers make `token_type_ids` for some encoders
    that have none.

    Args:
        encoder: see `build_encoder`.
        inputs: by the encoder's own names.
        feature_layers: see `build_encoder`.
        interpolate: stretch learned positions to the size of the pictures, where the encoder can.
        seeded: what an encoder in eval mode draws at random is the same in every call.
    """
    accepted = inspect.signature(encoder.forward).parameters
    inputs = {name: value for name, value in inputs.items() if name in accepted}
    options: dict[str, Any] = {"return_dict": True}
    if "use_cache" in accepted:  # nothing is generated
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
    # Swin's tokens know no place of their own (its biases are relative): give them back their grid.
    if hasattr(outputs, "reshaped_hidden_states") and levels[0].ndim == 3:
        height, width = inputs["pixel_values"].shape[-2:]
        rows = [round(math.sqrt(level.shape[1] * height / width)) for level in levels]
        levels = tuple(level.transpose(1, 2).unflatten(2, (h, -1)) for level, h in zip(levels, rows))  # (U, H, h, w)
    return levels


def patch_order(encoder: PreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """The noise, `(U, patches)`, with which a ViT-MAE that masks nothing keeps its patches in their order."""
    size = encoder.config.patch_size
    rows, columns = (size, size) if isinstance(size, int) else size
    count = (pixel_values.shape[-2] // rows) * (pixel_values.shape[-1] // columns)
    return torch.linspace(0, 1, count, device=pixel_values.device).expand(len(pixel_values), -1)


def load_encoder_weights(
    encoder: PreTrainedModel, source: str, dtype=None, **hub_kwargs
) -> tuple[dict[str, torch.Tensor], PreTrainedModel]:
    """Loads the weights of a pretrained encoder, on the CPU, under the names that `encoder` has for them.

    Loads with the encoder's own class, which finds its part of dual encoders and drops heads; encoder-decoders are
    loaded whole.

    Returns:
        the weights, and the whole encoder that they are of, in eval mode.
    """
    config = encoder.config
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # heads and poolers that are left out are no news
    try:
        if config.is_encoder_decoder or AutoConfig.from_pretrained(source, **hub_kwargs).is_encoder_decoder:
            pretrained = AutoModel.from_pretrained(source, dtype=dtype, **hub_kwargs)
            whole = pretrained.get_encoder()
            weights = dict(whole.state_dict())
            for key, value in encoder.state_dict().items():
                if key.endswith("embed_positions.weight"):  # of an encoder that was cut, see `cut_to_seconds`
                    weights[key] = weights[key][: len(value)].clone()  # a part of a tensor cannot be saved
            return weights, whole.eval()
        pretrained, info = cast(Any, type(encoder)).from_pretrained(
            source, config=config, dtype=dtype, output_loading_info=True, **hub_kwargs
        )
    finally:
        logging.set_verbosity(verbosity)
    weights = {key: value for key, value in pretrained.state_dict().items() if key not in info["missing_keys"]}
    return weights, pretrained.eval()


def cut_to_seconds(config: PreTrainedConfig, seconds: int | None):
    """Makes an encoder that only takes sounds of one length take shorter ones: Whisper's, whose 30 seconds would cost
    thirty times what a second does. Encoders that take any length are left as they are.

    Raises:
        ValueError: more seconds than the encoder has positions for.
    """
    positions = getattr(config, "max_source_positions", None)
    if seconds is None or positions is None:
        return
    most = positions // POSITIONS_A_SECOND
    if not isinstance(seconds, int) or not 1 <= seconds <= most:
        raise ValueError(
            f"max_audio_seconds must be a whole number between 1 and {most} for this encoder, got {seconds}."
        )
    config.max_source_positions = seconds * POSITIONS_A_SECOND


def token_mask(encoder: PreTrainedModel, mask: torch.Tensor, tokens: int) -> torch.Tensor:
    """Which tokens of an encoder hear something of the sound itself, and not of its padding alone.

    Args:
        encoder: the sound's.
        mask: `(U, S)` of what went in, samples or frames, 1 for sound.
        tokens: how many came out of each item.

    Returns:
        `(U, tokens)` int64.
    """
    own = getattr(encoder, "_get_feature_vector_attention_mask", None)
    if own is not None:  # Wav2Vec2 and its kin know the strides of their convolutions
        return own(tokens, mask.long()).long()
    return mask[:, :: max(1, round(mask.shape[1] / tokens))][:, :tokens].long()


def base_model_of(source: str) -> str | None:
    """The Hub id that a model card should name for an encoder: the id itself, or what a local folder's card names."""
    if not os.path.isdir(source):
        return str(source)
    card_file = os.path.join(source, "README.md")
    base_model = ModelCard.load(card_file).data.get("base_model") if os.path.exists(card_file) else None
    return base_model[0] if isinstance(base_model, list) else base_model


def to_the_right(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Moves padding that stands in front of an item behind it, in all inputs that have a step for each of the mask's.

    Encoders count positions from the first step, padded or not, and causal ones give padding in front a state of its
    own: with all padding behind, an item has the same states wherever its tokenizer pads.

    Args:
        inputs: by the encoder's own names, `(U, T)` or `(U, T, …)` each.
    """
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2 or not mask.numel():
        return inputs
    items, steps = mask.shape
    lead = mask.bool().long().argmax(1, keepdim=True)  # (U, 1): steps before the first one that counts
    places = (torch.arange(steps, device=mask.device) + lead) % steps  # (U, T)

    def moved(value: torch.Tensor) -> torch.Tensor:
        index = places.reshape(items, steps, *[1] * (value.ndim - 2)).expand_as(value)
        return value.gather(1, index)

    return {name: moved(value) if value.shape[:2] == mask.shape else value for name, value in inputs.items()}


def run_by_length(
    encoder: PreTrainedModel, inputs: dict[str, torch.Tensor], feature_layers: list[int] | None, seeded: bool
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Runs an encoder, whose states padding would change, on the items of each length apart, without padding.

    Args:
        encoder: see `build_encoder`.
        inputs: all padding behind, see `to_the_right`; with a mask.
        feature_layers: see `build_encoder`.
        seeded: see `run_encoder`.

    Returns:
        the levels, zero at padding, and their mask `(U, T)` int64.
    """
    mask = inputs["attention_mask"]
    steps = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = (mask.bool() * steps).amax(1).clamp(min=1)  # (U,): up to the last step that counts
    found = {}
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().flatten()
        own = {
            name: value[rows, :length] if value.shape[:2] == mask.shape else value[rows]
            for name, value in inputs.items()
        }
        found[length] = rows, run_encoder(encoder, own, feature_layers, seeded=seeded)
    tokens = max(levels[0].shape[1] for _, levels in found.values())
    heard = torch.zeros(len(mask), tokens, dtype=torch.int64, device=mask.device)
    joined = []
    for number, level in enumerate(next(iter(found.values()))[1]):
        states = level.new_zeros(len(mask), tokens, *level.shape[2:])
        for rows, levels in found.values():
            states[rows, : levels[number].shape[1]] = levels[number]
            heard[rows, : levels[number].shape[1]] = 1
        joined.append(states)
    return tuple(joined), heard


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
        encoder: see `build_encoder`.
        modality: its name.
        inputs: its inputs, `(U, …)` each; None for those that were not given.
        feature_layers: see `build_encoder`.
        index: `(B,)` int64, see `EncoderStates`.
        frozen: run without gradients.
        interpolate, by_length, seeded: see `interpolate_pos_encoding`, `encode_by_length` and `seeded_encoders` of
            `MMFusionConfig`.

    Returns:
        states without levels if there is no item, unless the encoder trains: see `MMFusionModel.encode`. The tokens of
        texts and sounds come first, padding behind, whichever side was padded.
    """
    inputs = {name: value for name, value in inputs.items() if value is not None}
    main = next((inputs[name] for name in MODALITY_INPUTS[modality] if name in inputs), None)
    if main is None or main.shape[0] == 0:
        if frozen or not trains(encoder):
            return EncoderStates(index=index)
        inputs = dummy_inputs(encoder.config, modality, device=encoder.device, dtype=encoder.dtype)
    inputs = {NAME_IN_ENCODER.get(name, name): value for name, value in inputs.items()}
    for name in ("input_features", "input_values", "numerical_values"):
        if name in inputs:
            inputs[name] = inputs[name].to(encoder.dtype)
    if "pixel_values" in inputs:
        # Convolutions are 1.7 to 2.3 times faster on the CPU with the channels last; patch embeddings do not mind.
        pixel_values = inputs["pixel_values"].to(encoder.dtype)
        layout = torch.contiguous_format if trains_above_group_norm(encoder) else torch.channels_last
        inputs["pixel_values"] = pixel_values.contiguous(memory_format=layout)
    if modality in ("text", "audio"):
        inputs = to_the_right(inputs)
    mask = inputs.get("attention_mask")
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        if by_length and mask is not None:
            levels, mask = run_by_length(encoder, inputs, feature_layers, seeded)
            return EncoderStates(levels=levels, mask=mask, index=index)
        levels = run_encoder(encoder, inputs, feature_layers, interpolate, seeded)
    if modality == "audio" and mask is not None:
        mask = token_mask(encoder, mask, levels[0].shape[1])
    return EncoderStates(levels=levels, mask=mask, index=index)


def trains(encoder: nn.Module) -> bool:
    """Whether any part of an encoder is in training mode: one that trains in part is not as a whole."""
    return any(part.training for part in encoder.modules())


def trains_above_group_norm(encoder: nn.Module) -> bool:
    """Whether an encoder trains in part and has group norms (BiT): torch 2.13 crashes in the gradient of one whose
    input needs none and has its channels last, on CPUs."""
    return (
        torch.is_grad_enabled()
        and any(isinstance(module, nn.GroupNorm) for module in encoder.modules())
        and len({parameter.requires_grad for parameter in encoder.parameters()}) > 1
    )


@contextlib.contextmanager
def same_draws(encoder: PreTrainedModel, seeded: bool):
    """Lets an encoder in eval mode draw the same numbers in every call, and leaves the generators as they were."""
    if not seeded or trains(encoder):
        yield
        return
    devices = [encoder.device] if encoder.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        yield
