# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""How sure the head of a task is of its answers: probabilities, sets that hold the truth, intervals."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from .confidence import Confidence


# What labels are as tensors.
CLASSES = "classes"  # (B,) int64, -100 for none
SEVERAL = "several"  # (B, C) floats in [0, 1], NaN for none
NUMBERS = "numbers"  # (B,) or (B, C) floats, NaN for none
TEXTS = "texts"  # (B, S) int64 tokens, -100 behind a text and for none


class HowSureHead:
    """What a `TaskHead` says of its answers by what validation rows told, see `Confidence`; by what its labels are."""

    label_kind: ClassVar[str]
    confidence: Confidence | None
    label_scale: tuple[float, ...] | None

    def tempered(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits divided by the temperature: their order stays, and with it the likeliest class."""
        temperature = 1.0 if self.confidence is None else self.confidence.temperature
        return logits if temperature == 1 else logits / temperature

    def answer_scores(self, logits: torch.Tensor) -> torch.Tensor:
        """How unlikely each class is, or each of several labels: -log of its probability, `(…, C)` float64.

        Sets by this score hold all that is likelier than one threshold for all rows: LAC (Sadinle et al. 2019), whose
        sets are the smallest on average. (APS, Romano et al. 2020, spreads its errors more evenly over rows, by larger
        sets; how evenly these do, the report says by group.)"""
        logits = self.tempered(logits.double())
        return -nn.functional.logsigmoid(logits) if self.label_kind == SEVERAL else -logits.log_softmax(-1)

    def true_scores(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """How unlikely the truth is by what is said, `(N,)` float64: of one class its score; of several labels that of
        the unlikeliest one that the row has, so that a set holds them all; of numbers how far off the worst of them
        is, in deviations of the labels (`label_scale`) where the head knows them.

        Args:
            logits: `(N, C)`.
            labels: of rows that have one, by `label_kind`.
        """
        if self.label_kind == NUMBERS:
            errors = (logits.double() - labels.double().reshape(logits.shape)).abs()
            return (errors / self.number_scale(errors)).amax(-1)
        scores = self.answer_scores(logits)
        if self.label_kind == SEVERAL:
            return scores.masked_fill(labels.reshape(scores.shape) <= 0.5, 0).amax(-1)
        return scores.gather(-1, labels[:, None])[:, 0]

    def answer_set(self, logits: torch.Tensor, coverage: float) -> torch.Tensor:
        """The classes among which the true one is, or the labels that hold all true ones, in this share of new rows:
        bool `(…, C)`. The likeliest class is always among them: a model that is right more often than was asked would
        else give empty sets.

        Raises:
            ValueError: nobody looked, or see `Confidence.threshold`.
        """
        chosen = self.answer_scores(logits) <= self.threshold(coverage)
        if self.label_kind == SEVERAL:
            return chosen
        return chosen.scatter(-1, logits.argmax(-1, keepdim=True), True)

    def interval(self, logits: torch.Tensor, coverage: float) -> tuple[torch.Tensor, torch.Tensor]:
        """From where to where all numbers of a row lie, in this share of new rows: two tensors `(…, C)`, in the unit
        of the labels. All rows have the same width: a width for each row would take a second model, of the errors.

        Raises:
            ValueError: see `answer_set`.
        """
        width = self.threshold(coverage) * self.number_scale(logits.double())
        return logits.double() - width, logits.double() + width

    def threshold(self, coverage: float) -> float:
        """See `Confidence.threshold`.

        Raises:
            ValueError: also where nobody looked at validation rows.
        """
        if self.confidence is None:
            raise ValueError(
                f"coverage {coverage:g} was asked for, and this model was not calibrated: `mm_hf evaluate RUN "
                "--calibrate` does it on the validation rows of its run, `--calibrate true` at the end of training."
            )
        return self.confidence.threshold(coverage)

    def number_scale(self, like: torch.Tensor) -> torch.Tensor:
        """The deviation of the labels of each output, `(C,)`; ones where nobody knows them."""
        return like.new_tensor(self.label_scale or [1.0] * like.shape[-1])


class ConfidenceMixin:
    """What a model keeps of how sure its answers are, and when it forgets it."""

    config: Any
    training: bool

    def set_confidence(self, confidences: Mapping[str | None, Confidence]):
        """Keeps what validation rows say about the answers; see the method of `MMFusionConfig`."""
        self.config.set_confidence(confidences)

    def void_confidence(self):
        """Forgets it where the model trains: of other weights nobody knows it."""
        if self.training and torch.is_grad_enabled() and self.config.has_confidence:
            self.set_confidence({})
