"""Reads the rows to predict one after the other. Only a few rows are in memory at a time.

Each row exists in two forms: as it is in the file, to be written beside its prediction, and as the collator takes it.
    A CSV cell gets the type that the model was trained with. `read_csv` would choose types for a whole file; here a
    cell does not depend on the rows around it. So a row gets the same answer in any file.
"""

import csv
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
from datasets import ClassLabel, Features

from ...data import Columns, data_root_of, names_of_classes
from ...data.class_names import name_of, name_of_class
from ...data.csv_files import BLOCK, CELLS, ROW_NAMES, CsvFile, Unreadable, look_at, not_utf8
from ...data.modalities import reader_of_part
from ...data.plain_rows import as_file
from ...data.readers import PART_OF
from ...data.sources import find_files, named_parts, open_source, prepare
from ...models.finite import DIGITS, is_code, read_number
from ...models.names import did_you_mean
from ...models.tabular import TableSchema
from ...training.by_modality import key_of_part
from .output import MISFITS


STDIN = "-"
SEEN_FIRST = 1000  # the keys of this many first JSON rows are the columns
NOTHING: Any = CELLS["na_values"]
READ = 1000  # rows of a CSV or data set per read
ABSENT = object()
NO_COLUMN = "({} {})"  # name for a place of a modality that has no column


