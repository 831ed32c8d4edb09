"""Cuts a model into graphs: one per encoder, one for all layers after the encoders, and for a model that writes, one
for a step of the decoder.

Each graph is a module that takes tensors by name and gives a dict of tensors, so that any exporter can trace it. One
set of graphs serves all combinations of modalities. If no row has a modality, `fuse` takes an item of zeros with the
index -1 in each row. Then the projection inserts its absent token, as in any batch where some rows lack the modality.

Notation used for tensor shapes: see `mm_hf.models.modeling_outputs`.
"""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from ..models.ctc_mm_fusion import MMFusionForCTC
from ..models.encoding import run_encoder, to_the_right
from ..models.generation_mm_fusion import MMFusionForConditionalGeneration
from ..models.modality import modality_of
from ..models.modeling_mm_fusion import MMFusionForMultiTask, MMFusionModel
from ..models.modeling_outputs import EncoderStates, TokenStates
from ..models.pretrained_mm_fusion import MMFusionPreTrainedModel
from ..models.retrieval_mm_fusion import MMFusionForRetrieval
from ..models.sound import Sound


FUSE, STEP = "fuse", "step"  # names of graphs; the names for encoders are `encode_<modality>`
MASK = "memory_mask"

Tensors = dict[str, torch.Tensor]


def level_name(modality: str, number: int) -> str:
    """The name of a level of features, as an output of one graph and an input of the next."""
    return f"{modality}_level_{number}"


def mask_name(modality: str) -> str:
    """The name of the mask of a modality's tokens."""
    return f"{modality}_mask"


def embedding_name(modality: str) -> str:
    """The name of the embeddings of a modality's items, for a retrieval model."""
    return f"{modality}_embedding"


class EncoderGraph(nn.Module):
    """An encoder. It takes the raw inputs of a modality, `(U, …)`, and gives the levels that the fusion reads, and
    their mask. For a retrieval model it also gives the embeddings of the items, `(U, E)`.

    The items of a batch are padded to the same length. If padding changes the results of an encoder
    (`encode_by_length`), the caller has to call it with items of one length: see `by_length` of the manifest.
    """

    def __init__(self, model: MMFusionPreTrainedModel, name: str):
        super().__init__()
        base: Any = model.base_model
        self.encoder, self.name, self.layers = base.encoders[name], name, base.feature_layers[name]
        self.interpolate = base.config.encoding(name).get("interpolate", False)
        self.embedding = model.embeddings[name] if isinstance(model, MMFusionForRetrieval) else None

    def forward(self, **inputs: torch.Tensor) -> Tensors:
        kind = modality_of(self.name)
        given = kind.encoder_inputs(self.encoder, inputs)
        if kind.has_lengths:
            given = to_the_right(given)
        mask = given.get("attention_mask")
        levels = run_encoder(self.encoder, given, self.layers, self.interpolate)
        outputs = {level_name(self.name, number): level.contiguous() for number, level in enumerate(levels)}
        if mask is not None:
            outputs[mask_name(self.name)] = kind.token_mask(self.encoder, mask, levels[0].shape[1]).long()
        if self.embedding is not None:
            states = EncoderStates(levels=levels, mask=outputs.get(mask_name(self.name)))
            outputs[embedding_name(self.name)] = self.embedding(states)
        return outputs


