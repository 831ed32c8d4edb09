"""The library's Trainer, mended where it does not fit models of several modalities."""

import copy
import dataclasses
import math
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from accelerate.utils import recursively_apply, send_to_device
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Seq2SeqTrainingArguments, Trainer, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME, logger
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, denumpify_detensorize
from transformers.utils import SAFE_WEIGHTS_NAME

from .checkpoints import (
    MANIFEST,
    begin,
    checkpoint_to_resume,
    fault_of,
    has_checksums,
    is_checkpoint,
    publish,
    rotate,
    staging_folder,
    step_of,
    writing,
)
from .data.class_names import name_for_checkpoint, names_of_classes
from .data.collator import MultimodalCollator
from .data.loader import BatchLoader
from .data.loading import SOURCE_ROW, Rows
from .data.sources import prepare
from .data.streaming import StreamBatches
from .evaluation.prediction import predict
from .models.losses import count_items
from .states import (
    TRAINER_KEYS,
    DamagedFileError,
    Rules,
    agreed,
    check_finite,
    check_moments,
    check_processes,
    fault_of_answers,
    fault_of_pickled,
    fault_of_random_states,
    fault_of_tensors,
    fault_of_values,
    is_count,
    is_dict_of,
    is_duration,
    is_list_of,
    is_number,
    keep_if_finite,
    masks_of,
    moments,
    read_json,
    restore_random_states,
    taking_up,
)


# Arguments whose other values would have no effect here, and why.
FIXED_ARGUMENTS = {
    "batch_eval_metrics": (False, "metrics are computed over all rows at once"),
    "eval_do_concat_batches": (True, "predictions are put in the order of the rows"),
    "include_for_metrics": ([], "logits and labels alone are gathered"),
    "train_sampling_strategy": ("random", "set `lengths` or `weights` of the Rows"),
    "bf16_full_eval": (False, "evaluation is as precise as training, see bf16"),
    "fp16_full_eval": (False, "evaluation is as precise as training, see fp16"),
}
# What a resume relies on in `trainer_state.json`; the library's class knows the other keys.
OF_STATE: Rules = {
    "global_step": is_count,
    "max_steps": is_count,
    "epoch": lambda value: value is None or is_duration(value),
    "best_metric": lambda value: value is None or (is_number(value) and not math.isnan(value)),
    "best_global_step": lambda value: value is None or is_count(value),
    "best_model_checkpoint": lambda value: value is None or isinstance(value, str),
    "log_history": lambda value: is_list_of(
        value, lambda entry: isinstance(entry, dict) and is_count(entry.get("step"))
    ),
    "stateful_callbacks": lambda value: is_dict_of(value, is_kept_callback),
}


