# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The contribution of each modality to an answer, from all coalitions of the modalities that a row has.

A model of mm_hf works without a modality, so each coalition is one more run of the fusion and the head; encoding is
done once. The value of a coalition is the number that the head gives (`TaskHead.explained`). The other modalities are
removed in one of two ways:

- `other_rows`: they are replaced by those of another row, all from the same row, and the value is the mean over
  several such rows (the marginal expectation of Lundberg and Lee 2017; Janzing et al. 2020 explain why marginal and
  not conditional);
- `token`: they are replaced by the learned token of an absent item. This has a meaning if the model was trained with
  `modality_dropout`.

From the values `v` one computes the Möbius terms `m(S) = Σ_{T ⊆ S} (-1)^{|S| - |T|} v(T)`, and from these the exact
Shapley value of each modality, `Σ_{S ∋ i} m(S) / |S|`, and the Shapley interaction index of each pair,
`Σ_{S ⊇ {i, j}} m(S) / (|S| - 1)` (Grabisch and Roubens 1999, theorem 1). MM-SHAP (Parcalabescu and Frank, arXiv
2212.08158) also uses Shapley values of whole modalities, InterSHAP (arXiv 2412.15828) shares of interactions.

Notation used for tensor shapes: see `modeling_outputs`. `P` modalities of a row; `K` numbers that are explained.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import nn

from .modeling_outputs import MMFusionModelOutput
from .tasks import TEXTS, TaskHead


OTHER_ROWS, TOKEN = "other_rows", "token"
SMALL = 0.05  # if their term has a smaller share of all terms, two modalities do not interact
NOISE = 1.5  # a term below this many standard errors counts as zero

Said = dict[str | None, torch.Tensor]


class EvidenceMixin:
    """The answers of a model for a row, and the numbers of the answers that are explained. For every class of mm_hf
    that has a head. By task, as `last_layers`."""

    # Whether the head reads the fused tokens, and not only the fused vector.
    reads_tokens: ClassVar[bool] = False

    @property
    def explained_base(self) -> Any:
        """The model that encodes, projects and fuses when answers are explained: the base model."""
        return cast(Any, self).base_model

    def explained_heads(self) -> dict[str | None, tuple[nn.Module, TaskHead]]:
        """The layers and heads of the answers that are explained.

        Raises:
            ValueError: the model has no head.
        """
        model = cast(Any, self)
        heads = {task: pair for task, pair in model.last_layers().items() if pair[1].label_kind != TEXTS}
        if not heads:
            raise ValueError(f"{type(self).__name__} has no head, so it has no answer to explain.")
        return heads

    def answers_said(self, outputs: MMFusionModelOutput, **settings: Any) -> Said:
        """The model's answers, see `TaskHead.said`. For a model that generates: tokens `(B, S)`; `settings` are those
        of its `generate`."""
        return {
            task: head.said(head.in_unit(layer(outputs.pooler_output)))
            for task, (layer, head) in self.explained_heads().items()
        }

    def explained(
        self, outputs: MMFusionModelOutput, said: Said
    ) -> dict[str | None, tuple[torch.Tensor, torch.Tensor]]:
        """The numbers of these answers that are explained, `(B, K)` float64, and the numbers that people see:
        probabilities, or the same numbers."""
        values = {}
        for task, (layer, head) in self.explained_heads().items():
            logits = head.in_unit(layer(outputs.pooler_output))
            values[task] = head.explained(logits, said[task]).double(), head.shown(logits, said[task]).double()
        return values

    def has_chances(self, task: str | None) -> bool:
        """Whether the shown numbers of a task are probabilities."""
        heads = cast(Any, self).last_layers()
        return task not in heads or heads[task][1].probabilities(torch.zeros(1, heads[task][1].num_labels)) is not None

    def explained_unit(self, task: str | None, name: str | None = None) -> str:
        """The unit of the numbers, such as log odds; `name` is the name of the question."""
        return self.explained_heads()[task][1].explained_unit(name or task)

    def explained_in_words(self, task: str | None, said: torch.Tensor, name: str | None = None) -> list[str]:
        """A description of each of the K numbers of one row; `said` is the answer of this row, `(K,)` or `(S,)`."""
        head, config = self.explained_heads()[task][1], cast(Any, self).config
        if task is None and head.labels is None:
            names: Any = config.id2label
            head = replace(head, labels=tuple(str(names[number]) for number in range(len(names))))
        return head.explained_in_words(said, name or task)


