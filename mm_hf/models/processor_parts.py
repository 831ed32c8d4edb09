# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The parts of a processor that come from the encoders' own folders."""

import os
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

from .configuration_mm_fusion import PRETRAINED_MODALITIES, check_source, part_of_composite
from .modality import MODALITIES, modality_of
from .names import nearest
from .series import SeriesScaler
from .table_schema import TableSchema
from .text import Text
from .vision import Vision


def parts_of_encoders(
    encoders: dict[str, Any], settings: Mapping[str, Any], learned: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a processor that fits some encoders; see `MMFusionProcessor.from_encoders_pretrained`.

    Args:
        encoders: the Hub id or folder of each by modality, and what goes to the loading of each part; it is changed.
        settings: how its parts are made, by its arguments.
        learned: its parts that come from no encoder, by its arguments.
    """
    # Without a text encoder, what is written needs the decoder's tokenizer.
    decoder = encoders.pop("decoder", None)
    sources = {name: encoders.pop(name, None) for name in PRETRAINED_MODALITIES}
    for name, source in {**sources, "decoder": decoder}.items():
        if source is not None:
            check_source(name, source)
    sources[Text.name] = sources[Text.name] or decoder
    sources = {name: source for name, source in sources.items() if source is not None}
    parts: dict[str, Any] = dict(learned)
    if not sources and not any(part is not None for part in learned.values()):
        raise ValueError(
            f"from_encoders_pretrained needs an encoder for at least one of {list(PRETRAINED_MODALITIES)}, or one "
            f"of {list(learned)}."
        )
    words = {word: name for name, modality in MODALITIES.items() for word in modality.meant}
    for key, value in encoders.items():
        known = [*PRETRAINED_MODALITIES, "decoder", *learned, *settings]
        meant = words.get(key) or nearest(key, known, cutoff=0.8)
        if meant is not None and isinstance(value, (str, os.PathLike, TableSchema, SeriesScaler)):
            raise ValueError(f"from_encoders_pretrained has no {key!r}; it has {known}. Did you mean {meant!r}?")
    for name, source in sources.items():
        kwargs = {}
        for key, value in encoders.items():
            if not (isinstance(value, dict) and set(value) <= set(PRETRAINED_MODALITIES)):
                kwargs[key] = value
            elif name in value:
                kwargs[key] = value[name]

        def read_config(source=source, name=name, **where: Any):
            return part_of_composite(AutoConfig.from_pretrained(source, **where), name)

        parts |= modality_of(name).parts_of_encoder(source, settings, read_config, **kwargs)
    if settings["image_size"] is not None and Vision.part not in parts:
        raise ValueError(f"image_size is {settings['image_size']}, but there is no {Vision.name} encoder.")
    return parts


__all__ = ["parts_of_encoders"]