class MMTrainer(Trainer):
    """A `transformers.Trainer` whose arguments, callbacks, trackers and methods are the library's.

    What differs, and why:

    - Batches come from `BatchLoader`: rows of one group stay together, and each process takes its part by itself.
      Their tensors differ in length (distinct items, rows), so the library can neither shard nor gather them.
    - Evaluation and prediction count every row once, by its id, and give them in the order of the data set. They run
      the model by themselves: `prediction_step`, `compute_loss` and `compute_loss_func` are for training alone, and
      the loss of an evaluation is the model's own.
    - Labels that are missing (NaN) do not count in the loss.
    - Label smoothing happens inside the model, where it leaves its other losses alone.
    - What augments the training rows leaves the others alone.
    - Columns are never dropped: the collator reads rows, not the inputs of `forward`.
    - A checkpoint is complete or not there (`mm_hf.checkpoints`). `train(resume_from_checkpoint=True)` takes the
      newest one that is whole byte by byte; those newer are renamed (`damaged-checkpoint-7`), with a warning that says
      why. One that is named and damaged is refused. So are random states that cannot be restored, and a best
      checkpoint that `load_best_model_at_end` does not find as it was.
    - Weights, moments and scores that are not finite are neither saved, measured nor taken for the best.
    - A model that writes does so with `Seq2SeqTrainingArguments(predict_with_generate=True)`, and `predictions` are
      its tokens, as with the library's `Seq2SeqTrainer`; else those that it takes for the likeliest to come next.
    - Of a model with several tasks, logits and labels are dicts by task wherever the library has arrays.

    Args:
        args: `TrainingArguments`; of what concerns columns and loaders, the batch sizes and `dataloader_num_workers`
            count.
        data_collator: a `MultimodalCollator`.
        train_dataset, eval_dataset: `Rows`, a `datasets.Dataset`, or `StreamBatches` for training; `eval_dataset` may
            be a dict of them. What `predict` gets may lack the column of the labels.
        kwargs: as for the library's class.

    Raises:
        ValueError: several GPUs without one process each, or an option that cannot work with these batches.
    """

    def __init__(self, model=None, args=None, data_collator=None, **kwargs):
        args = TrainingArguments("tmp_trainer") if args is None else args  # as the library does
        # One process on several GPUs would cut every tensor of a batch into as many parts, whatever it counts.
        if args.n_gpu > 1:
            raise ValueError(
                f"One process sees {args.n_gpu} GPUs: start one a GPU with `accelerate launch` or `torchrun`, or set "
                "CUDA_VISIBLE_DEVICES."
            )
        for name, (value, reason) in FIXED_ARGUMENTS.items():
            if getattr(args, name) != value:
                raise ValueError(f"{name} must be {value!r}, got {getattr(args, name)!r}: {reason}.")
        if not isinstance(data_collator, MultimodalCollator):
            raise ValueError(f"data_collator must be a MultimodalCollator, got {type(data_collator).__name__}.")
        self._staging: Path | None = None
        self._checked: str | None = None  # the checkpoint that was just looked at
        self._smoothing = args.label_smoothing_factor
        args.label_smoothing_factor = 0.0  # the library would make a smoother of its own
        super().__init__(model, args, data_collator, **kwargs)
        args.label_smoothing_factor = self._smoothing
        self._smooth_labels(cast(PreTrainedModel, self.model))
        self.label_names = ["labels"]

    def _smooth_labels(self, model: PreTrainedModel):
        """Puts `label_smoothing_factor` into the config, where the model's own loss reads it."""
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
            collator = dataclasses.replace(collator, augment=None, token_dropout=0.0, speed_perturbation=0.0)
        if isinstance(dataset, Rows | datasets.Dataset):
            names = (dataset.dataset if isinstance(dataset, Rows) else dataset).column_names
            if split == "test" and not set(collator.columns.labels) <= set(names):
                columns = dataclasses.replace(collator.columns, label=None, weight=None)
                collator = dataclasses.replace(collator, columns=columns)
        if isinstance(dataset, datasets.Dataset):
            dataset = rows_of(dataset, split, collator)
        if isinstance(dataset, Rows | StreamBatches):
            dataset, collator = self._by_name(dataset, collator)
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

    def _by_name(self, dataset: Any, collator: MultimodalCollator) -> tuple[Any, MultimodalCollator]:
        """Rows whose classes (`ClassLabel`) have the model's numbers: where the data numbers them otherwise, they come
        as names, which the collator looks up. The classes of a table go by their names in this very data set."""
        features, columns = getattr(dataset.dataset, "features", None), collator.columns
        if not features:
            return dataset, collator
        config = cast(PreTrainedModel, self.model).config
        several, label2id = isinstance(columns.label, list), collator.label2id
        known: dict[str, Any] = {}
        for column in columns.labels:
            known[column] = (label2id or {}).get(column) if several else label2id
            if known[column] is None:
                known[column] = labels_of_config(config, column if several else None)
        named = name_for_checkpoint(
            dataset.dataset, {column: None if labels is None else list(labels) for column, labels in known.items()}
        )
        if named is not dataset.dataset:
            dataset = copy.copy(dataset)
            dataset.dataset = named
            if label2id is None or several:
                label2id = known if several else known[columns.labels[0]]
            collator = dataclasses.replace(collator, label2id=label2id)
        table = names_of_classes(features, [name for name in columns.table if name in features])
        schema = collator.processor.table_schema
        # Not where the table was learned from the bare numbers of its classes.
        table = {
            name: classes
            for name, classes in table.items()
            if name in collator.table_names or set(classes) & set(schema.categorical.get(name, []))
        }
        if table != {name: collator.table_names.get(name) for name in table}:
            collator = dataclasses.replace(collator, table_names={**collator.table_names, **table})
        return dataset, collator

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

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        """Labels of all processes and accumulation steps, of several tasks a dict, or pairs; the library's count takes
        NaN for a label."""
        counts = count_items(batch_samples) if batch_samples and self.model_accepts_loss_kwargs else None
        if counts is None:
            return None
        counts = send_to_device(counts, device)
        if self.args.world_size > 1 and self.args.average_tokens_across_devices:
            counts = self.accelerator.reduce(counts)
        return counts.clamp(min=1) if isinstance(counts, torch.Tensor) else counts

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
        logger.info(f"***** Running {description} *****")
        self.callback_handler.eval_dataloader = dataloader
        check_finite(cast(nn.Module, self.model), self.args.output_dir if self.is_in_train else None)
        if not self.accelerator._models:  # not in training: nothing has placed the model yet
            cast(nn.Module, self.model).to(self.args.device)
        if hasattr(self.optimizer, "eval"):  # those without a schedule keep other weights for training
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
            warnings.warn(f"The metrics of this {description} do not count: {fault}.")
            metrics = dict.fromkeys(metrics, math.nan)
        if predictions.loss is not None:
            metrics["loss"] = predictions.loss
            metrics |= {f"{task}_loss": loss for task, loss in (predictions.task_losses or {}).items()}
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
        """What `evaluation_loop` runs: see `predict`. The bar is the library's callback's."""
        generate, args = None, self.args
        if isinstance(args, Seq2SeqTrainingArguments) and args.predict_with_generate:
            settings = {"max_length": args.generation_max_length, "num_beams": args.generation_num_beams}
            generate = {name: value for name, value in settings.items() if value is not None}
        return predict(self.model, batches, self.accelerator, progress=False, generate=generate)

    def _with_callbacks(self, dataloader):
        for batch in dataloader:
            yield batch
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    # Checkpoints

    def train(self, resume_from_checkpoint=None, **kwargs):
        """See the library's method; for what is resumed from, see `choose_checkpoint`."""
        folder, self._checked = self.choose_checkpoint(resume_from_checkpoint), None
        return super().train(resume_from_checkpoint=folder, **kwargs)

    def choose_checkpoint(self, asked: str | os.PathLike | bool | None) -> str | None:
        """The checkpoint to resume from, whole and fit for this trainer. All processes call it.

        Args:
            asked: a checkpoint; True for the newest in `output_dir` that can be resumed from: those newer are set
                aside. None or False: none.

        Raises:
            ValueError: the one that is named, or each of those in `output_dir`, is damaged or does not fit, or there
                is none; it was written by another number of processes.
        """
        if not asked:
            return None
        if asked is True:
            found = agreed(lambda: checkpoint_to_resume(self.args.output_dir, self.fault_of_state))
            if found is None:
                raise ValueError(f"There is no complete checkpoint in {self.args.output_dir} to resume from.")
            self._checked = str(found)
        elif str(asked) != self._checked:
            folder = Path(asked)
            fault = agreed(lambda: self.fault_of_named(folder))
            if fault is not None:
                raise ValueError(f"{folder} cannot be resumed from: {fault}.")
            self._checked = str(folder)
        return self._checked

    def fault_of_named(self, folder: Path) -> str | None:
        """Why a checkpoint that was asked for by name cannot be used. One that the library wrote by itself has no list
        of its files, and is judged by what they hold."""
        if not folder.is_dir():
            return "there is no such folder"
        if (folder / MANIFEST).exists():
            fault = fault_of(folder, checksums=True)
            if fault is not None:
                return fault
        else:
            warnings.warn(f"{folder} has no {MANIFEST}: whether its files are as they were written, nobody can tell.")
        return self.fault_of_state(folder)

    def fault_of_state(self, folder: Path) -> str | None:
        """Why a checkpoint whose files are whole cannot be resumed from; None where it can. It changes nothing.

        Raises:
            ValueError: another number of processes wrote it, or one without a GPU; or it holds weights alone.
        """
        check_processes(folder, "rng_state*.pth", [file.name for file in self.random_states(folder)])
        try:
            return next(filter(None, self.faults_of_state(folder)), None)
        except DamagedFileError as error:
            return str(error)

    def faults_of_state(self, folder: Path) -> Iterator[str | None]:
        """What is wrong with one file after the other; None for what is fine. Each takes for granted that those before
        it are fine. A subclass adds what it keeps on top (`save_extra_state`)."""
        checked = (folder / MANIFEST).exists() and has_checksums(folder)
        state = read_json(folder / TRAINER_STATE_NAME)
        yield fault_of_trainer_state(state, folder)
        yield self.fault_of_weights(folder)
        if self.args.load_best_model_at_end and state.get("best_model_checkpoint") is not None:
            best = self.best_checkpoint(state["best_model_checkpoint"], folder.parent)
            fault = None if best == folder else self.fault_of_best(best)
            yield None if fault is None else f"{TRAINER_STATE_NAME}: best_model_checkpoint is {best}: {fault}"
        if not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
            yield fault_of_pickled(folder / OPTIMIZER_NAME, checked)
            yield fault_of_pickled(folder / SCHEDULER_NAME, checked, infinite=True)
            if self.accelerator.scaler is not None:
                yield fault_of_pickled(folder / SCALER_NAME, checked)
        for file in self.random_states(folder):
            yield fault_of_random_states(file, TRAINER_KEYS, checked)

    def random_states(self, folder: Path) -> list[Path]:
        """The files with random states that the library writes, one a process."""
        if self.args.world_size == 1:
            return [folder / "rng_state.pth"]
        return [folder / f"rng_state_{rank}.pth" for rank in range(self.args.world_size)]

    def fault_of_weights(self, folder: Path) -> str | None:
        """Why the weights in a checkpoint cannot be loaded; None where they can. Those of sharded models are their
        libraries' affair."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return None
        model = cast(nn.Module, self.model)
        tensors = model.state_dict()
        shared = [name for names in shared_names(tensors) for name in names]
        optional = {*shared, *(getattr(model, "_keys_to_ignore_on_save", None) or [])}
        files = sorted(folder.rglob("*.safetensors"))
        if not files and not list(folder.glob("*.bin")):
            return "it holds no weights"
        for file in files:
            expected = tensors if file.name == SAFE_WEIGHTS_NAME else None
            if fault := fault_of_tensors(file, expected, masks_of(model), optional):
                return fault
        return None

    def best_checkpoint(self, recorded: str, run_dir: Path) -> Path:
        """Where the best checkpoint is: where the others of the run are, though the folder was moved or copied."""
        beside = run_dir / Path(recorded).name
        return beside if beside.is_dir() else Path(recorded)

    def fault_of_best(self, folder: Path) -> str | None:
        """Why the best checkpoint cannot be loaded; None where it can."""
        if not folder.is_dir():
            return "there is no such folder"
        fault = fault_of(folder, checksums=True) if (folder / MANIFEST).exists() else None
        return fault or self.fault_of_weights(folder)

    def _init_training_state(self, max_steps, updates, epochs, resume_from_checkpoint, trial):
        if resume_from_checkpoint is None:
            return super()._init_training_state(max_steps, updates, epochs, None, trial)
        folder = Path(resume_from_checkpoint)
        with taking_up(folder):
            trained = super()._init_training_state(max_steps, updates, epochs, resume_from_checkpoint, trial)
            recorded = read_json(folder / TRAINER_STATE_NAME).get("best_model_checkpoint")
        if recorded is not None:
            best = self.best_checkpoint(recorded, folder.parent)
            self.state.best_model_checkpoint = str(best) if best.is_dir() else None
        return trained

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        with taking_up(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is not None:
            with taking_up(checkpoint):
                super()._load_optimizer_and_scheduler(checkpoint)
                check_moments(cast(torch.optim.Optimizer, self.optimizer), Path(checkpoint, OPTIMIZER_NAME))

    def _load_scaler(self, checkpoint):
        if checkpoint is not None:
            with taking_up(checkpoint):
                super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint):
        if checkpoint is not None:
            with taking_up(checkpoint):
                rank = self.args.process_index if self.args.world_size > 1 else 0
                restore_random_states(self.random_states(Path(checkpoint))[rank], TRAINER_KEYS)
                super()._load_rng_state(checkpoint)  # those of other accelerators too

    def _load_best_model(self):
        best = Path(cast(str, self.state.best_model_checkpoint))
        fault = agreed(lambda: self.fault_of_best(best))
        if fault is not None:
            raise ValueError(f"{best}, which was the best on validation, cannot be loaded: {fault}.")
        with taking_up(best):
            super()._load_best_model()

    def _issue_warnings_after_load(self, load_result):
        """The library loads with `strict=False`, and warns; but what is missing would keep random weights."""
        super()._issue_warnings_after_load(load_result)
        model = cast(nn.Module, self.model)
        missing, unknown = set(load_result.missing_keys), sorted(load_result.unexpected_keys)
        missing -= set(getattr(model, "_keys_to_ignore_on_save", None) or [])
        for names in shared_names(model.state_dict()):
            if not set(names) <= missing:  # one of them was there
                missing -= set(names)
        if missing or unknown:
            raise ValueError(f"The weights do not fit the model: missing {sorted(missing)}, unknown {unknown}.")

    def _determine_best_metric(self, metrics, trial):
        """Of what the library finds, a score that is not finite is never the best."""
        name = str(self.args.metric_for_best_model).removeprefix("eval_")
        value = metrics.get(f"eval_{name}")
        if value is not None and not math.isfinite(value):
            warnings.warn(f"eval_{name} is {value} after step {self.state.global_step}: it does not count.")
            return False
        return super()._determine_best_metric(metrics, trial)

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def tensors_to_keep(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What a checkpoint keeps beside the weights, by name: it must be finite."""
        if self.optimizer is not None and not self.is_deepspeed_enabled:
            yield from moments(cast(nn.Module, self.model), self.optimizer)

    def save_extra_state(self, folder: Path):
        """Writes what a subclass needs on top to resume exactly; every process calls it."""

    def _save_checkpoint(self, model: nn.Module, trial):
        """Lets the library write the checkpoint beside its place, and puts it there when it is whole."""
        run_dir = Path(self._get_output_dir(trial))
        folder = run_dir / f"checkpoint-{self.state.global_step}"
        with ThreadPoolExecutor(1) as pool:  # it looks at all numbers while the disk is busy
            tensors = [*self.tensors_to_keep()]
            finite = pool.submit(check_finite, cast(nn.Module, self.model), run_dir, tensors, frozen=False)
            with writing(folder):
                if self.args.should_save:
                    begin(folder)
                self.accelerator.wait_for_everyone()
                self._staging = staging_folder(folder).parent
                try:
                    super()._save_checkpoint(model, trial)
                finally:
                    self._staging = None
                self.save_extra_state(staging_folder(folder))
            keep_if_finite(finite, run_dir)
        with writing(folder):
            # The library looked for the best checkpoint where this one was written.
            best = run_dir / f"checkpoint-{self.state.best_global_step}"
            if best == folder or best.is_dir():
                self.state.best_model_checkpoint = str(best)
            if self.args.should_save:
                self.state.save_to_json(os.path.join(staging_folder(folder), TRAINER_STATE_NAME))
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                publish(folder)
                rotate(run_dir, self.args.save_total_limit, keep=(self.state.best_model_checkpoint,))
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False):
        """See the library's method.

        Raises:
            ValueError: the model has adapters: what is in such a folder, only this trainer can load again.
        """
        if hasattr(self.model, "peft_config") and not _internal_call:
            raise ValueError("The model has adapters: call merge_lora(model) first, or save_lora(model, folder).")
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None):
        """Saves the model under its own names, the processor and the training arguments."""
        super()._save(output_dir, state_dict)
        if self.args.should_save and self.processing_class is None:
            processor = cast(MultimodalCollator, self.data_collator).processor
            processor.save_pretrained(output_dir or self.args.output_dir)