class FuseGraph(nn.Module):
    """The layers after the encoders: projection, fusion and head. For each modality it takes the levels, the mask, and
    `<name>_index` `(B,)` or `(B, places)`, int64, -1 where a row has no item.

    Its outputs are: `logits`, or for several tasks `logits_<number>` in order; for CTC `logits` `(B, A, C)` and
    `memory_mask` `(B, A)`; for a retrieval model `match` `(B,)`; for a model that writes the keys and values of the
    decoder's cross-attention, `cross_key_<layer>` and `cross_value_<layer>`, and `memory_mask` `(B, T')`.
    """

    def __init__(self, model: MMFusionPreTrainedModel):
        super().__init__()
        self.model = model

    def states(self, inputs: Tensors) -> dict[str, EncoderStates]:
        """The inputs as encoder states."""
        base: Any = self.model.base_model
        states = {}
        for name in base.encoders:
            levels, number = [], 0
            while level_name(name, number) in inputs:
                levels.append(inputs[level_name(name, number)])
                number += 1
            index = inputs[modality_of(name).index_name]
            states[name] = EncoderStates(levels=tuple(levels), mask=inputs.get(mask_name(name)), index=index)
        return states

    def forward(self, **inputs: torch.Tensor) -> Tensors:
        model: Any = self.model
        base: MMFusionModel = model.base_model
        tokens = base.project(self.states(inputs))
        if isinstance(model, MMFusionForCTC):
            return self.hear(model, tokens)
        if isinstance(model, MMFusionForConditionalGeneration):
            return self.remember(model, base(token_states=tokens))
        if isinstance(model, MMFusionForRetrieval):
            return {"match": model.matching(base.fuse_tokens(tokens, return_tokens=False).pooled)[:, 0]}
        logits = model(token_states=tokens).logits
        if isinstance(model, MMFusionForMultiTask):
            return {f"logits_{number}": values for number, values in enumerate(logits.values())}
        return {"logits": logits}

    def hear(self, model: MMFusionForCTC, tokens: dict[str, TokenStates]) -> Tensors:
        """The logits for each moment of the sound. The tokens of the sound are found by their position. To find them
        by their ids would depend on the data."""
        base: Any = model.base_model
        fused, start = base.fuse_tokens(tokens), 0
        for name in base.fusion.token_order():
            length = tokens[name].tokens.shape[1]
            if name == Sound.name:
                break
            start = start + length
        tokens_heard, mask_heard = (values.narrow(1, start, length) for values in (fused.tokens, fused.mask))
        logits, mask = model.heard(tokens_heard, mask_heard, fused.pooled)
        return {"logits": logits, MASK: mask}

    def remember(self, model: MMFusionForConditionalGeneration, outputs: Any) -> Tensors:
        """The keys and values of the decoder's memory, which are the same in every step and are computed once. The
        decoder runs on its first token; unused outputs are removed from the graph."""
        memory, mask = model._memory(outputs)
        first: Any = model.config.decoder_start_token_id
        start = torch.full((memory.shape[0], 1), first, device=memory.device)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        model.decoder(
            input_ids=start,
            encoder_hidden_states=memory,
            encoder_attention_mask=mask,
            use_cache=True,
            return_dict=True,
            **{model.cache_name: cache},
        )
        tensors: dict[str, Any] = {MASK: mask}
        for number, layer in enumerate(cache.cross_attention_cache.layers):
            tensors |= {f"cross_key_{number}": layer.keys, f"cross_value_{number}": layer.values}
        return tensors


class StepGraph(nn.Module):
    """One step of the decoder. Its inputs are the last written token, `decoder_input_ids` `(B, 1)`, the outputs of
    `fuse`, and the keys and values of all tokens before it, `self_key_<layer>` and `self_value_<layer>` `(B, A, P,
    d)`. Its outputs are the `logits` of the next token, `(B, C)`, and the keys and values with this token added,
    `next_key_<layer>` and `next_value_<layer>`."""

    def __init__(self, model: MMFusionForConditionalGeneration):
        super().__init__()
        self.decoder, self.cache_name = model.decoder, model.cache_name

    def forward(self, **inputs: torch.Tensor) -> Tensors:
        caches = {}
        for kind in ("self", "cross"):
            layers, number = [], 0
            while f"{kind}_key_{number}" in inputs:
                layers.append((inputs[f"{kind}_key_{number}"], inputs[f"{kind}_value_{number}"]))
                number += 1
            caches[kind] = DynamicCache(layers)
        cache = EncoderDecoderCache(caches["self"], caches["cross"])
        mask = inputs[MASK]
        # The keys and values of the memory are given, so the decoder uses only the length of the memory.
        memory = mask.new_zeros((*mask.shape, 1), dtype=self.decoder.dtype)
        outputs = self.decoder(
            input_ids=inputs["decoder_input_ids"],
            encoder_hidden_states=memory,
            encoder_attention_mask=mask,
            use_cache=True,
            return_dict=True,
            **{self.cache_name: cache},
        )
        tensors = {"logits": outputs.logits[:, -1]}
        for number, layer in enumerate(cache.self_attention_cache.layers):
            tensors |= {f"next_key_{number}": layer.keys, f"next_value_{number}": layer.values}
        return tensors


def graphs_of(model: MMFusionPreTrainedModel) -> dict[str, nn.Module]:
    """All graphs of a model by name, in the order in which they run."""
    base: Any = model.base_model
    graphs: dict[str, nn.Module] = {f"encode_{name}": EncoderGraph(model, name) for name in base.encoders}
    if not isinstance(model, MMFusionForRetrieval) or model.config.matching_weight:
        graphs[FUSE] = FuseGraph(model)
    if isinstance(model, MMFusionForConditionalGeneration):
        graphs[STEP] = StepGraph(model)
    return graphs
