"""Measures a model on a part of the data: for `mm_hf evaluate`, and for a training run."""

import copy
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset

from .. import MMFusionPreTrainedModel, MMFusionProcessor
from ..data import BadRowError, BadRows, BatchLoader, Columns, MultimodalCollator, Rows, label_tensor
from ..data.rows import SOURCE_ROW
from ..evaluation import Predictions, multi_task_metrics, predict
from ..evaluation.texts import TOKEN_ACCURACY
from ..nonfinite import check_finite, fault_of_answers
from ..optim import NonFiniteLossError
from ..tasks import Task


E = TypeVar("E", bound="Evaluator")


@dataclass(kw_only=True)
class Evaluator:
    """A model, the parts of a data set, the meaning of their labels, and how answers are measured. Nothing is trained
    here: see `Run`.

    Args:
        name: used in reports.
        output_dir: the folder for the files that it writes.
        accelerator: devices and processes.
        columns: the columns in use.
        splits: the parts by name; the training part may be a stream.
        tasks: one for each column of labels; a search has one task without labels.
        generates_validation: how a model that writes texts is measured on the validation part. True: by the texts that
            it generates. False: by how often it predicts the right next token.
        processor, collator: the model's processor, and the collator of the batches that are measured.
        bad_rows: the bad rows found so far, and how many are allowed.
        batch_size, num_workers: rows per process and batch, and processes that prepare batches.

    Attributes:
        model: the model that is measured; set once it is built or loaded.
        rank, world_size: number of this process, and number of processes.
        learned: the training rows, which provide items that replace others; None if they are not available.
    """

    name: str
    output_dir: Path
    accelerator: Accelerator
    columns: Columns
    splits: dict[str, Dataset | IterableDataset]
    tasks: list[Task]
    generates_validation: bool = True
    processor: MMFusionProcessor
    collator: MultimodalCollator
    bad_rows: BadRows
    batch_size: int
    num_workers: int
    model: MMFusionPreTrainedModel = field(init=False, repr=False)
    learned: Dataset | None = field(default=None, init=False, repr=False)

    def __post_init__(self):
        # Read once: the Trainer resets the state of accelerate while it sets up its own.
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes

    def say(self, *words):
        """Prints on the main process."""
        if self.accelerator.is_main_process:
            print(*words, flush=True)

    # What the labels mean

    @property
    def several(self) -> bool:
        """Whether labels and answers are dicts by column. They are if the columns were given as a list."""
        return isinstance(self.columns.label, list)

    @property
    def task(self) -> Task:
        """The task, if there is only one."""
        (task,) = self.tasks
        return task

    @property
    def label(self) -> str:
        """The column of labels, if there is only one task."""
        (label,) = self.columns.labels
        return label

    @property
    def problem_type(self) -> Any:
        """The name of the task in reports; for several tasks a dict by column."""
        kinds = {task.column: task.problem_type for task in self.tasks}
        return kinds if self.several else self.task.problem_type

    @property
    def label2id(self) -> Any:
        """Numbers of the classes by name, None if there are no classes; for several tasks a dict by column."""
        return {task.column: task.numbers for task in self.tasks} if self.several else self.task.numbers

    def of_task(self: E, task: Task) -> E:
        """A copy with this task as its only one."""
        alone = copy.copy(self)
        alone.columns = replace(self.columns, label=task.column, weight=task.weight)
        alone.tasks = [task]
        return alone

    def alone(self: E) -> list[E]:
        """For each task, a copy with this task as its only one."""
        return [self.of_task(task) for task in self.tasks] if self.several else [self]

    @property
    def tasks_by_name(self) -> dict[str | None, Task]:
        """The tasks by the names that the model has for them; the name is None if there is only one task."""
        return {task.column if self.several else None: task for task in self.tasks}

    @property
    def searches(self) -> bool:
        """Whether the model learns from pairs, without labels."""
        return not any(task.needs_labels for task in self.tasks)

    @property
    def writes(self) -> bool:
        """Whether the model answers with a text."""
        return any(task.writes for task in self.tasks)

    # How answers are measured

    def generate_arguments(self, split: str) -> dict[str, Any] | None:
        """The argument `generate` of `predict`, for one part."""
        return {} if split != "validation" or self.generates_validation else None

    def metrics(self, logits: Any, labels: Any, kinds: list | None = None, generated: bool = True) -> dict[str, Any]:
        """The metrics; the first one is the one that counts. See `Task.measure` and `multi_task_metrics`."""
        if self.several:
            return multi_task_metrics(self.tasks, logits, labels, kinds)
        return self.task.measure(logits, labels, kinds, self.collator.texts_of, generated)

    def first_metric(self) -> str:
        """The name of the metric that selects the best model."""
        if self.writes and not self.generates_validation:
            return TOKEN_ACCURACY
        return "score" if self.several else self.task.first_metric

    def task_metrics(self) -> dict[str, str]:
        """For several tasks, by column the name of the task's first metric in `multi_task_metrics`."""
        return {task.label: f"{task.label}_{task.task.first_metric}" for task in self.alone()} if self.several else {}

    # Rows and their labels

    def rows(self, split: str) -> Rows:
        """The rows of one part for measuring: each row once, in order. Rows with the same picture share a batch if a
        column holds the ids of pictures."""
        dataset = self.splits[split]
        if isinstance(dataset, IterableDataset):
            raise ValueError(
                f"The {split} part is a stream. A model can be trained on a stream, but not measured on it."
            )
        rows = Rows(dataset, split)
        rows.groups = dataset[self.columns.image_id] if self.columns.image_id else None
        return rows

    def loader(self, split: str, collator: MultimodalCollator) -> BatchLoader:
        """This process's batches of one part, for measuring."""
        return self.loader_of(self.rows(split), collator)

    def loader_of(self, rows: Rows, collator: MultimodalCollator) -> BatchLoader:
        """This process's batches of some rows, for measuring."""
        return BatchLoader(
            rows,
            collator,
            self.batch_size,
            train=False,
            rank=self.rank,
            world_size=self.world_size,
            num_workers=self.num_workers,
        )

    def all_rows(self, split: str, columns: list[str]) -> list[dict[str, Any]]:
        """Some columns of all rows of one part, which is no stream. Each row also has the keys that name it in
        messages."""
        dataset = self.splits[split]
        dataset = dataset.select_columns([*columns, *({SOURCE_ROW} & set(dataset.column_names))])
        return Rows(dataset, split).__getitems__(range(len(dataset)))

    def labels(self, split: str, of_stream: int | None = None) -> torch.Tensor:
        """All labels of one part; for a stream, the labels of its first `of_stream` rows. If bad rows are skipped, bad
        labels count as missing; else they stop the run."""
        bad: list[BadRowError] | None = [] if self.bad_rows.on_error == "skip" else None
        labels = self.read_labels(split, bad, of_stream)
        self.note_bad_rows([error.entry for error in bad or []])
        return labels

    def read_labels(self, split: str, bad: list[BadRowError] | None, of_stream: int | None = None) -> torch.Tensor:
        """The same. Bad labels count as missing and are added to `bad`; if `bad` is None, the first one is raised."""
        dataset = self.splits[split]
        if isinstance(dataset, IterableDataset):
            first = dataset.select_columns([self.label]).take(of_stream)
            rows = [{**row, "row_id": number, "split": split} for number, row in enumerate(first)]
        else:
            rows = self.all_rows(split, [self.label])
        if self.writes:
            return self.collator.targets(rows, bad)
        return label_tensor(rows, self.label, self.label2id, self.problem_type, bad)

    # Bad rows

    def note_bad_rows(self, entries: list[dict[str, Any]]):
        """Keeps the rows that the collator left out. If there are too many, writes the list of them and stops the
        run."""
        if entries:
            self.bad_rows.add(entries)
            try:
                rows = {name: len(part) for name, part in self.splits.items() if isinstance(part, Dataset)}
                self.bad_rows.check(rows)
            except ValueError as error:
                file = self.output_dir / "bad_rows.jsonl"
                self.bad_rows.write(file)
                raise ValueError(f"{error} The bad rows found so far are listed in {file}.") from None

    def share_bad_rows(self, entries: list[dict[str, Any]]):
        """Collects the rows that the collators of all processes left out, checks that there are not too many, and
        writes `bad_rows.jsonl`. All processes call it."""
        self.note_bad_rows(entries)
        of_all = [entry for part in gather_object([self.bad_rows.entries]) for entry in part]
        self.note_bad_rows(of_all)
        if of_all and self.accelerator.is_main_process:
            self.bad_rows.write(self.output_dir / "bad_rows.jsonl")


