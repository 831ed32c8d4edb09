"""Learns on validation rows how sure answers are (the temperature), and measures how well this holds on other rows."""

from dataclasses import replace
from typing import Any

import torch

from ..models.confidence import Confidence, conformal_thresholds
from ..models.costs import Costs
from .abstention import risk_coverage
from .conformal import measure_coverage
from .diagnostics import calibration


LEAST_ROWS = 10  # with fewer validation rows nothing is learned; one row in nine is already 11 %
MOST_VALUES = 4_000_000  # the largest number of logits for fitting a temperature, which is only one number
FOLDS = 5
LOWEST, HIGHEST = 0.05, 20.0


def learn_confidence(task: Any, logits: torch.Tensor, labels: torch.Tensor) -> Confidence:
    """Learns the confidence of one task's answers from validation rows: a temperature, and thresholds for sets.

    Both are learned on the same rows. This is acceptable because the temperature is one number, so new rows stay
    almost exchangeable with these. But the rows also decided when training stopped. This has more influence, the more
    evaluations there were and the fewer rows there are.

    Args:
        task: its `model_head` is the head of the model, see `Task`.
        logits: `(N, C)`, of validation rows.
        labels: labels of the same rows, as for `Task.has_label`.

    Raises:
        ValueError: fewer than `LEAST_ROWS` of the rows have a label, or logits are not finite.
    """
    labelled = task.has_label(labels)
    logits, labels = logits[labelled], labels[labelled]
    if len(labels) < LEAST_ROWS:
        raise ValueError(
            f"{task.column!r}: calibration needs at least {LEAST_ROWS} validation rows with a label, but there are "
            f"only {len(labels)}."
        )
    if not logits.isfinite().all():
        raise ValueError(f"{task.column!r}: some answers to validation rows are not finite numbers.")
    confidence = Confidence(len(labels), task.fit_temperature(logits, labels))
    head = replace(task.head_for(logits), confidence=confidence)
    return replace(confidence, thresholds=conformal_thresholds(head.true_scores(logits, labels)))


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature under which the labels are most likely (Guo et al. 2017, section 4.2). There is one temperature
    for all classes, or for all of several labels, because a rare class has too few rows for a separate one. The result
    is 1 if held-out rows (five folds) are not more likely under the temperature. In that case it would describe these
    rows more than the model.

    The labels count as if one more row were wrong, as in Platt (1999). If all rows are right, the most likely
    temperature would be 0, which is sure of everything.

    Args:
        logits: `(N, C)`.
        labels: `(N,)` int64. For several labels `(N, C)`, the shares of yes.
    """
    from scipy.optimize import minimize_scalar

    if logits.shape[-1] < 2 and not labels.is_floating_point():
        return 1.0
    step = -(-logits.numel() // MOST_VALUES)
    logits, labels = logits[::step].double(), labels[::step]

    def best(rows: torch.Tensor) -> float:
        doubt = 1 / (len(rows) + 2)
        chosen, targets = logits[rows], labels[rows]

        def loss(log_temperature: float) -> float:
            return negative_log_likelihood(chosen / torch.tensor(log_temperature).exp().item(), targets, doubt)

        bounds = torch.tensor([LOWEST, HIGHEST], dtype=torch.float64).log().tolist()
        return torch.tensor(minimize_scalar(loss, bounds=bounds, method="bounded").x).exp().item()

    every = torch.arange(len(labels))
    before = after = 0.0
    for fold in range(FOLDS):
        held, rest = every[every % FOLDS == fold], every[every % FOLDS != fold]
        before += negative_log_likelihood(logits[held], labels[held]) * len(held)
        after += negative_log_likelihood(logits[held] / best(rest), labels[held]) * len(held)
    return best(every) if after < before else 1.0


def negative_log_likelihood(logits: torch.Tensor, labels: torch.Tensor, doubt: float = 0.0) -> float:
    """The mean of -log of the probability of the true label, in nats. For several labels the mean over all of them.

    Args:
        logits, labels: see `fit_temperature`.
        doubt: the share of each label that counts for the other classes (label smoothing).
    """
    logits = logits.double()
    if labels.is_floating_point():
        targets = labels.reshape(logits.shape).double() * (1 - 2 * doubt) + doubt
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets).item()
    likely = logits.log_softmax(-1)
    true = likely.gather(-1, labels[:, None])[:, 0]
    if not doubt:
        return -true.mean().item()
    others = (likely.sum(-1) - true) / (logits.shape[-1] - 1)
    return -((1 - doubt) * true + doubt * others).mean().item()


def how_sure(
    task: Any,
    logits: torch.Tensor,
    labels: torch.Tensor,
    coverage: float,
    groups: dict[str, torch.Tensor],
    costs: Costs | None = None,
) -> dict[str, Any] | None:
    """Measures confidence on rows that have a label and were not used for learning.

    Args:
        task: its `model_head` is the head of the model.
        logits, labels: `(N, C)`, and the labels of the same rows.
        coverage: the requested coverage of the sets or intervals.
        groups: by name, which rows belong to a group, bool `(N,)`, in addition to the groups of the task.
        costs: the costs of answers.

    Returns:
        `temperature` and `validation_rows`, what was learned (None: nothing was); `ece` and `nll`, and `ece_before`
        and `nll_before`, without the temperature; `coverage`, see `measure_coverage`, or `too_few`, why there is none;
        `abstention`, see `risk_coverage`; `costs`, see `Costs.measure`. None if nothing can be measured.
    """
    confidence = None if task.model_head is None else task.model_head.confidence
    said = task.chances_and_truths(logits, labels)
    if confidence is None and said is None:
        return None
    temperature = None if confidence is None else confidence.temperature
    report: dict[str, Any] = {
        "temperature": temperature,
        "validation_rows": None if confidence is None else confidence.rows,
        **dict.fromkeys(("ece", "ece_before", "nll", "nll_before", "coverage", "too_few", "abstention", "costs")),
    }
    if said is not None:
        plain = replace(task, model_head=None).chances_and_truths(logits, labels)
        report |= {"ece": calibration(*said)["ece"], "ece_before": calibration(*plain)["ece"]}
        report |= {
            "nll": negative_log_likelihood(logits.double() / (temperature or 1.0), labels),
            "nll_before": negative_log_likelihood(logits, labels),
        }
    if confidence is not None:
        try:
            confidence.threshold(coverage)
        except ValueError as error:
            report["too_few"] = str(error)
        else:
            groups = {**task.groups(logits, labels), **groups}
            report["coverage"] = measure_coverage(task, logits, labels, coverage, groups)
    sure = task.confidence(logits)
    if sure is not None:
        right = (task.answers(logits) == task.targets(labels)).reshape(len(labels), -1).all(-1)
        report["abstention"] = risk_coverage(sure, right)
    if costs is not None:
        report["costs"] = costs.measure(task.chances(logits), task.targets(labels))
    return report
