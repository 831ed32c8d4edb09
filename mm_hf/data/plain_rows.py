"""Rows of a plain data set, which may hold decoded pictures and sounds, as `Rows` would give them."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from ..models.names import did_you_mean
from ..models.table_schema import is_missing
from .rows import EPOCH, Columns, is_absent


logger = logging.get_logger(__name__)

BATCH = "this batch"  # the split of rows that do not know where they come from
ORIENTATION = 0x0112  # the key in EXIF data


def read_plain(rows: list[Any], columns: Columns, draws: bool) -> tuple[list[dict[str, Any]], bool]:
    """Rows of a plain data set as `Rows` gives them, and whether they have labels.

    Args:
        rows: dicts of columns.
        columns: those that are needed; those of labels and weights may be absent, all together.
        draws: something is drawn at random for the rows: they get an `epoch` from torch's generator.

    Raises:
        ValueError: rows that are no dicts, or lack a column.
    """
    needed = {column for part, column in columns.named() if part not in ("label", "weight", "kind")}
    of_labels = {*columns.labels, *columns.weights.values()}
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"Row {place} of {BATCH} must be a dict of columns, got {row!r:.80}.")
        if missing := sorted(needed - set(row)):
            raise ValueError(
                f"Row {place} of {BATCH} has no column {missing[0]!r}, which Columns names; it has {list(row)}."
                f"{did_you_mean(missing[0], row)} The library's Trainer drops columns unless "
                "remove_unused_columns=False."
            )
    given = {column for column in of_labels if all(column in row for row in rows)}
    if given and given != of_labels:
        raise ValueError(f"Rows have the columns {sorted(given)}, but not {sorted(of_labels - given)}, of labels.")
    if of_labels and not given:
        known = list(rows[0])
        logger.warning_once(
            f"The rows have no column of labels {sorted(of_labels)}, and are taken for rows without; they have "
            f"{known}.{did_you_mean(sorted(of_labels)[0], known)} This is said once."
        )
    drawn = {EPOCH: int(torch.randint(2**31, ()))} if draws else {}
    files = set(columns.files)
    return [
        {
            **{name: as_file(row[name]) if name in files else as_plain(row[name]) for name in needed | given},
            **drawn,
            "row_id": place,
            "split": BATCH,
        }
        for place, row in enumerate(rows)
    ], bool(given)


def knows_its_place(row: Any, files: list[str]) -> bool:
    """Whether a row is as `Rows` or a stream gives it: with its number, its part, and the files as they are."""
    if not (isinstance(row, dict) and isinstance(row.get("row_id"), int) and isinstance(row.get("split"), str)):
        return False
    return all(is_absent(row.get(name)) or isinstance(row[name], (dict, list)) for name in files)


def as_plain(value: Any) -> Any:
    """A value of a plain data set without the types of numpy and torch; None for what is missing."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    elif isinstance(value, torch.Tensor):
        value = value.detach().cpu().tolist()
    return None if is_missing(value) else value


def as_file(value: Any) -> Any:
    """A picture, sound or video of a plain data set: paths and bytes as the struct of both, what is decoded as it is,
    None for what is missing."""
    if is_missing(value) or (isinstance(value, (str, bytes)) and not value):
        return None
    if isinstance(value, (str, os.PathLike)):
        return {"bytes": None, "path": os.fspath(value)}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value), "path": None}
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return [as_file(frame) for frame in value] if isinstance(value, (list, tuple)) else value


def is_decoded(value: Any) -> bool:
    """Whether a row holds a picture or sound itself, and no file of it."""
    samples = isinstance(value, Mapping) and bool({"array", "raw"} & set(value))
    return samples or isinstance(value, (Image.Image, np.ndarray))


def fingerprint(value: Any) -> str:
    """What tells decoded pictures and sounds apart: a hash of all that they show or say."""
    about: tuple[Any, ...]
    if isinstance(value, Image.Image):
        about = (value.mode, value.size, value.getpalette(), value.info.get("transparency"))
        content, about = value.tobytes(), (*about, value.getexif().get(ORIENTATION))
    elif isinstance(value, Mapping):
        samples = np.asarray(value.get("array", value.get("raw")))
        content, about = samples.tobytes(), (samples.dtype, samples.shape, value.get("sampling_rate"))
    else:
        content, about = value.tobytes(), (value.dtype, value.shape)
    return hashlib.sha256(repr(about).encode() + content).hexdigest()
