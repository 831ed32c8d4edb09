"""Where a model errs, and whether it knows: calibration, confusion, the worst mistakes."""

import math
from typing import Any

import torch

from ..models.generation_mm_fusion import GENERATION
from .metrics import answers_of, has_label, targets_of
from .texts import TextScore, chrf


BINS = 15
LISTED_PAIRS = 20
SHOWN_CLASSES = 30  # that a matrix can show
GOOD_DEVIATIONS = 0.5  # of the labels' standard deviation: a number that is no further off counts as good in pictures


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
        and `truth_probability`, of a regression `deviations`: how far off it is, see `numbers_off`.
    """
    answers, targets = answers_of(logits, problem_type), targets_of(labels, problem_type)
    wrong = (answers != targets).reshape(len(answers), -1).any(-1)
    losses = row_losses(logits, labels, problem_type, names).where(wrong, torch.tensor(-1.0))
    deviation = deviation_of(targets) if problem_type == "regression" else torch.ones(1)
    known = names or []  # of numbers none
    places = losses.sort(descending=True, stable=True).indices[: min(count, int(wrong.sum()))].tolist()
    found = []
    for place in places:
        answer, truth = answers[place], targets[place]
        mistake: dict[str, Any] = {"place": place, "loss": losses[place].item()}
        if problem_type == "single_label_classification":
            probabilities = logits[place].float().softmax(-1)
            mistake |= {"answer": known[int(answer)], "truth": known[int(truth)]}
            mistake |= {
                "probability": probabilities[answer].item(),
                "truth_probability": probabilities[truth].item(),
            }
        elif problem_type == "multi_label_classification":
            mistake |= {"answer": named(answer, known), "truth": named(truth, known)}
        elif problem_type == GENERATION:
            mistake |= {"answer": known[int(answer)], "truth": known[int(truth)]}
        else:
            mistake |= {"answer": numbers(answer, deviation), "truth": numbers(truth, deviation)}
            mistake["deviations"] = numbers_off(answer, truth, deviation)
        found.append(mistake)
    return found


def judged(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str, names: Any
) -> list[tuple[str, str | None, bool | None]]:
    """For each row what a model answers, the truth (None without a label), and whether the answer is right: of
    numbers, whether it is off by no more than half of the standard deviation of these labels. The numbers are followed
    by how far off they are.

    Args:
        logits: `(N, C)`.
        labels: as `classification_metrics` takes them.
        problem_type: see `classification_loss`; not of written texts.
        names: of the classes, by number; not looked at in a regression.
    """
    answers, targets = answers_of(logits, problem_type), targets_of(labels, problem_type)
    present = has_label(labels, problem_type)
    deviation = deviation_of(targets[present]) if problem_type == "regression" else torch.ones(1)
    found: list[tuple[str, str | None, bool | None]] = []
    for answer, truth, there in zip(answers, targets, present.tolist()):
        right: bool | None
        if problem_type == "single_label_classification":
            said, true = names[int(answer)], names[int(truth)] if there else None
            right = bool(answer == truth)
        elif problem_type == "multi_label_classification":
            ordered = [names[number] for number in range(len(answer))]
            said, true, right = named(answer, ordered), named(truth, ordered), bool((answer == truth).all())
        else:
            said, true = numbers(answer, deviation), numbers(truth, deviation)
            off = numbers_off(answer, truth, deviation) if there else None
            right = bool((answer == truth).all()) if off is None else off <= GOOD_DEVIATIONS
            true = true if off is None else f"{true}, off by {off:.2f} SD"
        found.append((said, true, right) if there else (said, None, None))
    return found


def deviation_of(targets: torch.Tensor) -> torch.Tensor:
    """The standard deviation of each output of a regression, `(C,)` float64.

    Args:
        targets: `(N, C)`, of rows that have a label.
    """
    return targets.double().std(0, correction=0)


def numbers_off(answer: torch.Tensor, truth: torch.Tensor, deviation: torch.Tensor) -> float | None:
    """How far off numbers are, in units of the labels' standard deviation; of several numbers the worst. None where
    the labels do not vary, or the answer is not finite.

    Args:
        answer, truth, deviation: `(C,)`.
    """
    off = ((answer.double() - truth.double()).abs() / deviation).max()
    return off.item() if off.isfinite() else None


def note_on_numbers() -> str:
    """How pictures mark numbers."""
    off = f"a number is off by more than {GOOD_DEVIATIONS} standard deviations (SD) of the labels"
    return f"Red: {off}, or a class is wrong."


def named(chosen: torch.Tensor, names: list[str]) -> str:
    """The names of several labels, from 0 or 1 for each."""
    return ", ".join(name for name, there in zip(names, chosen.tolist()) if there) or "(none)"


def numbers(values: torch.Tensor, deviation: torch.Tensor | None = None) -> str:
    """One number, or several, as a text.

    Args:
        values: `(C,)`.
        deviation: of the labels, `(C,)`: the digits go down to a hundredth of it, and no more than that. Without it,
            and where it is 0, four digits.
    """
    flat = values.flatten().tolist()
    scales = [0.0] * len(flat) if deviation is None else deviation.tolist()
    return ", ".join(number(value, scale) for value, scale in zip(flat, scales))


def number(value: float, deviation: float = 0.0) -> str:
    """One number as a text; see `numbers`."""
    if not math.isfinite(value) or not 1e-6 < deviation < 1e12 or abs(value) >= 1e15:
        return f"{value:.4g}"
    digits = max(0, 2 - math.floor(math.log10(deviation)))
    text = f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no -0
    return text.rstrip("0").rstrip(".") if "." in text else text
