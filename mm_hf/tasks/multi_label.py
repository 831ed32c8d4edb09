"""Multi-label classification: any number of several labels per row."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import torch

from ..evaluation.diagnostics import calibration, label_scores
from ..evaluation.linear import LinearAnswer, fit_labels, score_of
from ..evaluation.plots import plot_label_scores
from ..models.head_table import CLASSIFICATION, MULTI_LABEL, QUESTION_ANSWERING
from .columns import NUMBER, short
from .registry import register_task
from .task import Constant, Task


@register_task
@dataclass
class MultiLabel(Task):
    """Which of several labels a row has."""

    name = MULTI_LABEL
    heads = (CLASSIFICATION, QUESTION_ANSWERING)
    probabilities = True
    keeps_line = True
    row_score = "the share of labels that are right"

    # ---- Measuring

    def answers(self, logits):
        """0 or 1 for each label, `(N, C)`."""
        return (logits > 0).long()

    def targets(self, labels):
        """The same; soft targets above 0.5 count as 1."""
        return (labels.reshape(len(labels), -1) > 0.5).long()

    def metrics(self, outputs, validate=True):
        """F1 over all labels of all rows, and averaged over the labels."""
        from torchmetrics import functional

        kind = {"task": "multilabel", "num_labels": outputs, "validate_args": validate}
        return {
            f"f1_{average}": partial(functional.f1_score, average=average, **kind) for average in ("micro", "macro")
        }

    def constants(self, labels, outputs):
        """The set of labels with the best F1 over these rows."""
        share = self.targets(labels[self.has_label(labels)]).double().mean(0)
        share, order = share.sort(descending=True, stable=True)
        chosen = torch.arange(1, len(share) + 1)
        best = (2 * share.cumsum(0) / (chosen + share.sum())).argmax()  # F1 of the most frequent one, two, three…
        answer = torch.zeros(len(share), dtype=torch.int64).scatter(0, order[: best + 1], 1)
        return {"majority": Constant(answer, self.first_metric, "the labels that together fit best")}

    def linear_answer(self, train, validation, test):
        """A logistic regression for each label."""
        targets = self.targets(train.labels).numpy()
        score = score_of(self, validation.labels, targets.shape[1])
        line = fit_labels(train.features, targets, lambda line: score(line(validation.features)), train.groups)
        return LinearAnswer(line(test.features), "logistic regression of each label", line.strength, line)

    def row_losses(self, logits, labels):
        """The binary cross entropies of all labels together."""
        labels = labels.reshape(len(labels), -1).float()
        functional = torch.nn.functional
        return functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none").sum(-1)

    def diagnostics(self, logits, labels):
        """Calibration over all labels of all rows, and the scores of each label."""
        diagnosed = {"calibration": calibration(*self.chances_and_truths(logits, labels))}
        if self.names is None:
            return diagnosed
        return {**diagnosed, "label_scores": label_scores(self.answers(logits), self.targets(labels), self.names)}

    def chances_and_truths(self, logits, labels):
        """For each label of each row."""
        return self.head_for(logits).probabilities(logits).flatten(), self.targets(labels).flatten() == 1

    def plots(self, analysis, answers, targets):
        """The scores of each label."""
        scores = analysis["label_scores"]
        return {"labels.png": partial(plot_label_scores, scores)} if scores else {}

    # ---- Saying

    def spell(self, answer):
        """The names of the labels that are present."""
        return ", ".join(name for name, present in zip(self.names or [], answer.tolist()) if present) or "(none)"

    def columns(self, outputs, top_k=1, every=False):
        """The list of labels with a probability above 0.5, and the probability of each label."""
        return {"prediction": pa.list_(pa.string())} | {f"probability_of_{name}": NUMBER for name in self.names or []}

    def values(self, said, top_k=1, every=False):
        """See `columns`."""
        return [
            [[name for name, share in zip(self.names or [], shares) if share > 0.5], *short(shares)]
            for shares in self.head_for(said).tempered(said.double()).sigmoid().float().numpy()
        ]

    # ---- Training

    @property
    def answer_in_words(self) -> str:
        """See the method of the base class."""
        return super().answer_in_words.replace("one", "any", 1)

    def row_classes(self, labels: torch.Tensor) -> list[Any]:
        """The labels of each row with a value above 0.5."""
        return [[number for number, value in enumerate(row) if value > 0.5] for row in labels.tolist()]
