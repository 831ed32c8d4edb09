# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Fusions of tokens, by attention.

Notation used for tensor shapes: see `modeling_outputs`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .attention import DistanceBias, MMFusionCrossAttentionBlock, attention_mask
from .fusion import Fusion, Readout, register_fusion
from .modeling_outputs import AttentionStep, FusedStates, FusionMemory, TokenStates
from .projection import pool_tokens


class TokenFusion(Fusion):
    """Their base class: it sets the query modality, and has a readout. At the start the readout equals concat, because
    the gates of the blocks are closed.

    The readout takes the vector of each modality from its encoder, the products of the query's vector with all others
    (as MCB and similar methods, Fukui et al. 2016), and the vectors after the blocks.

    Args:
        fused_parts: how many vectors the blocks give to the readout.
    """

    def __init__(self, config, modalities, poolings, fused_parts: int):
        super().__init__(config, modalities, poolings)
        self.query_modality = config.query_modality
        self.memory_modalities = [name for name in modalities if name != self.query_modality]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.readout = Readout(config, 1 + 2 * len(self.memory_modalities) + fused_parts)
        self.output_norm = self.make_output_norm()

    def read(self, states: dict[str, TokenStates], fused: list[torch.Tensor]) -> torch.Tensor:
        """One vector `(B, D)` per row, from the states before the blocks and the vectors after them, `(B, D)` each."""
        pooled = {name: state.rows(state.pooled) for name, state in states.items()}
        asked = pooled[self.query_modality]
        answers = [pooled[name] for name in self.memory_modalities]
        return self.output_norm(self.readout([asked, *answers, *(asked * answer for answer in answers), *fused]))

    def exchange(
        self, states: dict[str, TokenStates], recorder: "Recorder", **kwargs
    ) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        """Runs the blocks of a fusion that updates the tokens of every modality; the recorder keeps the requested
        values of every block. Returns by modality `(B, T, D)`, and further vectors for the readout, `(B, D)` each."""
        raise NotImplementedError

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
            self.prepare(states)  # raises, because this fusion has no memory
        recorder = Recorder(output_attentions, output_hidden_states)
        streams, latents = self.exchange(states, recorder, **kwargs)
        fused = {
            name: TokenStates(
                tokens=self.norm(streams[name]),
                mask=states[name].row_mask(),
                places=states[name].rows(states[name].places),
            )
            for name in self.modalities
        }
        pooled = [
            pool_tokens(state.tokens, state.mask, self.poolings[name], state.places) for name, state in fused.items()
        ]
        return FusedStates(
            pooled=self.read(states, [*pooled, *latents]),
            **recorder.outputs(),
            **(self.join_tokens(fused) if return_tokens else {}),
        )


class Recorder:
    """Keeps the requested values of every block, and nothing else; see `Fusion.forward`."""

    def __init__(self, output_attentions: bool, output_hidden_states: bool | int | list[int]):
        self.output_attentions, self.output_hidden_states = output_attentions, output_hidden_states
        self.hidden_states: list[torch.Tensor] = []
        self.attentions: list[torch.Tensor | None] = []
        self.cross_attentions: list[torch.Tensor | None] = []
        self.steps: list[AttentionStep] = []

    @property
    def active(self) -> bool:
        """Whether anything is requested. (A request for index 0 counts too.)"""
        return self.output_attentions or self.output_hidden_states is not False

    def add(self, hidden_states, attention=None, cross_attention=None):
        """Keeps the values of one block: the query's tokens, its self-attention and its cross-attention."""
        if self.active:
            self.hidden_states.append(hidden_states)
            self.attentions.append(attention)
            self.cross_attentions.append(cross_attention)

    def step(self, layer: int, asking: Sequence[str], asked: Sequence[str], weights: torch.Tensor | None):
        """Keeps the weights of one attention, see `AttentionStep`, if its implementation returns them."""
        if self.output_attentions and weights is not None:
            self.steps.append(AttentionStep(layer, tuple(asking), tuple(asked), weights))

    def outputs(self) -> dict[str, Any]:
        """The kept values, as arguments of `FusedStates`."""
        given: dict[str, Any] = {}
        if self.output_hidden_states is not False:
            given["hidden_states"] = select_layers(self.hidden_states, self.output_hidden_states)
        if self.output_attentions:
            given["attentions"] = tuple(self.attentions[1:])
            given["attention_steps"] = tuple(self.steps)
            if all(weights is not None for weights in self.cross_attentions[1:]):
                given["cross_attentions"] = tuple(self.cross_attentions[1:])
        return given


