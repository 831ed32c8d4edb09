# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Speech to text, one token per moment of the sound: connectionist temporal classification (CTC).

Notation used for tensor shapes: see `modeling_outputs`; `A` tokens of the sound; `C` tokens of the vocabulary; `S`
tokens of the text.
"""

import math
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCTC
from transformers.utils import can_return_tuple, logging

from .configuration_mm_fusion import MMFusionConfig
from .head_table import CTC
from .inputs import check_token_labels
from .losses import count_labels
from .modeling_mm_fusion import MMFusionModel
from .modeling_outputs import MMFusionCTCOutput, MMFusionModelOutput
from .names import did_you_mean
from .pretrained_mm_fusion import MMFusionPreTrainedModel
from .sound import Sound
from .tasks import SpeechHead, TaskHead


logger = logging.get_logger(__name__)


class MMFusionForCTC(MMFusionPreTrainedModel):
    """Transcribes speech, in the order in which it is spoken (Graves et al. 2006).

    Each token of the sound, with the fused vector added, predicts a token of the text, or the blank (no token,
    `config.pad_token_id`). With `config.ctc_stride`, the mean of several neighbouring tokens predicts it. The text is
    the predicted tokens without repeats and blanks, so it has at most as many tokens as the sound. The other
    modalities are context: in `from_encoders_pretrained` the sound is the query modality.
    """

    def __init__(self, config: MMFusionConfig):
        super().__init__(config)
        if Sound.name not in config.modalities:
            raise ValueError(f"MMFusionForCTC transcribes sound, but this config has only {config.modalities}.")
        if (several := config.places_of(Sound.name)) > 1:
            raise ValueError(
                f"MMFusionForCTC transcribes one sound per row, but places[{Sound.name!r}] is {several}: leave it "
                "out. MMFusionForConditionalGeneration can write about several."
            )
        blank, size = config.pad_token_id, config.vocab_size
        if size is None or blank is None or not 0 <= blank < size:
            raise ValueError(
                "MMFusionForCTC needs config.vocab_size, the number of tokens that it can write, and "
                f"config.pad_token_id, one of these tokens, as the blank; got {size} and {blank}."
            )
        self.model = MMFusionModel(config)
        width, eps = config.fusion_module_config.sizes().width, config.fusion_module_config.layer_norm_eps
        self.token_norm, self.pooled_norm = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.ctc_head = nn.Linear(width, size)
        self.post_init()
        self.apply_freezing()

    @classmethod
    def adapt_part_configs(cls, configs: dict[str, Any], kwargs: dict[str, Any]):
        """See the method of the base class. The sound is the query modality, unless the caller sets another."""
        fusion = kwargs.get("fusion_module_config") or {}
        if isinstance(fusion, dict):
            kwargs["fusion_module_config"] = {"query_modality": Sound.name, **fusion}

    @property
    def blank(self) -> int:
        """The blank token; a model without one cannot be built."""
        return cast(int, self.config.pad_token_id)

    def last_layers(self) -> dict[str | None, tuple[nn.Module, TaskHead]]:
        return {None: (self.ctc_head, SpeechHead(cast(int, self.config.vocab_size)))}

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The part whose output the head reads: encode and fuse."""
        return self.model

    reads_tokens = True

    def answers_said(self, outputs, **settings):
        """The tokens of the text, `(B, S)`, padded with the blank; `settings` are those of `generate`."""
        return {None: self.generate(encoder_outputs=outputs, **settings)}

    def explained(self, outputs, said):
        """The log probability of the text, over all its alignments with the sound. It is at least that of a random
        guess (a uniform choice among all tokens at every place of the text): if a sound is missing or too short for
        the text, its probability would be 0."""
        tokens = nn.functional.pad(said[None], (0, 1), value=self.blank)  # works for an empty text too
        heard = self(encoder_outputs=outputs)
        lengths = (tokens != self.blank).sum(1)
        losses = nn.functional.ctc_loss(
            heard.logits.double().log_softmax(-1).transpose(0, 1),  # (A, B, C)
            tokens,
            heard.attention_mask.sum(1),
            lengths,
            blank=self.blank,
            reduction="none",
        )
        guess = lengths * math.log(heard.logits.shape[-1])
        scores = -torch.minimum(losses, guess)[:, None]
        return {None: (scores, scores.exp())}

    def explained_unit(self, task, name=None):
        """See the method of the base class."""
        return "log probability"

    def explained_in_words(self, task, said, name=None):
        """See the method of the base class."""
        return ["log probability of the text"]

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        encoder_outputs: MMFusionModelOutput | tuple | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        sample_weight: torch.Tensor | None = None,
        **inputs,
    ) -> MMFusionCTCOutput:
        """Predicts the token of each moment of the sound.

        Args:
            input_ids: see `MMFusionModel.forward`.
            labels: `(B, S)` int64, the text without start and end, padded with -100; all -100 for a row without a
                text. The loss is the CTC loss, divided by the number of tokens with a label. Rows with a text that is
                longer than their sound allows are not trained on; a warning says so.
            encoder_outputs: the output of `get_encoder()`, instead of the inputs.
            num_items_in_batch: tokens with a label in the global batch, see `classification_loss`.
            sample_weight: `(B,)` float, the weight of each row in the loss, only in training.
            inputs: all other inputs of `MMFusionModel.forward`.

        Raises:
            ValueError: labels that are blanks or not tokens of the vocabulary.
        """
        if encoder_outputs is None:
            encoder_outputs = self.model(input_ids=input_ids, **inputs)
        elif isinstance(encoder_outputs, tuple):
            encoder_outputs = MMFusionModelOutput(*encoder_outputs)
        states, mask = encoder_outputs.last_hidden_state, encoder_outputs.attention_mask
        ids = encoder_outputs.modality_ids
        if states is None or mask is None or ids is None:
            raise ValueError("MMFusionForCTC reads the fused tokens: leave return_tokens out, or set it to True.")
        heard = ids[0] == self.config.modalities.index(Sound.name)
        logits, mask = self.heard(states[:, heard], mask[:, heard], encoder_outputs.pooler_output)
        loss = None
        if labels is not None:
            check_token_labels(labels, len(logits))
            weight = sample_weight if self.training else None
            loss = ctc_loss(logits, mask, labels, self.blank, num_items_in_batch, weight)
        return MMFusionCTCOutput(
            loss=loss,
            logits=logits,
            attention_mask=mask,
            hidden_states=encoder_outputs.get("hidden_states"),
            attentions=encoder_outputs.get("attentions"),
            cross_attentions=encoder_outputs.get("cross_attentions"),
        )

    def heard(
        self, tokens: torch.Tensor, mask: torch.Tensor, pooled: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits of each moment, `(B, A', C)`, and which moments are not padding, `(B, A')` bool.

        Args:
            tokens, mask: the fused tokens of the sound, `(B, A, D)`, and their mask `(B, A)` bool.
            pooled: the fused vector, `(B, D)`.
        """
        tokens, mask = average(tokens, mask, self.config.ctc_stride)
        fused = self.token_norm(tokens) + self.pooled_norm(pooled)[:, None]
        return self.ctc_head(self.dropout(fused)), mask

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        num_beams: int = 1,
        max_new_tokens: int | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Transcribes.

        Args:
            inputs: `input_ids`, texts given in addition to the sound.
            num_beams: 1 takes the likeliest token of each moment; above 1 searches for the likeliest text with this
                number of beams (see `beam_search`).
            max_new_tokens: the most tokens of a text; longer texts are cut.
            kwargs: inputs of `MMFusionModel.forward`, or `encoder_outputs` in place of them.

        Returns:
            `(B, S)` int64 without start and end, padded with `config.pad_token_id`.

        Raises:
            ValueError: `num_beams` is below 1, or the model has no such argument.
        """
        if num_beams < 1:
            raise ValueError(f"num_beams must be at least 1, got {num_beams}.")
        known = {*self.model.input_names, "encoder_outputs"}
        if unknown := sorted(set(kwargs) - known):
            meant = did_you_mean(unknown[0], {*known, "num_beams", "max_new_tokens"})
            raise ValueError(
                f"generate of MMFusionForCTC has no {unknown[0]!r}; it has num_beams and max_new_tokens.{meant}"
            )
        outputs = self(input_ids=inputs, **kwargs) if inputs is not None else self(**kwargs)
        blank, texts = self.blank, []
        if num_beams == 1:
            for best, heard in zip(outputs.logits.argmax(-1), outputs.attention_mask):
                best = best[heard].unique_consecutive()
                texts.append(best[best != blank])
        else:
            scores = outputs.logits.float().log_softmax(-1).cpu()
            for score, heard in zip(scores, outputs.attention_mask.cpu()):
                text, _ = beam_search(score[heard], num_beams, blank)[0]
                texts.append(torch.tensor(text, dtype=torch.int64, device=self.device))
        return nn.utils.rnn.pad_sequence(
            [text[:max_new_tokens] for text in texts], batch_first=True, padding_value=blank
        )


def average(tokens: torch.Tensor, mask: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of `stride` neighbours, without padding. From tokens `(B, A, D)` and a mask `(B, A)` bool to
    `(B, ⌈A / stride⌉, D)` and `(B, ⌈A / stride⌉)` bool."""
    if stride == 1:
        return tokens, mask
    missing = -tokens.shape[1] % stride
    weights = nn.functional.pad(mask, (0, missing)).unflatten(1, (-1, stride)).to(tokens.dtype)  # (B, A', stride)
    tokens = nn.functional.pad(tokens, (0, 0, 0, missing)).unflatten(1, (-1, stride))  # (B, A', stride, D)
    counts = weights.sum(2, keepdim=True)
    return (tokens * weights.unsqueeze(-1)).sum(2) / counts.clamp(min=1), counts.squeeze(2) > 0


def ctc_loss(
    logits: torch.Tensor,
    mask: torch.Tensor,
    labels: torch.Tensor,
    blank: int,
    num_items_in_batch: torch.Tensor | int | None = None,
    sample_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """The negative log probability of a text over all its alignments with the sound (Graves et al. 2006, equations 3
    and 12), summed over the rows and divided by the number of tokens. The losses of parts of a batch add up.

    Args:
        logits: `(B, A, C)`.
        mask: `(B, A)` bool, true for sound, false for padding at the end.
        labels: `(B, S)` int64, -100 behind the text.
        blank: the token for moments without a token of the text.
        num_items_in_batch: tokens with a label in the global batch; None: in this one.
        sample_weight: `(B,)` float, the weight of each row.

    Raises:
        ValueError: a label that is outside of the vocabulary, or the blank.
    """
    labelled = labels != -100
    if ((labels < 0) | (labels >= logits.shape[-1]) | (labels == blank))[labelled].any():
        raise ValueError(
            f"Labels of CTC must be tokens from 0 to {logits.shape[-1] - 1} except the blank, {blank}; got "
            f"{sorted(set(labels[labelled].tolist()))}."
        )
    lengths, sounds = labelled.sum(1), mask.sum(1)
    # Two equal tokens in succession need a blank between them.
    repeats = ((labels[:, 1:] == labels[:, :-1]) & labelled[:, 1:]).sum(1)
    fits = (lengths > 0) & (lengths + repeats <= sounds)
    if ((lengths > 0) & ~fits).any():
        logger.warning_once(
            "Rows whose text has more tokens than their sound are not trained on: CTC writes at most one token of "
            "text per token of sound. This is said once."
        )
    losses = nn.functional.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),  # (A, B, C)
        labels.masked_fill(~labelled, 0),
        sounds,
        lengths,
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )
    losses = losses.where(fits, torch.zeros_like(losses))
    if sample_weight is not None:
        losses = losses * sample_weight
    count = count_labels(labels) if num_items_in_batch is None else num_items_in_batch
    return losses.sum() / (torch.clamp(count, min=1) if isinstance(count, torch.Tensor) else max(count, 1))


def beam_search(scores: torch.Tensor, beams: int, blank: int) -> list[tuple[list[int], float]]:
    """The likeliest texts, up to `beams` of them, each with the logarithm of its probability, likeliest first. Unlike
    the likeliest token of each moment, this counts all alignments of a text (prefix beam search, Hannun et al. 2014,
    algorithm 1, without a language model).

    Args:
        scores: `(A, C)` float32, log probabilities of the tokens.
        beams: how many texts are followed at a time, and how many tokens of each moment may continue them.
    """
    # Per text: the scores of its alignments that end in a blank, and of those that end in its last token. Only the
    # former can be followed by the same token again.
    hypotheses: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for moment in scores:
        best = moment.topk(min(beams, len(moment)))
        following: dict[tuple[int, ...], tuple[float, float]] = {}

        def add(text: tuple[int, ...], in_blank: float, in_token: float, to=following):
            before = to.get(text, (-math.inf, -math.inf))
            to[text] = log_add(before[0], in_blank), log_add(before[1], in_token)

        for text, (in_blank, in_token) in hypotheses.items():
            both = log_add(in_blank, in_token)
            for token, score in zip(best.indices.tolist(), best.values.tolist()):
                if token == blank:
                    add(text, both + score, -math.inf)
                elif text and token == text[-1]:
                    add(text, -math.inf, in_token + score)
                    add((*text, token), -math.inf, in_blank + score)
                else:
                    add((*text, token), -math.inf, both + score)
        possible = [(text, ways) for text, ways in following.items() if max(ways) > -math.inf]
        hypotheses = dict(sorted(possible, key=lambda entry: log_add(*entry[1]), reverse=True)[:beams])
    return [(list(text), log_add(*ways)) for text, ways in hypotheses.items()]


def log_add(a: float, b: float) -> float:
    """The logarithm of the sum of two values that are given as logarithms."""
    low, high = min(a, b), max(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


AutoModelForCTC.register(MMFusionConfig, MMFusionForCTC, exist_ok=True)
MMFusionForCTC.register_for_auto_class("AutoModelForCTC")

__all__ = ["CTC", "MMFusionForCTC"]
