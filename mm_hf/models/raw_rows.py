# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Objects that hold several rows, rows of a table, and the rule that tells one item from several."""

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


# The attribute of an error that names the key of a row that could not be read.
ROW_KEY = "row_key"


class NotFiniteError(ValueError):
    """The model's output for a row is not finite."""


class Places(list):
    """The items of one row, each in its place; None for an empty place."""


def entries_of(value: Any) -> list:
    """The entries of any object that holds several: a list, a tuple, a column of `datasets` or pandas, a `KeyDataset`,
    an array, a generator. None and NaN become None.

    Raises:
        ValueError: a set, which has no order, or a table without a choice of column.
    """
    if isinstance(value, (set, frozenset)):
        raise ValueError(f"A set has no order: give a list, got {value!r:.80}.")
    if (columns := columns_of(value)) is not None:
        raise ValueError(f"Got a table with the columns {columns}: give one of them, such as table[{columns[0]!r}].")
    if hasattr(value, "to_pylist"):  # pyarrow, whose entries are special objects
        entries = value.to_pylist()
    elif isinstance(value, Iterable):
        entries = list(value)
    elif isinstance(value, Sized) and hasattr(value, "__getitem__"):  # a data set of torch
        entries = [value[place] for place in range(len(value))]
    else:
        raise ValueError(f"This is not a list: {value!r:.80}.")
    return [None if is_missing(entry) else entry for entry in entries]


def columns_of(value: Any) -> list | None:
    """The names of the columns of a table (of pandas, polars, pyarrow or `datasets`); None for anything else."""
    if isinstance(value, Mapping):
        return None
    names = getattr(value, "column_names", None)  # pyarrow and datasets
    names = getattr(value, "columns", None) if names is None else names
    return None if names is None or callable(names) or isinstance(names, str) else list(names)


def is_numeric(dtype: Any) -> bool:
    """Whether a dtype of numpy, pandas or torch is numeric."""
    return isinstance(dtype, torch.dtype) or getattr(dtype, "kind", "O") in "biuf"


def is_one(value: Any) -> bool:
    """Whether a value cannot hold several rows, whatever the modality: a text, the name or bytes of a file, a struct
    of these, a picture, or None."""
    kinds = (str, bytes, bytearray, os.PathLike, Mapping, Image)
    return isinstance(value, kinds) or getattr(value, "ndim", 1) == 0 or is_missing(value)


def holds_numbers(value: Any) -> bool:
    """Whether a list, a tuple or an array of one dimension holds numbers; its first present entry decides. True for an
    empty one, and for one with only NaN."""
    if isinstance(value, (list, tuple)):
        first = next((entry for entry in value if not is_missing(entry)), None)
        return isinstance(first, Real) or (first is None and not any(entry is None for entry in value))
    return getattr(value, "ndim", 0) == 1 and is_numeric(getattr(value, "dtype", None))


def list_of_table_rows(value: Any) -> list:
    """Rows of a table as a list of dicts, None for a row without one: from a dict, a list of dicts, a table of pandas,
    polars, pyarrow or `datasets`, or a row of such a table. Refuses two columns with the same name."""
    if isinstance(value, Mapping) or is_missing(value) or is_series_of_a_row(value) or hasattr(value, "_asdict"):
        return [as_table_row(value)]
    columns = columns_of(value)
    if columns is None:
        return [as_table_row(row) for row in entries_of(value)]
    if twice := sorted({str(name) for name in columns if columns.count(name) > 1}):
        raise ValueError(f"The table has several columns {twice[0]!r}: each needs its own name.")
    for method, arguments in (("to_pylist", ()), ("to_dicts", ()), ("to_dict", ("records",))):
        if hasattr(value, method) and not (method == "to_dict" and not hasattr(value, "iterrows")):
            return list(getattr(value, method)(*arguments))
    return [as_table_row(row) for row in value]


def index_of_a_series(value: Any) -> list | None:
    """The index of a series of pandas. If the series is a row of a table, the index holds the columns."""
    index = getattr(value, "index", None)
    if not hasattr(value, "to_dict") or index is None or callable(index) or columns_of(value) is not None:
        return None
    return list(index)


def is_series_of_a_row(value: Any) -> bool:
    """Whether a value is a row taken from a table of pandas."""
    index = index_of_a_series(value)
    return bool(index) and all(isinstance(name, str) for name in index)


def as_table_row(row: Any) -> Any:
    """Converts a row of a table to a dict, if it has another form; None for none."""
    if isinstance(row, Mapping):  # the same object is returned, because equal objects are prepared once
        return row
    if is_missing(row):
        return None
    if hasattr(row, "_asdict"):  # a named tuple
        return row._asdict()
    return row.to_dict() if is_series_of_a_row(row) else row


def spread(rows: list) -> tuple[list, int]:
    """Rows, see `list_rows` of `Modality`, as one list of items: those of the first row in their places, then those of
    the second, and so on. Also returns the number of places per row: 0 if no row has `Places`, and each is an item."""
    if not any(isinstance(row, Places) for row in rows):
        return rows, 0
    listed = [row if isinstance(row, Places) else [row] for row in rows]
    most = max(1, *map(len, listed))
    return [item for row in listed for item in (*row, *[None] * (most - len(row)))], most


def distinct_items(values: list, deduplicate: bool) -> tuple[list, list[int]]:
    """Returns the items that are present, and for each row the position of its item, -1 for a row without one."""
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
    """A key that is equal for equal items: strings, paths and bytes are compared by value, all others by identity."""
    return value if isinstance(value, (str, bytes, os.PathLike)) else id(value)


def reason_of(error: Exception) -> str:
    """Why a row cannot be read, in one line, without its number in the batch."""
    said = " ".join(str(error).split())
    said = said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}"
    return re.sub(r"^Row \d+: ", "", said)


def why_without_values(error: Exception) -> str:
    """Why a row cannot be read, in a form for logs: its key, the type of the error, and the line of code that raised
    it. Without the message, because the message shows the content of the row."""
    key = vars(error).get(ROW_KEY)
    places = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" at {os.path.basename(place.filename)}:{place.lineno}" for place in places)
    return f"{'' if key is None else f'its {key}, '}{type(error).__name__}{where}"


def arguments_of_call(part: Any) -> set[str]:
    """Names of the arguments in the call of a processor's part."""
    return set(inspect.signature(type(part).__call__).parameters) - {"self", "args", "kwargs"}
