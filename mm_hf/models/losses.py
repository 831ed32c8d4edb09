# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Losses of the heads. Each is a sum over the rows that have a label, divided by their number. The caller may give the
number over all processes and accumulation steps instead."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from .head_table import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .inputs import check_classes
from .names import did_you_mean


logger = logging.get_logger(__name__)

LARGEST_PLAIN_LABEL = 20  # a regression that learns larger labels without label_mean and label_scale warns

# The settings of a training loss, and the problem types that have them.
LOSS_SETTINGS = {
    "label_smoothing": (SINGLE_LABEL, MULTI_LABEL),
    "class_weights": (SINGLE_LABEL, MULTI_LABEL),
    "focal_gamma": (SINGLE_LABEL, MULTI_LABEL),
    "class_priors": (SINGLE_LABEL,),
}


def infer_problem_type(labels: torch.Tensor, num_labels: int) -> str:
    """Guesses the problem from the labels, by the rule of the library's own heads.

    One output is a regression; whole numbers are classes; `(B, num_labels)` floats are several labels, or soft targets
    as in VQA v2 (Goyal et al. 2017).
    """
    if num_labels == 1:
        return REGRESSION
    return MULTI_LABEL if labels.is_floating_point() else SINGLE_LABEL


def check_loss_settings(problem_type: str, settings: dict[str, Any]):
    """Refuses settings that are on, but that the loss of this problem does not have."""
    for name, problem_types in LOSS_SETTINGS.items():
        if settings.get(name) and problem_type not in problem_types:
            raise ValueError(
                f"{name} is {settings[name]}, but problem_type is {problem_type!r}: it is for {list(problem_types)}."
            )


