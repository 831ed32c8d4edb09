# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Free text: a decoder that generates text with cross-attention to the fused tokens.

Notation used for tensor shapes: see `modeling_outputs`; `S` tokens of the generated text; `H` the decoder's
width.
"""

import copy
import inspect
import warnings
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.generation import GenerationMixin
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple

from .configuration_mm_fusion import MMFusionConfig
from .encoders import in_reach
from .freezing import holds_adapters
from .head_table import GENERATION, SINGLE_LABEL
from .inputs import check_classes, check_token_labels
from .losses import classification_loss
from .modeling_mm_fusion import MMFusionModel
from .modeling_outputs import MMFusionModelOutput, MMFusionSeq2SeqOutput
from .pretrained_mm_fusion import HUB_KEYS, MMFusionPreTrainedModel, settings_of_part
from .text import Text, ends_of_text


class MMFusionForConditionalGeneration(MMFusionPreTrainedModel, GenerationMixin):
    """Generates a text about its inputs: a caption of an image, an answer to a question.

    The encoder is encode and fuse. Its memory is the fused tokens of the modalities that are present, with the fused
    vector added to each, so that the decoder sees the joint information wherever it attends. The decoder is any model
    of `AutoModelForCausalLM` that supports cross-attention. By default it starts from the text encoder's own weights
    (BERT as a decoder: Rothe et al. 2020, section 2), with new cross-attention.
    """

    other_parts = {"decoder": "decoder_config"}

    def __init__(self, config: MMFusionConfig):
        super().__init__(config)
        if config.decoder_config is None:
            raise ValueError("MMFusionForConditionalGeneration needs config.decoder_config, the decoder; it is None.")
        if config.decoder_start_token_id is None or config.eos_token_id is None:
            raise ValueError(
                "A generated text needs a start and an end: give decoder_start_token_id and eos_token_id, got "
                f"{config.decoder_start_token_id} and {config.eos_token_id}."
            )
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            in_reach(lambda: AutoModelForCausalLM.from_config(copy.deepcopy(config.decoder_config)), "decoder_config")
        self.model = MMFusionModel(config)
        self.decoder = AutoModelForCausalLM.from_config(config.decoder_config)
        accepted = inspect.signature(self.decoder.forward).parameters
        if "encoder_hidden_states" not in accepted:
            raise ValueError(
                f"A decoder needs cross-attention, which {config.decoder_config.model_type!r} does not support: use "
                "BERT, RoBERTa, GPT-2 or BART, for example."
            )
        self.cache_name = "cache" if "cache" in accepted else "past_key_values"  # its name before transformers 5.24
        width = config.fusion_module_config.sizes().width
        eps = config.fusion_module_config.layer_norm_eps
        self.memory_norm, self.pooled_norm = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.memory_projection = nn.Linear(width, config.decoder_config.hidden_size)
        self.post_init()
        self.apply_freezing()

    def apply_freezing(self):
        super().apply_freezing()
        if holds_adapters(self.decoder):
            return
        frozen = self.config.freeze_decoder_embeddings
        for embeddings in (self.decoder.get_input_embeddings(), self.decoder.get_output_embeddings()):
            embeddings.weight.requires_grad_(not frozen)

    @classmethod
    def from_encoders_pretrained(cls, *, decoder: str | None = None, **kwargs: Any) -> "MMFusionPreTrainedModel":
        """Builds a model from pretrained encoders and a pretrained decoder; see the method of the base class.

        Args:
            decoder (`str`, *optional*): Hub id or local folder of any language model. If there is a text encoder, the
                decoder must have its vocabulary, because a processor has one tokenizer. Left out: the text encoder.
            decoder_layers (`int`, *optional*): keep only this many of its lowest layers; left out: all.
            kwargs: as in the base class. The tokens for start and end of a text (`decoder_start_token_id`,
                `eos_token_id`, `pad_token_id`) are the tokenizer's, unless they are given.

        Raises:
            ValueError: neither a decoder nor a text encoder is given, their vocabularies differ, or as in the base
                class.
        """
        text = kwargs.get(Text.name)
        source = decoder or text
        if source is None:
            raise ValueError("from_encoders_pretrained needs decoder=… if there is no text encoder.")
        for key in HUB_KEYS:
            if not decoder and isinstance(kwargs.get(key), dict):
                kwargs[key] = {**kwargs[key], "decoder": kwargs[key].get(Text.name)}

        def tokenizer(name: str, place: str) -> Any:
            hub_kwargs = {key: kwargs.get(key) for key in HUB_KEYS}
            return AutoTokenizer.from_pretrained(place, **settings_of_part(hub_kwargs, name))

        of_decoder = tokenizer("decoder", source)
        if text not in (None, source) and tokenizer(Text.name, text).get_vocab() != of_decoder.get_vocab():
            raise ValueError(
                f"The decoder {source} and the text encoder {text} have different vocabularies, but a processor has "
                "one tokenizer: use a decoder with the text encoder's vocabulary, or leave decoder out."
            )
        start, end, pad = ends_of_text(of_decoder)
        ends = {"decoder_start_token_id": start, "eos_token_id": end, "pad_token_id": pad}
        return super().from_encoders_pretrained(decoder=source, **{**ends, **kwargs})

    @classmethod
    def adapt_part_configs(cls, configs: dict[str, Any], kwargs: dict[str, Any]):
        """See the method of the base class. New parts of the decoder, above all its cross-attention, get initial
        weights for its width: BERT's 0.02 is for width 768; in narrower ones all attention scores would start almost
        equal."""
        config = configs["decoder_config"]
        if (layers := kwargs.pop("decoder_layers", None)) is not None:
            config.num_hidden_layers = layers
        for key in ("initializer_range", "init_std"):
            if hasattr(config, key):
                setattr(config, key, max(getattr(config, key), config.hidden_size**-0.5))

    def pretrained_part(self, name: str) -> PreTrainedModel:
        return self.decoder if name == "decoder" else super().pretrained_part(name)

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The part that makes the memory: encode and fuse."""
        return self.model

    def get_decoder(self) -> nn.Module:
        """The decoder."""
        return self.decoder

    def get_output_embeddings(self) -> nn.Module:
        """The decoder's last layer."""
        return self.decoder.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module):
        """Replaces the decoder's last layer."""
        self.decoder.set_output_embeddings(new_embeddings)

    def parts_with_words(self) -> list[tuple[PreTrainedModel, Any]]:
        """See the method of the base class; the decoder too."""
        return [*super().parts_with_words(), (self.decoder, self.config.decoder_config)]

    reads_tokens = True

    def answers_said(self, outputs, **settings):
        """The generated tokens, `(B, S)`, without the start; `settings` are those of `generate`."""
        settings = {**settings, "num_return_sequences": 1, "return_dict_in_generate": False}
        return {None: self.generate(encoder_outputs=outputs, **settings)[:, 1:]}

    def explained(self, outputs, said):
        """The log probability of the text, then of each of its tokens given the tokens before it; and the same as
        probabilities."""
        tokens = said[None]
        written = torch.arange(tokens.shape[1], device=tokens.device) < self.lengths_of(tokens)[:, None]
        logits = self(encoder_outputs=outputs, decoder_input_ids=self.prepare_decoder_input_ids_from_labels(tokens))
        scores = logits.logits.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]  # (B, S)
        scores = scores.double() * written
        scores = torch.cat([scores.sum(1, keepdim=True), scores], dim=1)
        return {None: (scores, scores.exp())}

    def explained_unit(self, task, name=None):
        """See the method of the base class."""
        return "log probability"

    def explained_in_words(self, task, said, name=None):
        """See the method of the base class."""
        return ["log probability of the text"]

    def lengths_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """How many of the tokens `(B, S)` belong to the text, with its end: `(B,)`."""
        known: Any = getattr(self.generation_config, "eos_token_id", None)
        ends = torch.tensor([known] if isinstance(known, int) else known or [], device=tokens.device)
        ended = torch.isin(tokens, ends).long()
        return (ended.cumsum(1) - ended == 0).sum(1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        encoder_outputs: MMFusionModelOutput | tuple | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        sample_weight: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **inputs,
    ) -> MMFusionSeq2SeqOutput:
        """Predicts the next token.

        Args:
            input_ids: see `MMFusionModel.forward`.
            labels: `(B, S)` int64, the text to generate, with its end but without its start; -100 for padding, and for
                all of a row without a text. The loss is cross-entropy, in training with `config.label_smoothing`.
            decoder_input_ids: `(B, S)` int64, the text up to now, with its start; left out, the labels shifted by one
                place.
            decoder_attention_mask: `(B, S)`, 1 for a token, 0 for padding.
            decoder_inputs_embeds: `(B, S, H)` float, instead of `decoder_input_ids`.
            encoder_outputs: the output of `get_encoder()`, instead of the inputs.
            cache: the decoder's keys and values of the earlier tokens (`past_key_values` is its older name).
            use_cache: return them.
            num_items_in_batch: tokens with a label in the global batch, see `classification_loss`.
            sample_weight: `(B,)` float, the weight of each row in the loss, only in training.
            output_attentions, output_hidden_states: of the decoder and of the fusion.
            inputs: all other inputs of `MMFusionModel.forward`.

        Raises:
            ValueError: neither labels nor `decoder_input_ids` are given.
        """
        config = self.config
        options = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        states: dict[str, Any] = {
            name: getattr(config, name) if value is None else value for name, value in options.items()
        }
        if encoder_outputs is None:
            encoder_outputs = self.model(input_ids=input_ids, **states, **inputs)
        elif isinstance(encoder_outputs, tuple):
            encoder_outputs = MMFusionModelOutput(*encoder_outputs)
        if labels is not None:
            check_token_labels(labels, len(cast(Any, encoder_outputs)["last_hidden_state"]))
            check_classes(labels, self.decoder.get_input_embeddings().weight.shape[0])
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                raise ValueError("Give labels or decoder_input_ids, or call generate().")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        memory, mask = self._memory(encoder_outputs)
        if past_key_values is not None:
            cache = past_key_values
            if self.cache_name == "cache":
                warnings.warn("`past_key_values` is deprecated, as in transformers: use `cache`.", FutureWarning, 2)
        outputs = self.decoder(
            input_ids=decoder_input_ids,
            inputs_embeds=decoder_inputs_embeds,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=memory,
            encoder_attention_mask=mask,
            use_cache=labels is None if use_cache is None else use_cache,
            return_dict=True,
            **({} if cache is None else {self.cache_name: cache}),
            **states,
        )
        loss = None
        if labels is not None:
            settings: dict[str, Any] = {}
            if self.training:
                settings["label_smoothing"] = self.config.label_smoothing
                if sample_weight is not None:
                    settings["sample_weight"] = sample_weight.repeat_interleave(labels.shape[1])
            loss = classification_loss(
                outputs.logits.flatten(0, 1),  # (B S, vocabulary)
                labels.flatten(),
                SINGLE_LABEL,
                num_items_in_batch,
                **settings,
            )
        return MMFusionSeq2SeqOutput(
            loss=loss,
            logits=outputs.logits,
            cache=outputs.get(self.cache_name),
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.get("hidden_states"),
            encoder_attentions=encoder_outputs.get("attentions"),
        )

    def _memory(self, encoder_outputs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The memory that the decoder attends to, `(B, T', H)`, and its mask: the fused tokens; if the fused vector is
        given, it is added to each."""
        memory, mask = self.memory_norm(encoder_outputs["last_hidden_state"]), encoder_outputs.get("attention_mask")
        pooled = encoder_outputs.get("pooler_output")
        if pooled is not None:
            memory = memory + self.pooled_norm(pooled)[:, None]
        return self.memory_projection(self.dropout(memory)), None if mask is None else mask.long()

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """The labels `(B, S)` shifted by one place, after the start token; -100 becomes padding."""
        config: Any = self.config  # it has these tokens, else the model cannot be built
        shifted = labels.roll(1, dims=1)
        shifted[:, 0] = config.decoder_start_token_id
        return shifted.masked_fill(shifted == -100, config.pad_token_id)

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, generation_config=None, **kwargs) -> Any:
        """Generates a text. The difference from the library's method: it takes all inputs of `MMFusionModel.forward`,
        also a single modality, and texts and images that rows share are encoded once.

        Args:
            inputs: `input_ids`.
            generation_config: as in the library.
            kwargs: inputs, or `encoder_outputs` instead, and all arguments of the library's method (`max_new_tokens`,
                `num_beams`, `do_sample`…).

        Returns:
            `(B, S)` int64, with the start.
        """
        if kwargs.get("encoder_outputs") is None:
            names = [name for name in self.model.input_names if name in kwargs]
            model_inputs = {name: kwargs.pop(name) for name in names if not name.startswith("output_")}
            if inputs is not None:
                model_inputs["input_ids"] = inputs
            states = {name: kwargs.get(name) for name in ("output_attentions", "output_hidden_states")}
            kwargs["encoder_outputs"] = self.get_encoder()(**model_inputs, **states)
        elif isinstance(kwargs["encoder_outputs"], tuple):
            kwargs["encoder_outputs"] = MMFusionModelOutput(*kwargs["encoder_outputs"])
        return cast(Any, super()).generate(generation_config=generation_config, **kwargs)


AutoModelForImageTextToText.register(MMFusionConfig, MMFusionForConditionalGeneration, exist_ok=True)
MMFusionForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["GENERATION", "MMFusionForConditionalGeneration"]
