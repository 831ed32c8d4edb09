# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Which modality asks in a new model, where nobody says so."""

from typing import Any, cast

from .configuration_mm_fusion import MMFusionConfig
from .dry_run import dry_run
from .modality import modality_of
from .text import Text


def modality_that_asks(config: MMFusionConfig) -> str:
    """The modality whose tokens ask in a model that is built anew: the text where there is one, else the one with the
    fewest tokens in a row. The tokens that ask go through all blocks, those that answer are only looked at: a table of
    four columns asks the 49 tokens of a picture at a tenth of what the picture costs that asks the table.

    Args:
        config: of the whole model. Pictures count at the size that their encoder's config names.

    Returns:
        its name. Items of any length (waves, time series) do not count; where there are no others, the first modality.
    """
    if Text.name in config.modalities:
        return Text.name
    tokens = {name: tokens_of(config, name) for name in config.modalities}
    known = {name: count for name, count in tokens.items() if count is not None}
    return min(known, key=lambda name: known[name]) if known else config.modalities[0]


def tokens_of(config: MMFusionConfig, name: str) -> int | None:
    """The tokens that a full row has of a modality; None where its items may have any length."""
    part: Any = config.encoder_config(name)
    if not modality_of(name).has_one_size(part):
        return None
    layers = config.feature_layers[name]
    shapes = dry_run(
        cast(Any, type(part)), part.to_json_string(use_diff=False), name, None if layers is None else tuple(layers)
    )
    counts = [shape[0] if len(shape) == 2 else shape[1] * shape[2] for shape in shapes.shapes]  # (T, H) or (H, h, w)
    a_item = min(counts) if config.vision_feature_join == "channels" else sum(counts)
    return a_item * config.places_of(name)
