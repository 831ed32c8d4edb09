"""Any of several labels a row."""

from dataclasses import dataclass
from typing import Any

import torch

from ..models.head_table import CLASSIFICATION, MULTI_LABEL, QUESTION_ANSWERING
from .task import Task, register_task


@register_task
@dataclass
class MultiLabel(Task):
    """Which ones of several labels a row has."""

    name = MULTI_LABEL
    heads = (CLASSIFICATION, QUESTION_ANSWERING)

    # ---- Training

    @property
    def answer_in_words(self) -> str:
        """See the method of the base class."""
        return super().answer_in_words.replace("one", "any", 1)

    def row_classes(self, labels: torch.Tensor) -> list[Any]:
        """Those that a row has by half and more."""
        return [[number for number, value in enumerate(row) if value > 0.5] for row in labels.tolist()]