def warnings_of(model: Any, absence: str) -> list[str]:
    """A warning for the evidence of a model that never learned its absent tokens."""
    rates = model.config.fusion_module_config.modality_dropout
    rates = rates if isinstance(rates, dict) else dict.fromkeys(model.config.modalities, rates)
    never = [name for name in model.config.modalities if not rates.get(name, 0)]
    if absence == OTHER_ROWS or len(model.config.modalities) < 2 or not never:
        return []
    return [
        f"The model was trained with modality_dropout 0 for {', '.join(never)}: unless training rows lacked them, it "
        "did not learn the meaning of absence, and the absent token is not a good replacement. Use items of other "
        f"rows ({OTHER_ROWS}) instead."
    ]


@dataclass
class CoalitionValues:
    """The values of all coalitions of one row, for one task.

    Args:
        players: the modalities that the row has.
        runs: `(2^P, R, K)` float64: by coalition, whose bits are those of its players, and by replacement row.
        shown_runs: the same, as probabilities if the task has them.
        said: the model's answer for this row, see `EvidenceMixin.answers_said`.
    """

    players: list[str]
    runs: torch.Tensor
    shown_runs: torch.Tensor
    said: torch.Tensor

    @property
    def values(self) -> torch.Tensor:
        """`(2^P, K)`, the means over the replacement rows."""
        return self.runs.mean(1)

    @property
    def shown(self) -> torch.Tensor:
        """The same, as shown to people."""
        return self.shown_runs.mean(1)

    def evidence(self, number: int = 0) -> dict[str, Any]:
        """The evidence for one of the K numbers.

        Returns:
            `value` (with all modalities) and `base` (with none); `modalities`, by name: `value` (the Shapley value),
            `unique` (see `kinds_of`), and the shown number `with` all, `without` it and with it `alone`;
            `interactions`, for each pair: the Shapley interaction index `value` and its `kind`; `shares` of unique,
            redundant and synergistic in their `amount`. For the kinds, a term within 1.5 standard errors over the
            replacement rows counts as zero: with few such rows, these terms would be partly noise.
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
        """The standard errors of the Möbius terms, `(2^P,)`: 0 if the absent token is the replacement."""
        count = self.runs.shape[1]
        if count < 2:
            return torch.zeros(len(self.runs), dtype=torch.float64)
        return moebius(self.runs[:, :, number]).std(1) / count**0.5


def moebius(values: torch.Tensor) -> torch.Tensor:
    """The Möbius terms of the values of coalitions, both `(2^P, …)`: what each coalition adds to all its subsets."""
    terms, step = values.clone(), 1
    while step < len(terms):
        pairs = terms.view(-1, 2, step, *terms.shape[1:])  # without and with one player
        pairs[:, 1] -= pairs[:, 0].clone()
        step *= 2
    return terms


@dataclass
class Kinds:
    """The amount of an attribution that is of each kind, see `kinds_of`; `overlaps` by coalition."""

    unique: list[float]
    redundant: float
    synergistic: float
    overlaps: dict[int, float]


def kinds_of(terms: torch.Tensor) -> Kinds:
    """Sorts the absolute Möbius terms `(2^P,)` into kinds.

    The term of one modality is its effect alone. The term of two modalities is an *overlap* if it cancels what both do
    alone: its sign is opposite to both of their terms. The size of the overlap is the smallest of the three absolute
    values. For more modalities the rule follows inclusion and exclusion: signs alternate with the number of
    modalities, and an overlap is at most as large as the overlaps of its subsets.

    - **synergistic** is the part of all terms of two or more modalities that is not overlap: it needs them together;
    - **redundant** is what at least two modalities provide, `Σ (-1)^n (n - 1)` times the overlaps of `n` modalities;
    - **unique** to one modality is its own term without what others provide too.

    So an exclusive or is synergistic, and a sum is unique to its parts. If copies are each enough alone (a term of 1
    each, -1 for both), all is redundant. If a model adds up half of each copy, it computes a sum, and all is unique.
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
    """The contribution of each modality to the answers of one row. One dict per explained number, see
    `CoalitionValues.evidence`, with its `task`, its `unit`, and a description in `explained`. `names`: the names of
    the questions by task, if their labels have any. For a text, the whole text is explained; `tokens` has, for each of
    its tokens, `id`, `value`, `base` and by modality the Shapley value."""
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