def evaluate(
    run: Evaluator, model: MMFusionPreTrainedModel, collator: MultimodalCollator, split: str
) -> tuple[Predictions, dict]:
    """Runs a model over one part, every row once, on all processes.

    Args:
        run: has the data and the metrics.
        model, collator: the run's own, or another model of the same task and a collator that leaves a modality out.
        split: name of the part.

    Returns:
        the predictions, and the result of `Evaluator.metrics`. If answers to the validation part are not finite, all
        metrics are NaN.

    Raises:
        ValueError: the weights are not finite, or the answers to another part than validation are not.
    """
    check_finite(model, run.output_dir)
    predictions = predict(model, run.loader(split, collator), run.accelerator, generate=run.generate_arguments(split))
    run.share_bad_rows(predictions.bad_rows)
    fault = fault_of_answers(predictions.logits)
    if fault is not None and split != "validation":
        raise NonFiniteLossError(f"The {split} part cannot be measured: {fault}.")
    report = report_of(run, predictions, split)
    if fault is not None:  # such a score is never the best
        run.say(f"this score does not count: {fault}")
        report = {**report, "metrics": dict.fromkeys(report["metrics"], math.nan)}
    return predictions, report


def report_of(run: Evaluator, predictions: Predictions, split: str) -> dict:
    """The metrics of predictions of one part."""
    kinds = run.splits[split][run.columns.kind] if run.columns.kind else None
    generated = run.generate_arguments(split) is not None
    return run.metrics(predictions.logits, predictions.labels, kinds, generated)


class OtherPictures(Rows):
    """Rows of one split, each with the pictures of another row, given by `order`. So texts are paired with wrong
    pictures."""

    def __init__(self, dataset: Dataset, split: str, columns: Columns, order: list[int]):
        super().__init__(dataset, split)
        moved = [*columns.images, *(column for column in (columns.image_id, columns.video) if column)]
        self.pictures, self.order = dataset.select_columns(moved), order
        self.groups = self.pictures[columns.image_id][order] if columns.image_id else None

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        pictures = self.pictures[[self.order[index] for index in indices]]
        return [
            {**row, **{name: values[place] for name, values in pictures.items()}}
            for place, row in enumerate(super().__getitems__(indices))
        ]
