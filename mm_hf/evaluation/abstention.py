"""When to answer: how often answers are right if only the surest are given, and what errors cost."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..models.costs import ABSTAIN, Costs, costs_of
from ..models.finite import read_number
from ..models.names import did_you_mean, shown


SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
CLASS, COST = "class", "cost"


def risk_coverage(confidence: torch.Tensor, right: torch.Tensor) -> dict[str, Any]:
    """How often answers are right if only the surest are given (El-Yaniv and Wiener 2010; Geifman and El-Yaniv 2017).
    Rows with equal confidence are answered together. Their errors are spread evenly over them, in any order of rows.

    Args:
        confidence: how sure the model is of each answer, `(N,)`.
        right: whether each answer is right, `(N,)` bool.

    Returns:
        `error`, the share of wrong answers if all are given; `aurc`, the mean of this share over all possible numbers
        of answered rows. It equals `error` if confidence says nothing about right and wrong, and is lower if it does;
        `points`: for a `share` of answered rows their `accuracy`, and `above`, the lowest confidence among them.
    """
    rows = len(right)
    levels, place, counts = confidence.double().unique(return_inverse=True, return_counts=True)
    wrong = torch.zeros(len(levels), dtype=torch.float64).index_add(0, place, (~right).double())
    by_row = (wrong / counts).flip(0).repeat_interleave(counts.flip(0))  # the surest first
    risks = by_row.cumsum(0) / torch.arange(1, rows + 1)
    ordered = confidence.double().sort(descending=True).values
    points = []
    for share in SHARES:
        place = max(1, round(share * rows))
        risk, above = risks[place - 1].item(), ordered[place - 1].item()
        points.append({"share": place / rows, "accuracy": 1 - risk, "above": above})
    return {"error": risks[-1].item(), "aurc": risks.mean().item(), "points": points}


def costs_of_tasks(path: str, tasks: Mapping[str | None, Any]) -> dict[str | None, Costs]:
    """The costs in a file, for tasks. A task must have one of several classes as its answer; see `read_costs`.

    Args:
        path: the file.
        tasks: the tasks by name; the name None for a single task.

    Raises:
        OSError, ValueError: see `read_costs`; or no task has classes.
    """
    classes = {name: task.names for name, task in tasks.items() if task.answers_one_class}
    if not classes:
        kinds = sorted({task.name for task in tasks.values()})
        raise ValueError(f"costs needs a task with one of several classes, but this model's tasks are {kinds}.")
    return read_costs(path, classes)


def read_costs(path: str, names: dict[str | None, Sequence[str]]) -> dict[str | None, Costs]:
    """Reads a small table of costs. It is a CSV with the columns `class` and `cost`, and a line `abstain` for no
    answer; or JSON, `{"wrong": {"cat": 5, "dog": 1}, "abstain": 0.5}`. In JSON, one number instead of the classes
    counts for all of them. For several tasks, JSON has such a dict for each task.

    Args:
        path: the file.
        names: the class names by task; the name None for a single task.

    Raises:
        OSError, ValueError: the file cannot be read, lacks a class, has an unknown class, or has a cost below 0.
    """
    text = Path(path).read_text(encoding="utf-8-sig")
    several = None not in names
    if path.lower().endswith(".json"):
        try:
            table = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}).") from None
        tables: Any = table if several else {None: table}
    elif several:
        raise ValueError(f"{path}: for several tasks ({list(names)}) costs must be JSON, with a dict for each task.")
    else:
        tables = {None: table_of_csv(path, text, names[None])}
    if not isinstance(tables, dict):
        raise ValueError(f"{path} must hold a dict, got {shown(tables)}.")
    if unknown := [task for task in tables if task not in names]:
        meant = did_you_mean(str(unknown[0]), [str(name) for name in names])
        raise ValueError(f"{path} has costs for {unknown[0]!r}, but the tasks with classes are {list(names)}.{meant}")
    return {task: costs_of(path, values, names[task]) for task, values in tables.items()}


def table_of_csv(path: str, text: str, names: Sequence[str]) -> dict[str, Any]:
    """The table of a CSV in the form of the JSON."""
    if ABSTAIN in names:
        raise ValueError(
            f"{path}: a class is called {ABSTAIN!r}, which is also the line for no answer: write the costs as JSON."
        )
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or not {CLASS, COST} <= set(rows[0]):
        raise ValueError(f"{path} must have the columns {CLASS} and {COST}, got {list(rows[0]) if rows else []}.")
    twice = [row[CLASS] for place, row in enumerate(rows) if row[CLASS] in [other[CLASS] for other in rows[:place]]]
    if twice:
        raise ValueError(f"{path} has two lines for {twice[0]!r}: keep one.")
    costs = {row[CLASS]: read_number(row[COST] or "") if row[COST] else None for row in rows}
    return {"wrong": {name: cost for name, cost in costs.items() if name != ABSTAIN}, ABSTAIN: costs.get(ABSTAIN)}
