"""What to ask for next: what each modality that a row lacks is expected to bring, and the order in which to obtain
them, by their prices, until the answer is sure enough.

What a missing modality holds is not known, but what it did for rows that have it is. On rows with labels that the
model was not trained on, every set of modalities is tried; of a new row the same is expected as of those that are like
it (`Alike`): the state of a row is the set of modalities that it has, how sure the answer is, and its fused vector. A
plan is found from the end backwards: where all is seen there is nothing to ask; with less, what asking
for one brings is the score at the end of the plan that goes on from there, less the price. So what brings nothing
alone and much together with another (XOR) is asked for, and what is cheap and often settles the matter comes first.

This is active feature acquisition: Saar-Tsechansky, Melville and Provost 2009 (expected utility of a value for its
price, https://doi.org/10.1287/mnsc.1080.0952); Shim, Hwang and Yang 2018 (arXiv 1709.05964) and Li and Oliva 2021
(arXiv 2010.02433), which learn when to stop and what to ask as a decision process; Covert et al. 2023 (arXiv
2301.00557), who go by the expected information gain, one step ahead. With the few modalities of a row all sets can be
tried, so that no policy has to be learned by trial: backward regression of the values of a process that may stop at
each step (Longstaff and Schwartz 2001, https://doi.org/10.1093/rfs/14.1.113) gives it.
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
WORTH = 0.02  # of score that all modalities together must bring to be asked for: below it is noise
SHOWN_SETS = 3  # of modalities that bring most together
Features = tuple[np.ndarray, np.ndarray]


class Missing:
    """What modalities bring to rows that lack them.

    Args:
        tasks: by name; the only one is None.
        heads: likewise, what travels of them.
        answers: of rows with labels, all coalitions; see `look`. The model must not have been trained on them.
        seed: of the forests.

    Attributes:
        scores: what is gained, see there.
        score: by coalition the score of each of these rows, `(N,)`, NaN where it is not known.
        warnings: what to know before any of it is relied on.

    Raises:
        ValueError: no labels, or more modalities than there are sets of to try.
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
                f"The model has {len(answers.modalities)} modalities; every set of at most {MOST_MODALITIES} is tried."
            )
        self.heads, self.answers, self.scores, self.seed = dict(heads), answers, Scores(tasks, answers), seed
        self.score = self.scores(answers)
        self.warnings: list[str] = []
        labelled = int(np.isfinite(self.score[Coalition()]).sum())
        if labelled < FEW_ROWS:
            self.warnings.append(f"Learned from {labelled} rows, fewer than {FEW_ROWS}: the gains are rough.")
        self._alike: dict[Coalition, Alike | None] = {}

    @property
    def modalities(self) -> list[str]:
        """All that the model has."""
        return self.answers.modalities

    def alike(self, seen: Coalition) -> Alike | None:
        """Which rows are alike where a coalition is seen; None where no row has it, and a label."""
        if seen not in self._alike:
            rest = [name for name in self.modalities if name not in seen]
            gains = [self.gain(seen, obtained) for obtained in coalitions_of(rest) if obtained]
            targets = np.stack([self.score[seen], *gains], 1)
            known = bool(np.isfinite(targets).any())
            features = self.answers.features(seen, self.heads)
            self._alike[seen] = Alike(features, targets, self.seed) if known else None
        return self._alike[seen]

    def gain(self, seen: Coalition, obtained: Coalition) -> np.ndarray:
        """What obtaining some modalities brought to each of the rows that it learns from, `(N,)`."""
        return self.score[seen | obtained] - self.score[seen]

    def sureness(self, seen: Coalition) -> np.ndarray:
        """The score to expect of each of these rows where a coalition is seen, `(N,)`, by other rows."""
        alike = self.alike(seen)
        return np.full(len(self.answers), np.nan) if alike is None else mean_of(alike.weights, self.score[seen])

    def gains(self, rows: CoalitionAnswers) -> list[dict[str, Any]]:
        """For each row what the modalities that it lacks are expected to bring.

        Args:
            rows: what the model says of them, of the coalition of all modalities; see `look`.

        Returns:
            `missing`; `sure`, the score to expect as the row is; `gains`, by missing modality, of that one alone, and
            `together`, a list of `of` and `gain`, of sets of them, the best first. None where no row tells.
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
        """For each row what to obtain next, and what will then follow.

        Args:
            rows: see `gains`.
            prices: by modality; 1 where none is given.
            until, worth: see `Policy`.

        Returns:
            `next`, the modality to obtain first, None where the answer is sure enough or nothing is worth its price;
            `order`, a list of `modality` and `chance`, how likely it is to be obtained in the end, as that depends on
            what the first ones show; `price`, expected in all; `score`, to expect in the end; and `reason` to ask for
            nothing: "complete", "sure", "not worth it" or "unknown", where no known row has what this one has.
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
        """The price of each modality, 1 where none is given.

        Raises:
            ValueError: a modality that the model does not have, or a price that is no number from 0 up.
        """
        for name, price in (prices or {}).items():
            if name not in self.modalities:
                raise ValueError(
                    f"prices names {name!r}; the model has {self.modalities}.{did_you_mean(name, self.modalities)}"
                )
            if isinstance(price, bool) or not 0 <= price < math.inf:
                raise ValueError(f"The price of {name} must be a number from 0 up, got {price!r}.")
        return {name: float((prices or {}).get(name, 1.0)) for name in self.modalities}

    def _by_coalition(self, rows: CoalitionAnswers) -> Iterator[tuple[Coalition, list[int], np.ndarray]]:
        """The rows by what they have: the coalition, the places of its rows, and the weights of the known rows that
        they are like, `(n, N)`."""
        of_rows = [rows.of_row(row) for row in range(len(rows))]
        for seen in dict.fromkeys(of_rows):
            places = [row for row, coalition in enumerate(of_rows) if coalition == seen]
            yield seen, places, self.weights(seen, rows, places)

    def weights(self, seen: Coalition, rows: CoalitionAnswers, places: list[int]) -> np.ndarray:
        """Of some rows, where a coalition is seen, the weights of the known rows that they are like, `(n, N)`."""
        alike = self.alike(seen)
        if alike is None:
            return np.zeros((len(places), len(self.answers)), dtype=np.float32)
        # Of rows that come as they are, what the model says with all modalities is what it says with those they have.
        known = seen if seen in rows.pooled or not seen else Coalition(self.modalities)
        sure, vectors = rows.features(known, self.heads)
        return alike.of((sure[places], vectors[places]))


