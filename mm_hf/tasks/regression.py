"""Regression: numbers, in the unit of the labels."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ..data import label_statistics
from ..evaluation.kinds import Metric
from ..evaluation.linear import LinearAnswer, fit_numbers, score_of
from ..evaluation.plots import plot_scatter
from ..models.head_table import CLASSIFICATION, QUESTION_ANSWERING, REGRESSION
from .columns import NUMBER, short
from .registry import register_task
from .task import Constant, Task


# For a stream, whose rows are not known in advance, mean and standard deviation come from the first rows.
FITTED_ROWS = 1000
GOOD_DEVIATIONS = 0.5  # in pictures an answer counts as good if it is off by at most so many standard deviations


@register_task
@dataclass
class Regression(Task):
    """Predicts one or several numbers for a row."""

    name = REGRESSION
    heads = (CLASSIFICATION, QUESTION_ANSWERING)
    keeps_line = True
    row_score = "the absolute error (mean over the numbers of a row), with a minus: higher is better"
    note = (
        f"Red: a number is off by more than {GOOD_DEVIATIONS} standard deviations (SD) of the labels, or a class is "
        "wrong."
    )

    def __post_init__(self):
        self.names = None  # the library gives names to numeric outputs too; they are not used

    # ---- Measuring

    def answers(self, logits):
        """The numbers, `(N, C)`."""
        return logits.float()

    def targets(self, labels):
        """The same."""
        return labels.reshape(len(labels), -1).float()

    def metrics(self, outputs, validate=True):
        """Errors in the unit of the labels, then R² and correlations, which have no unit."""
        from torchmetrics import functional

        def precise(metric: Metric) -> Metric:
            """In float64: in float32, squares of large numbers such as prices and times lose digits."""
            return lambda answers, targets: metric(answers.double(), targets.double())

        return {
            "rmse": precise(partial(functional.mean_squared_error, squared=False)),
            "mae": precise(functional.mean_absolute_error),
            "r2": precise(r2),
            "pearson": precise(partial(correlation, functional.pearson_corrcoef)),
            "spearman": precise(partial(correlation, functional.spearman_corrcoef)),
        }

    def score(self, metrics, answers, targets):
        """R² over all outputs together. If all labels are equal, their variance is 0. A very small variance is used
        instead, since the value of torchmetrics cannot be compared between models."""
        answers, targets = answers.double(), targets.double()
        variance = targets.var(0, correction=0).mean().clamp(min=torch.finfo(torch.float32).eps)
        return (1 - (answers - targets).square().mean() / variance).item()

    def constants(self, labels, outputs):
        """The mean, which has the best RMSE, and the median, which has the best MAE."""
        known = labels[self.has_label(labels)]
        values = known.reshape(len(known), -1).double()
        median = torch.from_numpy(np.median(values.numpy(), axis=0)).float()
        return {
            "mean": Constant(values.mean(0).float(), "rmse", "the mean"),
            "mae_of_median": Constant(median, "mae", "the median"),
        }

    def linear_answer(self, train, validation, test):
        """A ridge regression."""
        targets = self.targets(train.labels).double().numpy()
        score = score_of(self, validation.labels, targets.shape[1])
        line = fit_numbers(train.features, targets, lambda line: score(line(validation.features)), train.groups)
        return LinearAnswer(line(test.features), "ridge regression", line.strength, line)

    def row_scores(self, answers, targets):
        """See `row_score`."""
        return -(answers.double() - targets.double()).abs().mean(-1)

    def row_losses(self, logits, labels):
        """The squared error."""
        return ((logits.float() - self.targets(labels)) ** 2).mean(-1)

    def counts(self, answers, targets, scores):
        """Counts the rows in which each model is closer to the true value."""
        closer = scores[0] - scores[1]
        return {"a_closer": closer > 0, "b_closer": closer < 0, "equal": closer == 0}

    def plots(self, analysis, answers, targets):
        """A scatter plot of answers and true values."""
        return {"scatter.png": partial(plot_scatter, answers, targets)}

    # ---- How sure it is

    set_measure = "mean width of an interval, in the unit of the labels"
    can_be_calibrated = True

    def fit_temperature(self, logits, labels):
        """None: numbers have no probabilities."""
        return 1.0

    def set_sizes(self, logits, coverage):
        """The widths of the intervals; for several numbers, their mean."""
        low, high = self.head_for(logits).interval(logits, coverage)
        return (high - low).mean(-1)

    def set_columns(self, outputs):
        """The low and the high end of the interval of each number."""
        ends = ("low", "high")
        return {f"{name}_{end}": NUMBER for name in number_columns(outputs) for end in ends}

    def set_values(self, logits, coverage):
        """See `set_columns`."""
        ends = torch.stack(self.head_for(logits).interval(logits, coverage), dim=-1)  # (B, C, 2)
        return [short(row) for row in ends.flatten(1).float().numpy()]

    def groups(self, logits, labels):
        """The quarters of the answers by size. All intervals have the same width, so numbers that vary more are
        covered less often."""
        answers = self.answers(logits).double().mean(-1)
        quarter = torch.bucketize(answers, answers.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)))
        names = ("lowest", "second", "third", "highest")
        return {f"{name} quarter of the answers": quarter == place for place, name in enumerate(names)}

    # ---- Saying

    def mistakes(self, logits, labels, places):
        """With `deviations`, the error in standard deviations: see `numbers_off`."""
        answers, targets = self.answers(logits), self.targets(labels)
        deviation = deviation_of(targets)
        return [
            {
                "answer": numbers(answers[place], deviation),
                "truth": numbers(targets[place], deviation),
                "deviations": numbers_off(answers[place], targets[place], deviation),
            }
            for place in places
        ]

    def caption(self, mistake):
        """With the error in standard deviations."""
        answer, truth, off = mistake["answer"], mistake["truth"], mistake["deviations"]
        return (answer, truth, False) if off is None else (answer, off_by(truth, off), off <= GOOD_DEVIATIONS)

    def judged(self, logits, labels):
        """An answer counts as right if it is off by at most half the standard deviation of these labels. The text of
        each true value also shows the error."""
        answers, targets, present = self.answers(logits), self.targets(labels), self.has_label(labels)
        deviation = deviation_of(targets[present])
        judgements: list[tuple[str, str | None, bool | None]] = []
        for answer, truth, known in zip(answers, targets, present.tolist()):
            said, true = numbers(answer, deviation), numbers(truth, deviation)
            off = numbers_off(answer, truth, deviation) if known else None
            if not known:
                judgements.append((said, None, None))
            elif off is None:
                judgements.append((said, true, bool((answer == truth).all())))
            else:
                judgements.append((said, off_by(true, off), off <= GOOD_DEVIATIONS))
        return judgements

    def columns(self, outputs, top_k=1, every=False):
        """A number, in the unit of the labels; for several numbers, `prediction_1` and so on."""
        return dict.fromkeys(number_columns(outputs), NUMBER)

    def values(self, said, top_k=1, every=False):
        """See `columns`."""
        return [short(row) for row in said.float().reshape(len(said), -1).numpy()]

    def count(self, counts, row):
        """Keeps count, sum, smallest and largest value."""
        for name, value in zip(number_columns(len(row)), row):
            number, total, least, most = counts.get(name, (0, 0.0, value, value))
            counts[name] = [number + 1, total + value, min(least, value), max(most, value)]

    def summary(self, counts):
        """One line per output."""
        return [
            f"{f'{name}: ' if len(counts) > 1 else ''}mean {total / number:.6g}, from {least:.6g} to {most:.6g}"
            for name, (number, total, least, most) in counts.items()
        ]

    # ---- Training

    @property
    def answer_in_words(self) -> str:
        """See the method of the base class."""
        return "a number"

    def loss_arguments(self, run: Any, among_others: bool = False) -> dict[str, Any]:
        """Also mean and standard deviation of the training labels, so that the head can learn numbers in any unit."""
        scale = {}
        if run.train_args.defaults_version > 1:
            scale = label_statistics(run.labels("train", FITTED_ROWS))
        return {**scale, **super().loss_arguments(run, among_others)}


def number_columns(outputs: int) -> list[str]:
    """The names of the columns of numbers."""
    return ["prediction"] if outputs == 1 else [f"prediction_{place}" for place in range(1, outputs + 1)]


def correlation(metric: Metric, answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A correlation over all numbers, flattened. It is NaN if all answers or all targets are equal, as for a constant
    guess; torchmetrics would print a warning then."""
    answers, targets = answers.flatten(), targets.flatten()
    if (answers == answers[0]).all() or (targets == targets[0]).all():
        return torch.tensor(torch.nan)
    return metric(answers, targets)


