# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The results of the steps of the model. All are `ModelOutput`s, so they can move between devices, and trace and
export.

Notation used for tensor shapes: `B` rows of the batch; `U` distinct items of one modality; `T` tokens of an item;
`H` an encoder's width; `D` the fusion width; `L` fusion layers; `A` attention heads.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, overload

import torch
from transformers.cache_utils import EncoderDecoderCache
from transformers.utils import ModelOutput


# The default of fields that are always given: the library requires a default for every field except the first.
GIVEN: Any = None


@dataclass
class EncoderStates(ModelOutput):
    """The output of an encoder, at its own width. This is what is cached when the encoder is frozen.

    Args:
        levels (`tuple[torch.Tensor]`, *optional*): one per feature layer; `(U, T, H)` from encoders of sequences,
            `(U, H, h, w)` from encoders with a feature map, whose grid the projection needs for the positions. None
            if there is no item.
        mask (`torch.Tensor`, *optional*): `(U, T)`, 1 for a token and 0 for padding; None if there is no padding.
        index (`torch.Tensor`, *optional*): `(B,)` int64, the item of each row, -1 for a row without one, or `(B, K)`
            if rows have several; None if row i uses item i.
    """

    levels: tuple[torch.Tensor, ...] | None = None
    mask: torch.Tensor | None = None
    index: torch.Tensor | None = None

    def count(self) -> int:
        """The number of items, U.

        Raises:
            ValueError: there are no items, and so no levels.
        """
        if not self.levels:
            raise ValueError("These states hold no items: give an index with them, -1 for each row.")
        return len(self.levels[0])


@dataclass
class TokenStates(ModelOutput):
    """Tokens of one modality at the fusion width. If rows have several items, each distinct combination of them counts
    as one item here.

    Args:
        tokens (`torch.Tensor`): `(U, T, D)`. If rows have one item and `index` is given, the first item is the
            learned absent token.
        mask (`torch.Tensor`, *optional*): `(U, T)` bool; None if every token counts.
        index (`torch.Tensor`, *optional*): `(B,)` int64 in 0…U-1; None if row i uses item i.
        pooled (`torch.Tensor`): `(U, D)`, one vector per item.
        coordinates (`torch.Tensor`, *optional*): `(T, 2)` float32, the place of each token in the picture, (down,
            right) from 0 to 1; None if the encoder has no grid.
        places (`torch.Tensor`, *optional*): `(U, places)` bool if rows have several items. Their tokens are then side
            by side, the same number for each item. It marks the items that the pooled vector is the mean of (the items
            that are present, or all if none is).
    """

    tokens: torch.Tensor = GIVEN
    mask: torch.Tensor | None = None
    index: torch.Tensor | None = None
    pooled: torch.Tensor = GIVEN
    coordinates: torch.Tensor | None = None
    places: torch.Tensor | None = None

    @overload
    def rows(self, items: torch.Tensor) -> torch.Tensor: ...

    @overload
    def rows(self, items: torch.Tensor | None) -> torch.Tensor | None: ...

    def rows(self, items: torch.Tensor | None) -> torch.Tensor | None:
        """Gathers a value that each item has, `(U, …)`, for each row: `(B, …)`."""
        return items if items is None or self.index is None else items.index_select(0, self.index)

    def by_row(self, rows: torch.Tensor | None = None) -> "TokenStates":
        """The same states with a separate item for each row, so that gradients are per row; for some rows only, if
        they are given, `(B',)` int64."""
        index = self.index if rows is None else rows if self.index is None else self.index.index_select(0, rows)
        chosen = replace(self, index=index)
        parts = {name: chosen.rows(getattr(self, name)) for name in ("tokens", "mask", "pooled", "places")}
        return replace(self, index=None, **parts)

    def row_mask(self) -> torch.Tensor:
        """The mask of each row, `(B, T)` bool; ones if there was no mask."""
        mask = self.mask
        if mask is None:
            mask = torch.ones(self.tokens.shape[:2], dtype=torch.bool, device=self.tokens.device)
        return self.rows(mask)


@dataclass
class FusionMemory(ModelOutput):
    """What a fusion needs of the modalities that are not the query, independent of the query: computed once per
    item.

    Args:
        states (`dict[str, TokenStates]`): by modality.
        key_states, value_states (`dict[str, tuple[torch.Tensor]]`): by modality and layer, `(U, T, D)`.
    """

    states: dict[str, TokenStates] = GIVEN
    key_states: dict[str, tuple[torch.Tensor, ...]] = GIVEN
    value_states: dict[str, tuple[torch.Tensor, ...]] = GIVEN


class AttentionStep(NamedTuple):
    """One attention of a fusion: which tokens are queries, and which are keys.

    Args:
        layer: the attentions of one layer run side by side: each sees the tokens after the layer below, except its
            own earlier steps.
        asking, asked: the modalities (or "latents") of the queries and of the keys; their tokens are in this order.
        weights: `(B, A, T, T')`.
    """

    layer: int
    asking: tuple[str, ...]
    asked: tuple[str, ...]
    weights: torch.Tensor


