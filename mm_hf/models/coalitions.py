# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Coalitions of the modalities of rows. Everything is encoded and projected once, and what depends on one item only is
computed once per item. Then rows are put together: each modality comes from the row itself or from a replacement row.

Notation used for tensor shapes: see `modeling_outputs`. `M` modalities of the model, `P` modalities of a row.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch

from .evidence import TOKEN, CoalitionValues, Said
from .modality import modality_of
from .modeling_outputs import EncoderStates, FusedStates, FusionMemory, MMFusionModelOutput, TokenStates


MOST_MODALITIES = 10  # 1,024 coalitions per row
ROWS_AT_ONCE = 32  # coalitions that go through the fusion together


@dataclass
class Pool:
    """Rows at the fusion width. Each modality of each row can be taken separately.

    Args:
        rows: the number of rows.
        states: the tokens by modality, `index` `(rows,)`.
        memory: what the fusion needs of all modalities except the query, if that does not depend on the query.
    """

    rows: int
    states: dict[str, TokenStates]
    memory: FusionMemory | None = None
    _fused: torch.Tensor | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, base: Any, encoder_states: Mapping[str, EncoderStates], with_absent: bool = True) -> "Pool":
        """Encoded rows; with `with_absent`, followed by one row without any item."""
        states, rows = {}, 0
        for name, state in encoder_states.items():
            index = state.index
            if index is None:
                index = torch.arange(state.count(), device=base.device)
            rows = len(index)
            if with_absent:
                index = torch.cat([index, torch.full_like(index[:1], -1)])
            elif state.levels and torch.equal(index, torch.arange(state.count(), device=index.device)):
                index = None  # every row has an item, so the absent token need not be projected
            states[name] = replace(state, index=index)
        projected, memory = base.project(states), None
        each = torch.arange(rows, device=base.device)
        projected = {
            name: state if state.index is not None else replace(state, index=each) for name, state in projected.items()
        }
        if base.fusion.supports_memory_cache:
            asking = base.config.fusion_module_config.query_modality
            memory = base.fusion.prepare({name: state for name, state in projected.items() if name != asking})
            projected = {asking: projected[asking]}
        return cls(rows + with_absent, projected, memory)

    def pooled(self) -> dict[str, torch.Tensor]:
        """By modality, one vector per row, `(rows, D)`."""
        of_memory = {} if self.memory is None else self.memory.states
        return {name: state.rows(state.pooled) for name, state in {**self.states, **of_memory}.items()}

    def fused(self, base: Any) -> torch.Tensor:
        """The fused vectors of the rows as they are, `(rows, D)`; computed once."""
        if self._fused is None:
            names = [*self.states, *({} if self.memory is None else self.memory.states)]
            rows = torch.arange(self.rows, device=base.device).split(ROWS_AT_ONCE)
            self._fused = torch.cat([self.fuse(base, dict.fromkeys(names, part), False).pooled for part in rows])
        return self._fused

    def beside(self, other: "Pool") -> "Pool":
        """These rows, followed by the rows of another pool."""
        states = {name: joined(state, other.states[name]) for name, state in self.states.items()}
        memory = None
        if self.memory is not None and other.memory is not None:
            parts: dict[str, Any] = {"key_states": {}, "value_states": {}}
            memories = {name: joined(state, other.memory.states[name]) for name, state in self.memory.states.items()}
            for key, of_names in parts.items():
                for name, state in memories.items():
                    length, places = state.tokens.shape[1], state.places
                    of_names[name] = tuple(
                        torch.cat([longer(one, length, places), longer(two, length, places)])
                        for one, two in zip(getattr(self.memory, key)[name], getattr(other.memory, key)[name])
                    )
            memory = FusionMemory(states=memories, **parts)
        return Pool(self.rows + other.rows, states, memory)

    def fuse(self, base: Any, chosen: Mapping[str, torch.Tensor], return_tokens: bool) -> FusedStates:
        """Fuses rows that are put together from the rows of this pool.

        Args:
            base: the `MMFusionModel`.
            chosen: by modality `(N,)` int64, the row of this pool that provides the items.
            return_tokens: see `Fusion.forward`.
        """

        def of_rows(states: Mapping[str, TokenStates]) -> dict[str, TokenStates]:
            return {
                name: replace(state, index=cast(torch.Tensor, state.index).index_select(0, chosen[name]))
                for name, state in states.items()
            }

        memory = None if self.memory is None else replace(self.memory, states=of_rows(self.memory.states))
        return base.fusion(of_rows(self.states), memory=memory, return_tokens=return_tokens)


