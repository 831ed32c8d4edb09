# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The part of a task that travels with a checkpoint: a `TaskHead`, with its last layer, its loss and the meaning of
its outputs. Also how the losses of several tasks are weighted.

A head is identified by its problem type, which the config names. The heads of the package register themselves here. A
head from outside does not travel in checkpoints, and must be imported before a model that uses it is loaded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import initialization as init

from .confidence import Confidence, read_confidence
from .config_checks import check_num_labels, has_finite, shown
from .head_table import CTC, GENERATION, MULTI_LABEL, PROBLEM_TYPES, REGRESSION, SINGLE_LABEL
from .how_sure import CLASSES, NUMBERS, SEVERAL, TEXTS, HowSureHead
from .inputs import check_classes
from .losses import (
    LOSS_SETTINGS,
    check_label_scale,
    check_loss_ranges,
    classification_loss,
    in_label_unit,
    infer_problem_type,
    labelled_rows,
    mean_over_labels,
    standardise,
)
from .names import did_you_mean


TASK_KEYS = (
    "problem_type",
    "labels",
    "num_labels",
    "weight",
    "label_mean",
    "label_scale",
    "confidence",
    *LOSS_SETTINGS,
)
TASK_WEIGHTINGS = ("fixed", "uncertainty")

TaskTensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class TaskHead(HowSureHead):
    """One question that is answered for every row: the form of its labels, the last layer that answers it, and the
    loss.

    A head from outside the package is a subclass with a `name` and `row_losses`, registered by `register_task_head`.
    The model's config names it as `problem_type`, and so do its `tasks`.

    Args:
        num_labels: C, the number of classes, or of numbers that it predicts.
        labels: the names of the classes; None for numbers.
        weight: the factor of its loss in the sum of several tasks.
        loss_settings: the settings of its training loss, by name.
        label_mean, label_scale: for numbers, one per output, see `standardise`; None: it learns them as they are.
        confidence: what was learned on validation rows; None: not calibrated, see `mm_hf evaluate --calibrate`.

    Attributes:
        name: its problem type, such as "regression".
        label_kind: the form of its labels as tensors: `CLASSES`, `SEVERAL`, `NUMBERS` or `TEXTS`.
        settings: the settings of a training loss that it supports.
    """

    num_labels: int
    labels: tuple[str, ...] | None = None
    weight: float = 1.0
    loss_settings: dict[str, Any] = field(default_factory=dict)
    label_mean: tuple[float, ...] | None = None
    label_scale: tuple[float, ...] | None = None
    confidence: Confidence | None = None

    name: ClassVar[str]
    label_kind: ClassVar[str] = CLASSES
    settings: ClassVar[tuple[str, ...]] = ()

    @property
    def problem_type(self) -> str:
        """Its name, as the config has it."""
        return self.name

    @property
    def num_outputs(self) -> int:
        """The number of outputs of its layer."""
        return self.num_labels

    def layer(self, width: int, num_outputs: int) -> nn.Module:
        """The last layer, from `(B, width)` to `(B, num_outputs)`. A layer that has parameters outside of the standard
        layers needs a method `init_own_parameters(std)`, which sets their initial values."""
        return nn.Linear(width, num_outputs)

    def in_unit(self, scores: torch.Tensor) -> torch.Tensor:
        """The output of its layer in the form that the model returns: `(B, C)` logits, or numbers in the label's
        unit."""
        return in_label_unit(scores, self.label_mean, self.label_scale)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor | None:
        """The probabilities for logits `(…, C)`, float32; None for numbers."""
        if self.label_kind == NUMBERS:
            return None
        logits = self.tempered(logits.float())
        return logits.sigmoid() if self.label_kind == SEVERAL else logits.softmax(-1)

    # ---- Evidence: which number of an answer is explained

    def said(self, logits: torch.Tensor) -> torch.Tensor:
        """Which outputs are explained, `(B, K)` int64, for logits `(B, C)`: the likeliest class or label; or every
        number."""
        if self.label_kind == NUMBERS:
            return torch.arange(logits.shape[-1], device=logits.device).expand(len(logits), -1)
        return logits.argmax(-1, keepdim=True)

    def explained(self, logits: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """The numbers of these outputs that are explained, `(B, K)` float64. For a class or label, its log odds: on
        this scale independent effects add up, and no probability saturates. For a number, its value in its unit."""
        logits = logits.double()
        if self.label_kind != CLASSES:
            return logits.gather(-1, said)
        others = logits.scatter(-1, said, -math.inf).logsumexp(-1, keepdim=True)
        return logits.gather(-1, said) - others if logits.shape[-1] > 1 else logits * 0

    def shown(self, logits: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """The same as people read it, `(B, K)`: the probability of the class or label, or the number."""
        chances = self.probabilities(logits)
        return (logits if chances is None else chances).gather(-1, said)

    def explained_unit(self, name: str | None = None) -> str:
        """The unit of the numbers, without saying which number it is; `name` is the name of the question."""
        return name or "the number" if self.label_kind == NUMBERS else "log odds"

    def explained_in_words(self, said: torch.Tensor, name: str | None = None) -> list[str]:
        """A description of each number; `said` is `(K,)`, for one row, `name` the name of the question."""
        name = self.explained_unit(name)
        if self.label_kind != NUMBERS:
            return [f"{name} of {self.labels[place] if self.labels else place!r}" for place in said.tolist()]
        return [name if self.num_labels == 1 else f"{name} {place}" for place in said.tolist()]

    def row_losses(self, scores: torch.Tensor, labels: torch.Tensor, **settings: Any) -> torch.Tensor:
        """The loss of each row.

        Args:
            scores: the output of the layer, float32.
            labels: in the form of `label_kind`, `(B,)` or `(B, C)`; numbers are standardised (see `standardise`). For
                rows without a label they are 0, and the loss of these rows is ignored.
            settings: in training, the settings in `settings` that are on.

        Returns:
            `(B,)`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement row_losses.")

    def loss(
        self,
        scores: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        sample_weight: torch.Tensor | None = None,
        training: bool = False,
    ) -> torch.Tensor:
        """Its loss, without its weight; outside of training, without settings. For the arguments see
        `classification_loss`, except `scores`: the output of its layer before `in_unit`.

        Raises:
            ValueError: the shape or the classes of the labels do not fit.
        """
        labels = standardise(labels, self.label_mean, self.label_scale)
        classes = self.label_kind == CLASSES
        shape = (len(scores),) if classes else (len(scores), self.num_labels)
        one_number = not classes and labels.shape == shape[:1] and self.num_labels == 1
        if (labels.shape != shape and not one_number) or classes == labels.is_floating_point():
            kind = "whole numbers" if classes else "floats"
            raise ValueError(
                f"problem_type {self.name!r} needs labels of shape {shape}, {kind}; got {labels.dtype} of shape "
                f"{tuple(labels.shape)}."
            )
        if classes:
            check_classes(labels, self.num_labels)
        check_settings(self.name, self.loss_settings)
        if not classes:  # a row in which a part of the label is missing counts as unlabelled
            labels = labels.reshape(shape)
            labels = labels.masked_fill(labels.isnan().any(-1, keepdim=True), math.nan)
        known = labels.clamp(min=0) if classes else labels.nan_to_num()
        losses = self.row_losses(scores.float(), known, **(self.loss_settings if training else {}))
        losses = losses.where(labelled_rows(labels), torch.zeros_like(losses))
        return mean_over_labels(losses, labels, num_items_in_batch, sample_weight if training else None)


TASK_HEADS: dict[str, type[TaskHead]] = {}  # by problem type


def register_task_head(head: type[TaskHead]) -> type[TaskHead]:
    """A decorator: registers a head under its name.

    Raises:
        ValueError: another head has this name.
    """
    known = TASK_HEADS.get(head.name)
    if known is not None and known.__qualname__ != head.__qualname__:
        raise ValueError(f"The task head {head.name!r} exists already, {known.__name__}: use another name.")
    TASK_HEADS[head.name] = head
    if head.label_kind != TEXTS and head.name not in PROBLEM_TYPES:
        PROBLEM_TYPES.append(head.name)
    return head


def task_head_of(problem_type: str, texts: bool = True) -> type[TaskHead]:
    """The head of a problem type.

    Args:
        problem_type: its name.
        texts: whether heads of texts are allowed. No config names these: their models generate, which their class
            shows.

    Raises:
        ValueError: it is not registered; a head from outside the package must be imported first.
    """
    head = TASK_HEADS.get(problem_type) if isinstance(problem_type, str) else None
    if head is None or (head.label_kind == TEXTS and not texts):
        known = tuple(PROBLEM_TYPES)
        raise ValueError(
            f"problem_type must be one of {known}, got {shown(problem_type)}.{did_you_mean(problem_type, known)} "
            "Import one from outside mm_hf before you load its model (`--import FILE`, or an import in "
            "Python)."
        )
    return head


def label_kind_of(problem_type: str | None) -> str | None:
    """The form of a problem's labels as tensors; None if the problem is not known."""
    return None if problem_type is None else task_head_of(problem_type).label_kind


def problem_type_of(label_kind: str) -> str:
    """The problem type to use if only the form of the labels is known: the package's own of that form."""
    return next(name for name, head in TASK_HEADS.items() if head.label_kind == label_kind)


def check_settings(problem_type: str, settings: Mapping[str, Any]):
    """Refuses settings that are on, but that the loss of this problem does not have."""
    head = task_head_of(problem_type)
    for name, value in settings.items():
        if value and name not in head.settings:
            having = [other for other, known in TASK_HEADS.items() if name in known.settings]
            raise ValueError(f"{name} is {value}, but problem_type is {problem_type!r}: it is for {having}.")


class ColumnHead(TaskHead):
    """A head of the package, with the loss `classification_loss`."""

    def loss(self, scores, labels, num_items_in_batch=None, sample_weight=None, training=False) -> torch.Tensor:
        labels = standardise(labels, self.label_mean, self.label_scale)
        shape = {"sample_weight": sample_weight, **self.loss_settings} if training else {}
        return classification_loss(scores, labels, self.name, num_items_in_batch, **shape)


@register_task_head
class RegressionHead(ColumnHead):
    """One or several numbers."""

    name = REGRESSION
    label_kind = NUMBERS


@register_task_head
class SingleLabelHead(ColumnHead):
    """One of several classes; also soft targets, `(B, C)` floats that sum to one."""

    name = SINGLE_LABEL
    settings = tuple(setting for setting, types in LOSS_SETTINGS.items() if SINGLE_LABEL in types)


@register_task_head
class MultiLabelHead(ColumnHead):
    """Several labels at once, or shares of them."""

    name = MULTI_LABEL
    label_kind = SEVERAL
    settings = tuple(setting for setting, types in LOSS_SETTINGS.items() if MULTI_LABEL in types)


@register_task_head
class TextHead(TaskHead):
    """Texts that a decoder generates: only the form of the labels. Layer and loss belong to the generating model."""

    name = GENERATION
    label_kind = TEXTS
    settings: ClassVar[tuple[str, ...]] = ("label_smoothing", "focal_gamma")


@register_task_head
class SpeechHead(TextHead):
    """Texts transcribed from speech, with CTC."""

    name = CTC
    settings = ()


def head_of_config(config: Any, problem_type: str | None = None) -> TaskHead:
    """The head of a model with a single task; `problem_type` is used if its config names none."""
    named = config.problem_type or problem_type
    if named is None:  # a model that has seen no label
        named = problem_type_of(NUMBERS if config.num_labels == 1 or config.label_mean is not None else CLASSES)
    kind = task_head_of(named)
    settings = {key: getattr(config, key, None) for key in dict.fromkeys((*LOSS_SETTINGS, *kind.settings))}
    mean, scale = (None if values is None else tuple(values) for values in (config.label_mean, config.label_scale))
    return kind(
        config.num_labels,
        loss_settings={key: value for key, value in settings.items() if value},
        label_mean=mean,
        label_scale=scale,
        confidence=read_confidence(getattr(config, "confidence", None)),
    )


def told_by_labels(config: Any, labels: torch.Tensor) -> str:
    """The problem type, from the labels, of a model whose config names none, see `infer_problem_type`."""
    return infer_problem_type(standardise(labels, config.label_mean, config.label_scale), config.num_labels)


def read_tasks(tasks: dict[str, dict[str, Any]]) -> dict[str, TaskHead]:
    """The tasks of a config, checked.

    Args:
        tasks: by name, dicts of `problem_type`, `labels` (names of the classes) or `num_labels` (for numbers; 1 if
            left out), `weight`, settings of the loss (`label_smoothing`, `class_weights`, `focal_gamma`,
            `class_priors`, and the settings of a head from outside), for numbers `label_mean` and `label_scale`, one
            per output, and `confidence`, see `Confidence`.

    Raises:
        ValueError: there is no task, two names differ only by a dot, a key is unknown, or a value is out of range.
    """
    if not tasks:
        raise ValueError("tasks is empty: it needs at least one, such as {'tone': {'problem_type': 'regression'}}.")
    if len({module_name(name) for name in tasks}) < len(tasks):
        raise ValueError(f"tasks {list(tasks)}: two names must differ by more than a dot.")
    return {name: read_task(name, task) for name, task in tasks.items()}


def read_task(name: str, task: dict[str, Any]) -> TaskHead:
    """One task; see `read_tasks`."""
    if not isinstance(name, str) or not isinstance(task, Mapping):
        raise ValueError(f"Task {shown(name)} must be a dict of keys such as problem_type, got {shown(task)}.")
    problem_type: Any = task.get("problem_type")
    head = TASK_HEADS.get(problem_type) if isinstance(problem_type, str) else None
    keys = tuple(dict.fromkeys((*TASK_KEYS, *(head.settings if head else ()))))
    if unknown := sorted(map(str, set(task) - set(keys))):
        meant = did_you_mean(unknown[0], keys)
        raise ValueError(f"Task {name!r} has no key {unknown[0]!r}; the keys are {', '.join(keys)}.{meant}")
    try:
        head = task_head_of(problem_type, texts=False)
    except ValueError as error:
        raise ValueError(f"Task {name!r}: {error}") from None
    labels, weight = task.get("labels"), task.get("weight", 1.0)
    numbers = head.label_kind == NUMBERS
    if numbers and labels is not None:
        raise ValueError(f"Task {name!r} is a {head.name}, which has no labels; leave them out, got {labels}.")
    if labels is not None and not (
        isinstance(labels, (list, tuple)) and all(isinstance(label, str) for label in labels)
    ):
        raise ValueError(f"Task {name!r} needs labels, a list of different names; got {shown(labels)}.")
    count = task.get("num_labels", 1 if numbers else len(labels or ()))
    check_num_labels(count, f"Task {name!r}: ")
    if count < 1 or (not numbers and (not labels or count != len(labels) or len(set(labels)) < count)):
        raise ValueError(f"Task {name!r} needs labels, a list of different names; got {labels}, num_labels {count}.")
    if not (isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight < math.inf):
        raise ValueError(f"Task {name!r}: weight must be a finite number of at least 0, got {weight!r}.")
    for key in (*LOSS_SETTINGS, "label_mean", "label_scale"):
        value = task.get(key)
        is_list = key not in ("label_smoothing", "focal_gamma")
        if value is not None and not (has_finite(value) if is_list else has_finite([value])):
            kind = "a list of finite numbers" if is_list else "a finite number"
            raise ValueError(f"Task {name!r}: {key} must be {kind}, got {shown(value)}.")
    settings = {key: task[key] for key in dict.fromkeys((*LOSS_SETTINGS, *head.settings)) if task.get(key)}
    try:
        check_loss_ranges(settings, count)
        check_settings(head.name, settings)
        check_scale(head.name, task.get("label_mean"), task.get("label_scale"), count)
        confidence = read_confidence(task.get("confidence"))
    except ValueError as error:
        raise ValueError(f"Task {name!r}: {error}") from None
    labels, mean, std = (
        None if values is None else tuple(values)
        for values in (labels, task.get("label_mean"), task.get("label_scale"))
    )
    return head(count, labels, float(weight), settings, mean, std, confidence)


def check_scale(problem_type: str | None, mean: Any, scale: Any, num_labels: int):
    """Refuses a mean and a deviation of labels that are not numbers, or not one per output."""
    if (mean is not None or scale is not None) and label_kind_of(problem_type) not in (None, NUMBERS):
        having = [name for name, head in TASK_HEADS.items() if head.label_kind == NUMBERS]
        raise ValueError(f"label_mean and label_scale are for {having}, but problem_type is {problem_type!r}.")
    check_label_scale(mean, scale, num_labels)


def module_name(task: str) -> str:
    """The name of a task's head as a module, in which dots and names of methods cannot be used."""
    return "for_" + task.replace(".", "_")


class TaskWeighting(nn.Module):
    """Learned weights of the losses: each loss is divided by a learned variance, the noise of its labels (Kendall et
    al. 2018, equation 10).

    With `s` the logarithm of the variance, a loss `L` becomes `exp(-s) L + s / 2`; for numbers it becomes
    `exp(-s) L / 2 + s / 2`. At the start all variances are 1.

    Args:
        tasks: by name.
    """

    def __init__(self, tasks: Mapping[str, TaskHead]):
        super().__init__()
        self.factors = {name: 0.5 if task.label_kind == NUMBERS else 1.0 for name, task in tasks.items()}
        self.log_variances = nn.Parameter(torch.zeros(len(tasks)))

    def init_own_parameters(self, std: float):
        """Sets all variances to 1."""
        init.zeros_(self.log_variances)

    def forward(self, losses: TaskTensors, shares: Mapping[str, torch.Tensor | float]) -> dict[str, torch.Tensor]:
        """Weights the losses.

        Args:
            losses: the losses of all tasks, `()` each.
            shares: the share of the global batch's labels that are in this batch. The losses of all batches add up to
                the loss of the global batch, and so do the second terms. 0 without labels: the variance stays.

        Returns:
            `()` each.
        """
        return {
            name: self.factors[name] * (-s).exp() * losses[name] + s / 2 * shares[name]
            for name, s in zip(self.factors, self.log_variances)
        }
