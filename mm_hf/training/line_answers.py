"""What the linear floor of a run answered on its test part, kept beside the checkpoint: who measures the run again
holds it against that without fitting anything."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..evaluation import Predictions
from .evaluator import Evaluator


ANSWERS = Path("floors", "linear.safetensors")


def keep_answers(folder: Path, predictions: Any, labels: Any):
    """Writes what a floor answers on the test part, and the labels that it was measured by; both as `Predictions` has
    them."""
    tensors = {**flat("predictions", predictions), **flat("labels", labels)}
    (folder / ANSWERS).parent.mkdir(exist_ok=True)
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, folder / ANSWERS)


def flat(name: str, values: Any) -> dict[str, torch.Tensor]:
    """A tensor, or a dict of them, under names in one dict."""
    if isinstance(values, torch.Tensor):
        return {name: values}
    return {f"{name}/{key}": value for key, value in values.items()}


def kept_answers(folder: str | Path, labels: Any) -> Any | None:
    """What the linear floor of a run answered, where that was on the very rows that are measured now, as their labels
    tell: a tensor, or a dict of them.

    Args:
        folder: of the run.
        labels: of the rows that are measured, as `Predictions` has them.
    """
    try:
        kept = load_file(Path(folder) / ANSWERS)
    except (OSError, SafetensorError):
        return None
    wanted = flat("labels", labels)
    answers = {name: kept.pop(name, None) for name in wanted}
    if not kept or any(value is None or not same(value, wanted[name]) for name, value in answers.items()):
        return None
    if isinstance(labels, torch.Tensor):
        return kept.get("predictions")
    return {name.partition("/")[2]: value for name, value in kept.items()}


def line_score(run: Evaluator, folder: str | Path, predictions: Predictions) -> dict[str, Any] | None:
    """The first metric of the linear floor that a run keeps, on the rows that are measured now: its `metric` and its
    `value`; None where it was not measured on these.

    Args:
        run: measures.
        folder: of the run that keeps the answers.
        predictions: of its model.
    """
    kept = kept_answers(folder, predictions.labels)
    if kept is None:
        return None
    metric, value = next(iter(run.metrics(kept, predictions.labels)["metrics"].items()))
    return {"metric": metric, "value": value}


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal, what is missing (NaN) too."""
    return one.shape == other.shape and torch.allclose(one.double(), other.double(), rtol=0, atol=0, equal_nan=True)
