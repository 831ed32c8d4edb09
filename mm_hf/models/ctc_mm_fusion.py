# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Speech to text, one letter a moment of the sound: connectionist temporal classification.

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
    """Writes down what is said, in the order in which it is said (Graves et al. 2006).

    Each token of the sound, as the fusion gives it with the fused vector added, says a token of the text or that there
    is none (`config.pad_token_id`, the blank); with `config.ctc_stride` the mean of several neighbours does. The text
    is what is left once repeats and blanks are taken out, so it cannot be longer than the sound has such tokens. Other
    modalities are context: `from_encoders_pretrained` lets the sound ask and the others answer.
    """

    def __init__(self, config: MMFusionConfig):
        super().__init__(config)
        if Sound.name not in config.modalities:
            raise ValueError(f"MMFusionForCTC writes what is heard, and this config has {config.modalities} alone.")
        if (several := config.places_of(Sound.name)) > 1:
            raise ValueError(
                f"MMFusionForCTC writes down one sound a row, and places[{Sound.name!r}] is {several}: leave it out. "
                "MMFusionForConditionalGeneration writes about several."
            )
        blank, size = config.pad_token_id, config.vocab_size
        if size is None or blank is None or not 0 <= blank < size:
            raise ValueError(
                "MMFusionForCTC needs config.vocab_size, the tokens that it can write, and config.pad_token_id, one "
                f"of them, for moments that say nothing; got {size} and {blank}."
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
        """See the method of the base class. The sound asks, unless the caller says otherwise."""
        fusion = kwargs.get("fusion_module_config") or {}
        if isinstance(fusion, dict):
            kwargs["fusion_module_config"] = {"query_modality": Sound.name, **fusion}

    @property
    def blank(self) -> int:
        """The token that says nothing; a model without one is not built."""
        return cast(int, self.config.pad_token_id)

    def last_layers(self) -> dict[str | None, tuple[nn.Module, TaskHead]]:
        return {None: (self.ctc_head, SpeechHead(cast(int, self.config.vocab_size)))}

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """What the head reads: encode and fuse."""
        return self.model

    reads_tokens = True

    def answers_said(self, outputs, **settings):
        """The tokens that it writes, `(B, S)`, the blank behind them; `settings` of `generate`."""
        return {None: self.generate(encoder_outputs=outputs, **settings)}

    def explained(self, outputs, said):
        """The log probability of the text, by all ways to say it in time. It is no lower than that of a guess, one of
        all tokens at every place of the text: a sound that is too short for the text, or none, cannot say it at
        all."""
        tokens = nn.functional.pad(said[None], (0, 1), value=self.blank)  # of no text at all too
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
        """Says for each moment of the sound which token it is.

        Args:
            input_ids: see `MMFusionModel.forward`.
            labels: `(B, S)` int64, the text without start and end, -100 behind it, and all along a row without one.
                The loss is that of CTC, divided by the number of tokens with a label. Rows whose text cannot fit into
                their sound teach nothing, and a warning says so.
            encoder_outputs: what `get_encoder()` gave, in place of the inputs.
            num_items_in_batch: tokens with a label in the global batch, see `classification_loss`.
            sample_weight: `(B,)` float, how much each row counts in the loss, in training alone.
            inputs: all other inputs of `MMFusionModel.forward`.

        Raises:
            ValueError: labels that are no tokens of the vocabulary, or blanks.
        """
        if encoder_outputs is None:
            encoder_outputs = self.model(input_ids=input_ids, **inputs)
        elif isinstance(encoder_outputs, tuple):
            encoder_outputs = MMFusionModelOutput(*encoder_outputs)
        states, mask = encoder_outputs.last_hidden_state, encoder_outputs.attention_mask
        ids = encoder_outputs.modality_ids
        if states is None or mask is None or ids is None:
            raise ValueError("MMFusionForCTC reads tokens, and none were given: leave return_tokens out, or True.")
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
        """The logits of each moment, `(B, A', C)`, and which of them hear something, `(B, A')` bool.

        Args:
            tokens, mask: of the sound, as the fusion gives them, `(B, A, D)` and `(B, A)` bool.
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
        """Writes.

        Args:
            inputs: `input_ids`, texts beside the sound.
            num_beams: 1 takes the likeliest token of each moment; above 1 the likeliest text is sought among as many
                (see `beam_search`).
            max_new_tokens: tokens that a text is cut to.
            kwargs: inputs of `MMFusionModel.forward`, or `encoder_outputs` in place of them.

        Returns:
            `(B, S)` int64 without start and end, `config.pad_token_id` behind a text.

        Raises:
            ValueError: `num_beams` below 1; arguments that are none of the model's.
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
    """Means of as many neighbours as `stride`, padding left out: of tokens `(B, A, D)` and a mask `(B, A)` bool, `(B,
    ⌈A / stride⌉, D)` and `(B, ⌈A / stride⌉)` bool."""
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
    """The negative logarithm of a text's probability, summed over all ways to say it in time (Graves et al. 2006,
    equations 3 and 12), over the rows; divided by the number of tokens, to which a batch in parts adds up.

    Args:
        logits: `(B, A, C)`.
        mask: `(B, A)` bool, true for sound; padding stands behind it.
        labels: `(B, S)` int64, -100 behind the text.
        blank: the token for moments that say nothing.
        num_items_in_batch: tokens with a label in the global batch; None: in this one.
        sample_weight: `(B,)` float, how much each row counts.

    Raises:
        ValueError: a label that is out of the vocabulary or the blank.
    """
    labelled = labels != -100
    if ((labels < 0) | (labels >= logits.shape[-1]) | (labels == blank))[labelled].any():
        raise ValueError(
            f"Labels of CTC are tokens from 0 to {logits.shape[-1] - 1} without the blank, {blank}; got "
            f"{sorted(set(labels[labelled].tolist()))}."
        )
    lengths, sounds = labelled.sum(1), mask.sum(1)
    # Between two equal tokens there has to be a blank.
    repeats = ((labels[:, 1:] == labels[:, :-1]) & labelled[:, 1:]).sum(1)
    fits = (lengths > 0) & (lengths + repeats <= sounds)
    if ((lengths > 0) & ~fits).any():
        logger.warning_once(
            "Rows whose text has more tokens than their sound teach nothing: CTC writes at most one a token of the "
            "sound. This is said once."
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
    """The likeliest texts, up to `beams` of them, with the logarithms of their probabilities, the likeliest first:
    unlike the likeliest token of each moment, a text counts with all ways to say it in time (prefix beam search,
    Hannun et al. 2014, algorithm 1, without a language model).

    Args:
        scores: `(A, C)` float32, logarithms of the probabilities of tokens.
        beams: texts that are followed at a time, and tokens of each moment that may go on with them.
    """
    # By text the scores of its ways that end in a blank, and of those that end in its last token: only the former can
    # go on with that very token.
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
    """The logarithm of the sum of what two logarithms stand for."""
    low, high = min(a, b), max(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


AutoModelForCTC.register(MMFusionConfig, MMFusionForCTC, exist_ok=True)
MMFusionForCTC.register_for_auto_class("AutoModelForCTC")

__all__ = ["CTC", "MMFusionForCTC"]
