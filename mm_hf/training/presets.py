"""Version 3 of the defaults: values for keys that the recipe leaves out. They depend on the number of rows, on the
machine, and on `preset`. All values are in the tables of this file. A key in the recipe or a flag wins."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from ..models.linear_fusion import LINEAR
from .model_arguments import AUTO, ModelArguments
from .train_arguments import PRESETS, TrainArguments


@dataclass(frozen=True)
class Preset:
    """A name for many settings.

    Args:
        budget: number of epochs, as a multiple of the usual number.
        without_gpu, with_gpu: keys and values; they override the values that depend on the rows.
    """

    budget: float
    without_gpu: dict[str, Any] = field(default_factory=dict)
    with_gpu: dict[str, Any] = field(default_factory=dict)


# "fast": one vector per modality, with frozen encoders. "best": more layers, more epochs, and averaged weights.
FAST = {"fusion": "concat", "fusion_layers": 1, "freeze_encoders": True, "learning_rate": 1e-3}
BEST = {"fusion_layers": 4, "ema_decay": 0.99, "early_stopping_patience": 10}
SETTINGS = dict(
    zip(PRESETS, (Preset(0.5, FAST, {**FAST, "fusion_hidden_size": 128}), Preset(1.0), Preset(2.0, BEST, BEST)))
)


@dataclass(frozen=True)
class Scale:
    """Settings for a number of training rows, if there is no GPU.

    Args:
        rows: for at most so many training rows.
        keys: the keys and their values.
    """

    rows: float
    keys: dict[str, Any]


SMALL = {
    "weight_decay": 0.1,
    "fusion_dropout": 0.3,
    "classifier_dropout": 0.3,
    "early_stopping_patience": 10,
}
# Chosen so that an epoch takes at most minutes on two cores with cached features: at width 128 a row takes about 1 ms.
SCALES = (
    Scale(2_000, {"fusion_hidden_size": 128, "fusion_layers": 1, "per_device_train_batch_size": 32, **SMALL}),
    Scale(10_000, {"fusion_hidden_size": 128, "fusion_layers": 2, "per_device_train_batch_size": 64}),
    Scale(200_000, {"fusion_hidden_size": 128, "fusion_layers": 2, "per_device_train_batch_size": 128}),
    Scale(math.inf, {"fusion_hidden_size": 64, "fusion_layers": 1, "per_device_train_batch_size": 256}),
)
# Target number of steps of a training, and limits for the number of epochs that follow from it.
STEPS, MOST_EPOCHS = 1_000, 40
STEPS_WITH_GPU, MOST_EPOCHS_WITH_GPU = 300, 20
FEWEST_EPOCHS = 3
FROZEN_RATE = 1e-3  # learning rate for a fusion of width 128 with frozen encoders; 1e-4 is the rate for fine-tuning
# Keys that say that encoders train.
OF_TRAINING_ENCODERS = {
    *("freeze_encoders", "trained_layers", "lora", "unfreeze_epochs", "layer_decay", "encoder_learning_rate"),
    *("vision_learning_rate", "text_learning_rate", "audio_learning_rate", "extra_learning_rates"),
}


def settings_for(
    rows: int | None,
    gpu: bool,
    model_args: ModelArguments,
    train_args: TrainArguments,
    given: Collection[str],
    processes: int,
    of_task: dict[str, Any],
) -> dict[str, Any]:
    """Values for the keys that are not given, chosen for the rows and the machine.

    Args:
        rows: number of training rows; None for a stream.
        gpu: whether there is a GPU.
        model_args, train_args: the recipe, with the defaults for keys that it leaves out.
        given: see `given_keys`.
        processes: number of processes that train together.
        of_task: better settings for the task if there is no GPU, see `Task.without_gpu`.

    Returns:
        values by key; only those that differ from the recipe's.
    """
    if model_args.fusion == LINEAR:  # it has no steps
        return {}
    preset = SETTINGS[train_args.preset or "balanced"]
    keys: dict[str, Any] = {}
    if not gpu:
        keys |= next(scale.keys for scale in SCALES if (rows or 0) <= scale.rows) | of_task
        if not OF_TRAINING_ENCODERS & {*given}:
            keys |= {"freeze_encoders": True, "learning_rate": FROZEN_RATE}
        if rows is None:  # for a stream it is not known whether there are few rows
            keys = {key: value for key, value in keys.items() if key not in SMALL}
    if model_args.fusion == AUTO and not OF_TRAINING_ENCODERS & {*given}:
        keys |= {"freeze_encoders": True, "learning_rate": FROZEN_RATE}
    keys |= preset.with_gpu if gpu else preset.without_gpu
    if OF_TRAINING_ENCODERS & {*given}:
        keys.pop("freeze_encoders", None)
    if model_args.fusion_heads is not None and keys.get("fusion_hidden_size", 0) % model_args.fusion_heads:
        del keys["fusion_hidden_size"]
    keys = {key: value for key, value in keys.items() if key not in given}
    if rows is not None and not {"max_steps", "num_train_epochs"} & {*given}:
        batch = keys.get("per_device_train_batch_size", train_args.per_device_train_batch_size)
        steps = math.ceil(rows / (processes * batch * train_args.gradient_accumulation_steps)) or 1
        wanted, most = (STEPS_WITH_GPU, MOST_EPOCHS_WITH_GPU) if gpu else (STEPS, MOST_EPOCHS)
        epochs = min(max(math.ceil(wanted / steps), FEWEST_EPOCHS), most)
        keys["num_train_epochs"] = float(max(1, round(epochs * preset.budget)))
    now = {**vars(model_args), **vars(train_args)}
    return {key: value for key, value in keys.items() if now[key] != value}


def take_over(values: dict[str, Any], *groups: Any):
    """Sets keys of the recipe, in place."""
    for key, value in values.items():
        setattr(next(group for group in groups if hasattr(group, key)), key, value)


def told(values: dict[str, Any], gpu: bool, rows: int | None) -> str:
    """The line that says what was chosen."""
    machine = "a GPU" if gpu else "no GPU"
    of_rows = "a stream of rows" if rows is None else f"{rows:,} training rows"
    words = ", ".join(
        f"{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()
    )
    return f"chosen for {of_rows} and {machine}, for keys that are not given: {words} (--KEY VALUE sets any of them)"
