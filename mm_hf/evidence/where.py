"""From rows to the `parts` of their records in evidence.json."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..data.collator import MultimodalCollator
from ..data.modalities import reader_of
from ..data.rows import BadRowError
from ..models.modality import modality_of
from .methods import METHODS, NoMap, default_method
from .parts import Answer, EncodedRows, PartMap, video_record


VIDEO = "video"  # the kind of an item that has frames in several places


def encoded_rows(
    model: Any,
    collator: MultimodalCollator,
    rows: Sequence[dict[str, Any]],
    background: Sequence[dict[str, Any]] | None = None,
) -> EncodedRows:
    """Rows as the methods take them: encoded, with what their parts are called.

    Args:
        model: one with a head, in eval mode.
        collator: that passes over bad rows, and has no cache: what is erased before the encoder is encoded again.
        rows: as the collator takes them.
        background: rows whose items say what usually stands in a place.
    """
    batch = on_device(collator(list(rows)), model.device)
    others = None if not background else on_device(collator(list(background)), model.device)
    return EncodedRows(model, batch, others, items_of(collator, rows, batch), collator.processor)


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on a device."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def items_of(
    collator: MultimodalCollator, rows: Sequence[dict[str, Any]], batch: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """By modality the distinct items of a batch that a collator made, in their order; None for what cannot be read."""
    items: dict[str, list[Any]] = {}
    for name, columns in collator.parts.items():
        index = batch.get(modality_of(name).index_name)
        if index is None or not len(index):
            continue
        index = index.reshape(len(rows), -1)
        items[name] = [None] * (int(index.max()) + 1)
        for row, numbers in zip(rows, index.tolist()):
            for column, number in zip(columns, numbers):
                if number >= 0 and items[name][number] is None:
                    try:
                        items[name][number] = reader_of(name).load(row, column, collator)
                    except BadRowError:
                        continue
    return items


def part_records(
    rows: EncodedRows, answer: Answer, items: Sequence[Sequence[Mapping[str, Any]]], method: str | None = None
) -> tuple[list[list[dict[str, Any]]], list[str]]:
    """The `parts` of each row's record, for one answer.

    Args:
        rows: see `encoded_rows`.
        answer: what is explained.
        items: of each row its items as its record has them: `modality`, `place`, `kind`.
        method: one of `METHODS`; None: of each modality the one that measures best, see `default_method`.

    Returns:
        of each row; and warnings, of modalities that the method cannot explain.
    """
    records: list[list[dict[str, Any]]] = [[] for _ in items]
    warnings = []
    for modality in rows.states:
        try:
            maps = METHODS[method or default_method(rows, modality)](rows, answer, modality)
        except NoMap as error:
            warnings.append(str(error))
            continue
        for row, of_row in enumerate(items):
            of_items: dict[int, list[PartMap]] = {}
            for part in maps:
                if part.row == row and (item := item_at(of_row, modality, part.place)) is not None:
                    of_items.setdefault(item, []).append(part)
            for item, parts in of_items.items():
                if of_row[item].get("kind") == VIDEO:
                    records[row].append(video_record(parts, item))
                else:
                    records[row] += [part.record(item) for part in parts]
    return records, warnings


def item_at(items: Sequence[Mapping[str, Any]], modality: str, place: int) -> int | None:
    """Which of a row's items stands in a place: the frames of a video stand in its place and in those behind it."""
    before = [n for n, item in enumerate(items) if item["modality"] == modality and item["place"] <= place]
    last = max(before, key=lambda number: items[number]["place"], default=None)
    return last if last is None or items[last]["place"] == place or items[last].get("kind") == VIDEO else None
