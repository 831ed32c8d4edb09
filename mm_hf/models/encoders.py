# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Encoders of any `AutoModel` type: what they read, how they are built and where their weights come from."""

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


# Of Whisper, which hears a frame every 10 ms and joins two.
POSITIONS_A_SECOND = 50


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
    kind = modality_of(modality)
    readable = [kind.renamed.get(name, name) for name in kind.inputs]
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


def in_reach(build: Callable[[], PreTrainedModel], what: str) -> PreTrainedModel:
    """Builds a model on the meta device, where weights take no memory, and says so where no machine could hold them.

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
    """Loads the weights of a pretrained encoder, on the CPU, under the names that `encoder` has for them. Gives them,
    and the whole encoder that they are of, in eval mode.

    Loads with the encoder's own class, which finds its part of dual encoders and drops heads; encoder-decoders are
    loaded whole."""
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


def base_model_of(source: str) -> str | None:
    """The Hub id that a model card should name for an encoder: the id itself, or what a local folder's card names."""
    if not os.path.isdir(source):
        return str(source)
    card_file = os.path.join(source, "README.md")
    base_model = ModelCard.load(card_file).data.get("base_model") if os.path.exists(card_file) else None
    return base_model[0] if isinstance(base_model, list) else base_model
