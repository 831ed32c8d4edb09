"""Rows that are encoded and projected once, the parts of their items, and maps over the parts.

Notation for tensor shapes: see `mm_hf.models.modeling_outputs`. `K` is the number of places of a row for items of one
modality, `P` the number of parts of an item.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ..models.item_parts import ItemParts
from ..models.modality import modality_of
from ..models.modeling_outputs import EncoderStates, MMFusionModelOutput, TokenStates
from ..models.tasks import CLASSES, NUMBERS


class NoMap(ValueError):
    """A method cannot explain this model, or this modality."""


@dataclass(frozen=True)
class Answer:
    """The explained quantity of the answers to some rows.

    Args:
        value: a differentiable function. It takes the output of the fusion for B rows and their numbers, `(B,)` int64,
            and gives the explained number, `(B,)`.
        distribution: takes the output of the fusion and gives the logarithm of the answer's probabilities, `(B, C)`,
            or `(B, C, 2)` for several labels at once; None if there are no probabilities, as for numbers.
        reads_tokens: whether the answers need the fused tokens, not only the fused vector.
    """

    value: Callable[[MMFusionModelOutput, torch.Tensor], torch.Tensor]
    distribution: Callable[[MMFusionModelOutput], torch.Tensor] | None = None
    reads_tokens: bool = False

    @classmethod
    def of(cls, model: Any, said: torch.Tensor, task: str | None = None) -> "Answer":
        """The answer of a model's head. For classes and labels, it is the log odds of the predicted one; for numbers,
        the number.

        Args:
            said: `(B,)` int64, for each row the number of the explained output.
            task: name of the task, if the model has several.
        """
        layer, head = model.last_layers()[task]

        def logits(outputs: MMFusionModelOutput) -> torch.Tensor:
            return head.in_unit(layer(outputs.pooler_output))

        def value(outputs: MMFusionModelOutput, rows: torch.Tensor) -> torch.Tensor:
            scores, chosen = logits(outputs).double(), said[rows].unsqueeze(-1)
            if head.label_kind == CLASSES:
                scores = scores - scores.scatter(-1, chosen, -torch.inf).logsumexp(-1, keepdim=True)
            return scores.gather(-1, chosen)[:, 0]

        return cls(value, None if head.label_kind == NUMBERS else lambda o: log_probabilities(head, logits(o)))

    def distance(
        self, before: MMFusionModelOutput, after: MMFusionModelOutput, rows: torch.Tensor, given: torch.Tensor
    ) -> torch.Tensor:
        """How much the answers differ: the Kullback-Leibler divergence of the answer after an edit from the answer
        before it. For numbers and texts: the difference of `value`.

        Args:
            before: outputs of all rows.
            after: outputs of B edited rows.
            rows: `(B,)` int64, the numbers of the edited rows.
            given: the value of all rows before the edit.

        Returns:
            `(B,)`, at least 0.
        """
        if self.distribution is None:
            return (self.value(after, rows) - given[rows]).abs()
        known, said = self.distribution(before)[rows], self.distribution(after)
        return (known.exp() * (known - said)).flatten(1).sum(1).clamp(min=0)


def log_probabilities(head: Any, logits: torch.Tensor) -> torch.Tensor:
    """The logarithm of probabilities, float64: `(B, C)` for classes; for several labels at once `(B, C, 2)`, each
    label and its absence."""
    chances = head.probabilities(logits).double()
    if head.label_kind != CLASSES:
        chances = torch.stack([chances, 1 - chances], dim=-1)
    return chances.clamp(min=1e-12).log()


@dataclass(frozen=True)
class PartMap:
    """How much each part of one item of a row mattered.

    Args:
        row, modality, place: identify the item.
        parts: see `ItemParts`.
        values: in the shape `parts.shape`, float64.
        method: see `METHODS` of `mm_hf.evidence.methods`.
        signed: True: positive values speak for the answer, negative values against it. False: 0 is no effect, larger
            values are larger effects.
    """

    row: int
    modality: str
    place: int
    parts: ItemParts
    values: torch.Tensor
    method: str
    signed: bool = False

    def record(self, item: int) -> dict[str, Any]:
        """The entry in `parts` of an answer in `evidence.json`; `item` is the place of the item there."""
        about = {"item": item, "method": self.method, "signed": self.signed}
        return {**about, "values": self.values.tolist(), **self.parts.where}


def video_record(maps: Sequence[PartMap], item: int) -> dict[str, Any]:
    """The maps of the frames of one video as one record, see `PartMap.record`: frame × rows × columns."""
    return {**maps[0].record(item), "values": [part.values.tolist() for part in maps]}


class EncodedRows:
    """Rows of a batch, encoded and projected once, with the parts of their items.

    Args:
        model: in eval mode.
        batch: the model's inputs: raw, or with `encoder_states` instead of some of them. Other entries of a collator
            are ignored.
        background: the inputs of other rows, which give the usual tokens at each position; None: the mean of an item
            is used.
        items: by modality, the distinct items of the batch as the processor takes them, in order. They give the names
            of parts (words, seconds).
        processor: for the names of parts too.
    """

    def __init__(
        self,
        model: Any,
        batch: Mapping[str, Any],
        background: Mapping[str, Any] | None = None,
        items: Mapping[str, Sequence[Any]] | None = None,
        processor: Any = None,
    ):
        self.model, self.items, self.processor = model, items or {}, processor
        self.inputs, self.states = encode(model, batch)
        self.background_inputs, self.background = ({}, {}) if background is None else encode(model, background)
        with torch.no_grad():
            self.tokens: dict[str, TokenStates] = model.explained_base.project(self.states)
        self._parts: dict[tuple[str, int], ItemParts] = {}
        self._usual: dict[str, torch.Tensor | None] = {}

    def __len__(self) -> int:
        state = next(iter(self.states.values()))
        return state.count() if state.index is None else len(state.index)

    @cached_property
    def rows(self) -> torch.Tensor:
        """The numbers of all rows, `(B,)` int64."""
        return torch.arange(len(self), device=self.model.device)

    def projection(self, modality: str) -> Any:
        """The projection that made the tokens of a modality."""
        return self.model.explained_base.projections[modality]

    def item_index(self, modality: str) -> torch.Tensor:
        """The item of each row at each place, `(B, K)` int64; -1 for none."""
        state = self.states[modality]
        index = self.rows if state.index is None else state.index
        index = index.reshape(len(self), -1)
        return torch.nn.functional.pad(index, (0, self.projection(modality).places - index.shape[1]), value=-1)

    def parts(self, modality: str, item: int) -> ItemParts:
        """The parts of a distinct item."""
        if (modality, item) not in self._parts:
            state, kind = self.states[modality], modality_of(modality)
            known: Any = self.items.get(modality) or {}
            mask = None if state.mask is None else state.mask[item].bool()
            self._parts[modality, item] = kind.parts(
                self.projection(modality).token_shapes(state),
                mask,
                self.model.config.encoder_config(modality),
                known[item] if len(known) else None,
                self.processor,
            )
        return self._parts[modality, item]

    def usual(self, modality: str) -> torch.Tensor | None:
        """The usual token at each position, `(K * T', D)`: the mean over the items of the background; behind the
        longest of them, the mean over all positions. None without a background. T' is the length of the items of the
        batch."""
        if modality not in self._usual:
            state = self.background.get(modality)
            self._usual[modality] = None if state is None or not state.levels else self._mean_of(modality, state)
        return self._usual[modality]

    @torch.no_grad()
    def _mean_of(self, modality: str, state: EncoderStates) -> torch.Tensor:
        projection = self.projection(modality)
        each = torch.arange(state.count(), device=self.model.device)[:, None].expand(-1, projection.places)
        tokens = projection(replace(state, index=None), each).by_row()  # one row per item, at each place
        places, length = projection.places, self.tokens[modality].tokens.shape[1] // projection.places
        values = tokens.tokens.unflatten(1, (places, -1))  # (U, K, T, D)
        weights = tokens.row_mask().unflatten(1, (places, -1)).unsqueeze(-1).to(values)  # (U, K, T, 1)
        counts, sums = weights.sum(0), (values * weights).sum(0)
        overall = sums.sum(1, keepdim=True) / counts.sum(1, keepdim=True)  # (K, 1, D)
        means = torch.where(counts > 0, sums / counts.clamp(min=1), overall)[:, :length]
        means = torch.cat([means, overall.expand(-1, length - means.shape[1], -1)], dim=1)
        return means.flatten(0, 1)

    def instead(self, modality: str, states: TokenStates) -> torch.Tensor:
        """The tokens that replace removed tokens, `(U, T, D)` for such states: see `usual`; without a background, the
        mean of the item."""
        usual = self.usual(modality)
        if usual is not None:
            return usual.expand_as(states.tokens)
        weights = states.tokens.new_ones(states.tokens.shape[:2]) if states.mask is None else states.mask
        weights = weights.unsqueeze(-1).to(states.tokens)
        mean = (states.tokens * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        return mean.expand_as(states.tokens)

    def with_tokens(self, modality: str, states: TokenStates, tokens: torch.Tensor) -> TokenStates:
        """States of a modality with other tokens, see `ModalityProjection.with_tokens`."""
        projection = self.projection(modality)
        return projection.with_tokens(states, tokens, projection.token_shapes(self.states[modality]))

    def token_numbers(self, modality: str, place: int, parts: ItemParts) -> torch.Tensor:
        """The part of each token of a row, `(K * T,)`, see `ItemParts.tokens`; -1 for tokens of other places."""
        length = self.tokens[modality].tokens.shape[1] // self.projection(modality).places
        numbers = torch.full((self.projection(modality).places, length), -1)
        numbers[place, : len(parts.tokens)] = parts.tokens[:length]
        return numbers.flatten().to(self.model.device)

    def present(self, modality: str) -> Iterator[tuple[int, int, ItemParts]]:
        """Every item of every row: the row, the place, and the item's parts."""
        for row, items in enumerate(self.item_index(modality).tolist()):
            for place, item in enumerate(items):
                if item >= 0:
                    yield row, place, self.parts(modality, item)

    def fuse(self, states: dict[str, TokenStates], answer: Answer, **options: Any) -> MMFusionModelOutput:
        """The output of the fusion for tokens."""
        return self.model.explained_base(token_states=states, return_tokens=answer.reads_tokens, **options)

    @torch.no_grad()
    def outputs(self, answer: Answer) -> MMFusionModelOutput:
        """The output of the fusion for the original rows."""
        return self.fuse(self.tokens, answer)


