# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Projects an encoder's states to tokens of the fusion width.

Notation used for tensor shapes: see `modeling_outputs`.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .modeling_outputs import EncoderStates, TokenStates


def grid_coordinates(height: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """Centres of the cells of a grid, row by row, as (down, right) from 0 to 1, so that levels of different resolution
    line up: `(height * width, 2)` float32."""
    down, right = ((torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size for size in (height, width))
    return torch.cartesian_prod(down, right)


def sincos_positions(coordinates: torch.Tensor, dim: int) -> torch.Tensor:
    """2-D sine-cosine positions of coordinates `(T, 2)` from 0 to 1: `(T, dim)` float32, the last `dim % 4` columns
    zero.

    Frequencies are evenly spaced on a logarithmic scale, from half a period over the whole side to 64, as in NeRF's
    encoding (Mildenhall et al. 2020, equation 4)."""
    count = dim // 4
    exponents = torch.linspace(-1, 6, count, device=coordinates.device)
    angles = coordinates.unsqueeze(-1) * (2 * math.pi * 2**exponents)  # (T, 2, dim / 4)
    positions = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (T, 4 * count)
    return nn.functional.pad(positions, (0, dim - 4 * count))


def fold_factors(level_shapes: list[tuple[int, ...]]) -> list[int]:
    """For each level, how many of its cells, along one side, make one cell of the coarsest level. The shapes are those
    of one item: `(H, h, w)` for a feature map, `(T, H)` for a sequence.

    Raises:
        ValueError: the levels do not line up.
    """
    sequences = [len(shape) == 2 for shape in level_shapes]
    if all(sequences) and len({shape[0] for shape in level_shapes}) == 1:
        return [1] * len(level_shapes)
    coarsest = min(shape[-1] for shape in level_shapes)
    factors = [shape[-1] // coarsest for shape in level_shapes]
    grids = {tuple(size / factor for size in shape[1:]) for shape, factor in zip(level_shapes, factors)}
    if any(sequences) or len(grids) > 1:
        raise ValueError(
            "vision_feature_join 'channels' needs grids that are whole multiples of the coarsest one, or sequences "
            f"of equal length; got the shapes {level_shapes}. Use 'tokens', which takes any shapes."
        )
    return factors


def distinct_rows(index: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The distinct rows of an index `(B, places)`, `(U, places)`, and the number of each row among them, `(B,)`. In an
    exported graph every row counts as distinct, because the number of distinct rows depends on the data."""
    if torch.compiler.is_exporting():
        return index, torch.arange(index.shape[0], device=index.device)
    combinations, rows = index.unique(dim=0, return_inverse=True)
    return combinations, rows


def pool_tokens(
    tokens: torch.Tensor, mask: torch.Tensor | None, pooling: str, places: torch.Tensor | None = None
) -> torch.Tensor:
    """Reads one vector from the tokens of each item.

    Args:
        tokens: `(U, T, D)`.
        mask: `(U, T)` bool, or None.
        pooling: `"cls"` (the first token that is not padding, whichever side is padded), `"last"` or `"mean"`,
            see `MMFusionConfig`.
        places: see `TokenStates`: each place is read separately, and the vector is the mean of those that count.

    Returns:
        `(U, D)`.
    """
    if places is not None:
        apart = tokens.unflatten(1, (places.shape[1], -1)).flatten(0, 1)  # (U * places, T, D)
        mask = None if mask is None else mask.unflatten(1, (places.shape[1], -1)).flatten(0, 1)
        pooled = pool_tokens(apart, mask, pooling).unflatten(0, places.shape)  # (U, places, D)
        weights = places.unsqueeze(-1).to(tokens.dtype)
        return (pooled * weights).sum(1) / weights.sum(1)
    if mask is None:
        ends = {"cls": 0, "last": -1}
        return tokens[:, ends[pooling]] if pooling in ends else tokens.mean(1)
    if pooling in ("cls", "last"):
        places = torch.arange(mask.shape[1], device=mask.device)
        # If several numbers are the largest, argmax gives the first one: the first token that counts, or the last one.
        chosen = mask.long().argmax(-1) if pooling == "cls" else (mask * places).argmax(-1)
        return tokens[torch.arange(tokens.shape[0], device=mask.device), chosen]
    weights = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1)


class ModalityProjection(nn.Module):
    """From an encoder's states to tokens of the fusion width; it can train even if the encoder is frozen.

    It has one linear layer per level and one norm for all (the norm's bias is the modality's embedding), positions if
    the encoder has a grid, and a learned token for an absent item. If a row has several places for items, the tokens
    of all places are joined side by side, each with the learned embedding of its place.

    Args:
        level_shapes: the shapes for one item, as `build_encoder` returns them.
        hidden_size: the fusion width.
        layer_norm_eps: the epsilon of the norm.
        pooling: see `pool_tokens`.
        places: the number of places for items in a row.
        join: see `vision_feature_join` of `MMFusionConfig`.
    """

    tells_parts = True  # whether its tokens represent parts of an item

    def __init__(
        self,
        level_shapes: list[tuple[int, ...]],
        hidden_size: int,
        layer_norm_eps: float,
        pooling: str,
        places: int = 1,
        join: str = "tokens",
    ):
        super().__init__()
        self.pooling = pooling
        self.places = places
        self.join = join
        self.folds = fold_factors(level_shapes) if join == "channels" else [1] * len(level_shapes)
        widths = [shape[0] if len(shape) == 3 else shape[1] for shape in level_shapes]
        self.levels = nn.ModuleList(nn.Linear(width * fold**2, hidden_size) for width, fold in zip(widths, self.folds))
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.absent_token = nn.Parameter(torch.zeros(hidden_size))
        self.place_embeddings = nn.Parameter(torch.zeros(places, hidden_size)) if places > 1 else None

    def init_own_parameters(self, std: float):
        """Initial values of the parameters that belong to no layer."""
        init.normal_(self.absent_token, mean=0.0, std=std)
        if self.place_embeddings is not None:
            init.normal_(self.place_embeddings, mean=0.0, std=std)

    def project(self, states: EncoderStates) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens `(U, T, D)` of all levels, and their coordinates `(T, 2)`; None if a level has no grid."""
        projected, coordinates = [], []
        for level, linear, fold in zip(states.levels or (), self.levels, self.folds):
            level = level.to(self.absent_token.dtype)
            grid = level.shape[2:] if level.ndim == 4 else None
            if grid is not None:
                if any(side % fold for side in grid):
                    raise ValueError(f"A level of {tuple(grid)} cells cannot be folded by {fold}: change image_size.")
                # As pixel_unshuffle does: the cells that become one cell are joined as its channels.
                level = nn.functional.pixel_unshuffle(level, fold) if fold > 1 else level
                grid = level.shape[2:]
                level = level.flatten(2).transpose(1, 2)  # (U, h * w, H)
            projected.append(linear(level))
            coordinates.append(None if grid is None else grid_coordinates(grid[0], grid[1], level.device))
        if self.join == "channels":  # a linear layer on joined channels equals the sum of one layer per level
            projected, coordinates = [torch.stack(projected).sum(0)], coordinates[:1]
        tokens = [self.norm(level) for level in projected]
        tokens = [
            level if places is None else level + sincos_positions(places, level.shape[-1]).to(level.dtype)
            for level, places in zip(tokens, coordinates)
        ]
        known = [places for places in coordinates if places is not None]
        return torch.cat(tokens, dim=1), torch.cat(known) if len(known) == len(coordinates) else None

    def forward(self, states: EncoderStates, index: torch.Tensor | None) -> TokenStates:
        """Projects, and adds the absent token as one more item if rows may be without an item.

        Args:
            states: the encoder's output.
            index: `(B,)` or `(B, places)` int64, -1 for absent; None if row i uses item i; replaces `states.index`.
                Places without a column in it are absent.

        Raises:
            ValueError: the index has more columns than there are places, or states without items have no index.
        """
        index = self.place_index(states, index)
        absent: torch.Tensor = self.absent_token
        if states.levels is None:
            if index is None:
                raise ValueError("States without an item need an index: -1 for each row.")
            if self.training:  # all parameters of the projection must be used in every batch, on every process
                absent = absent + 0 * sum(parameter.sum() for parameter in self.parameters())
            tokens, mask, index = absent[None, None], None, torch.zeros_like(index)
            coordinates = None
        else:
            tokens, coordinates = self.project(states)
            mask = None if states.mask is None else states.mask.bool()
            if index is None:
                tokens = tokens + 0 * absent  # so that it is used in every batch, on every process
            else:
                items, length = tokens.shape[:2]
                first = torch.arange(length, device=tokens.device) == 0
                row = torch.where(first[:, None], absent, torch.zeros_like(absent))  # (T, D)
                tokens = torch.cat([row[None].to(tokens.dtype), tokens])
                if mask is None:
                    mask = torch.ones(items, length, dtype=torch.bool, device=tokens.device)
                mask = torch.cat([first[None], mask])
                index = (index + 1).clamp(min=0)  # the absent token is first: an index too large is then an error
        pooled = pool_tokens(tokens, mask, self.pooling)
        projected = TokenStates(tokens=tokens, mask=mask, index=index, pooled=pooled, coordinates=coordinates)
        return projected if self.place_embeddings is None else self.join_places(projected)

    def token_shapes(self, states: EncoderStates) -> list[tuple[int, ...]]:
        """The arrangement of the tokens of one item, level by level in their order: `(h, w)` for a grid, whose tokens
        go row by row, and `(T,)` for a sequence."""
        shapes = [
            tuple(side // fold for side in level.shape[2:]) if level.ndim == 4 else (level.shape[1],)
            for level, fold in zip(states.levels or (), self.folds)
        ]
        return shapes[:1] if self.join == "channels" else shapes

    def with_tokens(
        self, states: TokenStates, tokens: torch.Tensor, shapes: list[tuple[int, ...]] | None = None
    ) -> TokenStates:
        """The same states with other tokens, and with pooled vectors computed from them. If the tokens are unchanged,
        so are the vectors, bit for bit.

        Args:
            states: the output of this projection, or of `by_row`.
            tokens: in the shape of `states.tokens`.
            shapes: see `token_shapes`; some projections require them.
        """
        return replace(states, tokens=tokens, pooled=pool_tokens(tokens, states.mask, self.pooling, states.places))

    def place_index(self, states: EncoderStates, index: torch.Tensor | None) -> torch.Tensor | None:
        """The index with a column for every place, `(B, places)`; with one place `(B,)`, or None as given."""
        if index is not None and index.shape[1:].numel() > self.places:
            raise ValueError(
                f"An index of shape {tuple(index.shape)} gives each row more items than the {self.places} places of "
                "this model: set `num_images` in the config for pictures, `places` for other modalities."
            )
        if self.places == 1:
            return None if index is None else index.flatten()
        if index is None:
            index = torch.arange(states.count(), device=self.absent_token.device)
        index = index.reshape(index.shape[0], -1)
        return nn.functional.pad(index, (0, self.places - index.shape[1]), value=-1)

    def join_places(self, states: TokenStates) -> TokenStates:
        """Joins the several items of a row into one: each distinct combination of items, once. `states.index` is
        `(B, places)`, and the first item is the absent token. The tokens become `(U, places * T, D)`; the pooled
        vector is the mean of those of the items that are present."""
        combinations, index = distinct_rows(states.index)  # (U, places), (B,)
        embeddings = self.place_embeddings.to(states.tokens.dtype)
        tokens = (states.tokens[combinations] + embeddings[:, None]).flatten(1, 2)  # (U, places * T, D)
        mask = None if states.mask is None else states.mask[combinations].flatten(1)  # (U, places * T)
        present = combinations > 0
        present = present | ~present.any(1, keepdim=True)
        return TokenStates(
            tokens=tokens,
            mask=mask,
            index=index,
            pooled=pool_tokens(tokens, mask, self.pooling, present),
            coordinates=None if states.coordinates is None else states.coordinates.repeat(self.places, 1),
            places=present,
        )
