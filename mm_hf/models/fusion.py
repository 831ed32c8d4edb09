# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The registry of fusions, and the base class of every fusion. The fusions themselves are in `pooled_fusions` and
`token_fusions`.

A fusion is one class in these files with one line `@register_fusion("name")`. It takes the tokens of one or more
modalities, each of which may be absent in a row, and returns `FusedStates`.

Notation used for tensor shapes: see `modeling_outputs`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_mm_fusion import FusionModuleConfig
from .modeling_outputs import FusedStates, FusionMemory, TokenStates
from .names import did_you_mean
from .projection import ModalityProjection


FUSIONS: dict[str, type["Fusion"]] = {}
"""The registry: classes of fusions by their names."""


def register_fusion(name: str) -> Callable:
    """Adds a fusion to the registry. The code of a fusion that is registered outside of this package does not travel
    with checkpoints.

    Raises:
        ValueError: the name is already in use.
    """

    def register(fusion_class):
        if name in FUSIONS:
            raise ValueError(f"A fusion named {name!r} exists already, {FUSIONS[name].__name__}: use another name.")
        FUSIONS[name] = fusion_class
        return fusion_class

    return register


def projection_class_of(fusion_type: str) -> type[ModalityProjection]:
    """The class that projects encoder states to the fusion width, for a type of fusion. For an unknown type it is the
    default class; `build_fusion` raises then."""
    return getattr(FUSIONS.get(fusion_type), "projection_class", ModalityProjection)


def build_fusion(config: FusionModuleConfig, modalities: list[str], poolings: dict[str, str]) -> "Fusion":
    """Builds the fusion that the config names.

    Raises:
        ValueError: there is no fusion with this name.
    """
    if config.fusion_type not in FUSIONS:
        meant = did_you_mean(config.fusion_type, FUSIONS)
        raise ValueError(
            f"Unknown fusion {config.fusion_type!r}: it must be one of {sorted(FUSIONS)}.{meant} Import a fusion from "
            "outside mm_hf before you load its model (`--import FILE`, or an import in Python)."
        )
    return FUSIONS[config.fusion_type](config, modalities, poolings)


class Fusion(nn.Module):
    """The base class of every fusion.

    Args:
        config: widths, depth, dropout.
        modalities: names of the modalities, in the order of their ids.
        poolings: for each modality, how one vector is read from its tokens.
    """

    # Whether the memory does not depend on the query, so that `prepare` can compute it once per item.
    supports_memory_cache = False
    projection_class: type[ModalityProjection] = ModalityProjection  # makes the tokens that this fusion takes

    def __init__(self, config: FusionModuleConfig, modalities: list[str], poolings: dict[str, str]):
        super().__init__()
        self.config = config
        self.modalities = modalities
        self.poolings = poolings

    def prepare(self, states: dict[str, TokenStates]) -> FusionMemory:
        """Computes everything that does not depend on the query, once per distinct item.

        Raises:
            NotImplementedError: this fusion's memory depends on the query.
        """
        raise NotImplementedError(
            f"The memory of fusion {self.config.fusion_type!r} depends on the query, so it cannot be prepared. It can "
            f"for {sorted(name for name, kind in FUSIONS.items() if kind.supports_memory_cache)}."
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
            states: tokens by modality; if `memory` is given, without the modalities in it.
            memory: the result of `prepare`.
            memory_index: `(B,)` int64, the row of the memory that each row of the query uses; None: row i uses row i.
            return_tokens: return the tokens too, not only the pooled vector.
            output_attentions: return the attention weights (only with eager attention, and for fusions of tokens).
            output_hidden_states: return the query's tokens after each block. A list of indices selects some; the
                others are None.
        """
        raise NotImplementedError

    def token_order(self) -> list[str]:
        """The modalities, in the order of their tokens in the returned sequence."""
        return list(self.modalities)

    def make_output_norm(self) -> nn.Module:
        """The last layer before the head: a norm if the config has `output_norm`."""
        if not self.config.output_norm:
            return nn.Identity()
        return nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)

    def join_tokens(self, states: dict[str, TokenStates]) -> dict[str, Any]:
        """Joins the tokens that each row has of all modalities into one sequence, with the modality id of each
        token."""
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


class Readout(nn.Sequential):
    """Concatenates vectors `(B, D)` and maps them to one."""

    def __init__(self, config: FusionModuleConfig, parts: int):
        width = config.sizes().width
        super().__init__(nn.Linear(parts * width, width), ACT2FN[config.hidden_act])

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        return super().forward(torch.cat(parts, dim=-1))
