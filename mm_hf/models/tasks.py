# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""What travels of a task: a `TaskHead`, its last layer, its loss and what its outputs mean; and how the losses of
several are weighed.

Heads are known by the type of their problem, which the config names. Those of the library register themselves here;
one from outside does not travel in checkpoints, and has to be imported before a model that has it is loaded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import initialization as init

from .config_checks import check_num_labels, has_finite, shown
from .head_table import CTC, GENERATION, MULTI_LABEL, PROBLEM_TYPES, REGRESSION, SINGLE_LABEL
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


# What labels are as tensors.
CLASSES = "classes"  # (B,) int64, -100 for none
SEVERAL = "several"  # (B, C) floats in [0, 1], NaN for none
NUMBERS = "numbers"  # (B,) or (B, C) floats, NaN for none
TEXTS = "texts"  # (B, S) int64 tokens, -100 behind a text and for none

TASK_KEYS = ("problem_type", "labels", "num_labels", "weight", "label_mean", "label_scale", *LOSS_SETTINGS)
TASK_WEIGHTINGS = ("fixed", "uncertainty")

TaskTensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class TaskHead:
    """One question that is asked of every row: what its labels are, the last layer that answers, and the loss.

    A head from outside the package is a subclass with a `name` and `row_losses`, registered by `register_task_head`.
    The model's config names it as `problem_type`, and so do its `tasks`.

    Args:
        num_labels: C, classes or numbers that it gives.
        labels: names of the classes, None of numbers.
        weight: by which its loss is multiplied before the losses of several are summed.
        loss_settings: what shapes its training loss, by name.
        label_mean, label_scale: of numbers, one an output, see `standardise`; None: it learns them as they are.

    Attributes:
        name: the type of its problem, such as "regression".
        label_kind: what its labels are as tensors: `CLASSES`, `SEVERAL`, `NUMBERS` or `TEXTS`.
        settings: of a training loss those that it has.
    """

    num_labels: int
    labels: tuple[str, ...] | None = None
    weight: float = 1.0
    loss_settings: dict[str, Any] = field(default_factory=dict)
    label_mean: tuple[float, ...] | None = None
    label_scale: tuple[float, ...] | None = None

    name: ClassVar[str]
    label_kind: ClassVar[str] = CLASSES
    settings: ClassVar[tuple[str, ...]] = ()

    @property
    def problem_type(self) -> str:
        """Its name, as the config has it."""
        return self.name

    @property
    def num_outputs(self) -> int:
        """Outputs of its layer."""
        return self.num_labels

    def layer(self, width: int, num_outputs: int) -> nn.Module:
        """The last layer, from `(B, width)` to `(B, num_outputs)`. One with parameters of its own has a method
        `init_own_parameters(std)`, which sets their first values."""
        return nn.Linear(width, num_outputs)

    def in_unit(self, scores: torch.Tensor) -> torch.Tensor:
        """What its layer gives, as it is given out: `(B, C)` logits, and numbers in the unit of the labels."""
        return in_label_unit(scores, self.label_mean, self.label_scale)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Those that logits `(…, C)` stand for, float32; None of numbers."""
        if self.label_kind == NUMBERS:
            return None
        return logits.float().sigmoid() if self.label_kind == SEVERAL else logits.float().softmax(-1)

    # ---- Evidence: which number of an answer is explained

    def said(self, logits: torch.Tensor) -> torch.Tensor:
        """Which outputs are explained, `(B, K)` int64, of logits `(B, C)`: the likeliest class, or label; every
        number."""
        if self.label_kind == NUMBERS:
            return torch.arange(logits.shape[-1], device=logits.device).expand(len(logits), -1)
        return logits.argmax(-1, keepdim=True)

    def explained(self, logits: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """The numbers that are explained of these outputs, `(B, K)` float64: of a class or label its log odds, on
        whose scale what is independent adds up, and no probability saturates; a number in its unit."""
        logits = logits.double()
        if self.label_kind != CLASSES:
            return logits.gather(-1, said)
        others = logits.scatter(-1, said, -math.inf).logsumexp(-1, keepdim=True)
        return logits.gather(-1, said) - others if logits.shape[-1] > 1 else logits * 0

    def shown(self, logits: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """The same as people read it, `(B, K)`: the probability of the class or label, the number."""
        chances = self.probabilities(logits)
        return (logits if chances is None else chances).gather(-1, said)

    def explained_unit(self, name: str | None = None) -> str:
        """What the numbers are, without which of them; `name` is that of the question."""
        return name or "the number" if self.label_kind == NUMBERS else "log odds"

    def explained_in_words(self, said: torch.Tensor, name: str | None = None) -> list[str]:
        """What each of the numbers is; `said` is `(K,)`, of one row, `name` that of the question."""
        name = self.explained_unit(name)
        if self.label_kind != NUMBERS:
            return [f"{name} of {self.labels[place] if self.labels else place!r}" for place in said.tolist()]
        return [name if self.num_labels == 1 else f"{name} {place}" for place in said.tolist()]

    def row_losses(self, scores: torch.Tensor, labels: torch.Tensor, **settings: Any) -> torch.Tensor:
        """The loss of each row.

        Args:
            scores: what the layer gives, float32.
            labels: by `label_kind`, `(B,)` or `(B, C)`, numbers as they are learned (see `standardise`). Of rows
                without one they are 0, and what is given for these is not counted.
            settings: in training, those of `settings` that are on.

        Returns:
            `(B,)`.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what its row_losses are.")

    def loss(
        self,
        scores: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        sample_weight: torch.Tensor | None = None,
        training: bool = False,
    ) -> torch.Tensor:
        """Its loss, neither weighted nor, outside of training, shaped; arguments as for `classification_loss`, but for
        `scores`, what its layer gives before `in_unit`.

        Raises:
            ValueError: labels whose shape or classes do not fit.
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
        if not classes:  # a row that lacks a part of its label has none
            labels = labels.reshape(shape)
            labels = labels.masked_fill(labels.isnan().any(-1, keepdim=True), math.nan)
        known = labels.clamp(min=0) if classes else labels.nan_to_num()
        losses = self.row_losses(scores.float(), known, **(self.loss_settings if training else {}))
        losses = losses.where(labelled_rows(labels), torch.zeros_like(losses))
        return mean_over_labels(losses, labels, num_items_in_batch, sample_weight if training else None)


TASK_HEADS: dict[str, type[TaskHead]] = {}  # by problem type


def register_task_head(head: type[TaskHead]) -> type[TaskHead]:
    """A decorator: makes a head known by its name.

    Raises:
        ValueError: another one has that name.
    """
    known = TASK_HEADS.get(head.name)
    if known is not None and known.__qualname__ != head.__qualname__:
        raise ValueError(f"There is a task head {head.name!r} already, {known.__name__}: take another name.")
    TASK_HEADS[head.name] = head
    if head.label_kind != TEXTS and head.name not in PROBLEM_TYPES:
        PROBLEM_TYPES.append(head.name)
    return head


def task_head_of(problem_type: str, texts: bool = True) -> type[TaskHead]:
    """The head of a problem type.

    Args:
        problem_type: its name.
        texts: those whose labels are texts too, which no config names: their models write, and say so by their class.

    Raises:
        ValueError: nobody has registered it, as where a model needs one from outside the package.
    """
    head = TASK_HEADS.get(problem_type) if isinstance(problem_type, str) else None
    if head is None or (head.label_kind == TEXTS and not texts):
        known = tuple(PROBLEM_TYPES)
        raise ValueError(
            f"problem_type must be one of {known}, got {shown(problem_type)}.{did_you_mean(problem_type, known)} One "
            "from outside mm_hf has to be imported before its model is loaded (`--import FILE`, or an import in "
            "Python)."
        )
    return head


def label_kind_of(problem_type: str | None) -> str | None:
    """What the labels of a problem are as tensors; None where nobody says what the problem is."""
    return None if problem_type is None else task_head_of(problem_type).label_kind


def problem_type_of(label_kind: str) -> str:
    """The problem that is meant where the labels alone tell: the library's own of that kind."""
    return next(name for name, head in TASK_HEADS.items() if head.label_kind == label_kind)


