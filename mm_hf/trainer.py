"""The library's Trainer, mended where it does not fit models of several modalities."""

import dataclasses
import os
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, denumpify_detensorize

from .checkpoints import begin, newest_checkpoint, publish, rotate, staging_folder
from .data.collator import MultimodalCollator
from .data.loader import BatchLoader
from .data.loading import Rows
from .evaluation.prediction import predict
from .models.losses import count_labels


class MMTrainer(Trainer):
    """A `transformers.Trainer` whose arguments, callbacks, trackers and methods are the library's.

    What differs, and why:

    - Batches come from `BatchLoader`: rows of one group stay together, and each process takes its part by itself.
      Their tensors differ in length (distinct items, rows), so the library can neither shard nor gather them.
    - Evaluation and prediction count every row once, by its id, and give them in the order of the data set.
    - Labels that are missing (NaN) do not count in the loss.
    - Label smoothing happens inside the model, where it leaves its other losses alone.
    - What augments the training rows leaves the others alone.
    - Columns are never dropped: the collator reads rows, not the inputs of `forward`.
    - A checkpoint is complete or not there (`mm_hf.checkpoints`); `train(resume_from_checkpoint=True)` takes the
      newest complete one.

    Args:
        args: `TrainingArguments`; `remove_unused_columns` is ignored.
        data_collator: a `MultimodalCollator`.
        train_dataset, eval_dataset: `Rows`, a `datasets.Dataset`, or `StreamBatches` for training; `eval_dataset` may
            be a dict of them.
        kwargs: as for the library's class.

    Raises:
        ValueError: several GPUs without one process each, or an option that cannot work with these batches.
    """

    def __init__(self, model=None, args=None, data_collator=None, **kwargs):
        if args is not None:
            # One process on several GPUs would cut every tensor of a batch into as many parts, whatever it counts.
            if args.n_gpu > 1:
                raise ValueError(
                    f"One process sees {args.n_gpu} GPUs: start one a GPU with `accelerate launch` or `torchrun`, or "
                    "set CUDA_VISIBLE_DEVICES."
                )
            args.remove_unused_columns = False
            if args.batch_eval_metrics:
                raise ValueError("batch_eval_metrics is True: metrics here are computed over all rows at once.")
            smoothing, args.label_smoothing_factor = args.label_smoothing_factor, 0.0
        if data_collator is None:
            raise ValueError("MMTrainer needs data_collator, a MultimodalCollator.")
        self._staging: Path | None = None
        super().__init__(model, args, data_collator, **kwargs)
        if args is not None and smoothing:
            self._smooth_labels(smoothing)
        self.label_names = ["labels"]

    def _smooth_labels(self, smoothing: float):
        """Moves `label_smoothing_factor` into the config of each model that is trained."""
        model_init = self.model_init
        if model_init is not None:

            def smoothed(*args):
                model = model_init(*args)
                model.config.label_smoothing = smoothing
                return model

            self.model_init = smoothed
        if self.model is not None:
            self.model.config.label_smoothing = smoothing

    # Data

    def _loader(self, dataset: Any, split: str, train: bool) -> BatchLoader:
        if isinstance(dataset, datasets.Dataset):
            dataset = Rows(dataset, split)
        args, collator = self.args, cast(MultimodalCollator, self.data_collator)
        if not train:
            collator = dataclasses.replace(collator, augment=None, token_dropout=0.0)
        return BatchLoader(
            dataset,
            collator,
            self._train_batch_size if train else args.eval_batch_size,
            train=train,
            seed=args.seed if args.data_seed is None else args.data_seed,
            rank=args.process_index,
            world_size=args.world_size,
            num_workers=args.dataloader_num_workers,
        )

    def get_train_dataloader(self) -> DataLoader:
        """This process's batches of the training part."""
        if self.train_dataset is None:
            raise ValueError("MMTrainer: training needs train_dataset.")
        return self._loader(self.train_dataset, "train", train=True)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """This process's batches of the evaluation part."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = self.eval_dataset[dataset]
        if dataset is None:
            raise ValueError("MMTrainer: evaluation needs eval_dataset.")
        return self._loader(dataset, "validation", train=False)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """This process's batches of another part."""
        return self._loader(test_dataset, "test", train=False)

    def _run_epoch(self, *, epoch: int, train_dataloader: DataLoader, **kwargs):
        # Here and not in the library's own call, which a resumed epoch does not reach: there it holds another loader,
        # over the same sampler and collator.
        cast(BatchLoader, train_dataloader).set_epoch(epoch)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    # Training

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """Labels of all processes and accumulation steps; the library's count takes NaN for a label."""
        labels = [batch["labels"] for batch in batch_samples if "labels" in batch]
        if not labels or not self.model_accepts_loss_kwargs:
            return None
        count = torch.tensor(sum(map(count_labels, labels)), device=device)
        if self.args.world_size > 1 and self.args.average_tokens_across_devices:
            count = self.accelerator.reduce(count)
        return count.clamp(min=1)

    def compute_loss(self, model, inputs: dict[str, Any], *args, **kwargs):
        """The model's own loss; what the batch tells of its rows stays out of the model."""
        inputs = {key: value for key, value in inputs.items() if key not in ("row_ids", "bad_rows", "stream_position")}
        return super().compute_loss(model, inputs, *args, **kwargs)

    # Evaluation

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """See the library's method. Every row counts once, in the order of the data set; `ignore_keys` has no effect,
        since only logits are gathered."""
        self.callback_handler.eval_dataloader = dataloader
        if not self.accelerator._models:  # not in training: nothing has placed the model yet
            cast(nn.Module, self.model).to(self.args.device)
        predictions = self.predict_rows(self._with_callbacks(dataloader))
        logits = predictions.logits.numpy()
        labels = None if predictions.labels is None else predictions.labels.numpy()
        metrics: dict[str, Any] = {}
        loss_only = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        if self.compute_metrics is not None and labels is not None and not loss_only:
            metrics = denumpify_detensorize(self.compute_metrics(EvalPrediction(predictions=logits, label_ids=labels)))
        if predictions.loss is not None and np.isfinite(predictions.loss):
            metrics["loss"] = predictions.loss
        return EvalLoopOutput(
            predictions=None if loss_only else logits,
            label_ids=None if loss_only else labels,
            metrics={
                key if key.startswith(f"{metric_key_prefix}_") else f"{metric_key_prefix}_{key}": value
                for key, value in metrics.items()
            },
            num_samples=len(predictions.row_ids),
        )

    def predict_rows(self, batches):
        """What `evaluation_loop` runs: see `predict`."""
        return predict(self.model, batches, self.accelerator, progress=not self.args.disable_tqdm)

    def _with_callbacks(self, dataloader):
        for batch in dataloader:
            yield batch
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    # Checkpoints

    def train(self, resume_from_checkpoint=None, **kwargs):
        """See the library's method; True takes the newest complete checkpoint, and skips torn ones with a warning."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"There is no complete checkpoint in {self.args.output_dir} to resume from.")
        if resume_from_checkpoint:
            resume_from_checkpoint = str(resume_from_checkpoint)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def save_extra_state(self, folder: Path):
        """Writes what a subclass needs on top to resume exactly; every process calls it."""

    def _save_checkpoint(self, model: nn.Module, trial):
        """Lets the library write the checkpoint beside its place, and puts it there when it is whole."""
        run_dir = Path(self._get_output_dir(trial))
        folder = run_dir / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            begin(folder)
        self.accelerator.wait_for_everyone()
        self._staging = staging_folder(folder).parent
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        self.save_extra_state(staging_folder(folder))
        # The library looked for the best checkpoint where this one was written.
        best = run_dir / f"checkpoint-{self.state.best_global_step}"
        self.state.best_model_checkpoint = str(best) if best == folder or best.is_dir() else None
        if self.args.should_save:
            self.state.save_to_json(os.path.join(staging_folder(folder), TRAINER_STATE_NAME))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish(folder)
            rotate(run_dir, self.args.save_total_limit, keep=(self.state.best_model_checkpoint,))
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None):
        """Saves the model under its own names, the processor and the training arguments."""
        super()._save(output_dir, state_dict)
        processor = getattr(self.data_collator, "processor", None)
        if self.processing_class is None and processor is not None:
            processor.save_pretrained(output_dir or self.args.output_dir)
