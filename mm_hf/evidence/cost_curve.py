"""The score of answers against the price of the modalities: for the plan of `missing`, and for fixed orders."""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np

from .coalition_answers import Coalition, CoalitionAnswers
from .missing import Missing, Policy


# Values of `Policy.worth`. With the smallest, nearly all modalities are obtained; with the largest, none.
WORTHS = tuple(round(0.01 * 1.25**step, 4) for step in range(24))
MOST_IN_ORDERS = 4
Point = dict[str, float]


def cost_curve(
    missing: Missing,
    rows: CoalitionAnswers,
    start: Collection[str] = (),
    prices: Mapping[str, float] | None = None,
    worths: Sequence[float] = WORTHS,
) -> dict[str, Any]:
    """Simulates plans on rows that have all modalities and labels.

    Args:
        missing: fitted on other rows.
        rows: the answers of the model for these rows, for all coalitions that contain `start`.
        start: modalities that every row has from the start.
        prices: by modality; the default is 1.
        worths: see `Policy.worth`; each value gives one point of the curves.

    Returns:
        `start`, `prices`, `rows`, and `lines`: by name, a list of points. A point has `price` (the mean over the rows,
        as a share of the price of all modalities that `start` lacks), `score`, and `worth` (of the last plan that
        gives this point). The best fixed order and the best common set of modalities are chosen on the rows that
        `missing` was fitted on.

    Raises:
        ValueError: no row has all modalities and a label, or there is nothing to pay for.
    """
    first, given = Coalition(start), missing.checked(prices)
    rest = [name for name in missing.modalities if name not in first]
    total = sum(given[name] for name in rest)
    given = {name: given[name] if name in rest else 0.0 for name in given}
    if not total:
        raise ValueError(
            f"There is nothing to pay for: the rows have {list(start)} from the start, and the prices are {given}. "
            "Give fewer modalities, or prices above 0."
        )
    score = missing.scores(rows)
    usable = np.isfinite(score[Coalition(missing.modalities)])
    if not usable.any():
        raise ValueError(f"None of {len(rows)} rows has a label and all modalities {missing.modalities}.")

    kept: dict[Coalition, np.ndarray] = {}

    def fixed(obtained: Coalition) -> Point:
        price = sum(given[name] for name in obtained) / total
        return {"price": price, "score": score[first | obtained][usable].mean()}

    def played(policy: Policy, worth: float) -> Point:
        followed = policy.follow(rows, first, kept)
        reached = followed.scores(score)[usable]
        return {"price": followed.paid[usable].mean() / total, "score": reached.mean(), "worth": worth}

    ends = [fixed(Coalition()), fixed(Coalition(rest))]  # no modality obtained, and all modalities obtained
    lines: dict[str, list[Point]] = {"plan": list(ends), "fixed_order": list(ends)}
    for worth in worths:
        lines["plan"].append(played(Policy(missing, given, None, worth, [first]), worth))
        orders = [Policy(missing, given, None, worth, [first], order) for order in orders_of(missing, first, given)]
        lines["fixed_order"].append(played(max(orders, key=lambda policy: known_value(policy, first)), worth))
    sets = {Coalition(obtained) for size in range(len(rest) + 1) for obtained in combinations(rest, size)}
    lines["same_for_all"] = [fixed(obtained) for obtained in hull(missing, sets, first, given)]
    lines["random_order"] = []
    for size in range(len(rest) + 1):
        points = [fixed(obtained) for obtained in sets if len(obtained) == size]
        lines["random_order"].append({key: float(np.mean([each[key] for each in points])) for key in points[0]})
    return {
        "start": sorted(first),
        "prices": {name: given[name] for name in rest},
        "rows": int(usable.sum()),
        "learned_from": int(np.isfinite(missing.score[first]).sum()),
        "lines": {name: tidy(line) for name, line in lines.items()},
    }


def orders_of(missing: Missing, start: Coalition, prices: Mapping[str, float]) -> list[tuple[str, ...]]:
    """The candidate orders. Up to four modalities: all orders. More: only the greedy order, where the next modality
    brings the most for its price."""
    rest = [name for name in missing.modalities if name not in start]
    if len(rest) <= MOST_IN_ORDERS:
        return list(permutations(rest))
    order: list[str] = []
    while len(order) < len(rest):
        seen = start.union(order)
        gains = {name: np.nanmean(missing.gain(seen, Coalition([name]))) for name in rest if name not in order}
        order.append(max(gains, key=lambda name: gains[name] / max(prices[name], 1e-9)))
    return [tuple(order)]


def tidy(line: Sequence[Point]) -> list[Point]:
    """Points sorted by price, as plain numbers for JSON. Of equal points, the last is kept."""
    rounded = [{name: round(float(value), 6) for name, value in point.items()} for point in line]
    distinct = {(point["price"], point["score"]): point for point in rounded}
    return [distinct[place] for place in sorted(distinct)]


def known_value(policy: Policy, start: Coalition) -> float:
    """The mean value of a policy on the rows that it was fitted on. Each row follows the plan learned from other
    rows."""
    score = np.stack([policy.missing.score[seen] for seen in policy.planned])[
        policy.ends[start], np.arange(len(policy.missing.answers))
    ]
    return float(np.nanmean(score - policy.rate * policy.spent[start]))


def hull(
    missing: Missing, sets: Collection[Coalition], start: Coalition, prices: Mapping[str, float]
) -> list[Coalition]:
    """The sets of modalities that are the best for some price, on the rows of the fit, sorted by price."""
    score = {obtained: float(np.nanmean(missing.score[start | obtained])) for obtained in sets}
    price = {obtained: sum(prices[name] for name in obtained) for obtained in sets}
    chosen: list[Coalition] = []
    for obtained in sorted(sets, key=lambda obtained: (price[obtained], -score[obtained], sorted(obtained))):
        if chosen and score[obtained] <= score[chosen[-1]]:
            continue
        while len(chosen) > 1 and slope(chosen[-2], chosen[-1], score, price) <= slope(
            chosen[-1], obtained, score, price
        ):
            chosen.pop()
        chosen.append(obtained)
    return chosen


def slope(
    one: Coalition, other: Coalition, score: Mapping[Coalition, float], price: Mapping[Coalition, float]
) -> float:
    """The gain in score per price, from one set to another."""
    return (score[other] - score[one]) / max(price[other] - price[one], 1e-12)


def score_at(line: Sequence[Point], price: float) -> float:
    """The score of a line at a price, by linear interpolation between two points. It is reached by treating a share of
    the rows in one way and the others in the other way."""
    return float(np.interp(price, [point["price"] for point in line], [point["score"] for point in line]))


def price_of(line: Sequence[Point], score: float) -> float | None:
    """The lowest price at which a line reaches a score, by linear interpolation; None if it never reaches it."""
    reached = [place for place, point in enumerate(line) if point["score"] >= score]
    if not reached:
        return None
    last = line[reached[0]]
    before = line[reached[0] - 1] if reached[0] else last
    rise = last["score"] - before["score"]
    return before["price"] + (last["price"] - before["price"]) * ((score - before["score"]) / rise if rise > 0 else 1)
