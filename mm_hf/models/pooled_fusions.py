# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Fusions of one pooled vector per modality: they cannot relate single words to parts of a picture.

Notation used for tensor shapes: see `modeling_outputs`. `M` modalities.
"""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from .attention import MMFusionMLPBlock
from .configuration_mm_fusion import FusionModuleConfig
from .fusion import Fusion, Readout, register_fusion
from .modeling_outputs import FusedStates


class PooledFusion(Fusion):
    """Their base class: takes one vector of each modality and returns one vector."""

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings)
        self.layers = nn.ModuleList(self.make_layer(number) for number in range(config.num_hidden_layers))
        self.output_norm = self.make_output_norm()

    def make_layer(self, number: int) -> nn.Module:
        """The block of one layer; by default a residual feed-forward block."""
        return MMFusionMLPBlock(self.config)

    def combine(self, vectors: list[torch.Tensor]) -> torch.Tensor:
        """Makes one vector `(B, D)` from one vector per modality."""
        raise NotImplementedError

    def deepen(self, pooled: torch.Tensor) -> torch.Tensor:
        """Runs the combined vector through every layer."""
        for layer in self.layers:
            pooled = layer(pooled)
        return pooled

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
        pooled = self.combine([states[name].rows(states[name].pooled) for name in self.modalities])
        return FusedStates(pooled=self.output_norm(pooled), **(self.join_tokens(states) if return_tokens else {}))


@register_fusion("concat")
class ConcatFusion(PooledFusion):
    """The vectors side by side, then one linear layer: the usual baseline (Ngiam et al. 2011)."""

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings)
        self.readout = Readout(config, len(modalities))

    def combine(self, vectors):
        return self.deepen(self.readout(vectors))


@register_fusion("sum")
class SumFusion(PooledFusion):
    """The sum of the vectors, with a learned weight for each element of each vector."""

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings)
        self.weights = nn.Parameter(torch.ones(len(modalities), config.hidden_size))

    def init_own_parameters(self, std: float):
        """Starts as the plain sum."""
        init.ones_(self.weights)

    def combine(self, vectors):
        return self.deepen((torch.stack(vectors, dim=1) * self.weights).sum(1))


@register_fusion("gated")
class GatedFusion(PooledFusion):
    """Gated multimodal unit (Arevalo et al. 2017, section 3.1, in the form for any number of modalities): each element
    is a mixture of the modalities' elements, weighted by gates that see all modalities."""

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings)
        width, count = config.hidden_size, len(modalities)
        self.features = nn.ModuleList(nn.Linear(width, width) for _ in modalities)
        self.gate_scores = nn.ModuleList(nn.Linear(count * width, width) for _ in modalities)

    def combine(self, vectors):
        seen = torch.cat(vectors, dim=-1)  # (B, M * D)
        return self.deepen(
            sum(
                score(seen).sigmoid() * feature(vector).tanh()
                for vector, feature, score in zip(vectors, self.features, self.gate_scores)
            )
        )


class DeepCrossLayer(nn.Module):
    """One layer of the cross network, and one layer of the deep network beside it."""

    def __init__(self, config: FusionModuleConfig, crossed_width: int, deep_width: int):
        super().__init__()
        self.cross = nn.Linear(crossed_width, crossed_width)
        self.deep = nn.Linear(deep_width, config.sizes().width)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, first, crossed, deep):
        """`first` and `crossed` are `(B, M * D)`; `deep` has this shape before the first layer, then `(B, D)`."""
        return first * self.cross(crossed) + crossed, self.dropout(self.activation(self.deep(deep)))


@register_fusion("deep_cross")
class DeepCrossFusion(PooledFusion):
    """Products of increasing order of the vectors' elements (DCN v2, Wang et al. 2021, equation 1) beside a plain deep
    network: the parallel structure of figure 1 of the paper."""

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings)
        count = len(modalities)
        self.readout = Readout(config, count + (1 if config.num_hidden_layers else count))

    def make_layer(self, number):
        width = self.config.sizes().width
        crossed_width = len(self.modalities) * width
        return DeepCrossLayer(self.config, crossed_width, width if number else crossed_width)

    def combine(self, vectors):
        first = crossed = deep = torch.cat(vectors, dim=-1)  # (B, M * D)
        for layer in self.layers:
            crossed, deep = layer(first, crossed, deep)
        return self.readout([crossed, deep])


@register_fusion("late")
class LateFusion(PooledFusion):
    """Fusion of outputs: each modality predicts alone, and the predictions are summed with learned weights (decision
    fusion; Baltrusaitis et al. 2019, section 6.1).

    The last layer of each modality is linear, and so is the task's head after the sum. Their product acts as a head
    for this modality, and the logits are the weighted sum of the logits of all these heads. The weights are a softmax.
    """

    def __init__(self, config, modalities, poolings):
        super().__init__(config, modalities, poolings)
        self.heads = nn.ModuleDict({name: nn.Linear(config.hidden_size, config.hidden_size) for name in modalities})
        self.weights = nn.Parameter(torch.zeros(len(modalities)))
        self.output_norm = nn.Identity()
        self.norms = nn.ModuleDict({name: self.make_output_norm() for name in modalities})

    def make_layer(self, number):
        return nn.ModuleDict({name: MMFusionMLPBlock(self.config) for name in self.modalities})

    def init_own_parameters(self, std: float):
        """Starts with equal weights."""
        init.zeros_(self.weights)

    def combine(self, vectors):
        layers: Any = self.layers
        answers = []
        for name, vector in zip(self.modalities, vectors):
            for layer in layers:
                vector = layer[name](vector)
            answers.append(self.heads[name](self.norms[name](vector)))
        return (torch.stack(answers, dim=-1) * self.weights.softmax(0)).sum(-1)
