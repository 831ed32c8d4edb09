# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""What the config says of each task of a model that has several, and how their losses are weighed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .config_checks import check_num_labels, has_finite, shown
from .losses import (
    LOSS_SETTINGS,
    PROBLEM_TYPES,
    check_label_scale,
    check_loss_ranges,
    check_loss_settings,
    classification_loss,
    in_label_unit,
    standardise,
)
from .names import did_you_mean


TASK_KEYS = ("problem_type", "labels", "num_labels", "weight", "label_mean", "label_scale", *LOSS_SETTINGS)
TASK_WEIGHTINGS = ("fixed", "uncertainty")

TaskTensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Task:
    """One question that is asked of every row.

    Args:
        problem_type: see `classification_loss`.
        num_labels: C, outputs of its head.
        labels: names of the classes, None of a regression.
        weight: by which its loss is multiplied before the losses are summed.
        loss_settings: what shapes its training loss, see `classification_loss`.
        label_mean, label_scale: of a regression's numbers, one an output, see `standardise`; None: it learns them as
            they are.
    """

    problem_type: str
    num_labels: int
    labels: tuple[str, ...] | None = None
    weight: float = 1.0
    loss_settings: dict[str, Any] = field(default_factory=dict)
    label_mean: tuple[float, ...] | None = None
    label_scale: tuple[float, ...] | None = None

    def in_unit(self, scores: torch.Tensor) -> torch.Tensor:
        """What its head gives, `(B, C)`, as it is given out: see `in_label_unit`."""
        return in_label_unit(scores, self.label_mean, self.label_scale)

    def loss(
        self,
        scores: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        sample_weight: torch.Tensor | None = None,
        training: bool = False,
    ) -> torch.Tensor:
        """Its loss, neither weighted nor, outside of training, shaped; arguments as for `classification_loss`, but for
        `scores`, what the head gives before `in_unit`."""
        labels = standardise(labels, self.label_mean, self.label_scale)
        if not training:
            return classification_loss(scores, labels, self.problem_type, num_items_in_batch)
        return classification_loss(
            scores, labels, self.problem_type, num_items_in_batch, sample_weight, **self.loss_settings
        )


def read_tasks(tasks: dict[str, dict[str, Any]]) -> dict[str, Task]:
    """The tasks of a config, checked.

    Args:
        tasks: by name dicts of `problem_type`, `labels` (names of the classes) or `num_labels` (of a regression, 1 if
            left out), `weight`, settings of the loss (`label_smoothing`, `class_weights`, `focal_gamma`,
            `class_priors`), and of a regression `label_mean` and `label_scale`, one number an output.

    Raises:
        ValueError: no task, two whose names differ by a dot alone, an unknown key, or a value out of its range.
    """
    if not tasks:
        raise ValueError("tasks is empty: it needs at least one, such as {'tone': {'problem_type': 'regression'}}.")
    if len({module_name(name) for name in tasks}) < len(tasks):
        raise ValueError(f"tasks {list(tasks)}: names must differ by more than a dot.")
    return {name: read_task(name, task) for name, task in tasks.items()}


def read_task(name: str, task: dict[str, Any]) -> Task:
    """One task; see `read_tasks`."""
    if not isinstance(name, str) or not isinstance(task, Mapping):
        raise ValueError(f"Task {shown(name)} must be a dict of keys such as problem_type, got {shown(task)}.")
    if unknown := sorted(map(str, set(task) - set(TASK_KEYS))):
        meant = did_you_mean(unknown[0], TASK_KEYS)
        raise ValueError(f"Task {name!r} has no key {unknown[0]!r}; known are {', '.join(TASK_KEYS)}.{meant}")
    problem_type: Any = task.get("problem_type")
    labels, weight = task.get("labels"), task.get("weight", 1.0)
    if problem_type not in PROBLEM_TYPES:
        meant = did_you_mean(problem_type, PROBLEM_TYPES)
        raise ValueError(f"Task {name!r}: problem_type must be one of {PROBLEM_TYPES}, got {problem_type!r}.{meant}")
    regression = problem_type == "regression"
    if regression and labels is not None:
        raise ValueError(f"Task {name!r} is a regression and has no labels, got {labels}.")
    if labels is not None and not (
        isinstance(labels, (list, tuple)) and all(isinstance(label, str) for label in labels)
    ):
        raise ValueError(f"Task {name!r} needs labels, a list of different names; got {shown(labels)}.")
    count = task.get("num_labels", 1 if regression else len(labels or ()))
    check_num_labels(count, f"Task {name!r}: ")
    if count < 1 or (not regression and (not labels or count != len(labels) or len(set(labels)) < count)):
        raise ValueError(f"Task {name!r} needs labels, a list of different names; got {labels}, num_labels {count}.")
    if not (isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight < math.inf):
        raise ValueError(f"Task {name!r}: weight must be a number from 0 up, got {weight!r}.")
    for key in (*LOSS_SETTINGS, "label_mean", "label_scale"):
        value = task.get(key)
        is_list = key not in ("label_smoothing", "focal_gamma")
        if value is not None and not (has_finite(value) if is_list else has_finite([value])):
            kind = "a list of finite numbers" if is_list else "a finite number"
            raise ValueError(f"Task {name!r}: {key} must be {kind}, got {shown(value)}.")
    settings = {key: task[key] for key in LOSS_SETTINGS if task.get(key)}
    try:
        check_loss_ranges(settings, count)
        check_loss_settings(problem_type, settings)
        check_label_scale(task.get("label_mean"), task.get("label_scale"), count, problem_type)
    except ValueError as error:
        raise ValueError(f"Task {name!r}: {error}") from None
    labels, mean, std = (
        None if values is None else tuple(values)
        for values in (labels, task.get("label_mean"), task.get("label_scale"))
    )
    return Task(problem_type, count, labels, float(weight), settings, mean, std)


def module_name(task: str) -> str:
    """The name of a task's head among the modules, where dots and the names of methods mean something else."""
    return "for_" + task.replace(".", "_")


class TaskWeighting(nn.Module):
    """Weights of losses that are learned with the model: each is divided by a variance, the noise of its labels
    (Kendall et al. 2018, equation 10).

    With `s` the logarithm of the variance, a loss `L` becomes `exp(-s) L + s / 2`, that of a regression
    `exp(-s) L / 2 + s / 2`. At the start all variances are 1.

    Args:
        tasks: by name.
    """

    def __init__(self, tasks: Mapping[str, Task]):
        super().__init__()
        self.factors = {name: 0.5 if task.problem_type == "regression" else 1.0 for name, task in tasks.items()}
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