def check_loss_ranges(settings: dict[str, Any], num_labels: int):
    """Refuses settings of a loss that are out of range, or that are not one number per class."""
    if not 0 <= settings.get("label_smoothing", 0) < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {settings['label_smoothing']}.")
    if not 0 <= settings.get("focal_gamma", 0) < math.inf:
        raise ValueError(f"focal_gamma must be 0 (off) or a positive number, got {settings['focal_gamma']}.")
    for name in ("class_weights", "class_priors"):
        values = settings.get(name)
        if values is None:
            continue
        if len(values) != num_labels:
            raise ValueError(f"{name} needs one number for each of {num_labels} labels, got {len(values)}.")
        if not all(0 < value < math.inf for value in values):
            raise ValueError(f"{name} must be positive numbers, got {values}.")


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    problem_type: str,
    num_items_in_batch: torch.Tensor | int | None = None,
    sample_weight: torch.Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    focal_gamma: float = 0.0,
    class_priors: Sequence[float] | None = None,
) -> torch.Tensor:
    """Cross-entropy, binary cross-entropy or squared error, over the rows that have a label.

    Args:
        logits: `(B, C)` float.
        labels: `single_label_classification`: `(B,)` int64 classes, -100 for a row without a label; or `(B, C)` floats
            that sum to one, soft targets. `multi_label_classification`: `(B, C)` floats in [0, 1]; the binary losses
            of a row are summed (Teney et al. 2018, section 3.7). `regression`: `(B,)` or `(B, C)` floats. NaN marks a
            missing float.
        problem_type: one of the three.
        num_items_in_batch: the number of labels in the global batch as the Trainer and `count_labels` count them, C
            per row if they are `(B, C)`; left out, the labelled rows of this batch. (The Trainer counts NaN too:
            there, leave out rows without a label.)
        sample_weight: `(B,)` float, the factor for the loss of each row. The divisor stays the number of
            labels: weights that average 1 keep the size of the loss.
        label_smoothing, class_weights, focal_gamma: see `single_label_losses` and `multi_label_losses`; not for
            `regression`.
        class_priors: how frequent each class is in the training rows, `(C,)`: log priors are added to the logits
            (logit adjustment, Menon et al. 2021, equation 10 with tau 1), so that the plain logits fit balanced
            classes. Only their ratios matter, so counts work too. Only for `single_label_classification`.

    Returns:
        `()`: zero, with zero gradients for every parameter, if no row has a label.

    Raises:
        ValueError: the problem type is unknown, the shape of labels or weights does not fit the logits, or this
            problem does not have a setting.
    """
    known = (REGRESSION, SINGLE_LABEL, MULTI_LABEL)
    if problem_type not in known:
        raise ValueError(
            f"problem_type must be one of {known}, got {problem_type!r}.{did_you_mean(problem_type, known)}"
        )
    settings = (label_smoothing, class_weights, focal_gamma, class_priors)
    check_loss_settings(problem_type, dict(zip(LOSS_SETTINGS, settings, strict=True)))
    hard = problem_type == SINGLE_LABEL and not labels.is_floating_point()
    shape = logits.shape[:1] if hard else logits.shape
    if labels.shape != shape and not (problem_type == REGRESSION and logits.shape == (*labels.shape, 1)):
        raise ValueError(
            f"problem_type {problem_type!r} needs labels of shape {tuple(shape)} with logits of shape "
            f"{tuple(logits.shape)}, got {labels.dtype} of shape {tuple(labels.shape)}."
            + hint_for_labels(labels, logits)
        )
    if hard:
        check_classes(labels, logits.shape[1])
    given, logits = labels, logits.float()
    weights = None if class_weights is None else logits.new_tensor(class_weights)
    if class_priors is not None:  # only for single labels
        logits = logits + logits.new_tensor(class_priors).log()
    if hard:
        losses = single_label_losses(logits, labels.long(), label_smoothing, weights, focal_gamma)
    else:
        labels = labels.reshape(logits.shape).float()
        labels, present = labels.nan_to_num(), ~labels.isnan()
        if problem_type == SINGLE_LABEL:
            losses = single_label_losses(logits, labels, label_smoothing, weights, focal_gamma)
        elif problem_type == MULTI_LABEL:
            losses = (multi_label_losses(logits, labels, label_smoothing, weights, focal_gamma) * present).sum(-1)
        else:
            losses = (((logits - labels) ** 2) * present).sum(-1) / present.sum(-1).clamp(min=1)
    return mean_over_labels(losses, given, num_items_in_batch, sample_weight)


