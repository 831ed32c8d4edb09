# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Search: the embeddings of each modality alone find candidates, and the fusion ranks them again.

Notation used for tensor shapes: see `modeling_outputs`; `E` is the width of the embeddings.
"""

import math
from dataclasses import replace

import torch
from torch import nn
from transformers import AutoModelForZeroShotImageClassification
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .configuration_mm_fusion import MMFusionConfig
from .contrastive import Pairs, contrastive_loss, hard_negatives, rank, world_size
from .modality import modality_of
from .modeling_mm_fusion import MMFusionModel
from .modeling_outputs import EncoderStates, FusionMemory, MMFusionRetrievalOutput, TokenStates
from .pretrained_mm_fusion import MMFusionPreTrainedModel
from .projection import pool_tokens
from .similarity import ComparedItems
from .sound import Sound
from .text import Text
from .token_fusions import select_rows
from .vision import Vision


MAX_LOGIT_SCALE = math.log(100)  # as in CLIP
# The modalities that can be searched by text, and their names in the outputs.
ITEMS = {kind.name: kind.row_keys[0] for kind in (Vision, Sound)}
TEXTS_WORTH_A_TURN = 16  # with this many texts per image, its keys and values are not copied for each pair


class EmbeddingProjection(nn.Linear):
    """A linear layer whose initial weights depend on its own width, not on the fusion's. Larger weights would be slow
    to change direction, because the length of an embedding does not matter."""

    def init_own_parameters(self, std: float):
        """Initial values, see the class."""
        init.normal_(self.weight, mean=0.0, std=self.in_features**-0.5)


class ItemEmbedding(nn.Module):
    """The embedding of an item from its own encoder's output: the pooled vectors of all levels are joined and normed,
    then a linear layer, then scaled to length 1 (as in CLIP, Radford et al. 2021). It does not use the projection to
    the fusion width, which is narrower and made for tokens: on OpenMoji that finds half as much.

    Args:
        level_shapes: the shapes for one item, as `build_encoder` returns them.
        embedding_size: E.
        pooling: for sequences, see `pool_tokens`; feature maps are averaged.
        dropout: the rate before the linear layer.
        layer_norm_eps: the epsilon of the norm.
    """

    def __init__(
        self,
        level_shapes: list[tuple[int, ...]],
        embedding_size: int,
        pooling: str,
        dropout: float,
        layer_norm_eps: float,
    ):
        super().__init__()
        self.pooling = pooling
        width = sum(shape[0] if len(shape) == 3 else shape[1] for shape in level_shapes)
        self.norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.projection = EmbeddingProjection(width, embedding_size, bias=False)

    def forward(self, states: EncoderStates) -> torch.Tensor:
        """Embeds distinct items, `(U, E)`; no rows if the states have no items."""
        if states.levels is None:
            nothing = sum(parameter.sum() for parameter in self.parameters()) * 0  # so that all parameters are used
            return nothing.expand(0, self.projection.out_features)
        dtype = self.projection.weight.dtype
        mask = None if states.mask is None else states.mask.bool()
        pooled = [
            level.mean((2, 3)) if level.ndim == 4 else pool_tokens(level, mask, self.pooling)
            for level in states.levels
        ]
        embedded = self.projection(self.dropout(self.norm(torch.cat(pooled, dim=-1).to(dtype))))
        return nn.functional.normalize(embedded, dim=-1)


class MMFusionForRetrieval(MMFusionPreTrainedModel):
    """Finds images by texts and texts by images; or sounds, if these are the model's other modality.

    Each item has an embedding from its own encoder only, trained with the image-text contrastive loss. The fusion
    predicts whether a text and an image belong together (image-text matching, with hard negatives). It is used to rank
    the best items that the embeddings found again: ALBEF, Li et al. 2021. With `config.matching_weight` 0 there is no
    matching, and the fusion does not train.
    """

    def __init__(self, config: MMFusionConfig):
        super().__init__(config)
        fusion = config.fusion_module_config
        others = [name for name in config.modalities if name != Text.name]
        several = any(config.places_of(name) > 1 for name in config.modalities)
        if fusion.query_modality != Text.name or len(others) != 1 or others[0] not in ITEMS or several:
            raise ValueError(
                f"MMFusionForRetrieval searches one of {list(ITEMS)} by text, with one item per row; this config has "
                f"the modalities {config.modalities}, query_modality {fusion.query_modality}, num_images "
                f"{config.num_images} and places {config.places}."
            )
        self.query_modality, self.item_modality = Text.name, others[0]
        self.model = MMFusionModel(config)
        shape = (config.projection_dim, config.classifier_dropout, fusion.layer_norm_eps)
        self.embeddings = nn.ModuleDict(
            {
                name: ItemEmbedding(self.model.level_shapes[name], shape[0], config.poolings[name], *shape[1:])
                for name in config.modalities
            }
        )
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.matching = nn.Linear(fusion.sizes().width, 1)
        self.post_init()
        self.apply_freezing()

    def apply_freezing(self):
        """See the method of the base class; without the matching loss the fusion does not train either."""
        super().apply_freezing()
        if not self.config.matching_weight:
            for part in (self.model.projections, self.model.fusion, self.matching):
                part.requires_grad_(False)

    def init_own_parameters(self, std: float):
        """Sets the initial temperature."""
        init.constant_(self.logit_scale, self.config.logit_scale_init_value)

    def answers_said(self, outputs, **settings):
        """See the method of the base class. This model has no answers: the explained number is whether text and item
        match; if matching was not trained (`matching_weight` 0), it is their similarity."""
        return {None: torch.zeros(len(outputs.pooler_output), 1, dtype=torch.int64, device=self.device)}

    def explained(self, outputs, said):
        """The logit of the match, which is its log odds, and its probability; or the cosine of the embeddings."""
        if not self.config.matching_weight:
            cosines = outputs.pooler_output.double().sum(-1, keepdim=True)  # (B, 1)
            return {None: (cosines, cosines)}
        logits = self.matching(outputs.pooler_output).double()  # (B, 1)
        return {None: (logits, logits.sigmoid())}

    def explained_unit(self, task, name=None):
        """See the method of the base class."""
        return "log odds" if self.config.matching_weight else "cosine"

    def explained_in_words(self, task, said, name=None):
        """See the method of the base class."""
        return ["log odds of a match" if self.config.matching_weight else "cosine of the embeddings"]

    def has_chances(self, task):
        """See the method of the base class: a cosine is not a probability."""
        return bool(self.config.matching_weight)

    @property
    def explained_base(self):
        """See the method of the base class; without a trained fusion, it compares the embeddings."""
        return self.base_model if self.config.matching_weight else ComparedItems(self)

    def get_text_features(self, encoder_states: dict[str, EncoderStates] | None = None, **inputs) -> torch.Tensor:
        """The embeddings of texts.

        Args:
            encoder_states: the result of `encode`, instead of raw inputs.
            inputs: `input_ids` and the other inputs of texts, as for `MMFusionModel.forward`.

        Returns:
            `(U, E)`, of length 1.
        """
        return self.get_features(Text.name, encoder_states, **inputs)

    def get_image_features(self, encoder_states: dict[str, EncoderStates] | None = None, **inputs) -> torch.Tensor:
        """The embeddings of images: `(U, E)`, of length 1; see `get_text_features`."""
        return self.get_features(Vision.name, encoder_states, **inputs)

    def get_sound_features(self, encoder_states: dict[str, EncoderStates] | None = None, **inputs) -> torch.Tensor:
        """The embeddings of sounds: `(U, E)`, of length 1; see `get_text_features`."""
        return self.get_features(Sound.name, encoder_states, **inputs)

    def get_features(
        self, modality: str, encoder_states: dict[str, EncoderStates] | None = None, **inputs
    ) -> torch.Tensor:
        """The embeddings of items of a modality, by its name: `(U, E)`, of length 1; see `get_text_features`."""
        if modality not in self.embeddings:
            raise ValueError(f"This model searches {list(self.embeddings)}, but not {modality!r}.")
        states = self.model.encode({}, encoder_states, **inputs)[modality]
        if states.levels is None:
            raise ValueError(f"There is no item of modality {modality!r} among the inputs {sorted(inputs)}.")
        return self.embeddings[modality](states)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        text_ids: torch.Tensor | None = None,
        vision_ids: torch.Tensor | None = None,
        audio_ids: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | float | None = None,
        return_loss: bool | None = None,
        encoder_states: dict[str, EncoderStates] | None = None,
        **inputs,
    ) -> MMFusionRetrievalOutput:
        """Compares texts and images (or sounds). For the loss, text and item of each row count as a matching pair.

        Args:
            input_ids: see `MMFusionModel.forward`.
            text_ids, vision_ids, audio_ids: `(B,)` int64: rows with equal numbers have the same text or the same
                image, on any process. Left out: rows with the same item.
            num_items_in_batch: pairs of the global batch; left out, the pairs of all processes in this step.
            return_loss: whether to compute the loss; left out, only in training.
            encoder_states: see `MMFusionModel.forward`.
            inputs: the model's other inputs. A row that lacks one of the two items is not a pair.

        Returns:
            `logits_per_image` (or `logits_per_audio`) `(U, U')` and `logits_per_text`, for distinct items; embeddings
            of each row, zeros if it has no item; the losses.
        """
        indices = {name: inputs.pop(f"{name}_index", None) for name in self.config.modalities}
        self.model.check_inputs({"input_ids": input_ids, **inputs})
        encoded = self.model.encode(indices, encoder_states, input_ids=input_ids, **inputs)
        embeds, rows, present = {}, {}, {}
        for name, state in encoded.items():
            embeds[name] = self.embeddings[name](state)
            index = (
                torch.arange(len(embeds[name]), device=self.device) if state.index is None else state.index.flatten()
            )
            encoded[name], present[name] = replace(state, index=index), index >= 0
            # A row of zeros comes first, for rows without an item.
            items = nn.functional.pad(embeds[name], (0, 0, 1, 0))
            rows[name] = items.index_select(0, (index + 1).clamp(min=0))
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        text, item = self.query_modality, self.item_modality
        logits_per_text = scale * embeds[text] @ embeds[item].T
        losses = None
        if self.training if return_loss is None else return_loss:
            ids = {Text.name: text_ids, Vision.name: vision_ids, Sound.name: audio_ids}
            pairs = self._pairs(encoded, present, rows, ids)
            losses = self._losses(encoded, pairs, scale, num_items_in_batch)
        return MMFusionRetrievalOutput(
            loss=None if losses is None else torch.stack(list(losses.values())).sum(),
            task_losses=losses,
            logits_per_text=logits_per_text,
            text_embeds=rows[text],
            **{f"logits_per_{ITEMS[item]}": logits_per_text.T, f"{ITEMS[item]}_embeds": rows[item]},
        )

    def _pairs(self, encoded, present, rows, ids) -> Pairs:
        """The pairs of this process; rows that lack an item are not valid."""
        offset = rank() << 40  # items without an id count as different on each process
        item_ids = {name: state.index + offset if ids[name] is None else ids[name] for name, state in encoded.items()}
        text, item = self.query_modality, self.item_modality
        return Pairs(rows[text], rows[item], item_ids[text], item_ids[item], present[text] & present[item])

    def _losses(self, encoded, pairs: Pairs, scale, count) -> dict[str, torch.Tensor]:
        """The contrastive loss, and the matching loss times its weight."""
        everything = pairs.of_all_processes()
        if count is None:  # because DDP averages over the processes
            count = everything.valid.sum().clamp(min=1) / world_size()
        losses = {"contrastive": contrastive_loss(pairs, scale, count, everything)}
        if self.config.matching_weight:
            states = {name: self.model.projections[name](state, state.index) for name, state in encoded.items()}
            losses["matching"] = self.config.matching_weight * self._matching_loss(states, pairs, scale) / count
        return losses

    def _matching_loss(self, states, pairs: Pairs, scale) -> torch.Tensor:
        """Binary cross-entropy of three pairs per row: the pair itself, its text with a hard negative image, and its
        image with a hard negative text. The mean of the three, summed over the rows."""
        rows = torch.arange(len(pairs.valid), device=self.device)
        wrong_items, has_item = hard_negatives(pairs, scale)
        wrong_texts, has_text = hard_negatives(pairs.turned(), scale)
        texts, items = torch.cat([rows, rows, wrong_texts]), torch.cat([rows, wrong_items, rows])  # (3 R,)
        logits = self._match(states, texts, items)
        targets = torch.cat([torch.ones_like(logits[: len(rows)]), torch.zeros_like(logits[len(rows) :])])
        weights = torch.cat([pairs.valid, has_item, has_text]).to(logits.dtype)
        losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (losses * weights).sum() / 3

    def _match(self, states: dict[str, TokenStates], text_rows, item_rows) -> torch.Tensor:
        """Whether the texts and images of these rows belong together, `(N,)` logits."""
        chosen = {self.query_modality: text_rows, self.item_modality: item_rows}
        states = {name: select_rows(state, chosen[name]) for name, state in states.items()}
        return self.matching(self.model.fusion(states, return_tokens=False).pooled)[:, 0]

    @torch.no_grad()
    def score_pairs(
        self,
        encoder_states: dict[str, EncoderStates] | None = None,
        text_index: torch.Tensor | None = None,
        item_index: torch.Tensor | None = None,
        memory: FusionMemory | None = None,
        batch_size: int = 256,
        **inputs,
    ) -> torch.Tensor:
        """Whether texts and images belong together, by the fusion. What depends only on an image is computed once per
        image and layer, what depends only on a text once per text, in however many pairs they are.

        Args:
            encoder_states: the result of `encode` for texts and images, instead of raw inputs; all items are used.
            text_index, item_index: `(N,)` int64, the pairs; left out, every text with every image.
            memory: the result of `model.model.prepare` for the images, if they are used several times.
            batch_size: how many pairs go through the fusion together.
            inputs: raw inputs of the distinct items, as for `MMFusionModel.forward`.

        Returns:
            `(N,)` float logits, or `(U_text, U_item)`.
        """
        text, item = self.query_modality, self.item_modality
        given = dict(encoder_states or {})
        given |= self._encode_apart(inputs)
        if text not in given or (item not in given and memory is None):
            raise ValueError(f"score_pairs needs items of {text!r} and {item!r}, got {sorted(given)}.")
        states = {text: self.model.projections[text](replace(given[text], index=None), None)}
        if memory is None:
            states[item] = self.model.projections[item](replace(given[item], index=None), None)
            if self.model.fusion.supports_memory_cache:
                memory = self.model.fusion.prepare({item: states.pop(item)})
        texts = len(states[text].tokens)
        asked = states[item] if memory is None else memory.states[item]
        items = len(asked.tokens if asked.index is None else asked.index)
        every = text_index is None and item_index is None
        if every:  # text by text: all its images together
            text_index = torch.arange(texts, device=self.device).repeat_interleave(items)
            item_index = torch.arange(items, device=self.device).repeat(texts)
        elif text_index is None or item_index is None or text_index.shape != item_index.shape:
            raise ValueError("text_index and item_index must both be given, with equal lengths, or both left out.")
        if every and memory is not None and texts >= TEXTS_WORTH_A_TURN:
            rows = torch.arange(texts, device=self.device).split(batch_size)
            columns = [
                torch.cat([self._score(states, item_for_rows(memory, number, len(part)), part) for part in rows])
                for number in range(items)
            ]
            return torch.stack(columns, dim=1)
        scores = [
            self._score(states, memory, *rows)
            for rows in zip(text_index.split(batch_size), item_index.split(batch_size))
        ]
        logits = torch.cat(scores) if scores else torch.zeros(0, device=self.device)
        return logits.view(texts, items) if every else logits

    def _encode_apart(self, inputs: dict) -> dict[str, EncoderStates]:
        """Encodes the items of each modality; their numbers may differ."""
        self.model.check_inputs(inputs)
        encoded = {}
        for name in self.config.modalities:
            item_inputs = {key: inputs[key] for key in modality_of(name).inputs if inputs.get(key) is not None}
            if item_inputs:
                encoded[name] = self.model.encode({}, None, **item_inputs)[name]
        return encoded

    def _score(self, states, memory, text_rows, item_rows=None) -> torch.Tensor:
        """Logits of pairs, `(N,)`; without `item_rows` the memory has one row per pair."""
        text, item = self.query_modality, self.item_modality
        asked = {text: replace(states[text], index=text_rows)}
        if memory is None:
            asked[item] = replace(states[item], index=item_rows)
            fused = self.model.fusion(asked, return_tokens=False)
        else:
            fused = self.model.fusion(asked, memory=memory, memory_index=item_rows, return_tokens=False)
        return self.matching(fused.pooled)[:, 0]


def item_for_rows(memory: FusionMemory, number: int, rows: int) -> FusionMemory:
    """One item's part of a memory, expanded to a number of rows without a copy."""

    ((name, state),) = memory.states.items()
    item = number if state.index is None else int(state.index[number])

    def seen(values):
        return None if values is None else values[item].expand(rows, *values.shape[1:])

    parts = {key: seen(getattr(state, key)) for key in ("tokens", "mask", "pooled", "places")}
    return FusionMemory(
        states={name: replace(state, index=None, **parts)},
        key_states={name: tuple(map(seen, memory.key_states[name]))},
        value_states={name: tuple(map(seen, memory.value_states[name]))},
    )


AutoModelForZeroShotImageClassification.register(MMFusionConfig, MMFusionForRetrieval, exist_ok=True)
MMFusionForRetrieval.register_for_auto_class("AutoModelForZeroShotImageClassification")

__all__ = ["MMFusionForRetrieval"]
