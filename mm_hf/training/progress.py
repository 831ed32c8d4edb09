"""How far a training of Accelerate's loop has come, and whether the numbers of `progress.json` make sense."""

from dataclasses import dataclass, field
from typing import Any

from ..json_files import Rules, is_count, is_dict_of, is_duration, is_finite_number, is_list_of, is_number, is_point


@dataclass
class Progress:
    """How far a training has come: of `progress.json` all but the seconds.

    Args:
        step: optimizer steps made.
        epoch, batch: epochs completed, and batches of the present one that were used.
        best, best_step: best score on validation, higher is better, and where it was.
        evaluations_since: since the best one.
        done: the training ended; nothing is left but to measure.
        limits: what the recipe said of its end.
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
    """Whether epoch and batch belong to the step: of `batches` an epoch, and `accumulated` of them a step, but for
    fewer in the last one of an epoch."""
    epoch, batch = progress["epoch"], progress["batch"]
    step = epoch * -(-batches // accumulated) + -(-batch // accumulated)
    if batch < batches and step == progress["step"]:
        return None
    return f"progress.json: epoch {epoch} and batch {batch} of {batches} are not step {progress['step']}"