def longer(values: torch.Tensor, length: int, places: torch.Tensor | None) -> torch.Tensor:
    """Tokens, or values that belong to each token, `(U, T, …)`, padded to a length. If rows have several places, each
    place is padded."""
    missing = length - values.shape[1]
    if not missing:
        return values
    if places is None:
        return torch.cat([values, values.new_zeros(len(values), missing, *values.shape[2:])], dim=1)
    each = values.unflatten(1, (places.shape[1], -1))  # (U, places, T, …)
    empty = values.new_zeros(*each.shape[:2], missing // places.shape[1], *values.shape[2:])
    return torch.cat([each, empty], dim=2).flatten(1, 2)


def joined(one: TokenStates, other: TokenStates) -> TokenStates:
    """Joins the items of two states; the added padding changes no result.

    Raises:
        ValueError: the pictures have different grids, and the fusion uses the places of the cells.
    """
    length, mask, coordinates = max(one.tokens.shape[1], other.tokens.shape[1]), None, one.coordinates
    if coordinates is None or (other.coordinates is not None and len(other.coordinates) > len(coordinates)):
        coordinates = other.coordinates
    for state in (one, other):
        known = state.coordinates
        if known is not None and coordinates is not None and not torch.equal(known, coordinates[: len(known)]):
            raise ValueError("The items of the background and of the rows differ in size: give both the same size.")
    if one.mask is not None or other.mask is not None or one.tokens.shape[1] != other.tokens.shape[1]:
        masks = [
            torch.ones(state.tokens.shape[:2], dtype=torch.bool, device=state.tokens.device)
            if state.mask is None
            else state.mask
            for state in (one, other)
        ]
        mask = torch.cat([longer(values, length, state.places) for values, state in zip(masks, (one, other))])
    index = torch.cat([cast(torch.Tensor, one.index), cast(torch.Tensor, other.index) + len(one.tokens)])
    return TokenStates(
        tokens=torch.cat([longer(state.tokens, length, state.places) for state in (one, other)]),
        mask=mask,
        index=index,
        pooled=torch.cat([one.pooled, other.pooled]),
        coordinates=coordinates,
        places=None if one.places is None else torch.cat([one.places, cast(torch.Tensor, other.places)]),
    )


def encode_batch(model: Any, batch: Mapping[str, Any]) -> dict[str, EncoderStates]:
    """The result of `encode` for a batch of a collator or a processor; labels and other entries are ignored."""
    base = model.explained_base
    indices = {name: batch.get(modality_of(name).index_name) for name in base.encoders}
    inputs = {
        key: batch[key]
        for name in base.encoders
        for key in (*modality_of(name).inputs, "inputs_embeds")
        if key in batch
    }
    return base.encode(indices, batch.get("encoder_states"), **inputs)


@torch.no_grad()
def coalition_values(
    model: Any,
    encoder_states: Mapping[str, EncoderStates],
    background: Pool | None = None,
    said: Said | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
    **settings: Any,
) -> list[dict[str | None, CoalitionValues]]:
    """The values of all coalitions of the modalities that each row has. A modality that the row lacks is not a player:
    it is absent from every coalition.

    Args:
        model: a model with a head; it is run in eval mode.
        encoder_states: the result of `encode` for the rows.
        background: rows whose items are the replacement, see `Pool.of` (`with_absent=False`); None: the absent token
            is.
        said: the answers to explain; left out, the model's own answers.
        rows_at_once: how many rows go through the fusion together.
        settings: arguments of `generate`, if the model generates and `said` is left out.

    Returns:
        for each row, the values by task. They do not depend on the batch that the row is in.

    Raises:
        ValueError: more modalities than `MOST_MODALITIES`, a model without an answer, or a background without rows.
    """
    base, was_training = model.explained_base, model.training
    if background is not None and not background.rows:
        raise ValueError(f"The background has no rows: give at least one, or use the {TOKEN} as the replacement.")
    model.eval()
    try:
        return Coalitions(model, base, encoder_states, background, rows_at_once).values(said, settings)
    finally:
        model.train(was_training)


class Coalitions:
    """The coalitions of the rows of one batch; for the arguments see `coalition_values`."""

    def __init__(self, model, base, encoder_states, background: Pool | None, rows_at_once: int):
        self.model, self.base, self.rows_at_once = model, base, rows_at_once
        self.names = list(encoder_states)
        pool = Pool.of(base, encoder_states, with_absent=background is None)
        self.rows = pool.rows - (background is None)  # the last row of the pool has no items
        self.first = pool.rows  # the index of the first replacement row
        self.pool, self.background = pool if background is None else pool.beside(background), background
        stands_in = [self.rows] if background is None else list(range(self.first, self.first + background.rows))
        self.players = [
            [name for name in self.names if has_item(encoder_states[name], row)] for row in range(self.rows)
        ]
        most = max(map(len, self.players), default=0)
        if most > MOST_MODALITIES:
            raise ValueError(
                f"A row has {most} modalities, so it has {2**most:,} coalitions: evidence allows at most "
                f"{MOST_MODALITIES} modalities."
            )
        self.stands_in = len(stands_in)
        # For each run of the fusion: the rows that its items come from, and the row that it belongs to. For each row,
        # all runs of a coalition follow one another. The coalition of all its modalities comes last, and has one run.
        chosen: list[list[int]] = []
        owner: list[int] = []
        for row, players in enumerate(self.players):
            for members in range(2 ** len(players)):
                lost = {name for place, name in enumerate(players) if not members >> place & 1}
                for other in stands_in if lost else [row]:
                    chosen.append([other if name in lost else row for name in self.names])
                    owner.append(row)
        self.chosen, self.owner = (torch.tensor(values, device=base.device) for values in (chosen, owner))

    def outputs(self, chosen: torch.Tensor) -> MMFusionModelOutput:
        """Fuses rows that are put together, `(N, M)`."""
        by_name = dict(zip(self.names, chosen.T))
        return MMFusionModelOutput.of(self.pool.fuse(self.base, by_name, self.model.reads_tokens))

    def values(self, said: Said | None, settings: Mapping[str, Any]) -> list[dict[str | None, CoalitionValues]]:
        """See `coalition_values`."""
        rows = torch.arange(self.rows, device=self.base.device)
        if self.model.reads_tokens:
            runs = self.runs_of_tokens()
            if said is None:
                said = self.model.answers_said(self.outputs(rows[:, None].expand(-1, len(self.names))), **settings)
        else:
            outputs = self.all_runs()
            runs = [(torch.arange(len(self.owner), device=self.base.device), outputs)]
            if said is None:
                whole = torch.searchsorted(self.owner, rows, right=True) - 1  # the last run of each row
                said = self.model.answers_said(MMFusionModelOutput(pooler_output=outputs.pooler_output[whole]))
        parts: dict[str | None, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for numbers, outputs in runs:
            of_runs = {task: values[self.owner[numbers]] for task, values in said.items()}
            for task, pair in self.model.explained(outputs, of_runs).items():
                parts.setdefault(task, []).append(pair)
        tables = {task: [torch.cat(values).cpu() for values in zip(*pairs)] for task, pairs in parts.items()}
        evidence: list[dict[str | None, CoalitionValues]] = []
        start = 0
        for row, players in enumerate(self.players):
            end = start + (2 ** len(players) - 1) * self.stands_in + 1
            of_row = {task: [self.by_coalition(v[start:end]) for v in table] for task, table in tables.items()}
            evidence.append(
                {
                    task: CoalitionValues(players, values, shown, said[task][row].cpu())
                    for task, (values, shown) in of_row.items()
                }
            )
            start = end
        return evidence

    def by_coalition(self, values: torch.Tensor) -> torch.Tensor:
        """Groups the runs of one row, `(N, K)`, by coalition: `(2^P, R, K)` for R replacement rows."""
        fewer = values[:-1].unflatten(0, (-1, self.stands_in)) if len(values) > 1 else values[:0].unsqueeze(1)
        everything = values[-1:].unsqueeze(1)
        return torch.cat([fewer.expand(-1, self.stands_in, -1), everything.expand(-1, self.stands_in, -1)])

    def runs_of_tokens(self) -> Iterable[tuple[torch.Tensor, MMFusionModelOutput]]:
        """Yields some runs at a time: their numbers, and the output of the fusion for them."""
        for numbers in torch.arange(len(self.chosen), device=self.base.device).split(self.rows_at_once):
            yield numbers, self.outputs(self.chosen[numbers])

    def all_runs(self) -> MMFusionModelOutput:
        """The fused vectors of all runs. Runs with the same items are computed once. If a replacement row replaces all
        modalities, the result is the vector of that row, whichever row is explained."""
        distinct, place = self.chosen.unique(dim=0, return_inverse=True)
        known = (distinct == distinct[:, :1]).all(1) & (distinct[:, 0] >= self.first)
        rest = [self.outputs(part).pooler_output for part in distinct[~known].split(self.rows_at_once)]
        pooled = torch.cat(rest)
        if self.background is not None:
            fused = self.background.fused(self.base)
            both = pooled.new_empty(len(distinct), pooled.shape[1])
            both[~known], both[known] = pooled, fused[distinct[known, 0] - self.first]
            pooled = both
        return MMFusionModelOutput(pooler_output=pooled[place])


def has_item(states: EncoderStates, row: int) -> bool:
    """Whether a row has an item of a modality."""
    return states.index is None or bool((states.index[row] >= 0).any())
