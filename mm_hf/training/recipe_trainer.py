"""`MMTrainer` with the parts of a recipe that TrainingArguments do not have."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import recursively_apply
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME

from .. import MMFusionPreTrainedModel
from ..checkpoints import list_checkpoints
from ..data import MultimodalCollator
from ..json_files import Rules, is_duration
from ..nonfinite import check_finite
from ..progress_bar import is_live
from ..states import taking_up
from ..trainer import MMTrainer
from .run import Run, build_optimizer, build_scheduler
from .state import TrainState
from .train_arguments import TrainArguments


# Keys with the same name and meaning in a recipe and in the Trainer.
SHARED_KEYS = (
    *("seed", "learning_rate", "num_train_epochs", "max_steps", "max_grad_norm", "bf16", "fp16", "torch_compile"),
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
    *("dataloader_num_workers", "logging_steps", "eval_steps"),
)


class StateBesideTrainer(TrainState):
    """`TrainState` with the seconds and whether the training had ended: everything that the library does not save.

    `stopped` holds the recipe's limits if the training has stopped; None if it has not.
    """

    rules: Rules = {
        **TrainState.rules,
        "seconds": is_duration,
        "stopped": lambda value: value is None or (isinstance(value, list) and len(value) == 4),
    }
    stopped: list | None = None

    def values(self) -> dict[str, Any]:
        return {**super().values(), "seconds": self.elapsed(), "stopped": self.stopped}

    def take_up_values(self, values: dict[str, Any]):
        super().take_up_values(values)
        self.seconds, self.stopped = values["seconds"], values["stopped"]


class RecipeTrainer(MMTrainer):
    """MMTrainer with the parts of a recipe that TrainingArguments have no key for.

    Args:
        run: the run.
        collator: makes the batches for evaluation; the recipe's augmentations are added for training.
        recipe: the training arguments of the recipe.
        folder: of the run, for the rows of skipped steps; None for a floor.
        kwargs: for MMTrainer.
    """

    def __init__(self, run: Run, collator: MultimodalCollator, recipe: TrainArguments, folder: Path | None, **kwargs):
        self.run, self.recipe = run, recipe
        super().__init__(data_collator=run.training_collator(collator), **kwargs)
        self.train_state = StateBesideTrainer(run, cast(nn.Module, self.model), recipe, folder)
        self.norm: torch.Tensor | None = None  # norm of the gradients in the present step
        self.add_callback(StepCallback(self))

    def create_optimizer(self, model=None):
        """Creates the recipe's optimizer."""
        self.optimizer = build_optimizer(cast(MMFusionPreTrainedModel, self.model), self.recipe)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Creates the recipe's scheduler."""
        if self.lr_scheduler is None:
            steps_per_epoch = num_training_steps
            if not self.run.data_args.streaming:
                steps_per_epoch = -(-len(self.get_train_dataloader()) // self.recipe.gradient_accumulation_steps)
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = build_scheduler(optimizer, self.recipe, num_training_steps, steps_per_epoch)
        return self.lr_scheduler

    def _init_training_state(self, max_steps, *args, **kwargs):
        # A checkpoint restores how often to evaluate, save and log, but the present recipe must win.
        trained = super()._init_training_state(max_steps, *args, **kwargs)
        self.state.compute_steps(self.args, max_steps)
        return trained

    def _clip_grad_norm(self, model):
        self.norm = super()._clip_grad_norm(model)  # the norm before clipping; clipping sets infinite gradients to 0
        return self.norm

    def _load_callback_state(self):
        """The library restores the patience of the checkpoint together with its count. The present recipe must win."""
        super()._load_callback_state()
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback) and self.recipe.early_stopping_patience is not None:
                callback.early_stopping_patience = self.recipe.early_stopping_patience

    def compute_loss(self, model, inputs, *args, **kwargs):
        """Notes the rows of a step, in case its loss is not finite, and its bad rows."""
        if cast(nn.Module, self.model).training:
            self.train_state.note_rows(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def predict_rows(self, batches):
        """Measures the averaged weights if the recipe asks for them."""
        state = self.train_state
        with state.averaged():
            if state.ema is not None:
                check_finite(state.model, self.args.output_dir)
            predictions = super().predict_rows(batches)
        self.run.share_bad_rows(predictions.bad_rows)
        return predictions

    def tensors_to_keep(self):
        """See MMTrainer; this adds the averaged weights."""
        yield from super().tensors_to_keep()
        yield from self.train_state.tensors()

    def save_extra_state(self, folder: Path):
        """Saves the state that the library does not save."""
        self.train_state.stopped = self.limits() if self.control.should_training_stop else None
        self.train_state.write(folder)

    def faults_of_state(self, folder: Path):
        """See MMTrainer; this adds the files of `save_extra_state`."""
        yield from super().faults_of_state(folder)
        yield from self.train_state.faults(folder)

    def limits(self) -> list:
        """The recipe's limits on the training."""
        recipe = self.recipe
        return [recipe.num_train_epochs, recipe.max_steps, recipe.max_train_seconds, recipe.early_stopping_patience]

    def train(self, resume_from_checkpoint=None, **kwargs):
        """See MMTrainer; at the end the model has the averaged weights, if there are any."""
        state = self.train_state
        state.start_clock()
        folder = self.choose_checkpoint(resume_from_checkpoint)
        if folder is not None:
            with taking_up(folder):
                state.take_up(Path(folder))
        if folder is not None and state.stopped == self.limits():
            self._load_the_end(Path(folder))
        else:
            super().train(resume_from_checkpoint=folder, **kwargs)
        if state.ema is not None:
            if self.state.best_model_checkpoint is not None:
                best = Path(self.state.best_model_checkpoint)
                with taking_up(best):
                    state.take_up_average(best)
            state.ema.write()

    def _load_the_end(self, folder: Path):
        """Loads the result of a training that had ended. The library does not remember the end, and would train until
        one more evaluation."""
        self.state = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
        if self.state.best_model_checkpoint is not None:
            self.state.best_model_checkpoint = str(
                self.best_checkpoint(self.state.best_model_checkpoint, folder.parent)
            )
            self._load_best_model()
        else:
            self._load_from_checkpoint(str(folder))


class StepCallback(TrainerCallback):
    """The recipe's actions around each optimizer step."""

    def __init__(self, trainer: RecipeTrainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """Skips a step whose gradients are not finite."""
        trainer = self.trainer
        scaled = trainer.accelerator.scaler is not None
        trainer.train_state.allows_step(state.global_step + 1, trainer.norm, scaled)

    def on_optimizer_step(self, args, state, control, **kwargs):
        """Adds the new weights to the average."""
        self.trainer.train_state.update_average()

    def on_step_end(self, args, state, control, **kwargs):
        """Ends the training when its time is up, on all processes after the same step."""
        trainer = self.trainer
        if trainer.recipe.max_train_seconds is not None:
            over = torch.tensor(float(trainer.train_state.is_overtime()), device=args.device)
            if trainer.accelerator.reduce(over).item() > 0:
                control.should_training_stop = True
                if args.eval_strategy == "steps":  # else the library evaluates at the end of the epoch, which is now
                    control.should_evaluate = control.should_save = True
        return control


def training_arguments(run: Run, args: TrainArguments, folder: Path | None) -> TrainingArguments:
    """The recipe as TrainingArguments."""
    pace = "no" if folder is None else "epoch" if args.eval_steps is None else "steps"
    validates = "validation" in run.splits  # false if the model is trained on all rows, see `folds`
    when = pace if validates else "no"
    saved = pace if args.save_steps is None or folder is None else "steps"
    metric = run.first_metric()
    kind: type[TrainingArguments] = TrainingArguments
    more: dict[str, Any] = {}
    if run.writes:  # length and number of beams are in the model's own config
        kind, more = Seq2SeqTrainingArguments, {"predict_with_generate": args.predict_with_generate}
    return kind(
        **more,
        output_dir=str(run.output_dir if folder is None else folder),
        **{key: getattr(args, key) for key in SHARED_KEYS},
        eval_strategy=when,
        save_strategy=saved,
        save_steps=args.save_steps or args.eval_steps or 500,
        # With 1, the library keeps only the best checkpoint at the end, and loses the information that it had ended.
        save_total_limit=max(2, args.save_total_limit),
        restore_callback_states_from_checkpoint=True,  # the count of evaluations without a better score
        load_best_model_at_end=folder is not None and validates,
        metric_for_best_model=metric,
        greater_is_better=metric != "rmse",
        report_to="none" if folder is None else args.report_to,
        use_cpu=run.accelerator.device.type == "cpu",
        disable_tqdm=folder is None or not is_live(),  # in a log file: a line every logging_steps, and no bar
    )


def compute_metrics(run: Run, predictions: EvalPrediction) -> dict[str, float]:
    """The metrics of the task, in the form that the Trainer needs."""
    arrays = (predictions.predictions, predictions.label_ids)
    logits, labels = recursively_apply(torch.from_numpy, arrays, test_type=lambda value: isinstance(value, np.ndarray))
    generated = run.generate_arguments("validation") is not None
    return run.metrics(logits, labels, generated=generated)["metrics"]


def build_trainer(
    run: Run,
    model: MMFusionPreTrainedModel,
    collator: MultimodalCollator,
    args: TrainArguments,
    folder: Path | None = None,
) -> RecipeTrainer:
    """The Trainer of a recipe; without a folder it saves nothing."""
    callbacks = []
    validates = "validation" in run.splits
    if folder is not None and args.early_stopping_patience is not None and validates:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    trainer = RecipeTrainer(
        run,
        collator,
        args,
        folder,
        model=model,
        args=training_arguments(run, args, folder),
        train_dataset=run.training_rows(),
        eval_dataset=run.rows("validation") if validates else None,
        callbacks=callbacks,
        compute_metrics=partial(compute_metrics, run),
    )
    set_seed(args.seed + trainer.args.process_index)  # dropout differs between processes
    return trainer


def fit(
    run: Run,
    model: MMFusionPreTrainedModel,
    collator: MultimodalCollator,
    args: TrainArguments,
    folder: Path | None = None,
) -> dict[str, list]:
    """See `loop.fit`, which does the same without the Trainer."""
    trainer = build_trainer(run, model, collator, args, folder)
    checkpoint = trainer.choose_checkpoint(folder is not None and bool(list_checkpoints(folder)))
    if checkpoint is not None:
        run.say(f"resumed from {checkpoint}")
    run.say("training:")
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.train_state.say_what_was_skipped()
    if folder is not None:
        run.seconds["train"] = trainer.train_state.elapsed()
    metric = f"eval_{trainer.args.metric_for_best_model}"
    names = {"loss": "loss", "validation": metric, "learning rate": "learning_rate"}
    for task, name in run.task_metrics().items():
        names |= {f"validation loss {task}": f"eval_{task}_loss", f"validation {name}": f"eval_{name}"}
    return {
        name: [(entry["step"], entry[key]) for entry in trainer.state.log_history if key in entry]
        for name, key in names.items()
    }
