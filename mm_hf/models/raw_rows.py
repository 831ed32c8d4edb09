# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The objects that hold several rows, rows of a table, and what tells one item from several."""

import inspect
import os
import re
import traceback
from collections.abc import Iterable, Mapping, Sized
from numbers import Real
from typing import Any

import torch
from PIL.Image import Image

from .table_schema import is_missing


# The attribute of an error that names what of a row could not be read.
ROW_KEY = "row_key"


class NotFiniteError(ValueError):
    """What the model says of a row are no finite numbers."""


class Places(list):
    """The items of one row, each in its place; None for a place without."""


def entries_of(value: Any) -> list:
    """The entries of whatever holds several: a list, a tuple, a column of `datasets` or pandas, a `KeyDataset`, an
    array, a generator. None and NaN are None.

    Raises:
        ValueError: a set, which has no order, or a table, of which no column is named.
    """
    if isinstance(value, (set, frozenset)):
        raise ValueError(f"A set has no order: give a list, got {value!r:.80}.")
    if (columns := columns_of(value)) is not None:
        raise ValueError(f"Got a table with the columns {columns}: give one of them, such as table[{columns[0]!r}].")
    if hasattr(value, "to_pylist"):  # of pyarrow, whose entries are objects of its own
        entries = value.to_pylist()
    elif isinstance(value, Iterable):
        entries = list(value)
    elif isinstance(value, Sized) and hasattr(value, "__getitem__"):  # a data set of torch
        entries = [value[place] for place in range(len(value))]
    else:
        raise ValueError(f"This is no list: {value!r:.80}.")
    return [None if is_missing(entry) else entry for entry in entries]


def columns_of(value: Any) -> list | None:
    """The names of the columns of a table (of pandas, polars, pyarrow or `datasets`); None for anything else."""
    if isinstance(value, Mapping):
        return None
    names = getattr(value, "column_names", None)  # of pyarrow and datasets
    names = getattr(value, "columns", None) if names is None else names
    return None if names is None or callable(names) or isinstance(names, str) else list(names)


def is_numeric(dtype: Any) -> bool:
    """Whether a type of numpy, pandas or torch is one of numbers."""
    return isinstance(dtype, torch.dtype) or getattr(dtype, "kind", "O") in "biuf"


def is_one(value: Any) -> bool:
    """Whether a value is no holder of rows whatever the modality: a text, the name or bytes of a file, a struct of
    them, a picture, or None."""
    kinds = (str, bytes, bytearray, os.PathLike, Mapping, Image)
    return isinstance(value, kinds) or getattr(value, "ndim", 1) == 0 or is_missing(value)


def holds_numbers(value: Any) -> bool:
    """Whether a list, a tuple or an array of one dimension is one of numbers, as its first that is there tells; an
    empty one is, and one of nothing but NaN."""
    if isinstance(value, (list, tuple)):
        first = next((entry for entry in value if not is_missing(entry)), None)
        return isinstance(first, Real) or (first is None and not any(entry is None for entry in value))
    return getattr(value, "ndim", 0) == 1 and is_numeric(getattr(value, "dtype", None))


def list_of_table_rows(value: Any) -> list:
    """Rows of a table as a list of dicts, None for a row without: from a dict, a list of them, a table of pandas,
    polars, pyarrow or `datasets`, or a row of one. Refuses two columns of one name."""
    if isinstance(value, Mapping) or is_missing(value) or is_series_of_a_row(value) or hasattr(value, "_asdict"):
        return [as_table_row(value)]
    columns = columns_of(value)
    if columns is None:
        return [as_table_row(row) for row in entries_of(value)]
    if twice := sorted({str(name) for name in columns if columns.count(name) > 1}):
        raise ValueError(f"The table has several columns {twice[0]!r}: each needs a name of its own.")
    for method, arguments in (("to_pylist", ()), ("to_dicts", ()), ("to_dict", ("records",))):
        if hasattr(value, method) and not (method == "to_dict" and not hasattr(value, "iterrows")):
            return list(getattr(value, method)(*arguments))
    return [as_table_row(row) for row in value]


def index_of_a_series(value: Any) -> list | None:
    """What stands beside the values of a series of pandas, which may be a row of a table: then it is the columns."""
    index = getattr(value, "index", None)
    if not hasattr(value, "to_dict") or index is None or callable(index) or columns_of(value) is not None:
        return None
    return list(index)


def is_series_of_a_row(value: Any) -> bool:
    """Whether a value is a row that was taken out of a table of pandas."""
    index = index_of_a_series(value)
    return bool(index) and all(isinstance(name, str) for name in index)


def as_table_row(row: Any) -> Any:
    """A row of a table as a dict, where it is one in another form; None for none."""
    if isinstance(row, Mapping):  # the very same object: equal ones are prepared once
        return row
    if is_missing(row):
        return None
    if hasattr(row, "_asdict"):  # a named tuple
        return row._asdict()
    return row.to_dict() if is_series_of_a_row(row) else row


def spread(rows: list) -> tuple[list, int]:
    """Rows, see `list_rows` of `Modality`, as items side by side: those of the first row in their places, those of the
    second, and so on; and how many places a row has: 0 where no row has `Places`, and each is an item."""
    if not any(isinstance(row, Places) for row in rows):
        return rows, 0
    listed = [row if isinstance(row, Places) else [row] for row in rows]
    most = max(1, *map(len, listed))
    return [item for row in listed for item in (*row, *[None] * (most - len(row)))], most


def distinct_items(values: list, deduplicate: bool) -> tuple[list, list[int]]:
    """Gives the items that are there, and for each row the position of its item, -1 where it has none."""
    items: list = []
    index: list[int] = []
    places: dict[Any, int] = {}
    for value in values:
        if value is None:
            index.append(-1)
            continue
        key = key_of(value)
        if not deduplicate or key not in places:
            places[key] = len(items)
            items.append(value)
        index.append(places[key])
    return items, index


def key_of(value: Any) -> Any:
    """What tells items apart: strings, paths and bytes are the same if they are equal, all else if it is the very same
    object."""
    return value if isinstance(value, (str, bytes, os.PathLike)) else id(value)


def reason_of(error: Exception) -> str:
    """Why a row cannot be read, in one line, without the number that it has in its batch."""
    said = " ".join(str(error).split())
    said = said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"
    return re.sub(r"^Row \d+: ", "", said)


def why_without_values(error: Exception) -> str:
    """Why a row cannot be read, as a log may have it: which of its keys, the type of the error, and the line of code
    that found it. The message stays out, since it says what the row holds."""
    key = vars(error).get(ROW_KEY)
    places = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" at {os.path.basename(place.filename)}:{place.lineno}" for place in places)
    return f"{'' if key is None else f'its {key}, '}{type(error).__name__}{where}"


def arguments_of_call(part: Any) -> set[str]:
    """Names of what the call of a processor's part takes."""
    return set(inspect.signature(type(part).__call__).parameters) - {"self", "args", "kwargs"}
