"""The Trainer of transformers, with changes for models of several modalities."""

import dataclasses
import math
import warnings
from typing import Any, cast

import datasets
import torch
from accelerate.utils import recursively_apply, send_to_device
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Seq2SeqTrainingArguments, TrainingArguments
from transformers.trainer import logger
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, denumpify_detensorize

from .data.batch_loader import BatchLoader
from .data.collator import MultimodalCollator
from .data.plain_datasets import classes_by_name, rows_of
from .data.rows import Rows
from .data.streaming import StreamBatches
from .evaluation.prediction import predict
from .models.losses import count_items
from .nonfinite import check_finite, fault_of_answers
from .trainer_checkpoints import WholeCheckpoints


# Arguments that must keep this value here, since any other would have no effect, and the reason.
FIXED_ARGUMENTS = {
    "batch_eval_metrics": (False, "metrics are computed over all rows at once"),
    "eval_do_concat_batches": (True, "predictions are put in the order of the rows"),
    "include_for_metrics": ([], "only logits and labels are gathered"),
    "train_sampling_strategy": ("random", "set `lengths` or `weights` of the Rows"),
    "bf16_full_eval": (False, "evaluation is as precise as training, see bf16"),
    "fp16_full_eval": (False, "evaluation is as precise as training, see fp16"),
}


