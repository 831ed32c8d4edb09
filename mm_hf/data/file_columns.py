"""Columns of pictures, sounds and videos. Their values become structs of bytes and path, whatever form they have."""

import os
from functools import partial
from typing import Any

from datasets import Audio, Dataset, Features, Image, IterableDataset, Value

from .column_types import STRINGS
from .item_files import is_url
from .rows import resolve_path


SOUND = {"bytes": Value("binary"), "path": Value("string")}  # as `datasets.Audio`, which would need torchcodec


def with_files(
    split: Dataset | IterableDataset, column: str, root: str | None, what: str, target: Any
) -> Dataset | IterableDataset:
    """The split with this column as structs of bytes and path. Paths or bytes are converted.

    Args:
        split: the rows.
        column: the column of files.
        root: the folder of the files, see `resolve_path`.
        what: what the files are, for messages, such as "images".
        target: the feature, `Image(decode=False)` or `SOUND`.

    Raises:
        ValueError: the column holds something else, or none of its first 100 paths is a file.
    """
    feature: Any = split.features[column]
    strings = isinstance(feature, Value) and feature.dtype in STRINGS
    binary = isinstance(feature, Value) and "binary" in feature.dtype
    struct = isinstance(feature, dict) and set(feature) <= {"bytes", "path"}
    kind = Image if isinstance(target, Image) else Audio
    if not (isinstance(feature, kind) or strings or binary or struct):
        raise ValueError(
            f"Column {column!r} must hold {what} (datasets.{kind.__name__}, bytes or paths), but it holds {feature}."
        )
    if strings:
        first = [row[column] for row in split.select_columns([column]).take(100)]
        paths = [path for path in first if path]
        if paths and all(map(is_url, paths)):
            raise ValueError(
                f"Column {column!r} holds URLs (the first: {paths[0]!r:.200}), and training downloads nothing. "
                f"Download them first with `mm_hf fetch ROWS --column {column}`: it writes the rows with a column "
                f"{f'{column}_path'!r} of local files."
            )
        if paths and not any(is_file(path, root) for path in paths):
            raise ValueError(
                f"Column {column!r} must hold {what} or paths to them, but none of its first {len(paths)} values is a "
                f"file below {root or 'data_root'!r} (the first: {paths[0]!r}). Only files below that folder are "
                "read: set --data_root to the folder that contains all of them."
            )
        if isinstance(split, Dataset) and "" in split.unique(column):
            split = split.map(partial(drop_empty, column=column), features=split.features)
    if isinstance(feature, kind) or (isinstance(split, Dataset) and (struct or kind is Image)):
        return split.cast_column(column, target) if feature != target else split
    features = Features({**split.features, column: target})
    return split.map(partial(as_file, column=column), features=features)


def drop_empty(row: dict[str, Any], column: str) -> dict[str, Any]:
    """The row with None instead of an empty path, because datasets takes "" for a file."""
    return {column: row[column] or None}


def as_file(row: dict[str, Any], column: str) -> dict[str, Any]:
    """The row with a path, bytes or a partial struct as a struct of both. None for an empty value."""
    value = row[column]
    if isinstance(value, (str, bytes)):
        value = {"path" if isinstance(value, str) else "bytes": value} if value else None
    return {column: None if value is None else {"bytes": value.get("bytes"), "path": value.get("path")}}


def is_file(path: str, root: str | None) -> bool:
    """Whether the path is allowed and is a file."""
    try:
        return os.path.isfile(resolve_path(path, root))
    except ValueError:
        return False
