"""What a column of labels asks of a model, in one place: its `Task`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..data import label_tensor
from ..models.names import did_you_mean
from ..models.tasks import task_head_of


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
        transcribes: they are written by CTC, as what is heard.
        decodes: they are written by a decoder.
        by_head: a recipe's key `task` tells that it is meant, whatever the labels are.
        title: how reports say its kind.
    """

    column: str | None = None
    names: list[str] | None = None
    weight: str | None = None

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]] = ()
    needs_labels: ClassVar[bool] = True
    writes: ClassVar[bool] = False
    transcribes: ClassVar[bool] = False
    decodes: ClassVar[bool] = False
    by_head: ClassVar[bool] = False

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
        return label_tensor(rows, str(self.column), self.numbers, self.name, bad)

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

    # ---- Measuring

    @property
    def problem_type(self) -> str:
        """What reports call it."""
        return self.name

    # ---- Training

    @classmethod
    def needed(cls, model_args: Any, data_args: Any) -> dict[str, Any]:
        """The keys of a recipe that it cannot do without, with their values.

        Raises:
            ValueError: columns that it has no use for.
        """
        return {"label_column": data_args.label_column}

    @classmethod
    def check_recipe(cls, model_args: Any, data_args: Any, train_args: Any):
        """Refuses keys of a recipe that do not go with it, before anything is loaded.

        Raises:
            ValueError: naming the key, its value and the way out.
        """

    @classmethod
    def check_others(cls, model_args: Any, train_args: Any):
        """Refuses keys that are for it alone, in the recipe of another task.

        Raises:
            ValueError: naming the key and its value.
        """

    @classmethod
    def learn(cls, splits: Any, column: str | None) -> "Task":
        """The task of a column, where a recipe's key `task` tells that it is meant. (Else the labels do, see
        `labels_of`.)"""
        return cls(column)

    @classmethod
    def can_answer(cls, data_args: Any) -> bool:
        """Whether the data has what a checkpoint of this task needs to go on with it, beside labels."""
        return True

    @classmethod
    def head_keys(cls, start: Any, data_args: Any) -> dict[str, Any]:
        """The keys of a recipe that the head of a checkpoint decides, with its values.

        Args:
            start: the checkpoint, see `Start`.
            data_args: of the recipe.
        """
        return {}

    def head(self, columns: Any) -> str:
        """The value of a recipe's key `task` where that is left out.

        Args:
            columns: of the data.
        """
        return self.heads[0]

    def prepare(self, processor: Any, model_args: Any, train: Any):
        """Gives the processor what it lacks for this task.

        Args:
            processor: changed in place.
            model_args: of the recipe.
            train: the training part.
        """

    def head_arguments(self, run: Any) -> dict[str, Any]:
        """What the head of a model needs that has no other task, as the config takes it."""
        labels: dict[str, Any] = {"num_labels": 1}
        if self.names:
            labels = {"id2label": dict(enumerate(self.names)), "label2id": self.numbers, "num_labels": len(self.names)}
        return {"problem_type": self.name, **labels}

    def loss_arguments(self, run: Any, among_others: bool = False) -> dict[str, Any]:
        """What the recipe asks of its loss, as the model's config takes it.

        Args:
            run: with its data, as if this task were its only one.
            among_others: it is not; what this loss does not have is then meant for the others.

        Raises:
            ValueError: what this loss does not have.
        """
        args, settings = run.train_args, task_head_of(self.name).settings
        found: dict[str, Any] = {"label_smoothing": args.label_smoothing_factor}
        if args.imbalance == "focal_loss":
            found["focal_gamma"] = args.focal_gamma
        if args.imbalance in ("class_weights", "logit_adjustment") and (settings or not among_others):
            raise ValueError(f"imbalance {args.imbalance} is for one label a row; the problem is {self.name}.")
        return {key: value for key, value in found.items() if key in settings or not among_others}

    @property
    def answer_in_words(self) -> str:
        """What its answers are, for the card."""
        return f"one of {len(self.names or ())} labels: {', '.join(self.names or ())}"

    def row_classes(self, labels: torch.Tensor) -> list[Any]:
        """The class of each row, or the list of its classes where there are several.

        Raises:
            ValueError: there are none.
        """
        raise ValueError(f"imbalance is for classes; the problem is {self.name}.")

    def set_up(self, model: Any, model_args: Any):
        """Settings of a model that are none of its config."""


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
        raise ValueError(
            f"There is no task {name!r}; known are {', '.join(TASKS)}.{did_you_mean(name, TASKS)} One from outside "
            "mm_hf has to be imported before (`--import FILE`, or an import in Python)."
        )
    return TASKS[name](column, None if names is None else list(names))


def task_of_head(head: str | None) -> type[Task] | None:
    """The task that a recipe's key `task` means by itself; None where the labels tell."""
    return next((task for task in TASKS.values() if task.by_head and head in task.heads), None)


def by_column(columns: Any, tasks: Sequence[Task], value: Callable[[Task], Any]) -> Any:
    """Something of each task: where `columns.label` is a list, a dict by column, else that of the only one."""
    if not isinstance(columns.label, list):
        (task,) = tasks
        return value(task)
    return {task.column: value(task) for task in tasks}
