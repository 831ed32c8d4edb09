"""Classification: one of several classes per row."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..evaluation.diagnostics import calibration, confusion
from ..evaluation.linear import LinearAnswer, fit_classes, score_of
from ..evaluation.plots import plot_confusion
from ..models.head_table import CLASSIFICATION, QUESTION_ANSWERING, SINGLE_LABEL
from .columns import NUMBER, short
from .registry import register_task
from .task import Task


@register_task
@dataclass
class SingleLabel(Task):
    """Which one of several classes a row belongs to."""

    name = SINGLE_LABEL
    heads = (CLASSIFICATION, QUESTION_ANSWERING)
    probabilities = True
    keeps_line = True

    # ---- Measuring

    def answers(self, logits):
        """The class, `(N,)`."""
        return logits.argmax(-1)

    def metrics(self, outputs, validate=True):
        """Accuracy, and F1 averaged over the classes."""
        from torchmetrics import functional

        kind = {"task": "multiclass", "num_classes": outputs, "validate_args": validate}
        return {
            "accuracy": partial(functional.accuracy, average="micro", **kind),
            "macro_f1": partial(functional.f1_score, average="macro", **kind),
        }

    def linear_answer(self, train, validation, test):
        """A logistic regression."""
        classes = len(self.names) if self.names else 1 + int(max(train.labels.max(), validation.labels.max()))
        score = score_of(self, validation.labels, classes)
        line = fit_classes(
            train.features,
            train.labels.numpy(),
            classes,
            lambda line: score(line(validation.features)),
            train.groups,
        )
        return LinearAnswer(line(test.features), "logistic regression", line.strength, line)

    def row_losses(self, logits, labels):
        """The cross entropy."""
        return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")

    def diagnostics(self, logits, labels):
        """Calibration (how often answers are right, compared with their probability), and the confusion matrix."""
        confidence, likeliest = self.head_for(logits).probabilities(logits).max(-1)
        diagnosed = {"calibration": calibration(confidence, likeliest == labels)}
        if self.names is None:
            return diagnosed
        return {**diagnosed, "confusion": confusion(self.answers(logits), labels, self.names)}

    def plots(self, analysis, answers, targets):
        """The confusion matrix, unless it is too large."""
        matrix = analysis["confusion"] and analysis["confusion"]["matrix"]
        return {"confusion.png": partial(plot_confusion, matrix, self.names or [])} if matrix else {}

    # ---- Saying

    def mistakes(self, logits, labels, places):
        """With the probability of the answer and of the true class."""
        mistakes = super().mistakes(logits, labels, places)
        for mistake, place in zip(mistakes, places):
            probabilities: Any = self.chances(logits[place])
            mistake["probability"] = probabilities.max().item()
            mistake["truth_probability"] = probabilities[labels[place]].item()
        return mistakes

    def caption(self, mistake):
        """With both probabilities."""
        answer, truth = f"{mistake['answer']} {mistake['probability']:.2f}", mistake["truth"]
        return answer, f"{truth} {mistake['truth_probability']:.2f}", False

    def columns(self, outputs, top_k=1, every=False):
        """The best class and its probability, the same for the next best classes, and the probability of every
        class."""
        types = {"prediction": pa.string(), "probability": NUMBER}
        for place in range(2, top_k + 1):
            types |= {f"prediction_{place}": pa.string(), f"probability_{place}": NUMBER}
        return types | ({f"probability_of_{name}": NUMBER for name in self.names or []} if every else {})

    def values(self, said, top_k=1, every=False):
        """See `columns`. Classes with equal probabilities keep their order."""
        rows, names = [], self.names or []
        for shares in self.head_for(said).tempered(said.double()).softmax(-1).float().numpy():
            order = np.argsort(-shares, kind="stable")[:top_k].tolist() if top_k > 1 else [int(shares.argmax())]
            best = [value for place in order for value in (names[place], *short(shares[place : place + 1]))]
            rows.append([*best, *short(shares)] if every else best)
        return rows

    # ---- Training

    def head(self, columns: Any) -> str:
        """Question answering if a row has picture and text, else classification."""
        seen = columns.image or columns.video
        return QUESTION_ANSWERING if seen and columns.text else CLASSIFICATION

    def loss_arguments(self, run: Any, among_others: bool = False) -> dict[str, Any]:
        """Also settings that depend on the frequency of each class in the training rows."""
        args = run.train_args
        if args.imbalance not in ("class_weights", "logit_adjustment"):
            return super().loss_arguments(run, among_others)
        labels = run.labels("train")
        counts = labels[labels != -100].bincount(minlength=len(self.names or ())).clamp(min=1).double()
        settings: dict[str, Any] = {"label_smoothing": args.label_smoothing_factor}
        if args.imbalance == "class_weights":
            return {**settings, "class_weights": (counts.sum() / (len(counts) * counts)).tolist()}
        return {**settings, "class_priors": (counts / counts.sum()).tolist()}

    def row_classes(self, labels: torch.Tensor) -> list[Any]:
        """See the method of the base class."""
        return labels.tolist()
