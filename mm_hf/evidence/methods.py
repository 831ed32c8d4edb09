"""The methods that make maps over the parts of items.

The default method of a fusion was chosen by measurement, see `benchmarks/explain_parts.py`.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from ..models.item_parts import ItemParts
from ..models.modality import Modality, modality_of
from ..models.modeling_outputs import AttentionStep, EncoderStates, MMFusionModelOutput, TokenStates
from ..models.pooled_fusions import PooledFusion
from ..models.projection import pool_tokens
from ..models.token_fusions import LATENTS
from .parts import Answer, EncodedRows, NoMap, PartMap, narrowed, needs_parts


BATCH = 256  # edited rows per batch
STEPS = 32  # of integrated gradients


class Job(NamedTuple):
    """One item of one row, with some of its parts removed.

    Args:
        item, place, number: identify the edited item. Jobs with the same values share it.
        row: the row of the answer.
        parts: of the item.
        hidden: `(P,)` bool, the removed parts.
        way: how they are removed, see `Modality.ways`.
    """

    item: int
    place: int
    number: int
    row: int
    parts: ItemParts
    hidden: torch.Tensor
    way: int = 0

    @property
    def key(self) -> tuple[int, int, int, int]:
        """The key of the edited item."""
        return self.item, self.place, self.number, self.way


Editor = Callable[[list[Job]], TokenStates]


def occlusion(
    rows: EncodedRows, answer: Answer, modality: str, reach: int | None = None, batch_size: int = BATCH
) -> list[PartMap]:
    """How much the answer changes if a part and its surroundings are removed after the encoder.

    The removed tokens are replaced by the mean over other rows at the same position (Zeiler and Fergus 2014, section
    4.2, at the projected tokens). The value is the divergence of the new answer from the original answer. Every item
    is encoded and projected once, and rows that share an item share its edited tokens.

    Args:
        rows: encoded rows.
        answer: the explained answer.
        modality: the modality of the items.
        reach: replaces `ItemParts.reach`.
        batch_size: edited rows per batch.
    """
    needs_parts(rows, modality)
    index = rows.tokens[modality].index
    of_row = (rows.rows if index is None else index).tolist()
    jobs = one_by_one(rows, modality, reach, of_row)
    made = distances(rows, answer, modality, jobs, hide_tokens(rows, modality), batch_size)
    return maps_of(modality, jobs, made, "occlusion")


def hide_tokens(rows: EncodedRows, modality: str) -> Editor:
    """Removes parts after the encoder: see `occlusion`."""
    states = rows.tokens[modality]
    instead, places = rows.instead(modality, states), replace(states, index=None)

    def edited(jobs: list[Job]) -> TokenStates:
        hidden = []
        for job in jobs:
            tokens = rows.token_numbers(modality, job.place, job.parts)
            hidden.append(job.hidden.to(tokens.device)[tokens.clamp(min=0)] & (tokens >= 0))
        index = torch.tensor([job.item for job in jobs], device=states.tokens.device)
        whole = places.by_row(index)
        tokens = torch.where(torch.stack(hidden).unsqueeze(-1), instead[index], whole.tokens)
        return rows.with_tokens(modality, whole, tokens)

    return edited


def input_occlusion(
    rows: EncodedRows, answer: Answer, modality: str, reach: int | None = None, batch_size: int = BATCH
) -> list[PartMap]:
    """How much the answer changes if a part is removed before the encoder: see `Modality.erase`.

    Many encoders mix their inputs: after a text encoder, the state of each word depends on all words. Then parts
        cannot be removed after the encoder. This method encodes every item once per part.

    Raises:
        NoMap: the raw inputs are not available, or the modality does not define how its parts are erased.
    """
    index = rows.item_index(modality).tolist()
    jobs = one_by_one(rows, modality, reach, range(len(rows)))
    if len(index[0]) == 1:  # rows that share the item share the encoded item
        jobs = [job._replace(item=index[job.row][0]) for job in jobs]
    return maps_of(modality, jobs, input_distances(rows, answer, modality, jobs, batch_size), "input_occlusion")


def input_distances(
    rows: EncodedRows, answer: Answer, modality: str, jobs: list[Job], batch_size: int = BATCH
) -> torch.Tensor:
    """`distances` of jobs before the encoder: the mean over all ways to erase their parts."""
    kind, background = modality_of(modality), raw_inputs(rows.background_inputs, modality)
    each = [job._replace(way=way) for job in jobs for way in range(kind.ways(job.parts, background))]
    made = distances(rows, answer, modality, each, hide_inputs(rows, modality), batch_size)
    counts = torch.tensor([kind.ways(job.parts, background) for job in jobs])
    owners = torch.arange(len(jobs)).repeat_interleave(counts)
    return torch.zeros(len(jobs), dtype=torch.float64).index_add(0, owners, made) / counts


def raw_inputs(inputs: Mapping[str, torch.Tensor], modality: str) -> dict[str, torch.Tensor]:
    """The raw inputs of a batch that belong to one modality."""
    return {name: value for name, value in inputs.items() if name in modality_of(modality).inputs}


def hide_inputs(rows: EncodedRows, modality: str) -> Editor:
    """Removes parts before the encoder: see `input_occlusion`."""
    kind, state = modality_of(modality), rows.states[modality]
    inputs, background = (raw_inputs(given, modality) for given in (rows.inputs, rows.background_inputs))
    if not inputs:
        raise NoMap(f"The raw inputs of {modality} are not available, so no part of them can be erased.")
    index = rows.item_index(modality)

    def edited(jobs: list[Job]) -> TokenStates:
        made, items = [], index[torch.tensor([job.row for job in jobs])].clone()  # (N, K)
        for number, job in enumerate(jobs):
            item = {name: value[[int(items[number, job.place])]] for name, value in inputs.items()}
            erased = kind.erase(item, job.parts, job.hidden[None], background or None, rows.processor, job.way)
            if erased is None:
                raise NoMap(f"{type(kind).__name__} does not define how parts of its items are erased.")
            made.append(erased)
            items[number, job.place] = state.count() + number
        together = {name: torch.cat([one[name] for one in made]) for name in made[0]}
        each = torch.arange(len(jobs), device=rows.model.device)
        encoded = rows.model.explained_base.encode({modality: each}, **together)[modality]
        joined = EncoderStates(
            levels=tuple(torch.cat(pair) for pair in zip(state.levels or (), encoded.levels or ())),
            mask=None if state.mask is None else torch.cat([state.mask, encoded.mask.to(state.mask)]),
        )
        return rows.projection(modality)(joined, items).by_row()

    return edited


def one_by_one(rows: EncodedRows, modality: str, reach: int | None, items: Sequence[int]) -> list[Job]:
    """A job for each part of each item of each row; the surroundings of the part are removed with it. `items` names
    the edited item of each row."""
    jobs = []
    for row, place, parts in rows.present(modality):
        for number, hidden in enumerate(parts.windows(reach)):
            jobs.append(Job(items[row], place, number, row, parts, hidden))
    return jobs


def maps_of(modality: str, jobs: list[Job], values: torch.Tensor, method: str) -> list[PartMap]:
    """The maps from the jobs of `one_by_one` and their values, `(N,)`."""
    maps, start = [], 0
    while start < len(jobs):
        job = jobs[start]
        of_item = values[start : start + job.parts.count].reshape(job.parts.shape)
        maps.append(PartMap(job.row, modality, job.place, job.parts, of_item, method))
        start += job.parts.count
    return maps


@torch.no_grad()
def distances(
    rows: EncodedRows, answer: Answer, modality: str, jobs: list[Job], edited: Editor, batch_size: int = BATCH
) -> torch.Tensor:
    """How much the answer of each job differs from the answer to the original row, `(N,)` float64; see
    `Answer.distance`.

    Args:
        edited: makes the edited item of each job. Jobs with the same edited item are consecutive, and share it.
        batch_size: jobs per batch.
    """
    before = rows.outputs(answer)
    given = answer.value(before, rows.rows)
    order = sorted(range(len(jobs)), key=lambda number: (*jobs[number].key, jobs[number].row))
    values = torch.zeros(len(jobs), dtype=torch.float64)
    for start in range(0, len(jobs), batch_size):
        chosen = order[start : start + batch_size]
        distinct = {jobs[number].key: jobs[number] for number in chosen}
        numbers = {key: number for number, key in enumerate(distinct)}
        asked = torch.tensor([jobs[number].row for number in chosen], device=rows.model.device)
        index = torch.tensor([numbers[jobs[number].key] for number in chosen], device=rows.model.device)
        changed = replace(edited(list(distinct.values())), index=index)
        # In the order of the model, because fusions rely on it.
        states = {name: changed if name == modality else narrowed(state, asked) for name, state in rows.tokens.items()}
        after = rows.fuse(states, answer)
        values[chosen] = answer.distance(before, after, asked, given).double().cpu()
    return values


def integrated_gradients(
    rows: EncodedRows, answer: Answer, modality: str, steps: int = STEPS, batch_size: int = BATCH
) -> list[PartMap]:
    """The signed contribution of each part to the explained number: integrated gradients (Sundararajan et al. 2017) at
    the projected tokens, computed by captum. The path starts at the mean of each position and ends at the real tokens.

    Their sum over all tokens is the difference between the values at both ends of the path: see `completeness`.

    Raises:
        ImportError: captum is not installed.
    """
    attributions, _ = gradients_along(rows, answer, modality, steps, batch_size)
    return gathered(rows, modality, attributions, "integrated_gradients", signed=True)


def gradients_along(
    rows: EncodedRows, answer: Answer, modality: str, steps: int = STEPS, batch_size: int = BATCH
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integrated gradients of each token, `(B, K * T)` float64, and for each row the error of their sum, `(B,)`: its
    difference from the difference between the values at both ends of the path."""
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise ImportError("Integrated gradients require `pip install captum`, or `mm_hf[explain]`.") from error
    needs_parts(rows, modality)
    states = {name: state.by_row() for name, state in rows.tokens.items()}
    tokens = states[modality].tokens
    start = rows.instead(modality, states[modality])
    if states[modality].mask is not None:  # masked tokens do not change
        start = torch.where(states[modality].mask.unsqueeze(-1), start, tokens)

    def value(edited: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        here = {name: state.by_row(numbers) for name, state in states.items()}
        here[modality] = rows.with_tokens(modality, here[modality], edited)
        return answer.value(rows.fuse(here, answer), numbers)

    with torch.enable_grad():
        attributed, delta = IntegratedGradients(value).attribute(
            tokens.detach(),
            start.detach(),
            additional_forward_args=rows.rows,
            n_steps=steps,
            internal_batch_size=max(batch_size, len(rows)),
            return_convergence_delta=True,
        )
    return attributed.detach().double().sum(-1), delta.detach().double()


def relevance(rows: EncodedRows, answer: Answer, modality: str) -> list[PartMap]:
    """The relevance of each part: the attention to it in each layer, weighted by its gradient. Chefer et al. 2021
    (arXiv 2103.15679), equations 5 to 11.

    It follows only the attention. The readouts of these fusions also use each modality's own vector.

    Raises:
        NoMap: the fusion has no attention.
    """
    steps, sizes = attention_steps(rows, answer, gradients=True)
    query, at = rows.model.explained_base.fusion.query_modality, place_of_tokens(sizes, sizes)
    relevant = propagate(steps, sizes)[:, at[query]]  # (B, T, N)
    seen = (relevant * readers(rows, query).unsqueeze(-1)).sum(1)  # (B, N)
    return gathered(rows, modality, seen[:, at[modality]], "relevance")


def attention(rows: EncodedRows, answer: Answer, modality: str) -> list[PartMap]:
    """Where the model looks: the weights of the last attention to a modality's tokens, from the tokens that the
    readout uses, averaged over all heads. It does not show what the model does with this information: attention can
    point at the right object even if its gate is closed.

    Raises:
        NoMap: the fusion has no attention to this modality.
    """
    steps, sizes = attention_steps(rows, answer, gradients=False)
    query = rows.model.explained_base.fusion.query_modality
    looking = [step for step in steps if modality in step.asked and {query, LATENTS} & {*step.asking}]
    if not looking:
        raise NoMap(f"In this model, no token of the readout attends to {modality}.")
    last = looking[-1]
    asker = query if query in last.asking else LATENTS
    asking = last.weights[:, :, place_of_tokens(sizes, last.asking)[asker]].mean(1)  # (B, T, T')
    weights = readers(rows, query) if asker == query else asking.new_full(asking.shape[:2], 1 / asking.shape[1])
    seen = (asking * weights.unsqueeze(-1)).sum(1)  # (B, T')
    return gathered(rows, modality, seen[:, place_of_tokens(sizes, last.asked)[modality]], "attention")


def attention_steps(rows: EncodedRows, answer: Answer, gradients: bool) -> tuple[list[AttentionStep], dict[str, int]]:
    """All attention weights of the fusion for the original rows, `(B, A, T, T')` float64; with `gradients`, their
    relevance by equation 5 of Chefer et al., `(B, 1, T, T')`. Also the number of tokens by modality.

    Raises:
        NoMap: the fusion has no attention.
    """
    for name in rows.tokens:
        needs_parts(rows, name)
    with eager(rows.model), torch.set_grad_enabled(gradients):
        states = {}
        for name, state in rows.tokens.items():
            states[name] = state.by_row()
            if gradients:  # attention weights have gradients only if the tokens have them
                tokens = states[name].tokens.detach().requires_grad_()
                states[name] = rows.with_tokens(name, states[name], tokens)
        fused = rows.model.explained_base.fuse_tokens(states, output_attentions=True)
        steps = list(fused.attention_steps or ())
        if not steps:
            raise NoMap(f"The fusion {rows.model.config.fusion_module_config.fusion_type!r} has no attention.")
        sizes = {name: state.tokens.shape[1] for name, state in states.items()}
        for step in steps:  # latents belong to no modality
            new = [name for name in step.asked if name not in sizes]
            sizes |= {name: step.weights.shape[-1] - sum(sizes.get(n, 0) for n in step.asked) for name in new}
        if gradients:
            weights = [step.weights for step in steps]
            value = answer.value(MMFusionModelOutput.of(fused), rows.rows).sum()
            slopes = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)
            steps = [
                step._replace(weights=(step.weights * slope).clamp(min=0).mean(1, keepdim=True))
                for step, slope in zip(steps, slopes)
            ]
    return [step._replace(weights=step.weights.detach().double()) for step in steps], sizes


