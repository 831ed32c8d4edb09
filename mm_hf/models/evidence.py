# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""What each modality gave to an answer: all coalitions of the modalities that a row has, and what follows from them.

A modality can be missing natively, so a coalition is one more run of the fusion and of the head: everything is encoded
once. The value of a coalition is the number that the head says (`TaskHead.explained`), with the other modalities taken
away in one of two ways:

- `other_rows`: in their place stand those of other rows, all of one and the same row, and the value is the mean over
  these rows (the marginal expectation of Lundberg and Lee 2017; Janzing et al. 2020 say why marginal and not
  conditional);
- `token`: in their place stands the learned token of an absent item, which means something where a model was trained
  with `modality_dropout`.

From the values `v` follow the Möbius terms `m(S) = Σ_{T ⊆ S} (-1)^{|S| - |T|} v(T)`, and from these the exact Shapley
value of each modality, `Σ_{S ∋ i} m(S) / |S|`, and the Shapley interaction index of each pair,
`Σ_{S ⊇ {i, j}} m(S) / (|S| - 1)` (Grabisch and Roubens 1999, theorem 1). Shapley values of whole modalities are those
of MM-SHAP (Parcalabescu and Frank, arXiv 2212.08158), shares of interactions those of InterSHAP (arXiv 2412.15828).

Notation used for tensor shapes: see `modeling_outputs`. `P` modalities that a row has; `K` numbers that are explained.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import nn

from .modeling_outputs import MMFusionModelOutput
from .tasks import TEXTS, TaskHead


OTHER_ROWS, TOKEN = "other_rows", "token"
SMALL = 0.05  # share of all terms below which two modalities do not interact
NOISE = 1.5  # standard errors below which a term is none

Said = dict[str | None, torch.Tensor]


class EvidenceMixin:
    """What a model says of a row, and the numbers that are explained of it: for every class of mm_hf that has a
    head. By task, as `last_layers`."""

    # Whether it reads the fused tokens, and not the fused vector alone.
    reads_tokens: ClassVar[bool] = False

    @property
    def explained_base(self) -> Any:
        """What encodes, projects and fuses where answers are explained: the base model."""
        return cast(Any, self).base_model

    def explained_heads(self) -> dict[str | None, tuple[nn.Module, TaskHead]]:
        """The layers and heads whose answers are explained.

        Raises:
            ValueError: the model has none.
        """
        model = cast(Any, self)
        heads = {task: pair for task, pair in model.last_layers().items() if pair[1].label_kind != TEXTS}
        if not heads:
            raise ValueError(f"{type(self).__name__} has no head, and so no answer that could be explained.")
        return heads

    def answers_said(self, outputs: MMFusionModelOutput, **settings: Any) -> Said:
        """What the model answers, see `TaskHead.said`; tokens `(B, S)` of a model that writes, `settings` being those
        of its `generate`."""
        return {
            task: head.said(head.in_unit(layer(outputs.pooler_output)))
            for task, (layer, head) in self.explained_heads().items()
        }

    def explained(
        self, outputs: MMFusionModelOutput, said: Said
    ) -> dict[str | None, tuple[torch.Tensor, torch.Tensor]]:
        """The numbers that are explained of these answers, `(B, K)` float64, and how they are shown: as
        probabilities, or as they are."""
        values = {}
        for task, (layer, head) in self.explained_heads().items():
            logits = head.in_unit(layer(outputs.pooler_output))
            values[task] = head.explained(logits, said[task]).double(), head.shown(logits, said[task]).double()
        return values

    def has_chances(self, task: str | None) -> bool:
        """Whether what is shown of a task is a probability."""
        heads = cast(Any, self).last_layers()
        return task not in heads or heads[task][1].probabilities(torch.zeros(1, heads[task][1].num_labels)) is not None

    def explained_unit(self, task: str | None, name: str | None = None) -> str:
        """What the numbers are, such as log odds; `name` is that of the question."""
        return self.explained_heads()[task][1].explained_unit(name or task)

    def explained_in_words(self, task: str | None, said: torch.Tensor, name: str | None = None) -> list[str]:
        """What each of the K numbers of one row is, of what is said of it, `(K,)` or `(S,)`."""
        head, config = self.explained_heads()[task][1], cast(Any, self).config
        if task is None and head.labels is None:
            names: Any = config.id2label
            head = replace(head, labels=tuple(str(names[number]) for number in range(len(names))))
        return head.explained_in_words(said, name or task)


