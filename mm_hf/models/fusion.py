# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The fusions, and the attention blocks they are built from.

A fusion is one class here and one `@register_fusion("name")` line. It takes the tokens of one or more modalities, any
of them absent in any row, and gives `FusedStates`.

Notation used for tensor shapes: see `modeling_outputs`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_mm_fusion import FusionModuleConfig
from .encoders import pool_tokens
from .modeling_outputs import FusedStates, FusionMemory, TokenStates


FUSIONS: dict[str, type["Fusion"]] = {}


def register_fusion(name: str) -> Callable:
    """Puts a fusion into the registry. One that is registered outside of this package does not travel with
    checkpoints.

    Raises:
        ValueError: the name is taken.
    """

    def register(fusion_class):
        if name in FUSIONS:
            raise ValueError(f"A fusion named {name!r} is registered already: {FUSIONS[name].__name__}.")
        FUSIONS[name] = fusion_class
        return fusion_class

    return register


def build_fusion(config: FusionModuleConfig, modalities: list[str], poolings: dict[str, str]) -> "Fusion":
    """Builds the fusion that the config names.

    Raises:
        ValueError: no fusion has this name.
    """
    if config.fusion_type not in FUSIONS:
        raise ValueError(f"Unknown fusion {config.fusion_type!r}: known are {sorted(FUSIONS)}.")
    return FUSIONS[config.fusion_type](config, modalities, poolings)


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention in plain matrix products, the one that gives its weights: `(B, A, T, d)` in, `(B, T, A, d)` out."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class MMFusionAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) whose projections can be called apart, so that what depends on one
    item alone is computed once per item."""

    is_causal = False

    def __init__(self, config: FusionModuleConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, queries, keys, values, attention_mask, **kwargs):
        """Attends with projected `queries` `(B, T, D)` to projected `keys` and `values` `(B, T_memory, D)`.

        Returns:
            `(B, T, D)`, and the weights `(B, A, T, T_memory)` where the implementation gives them.
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
        super().__init__(
            nn.Linear(config.hidden_size, config.intermediate_size),
            ACT2FN[config.hidden_act],
            nn.Linear(config.intermediate_size, config.hidden_size),
        )


class MMFusionCrossAttentionBlock(GradientCheckpointingLayer):
    """Self-attention, cross-attention, feed-forward; each pre-norm and behind a tanh gate that starts at zero
    (Flamingo, Alayrac et al. 2022, section 2.2), so that training starts from the encoders' own features."""

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
                gathered for the rows where the memory comes in.
            first_only: compute the first token's output alone.

        Returns:
            `(B, T, D)` (T = 1 with `first_only`), the weights of self-attention and those of cross-attention.
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


class Fusion(nn.Module):
    """What every fusion is built on.

    Args:
        config: widths, depth, dropout.
        modalities: names of the modalities, in the order of their ids.
        poolings: for each modality how one vector is read from its tokens.
    """

    # Whether what the memory needs is independent of the query, so that `prepare` can compute it once per item.
    supports_memory_cache = False

    def __init__(self, config: FusionModuleConfig, modalities: list[str], poolings: dict[str, str]):
        super().__init__()
        self.config = config
        self.modalities = modalities
        self.poolings = poolings

    def prepare(self, states: dict[str, TokenStates]) -> FusionMemory:
        """Computes what does not depend on the query, once per distinct item.

        Raises:
            NotImplementedError: this fusion's memory depends on the query.
        """
        raise NotImplementedError(
            f"The memory of fusion {self.config.fusion_type!r} depends on the query, so it cannot be prepared; "
            f"those that can: {sorted(name for name, kind in FUSIONS.items() if kind.supports_memory_cache)}."
        )

    def forward(
        self,
        states: dict[str, TokenStates],
        memory: FusionMemory | None = None,
        memory_index: torch.Tensor | None = None,
        return_tokens: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool | int | list[int] = False,
        **kwargs,
    ) -> FusedStates:
        """Fuses.

        Args:
            states: tokens by modality; without those in `memory`, where that is given.
            memory: what `prepare` gave.
            memory_index: `(B,)` int64, the row of the memory that each row of the query uses; None: row i uses row i.
            return_tokens: give tokens too, not the pooled vector alone.
            output_attentions: give the weights (eager attention alone has them).
            output_hidden_states: give the query's tokens after each block; indices select some, None stands for the
                rest.
        """
        raise NotImplementedError

    def join_tokens(self, states: dict[str, TokenStates]) -> dict[str, Any]:
        """Joins the tokens that each row has of all modalities into one sequence, with the id of each token's
        modality."""
        ids = {name: self.modalities.index(name) for name in states}
        return {
            "tokens": torch.cat([state.rows(state.tokens) for state in states.values()], dim=1),
            "mask": torch.cat([state.row_mask() for state in states.values()], dim=1),
            "modality_ids": torch.cat(
                [
                    torch.full((state.tokens.shape[1],), ids[name], device=state.tokens.device)
                    for name, state in states.items()
                ]
            ),
        }


