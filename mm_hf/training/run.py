"""What `mm_hf train` and `mm_hf finetune` work on: one run, with its data, its model and what it was asked."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset
from transformers import get_scheduler

from .. import MMFusionPreTrainedModel, MMFusionProcessor
from ..balance import GradientModulation
from ..data import (
    BadRowError,
    BadRows,
    BatchLoader,
    Columns,
    MultimodalCollator,
    Rows,
    StreamBatches,
    balanced_weights,
    label_tensor,
    parse_augmentations,
)
from ..data.loading import SOURCE_ROW
from ..evaluation import (
    classification_metrics,
    first_metric,
    generation_metrics,
    multi_task_metrics,
    retrieval_metrics,
    token_metrics,
)
from ..evaluation.texts import TOKEN_ACCURACY
from ..models.ctc_mm_fusion import CTC
from ..models.generation_mm_fusion import GENERATION
from ..optim import parameter_groups, unfreeze_gradually
from .arguments import (
    DataArguments,
    ModelArguments,
    TrainArguments,
)


RETRIEVAL = "retrieval"
COLUMN_OF = {
    "vision": "image_column",
    "text": "text_column",
    "audio": "audio_column",
    "tabular": "table_columns",
    "series": "series_column",
}


@dataclass
class Run:
    """One run: what it was asked, and what was built for it.

    Args:
        name: of the recipe.
        output_dir: the run's folder.
        accelerator: devices and processes.
        model_args, data_args, train_args: the recipe.
        columns, splits, label2id, problem_type: the data; `splits` by name, the training part perhaps a stream. Where
            `columns.label` is a list, the latter two are dicts by column; of a search the problem type is "retrieval",
            of a model that writes "generation".
        build: makes the model anew, with fresh fusion and head.
        model, processor, collator: as they are measured; `training_collator` is for training.
        bad_rows: those found up to now.
        seconds: wall time by phase.
        start: what it starts from, see `Start`; None where it starts from pretrained encoders.
    """

    name: str
    output_dir: Path
    accelerator: Accelerator
    model_args: ModelArguments
    data_args: DataArguments
    train_args: TrainArguments
    columns: Columns
    splits: dict[str, Dataset | IterableDataset]
    label2id: dict[str, Any] | None
    problem_type: Any
    processor: MMFusionProcessor
    bad_rows: BadRows
    build: Callable[[], MMFusionPreTrainedModel] = None
    model: MMFusionPreTrainedModel = None
    collator: MultimodalCollator = None
    seconds: dict[str, float] = field(default_factory=dict)
    start: Any = None

    def __post_init__(self):
        # Read once: the Trainer takes accelerate's state away while it sets up its own.
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes

    def say(self, *words):
        """Prints, on one process."""
        if self.accelerator.is_main_process:
            print(*words, flush=True)

    @property
    def tasks(self) -> list[str]:
        """The columns of labels of a model with several tasks; none where there is but one."""
        return self.columns.label if isinstance(self.columns.label, list) else []

    def of_task(self, name: str) -> "Run":
        """The same run as if this task were its only one."""
        run = copy.copy(self)
        run.columns = replace(self.columns, label=name, weight=self.columns.weights.get(name))
        run.label2id, run.problem_type = self.label2id[name], self.problem_type[name]
        return run

    def alone(self) -> list["Run"]:
        """One run a task."""
        return [self.of_task(name) for name in self.tasks] or [self]

    def task_metrics(self) -> dict[str, str]:
        """By task the name of its first metric in `multi_task_metrics`."""
        return {task: f"{task}_{first_metric(self.problem_type[task])}" for task in self.tasks}

    @property
    def searches(self) -> bool:
        """Whether it learns from pairs, without labels."""
        return self.problem_type == RETRIEVAL

    @property
    def writes(self) -> bool:
        """Whether it learns to write a text."""
        return self.problem_type == GENERATION

    @property
    def transcribes(self) -> bool:
        """Whether what it writes is what is heard, by CTC."""
        return self.model_args.task == CTC

    def generate_arguments(self, split: str) -> dict[str, Any] | None:
        """For `predict`, of one part."""
        return {} if split != "validation" or self.train_args.predict_with_generate else None

    def metrics(self, logits: Any, labels: Any, kinds: list | None = None, generated: bool = True) -> dict[str, Any]:
        """What is measured, the metric that counts first: see `classification_metrics`, `multi_task_metrics`,
        `retrieval_metrics`, `generation_metrics` and, of a model that writes but did not, `token_metrics`."""
        if self.searches:
            return retrieval_metrics(logits, labels)
        if self.writes and not generated:
            return token_metrics(logits, labels)
        if self.writes:
            said = [text or "" for text in self.collator.texts_of(logits)]
            return generation_metrics(said, self.collator.texts_of(labels), kinds)
        measure = multi_task_metrics if self.tasks else classification_metrics
        return measure(logits, labels, self.problem_type, kinds)

    def first_metric(self) -> str:
        """The name of the metric that the model is chosen by."""
        if self.searches:
            return "mean_recall"
        if self.writes:
            return "chrf" if self.train_args.predict_with_generate else TOKEN_ACCURACY
        return "score" if self.tasks else first_metric(self.problem_type)

    def training_collator(self, collator: MultimodalCollator) -> MultimodalCollator:
        """The same with the augmentations that the recipe asks for."""
        augment = parse_augmentations(self.data_args.augment) if self.data_args.augment else None
        data_args = self.data_args
        return replace(
            collator,
            augment=augment,
            token_dropout=data_args.token_dropout,
            speed_perturbation=data_args.speed_perturbation,
            seed=self.train_args.seed,
        )

    def rows(self, split: str, train: bool) -> Rows | StreamBatches:
        """One part, with what the sampler has to know of its rows."""
        dataset, args = self.splits[split], self.train_args
        if isinstance(dataset, IterableDataset):
            return StreamBatches(
                dataset,
                split,
                args.per_device_train_batch_size,
                rank=self.rank,
                world_size=self.world_size,
                shuffle_buffer=self.data_args.shuffle_buffer,
                seed=args.seed,
                repeat=True,
            )
        rows = Rows(dataset, split)
        rows.groups = dataset[self.columns.image_id] if self.columns.image_id else None
        if train and args.train_sampling_strategy == "group_by_length":
            rows.lengths = self.lengths(split)
        if train and args.imbalance == "balanced_sampler":
            rows.weights = balanced_weights(self.classes(split))
        return rows

    def lengths(self, split: str) -> list[int]:
        """Tokens of each row's text, and of the one that it is to write."""
        found = [0] * len(self.splits[split])
        if self.columns.text is not None:
            texts = self.splits[split][self.columns.text]
            distinct = sorted({text for text in texts if isinstance(text, str)})
            lengths = dict(zip(distinct, map(len, self.processor.tokenizer(distinct)["input_ids"])))
            found = [lengths.get(text, 0) for text in texts]
        if self.writes:
            found = [a + b for a, b in zip(found, (self.labels(split) != -100).sum(1).tolist())]
        return found

    def loader(self, split: str, collator: MultimodalCollator, train: bool) -> BatchLoader:
        """This process's batches of one part."""
        args = self.train_args
        return BatchLoader(
            self.rows(split, train),
            collator,
            args.per_device_train_batch_size if train else args.per_device_eval_batch_size,
            train=train,
            seed=args.seed,
            rank=self.rank,
            world_size=self.world_size,
            num_workers=args.dataloader_num_workers,
        )

    def labels(self, split: str, of_stream: int | None = None) -> torch.Tensor:
        """All labels of one part. Bad ones are missing where the recipe skips them; else they stop the run.

        Args:
            split: name of the part.
            of_stream: how many of its first rows stand for a part that is a stream.
        """
        bad: list[BadRowError] | None = [] if self.data_args.on_error == "skip" else None
        if isinstance(self.splits[split], IterableDataset):
            first = self.splits[split].select_columns([self.columns.label]).take(of_stream)
            rows = [{**row, "row_id": number, "split": split} for number, row in enumerate(first)]
        else:
            rows = self.all_rows(split, [self.columns.label])
        if self.writes:
            labels = self.collator.targets(rows, bad)
        else:
            labels = label_tensor(rows, self.columns.label, self.label2id, self.problem_type, bad)
        self.note_bad_rows([error.entry for error in bad or []])
        return labels

    def all_rows(self, split: str, columns: list[str]) -> list[dict[str, Any]]:
        """Some columns of all rows of one part, each with what names it in a message."""
        dataset = self.splits[split]
        dataset = dataset.select_columns([*columns, *({SOURCE_ROW} & set(dataset.column_names))])
        return Rows(dataset, split).__getitems__(range(len(dataset)))

    def classes(self, split: str) -> list:
        """The class of each row of one part, or the list of its classes where there are several."""
        labels = self.labels(split)
        if self.problem_type == "single_label_classification":
            return labels.tolist()
        if self.problem_type == "multi_label_classification":
            return [[number for number, value in enumerate(row) if value > 0.5] for row in labels.tolist()]
        raise ValueError(f"imbalance is for classes; the problem is {self.problem_type}.")

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

    def share_bad_rows(self):
        """Puts together what all processes left out, judges it, and writes `bad_rows.jsonl`. All call it."""
        found = [entry for entries in gather_object([self.bad_rows.entries]) for entry in entries]
        self.note_bad_rows(found)
        if found and self.accelerator.is_main_process:
            self.bad_rows.write(self.output_dir / "bad_rows.jsonl")


