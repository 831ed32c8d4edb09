"""Encodes or embeds the distinct texts and other items of a data set, for search."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import nn

from .data.collator import MultimodalCollator
from .data.preparing import prepare_readable
from .data.rows import Rows
from .models.modeling_outputs import EncoderStates
from .models.retrieval_mm_fusion import MMFusionForRetrieval
from .progress_bar import progress_bar


@torch.no_grad()
def embed(
    model: MMFusionForRetrieval,
    collator: MultimodalCollator,
    modality: str,
    rows: Rows,
    places: Sequence[int],
    batch_size: int = 128,
    progress: bool = True,
    unreadable: dict[int, str] | None = None,
) -> torch.Tensor:
    """The embeddings of the items of some rows, `(N, E)` float32 on the CPU.

    Args:
        model, collator, modality, rows: see `Gallery`.
        unreadable: a dict that gets the reason for each item that cannot be read, by its place; the item is then left
            out. None: such an item raises.
    """
    batches = batches_of(model, collator, modality, rows, places, batch_size, progress, unreadable)
    embeddings = [model.get_features(modality, None, **inputs).float().cpu() for inputs in batches]
    return torch.cat(embeddings) if embeddings else torch.empty(0, model.config.projection_dim)


@torch.no_grad()
def encode(
    model: MMFusionForRetrieval,
    collator: MultimodalCollator,
    modality: str,
    rows: Rows,
    places: Sequence[int],
    batch_size: int = 128,
    progress: bool = True,
) -> EncoderStates:
    """Encodes the items of some rows; each row has one. See `Gallery`."""
    batches = batches_of(model, collator, modality, rows, places, batch_size, progress)
    return joined([model.model.encode({}, None, **inputs)[modality] for inputs in batches])


def batches_of(
    model: MMFusionForRetrieval,
    collator: MultimodalCollator,
    modality: str,
    rows: Rows,
    places: Sequence[int],
    batch_size: int,
    progress: bool,
    unreadable: dict[int, str] | None = None,
) -> Iterator[dict[str, torch.Tensor]]:
    """Yields the model's inputs for the items of some rows, in batches; for the arguments see `embed`."""
    model.eval()
    prepare = partial(collator.prepare_items, modality)
    starts = range(0, len(places), batch_size)
    for start in progress_bar(starts, desc=f"encoding {modality}", disable=not progress, leave=False):
        chosen = rows.__getitems__(list(places[start : start + batch_size]))
        _, inputs = prepare_readable({row["row_id"]: row for row in chosen}, prepare, unreadable)
        if inputs:
            yield {name: values.to(model.device) for name, values in inputs.items()}


def joined(parts: list[EncoderStates]) -> EncoderStates:
    """Joins several states into one; sequences are padded to the longest."""
    if not all(part.levels for part in parts) or len({part.mask is None for part in parts}) > 1:
        raise ValueError("States can be joined only if each has items, and if all of them have a mask or none has.")
    levels = []
    for level in zip(*(part.levels or () for part in parts)):
        longest = max(values.shape[1] for values in level)
        grid = level[0].ndim == 4
        levels.append(torch.cat([v if grid else nn.functional.pad(v, (0, 0, 0, longest - v.shape[1])) for v in level]))
    masks = [part.mask for part in parts if part.mask is not None]
    padded = [nn.functional.pad(mask, (0, levels[0].shape[1] - mask.shape[1])) for mask in masks]
    return EncoderStates(levels=tuple(levels), mask=torch.cat(padded) if padded else None)
