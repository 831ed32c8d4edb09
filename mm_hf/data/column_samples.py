"""Some values of every column of a data set in any format. `understand` looks at them."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Audio, Dataset, Image, List, Value, Video

from .csv_files import BLOCK, BOMS, ROW_NAMES, SEPARATORS, CsvFile, first_lines, look_at
from .looks import ColumnSample
from .readers import find_files, named_parts, open_source
from .rows import is_absent
from .sources import data_root_of


SAMPLE = 1000  # rows to look at, spread over the data
LISTS, FILES = 200, 40  # the same for columns of lists, and of files, because one value may be long
COUNTED = 200_000  # the largest number of distinct values to count per column


@dataclass
class Distinct:
    """How many values of a column are distinct (at most `COUNTED`), and how many values were looked at for this."""

    hashes: set[int] = field(default_factory=set)
    present: int = 0

    def add(self, values: pd.Series):
        """Counts more values."""
        if len(self.hashes) < COUNTED:
            values = values.dropna()
            self.present += len(values)
            self.hashes.update(pd.util.hash_array(values.astype(str).to_numpy(dtype=object)).tolist())


@dataclass
class PartSample:
    """Some rows of one part of a data set.

    Args:
        columns: the samples by column name.
        names: the names of all columns of each part, to find columns that some parts lack.
    """

    columns: dict[str, ColumnSample]
    names: dict[str, list[str]]


def sample_columns(dataset: Any, data_root: str | os.PathLike | None = None) -> PartSample:
    """Some values of every column of the training part.

    Args:
        dataset: a path or Hub id, see `load_splits`; a `Dataset`, or a dict of them by part; a pandas `DataFrame`. The
            index of a `DataFrame` becomes a column, unless it only counts the rows.
        data_root: the folder of the files that rows name, see `data_root_of`.
    """
    if isinstance(dataset, pd.DataFrame):
        return sample_frame(dataset, None if data_root is None else data_root_of("", data_root))
    if isinstance(dataset, Dataset):
        dataset = {"train": dataset}
    if isinstance(dataset, Mapping):
        return sample_parts(dict(dataset), None if data_root is None else data_root_of("", data_root))
    root, files = data_root_of(dataset, data_root), find_files(dataset)
    if files and os.path.splitext(next(iter(files.values()))[0])[1].lower() in SEPARATORS:
        return sample_csv(files, root)
    return sample_parts(named_parts(open_source(dataset, False, [])[0], dataset), root)


def main_part(parts: Mapping[str, Any]) -> str:
    """The name of the part to learn from."""
    return "train" if "train" in parts else next(iter(parts))


def sample_csv(files: dict[str, list[str]], root: str | None) -> PartSample:
    """Samples CSV files. Cells are texts, as they are written."""
    parts = {part: [look_at(path, header_of(path)) for path in paths] for part, paths in files.items()}
    names = {part: [name for name, _ in columns_of(of_part[0])] for part, of_part in parts.items()}
    distinct: dict[str, Distinct] = {}
    kept: list[pd.DataFrame] = []
    stride, rows = 1, 0
    for file in parts[main_part(parts)]:
        called = columns_of(file)
        for block in blocks_of(file):
            block.columns = pd.Index([called[place][0] for place in range(len(called))])
            block.index = pd.RangeIndex(rows, rows + len(block))
            rows += len(block)
            for name in block:
                distinct.setdefault(str(name), Distinct()).add(block[name])
            kept.append(block[block.index % stride == 0])
            while sum(map(len, kept)) > 2 * SAMPLE:
                stride *= 2
                kept = [block[block.index % stride == 0] for block in kept]
    frame = pd.concat(kept) if kept else pd.DataFrame()
    samples = {
        str(name): sample_of(
            str(name), frame[name].tolist(), frame.index.tolist(), rows, distinct[str(name)], None, root
        )
        for name in frame
    }
    return PartSample(samples, names)


def header_of(path: str) -> list[str]:
    """The names of the columns of a file. Chooses the separator for which the first line has as many cells as the
    header, and among these the one that gives most cells."""
    with open(path, "rb") as file:
        start = file.read(4)
    encoding = next((encoding for bom, encoding in BOMS.items() if start.startswith(bom)), "utf-8")
    lines = [first_lines(path, encoding, separator) for separator in SEPARATORS[os.path.splitext(path)[1].lower()]]
    return max(lines, key=lambda line: (len(line[0]) == len(line[1]) and len(line[0]) > 1, len(line[0])))[0]


def columns_of(file: CsvFile) -> list[tuple[str, str]]:
    """For each column of a file its name without spaces around it, and the name as written. "" if it has no name."""
    header = [ROW_NAMES, *file.header] if "names" in file.options else file.header
    return [("" if name == ROW_NAMES else name.strip(), name) for name in header]


def blocks_of(file: CsvFile) -> Iterator[pd.DataFrame]:
    """The cells of a file as texts, in blocks of rows."""
    try:
        with pd.read_csv(file.path, dtype=str, chunksize=BLOCK, **file.options) as blocks:
            yield from blocks
    except pd.errors.EmptyDataError:
        return


def sample_frame(frame: pd.DataFrame, root: str | None) -> PartSample:
    """Samples a pandas `DataFrame`."""
    index = frame.index
    plain = isinstance(index, pd.RangeIndex) and index.name is None
    if not plain:
        names = ["" if name is None else str(name) for name in index.names]
        frame = frame.reset_index(names=names) if len(set(names)) == len(names) else frame.reset_index()
    places = spread(len(frame), SAMPLE)
    samples = {}
    for name in frame:
        distinct = Distinct()
        column = frame[name]
        if column.dtype != object or column.map(lambda value: isinstance(value, str) or value is None).all():
            distinct.add(column)
        values = column.iloc[places].tolist()
        samples[str(name)] = sample_of(str(name), values, places, len(frame), distinct, None, root)
        samples[str(name)].is_range = isinstance(index, pd.RangeIndex) and name == index.name
    return PartSample(samples, {"train": list(samples)})


def sample_parts(parts: dict[str, Any], root: str | None) -> PartSample:
    """Samples parts of `datasets`. Each field of a struct becomes a column."""
    part = main_part(parts)
    split = undecoded(parts[part])
    samples = {}
    for top in split.column_names:
        fields = fields_of(top, split.features[top])
        most = min(
            FILES if is_file_type(kind) else LISTS if isinstance(kind, (List, list)) else SAMPLE
            for kind in fields.values()
        )
        places = spread(len(split), most)
        values = split.select_columns([top])[places][top]
        for name, kind in fields.items():
            path = name.split(".")[1:] if name != top else []
            distinct = count_distinct(split, top, path) if is_plain(kind) else Distinct()
            picked = [dig(value, path) for value in values]
            samples[name] = sample_of(name, picked, places, len(split), distinct, kind, root)
    names = {name: list(all_fields(other)) for name, other in parts.items()}
    return PartSample(samples, names)


def sample_of(
    name: str, values: list[Any], places: list[int], rows: int, distinct: Distinct, kind: Any, root: str | None
) -> ColumnSample:
    """The sample of one column, without absent values."""
    present = [(value, place) for value, place in zip(values, places) if not is_nothing(value)]
    return ColumnSample(
        name,
        [value for value, _ in present],
        [place for _, place in present],
        len(values),
        rows,
        len(distinct.hashes) if distinct.present else None,
        distinct.present,
        kind,
        root,
    )


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty."""
    return is_absent(value) or value is pd.NaT or value is pd.NA or (isinstance(value, str) and not value.strip())