def check_settings(problem_type: str, settings: Mapping[str, Any]):
    """Refuses settings that are on, and that the loss of this problem does not have."""
    head = task_head_of(problem_type)
    for name, value in settings.items():
        if value and name not in head.settings:
            having = [other for other, known in TASK_HEADS.items() if name in known.settings]
            raise ValueError(f"{name} is {value}, but problem_type is {problem_type!r}: it is for {having}.")


class ColumnHead(TaskHead):
    """A head of the library, whose loss is `classification_loss`."""

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
    """Texts that a decoder writes: what its labels are. Layer and loss are those of the model that writes."""

    name = GENERATION
    label_kind = TEXTS
    settings: ClassVar[tuple[str, ...]] = ("label_smoothing", "focal_gamma")


@register_task_head
class SpeechHead(TextHead):
    """Texts that are heard, by CTC."""

    name = CTC
    settings = ()


def head_of_config(config: Any, problem_type: str | None = None) -> TaskHead:
    """What the only head of a model answers; `problem_type` where its config names none."""
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
    )


def told_by_labels(config: Any, labels: torch.Tensor) -> str:
    """The problem of a model whose config names none, see `infer_problem_type`."""
    return infer_problem_type(standardise(labels, config.label_mean, config.label_scale), config.num_labels)


