"""Numbers, in the unit of the labels."""

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


# Of a stream, whose rows are not known before they come, the first ones tell what its numbers are like.
FITTED_ROWS = 1000
GOOD_DEVIATIONS = 0.5  # of the labels' standard deviation: a number that is no further off counts as good in pictures


@register_task
@dataclass
class Regression(Task):
    """What number, or numbers, a row has."""

    name = REGRESSION
    heads = (CLASSIFICATION, QUESTION_ANSWERING)
    keeps_line = True
    row_score = "the absolute error (mean over the numbers of a row), with a minus: higher is better"
    note = (
        f"Red: a number is off by more than {GOOD_DEVIATIONS} standard deviations (SD) of the labels, or a class is "
        "wrong."
    )

    def __post_init__(self):
        self.names = None  # the library names an output of numbers too

    # ---- Measuring

    def answers(self, logits):
        """The numbers, `(N, C)`."""
        return logits.float()

    def targets(self, labels):
        """The same."""
        return labels.reshape(len(labels), -1).float()

    def metrics(self, outputs, validate=True):
        """Errors in the unit of the labels, then shares."""
        from torchmetrics import functional

        def precise(metric: Metric) -> Metric:
            """In float64: squares of prices and of times lose their last digits in float32."""
            return lambda answers, targets: metric(answers.double(), targets.double())

        return {
            "rmse": precise(partial(functional.mean_squared_error, squared=False)),
            "mae": precise(functional.mean_absolute_error),
            "r2": precise(r2),
            "pearson": precise(partial(correlation, functional.pearson_corrcoef)),
            "spearman": precise(partial(correlation, functional.spearman_corrcoef)),
        }

    def score(self, metrics, answers, targets):
        """R², all outputs together. Labels that are all alike have no variance: they count as if they had a very
        small one, where torchmetrics gives what cannot be compared."""
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
        """Who is closer."""
        closer = scores[0] - scores[1]
        return {"a_closer": closer > 0, "b_closer": closer < 0, "equal": closer == 0}

    def plots(self, analysis, answers, targets):
        """Answers against truths."""
        return {"scatter.png": partial(plot_scatter, answers, targets)}

    # ---- How sure it is

    set_measure = "mean width of an interval, in the unit of the labels"
    can_be_calibrated = True

    def fit_temperature(self, logits, labels):
        """None: numbers have no probabilities."""
        return 1.0

    def set_sizes(self, logits, coverage):
        """The widths of the intervals; of several numbers their mean."""
        low, high = self.head_for(logits).interval(logits, coverage)
        return (high - low).mean(-1)

    def set_columns(self, outputs):
        """From where to where each number lies."""
        ends = ("low", "high")
        return {f"{name}_{end}": NUMBER for name in number_columns(outputs) for end in ends}

    def set_values(self, logits, coverage):
        """See `set_columns`."""
        ends = torch.stack(self.head_for(logits).interval(logits, coverage), dim=-1)  # (B, C, 2)
        return [short(row) for row in ends.flatten(1).float().numpy()]

    def groups(self, logits, labels):
        """By quarters of the answers: an interval that is as wide for large numbers as for small ones holds fewer of
        those that vary more."""
        answers = self.answers(logits).double().mean(-1)
        quarter = torch.bucketize(answers, answers.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)))
        names = ("lowest", "second", "third", "highest")
        return {f"{name} quarter of the answers": quarter == place for place, name in enumerate(names)}

    # ---- Saying

    def mistakes(self, logits, labels, places):
        """With `deviations`, how far off they are: see `numbers_off`."""
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
        """With how far off it is."""
        answer, truth, off = mistake["answer"], mistake["truth"], mistake["deviations"]
        return (answer, truth, False) if off is None else (answer, off_by(truth, off), off <= GOOD_DEVIATIONS)

    def judged(self, logits, labels):
        """Right is what is off by no more than half of the standard deviation of these labels; each truth is followed
        by how far off the answer is."""
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
        """A number, in the unit of the labels; of several `prediction_1`…"""
        return dict.fromkeys(number_columns(outputs), NUMBER)

    def values(self, said, top_k=1, every=False):
        """See `columns`."""
        return [short(row) for row in said.float().reshape(len(said), -1).numpy()]

    def count(self, counts, row):
        """How many, their sum, the least and the largest."""
        for name, value in zip(number_columns(len(row)), row):
            number, total, least, most = counts.get(name, (0, 0.0, value, value))
            counts[name] = [number + 1, total + value, min(least, value), max(most, value)]

    def summary(self, counts):
        """A line an output."""
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
        """Also mean and deviation of the training rows: the head learns numbers of any unit."""
        scale = {}
        if run.train_args.defaults_version > 1:
            scale = label_statistics(run.labels("train", FITTED_ROWS))
        return {**scale, **super().loss_arguments(run, among_others)}