def warnings_of(model: Any, absence: str) -> list[str]:
    """What is to be said beside evidence of a model: that its absent tokens were never learned."""
    rates = model.config.fusion_module_config.modality_dropout
    rates = rates if isinstance(rates, dict) else dict.fromkeys(model.config.modalities, rates)
    never = [name for name in model.config.modalities if not rates.get(name, 0)]
    if absence == OTHER_ROWS or len(model.config.modalities) < 2 or not never:
        return []
    return [
        f"The model was trained with modality_dropout 0 for {', '.join(never)}: unless rows lacked them, it has not "
        "learned what their absence means, and the token that stands for it says little. Items of other rows "
        f"({OTHER_ROWS}) say more."
    ]


@dataclass
class CoalitionValues:
    """The values of all coalitions of one row, for one task.

    Args:
        players: the modalities that the row has.
        runs: `(2^P, R, K)` float64, of the coalition whose bits are those of its players, by the rows that stand in.
        shown_runs: likewise, as probabilities where there are any.
        said: what the model answers, see `EvidenceMixin.answers_said`, of this row.
    """

    players: list[str]
    runs: torch.Tensor
    shown_runs: torch.Tensor
    said: torch.Tensor

    @property
    def values(self) -> torch.Tensor:
        """`(2^P, K)`, the means over the rows that stand in."""
        return self.runs.mean(1)

    @property
    def shown(self) -> torch.Tensor:
        """Likewise, as people read them."""
        return self.shown_runs.mean(1)

    def evidence(self, number: int = 0) -> dict[str, Any]:
        """What follows of one of the K numbers.

        Returns:
            `value` (all is there) and `base` (nothing is); `modalities`, by name `value` (its Shapley value), `unique`
            (see `kinds_of`), and, as they are shown, `with` all, `without` it and it `alone`; `interactions`, of each
            pair the Shapley interaction index `value` and its `kind`; `shares` of unique, redundant and synergistic in
            their `amount`. For the kinds, terms within 1.5 standard errors over the rows that stand in count as
            none: of few such rows they would be a share of noise.
        """
        values, shown = self.values[:, number], self.shown[:, number]
        terms = moebius(values)
        certain = terms * (terms.abs() > NOISE * self.errors(number))
        everything, sizes = len(values) - 1, [coalition.bit_count() for coalition in range(len(values))]
        amounts = kinds_of(certain)
        total = sum(amounts.unique) + amounts.redundant + amounts.synergistic
        modalities, interactions = {}, []
        for place, name in enumerate(self.players):
            holding = [coalition for coalition in range(len(values)) if coalition >> place & 1]
            modalities[name] = {
                "value": sum(terms[coalition].item() / sizes[coalition] for coalition in holding),
                "unique": amounts.unique[place],
                "with": shown[everything].item(),
                "without": shown[everything ^ 1 << place].item(),
                "alone": shown[1 << place].item(),
            }
            for other in range(place):
                pair = 1 << place | 1 << other
                both = [coalition for coalition in holding if coalition & pair == pair]
                index, sure = (
                    sum(numbers[coalition].item() / (sizes[coalition] - 1) for coalition in both)
                    for numbers in (terms, certain)
                )
                kind = "redundant" if 2 * amounts.overlaps[pair] > abs(certain[pair].item()) else "synergistic"
                kind = kind if abs(sure) > SMALL * total else "none"
                interactions.append({"of": [self.players[other], name], "value": index, "kind": kind})
        parts = {"unique": sum(amounts.unique), "redundant": amounts.redundant, "synergistic": amounts.synergistic}
        return {
            "value": values[everything].item(),
            "base": values[0].item(),
            "modalities": modalities,
            "interactions": interactions,
            "shares": {kind: amount / total if total else 0.0 for kind, amount in parts.items()},
            "amount": total,
        }

    def errors(self, number: int) -> torch.Tensor:
        """The standard errors of the Möbius terms, `(2^P,)`: 0 where the absent token stands in."""
        count = self.runs.shape[1]
        if count < 2:
            return torch.zeros(len(self.runs), dtype=torch.float64)
        return moebius(self.runs[:, :, number]).std(1) / count**0.5


