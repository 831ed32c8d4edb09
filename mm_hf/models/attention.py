# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The blocks that fusions are built from.

Notation used for tensor shapes: see `modeling_outputs`.
"""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_mm_fusion import FusionModuleConfig


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention in plain matrix products, which also returns the weights: `(B, A, T, d)` in, `(B, T, A, d)` out."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class MMFusionAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017). Its projections can be called separately, so that everything that
    depends on one item only is computed once per item."""

    is_causal = False

    def __init__(self, config: FusionModuleConfig):
        super().__init__()
        self.config = config
        sizes = config.sizes()
        self.head_dim = sizes.width // sizes.heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(sizes.width, sizes.width)
        self.k_proj = nn.Linear(sizes.width, sizes.width)
        self.v_proj = nn.Linear(sizes.width, sizes.width)
        self.o_proj = nn.Linear(sizes.width, sizes.width)

    def forward(self, queries, keys, values, attention_mask, **kwargs):
        """Attends with projected `queries` `(B, T, D)` to projected `keys` and `values` `(B, T_memory, D)`.

        Returns:
            `(B, T, D)`, and the weights `(B, A, T, T_memory)` if the implementation returns them.
        """
        queries, keys, values = (
            states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for states in (queries, keys, values)
        )  # (B, A, T, d)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        attended, weights = attend(
            self, queries, keys, values, attention_mask, scaling=self.scaling, dropout=dropout, **kwargs
        )
        return self.o_proj(attended.flatten(2)), weights


class MMFusionSelfAttention(MMFusionAttention):
    """Attention of one sequence to itself."""


class MMFusionCrossAttention(MMFusionAttention):
    """Attention of the query's tokens to the memory."""


class MMFusionMLP(nn.Sequential):
    """The feed-forward part of a block."""

    def __init__(self, config: FusionModuleConfig):
        sizes = config.sizes()
        super().__init__(
            nn.Linear(sizes.width, sizes.inner_width),
            ACT2FN[config.hidden_act],
            nn.Linear(sizes.inner_width, sizes.width),
        )


class MMFusionMLPBlock(nn.Module):
    """A feed-forward block: pre-norm, residual."""

    def __init__(self, config: FusionModuleConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MMFusionMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(…, D)` in and out."""
        return hidden_states + self.dropout(self.mlp(self.norm(hidden_states)))


class DistanceBias(nn.Module):
    """Lets attention heads prefer near or far tokens: adds slope times distance to the scores of self-attention among
    the tokens of a picture.

    ALiBi (Press et al. 2022, section 3) uses the distance along a text; here it is the distance in the plane. Half of
    the heads prefer near tokens, as in ALiBi, and the other half far ones: their slopes have the other sign. As in
    ALiBi, the slopes are a fixed geometric sequence: 32, 8, 2… per side of the picture.
    """

    def __init__(self, config: FusionModuleConfig):
        super().__init__()
        self.slopes = [(-1) ** (head + 1) * 32 * 4.0 ** -(head // 2) for head in range(config.sizes().heads)]

    def forward(self, coordinates: torch.Tensor, mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        """The mask to add to the scores, `(U, A, T, T)` (without a mask, U is 1), in their dtype. Computed from
        coordinates `(T, 2)`, see `TokenStates`, and a mask `(U, T)` bool or None."""
        distances = torch.cdist(coordinates, coordinates)
        bias = distances * distances.new_tensor(self.slopes)[:, None, None]  # (A, T, T)
        bias = bias.to(dtype)[None]
        if mask is not None:
            bias = bias.masked_fill(~mask[:, None, None, :], torch.finfo(dtype).min)
        return bias


class MMFusionCrossAttentionBlock(GradientCheckpointingLayer):
    """Self-attention, cross-attention and feed-forward. Each has a pre-norm and a tanh gate that starts at zero
    (Flamingo, Alayrac et al. 2022, section 2.2), so training starts from the features of the encoders."""

    def __init__(self, config: FusionModuleConfig, has_memory: bool):
        super().__init__()
        self.self_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = MMFusionSelfAttention(config)
        self.cross_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if has_memory else None
        self.cross_attn = MMFusionCrossAttention(config) if has_memory else None
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MMFusionMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.gates = nn.Parameter(torch.zeros(3))

    def init_own_parameters(self, std: float):
        """Sets the gates to zero."""
        init.zeros_(self.gates)

    def forward(
        self,
        hidden_states: torch.Tensor,
        keys: torch.Tensor | None,
        values: torch.Tensor | None,
        self_mask=None,
        cross_mask=None,
        index: torch.Tensor | None = None,
        first_only: bool = False,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Runs the block.

        Args:
            hidden_states: `(B, T, D)`, or `(U, T, D)` with `index`.
            keys, values: `(B, T_memory, D)`; None without memory.
            self_mask, cross_mask: as `create_bidirectional_mask` gives them.
            index: `(B,)` the item of each row: self-attention and the queries are then computed once per item, and
                gathered for the rows before they attend to the memory.
            first_only: compute only the output of the first token.

        Returns:
            `(B, T, D)` (T = 1 with `first_only`), the weights of self-attention and the weights of cross-attention.
        """
        gates = self.gates.tanh()
        normed = self.self_norm(hidden_states)
        keys_self, values_self = self.self_attn.k_proj(normed), self.self_attn.v_proj(normed)
        if first_only:
            hidden_states, normed = hidden_states[:, :1], normed[:, :1]
        attended, self_weights = self.self_attn(
            self.self_attn.q_proj(normed), keys_self, values_self, self_mask, **kwargs
        )
        hidden_states = hidden_states + gates[0] * self.dropout(attended)
        cross_weights = None
        if self.cross_attn is not None:
            queries = self.cross_attn.q_proj(self.cross_norm(hidden_states))
            if index is not None:
                hidden_states, queries = hidden_states.index_select(0, index), queries.index_select(0, index)
            attended, cross_weights = self.cross_attn(queries, keys, values, cross_mask, **kwargs)
            hidden_states = hidden_states + gates[1] * self.dropout(attended)
        elif index is not None:
            hidden_states = hidden_states.index_select(0, index)
        hidden_states = hidden_states + gates[2] * self.dropout(self.mlp(self.mlp_norm(hidden_states)))
        return hidden_states, self_weights, cross_weights


def attention_mask(
    config: FusionModuleConfig, queries: torch.Tensor, key_mask: torch.Tensor | None, keys: torch.Tensor
) -> Any:
    """The mask in the form that the chosen attention needs, for queries `(B, T, …)` and keys `(B, T_memory, …)`."""
    if key_mask is None:
        return None
    return create_bidirectional_mask(
        config=config, inputs_embeds=queries, attention_mask=key_mask, encoder_hidden_states=keys
    )
