"""The tasks that there are, by the problem types that configs name."""

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
    """A decorator: makes a task known by the name of its problem type."""
    TASKS[task.name] = task
    add_metrics(task.lower_is_better, task.in_units, task.guesses)
    return task


def task_of(name: str, names: Sequence[str] | None = None, column: str | None = None) -> Task:
    """The task of a problem type."""
    if name not in TASKS:
        raise ValueError(
            f"There is no task {name!r}; known are {', '.join(TASKS)}.{did_you_mean(name, TASKS)} One from outside "
            "mm_hf has to be imported before (`--import FILE`, or an import in Python)."
        )
    return TASKS[name](column, None if names is None else list(names))


def classification_metrics(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str, kinds: list[str] | None = None
) -> dict[str, Any]:
    """Metrics over the rows that have a label: `measure_rows` of the task of a problem type.

    Args:
        logits: `(N, C)`.
        labels: `(N,)` int64 with -100 for none, or `(N, C)` floats with NaN for none.
        kinds: for each row what it is a question of; the first metric is then given by kind too.
    """
    return measure_rows(task_of(problem_type), logits, labels, kinds)


def task_of_head(head: str | None) -> type[Task] | None:
    """The task that a recipe's key `task` means by itself; None where the labels tell."""
    return next((task for task in TASKS.values() if task.by_head and head in task.heads), None)


def by_column(columns: Any, tasks: Sequence[Task], value: Callable[[Task], Any]) -> Any:
    """Something of each task: where `columns.label` is a list, a dict by column, else that of the only one."""
    if not isinstance(columns.label, list):
        (task,) = tasks
        return value(task)
    return {task.column: value(task) for task in tasks}
