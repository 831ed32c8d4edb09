"""Reads CSV files: finds out how they are written, and one type for each column in use, over all files.

pandas guesses types block by block. It turns "00501" into 501 and a text of digits into a number, and it cannot read
files with blocks of different types. Here every cell of the columns in use is looked at before the types are chosen.
"""

import codecs
import csv
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets, load_dataset

from ..models.finite import DIGITS, is_code, read_number, together
from .column_types import MAX_NUMBER_CLASSES, are_few
from .files_read import Unreadable
from .modalities import reader_of_part


# An empty cell is absent. A cell with "None" or "NA" is a text, because that may be the name of a class.
CELLS = {"keep_default_na": False, "na_values": ["", "NaN", "nan"]}
SEPARATORS = {".csv": ",;\t|", ".tsv": "\t"}  # the first is the usual one
UNNAMED = "Unnamed: {}"  # the name that pandas gives to a column without a name, with its position
ROW_NAMES = "(names of rows)"  # our name for the column of row names that has no name in the header
BLOCK = 50_000  # rows to look at together
BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
EXACT = 2**53  # above it, two whole numbers can be the same float
AS_TEXT = "as_text"  # the part of columns with cells that are always read as texts
LABELS = ("label", "weight")  # parts of a row that may be numbers for training, see `Columns.named`
# Parts whose values are names, so that "1" and "1.0" are two different values.
NAMES = ("label", "kind", "image_id", "group")
MANY = 1000  # distinct cells in one block; above it the fast path is used
# In files with semicolons as separators, decimals mostly have a comma, and a dot separates thousands.
DOTTED = r"^[+-]?[1-9]\d{0,2}\.\d{3}$"
EASY = (r"^-?[1-9]\d{0,14}$", r"^-?(0|[1-9]\d{0,14})\.\d{0,14}[1-9]$")  # whole numbers, and others


@dataclass
class CsvFile:
    """How one file is written.

    Args:
        path: the path of the file.
        header: its column names.
        options: options of the CSV reader, for pandas and datasets alike.
        called: the name in the header, by the name that was requested. They differ if the header has spaces around it.
    """

    path: str
    header: list[str]
    options: dict[str, Any]
    called: dict[str, str] = field(default_factory=dict)


