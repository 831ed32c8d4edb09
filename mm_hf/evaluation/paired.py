"""Two models, A and B, on the same rows: the difference of their scores, how sure it is, and the rows that make it.

What both find hard counts for neither: the difference of two scores on the same rows is known far better than either
score. So each resample is drawn once, and both are measured on it.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from .comparisons import IN_UNITS, figure, gap, lower_is_better
from .intervals import bootstrap
from .kinds import figures_of, rows_by_kind


Pair = tuple[torch.Tensor, torch.Tensor]
FEW_GROUPS = 20  # below it the percentiles of a bootstrap are rough
LEAST_GROUPS = 6  # below it not even votes that all say the same would be surprising (two-sided, 1 in 20)
NOTE = (
    "The interval says how far the choice of just these rows may have moved the difference. It does not say what "
    "another seed of training would give."
)


def paired_differences(
    measure: Callable[[torch.Tensor, int], dict[Any, float]],
    groups: torch.Tensor,
    samples: int = 1000,
    seed: int = 0,
    title: str | None = None,
) -> dict[Any, dict[str, Any]]:
    """The figures of A and of B, and their difference with its 95 % interval (bootstrap, the same rows for both).

    Args:
        measure: takes rows, int64, and 0 for A or 1 for B, and gives figures by name; NaN for what is not defined.
        groups, samples, seed, title: see `bootstrap`.

    Returns:
        by name `a`, `b`, `difference` (A minus B), `low` and `high` of it, None for what is not defined or of fewer
        than `LEAST_GROUPS` groups, and `winner`: "a" or "b" where the interval does not contain 0, else None.
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
    """Who is better by a metric: "a" or "b"; None where the interval of A minus B contains 0, or there is none."""
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
    """The metrics of a task, of A, of B, and their difference; see `paired_differences`.

    Args:
        answers: of A and of B.
        task, targets, outputs: see `measure_answers`.
        groups: `(N,)` int64, see `group_codes`.
        kinds: for each row what it is a question of; None: not by kind.

    Returns:
        `metrics`: by name; `by_kind`: the first metric for each kind, with `rows`.
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
    """What measures A and B on resamples of the same rows, by the first metric of a task: see `Task.measurer`.

    Args:
        task: see `measure_answers`.
        values: the logits of A and of B, and the labels.
        several: it is one of several tasks, whose scores are averaged.
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
    """How many groups of rows speak for A and how many for B, and how often chance alone would be as one-sided (exact,
    two-sided). Where each row is a group of its own and scores are 0 or 1, this is McNemar's exact test.

    Args:
        differences: `(N,)` float64, of the scores of each row, A minus B.
        groups: `(N,)` int64, see `group_codes`: their rows are no independent votes, so they have one together.

    Returns:
        `a`, `b` and `equal`, numbers of groups, and `p`.
    """
    votes = torch.zeros(int(groups.max()) + 1, dtype=torch.float64).index_add_(0, groups, differences.double())
    votes[votes.abs() < 1e-9] = 0.0  # ties, but for rounding
    for_a, for_b = int((votes > 0).sum()), int((votes < 0).sum())
    count = torch.tensor(for_a + for_b, dtype=torch.float64)
    fewer = torch.arange(min(for_a, for_b) + 1, dtype=torch.float64)
    ways = torch.lgamma(count + 1) - torch.lgamma(fewer + 1) - torch.lgamma(count - fewer + 1)
    p = 2 * torch.logsumexp(ways - count * math.log(2), 0).exp().item()
    return {"a": for_a, "b": for_b, "equal": len(votes) - for_a - for_b, "p": min(1.0, p)}


def differing_rows(answers: Pair, scores: Pair) -> list[int]:
    """The rows that A and B answer differently, those with the largest difference of scores first."""
    other = (answers[0] != answers[1]).reshape(len(answers[0]), -1).any(-1)
    gaps = (scores[0] - scores[1]).abs().nan_to_num(nan=math.inf)
    order = gaps.where(other, torch.tensor(-1.0, dtype=gaps.dtype)).sort(descending=True, stable=True).indices
    return order[: int(other.sum())].tolist()


def counted(task: Any, answers: Pair, targets: torch.Tensor, scores: Pair) -> dict[str, int]:
    """How many rows speak for which, see `Task.counts`; and `differ`, the rows that are answered differently."""
    differ = (answers[0] != answers[1]).reshape(len(targets), -1).any(-1)
    counts = {**task.counts(answers, targets, scores), "differ": differ}
    return {name: int(rows.sum()) for name, rows in counts.items()}


def what_is_counted(unit: str) -> str:
    """Queries of a search, rows of everything else."""
    return unit if unit == "queries" else "rows"


def paired_verdict(
    compared: dict[str, Any], metric: str, names: tuple[str, str], rows: int, groups: int, unit: str
) -> str:
    """Says in words whether one is better, by how much, and how sure that is.

    Args:
        compared: of the metric, see `paired_differences`.
        rows, groups: how many were measured, and of what the resamples are drawn.
        unit: what a group is.
    """
    on = f"on {rows:,} {what_is_counted(unit)}" + ("" if groups == rows else f" ({groups:,} groups: {unit})")
    said = metric.replace("_", " ")
    if compared["difference"] is None:
        return f"{said} is not defined {on}: nothing can be said."
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
            f"No difference can be told between {names[0]} and {names[1]}: {scores}, a difference of "
            f"{gap(compared['difference'], metric)}{points}, {interval}, which contains 0, {on}."
        )
        words = words.replace(", which contains 0", "") if compared["low"] is None else words
    else:
        better, other = names if compared["winner"] == "a" else names[::-1]
        words = f"{better} is better than {other} by {size}: {scores}, {interval} of A minus B, {on}."
    if groups < FEW_GROUPS:
        words += f" With {groups} groups the interval is rough: measure more rows."
    return words
