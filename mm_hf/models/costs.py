# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""What answers cost, and the answer of least expected cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .names import did_you_mean, shown


ABSTAIN, WRONG = "abstain", "wrong"


@dataclass(frozen=True)
class Costs:
    """What answers cost, in any unit.

    Args:
        wrong: of each class, in the order of their numbers, the cost of another answer where it is the truth.
        abstain: the cost of no answer.
    """

    wrong: tuple[float, ...]
    abstain: float

    def decide(self, chances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The answer of the least expected cost (Chow 1970): of a class what all others would cost, each by its
        probability.

        Args:
            chances: probabilities of the classes, `(N, C)`.

        Returns:
            the class, `(N,)` int64, which need not be the likeliest one; whether no answer is cheaper, `(N,)` bool;
            the expected cost of what is done, `(N,)`.
        """
        weighed = chances.double() * torch.tensor(self.wrong, dtype=torch.float64)
        best, answers = weighed.max(-1)
        expected = weighed.sum(-1) - best
        return answers, expected > self.abstain, expected.clamp(max=self.abstain)

    def measure(self, chances: torch.Tensor, truths: torch.Tensor) -> dict[str, float]:
        """What is paid, a row on average, on rows whose truth is known.

        Args:
            chances: see `decide`.
            truths: their classes, `(N,)` int64.

        Returns:
            `cost` of what `decide` does, which answers the share `answered`, and `expected`, what that expects; the
            cost of `always` giving the likeliest class, and of `never` giving any.
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
    """The costs of a table `{"wrong": {"cat": 5, "dog": 1}, "abstain": 0.5}`, where one number in place of the classes
    stands for all of them.

    Args:
        source: what errors call it.
        table: such a dict.
        names: of the classes, in the order of their numbers.

    Raises:
        ValueError: it lacks a class, has one that is not known, or a cost below 0.
    """
    if not isinstance(table, Mapping) or set(table) != {WRONG, ABSTAIN}:
        raise ValueError(f"{source} must have the keys {WRONG} and {ABSTAIN}, got {shown(table)}.")
    wrong = table[WRONG]
    if not isinstance(wrong, Mapping):
        wrong = dict.fromkeys(names, wrong)
    for name in wrong:
        if name not in names:
            raise ValueError(
                f"{source} has a cost for {name!r}, which is no class; known are {shown(list(names))}."
                f"{did_you_mean(name, names)}"
            )
    if missing := [name for name in names if name not in wrong]:
        raise ValueError(f"{source} has no cost for {missing[0]!r}: each class needs one, 0 among them.")
    for name, cost in {**wrong, ABSTAIN: table[ABSTAIN]}.items():
        if isinstance(cost, bool) or not isinstance(cost, (int, float)) or not 0 <= cost < 1e30:
            raise ValueError(f"{source}: the cost of {name!r} must be a number from 0 up, got {shown(cost)}.")
    return Costs(tuple(float(wrong[name]) for name in names), float(table[ABSTAIN]))