class RowSource:
    """Rows as they are in a file or data set.

    Attributes:
        name: name in messages.
        header: the columns, in order.
        root: folder of the paths of pictures, see `resolve_path`.
        separator, marked: the separator of a CSV, and whether the CSV begins with a byte order mark.
        class_names: for table columns of type `ClassLabel`, the names of their classes.
        again: whether the rows can be read a second time.
    """

    name: str
    header: list[str]
    root: str | None
    separator: str = ","
    marked: bool = False
    class_names: Mapping[str, list[str]] = {}
    again: bool = True

    def __init__(self, columns: Columns):
        self.columns = columns
        self.in_use = needed(columns)
        self.without = dict.fromkeys(column for _, column in columns.named())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows as they are in the file, as dicts with the keys of `header`."""
        raise NotImplementedError

    def types(self) -> pa.Schema:
        """The types of the columns, for an output file that has types."""
        raise NotImplementedError

    def count(self) -> int | None:
        """The number of rows; None if it is unknown before reading."""
        return None

    def named(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row for a file without types: classes are written by name."""
        return row

    def inputs(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a row that the collator takes: only the columns in use."""
        return {**self.without, **{column: self.value(row, part, column) for part, column in self.in_use}}

    def value(self, row: Mapping[str, Any], part: str, column: str) -> Any:
        """The value of one column, according to its part (text, image and so on)."""
        value, reader = value_of(row, column), reader_of_part(part)
        if reader is None:
            return value
        if reader.files:
            file = as_file(value)
            return [file] if isinstance(file, (int, float)) else file  # in a list, a number makes the row a bad row
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return name_of(value) if reader.cells == "texts" and number else value  # as `load_splits` has it


class CsvRows(RowSource):
    """The rows of CSV files with the same columns. All cells are texts. Lines are split in the same way as by
    `read_csv`.

    Raises:
        ValueError: a file cannot be read, files have different columns, or a column is missing.
    """

    def __init__(self, paths: list[str], columns: Columns, schema: TableSchema | None, root: str | None):
        super().__init__(columns)
        self.name, self.root = Path(paths[0]).name, root
        self.known = {name: set(values) for name, values in (schema.categorical if schema else {}).items()}
        wanted = [column for _, column in self.in_use]
        self.files = [look_at(path, wanted) for path in paths]
        first = self.files[0]
        names = list(first.options.get("names", first.header))
        # pandas gives such names to columns without a name. A unique name is kept.
        self.header = [name if names.count(name) == 1 else f"Unnamed: {place}" for place, name in enumerate(names)]
        for file in self.files:
            check_columns(columns, file.header, file.path, list(file.called))
            if file.header != first.header or file.called != first.called:
                raise Unreadable(
                    f"{file.path} has the columns {file.header}, but {first.path} has {first.header}: predict the "
                    "files one after the other."
                )
        self.called = first.called
        self.separator, self.marked = first.options["sep"], first.options["encoding"] != "utf-8" or has_mark(paths[0])

    def types(self) -> pa.Schema:
        return pa.schema([(name, pa.string()) for name in self.header])

    def __iter__(self) -> Iterator[dict[str, str]]:
        for file in self.files:
            for block in blocks_of(file):
                cells = [block[name].tolist() for name in block.columns]
                for row in zip(*cells):
                    yield dict(zip(self.header, row))

    def count(self) -> int:
        return sum(map(count_lines, self.files))

    def value(self, row: Mapping[str, Any], part: str, column: str) -> Any:
        cell = row[self.called[column]]
        if cell in NOTHING:
            return None
        reader = reader_of_part(part)
        if reader is not None and reader.files:
            return as_file(cell)
        numbers = reader is not None and reader.cells == "numbers"
        return cell_of_table(cell, self.known.get(column)) if numbers else cell


class JsonRows(RowSource):
    """JSON objects, one per line, from files or, without paths, from standard input. A column `a.b` is the key `b` of
    the object at key `a`.

    Raises:
        ValueError: there is no row, none of the first rows has a column, or a line is not an object.
    """

    def __init__(self, paths: list[str], columns: Columns, root: str | None):
        super().__init__(columns)
        self.paths, self.root = paths, root
        self.name = Path(paths[0]).name if paths else "standard input"
        self.again, self.rest = bool(paths), self.read()
        self.first = list(itertools.islice(self.rest, SEEN_FIRST))
        if not self.first:
            raise Unreadable(f"{self.name} has no rows.")
        self.header = list(dict.fromkeys(key for row in self.first for key in row))
        present = [
            name for _, name in self.in_use if any(value_of(row, name, ABSENT) is not ABSENT for row in self.first)
        ]
        check_columns(columns, self.header, self.name, present)

    def types(self) -> pa.Schema:
        """The types of the first rows. A column without any value has the type of texts.

        Raises:
            Unreadable: a column holds values of several types, or a number that is too large.
        """
        fields = []
        for name in self.header:
            try:
                kind = pa.array([row.get(name) for row in self.first]).type
            except MISFITS as error:
                raise Unreadable(
                    f"Column {name!r} of {self.name} has values of different types ({error}): write a .jsonl file, "
                    "which has no types."
                ) from None
            fields.append(pa.field(name, pa.string() if pa.types.is_null(kind) else kind))
        return pa.schema(fields)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.paths:
            return self.read()
        return itertools.chain(self.first, self.rest)  # standard input can be read only once

    def read(self) -> Iterator[dict[str, Any]]:
        """The rows of all non-empty lines."""
        for path in self.paths or [STDIN]:
            with sys.stdin.buffer if path == STDIN else open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                        row = json.loads(text) if text.strip() else None
                    except UnicodeError as error:
                        raise not_utf8(path, error) from None
                    except ValueError as error:
                        raise Unreadable(f"{path}, line {number}, is not a JSON object ({error}).") from None
                    if row is None:
                        continue
                    if not isinstance(row, dict):
                        raise Unreadable(f"{path}, line {number}, is not a JSON object, but {row!r:.80}.")
                    yield row

    def count(self) -> int | None:
        if not self.paths:
            return None
        total = 0
        for path in self.paths:
            with open(path, "rb") as file:
                total += sum(1 for line in file if line.strip())
        return total


class StreamRows(RowSource):
    """Rows of any other data that `datasets` reads, as a stream; arguments as in `open_rows`.

    Raises:
        FileNotFoundError, ValueError: see `load_splits`; or there are several parts and none is named.
    """

    def __init__(self, dataset: str, split: str | None, columns: Columns, root: str | None):
        super().__init__(columns)
        self.name, self.root = dataset, root
        of_parts: dict[str, Any] = {
            part: [name for other, name in self.in_use if other == part] for part, _ in columns.named()
        }
        lacking = {part for part, column in columns.named() if column not in of_parts[part]}
        present: Columns = replace(columns, **cast(Any, {part: of_parts[part] or None for part in lacking}))
        opened, known = open_source(dataset, True, present.named())
        parts = named_parts(opened, dataset)
        if split is None and len(parts) > 1:
            raise ValueError(f"{dataset} has the parts {list(parts)}: --split names the one to predict.")
        part = next(iter(parts)) if split is None else split
        if part not in parts:
            raise ValueError(f"{dataset} has no part {part!r}: --split takes one of {list(parts)}.")
        self.stream = prepare(parts[part], part, dataset, present, None, root, known.get(part))
        features = Features(self.stream.features)
        self.header = list(features)
        self.class_names = names_of_classes(features, columns.table)
        self.classes = {name: feature for name, feature in features.items() if has_classes(feature)}
        info = getattr(self.stream.info, "splits", None) or {}
        self.rows = info[part].num_examples if part in info else None

    def types(self) -> pa.Schema:
        return Features(self.stream.features).arrow_schema  # its metadata hold the names of the classes

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for block in self.stream.iter(batch_size=READ):
            for row in zip(*(block[name] for name in self.header)):
                yield dict(zip(self.header, row))

    def count(self) -> int | None:
        return self.rows or None

    def named(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, **{name: with_names(row[name], feature) for name, feature in self.classes.items()}}


def open_rows(
    dataset: str, split: str | None, columns: Columns, data_root: str | None, schema: TableSchema | None = None
) -> RowSource:
    """The rows of a .csv, .tsv, .jsonl or .parquet file, of JSON lines on standard input (`-`), or of a data set.

    Args:
        dataset: see `load_splits`.
        split: the part; None: the only part.
        columns: the columns in use.
        data_root: see `data_root_of`.
        schema: schema of the model's table, if the model reads a table.

    Raises:
        FileNotFoundError, ValueError: the rows cannot be read, or lack a column.
    """
    if dataset == STDIN:
        return JsonRows([], columns, None if data_root is None else data_root_of(dataset, data_root))
    root = data_root_of(dataset, data_root)
    saved = any(os.path.exists(os.path.join(dataset, name)) for name in ("dataset_dict.json", "state.json"))
    files = {} if saved else find_files(dataset)
    split = None if split is None else PART_OF.get(split.lower(), split)
    if len(files) > 1 and split is None:
        raise ValueError(f"{dataset} has the parts {list(files)}: --split names the one to predict.")
    paths = files.get(split or next(iter(files)), []) if files else []
    kind = Path(paths[0]).suffix.lower() if paths else ""
    if kind in (".csv", ".tsv"):
        return CsvRows(paths, columns, schema, root)
    return JsonRows(paths, columns, root) if kind == ".jsonl" else StreamRows(dataset, split, columns, root)


def needed(columns: Columns) -> list[tuple[str, str]]:
    """The columns that a file must have, as pairs of part and name: all columns in use, except names for places
    without a column."""
    pairs = columns.named()
    absent = {NO_COLUMN.format(part, place) for part, _ in pairs for place in range(len(pairs))}
    return [(part, column) for part, column in pairs if column not in absent]


def check_columns(columns: Columns, header: list[str], name: str, present: list[str]):
    """Refuses a file that lacks columns.

    Raises:
        ValueError: with all missing columns, and the flags that leave them out.
    """
    lacking = [(part, column) for part, column in needed(columns) if column not in present]
    if not lacking:
        return
    kept = {column for _, column in needed(columns)} - {column for _, column in lacking}
    flags = []
    for part in dict.fromkeys(part for part, _ in lacking):
        key, given = key_of_part(part), [column for other, column in columns.named() if other == part]
        one_item = key.endswith("_columns")  # a table has no places: columns that are left out are missing values
        words = [column for column in given if column in kept] if one_item else given
        words = [f'"{column}"' if column in kept and " " in column else column for column in words]
        flags.append(" ".join([f"--{key}", *(word if word.strip('"') in kept else '""' for word in words or [""])]))
    named = ", ".join(f"{column!r} (given as {key_of_part(part)})" for part, column in lacking)
    raise Unreadable(
        f"Unknown column {named} of {name}: it has {header}.{did_you_mean(lacking[0][1], header)} Name other columns "
        f"with these flags. To predict without these columns, as if their cells were empty: {' '.join(flags)}"
    )


def has_classes(feature: Any) -> bool:
    """Whether a column holds classes, directly or inside lists and structs."""
    if isinstance(feature, dict):
        return any(map(has_classes, feature.values()))
    return isinstance(feature, ClassLabel) or has_classes(getattr(feature, "feature", {}))


def with_names(value: Any, feature: Any) -> Any:
    """A value with classes replaced by their names; None for a missing value."""
    if isinstance(feature, ClassLabel):
        return name_of_class(value, feature.names)
    if isinstance(feature, dict):
        return None if value is None else {name: with_names(one, feature[name]) for name, one in value.items()}
    inner = getattr(feature, "feature", None)
    return value if inner is None or value is None else [with_names(one, inner) for one in value]


def blocks_of(file: CsvFile) -> Iterator[pd.DataFrame]:
    """The cells of a file as unchanged texts, some rows at a time.

    Raises:
        Unreadable: the file is not UTF-8, has lines of different lengths, or has no row.
    """
    options: dict[str, Any] = {**file.options, "dtype": str, "na_filter": False, "chunksize": READ}
    rows = 0
    try:
        with pd.read_csv(file.path, **options) as blocks:
            for block in blocks:
                rows += len(block)
                if ROW_NAMES in block and block.iloc[:, -1].isin(NOTHING).any():
                    raise Unreadable(
                        f"{file.path} has lines of different lengths: some have one value more than the header "
                        f"{file.header}. Put a text that contains a separator in quotes."
                    )
                yield block
    except UnicodeError as error:
        raise not_utf8(file.path, error) from None
    except pd.errors.EmptyDataError:
        pass
    except (pd.errors.ParserError, csv.Error) as error:
        raise Unreadable(f"{file.path} cannot be read: {' '.join(str(error).split())}.") from None
    if not rows:
        raise Unreadable(f"{file.path} has no rows.")


def count_lines(file: CsvFile) -> int:
    """The number of rows of a CSV."""
    options = {name: file.options[name] for name in ("sep", "encoding", "skipinitialspace") if name in file.options}
    try:
        with pd.read_csv(file.path, header=None, usecols=[0], dtype=str, chunksize=BLOCK, **options) as blocks:
            return sum(map(len, blocks)) - 1
    except (ValueError, csv.Error):  # reading the rows reports the error
        return 0


def has_mark(path: str) -> bool:
    """Whether a file begins with the byte order mark of UTF-8."""
    with open(path, "rb") as file:
        return file.read(3) == b"\xef\xbb\xbf"


def cell_of_table(cell: str, known: set[str] | None) -> Any:
    """A table cell with the type that the model was trained with. `known` holds the categories of its column; None: a
    column of numbers, where texts that spell a number are allowed."""
    if known is None or cell in known or is_code(cell):
        return cell
    text = cell.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    number = int(text) if DIGITS.fullmatch(text) and len(text) < 400 else read_number(text)
    return cell if number is None else number


def value_of(row: Mapping[str, Any], column: str, otherwise: Any = None) -> Any:
    """The value of a column, also of a nested column `a.b`; `otherwise` if there is none."""
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return otherwise
        value = value[key]
    return value
