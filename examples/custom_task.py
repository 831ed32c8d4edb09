"""A task of one's own: classes that have an order, such as the stars of a review. Read it from top to bottom.

    mm_hf train reviews.csv --import examples/custom_task.py --label stars --problem_type ordered_classes
    mm_hf predict runs/reviews new.csv -o stars.csv             # the run's folder says what it imports

Beside other tasks, in a recipe: `label_column: [stars, price]`, `problem_type: {stars: ordered_classes}`. In Python:
`import custom_task`, and the model's config takes `problem_type="ordered_classes"`. This file does not travel with
checkpoints: whoever loads one has to import it first.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.functional import logsigmoid, nll_loss, pad, softplus
from transformers import initialization as init

from mm_hf.models.finite import read_number
from mm_hf.models.tasks import TaskHead, register_task_head
from mm_hf.tasks import Constant, Task, register_task


# 1. What a model needs: the last layer, and the loss.
class CumulativeLinks(nn.Module):
    """Ordered classes as parts of one line (McCullagh 1980): a row has a place on it, with logistic noise,
    and between two neighbouring classes there is a threshold. All classes share one direction, so that few rows of a
    rare one are enough.

    Args:
        width: of the fused vector.
        classes: C, at least two.
    """

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.direction = nn.Linear(width, 1, bias=False)
        self.lowest = nn.Parameter(torch.zeros(1))  # threshold
        self.gaps = nn.Parameter(torch.zeros(classes - 2))  # from each to the next, before softplus: they stay ordered

    def init_own_parameters(self, std: float):
        """Thresholds at even distances around 0."""
        init.constant_(self.lowest, -softplus(torch.zeros(len(self.gaps))).sum().item() / 2)
        init.zeros_(self.gaps)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Gives log-probabilities `(B, C)` float32: of a class P(below its upper threshold) - P(below its lower)."""
        gaps = softplus(self.gaps.float())
        thresholds = self.lowest.float() + pad(gaps.cumsum(0), (1, 0))  # (C - 1,)
        beyond = self.direction(vectors).float() - thresholds  # (B, C - 1)
        # s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)): sums of logarithms, which no far place turns into log(0).
        inside = pad((-(-gaps).expm1()).log(), (1, 1))
        return pad(logsigmoid(-beyond), (0, 1)) + pad(logsigmoid(beyond), (1, 0)) + inside


@register_task_head
class OrderedHead(TaskHead):
    """Labels are classes, by their numbers; logits are log-probabilities."""

    name = "ordered_classes"

    def layer(self, width, num_outputs):
        return CumulativeLinks(width, num_outputs)

    def row_losses(self, scores, labels):
        return nll_loss(scores, labels, reduction="none")


# 2. What training and reports need: how answers are found, measured and said (a class by its name, as it is).
@register_task
@dataclass
class Ordered(Task):
    """Which one of several ordered classes a row is."""

    name = "ordered_classes"
    heads = ("classification",)
    row_score = "how many classes the answer is off, with a minus: higher is better"
    lower_is_better = in_units = ("mae",)
    guesses = {"median_class": "the median class for every row"}

    def __post_init__(self):
        values = [read_number(name.split(" ")[0]) for name in self.names or []]
        if None in values or values != sorted(values):
            raise ValueError(
                f"{self.column}: ordered classes need names that begin with numbers in their order, got {self.names}: "
                "call them 1 to 5, or '1 low', '2 high'."
            )

    def answers(self, logits):
        """The median of the probabilities, which the mean absolute error wants. (The likeliest class is one of the two
        ends where the noise is wide: a pipeline, which lists probabilities, may have another one first.)"""
        return (logits.float().softmax(-1).cumsum(-1) < 0.5).sum(-1)

    def metrics(self, outputs, validate=True):
        """First the mean absolute error, in classes: two stars off is worse than one, it can be read without a table,
        and its best constant, the median, is a floor that says something: the kappa of any constant is 0."""
        from torchmetrics import functional

        classes = {"task": "multiclass", "num_classes": outputs, "validate_args": validate}
        return {
            "mae": functional.mean_absolute_error,
            "kappa": partial(functional.cohen_kappa, weights="quadratic", **classes),
            "accuracy": partial(functional.accuracy, average="micro", **classes),
        }

    def score(self, metrics, answers, targets):
        """The quadratic weighted kappa (Cohen 1968), at most 1; 0 where nothing differs, of which it says nothing."""
        return metrics["kappa"] if metrics["kappa"] == metrics["kappa"] else 0.0

    def constants(self, labels, outputs):
        return {"median_class": Constant(labels[self.has_label(labels)].median(), "mae", "the median class")}

    def row_scores(self, answers, targets):
        return -(answers - targets).abs().double()