def moebius(values: torch.Tensor) -> torch.Tensor:
    """The Möbius terms of the values of coalitions, both `(2^P, …)`: of each what it adds to all that is within it."""
    terms, step = values.clone(), 1
    while step < len(terms):
        pairs = terms.view(-1, 2, step, *terms.shape[1:])  # without and with one player
        pairs[:, 1] -= pairs[:, 0].clone()
        step *= 2
    return terms


@dataclass
class Kinds:
    """How much of an attribution is of which kind, see `kinds_of`; `overlaps` by coalition."""

    unique: list[float]
    redundant: float
    synergistic: float
    overlaps: dict[int, float]


def kinds_of(terms: torch.Tensor) -> Kinds:
    """Sorts the absolute Möbius terms `(2^P,)` into kinds.

    The term of one modality is what it does alone. That of two *overlaps* where it takes back what both do alone: it
    has the other sign than both of their terms. The overlap is the smallest of the three absolute values. Of more
    modalities likewise, by inclusion and exclusion: signs alternate with the number of modalities, and an overlap is
    no larger than the overlaps within it.

    - **synergistic** is the part of all terms of two or more that is no overlap: what is there only together;
    - **redundant** is what at least two modalities say, `Σ (-1)^n (n - 1)` times the overlaps of `n` modalities;
    - **unique** to one is its own term without what others say too.

    So an exclusive or is synergistic, a sum is unique to its parts, and of copies each of which is enough by itself
    (one term of 1 each, -1 for both) all is redundant. Copies that a model adds up, half from each, are a sum: that
    is what it computes.
    """
    numbers = terms.tolist()
    players = len(numbers).bit_length() - 1
    overlaps: dict[int, float] = {1 << place: abs(numbers[1 << place]) for place in range(players)}
    for coalition in sorted(range(1, len(numbers)), key=int.bit_count):
        if coalition.bit_count() < 2:
            continue
        within = [coalition ^ 1 << place for place in range(players) if coalition >> place & 1]
        alternates = all(numbers[part] * numbers[coalition] < 0 for part in within)
        least = min(abs(numbers[coalition]), *(overlaps[part] for part in within))
        overlaps[coalition] = least if alternates else 0.0
    unique, redundant, synergistic = [], 0.0, 0.0
    for coalition, overlap in overlaps.items():
        size = coalition.bit_count()
        if size > 1:
            redundant += (-1) ** size * (size - 1) * overlap
            synergistic += abs(numbers[coalition]) - overlap
    for place in range(players):
        holding = {coalition: overlap for coalition, overlap in overlaps.items() if coalition >> place & 1}
        alone = sum((-1) ** (coalition.bit_count() + 1) * overlap for coalition, overlap in holding.items())
        unique.append(max(0.0, alone))
    return Kinds(unique, max(0.0, redundant), synergistic, overlaps)


def evidence_of(
    model: Any, values: Mapping[str | None, CoalitionValues], names: Mapping[str | None, str | None] | None = None
) -> list[dict[str, Any]]:
    """What each modality gave to the answers of one row: one dict a number that is explained, see
    `CoalitionValues.evidence`, with its `task`, its `unit`, and in words what is `explained`; `names` are those of the
    questions, by task, where their labels have any. Of a text the whole is explained, and
    `tokens` has, of each of its tokens, `id`, `value`, `base` and by modality the Shapley value."""
    answers = []
    for task, of_task in values.items():
        name = (names or {}).get(task)
        words, unit = model.explained_in_words(task, of_task.said, name), model.explained_unit(task, name)
        for number, explained in enumerate(words):
            answers.append({"task": task, "explained": explained, "unit": unit, **of_task.evidence(number)})
        rest = range(len(words), of_task.values.shape[1])
        if len(rest):
            tokens = []
            for place, number in enumerate(rest):
                part = of_task.evidence(number)
                shares = {name: about["value"] for name, about in part["modalities"].items()}
                token = {"id": int(of_task.said[place]), "value": part["value"], "base": part["base"]}
                tokens.append({**token, "modalities": shares})
            answers[-1]["tokens"] = tokens[: int(model.lengths_of(of_task.said[None])[0])]
    return answers