def mean_over_labels(
    losses: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    sample_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """The weighted sum of the losses of the rows that have a label, divided by the number of labels. `losses` is
    `(B,)`, and finite for rows without a label too. The other arguments are those of `classification_loss`.

    Raises:
        ValueError: the weights are not one per row.
    """
    if sample_weight is not None:
        if sample_weight.shape != losses.shape:
            raise ValueError(f"sample_weight needs shape {tuple(losses.shape)}, got {tuple(sample_weight.shape)}.")
        losses = losses * sample_weight
    rows = labelled_rows(labels)
    count: torch.Tensor | float
    if num_items_in_batch is None:
        count = rows.sum().clamp(min=1)
    else:
        count = num_items_in_batch / (labels.shape[1] if labels.ndim == 2 else 1)
    return (losses * rows).sum() / count


def hint_for_labels(labels: torch.Tensor, logits: torch.Tensor) -> str:
    """Advice for labels whose shape does not fit the logits; empty if there is no usual reason."""
    if labels.is_floating_point() and labels.ndim == 1:
        return (
            " Classes are whole numbers: labels.long(). To predict numbers, use a model with num_labels=1, "
            "problem_type='regression'."
        )
    if not labels.is_floating_point() and labels.shape == logits.shape:
        return " Several labels per row need problem_type='multi_label_classification'; soft targets are floats."
    return ""


def single_label_losses(
    logits: torch.Tensor,
    labels: torch.Tensor,
    label_smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
    focal_gamma: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy of each row, `-sum_c w_c (1 - p_c)^gamma q_c log p_c`: all settings can be combined.

    Args:
        logits: `(B, C)` float32.
        labels: `(B,)` int64, -100 for a row without a label; or `(B, C)` float32.
        label_smoothing: s: the targets become `q (1 - s) + s / C` (Szegedy et al. 2016, section 7).
        class_weights: w, `(C,)` float32.
        focal_gamma: gamma of the focal loss (Lin et al. 2017, equation 4). The paper has one class per row; targets
            that are soft or smoothed have a factor for each class.

    Returns:
        `(B,)`.
    """
    if not focal_gamma:
        return nn.functional.cross_entropy(
            logits, labels, weight=class_weights, reduction="none", label_smoothing=label_smoothing
        )
    classes = logits.shape[1]
    if not labels.is_floating_point():
        labels = nn.functional.one_hot(labels.clamp(min=0), classes).float()
    targets = labels * (1 - label_smoothing) + label_smoothing / classes
    log_p = logits.log_softmax(-1)
    # At p = 1, a root of 1 - p has no finite gradient.
    factors = (-log_p.expm1()).clamp(min=torch.finfo(log_p.dtype).eps) ** focal_gamma
    losses = -factors * targets * log_p
    return (losses if class_weights is None else losses * class_weights).sum(-1)


def multi_label_losses(
    logits: torch.Tensor,
    labels: torch.Tensor,
    label_smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
    focal_gamma: float = 0.0,
) -> torch.Tensor:
    """Binary cross-entropy of each entry, `-w_c (q (1 - p)^gamma log p + (1 - q) p^gamma log(1 - p))`, `(B, C)`.

    The arguments are those of `single_label_losses`, with labels `(B, C)` in [0, 1] and one weight per column.
    Smoothed targets are `q (1 - s) + s / 2`, because each entry is a choice between two."""
    labels = labels * (1 - label_smoothing) + label_smoothing / 2
    if not focal_gamma:
        return nn.functional.binary_cross_entropy_with_logits(logits, labels, weight=class_weights, reduction="none")
    log_p, log_not_p = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
    yes = labels * (focal_gamma * log_not_p).exp() * log_p
    no = (1 - labels) * (focal_gamma * log_p).exp() * log_not_p
    return -(yes + no) if class_weights is None else -(yes + no) * class_weights


def check_label_scale(mean: Sequence[float] | None, std: Sequence[float] | None, num_labels: int):
    """Refuses a mean and a deviation that are not one finite number per output, or a deviation that is not above 0."""
    if mean is None and std is None:
        return
    for name, values in (("label_mean", mean), ("label_scale", std)):
        if values is None or len(values) != num_labels or not all(map(math.isfinite, values)):
            raise ValueError(f"{name} needs one finite number for each of {num_labels} outputs, got {values}.")
    if not all(value > 0 for value in std or ()):
        raise ValueError(f"label_scale must be above 0, got {std}.")


def warn_of_unit(labels: torch.Tensor):
    """Warns if the labels are much larger than a head learns well without scaling."""
    known = labels[~labels.isnan()].abs()
    if len(known) and not 0.01 <= known.max().item() <= LARGEST_PLAIN_LABEL:
        logger.warning(
            f"The labels of this regression go up to {known.max().item():g} in size, and the model learns them "
            "unscaled, which takes very long. Set label_mean and label_scale in the config "
            "(mm_hf.data.label_statistics computes them); predictions stay in the unit of the labels."
        )


def standardise(labels: torch.Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> torch.Tensor:
    """Converts numbers `(B,)` or `(B, C)` from the unit of their column to the scale that a regression learns:
    float32, mean 0 and deviation 1 over the training rows. Without mean and std the labels stay as they are. NaN (or
    -100 in whole numbers) marks a missing label and becomes NaN."""
    if mean is None or std is None:
        return labels
    missing = torch.zeros_like(labels, dtype=torch.bool) if labels.is_floating_point() else labels == -100
    return ((labels.float() - match_width(mean, labels)) / match_width(std, labels)).masked_fill(missing, math.nan)


def in_label_unit(scores: torch.Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> torch.Tensor:
    """The reverse: converts the output of a regression's last layer, `(B, C)`, to the unit of the labels. Always
    float32, because bfloat16 keeps only three digits of a price."""
    if mean is None or std is None:
        return scores
    return scores.float() * match_width(std, scores) + match_width(mean, scores)


def match_width(values: Sequence[float], labels: torch.Tensor) -> torch.Tensor:
    """One number per output, on the device of the labels `(B,)` or `(B, C)`, in a shape that broadcasts."""
    numbers = torch.tensor(values, dtype=torch.float32, device=labels.device)
    return numbers if labels.ndim > 1 else numbers[0]


Labels = torch.Tensor | Mapping[str, torch.Tensor]


def mixup(pooled: torch.Tensor, labels: Labels, alpha: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Mixes each row that has a label with another such row (Zhang et al. 2018), after the fusion: texts cannot be
    mixed at the input, so the fused vectors are mixed, as in manifold mixup (Verma et al. 2019).

    One share is drawn for the batch, from Beta(alpha, alpha), and a partner for each row. Rows without a label are not
    mixed, so the number of labelled rows stays the same.

    Args:
        pooled: `(B, D)` float.
        labels: see `classification_loss`; of several tasks, by name.
        alpha: above 0; the larger, the more even the shares.

    Returns:
        the mixed vectors `(B, D)`, each row's partner `(B,)` int64, and the share of its own vector and label.

    Raises:
        ValueError: the numbers of labels and rows differ.
    """
    for part in labels.values() if isinstance(labels, Mapping) else [labels]:
        if len(part) != len(pooled):
            raise ValueError(f"mixup needs labels for {len(pooled)} rows, got {part.dtype} of {tuple(part.shape)}.")
    share = torch.distributions.Beta(alpha, alpha).sample().item()
    rows = labelled_rows(labels).nonzero().flatten()
    partners = torch.arange(len(pooled), device=pooled.device)
    partners[rows] = rows[torch.randperm(len(rows)).to(rows.device)]
    return pooled[partners].lerp(pooled, share), partners, share


def labelled_rows(labels: Labels) -> torch.Tensor:
    """Which rows have a label, `(B,)` bool; with several tasks, a label of any task."""
    if isinstance(labels, Mapping):
        return torch.stack([labelled_rows(part) for part in labels.values()]).any(0)
    present = ~labels.isnan() if labels.is_floating_point() else labels != -100
    return present if present.ndim == 1 else present.any(-1)


def count_labels(labels: torch.Tensor) -> int:
    """The number of labels: entries that are neither -100 nor NaN."""
    return int((~labels.isnan() if labels.is_floating_point() else labels != -100).sum())


def count_all_labels(batches: Sequence[Any]) -> Any:
    """The number of labels in several batches, `()` float32; with several tasks, by name."""
    if isinstance(batches[0], Mapping):
        return {name: count_all_labels([labels[name] for labels in batches]) for name in batches[0]}
    return torch.tensor(float(sum(map(count_labels, batches))))


def count_items(batches: Sequence[dict[str, Any]]) -> Any:
    """The divisor for the loss of several batches: their number of labels (see `count_all_labels`); if they have none,
    their number of pairs of text and image (or sound), `()` float32; None if they have neither."""
    if "labels" in batches[0]:
        return count_all_labels([batch["labels"] for batch in batches])
    if "text_ids" in batches[0]:
        item_ids = "vision_ids" if "vision_ids" in batches[0] else "audio_ids"
        pairs = sum(((batch["text_ids"] >= 0) & (batch[item_ids] >= 0)).sum() for batch in batches)
        return torch.as_tensor(pairs).float()
    return None