def propagate(steps: list[AttentionStep], sizes: Mapping[str, int]) -> torch.Tensor:
    """The relevance of each token for each other token, `(B, N, N)` float64, over the concatenated tokens of all
    modalities: Chefer et al. 2021, equations 6 to 11. Latents are the mean of the latents of the modalities.

    Args:
        steps: with weights `(B, 1, T, T')` by equation 5.
        sizes: tokens by modality.
    """
    count, places = sum(sizes.values()), place_of_tokens(sizes, sizes)
    identity = torch.eye(count, dtype=torch.float64, device=steps[0].weights.device)
    relevant = identity.expand(len(steps[0].weights), -1, -1).clone()
    for _, layer in itertools.groupby(steps, key=lambda step: step.layer):
        made: dict[tuple[str, ...], torch.Tensor] = {}
        for step in layer:
            new = made.setdefault(step.asking, relevant.clone())
            asking, asked = (
                torch.cat([places_of(places[name]) for name in names]) for names in (step.asking, step.asked)
            )
            weights = step.weights[:, 0]
            if step.asking == step.asked:
                new[:, asking] += weights @ new[:, asking]
                continue
            of_asking, of_asked = (normalised(square(new, one)) for one in (asking, asked))
            across = of_asking.transpose(1, 2) @ weights @ of_asked
            within = weights @ new[:, asked][:, :, asking]
            new[:, asking[:, None], asked] += across
            new[:, asking[:, None], asking] += within
        for name in sizes:
            rows = [new[:, places[name]] for asking, new in made.items() if name in asking]
            if rows:
                relevant[:, places[name]] = torch.stack(rows).mean(0)
    return relevant - identity


