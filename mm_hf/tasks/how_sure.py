"""How sure the answers of a task are: a part of each `Task`."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa
import torch

from ..evaluation.calibration import fit_temperature
from ..models.tasks import CLASSES, NUMBERS, TASK_HEADS, TEXTS, TaskHead, task_head_of


@dataclass
class HowSure:
    """Facts about answers: probabilities, sets that contain the true class, and whether to answer at all. This class
    is for classes; numbers have their own methods, see `Regression`.

    Args:
        model_head: the head of the model, which has the confidence learned from validation rows; None: a head of this
            problem type without confidence.

    Attributes:
        answers_in_sets: for a coverage it gives sets of classes.
        answers_one_class: an answer is one of several classes.
        set_measure: the meaning of the size of a set (or of an interval).
    """

    model_head: TaskHead | None = field(default=None, kw_only=True, repr=False, compare=False)

    name: ClassVar[str]
    set_measure: ClassVar[str] = "classes in a set"

    def head_for(self, logits: torch.Tensor) -> TaskHead:
        """The head for logits `(…, C)`."""
        return self.model_head or task_head_of(self.name)(logits.shape[-1])

    @property
    def answers_in_sets(self) -> bool:
        """See the attributes."""
        head = TASK_HEADS.get(self.name)  # a search has none
        return head is not None and head.label_kind not in (NUMBERS, TEXTS)

    @property
    def can_be_calibrated(self) -> bool:
        """Whether its answers can be calibrated with validation rows."""
        return self.answers_in_sets

    def chances(self, logits: torch.Tensor) -> torch.Tensor | None:
        """The probabilities of the classes, `(N, C)`; None for numbers."""
        return self.head_for(logits).probabilities(logits)

    def fit_temperature(self, logits: torch.Tensor, labels: torch.Tensor) -> float:
        """The temperature that logits are divided by, from validation rows with a label; see the function."""
        return fit_temperature(logits, labels)

    @property
    def answers_one_class(self) -> bool:
        """Whether an answer is one of several classes."""
        return self.answers_in_sets and task_head_of(self.name).label_kind == CLASSES

    def confidence(self, logits: torch.Tensor) -> torch.Tensor | None:
        """The probability of each answer, `(N,)`; None for several labels and for numbers, which have none."""
        if not self.answers_one_class:
            return None
        answers = self.answers(logits)  # type: ignore[attr-defined]
        return self.head_for(logits).probabilities(logits).gather(-1, answers[:, None])[:, 0]

    def chances_and_truths(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[Any, Any] | None:
        """Probabilities, and for each whether its answer is right, as arguments of `calibration`; None if there are no
        probabilities."""
        confidence = self.confidence(logits)
        if confidence is None:
            return None
        return confidence, self.answers(logits) == self.targets(labels)  # type: ignore[attr-defined]

    def within(self, logits: torch.Tensor, labels: torch.Tensor, coverage: float) -> torch.Tensor:
        """Whether the true value of each row is within the threshold, `(N,)` bool; all rows have a label."""
        head = self.head_for(logits)
        return head.true_scores(logits, labels) <= head.threshold(coverage)

    def covered(self, logits: torch.Tensor, labels: torch.Tensor, coverage: float) -> torch.Tensor:
        """The same for the returned set, which always contains the most probable class."""
        within = self.within(logits, labels, coverage)
        return within | (logits.argmax(-1) == labels) if self.head_for(logits).label_kind == CLASSES else within

    def set_sizes(self, logits: torch.Tensor, coverage: float) -> torch.Tensor:
        """How large each set is, `(N,)`; see `set_measure`."""
        return self.head_for(logits).answer_set(logits, coverage).sum(-1)

    def set_columns(self, outputs: int) -> dict[str, pa.DataType]:
        """The columns that `mm_hf predict --coverage` adds, and their types."""
        return {"prediction_set": pa.list_(pa.string())}

    def set_values(self, logits: torch.Tensor, coverage: float) -> list[list[Any]]:
        """The values of these columns for each row; the most probable class comes first."""
        head, names = self.head_for(logits), self.names or []  # type: ignore[attr-defined]
        chosen, scores = head.answer_set(logits, coverage), head.answer_scores(logits)
        orders = scores.argsort(dim=-1, stable=True).tolist()
        return [[[names[place] for place in order if row[place]]] for order, row in zip(orders, chosen.tolist())]

    def set_records(self, logits: torch.Tensor, coverage: float = 0.9) -> list[dict[str, Any]] | None:
        """For each row, `coverage` and the result of `set_values` by the names of its columns, for JSON. None if the
        model was not calibrated, or only on too few rows."""
        if self.model_head is None or self.model_head.confidence is None or not self.can_be_calibrated:
            return None
        if coverage > (self.model_head.confidence.highest or 0):
            return None
        columns = list(self.set_columns(logits.shape[-1]))
        return [{"coverage": coverage, **dict(zip(columns, row))} for row in self.set_values(logits, coverage)]

    def groups(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The groups of rows that a report measures separately: one per class, bool `(N,)` by name."""
        targets = self.targets(labels)  # type: ignore[attr-defined]
        names = self.names or [str(number) for number in range(logits.shape[-1])]  # type: ignore[attr-defined]
        rows = [targets == number if targets.ndim == 1 else targets[:, number] == 1 for number in range(len(names))]
        return dict(zip(names, rows))
