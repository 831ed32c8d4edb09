"""Checks of recipes with the fusion `linear`, which is fitted in closed form, and the sizes of its model."""

from dataclasses import fields
from typing import Any

from ..data.modalities import READERS
from ..models.linear_fusion import LINEAR
from ..tasks import TASKS, task_of_head
from .data_arguments import DataArguments
from .model_arguments import ModelArguments
from .train_arguments import TrainArguments


# Keys about training steps: a linear model is fitted without steps.
OF_STEPS = (
    *("init_from", "lora", "trained_layers", "fusion_hidden_size", "streaming", "imbalance", "mixup_alpha"),
    *("label_smoothing_factor", "weight_column", "gradient_modulation", "ema_decay", "unfreeze_epochs"),
)


def settle_linear(model_args: ModelArguments, data_args: DataArguments, train_args: TrainArguments):
    """Checks a recipe with the fusion `linear`, and freezes its encoders: they are used without training.

    Raises:
        ValueError: a key has no meaning with this fusion, or a task has no linear model.
    """
    if model_args.fusion != LINEAR:
        return
    known = task_of_head(model_args.task)
    if known is not None and not known.keeps_line:
        heads = dict.fromkeys(head for task in TASKS.values() if task.keeps_line for head in task.heads)
        raise ValueError(
            f"fusion {LINEAR} is a linear model for classes or numbers ({', '.join(heads)}), but task is "
            f"{model_args.task!r}: choose another fusion, such as concat."
        )
    refused = {*OF_STEPS, *(reader.augmentation for reader in READERS.values())}
    for group in (model_args, data_args, train_args):
        for key in fields(group):
            value = getattr(group, key.name)
            if key.name in refused and value != key.default and value:
                raise ValueError(
                    f"{key.name} is {value!r}, but fusion {LINEAR} is fitted in closed form, without steps: leave "
                    f"{key.name} out, or choose another fusion, such as concat."
                )
    model_args.freeze_encoders = True


def linear_settings(head: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a model with this fusion: its width is the number of outputs.

    Args:
        head: the settings of the head, in the form of the model's config.
    """
    tasks = head.get("tasks")
    each = [head] if tasks is None else list(tasks.values())
    outputs = sum(
        max(task.get("num_labels", 1), len(task.get("labels") or task.get("label_mean") or ())) for task in each
    )
    return {"hidden_size": outputs, "num_hidden_layers": 0, "num_attention_heads": 1, "output_norm": False}
