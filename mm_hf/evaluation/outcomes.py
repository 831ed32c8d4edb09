"""Compares the answers of two models, A and B, for one task. `paired` computes the figures."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..models.text import Text
from .comparisons import figure, gap
from .intervals import group_codes
from .paired import (
    Pair,
    counted,
    differing_rows,
    paired_differences,
    paired_metrics,
    paired_verdict,
    sign_test,
    what_is_counted,
)
from .ranking import ranking_metrics


@dataclass
class Outcome:
    """The answers of a model for one task, for all rows.

    Args:
        task: what the labels mean, see `mm_hf.tasks.Task`. Its names are the classes, or the written texts by number.
        answers, targets: as the task gives them.
        labelled: which rows have a label, `(N,)` bool.
    """

    task: Any
    answers: torch.Tensor
    targets: torch.Tensor
    labelled: torch.Tensor


@dataclass
class MeasuredRows:
    """What is known about the rows, apart from their answers.

    Args:
        numbers: the row numbers in the data.
        units: a value per row. Rows with equal values form one unit, and resamples draw whole units.
        unit: what a unit is, in words.
        kinds, texts: a kind and a text per row, for figures by kind and for people to read; None if there are none.
    """

    numbers: list[int]
    units: list
    unit: str
    kinds: list | None = None
    texts: list | None = None


def compare_outcomes(
    column: str,
    one: Outcome,
    other: Outcome,
    names: tuple[str, str],
    about: MeasuredRows,
    samples: int = 1000,
    seed: int = 0,
    title: str | None = None,
) -> dict[str, Any]:
    """Compares two models over the rows that have a label of a task.

    A row counts as wrong for a model that does not have the class of its truth. Rows without a label, or with a label
    that cannot be read, do not count.

    Args:
        column: the label column.
        one, other: the answers of A and B.
        names: the names of A and B, for messages.
        about: what is known about the rows.
        samples, seed, title: see `bootstrap`.

    Returns:
        see `result_of`; and `problem_type`, `labels_of_a_alone`, `labels_of_b_alone`, `left_out` (rows) and `score`,
        the meaning of the score of a row.

    Raises:
        ValueError: the models have different problem types, outputs or labels.
    """
    kinds_of_both = [outcome.task.problem_type for outcome in (one, other)]
    if kinds_of_both[0] != kinds_of_both[1]:
        raise ValueError(
            f"Column {column!r} is {kinds_of_both[0]} for {names[0]} and {kinds_of_both[1]} for {names[1]}: models "
            "with different problem types cannot be compared."
        )
    if one.task.ordered and one.task.names != other.task.names:
        raise ValueError(
            f"Column {column!r}: {names[0]} has the classes {one.task.names} and {names[1]} has {other.task.names}, "
            "in this order: ordered classes can be compared only if both models have the same."
        )
    task, (answers_a, truth_a), (answers_b, truth_b) = in_one_numbering(one, other)
    if answers_a.shape != answers_b.shape:
        raise ValueError(
            f"Column {column!r}: {names[0]} gives answers of shape {tuple(answers_a.shape)} and {names[1]} of shape "
            f"{tuple(answers_b.shape)}: they can be compared only if the shapes are equal."
        )
    both = one.labelled & other.labelled
    others = (truth_a != truth_b).reshape(len(both), -1).any(-1)
    differ = (both & others).nonzero().flatten().tolist()
    if differ:
        raise ValueError(
            f"Column {column!r}: {len(differ)} rows have different labels for {names[0]} and for {names[1]}. The "
            f"first is row {about.numbers[differ[0]]}. Measure both on the same data."
        )
    measured, truth = both, truth_a
    if task.classes and truth.ndim == 1:
        measured = both | unknown_to(other, one, truth_a, task.names) | unknown_to(one, other, truth_b, task.names)
        truth = torch.where(one.labelled, truth_a, truth_b)
    if not measured.any():
        raise ValueError(f"No row has a label in column {column!r} that both can read, so nothing can be compared.")
    rows = measured.nonzero().flatten().tolist()
    said, true = (answers_a[rows], answers_b[rows]), truth[rows]
    groups = group_codes([about.units[row] for row in rows])
    scores = task.row_scores(said[0], true), task.row_scores(said[1], true)
    outputs = true.shape[-1] if task.names is None else len(task.names)
    kinds = None if about.kinds is None else [about.kinds[row] for row in rows]
    figures = paired_metrics(task, said, true, outputs, groups, kinds, samples, seed, title)
    differing = [
        {
            "row": about.numbers[rows[place]],
            "kind": None if kinds is None else kinds[place],
            Text.name: None if about.texts is None else about.texts[rows[place]],
            "truth": task.spell(true[place]),
            "a": task.spell(said[0][place]),
            "b": task.spell(said[1][place]),
            "score_a": scores[0][place].item(),
            "score_b": scores[1][place].item(),
        }
        for place in differing_rows(said, scores)
    ]
    return {
        "problem_type": task.problem_type,
        "labels_of_a_alone": names_of_one_alone(one, other),
        "labels_of_b_alone": names_of_one_alone(other, one),
        "left_out": len(about.units) - len(rows),
        **result_of(figures, names, groups, about.unit, scores, counted(task, said, true, scores), differing),
        "score": task.row_score,
    }


def compare_ranks(
    task: Any,
    places: Pair,
    names: tuple[str, str],
    numbers_of_rows: list[int],
    queries: list[str | None],
    samples: int = 1000,
    seed: int = 0,
    title: str | None = None,
) -> dict[str, Any]:
    """Compares two searches for the same items, query by query.

    Args:
        task: the search task.
        places: for A and for B, the rank of the right item of each query, `(Q,)` int64, see `ranks`.
        names: the names of A and B.
        numbers_of_rows: the number of the row that each query comes from.
        queries: the texts of the queries; None for a query that is not a text.
        samples, seed, title: see `bootstrap`.

    Returns:
        the same as `compare_outcomes`. The score of a query is 1 divided by the rank.
    """

    def measure(rows: torch.Tensor, which: int) -> dict[Any, float]:
        return dict(ranking_metrics(places[which][rows]))

    groups = torch.arange(len(places[0]))
    figures = {"metrics": paired_differences(measure, groups, samples, seed, title), "by_kind": {}}
    scores = 1 / places[0].double(), 1 / places[1].double()
    differing = [
        {
            "row": numbers_of_rows[place],
            "kind": None,
            Text.name: queries[place],
            "truth": None,
            **{letter: f"rank {places[which][place]}" for which, letter in enumerate("ab")},
            **{f"score_{letter}": scores[which][place].item() for which, letter in enumerate("ab")},
        }
        for place in differing_rows(places, scores)
    ]
    one, other = places[0] == 1, places[1] == 1
    first = {"both_first": one & other, "only_a_first": one & ~other}
    first |= {"only_b_first": other & ~one, "neither_first": ~one & ~other}
    counts = {name: int(rows.sum()) for name, rows in first.items()} | {"differ": len(differing)}
    result = result_of(figures, names, groups, "queries", scores, counts, differing)
    return {"problem_type": task.problem_type, "left_out": 0, **result, "score": task.row_score}


def names_of_one_alone(one: Outcome, other: Outcome) -> list[str]:
    """The classes that only the first one has."""
    return [name for name in one.task.classes or [] if name not in (other.task.classes or [])]


def unknown_to(without: Outcome, knows: Outcome, truth: torch.Tensor, classes: list[str] | None) -> torch.Tensor:
    """Rows with a truth that is a class of model `knows`, but not of model `without`, `(N,)` bool.

    Args:
        without, knows: the two models' outcomes.
        truth: the truths by number, from `knows`.
        classes: the names of all numbers.
    """
    alone = set(names_of_one_alone(knows, without))
    places = [number for number, name in enumerate(classes or []) if name in alone]
    return knows.labelled & ~without.labelled & torch.isin(truth, torch.tensor(places, dtype=torch.int64))


def in_one_numbering(one: Outcome, other: Outcome) -> tuple[Any, Pair, Pair]:
    """Answers and truths of both models, with the classes (or texts) numbered in the same way, by their names.

    Returns:
        the task with these names (None for numbers); answers and truths of A; answers and truths of B.
    """
    if one.task.names is None or other.task.names is None:
        return one.task, (one.answers, one.targets), (other.answers, other.targets)
    classes = list(dict.fromkeys([*one.task.names, *other.task.names]))
    place = {name: number for number, name in enumerate(classes)}

    def moved(values: torch.Tensor, names: list[str]) -> torch.Tensor:
        order = torch.tensor([place[name] for name in names], dtype=torch.int64)
        if values.ndim == 1:
            return torch.where(values < 0, values, order[values.clamp(min=0)])
        return torch.zeros(len(values), len(classes), dtype=values.dtype).index_copy(1, order, values)

    (answers_a, truth_a), (answers_b, truth_b) = (
        (moved(outcome.answers, outcome.task.names), moved(outcome.targets, outcome.task.names))
        for outcome in (one, other)
    )
    return replace(one.task, names=classes), (answers_a, truth_a), (answers_b, truth_b)


def result_of(
    figures: dict[str, Any],
    names: tuple[str, str],
    groups: torch.Tensor,
    unit: str,
    scores: Pair,
    counts: dict[str, int],
    differing: list[dict[str, Any]],
) -> dict[str, Any]:
    """The results of one comparison.

    Args:
        figures: `metrics` and `by_kind`, see `paired_metrics`.
        names: the names of A and B.
        groups, unit: the groups that resamples drew, and what a group is.
        scores: the row scores of A and B.
        counts: see `counted`.
        differing: what is shown of each row with different answers, including `score_a` and `score_b`.

    Returns:
        `rows`, `groups`, `metrics`, `by_kind`, `counts`, `sign_test`, `verdict` (in words, for the first metric), and
        `differing`, each with `better`: "A", "B" or empty.
    """
    first = next(iter(figures["metrics"]))
    number = int(groups.max()) + 1
    for row in differing:
        gained = row["score_a"] - row["score_b"]
        row["better"] = "A" if gained > 0 else "B" if gained < 0 else ""
    return {
        "rows": len(groups),
        "groups": number,
        **figures,
        "counts": counts,
        "sign_test": sign_test(scores[0] - scores[1], groups),
        "verdict": paired_verdict(figures["metrics"][first], first, names, len(groups), number, unit),
        "differing": differing,
    }


def lines_of(result: dict[str, Any]) -> list[tuple[str, str, dict[str, Any], int | None]]:
    """The lines of a table: the name, the metric, its figures, and, for a kind, the number of rows."""
    first = next(iter(result["metrics"]))
    lines = [(name, name, values, None) for name, values in result["metrics"].items()]
    return lines + [(f"… {kind}", first, values, values["rows"]) for kind, values in result["by_kind"].items()]


def sign_words(result: dict[str, Any], unit: str) -> str:
    """The sign test as a sentence."""
    test = result["sign_test"]
    voters = what_is_counted(unit) if result["groups"] == result["rows"] else f"groups ({unit})"
    return (
        f"Of {result['groups']:,} {voters} A is better on {test['a']:,}, B on {test['b']:,}, and {test['equal']:,} "
        f"are equal. If A and B were equally good, a result as one-sided as this would have probability "
        f"{test['p']:.3g} (exact sign test)."
    )


def count_name(name: str) -> str:
    """A key of the counts in words: "only A right" for `only_a_right`."""
    return " ".join(word.upper() if word in ("a", "b") else word for word in name.split("_"))


def paired_table(result: dict[str, Any], unit: str) -> str:
    """The table of one task, for the terminal."""
    lines = [f"{'':<30}{'A':>10}{'B':>10}{'A − B':>10}  95 % interval"]
    for name, metric, values, _ in lines_of(result):
        scores = "".join(f"{figure(values[side]):>10}" for side in "ab")
        interval = f"[{gap(values['low'], metric)}, {gap(values['high'], metric)}]"
        better = f"  {values['winner'].upper()} is better" if values["winner"] else ""
        lines.append(f"{name:<30}{scores}{gap(values['difference'], metric):>10}  {interval}{better}")
    counts = ", ".join(f"{count_name(name)} {count:,}" for name, count in result["counts"].items())
    return "\n".join([*lines, f"{what_is_counted(unit)}: {counts}", sign_words(result, unit)])
