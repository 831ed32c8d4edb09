"""Metrics, by torchmetrics."""

from collections import Counter
from functools import partial
from typing import Any

import torch

from ..models.generation_mm_fusion import GENERATION
from .kinds import Metric, rows_by_kind
from .texts import text_metrics


CLASSES = ("single_label_classification", GENERATION)  # texts are numbered, see `TextTable`


def has_label(labels: torch.Tensor, problem_type: str) -> torch.Tensor:
    """Which rows have a label, `(N,)` bool; labels as `classification_metrics` takes them."""
    if problem_type in CLASSES:
        return labels != -100
    return ~labels.reshape(len(labels), -1).isnan().any(-1)


def answers_of(logits: torch.Tensor, problem_type: str) -> torch.Tensor:
    """What a model answers: the class `(N,)`, 0 or 1 for each label `(N, C)`, or the numbers `(N, C)`. Texts are
    answers already."""
    if problem_type == GENERATION:
        return logits
    if problem_type == "single_label_classification":
        return logits.argmax(-1)
    return (logits > 0).long() if problem_type == "multi_label_classification" else logits.float()


def targets_of(labels: torch.Tensor, problem_type: str) -> torch.Tensor:
    """Labels in the shape of `answers_of`; those of soft targets count from a half."""
    if problem_type in CLASSES:
        return labels
    labels = labels.reshape(len(labels), -1)
    return (labels > 0.5).long() if problem_type == "multi_label_classification" else labels.float()


def metrics_of(
    problem_type: str, outputs: int, validate: bool = True, texts: list[str] | None = None
) -> dict[str, Metric]:
    """The metrics of a problem by name, the one that counts first. Each takes answers and targets.

    Args:
        problem_type: see `classification_loss`.
        outputs: C, of the logits.
        validate: let torchmetrics look at every value, which takes longer than to count them.
        texts: of written ones, by number.
    """
    from torchmetrics import functional

    if problem_type == GENERATION:
        return text_metrics(texts or [])
    if problem_type == "single_label_classification":
        task: dict[str, Any] = {"task": "multiclass", "num_classes": outputs, "validate_args": validate}
        return {
            "accuracy": partial(functional.accuracy, average="micro", **task),
            "macro_f1": partial(functional.f1_score, average="macro", **task),
        }
    if problem_type == "multi_label_classification":
        task = {"task": "multilabel", "num_labels": outputs, "validate_args": validate}
        return {
            f"f1_{average}": partial(functional.f1_score, average=average, **task) for average in ("micro", "macro")
        }

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


def correlation(metric: Metric, answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of all numbers in one row; NaN where all answers or all targets are alike, as those of a constant guess are,
    without torchmetrics' warning."""
    answers, targets = answers.flatten(), targets.flatten()
    if (answers == answers[0]).all() or (targets == targets[0]).all():
        return torch.tensor(torch.nan)
    return metric(answers, targets)


def r2(answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The share of the targets' variance that is explained (R²), all outputs together, by torchmetrics: 0 for the mean
    of these targets, below it for what is worse. NaN for fewer than two rows and for targets that are all alike.

    Args:
        answers, targets: `(N, C)` float64.
    """
    from torchmetrics.functional import r2_score

    varies = (targets != targets[:1]).any(0)
    if not varies.any():
        return torch.tensor(torch.nan)
    # torchmetrics takes the difference of two sums of squares, small where the mean is 0, and takes tiny sums for
    # none: outputs keep their sizes beside one another, but the largest is 1.
    mean, size = targets.mean(0), targets.std(0, correction=0).max()
    weighted = "variance_weighted" if targets.shape[1] > 1 else "uniform_average"
    return r2_score((answers - mean) / size, (targets - mean) / size, multioutput=weighted)


def first_metric(problem_type: str) -> str:
    """The name of the metric that counts first."""
    return next(iter(metrics_of(problem_type, outputs=2)))


def classification_metrics(
    logits: torch.Tensor,
    labels: torch.Tensor,
    problem_type: str,
    kinds: list[str] | None = None,
) -> dict[str, float | dict]:
    """Metrics over the rows that have a label.

    Args:
        logits: `(N, C)`.
        labels: `(N,)` int64 with -100 for none, or `(N, C)` floats with NaN for none.
        problem_type: see `classification_loss`.
        kinds: for each row what it is a question of; the first metric is then given by kind too.

    Returns:
        `metrics`: `accuracy` and `macro_f1` (classes), `f1_micro` and `f1_macro` (several labels), `rmse`, `mae`,
        `r2`, `pearson` and `spearman` (regression); `by_kind`: the first of them for each kind; `rows`: how many had
        a label.

    Raises:
        ValueError: no row has a label.
    """
    present = has_label(labels, problem_type)
    if not present.any():
        raise ValueError("No row has a label, so nothing can be measured.")
    answers, targets = answers_of(logits[present], problem_type), targets_of(labels[present], problem_type)
    kinds = None if kinds is None else [kind for kind, there in zip(kinds, present.tolist()) if there]
    functions = metrics_of(problem_type, logits.shape[1])
    first = next(iter(functions.values()))
    by_kind = {kind: first(answers[rows], targets[rows]).item() for kind, rows in rows_by_kind(kinds or []).items()}
    metrics = {name: function(answers, targets).item() for name, function in functions.items()}
    return {"metrics": metrics, "by_kind": by_kind, "rows": len(targets)}


def multi_task_metrics(
    logits: dict[str, torch.Tensor],
    labels: dict[str, torch.Tensor],
    problem_types: dict[str, str],
    kinds: list[str] | None = None,
) -> dict[str, float | dict]:
    """`classification_metrics` of several tasks, each over the rows that have a label of it.

    Args:
        logits, labels, problem_types: by task, as there.
        kinds: as there.

    Returns:
        as there, each name with its task's before it, and before all the metric `score`: the mean over the tasks of
        what is at most 1 and better when higher, accuracy, F1 (micro) or, of a regression, the share of the labels'
        variance that is explained (R²).
    """
    reports = {
        task: classification_metrics(logits[task], labels[task], problem_type, kinds)
        for task, problem_type in problem_types.items()
    }
    scores = [
        explained_variance(logits[task], labels[task])
        if problem_type == "regression"
        else next(iter(reports[task]["metrics"].values()))
        for task, problem_type in problem_types.items()
    ]
    found: dict[str, Any] = {
        part: {f"{task}_{name}": value for task, report in reports.items() for name, value in report[part].items()}
        for part in ("metrics", "by_kind")
    }
    found["metrics"] = {"score": sum(scores) / len(scores), **found["metrics"]}
    return {**found, "rows": {task: report["rows"] for task, report in reports.items()}}


def explained_variance(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """R² over the rows that have a label, all outputs together. Labels that are all alike have no variance: they count
    as if they had a very small one, where torchmetrics gives what cannot be compared."""
    present = has_label(labels, "regression")
    answers, targets = answers_of(logits[present], "regression"), targets_of(labels[present], "regression")
    answers, targets = answers.double(), targets.double()
    variance = targets.var(0, correction=0).mean().clamp(min=torch.finfo(torch.float32).eps)
    return (1 - (answers - targets).square().mean() / variance).item()


def majority_accuracy(train_labels: list, test_labels: list) -> float:
    """Accuracy on the test part of the training part's most frequent label: the floor that needs no model. None and
    -1 (a missing `ClassLabel`) do not count."""
    most_frequent = Counter(label for label in train_labels if label not in (None, -1)).most_common(1)[0][0]
    present = [label for label in test_labels if label not in (None, -1)]
    return sum(label == most_frequent for label in present) / len(present)
