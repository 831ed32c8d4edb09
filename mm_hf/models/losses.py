# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Losses of the heads. Each is a sum over the rows that have a label, divided by their number, or by the number over
all processes and accumulation steps where the caller knows it."""

from typing import Literal, get_args

import torch
from torch import nn


ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]
PROBLEM_TYPES = get_args(ProblemType)


def infer_problem_type(labels: torch.Tensor, num_labels: int) -> ProblemType:
    """Guesses the problem from the labels, by the rule of the library's own heads.

    One output is a regression; whole numbers are classes; `(B, num_labels)` floats are several labels, or soft targets
    as VQA v2 has them (Goyal et al. 2017).
    """
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    problem_type: str,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Cross-entropy, binary cross-entropy or squared error, over the rows that have a label.

    Args:
        logits: `(B, C)` float.
        labels: `single_label_classification`: `(B,)` int64 classes, -100 for a row without; or `(B, C)` floats that
            sum to one, soft targets. `multi_label_classification`: `(B, C)` floats in [0, 1], the binary losses of a
            row summed (Teney et al. 2018, section 3.7). `regression`: `(B,)` or `(B, C)` floats. NaN marks a float
            without label.
        problem_type: one of the three.
        num_items_in_batch: labels in the global batch as the Trainer and `count_labels` count them, C a row where
            they are `(B, C)`; left out, the rows with a label in this batch. (The Trainer counts NaN too: there,
            leave out rows without a label.)

    Returns:
        `()`: zero, with zero gradients for every parameter, where no row has a label.

    Raises:
        ValueError: an unknown problem type, or labels whose shape does not fit the logits.
    """
    if problem_type not in PROBLEM_TYPES:
        raise ValueError(f"problem_type must be one of {PROBLEM_TYPES}, got {problem_type!r}.")
    hard = problem_type == "single_label_classification" and not labels.is_floating_point()
    shape = logits.shape[:1] if hard else logits.shape
    if labels.shape != shape and not (problem_type == "regression" and logits.shape == (*labels.shape, 1)):
        raise ValueError(
            f"problem_type {problem_type!r} needs labels of shape {tuple(shape)} with logits of shape "
            f"{tuple(logits.shape)}, got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    if hard:
        rows = labels != -100
        labels = labels.long()
        losses = nn.functional.cross_entropy(logits.float(), labels, reduction="none", ignore_index=-100)
    else:
        labels = labels.reshape(logits.shape).float()
        present = ~labels.isnan()
        rows, labels = present.any(-1), labels.nan_to_num()
        if problem_type == "single_label_classification":
            losses = nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        elif problem_type == "multi_label_classification":
            losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
            losses = (losses * present).sum(-1)
        else:
            losses = (((logits.float() - labels) ** 2) * present).sum(-1) / present.sum(-1).clamp(min=1)
    count: torch.Tensor | float
    if num_items_in_batch is None:
        count = rows.sum().clamp(min=1)
    else:
        count = num_items_in_batch / (labels.shape[1] if labels.ndim == 2 else 1)
    return (losses * rows).sum() / count


def count_labels(labels: torch.Tensor) -> int:
    """How many labels there are: entries that are neither -100 nor NaN."""
    return int((~labels.isnan() if labels.is_floating_point() else labels != -100).sum())
