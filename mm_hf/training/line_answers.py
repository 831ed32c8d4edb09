"""The answers of a run's linear floor (a linear baseline) on the test part, kept beside the checkpoint. A later
measurement of the run compares with them, without fitting the floor again."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..evaluation import Predictions
from .evaluator import Evaluator


ANSWERS = Path("floors", "linear.safetensors")


def keep_answers(folder: Path, predictions: Any, labels: Any):
    """Writes the answers of a floor on the test part, and the labels that it was measured on; both in the form of
    `Predictions`."""
    tensors = {**flat("predictions", predictions), **flat("labels", labels)}
    (folder / ANSWERS).parent.mkdir(exist_ok=True)
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, folder / ANSWERS)


def flat(name: str, values: Any) -> dict[str, torch.Tensor]:
    """Puts a tensor, or a dict of tensors, into one flat dict by name."""
    if isinstance(values, torch.Tensor):
        return {name: values}
    return {f"{name}/{key}": value for key, value in values.items()}


def kept_answers(folder: str | Path, labels: Any) -> Any | None:
    """The answers of a run's linear floor: a tensor, or a dict of tensors. None if they belong to other rows than the
    ones that are measured now; the labels are compared to find out.

    Args:
        folder: of the run.
        labels: of the rows that are measured, in the form of `Predictions`.
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
    """The first metric of a run's linear floor on the rows that are measured now: its `metric` and its `value`. None
    if the floor was not measured on these rows.

    Args:
        run: measures the answers.
        folder: of the run that keeps the answers.
        predictions: of the run's model.
    """
    kept = kept_answers(folder, predictions.labels)
    if kept is None:
        return None
    metric, value = next(iter(run.metrics(kept, predictions.labels)["metrics"].items()))
    return {"metric": metric, "value": value}


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal; missing values (NaN) count as equal."""
    return one.shape == other.shape and torch.allclose(one.double(), other.double(), rtol=0, atol=0, equal_nan=True)