def r2(answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The explained share of the targets' variance (R²) over all outputs together, by torchmetrics. The mean of these
    targets scores 0, and worse answers score below 0. It is NaN for fewer than two rows and if all targets are equal.
    Both arguments are `(N, C)` float64."""
    from torchmetrics.functional import r2_score

    varies = (targets != targets[:1]).any(0)
    if not varies.any():
        return torch.tensor(torch.nan)
    # torchmetrics subtracts two sums of squares, which is precise if the mean is 0, and treats tiny sums as 0. So the
    # mean is subtracted first, and all outputs are divided by the largest standard deviation.
    mean, size = targets.mean(0), targets.std(0, correction=0).max()
    weighted = "variance_weighted" if targets.shape[1] > 1 else "uniform_average"
    return r2_score((answers - mean) / size, (targets - mean) / size, multioutput=weighted)


def deviation_of(targets: torch.Tensor) -> torch.Tensor:
    """The standard deviation of each output, `(C,)` float64; `targets` `(N, C)` are from rows with a label."""
    return targets.double().std(0, correction=0)


def numbers_off(answer: torch.Tensor, truth: torch.Tensor, deviation: torch.Tensor) -> float | None:
    """The error of an answer in standard deviations of the labels; for several numbers, the largest error. None if the
    labels do not vary, or the answer is not finite. All arguments are `(C,)`."""
    off = ((answer.double() - truth.double()).abs() / deviation).max()
    return off.item() if off.isfinite() else None


def off_by(truth: str, off: float) -> str:
    """The text of a true value and the error of the answer."""
    return f"{truth}, off by {off:.2f} SD"


def numbers(values: torch.Tensor, deviation: torch.Tensor) -> str:
    """One number, or several, as a text.

    Args:
        values: `(C,)`.
        deviation: standard deviation of the labels, `(C,)`. Numbers are rounded to a hundredth of it; if it is 0, to
            four digits.
    """
    return ", ".join(number(value, scale) for value, scale in zip(values.flatten().tolist(), deviation.tolist()))


def number(value: float, deviation: float = 0.0) -> str:
    """One number as a text; see `numbers`."""
    if not math.isfinite(value) or not 1e-6 < deviation < 1e12 or abs(value) >= 1e15:
        return f"{value:.4g}"
    digits = max(0, 2 - math.floor(math.log10(deviation)))
    text = f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no -0
    return text.rstrip("0").rstrip(".") if "." in text else text