@dataclass
class FusedStates(ModelOutput):
    """The output of a fusion.

    Args:
        pooled (`torch.Tensor`): `(B, D)`.
        tokens (`torch.Tensor`, *optional*): `(B, T', D)`, fused tokens and memory tokens, if asked for.
        mask (`torch.Tensor`, *optional*): `(B, T')` bool.
        modality_ids (`torch.Tensor`, *optional*): `(T',)` int64, the position in `config.modalities` of the modality
            that each token belongs to.
        hidden_states (`tuple[torch.Tensor]`, *optional*): L+1 times `(B, T, D)`, the query's tokens.
        attentions (`tuple[torch.Tensor]`, *optional*): L times `(B, A, T, T)`, self-attention of the query.
        cross_attentions (`tuple[torch.Tensor]`, *optional*): L times `(B, A, T, T_memory)`.
        attention_steps (`tuple[AttentionStep]`, *optional*): every attention of the fusion, in order, also in the
            memory and in modalities that are not the query; with `output_attentions`.
    """

    pooled: torch.Tensor = GIVEN
    tokens: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    modality_ids: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    attention_steps: tuple[AttentionStep, ...] | None = None


@dataclass
class MMFusionModelOutput(ModelOutput):
    """Output of `MMFusionModel`: `FusedStates` under the library's names.

    Args:
        last_hidden_state (`torch.Tensor`, *optional*): `(B, T', D)`, fused tokens and memory tokens.
        pooler_output (`torch.Tensor`): `(B, D)`.
        attention_mask (`torch.Tensor`, *optional*): `(B, T')` bool.
        modality_ids (`torch.Tensor`, *optional*): `(B, T')` int64, position in `config.modalities`.
        hidden_states, attentions, cross_attentions: see `FusedStates`.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor = GIVEN
    attention_mask: torch.Tensor | None = None
    modality_ids: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None

    @classmethod
    def of(cls, fused: FusedStates) -> "MMFusionModelOutput":
        """The output of a fusion, under these names."""
        ids = fused.modality_ids
        return cls(
            last_hidden_state=fused.tokens,
            pooler_output=fused.pooled,
            attention_mask=fused.mask,
            modality_ids=None if ids is None else ids.expand(fused.pooled.shape[0], -1),
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
            cross_attentions=fused.cross_attentions,
        )


@dataclass
class MMFusionClassifierOutput(ModelOutput):
    """Output of the heads with classes.

    Args:
        loss (`torch.Tensor`, *optional*): `()`, if labels were given.
        logits (`torch.Tensor`): `(B, num_labels)`, before softmax (or sigmoid for several labels). In training with
            `config.mixup_alpha`, the logits of mixed rows, which belong to no single row's label.
        hidden_states, attentions, cross_attentions: see `FusedStates`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MMFusionMultiTaskOutput(ModelOutput):
    """Output of a model with several tasks.

    Args:
        loss (`torch.Tensor`, *optional*): `()`, if labels were given.
        task_losses (`dict[str, torch.Tensor]`, *optional*): `()` each, the weighted share of each task in `loss`.
        logits (`dict[str, torch.Tensor]`): by task `(B, C)`, as in `MMFusionClassifierOutput`.
        hidden_states, attentions, cross_attentions: see `FusedStates`.
    """

    loss: torch.Tensor | None = None
    task_losses: dict[str, torch.Tensor] | None = None
    logits: dict[str, torch.Tensor] | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MMFusionRetrievalOutput(ModelOutput):
    """Output of the retrieval model.

    Args:
        loss (`torch.Tensor`, *optional*): `()`.
        task_losses (`dict[str, torch.Tensor]`, *optional*): `()` each, `"contrastive"` and the weighted `"matching"`;
            the loss is their sum.
        logits_per_image, logits_per_audio (`torch.Tensor`): `(U_item, U_text)`, scaled similarities of distinct items;
            the first for a model of texts and images, the second for texts and sounds.
        logits_per_text (`torch.Tensor`): `(U_text, U_item)`.
        text_embeds, image_embeds, audio_embeds (`torch.Tensor`): `(B, E)`, the embedding of each row's item, of length
            1; zeros for a row without one.
    """

    loss: torch.Tensor | None = None
    task_losses: dict[str, torch.Tensor] | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_audio: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None


@dataclass
class MMFusionSeq2SeqOutput(ModelOutput):
    """Output of the model that generates text.

    Args:
        loss (`torch.Tensor`, *optional*): `()`, if labels were given.
        logits (`torch.Tensor`): `(B, T_target, vocabulary)`, for the next token.
        cache (`EncoderDecoderCache`, *optional*): the decoder's keys and values.
        decoder_hidden_states, decoder_attentions, cross_attentions: the decoder's, as in the library's
            `Seq2SeqLMOutput`.
        encoder_last_hidden_state (`torch.Tensor`): `(B, T', D)`, the fused tokens, see `MMFusionModelOutput`.
        encoder_hidden_states, encoder_attentions: of the fusion, see `FusedStates`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    cache: EncoderDecoderCache | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor | None, ...] | None = None
    encoder_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MMFusionCTCOutput(ModelOutput):
    """Output of the model that transcribes speech.

    Args:
        loss (`torch.Tensor`, *optional*): `()`, if labels were given.
        logits (`torch.Tensor`): `(B, A, vocabulary)`, for each token of the sound, before softmax.
        attention_mask (`torch.Tensor`): `(B, A)` bool, false after the end of the sound.
        hidden_states, attentions, cross_attentions: see `FusedStates`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
