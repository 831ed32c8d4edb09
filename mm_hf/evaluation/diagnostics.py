"""Where a model is wrong, and whether its probabilities show it: calibration, confusion, the worst mistakes."""

from typing import Any

import torch


BINS = 15
LISTED_PAIRS = 20
SHOWN_CLASSES = 30  # the largest number of classes in a confusion matrix


def calibration(confidence: torch.Tensor, right: torch.Tensor) -> dict[str, Any]:
    """Whether probabilities are correct: the expected calibration error (Guo et al. 2017, equation 3) by torchmetrics,
    over 15 bins of equal width.

    Args:
        confidence: the probabilities, `(N,)` float.
        right: whether the event of each probability happened, `(N,)` bool.

    Returns:
        `ece`; `confidence` and `accuracy`, means over all; `bins`: `low`, `high`, `rows`, and both means in the bin
        (None if it has no rows).
    """
    from torchmetrics.functional import classification

    # torchmetrics would put the value 1 into a separate bin
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
    """Which classes are confused with each other, by torchmetrics.

    Args:
        answers, targets: `(N,)` int64.
        names: the names of the classes.

    Returns:
        `matrix`: rows by true class (first axis) and answer, None if there are more than 30 classes; `pairs`: the 20
        most frequent confusions, each with `truth`, `answer`, `rows`, and `of`, the number of rows with that truth.
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
    """The F1 of each of several labels, by torchmetrics, and how many rows have it. Both `(N, C)`, 0 or 1."""
    from torchmetrics.functional import classification

    scores = classification.multilabel_f1_score(answers, targets, num_labels=len(names), average="none")
    return {
        name: {"f1": score, "rows": count}
        for name, score, count in zip(names, scores.tolist(), targets.sum(0).tolist())
    }


def worst_mistakes(task: Any, logits: torch.Tensor, labels: torch.Tensor, count: int = 24) -> list[dict[str, Any]]:
    """The wrong rows with the highest loss, the worst first. For numbers, the rows with the largest errors.

    Args:
        task: see `measure_rows`.
        logits, labels: of rows that have a label, see `measure_rows`.
        count: the largest number of rows.

    Returns:
        for each `place` (among these rows), `loss`, `answer` and `truth` as texts, and further entries of
        `Task.mistakes`.
    """
    wrong = (task.answers(logits) != task.targets(labels)).reshape(len(labels), -1).any(-1)
    losses = task.row_losses(logits, labels)
    losses = losses.where(wrong, torch.tensor(-torch.inf, dtype=losses.dtype))
    places = losses.sort(descending=True, stable=True).indices[: min(count, int(wrong.sum()))].tolist()
    return [
        {"place": place, "loss": losses[place].item(), **said}
        for place, said in zip(places, task.mistakes(logits, labels, places))
    ]