class MMTrainer(WholeCheckpoints):
    """A `transformers.Trainer` for mm_hf models: same arguments, callbacks, trackers and methods.

    The differences, and the reasons:

    - Batches come from `BatchLoader`: rows of one group stay together, and each process takes its own part of the
      rows. The tensors of a batch differ in length (distinct items, rows), so the library cannot shard or gather them.
    - Evaluation and prediction count every row once, by its id, and return them in the order of the data set. They run
      the model directly: `prediction_step`, `compute_loss` and `compute_loss_func` are used only in training, and the
      loss of an evaluation is the model's own.
    - Labels that are missing (NaN) do not count in the loss.
    - Label smoothing happens inside the model, which applies it only to the losses that it is for.
    - Only the training rows are augmented.
    - Columns are never dropped: the collator reads rows, not the inputs of `forward`.
    - A checkpoint is either complete or absent (`mm_hf.checkpoints`). `train(resume_from_checkpoint=True)` takes the
      newest one that is complete, byte by byte. Newer ones are renamed (`damaged-checkpoint-7`), with a warning that
      gives the reason. A damaged checkpoint that is given by name is refused. So are random states that cannot be
      restored, and a best checkpoint that has changed when `load_best_model_at_end` loads it.
    - Weights, moments and scores that are not finite are never saved, measured or taken as the best.
    - A model that generates text does so with `Seq2SeqTrainingArguments(predict_with_generate=True)`. `predictions`
      are then its tokens, as in the library's `Seq2SeqTrainer`; without it, the likeliest next tokens.
    - For a model with several tasks, logits and labels are dicts by task where the library has arrays.

    Args:
        args: `TrainingArguments`. Of the arguments for columns and loaders, only the batch sizes and
            `dataloader_num_workers` have an effect.
        data_collator: a `MultimodalCollator`.
        train_dataset, eval_dataset: `Rows`, a `datasets.Dataset`, or `StreamBatches` for training; `eval_dataset` may
            be a dict of them. The data for `predict` may lack the label column.
        kwargs: as for the library's class.

    Raises:
        ValueError: several GPUs with only one process, or an option that does not work with these batches.
    """

    def __init__(self, model=None, args=None, data_collator=None, **kwargs):
        args = TrainingArguments("tmp_trainer") if args is None else args  # as the library does
        # With one process on several GPUs, the library would split every tensor of a batch, also those not per row.
        if args.n_gpu > 1:
            raise ValueError(
                f"One process sees {args.n_gpu} GPUs: start one process per GPU with `accelerate launch` or "
                "`torchrun`, or set CUDA_VISIBLE_DEVICES."
            )
        for name, (value, reason) in FIXED_ARGUMENTS.items():
            if getattr(args, name) != value:
                raise ValueError(f"{name} must be {value!r}, got {getattr(args, name)!r}: {reason}.")
        if not isinstance(data_collator, MultimodalCollator):
            raise ValueError(f"data_collator must be a MultimodalCollator, got {type(data_collator).__name__}.")
        self._smoothing = args.label_smoothing_factor
        args.label_smoothing_factor = 0.0  # else the library would make its own smoother
        super().__init__(model, args, data_collator, **kwargs)
        args.label_smoothing_factor = self._smoothing
        self._smooth_labels(cast(PreTrainedModel, self.model))
        self.label_names = ["labels"]

    def _smooth_labels(self, model: PreTrainedModel):
        """Moves `label_smoothing_factor` into the config, where the model's own loss reads it."""
        if self._smoothing:
            model.config.label_smoothing = self._smoothing

    def call_model_init(self, trial=None) -> nn.Module:
        """See the library's method."""
        model = super().call_model_init(trial)
        self._smooth_labels(cast(PreTrainedModel, model))
        return model

    # Data

    def _loader(self, dataset: Any, split: str, train: bool) -> BatchLoader:
        args, collator = self.args, cast(MultimodalCollator, self.data_collator)
        if not train:
            collator = collator.unchanging()
        if isinstance(dataset, Rows | datasets.Dataset):
            names = (dataset.dataset if isinstance(dataset, Rows) else dataset).column_names
            if split == "test" and not set(collator.columns.labels) <= set(names):
                columns = dataclasses.replace(collator.columns, label=None, weight=None)
                collator = dataclasses.replace(collator, columns=columns)
        if isinstance(dataset, datasets.Dataset):
            dataset = rows_of(dataset, split, collator)
        if isinstance(dataset, Rows | StreamBatches):
            config = cast(PreTrainedModel, self.model).config
            dataset, collator = classes_by_name(dataset, collator, config)
        if not isinstance(dataset, Rows | StreamBatches):
            raise TypeError(f"Data must be Rows, a datasets.Dataset or StreamBatches, got {type(dataset).__name__}.")
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
        """This process's batches of the training rows."""
        if self.train_dataset is None:
            raise ValueError("To train, MMTrainer needs train_dataset.")
        return self._loader(self.train_dataset, "train", train=True)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """This process's batches of the evaluation rows."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = cast(dict, self.eval_dataset)[dataset]
        if dataset is None:
            raise ValueError("To evaluate, MMTrainer needs eval_dataset.")
        return self._loader(dataset, "validation", train=False)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """This process's batches of another data set."""
        return self._loader(test_dataset, "test", train=False)

    def _run_epoch(self, *, epoch: int, train_dataloader: DataLoader, **kwargs):
        # Set here, because the library's own call does not reach a resumed epoch: there it uses another loader with
        # the same sampler and collator.
        cast(BatchLoader, train_dataloader).set_epoch(epoch)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    # Training

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        """The number of labels of all processes and accumulation steps (a dict for several tasks), or of pairs. The
        library's count takes NaN for a label."""
        counts = count_items(batch_samples) if batch_samples and self.model_accepts_loss_kwargs else None
        if counts is None:
            return None
        counts = send_to_device(counts, device)
        if self.args.world_size > 1 and self.args.average_tokens_across_devices:
            counts = self.accelerator.reduce(counts)
        return counts.clamp(min=1) if isinstance(counts, torch.Tensor) else counts

    def compute_loss(self, model, inputs: dict[str, Any], *args, **kwargs):
        """The model's own loss; the entries of the batch that describe its rows are not given to the model."""
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
        """See the library's method. Every row counts once, in the order of the data set. `ignore_keys` has no effect,
        because only logits are gathered."""
        logger.info(f"***** Running {description} *****")
        self.callback_handler.eval_dataloader = dataloader
        check_finite(cast(nn.Module, self.model), self.args.output_dir if self.is_in_train else None)
        if not self.accelerator._models:  # outside of training: the model is not placed on a device yet
            cast(nn.Module, self.model).to(self.args.device)
        if hasattr(self.optimizer, "eval"):  # schedule-free optimizers keep other weights for training
            self.optimizer.eval()
        predictions = self.predict_rows(self._with_callbacks(dataloader))
        scores = predictions.logits
        if self.preprocess_logits_for_metrics is not None:
            scores = self.preprocess_logits_for_metrics(scores, predictions.labels)
        logits = recursively_apply(torch.Tensor.numpy, scores)
        labels = None if predictions.labels is None else recursively_apply(torch.Tensor.numpy, predictions.labels)
        metrics: dict[str, Any] = {}
        loss_only = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        if self.compute_metrics is not None and labels is not None and not loss_only:
            metrics = denumpify_detensorize(self.compute_metrics(EvalPrediction(predictions=logits, label_ids=labels)))
        fault = fault_of_answers(predictions.logits)
        if fault is not None:
            warnings.warn(f"The metrics of this {description} are not used: {fault}.")
            metrics = dict.fromkeys(metrics, math.nan)
        if predictions.loss is not None:
            metrics["loss"] = predictions.loss
            metrics |= {f"{task}_loss": loss for task, loss in (predictions.task_losses or {}).items()}
        return EvalLoopOutput(
            predictions=cast(Any, None if loss_only else logits),
            label_ids=None if loss_only else labels,
            metrics={
                key if key.startswith(f"{metric_key_prefix}_") else f"{metric_key_prefix}_{key}": value
                for key, value in metrics.items()
            },
            num_samples=len(predictions.row_ids),
        )

    def predict_rows(self, batches):
        """The method that `evaluation_loop` runs: see `predict`. The library's callback shows the bar."""
        generate, args = None, self.args
        if isinstance(args, Seq2SeqTrainingArguments) and args.predict_with_generate:
            settings = {"max_length": args.generation_max_length, "num_beams": args.generation_num_beams}
            generate = {name: value for name, value in settings.items() if value is not None}
        return predict(cast(nn.Module, self.model), batches, self.accelerator, progress=False, generate=generate)

    def _with_callbacks(self, dataloader):
        for batch in dataloader:
            yield batch
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    # Files

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None):
        """Saves the model under its own names, the processor and the training arguments."""
        super()._save(output_dir, state_dict)
        if self.args.should_save and self.processing_class is None:
            processor = cast(MultimodalCollator, self.data_collator).processor
            processor.save_pretrained(output_dir or str(self.args.output_dir))
