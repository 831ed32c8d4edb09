"""What a model says of a row, as columns of a file: one set of them a task."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from ...tasks import Task


ERROR = "error"  # the column that says why a row has no prediction


@dataclass
class Answer:
    """How one task says what it predicts: see `Task.columns`.

    | task | columns |
    |---|---|
    | one label | `prediction`, `probability`; of the next best ones `prediction_2`, `probability_2`… |
    | several labels | `prediction`, the list of those above one half, and the probability of each |
    | regression | `prediction`, a number in the unit of the labels; of several `prediction_1`… |
    | a text | `prediction` |

    The probability of each class is in `probability_of_<class>`.

    Args:
        column: of its labels; empty where there is but one task.
        task: what is asked.
        outputs: of the model.
        prefix: of the columns.
        top_k: how many of the best classes.
        every: the probability of every class.
    """

    column: str
    task: Task
    outputs: int = 1
    prefix: str = ""
    top_k: int = 1
    every: bool = False

    def __post_init__(self):
        if self.column:
            self.prefix = f"{self.prefix}{self.column}_"
        if self.task.probabilities:
            self.top_k = min(self.top_k, self.outputs)

    @property
    def types(self) -> dict[str, pa.DataType]:
        """The columns in their order, and their types."""
        columns = self.task.columns(self.outputs, self.top_k, self.every)
        return {self.prefix + name: kind for name, kind in columns.items()}

    def rows(self, said: Any) -> tuple[list[list[Any]], list[bool]]:
        """Of each row the values of the columns, and whether they are finite.

        Args:
            said: `(B, C)` logits, or the texts.
        """
        good = [True] * len(said) if self.task.writes else said.flatten(1).isfinite().all(1).tolist()
        return self.task.values(said, self.top_k, self.every), good


class Summary:
    """What was predicted, counted: it grows with the classes and not with the rows. `kept` is what `state` gave."""

    def __init__(self, answers: list[Answer], kept: dict[str, Any] | None = None):
        self.answers = answers
        self.state: dict[str, Any] = kept or {answer.prefix: {} for answer in answers}

    def add(self, answer: Answer, row: list[Any]):
        """Takes in the values of one row, as `Answer.rows` has them."""
        answer.task.count(self.state[answer.prefix], row)

    def lines(self) -> list[str]:
        """It in words."""
        lines = []
        for answer in self.answers:
            counts, title = self.state[answer.prefix], f"{answer.column}: " if answer.column else ""
            lines += [title + line for line in (answer.task.summary(counts) if counts else ["nothing was predicted"])]
        return lines


def reasons_of(entries: list[dict[str, Any]]) -> dict[int, str]:
    """By number of the row why it is bad, from the entries of `BadRowError`."""
    reasons: dict[int, str] = {}
    for entry in entries:
        file = "" if entry["file"] is None else f", file {entry['file']!r}"
        reason = f"column {entry['column']!r}{file}: {entry['reason']}"
        reasons[entry["row"]] = f"{reasons[entry['row']]}; {reason}" if entry["row"] in reasons else reason
    return reasons


def without_input(batch: dict[str, Any]) -> list[bool]:
    """Of each row of a batch whether the model has nothing of it to look at."""
    indices = [values for name, values in batch.items() if name.endswith("_index")]
    filled = [values.reshape(len(values), -1).ge(0).any(1) for values in indices]
    return (~torch.stack(filled).any(0)).tolist()
