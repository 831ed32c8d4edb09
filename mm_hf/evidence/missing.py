"""Says what to ask for next: the expected gain of each missing modality of a row, and the order in which to obtain
them.

The order depends on the prices, and ends when the answer is certain enough.

The content of a missing modality is unknown. But its effect on rows that have it is known. Every set of modalities is
tried on labelled rows that the model was not trained on. For a new row, the expected effect is the mean over similar
known rows (`Alike`). The state of a row is the set of its modalities, the certainty of the answer, and its fused
vector. A plan is computed backwards: if all modalities are visible, nothing is left to ask for. Otherwise, the value
of asking for a modality is the score at the end of the plan from there on, minus the price. So a modality that helps
only together with another (XOR) is asked for, and a cheap modality that often decides the answer comes first.

This is active feature acquisition. Saar-Tsechansky, Melville and Provost 2009 use the expected utility of a value for
its price (https://doi.org/10.1287/mnsc.1080.0952). Shim, Hwang and Yang 2018 (arXiv 1709.05964) and Li and Oliva 2021
(arXiv 2010.02433) learn when to stop and what to ask for as a decision process. Covert et al. 2023 (arXiv 2301.00557)
use the expected information gain, one step ahead. A row has few modalities, so all sets can be tried, and no policy
has to be learned by trial. The plan comes from backward regression of the values of a process that may stop at each
step (Longstaff and Schwartz 2001, https://doi.org/10.1093/rfs/14.1.113).
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..models.names import did_you_mean
from ..models.tasks import TaskHead
from ..tasks import Task
from .alike import Alike, mean_of
from .coalition_answers import Coalition, CoalitionAnswers, Scores, coalitions_of


MOST_MODALITIES = 6  # 64 sets of them
FEW_ROWS = 100
WORTH = 0.02  # least gain in score for the price of all modalities together; a smaller gain is noise
SHOWN_SETS = 3  # number of listed sets of modalities
Features = tuple[np.ndarray, np.ndarray]


class Missing:
    """The expected gains of missing modalities.

    Args:
        tasks: by name; the key of a single task is None.
        heads: the task heads of the model, by the same names.
        answers: for rows with labels, all coalitions; see `look`. The model must not have been trained on these rows.
        seed: of the forests.

    Attributes:
        scores: the scale of the scores, see `Scores`.
        score: by coalition, the score of each of these rows, `(N,)`; NaN if it is not known.
        warnings: limits of the estimates.

    Raises:
        ValueError: there are no labels, or too many modalities to try all sets.
    """

    def __init__(
        self,
        tasks: Mapping[str | None, Task],
        heads: Mapping[str | None, TaskHead],
        answers: CoalitionAnswers,
        seed: int = 0,
    ):
        if len(answers.modalities) > MOST_MODALITIES:
            raise ValueError(
                f"The model has {len(answers.modalities)} modalities, but --missing supports at most "
                f"{MOST_MODALITIES}, because it tries every set of them: leave --missing out."
            )
        self.heads, self.answers, self.scores, self.seed = dict(heads), answers, Scores(tasks, answers), seed
        self.score = self.scores(answers)
        self.warnings: list[str] = []
        labelled = int(np.isfinite(self.score[Coalition()]).sum())
        if labelled < FEW_ROWS:
            self.warnings.append(
                f"The gains are rough estimates: they come from {labelled} rows, fewer than {FEW_ROWS}."
            )
        self._alike: dict[Coalition, Alike | None] = {}

    @property
    def modalities(self) -> list[str]:
        """All modalities of the model."""
        return self.answers.modalities

    def alike(self, seen: Coalition) -> Alike | None:
        """The weights of similar rows if a coalition is visible; None if no row has it and a label."""
        if seen not in self._alike:
            rest = [name for name in self.modalities if name not in seen]
            gains = [self.gain(seen, obtained) for obtained in coalitions_of(rest) if obtained]
            targets = np.stack([self.score[seen], *gains], 1)
            known = bool(np.isfinite(targets).any())
            features = self.answers.features(seen, self.heads)
            self._alike[seen] = Alike(features, targets, self.seed) if known else None
        return self._alike[seen]

    def gain(self, seen: Coalition, obtained: Coalition) -> np.ndarray:
        """The gain in score from obtaining some modalities, for each row of the fit, `(N,)`."""
        return self.score[seen | obtained] - self.score[seen]

    def sureness(self, seen: Coalition) -> np.ndarray:
        """The expected score of each row of the fit if a coalition is visible, `(N,)`, estimated from other rows."""
        alike = self.alike(seen)
        return np.full(len(self.answers), np.nan) if alike is None else mean_of(alike.weights, self.score[seen])

    def gains(self, rows: CoalitionAnswers) -> list[dict[str, Any]]:
        """For each row, the expected gain of its missing modalities.

        Args:
            rows: the answers of the model for the coalition of all modalities; see `look`.

        Returns:
            `missing`; `sure`, the expected score of the row as it is; `gains`, by missing modality, the gain of this
            modality alone; and `together`, a list of `of` and `gain` for sets of modalities, the best first. A value
            is None if no known row is similar.
        """
        told: list[dict[str, Any]] = [{} for _ in range(len(rows))]
        for seen, places, weights in self._by_coalition(rows):
            missing = [name for name in self.modalities if name not in seen]
            sure = mean_of(weights, self.score[seen])
            gains = {
                obtained: mean_of(weights, self.gain(seen, obtained))
                for obtained in coalitions_of(missing)
                if obtained
            }
            for number, place in enumerate(places):
                of_row = {obtained: number_or_none(values[number]) for obtained, values in gains.items()}
                several = [obtained for obtained, gain in of_row.items() if len(obtained) > 1 and gain is not None]
                best = sorted(several, key=lambda obtained: (-round(of_row[obtained] or 0.0, 4), len(obtained)))
                told[place] = {
                    "missing": missing,
                    "sure": number_or_none(sure[number]),
                    "gains": {name: of_row[Coalition([name])] for name in missing},
                    "together": [
                        {"of": [name for name in missing if name in obtained], "gain": of_row[obtained]}
                        for obtained in best[:SHOWN_SETS]
                    ],
                }
        return told

    def plan(
        self,
        rows: CoalitionAnswers,
        prices: Mapping[str, float] | None = None,
        until: float | None = None,
        worth: float = WORTH,
    ) -> list[dict[str, Any]]:
        """For each row, what to obtain next, and the expected rest of the plan.

        Args:
            rows: see `gains`.
            prices: by modality; the default is 1.
            until, worth: see `Policy`.

        Returns:
            `next`, the modality to obtain first, or None if the answer is certain enough or nothing is worth its
            price; `order`, a list of `modality` and `chance`, the probability that it is obtained in the end, which
            depends on the content of the first modalities; `price`, the expected total price; `score`, the expected
            final score; and `reason`, why nothing is asked for: "complete", "sure", "not worth it" or "unknown" (no
            known row has the same modalities).
        """
        policy = Policy(self, self.checked(prices), until, worth, {rows.of_row(row) for row in range(len(rows))})
        told: list[dict[str, Any]] = [{} for _ in range(len(rows))]
        for seen, places, weights in self._by_coalition(rows):
            sure = mean_of(weights, self.score[seen])
            for number, (place, first) in enumerate(zip(places, policy.choose(seen, weights))):
                score, order = float(sure[number]), list[dict[str, Any]]()
                reason: str | None = None
                if first is not None:
                    chances, gained = policy.ahead(seen, first, weights[number])
                    order = [{"modality": name, "chance": chance} for name, chance in chances.items()]
                    score += gained
                elif len(seen) == len(self.modalities):
                    reason = "complete"
                elif np.isnan(score):
                    reason = "unknown"
                else:
                    reason = "sure" if until is not None and score >= until else "not worth it"
                told[place] = {
                    "next": first,
                    "order": order,
                    "price": sum(policy.prices[step["modality"]] * step["chance"] for step in order),
                    "score": number_or_none(score),
                    "reason": reason,
                }
        return told

    def checked(self, prices: Mapping[str, float] | None) -> dict[str, float]:
        """The price of each modality; the default is 1.

        Raises:
            ValueError: the model does not have a modality, or a price is not a number of at least 0.
        """
        for name, price in (prices or {}).items():
            if name not in self.modalities:
                raise ValueError(
                    f"prices names {name!r}; the model has {self.modalities}.{did_you_mean(name, self.modalities)}"
                )
            if isinstance(price, bool) or not 0 <= price < math.inf:
                raise ValueError(f"The price of {name} must be a number of at least 0, got {price!r}.")
        return {name: float((prices or {}).get(name, 1.0)) for name in self.modalities}

    def _by_coalition(self, rows: CoalitionAnswers) -> Iterator[tuple[Coalition, list[int], np.ndarray]]:
        """The rows grouped by their modalities: the coalition, the places of its rows, and the weights of the similar
        known rows, `(n, N)`."""
        of_rows = [rows.of_row(row) for row in range(len(rows))]
        for seen in dict.fromkeys(of_rows):
            places = [row for row, coalition in enumerate(of_rows) if coalition == seen]
            yield seen, places, self.weights(seen, rows, places)

    def weights(self, seen: Coalition, rows: CoalitionAnswers, places: list[int]) -> np.ndarray:
        """For some rows with a visible coalition, the weights of the similar known rows, `(n, N)`."""
        alike = self.alike(seen)
        if alike is None:
            return np.zeros((len(places), len(self.answers)), dtype=np.float32)
        # For incomplete rows, the answer with all modalities equals the answer with the modalities that they have.
        known = seen if seen in rows.pooled or not seen else Coalition(self.modalities)
        sure, vectors = rows.features(known, self.heads)
        return alike.of((sure[places], vectors[places]))


def number_or_none(value: float) -> float | None:
    """A number for JSON; None for NaN."""
    return None if math.isnan(value) else float(value)


class Policy:
    """What to obtain next, for any set of visible modalities and given prices.

    The value of obtaining a modality is the score at the end of the plan, minus the present score, minus the cost. The
    price of all modalities costs `worth` of score; a part of the price costs the same part of it.

    Args:
        missing: the fitted gains.
        prices: by modality.
        until: the expected score at which the answer is certain enough. Then no more is asked for, and a higher score
            has no value. None: only prices decide.
        worth: the score that equals the price of all modalities together.
        starts: coalitions that rows begin with; smaller ones are not planned.
        order: a fixed order in which modalities are obtained, if at all; this is a baseline.

    Attributes:
        spent: by coalition, the price that is spent on each known row from there on, `(N,)`.
        ends: by coalition, the final coalition of each known row, as a number in `planned`, `(N,)`.
    """

    def __init__(
        self,
        missing: Missing,
        prices: Mapping[str, float],
        until: float | None = None,
        worth: float = WORTH,
        starts: Collection[Coalition] = (Coalition(),),
        order: Sequence[str] | None = None,
    ):
        self.missing, self.prices, self.until, self.order = missing, dict(prices), until, order
        self.rate = worth / (sum(prices.values()) or 1.0)
        planned = {seen for start in starts for seen in coalitions_of(missing.modalities, start)}
        self.planned = sorted(planned, key=lambda coalition: (-len(coalition), sorted(coalition)))
        self.rewards = np.stack([self._reward(seen) for seen in self.planned])  # (coalitions, N)
        self.ends: dict[Coalition, np.ndarray] = {}
        self.spent: dict[Coalition, np.ndarray] = {}
        for number, seen in enumerate(self.planned):
            self._plan(number, seen)

    def _reward(self, seen: Coalition) -> np.ndarray:
        """The value of ending with a coalition, `(N,)`: the score, but on average at most `until`."""
        score = self.missing.score[seen]
        return score if self.until is None else score - (self.missing.sureness(seen) - self.until).clip(min=0)

    def _plan(self, number: int, seen: Coalition):
        """Computes the best plan for a visible coalition from the plans for larger ones."""
        rows = len(self.missing.answers)
        self.ends[seen], self.spent[seen] = np.full(rows, number), np.zeros(rows)
        alike = self.missing.alike(seen)
        if alike is None:
            return
        for row, name in enumerate(self.choose(seen, alike.weights)):
            after = seen if name is None else seen | {name}
            if name is not None and np.isfinite(self.missing.score[after][row]):  # otherwise the row lacks it
                self.ends[seen][row] = self.ends[after][row]
                self.spent[seen][row] = self.prices[name] + self.spent[after][row]

    def allowed(self, seen: Coalition) -> list[str]:
        """What may be obtained next."""
        rest = [name for name in self.order or self.missing.modalities if name not in seen]
        return rest if self.order is None else rest[:1]

    def value(self, seen: Coalition, name: str) -> np.ndarray:
        """The gain from obtaining a modality and following the plan from there, minus the cost, `(N,)`."""
        after, number = seen | {name}, self.planned.index(seen)
        reached = self.rewards[self.ends[after], np.arange(self.rewards.shape[1])]
        return reached - self.rewards[number] - self.rate * (self.prices[name] + self.spent[after])

    def choose(self, seen: Coalition, weights: np.ndarray) -> list[str | None]:
        """For each row with this coalition, what to obtain next; None for nothing. For the weights see `Alike`."""
        names = self.allowed(seen)
        if not names:
            return [None] * len(weights)
        values = np.stack([mean_of(weights, self.value(seen, name)) for name in names], 1)
        values = np.nan_to_num(values, nan=-np.inf)
        stops = values.max(1) <= 0
        if self.until is not None:
            stops |= np.nan_to_num(mean_of(weights, self.missing.score[seen]), nan=-np.inf) >= self.until
        return [None if stop else names[best] for stop, best in zip(stops, values.argmax(1))]

    def ahead(self, seen: Coalition, first: str, weights: np.ndarray) -> tuple[dict[str, float], float]:
        """What follows if a row obtains one modality first: the probability of each modality to be obtained in the
        end, the most probable first; and the expected gain in score, without prices. The weights are `(N,)`."""
        after, learned = seen | {first}, self.missing
        ends = self.ends[after]
        reached = np.stack([learned.score[coalition] for coalition in self.planned])[ends, np.arange(len(ends))]
        gained = reached - learned.score[seen]
        chances = {first: 1.0}
        for name in learned.modalities:
            if name not in after:
                holds = np.array([float(name in coalition) for coalition in self.planned])[ends]
                chance = mean_of(weights[None], np.where(np.isfinite(gained), holds, np.nan)).item()
                chances |= {name: chance} if chance > 0 else {}
        ordered = dict(sorted(chances.items(), key=lambda pair: -pair[1]))
        return ordered, mean_of(weights[None], gained).item()

    def follow(
        self, rows: CoalitionAnswers, start: Coalition, kept: dict[Coalition, np.ndarray] | None = None
    ) -> "Followed":
        """Simulates the plan on complete rows, whose modalities become visible one after the other. If a row lacks the
        next modality, its plan ends.

        Args:
            rows: with all coalitions that contain `start`.
            start: the modalities that are visible from the start, at no price.
            kept: a cache of the weights of these rows by coalition, for several plans on the same rows. It is filled.
        """
        kept = {} if kept is None else kept
        ends = [start] * len(rows)
        orders: list[list[str]] = [[] for _ in ends]
        waiting = set(np.flatnonzero(rows.has(start)).tolist())
        while waiting:
            for seen in {ends[row] for row in waiting}:
                places = [row for row in sorted(waiting) if ends[row] == seen]
                if seen not in kept:
                    kept[seen] = self.missing.weights(seen, rows, list(range(len(rows))))
                for row, name in zip(places, self.choose(seen, kept[seen][places])):
                    if name is None or not rows.present[row, rows.modalities.index(name)]:
                        waiting.discard(row)
                        continue
                    orders[row].append(name)
                    ends[row] = seen | {name}
        return Followed(ends, orders, np.array([sum(self.prices[name] for name in order) for order in orders]))


@dataclass
class Followed:
    """The course of a plan, per row.

    Args:
        ends: the visible modalities in the end.
        orders: the obtained modalities, in order.
        paid: their total price, `(N,)`.
    """

    ends: list[Coalition]
    orders: list[list[str]]
    paid: np.ndarray

    def scores(self, score: Mapping[Coalition, np.ndarray]) -> np.ndarray:
        """The score of each row, `(N,)`."""
        return np.array([score[end][row] for row, end in enumerate(self.ends)])