@register_fusion("cross_attention")
class CrossAttentionFusion(TokenFusion):
    """The tokens of the query modality attend to the tokens of all others (ALBEF, Li et al. 2021; BLIP's text
    encoder).

    The differences: gates (see the block); a memory that does not depend on the query, so that its keys and values are
    computed once per distinct item for any number of queries; and a readout that starts as concat (see `TokenFusion`).
    """

    supports_memory_cache = True

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings, fused_parts=1)
        self.layers = nn.ModuleList(
            MMFusionCrossAttentionBlock(config, has_memory=bool(self.memory_modalities))
            for _ in range(config.num_hidden_layers)
        )
        self.memory_layers = nn.ModuleDict()
        self.memory_norms = nn.ModuleDict()
        for name in self.memory_modalities if config.memory_layers else []:
            self.memory_layers[name] = nn.ModuleList(
                MMFusionCrossAttentionBlock(config, has_memory=False) for _ in range(config.memory_layers)
            )
            self.memory_norms[name] = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.distance_bias = DistanceBias(config) if config.distance_bias else None

    def token_order(self):
        return [self.query_modality, *self.memory_modalities]

    def prepare(self, states, recorder=None):
        states = {name: self.refine(name, states[name], recorder) for name in self.memory_modalities}
        attentions: list[Any] = [layer.cross_attn for layer in self.layers]
        return FusionMemory(
            states=states,
            key_states={name: tuple(a.k_proj(state.tokens) for a in attentions) for name, state in states.items()},
            value_states={name: tuple(a.v_proj(state.tokens) for a in attentions) for name, state in states.items()},
        )

    def refine(self, name: str, state: TokenStates, recorder: "Recorder | None" = None) -> TokenStates:
        """Lets the tokens of each item attend to one another, in `memory_layers` blocks."""
        if name not in self.memory_layers:
            return state
        tokens = state.tokens
        if self.distance_bias is not None and state.coordinates is not None:
            if self.config._attn_implementation not in ("eager", "sdpa"):
                raise ValueError(
                    "distance_bias needs attn_implementation 'eager' or 'sdpa', which take a mask of floats; got "
                    f"{self.config._attn_implementation!r}."
                )
            mask = self.distance_bias(state.coordinates, state.mask, tokens.dtype)
        else:
            mask = attention_mask(self.config, tokens, state.mask, tokens)
        blocks: Any = self.memory_layers[name]
        for number, block in enumerate(blocks):
            tokens, weights, _ = block(tokens, None, None, self_mask=mask)
            if recorder is not None and weights is not None:
                recorder.step(number - len(blocks), [name], [name], state.rows(weights))
        tokens = self.memory_norms[name](tokens)
        pooled = pool_tokens(tokens, state.mask, self.poolings[name], state.places)
        return replace(state, tokens=tokens, pooled=pooled)

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
        recorder = Recorder(output_attentions, output_hidden_states)
        memory = self.prepare(states, recorder) if memory is None else memory
        memories = {name: select_rows(state, memory_index) for name, state in memory.states.items()}
        pooling = self.poolings[self.query_modality]

        # The part of the first block that depends only on the query is computed once per distinct item, unless its
        # states are requested.
        index = None if recorder.active else query.index
        row_mask = query.rows(query.mask)
        mask = row_mask if index is None else query.mask
        hidden_states = query.rows(query.tokens) if recorder.active else query.tokens
        memory_mask = None
        if any(state.mask is not None for state in memories.values()):
            memory_mask = join_rows([state.row_mask() for state in memories.values()])
        # If only the pooled vector is requested, and it is the first token's, the last block computes only that
        # token.
        shorten = not (return_tokens or recorder.active) and pooling == "cls" and query.places is None

        recorder.add(hidden_states)
        for number, layer in enumerate(self.layers):
            first_only = shorten and number == len(self.layers) - 1
            asking = hidden_states[:, :1] if first_only else hidden_states
            keys = values = cross_mask = None
            if memories:
                keys = join_rows([state.rows(memory.key_states[name][number]) for name, state in memories.items()])
                values = join_rows([state.rows(memory.value_states[name][number]) for name, state in memories.items()])
                cross_mask = attention_mask(self.config, asking, memory_mask, keys)
            hidden_states, self_weights, cross_weights = layer(
                hidden_states,
                keys,
                values,
                self_mask=attention_mask(self.config, asking, mask, hidden_states),
                cross_mask=cross_mask,
                index=index,
                first_only=first_only,
                **kwargs,
            )
            index, mask = None, row_mask
            recorder.add(hidden_states, self_weights, cross_weights)
            recorder.step(number, [self.query_modality], [self.query_modality], self_weights)
            recorder.step(number, [self.query_modality], list(memories), cross_weights)
        if index is not None:  # a fusion without blocks
            hidden_states = hidden_states.index_select(0, index)

        tokens = self.norm(hidden_states)
        places = query.rows(query.places)
        attended = tokens[:, 0] if shorten else pool_tokens(tokens, row_mask, pooling, places)
        joined = {}
        if return_tokens:
            joined = self.join_tokens({self.query_modality: TokenStates(tokens=tokens, mask=row_mask), **memories})
        return FusedStates(
            pooled=self.read({self.query_modality: query, **memories}, [attended]), **recorder.outputs(), **joined
        )


