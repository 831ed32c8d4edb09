"""What a run does where its recipe leaves a key out, version 3 of the defaults: what suits the number of rows and the
machine, and the settings of `preset`. All of it is in the tables here; a key that the recipe or a flag gives wins."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from ..models.linear_fusion import LINEAR
from .model_arguments import AUTO, ModelArguments
from .train_arguments import PRESETS, TrainArguments


@dataclass(frozen=True)
class Preset:
    """One word for many keys.

    Args:
        budget: epochs, as a share of the usual ones.
        without_gpu, with_gpu: keys and their values, above what suits the rows.
    """

    budget: float
    without_gpu: dict[str, Any] = field(default_factory=dict)
    with_gpu: dict[str, Any] = field(default_factory=dict)


# "fast": one vector a modality, of encoders that stay as they are. "best": deeper, longer, and with averaged weights.
FAST = {"fusion": "concat", "fusion_layers": 1, "freeze_encoders": True, "learning_rate": 1e-3}
BEST = {"fusion_layers": 4, "ema_decay": 0.99, "early_stopping_patience": 10}
SETTINGS = dict(
    zip(PRESETS, (Preset(0.5, FAST, {**FAST, "fusion_hidden_size": 128}), Preset(1.0), Preset(2.0, BEST, BEST)))
)


@dataclass(frozen=True)
class Scale:
    """What suits a number of training rows where there is no GPU.

    Args:
        rows: at most.
        keys: and their values.
    """

    rows: float
    keys: dict[str, Any]


SMALL = {
    "weight_decay": 0.1,
    "fusion_dropout": 0.3,
    "classifier_dropout": 0.3,
    "early_stopping_patience": 10,
}
# So that an epoch takes minutes at most on two cores, features kept: a row costs about a millisecond at width 128.
SCALES = (
    Scale(2_000, {"fusion_hidden_size": 128, "fusion_layers": 1, "per_device_train_batch_size": 32, **SMALL}),
    Scale(10_000, {"fusion_hidden_size": 128, "fusion_layers": 2, "per_device_train_batch_size": 64}),
    Scale(200_000, {"fusion_hidden_size": 128, "fusion_layers": 2, "per_device_train_batch_size": 128}),
    Scale(math.inf, {"fusion_hidden_size": 64, "fusion_layers": 1, "per_device_train_batch_size": 256}),
)
# Steps of a training, and the most and fewest passes over the rows that these may make.
STEPS, MOST_EPOCHS = 1_000, 40
STEPS_WITH_GPU, MOST_EPOCHS_WITH_GPU = 300, 20
FEWEST_EPOCHS = 3
FROZEN_RATE = 1e-3  # of a fusion of width 128 above encoders that do not move; 1e-4 is that of fine-tuning
# Keys that ask for encoders that train.
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
    """The keys that nobody gave, with what suits the rows and the machine.

    Args:
        rows: of the training part; None of a stream.
        gpu: whether there is one.
        model_args, train_args: the recipe, with the defaults where it says nothing.
        given: see `given_keys`.
        processes: that train together.
        of_task: what the task is better off with where there is no GPU, see `Task.without_gpu`.

    Returns:
        values by key: those alone that differ from what the recipe has.
    """
    if model_args.fusion == LINEAR:  # it has no steps
        return {}
    preset = SETTINGS[train_args.preset or "balanced"]
    keys: dict[str, Any] = {}
    if not gpu:
        keys |= next(scale.keys for scale in SCALES if (rows or 0) <= scale.rows) | of_task
        if not OF_TRAINING_ENCODERS & {*given}:
            keys |= {"freeze_encoders": True, "learning_rate": FROZEN_RATE}
        if rows is None:  # how many are few, nobody knows
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
    return f"chosen for {of_rows} and {machine}, where the recipe says nothing: {words} (--KEY VALUE sets any of them)"
