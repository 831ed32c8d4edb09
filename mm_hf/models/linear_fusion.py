# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The fusion that is a linear model of the encoders' pooled states, with one linear map per place.

A linear model on concatenated features is the sum of one linear map per feature. So nothing has to be as wide as all
features together: each projection maps the output of its encoder to the fusion width, with a separate map for each
place and each level of features. The fusion adds the results up, and the head is linear too. `mm_hf train --fusion
linear` writes the weights that scikit-learn fitted into these maps; gradients can train them as well.

Notation used for tensor shapes: see `modeling_outputs`. `K` places of a row.
"""

import math
from dataclasses import replace

import torch
from torch import nn
from transformers import initialization as init

from .fusion import Fusion, register_fusion
from .modeling_outputs import EncoderStates, TokenStates
from .pooled_fusions import PooledFusion
from .projection import ModalityProjection, distinct_rows


LINEAR = "linear"


def pool_levels(states: EncoderStates) -> list[torch.Tensor]:
    """One vector per item, `(U, H)`, for each level of an encoder: the mean of its tokens without padding, or of the
    cells of its feature map."""
    pooled = []
    for level in states.levels or ():
        if level.ndim == 4:
            pooled.append(level.flatten(2).mean(-1))
        elif states.mask is None:
            pooled.append(level.mean(1))
        else:
            weights = states.mask.unsqueeze(-1).to(level.dtype)
            pooled.append((level * weights).sum(1) / weights.sum(1).clamp(min=1))
    return pooled


class LinearProjection(ModalityProjection):
    """From an encoder's states to tokens of the fusion width with linear maps only: no norm, no positions. It has a
    map for each place and level, and a vector for each place that is absent.

    The vector of an item is the map of the mean of its tokens; `pooling` has no effect.

    Args:
        level_shapes, hidden_size, layer_norm_eps, pooling, places, join: see `ModalityProjection`.
    """

    def __init__(
        self,
        level_shapes: list[tuple[int, ...]],
        hidden_size: int,
        layer_norm_eps: float,
        pooling: str,
        places: int = 1,
        join: str = "tokens",
    ):
        super().__init__(level_shapes, hidden_size, layer_norm_eps, "mean", places)
        del self.norm
        self.place_embeddings = None
        widths = [shape[0] if len(shape) == 3 else shape[1] for shape in level_shapes]
        self.levels = nn.ModuleList(nn.Linear(width, places * hidden_size) for width in widths)
        self.absent_token = nn.Parameter(torch.zeros(places, hidden_size))

    def init_own_parameters(self, std: float):
        """Initial values of the parameters that belong to no layer."""
        init.normal_(self.absent_token, mean=0.0, std=std)

    def project_places(self, states: EncoderStates) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens `(U, T, K, D)` of all levels side by side, and one vector per item `(U, K, D)`, for each place that
        the item may have."""
        absent: torch.Tensor = self.absent_token
        tokens, pooled = [], torch.zeros_like(absent)
        for level, linear in zip(states.levels or (), self.levels):
            level = level.to(absent.dtype)
            level = linear(level.flatten(2).transpose(1, 2) if level.ndim == 4 else level)  # (U, T, K * D)
            tokens.append(level.unflatten(-1, absent.shape))
            # The mean of the outputs of a linear map is the map of the mean.
            (mean,) = pool_levels(EncoderStates(levels=(level,), mask=states.mask))
            pooled = pooled + mean.unflatten(-1, absent.shape)
        return torch.cat(tokens, dim=1), pooled

    def with_tokens(self, states, tokens, shapes=None):
        """See the method of the base class: the change of the token means is added to the pooled vector."""
        if len(self.levels) > 1 and not shapes:
            raise ValueError(f"Features of {len(self.levels)} levels are averaged per level: give their shapes.")
        sizes = [math.prod(shape) for shape in shapes or [(tokens.shape[1] // self.places,)]]
        gain = (tokens - states.tokens).unflatten(1, (self.places, -1))  # (U, K, T, D)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool) if states.mask is None else states.mask
        masks = mask.unflatten(1, (self.places, -1)).to(tokens).unsqueeze(-1)  # (U, K, T, 1)
        for level, weights in zip(gain.split(sizes, 2), masks.split(sizes, 2)):
            pooled = (level * weights).sum(2) / weights.sum(2).clamp(min=1)  # (U, K, D)
            states = replace(states, pooled=states.pooled + pooled.sum(1))
        return replace(states, tokens=tokens)

    def forward(self, states: EncoderStates, index: torch.Tensor | None) -> TokenStates:
        """Projects; see the method of the base class."""
        index = self.place_index(states, index)
        absent: torch.Tensor = self.absent_token
        if states.levels is None:
            if index is None:
                raise ValueError("States without an item need an index: -1 for each row.")
            if self.training:  # all parameters of the projection must be used in every batch, on every process
                absent = absent + 0 * sum(parameter.sum() for parameter in self.parameters())
            tokens, pooled = absent[None, None], absent[None]  # (1, 1, K, D), (1, K, D)
            mask, index = None, torch.zeros_like(index)
        else:
            tokens, pooled = self.project_places(states)
            mask = None if states.mask is None else states.mask.bool()
            if index is None:
                tokens, pooled = tokens + 0 * absent, pooled + 0 * absent
            else:
                items, length = tokens.shape[:2]
                first = torch.arange(length, device=tokens.device) == 0
                row = torch.where(first[:, None, None], absent, torch.zeros_like(absent))  # (T, K, D)
                tokens, pooled = torch.cat([row[None], tokens]), torch.cat([absent[None], pooled])
                if mask is None:
                    mask = torch.ones(items, length, dtype=torch.bool, device=tokens.device)
                mask = torch.cat([first[None], mask])
                index = (index + 1).clamp(min=0)  # the absent token is first: an index too large is then an error
        if self.places == 1:
            return TokenStates(tokens=tokens[:, :, 0], mask=mask, index=index, pooled=pooled[:, 0])
        combinations, index = distinct_rows(index)  # (U, K), (B,)
        each = torch.arange(self.places, device=combinations.device)
        chosen = tokens[combinations, :, each]  # (U, K, T, D)
        present = combinations > 0
        return TokenStates(
            tokens=chosen.flatten(1, 2),
            mask=None if mask is None else mask[combinations].flatten(1),
            index=index,
            pooled=pooled[combinations, each].sum(1),
            places=present | ~present.any(1, keepdim=True),
        )


@register_fusion(LINEAR)
class LinearFusion(PooledFusion):
    """The sum of one linear map of each modality's pooled states. With the linear head after it, it is a linear model.
    It has no layers, whatever the config says, and no norm, because these are not linear."""

    projection_class = LinearProjection

    def __init__(self, config, modalities, poolings):
        Fusion.__init__(self, config, modalities, poolings)
        self.layers = nn.ModuleList()

    def combine(self, vectors):
        return torch.stack(vectors).sum(0)

    def output_norm(self, pooled: torch.Tensor) -> torch.Tensor:
        """None."""
        return pooled


__all__ = ["LINEAR"]
