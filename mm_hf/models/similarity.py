# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Explains a search by embeddings alone: the similarity of two items takes the place of the fusion.

Notation used for tensor shapes: see `modeling_outputs`; `E` is the width of the embeddings.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .modeling_outputs import EncoderStates, FusedStates, MMFusionModelOutput, TokenStates


class EmbeddedItem:
    """Takes the place of a projection: the embedding of an item as one token, which has no parts to remove. An absent
    item is zeros, which are similar to nothing."""

    places, pooling, tells_parts = 1, "cls", False

    def __init__(self, embedding: nn.Module, projection: Any):
        self.embedding, self.token_shapes = embedding, projection.token_shapes

    def __call__(self, states: EncoderStates, index: torch.Tensor | None = None) -> TokenStates:
        """The embeddings `(U + 1, 1, E)`, the absent item first."""
        embedded = self.embedding(states)
        index = states.index if index is None else index
        if index is None:
            index = torch.arange(len(embedded), device=embedded.device)
        vectors = torch.cat([embedded.new_zeros(1, embedded.shape[1]), embedded])
        return TokenStates(tokens=vectors[:, None], pooled=vectors, index=index.flatten() + 1)


class Similarity(nn.Module):
    """The element-wise products of the embeddings of two items, `(B, E)`: their sum is the cosine."""

    supports_memory_cache = False

    def __init__(self, config: Any, query_modality: str):
        super().__init__()
        self.config, self.query_modality = config, query_modality

    def forward(self, states: Mapping[str, TokenStates], memory: Any = None, **kwargs: Any) -> FusedStates:
        """See `Fusion.forward`; it returns no tokens."""
        one, other = (state.rows(state.pooled) for state in states.values())
        return FusedStates(pooled=one * other)


class ComparedItems:
    """Takes the place of the base model when the embeddings of a search are explained, see
    `EvidenceMixin.explained_base`: it encodes like the base model, but compares items instead of fusing them."""

    def __init__(self, model: Any):
        base = self.base = model.base_model
        self.fusion = Similarity(base.config.fusion_module_config, model.query_modality)
        self.projections = {
            name: EmbeddedItem(embedding, base.projections[name]) for name, embedding in model.embeddings.items()
        }

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def __call__(self, token_states: Mapping[str, TokenStates], **options: Any) -> MMFusionModelOutput:
        """See `MMFusionModel.forward`."""
        return MMFusionModelOutput.of(self.fusion(token_states))

    def project(self, states: Mapping[str, EncoderStates]) -> dict[str, TokenStates]:
        """See `MMFusionModel.project`."""
        return {name: self.projections[name](state) for name, state in states.items()}
