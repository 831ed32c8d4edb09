"""The state of a training, and the checkpoint files that keep it.

Both scripts share `TrainState`. `LoopState` adds the state of Accelerate's loop, and
`recipe_trainer.StateBesideTrainer` adds the state that the library's Trainer does not save.
"""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..checkpoints import has_checksums, step_of
from ..json_files import (
    DamagedFileError,
    Rules,
    fault_of_values,
    is_count,
    is_dict_of,
    is_list_of,
    is_number,
    read_json,
)
from ..nonfinite import masks_of, moments
from ..optim import EMA, NonFiniteGuard
from ..states import (
    ACCELERATE_KEYS,
    check_moments,
    check_processes,
    fault_of_pickled,
    fault_of_random_states,
    fault_of_tensors,
    read_pickled,
    restore_random_states,
    taking_up,
)
from .progress import OF_PROGRESS, Progress, fault_of_place, fault_of_progress
from .run import Run
from .train_arguments import TrainArguments


OF_BAD_ROWS: Rules = {
    "entries": lambda entries: is_list_of(
        entries, lambda entry: isinstance(entry, dict) and {"split", "row", "column"} <= set(entry)
    )
}
OF_GUARD: Rules = {
    "total": is_count,
    "skipped": lambda steps: is_list_of(
        steps, lambda step: isinstance(step, dict) and is_count(step.get("step")) and "row_ids" in step
    ),
}


class TrainState:
    """The state that both scripts keep: averaged weights, the guard against steps with values that are not finite, bad
    rows, and the seconds used.

    It is in the files `ema.safetensors` and, for each process, `rank_0.json` and so on. The Trainer itself writes the
    rest of the state (weights, optimizer, schedule, random numbers, progress).

    Args:
        run: the run; its list of bad rows is part of the state.
        model: on its device.
        args: the training arguments.
        folder: of the run, for the rows of skipped steps; None for a floor.
    """

    # Rules for the values in the file of a process, by key.
    rules: Rules = {
        "bad_rows": lambda value: fault_of_values("", value, OF_BAD_ROWS) is None,
        "guard": lambda value: fault_of_values("", value, OF_GUARD) is None,
    }

    def __init__(self, run: Run, model: nn.Module, args: TrainArguments, folder: Path | None):
        self.run, self.model, self.args = run, model, args
        self.ema = None if args.ema_decay is None else EMA(model, args.ema_decay)
        self.guard = NonFiniteGuard(args.max_nonfinite, folder or run.output_dir / "floors", run.rank)
        self.row_ids: list[int] = []  # rows of the present step
        self.seconds = 0.0  # seconds of earlier processes
        self.began: float | None = None

    # Around a step

    def start_clock(self):
        """Call it when the training starts or resumes."""
        self.began = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds of training, including those of earlier processes."""
        return self.seconds if self.began is None else self.seconds + time.perf_counter() - self.began

    def is_overtime(self) -> bool:
        """Whether this process has used up the time limit in the recipe."""
        limit = self.args.max_train_seconds
        return limit is not None and self.elapsed() > limit

    def note_rows(self, batch: dict[str, Any]):
        """Takes the information about rows out of a batch: their ids, in case the step is not finite, and the bad
        rows."""
        self.row_ids += batch.pop("row_ids").tolist()
        self.run.note_bad_rows(batch.pop("bad_rows", []))

    def allows_step(self, step: int, norm: torch.Tensor | float | None, scaled: bool) -> bool:
        """Whether the gradients are finite, see `NonFiniteGuard.check`. Call it once before each optimizer step.
        `norm` is the norm of the gradients before clipping, if it is known. If gradients are `scaled` (float16), the
        scaler itself skips steps that are not finite."""
        row_ids, self.row_ids = self.row_ids, []
        return scaled or self.guard.check(self.model, step, row_ids, norm)

    def update_average(self):
        """Adds the weights to their average. Call it after each optimizer step."""
        if self.ema is not None:
            self.ema.update()

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the model has its averaged weights, if the recipe asks for them."""
        return contextlib.nullcontext() if self.ema is None else self.ema.applied()

    def say_what_was_skipped(self):
        """Prints a line if steps were skipped."""
        if self.guard.total:
            self.run.say(f"{self.guard.total} steps were skipped because their loss was not finite")

    # Files

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of the state, by name. They must be finite."""
        if self.ema is not None:
            yield from self.ema.state_dict().items()

    def values(self) -> dict[str, Any]:
        """The values in this process's own file: see `rules`."""
        return {"bad_rows": self.run.bad_rows.state_dict(), "guard": self.guard.state_dict()}

    def take_up_values(self, values: dict[str, Any]):
        """Restores the result of `values`."""
        self.run.bad_rows.load_state_dict(values["bad_rows"])
        self.guard.load_state_dict(values["guard"])

    def take_up_average(self, folder: Path):
        """Restores the averaged weights of a checkpoint."""
        if self.ema is not None:
            self.ema.load_state_dict(load_file(folder / "ema.safetensors"))

    def write(self, folder: Path):
        """Writes the state; every process calls it."""
        (folder / f"rank_{self.run.rank}.json").write_text(json.dumps(self.values()), encoding="utf-8")
        if self.ema is not None and self.run.rank == 0:
            save_file(self.ema.state_dict(), folder / "ema.safetensors")

    def faults(self, folder: Path) -> Iterator[str | None]:
        """Checks one file after the other, also those of other processes: what is wrong with each, None if it is fine.
        It changes nothing."""
        for rank in range(self.run.world_size):
            yield fault_of_values(f"rank_{rank}.json", read_json(folder / f"rank_{rank}.json"), self.rules)
        if self.ema is not None:
            yield fault_of_tensors(folder / "ema.safetensors", self.ema.state_dict())

    def take_up(self, folder: Path):
        """Restores everything that `write` wrote."""
        self.take_up_values(read_json(folder / f"rank_{self.run.rank}.json"))
        self.take_up_average(folder)


