"""A run, the object that `mm_hf train` and `mm_hf finetune` work on."""

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
    """One training of one recipe, in its own folder: the recipe, its data, the model, and how the model is measured
    (see `Evaluator`). `open_run` makes it, `fit` trains it, and `finish` tests it and writes the folder.

    Args:
        model_args, data_args, train_args: the recipe.
        start: the checkpoint that it starts from; None if it starts from pretrained encoders.
        seconds: wall time by phase.
        searches_fusions: the recipe asks for a search over fusions.
        fusion_search: the trials and the winner of the search, once it has ended.

    Attributes:
        build: builds the model again, with a fresh fusion and head.
        line: the `LinearFloor` from which the model was made, if its fusion is `linear`.
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
        """The modalities with cached features, if the recipe asks for caching: their encoder is frozen, and no
        augmentation changes their items."""
        data_args = self.data_args
        if not data_args.cache_features or data_args.streaming:
            return []
        return [name for name in self.model.config.frozen_encoders if not reader_of(name).changes(data_args)]

    def training_collator(self, collator: MultimodalCollator) -> MultimodalCollator:
        """The same collator with the augmentations that the recipe asks for."""
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
        """The training part, with the lengths or weights of rows that the sampler needs."""
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
        """The number of tokens in each training row: in its texts, and in its label text if the model writes texts."""
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
        """The class of each training row, or the list of its classes if a row has several."""
        return self.task.row_classes(self.labels("train"))


def build_optimizer(model: MMFusionPreTrainedModel, args: TrainArguments) -> torch.optim.Optimizer:
    """The recipe's optimizer over its parameter groups."""
    # The weights of the tasks are a few numbers, and a step changes each by at most the learning rate. With the rate
    # of the matrices they would not reach good values in a thousand steps.
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
        modulated = cast(MMFusionForClassification, model)  # `check_arguments` requires classes
        GradientModulation(modulated, optimizer, args.gradient_modulation)
    return optimizer


def build_scheduler(
    optimizer: torch.optim.Optimizer, args: TrainArguments, total_steps: int, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The recipe's schedule of learning rates, with gradual unfreezing if the recipe asks for it."""
    warmup = round(args.warmup_ratio * total_steps)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, warmup, total_steps)
    if args.unfreeze_epochs is not None:
        unfreeze_gradually(scheduler, optimizer.param_groups, max(1, round(args.unfreeze_epochs * steps_per_epoch)))
    return scheduler
