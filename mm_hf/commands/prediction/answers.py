"""What a model says of a row, as columns of a file: one set of them a task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ...models.generation_mm_fusion import GENERATION


NUMBER, NUMBERS = pa.float32(), pa.list_(pa.string())
ERROR = "error"  # the column that says why a row has no prediction
SHOWN = 12  # classes of a summary


@dataclass
class Answer:
    """How one task says what it predicts.

    | problem | columns |
    |---|---|
    | one label | `prediction`, `probability`; of the next best ones `prediction_2`, `probability_2`… |
    | several labels | `prediction`, the list of those above one half, and the probability of each |
    | regression | `prediction`, a number in the unit of the labels; of several `prediction_1`… |
    | a text | `prediction` |

    The probability of each class is in `probability_of_<class>`.

    Args:
        task: its name; empty where there is but one.
        problem_type: see `PROBLEM_TYPES`; or `GENERATION`.
        classes: their names; None for numbers and texts.
        outputs: of the model.
        prefix: of the columns.
        top_k: how many of the best classes.
        every: the probability of every class.
    """

    task: str
    problem_type: str
    classes: Sequence[str] | None
    outputs: int = 1
    prefix: str = ""
    top_k: int = 1
    every: bool = False

    def __post_init__(self):
        if self.task:
            self.prefix = f"{self.prefix}{self.task}_"
        if self.classes is not None:
            self.top_k = min(self.top_k, len(self.classes))

    @property
    def types(self) -> dict[str, pa.DataType]:
        """The columns in their order, and their types."""
        if self.problem_type == GENERATION:
            found = {"prediction": pa.string()}
        elif self.problem_type == "regression":
            found = dict.fromkeys(self.numbers, NUMBER)
        elif self.problem_type == "multi_label_classification":
            found = {"prediction": NUMBERS}
        else:
            found = {"prediction": pa.string(), "probability": NUMBER}
            for place in range(2, self.top_k + 1):
                found |= {f"prediction_{place}": pa.string(), f"probability_{place}": NUMBER}
        if self.classes is not None and (self.every or self.problem_type == "multi_label_classification"):
            found |= {f"probability_of_{name}": NUMBER for name in self.classes}
        return {self.prefix + name: kind for name, kind in found.items()}

    @property
    def numbers(self) -> list[str]:
        """The columns of a regression."""
        if self.outputs == 1:
            return ["prediction"]
        return [f"prediction_{place}" for place in range(1, self.outputs + 1)]

    def rows(self, said: Any) -> tuple[list[list[Any]], list[bool]]:
        """Of each row the values of the columns, and whether they are finite.

        Args:
            said: `(B, C)` logits, or the texts.
        """
        if self.problem_type == GENERATION:
            return [[text or ""] for text in said], [True] * len(said)
        logits = said.double()
        good = logits.flatten(1).isfinite().all(1).tolist()
        if self.problem_type == "regression":
            return [short(row) for row in said.float().reshape(len(said), -1).numpy()], good
        if self.problem_type == "multi_label_classification":
            return [self.several(row) for row in logits.sigmoid().float().numpy()], good
        return [self.best(row) for row in logits.softmax(-1).float().numpy()], good

    def several(self, shares: np.ndarray) -> list[Any]:
        """See `rows`, of several labels."""
        assert self.classes is not None
        return [[name for name, share in zip(self.classes, shares) if share > 0.5], *short(shares)]

    def best(self, shares: np.ndarray) -> list[Any]:
        """See `rows`, of one label. Of equal ones the first comes first."""
        assert self.classes is not None
        order = np.argsort(-shares, kind="stable")[: self.top_k].tolist() if self.top_k > 1 else [int(shares.argmax())]
        found: list[Any] = []
        for place in order:
            found += [self.classes[place], *short(shares[place : place + 1])]
        return [*found, *short(shares)] if self.every else found


def short(values: np.ndarray) -> list[float]:
    """Numbers of float32 in as few digits as tell them apart."""
    return [float(str(value)) for value in values]


class Summary:
    """What was predicted, counted: it grows with the classes and not with the rows.

    Args:
        answers: of the tasks.
        kept: what `state` gave.
    """

    def __init__(self, answers: list[Answer], kept: dict[str, Any] | None = None):
        self.answers = answers
        self.state: dict[str, Any] = kept or {answer.prefix: {} for answer in answers}

    def add(self, answer: Answer, row: list[Any]):
        """Takes in the values of one row, as `Answer.rows` has them."""
        found = self.state[answer.prefix]
        if answer.problem_type == "regression":
            for name, value in zip(answer.numbers, row):
                count, total, least, most = found.get(name, (0, 0.0, value, value))
                found[name] = [count + 1, total + value, min(least, value), max(most, value)]
        elif answer.problem_type == GENERATION:
            found["rows"] = found.get("rows", 0) + 1
            found["words"] = found.get("words", 0) + len(row[0].split())
            found["empty"] = found.get("empty", 0) + (not row[0].strip())
        else:
            for name in row[0] if isinstance(row[0], list) else [row[0]]:
                found[name] = found.get(name, 0) + 1

    def lines(self) -> list[str]:
        """It in words, a line a task."""
        lines = []
        for answer in self.answers:
            found, title = self.state[answer.prefix], f"{answer.task}: " if answer.task else ""
            if not found:
                lines.append(f"{title}nothing was predicted")
            elif answer.problem_type == "regression":
                for name, (count, total, least, most) in found.items():
                    called = "" if answer.outputs == 1 else f"{name}: "
                    lines.append(f"{title}{called}mean {total / count:.6g}, from {least:.6g} to {most:.6g}")
            elif answer.problem_type == GENERATION:
                mean = found["words"] / found["rows"]
                lines.append(f"{title}texts of {mean:.1f} words on average, {found['empty']:,} empty")
            else:
                ordered = sorted(found.items(), key=lambda pair: -pair[1])
                more = f", … ({len(ordered)} classes in all)" if len(ordered) > SHOWN else ""
                lines.append(title + ", ".join(f"{name} {count:,}" for name, count in ordered[:SHOWN]) + more)
        return lines


def reasons_of(entries: list[dict[str, Any]]) -> dict[int, str]:
    """By number of the row why it is bad, from the entries of `BadRowError`."""
    found: dict[int, str] = {}
    for entry in entries:
        file = "" if entry["file"] is None else f", file {entry['file']!r}"
        reason = f"column {entry['column']!r}{file}: {entry['reason']}"
        found[entry["row"]] = f"{found[entry['row']]}; {reason}" if entry["row"] in found else reason
    return found


def without_input(batch: dict[str, Any]) -> list[bool]:
    """Of each row of a batch whether the model has nothing of it to look at."""
    there = [values.reshape(len(values), -1).ge(0).any(1) for name, values in batch.items() if name.endswith("_index")]
    return (~torch.stack(there).any(0)).tolist()
