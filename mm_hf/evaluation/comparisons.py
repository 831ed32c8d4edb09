"""Compares a score with its floors (baselines), in words."""

import math
from collections.abc import Iterable, Mapping
from typing import Any


# For these metrics a lower value is better. With several tasks, the name of the task is put before the metric.
LOWER_IS_BETTER = {"rmse", "mae", "wer", "median_rank"}
# Differences of these metrics are given in their own unit, all others in percentage points.
IN_UNITS = {"rmse", "mae", "median_rank", "r2", "pearson", "spearman"}  # of the label, of ranks, of a correlation
# The smallest and largest value of metrics, if known. With several tasks, the name of the task is put before the
# metric.
RANGES = {
    **dict.fromkeys(("accuracy", "f1", "f1_micro", "f1_macro", "exact_match", "chrf", "mean_recall"), (0.0, 1.0)),
    **dict.fromkeys(LOWER_IS_BETTER, (0.0, math.inf)),
    **dict.fromkeys(("pearson", "spearman"), (-1.0, 1.0)),
    "r2": (-math.inf, 1.0),
}
# The floors that do not look at a row, in words. With several tasks, the name of the task is put before them.
CONSTANTS = {
    "majority": "the most frequent answer for every row",
    "wer_of_majority": "the most frequent answer for every row",
    "mean": "the mean for every row",
    "mae_of_median": "the median for every row",
    "constant_guess": "the best constants of all tasks",
    "chance_mean_recall": "a search in random order",
    "chance_recall_at_1": "a search in random order",
}
LINE = "linear"  # the floor of a linear model
# The names of other floors in a sentence, and what to try if the model is not better. With several tasks, the name of
# the task is put before them. A floor belongs to the first entry that its name ends with.
FLOOR_WORDS = {LINE: "a linear model on the same frozen features"}
WHAT_TO_TRY = {
    LINE: "--fusion linear (this linear model as a checkpoint), more rows, another layer of the encoder",
    "shuffled_pairs": "another --fusion, more rows",
    "_only": "leave the other columns out, another --fusion",
}
TRY_AGAINST_CONSTANTS = "more steps, another learning rate"
NO_FLOORS = "No floor (baseline) was measured, so nobody can know whether this score is better than a guess."


def add_metrics(lower_is_better: Iterable[str], in_units: Iterable[str], guesses: Mapping[str, str]):
    """Registers the metrics of a task from outside the package.

    Args:
        lower_is_better, in_units: names of metrics, see `LOWER_IS_BETTER` and `IN_UNITS`.
        guesses: the floors that do not look at a row, and their names in a sentence.
    """
    LOWER_IS_BETTER.update(lower_is_better)
    IN_UNITS.update(in_units)
    CONSTANTS.update(guesses)


def lower_is_better(metric: str) -> bool:
    """Whether a lower value of a metric is better, also for the metric of one of several tasks."""
    return any(metric == name or metric.endswith(f"_{name}") for name in LOWER_IS_BETTER)


def range_of(metric: str) -> tuple[float, float]:
    """The smallest and largest value of a metric. Infinite if unknown."""
    if metric == "score":  # the mean of several tasks, see `multi_task_metrics`
        return -math.inf, 1.0
    if "recall_at_" in metric:
        return 0.0, 1.0
    ranges = (ends for name, ends in RANGES.items() if metric == name or metric.endswith(f"_{name}"))
    return next(ranges, (-math.inf, math.inf))


def constant_of(floor: str) -> str | None:
    """The name in a sentence of a floor that does not look at a row. None for other floors."""
    for name, words in CONSTANTS.items():
        if floor == name:
            return words
        if floor.endswith(f"_{name}"):
            return f"{words} ({floor.removesuffix(f'_{name}')})"
    return None


def figure(value: float | None) -> str:
    """A figure for a report: four digits after the point, or a suitable number of digits for very large and very small
    values. "–" for None."""
    if value is None:
        return "–"
    size = abs(value)
    if not math.isfinite(size) or size == 0 or 1e-3 <= size < 1000:
        return f"{value:.4f}"
    return f"{value:,.1f}" if 1000 <= size < 1e9 else f"{value:.4g}"


def gap(value: float | None, metric: str) -> str:
    """A difference with its sign: percentage points for shares, the own unit for numbers."""
    if value is None:
        return "–"
    if metric in IN_UNITS:
        return f"{'+' if value > 0 else ''}{figure(value)}"
    return f"{100 * value:+.1f}"