def shared_names(tensors: dict[str, torch.Tensor]) -> list[list[str]]:
    """Names of a state that are one tensor: a file holds it once."""
    names: dict[tuple, list[str]] = {}
    for name, tensor in tensors.items():
        if not tensor.is_meta and tensor.numel():
            names.setdefault((tensor.device, tensor.data_ptr(), tensor.shape), []).append(name)
    return [several for several in names.values() if len(several) > 1]


def fault_of_trainer_state(state: dict[str, Any], folder: Path) -> str | None:
    """Whether the numbers of `trainer_state.json` make sense and agree with one another and the folder's name."""
    unknown = sorted(set(state) - {field.name for field in dataclasses.fields(TrainerState)})
    if unknown:
        return f"{TRAINER_STATE_NAME} has {unknown[0]!r}, which is not known"
    fault = fault_of_values(TRAINER_STATE_NAME, {name: state.get(name) for name in OF_STATE}, OF_STATE)
    if fault is not None:
        return fault
    step, best = state["global_step"], state["best_metric"]
    if is_checkpoint(folder) and step != step_of(folder):
        return f"{TRAINER_STATE_NAME}: global_step is {step}, and the folder's is {step_of(folder)}"
    last = {"best_global_step": state["best_global_step"] or 0}
    last["log_history"] = max((entry["step"] for entry in state["log_history"]), default=0)
    for name, at in last.items():
        if at > step:
            return f"{TRAINER_STATE_NAME}: {name} is at step {at}, behind step {step}"
    if step > state["max_steps"]:
        return f"{TRAINER_STATE_NAME}: global_step is {step} of {state['max_steps']} (max_steps)"
    if state["best_model_checkpoint"] is not None and not (best is not None and math.isfinite(best)):
        return f"{TRAINER_STATE_NAME}: best_metric is {best}"
    return None


