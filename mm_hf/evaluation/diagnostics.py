"""Where a model errs, and whether it knows: calibration, confusion, the worst mistakes."""

from typing import Any

import torch


BINS = 15
LISTED_PAIRS = 20
SHOWN_CLASSES = 30  # that a matrix can show


def calibration(confidence: torch.Tensor, right: torch.Tensor) -> dict[str, Any]:
    """Whether probabilities are what they say: the expected calibration error (Guo et al. 2017, equation 3) by
    torchmetrics, over 15 bins of equal width.

    Args:
        confidence: the probabilities, `(N,)` float.
        right: whether what they are of is so, `(N,)` bool.

    Returns:
        `ece`; `confidence` and `accuracy`, means over all; `bins`: `low`, `high`, `rows`, and both means within (None
        where there are no rows).
    """
    from torchmetrics.functional import classification

    # torchmetrics gives 1 itself a bin of its own
    confidence = confidence.clamp(max=torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)))
    ece = classification.binary_calibration_error(confidence, right.long(), n_bins=BINS, norm="l1")
    edges = torch.linspace(0, 1, BINS + 1)
    places = torch.bucketize(confidence, edges, right=True) - 1
    bins = []
    for place in range(BINS):
        chosen = places == place
        means = [values[chosen].float().mean().item() if chosen.any() else None for values in (confidence, right)]
        low, high = edges[place : place + 2].tolist()
        row = {"low": low, "high": high, "rows": int(chosen.sum()), "confidence": means[0], "accuracy": means[1]}
        bins.append(row)
    return {
        "ece": ece.item(),
        "confidence": confidence.mean().item(),
        "accuracy": right.float().mean().item(),
        "bins": bins,
    }


def confusion(answers: torch.Tensor, targets: torch.Tensor, names: list[str]) -> dict[str, Any]:
    """Which class is taken for which, by torchmetrics.

    Args:
        answers, targets: `(N,)` int64.

    Returns:
        `matrix`: rows by true class (first) and answer, None where there are more than 30 classes; `pairs`: the 20
        most frequent confusions, `truth`, `answer`, `rows`, and `of`, the rows of that truth.
    """
    from torchmetrics.functional import classification

    matrix = classification.multiclass_confusion_matrix(answers, targets, num_classes=len(names))
    wrong = matrix - matrix.diag().diag()
    counts, places = wrong.flatten().sort(descending=True, stable=True)
    pairs = []
    for count, place in zip(counts[:LISTED_PAIRS].tolist(), places[:LISTED_PAIRS].tolist()):
        truth, answer = divmod(place, len(names))
        if count:
            of = int(matrix[truth].sum())
            pairs.append({"truth": names[truth], "answer": names[answer], "rows": count, "of": of})
    return {"matrix": matrix.tolist() if len(names) <= SHOWN_CLASSES else None, "pairs": pairs}


def label_scores(answers: torch.Tensor, targets: torch.Tensor, names: list[str]) -> dict[str, dict[str, float]]:
    """For each of several labels its F1, by torchmetrics, and how many rows have it; both `(N, C)`, 0 or 1."""
    from torchmetrics.functional import classification

    scores = classification.multilabel_f1_score(answers, targets, num_labels=len(names), average="none")
    return {
        name: {"f1": score, "rows": count}
        for name, score, count in zip(names, scores.tolist(), targets.sum(0).tolist())
    }


def worst_mistakes(task: Any, logits: torch.Tensor, labels: torch.Tensor, count: int = 24) -> list[dict[str, Any]]:
    """The wrong rows with the highest loss, the worst first; of numbers those that are furthest off.

    Args:
        logits, labels: of rows that have a label, see `measure_rows`.
        count: how many at most.

    Returns:
        for each `place` (among these rows), `loss`, `answer` and `truth` as texts, and what else `Task.mistakes` says.
    """
    wrong = (task.answers(logits) != task.targets(labels)).reshape(len(labels), -1).any(-1)
    losses = task.row_losses(logits, labels)
    losses = losses.where(wrong, torch.tensor(-torch.inf, dtype=losses.dtype))
    places = losses.sort(descending=True, stable=True).indices[: min(count, int(wrong.sum()))].tolist()
    return [
        {"place": place, "loss": losses[place].item(), **said}
        for place, said in zip(places, task.mistakes(logits, labels, places))
    ]