@register_fusion("concat")
class ConcatFusion(Fusion):
    """Late baseline: one pooled vector a modality, concatenated, then `num_hidden_layers` residual feed-forward
    blocks."""

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings)
        self.readout = Readout(config, len(modalities))
        self.norms = nn.ModuleList(
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in range(config.num_hidden_layers)
        )
        self.layers = nn.ModuleList(MMFusionMLP(config) for _ in range(config.num_hidden_layers))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        states,
        memory=None,
        memory_index=None,
        return_tokens=True,
        output_attentions=False,
        output_hidden_states=False,
        **kwargs,
    ):
        if memory is not None:
            self.prepare(states)  # says that this fusion has no memory
        pooled = self.readout([states[name].rows(states[name].pooled) for name in self.modalities])
        for norm, layer in zip(self.norms, self.layers):
            pooled = pooled + self.dropout(layer(norm(pooled)))
        return FusedStates(pooled=pooled, **(self.join_tokens(states) if return_tokens else {}))


@register_fusion("cross_attention")
class CrossAttentionFusion(Fusion):
    """The tokens of the query modality attend to those of all others (ALBEF, Li et al. 2021; BLIP's text encoder).

    What differs: gates (see the block), a memory that stays as the encoders made it, so that its keys and values are
    computed once per distinct item whatever asks, and a readout that starts out as concat: the query's vector, each
    memory's, their products (as MCB and its kin fuse, Fukui et al. 2016), and the attended vector.
    """

    supports_memory_cache = True

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings)
        self.query_modality = config.query_modality
        self.memory_modalities = [name for name in modalities if name != self.query_modality]
        self.layers = nn.ModuleList(
            MMFusionCrossAttentionBlock(config, has_memory=bool(self.memory_modalities))
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.readout = Readout(config, 2 + 2 * len(self.memory_modalities))

    def prepare(self, states):
        states = {name: states[name] for name in self.memory_modalities}
        attentions: list[Any] = [layer.cross_attn for layer in self.layers]
        return FusionMemory(
            states=states,
            key_states={name: tuple(a.k_proj(state.tokens) for a in attentions) for name, state in states.items()},
            value_states={name: tuple(a.v_proj(state.tokens) for a in attentions) for name, state in states.items()},
        )

    def forward(
        self,
        states,
        memory=None,
        memory_index=None,
        return_tokens=True,
        output_attentions=False,
        output_hidden_states=False,
        **kwargs,
    ):
        query = states[self.query_modality]
        memory = self.prepare(states) if memory is None else memory
        memories = {name: select_rows(state, memory_index) for name, state in memory.states.items()}
        record = bool(output_attentions or output_hidden_states)
        pooling = self.poolings[self.query_modality]

        # The first block's share of the query alone is computed once per distinct item, unless its states are to be
        # seen.
        index = None if record else query.index
        row_mask = query.rows(query.mask)
        mask = row_mask if index is None else query.mask
        hidden_states = query.tokens if record is False else query.rows(query.tokens)
        memory_mask = None
        if any(state.mask is not None for state in memories.values()):
            memory_mask = join_rows([state.row_mask() for state in memories.values()])
        # Where the pooled vector is all that is wanted, and it is the first token's, the last block computes that
        # alone.
        shorten = not (return_tokens or record) and pooling == "cls"

        recorded: dict[str, list] = {"hidden_states": [hidden_states], "attentions": [], "cross_attentions": []}
        for number, layer in enumerate(self.layers):
            first_only = shorten and number == len(self.layers) - 1
            asking = hidden_states[:, :1] if first_only else hidden_states
            keys = values = cross_mask = None
            if memories:
                keys = join_rows([state.rows(memory.key_states[name][number]) for name, state in memories.items()])
                values = join_rows([state.rows(memory.value_states[name][number]) for name, state in memories.items()])
                cross_mask = self.attention_mask(asking, memory_mask, keys)
            hidden_states, self_weights, cross_weights = layer(
                hidden_states,
                keys,
                values,
                self_mask=self.attention_mask(asking, mask, hidden_states),
                cross_mask=cross_mask,
                index=index,
                first_only=first_only,
                **kwargs,
            )
            index, mask = None, row_mask
            recorded["hidden_states"].append(hidden_states)
            recorded["attentions"].append(self_weights)
            recorded["cross_attentions"].append(cross_weights)
        if index is not None:  # a fusion without blocks
            hidden_states = hidden_states.index_select(0, index)

        tokens = self.norm(hidden_states)
        attended = tokens[:, 0] if shorten else pool_tokens(tokens, row_mask, pooling)
        asked = query.rows(query.pooled)
        answers = [state.rows(state.pooled) for state in memories.values()]
        joined = {}
        if return_tokens:
            joined = self.join_tokens({self.query_modality: TokenStates(tokens=tokens, mask=row_mask), **memories})
        return FusedStates(
            pooled=self.readout([asked, *answers, *(asked * answer for answer in answers), attended]),
            hidden_states=select_layers(recorded["hidden_states"], output_hidden_states)
            if output_hidden_states
            else None,
            attentions=tuple(recorded["attentions"]) if output_attentions else None,
            cross_attentions=tuple(recorded["cross_attentions"]) if output_attentions and memories else None,
            **joined,
        )

    def attention_mask(self, queries, key_mask, keys):
        """The mask in the form that the chosen attention takes, for queries `(B, T, …)` and keys `(B, T_memory,
        …)`."""
        if key_mask is None:
            return None
        return create_bidirectional_mask(
            config=self.config, inputs_embeds=queries, attention_mask=key_mask, encoder_hidden_states=keys
        )


def join_rows(parts: list[torch.Tensor]) -> torch.Tensor:
    """Joins `(B, T, …)` of several modalities along the tokens; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def select_rows(state: TokenStates, memory_index: torch.Tensor | None) -> TokenStates:
    """The same items, their rows chosen by `memory_index`, `(B,)`."""
    if memory_index is None:
        return state
    index = memory_index if state.index is None else state.index.index_select(0, memory_index)
    return TokenStates(tokens=state.tokens, mask=state.mask, index=index, pooled=state.pooled)


def select_layers(hidden_states: list[torch.Tensor], selection: bool | int | list[int]) -> tuple:
    """All hidden states for True; with indices those alone, and None in the place of the rest (the library's rule)."""
    if selection is True:
        return tuple(hidden_states)
    chosen = [selection] if isinstance(selection, int) else selection
    kept = {layer % len(hidden_states) for layer in chosen}
    return tuple(states if number in kept else None for number, states in enumerate(hidden_states))


class Readout(nn.Sequential):
    """Concatenates vectors `(B, D)` and maps them to one."""

    def __init__(self, config: FusionModuleConfig, parts: int):
        super().__init__(
            nn.Linear(parts * config.hidden_size, config.hidden_size),
            ACT2FN[config.hidden_act],
        )

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        return super().forward(torch.cat(parts, dim=-1))
