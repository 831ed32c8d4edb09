"""Compares two models, A and B, on the same rows: the difference of their scores, its interval, and the rows behind
it.

Rows that are hard for both models do not affect the difference. So the difference of two scores on the same rows is
known much better than either score. For this reason each resample is drawn once, and both models are measured on it.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from .comparisons import IN_UNITS, figure, gap, lower_is_better
from .intervals import bootstrap
from .kinds import figures_of, rows_by_kind


Pair = tuple[torch.Tensor, torch.Tensor]
FEW_GROUPS = 20  # with fewer groups the percentiles of a bootstrap are rough
LEAST_GROUPS = 6  # with fewer groups not even a unanimous vote would be significant (two-sided, 1 in 20)
NOTE = (
    "The interval shows how much the difference may depend on the choice of the measured rows. It does not show the "
    "effect of another training seed."
)


def paired_differences(
    measure: Callable[[torch.Tensor, int], dict[Any, float]],
    groups: torch.Tensor,
    samples: int = 1000,
    seed: int = 0,
    title: str | None = None,
) -> dict[Any, dict[str, Any]]:
    """The figures of A and B, and their difference with its 95 % interval (bootstrap, with the same rows for both).

    Args:
        measure: takes rows, int64, and 0 for A or 1 for B, and gives figures by name; NaN if not defined.
        groups, samples, seed, title: see `bootstrap`.

    Returns:
        by name `a`, `b`, `difference` (A minus B), its `low` and `high` (None if not defined, or for fewer than
        `LEAST_GROUPS` groups), and `winner`: "a" or "b" if the interval does not contain 0, else None.
    """
    alone = [measure(torch.arange(len(groups)), place) for place in (0, 1)]

    def differences(rows: torch.Tensor) -> dict[Any, float]:
        first, second = (measure(rows, place) for place in (0, 1))
        return {name: first[name] - second[name] for name in first}

    compared: dict[Any, dict[str, Any]] = {}
    for name, interval in bootstrap(differences, groups, samples, seed, title).items():
        one, other = (None if math.isnan(figures[name]) else figures[name] for figures in alone)
        low, high = (None, None) if len(groups.unique()) < LEAST_GROUPS else (interval["low"], interval["high"])
        compared[name] = {"a": one, "b": other, "difference": interval["value"], "low": low, "high": high}
        compared[name]["winner"] = winner(name[0] if isinstance(name, tuple) else name, low, high)
    return compared


def winner(metric: str, low: float | None, high: float | None) -> str | None:
    """Which one is better by a metric: "a" or "b". None if the interval of A minus B contains 0 or does not exist."""
    if low is None or high is None or low <= 0 <= high:
        return None
    return "a" if (low > 0) != lower_is_better(metric) else "b"


def paired_metrics(
    task: Any,
    answers: Pair,
    targets: torch.Tensor,
    outputs: int,
    groups: torch.Tensor,
    kinds: list | None = None,
    samples: int = 1000,
    seed: int = 0,
    title: str | None = None,
    first_only: bool = False,
) -> dict[str, Any]:
    """The metrics of a task for A and B, and their difference; see `paired_differences`.

    Args:
        task, targets, outputs: see `measure_answers`.
        answers: of A and of B.
        groups: `(N,)` int64, see `group_codes`.
        kinds: the kind of each row, by which the first metric is split; None: it is not.
        samples, seed, title: see `bootstrap`.
        first_only: measure only the first metric.

    Returns:
        `metrics`: by name; `by_kind`: the first metric by kind, with `rows`.
    """
    functions = task.metrics(outputs, validate=False)
    first, by_first = next(iter(functions.items()))
    functions = {first: by_first} if first_only else functions
    chosen = rows_by_kind(kinds or [])

    def measure(rows: torch.Tensor, place: int) -> dict[Any, float]:
        members = {kind: of_kind[rows] for kind, of_kind in chosen.items()}
        return figures_of(functions, (first, by_first), answers[place][rows], targets[rows], members)

    compared = paired_differences(measure, groups, samples, seed, title)
    by_kind = {}
    for kind, rows in chosen.items():
        by_kind[kind] = {**compared[first, kind], "rows": int(rows.sum())}
        if len(groups[rows].unique()) < LEAST_GROUPS:
            by_kind[kind] |= {"low": None, "high": None, "winner": None}
    return {"metrics": {name: compared[name] for name in functions}, "by_kind": by_kind}


def measurer_of(task: Any, values: list[torch.Tensor], several: bool = False) -> Callable[[torch.Tensor, int], float]:
    """A function that measures A and B on the same resamples by the first metric of a task, see `Task.measurer`.

    Args:
        task: see `measure_answers`.
        values: the logits of A and of B, and the labels.
        several: this is one of several tasks, and their scores are averaged.
    """
    one, other, labels = values
    first, present, targets = task.first_metric, task.has_label(labels), task.targets(labels)
    metric = task.metrics(0 if task.writes else one.shape[1], validate=False)[first]
    answers = task.answers(one), task.answers(other)

    def measure(rows: torch.Tensor, place: int) -> float:
        rows = rows[present[rows]]
        if not len(rows):
            return math.nan
        said, true = answers[place][rows], targets[rows]
        value = metric(said, true).item()
        return task.score({first: value}, said, true) if several else value

    return measure


def sign_test(differences: torch.Tensor, groups: torch.Tensor) -> dict[str, Any]:
    """Counts the groups of rows for which A, or B, is better, and tests whether chance alone could be as one-sided
    (exact, two-sided). If each row is a separate group and scores are 0 or 1, this is McNemar's exact test.

    Args:
        differences: `(N,)` float64, the score of A minus the score of B for each row.
        groups: `(N,)` int64, see `group_codes`. Rows of a group are not independent, so they have one vote together.

    Returns:
        `a`, `b` and `equal`, numbers of groups, and `p`.
    """
    votes = torch.zeros(int(groups.max()) + 1, dtype=torch.float64).index_add_(0, groups, differences.double())
    votes[votes.abs() < 1e-9] = 0.0  # ties, except for rounding errors
    for_a, for_b = int((votes > 0).sum()), int((votes < 0).sum())
    count = torch.tensor(for_a + for_b, dtype=torch.float64)
    fewer = torch.arange(min(for_a, for_b) + 1, dtype=torch.float64)
    ways = torch.lgamma(count + 1) - torch.lgamma(fewer + 1) - torch.lgamma(count - fewer + 1)
    p = 2 * torch.logsumexp(ways - count * math.log(2), 0).exp().item()
    return {"a": for_a, "b": for_b, "equal": len(votes) - for_a - for_b, "p": min(1.0, p)}


def differing_rows(answers: Pair, scores: Pair) -> list[int]:
    """The rows with different answers of A and B, the largest difference of scores first."""
    other = (answers[0] != answers[1]).reshape(len(answers[0]), -1).any(-1)
    gaps = (scores[0] - scores[1]).abs().nan_to_num(nan=math.inf)
    order = gaps.where(other, torch.tensor(-1.0, dtype=gaps.dtype)).sort(descending=True, stable=True).indices
    return order[: int(other.sum())].tolist()


def counted(task: Any, answers: Pair, targets: torch.Tensor, scores: Pair) -> dict[str, int]:
    """Counts rows in favour of each model, see `Task.counts`; and `differ`, the rows with different answers."""
    differ = (answers[0] != answers[1]).reshape(len(targets), -1).any(-1)
    counts = {**task.counts(answers, targets, scores), "differ": differ}
    return {name: int(rows.sum()) for name, rows in counts.items()}


def what_is_counted(unit: str) -> str:
    """What is counted: "queries" for a search, else "rows"."""
    return unit if unit == "queries" else "rows"


def paired_verdict(
    compared: dict[str, Any], metric: str, names: tuple[str, str], rows: int, groups: int, unit: str
) -> str:
    """Says in words whether one model is better, by how much, and how sure this is.

    Args:
        compared: the result for the metric, see `paired_differences`.
        metric: its name.
        names: the names of A and B.
        rows, groups: how many rows were measured, and in how many groups.
        unit: what a group is.
    """
    on = f"on {rows:,} {what_is_counted(unit)}" + ("" if groups == rows else f" ({groups:,} groups: {unit})")
    said = metric.replace("_", " ")
    if compared["difference"] is None:
        return f"{said} is not defined {on}, so the models cannot be compared."
    points = "" if metric in IN_UNITS else " points"
    scores = f"{said} {figure(compared['a'])} and {figure(compared['b'])}"
    if compared["low"] is None:
        few = f"with {groups} groups " if groups < LEAST_GROUPS else ""
        interval = f"{few}no interval is defined"
    else:
        interval = f"95 % interval [{gap(compared['low'], metric)}, {gap(compared['high'], metric)}]"
    size = f"{gap(abs(compared['difference']), metric).lstrip('+')}{points} of {said}"
    if compared["winner"] is None:
        words = (
            f"No clear difference between {names[0]} and {names[1]}: {scores}, a difference of "
            f"{gap(compared['difference'], metric)}{points}, {interval}, which contains 0, {on}."
        )
        words = words.replace(", which contains 0", "") if compared["low"] is None else words
    else:
        better, other = names if compared["winner"] == "a" else names[::-1]
        words = f"{better} is better than {other} by {size}: {scores}, {interval} of A minus B, {on}."
    if groups < FEW_GROUPS:
        words += f" With {groups} groups the interval is rough: measure more rows."
    return words
