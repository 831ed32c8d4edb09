"""The class `Task`: everything that training and reports need to know about a column of labels."""

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


SHOWN = 12  # at most so many classes in a summary
TextsOf = Callable[[torch.Tensor], list[str | None]]
T = TypeVar("T", bound="Task")


def refuse(keys: Mapping[str, Any], reason: str):
    """Refuses the first of these recipe keys that has a value."""
    for key, value in keys.items():
        if value is not None:
            raise ValueError(f"{key} is {value!r}, but {reason}: leave it out.")


@dataclass(frozen=True)
class Constant:
    """A constant answer: the same for every row.

    Args:
        answer: for one row, in the shape of answers.
        metric: it is the best constant answer for this metric.
        words: its name in words.
        listed: reports list it among the floors. If false, the score is only compared with it.
    """

    answer: torch.Tensor
    metric: str
    words: str
    listed: bool = True


@dataclass
class Task(HowSure):
    """What a model predicts for every row from one column of labels. A run with several label columns has a list of
    tasks.

    A task from outside the package is a subclass, registered with `register_task`, together with its `TaskHead`.

    Args:
        column: the column of its labels; None for a task without labels, such as a search.
        names: names of its classes, in the order of their numbers; None if it has no classes.
        weight: the column with the weight of each row in the training loss; None: all rows have the same weight.

    Attributes:
        name: the problem type in the model's config, such as "regression".
        heads: the values of the recipe's key `task` that it works with; the usual one comes first.
        needs_labels: it has a column of labels.
        writes: its answers are texts.
        transcribes: its texts are transcriptions of a sound, written by CTC.
        probabilities: its columns of predictions may include the probabilities of classes.
        ordered: its classes have an order, so their numbers matter: two models can only be compared if both have the
            same numbers.
        row_score: the meaning of the score of a row, in words.
        without_gpu: recipe keys with better values for a machine without a GPU, if the recipe does not give them.
        note: a note below pictures of its predictions.
        lower_is_better: the metrics for which a lower value is better.
        in_units: the metrics with differences in their own unit, not in percentage points.
        guesses: the floors of `constants`: words for each, by name.
        decodes: its texts are written by a decoder.
        by_head: the recipe's key `task` alone selects it, whatever the labels are.
        keeps_line: the linear model of `linear_answer` can become a checkpoint, with the fusion `linear`.
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
        """The number of each class by its name; None if it has no classes."""
        return {name: number for number, name in enumerate(self.names)} if self.names else None

    # ---- Labels: what they mean, and as tensors

    def label_tensor(self, rows: list[dict[str, Any]], bad: list | None = None) -> torch.Tensor:
        """The labels of rows; -100 or NaN for a row without a label.

        Args:
            rows: from `Rows`.
            bad: a list for the errors of bad rows; None: the first error is raised.
        """
        return label_tensor(rows, str(self.column), self.numbers, self.name, bad)

    # ---- Measuring

    @property
    def problem_type(self) -> str:
        """The name of the problem type in reports."""
        return self.name

    @property
    def classes(self) -> list[str] | None:
        """The names of all possible answers; None for numbers and for generated texts."""
        return self.names

    def has_label(self, labels: torch.Tensor) -> torch.Tensor:
        """Which rows have a label, `(N,)` bool. A missing label is -100 among whole numbers, and NaN among floats."""
        missing = labels.isnan() if labels.is_floating_point() else labels == -100
        return ~(missing if labels.ndim == 1 else missing.flatten(1).any(-1))

    def answers(self, logits: torch.Tensor) -> torch.Tensor:
        """The answers of a model, `(N,)` or `(N, C)`, from its logits `(N, C)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `answers`, which turns logits into answers.")

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels in the shape of `answers`; a missing label may have any value."""
        return labels

    def metrics(self, outputs: int, validate: bool = True) -> dict[str, Metric]:
        """Its metrics by name. The first one selects the best model. Each metric takes answers and targets.

        Args:
            outputs: C, the width of the logits.
            validate: let torchmetrics check every value, which takes longer than the metric itself.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `metrics`.")

    @property
    def first_metric(self) -> str:
        """The metric that selects the best model."""
        return next(iter(self.metrics(outputs=2)))

    def measure(
        self,
        logits: Any,
        labels: Any,
        kinds: list | None = None,
        texts_of: TextsOf | None = None,
        generated: bool = True,
    ) -> dict[str, Any]:
        """The metrics over all rows with a label: see `measure_rows`.

        Args:
            logits, labels: see `Predictions`.
            kinds: the kind of each row.
            texts_of: turns tokens into texts.
            generated: for a task that writes texts: the logits hold generated tokens, not predicted next tokens.
        """
        return measure_rows(self, logits, labels, kinds)

    def score(self, metrics: Mapping[str, float], answers: torch.Tensor, targets: torch.Tensor) -> float:
        """Its part in the mean score over several tasks: at most 1, higher is better.

        Args:
            metrics: of these answers and targets.
            answers, targets: of the rows with a label.
        """
        if lower_is_better(self.first_metric):
            raise NotImplementedError(
                f"{self.first_metric}, the first metric of {self.name}, is better when lower: "
                f"{type(self).__name__}.score must define a score that is better when higher, for the mean over "
                "several tasks."
            )
        return metrics[self.first_metric]

    def readable(self: T, values: Sequence[torch.Tensor], texts_of: TextsOf) -> tuple[T, list[torch.Tensor]]:
        """Logits and labels in the form that the methods of this class take. Tokens become numbers of texts, and then
        the returned task has these texts as its names.

        Args:
            values: all tensors that are compared with each other: they must share one numbering of texts.
            texts_of: turns tokens into texts.
        """
        return self, list(values)

    def constants(self, labels: torch.Tensor, outputs: int) -> dict[str, Constant]:
        """The best constant answers by the name of their floor; the one for the first metric comes first.

        Args:
            labels: of training rows; rows without a label do not count.
            outputs: C, the width of the logits.
        """
        values, counts = self.targets(labels[self.has_label(labels)]).unique(dim=0, return_counts=True)
        return {"majority": Constant(values[counts.argmax()], self.first_metric, "the most frequent answer")}

    def linear_answer(self, train: LinearRows, validation: LinearRows, test: LinearRows) -> LinearAnswer | None:
        """The answers of a linear model, for the floor `linear`; None if none is defined.

        Args:
            train: the model is fitted on these rows, which all have a label.
            validation: its regularisation strength is chosen on these rows, which all have a label.
            test: the rows to predict; their labels are not used.
        """
        return None

    def measurer(
        self, predictions: tuple[Any, Any], labels: Any, texts_of: TextsOf, several: bool = False
    ) -> Callable[[torch.Tensor, int], float]:
        """A function that measures two models, A and B, on resamples of the same rows, by the first metric.

        Args:
            predictions: of A and of B, see `Predictions`.
            labels: of the same rows, see `Predictions`.
            texts_of: see `readable`.
            several: it is one of several tasks; then `score` is measured instead of the first metric.

        Returns:
            a function of rows (int64) and of 0 for A or 1 for B. It gives NaN if none of the rows has a label.
        """
        return measurer_of(*self.readable([*predictions, labels], texts_of), several)

    def chance(self, labels: Any) -> tuple[list[tuple[str, str, float]], dict[str, float]]:
        """For a task without labels, the scores of random answers.

        Args:
            labels: the values that replace labels, see `Predictions`.

        Returns:
            floors for the score, each with name, metric and value; and more values to show.
        """
        return [], {}

    def row_scores(self, answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """How good each answer is, `(N,)` float64, higher is better; see `row_score`."""
        return (answers == targets).double().reshape(len(targets), -1).mean(-1)

    def row_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of each row, `(N,)`, without any reduction."""
        return 1 - self.row_scores(self.answers(logits), self.targets(labels))

    def counts(self, answers: Pair, targets: torch.Tensor, scores: Pair) -> dict[str, torch.Tensor]:
        """Which rows are in favour of model A or B, bool by the name of the case.

        Args:
            answers, scores: of A and of B.
            targets: the same for both.
        """
        one, other = ((said == targets).reshape(len(targets), -1).all(-1) for said in answers)
        counts = {"both_right": one & other, "only_a_right": one & ~other}
        return counts | {"only_b_right": other & ~one, "both_wrong": ~one & ~other}

    def diagnostics(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        """More measurements on rows with a label, in addition to the metrics: `calibration`, `confusion`,
        `label_scores`."""
        return {}

    def plots(
        self, analysis: Mapping[str, Any], answers: torch.Tensor, targets: torch.Tensor
    ) -> dict[str, Callable[[Path], None]]:
        """Functions that draw pictures of the answers, by the name of the file; `PICTURES` explains each file.

        Args:
            analysis: see `analyse`.
            answers, targets: of the rows with a label.
        """
        return {}

    # ---- Saying

    def spell(self, answer: torch.Tensor) -> str:
        """One answer, or target, in words."""
        if answer.ndim or self.names is None:
            return ", ".join(f"{number:.7g}" for number in answer.reshape(-1).tolist())
        return self.names[int(answer)]

    def mistakes(self, logits: torch.Tensor, labels: torch.Tensor, places: list[int]) -> list[dict[str, Any]]:
        """`answer` and `truth` in words for some of the rows with a label, and more facts about each."""
        answers, targets = self.answers(logits), self.targets(labels)
        return [{"answer": self.spell(answers[place]), "truth": self.spell(targets[place])} for place in places]

    def caption(self, mistake: Mapping[str, Any]) -> tuple[str, str, bool]:
        """The answer and the true value of a mistake as texts for a picture, and whether the answer is still good
        enough."""
        return mistake["answer"], mistake["truth"], False

    def judged(self, logits: torch.Tensor, labels: torch.Tensor) -> list[tuple[str, str | None, bool | None]]:
        """For each row the model's answer, the true value, and whether the answer is right; None without a label."""
        answers, targets = self.answers(logits), self.targets(labels)
        return [
            (self.spell(answer), *((self.spell(truth), bool((answer == truth).all())) if present else (None, None)))
            for answer, truth, present in zip(answers, targets, self.has_label(labels).tolist())
        ]

    def columns(self, outputs: int, top_k: int = 1, every: bool = False) -> dict[str, pa.DataType]:
        """The columns that `mm_hf predict` writes, in their order, and their types.

        Args:
            outputs: C, the width of the logits.
            top_k: number of best classes to write.
        """
        return {"prediction": pa.string()}

    def values(self, said: Any, top_k: int = 1, every: bool = False) -> list[list[Any]]:
        """The values of these columns for each row.

        Args:
            said: `(B, C)` logits, or texts if the task writes texts.
            top_k, every: see `columns`.
        """
        return [[self.spell(answer)] for answer in self.answers(said)]

    def count(self, counts: dict[str, Any], row: list[Any]):
        """Counts the values of one row, for `summary`; the counts go into a JSON file."""
        for name in row[0] if isinstance(row[0], list) else [row[0]]:
            counts[name] = counts.get(name, 0) + 1

    def summary(self, counts: dict[str, Any]) -> list[str]:
        """A summary of the predictions, in words."""
        ordered = sorted(counts.items(), key=lambda pair: -pair[1])
        more = f", … ({len(ordered)} classes in all)" if len(ordered) > SHOWN else ""
        return [", ".join(f"{name} {count:,}" for name, count in ordered[:SHOWN]) + more]

    # ---- Training

    @classmethod
    def needed(cls, model_args: Any, data_args: Any) -> dict[str, Any]:
        """The recipe keys that the task needs, with their values.

        Raises:
            ValueError: there are columns that the task does not use.
        """
        return {"label_column": data_args.label_column}

    @classmethod
    def check_recipe(cls, model_args: Any, data_args: Any, train_args: Any):
        """Refuses recipe keys that do not work with this task, before anything is loaded.

        Raises:
            ValueError: names the key, its value and the way out.
        """

    @classmethod
    def check_others(cls, model_args: Any, train_args: Any):
        """Refuses keys that only this task uses, in the recipe of another task."""

    @classmethod
    def learn(cls, splits: Any, column: str | None) -> "Task":
        """The task of a column, if the recipe's key `task` selects it. (Else the labels decide, see `labels_of`.)"""
        return cls(column)

    @classmethod
    def can_answer(cls, data_args: Any) -> bool:
        """Whether the data has the columns, apart from labels, that a checkpoint of this task needs for a new run."""
        return True

    @classmethod
    def head_keys(cls, start: Any, data_args: Any) -> dict[str, Any]:
        """The recipe keys that depend on the head of a checkpoint (see `Start`), with its values."""
        return {}

    def head(self, columns: Any) -> str:
        """The value of the recipe's key `task` if that is left out."""
        return self.heads[0]

    def prepare(self, processor: Any, model_args: Any, train: Any):
        """Adds to the processor what this task needs."""

    def head_arguments(self, run: Any) -> dict[str, Any]:
        """The settings of the head of a model with only this task, in the form of the config."""
        labels: dict[str, Any] = {"num_labels": 1}
        if self.names:
            labels = {"id2label": dict(enumerate(self.names)), "label2id": self.numbers, "num_labels": len(self.names)}
        return {"problem_type": self.name, **labels}

    def loss_arguments(self, run: Any, among_others: bool = False) -> dict[str, Any]:
        """The recipe's settings of its loss, in the form of the model's config.

        Args:
            run: with its data, and with this task as its only one.
            among_others: the real run has other tasks too; then settings that this loss does not have are for these.

        Raises:
            ValueError: the recipe has a setting that this loss does not have.
        """
        args, settings = run.train_args, task_head_of(self.name).settings
        arguments: dict[str, Any] = {"label_smoothing": args.label_smoothing_factor}
        if args.imbalance == "focal_loss":
            arguments["focal_gamma"] = args.focal_gamma
        if args.imbalance in ("class_weights", "logit_adjustment") and (settings or not among_others):
            raise ValueError(
                f"imbalance is {args.imbalance}, which needs one label per row, but the problem is {self.name}: leave "
                "imbalance out."
            )
        return {key: value for key, value in arguments.items() if key in settings or not among_others}

    @property
    def answer_in_words(self) -> str:
        """The kind of answers in words, for the card."""
        return f"one of {len(self.names or ())} labels: {', '.join(self.names or ())}"

    def row_classes(self, labels: torch.Tensor) -> list[Any]:
        """The class of each row, or the list of its classes if a row has several."""
        raise ValueError(f"imbalance is for classes, but the problem is {self.name}: leave imbalance out.")

    def set_up(self, model: Any, model_args: Any):
        """Changes settings of a model that are not in its config."""