def read_tasks(tasks: dict[str, dict[str, Any]]) -> dict[str, TaskHead]:
    """The tasks of a config, checked.

    Args:
        tasks: by name dicts of `problem_type`, `labels` (names of the classes) or `num_labels` (of numbers, 1 if left
            out), `weight`, settings of the loss (`label_smoothing`, `class_weights`, `focal_gamma`, `class_priors`,
            and what a head from outside has), and of numbers `label_mean` and `label_scale`, one number an output.

    Raises:
        ValueError: no task, two whose names differ by a dot alone, an unknown key, or a value out of its range.
    """
    if not tasks:
        raise ValueError("tasks is empty: it needs at least one, such as {'tone': {'problem_type': 'regression'}}.")
    if len({module_name(name) for name in tasks}) < len(tasks):
        raise ValueError(f"tasks {list(tasks)}: names must differ by more than a dot.")
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
        raise ValueError(f"Task {name!r} has no key {unknown[0]!r}; known are {', '.join(keys)}.{meant}")
    try:
        head = task_head_of(problem_type, texts=False)
    except ValueError as error:
        raise ValueError(f"Task {name!r}: {error}") from None
    labels, weight = task.get("labels"), task.get("weight", 1.0)
    numbers = head.label_kind == NUMBERS
    if numbers and labels is not None:
        raise ValueError(f"Task {name!r} is a {head.name} and has no labels, got {labels}.")
    if labels is not None and not (
        isinstance(labels, (list, tuple)) and all(isinstance(label, str) for label in labels)
    ):
        raise ValueError(f"Task {name!r} needs labels, a list of different names; got {shown(labels)}.")
    count = task.get("num_labels", 1 if numbers else len(labels or ()))
    check_num_labels(count, f"Task {name!r}: ")
    if count < 1 or (not numbers and (not labels or count != len(labels) or len(set(labels)) < count)):
        raise ValueError(f"Task {name!r} needs labels, a list of different names; got {labels}, num_labels {count}.")
    if not (isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight < math.inf):
        raise ValueError(f"Task {name!r}: weight must be a number from 0 up, got {weight!r}.")
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
    except ValueError as error:
        raise ValueError(f"Task {name!r}: {error}") from None
    labels, mean, std = (
        None if values is None else tuple(values)
        for values in (labels, task.get("label_mean"), task.get("label_scale"))
    )
    return head(count, labels, float(weight), settings, mean, std)


def check_scale(problem_type: str | None, mean: Any, scale: Any, num_labels: int):
    """Refuses a mean and a deviation of labels that are no numbers, or not one of each an output."""
    if (mean is not None or scale is not None) and label_kind_of(problem_type) not in (None, NUMBERS):
        having = [name for name, head in TASK_HEADS.items() if head.label_kind == NUMBERS]
        raise ValueError(f"label_mean and label_scale are for {having}, and problem_type is {problem_type!r}.")
    check_label_scale(mean, scale, num_labels)


def module_name(task: str) -> str:
    """The name of a task's head among the modules, where dots and the names of methods mean something else."""
    return "for_" + task.replace(".", "_")


class TaskWeighting(nn.Module):
    """Weights of losses that are learned with the model: each is divided by a variance, the noise of its labels
    (Kendall et al. 2018, equation 10).

    With `s` the logarithm of the variance, a loss `L` becomes `exp(-s) L + s / 2`, that of numbers
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
        """Weighs losses.

        Args:
            losses: of all tasks, `()` each.
            shares: of the labels of the global batch, how many are in this one: as the losses do, the second terms
                then add up to the one of the global batch. 0 without any label: that variance stays.

        Returns:
            `()` each.
        """
        return {
            name: self.factors[name] * (-s).exp() * losses[name] + s / 2 * shares[name]
            for name, s in zip(self.factors, self.log_variances)
        }
