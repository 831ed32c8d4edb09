"""Your own task: ordered classes, such as the stars of a review. Read it from top to bottom.

    mm_hf train reviews.csv --import examples/custom_task.py --label stars --problem_type ordered_classes
    mm_hf predict runs/reviews new.csv -o stars.csv             # the run's folder names the imported file

Together with other tasks, in a recipe: `label_column: [stars, price]`, `problem_type: {stars: ordered_classes}`. In
Python: `import custom_task`, and the model's config takes `problem_type="ordered_classes"`. This file is not part of
checkpoints: import it before you load one.
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
    """Ordered classes as intervals on one axis (McCullagh 1980): a row has a position on the axis, with logistic
    noise, and a threshold separates two neighbouring classes. All classes share one direction, so a few rows of a
    rare class are enough.

    Args:
        width: width of the fused vector.
        classes: C, at least two.
    """

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.direction = nn.Linear(width, 1, bias=False)
        self.lowest = nn.Parameter(torch.zeros(1))  # the lowest threshold
        self.gaps = nn.Parameter(torch.zeros(classes - 2))  # gaps between thresholds; softplus keeps these in order

    def init_own_parameters(self, std: float):
        """Sets the thresholds at equal distances around 0."""
        init.constant_(self.lowest, -softplus(torch.zeros(len(self.gaps))).sum().item() / 2)
        init.zeros_(self.gaps)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Returns log-probabilities `(B, C)` float32; each is of P(below its upper threshold) - P(below its lower)."""
        gaps = softplus(self.gaps.float())
        thresholds = self.lowest.float() + pad(gaps.cumsum(0), (1, 0))  # (C - 1,)
        beyond = self.direction(vectors).float() - thresholds  # (B, C - 1)
        # s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)): a sum of logarithms, so that far positions do not give log(0).
        inside = pad((-(-gaps).expm1()).log(), (1, 1))
        return pad(logsigmoid(-beyond), (0, 1)) + pad(logsigmoid(beyond), (1, 0)) + inside


@register_task_head
class OrderedHead(TaskHead):
    """Labels are numbers of classes; logits are log-probabilities."""

    name = "ordered_classes"

    def layer(self, width, num_outputs):
        return CumulativeLinks(width, num_outputs)

    def row_losses(self, scores, labels):
        return nll_loss(scores, labels, reduction="none")


# 2. What training and reports need: how answers are computed and measured. (They are shown by the names of classes.)
@register_task
@dataclass
class Ordered(Task):
    """Which one of several ordered classes a row belongs to."""

    name = "ordered_classes"
    heads = ("classification",)
    row_score = "how many classes the answer is off, with a minus: higher is better"
    lower_is_better = in_units = ("mae",)
    guesses = {"median_class": "the median class for every row"}

    def __post_init__(self):
        values = [read_number(name.split(" ")[0]) for name in self.names or []]
        if None in values or values != sorted(values):
            raise ValueError(
                f"{self.column}: names of ordered classes must begin with numbers in increasing order, got "
                f"{self.names}. Name them 1 to 5, or '1 low', '2 high'."
            )

    def answers(self, logits):
        """The median of the probabilities, which is best for the mean absolute error. (With much noise the most
        probable class is the first or the last one. So a pipeline, which sorts by probability, may differ.)"""
        return (logits.float().softmax(-1).cumsum(-1) < 0.5).sum(-1)

    def metrics(self, outputs, validate=True):
        """The mean absolute error, in classes, comes first: two stars off is worse than one, it is easy to read, and
        its best constant answer, the median, is a useful floor. (The kappa of any constant answer is 0.)"""
        from torchmetrics import functional

        classes = {"task": "multiclass", "num_classes": outputs, "validate_args": validate}
        return {
            "mae": functional.mean_absolute_error,
            "kappa": partial(functional.cohen_kappa, weights="quadratic", **classes),
            "accuracy": partial(functional.accuracy, average="micro", **classes),
        }

    def score(self, metrics, answers, targets):
        """The quadratic weighted kappa (Cohen 1968), at most 1. It is not defined if all values are equal: then 0."""
        return metrics["kappa"] if metrics["kappa"] == metrics["kappa"] else 0.0

    def constants(self, labels, outputs):
        return {"median_class": Constant(labels[self.has_label(labels)].median(), "mae", "the median class")}

    def row_scores(self, answers, targets):
        return -(answers - targets).abs().double()
