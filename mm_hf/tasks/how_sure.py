"""How sure the answers of a task are, where it is not told by what they are: a part of each `Task`."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa
import torch

from ..evaluation.calibration import fit_temperature
from ..models.tasks import CLASSES, NUMBERS, TASK_HEADS, TEXTS, TaskHead, task_head_of


@dataclass
class HowSure:
    """What is said about answers beside them: probabilities, sets that hold the truth, and whether to answer at all.
    What is here is for classes; numbers say something else of each, see `Regression`.

    Args:
        model_head: the head of the model that answers, which has what validation rows say about its answers; None:
            any head of this problem, of which nobody knows that.

    Attributes:
        answers_in_sets: a coverage gives sets of its classes.
        answers_one_class: an answer is one of several classes.
        set_measure: what the size of a set, or of what stands in its place, is.
    """

    model_head: TaskHead | None = field(default=None, kw_only=True, repr=False, compare=False)

    name: ClassVar[str]
    set_measure: ClassVar[str] = "classes in a set"

    def head_for(self, logits: torch.Tensor) -> TaskHead:
        """The head that gave logits `(…, C)`."""
        return self.model_head or task_head_of(self.name)(logits.shape[-1])

    @property
    def answers_in_sets(self) -> bool:
        """See the attributes."""
        head = TASK_HEADS.get(self.name)  # a search has none
        return head is not None and head.label_kind not in (NUMBERS, TEXTS)

    @property
    def can_be_calibrated(self) -> bool:
        """Whether validation rows can say something about its answers."""
        return self.answers_in_sets

    def chances(self, logits: torch.Tensor) -> torch.Tensor | None:
        """The probabilities of the classes, `(N, C)`; None of numbers."""
        return self.head_for(logits).probabilities(logits)

    def fit_temperature(self, logits: torch.Tensor, labels: torch.Tensor) -> float:
        """What its logits are divided by, from validation rows that have a label; see the function."""
        return fit_temperature(logits, labels)

    @property
    def answers_one_class(self) -> bool:
        """Whether an answer is one of several classes."""
        return self.answers_in_sets and task_head_of(self.name).label_kind == CLASSES

    def confidence(self, logits: torch.Tensor) -> torch.Tensor | None:
        """The probability of each answer, `(N,)`; None of several labels and of numbers, whose answers have none."""
        if not self.answers_one_class:
            return None
        answers = self.answers(logits)  # type: ignore[attr-defined]
        return self.head_for(logits).probabilities(logits).gather(-1, answers[:, None])[:, 0]

    def chances_and_truths(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[Any, Any] | None:
        """Probabilities, and whether what each is of is so, as `calibration` takes them; None where there are none."""
        confidence = self.confidence(logits)
        if confidence is None:
            return None
        return confidence, self.answers(logits) == self.targets(labels)  # type: ignore[attr-defined]

    def within(self, logits: torch.Tensor, labels: torch.Tensor, coverage: float) -> torch.Tensor:
        """Whether the truth of each row lies within the threshold, `(N,)` bool; all rows have a label."""
        head = self.head_for(logits)
        return head.true_scores(logits, labels) <= head.threshold(coverage)

    def covered(self, logits: torch.Tensor, labels: torch.Tensor, coverage: float) -> torch.Tensor:
        """The same of the set that is given, which has the likeliest class in any case."""
        within = self.within(logits, labels, coverage)
        return within | (logits.argmax(-1) == labels) if self.head_for(logits).label_kind == CLASSES else within

    def set_sizes(self, logits: torch.Tensor, coverage: float) -> torch.Tensor:
        """How large each set is, `(N,)`; see `set_measure`."""
        return self.head_for(logits).answer_set(logits, coverage).sum(-1)

    def set_columns(self, outputs: int) -> dict[str, pa.DataType]:
        """The columns that `mm_hf predict --coverage` adds, and their types."""
        return {"prediction_set": pa.list_(pa.string())}

    def set_values(self, logits: torch.Tensor, coverage: float) -> list[list[Any]]:
        """Of each row the values of these columns; the likeliest class comes first."""
        head, names = self.head_for(logits), self.names or []  # type: ignore[attr-defined]
        chosen, scores = head.answer_set(logits, coverage), head.answer_scores(logits)
        orders = scores.argsort(dim=-1, stable=True).tolist()
        return [[[names[place] for place in order if row[place]]] for order, row in zip(orders, chosen.tolist())]

    def set_records(self, logits: torch.Tensor, coverage: float = 0.9) -> list[dict[str, Any]] | None:
        """Of each row `coverage` and what `set_values` gives, by the names of its columns, as JSON has it; None where
        the model was not calibrated, or on too few rows."""
        if self.model_head is None or self.model_head.confidence is None or not self.can_be_calibrated:
            return None
        if coverage > (self.model_head.confidence.highest or 0):
            return None
        columns = list(self.set_columns(logits.shape[-1]))
        return [{"coverage": coverage, **dict(zip(columns, row))} for row in self.set_values(logits, coverage)]

    def groups(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The groups of rows that a report looks at one by one: those of each class, by name bool `(N,)`."""
        targets = self.targets(labels)  # type: ignore[attr-defined]
        names = self.names or [str(number) for number in range(logits.shape[-1])]  # type: ignore[attr-defined]
        rows = [targets == number if targets.ndim == 1 else targets[:, number] == 1 for number in range(len(names))]
        return dict(zip(names, rows))
