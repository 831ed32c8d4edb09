"""The last layers of a model and what their outputs mean: from one model to the next they go by their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from .blocks import carry
from .models.ctc_mm_fusion import MMFusionForCTC
from .models.modeling_mm_fusion import MMFusionForClassification, MMFusionForMultiTask
from .models.pretrained_mm_fusion import MMFusionPreTrainedModel
from .models.tasks import module_name


LISTED = 20  # names in a line


@dataclass
class Head:
    """One last layer, and what its outputs mean.

    Args:
        layer: `D` to its outputs.
        kind: "labels", "numbers" or "tokens".
        names: of its labels or tokens; None where nobody named them.
        mean, scale: of numbers, one an output.
        sole: it is the only head of its model.
    """

    layer: nn.Linear
    kind: str
    names: list[str] | None = None
    mean: Sequence[float] | None = None
    scale: Sequence[float] | None = None
    sole: bool = True


def of_heads(model: MMFusionPreTrainedModel, column: str | None, tokens: Sequence[str] | None) -> dict[Any, Head]:
    """The heads of a model by task; that of a single task by its label, which may be None."""
    config = model.config
    if isinstance(model, MMFusionForCTC):
        return {column: Head(model.ctc_head, "tokens", None if tokens is None else list(tokens))}
    if isinstance(model, MMFusionForMultiTask):
        return {
            task: Head(
                cast(nn.Linear, model.heads[module_name(task)]),
                "numbers" if settings.problem_type == "regression" else "labels",
                list(settings.labels) if settings.labels else None,
                settings.label_mean,
                settings.label_scale,
                sole=False,
            )
            for task, settings in model.tasks.items()
        }
    if not isinstance(model, MMFusionForClassification):
        return {}
    if config.problem_type == "regression" or model.regression_heads():
        return {column: Head(model.classifier, "numbers", None, config.label_mean, config.label_scale)}
    id2label: dict[int, str] = cast(Any, config.id2label)
    names = [id2label[number] for number in range(len(id2label))]
    unnamed = names == [f"LABEL_{number}" for number in range(len(names))]
    return {column: Head(model.classifier, "labels", None if unnamed else names)}


def load_heads(heads: dict[Any, Head], old: dict[Any, Head], name: str) -> list[str]:
    """Takes over what heads have in common."""
    lines, used = [], set()
    for task, head in heads.items():
        title, other = title_of(task, head), partner_of(task, head, old)
        if other is None:
            lines.append(f"{title}: fresh")
            continue
        found = load_numbers(head, other, name) if head.kind == "numbers" else load_names(head, other, name)
        if found != "fresh":
            used.add(id(other))
            column = next(key for key, one in old.items() if one is other)
            if head.kind == "labels" and None not in (task, column) and task != column:
                found += f"; they are those of {column!r} there, of {task!r} here"
        lines.append(f"{title}: {found}")
    for task, other in old.items():
        if id(other) not in used:
            lines.append(f"head of {name}{'' if task is None else f' for {task!r}'}: not used")
    return lines


def title_of(task: Any, head: Head) -> str:
    """What lines call a head."""
    return "head" if head.sole else f"head of {task}"


def partner_of(task: Any, head: Head, old: dict[Any, Head]) -> Head | None:
    """The head of the checkpoint that a head takes over from: that of its task, or, where both models have but one,
    and the names of labels tell what is the same, that one."""
    found = None if task is None else old.get(task)
    if found is None and head.sole and len(old) == 1 and head.kind != "numbers":
        (only,) = old.values()
        found = only if only.sole else None
    return found if found is not None and found.kind == head.kind else None


def load_names(head: Head, other: Head, name: str) -> str:
    """Takes over the rows of the labels, or tokens, whose names agree; says which."""
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
    """Takes over a regression, so that it gives the same numbers in their own unit."""
    if head.layer.weight.shape != other.layer.weight.shape:
        return "fresh"
    (mean, scale), (old_mean, old_scale) = (
        (torch.tensor(one.mean or [0.0]).double(), torch.tensor(one.scale or [1.0]).double()) for one in (head, other)
    )
    weight, bias = other.layer.weight.detach().double().cpu(), other.layer.bias.detach().double().cpu()
    head.layer.weight.copy_(weight * (old_scale / scale)[:, None])
    head.layer.bias.copy_((bias * old_scale + old_mean - mean) / scale)
    return f"from {name}, in the unit of the label"


def listed(names: Sequence[str]) -> str:
    """Names in a line; of many, the first ones."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