class CoAttentionLayer(nn.Module):
    """One block per modality; each attends to the tokens of all others from the layer below."""

    def __init__(self, config, modalities: list[str]):
        super().__init__()
        several = len(modalities) > 1
        self.blocks = nn.ModuleDict(
            {name: MMFusionCrossAttentionBlock(config, has_memory=several) for name in modalities}
        )
        self.memory_norms = nn.ModuleDict(
            {name: nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for name in modalities if several}
        )


@register_fusion("co_attention")
class CoAttentionFusion(TokenFusion):
    """Each modality's tokens attend to themselves and to the tokens of all others, in separate blocks per modality
    (METER, Dou et al. 2022, figure 2a; ViLBERT, Lu et al. 2019).

    `hidden_states` and the attention weights are those of the query modality.
    """

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings, fused_parts=len(modalities))
        self.layers = nn.ModuleList(CoAttentionLayer(config, modalities) for _ in range(config.num_hidden_layers))

    def exchange(self, states, recorder, **kwargs):
        streams = {name: states[name].rows(states[name].tokens) for name in self.modalities}
        masks = {name: states[name].row_mask() for name in self.modalities}
        recorder.add(streams[self.query_modality])
        layers: Any = self.layers
        for number, layer in enumerate(layers):
            normed = {name: norm(streams[name]) for name, norm in layer.memory_norms.items()}
            given = {}
            for name, block in layer.blocks.items():
                tokens, keys, values, cross_mask = streams[name], None, None, None
                others = [other for other in self.modalities if other != name]
                if others:
                    memory_tokens = torch.cat([normed[other] for other in others], dim=1)  # (B, T_memory, D)
                    memory_mask = torch.cat([masks[other] for other in others], dim=1)
                    keys, values = block.cross_attn.k_proj(memory_tokens), block.cross_attn.v_proj(memory_tokens)
                    cross_mask = attention_mask(self.config, tokens, memory_mask, keys)
                self_mask = attention_mask(self.config, tokens, masks[name], tokens)
                given[name] = block(tokens, keys, values, self_mask=self_mask, cross_mask=cross_mask, **kwargs)
                recorder.step(number, [name], [name], given[name][1])
                recorder.step(number, [name], others, given[name][2])
            streams = {name: outputs[0] for name, outputs in given.items()}
            recorder.add(*given[self.query_modality])
        return streams, []


