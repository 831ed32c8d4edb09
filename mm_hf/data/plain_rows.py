"""Turns rows of a plain data set, which may hold decoded pictures and sounds, into rows like those of `Rows`."""

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

BATCH = "this batch"  # the split name of rows that do not know where they come from
ORIENTATION = 0x0112  # a key of EXIF data


def read_plain(rows: list[Any], columns: Columns, draws: bool) -> tuple[list[dict[str, Any]], bool]:
    """Rows of a plain data set in the form of `Rows`, and whether they have labels.

    Args:
        rows: dicts of columns.
        columns: the columns that are needed. Those of labels and weights may be missing, but only all together.
        draws: random changes are on, so the rows get a random `epoch` from torch's generator.

    Raises:
        ValueError: a row is not a dict, or lacks a column.
    """
    needed = {column for part, column in columns.named() if part not in ("label", "weight", "kind")}
    of_labels = {*columns.labels, *columns.weights.values()}
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"Row {place} of {BATCH} must be a dict of columns, got {row!r:.80}.")
        if missing := sorted(needed - set(row)):
            raise ValueError(
                f"Row {place} of {BATCH} has no column {missing[0]!r}, which Columns names; it has {list(row)}."
                f"{did_you_mean(missing[0], row)} The Trainer of transformers drops columns unless you set "
                "remove_unused_columns=False."
            )
    given = {column for column in of_labels if all(column in row for row in rows)}
    if given and given != of_labels:
        raise ValueError(
            f"Rows have the label columns {sorted(given)}, but not {sorted(of_labels - given)}: give all or none."
        )
    if of_labels and not given:
        known = list(rows[0])
        logger.warning_once(
            f"The rows lack the label columns {sorted(of_labels)}, so they count as rows without labels. They have "
            f"{known}.{did_you_mean(sorted(of_labels)[0], known)} This warning comes only once."
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
    """Whether a row has the form of `Rows` or of a stream: with its number, its part, and undecoded files."""
    if not (isinstance(row, dict) and isinstance(row.get("row_id"), int) and isinstance(row.get("split"), str)):
        return False
    return all(is_absent(row.get(name)) or isinstance(row[name], (dict, list)) for name in files)


def as_plain(value: Any) -> Any:
    """A value of a plain data set without types of numpy and torch. None for a missing value."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    elif isinstance(value, torch.Tensor):
        value = value.detach().cpu().tolist()
    return None if is_missing(value) else value


def as_file(value: Any) -> Any:
    """A picture, sound or video of a plain data set. Paths and bytes become a struct of both. A decoded item stays as
    it is. None for a missing value."""
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
    """Whether a row holds a decoded picture or sound, and not a file."""
    samples = isinstance(value, Mapping) and bool({"array", "raw"} & set(value))
    return samples or isinstance(value, (Image.Image, np.ndarray))


def fingerprint(value: Any) -> str:
    """A hash that identifies a decoded picture or sound. It covers everything that one can see or hear."""
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
