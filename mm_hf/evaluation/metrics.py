"""Metrics over the rows that have a label, for one task and for several."""

from collections import Counter
from typing import Any

import torch

from .kinds import rows_by_kind


def measure_rows(task: Any, logits: torch.Tensor, labels: torch.Tensor, kinds: list | None = None) -> dict[str, Any]:
    """Metrics over the rows that have a label.

    Args:
        task: what the labels mean, see `mm_hf.tasks.Task`.
        logits: `(N, C)`.
        labels: `(N,)` int64 with -100 for a missing label, or `(N,)` or `(N, C)` floats with NaN for a missing label.
        kinds: the kind of each row; the first metric is then also given by kind.

    Returns:
        `metrics`: the metrics of the task by name; `by_kind`: the first metric by kind; `rows`: how many rows have a
        label.

    Raises:
        ValueError: no row has a label.
    """
    present = task.has_label(labels)
    if not present.any():
        raise ValueError(f"None of the {len(present)} rows has a label, so nothing can be measured.")
    kinds = None if kinds is None else [kind for kind, known in zip(kinds, present.tolist()) if known]
    answers, targets = task.answers(logits[present]), task.targets(labels[present])
    return measure_answers(task, answers, targets, logits.shape[1], kinds)


def measure_answers(
    task: Any, answers: torch.Tensor, targets: torch.Tensor, outputs: int, kinds: list | None = None
) -> dict[str, Any]:
    """`measure_rows` for answers and targets of rows that all have a label. `outputs` is C, the width of the
    logits."""
    functions = task.metrics(outputs)
    first = next(iter(functions.values()))
    by_kind = {kind: first(answers[rows], targets[rows]).item() for kind, rows in rows_by_kind(kinds or []).items()}
    metrics = {name: function(answers, targets).item() for name, function in functions.items()}
    return {"metrics": metrics, "by_kind": by_kind, "rows": len(targets)}


def multi_task_metrics(
    tasks: list[Any],
    logits: dict[str, torch.Tensor],
    labels: dict[str, torch.Tensor],
    kinds: list[str] | None = None,
) -> dict[str, Any]:
    """`measure_rows` for several tasks, each over the rows that have its label.

    Args:
        tasks: the tasks.
        logits, labels: by the label column of each task.
        kinds: the kind of each row.

    Returns:
        the same as `measure_rows`, with the name of the task before each name. The first metric is `score`, the mean
        over the tasks of a value that is at most 1 and better when higher, see `Task.score`.
    """
    reports, scores = {}, []
    for task in tasks:
        own_logits, own_labels = logits[task.column], labels[task.column]
        reports[task.column] = report = task.measure(own_logits, own_labels, kinds)
        present = task.has_label(own_labels)
        answers, targets = task.answers(own_logits[present]), task.targets(own_labels[present])
        scores.append(task.score(report["metrics"], answers, targets))
    joined: dict[str, Any] = {
        part: {f"{column}_{name}": value for column, report in reports.items() for name, value in report[part].items()}
        for part in ("metrics", "by_kind")
    }
    joined["metrics"] = {"score": sum(scores) / len(scores), **joined["metrics"]}
    return {**joined, "rows": {column: report["rows"] for column, report in reports.items()}}


def majority_accuracy(train_labels: list, test_labels: list) -> float:
    """The accuracy on the test part if the answer is always the most frequent label of the training part. This floor
    (baseline) needs no model. None and -1 (a missing `ClassLabel`) do not count."""
    most_frequent = Counter(label for label in train_labels if label not in (None, -1)).most_common(1)[0][0]
    present = [label for label in test_labels if label not in (None, -1)]
    return sum(label == most_frequent for label in present) / len(present)
