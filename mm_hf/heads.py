"""The last layers of a model, and what their outputs mean. A new model takes them over from an old one by their
labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

from .blocks import carry, copy_weights
from .models.head_table import HEAD_TABLE
from .models.pretrained_mm_fusion import MMFusionPreTrainedModel
from .models.tasks import NUMBERS, TEXTS


# The heads that a recipe can ask for, by the names of its key `task`.
HEADS: dict[str, type[MMFusionPreTrainedModel]] = {
    entry.task: getattr(import_module(f"{__package__}.models.{entry.module}"), entry.class_name)
    for entry in HEAD_TABLE
}
# The task of a head class, for heads where the columns of the data do not determine it.
TASK_OF = {entry.class_name: entry.task for entry in HEAD_TABLE if not entry.by_columns}
LISTED = 20  # the most names that one line shows


@dataclass
class Head:
    """One last layer, and the meaning of its outputs.

    Args:
        layer: from the fusion width `D` to its outputs.
        kind: "labels", "numbers" or "tokens".
        names: the names of its labels or tokens; None if they have no names.
        mean, scale: for numbers: one value per output.
        sole: whether it is the only head of its model.
    """

    layer: Any
    kind: str
    names: list[str] | None = None
    mean: Sequence[float] | None = None
    scale: Sequence[float] | None = None
    sole: bool = True


KINDS = {NUMBERS: "numbers", TEXTS: "tokens"}  # all other kinds are "labels"


def of_heads(model: MMFusionPreTrainedModel, column: str | None, tokens: Sequence[str] | None) -> dict[Any, Head]:
    """The heads of a model, by task. The key of a single task is its label, which may be None."""
    heads = {}
    for task, (layer, head) in model.last_layers().items():
        kind = KINDS.get(head.label_kind, "labels")
        names: Any = head.labels
        if kind == "tokens":
            names = tokens
        elif task is None and kind == "labels":
            id2label: Any = model.config.id2label
            names = [id2label[number] for number in range(len(id2label))]
            names = None if names == [f"LABEL_{number}" for number in range(len(names))] else names
        named = None if names is None else list(names)
        sole = task is None
        heads[column if sole else task] = Head(layer, kind, named, head.label_mean, head.label_scale, sole)
    return heads


def load_heads(heads: dict[Any, Head], old: dict[Any, Head], name: str) -> list[str]:
    """Takes over the parts that the heads have in common."""
    lines, used = [], set()
    for task, head in heads.items():
        title, other = title_of(task, head), partner_of(task, head, old)
        if other is None:
            lines.append(f"{title}: fresh")
            continue
        if not isinstance(head.layer, nn.Linear) or not isinstance(other.layer, nn.Linear):
            taken = load_whole(head, other, name)
        else:
            taken = load_numbers(head, other, name) if head.kind == "numbers" else load_names(head, other, name)
        if taken != "fresh":
            used.add(id(other))
            column = next(key for key, one in old.items() if one is other)
            if head.kind == "labels" and None not in (task, column) and task != column:
                taken += f"; they are those of {column!r} there, of {task!r} here"
        lines.append(f"{title}: {taken}")
    for task, other in old.items():
        if id(other) not in used:
            lines.append(f"head of {name}{'' if task is None else f' for {task!r}'}: not used")
    return lines


def title_of(task: Any, head: Head) -> str:
    """The name of a head in the printed lines."""
    return "head" if head.sole else f"head of {task}"


def partner_of(task: Any, head: Head, old: dict[Any, Head]) -> Head | None:
    """The head of the checkpoint to take weights from. It is the head of the same task. If both models have only one
    head, it is that one, as long as the names of the labels show which rows are the same."""
    partner = None if task is None else old.get(task)
    if partner is None and head.sole and len(old) == 1 and head.kind != "numbers":
        (only,) = old.values()
        partner = only if only.sole else None
    return partner if partner is not None and partner.kind == head.kind else None


def load_names(head: Head, other: Head, name: str) -> str:
    """Takes over the rows of labels or tokens with equal names. Returns a line that lists them."""
    if head.names is None or other.names is None:
        return "fresh"
    both = [label for label in head.names if label in other.names]
    fresh = [label for label in head.names if label not in other.names]
    unused = [label for label in other.names if label not in head.names]
    for tensor, old in ((head.layer.weight, other.layer.weight), (head.layer.bias, other.layer.bias)):
        if carry(tensor, old, {0: head.names}, {0: other.names}) is None:
            return "fresh"
    line = f"{len(both)} of {len(head.names)} {head.kind} from {name} ({listed(both)})"
    line += f"; fresh: {listed(fresh)}" if fresh else ""
    return line + (f"; of {name} not used: {listed(unused)}" if unused else "")


def load_numbers(head: Head, other: Head, name: str) -> str:
    """Takes over a regression head, so that it gives the same numbers in their own unit."""
    if head.layer.weight.shape != other.layer.weight.shape:
        return "fresh"
    (mean, scale), (old_mean, old_scale) = (
        (torch.tensor(one.mean or [0.0]).double(), torch.tensor(one.scale or [1.0]).double()) for one in (head, other)
    )
    weight, bias = other.layer.weight.detach().double().cpu(), other.layer.bias.detach().double().cpu()
    head.layer.weight.copy_(weight * (old_scale / scale)[:, None])
    head.layer.bias.copy_((bias * old_scale + old_mean - mean) / scale)
    return f"from {name}, in the unit of the label"


def load_whole(head: Head, other: Head, name: str) -> str:
    """Takes over a layer of another kind (a head from outside the package) if it means the same in both models."""
    same = (head.names, head.mean, head.scale) == (other.names, other.mean, other.scale)
    same &= type(head.layer).__qualname__ == type(other.layer).__qualname__
    taken = same and copy_weights(head.layer.state_dict(), other.layer.state_dict())
    return f"from {name}" if taken else "fresh"


def listed(names: Sequence[str]) -> str:
    """Names joined in one line; if there are many, only the first ones."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
