"""The training loop with Accelerate: optimizer steps, evaluation, checkpoints and resuming."""

import math
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import torch
from accelerate.utils import recursively_apply, send_to_device, set_seed

from .. import MMFusionPreTrainedModel
from ..checkpoints import checkpoint_to_resume
from ..data import MultimodalCollator
from ..models.losses import count_items
from ..progress_bar import progress_bar
from ..states import agreed, new_checkpoint
from .evaluator import evaluate
from .progress import Progress
from .run import Run, build_optimizer, build_scheduler
from .state import LoopState
from .train_arguments import TrainArguments


class Training:
    """One training run: makes the steps, and decides when the model is measured and saved. Its `train_state` holds
    everything that changes from step to step.

    Args:
        run: the run.
        model: trained in place.
        collator: makes the batches; the recipe's augmentations are added.
        args: the training arguments.
        folder: for checkpoints and trackers; None: nothing is saved, as for the floors.
    """

    def __init__(
        self,
        run: Run,
        model: MMFusionPreTrainedModel,
        collator: MultimodalCollator,
        args: TrainArguments,
        folder: Path | None,
    ):
        self.run, self.model, self.collator, self.args, self.folder = run, model, collator, args, folder
        self.accelerator = run.accelerator
        self.validates = "validation" in run.splits  # false if the model is trained on all rows, see `folds`
        self.loader = run.training_loader(collator)
        self.epoch_batches = None if run.data_args.streaming else len(self.loader)
        if self.epoch_batches is None:
            steps_per_epoch = args.max_steps
        elif self.epoch_batches == 0:
            raise ValueError(f"The training part has {len(run.splits['train'])} rows: too few for a single batch.")
        else:
            steps_per_epoch = -(-self.epoch_batches // args.gradient_accumulation_steps)
        self.total = (
            args.max_steps if args.max_steps > 0 else max(1, math.ceil(args.num_train_epochs * steps_per_epoch))
        )
        set_seed(args.seed + self.accelerator.process_index)  # dropout differs between processes
        optimizer = build_optimizer(model, args)
        scheduler = build_scheduler(optimizer, args, self.total, steps_per_epoch)
        if args.torch_compile:
            model.compile()
        self.prepared, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.train_state = LoopState(
            run, model, args, folder, self.optimizer, scheduler, self.total, self.epoch_batches
        )

    @property
    def progress(self) -> Progress:
        """The progress of the training."""
        return self.train_state.progress

    def train(self):
        """Trains to the end, and then loads the weights that were best on validation into the model."""
        state, progress = self.train_state, self.progress
        state.start_clock()
        bar = progress_bar(
            total=self.total,
            initial=progress.step,
            desc="training",
            disable=not self.accelerator.is_local_main_process,
        )
        while not progress.done:
            if self.epoch_batches is None:
                self.loader.start_at(*state.stream_position)
            else:
                self.loader.set_epoch(progress.epoch, skip=progress.batch)
            batches = iter(self.loader)
            while not progress.done and (window := list(islice(batches, self.args.gradient_accumulation_steps))):
                overtime = self.make_step(window)
                bar.update()
                progress.done = overtime or progress.step >= self.total
                self.log(bar)
                end_of_epoch = progress.batch == self.epoch_batches
                if self.validates and (progress.done or self.is_due(self.args.eval_steps, end_of_epoch)):
                    self.evaluate()
                if end_of_epoch:
                    progress.epoch, progress.batch = progress.epoch + 1, 0
                due = self.args.save_steps or self.args.eval_steps
                if self.folder is not None and (progress.done or self.is_due(due, end_of_epoch)):
                    self.save()
        bar.close()
        if progress.step < self.total:
            why = f"max_train_seconds is {self.args.max_train_seconds}"
            if state.is_out_of_patience():
                why = f"the best of {progress.evaluations_since + 1} evaluations was at step {progress.best_step}"
            self.run.say(f"stopped after {progress.step} of {self.total} steps: {why}")
        state.say_what_was_skipped()
        state.restore_best()
        self.accelerator.free_memory(self.prepared, self.optimizer)

    def is_due(self, steps: int | None, end_of_epoch: bool) -> bool:
        """Whether an action is due after this step. It happens every `steps` steps, or at the end of each epoch if
        `steps` is None."""
        return end_of_epoch if steps is None else self.progress.step % steps == 0

    def make_step(self, window: list[dict]) -> bool:
        """One optimizer step over some batches. Returns whether any process has used up its time."""
        accelerator, args, state = self.accelerator, self.args, self.train_state
        # The loss is divided by the number of labelled rows in all processes and batches of the step. DDP averages
        # over processes, so the count is divided by their number.
        counts = count_items(window)
        sums = send_to_device((counts, torch.tensor(float(state.is_overtime()))), accelerator.device)
        counts, overtime = accelerator.reduce(sums)
        if isinstance(counts, torch.Tensor):
            counts = counts.clamp(min=1)
        counts = recursively_apply(lambda count: count / accelerator.num_processes, counts)
        self.model.train()
        losses = []
        for number, batch in enumerate(window):
            state.note_rows(batch)
            batch = send_to_device(batch, accelerator.device)
            last = number == len(window) - 1
            with nullcontext() if last else accelerator.no_sync(self.prepared):
                with accelerator.autocast():
                    outputs = self.prepared(**batch, num_items_in_batch=counts)
                accelerator.backward(outputs.loss)
            by_task = {f"loss {task}": loss for task, loss in (outputs.get("task_losses") or {}).items()}
            losses.append({name: loss.detach() for name, loss in {"loss": outputs.loss, **by_task}.items()})
        norm = None
        if args.max_grad_norm > 0:
            norm = accelerator.clip_grad_norm_(self.prepared.parameters(), args.max_grad_norm)
        if state.allows_step(state.progress.step + 1, norm, scaled=accelerator.scaler is not None):
            state.losses.append({name: sum(part[name] for part in losses) for name in losses[0]})
        self.optimizer.step()
        state.scheduler.step()
        self.optimizer.zero_grad()
        state.update_average()
        state.progress.step += 1
        state.progress.batch += len(window)
        return overtime.item() > 0

    def log(self, bar):
        """Adds a point to each curve, every `logging_steps` steps."""
        state, progress = self.train_state, self.progress
        if not progress.done and progress.step % self.args.logging_steps:
            return
        self.note("learning rate", float(state.scheduler.get_last_lr()[0]))
        if state.losses:  # else all steps were skipped, on all processes
            means = {name: torch.stack([step[name] for step in state.losses]).mean() for name in state.losses[0]}
            means = self.accelerator.reduce(means, reduction="mean")
            state.losses = []
            for name, loss in means.items():
                self.note(name, loss.item())
            best = "-" if progress.best is None else f"{progress.best:.4f}"
            bar.set_postfix(loss=f"{means['loss'].item():.4f}", validation=best)

    def note(self, name: str, value: float):
        """Adds a point to one curve, here and in the tracker."""
        self.progress.history.setdefault(name, []).append((self.progress.step, value))
        if self.folder is not None:
            self.accelerator.log({name.replace(" ", "_"): value}, step=self.progress.step)

    def evaluate(self):
        """Measures the model, or its averaged weights, on validation, and keeps it if it is the best. Ends the
        training if there was no better score for too long."""
        with self.train_state.averaged():
            self.keep_if_best()
        if self.train_state.is_out_of_patience():
            self.progress.done = True

    def keep_if_best(self):
        """Measures the present weights, and keeps them if they are the best."""
        _, report = evaluate(self.run, self.model, self.collator, "validation")
        metric, score = next(iter(report["metrics"].items()))
        self.note("validation", score)
        for name in self.run.task_metrics().values():
            self.note(f"validation {name}", report["metrics"][name])
        self.train_state.take_score(-score if metric == "rmse" else score)

    def save(self):
        """Writes a checkpoint into the run's folder."""
        state, accelerator = self.train_state, self.accelerator
        if self.folder is None:
            raise ValueError("A training without a folder cannot save checkpoints.")
        with new_checkpoint(
            self.folder / f"checkpoint-{self.progress.step}",
            self.model,
            state.tensors(),
            main=accelerator.is_main_process,
            wait=accelerator.wait_for_everyone,
            limit=self.args.save_total_limit,
        ) as written:
            state.write(written)

    def take_up(self, run_dir: Path) -> Path | None:
        """Resumes from the newest complete checkpoint, which it returns, and sets newer ones aside.

        Raises:
            ValueError: there are checkpoints, but none is complete.
        """
        checkpoint = agreed(lambda: checkpoint_to_resume(run_dir, self.train_state.fault))
        if checkpoint is not None:
            self.train_state.take_up(checkpoint)
        return checkpoint


def fit(
    run: Run,
    model: MMFusionPreTrainedModel,
    collator: MultimodalCollator,
    args: TrainArguments,
    folder: Path | None = None,
) -> dict[str, list]:
    """Trains, starting from the newest checkpoint in the folder if there is one. At the end `model` has the weights
    that were best on validation. Returns points of (step, value) by name."""
    training = Training(run, model, collator, args, folder)
    if folder is not None and (checkpoint := training.take_up(folder)):
        run.say(f"resumed from {checkpoint}")
    run.say(f"training: {training.total} steps, {training.progress.step} of them done")
    training.train()
    if folder is not None:
        run.seconds["train"] = training.train_state.elapsed()
    return training.progress.history
