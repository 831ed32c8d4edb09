# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Costs of answers, and the answer with the least expected cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .names import did_you_mean, shown


ABSTAIN, WRONG = "abstain", "wrong"


@dataclass(frozen=True)
class Costs:
    """The costs of answers, in any unit.

    Args:
        wrong: for each class, in the order of the class numbers: the cost of another answer if this class is the
            truth.
        abstain: the cost of giving no answer.
    """

    wrong: tuple[float, ...]
    abstain: float

    def decide(self, chances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The answer with the least expected cost (Chow 1970). The expected cost of answering a class is the sum, over
        all other classes, of their cost times their probability.

        Args:
            chances: probabilities of the classes, `(N, C)`.

        Returns:
            the class, `(N,)` int64, which need not be the likeliest one; whether giving no answer is cheaper, `(N,)`
            bool; the expected cost of the decision, `(N,)`.
        """
        weighed = chances.double() * torch.tensor(self.wrong, dtype=torch.float64)
        best, answers = weighed.max(-1)
        expected = weighed.sum(-1) - best
        return answers, expected > self.abstain, expected.clamp(max=self.abstain)

    def measure(self, chances: torch.Tensor, truths: torch.Tensor) -> dict[str, float]:
        """The average cost per row, on rows with a known true class.

        Args:
            chances: see `decide`.
            truths: their true classes, `(N,)` int64.

        Returns:
            `cost` of the decisions of `decide`, which answer the share `answered`, and `expected`, the cost that it
            expects; the cost of `always` answering the likeliest class, and of `never` answering.
        """
        answers, abstains, expected = self.decide(chances)
        wrong = torch.tensor(self.wrong, dtype=torch.float64)[truths]
        paid = torch.where(abstains, self.abstain, wrong * (answers != truths))
        return {
            "cost": paid.mean().item(),
            "expected": expected.mean().item(),
            "answered": (~abstains).double().mean().item(),
            "always": (wrong * (chances.argmax(-1) != truths)).mean().item(),
            "never": self.abstain,
        }


def costs_of(source: str, table: Any, names: Sequence[str]) -> Costs:
    """The costs from a table `{"wrong": {"cat": 5, "dog": 1}, "abstain": 0.5}`. One number instead of the dict of
    classes is used for all classes.

    Args:
        source: the name of the table in errors.
        table: the dict.
        names: the classes, in the order of their numbers.

    Raises:
        ValueError: a class is missing or unknown, or a cost is below 0.
    """
    if not isinstance(table, Mapping) or set(table) != {WRONG, ABSTAIN}:
        raise ValueError(f"{source} must have the keys {WRONG} and {ABSTAIN}, got {shown(table)}.")
    wrong = table[WRONG]
    if not isinstance(wrong, Mapping):
        wrong = dict.fromkeys(names, wrong)
    for name in wrong:
        if name not in names:
            raise ValueError(
                f"{source} has a cost for {name!r}, which is not a class; the classes are {shown(list(names))}."
                f"{did_you_mean(name, names)}"
            )
    if missing := [name for name in names if name not in wrong]:
        raise ValueError(f"{source} has no cost for {missing[0]!r}: each class needs one, which may be 0.")
    for name, cost in {**wrong, ABSTAIN: table[ABSTAIN]}.items():
        if isinstance(cost, bool) or not isinstance(cost, (int, float)) or not 0 <= cost < 1e30:
            raise ValueError(f"{source}: the cost of {name!r} must be a number of at least 0, got {shown(cost)}.")
    return Costs(tuple(float(wrong[name]) for name in names), float(table[ABSTAIN]))
