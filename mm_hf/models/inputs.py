# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""What callers give: the objects that hold several rows, rows of a table, and what a model cannot take."""

import os
from collections.abc import Iterable, Mapping, Sized
from numbers import Real
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from .names import did_you_mean, nearest
from .series import has_no_steps
from .table_schema import is_missing


# Names under which people hand raw rows to a model, and the processor's argument for them.
RAW_NAMES = {
    "image": "images",
    "images": "images",
    "text": "text",
    "texts": "text",
    "question": "text",
    "audio": "audio",
    "sound": "audio",
    "table": "table",
    "series": "series",
    "video": "images",
}


# Lists of rows


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
        found = value.to_pylist()
    elif isinstance(value, Iterable):
        found = list(value)
    elif isinstance(value, Sized) and hasattr(value, "__getitem__"):  # a data set of torch
        found = [value[place] for place in range(len(value))]
    else:
        raise ValueError(f"This is no list: {value!r:.80}.")
    return [None if is_missing(entry) else entry for entry in found]


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


def list_of_texts(value: Any) -> list:
    """Texts as a list, one a row; see `entries_of`."""
    if getattr(value, "ndim", 1) == 0 and hasattr(value, "item"):  # an array of one string
        value = value.item()
    return [None if is_missing(value) else value] if is_one(value) else entries_of(value)


def is_one_image(value: Any) -> bool:
    """Whether a value is one picture, or none, and not several."""
    return is_one(value) or (hasattr(value, "ndim") and value.ndim in (2, 3) and columns_of(value) is None)


def list_of_images(value: Any) -> list:
    """Pictures as a list, one entry a row: a picture, None, or a list of these where a row has several.

    Raises:
        ValueError: what is no picture and holds none.
    """
    if is_one_image(value):
        return [None if is_missing(value) else value]
    found = entries_of(value)
    for row, entry in enumerate(found):
        numbers = getattr(entry, "ndim", 0) == 1 and is_numeric(entry.dtype)  # whose shape is told when it is opened
        if entry is not None and not is_one_image(entry) and not numbers:
            if isinstance(entry, Real):
                raise ValueError(f"Row {row}: this is no picture: {entry!r:.80}.")
            try:
                found[row] = entries_of(entry)
            except ValueError as error:
                raise ValueError(f"Row {row}: {error}") from None
            if strange := [one for one in found[row] if not is_one_image(one)]:
                raise ValueError(f"Row {row}: this is no picture: {strange[0]!r:.80}.")
    return found


def is_one_sound(value: Any) -> bool:
    """Whether a value is one sound and not several: a file, samples, or a struct of these."""
    if is_one(value):
        return True
    dtype = getattr(value, "dtype", None)
    if dtype is not None and columns_of(value) is None:
        if isinstance(value, (np.ndarray, torch.Tensor)):
            return str(dtype) != "object"
        return getattr(dtype, "kind", "O") in "iufb" and not all(map(is_missing, value))  # a series of pandas
    several = isinstance(value, (list, tuple)) and bool(value)
    return several and all(isinstance(entry, Real) for entry in value) and not all(map(is_missing, value))


def list_of_sounds(value: Any) -> list:
    """Sounds as a list, one a row; a list of numbers is one sound, unless all of them are NaN, which mean no sound."""
    if is_one_sound(value):
        return [None if is_missing(value) else value]
    return entries_of(value)


def list_of_table_rows(value: Any) -> list:
    """Rows of a table as a list of dicts, None for a row without: from a dict, a list of them, a table of pandas,
    polars, pyarrow or `datasets`, or a row of one.

    Raises:
        ValueError: two columns of one name.
    """
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


def list_of_series(value: Any) -> list:
    """One series as a list of one: an array, a tensor or a table of one or two dimensions, a list of numbers or of
    lists of numbers. What has no step, or nothing but gaps, is None."""
    rows = [value]
    if getattr(value, "ndim", 0) == 3:
        rows = list(value)
    elif columns_of(value) is not None:
        rows = [value.to_numpy() if hasattr(value, "to_numpy") else value]
    elif isinstance(value, (np.ndarray, torch.Tensor)) and str(value.dtype) != "object":
        rows = [value]
    elif not is_one(value):
        found = value if isinstance(value, (list, tuple)) else entries_of(value)
        first = next((row for row in found if not is_missing(row)), None)
        inner = first[0] if isinstance(first, (list, tuple)) and first else first
        # Numbers alone, or lists of numbers, are the steps of one series.
        rows = [list(found)] if isinstance(inner, Real) else list(found)
    return [None if is_missing(row) or has_no_steps(row) else row for row in rows]


def distinct_items(values: list, deduplicate: bool) -> tuple[list, list]:
    """Gives the items that are there, and for each row the position of its item, -1 where it has none.

    Strings, paths and bytes are the same if they are equal, all else if it is the very same object.
    """
    items: list = []
    index: list[int] = []
    places: dict[Any, int] = {}
    for value in values:
        if value is None:
            index.append(-1)
            continue
        key = value if isinstance(value, (str, bytes, os.PathLike)) else id(value)
        if not deduplicate or key not in places:
            places[key] = len(items)
            items.append(value)
        index.append(places[key])
    return items, index


