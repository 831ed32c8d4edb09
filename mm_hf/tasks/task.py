"""What a column of labels asks of a model, in one place: its `Task`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pyarrow as pa
import torch

from ..data import label_tensor
from ..evaluation.comparisons import lower_is_better
from ..evaluation.kinds import Metric
from ..evaluation.linear import LinearAnswer, LinearRows
from ..evaluation.metrics import measure_rows
from ..evaluation.paired import Pair, measurer_of
from ..models.tasks import task_head_of
from .how_sure import HowSure


SHOWN = 12  # classes of a summary
TextsOf = Callable[[torch.Tensor], list[str | None]]
T = TypeVar("T", bound="Task")


def refuse(keys: Mapping[str, Any], reason: str):
    """Refuses the first of some keys of a recipe that has a value."""
    for key, value in keys.items():
        if value is not None:
            raise ValueError(f"{key} is {value!r}, but {reason}.")


@dataclass(frozen=True)
class Constant:
    """An answer that looks at no row.

    Args:
        answer: to one row, in the shape that answers have.
        metric: that it is the best for.
        words: what it is.
        listed: reports show it among the floors; else a score is held against it, and that is all.
    """

    answer: torch.Tensor
    metric: str
    words: str
    listed: bool = True


@dataclass
class Task(HowSure):
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
        probabilities: its columns of predictions may have those of classes.
        ordered: the numbers of its classes mean something: two models are compared where they have the same.
        row_score: what the score of a row is, in words.
        without_gpu: keys of a recipe, and what they are better set to without a GPU where it says nothing.
        note: what is to be said below pictures of its predictions.
        lower_is_better: of its metrics those of which the lower value is the better one.
        in_units: of its metrics those whose differences are said in their own unit, and not in points of a hundred.
        guesses: by the name of a floor of `constants` how it is said.
        decodes: they are written by a decoder.
        by_head: a recipe's key `task` tells that it is meant, whatever the labels are.
        keeps_line: the line of `linear_answer` can be the head of a model, as the fusion `linear` makes it.
    """

    column: str | None = None
    names: list[str] | None = None
    weight: str | None = None

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]] = ()
    needs_labels: ClassVar[bool] = True
    writes: ClassVar[bool] = False
    transcribes: ClassVar[bool] = False
    probabilities: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    row_score: ClassVar[str] = "1 where the answer is right, else 0"
    without_gpu: ClassVar[Mapping[str, Any]] = {}
    note: ClassVar[str | None] = None
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    in_units: ClassVar[tuple[str, ...]] = ()
    guesses: ClassVar[Mapping[str, str]] = {}
    decodes: ClassVar[bool] = False
    by_head: ClassVar[bool] = False
    keeps_line: ClassVar[bool] = False

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

    # ---- Measuring

    @property
    def problem_type(self) -> str:
        """What reports call it."""
        return self.name

    @property
    def classes(self) -> list[str] | None:
        """The names of all that it may answer; None for numbers and for texts that are written."""
        return self.names

    def has_label(self, labels: torch.Tensor) -> torch.Tensor:
        """Which rows have a label, `(N,)` bool: whole numbers but for -100, and other numbers but for NaN."""
        missing = labels.isnan() if labels.is_floating_point() else labels == -100
        return ~(missing if labels.ndim == 1 else missing.flatten(1).any(-1))

    def answers(self, logits: torch.Tensor) -> torch.Tensor:
        """What a model answers, `(N,)` or `(N, C)`, from its logits `(N, C)`."""
        raise NotImplementedError(f"{type(self).__name__} must say what the answers of its logits are.")

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels in the shape of `answers`; what stands for a missing one does not matter."""
        return labels

    def metrics(self, outputs: int, validate: bool = True) -> dict[str, Metric]:
        """Its metrics by name, the one that the model is chosen by first. Each takes answers and targets.

        Args:
            outputs: C, of the logits.
            validate: let torchmetrics look at every value, which takes longer than to count them.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what its metrics are.")

    @property
    def first_metric(self) -> str:
        """The metric that the model is chosen by."""
        return next(iter(self.metrics(outputs=2)))

    def measure(
        self,
        logits: Any,
        labels: Any,
        kinds: list | None = None,
        texts_of: TextsOf | None = None,
        generated: bool = True,
    ) -> dict[str, Any]:
        """What is measured over all rows that have a label: see `measure_rows`.

        Args:
            logits, labels: see `Predictions`.
            kinds: for each row what it is a question of.
            texts_of: of tokens the texts that they stand for.
            generated: of a task that writes, that the logits are what was written, and not the likeliest next tokens.
        """
        return measure_rows(self, logits, labels, kinds)

    def score(self, metrics: Mapping[str, float], answers: torch.Tensor, targets: torch.Tensor) -> float:
        """What it adds to the mean over several tasks: at most 1, and better when higher.

        Args:
            metrics: of these answers and targets.
            answers, targets: of the rows that have a label.
        """
        if lower_is_better(self.first_metric):
            raise NotImplementedError(
                f"Of {self.first_metric}, the first metric of {self.name}, the lower value is the better one: "
                f"{type(self).__name__}.score must say what stands for it in the mean over several tasks."
            )
        return metrics[self.first_metric]

    def readable(self: T, values: Sequence[torch.Tensor], texts_of: TextsOf) -> tuple[T, list[torch.Tensor]]:
        """Logits and labels as the functions of this class take them; of tokens the numbers of the texts that they
        stand for, and then the same task with these texts as its names.

        Args:
            values: all that is looked at together: what is numbered twice cannot be compared.
            texts_of: of tokens the texts that they stand for.
        """
        return self, list(values)

    def constants(self, labels: torch.Tensor, outputs: int) -> dict[str, Constant]:
        """By the name of a floor the best answer that looks at no row, the one for the first metric first.

        Args:
            labels: rows without one do not count.
            outputs: C, of the logits.
        """
        values, counts = self.targets(labels[self.has_label(labels)]).unique(dim=0, return_counts=True)
        return {"majority": Constant(values[counts.argmax()], self.first_metric, "the most frequent answer")}

    def linear_answer(self, train: LinearRows, validation: LinearRows, test: LinearRows) -> LinearAnswer | None:
        """What a linear model answers, the floor `linear`; None where none is defined.

        Args:
            train: it learns from these rows, which all have a label.
            validation: its strength is chosen on these, likewise.
            test: all rows that are to be answered; nobody looks at their labels.
        """
        return None

    def measurer(
        self, predictions: tuple[Any, Any], labels: Any, texts_of: TextsOf, several: bool = False
    ) -> Callable[[torch.Tensor, int], float]:
        """What measures two models on resamples of the same rows, by the first metric.

        Args:
            predictions: of A and of B, see `Predictions`.
            labels: of the same rows, likewise.
            texts_of: see `readable`.
            several: it is one of several tasks: then what it adds to their mean, see `score`.

        Returns:
            takes rows, int64, and 0 for A or 1 for B; NaN where none of them has a label.
        """
        return measurer_of(*self.readable([*predictions, labels], texts_of), several)

    def chance(self, labels: Any) -> tuple[list[tuple[str, str, float]], dict[str, float]]:
        """Of a task without labels what answers score that are drawn at random.

        Args:
            labels: what stands for them, see `Predictions`.

        Returns:
            what the score is held against: of each the name, the metric and the value; and what else is to be shown.
        """
        return [], {}

    def row_scores(self, answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """How good each answer is, `(N,)` float64, higher is better; see `row_score`."""
        return (answers == targets).double().reshape(len(targets), -1).mean(-1)

    def row_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """By how much each row is wrong, `(N,)`: its loss, neither summed nor divided."""
        return 1 - self.row_scores(self.answers(logits), self.targets(labels))

    def counts(self, answers: Pair, targets: torch.Tensor, scores: Pair) -> dict[str, torch.Tensor]:
        """Which rows speak for which of two models, A and B, by what is to be said of them.

        Args:
            answers, scores: of A and of B.
            targets: of both.
        """
        one, other = ((said == targets).reshape(len(targets), -1).all(-1) for said in answers)
        counts = {"both_right": one & other, "only_a_right": one & ~other}
        return counts | {"only_b_right": other & ~one, "both_wrong": ~one & ~other}

    def diagnostics(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        """What can be found out beside the metrics, of rows that have a label: `calibration`, `confusion`,
        `label_scores`."""
        return {}

    def plots(
        self, analysis: Mapping[str, Any], answers: torch.Tensor, targets: torch.Tensor
    ) -> dict[str, Callable[[Path], None]]:
        """What draws the answers, by the name of its file, which `PICTURES` explains.

        Args:
            analysis: see `analyse`.
            answers, targets: of the rows that have a label.
        """
        return {}

    # ---- Saying

    def spell(self, answer: torch.Tensor) -> str:
        """One answer, or target, in words."""
        if answer.ndim or self.names is None:
            return ", ".join(f"{number:.7g}" for number in answer.reshape(-1).tolist())
        return self.names[int(answer)]

    def mistakes(self, logits: torch.Tensor, labels: torch.Tensor, places: list[int]) -> list[dict[str, Any]]:
        """`answer` and `truth` of some rows, of all that have a label, in words, and what else is to be said of
        them."""
        answers, targets = self.answers(logits), self.targets(labels)
        return [{"answer": self.spell(answers[place]), "truth": self.spell(targets[place])} for place in places]

    def caption(self, mistake: Mapping[str, Any]) -> tuple[str, str, bool]:
        """Answer and truth of a mistake as a picture shows them, and whether the answer is good enough all the
        same."""
        return mistake["answer"], mistake["truth"], False

    def judged(self, logits: torch.Tensor, labels: torch.Tensor) -> list[tuple[str, str | None, bool | None]]:
        """For each row what a model answers, the truth, and whether the answer is right; None without a label."""
        answers, targets = self.answers(logits), self.targets(labels)
        return [
            (self.spell(answer), *((self.spell(truth), bool((answer == truth).all())) if present else (None, None)))
            for answer, truth, present in zip(answers, targets, self.has_label(labels).tolist())
        ]

    def columns(self, outputs: int, top_k: int = 1, every: bool = False) -> dict[str, pa.DataType]:
        """The columns that `mm_hf predict` writes, in their order, and their types.

        Args:
            outputs: C, of the logits.
            top_k: how many of the best classes.
        """
        return {"prediction": pa.string()}

    def values(self, said: Any, top_k: int = 1, every: bool = False) -> list[list[Any]]:
        """Of each row the values of these columns.

        Args:
            said: `(B, C)` logits, or the texts of a task that writes.
            top_k, every: see `columns`.
        """
        return [[self.spell(answer)] for answer in self.answers(said)]

    def count(self, counts: dict[str, Any], row: list[Any]):
        """Counts the values of one row, for `summary`; what is counted goes into a JSON file."""
        for name in row[0] if isinstance(row[0], list) else [row[0]]:
            counts[name] = counts.get(name, 0) + 1

    def summary(self, counts: dict[str, Any]) -> list[str]:
        """What was predicted, in words."""
        ordered = sorted(counts.items(), key=lambda pair: -pair[1])
        more = f", … ({len(ordered)} classes in all)" if len(ordered) > SHOWN else ""
        return [", ".join(f"{name} {count:,}" for name, count in ordered[:SHOWN]) + more]

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
        """Refuses keys that are for it alone, in the recipe of another task."""

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
        """The keys of a recipe that the head of a checkpoint (see `Start`) decides, with its values."""
        return {}

    def head(self, columns: Any) -> str:
        """The value of a recipe's key `task` where that is left out."""
        return self.heads[0]

    def prepare(self, processor: Any, model_args: Any, train: Any):
        """Gives the processor what it lacks for this task."""

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
        arguments: dict[str, Any] = {"label_smoothing": args.label_smoothing_factor}
        if args.imbalance == "focal_loss":
            arguments["focal_gamma"] = args.focal_gamma
        if args.imbalance in ("class_weights", "logit_adjustment") and (settings or not among_others):
            raise ValueError(f"imbalance {args.imbalance} is for one label a row; the problem is {self.name}.")
        return {key: value for key, value in arguments.items() if key in settings or not among_others}

    @property
    def answer_in_words(self) -> str:
        """What its answers are, for the card."""
        return f"one of {len(self.names or ())} labels: {', '.join(self.names or ())}"

    def row_classes(self, labels: torch.Tensor) -> list[Any]:
        """The class of each row, or the list of its classes where there are several."""
        raise ValueError(f"imbalance is for classes; the problem is {self.name}.")

    def set_up(self, model: Any, model_args: Any):
        """Settings of a model that are none of its config."""