@register_fusion("merged_attention")
class MergedAttentionFusion(TokenFusion):
    """The tokens of all modalities form one sequence that attends to itself (METER, Dou et al. 2022, figure 2b;
    VisualBERT, Li et al. 2019).

    `hidden_states` and `attentions` are those of the whole sequence.
    """

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings, fused_parts=len(modalities))
        self.layers = nn.ModuleList(
            MMFusionCrossAttentionBlock(config, has_memory=False) for _ in range(config.num_hidden_layers)
        )

    def exchange(self, states, recorder, **kwargs):
        joined = self.join_tokens({name: states[name] for name in self.modalities})
        tokens = joined["tokens"]
        mask = attention_mask(self.config, tokens, joined["mask"], tokens)
        recorder.add(tokens)
        for number, layer in enumerate(self.layers):
            tokens, weights, _ = layer(tokens, None, None, self_mask=mask, **kwargs)
            recorder.add(tokens, weights)
            recorder.step(number, self.modalities, self.modalities, weights)
        lengths = [states[name].tokens.shape[1] for name in self.modalities]
        streams = dict(zip(self.modalities, tokens.split(lengths, dim=1)))
        return streams, []


LATENTS = "latents"  # the name in `AttentionStep`


@register_fusion("bottleneck")
class BottleneckFusion(TokenFusion):
    """Each modality's tokens attend to themselves and to a few latents that all modalities share. Modalities exchange
    information only through these latents (MBT, Nagrani et al. 2021, section 3.2.3, equations 8 and 9).

    The latents of a layer are the mean over modalities of the latents that each computed from those of the last layer.
    The difference to the paper: the readout sees them too, so one layer is enough for an exchange. `hidden_states` and
    `attentions` are those of the query modality, with its latents after its tokens.
    """

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings, fused_parts=len(modalities) + 1)
        self.latents = nn.Parameter(torch.zeros(config.num_latents, config.hidden_size))
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: MMFusionCrossAttentionBlock(config, has_memory=False) for name in modalities})
            for _ in range(config.num_hidden_layers)
        )

    def init_own_parameters(self, std: float):
        """The latents start with different values."""
        init.normal_(self.latents, mean=0.0, std=std)

    def exchange(self, states, recorder, **kwargs):
        count = self.config.num_latents
        streams = {name: states[name].rows(states[name].tokens) for name in self.modalities}
        query = streams[self.query_modality]
        latents = self.latents.to(query.dtype).expand(query.shape[0], -1, -1)  # (B, num_latents, D)
        masks = {name: nn.functional.pad(states[name].row_mask(), (0, count), value=True) for name in self.modalities}
        recorder.add(torch.cat([query, latents], dim=1))
        layers: Any = self.layers
        for number, layer in enumerate(layers):
            made = []
            for name, block in layer.items():
                tokens = torch.cat([streams[name], latents], dim=1)  # (B, T + num_latents, D)
                mask = attention_mask(self.config, tokens, masks[name], tokens)
                tokens, weights, _ = block(tokens, None, None, self_mask=mask, **kwargs)
                if name == self.query_modality:
                    recorder.add(tokens, weights)
                recorder.step(number, [name, LATENTS], [name, LATENTS], weights)
                streams[name] = tokens[:, :-count]
                made.append(tokens[:, -count:])
            latents = torch.stack(made).mean(0)
        return streams, [self.norm(latents).mean(1)]


def join_rows(parts: list[torch.Tensor]) -> torch.Tensor:
    """Joins `(B, T, …)` of several modalities along the tokens; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def select_rows(state: TokenStates, memory_index: torch.Tensor | None) -> TokenStates:
    """The same items, with rows selected by `memory_index`, `(B,)`."""
    if memory_index is None:
        return state
    index = memory_index if state.index is None else state.index.index_select(0, memory_index)
    return replace(state, index=index)


def select_layers(hidden_states: list[torch.Tensor], selection: bool | int | list[int]) -> tuple:
    """All hidden states for True; with indices only those, and None for the others (the library's rule)."""
    if selection is True:
        return tuple(hidden_states)
    chosen = [selection] if isinstance(selection, int) else selection
    kept = {layer % len(hidden_states) for layer in chosen}
    return tuple(states if number in kept else None for number, states in enumerate(hidden_states))
