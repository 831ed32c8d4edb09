"""Metrics of written texts. Each text is compared with its target."""

from collections.abc import Sequence
from typing import Any

import torch

from .kinds import Metric, rows_by_kind


TOKEN_ACCURACY = "token_accuracy"


class TextTable:
    """Distinct texts by number. With numbers, texts can be handled as `(N,)` int64, like other answers and labels.

    Args:
        texts: the texts that are known at the start. Others are added when they are met.
    """

    def __init__(self, texts: Sequence[str] = ()):
        self.numbers: dict[str, int] = {}
        self.codes(texts)

    @property
    def texts(self) -> list[str]:
        """The texts in the order of their numbers."""
        return list(self.numbers)

    def codes(self, texts: Sequence[str | None]) -> torch.Tensor:
        """The number of each text, `(N,)` int64; -100 for none."""
        return torch.tensor(
            [-100 if text is None else self.numbers.setdefault(text, len(self.numbers)) for text in texts],
            dtype=torch.int64,
        )


class TextScore:
    """The mean over the rows of a score.

    Args:
        texts: by number, see `TextTable`.
        score: takes answers and truths, and gives one number per pair.
    """

    def __init__(self, texts: list[str], score):
        self.texts, self.score = texts, score
        self.known: dict[int, float] = {}  # by pair of numbers, because rows and resamples repeat pairs

    def rows(self, answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The score of each row, `(N,)`, for answers and targets by number."""
        pairs, place = (answers * len(self.texts) + targets).unique(return_inverse=True)
        new = [pair for pair in pairs.tolist() if pair not in self.known]
        if new:
            said, true = zip(*(divmod(pair, len(self.texts)) for pair in new))
            scores = self.score([self.texts[number] for number in said], [self.texts[number] for number in true])
            self.known.update(zip(new, scores))
        return torch.tensor([self.known[pair] for pair in pairs.tolist()])[place]

    def __call__(self, answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.rows(answers, targets).mean()


class WordErrorRate(TextScore):
    """Wrong, missing and extra words, divided by the number of words of the truths (WER), by torchmetrics."""

    def __init__(self, texts: list[str]):
        super().__init__(texts, word_errors)

    def __call__(self, answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        words = sum(max(1, len(self.texts[number].split())) for number in targets.tolist())
        return self.rows(answers, targets).sum() / words


def word_errors(answers: list[str], targets: list[str]) -> list[float]:
    """The number of wrong, missing and extra words of each answer."""
    from torchmetrics.functional.text import word_error_rate

    lengths = [max(1, len(target.split())) for target in targets]
    return [
        round(word_error_rate([answer], [target]).item() * length)
        for answer, target, length in zip(answers, targets, lengths)
    ]


def chrf(answers: list[str], targets: list[str]) -> list[float]:
    """chrF of each answer (Popović 2015): F2 over n-grams of up to six characters, by torchmetrics.

    If a truth has fewer than six letters, the n-grams are only up to this length. Otherwise torchmetrics would count
    missing n-grams as wrong, and a right answer "red" would get a half.
    """
    from torchmetrics.functional.text import chrf_score

    scores = [0.0] * len(answers)
    orders = [max(1, min(6, len("".join(text.split())))) for text in targets]
    for order in set(orders):
        rows = [row for row, other in enumerate(orders) if other == order]
        _, of_rows = chrf_score(
            [answers[row] for row in rows],
            [[targets[row]] for row in rows],
            n_char_order=order,
            n_word_order=0,
            return_sentence_level_score=True,
        )
        for row, score in zip(rows, of_rows.tolist()):
            scores[row] = score
    return scores


def exact(answers: list[str], targets: list[str]) -> list[float]:
    """1 if the answer equals the truth, letter by letter, else 0."""
    return [float(answer == target) for answer, target in zip(answers, targets)]


def text_metrics(texts: list[str]) -> dict[str, Metric]:
    """The metrics of written texts by name, the main one first; see `Task.metrics`. Each takes answers and targets by
    their number in `texts`."""
    return {"chrf": TextScore(texts, chrf), "exact_match": TextScore(texts, exact), "wer": WordErrorRate(texts)}


def generation_metrics(
    answers: Sequence[str], targets: Sequence[str | None], kinds: list[str] | None = None
) -> dict[str, Any]:
    """Metrics over the rows that have a text.

    Args:
        answers: the written texts.
        targets: the target texts; None for a row without one.
        kinds: the kind of each row; chrF is then also given by kind.

    Returns:
        `metrics`: `chrf` (the mean over the rows), `exact_match`, `wer` (word error rate, lower is better); `by_kind`
        and `rows`, as in `measure_rows`.

    Raises:
        ValueError: no row has a text.
    """
    table = TextTable()
    true, said = table.codes(targets), table.codes(answers)
    present = true != -100
    if not present.any():
        raise ValueError(f"None of the {len(present)} rows has a text to compare with, so nothing can be measured.")
    said, true = said[present], true[present]
    kinds = None if kinds is None else [kind for kind, known in zip(kinds, present.tolist()) if known]
    functions = text_metrics(table.texts)
    first = functions["chrf"]
    return {
        "metrics": {name: function(said, true).item() for name, function in functions.items()},
        "by_kind": {kind: first(said[rows], true[rows]).item() for kind, rows in rows_by_kind(kinds or []).items()},
        "rows": len(true),
    }


def token_metrics(tokens: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """How often the most likely next token is right, if the true text before it is given. No text is written for this.

    Args:
        tokens: `(N, S)` int64, the most likely token at each place.
        labels: `(N, S)` int64, -100 for none.

    Returns:
        the same as `generation_metrics`, with the metric `token_accuracy`.
    """
    known = labels != -100
    accuracy = (tokens == labels)[known].float().mean().item()
    return {"metrics": {TOKEN_ACCURACY: accuracy}, "by_kind": {}, "rows": int(known.any(1).sum())}
