"""What measures a model on a part of the data: for `mm_hf evaluate`, and for a run that trains."""

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
    """A model, the parts of a data set, what their labels mean, and how answers to them are measured. Nothing here
    trains: see `Run`.

    Args:
        name: what reports call it.
        output_dir: the folder that it writes into.
        accelerator: devices and processes.
        columns: those in use.
        splits: the parts by name; the training part may be a stream.
        tasks: what each column of labels asks; of a search the one that has none.
        generates_validation: a model that writes is measured on the validation part by what it writes; else by how
            often it takes the right next token.
        processor, collator: of the model, and what makes the batches that are measured.
        bad_rows: those met up to now, and how many may be.
        batch_size, num_workers: rows a process and batch, and processes that prepare batches.

    Attributes:
        model: what is measured; set once it is built or loaded.
        rank, world_size: this process, and how many there are.
        learned: the training rows, where they are at hand, for items that stand in for others; None: they are not.
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
        # Read once: the Trainer takes accelerate's state away while it sets up its own.
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes

    def say(self, *words):
        """Prints, on one process."""
        if self.accelerator.is_main_process:
            print(*words, flush=True)

    # What the labels mean

    @property
    def several(self) -> bool:
        """Whether labels and answers are dicts by column: so they are where the columns were given as a list."""
        return isinstance(self.columns.label, list)

    @property
    def task(self) -> Task:
        """What is asked, where that is but one thing."""
        (task,) = self.tasks
        return task

    @property
    def label(self) -> str:
        """The column of labels, where there is but one task."""
        (label,) = self.columns.labels
        return label

    @property
    def problem_type(self) -> Any:
        """What reports call the task; of several a dict by column."""
        kinds = {task.column: task.problem_type for task in self.tasks}
        return kinds if self.several else self.task.problem_type

    @property
    def label2id(self) -> Any:
        """Numbers of the classes by name, None where there are none; of several tasks a dict by column."""
        return {task.column: task.numbers for task in self.tasks} if self.several else self.task.numbers

    def of_task(self: E, task: Task) -> E:
        """The same as if this task were its only one."""
        alone = copy.copy(self)
        alone.columns = replace(self.columns, label=task.column, weight=task.weight)
        alone.tasks = [task]
        return alone

    def alone(self: E) -> list[E]:
        """By task the same as if it were the only one."""
        return [self.of_task(task) for task in self.tasks] if self.several else [self]

    @property
    def tasks_by_name(self) -> dict[str | None, Task]:
        """The tasks by the names that the model has for them; None is that of the only one."""
        return {task.column if self.several else None: task for task in self.tasks}

    @property
    def searches(self) -> bool:
        """Whether it learns from pairs, without labels."""
        return not any(task.needs_labels for task in self.tasks)

    @property
    def writes(self) -> bool:
        """Whether it answers by a text."""
        return any(task.writes for task in self.tasks)

    # How answers are measured

    def generate_arguments(self, split: str) -> dict[str, Any] | None:
        """For `predict`, of one part."""
        return {} if split != "validation" or self.generates_validation else None

    def metrics(self, logits: Any, labels: Any, kinds: list | None = None, generated: bool = True) -> dict[str, Any]:
        """What is measured, the metric that counts first: see `Task.measure` and `multi_task_metrics`."""
        if self.several:
            return multi_task_metrics(self.tasks, logits, labels, kinds)
        return self.task.measure(logits, labels, kinds, self.collator.texts_of, generated)

    def first_metric(self) -> str:
        """The name of the metric that the model is chosen by."""
        if self.writes and not self.generates_validation:
            return TOKEN_ACCURACY
        return "score" if self.several else self.task.first_metric

    def task_metrics(self) -> dict[str, str]:
        """Of several tasks by column the name of the first metric in `multi_task_metrics`."""
        return {task.label: f"{task.label}_{task.task.first_metric}" for task in self.alone()} if self.several else {}

    # Rows and their labels

    def rows(self, split: str) -> Rows:
        """One part as it is measured: each row once, in order. Rows of one picture share a batch where a column names
        the picture."""
        dataset = self.splits[split]
        if isinstance(dataset, IterableDataset):
            raise ValueError(f"The {split} part is a stream, which can be trained on but not measured.")
        rows = Rows(dataset, split)
        rows.groups = dataset[self.columns.image_id] if self.columns.image_id else None
        return rows

    def loader(self, split: str, collator: MultimodalCollator) -> BatchLoader:
        """This process's batches of one part, to be measured."""
        return self.loader_of(self.rows(split), collator)

    def loader_of(self, rows: Rows, collator: MultimodalCollator) -> BatchLoader:
        """This process's batches of some rows, to be measured."""
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
        """Some columns of all rows of one part that is no stream, each with what names it in a message."""
        dataset = self.splits[split]
        dataset = dataset.select_columns([*columns, *({SOURCE_ROW} & set(dataset.column_names))])
        return Rows(dataset, split).__getitems__(range(len(dataset)))

    def labels(self, split: str, of_stream: int | None = None) -> torch.Tensor:
        """All labels of one part, of a stream those of its first `of_stream` rows. Bad ones are missing where bad rows
        are skipped; else they stop the run."""
        bad: list[BadRowError] | None = [] if self.bad_rows.on_error == "skip" else None
        labels = self.read_labels(split, bad, of_stream)
        self.note_bad_rows([error.entry for error in bad or []])
        return labels

    def read_labels(self, split: str, bad: list[BadRowError] | None, of_stream: int | None = None) -> torch.Tensor:
        """The same; bad labels are put into `bad`, and missing. Where that is None, the first of them is raised."""
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
        """Keeps what the collator left out. Where that is too much, stops the run, and leaves the list of them."""
        if entries:
            self.bad_rows.add(entries)
            try:
                rows = {name: len(part) for name, part in self.splits.items() if isinstance(part, Dataset)}
                self.bad_rows.check(rows)
            except ValueError as error:
                file = self.output_dir / "bad_rows.jsonl"
                self.bad_rows.write(file)
                raise ValueError(f"{error} Those found up to now are listed in {file}.") from None

    def share_bad_rows(self, entries: list[dict[str, Any]]):
        """Keeps what the collator left out, puts together what all processes left out, judges it, and writes
        `bad_rows.jsonl`. All call it."""
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
        run: whose data and metrics these are.
        model, collator: the run's, or another model of the same task, and one that leaves a modality out.
        split: name of the part.

    Returns:
        its predictions, and what `Evaluator.metrics` gives; where answers to the validation part are not finite, all
        metrics are NaN.

    Raises:
        ValueError: weights, or answers to another part, are not finite.
    """
    check_finite(model, run.output_dir)
    predictions = predict(model, run.loader(split, collator), run.accelerator, generate=run.generate_arguments(split))
    run.share_bad_rows(predictions.bad_rows)
    fault = fault_of_answers(predictions.logits)
    if fault is not None and split != "validation":
        raise NonFiniteLossError(f"The {split} part cannot be measured: {fault}.")
    report = report_of(run, predictions, split)
    if fault is not None:  # such a score is never the best
        run.say(f"a score that does not count: {fault}")
        report = {**report, "metrics": dict.fromkeys(report["metrics"], math.nan)}
    return predictions, report


def report_of(run: Evaluator, predictions: Predictions, split: str) -> dict:
    """The metrics of predictions of one part."""
    kinds = run.splits[split][run.columns.kind] if run.columns.kind else None
    generated = run.generate_arguments(split) is not None
    return run.metrics(predictions.logits, predictions.labels, kinds, generated)


class OtherPictures(Rows):
    """Rows of one split, each with the pictures of another row, which `order` names: texts beside pictures that they
    do not belong to."""

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