def build_optimizer(model: MMFusionPreTrainedModel, args: TrainArguments) -> torch.optim.Optimizer:
    """The recipe's optimizer over its parameter groups."""
    # A handful of numbers that each step moves by no more than its rate: at that of the matrices they would not get to
    # where they belong in a thousand steps.
    rates = {**args.encoder_learning_rates, "task_weighting": 10 * args.learning_rate}
    parts = [*model.config.modalities, *(name for name, _ in model.named_children())]
    rates = {name: rate for name, rate in rates.items() if name in parts}
    groups = parameter_groups(model, args.learning_rate, args.weight_decay, rates, args.layer_decay)
    optimizer: torch.optim.Optimizer
    if args.optim == "sgd":
        optimizer = torch.optim.SGD(groups, lr=args.learning_rate)
    else:
        optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, fused=True)
    if args.gradient_modulation:
        GradientModulation(model, optimizer, args.gradient_modulation)
    return optimizer


def build_scheduler(
    optimizer: torch.optim.Optimizer, args: TrainArguments, total_steps: int, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The recipe's schedule, with gradual unfreezing where it is asked for."""
    warmup = round(args.warmup_ratio * total_steps)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, warmup, total_steps)
    if args.unfreeze_epochs is not None:
        unfreeze_gradually(scheduler, optimizer.param_groups, max(1, round(args.unfreeze_epochs * steps_per_epoch)))
    return scheduler
