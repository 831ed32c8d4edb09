"""Where in an item: rows encoded and projected once, the parts of their items, and maps over these.

Notation used for tensor shapes: see `mm_hf.models.modeling_outputs`. `K` places of a row for items of one modality;
`P` parts of an item.
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
    """What is explained of the answers to some rows.

    Args:
        value: of what the fusion gives for `(B,)` rows, and their numbers `(B,)` int64, the number that is explained,
            `(B,)`; differentiable.
        distribution: of what the fusion gives the logarithm of the answer's probabilities, `(B, C)`, or `(B, C, 2)` of
            several labels at once; None where there are none, as of numbers.
        reads_tokens: they read the fused tokens, and not the fused vector alone.
    """

    value: Callable[[MMFusionModelOutput, torch.Tensor], torch.Tensor]
    distribution: Callable[[MMFusionModelOutput], torch.Tensor] | None = None
    reads_tokens: bool = False

    @classmethod
    def of(cls, model: Any, said: torch.Tensor, task: str | None = None) -> "Answer":
        """What the head of a model says: of classes and labels the log odds of the one that was said, numbers as they
        are.

        Args:
            said: `(B,)` int64, of each row which output it is.
            task: which one's, of a model with several.
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
        """By how much the answers differ: the Kullback-Leibler divergence of what is said after from what was said
        before; of numbers and texts the difference of `value`.

        Args:
            before: of all rows.
            after: `(B,)` of them, with something taken away.
            rows: `(B,)` int64, which they are.
            given: the value of all rows, before.

        Returns:
            `(B,)`, at least 0.
        """
        if self.distribution is None:
            return (self.value(after, rows) - given[rows]).abs()
        known, said = self.distribution(before)[rows], self.distribution(after)
        return (known.exp() * (known - said)).flatten(1).sum(1).clamp(min=0)


def log_probabilities(head: Any, logits: torch.Tensor) -> torch.Tensor:
    """Of a head with classes `(B, C)`, of one with several labels at once `(B, C, 2)`, float64: each label, and its
    absence."""
    chances = head.probabilities(logits).double()
    if head.label_kind != CLASSES:
        chances = torch.stack([chances, 1 - chances], dim=-1)
    return chances.clamp(min=1e-12).log()


@dataclass(frozen=True)
class PartMap:
    """How much each part of one item of a row mattered.

    Args:
        row, modality, place: which item it is.
        parts: see `ItemParts`.
        values: in the shape of `parts.shape`, float64.
        method: see `METHODS` of `mm_hf.evidence.methods`.
        signed: positive speaks for what was said, negative against it; else 0 is none and more is more.
    """

    row: int
    modality: str
    place: int
    parts: ItemParts
    values: torch.Tensor
    method: str
    signed: bool = False

    def record(self, item: int) -> dict[str, Any]:
        """As `parts` of an answer in `evidence.json` has it; `item` is its place there."""
        about = {"item": item, "method": self.method, "signed": self.signed}
        return {**about, "values": self.values.tolist(), **self.parts.where}


def video_record(maps: Sequence[PartMap], item: int) -> dict[str, Any]:
    """The maps of the frames of one video as one record, see `PartMap.record`: frame × rows × columns."""
    return {**maps[0].record(item), "values": [part.values.tolist() for part in maps]}


class EncodedRows:
    """Rows of a batch, encoded and projected once, with the parts of their items.

    Args:
        model: in eval mode.
        batch: the model's inputs, raw, or with `encoder_states` in place of some; what a collator adds beside them is
            left aside.
        background: the inputs of other rows, whose items say what usually stands in a place; None: an item stands for
            itself.
        items: by modality the distinct items of the batch as the processor takes them, in their order: for what parts
            are called (words, seconds).
        processor: likewise.
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
        """What made the tokens of a modality."""
        return self.model.explained_base.projections[modality]

    def item_index(self, modality: str) -> torch.Tensor:
        """Which item each row has in each place, `(B, K)` int64, -1 for none."""
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
        """What usually stands at the place of each token, `(K * T', D)`: the mean over the items of the background,
        and behind the longest of them the mean of all; None without a background. T' is as long as the items of the
        batch are."""
        if modality not in self._usual:
            state = self.background.get(modality)
            self._usual[modality] = None if state is None or not state.levels else self._mean_of(modality, state)
        return self._usual[modality]

    @torch.no_grad()
    def _mean_of(self, modality: str, state: EncoderStates) -> torch.Tensor:
        projection = self.projection(modality)
        each = torch.arange(state.count(), device=self.model.device)[:, None].expand(-1, projection.places)
        tokens = projection(replace(state, index=None), each).by_row()  # one row an item, in each place
        places, length = projection.places, self.tokens[modality].tokens.shape[1] // projection.places
        values = tokens.tokens.unflatten(1, (places, -1))  # (U, K, T, D)
        weights = tokens.row_mask().unflatten(1, (places, -1)).unsqueeze(-1).to(values)  # (U, K, T, 1)
        counts, sums = weights.sum(0), (values * weights).sum(0)
        overall = sums.sum(1, keepdim=True) / counts.sum(1, keepdim=True)  # (K, 1, D)
        means = torch.where(counts > 0, sums / counts.clamp(min=1), overall)[:, :length]
        means = torch.cat([means, overall.expand(-1, length - means.shape[1], -1)], dim=1)
        return means.flatten(0, 1)

    def instead(self, modality: str, states: TokenStates) -> torch.Tensor:
        """What stands in the place of tokens that are taken away, `(U, T, D)` of such states: see `usual`; without a
        background the mean of the item."""
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
        """Of the tokens of a row, `(K * T,)`, the part that each stands for, see `ItemParts.tokens`; those of other
        places for none."""
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
        """What the fusion gives for tokens."""
        return self.model.explained_base(token_states=states, return_tokens=answer.reads_tokens, **options)

    @torch.no_grad()
    def outputs(self, answer: Answer) -> MMFusionModelOutput:
        """What the fusion gives for the rows as they are."""
        return self.fuse(self.tokens, answer)


def needs_parts(rows: EncodedRows, modality: str):
    """Refuses a model that reads items as a whole.

    Raises:
        NoMap: it does.
    """
    if not rows.projection(modality).tells_parts:
        raise NoMap(
            "This model compares embeddings of whole items: parts can be taken away before the encoder alone "
            "(--method input_occlusion)."
        )


@torch.no_grad()
def encode(model: Any, batch: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, EncoderStates]]:
    """The raw inputs of a batch, and what the encoders make of them."""
    base = model.explained_base
    inputs = {name: value for name, value in batch.items() if name in base.input_names and value is not None}
    states = inputs.pop("encoder_states", None)
    indices = {name: inputs.pop(modality_of(name).index_name, None) for name in base.encoders}
    return inputs, base.encode(indices, states, **inputs)


def narrowed(state: TokenStates, rows: torch.Tensor) -> TokenStates:
    """The states of some rows, `(B',)`, with the items that these have and no others."""
    index = rows if state.index is None else state.index.index_select(0, rows)
    items, index = index.unique(return_inverse=True)
    chosen: dict[str, Any] = {
        name: None if value is None else value.index_select(0, items)
        for name, value in ((name, getattr(state, name)) for name in ("tokens", "mask", "pooled", "places"))
    }
    return replace(state, index=index, **chosen)