@dataclass
class Cells:
    """What was seen in one column of one or several files.

    Args:
        numbers, words, truths, gaps: how many cells are numbers, other texts, true or false, empty.
        fractions: some number is not whole, or is written as a float ("1.0", "1e3").
        uneven: some number is not whole.
        codes: some cells are digits with leading zeros.
        large: some whole number is too large for an exact float.
        huge: some whole number does not fit into 64 bits.
        spellings: how whole numbers are written in one file, for up to `MAX_NUMBER_CLASSES` numbers.
        two_ways: one number is written in two ways in one file.
        plain: some number has no dot.
        dotted: a number such as "1.160", in which the dot may separate thousands; "" if there is none.
        decimals: some other number has a dot or an exponent.
    """

    numbers: int = 0
    words: int = 0
    truths: int = 0
    gaps: int = 0
    fractions: bool = False
    uneven: bool = False
    codes: bool = False
    large: bool = False
    huge: bool = False
    two_ways: bool = False
    plain: bool = False
    dotted: str = ""
    decimals: bool = False
    spellings: dict[int, str] = field(default_factory=dict)

    def add(self, column: pd.Series):
        """Looks at a block of cells, read as strings."""
        counts = column.value_counts(dropna=True)
        self.gaps += len(column) - int(counts.sum())
        if len(counts) > MANY:
            counts = self.add_plain(counts)
        for cell, count in counts.items():
            text = str(cell).strip()
            number = read_number(text)
            if text.lower() in ("true", "false"):
                self.truths += count
            elif number is None:
                self.words += count
            else:
                self.numbers += count
                self.add_number(text, number)

    def add_plain(self, counts: pd.Series) -> pd.Series:
        """Counts the cells that are certainly numbers, for speed, and gives the other cells."""
        cells = pa.array(counts.index, pa.string())
        whole, uneven = (pc.match_substring_regex(cells, pattern).to_numpy(zero_copy_only=False) for pattern in EASY)
        for text in counts.index[whole][: MAX_NUMBER_CLASSES + 1]:
            self.add_number(text, float(text))
        self.numbers += int(counts[whole | uneven].sum())
        self.fractions |= bool(uneven.any())
        self.uneven |= bool(uneven.any())
        dotted = pc.match_substring_regex(cells, DOTTED).to_numpy(zero_copy_only=False)
        self.plain |= bool(whole.any())
        self.decimals |= bool((uneven & ~dotted).any())
        self.dotted = self.dotted or next(iter(counts.index[uneven & dotted]), "")
        return counts[~(whole | uneven)]

    def add_number(self, text: str, number: float):
        """Takes in one number, as it is written."""
        digits = DIGITS.fullmatch(text) is not None
        self.fractions |= not digits
        if re.match(DOTTED, text):
            self.dotted = self.dotted or text
        else:
            self.plain, self.decimals = self.plain or digits, self.decimals or not digits
        self.codes |= is_code(text)
        if number != number or abs(number) == float("inf") or number != int(number):
            self.uneven = True
            return
        exact = int(text) if digits and len(text) < 400 else int(number)
        self.large |= digits and abs(exact) > EXACT
        self.huge |= digits and not -(2**63) <= exact < 2**63
        if len(self.spellings) <= MAX_NUMBER_CLASSES:
            self.two_ways |= self.spellings.setdefault(exact, text) != text

    def join(self, other: "Cells"):
        """Adds what was seen in another file."""
        for name in ("numbers", "words", "truths", "gaps"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("fractions", "uneven", "codes", "large", "huge", "two_ways", "plain", "dotted", "decimals"):
            setattr(self, name, getattr(self, name) or getattr(other, name))
        self.spellings |= other.spellings

    def dtype(self, part: str) -> str:
        """The type of the column. It depends on the part that the column plays in a row, see `read_csv`."""
        seen = self.numbers + self.words + self.truths
        if self.words or (self.truths and self.truths < seen):
            return "string"
        if self.truths:
            return "bool"
        if not seen:
            return "float64"
        if self.codes and not self.fractions:
            return "string"
        if part in NAMES and not self.uneven:
            few = are_few(len(self.spellings), self.numbers)
            inexact = self.huge or (self.large and (self.gaps or self.fractions))
            if (self.two_ways and few) or (inexact and (few or part != "label")):  # many labels are not classes
                return "string"
        return "float64" if self.fractions or self.gaps or self.huge else "int64"


def read_csv(
    parts: dict[str, list[str]],
    wanted: list[tuple[str, str]],
    streaming: bool = False,
    as_text: Collection[str] = (),
    cache: str | None = None,
    decimal: str | None = None,
) -> tuple[dict[str, Dataset | IterableDataset], dict[str, list[str]]]:
    """Reads the columns in use, with one type for each column over all files.

    | the cells are | the type |
    |---|---|
    | of a text, or paths | string, as they are written |
    | true and false | bool |
    | digits, some with leading zeros ("00501") | string |
    | few whole numbers, as labels or ids, and one is written in two ways in one file ("1.0" and "1") | string |
    | whole numbers, as ids or as few labels, and some do not fit into 64 bits | string |
    | whole numbers | int64; float64 where cells are empty |
    | other numbers | float64 |
    | anything else | string |

    Args:
        parts: the files of each part of the data.
        wanted: the columns in use, as pairs of their part in a row and their name, see `Columns.named`. A part of the
            data may lack a column if all its files lack it.
        streaming: read rows during training. The cells are still looked at before.
        as_text: columns with cells that are always texts.
        cache: the folder where datasets keeps what it read, see `cache_folder`.
        decimal: "," or ".", the mark before the decimals, for columns in which no value shows it. With a comma,
            "1.160" is read as a text; a later step knows the mark and reads the number.

    Returns:
        the parts of the data, and for each part the names of all columns of its files.

    Raises:
        Unreadable: the message names the file. It is not UTF-8, has no rows, has a column twice, or has lines that are
            longer than its header; or the files of a part have different columns.
    """
    names = list(dict.fromkeys(column for _, column in wanted))
    roles = {column: part for part, column in reversed(wanted)} | dict.fromkeys(as_text, AS_TEXT)
    files = {part: [look_at(path, names) for path in paths] for part, paths in parts.items()}
    present: dict[str, list[str]] = {}
    for part, of_part in files.items():
        present[part] = [name for name in names if any(name in file.called for file in of_part)]
        for file in of_part:
            if lacking := [name for name in present[part] if name not in file.called]:
                raise Unreadable(f"{file.path} has no column {lacking[0]!r}, but other files of its part have it.")
    cells = {name: Cells() for name in names if cells_of(roles[name]) != "texts"}
    for of_part in files.values():
        rows = 0
        for file in of_part:
            rows += look_into(file, cells)
        if not rows:
            raise Unreadable(f"{' and '.join(file.path for file in of_part)} has no rows.")
    numbers = {name: seen for name, seen in cells.items() if cells_of(roles[name]) == "numbers"}
    types = {name: cells[name].dtype(roles[name]) if name in cells else "string" for name in names}
    if decimal is None:
        check_dots(numbers, files)
    elif decimal == ",":
        types |= {name: "string" for name, seen in numbers.items() if seen.dotted and not seen.decimals}
    splits = {
        part: load_part(part, of_part, {name: types[name] for name in present[part]}, streaming, cache)
        for part, of_part in files.items()
    }
    known = {
        part: list(dict.fromkeys(name for file in of_part for name in file.header)) for part, of_part in files.items()
    }
    return splits, known


def check_dots(cells: dict[str, Cells], files: dict[str, list[CsvFile]]):
    """Refuses ambiguous numbers. In a file with semicolons as separators, "1.160" may mean 1160 or 1.16, if the column
    also has whole numbers, and no other decimals."""
    parted = next((file.path for of_part in files.values() for file in of_part if file.options["sep"] == ";"), None)
    refused: list[ValueError] = []
    for name, seen in cells.items():
        if parted and seen.dotted and seen.plain and not (seen.decimals or seen.words):
            whole = seen.dotted.replace(".", "")
            refused.append(
                Unreadable(
                    f"Column {name!r} of {parted} has {seen.dotted!r} beside whole numbers, and semicolons separate "
                    f"its cells: is it {whole}, or {float(seen.dotted):g}? Write {whole}, or write all numbers of the "
                    "column with three decimals, or set the decimal mark: --decimal , or --decimal ."
                )
            )
    if refused:
        raise together(refused)


def texts_in(paths: list[str], wanted: list[tuple[str, str]], as_text: Collection[str] = ()) -> list[str]:
    """The columns of CSV files that `read_csv` reads as strings. The arguments are the same as there."""
    roles = {column: part for part, column in reversed(wanted)} | dict.fromkeys(as_text, AS_TEXT)
    files = [look_at(path, roles) for path in paths]
    cells = {name: Cells() for name in roles if any(name in file.called.values() for file in files)}
    for file in files:
        look_into(file, cells)
    return [
        name for name, seen in cells.items() if cells_of(roles[name]) == "texts" or seen.dtype(roles[name]) == "string"
    ]


def cells_of(part: str) -> str:
    """How the cells of a column are read. It depends on the part that the column plays, see `ModalityReader`."""
    reader = reader_of_part(part)
    if reader is None:
        return "texts" if part == AS_TEXT else "numbers" if part in LABELS else "values"
    return reader.cells


def load_part(
    part: str, files: list[CsvFile], types: dict[str, str], streaming: bool, cache: str | None = None
) -> Dataset | IterableDataset:
    """Loads one part. Its files may be written in different ways."""
    loaded = []
    for _, alike in groupby(files, key=lambda file: (file.options, file.called)):
        group = list(alike)
        called, options = group[0].called, dict(group[0].options)
        # pandas has no type for truth values with gaps that datasets can read.
        read = {name: "string" if dtype == "bool" else dtype for name, dtype in types.items()}
        if types:  # without types no column was requested, and all are read
            options["features"] = Features({called[name]: Value(dtype) for name, dtype in read.items()})
            options["usecols"] = [called[name] for name in types]
        options |= {"data_files": {part: [file.path for file in group]}, "cache_dir": cache}
        split = load_dataset("csv", streaming=streaming, **options)[part]
        split = split.rename_columns({called[name]: name for name in types if called[name] != name})
        for name in types:
            if types[name] == "bool":
                split = split.cast_column(name, Value("bool"))
        loaded.append(split)
    if len(loaded) > 1 and streaming:
        raise Unreadable(
            f"The files of part {part!r} are written in different ways, and streaming cannot read them together: "
            f"{[file.path for file in files]}. Write them all in the same way, or switch streaming off."
        )
    return loaded[0] if len(loaded) == 1 else concatenate_datasets(loaded)


def look_at(path: str, names: Iterable[str]) -> CsvFile:
    """Finds out how a file is written: its encoding, its header, and the separator with which the header has the
    requested columns."""
    with open(path, "rb") as file:
        start = file.read(4)
    encoding = next((encoding for bom, encoding in BOMS.items() if start.startswith(bom)), "utf-8")
    by_separator: dict[str, tuple[list[str], list[str], dict[str, str]]] = {}
    for separator in SEPARATORS[Path(path).suffix.lower()]:
        header, first = first_lines(path, encoding, separator)
        by_separator[separator] = header, first, names_in(header, names)
    # Take the usual separator, unless another one finds more of the columns.
    separator = max(by_separator, key=lambda separator: len(by_separator[separator][2]))
    header, first, called = by_separator[separator]
    twice = sorted({name for name in header if name.strip() and header.count(name) > 1})
    if twice:
        raise Unreadable(
            f"{path} has several columns named {twice[0]!r}: {header}. Rename them, so that each name is unique."
        )
    options: dict[str, Any] = {**CELLS, "sep": separator, "encoding": encoding}
    if any(name != written for name, written in called.items()) and all(name.startswith(" ") for name in header[1:]):
        options["skipinitialspace"] = True  # "title, genre" has a space after each comma
        header, first = first_lines(path, encoding, separator, skipinitialspace=True)
        called = names_in(header, names)
    if len(first) == len(header) + 1 and first[-1].strip():
        # R writes such files: the first column has the names of the rows, and it is not in the header.
        options |= {"names": [ROW_NAMES, *header], "header": 0}
    elif len(first) > len(header) and not any(cell.strip() for cell in first[len(header) :]):
        options["index_col"] = False  # the lines end with a separator
    return CsvFile(path, header, options, called)


def first_lines(path: str, encoding: str, separator: str, **options: Any) -> tuple[list[str], list[str]]:
    """The header of a file and its first line of values, empty if there is none. `options` go to `csv.reader`."""
    limit = csv.field_size_limit(2**31 - 1)  # a text may be long
    try:
        with open(path, encoding=encoding, newline="") as file:
            if file.read(1) != "\ufeff":
                file.seek(0)
            lines = (line for line in csv.reader(file, delimiter=separator, **options) if line)
            return next(lines, []), next(lines, [])
    except UnicodeError as error:
        raise not_utf8(path, error) from None
    except csv.Error as error:
        raise Unreadable(f"{path} cannot be read: {error}.") from None
    finally:
        csv.field_size_limit(limit)


def not_utf8(path: str, error: Exception) -> Unreadable:
    """The error for a file in another encoding."""
    return Unreadable(
        f"{path} is not UTF-8 text ({error}). In a spreadsheet, save it as 'CSV UTF-8'. Convert a file that Windows "
        "wrote with `iconv -f cp1252 -t utf-8`."
    )


def names_in(header: list[str], names: Iterable[str]) -> dict[str, str]:
    """The requested names that are in a header, each with its form in the header: as it is, or with spaces around it.
    A column without a name has the name that pandas gives it, such as "Unnamed: 0"."""
    stripped: dict[str, list[str]] = {}
    header = [name if name.strip() else UNNAMED.format(place) for place, name in enumerate(header)]
    for name in header:
        stripped.setdefault(name.strip(), []).append(name)
    called = {}
    for name in names:
        if name in header:
            called[name] = name
        elif len(stripped.get(name, [])) == 1:
            called[name] = stripped[name][0]
    return called


def look_into(file: CsvFile, cells: dict[str, Cells]) -> int:
    """Reads every line of a file, and adds what it sees to `cells`. Returns the number of rows.

    Args:
        file: the file.
        cells: what was seen, by column. Only columns without a fixed type are in it.
    """
    of_file = {name: Cells() for name in file.called if name in cells}
    rows = 0
    try:
        # Read all columns, not only those in use: with `usecols`, pandas accepts lines that are too long.
        with pd.read_csv(file.path, dtype=str, chunksize=BLOCK, **file.options) as blocks:
            for block in blocks:
                rows += len(block)
                if ROW_NAMES in block and block.iloc[:, -1].isna().any():
                    raise Unreadable(
                        f"{file.path} has lines of different lengths: some have one value more than the header "
                        f"{file.header}. Put a text that contains a separator in quotes."
                    )
                for name, seen in of_file.items():
                    seen.add(block[file.called[name]])
    except UnicodeError as error:
        raise not_utf8(file.path, error) from None
    except pd.errors.EmptyDataError:
        return 0
    except (pd.errors.ParserError, csv.Error) as error:
        raise Unreadable(f"{file.path} cannot be read: {' '.join(str(error).split())}.") from None
    for name, seen in of_file.items():
        cells[name].join(seen)
    return rows
