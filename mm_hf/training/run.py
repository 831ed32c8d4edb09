"""A run: what `mm_hf train` and `mm_hf finetune` work on."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from datasets import IterableDataset
from transformers import get_scheduler

from .. import MMFusionForClassification, MMFusionPreTrainedModel
from ..balance import GradientModulation
from ..data import BatchLoader, MultimodalCollator, Rows, StreamBatches, balanced_weights
from ..data.modalities import READERS, reader_of
from ..models.modality import modality_of
from ..optim import parameter_groups, unfreeze_gradually
from .data_arguments import DataArguments
from .evaluator import Evaluator
from .model_arguments import ModelArguments
from .start import Start
from .train_arguments import TrainArguments


@dataclass(kw_only=True)
class Run(Evaluator):
    """One training of one recipe, in a folder of its own: what the recipe asks for, the data that it names, the model
    that is built for them, and how that is measured (see `Evaluator`). `open_run` makes it, `fit` trains it, and
    `finish` tests it and writes the folder.

    Args:
        model_args, data_args, train_args: the recipe.
        start: the checkpoint that it starts from; None where it starts from pretrained encoders.
        seconds: wall time by phase.
        searches_fusions: the recipe leaves the fusion to a search.
        fusion_search: its trials and its winner, once it has ended.

    Attributes:
        build: makes the model anew, with fresh fusion and head.
        line: the `LinearFloor` that the model itself is, where its fusion is the straight line.
    """

    model_args: ModelArguments
    data_args: DataArguments
    train_args: TrainArguments
    start: Start | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    searches_fusions: bool = False
    fusion_search: dict[str, Any] | None = None
    build: Callable[[], MMFusionPreTrainedModel] = field(init=False, repr=False)
    line: Any = field(default=None, init=False, repr=False)

    @property
    def kept_features(self) -> list[str]:
        """The modalities whose features are kept, where the recipe asks for that: their encoder is frozen, and no
        augmentation changes their items."""
        data_args = self.data_args
        if not data_args.cache_features or data_args.streaming:
            return []
        return [name for name in self.model.config.frozen_encoders if not reader_of(name).changes(data_args)]

    def training_collator(self, collator: MultimodalCollator) -> MultimodalCollator:
        """The same with the augmentations that the recipe asks for."""
        asked: dict[str, Any] = {}
        for name, reader in READERS.items():
            if reader.augmentation is None:
                continue
            value = reader.asked_augmentation(self.data_args)
            if not modality_of(name).extra:
                asked[reader.augmentation] = reader.augmentation_of(value)
            elif value is not None:
                asked.setdefault("extra_augment", {})[name] = reader.augmentation_of(value)
        return replace(collator, **asked, seed=self.train_args.seed)

    def training_rows(self) -> Rows | StreamBatches:
        """The training part, with what the sampler has to know of its rows."""
        dataset, args = self.splits["train"], self.train_args
        if isinstance(dataset, IterableDataset):
            return StreamBatches(
                dataset,
                "train",
                args.per_device_train_batch_size,
                rank=self.rank,
                world_size=self.world_size,
                shuffle_buffer=self.data_args.shuffle_buffer,
                seed=args.seed,
                repeat=True,
            )
        rows = self.rows("train")
        if args.train_sampling_strategy == "group_by_length":
            rows.lengths = self.lengths()
        if args.imbalance == "balanced_sampler":
            rows.weights = balanced_weights(self.classes())
        return rows

    def training_loader(self, collator: MultimodalCollator) -> BatchLoader:
        """This process's batches of the training part, with the augmentations that the recipe asks for."""
        args = self.train_args
        return BatchLoader(
            self.training_rows(),
            self.training_collator(collator),
            args.per_device_train_batch_size,
            train=True,
            seed=args.seed,
            rank=self.rank,
            world_size=self.world_size,
            num_workers=args.dataloader_num_workers,
        )

    def lengths(self) -> list[int]:
        """Tokens of each training row's texts, and of the one that it is to write."""
        part = self.splits["train"]
        totals = [0] * len(part)
        for column in self.columns.texts:
            texts = part[column]
            distinct = sorted({text for text in texts if isinstance(text, str)})
            lengths = dict(zip(distinct, map(len, self.processor.tokenizer(distinct)["input_ids"])))
            totals = [length + lengths.get(text, 0) for length, text in zip(totals, texts)]
        if self.writes:
            totals = [a + b for a, b in zip(totals, (self.labels("train") != -100).sum(1).tolist())]
        return totals

    def classes(self) -> list:
        """The class of each training row, or the list of its classes where there are several."""
        return self.task.row_classes(self.labels("train"))


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
        modulated = cast(MMFusionForClassification, model)  # `check_arguments` asks for classes
        GradientModulation(modulated, optimizer, args.gradient_modulation)
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
