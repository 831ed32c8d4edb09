"""Metrics, by torchmetrics."""

from collections import Counter

import torch


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
        `metrics`: `accuracy` and `macro_f1` (classes), `f1_micro` and `f1_macro` (several labels), `rmse` and
        `pearson` (regression); `by_kind`: the first of them for each kind; `rows`: how many had a label.

    Raises:
        ValueError: no row has a label.
    """
    from torchmetrics import functional

    if problem_type == "single_label_classification":
        present = labels != -100
    else:
        labels = labels.reshape(len(logits), -1)
        present = ~labels.isnan().any(-1)
    if not present.any():
        raise ValueError("No row has a label, so nothing can be measured.")
    logits, labels = logits[present].float(), labels[present]
    kinds = None if kinds is None else [kind for kind, there in zip(kinds, present.tolist()) if there]

    def measure(logits, labels):
        if problem_type == "single_label_classification":
            task = {"task": "multiclass", "num_classes": logits.shape[1]}
            return {
                "accuracy": functional.accuracy(logits, labels, average="micro", **task),
                "macro_f1": functional.f1_score(logits, labels, average="macro", **task),
            }
        if problem_type == "multi_label_classification":
            task = {"task": "multilabel", "num_labels": logits.shape[1]}
            target = (labels > 0.5).long()
            return {
                f"f1_{average}": functional.f1_score(logits.sigmoid(), target, average=average, **task)
                for average in ("micro", "macro")
            }
        errors = functional.mean_squared_error(logits, labels.float(), squared=False)
        return {"rmse": errors, "pearson": functional.pearson_corrcoef(logits.flatten(), labels.float().flatten())}

    metrics = {name: value.item() for name, value in measure(logits, labels).items()}
    first = next(iter(metrics))
    by_kind = {}
    for kind in sorted(set(kinds or [])):
        chosen = torch.tensor([value == kind for value in kinds])
        by_kind[kind] = measure(logits[chosen], labels[chosen])[first].item()
    return {"metrics": metrics, "by_kind": by_kind, "rows": len(labels)}


def majority_accuracy(train_labels: list, test_labels: list) -> float:
    """Accuracy on the test part of the training part's most frequent label: the floor that needs no model. None and
    -1 (a missing `ClassLabel`) do not count."""
    most_frequent = Counter(label for label in train_labels if label not in (None, -1)).most_common(1)[0][0]
    present = [label for label in test_labels if label not in (None, -1)]
    return sum(label == most_frequent for label in present) / len(present)
