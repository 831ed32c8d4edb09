"""One of several classes a row."""

from dataclasses import dataclass
from typing import Any

import torch

from ..models.head_table import CLASSIFICATION, QUESTION_ANSWERING, SINGLE_LABEL
from .task import Task, register_task


@register_task
@dataclass
class SingleLabel(Task):
    """Which one of several classes a row is."""

    name = SINGLE_LABEL
    heads = (CLASSIFICATION, QUESTION_ANSWERING)

    # ---- Training

    def head(self, columns: Any) -> str:
        """Question answering, where a row has picture and text."""
        seen = columns.image or columns.video
        return QUESTION_ANSWERING if seen and columns.text else CLASSIFICATION

    def loss_arguments(self, run: Any, among_others: bool = False) -> dict[str, Any]:
        """Also by how often each class comes in the training rows."""
        args = run.train_args
        if args.imbalance not in ("class_weights", "logit_adjustment"):
            return super().loss_arguments(run, among_others)
        labels = run.labels("train")
        counts = labels[labels != -100].bincount(minlength=len(self.names or ())).clamp(min=1).double()
        found: dict[str, Any] = {"label_smoothing": args.label_smoothing_factor}
        if args.imbalance == "class_weights":
            return {**found, "class_weights": (counts.sum() / (len(counts) * counts)).tolist()}
        return {**found, "class_priors": (counts / counts.sum()).tolist()}

    def row_classes(self, labels: torch.Tensor) -> list[Any]:
        """See the method of the base class."""
        return labels.tolist()
