# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The parts of a processor: which argument each prepares, and how they come from the encoders' own folders."""

import os
from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

from .configuration_mm_fusion import PRETRAINED_MODALITIES, check_source, part_of_composite
from .image_processors import resize_to
from .inputs import list_of_images, list_of_series, list_of_sounds, list_of_table_rows, list_of_texts
from .names import nearest
from .series import SeriesScaler
from .sound import limit_seconds
from .table_schema import TableSchema
from .text import UNKNOWN_LENGTH, limit_text


# What a call gives, the modality that it is of, and the part that prepares it.
PARTS = {
    "images": ("vision", "image_processor"),
    "text": ("text", "tokenizer"),
    "audio": ("audio", "feature_extractor"),
    "table": ("tabular", "table_schema"),
    "series": ("series", "series_scaler"),
}
# How the rows of each argument are listed.
LISTS = {
    "images": list_of_images,
    "text": list_of_texts,
    "audio": list_of_sounds,
    "table": list_of_table_rows,
    "series": list_of_series,
}
# What people call a modality, where an encoder is named.
MEANT = {"image": "vision", "images": "vision", "picture": "vision", "sound": "audio", "speech": "audio"}
# Arguments that say where files come from.
HUB_KEYS = ("cache_dir", "force_download", "token", "revision", "local_files_only", "subfolder")


def parts_of_encoders(
    encoders: dict[str, Any],
    max_audio_seconds: int | None,
    image_size: int | None,
    table_schema: TableSchema | None,
    series_scaler: SeriesScaler | None,
    image_background: str | Sequence[int] | None,
) -> dict[str, Any]:
    """The arguments of a processor that fits some encoders; see `MMFusionProcessor.from_encoders_pretrained`.

    Args:
        encoders: the Hub id or folder of each by modality, and what goes to the loading of each part; it is changed.
        max_audio_seconds, image_size, table_schema, series_scaler, image_background: see there.
    """
    # Without a text encoder, what is written needs the decoder's tokenizer.
    decoder = encoders.pop("decoder", None)
    sources = {name: encoders.pop(name, None) for name in PRETRAINED_MODALITIES}
    for name, source in {**sources, "decoder": decoder}.items():
        if source is not None:
            check_source(name, source)
    sources["text"] = sources["text"] or decoder
    sources = {name: source for name, source in sources.items() if source is not None}
    parts: dict[str, Any] = {"table_schema": table_schema, "series_scaler": series_scaler}
    if not sources and table_schema is None and series_scaler is None:
        raise ValueError(
            f"from_encoders_pretrained needs an encoder for at least one of {list(PRETRAINED_MODALITIES)}, or one "
            f"of {list(parts)}."
        )
    for key, value in encoders.items():
        known = [*PRETRAINED_MODALITIES, "decoder", *parts, "max_audio_seconds"]
        meant = MEANT.get(key) or nearest(key, known, cutoff=0.8)
        if meant is not None and isinstance(value, (str, os.PathLike, TableSchema, SeriesScaler)):
            raise ValueError(f"from_encoders_pretrained has no {key!r}; it has {known}. Did you mean {meant!r}?")
    for name, source in sources.items():
        kwargs = {}
        for key, value in encoders.items():
            if not (isinstance(value, dict) and set(value) <= set(PRETRAINED_MODALITIES)):
                kwargs[key] = value
            elif name in value:
                kwargs[key] = value[name]
        if name == "vision":
            parts["image_processor"] = AutoImageProcessor.from_pretrained(source, **kwargs)
            if image_size is not None:
                resize_to(parts["image_processor"], image_size)
            parts["image_background"] = image_background
            parts["image_channels"] = channels_of(source, **kwargs)
        elif name == "audio":
            parts["feature_extractor"] = AutoFeatureExtractor.from_pretrained(source, **kwargs)
            if max_audio_seconds is not None:
                limit_seconds(parts["feature_extractor"], max_audio_seconds)
        else:
            tokenizer = AutoTokenizer.from_pretrained(source, **kwargs)
            try:
                config = part_of_composite(AutoConfig.from_pretrained(source, **kwargs), name)
            except (OSError, ValueError):  # a tokenizer without an encoder beside it
                if tokenizer.model_max_length > UNKNOWN_LENGTH:
                    raise
            else:
                limit_text(tokenizer, config)
            parts["tokenizer"] = tokenizer
    if image_size is not None and "image_processor" not in parts:
        raise ValueError(f"image_size is {image_size}, but there is no vision encoder.")
    return parts


def channels_of(source: Any, **kwargs: Any) -> int | None:
    """Channels that a vision encoder takes, where its config says so. Of the arguments those that say where it is."""
    place = {key: value for key, value in kwargs.items() if key in (*HUB_KEYS, "trust_remote_code", "code_revision")}
    try:
        config = part_of_composite(AutoConfig.from_pretrained(source, **place), "vision")
    except (OSError, ValueError):  # an image processor alone
        return None
    channels = getattr(config, "num_channels", None)
    return channels if isinstance(channels, int) else None
