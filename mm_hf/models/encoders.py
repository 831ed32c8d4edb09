# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Encoders of any `AutoModel` type: what they read, how they are built, and where their weights come from."""

import inspect
import math
import os
from collections.abc import Callable
from typing import Any, cast

import torch
import transformers
from huggingface_hub import ModelCard
from transformers import MODEL_MAPPING, AutoConfig, AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from .config_checks import ConfigError, check_parameters
from .modality import modality_of


logger = logging.get_logger(__name__)


# Whisper makes a frame every 10 ms and joins two frames to one position.
POSITIONS_A_SECOND = 50


def model_from_config(config: PreTrainedConfig) -> PreTrainedModel:
    """Like `AutoModel.from_config`, but also for parts of dual encoders that it does not list (SigLIP's text part),
    and for types that have only a backbone (PP-LCNet)."""
    names = [type(config).__name__.replace("Config", part) for part in ("Model", "Backbone")]
    name = next((name for name in names if hasattr(transformers, name)), None)
    known = MODEL_MAPPING.get(type(config), None)
    if isinstance(known, (tuple, list)) and not config.architectures:  # Funnel: the library fails on the choice
        return known[0]._from_config(config)
    if known is not None or name is None:
        return AutoModel.from_config(config)
    return getattr(transformers, name)._from_config(config)


def construct_encoder(config: PreTrainedConfig, modality: str) -> PreTrainedModel:
    """Builds the encoder of a config as the library does, from this config object itself. From an encoder-decoder only
    the encoder is returned.

    Raises:
        ValueError: the model does not read this modality, or needs inputs that mm_hf does not make.
    """
    if getattr(config, "languages", None) and getattr(config, "default_language", "") is None:  # X-MOD
        config.default_language = config.languages[0]
        logger.warning_once(
            f"The {modality} encoder has one adapter per language, but its config has no default_language: "
            f"{config.default_language!r} is used, of {list(config.languages)}. This is said once."
        )
    try:
        encoder = model_from_config(config)
    except KeyError as error:  # an unknown activation, for example
        raise ConfigError(
            f"The {modality} encoder ({config.model_type}) cannot be built: its config names {error!s:.80}, which "
            "transformers does not have."
        ) from None
    except ValueError as error:
        # Some models (ResNet) have no attention to choose, and refuse a choice that was made for the whole model.
        if "attention" not in str(error) or config._attn_implementation in (None, "eager"):
            raise
        config._attn_implementation = "eager"
        encoder = model_from_config(config)
    if config.is_encoder_decoder:
        encoder = encoder.get_encoder()
    kind = modality_of(modality)
    readable = [kind.renamed.get(name, name) for name in kind.inputs]
    if encoder.main_input_name not in readable:
        raise ValueError(
            f"The {modality} encoder is of type {config.model_type!r}, which reads {encoder.main_input_name!r}: "
            f"use an encoder that reads {readable[0]!r}."
        )
    needed = [
        name
        for name, parameter in inspect.signature(encoder.forward).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if lacking := [name for name in needed if name not in readable]:
        raise ValueError(
            f"The {modality} encoder is of type {config.model_type!r}, which needs {lacking} beside {readable[0]!r}, "
            f"and mm_hf does not make them. Use a type that needs only {readable[0]!r} (for SigLIP 2, a checkpoint "
            "with one picture size, not one named NaFlex)."
        )
    return encoder


def in_reach(build: Callable[[], PreTrainedModel], what: str) -> PreTrainedModel:
    """Builds a model on the meta device, where weights take no memory. Raises if no machine could hold them.

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


def load_encoder_weights(
    encoder: PreTrainedModel, source: str, dtype=None, **hub_kwargs
) -> tuple[dict[str, torch.Tensor], PreTrainedModel]:
    """Loads the weights of a pretrained encoder, on the CPU, with the names that they have in `encoder`. Also returns
    the whole pretrained encoder, in eval mode.

    Loads with the encoder's own class, which finds its part of a dual encoder and drops heads. Encoder-decoders are
    loaded whole."""
    config = encoder.config
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # no warnings about heads and poolers that are dropped on purpose
    try:
        if config.is_encoder_decoder or AutoConfig.from_pretrained(source, **hub_kwargs).is_encoder_decoder:
            pretrained = AutoModel.from_pretrained(source, dtype=dtype, **hub_kwargs)
            whole = pretrained.get_encoder()
            weights = dict(whole.state_dict())
            for key, value in encoder.state_dict().items():
                if key.endswith("embed_positions.weight"):  # the encoder was cut, see `cut_to_seconds`
                    weights[key] = weights[key][: len(value)].clone()  # a view of a tensor cannot be saved
            return weights, whole.eval()
        pretrained, info = cast(Any, type(encoder)).from_pretrained(
            source, config=config, dtype=dtype, output_loading_info=True, **hub_kwargs
        )
    finally:
        logging.set_verbosity(verbosity)
    weights = {key: value for key, value in pretrained.state_dict().items() if key not in info["missing_keys"]}
    return weights, pretrained.eval()


def cut_to_seconds(config: PreTrainedConfig, seconds: int | None):
    """Lets an encoder with a fixed length of sound take shorter ones. Whisper's 30 seconds would cost thirty times as
    much as one second. Encoders that take any length are not changed.

    Raises:
        ValueError: the encoder has no positions for so many seconds.
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


def base_model_of(source: str) -> str | None:
    """The Hub id of an encoder for the model card: the source itself, or the id that a local folder's card names."""
    if not os.path.isdir(source):
        return str(source)
    card_file = os.path.join(source, "README.md")
    base_model = ModelCard.load(card_file).data.get("base_model") if os.path.exists(card_file) else None
    return base_model[0] if isinstance(base_model, list) else base_model
