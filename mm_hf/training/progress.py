"""The progress of a training with Accelerate's loop, and checks of the numbers in `progress.json`."""

from dataclasses import dataclass, field
from typing import Any

from ..json_files import Rules, is_count, is_dict_of, is_duration, is_finite_number, is_list_of, is_number, is_point


@dataclass
class Progress:
    """The progress of a training: everything in `progress.json` except the seconds.

    Args:
        step: number of optimizer steps made.
        epoch, batch: number of completed epochs, and of batches used in the present epoch.
        best, best_step: best score on validation (higher is better), and its step.
        evaluations_since: number of evaluations after the best one.
        done: the training has ended; only the test is left.
        limits: the limits in the recipe (steps, seconds, patience).
        history: points of (step, value) by name.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int = 0
    evaluations_since: int = 0
    done: bool = False
    limits: list = field(default_factory=list)
    history: dict[str, list] = field(default_factory=lambda: {"loss": [], "validation": [], "learning rate": []})


def is_limits(value: Any) -> bool:
    """Whether a value is a list of: a number of steps, a number of seconds or None, a number of evaluations or
    None."""
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


def fault_of_progress(progress: dict[str, Any], step: int) -> str | None:
    """What is wrong with the numbers of `progress.json`, at the step in the folder's name; None if they agree."""
    if progress["step"] != step:
        return f"progress.json: step is {progress['step']}, but the folder's name says {step}"
    last = {"best_step": progress["best_step"]}
    last |= {
        f"history of {name}": max([at for at, _ in points], default=0) for name, points in progress["history"].items()
    }
    for name, at in last.items():
        if at > step:
            return f"progress.json: {name} is at step {at}, after the present step {step}"
    if progress["evaluations_since"] > step:
        return f"progress.json: evaluations_since is {progress['evaluations_since']} at step {step}, which is too many"
    if step > progress["limits"][0]:
        return f"progress.json: step is {step}, more than the limit of {progress['limits'][0]} steps"
    return None


def fault_of_place(progress: dict[str, Any], batches: int, accumulated: int) -> str | None:
    """What is wrong if epoch and batch do not match the step; None if they do. An epoch has `batches` batches, and a
    step uses `accumulated` of them; the last step of an epoch may use fewer."""
    epoch, batch = progress["epoch"], progress["batch"]
    step = epoch * -(-batches // accumulated) + -(-batch // accumulated)
    if batch < batches and step == progress["step"]:
        return None
    return f"progress.json: epoch {epoch} and batch {batch} of {batches} do not match step {progress['step']}"
