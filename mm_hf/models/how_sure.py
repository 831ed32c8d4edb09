# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""How sure the head of a task is of its answers: probabilities, sets that contain the truth, intervals."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from .confidence import Confidence


# The kinds of labels, and their tensors.
CLASSES = "classes"  # (B,) int64, -100 for none
SEVERAL = "several"  # (B, C) floats in [0, 1], NaN for none
NUMBERS = "numbers"  # (B,) or (B, C) floats, NaN for none
TEXTS = "texts"  # (B, S) int64 tokens, -100 behind a text and for none


class HowSureHead:
    """Adds the confidence of answers to a `TaskHead`, from what was learned on validation rows, see `Confidence`. The
    result depends on the kind of labels."""

    label_kind: ClassVar[str]
    confidence: Confidence | None
    label_scale: tuple[float, ...] | None

    def tempered(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits divided by the temperature: their order, and so the likeliest class, stays the same."""
        temperature = 1.0 if self.confidence is None else self.confidence.temperature
        return logits if temperature == 1 else logits / temperature

    def answer_scores(self, logits: torch.Tensor) -> torch.Tensor:
        """How unlikely each class is, or each of several labels: -log of its probability, `(…, C)` float64.

        A set contains all classes with a score up to one threshold, which is the same for all rows: LAC (Sadinle et
        al. 2019); its sets are the smallest on average. (APS, Romano et al. 2020, spreads its errors more evenly over
        rows, with larger sets. The report shows by group how evenly these sets spread them.)"""
        logits = self.tempered(logits.double())
        return -nn.functional.logsigmoid(logits) if self.label_kind == SEVERAL else -logits.log_softmax(-1)

    def true_scores(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """How unlikely the truth is by the model's prediction, `(N,)` float64. For one class: its score. For several
        labels: the highest score of the row's true labels, so that a set contains them all. For numbers: the error of
        the worst one, in deviations of the labels (`label_scale`) if the head knows them.

        Args:
            logits: `(N, C)`.
            labels: labels of rows that have one, in the form of `label_kind`.
        """
        if self.label_kind == NUMBERS:
            errors = (logits.double() - labels.double().reshape(logits.shape)).abs()
            return (errors / self.number_scale(errors)).amax(-1)
        scores = self.answer_scores(logits)
        if self.label_kind == SEVERAL:
            return scores.masked_fill(labels.reshape(scores.shape) <= 0.5, 0).amax(-1)
        return scores.gather(-1, labels[:, None])[:, 0]

    def answer_set(self, logits: torch.Tensor, coverage: float) -> torch.Tensor:
        """The set of classes that contains the true one, or the set of labels that contains all true ones, in this
        share of new rows: bool `(…, C)`. The likeliest class is always in the set: a model that is right more often
        than the coverage requires would otherwise return empty sets.

        Raises:
            ValueError: the model was not calibrated, or see `Confidence.threshold`.
        """
        chosen = self.answer_scores(logits) <= self.threshold(coverage)
        if self.label_kind == SEVERAL:
            return chosen
        return chosen.scatter(-1, logits.argmax(-1, keepdim=True), True)

    def interval(self, logits: torch.Tensor, coverage: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The interval that contains all numbers of a row, in this share of new rows: its ends, two tensors `(…, C)`,
        in the unit of the labels. All rows get the same width: a width per row would need a second model of the
        errors.

        Raises:
            ValueError: see `answer_set`.
        """
        width = self.threshold(coverage) * self.number_scale(logits.double())
        return logits.double() - width, logits.double() + width

    def threshold(self, coverage: float) -> float:
        """See `Confidence.threshold`.

        Raises:
            ValueError: also if the model was not calibrated on validation rows.
        """
        if self.confidence is None:
            raise ValueError(
                f"coverage {coverage:g} needs a calibrated model, and this one was not calibrated: run `mm_hf "
                "evaluate RUN --calibrate`, which uses the validation rows, or train with `--calibrate true`."
            )
        return self.confidence.threshold(coverage)

    def number_scale(self, like: torch.Tensor) -> torch.Tensor:
        """The standard deviation of the labels of each output, `(C,)`; ones if it is not known."""
        return like.new_tensor(self.label_scale or [1.0] * like.shape[-1])


class ConfidenceMixin:
    """What a model knows about the confidence of its answers, and when this is removed."""

    config: Any
    training: bool

    def set_confidence(self, confidences: Mapping[str | None, Confidence]):
        """Keeps what was learned on validation rows about the answers; see the method of `MMFusionConfig`."""
        self.config.set_confidence(confidences)

    def void_confidence(self):
        """Removes it when the model trains: it does not hold for other weights."""
        if self.training and torch.is_grad_enabled() and self.config.has_confidence:
            self.set_confidence({})