class LoopState(TrainState):
    """The whole state from which Accelerate's loop resumes: `TrainState`, and weights, optimizer, schedule, random
    numbers, progress and the best weights so far.

    Args:
        run, model, args, folder: see `TrainState`.
        optimizer: prepared by Accelerate, like the model.
        scheduler: of the optimizer.
        total: number of steps to make.
        epoch_batches: batches per epoch of this process; None for a stream, which has no known end.
    """

    rules: Rules = {
        **TrainState.rules,
        "stream_position": lambda value: is_list_of(value, is_count) and len(value) == 2,
        "losses": lambda value: is_list_of(value, lambda step: is_dict_of(step, is_number)),
    }

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        args: TrainArguments,
        folder: Path | None,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        total: int,
        epoch_batches: int | None,
    ):
        super().__init__(run, model, args, folder)
        self.optimizer, self.scheduler, self.total, self.epoch_batches = optimizer, scheduler, total, epoch_batches
        self.progress = Progress(limits=[total, args.max_train_seconds, args.early_stopping_patience])
        self.best_weights: dict[str, torch.Tensor] = {}
        self.stream_position = (0, 0)  # epoch of this process's stream, and number of rows used in it
        self.losses: list[dict[str, torch.Tensor]] = []  # by name, for the steps since the last point of the curve

    def note_rows(self, batch: dict[str, Any]):
        super().note_rows(batch)
        self.stream_position = batch.pop("stream_position", self.stream_position)

    # Best so far

    def take_score(self, score: float):
        """Keeps a copy of the model's present weights if they are the best so far.

        Args:
            score: on validation, higher is better; one that is not finite is never the best.
        """
        progress = self.progress
        progress.evaluations_since += 1
        if math.isfinite(score) and (progress.best is None or score > progress.best):
            progress.best, progress.best_step, progress.evaluations_since = score, progress.step, 0
            self.best_weights = {
                name: p.detach().cpu().clone() for name, p in self.model.named_parameters() if p.requires_grad
            }

    def is_out_of_patience(self) -> bool:
        """Whether the training stops because too many evaluations had no better score."""
        patience = self.args.early_stopping_patience
        return patience is not None and self.progress.evaluations_since >= patience

    @torch.no_grad()
    def restore_best(self):
        """Loads the weights that were best on validation into the model, if validation was measured."""
        for name, parameter in self.model.named_parameters():
            if name in self.best_weights:
                parameter.copy_(self.best_weights[name])

    # Files

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from moments(self.model, self.optimizer)
        yield from super().tensors()
        if self.progress.best_step == self.progress.step:  # else they were checked when they were measured or restored
            yield from self.best_weights.items()

    def values(self) -> dict[str, Any]:
        losses = [{name: loss.item() for name, loss in step.items()} for step in self.losses]
        return {**super().values(), "stream_position": self.stream_position, "losses": losses}

    def take_up_values(self, values: dict[str, Any]):
        super().take_up_values(values)
        epoch, position = values["stream_position"]
        self.stream_position = (epoch, position)
        device = self.run.accelerator.device
        self.losses = [
            {name: torch.tensor(loss, device=device) for name, loss in step.items()} for step in values["losses"]
        ]

    def write(self, folder: Path):
        """Writes the state; Accelerate writes weights, optimizer and random numbers."""
        self.run.accelerator.save_state(str(folder))
        super().write(folder)
        if self.run.rank == 0:
            progress = {**asdict(self.progress), "seconds": self.elapsed()}
            (folder / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
            torch.save(self.scheduler.state_dict(), folder / "scheduler.pt")
            save_file(self.best_weights, folder / "best.safetensors")

    def fault(self, folder: Path) -> str | None:
        """Why the run cannot resume from a checkpoint with complete files; None if it can. It changes nothing.

        Raises:
            ValueError: another number of processes wrote it, or it was written without a GPU and there is one now.
        """
        names = [f"random_states_{rank}.pkl" for rank in range(self.run.world_size)]
        check_processes(folder, "random_states_*.pkl", names)
        try:
            return next(filter(None, self.faults(folder)), None)
        except DamagedFileError as error:
            return str(error)

    def faults(self, folder: Path) -> Iterator[str | None]:
        """See `TrainState`. Each check assumes that the ones before it found nothing."""
        model, checked = self.model, has_checksums(folder)
        progress = read_json(folder / "progress.json")
        yield fault_of_values("progress.json", progress, OF_PROGRESS)
        yield fault_of_progress(progress, step_of(folder))
        if self.epoch_batches is not None:
            yield fault_of_place(progress, self.epoch_batches, self.args.gradient_accumulation_steps)
        yield from super().faults(folder)
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        yield fault_of_tensors(folder / "model.safetensors", masks=masks_of(model))
        yield fault_of_tensors(folder / "best.safetensors", {} if progress["best"] is None else trained)
        scaled = self.run.accelerator.scaler is not None
        for name in ["optimizer.bin", "scheduler.pt", *(["scaler.pt"] if scaled else [])]:
            yield fault_of_pickled(folder / name, checked)
        step = read_pickled(folder / "scheduler.pt", checked).get("last_epoch")
        yield None if step == progress["step"] else f"scheduler.pt: last_epoch is {step!r} at step {progress['step']}"
        for rank in range(self.run.world_size):
            yield fault_of_random_states(folder / f"random_states_{rank}.pkl", ACCELERATE_KEYS, checked)

    def take_up(self, folder: Path):
        """Restores the state. It also restores the random numbers, so no random number may be drawn between this call
        and the first step.

        Raises:
            ValueError: it cannot be read, or does not belong to this run.
        """
        with taking_up(folder):
            super().take_up(folder)
            limits, progress = self.progress.limits, read_json(folder / "progress.json")
            self.seconds = progress.pop("seconds")
            self.progress = Progress(**progress)
            if limits != self.progress.limits:  # the recipe may now end later
                self.progress.done, self.progress.limits = self.progress.step >= self.total, limits
            self.scheduler.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))
            self.best_weights = load_file(folder / "best.safetensors")
            self.run.accelerator.load_state(str(folder))
            check_moments(self.optimizer, folder / "optimizer.bin")
            restore_random_states(folder / f"random_states_{self.run.rank}.pkl", ACCELERATE_KEYS)
