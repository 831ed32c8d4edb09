"""Runs an export over the rows of a data set, and gives its outputs in the form of `mm_hf.evaluation.predict`. The
rows go through `runtime.py`, from their files to the numbers for the metrics."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from ..data import BadRowError, GroupedBatchSampler, MultimodalCollator, Rows
from ..data.modalities import reader_of
from ..progress_bar import progress_bar
from . import runtime
from .graphs import FUSE


NOT_FINITE = "The export gives numbers that are not finite, so it cannot be measured: export again without --int8."


def predict_exported(
    exported: runtime.Model,
    rows: Rows,
    collator: MultimodalCollator,
    batch_size: int,
    absent: Mapping[str, Collection[int] | None] | None = None,
    title: str | None = None,
) -> Any:
    """Runs an export over rows, in order.

    Args:
        exported: an export of a model that answers rows; not of a retrieval model.
        rows: rows of the same picture share a batch if `rows.groups` is given.
        collator: the collator of the model; it reads the rows.
        batch_size: rows per batch.
        absent: see `MultimodalCollator`.
        title: of the progress bar; None: no bar.

    Returns:
        see `Predictions.logits`.

    Raises:
        BadRowError: a row is bad, and bad rows are not skipped.
        ValueError: the export cannot read an item that the model can read.
    """
    groups = len(rows) if rows.groups is None else rows.groups
    batches = list(GroupedBatchSampler(groups, batch_size, shuffle=False))
    parts: list[Any] = []
    for numbers in progress_bar(batches, desc=title, leave=False, disable=title is None):
        loaded: dict[Any, Any] = {}
        items = [load_row(exported, row, collator, absent or {}, loaded) for row in rows.__getitems__(numbers)]
        parts.append(said_of(exported, exported.feeds(items), len(items)))
    order = torch.tensor([number for numbers in batches for number in numbers]).argsort()
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}
    if parts[0].is_floating_point():
        return torch.cat(parts)[order]
    pad = exported.manifest["tokenizer"]["pad_id"]
    longest = max(part.shape[1] for part in parts)
    tokens = [torch.nn.functional.pad(part, (0, longest - part.shape[1]), value=pad) for part in parts]
    return torch.cat(tokens)[order]


def load_row(
    exported: runtime.Model,
    row: dict[str, Any],
    collator: MultimodalCollator,
    absent: Mapping[str, Collection[int] | None],
    loaded: dict[Any, Any],
) -> dict[str, Any]:
    """The items of a row, see `load` of the runtime. A row without items is allowed, because the model answers it too.
    If bad rows are skipped, a bad item counts as absent, as in the collator."""
    items: dict[str, Any] = {each["name"]: [None] * each["places"] for each in exported.modalities}
    for name in items:
        reader, without = reader_of(name), absent.get(name, ())
        if not collator.parts[name] or without is None or row["row_id"] in without:
            continue
        try:
            given = reader.for_pipeline(row, collator)
            try:
                items[name] = exported.load(given, loaded)[name] if given else items[name]
            except runtime.RowError as error:
                for column in collator.parts[name]:  # raises if the model cannot read it either
                    if reader.key(row, column, collator) is not None:
                        reader.load(row, column, collator)
                raise ValueError(
                    f"Row {row['row_id']} of split {row['split']!r}: runtime.py cannot read its {name}, but the "
                    f"model can read it ({error}). Please report this."
                ) from None
        except BadRowError:
            if collator.on_error == "raise":
                raise
    return items


def said_of(exported: runtime.Model, feeds: dict[str, Any], rows: int) -> Any:
    """The answers to a batch of rows: logits, for several tasks by name, or tokens without the start token.

    Raises:
        ValueError: there are numbers that are not finite.
    """
    outputs, answers = exported.graphs[FUSE](feeds), exported.answers
    if answers["kind"] == "scores":
        said = {task["name"]: outputs[task["output"]] for task in answers["tasks"]}
        check_finite(*said.values())
        logits = {name: torch.from_numpy(values).float() for name, values in said.items()}
        return logits[None] if list(logits) == [None] else logits
    if answers["kind"] == "written":
        tokens, scores = exported.write(outputs, rows)
        check_finite(scores)
        return torch.from_numpy(tokens)
    heard = exported.tokens_heard(outputs)
    if any(tokens is None for tokens in heard):
        raise ValueError(NOT_FINITE)
    padded = np.full((rows, max(map(len, heard))), exported.manifest["tokenizer"]["pad_id"], np.int64)
    for number, tokens in enumerate(heard):
        padded[number, : len(tokens)] = tokens
    return torch.from_numpy(padded)


def check_finite(*values: np.ndarray):
    """Refuses numbers that are not finite."""
    if not all(np.isfinite(each).all() for each in values):
        raise ValueError(NOT_FINITE)
