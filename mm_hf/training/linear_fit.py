"""`--fusion linear`: a linear model as an ordinary checkpoint. It is fitted by scikit-learn, without training
steps."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import MMFusionPreTrainedModel
from ..data import MultimodalCollator
from ..data.modalities import reader_of
from ..models.linear_fusion import LINEAR
from .evaluator import evaluate
from .linear_floor import LinearFloor, measure_line
from .run import Run
from .train_arguments import TrainArguments


Fit = Callable[..., dict[str, list]]  # see `finish`


def fit_of(run: Run, fit: Fit) -> Fit:
    """The function that trains the models of a run: the given one, or `fit_linear` if the fusion is `linear`."""
    return fit_linear if run.model.config.fusion_module_config.fusion_type == LINEAR else fit


def fit_linear(
    run: Run,
    model: MMFusionPreTrainedModel,
    collator: MultimodalCollator,
    args: TrainArguments,
    folder: Path | None = None,
) -> dict[str, list]:
    """Fits a linear model for each task, on the training rows that the linear floor uses, and writes it into the
    projections and the head. All processes do the same.

    Returns:
        points of (step, value) by name: the score on validation, at step 0.

    Raises:
        ValueError: a checkpoint's encoders do not compute some of the features, or a task has no linear model.
    """
    started = time.perf_counter()
    for name, encoder in model.base_model.encoders.items():
        if (reason := reader_of(name).line_refused(encoder)) is not None:
            raise ValueError(
                f"fusion {LINEAR} cannot keep the {name} columns: {reason}, and a linear model cannot be written into "
                "that. Leave the columns out, or choose another fusion, such as concat; the floor `linear` is then "
                "measured beside it."
            )
    run.say("fitting: a linear model, without training steps")
    floor = measure_line(run, model, collator)
    if floor is None:
        names = ", ".join(task.name for task in run.tasks)
        raise ValueError(f"fusion {LINEAR} has no linear model for {names}: choose another fusion, such as concat.")
    write_line(model, floor)
    if folder is not None:
        run.line = floor
        run.seconds["train"] = time.perf_counter() - started
        run.say(floor.said())
    _, report = evaluate(run, model, collator, "validation")
    return {"validation": [(0, report["metrics"][run.first_metric()])]}


@torch.no_grad()
def write_line(model: MMFusionPreTrainedModel, floor: LinearFloor):
    """Writes the linear models of a floor into a model: the weights of a modality into its projection (or encoder),
    and the bias into the head. Each output has its own place in the fused vector.

    Raises:
        ValueError: a last layer is not linear.
    """
    layers = model.last_layers()
    width = model.config.fusion_module_config.sizes().width
    weights, start = np.zeros((floor.features.width, width)), 0
    for column, answer in floor.answers.items():
        layer, head = layers[column if column in layers else None]
        line = answer.line
        if line is None or not isinstance(layer, nn.Linear):
            raise ValueError(
                f"fusion {LINEAR} needs a linear last layer, but {head.name} has {type(layer).__name__}: choose "
                "another fusion, such as concat."
            )
        outputs = layer.out_features
        scale = np.ones(outputs) if head.label_scale is None else np.array(head.label_scale)
        mean = np.zeros(outputs) if head.label_mean is None else np.array(head.label_mean)
        weights[:, start : start + outputs] = line.weights / scale
        layer.weight.zero_()
        layer.weight[:, start : start + outputs] = torch.eye(outputs)
        layer.bias.copy_(torch.from_numpy((line.bias - mean) / scale))
        start += outputs
    places: dict[str, list] = {}
    for block in floor.features.blocks:
        places.setdefault(block.modality, []).append((weights[block.columns], weights[block.absent]))
    for name, of_places in places.items():
        reader_of(name).write_line(model.base_model, of_places)
