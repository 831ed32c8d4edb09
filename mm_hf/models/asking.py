# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Chooses the query modality of a new model, if the user does not."""

from typing import Any, cast

from .configuration_mm_fusion import MMFusionConfig
from .dry_run import dry_run
from .modality import modality_of
from .text import Text


def modality_that_asks(config: MMFusionConfig) -> str:
    """The query modality of a new model: text if there is one, else the modality with the fewest tokens per row.
    The query's tokens go through all blocks; the other tokens are only attended to. So a table of four columns as the
    query, with the 49 tokens of a picture as memory, costs a tenth of the other way round.

    Args:
        config: of the whole model. Pictures are counted at the size in their encoder's config.

    Returns:
        its name. Modalities with items of any length (waves, time series) are not counted; if there are no others, the
        first modality.
    """
    if Text.name in config.modalities:
        return Text.name
    tokens = {name: tokens_of(config, name) for name in config.modalities}
    known = {name: count for name, count in tokens.items() if count is not None}
    return min(known, key=lambda name: known[name]) if known else config.modalities[0]


def tokens_of(config: MMFusionConfig, name: str) -> int | None:
    """The tokens of a modality in a full row; None if its items may have any length."""
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
