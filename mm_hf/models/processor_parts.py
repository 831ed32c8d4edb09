# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The parts of a processor: loading them, and checking them."""

import os
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

from .configuration_mm_fusion import check_source, part_of_composite
from .modality import MODALITIES, Modality, modality_of
from .names import did_you_mean, nearest
from .raw_rows import distinct_items, spread
from .series import SeriesScaler
from .table_schema import TableSchema
from .text import Text
from .vision import Vision


def parts_of_encoders(
    encoders: dict[str, Any], settings: Mapping[str, Any], learned: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a processor that fits some encoders. The encoders are taken out of the given arguments; the
    rest are for loading each part; see `MMFusionProcessor.from_encoders_pretrained`. `settings`: options for the
    parts.
    `learned`: parts that do not come from an encoder."""
    # Without a text encoder, generated texts need the decoder's tokenizer.
    decoder = encoders.pop("decoder", None)
    pretrained = [name for name, modality in MODALITIES.items() if modality.pretrained]
    sources = {name: encoders.pop(name, None) for name in pretrained}
    for name, source in {**sources, "decoder": decoder}.items():
        if source is not None:
            check_source(name, source)
    sources[Text.name] = sources[Text.name] or decoder
    sources = {name: source for name, source in sources.items() if source is not None}
    parts: dict[str, Any] = dict(learned)
    if not sources and not any(part is not None for part in learned.values()):
        raise ValueError(
            f"from_encoders_pretrained needs an encoder for at least one of {pretrained}, or one of {list(learned)}."
        )
    words = {word: name for name, modality in MODALITIES.items() for word in modality.meant}
    for key, value in encoders.items():
        known = [*pretrained, "decoder", *learned, *settings]
        meant = words.get(key) or nearest(key, known, cutoff=0.8)
        if meant is not None and isinstance(value, (str, os.PathLike, TableSchema, SeriesScaler)):
            raise ValueError(f"from_encoders_pretrained has no {key!r}; it has {known}. Did you mean {meant!r}?")
    for name, source in sources.items():
        kwargs = {}
        for key, value in encoders.items():
            if not (isinstance(value, dict) and set(value) <= set(pretrained)):
                kwargs[key] = value
            elif name in value:
                kwargs[key] = value[name]

        def read_config(source=source, name=name, **where: Any):
            return part_of_composite(AutoConfig.from_pretrained(source, **where), name)

        parts |= modality_of(name).parts_of_encoder(source, settings, read_config, **kwargs)
    if settings["image_size"] is not None and Vision.part not in parts:
        raise ValueError(
            f"image_size is {settings['image_size']}, but there is no {Vision.name} encoder: leave image_size out."
        )
    return parts


def learned_modalities() -> list[Modality]:
    """The modalities of the package whose part is learned from training rows, not loaded from an encoder's folder."""
    return [modality for modality in MODALITIES.values() if not modality.extra and not modality.pretrained]


def read_extra_parts(parts: Any) -> dict[str, Any]:
    """Reads `extra_parts` of `MMFusionProcessor`. Refuses a modality that is not registered or is one of the package;
    a value that is not a part; and a dict for a modality without a class for its part."""
    if parts is not None and not isinstance(parts, Mapping):
        raise ValueError(f"extra_parts must be a dict by modality, got {parts!r:.80}.")
    checked = {}
    for name, values in (parts or {}).items():
        modality = modality_of(name)
        if not modality.extra:
            raise ValueError(f"extra_parts is for modalities from outside the package; {name!r} has {modality.part}.")
        checked[name] = part = modality.read_part(values)
        if part is None:
            continue
        if modality.part_class is None:
            raise ValueError(f"{type(modality).__name__} has no part_class, so {part!r:.80} cannot be loaded: set it.")
        needed = ("__call__", "model_input_names", "to_dict", "from_dict")
        if lacking := [attribute for attribute in needed if not hasattr(part, attribute)]:
            raise ValueError(
                f"extra_parts[{name!r}] must be None or a part with {needed}; {part!r:.80} has no {lacking}."
            )
    return checked


def checked_items(
    modality: Modality, entries: list, deduplicate: bool, processor: Any, settings: Mapping[str, Any]
) -> tuple[list, list]:
    """The distinct items of rows (see `list_rows` of `Modality`), each checked once.

    Returns:
        the items, as `check` returns them, and for each row the number of its item, or one number per place if rows
        have several; -1 for none.

    Raises:
        ValueError: an item is bad; the message names its row.
    """
    values, places = spread(entries)
    raw, index = distinct_items(values, deduplicate)
    items: list = []
    numbers = {-1: -1}  # the place in `items`; -1 for empty items
    for position, number in enumerate(index):
        if number not in numbers:
            try:
                empty = modality.is_empty(raw[number])
                item = None if empty else modality.check(raw[number], processor, settings)
            except ValueError as error:
                raise ValueError(f"Row {position // (places or 1)}: {error}") from None
            numbers[number] = -1 if item is None else len(items)
            items += [] if item is None else [item]
    index = [numbers[number] for number in index]
    if not places:
        return items, index
    return items, [index[start : start + places] for start in range(0, len(index), places)]


def check_argument_names(given: Mapping[str, Any], known: Mapping[str, set[str]]):
    """Refuses arguments of a processor's call that no part has; `known` is `MMFusionProcessor.arguments`."""
    row_arguments = [modality.argument for modality in MODALITIES.values()] + ["deduplicate"]
    flat = {*known, "common_kwargs", *set().union(*known.values()), *row_arguments}
    for name, value in given.items():
        if name not in flat:
            raise ValueError(
                f"The processor has no argument {name!r}; it has {row_arguments}, the arguments of its parts, "
                f"and {list(known)}.{did_you_mean(name, flat)}"
            )
        if known.get(name) and isinstance(value, Mapping):
            for key in value:
                if key not in known[name]:
                    raise ValueError(
                        f"{name} has no {key!r}; it has {sorted(known[name])}.{did_you_mean(key, known[name])}"
                    )
