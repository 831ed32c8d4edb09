"""Where a model errs, and whether it knows: calibration, confusion, the worst mistakes."""

from typing import Any

import torch

from ..models.generation_mm_fusion import GENERATION
from .metrics import answers_of, targets_of
from .texts import TextScore, chrf


BINS = 15
LISTED_PAIRS = 20
SHOWN_CLASSES = 30  # that a matrix can show


def calibration(logits: torch.Tensor, labels: torch.Tensor, problem_type: str) -> dict[str, Any]:
    """Whether the probabilities are what they say: the expected calibration error (Guo et al. 2017, equation 3) by
    torchmetrics, over 15 bins of equal width.

    One label: how often the answer is right, against its probability. Several labels: how often a label is there,
    against its probability, over all labels of all rows.

    Args:
        logits: `(N, C)`.
        labels: of rows that have one, as `classification_metrics` takes them.
        problem_type: with classes.

    Returns:
        `ece`; `confidence` and `accuracy`, means over all; `bins`: `low`, `high`, `rows`, and both means within (None
        where there are no rows).
    """
    from torchmetrics.functional import classification

    below_one = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))  # torchmetrics gives 1 itself a bin of its own
    targets = targets_of(labels, problem_type)
    if problem_type == "single_label_classification":
        probabilities = logits.float().softmax(-1).clamp(max=below_one)
        confidence, answers = probabilities.max(-1)
        right = answers == targets
        ece = classification.multiclass_calibration_error(
            probabilities, targets, num_classes=logits.shape[1], n_bins=BINS, norm="l1"
        )
    else:
        confidence = logits.float().sigmoid().clamp(max=below_one).flatten()
        right = targets.flatten() == 1
        ece = classification.binary_calibration_error(confidence, targets.flatten(), n_bins=BINS, norm="l1")
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
        names: of the classes.

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
    """For each of several labels its F1, by torchmetrics, and how many rows have it.

    Args:
        answers, targets: `(N, C)`, 0 or 1.
        names: of the labels.
    """
    from torchmetrics.functional import classification

    scores = classification.multilabel_f1_score(answers, targets, num_labels=len(names), average="none")
    return {
        name: {"f1": score, "rows": count}
        for name, score, count in zip(names, scores.tolist(), targets.sum(0).tolist())
    }


def row_losses(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str, names: list[str] | None = None
) -> torch.Tensor:
    """The loss of each row, `(N,)`: as `classification_loss`, but neither summed nor divided; of written texts what
    they lack of the best score."""
    if problem_type == GENERATION:
        return 1 - TextScore(names or [], chrf).rows(logits, labels)
    functional, logits = torch.nn.functional, logits.float()
    if problem_type == "single_label_classification":
        return functional.cross_entropy(logits, labels, reduction="none")
    labels = labels.reshape(len(labels), -1).float()
    if problem_type == "multi_label_classification":
        return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(-1)
    return ((logits - labels) ** 2).mean(-1)


def worst_mistakes(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str, names: list[str] | None, count: int = 24
) -> list[dict[str, Any]]:
    """The wrong rows with the highest loss, the worst first; of a regression those that are furthest off.

    Args:
        logits: `(N, C)`.
        labels: of rows that have one, as `classification_metrics` takes them.
        problem_type: see `classification_loss`.
        names: of the classes; None for a regression; of texts all that come, by number.
        count: how many at most.

    Returns:
        for each `place` (among these rows), `answer` and `truth` as texts, `loss`, and, of one label, `probability`
        and `truth_probability`.
    """
    answers, targets = answers_of(logits, problem_type), targets_of(labels, problem_type)
    wrong = (answers != targets).reshape(len(answers), -1).any(-1)
    losses = row_losses(logits, labels, problem_type, names).where(wrong, torch.tensor(-1.0))
    places = losses.sort(descending=True, stable=True).indices[: min(count, int(wrong.sum()))].tolist()
    found = []
    for place in places:
        answer, truth = answers[place], targets[place]
        mistake: dict[str, Any] = {"place": place, "loss": losses[place].item()}
        if problem_type == "single_label_classification":
            probabilities = logits[place].float().softmax(-1)
            mistake |= {"answer": names[int(answer)], "truth": names[int(truth)]}
            mistake |= {
                "probability": probabilities[answer].item(),
                "truth_probability": probabilities[truth].item(),
            }
        elif problem_type == "multi_label_classification":
            mistake |= {"answer": named(answer, names), "truth": named(truth, names)}
        elif problem_type == GENERATION:
            mistake |= {"answer": names[int(answer)], "truth": names[int(truth)]}
        else:
            mistake |= {"answer": numbers(answer), "truth": numbers(truth)}
        found.append(mistake)
    return found


def named(chosen: torch.Tensor, names: list[str]) -> str:
    """The names of several labels, from 0 or 1 for each."""
    return ", ".join(name for name, there in zip(names, chosen.tolist()) if there) or "(none)"


def numbers(values: torch.Tensor) -> str:
    """One number, or several, as a text."""
    return ", ".join(f"{value:.4g}" for value in values.flatten().tolist())
