"""What a checkpoint of `mm_hf train` holds beside weights and optimizer, and whether a run can be taken up from it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints import has_checksums, step_of
from ..states import (
    ACCELERATE_KEYS,
    BAD_ROWS,
    GUARD,
    DamagedFileError,
    Rules,
    check_processes,
    fault_of_pickled,
    fault_of_random_states,
    fault_of_tensors,
    fault_of_values,
    is_count,
    is_dict_of,
    is_duration,
    is_finite_number,
    is_list_of,
    is_number,
    is_point,
    masks_of,
    read_json,
    read_pickled,
)


if TYPE_CHECKING:
    from .loop import Training


@dataclass
class Progress:
    """How far a training has come: what a checkpoint keeps beside weights and optimizer.

    Args:
        step: optimizer steps made.
        epoch, batch: epochs completed, and batches of the present one that were used.
        seconds: wall time of training.
        best, best_step: best score on validation, higher is better, and where it was.
        evaluations_since: since the best one.
        done: the training ended; nothing is left but to measure.
        limits: what the recipe said of its end.
        history: points of (step, value) by name.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int = 0
    evaluations_since: int = 0
    done: bool = False
    limits: list = field(default_factory=list)
    history: dict[str, list] = field(default_factory=lambda: {"loss": [], "validation": [], "learning rate": []})


def is_limits(value: Any) -> bool:
    """Whether a value is a number of steps, one of seconds or None, and one of evaluations or None."""
    if not isinstance(value, list) or len(value) != 3:
        return False
    steps, seconds, patience = value
    return is_count(steps) and (seconds is None or is_number(seconds)) and (patience is None or is_count(patience))


OF_PROGRESS: Rules = {
    **dict.fromkeys(("step", "epoch", "batch", "best_step", "evaluations_since"), is_count),
    "seconds": is_duration,
    "best": lambda value: value is None or is_finite_number(value),
    "done": lambda value: isinstance(value, bool),
    "limits": is_limits,
    "history": lambda value: is_dict_of(value, lambda points: is_list_of(points, is_point)),
}
OF_A_PROCESS: Rules = {
    "stream_position": lambda value: is_list_of(value, is_count) and len(value) == 2,
    "bad_rows": lambda value: fault_of_values("", value, BAD_ROWS) is None,
    "guard": lambda value: fault_of_values("", value, GUARD) is None,
    "losses": lambda value: is_list_of(value, lambda step: is_dict_of(step, is_number)),
}


def fault_of_state(training: "Training", folder: Path) -> str | None:
    """Why a checkpoint whose files are whole cannot be taken up; None where it can. It changes nothing.

    Raises:
        ValueError: another number of processes wrote it, or one without a GPU.
    """
    names = [f"random_states_{rank}.pkl" for rank in range(training.accelerator.num_processes)]
    check_processes(folder, "random_states_*.pkl", names)
    try:
        return next(filter(None, faults_of_state(training, folder)), None)
    except DamagedFileError as error:
        return str(error)


def faults_of_state(training: "Training", folder: Path) -> Iterator[str | None]:
    """One file after the other; each takes for granted that those before it are fine."""
    model, processes, checked = training.model, range(training.accelerator.num_processes), has_checksums(folder)
    progress = read_json(folder / "progress.json")
    yield fault_of_values("progress.json", progress, OF_PROGRESS)
    yield fault_of_progress(progress, step_of(folder))
    if not training.streams:  # of a stream, nobody knows
        yield fault_of_place(progress, training.epoch_batches, training.args.gradient_accumulation_steps)
    for rank in processes:
        yield fault_of_values(f"rank_{rank}.json", read_json(folder / f"rank_{rank}.json"), OF_A_PROCESS)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    yield fault_of_tensors(folder / "model.safetensors", masks=masks_of(model))
    yield fault_of_tensors(folder / "best.safetensors", {} if progress["best"] is None else trained)
    if training.ema is not None:
        yield fault_of_tensors(folder / "ema.safetensors", training.ema.state_dict())
    scaled = training.accelerator.scaler is not None
    for name in ["optimizer.bin", "scheduler.pt", *(["scaler.pt"] if scaled else [])]:
        yield fault_of_pickled(folder / name, checked)
    step = read_pickled(folder / "scheduler.pt", checked).get("last_epoch")
    yield None if step == progress["step"] else f"scheduler.pt: last_epoch is {step!r} at step {progress['step']}"
    for rank in processes:
        yield fault_of_random_states(folder / f"random_states_{rank}.pkl", ACCELERATE_KEYS, checked)


def fault_of_progress(progress: dict[str, Any], step: int) -> str | None:
    """Whether the numbers of `progress.json` agree, at the step that the folder is named for."""
    if progress["step"] != step:
        return f"progress.json: step is {progress['step']}, and the folder's is {step}"
    last = {"best_step": progress["best_step"]}
    last |= {
        f"history of {name}": max([at for at, _ in points], default=0) for name, points in progress["history"].items()
    }
    for name, at in last.items():
        if at > step:
            return f"progress.json: {name} is at step {at}, behind step {step}"
    if progress["evaluations_since"] > step:
        return f"progress.json: evaluations_since is {progress['evaluations_since']} at step {step}"
    if step > progress["limits"][0]:
        return f"progress.json: step is {step} of {progress['limits'][0]} (limits)"
    return None


def fault_of_place(progress: dict[str, Any], batches: int, accumulated: int) -> str | None:
    """Whether epoch and batch belong to the step.

    Args:
        progress: of `progress.json`.
        batches: of an epoch.
        accumulated: batches of a step; the last of an epoch may have fewer.
    """
    epoch, batch = progress["epoch"], progress["batch"]
    step = epoch * -(-batches // accumulated) + -(-batch // accumulated)
    if batch < batches and step == progress["step"]:
        return None
    return f"progress.json: epoch {epoch} and batch {batch} of {batches} are not step {progress['step']}"
