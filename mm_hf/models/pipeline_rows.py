# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The rows of a pipeline: their keys, and the objects that hold several rows."""

from collections.abc import Iterable, Sized
from types import GeneratorType
from typing import Any

from torch.utils.data import Dataset

from .modality import MODALITIES
from .raw_rows import columns_of, entries_of, index_of_a_series, is_numeric, is_one, list_of_table_rows


def row_keys() -> dict[str, str]:
    """The keys of a row, and the modality that the model needs for each."""
    return {key: name for name, modality in MODALITIES.items() for key in modality.row_keys}


def rows_to_answer(inputs: Any) -> Any:
    """Rows, or a single row, in a form that the library can tell apart: a list, a data set of torch or a generator for
    several rows. See `MMFusionClassificationPipeline`."""
    single = is_one(inputs) or hasattr(inputs, "_asdict") or is_row_of_pandas(inputs)
    if single or isinstance(inputs, (list, Dataset, GeneratorType)):
        return inputs
    if isinstance(inputs, (set, frozenset, tuple)):
        return entries_of(inputs)
    if columns_of(inputs) is not None and not (hasattr(inputs, "features") and hasattr(inputs, "column_names")):
        return list_of_table_rows(inputs)
    if hasattr(inputs, "dtype") and hasattr(inputs, "shape"):  # an array of numbers is one item, of objects rows
        return inputs if is_numeric(inputs.dtype) and len(inputs.shape) < 4 else entries_of(inputs)
    if isinstance(inputs, Sized) and hasattr(inputs, "__getitem__"):
        return IndexedRows(inputs)
    return (row for row in inputs) if isinstance(inputs, Iterable) else inputs


def is_row_of_pandas(value: Any) -> bool:
    """Whether a value is a row taken from a table of pandas: its index has the keys of the row."""
    known = row_keys()
    return any(isinstance(name, str) and name in known for name in index_of_a_series(value) or ())


class IndexedRows(Dataset):
    """Any object with a length and rows by number, as a data set of torch, which the library reads row by row."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        return self.rows[number]


class NumberedRows(Dataset):
    """Rows of any object with a length and rows by number. Each is loaded with its number by `preprocess` of a
    pipeline. A row that the data set itself cannot read counts as a bad row."""

    def __init__(self, pipeline: Any, rows: Any, params: dict[str, Any]):
        self.pipeline, self.rows, self.params = pipeline, rows, params

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        try:
            row = self.rows[number]
        except Exception as error:
            return self.pipeline._bad_row(number, error, self.params.get("on_error", "raise"))
        return self.pipeline.preprocess(row, number=number, **self.params)