def number_or_none(value: float) -> float | None:
    """A number for JSON; None for NaN."""
    return None if math.isnan(value) else float(value)


class Policy:
    """What to obtain next, from any set of modalities on, for these prices.

    The value of obtaining a modality is the score at the end of the plan from there on, less the present one, less
    `worth` of score for the price of everything: what is spent on a row counts as its share of that.

    Args:
        missing: what was learned.
        prices: by modality.
        until: the answer is sure enough where the score to expect is as high: no more is asked for, and more counts
            for nothing; None: prices alone decide.
        worth: how much of the score the price of all modalities together is worth.
        starts: coalitions that rows begin with; nothing smaller is planned.
        order: obtain them in this order alone, if at all: a baseline.

    Attributes:
        spent: by coalition `(N,)`, the price that is spent on each known row from there on.
        ends: by coalition the one that each known row ends with, a number in `planned`, `(N,)`.
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
        """What it is worth to end with a coalition, `(N,)`: the score, but on the average no more than `until`."""
        score = self.missing.score[seen]
        return score if self.until is None else score - (self.missing.sureness(seen) - self.until).clip(min=0)

    def _plan(self, number: int, seen: Coalition):
        """What is best where a coalition is seen, of the plans from larger ones on."""
        rows = len(self.missing.answers)
        self.ends[seen], self.spent[seen] = np.full(rows, number), np.zeros(rows)
        alike = self.missing.alike(seen)
        if alike is None:
            return
        for row, name in enumerate(self.choose(seen, alike.weights)):
            after = seen if name is None else seen | {name}
            if name is not None and np.isfinite(self.missing.score[after][row]):  # else the row lacks it itself
                self.ends[seen][row] = self.ends[after][row]
                self.spent[seen][row] = self.prices[name] + self.spent[after][row]

    def allowed(self, seen: Coalition) -> list[str]:
        """What may be obtained next."""
        rest = [name for name in self.order or self.missing.modalities if name not in seen]
        return rest if self.order is None else rest[:1]

    def value(self, seen: Coalition, name: str) -> np.ndarray:
        """What it brought to obtain a modality and to go on by the plan, `(N,)`, less the price."""
        after, number = seen | {name}, self.planned.index(seen)
        reached = self.rewards[self.ends[after], np.arange(self.rewards.shape[1])]
        return reached - self.rewards[number] - self.rate * (self.prices[name] + self.spent[after])

    def choose(self, seen: Coalition, weights: np.ndarray) -> list[str | None]:
        """For each row that has a coalition what to obtain next; None for nothing. For the weights see `Alike`."""
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
        """Where a row obtains one modality first, by modality the chance that it is obtained in the end, the likeliest
        first; and what is gained in the end, prices left out. The weights are `(N,)`."""
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
        """Plays the plan on rows that have everything, which are shown one modality after the other as it is obtained.
        What a row does not have ends its plan.

        Args:
            rows: with all coalitions that hold `start`.
            start: what is there from the beginning, and costs nothing.
            kept: the weights of these rows by coalition, where several plans are played on them: it is filled.
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
    """How a plan went, row by row.

    Args:
        ends: what was seen in the end.
        orders: what was obtained, in its order.
        paid: the price of it, `(N,)`.
    """

    ends: list[Coalition]
    orders: list[list[str]]
    paid: np.ndarray

    def scores(self, score: Mapping[Coalition, np.ndarray]) -> np.ndarray:
        """The score of each row, `(N,)`."""
        return np.array([score[end][row] for row, end in enumerate(self.ends)])
