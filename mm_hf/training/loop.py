"""The training loop of Accelerate: how a step is made, how all is kept, and how it goes on."""

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from accelerate.utils import recursively_apply, send_to_device, set_seed
from safetensors.torch import load_file, save_file

from .. import MMFusionPreTrainedModel
from ..checkpoints import begin, checkpoint_to_resume, publish, rotate, staging_folder, writing
from ..data import MultimodalCollator
from ..models.losses import count_items
from ..optim import EMA, NonFiniteGuard
from ..progress import progress_bar
from ..states import (
    ACCELERATE_KEYS,
    agreed,
    check_finite,
    check_moments,
    keep_if_finite,
    moments,
    read_json,
    restore_random_states,
    taking_up,
)
from .arguments import TrainArguments
from .finish import evaluate
from .run import Run, build_optimizer, build_scheduler
from .state import Progress, fault_of_state


class Training:
    """One training run: the parts that change from step to step, how a step is made, and how all is kept.

    Args:
        run: the run.
        model: trained in place.
        collator: makes the batches; the recipe's augmentations come on top.
        args: how it trains.
        folder: for checkpoints and trackers; None keeps nothing, as for the floors.
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
        self.loader = run.loader("train", run.training_collator(collator), train=True)
        self.streams = run.data_args.streaming
        self.epoch_batches = None if self.streams else len(self.loader)
        if self.epoch_batches == 0:
            raise ValueError(f"The training part has {len(run.splits['train'])} rows: too few for a single batch.")
        steps_per_epoch = (
            args.max_steps if self.streams else -(-self.epoch_batches // args.gradient_accumulation_steps)
        )
        self.total = (
            args.max_steps if args.max_steps > 0 else max(1, math.ceil(args.num_train_epochs * steps_per_epoch))
        )
        set_seed(args.seed + self.accelerator.process_index)  # dropout differs between processes
        optimizer = build_optimizer(model, args)
        self.scheduler = build_scheduler(optimizer, args, self.total, steps_per_epoch)
        if args.torch_compile:
            model.compile()
        self.prepared, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.ema = None if args.ema_decay is None else EMA(model, args.ema_decay)
        self.guard = NonFiniteGuard(
            args.max_nonfinite, folder or run.output_dir / "floors", self.accelerator.process_index
        )
        self.progress = Progress(limits=[self.total, args.max_train_seconds, args.early_stopping_patience])
        self.best_weights: dict[str, torch.Tensor] = {}
        self.stream_position = (0, 0)  # epoch of this process's stream, and rows of it that were used
        self.losses: list[dict[str, torch.Tensor]] = []  # of the steps since the last point of the curve, by name

    def train(self):
        """Trains to the end, and leaves in the model the weights that were best on validation."""
        progress = self.progress
        began, before = time.perf_counter(), progress.seconds
        bar = progress_bar(
            total=self.total,
            initial=progress.step,
            desc="training",
            disable=not self.accelerator.is_local_main_process,
        )
        while not progress.done:
            if self.streams:
                self.loader.start_at(*self.stream_position)
            else:
                self.loader.set_epoch(progress.epoch, skip=progress.batch)
            batches = iter(self.loader)
            while not progress.done and (window := list(islice(batches, self.args.gradient_accumulation_steps))):
                progress.seconds = before + time.perf_counter() - began
                overtime = self.make_step(window)
                bar.update()
                progress.done = overtime or progress.step >= self.total
                self.log(bar)
                end_of_epoch = progress.batch == self.epoch_batches
                if progress.done or self.is_due(self.args.eval_steps, end_of_epoch):
                    self.evaluate()
                if end_of_epoch:
                    progress.epoch, progress.batch = progress.epoch + 1, 0
                due = self.args.save_steps or self.args.eval_steps
                if self.folder is not None and (progress.done or self.is_due(due, end_of_epoch)):
                    self.save()
        bar.close()
        if progress.step < self.total:
            why = f"max_train_seconds is {self.args.max_train_seconds}"
            if progress.evaluations_since >= (self.args.early_stopping_patience or math.inf):
                why = f"the best of {progress.evaluations_since + 1} evaluations was at step {progress.best_step}"
            self.run.say(f"stopped after {progress.step} of {self.total} steps: {why}")
        if self.guard.total:
            self.run.say(f"{self.guard.total} steps were skipped, whose loss was not finite")
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in self.best_weights:
                    parameter.copy_(self.best_weights[name])
        self.accelerator.free_memory(self.prepared, self.optimizer)

    def is_due(self, steps: int | None, end_of_epoch: bool) -> bool:
        """Whether something comes after this step that comes every so many steps, or every epoch."""
        return end_of_epoch if steps is None else self.progress.step % steps == 0

    def make_step(self, window: list[dict]) -> bool:
        """One optimizer step over some batches.

        Returns:
            whether any process has used up its time.
        """
        accelerator, args, progress = self.accelerator, self.args, self.progress
        # The loss is divided by the labelled rows of all processes and batches of the step, and DDP averages.
        overtime = args.max_train_seconds is not None and progress.seconds > args.max_train_seconds
        counts = count_items(window)
        sums = send_to_device((counts, torch.tensor(float(overtime))), accelerator.device)
        counts, overtime = accelerator.reduce(sums)
        if isinstance(counts, torch.Tensor):
            counts = counts.clamp(min=1)
        counts = recursively_apply(lambda count: count / accelerator.num_processes, counts)
        self.model.train()
        losses, row_ids = [], []
        for number, batch in enumerate(window):
            row_ids += batch.pop("row_ids").tolist()
            self.run.note_bad_rows(batch.pop("bad_rows", []))
            self.stream_position = batch.pop("stream_position", self.stream_position)
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
        # With float16 the scaler skips such steps by itself, and lowers its scale.
        if accelerator.scaler is not None or self.guard.check(self.model, progress.step + 1, row_ids, norm):
            self.losses.append({name: sum(part[name] for part in losses) for name in losses[0]})
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update()
        progress.step += 1
        progress.batch += len(window)
        return overtime.item() > 0

    def log(self, bar):
        """A point of each curve, every so many steps."""
        progress = self.progress
        if not progress.done and progress.step % self.args.logging_steps:
            return
        self.note("learning rate", self.scheduler.get_last_lr()[0])
        if self.losses:  # else all were skipped, on all processes
            means = {name: torch.stack([step[name] for step in self.losses]).mean() for name in self.losses[0]}
            means = self.accelerator.reduce(means, reduction="mean")
            self.losses = []
            for name, loss in means.items():
                self.note(name, loss.item())
            best = "-" if progress.best is None else f"{progress.best:.4f}"
            bar.set_postfix(loss=f"{means['loss'].item():.4f}", validation=best)

    def note(self, name: str, value: float):
        """A point of one curve, here and in the tracker."""
        self.progress.history.setdefault(name, []).append((self.progress.step, value))
        if self.folder is not None:
            self.accelerator.log({name.replace(" ", "_"): value}, step=self.progress.step)

    def evaluate(self):
        """Measures the model, or its average, on validation, keeps it if it is the best, and says if that is all."""
        progress = self.progress
        if self.ema is None:
            self.keep_if_best()
        else:
            with self.ema.applied():
                self.keep_if_best()
        patience = self.args.early_stopping_patience
        if patience is not None and progress.evaluations_since >= patience:
            progress.done = True

    def keep_if_best(self):
        """Measures the weights as they are."""
        progress = self.progress
        _, report = evaluate(self.run, self.model, self.collator, "validation")
        metric, score = next(iter(report["metrics"].items()))
        self.note("validation", score)
        for name in self.run.task_metrics().values():
            self.note(f"validation {name}", report["metrics"][name])
        score = -score if metric == "rmse" else score
        progress.evaluations_since += 1
        if math.isfinite(score) and (progress.best is None or score > progress.best):
            progress.best, progress.best_step, progress.evaluations_since = score, progress.step, 0
            self.best_weights = {
                name: p.detach().cpu().clone() for name, p in self.model.named_parameters() if p.requires_grad
            }

    def save(self):
        """Writes a checkpoint beside its place; once all processes have, it takes its place."""
        folder = self.folder / f"checkpoint-{self.progress.step}"
        more = [*moments(self.model, self.optimizer)]
        more += [] if self.ema is None else self.ema.state_dict().items()
        # The best weights were looked at when they were measured or taken up, what is frozen when all was measured.
        more += self.best_weights.items() if self.progress.best_step == self.progress.step else []
        with ThreadPoolExecutor(1) as pool:  # it looks at all numbers while the disk is busy
            finite = pool.submit(check_finite, self.model, self.folder, more, frozen=False)
            with writing(folder):
                if self.accelerator.is_main_process:
                    begin(folder)
                self.accelerator.wait_for_everyone()
                self.write(staging_folder(folder))
            keep_if_finite(finite, self.folder)
        with writing(folder):
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                publish(folder)
                rotate(self.folder, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def write(self, folder: Path):
        """Writes all that `resume` takes up."""
        self.accelerator.save_state(str(folder))
        own = {
            "stream_position": self.stream_position,
            "bad_rows": self.run.bad_rows.state_dict(),
            "guard": self.guard.state_dict(),
            "losses": [{name: loss.item() for name, loss in step.items()} for step in self.losses],
        }
        rank = self.accelerator.process_index
        (folder / f"rank_{rank}.json").write_text(json.dumps(own), encoding="utf-8")
        if self.accelerator.is_main_process:
            (folder / "progress.json").write_text(json.dumps(asdict(self.progress)), encoding="utf-8")
            torch.save(self.scheduler.state_dict(), folder / "scheduler.pt")
            save_file(self.best_weights, folder / "best.safetensors")
            if self.ema is not None:
                save_file(self.ema.state_dict(), folder / "ema.safetensors")

    def take_up(self, run_dir: Path) -> Path | None:
        """Resumes from the newest checkpoint that is whole, and sets aside those newer.

        Returns:
            the checkpoint; None where there is none.

        Raises:
            ValueError: there are checkpoints and none of them is whole.
        """
        checkpoint = agreed(lambda: checkpoint_to_resume(run_dir, partial(fault_of_state, self)))
        if checkpoint is not None:
            self.resume(checkpoint)
        return checkpoint

    def resume(self, folder: Path):
        """Takes up all that `write` wrote. The random numbers go on where they were, so nothing may draw any between
        here and the first step.

        Raises:
            ValueError: it cannot be read, or does not belong to this run.
        """
        with taking_up(folder):
            self._resume(folder)

    def _resume(self, folder: Path):
        rank = self.accelerator.process_index
        own = read_json(folder / f"rank_{rank}.json")
        self.stream_position = tuple(own["stream_position"])
        self.run.bad_rows.load_state_dict(own["bad_rows"])
        self.guard.load_state_dict(own["guard"])
        device = self.accelerator.device
        self.losses = [
            {name: torch.tensor(loss, device=device) for name, loss in step.items()} for step in own["losses"]
        ]
        limits = self.progress.limits
        self.progress = Progress(**read_json(folder / "progress.json"))
        if limits != self.progress.limits:  # the recipe may now end later
            self.progress.done, self.progress.limits = self.progress.step >= self.total, limits
        self.scheduler.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))
        self.best_weights = load_file(folder / "best.safetensors")
        if self.ema is not None:
            self.ema.load_state_dict(load_file(folder / "ema.safetensors"))
        self.accelerator.load_state(str(folder))
        check_moments(self.optimizer, folder / "optimizer.bin")
        restore_random_states(folder / f"random_states_{rank}.pkl", ACCELERATE_KEYS)


def fit(
    run: Run,
    model: MMFusionPreTrainedModel,
    collator: MultimodalCollator,
    args: TrainArguments,
    folder: Path | None = None,
) -> dict[str, list]:
    """Trains, from the newest checkpoint in the folder if there is one, and leaves in `model` the weights that were
    best on validation.

    Returns:
        points of (step, value) by name.
    """
    training = Training(run, model, collator, args, folder)
    if folder is not None and (checkpoint := training.take_up(folder)):
        run.say(f"taken up from {checkpoint}")
    run.say(f"training: {training.total} steps, {training.progress.step} of them made")
    training.train()
    if folder is not None:
        run.seconds["train"] = training.progress.seconds
    return training.progress.history