def is_kept_callback(value: Any) -> bool:
    """Whether a value is what the library keeps of a callback, or a list of them."""
    if isinstance(value, list):
        return all(map(is_kept_callback, value))
    return isinstance(value, dict) and all(isinstance(value.get(part, {}), dict) for part in ("args", "attributes"))


def labels_of_config(config: Any, task: str | None) -> dict[str, int] | None:
    """The numbers of the classes by their names, as a model's config has them, of one of several tasks or of its only
    one; None where they have no names of their own."""
    if task is not None:
        names = (getattr(config, "tasks", None) or {}).get(task, {}).get("labels")
        return None if names is None else {name: number for number, name in enumerate(names)}
    names = [config.id2label[number] for number in range(config.num_labels)]
    plain = all(name == f"LABEL_{number}" for number, name in enumerate(names))
    return None if plain else {name: number for number, name in enumerate(names)}


def rows_of(dataset: datasets.Dataset, split: str, collator: MultimodalCollator) -> Rows:
    """A plain data set as the collator reads it: the columns it knows alone, pictures encoded, those that share one
    together.

    Raises:
        ValueError: see `load_splits`.
    """
    columns = collator.columns
    if dataset.format["type"] != "custom":  # tensors and arrays become values again, but a transform stays
        dataset = dataset.with_format(None)
    prepared = cast(datasets.Dataset, prepare(dataset, split, "the data set", columns, None, collator.root))
    kept = {SOURCE_ROW, *(name for _, name in columns.named())}
    rows = Rows(prepared.select_columns([name for name in prepared.column_names if name in kept]), split)
    if columns.image_id is not None:
        rows.groups = prepared[columns.image_id][:]
    return rows