def spread(rows: int, most: int) -> list[int]:
    """Row numbers, spread evenly over all rows."""
    return np.unique(np.linspace(0, rows - 1, min(most, rows)).astype(int)).tolist() if rows else []


def undecoded(split: Dataset) -> Dataset:
    """A part whose files stay undecoded."""
    for column, kind in split.features.items():
        if isinstance(kind, (Image, Audio, Video)):
            split = split.cast_column(column, type(kind)(decode=False))
        elif isinstance(kind, List) and isinstance(kind.feature, Image):
            split = split.cast_column(column, List(Image(decode=False)))
    return split


def fields_of(name: str, kind: Any) -> dict[str, Any]:
    """The type of a column, or the types of the fields of its structs, by dotted name."""
    if isinstance(kind, dict) and not set(kind) <= {"bytes", "path"}:
        inner: dict[str, Any] = {}
        for key, value in kind.items():
            inner |= fields_of(f"{name}.{key}", value)
        return inner
    return {name: kind}


def all_fields(split: Any) -> dict[str, Any]:
    """All columns of a part with their types, see `fields_of`."""
    fields: dict[str, Any] = {}
    for name, kind in split.features.items():
        fields |= fields_of(name, kind)
    return fields


def is_file_type(kind: Any) -> bool:
    """Whether values of this type are files, or lists of files."""
    inner = kind.feature if isinstance(kind, List) else kind
    return isinstance(inner, (Image, Audio, Video, dict)) or "binary" in str(getattr(inner, "dtype", ""))


def is_plain(kind: Any) -> bool:
    """Whether values of this type can be compared with each other."""
    return not is_file_type(kind) and (isinstance(kind, Value) or hasattr(kind, "names"))


def dig(value: Any, path: list[str]) -> Any:
    """One field of a struct; `path` has the names of the fields, from the outermost."""
    for key in path:
        value = None if value is None else value[key]
    return value


def count_distinct(split: Dataset, top: str, path: list[str]) -> Distinct:
    """Counts the distinct values of a column, or of a field of its structs."""
    distinct = Distinct()
    for table in split.select_columns([top]).with_format("arrow").iter(batch_size=10_000):
        values = table[top]
        for key in path:
            values = pc.struct_field(values, key)
        distinct.add(pa.chunked_array(values.chunks if hasattr(values, "chunks") else [values]).to_pandas())
        if len(distinct.hashes) >= COUNTED:
            break
    return distinct
