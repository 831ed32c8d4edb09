"""What a column of labels asks of a model, in one place: its `Task`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..models.names import did_you_mean


@dataclass
class Task:
    """One question that is asked of every row. A row's several questions are a list of tasks.

    A task from outside the package is a subclass, registered by `register_task`, with its `TaskHead` beside it.

    Args:
        column: of its labels; None for one that learns without, such as a search.
        names: of its classes, in the order of their numbers; None where it has none.
        weight: the column of how much each row counts in the training loss; None: all alike.

    Attributes:
        name: the problem type that the model's config names, such as "regression".
        heads: the values of a recipe's key `task` that it may go with, the usual one first.
        needs_labels: it has a column of labels.
        writes: its answers are texts.
        title: how reports say its kind.
    """

    column: str | None = None
    names: list[str] | None = None
    weight: str | None = None

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]] = ()
    needs_labels: ClassVar[bool] = True
    writes: ClassVar[bool] = False

    @property
    def numbers(self) -> dict[str, int] | None:
        """The number of each class by its name; None where it has no classes."""
        return {name: number for number, name in enumerate(self.names)} if self.names else None

    # ---- Labels: what they mean, and as tensors

    def label_tensor(self, rows: list[dict[str, Any]], bad: list | None = None) -> torch.Tensor:
        """The labels of rows; -100 or NaN where a row has none.

        Args:
            rows: as `Rows` gives them.
            bad: where bad rows are put; None: they raise.
        """
        raise NotImplementedError

    def has_label(self, labels: torch.Tensor) -> torch.Tensor:
        """Which rows have a label, `(N,)` bool."""
        return ~labels.reshape(len(labels), -1).isnan().any(-1)

    # ---- Measuring

    def answers(self, logits: torch.Tensor) -> torch.Tensor:
        """What a model answers."""
        raise NotImplementedError

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels in the shape of `answers`."""
        return labels

    def metrics(self, outputs: int, validate: bool = True, texts: list[str] | None = None) -> dict[str, Any]:
        """Its metrics by name, the one that the model is chosen by first. Each takes answers and targets."""
        raise NotImplementedError

    @property
    def first_metric(self) -> str:
        """The metric that the model is chosen by."""
        return next(iter(self.metrics(outputs=2)))

    def constants(self, labels: torch.Tensor, outputs: int) -> dict[str, tuple[torch.Tensor, str, str]]:
        """The best answers that look at no row: by the name of the floor the answer to one row, the metric that it is
        best for, and what it is in words."""
        raise NotImplementedError

    def spell(self, answer: torch.Tensor) -> str:
        """One answer, or target, in words."""
        raise NotImplementedError

    # ---- Training

    def head_arguments(self, run: Any) -> dict[str, Any]:
        """What its head needs, as the model's config takes it."""
        return {}

    def loss_arguments(self, run: Any) -> dict[str, Any]:
        """What the recipe asks of its loss, as the model's config takes it."""
        return {}

    @classmethod
    def check_recipe(cls, model_args: Any, data_args: Any, train_args: Any):
        """Refuses keys of a recipe that do not go with it, before anything is loaded.

        Raises:
            ValueError: naming the key, its value and the way out.
        """


TASKS: dict[str, type[Task]] = {}  # by problem type


def register_task(task: type[Task]) -> type[Task]:
    """A decorator: makes a task known by the name of its problem type."""
    TASKS[task.name] = task
    return task


def task_of(name: str, names: Sequence[str] | None = None, column: str | None = None) -> Task:
    """The task of a problem type.

    Raises:
        ValueError: nobody has registered it.
    """
    if name not in TASKS:
        raise ValueError(f"There is no task {name!r}; known are {', '.join(TASKS)}.{did_you_mean(name, TASKS)}")
    return TASKS[name](column, None if names is None else list(names))