# Texts


def fault_of_text(text: Any) -> str | None:
    """Why a text cannot be read; None where it can."""
    if not isinstance(text, str) or not text.strip():
        return f"the text is empty or no string ({text!r:.80}); None means that there is none."
    return fault_of_unicode(text)


def fault_of_unicode(text: Any) -> str | None:
    """Why a text, which may be empty, is none; None where it is one."""
    if not isinstance(text, str):
        return f"this is no text: {text!r:.80}."
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"the text has a lone surrogate, {text[error.start]!r} at character {error.start}, and so is no valid "
            f"Unicode ({text!r:.80}): decode it anew, or drop such characters by text.encode('utf-8', "
            "'ignore').decode()."
        )
    return None


# What a model is given


def check_model_inputs(inputs: Mapping[str, Any], known: Iterable[str], others: Iterable[str] = ()):
    """Refuses what a model cannot take, and says what to do.

    Args:
        inputs: what came, by name.
        known: the inputs that are tensors.
        others: names that are let through, whatever their value.

    Raises:
        ValueError: raw rows in place of tensors, a batch without its two stars, a tensor under a name that is no
            input, or a name that is nearly one.
    """
    known, others = list(known), set(others)
    for name, value in inputs.items():
        if value is None or name in others:
            continue
        if name in known:
            if not isinstance(value, torch.Tensor):
                check_is_tensor(name, value)
        elif name in RAW_NAMES:
            raise ValueError(
                f"The model has no input {name!r}, it reads tensors: the processor makes them, as in "
                f"model(**processor({RAW_NAMES[name]}=…))."
            )
        elif isinstance(value, torch.Tensor) or name == "labels" or nearest(name, {*known, *others, "labels"}, 0.9):
            meant = "" if name == "labels" else did_you_mean(name, {*known, *others, "labels"})
            raise ValueError(f"The model has no input [{name!r}]; it has {known}, and heads have 'labels'.{meant}")


def check_is_tensor(name: str, value: Any):
    """Refuses the objects that people take for an input of a model.

    Raises:
        ValueError: a batch, a picture, a text, or lists and arrays of these or of numbers.
    """
    if isinstance(value, Mapping):
        raise ValueError(
            f"{name} must be a tensor, got {type(value).__name__} with {list(value)[:6]}: a batch goes in with two "
            "stars, model(**batch)."
        )
    first: Any = value
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    kind = type(value).__name__ if first is value else f"{type(value).__name__} of {type(first).__name__}"
    if isinstance(first, (str, bytes, os.PathLike, Image, Mapping)):
        raise ValueError(
            f"{name} must be a tensor, got {kind}: rows go through the processor first, as in "
            "model(**processor(images=…, text=…))."
        )
    if isinstance(value, (list, tuple, np.ndarray)):
        raise ValueError(f"{name} must be a tensor, got {kind}: torch.tensor(…) makes one of numbers.")


def check_labels(labels: Any, name: str = "labels"):
    """Refuses labels that are no tensor.

    Raises:
        ValueError: names of classes, lists or arrays of numbers, or anything else.
    """
    if isinstance(labels, torch.Tensor):
        return
    first: Any = labels
    while isinstance(first, (list, tuple, np.ndarray)) and len(first):
        first = first[0]
    if isinstance(first, str):
        raise ValueError(
            f"{name} must be a tensor of numbers, got names such as {first!r:.80}: model.config.label2id gives their "
            "numbers, processor.target_ids the tokens of texts that are to be written."
        )
    way = "" if first is labels else f": torch.tensor({name}) makes one."
    raise ValueError(f"{name} must be a tensor, got {type(labels).__name__}{way or '.'}")


def check_token_labels(labels: Any, rows: int):
    """Refuses labels that are no tokens of a text for each row.

    Args:
        labels: `(B, S)` int64.
        rows: B.

    Raises:
        ValueError: see `check_labels`; decimal numbers, or another shape.
    """
    check_labels(labels)
    if labels.is_floating_point() or labels.ndim != 2 or len(labels) != rows:
        raise ValueError(
            f"labels must be whole numbers of shape ({rows}, S), the tokens of each row's text as "
            f"processor.target_ids gives them; got {labels.dtype} of shape {tuple(labels.shape)}."
        )


def check_classes(labels: torch.Tensor, count: int):
    """Refuses numbers that are no class. On the CPU alone: elsewhere a look would wait for all that was computed
    before.

    Args:
        labels: whole numbers, -100 for none.
        count: how many classes there are.

    Raises:
        ValueError: naming them.
    """
    if labels.device.type != "cpu":
        return
    outside = (labels != -100) & ((labels < 0) | (labels >= count))
    if outside.any():
        found = sorted(set(labels[outside].tolist()))[:10]
        raise ValueError(f"Labels are numbers from 0 to {count - 1}, or -100 for none; got {found}.")


__all__ = ["check_model_inputs"]
