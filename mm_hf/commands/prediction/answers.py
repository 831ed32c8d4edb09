"""The answers of a model as columns of a file: one set of columns per task."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from ...models.costs import Costs
from ...tasks import Task
from ...tasks.columns import NUMBER, short


ERROR = "error"  # the column with the reason why a row has no prediction
NO_ANSWER = "(no answer)"  # counted where a model abstains


@dataclass
class Answer:
    """How one task writes its predictions: see `Task.columns`.

    | task | columns |
    |---|---|
    | one label | `prediction`, `probability`; for the next best classes `prediction_2`, `probability_2`… |
    | several labels | `prediction`, the list of labels above one half, and the probability of each label |
    | regression | `prediction`, a number in the unit of the labels; for several numbers `prediction_1`… |
    | a text | `prediction` |

    The probability of each class is in `probability_of_<class>`. `coverage` adds the columns of `Task.set_columns`,
    `costs` adds `expected_cost`. If the model abstains, `prediction` is empty, but its probability is written.

    Args:
        column: label column of the task; empty if there is only one task.
        task: the task.
        outputs: number of outputs of the model.
        prefix: prefix of the column names.
        top_k: number of best classes.
        every: whether to write the probability of every class.
        coverage: of sets and intervals; None: no sets and intervals.
        abstain_below: the probability below which the model gives none of several classes.
        costs: costs of answers; if given, they choose the answer instead of the probability.
    """

    column: str
    task: Task
    outputs: int = 1
    prefix: str = ""
    top_k: int = 1
    every: bool = False
    coverage: float | None = None
    abstain_below: float | None = None
    costs: Costs | None = None

    def __post_init__(self):
        if self.column:
            self.prefix = f"{self.prefix}{self.column}_"
        if self.task.probabilities:
            self.top_k = min(self.top_k, self.outputs)

    @property
    def types(self) -> dict[str, pa.DataType]:
        """The columns in their order, and their types."""
        columns = dict(self.task.columns(self.outputs, self.top_k, self.every))
        columns |= {} if self.coverage is None else self.task.set_columns(self.outputs)
        columns |= {} if self.costs is None else {"expected_cost": NUMBER}
        return {self.prefix + name: kind for name, kind in columns.items()}

    def rows(self, said: Any) -> tuple[list[list[Any]], list[bool]]:
        """The values of the columns for each row, and whether the outputs of the model are finite.

        Args:
            said: `(B, C)` logits, or the texts.
        """
        good = [True] * len(said) if self.task.writes else said.flatten(1).isfinite().all(1).tolist()
        rows = self.task.values(said, self.top_k, self.every)
        if self.abstain_below is not None and (sure := self.task.confidence(said)) is not None:
            for row, answered in zip(rows, (sure >= self.abstain_below).tolist()):
                row[0] = row[0] if answered else None
        if self.coverage is not None:
            rows = [[*row, *more] for row, more in zip(rows, self.task.set_values(said, self.coverage))]
        return rows if self.costs is None else self.cheapest(said, rows, self.costs), good

    def cheapest(self, said: torch.Tensor, rows: list[list[Any]], costs: Costs) -> list[list[Any]]:
        """The rows with the answer of the lowest expected cost, its probability, and its cost."""
        chances: Any = self.task.chances(said)
        answers, abstains, expected = costs.decide(chances)
        columns = [name.removeprefix(self.prefix) for name in self.types]
        numbers = chances.gather(-1, answers[:, None])[:, 0]
        for place, row in enumerate(rows):
            row[0] = None if abstains[place] else self.task.spell(answers[place])
            if "probability" in columns:
                row[columns.index("probability")] = short(numbers[place : place + 1].numpy())[0]
            row.append(short(expected[place : place + 1].float().numpy())[0])
        return rows


class Summary:
    """Counts of the predictions. Its size depends on the number of classes, not of rows. `kept` is an earlier
    `state`."""

    def __init__(self, answers: list[Answer], kept: dict[str, Any] | None = None):
        self.answers = answers
        self.state: dict[str, Any] = kept or {answer.prefix: {} for answer in answers}

    def add(self, answer: Answer, row: list[Any]):
        """Counts the values of one row, as `Answer.rows` gives them."""
        count = len(answer.task.columns(answer.outputs, answer.top_k, answer.every))  # the task's columns come first
        row = [NO_ANSWER if row[0] is None else row[0], *row[1:count]]
        answer.task.count(self.state[answer.prefix], row)

    def lines(self) -> list[str]:
        """The counts in words."""
        lines = []
        for answer in self.answers:
            counts, title = self.state[answer.prefix], f"{answer.column}: " if answer.column else ""
            lines += [title + line for line in (answer.task.summary(counts) if counts else ["nothing was predicted"])]
        return lines


def reasons_of(entries: list[dict[str, Any]]) -> dict[int, str]:
    """The reasons why rows are bad, by row number, from the entries of `BadRowError`."""
    reasons: dict[int, str] = {}
    for entry in entries:
        file = "" if entry["file"] is None else f", file {entry['file']!r}"
        reason = f"column {entry['column']!r}{file}: {entry['reason']}"
        reasons[entry["row"]] = f"{reasons[entry['row']]}; {reason}" if entry["row"] in reasons else reason
    return reasons


def without_input(batch: dict[str, Any]) -> list[bool]:
    """For each row of a batch, whether it has no input for the model."""
    indices = [values for name, values in batch.items() if name.endswith("_index")]
    filled = [values.reshape(len(values), -1).ge(0).any(1) for values in indices]
    return (~torch.stack(filled).any(0)).tolist()
