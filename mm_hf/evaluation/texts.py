"""What written texts are worth: each against the text that was to be written."""

from collections.abc import Sequence
from typing import Any

import torch

from .kinds import Metric, rows_by_kind


TOKEN_ACCURACY = "token_accuracy"


class TextTable:
    """Distinct texts by number, so that texts go through all that answers and labels go through as `(N,)` int64.

    Args:
        texts: those that are known from the start; others are added as they come.
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
    """The mean of a score of each row.

    Args:
        texts: by number, see `TextTable`.
        score: of pairs of answer and truth, one number each.
    """

    def __init__(self, texts: list[str], score):
        self.texts, self.score = texts, score
        self.known: dict[int, float] = {}  # by pair of numbers: rows repeat, and resamples do all the more

    def rows(self, answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The score of each row, `(N,)`, of answers and targets by number."""
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
    """Words that are wrong, missing or too many, as a part of all words of the truths (WER), by torchmetrics."""

    def __init__(self, texts: list[str]):
        super().__init__(texts, word_errors)

    def __call__(self, answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        words = sum(max(1, len(self.texts[number].split())) for number in targets.tolist())
        return self.rows(answers, targets).sum() / words


def word_errors(answers: list[str], targets: list[str]) -> list[float]:
    """How many words of each answer are wrong, missing or too many."""
    from torchmetrics.functional.text import word_error_rate

    lengths = [max(1, len(target.split())) for target in targets]
    return [
        round(word_error_rate([answer], [target]).item() * length)
        for answer, target, length in zip(answers, targets, lengths)
    ]


def chrf(answers: list[str], targets: list[str]) -> list[float]:
    """chrF of each answer (Popović 2015): F2 over n-grams of up to six characters, by torchmetrics.

    Of truths of fewer letters as many as they have: torchmetrics counts the n-grams that are not there as wrong, and a
    right "red" would get a half.
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
    """1 where the answer is the truth, letter by letter, else 0."""
    return [float(answer == target) for answer, target in zip(answers, targets)]


def text_metrics(texts: list[str]) -> dict[str, Metric]:
    """The metrics of written texts by name, the one that counts first; see `Task.metrics`. Each takes the numbers of
    answers and targets in `texts`."""
    return {"chrf": TextScore(texts, chrf), "exact_match": TextScore(texts, exact), "wer": WordErrorRate(texts)}


def generation_metrics(
    answers: Sequence[str], targets: Sequence[str | None], kinds: list[str] | None = None
) -> dict[str, Any]:
    """Metrics over the rows that have a text.

    Args:
        answers: what was written.
        targets: what was to be written; None where a row has none.
        kinds: for each row what it is a question of; chrF is then given by kind too.

    Returns:
        `metrics`: `chrf` (the mean over the rows), `exact_match`, `wer` (word error rate, the lower the better);
        `by_kind`; `rows`, as `measure_rows`.

    Raises:
        ValueError: no row has a text.
    """
    table = TextTable()
    true, said = table.codes(targets), table.codes(answers)
    present = true != -100
    if not present.any():
        raise ValueError(f"No row has a text to compare with, of {len(present)}, so nothing can be measured.")
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
    """How often the next token is the right one, of a text that is given up to there: nothing need be written for it.

    Args:
        tokens: `(N, S)` int64, the likeliest at each place.
        labels: `(N, S)` int64, -100 for none.

    Returns:
        as `generation_metrics`, with the metric `token_accuracy`.
    """
    known = labels != -100
    accuracy = (tokens == labels)[known].float().mean().item()
    return {"metrics": {TOKEN_ACCURACY: accuracy}, "by_kind": {}, "rows": int(known.any(1).sum())}