def places_of(part: slice) -> torch.Tensor:
    """A slice as numbers."""
    return torch.arange(part.start, part.stop)


def square(relevant: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The relevance among some tokens, `(B, n, n)`."""
    return relevant[:, places][:, :, places]


def normalised(relevant: torch.Tensor) -> torch.Tensor:
    """Equations 8 and 9: the relevance without the identity, `(B, n, n)`, with rows scaled to a sum of 1; then plus
    the identity."""
    identity = torch.eye(relevant.shape[-1], dtype=relevant.dtype, device=relevant.device)
    added = relevant - identity
    return added / added.sum(-1, keepdim=True).clamp(min=1e-12) + identity


def place_of_tokens(sizes: Mapping[str, int], names: Iterable[str]) -> dict[str, slice]:
    """The positions of each modality in the concatenated tokens."""
    places, start = {}, 0
    for name in names:
        places[name] = slice(start, start + sizes[name])
        start += sizes[name]
    return places


def readers(rows: EncodedRows, modality: str) -> torch.Tensor:
    """The weight of each token in the pooled vector of its modality, `(B, T)` float64."""
    state = rows.tokens[modality].by_row()
    tokens = torch.eye(state.tokens.shape[1], dtype=torch.float64, device=state.tokens.device)
    pooling = rows.model.config.poolings[modality]
    return pool_tokens(tokens.expand(len(rows), -1, -1), state.mask, pooling, state.places)


def gathered(
    rows: EncodedRows, modality: str, values: torch.Tensor, method: str, signed: bool = False
) -> list[PartMap]:
    """Maps from values of tokens, `(B, K * T)`. The value of a part is the sum over its tokens."""
    values, maps = values.double().cpu(), []
    for row, place, parts in rows.present(modality):
        numbers = rows.token_numbers(modality, place, parts).cpu()
        sums = torch.zeros(parts.count + 1, dtype=torch.float64).index_add(0, numbers + 1, values[row])[1:]
        maps.append(PartMap(row, modality, place, parts, sums.reshape(parts.shape), method, signed))
    return maps


@contextlib.contextmanager
def eager(model: Any) -> Iterator[None]:
    """Switches the fusion to the attention implementation that returns weights, and switches back afterwards."""
    config = model.base_model.fusion.config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


Method = Callable[..., list[PartMap]]
METHODS: dict[str, Method] = {
    "occlusion": occlusion,
    "input_occlusion": input_occlusion,
    "integrated_gradients": integrated_gradients,
    "relevance": relevance,
    "attention": attention,
}


def default_method(rows: EncodedRows, modality: str) -> str:
    """The method that measured best. Usually it is `occlusion`. It is `input_occlusion` if the encoder mixes the
    parts, such as the words of a text, or if the fusion reads only one token per item, which mixes all others. This
    requires the raw inputs."""
    kind, fusion = modality_of(modality), rows.model.explained_base.fusion
    projection = rows.projection(modality)
    one_token = not projection.tells_parts or (isinstance(fusion, PooledFusion) and projection.pooling != "mean")
    erases = type(kind).erase is not Modality.erase and any(name in rows.inputs for name in kind.inputs)
    return "input_occlusion" if erases and (kind.mixes_parts or one_token) else "occlusion"
