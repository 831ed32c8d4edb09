"""What the values of one column look like. The modalities' readers use this to decide which of them reads the
column."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..models.finite import (
    AmbiguousNumbersError,
    is_code,
    is_written_number,
    mark_of,
    read_marked,
    read_number,
    unit_of,
    without_unit,
)
from .file_columns import is_file


# What a column can be, apart from what a modality's reader says. Such columns are left out.
ENOUGH_ROWS = 50  # from so many rows on, numbers with few gaps are no accident
LEFT_OUT = ("id", "constant", "empty", "url", "unreadable", "partial")
MOST = 0.95  # share of the values that a rule must fit, as for the columns of a table; the others are bad rows
ALMOST_ALL = 0.98  # share of distinct values; above it, a column identifies rows
FOLDERS = 2000  # folders to search for files if a column has only their names
HEADERS = 8  # files of a column for which the first bytes are checked
SEVERAL_WORDS = 0.3  # share of the texts with several words, from which on a column may hold texts
REPEATED = 0.2  # share of distinct texts, from which on short texts are not categories
LONG, MANY_LONG = 4, 20  # average words of a long text; with more distinct long texts than this, no categories
EITHER = "either"  # the mark of numbers that are ambiguous: nobody can know what begins their decimals
CODE_DIGITS = 5  # whole numbers of one length with at least so many digits may be codes

INDEX = re.compile(r"Unnamed: \d+(_level_\d+)?|__index_level_\d+__|level_\d+|index")  # pandas' names for an index
URL = re.compile(r"(https?|ftp|s3|gs)://\S+", re.IGNORECASE)
# Dates as people and programs write them. The whole cell must be a date.
DAY = r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{1,2}\.? ?[^\W\d]{3,9}\.?,? \d{4}"
DAY += r"|[^\W\d]{3,9}\.? \d{1,2},? \d{4}|(0?[1-9]|[12]\d|3[01])\.(0[1-9]|1[0-2])\.\d{2})"
CLOCK = r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[AaPp]\.?[Mm]\.?)?( ?(Z|UTC|[+-]\d{2}:?\d{2}))?"
DATE = re.compile(rf"{DAY}([T ,]+{CLOCK})?")
COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?")  # 1.402,15: dots separate thousands, a comma the decimals
CODE_LIKE = re.compile(r"(?=.*\d)[\w.:/#-]{3,}|[^\s@]+@[^\s@]+\.\w+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
NAMED_ID = re.compile(
    r"(^|[^a-z])(id|ids|uuid|guid|key|index|row|nr|no|number|#)($|[^a-z])|[a-z](Id|ID)$", re.IGNORECASE
)
NAMED_CODE = re.compile(r"(^|[^a-z])(zip|zipcode|plz|postal|postcode|code|id|type|class|category)$", re.IGNORECASE)
NAMED_THING = re.compile(  # names of things that several rows may share, such as a user or a product
    r"(user|customer|client|member|patient|person|author|movie|item|product|article|store|shop|device|station)s?",
    re.IGNORECASE,
)
NO_SPACES = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]")  # letters of languages without spaces


@dataclass(frozen=True)
class Evidence:
    """What a reader thinks that a column is.

    Args:
        role: what the column is, in one word, for the printed table.
        part: the part that the column plays in a row, see `Columns.named`.
        why: the reason, in words.
        strength: between 0 and 1; the strongest evidence wins. 1: the type of the column or its files prove it.
        root: the folder that paths of the column start from, if it is not the folder of the data.
        category: the values are numbers that name something.
    """

    role: str
    part: str
    why: str
    strength: float = 0.5
    root: str | None = None
    category: bool = False


@dataclass
class ColumnSample:
    """Some values of a column, spread over the data.

    name: the name of the column.
    values: the values that are not absent, as Python objects; files as dicts of `bytes` and `path`.
    places: the row number of each value.
    looked_at: the number of rows that were looked at, with rows that have no value.
    rows: the number of all rows.
    distinct: how many values are distinct. Counted over all rows if possible, else over `values`. None for values
        that cannot be compared.
    present: how many values `distinct` was counted over.
    feature: the type in `datasets`, if there is one.
    root: the folder that paths start from; None: there is none.
    is_range: the column is an index of a pandas table that only counts.
    folders: finds the folders below a folder, see `folders_below`.
    """

    name: str
    values: list[Any]
    places: Sequence[int]
    looked_at: int
    rows: int
    distinct: int | None
    present: int
    feature: Any = None
    root: str | None = None
    is_range: bool = False
    folders: Callable[[str], list[str]] = field(default=lambda root: folders_below(root), repr=False)

    @property
    def count(self) -> int:
        """How many values were looked at."""
        return len(self.values)

    def share(self, fits: Callable[[Any], Any]) -> float:
        """The share of the values that fit a rule."""
        return sum(1 for value in self.values if fits(value)) / max(1, self.count)

    @property
    def unique(self) -> bool:
        """Whether (almost) every value is distinct."""
        return self.distinct is not None and self.present > 2 and self.distinct >= ALMOST_ALL * self.present

    @cached_property
    def are_texts(self) -> bool:
        """Whether all values are texts."""
        return bool(self.values) and all(isinstance(value, str) for value in self.values)

    @cached_property
    def numbers(self) -> np.ndarray | None:
        """The values as floats, if (almost) all are numbers. NaN for the others."""
        if not self.values:
            return None
        if self.are_texts:
            if self.either:
                read = [read_comma(without_unit(value, self.unit)) for value in self.values]
            else:
                read = [read_marked(value, self.mark) for value in self.values]
        else:
            plain = (int, float, np.integer, np.floating)
            read = [
                float(value) if isinstance(value, plain) and not isinstance(value, bool) else None
                for value in self.values
            ]
        array = np.array([np.nan if number is None else number for number in read], dtype=float)
        return array if np.isfinite(array).sum() >= MOST * self.count else None

    @cached_property
    def unit(self) -> str:
        """The unit of its numbers, before or behind them, such as "%". Empty if they have none."""
        return unit_of(Counter(self.values)) if self.are_texts else ""

    @cached_property
    def mark(self) -> str | None:
        """How to read its numbers, see `mark_of`. "either" if no value shows it."""
        try:
            return mark_of(self.name, Counter(self.values)) if self.are_texts else None
        except AmbiguousNumbersError:
            return EITHER

    @property
    def either(self) -> bool:
        """Whether its values do not show what begins the decimals, such as "1,402" with no other form."""
        return self.mark == EITHER

    def span(self) -> str:
        """From the smallest to the largest number, for people."""
        numbers = np.array([]) if self.numbers is None else self.numbers
        ends = (said_number(end, parted=not self.is_called_id) for end in (np.nanmin(numbers), np.nanmax(numbers)))
        return " to ".join(ends)

    @cached_property
    def whole(self) -> np.ndarray | None:
        """The values, if all of them are whole numbers; else None."""
        numbers = self.numbers
        if numbers is None or np.isnan(numbers).any() or (numbers != np.round(numbers)).any():
            return None
        return numbers

    @property
    def has_codes(self) -> bool:
        """Whether some values are digits with leading zeros, and all are digits."""
        return self.are_texts and self.whole is not None and any(map(is_code, self.values))

    @property
    def are_written(self) -> bool:
        """Whether the values are numbers formatted for people, such as "12 %" or "$5"."""
        return self.are_texts and self.share(lambda value: read_number(value) or is_written_number(value)) >= MOST

    @property
    def are_amounts(self) -> bool:
        """Whether the values are numbers with a unit, a currency or spaces, such as "1 234,50" or "12.5 kg", which
        nothing here can read."""
        if not self.are_texts or self.numbers is not None or self.are_dates:
            return False
        if (self.distinct or 0) < max(SOME_AMOUNTS, MANY_AMOUNTS * self.present):
            return False
        return self.share(lambda value: AMOUNT.fullmatch(value.strip()) and not is_code(value)) >= MOST

    @property
    def are_truths(self) -> bool:
        """Whether the values are true and false."""
        truths = {"true", "false"}
        return bool(self.values) and all(
            isinstance(value, (bool, np.bool_)) or str(value).strip().lower() in truths for value in self.values
        )

    @cached_property
    def are_dates(self) -> bool:
        """Whether the values are dates or times."""
        if self.values and all(isinstance(value, (date, np.datetime64, pd.Timestamp)) for value in self.values):
            return True
        return self.are_texts and self.share(lambda value: is_date(value)) >= MOST

    @property
    def count_the_rows(self) -> bool:
        """Whether the values are whole numbers that count the rows from 0 or 1, or from any number if the column is
        called an id."""
        whole = self.whole
        if whole is None or self.count < 3:
            return False
        steps = whole - np.asarray(self.places)
        return bool((steps == steps[0]).all()) and (steps[0] in (0, 1) or self.is_called_id)

    @property
    def goes_up_evenly(self) -> bool:
        """Whether the values are whole numbers with equal steps from row to row, over many rows, or as the index of a
        table."""
        whole = self.whole
        if whole is None or self.count < 3 or not (self.is_range or self.count >= ENOUGH_ROWS):
            return False
        steps, places = np.diff(whole), np.diff(self.places)
        return bool((steps * places[0] == places * steps[0]).all() and steps[0] > 0)

    @property
    def is_index(self) -> bool:
        """Whether the column is an index written by pandas. It has no name, or a name that pandas gives to an index,
        and identifies the rows."""
        return not self.name or (INDEX.fullmatch(self.name) is not None and self.unique and self.whole is not None)

    @property
    def number_the_rows(self) -> bool:
        """Whether the values are distinct whole numbers with few gaps: row numbers, shuffled or sampled."""
        whole = self.whole
        if whole is None or not self.unique or (self.distinct or 0) < ENOUGH_ROWS:
            return False
        return int(whole.max()) - int(whole.min()) < 2 * int(self.distinct or 0)

    @property
    def is_called_id(self) -> bool:
        """Whether the name of the column says that it identifies rows."""
        return NAMED_ID.search(self.name) is not None

    @property
    def are_codes(self) -> bool:
        """Whether the values are whole numbers that name something and do not count it, such as zip codes."""
        if self.whole is None or self.distinct is None:
            return False
        digits = {len(str(int(abs(number)))) for number in self.whole}
        round_share = (self.whole % 10 == 0).mean()
        repeated = 2 * self.distinct <= self.present
        if len(digits) == 1 and min(digits) >= CODE_DIGITS and repeated and round_share < 0.5:
            return True
        return repeated and (NAMED_CODE.search(self.name) is not None or self.is_called_thing)

    @property
    def is_called_thing(self) -> bool:
        """Whether the name of the column is a kind of person or thing that has a number, such as a user or a
        product."""
        return NAMED_THING.fullmatch(self.name) is not None

    @cached_property
    def words(self) -> float:
        """The average number of words of a text."""
        return float(np.mean([words_in(value) for value in self.values])) if self.are_texts else 0.0

    @cached_property
    def are_sentences(self) -> bool:
        """Whether the values are texts to read, and not names of categories."""
        if not self.are_texts or self.distinct is None or self.are_dates or self.numbers is not None:
            return False
        several = self.share(lambda value: words_in(value) > 1)
        if several < SEVERAL_WORDS:
            return self.unique and self.count > 2 and not self.are_code_like
        return self.distinct >= REPEATED * self.present or (self.words >= LONG and self.distinct > MANY_LONG)

    @property
    def are_code_like(self) -> bool:
        """Whether the values are single words with digits, as ids are."""
        return self.are_texts and self.share(lambda value: CODE_LIKE.fullmatch(value.strip())) >= MOST

    @property
    def are_urls(self) -> bool:
        """Whether the values are web addresses."""
        return self.are_texts and self.share(lambda value: URL.fullmatch(value.strip())) >= MOST

    def files(self, fits: Callable[[bytes], bool], what: str) -> tuple[str, str | None] | None:
        """Whether the values are files, given by their bytes or their names.

        Args:
            fits: whether the given first bytes may belong to such a file.
            what: what such files are, in words.

        Returns:
            the reason, and the folder that the names start from (None if it is `root`); None if they are not files.
        """
        held = [value for value in map(bytes_of, self.values) if value]
        if held:
            fitting = [value for value in held[:HEADERS] if fits(value)]
            return (f"holds the bytes of {what}", None) if 2 * len(fitting) > len(held[:HEADERS]) else None
        paths = [value for value in map(path_of, self.values) if value and Path(value).suffix]
        if self.root is None or len(paths) < MOST * self.count or not paths:
            return None
        root, others = self.root, []
        files = [path for path in paths if is_file(path, root)]
        if not files and (places := holding(self.folders(root), paths)):
            root, *others = places
            files = [path for path in paths if is_file(path, root)]
        heads = [head_of(os.path.join(root, path)) for path in files[:HEADERS]]
        if 2 * len(files) <= len(paths) or 2 * sum(map(fits, heads)) <= len(heads):
            return None
        where = "that are there" if root == self.root else f"in {os.path.relpath(root, self.root)}"
        if others:  # other files have the same names
            where += (
                f", and {os.path.relpath(others[0], self.root)} has such names too: --data_root names the right one"
            )
        why = f"{len(files):,} of {len(paths):,} cells name {what} {where}"
        return why, None if root == self.root else root

    def names_missing_files(self, suffixes: Callable[[str], bool]) -> bool:
        """Whether the values are names of such files, by their endings. The files themselves were not found."""
        return self.are_texts and self.share(lambda value: suffixes(Path(value).suffix.lower())) >= MOST


# A currency sign or code, a number, a sign or unit.
AMOUNT = re.compile(
    r"(?:[A-Z]{3}\s)?[^\w\s]{0,2}\s?(?:\d{1,3}(?:[.,'\u2019\s]\d{3})+|\d+)(?:[.,]\d+)?"
    r"(?:\s?[^\w\s]{1,3}|\s?[A-Za-z]{2,4}\.?|\s[A-Za-z])?"
)
PARTED, EXACT = 10_000, 1e15  # from PARTED on, thousands are separated; up to EXACT, whole numbers are written in full
SOME_AMOUNTS, MANY_AMOUNTS = 10, 0.3  # fewer distinct values, or a smaller share, are categories


def read_comma(text: str) -> float | None:
    """The number in a text with a decimal comma, such as "1.402,15". None for any other text."""
    text = text.strip()
    return float(text.replace(".", "").replace(",", ".")) if COMMA.fullmatch(text) else None


def said_number(number: float, parted: bool = True) -> str:
    """A number for people. Thousands are separated from 10,000 on, because 1951 may be a year. `parted` False: never,
    for numbers that name something."""
    if number != round(number) or abs(number) >= EXACT:
        return f"{number:.6g}"
    return f"{number:,.0f}" if parted and abs(number) >= PARTED else f"{number:.0f}"


def is_date(text: str) -> bool:
    """Whether a text is a date, alone or with a time."""
    return DATE.fullmatch(text.strip()) is not None


def words_in(text: str) -> float:
    """The number of words of a text. In languages without spaces between words, two letters count as a word."""
    return max(len(text.split()), len(NO_SPACES.findall(text)) / 2)


def bytes_of(value: Any) -> bytes | None:
    """The bytes of a file in a row; None if there are none."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else None


def path_of(value: Any) -> str | None:
    """The path of a file in a row; None if there is none."""
    if isinstance(value, dict):
        value = value.get("path")
    return value.strip() or None if isinstance(value, str) and "\n" not in value and len(value) < 500 else None


def head_of(path: str) -> bytes:
    """The first bytes of a file. Empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(4096)
    except OSError:
        return b""


def folders_below(root: str) -> list[str]:
    """The folders below a folder, the nearest first, at most `FOLDERS`."""
    folders: list[str] = []
    waiting = [root]
    while waiting and len(folders) < FOLDERS:
        folder = waiting.pop(0)
        try:
            below = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir() and entry.name[:1] != ".")
        except OSError:
            continue
        folders += below
        waiting += below
    return folders[:FOLDERS]


def holding(folders: list[str], paths: list[str]) -> list[str]:
    """The folders that contain files of these names, the folder with the most of them first."""
    some = paths[:: max(1, len(paths) // HEADERS)]
    counts = {folder: sum(is_file(path, folder) for path in some) for folder in folders}
    return sorted((folder for folder in folders if counts[folder]), key=lambda folder: -counts[folder])
