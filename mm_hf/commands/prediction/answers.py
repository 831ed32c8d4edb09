"""What a model says of a row, as columns of a file: one set of them a task."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from ...models.costs import Costs
from ...tasks import Task
from ...tasks.columns import NUMBER, short


ERROR = "error"  # the column that says why a row has no prediction
NO_ANSWER = "(no answer)"  # what is counted where a model abstains


@dataclass
class Answer:
    """How one task says what it predicts: see `Task.columns`.

    | task | columns |
    |---|---|
    | one label | `prediction`, `probability`; of the next best ones `prediction_2`, `probability_2`… |
    | several labels | `prediction`, the list of those above one half, and the probability of each |
    | regression | `prediction`, a number in the unit of the labels; of several `prediction_1`… |
    | a text | `prediction` |

    The probability of each class is in `probability_of_<class>`. With `coverage` come the columns of
    `Task.set_columns`, with `costs` `expected_cost`; where the row is better left without an answer, `prediction` is
    empty, and its probability is not.

    Args:
        column: of its labels; empty where there is but one task.
        task: what is asked.
        outputs: of the model.
        prefix: of the columns.
        top_k: how many of the best classes.
        every: the probability of every class.
        coverage: of sets and intervals; None: none are given.
        abstain_below: the probability below which one of several classes is not given.
        costs: by which it is chosen in place of its probability.
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
        """Of each row the values of the columns, and whether they are finite.

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
        """The rows with the answers of least expected cost, their probabilities, and that cost."""
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
    """What was predicted, counted: it grows with the classes and not with the rows. `kept` is what `state` gave."""

    def __init__(self, answers: list[Answer], kept: dict[str, Any] | None = None):
        self.answers = answers
        self.state: dict[str, Any] = kept or {answer.prefix: {} for answer in answers}

    def add(self, answer: Answer, row: list[Any]):
        """Takes in the values of one row, as `Answer.rows` has them."""
        count = len(answer.task.columns(answer.outputs, answer.top_k, answer.every))  # the first ones are the task's
        row = [NO_ANSWER if row[0] is None else row[0], *row[1:count]]
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
