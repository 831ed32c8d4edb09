"""What two models, A and B, answer of one task, brought together and compared; see `paired` for the figures."""

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
    """What a model answers of one task, for all rows.

    Args:
        task: what the labels ask, see `mm_hf.tasks.Task`; its names are those of the classes, or of texts that are
            written these texts by number.
        answers, targets: as it gives them.
        labelled: which rows have a label, `(N,)` bool.
    """

    task: Any
    answers: torch.Tensor
    targets: torch.Tensor
    labelled: torch.Tensor


@dataclass
class MeasuredRows:
    """What is known of the rows beside their answers.

    Args:
        numbers: what each is called in the data.
        units: of each, what is equal within one unit that resamples draw.
        unit: what a unit is.
        kinds, texts: of each, for the figures by kind and for people to read; None where there are none.
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

    A row whose truth is a class that one model does not have is one that it gets wrong. Rows without a label, or with
    one that a model could not read, count for neither.

    Args:
        one, other: what A and B answer.

    Returns:
        see `result_of`; and `problem_type`, `labels_of_a_alone`, `labels_of_b_alone`, `left_out` (rows) and `score`,
        what the score of a row is.

    Raises:
        ValueError: other problems, other outputs or other labels.
    """
    kinds_of_both = [outcome.task.problem_type for outcome in (one, other)]
    if kinds_of_both[0] != kinds_of_both[1]:
        raise ValueError(
            f"Column {column!r} is {kinds_of_both[0]} for {names[0]} and {kinds_of_both[1]} for {names[1]}: they have "
            "no metric in common."
        )
    if one.task.ordered and one.task.names != other.task.names:
        raise ValueError(
            f"Column {column!r}: {names[0]} has the classes {one.task.names} and {names[1]} has {other.task.names}, "
            "in this order: they can be compared where both have the same."
        )
    task, (answers_a, truth_a), (answers_b, truth_b) = in_one_numbering(one, other)
    if answers_a.shape != answers_b.shape:
        raise ValueError(
            f"Column {column!r}: {names[0]} gives answers of {tuple(answers_a.shape)} and {names[1]} of "
            f"{tuple(answers_b.shape)}."
        )
    both = one.labelled & other.labelled
    others = (truth_a != truth_b).reshape(len(both), -1).any(-1)
    differ = (both & others).nonzero().flatten().tolist()
    if differ:
        raise ValueError(
            f"Column {column!r}: {len(differ)} rows have other labels for {names[0]} than for {names[1]}, the first "
            f"of them row {about.numbers[differ[0]]}."
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
        places: of A and of B the rank of what each query looks for, `(Q,)` int64, see `ranks`.
        numbers_of_rows: of the row that each query is from.
        queries: their texts; None for those that are none.

    Returns:
        as `compare_outcomes`; the score of a query is 1 divided by the rank.
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
    """The classes that the first has and the second has not."""
    return [name for name in one.task.classes or [] if name not in (other.task.classes or [])]


def unknown_to(without: Outcome, knows: Outcome, truth: torch.Tensor, classes: list[str] | None) -> torch.Tensor:
    """Which rows have a truth (as `knows` has it, by number) that one model has a class for, and the other has not,
    `(N,)` bool; `classes` are the names of all numbers."""
    alone = set(names_of_one_alone(knows, without))
    places = [number for number, name in enumerate(classes or []) if name in alone]
    return knows.labelled & ~without.labelled & torch.isin(truth, torch.tensor(places, dtype=torch.int64))


def in_one_numbering(one: Outcome, other: Outcome) -> tuple[Any, Pair, Pair]:
    """Answers and truths of both with the classes (or texts) numbered alike, by their names.

    Returns:
        the task with these names, None for numbers; answers and truths of A, and of B.
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
    """All that is said of one comparison.

    Args:
        figures: `metrics` and `by_kind`, see `paired_metrics`.
        groups, unit: what resamples were drawn of.
        counts: see `counted`.
        differing: of each row that is answered differently what is shown, `score_a` and `score_b` among it.

    Returns:
        `rows`, `groups`, `metrics`, `by_kind`, `counts`, `sign_test`, `verdict` (words on the first metric), and
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
    """The lines of a table: the name, the metric, its figures, and, of a kind, the rows."""
    first = next(iter(result["metrics"]))
    lines = [(name, name, values, None) for name, values in result["metrics"].items()]
    return lines + [(f"… {kind}", first, values, values["rows"]) for kind, values in result["by_kind"].items()]


def sign_words(result: dict[str, Any], unit: str) -> str:
    """The sign test as a sentence."""
    test = result["sign_test"]
    voters = what_is_counted(unit) if result["groups"] == result["rows"] else f"groups ({unit})"
    return (
        f"Of {result['groups']:,} {voters} A is better on {test['a']:,}, B on {test['b']:,}, and {test['equal']:,} "
        f"are equal; if there were no difference, chance would be as one-sided with probability {test['p']:.3g} "
        "(exact sign test)."
    )


def count_name(name: str) -> str:
    """A key of the counts as it is said: "only A right" for `only_a_right`."""
    return " ".join(word.upper() if word in ("a", "b") else word for word in name.split("_"))


def paired_table(result: dict[str, Any], unit: str) -> str:
    """One task, for the terminal."""
    lines = [f"{'':<30}{'A':>10}{'B':>10}{'A − B':>10}  95 % interval"]
    for name, metric, values, _ in lines_of(result):
        scores = "".join(f"{figure(values[side]):>10}" for side in "ab")
        interval = f"[{gap(values['low'], metric)}, {gap(values['high'], metric)}]"
        better = f"  {values['winner'].upper()} is better" if values["winner"] else ""
        lines.append(f"{name:<30}{scores}{gap(values['difference'], metric):>10}  {interval}{better}")
    counts = ", ".join(f"{count_name(name)} {count:,}" for name, count in result["counts"].items())
    return "\n".join([*lines, f"{what_is_counted(unit)}: {counts}", sign_words(result, unit)])
