"""How sure answers are, learned on validation rows: the temperature; and what of it holds on other rows."""

from dataclasses import replace
from typing import Any

import torch

from ..models.confidence import Confidence, conformal_thresholds
from ..models.costs import Costs
from .abstention import risk_coverage
from .conformal import measure_coverage
from .diagnostics import calibration


LEAST_ROWS = 10  # validation rows below which nothing is learned: of nine, one is eleven points
MOST_VALUES = 4_000_000  # logits that a temperature is fitted to; one number needs no more
FOLDS = 5
LOWEST, HIGHEST = 0.05, 20.0


def learn_confidence(task: Any, logits: torch.Tensor, labels: torch.Tensor) -> Confidence:
    """What the validation rows say about the answers of one task.

    Both are learned on the same rows: the temperature is one number, and takes hardly anything of what makes new rows
    exchangeable with these. That the rows have also chosen when training stopped takes more, the more evaluations
    there were and the fewer rows.

    Args:
        task: whose `model_head` is the head of the model, see `Task`.
        logits: `(N, C)`, of validation rows.
        labels: of the same, as `Task.has_label` takes them.

    Raises:
        ValueError: fewer than `LEAST_ROWS` of them have a label, or logits are not finite.
    """
    labelled = task.has_label(labels)
    logits, labels = logits[labelled], labels[labelled]
    if len(labels) < LEAST_ROWS:
        raise ValueError(
            f"{task.column!r}: calibration needs at least {LEAST_ROWS} validation rows with a label, and there are "
            f"{len(labels)}."
        )
    if not logits.isfinite().all():
        raise ValueError(f"{task.column!r}: answers to validation rows are no finite numbers.")
    confidence = Confidence(len(labels), task.fit_temperature(logits, labels))
    head = replace(task.head_for(logits), confidence=confidence)
    return replace(confidence, thresholds=conformal_thresholds(head.true_scores(logits, labels)))


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature under which the labels are the likeliest (Guo et al. 2017, section 4.2), one for all classes, or
    for all of several labels: a rare one has too few rows for one of its own. 1 where the rows that it was not fitted
    to, by five folds, are not likelier under it: then it says more about these rows than about the model.

    The labels count as if one more row had been wrong, after Platt (1999): of rows that are all right the likeliest
    temperature is 0, which is sure of everything.

    Args:
        logits: `(N, C)`.
        labels: `(N,)` int64, or of several labels `(N, C)`, shares of yes.
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
    """The mean of -log of the probability of the truth, in nats; of several labels the mean over all of them.

    Args:
        logits, labels: see `fit_temperature`.
        doubt: the share by which each label counts for the others.
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
    """What holds, on rows with a label that nothing was learned on, of what is said about answers.

    Args:
        task: whose `model_head` is the head of the model.
        logits, labels: `(N, C)`, and of the same rows.
        coverage: of the sets or intervals that are measured.
        groups: by name which rows belong to it, bool `(N,)`, beside those that the task knows.
        costs: of answers.

    Returns:
        `temperature` and `validation_rows`, what was learned (None: nothing was); `ece` and `nll`, and the same
        `before` it; `coverage`, see `measure_coverage`, or `too_few`, why there is none; `abstention`, see
        `risk_coverage`; `costs`, see `Costs.measure`. None where nothing can be said.
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
