"""All registered tasks, by the problem types that configs name."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..evaluation.comparisons import add_metrics
from ..evaluation.metrics import measure_rows
from ..models.names import did_you_mean
from .task import Task


TASKS: dict[str, type[Task]] = {}
"""The registry: classes of tasks by their problem types."""


def register_task(task: type[Task]) -> type[Task]:
    """A decorator that registers a task under the name of its problem type."""
    TASKS[task.name] = task
    add_metrics(task.lower_is_better, task.in_units, task.guesses)
    return task


def task_of(name: str, names: Sequence[str] | None = None, column: str | None = None) -> Task:
    """The task of a problem type."""
    if name not in TASKS:
        raise ValueError(
            f"There is no task {name!r}. Known tasks: {', '.join(TASKS)}.{did_you_mean(name, TASKS)} A task from "
            "outside mm_hf has to be imported first (`--import FILE`, or an import in Python)."
        )
    return TASKS[name](column, None if names is None else list(names))


def classification_metrics(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str, kinds: list[str] | None = None
) -> dict[str, Any]:
    """Metrics over the rows that have a label: `measure_rows` of the task of a problem type.

    Args:
        logits: `(N, C)`.
        labels: `(N,)` int64 with -100 for a missing label, or `(N, C)` floats with NaN for a missing label.
        kinds: the kind of each row; the first metric is then also measured for each kind.
    """
    return measure_rows(task_of(problem_type), logits, labels, kinds)


def task_of_head(head: str | None) -> type[Task] | None:
    """The task that a value of the recipe's key `task` implies; None if the labels decide."""
    return next((task for task in TASKS.values() if task.by_head and head in task.heads), None)


def by_column(columns: Any, tasks: Sequence[Task], value: Callable[[Task], Any]) -> Any:
    """A value for each task: a dict by column if `columns.label` is a list, else the value for the only task."""
    if not isinstance(columns.label, list):
        (task,) = tasks
        return value(task)
    return {task.column: value(task) for task in tasks}