def needs_parts(rows: EncodedRows, modality: str):
    """Refuses a model that reads only whole items.

    Raises:
        NoMap: the model reads only whole items.
    """
    if not rows.projection(modality).tells_parts:
        raise NoMap(
            f"This model compares embeddings of whole items of {modality}, so parts can be removed only before the "
            "encoder: use --method input_occlusion."
        )


@torch.no_grad()
def encode(model: Any, batch: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, EncoderStates]]:
    """The raw inputs of a batch, and their encoder states."""
    base = model.explained_base
    inputs = {name: value for name, value in batch.items() if name in base.input_names and value is not None}
    states = inputs.pop("encoder_states", None)
    indices = {name: inputs.pop(modality_of(name).index_name, None) for name in base.encoders}
    return inputs, base.encode(indices, states, **inputs)


def narrowed(state: TokenStates, rows: torch.Tensor) -> TokenStates:
    """The states of some rows, `(B',)`, with only the items of these rows."""
    index = rows if state.index is None else state.index.index_select(0, rows)
    items, index = index.unique(return_inverse=True)
    chosen: dict[str, Any] = {
        name: None if value is None else value.index_select(0, items)
        for name, value in ((name, getattr(state, name)) for name in ("tokens", "mask", "pooled", "places"))
    }
    return replace(state, index=index, **chosen)