def compare(
    metrics: Mapping[str, float | None],
    floors: Iterable[tuple[str, str, float | None]],
    intervals: Mapping[str, tuple[float | None, float | None]] | None = None,
) -> list[dict[str, Any]]:
    """Compares scores with floors.

    Args:
        metrics: the scores by name. None or NaN means that a score is not defined; it beats nothing.
        floors: the name, metric and value of each floor. Floors without a value are left out.
        intervals: the 95 % intervals of metrics, if known.

    Returns:
        for each floor `floor`, `metric`, `score` (None if not defined), `value`, `better` ("higher" or "lower"),
        `beaten`: whether the score is better than the floor by more than rounding; `constant`: whether the floor does
        not look at rows; `in_interval`: whether the floor is within the interval of the score, None if there is no
        interval.
    """
    comparisons = []
    for floor, metric, value in floors:
        score = metrics[metric]
        if value is None or math.isnan(value):
            continue
        score = None if score is None or math.isnan(score) else score
        lower = lower_is_better(metric)
        low, high = (intervals or {}).get(metric, (None, None))
        comparisons.append(
            {
                "floor": floor,
                "metric": metric,
                "score": score,
                "value": value,
                "better": "lower" if lower else "higher",
                "beaten": score is not None
                and (score < value if lower else score > value)
                and not math.isclose(score, value, rel_tol=1e-6),
                "constant": constant_of(floor) is not None,
                "in_interval": None if low is None or high is None else low <= value <= high,
            }
        )
    return comparisons


def is_beaten(comparison: Mapping[str, Any]) -> bool:
    """Whether the score is better than a floor. If both were compared row by row (`paired`, see `paired_differences`),
    the interval of the difference must not contain 0. Otherwise any difference counts."""
    paired = comparison.get("paired")
    if paired is None or paired["low"] is None:
        return comparison["beaten"]
    return comparison["beaten"] and paired["winner"] == "a"


def verdict(comparisons: list[dict[str, Any]]) -> str:
    """Says in one line whether the model is better than a constant guess and than the other floors. If it is not, the
    line also says what to try.

    Args:
        comparisons: see `compare`.
    """
    if not comparisons:
        return NO_FLOORS
    constants = [entry for entry in comparisons if entry["constant"]]
    others = [entry for entry in comparisons if not entry["constant"]]
    sentences = []
    if missed := [entry for entry in constants if not is_beaten(entry)]:
        sentences.append(f"This model does NOT beat the constant guess: {'; '.join(map(in_words, missed))}.")
    elif constants:
        sentences.append(f"This model beats the constant guess: {in_words(constants[0])}.")
    shown: list[dict[str, Any]] = []
    if missed_others := [entry for entry in others if not is_beaten(entry)]:
        behind, ahead = ([entry for entry in missed_others if entry["beaten"] is beaten] for beaten in (False, True))
        if behind:
            sentences.append(f"It does NOT beat {'; '.join(map(in_words, behind))}.")
        if ahead:
            sentences.append(f"It is ahead, but NOT beyond chance: {'; '.join(map(in_words, ahead))}.")
        shown = missed_others
    elif others:
        nearest = min(others, key=lambda entry: abs(entry["score"] - entry["value"]))
        sentences.append(f"It beats every other floor. The nearest one is {in_words(nearest)}.")
        shown = [nearest]
    sentences += filter(None, map(interval_in_words, shown))
    if advice := what_to_try([*missed, *missed_others]):
        sentences.append(f"To try: {advice}.")
    return " ".join(sentences)


def what_to_try(missed: Iterable[Mapping[str, Any]]) -> str:
    """What may help a model that does not beat some floors, without repetition. Empty if there are no such floors.

    Args:
        missed: see `compare`. For the linear floor, `keeps_line` says whether a model can be this linear model, see
            `Task.keeps_line`.
    """
    advice: list[str] = []
    for floor in missed:
        ends = [words for name, words in WHAT_TO_TRY.items() if floor["floor"].endswith(name)]
        if floor["floor"] == LINE and not floor.get("keeps_line", True):
            ends = [words.partition(", ")[2] for words in ends]
        advice += (TRY_AGAINST_CONSTANTS if floor["constant"] else next(iter(ends), "")).split(", ")
    return ", ".join(dict.fromkeys(filter(None, advice)))


def words_of_floor(floor: str) -> str:
    """The name of a floor in a sentence."""
    for name, words in FLOOR_WORDS.items():
        if floor == name:
            return words
        if floor.endswith(f"_{name}"):
            return f"{words} ({floor.removesuffix(f'_{name}')})"
    return constant_of(floor) or floor.replace("_", " ")


def in_words(comparison: Mapping[str, Any]) -> str:
    """One comparison in words: both numbers, which direction is better, and the difference."""
    floor = comparison.get("words") or words_of_floor(comparison["floor"])
    metric, score, value = comparison["metric"].replace("_", " "), comparison["score"], comparison["value"]
    if score is None:
        return f"{metric} is not defined, {floor} gives {figure(value)}"
    words = f"{metric} {figure(score)}, {floor} {figure(value)} ({comparison['better']} is better"
    if comparison["beaten"]:
        words += f"; better by {figure(abs(score - value))}"
    if comparison["in_interval"]:
        words += "; within the score's 95 % interval"
    return f"{words})"


def interval_in_words(comparison: Mapping[str, Any]) -> str:
    """The interval of the difference in words, if both were compared row by row; else empty."""
    paired = comparison.get("paired")
    if paired is None or paired["low"] is None:
        return ""
    low, high = (gap(paired[end], comparison["metric"]) for end in ("low", "high"))
    points = "" if comparison["metric"] in IN_UNITS else " points"
    return f"On the same rows the difference is {low} to {high}{points} (95 %)."
