"""Numbers."""

from dataclasses import dataclass
from typing import Any

from ..data import label_statistics
from ..models.head_table import CLASSIFICATION, QUESTION_ANSWERING, REGRESSION
from .task import Task, register_task


# Of a stream, whose rows are not known before they come, the first ones tell what its numbers are like.
FITTED_ROWS = 1000


@register_task
@dataclass
class Regression(Task):
    """How large a number is."""

    name = REGRESSION
    heads = (CLASSIFICATION, QUESTION_ANSWERING)

    # ---- Training

    @property
    def answer_in_words(self) -> str:
        """See the method of the base class."""
        return "a number"

    def loss_arguments(self, run: Any, among_others: bool = False) -> dict[str, Any]:
        """Also mean and deviation of the training rows: the head learns numbers of any unit."""
        scale = {}
        if run.train_args.defaults_version > 1:
            scale = label_statistics(run.labels("train", FITTED_ROWS))
        return {**scale, **super().loss_arguments(run, among_others)}