def number_columns(outputs: int) -> list[str]:
    """What the columns of numbers are called."""
    return ["prediction"] if outputs == 1 else [f"prediction_{place}" for place in range(1, outputs + 1)]


def correlation(metric: Metric, answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of all numbers in one row; NaN where all answers or all targets are alike, as those of a constant guess are,
    without torchmetrics' warning."""
    answers, targets = answers.flatten(), targets.flatten()
    if (answers == answers[0]).all() or (targets == targets[0]).all():
        return torch.tensor(torch.nan)
    return metric(answers, targets)


def r2(answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The share of the targets' variance that is explained (R²), all outputs together, by torchmetrics: 0 for the mean
    of these targets, below it for what is worse. NaN for fewer than two rows and for targets that are all alike. Both
    are `(N, C)` float64."""
    from torchmetrics.functional import r2_score

    varies = (targets != targets[:1]).any(0)
    if not varies.any():
        return torch.tensor(torch.nan)
    # torchmetrics takes the difference of two sums of squares, small where the mean is 0, and takes tiny sums for
    # none: outputs keep their sizes beside one another, but the largest is 1.
    mean, size = targets.mean(0), targets.std(0, correction=0).max()
    weighted = "variance_weighted" if targets.shape[1] > 1 else "uniform_average"
    return r2_score((answers - mean) / size, (targets - mean) / size, multioutput=weighted)


def deviation_of(targets: torch.Tensor) -> torch.Tensor:
    """The standard deviation of each output of a regression, `(C,)` float64, of targets `(N, C)` of rows that have a
    label."""
    return targets.double().std(0, correction=0)


def numbers_off(answer: torch.Tensor, truth: torch.Tensor, deviation: torch.Tensor) -> float | None:
    """How far off numbers are, in units of the labels' standard deviation; of several numbers the worst. None where
    the labels do not vary, or the answer is not finite. All are `(C,)`."""
    off = ((answer.double() - truth.double()).abs() / deviation).max()
    return off.item() if off.isfinite() else None


def off_by(truth: str, off: float) -> str:
    """A truth, and how far off the answer to it is."""
    return f"{truth}, off by {off:.2f} SD"


def numbers(values: torch.Tensor, deviation: torch.Tensor) -> str:
    """One number, or several, as a text.

    Args:
        values: `(C,)`.
        deviation: of the labels, `(C,)`: the digits go down to a hundredth of it, and no more than that. Where it is
            0, four digits.
    """
    return ", ".join(number(value, scale) for value, scale in zip(values.flatten().tolist(), deviation.tolist()))


def number(value: float, deviation: float = 0.0) -> str:
    """One number as a text; see `numbers`."""
    if not math.isfinite(value) or not 1e-6 < deviation < 1e12 or abs(value) >= 1e15:
        return f"{value:.4g}"
    digits = max(0, 2 - math.floor(math.log10(deviation)))
    text = f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no -0
    return text.rstrip("0").rstrip(".") if "." in text else text
