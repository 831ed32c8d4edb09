# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The meaning of a table's columns, learned from the training rows, and the conversion of rows to tensors. Their
encoder is `TabularModel`.

Notation used for tensor shapes: `U` rows of a table; `N` columns of numbers; `P` numbers that represent its dates; `K`
columns of categories.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch

from .config_checks import has_finite, shown
from .dates import ISO, DateColumn, format_of_dates, is_date, read_date
from .finite import (
    FARTHEST,
    LARGEST,
    MARKS,
    are_numbers,
    by_number,
    is_blank,
    is_code,
    kind_of_texts,
    mark_of,
    read_marked,
    read_number,
    together,
)
from .names import did_you_mean


MISSING, UNKNOWN = 0, 1  # ids that every column of categories has
KNOWN = 2  # the first id of a value
CATEGORIES = (str, bool, np.bool_, Real, Decimal)


@dataclass
class TableSchema:
    """The meaning of a table's columns. The processor saves it. Columns are sorted by name.

    Args:
        numerical: for each column of numbers, the mean and the standard deviation of its training values.
        categorical: for each column of categories, its values as strings; all other values are unknown.
        farthest: values more than this many deviations from the mean are cut to that; None, as in older schemas: not
            cut.
        as_written: whether categories of digits are compared as they are written ("007" is not "7"); False, as in
            older schemas: an unknown value is looked up by its number.
        dates: for each column of dates or times, its format and properties, see `DateColumn`.
        marks: for each column of numbers that are formatted for people, the decimal mark, "," or ".", followed by the
            sign of their unit if they have one, as ".%", see `read_marked`.
    """

    numerical: dict[str, tuple[float, float]] = field(default_factory=dict)
    categorical: dict[str, list[str]] = field(default_factory=dict)
    farthest: float | None = None
    as_written: bool = False
    dates: dict[str, DateColumn] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)

    model_input_names = ["numerical_values", "categorical_ids"]  # not a dataclass field: the same for all

    def __post_init__(self):
        self.check_itself()
        # JSON sorts its keys: in any other order, a loaded schema would have its columns in a different order.
        self.numerical = {name: (float(mean), float(std)) for name, (mean, std) in sorted(self.numerical.items())}
        self.categorical = {name: list(values) for name, values in sorted(self.categorical.items())}
        self.dates = {name: DateColumn.of(name, value) for name, value in sorted(self.dates.items())}
        twice = sorted(name for name, count in Counter(self.columns).items() if count > 1)
        if twice or not self.columns:
            raise ValueError(f"A table needs columns, each of one kind; got {self.columns}, {twice} of both kinds.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TableSchema":
        """Makes a schema from the result of `to_dict`, also after JSON.

        Raises:
            ValueError: a key is unknown, or `check_itself` refuses a value.
        """
        known = [key.name for key in fields(cls)]
        if unknown := [name for name in values if name not in known]:
            meant = did_you_mean(unknown[0], known)
            raise ValueError(f"table_schema has no key {unknown[0]!r:.80}; the keys are {known}.{meant}")
        return cls(**values)

    def check_itself(self):
        """Checks each value: means and deviations must be finite, and each category must have one id.

        Raises:
            ValueError: names the column, its value and the allowed values.
        """
        for key in ("numerical", "categorical", "dates", "marks"):
            columns = getattr(self, key)
            if not isinstance(columns, Mapping) or not all(isinstance(name, str) for name in columns):
                raise ValueError(f"table_schema: {key} must be a dict by the names of columns, got {shown(columns)}.")
        for name, scale in self.numerical.items():
            if not has_finite(scale, 2) or not scale[1] > 0:
                raise ValueError(
                    f"table_schema: column {name!r:.80} needs a finite mean and a deviation above 0, got "
                    f"{shown(scale)}. TableSchema.fit computes both."
                )
        for name, values in self.categorical.items():
            if isinstance(values, (str, Mapping)) or not all(isinstance(value, str) for value in values):
                raise ValueError(
                    f"table_schema: column {name!r:.80} needs a list of categories, each a text, got {shown(values)}."
                )
            if len(set(values)) < len(list(values)):
                twice = next(value for value, count in Counter(values).items() if count > 1)
                raise ValueError(f"table_schema: column {name!r:.80} has the category {twice!r:.80} more than once.")
        for name, mark in self.marks.items():
            if name not in self.numerical or mark not in MARKS:
                raise ValueError(
                    f"table_schema: marks has {shown(mark)} for {name!r:.80}; it must be a column of numbers "
                    f"({list(self.numerical)}) and one of {list(MARKS)}."
                )
        if self.farthest is not None and not (has_finite([self.farthest]) and self.farthest > 0):
            raise ValueError(f"table_schema: farthest must be a number above 0 or None, got {shown(self.farthest)}.")
        if not isinstance(self.as_written, bool):
            raise ValueError(f"table_schema: as_written must be true or false, got {shown(self.as_written)}.")

    @property
    def columns(self) -> list[str]:
        """Names of the columns: first numbers, then dates, then categories."""
        return [*self.numerical, *self.dates, *self.categorical]

    @property
    def date_sizes(self) -> list[int]:
        """How many numbers represent each column of dates."""
        return [column.size for column in self.dates.values()]

    @property
    def vocab_sizes(self) -> list[int]:
        """The number of ids of each column of categories, with those for missing and unknown."""
        return [KNOWN + len(values) for values in self.categorical.values()]

    @classmethod
    def fit(
        cls,
        table: Mapping[str, Sequence[Any]],
        categories: Iterable[str] = (),
        min_count: int = 2,
        *,
        numbers: Iterable[str] = (),
        on_error: str = "raise",
        as_before: bool = False,
        formats: bool = True,
        texts: Mapping[str, Mapping[str, int]] | None = None,
        decimal: str | None = None,
        date_format: str | None = None,
    ) -> "TableSchema":
        """Learns a schema.

        A column is one of numbers if its values are numbers, or texts that spell numbers; one in twenty, or a single
        one, may be another value, which counts as bad. Strings that all consist of digits are categories, and so are
        digits with leading zeros. Numbers that are formatted for people ("1.402,15") are numbers if some value shows
        the decimal mark, and so are numbers with one unit ("12 %", "$5"). Dates and times, by their type or as texts,
        are dates, if equally few values are bad.

        Args:
            table: by column, the values of the training rows; None, NaN and empty texts are missing.
            categories: columns of numbers that are to be categories, such as ids.
            min_count: how often a value must occur. Rarer values count as unknown, so the model learns to handle new
                values.
            numbers: columns in which strings of digits are numbers, because other rows have bad values there.
            on_error: `"skip"` learns from the good values of a column of numbers; `"raise"` stops at a bad one.
            as_before: treat a column of numbers with one other word as categories, and clip nothing: for a run that
                began with an older release.
            formats: read dates and numbers that are formatted for people; False for a run that began with a release in
                which dates were categories, and such numbers were refused.
            texts: by column of texts, how often each text occurs, if there are more rows than these.
            decimal: "," or ".", the decimal mark to use if no value decides it.
            date_format: the format to use if day and month can be swapped, in the notation of strptime.

        Raises:
            ValueError: a column has no value; numbers are not finite; numbers or dates are written so that their
                meaning is not clear; or `categories` names a column that does not exist.
        """
        if unknown := sorted(set(categories) - set(table)):
            meant = did_you_mean(unknown[0], table)
            raise ValueError(f"categories names {unknown}, but the table has the columns {list(table)}.{meant}")
        schema: dict[str, dict[str, Any]] = {"numerical": {}, "categorical": {}, "dates": {}, "marks": {}}
        refused: list[ValueError] = []

        def learn(name: str, column: Sequence[Any]):
            """Learns one column."""
            if not as_before:
                column = [None if is_blank(value) else value for value in column]
            values = [value for value in column if not is_missing(value)]
            if not values:
                raise ValueError(f"Column {name!r} of the table has no value in any training row: leave it out.")
            plain = all(is_number(value) for value in values)
            mark = form = None
            if formats and not as_before and name not in categories:
                counts = (texts or {}).get(name) or Counter(values if all(map(is_text, values)) else ())
                mark = mark_of(name, counts, decimal)
                form = format_of_values(name, values, counts, date_format) if mark is None else None
            if form is not None:
                dates = [read_date(value, form) for value in column if not is_missing(value)]
                if None in dates and on_error == "raise":
                    row, value = next(
                        (row, value)
                        for row, value in enumerate(column)
                        if not is_missing(value) and read_date(value, form) is None
                    )
                    raise ValueError(
                        f"Column {name!r} of the table has dates ({form}), but {value!r:.80} in row {row} is not one."
                    )
                schema["dates"][name] = DateColumn.fit([value for value in dates if value is not None], form)
            elif name not in categories and (
                mark is not None or (plain if as_before else holds_numbers(name, values, name in numbers))
            ):
                good = []
                schema["marks"] |= {name: mark} if mark else {}
                for row, value in enumerate(column):
                    if is_missing(value):
                        continue
                    number = as_number(value, mark)
                    if number is not None and abs(number) < (math.inf if as_before else LARGEST):
                        good.append(number)
                    elif on_error == "raise":
                        what = "are no numbers" if number is None else "are not finite"
                        raise ValueError(
                            f"Column {name!r} of the table has numbers that {what}: {value!r:.80} in row {row}."
                        )
                if not good:
                    raise ValueError(f"Column {name!r} of the table has no finite number in any training row.")
                schema["numerical"][name] = (statistics.fmean(good), statistics.pstdev(good) or 1.0)
            else:
                if strange := [value for value in values if not isinstance(value, CATEGORIES)]:
                    raise ValueError(
                        f"Column {name!r} of the table holds {type(strange[0]).__name__}, such as {strange[0]!r:.80}; "
                        "a table takes numbers, strings and booleans."
                    )
                known = Counter(map(category, values))
                schema["categorical"][name] = sorted(value for value, n in known.items() if n >= min_count)

        for name, column in table.items():
            try:
                learn(name, column)
            except ValueError as error:  # collected, so that all columns can be fixed together
                refused.append(error)
        if refused:
            raise together(refused)
        farthest = None if as_before else FARTHEST
        return cls(**schema, farthest=farthest, as_written=not as_before)

    def check(self, row: Mapping[str, Any]):
        """Checks one row; columns that it does not have count as missing.

        Raises:
            TableError: the table does not have a column; a value is not a finite number in a column of numbers, or not
                a date in a column of dates.
        """
        for name, value in row.items():
            if name not in self.numerical and name not in self.categorical and name not in self.dates:
                meant = did_you_mean(name, self.columns)
                raise TableError(name, f"the table has no such column; it has {self.columns}.{meant}")
            if name in self.categorical or self.is_missing(value):
                continue
            if name in self.dates:
                if self.dates[name].read(value) is None:
                    form = self.dates[name].format
                    raise TableError(name, f"this must be a date or time ({form}), got {value!r:.80}.")
                continue
            number, (mean, std) = self.number(name, value), self.numerical[name]
            # With clipping, the distance in deviations may be as large as it likes.
            size = None if number is None else abs(number if self.farthest is not None else (number - mean) / std)
            if size is None or not size < LARGEST:
                raise TableError(name, f"this must be a finite number, got {value!r:.80}.")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Makes tensors from rows.

        Returns:
            `numerical_values` `(U, N + P)` float32, standardised, dates after the numbers, NaN for missing values;
            `categorical_ids` `(U, K)` int64; each only if the table has such columns.

        Raises:
            TableError: see `check`.
        """
        tensors: dict[str, torch.Tensor] = {}
        for row in rows:
            self.check(row)
        if self.numerical or self.dates:
            numbers = [  # `check` has refused other values
                [
                    math.nan if self.is_missing(row.get(name)) else (self.number(name, row[name]) - mean) / std
                    for name, (mean, std) in self.numerical.items()
                ]
                + [part for name in self.dates for part in self.parts_of_date(name, row.get(name))]
                for row in rows
            ]
            values = torch.tensor(numbers, dtype=torch.float64)
            if self.farthest is not None:
                values = values.clamp(-self.farthest, self.farthest)  # NaN stays
            tensors["numerical_values"] = values.float()
        if self.categorical:
            places = {
                name: {value: KNOWN + place for place, value in enumerate(values)}
                for name, values in self.categorical.items()
            }
            ids = [
                [
                    MISSING if self.is_missing(row.get(name)) else self._category_id(category(row[name]), known)
                    for name, known in places.items()
                ]
                for row in rows
            ]
            tensors["categorical_ids"] = torch.tensor(ids, dtype=torch.int64)
        return tensors

    def number(self, name: str, value: Any) -> Any:
        """A value of a column of numbers as a number; None if it is not one."""
        return as_number(value, self.marks.get(name))

    def parts_of_date(self, name: str, value: Any) -> list[float]:
        """A value of a column of dates as numbers; NaN where it is missing."""
        column = self.dates[name]
        moment = None if self.is_missing(value) else column.read(value)
        return [math.nan] * column.size if moment is None else column.numbers(moment)

    def unknown(self, row: Mapping[str, Any]) -> dict[str, str]:
        """For each column of categories in which a row has an unknown value, this value as a string."""
        return {
            name: category(row[name])
            for name, values in self.categorical.items()
            if not self.is_missing(row.get(name))
            and self._category_id(category(row[name]), dict.fromkeys(values, KNOWN)) == UNKNOWN
        }

    def is_missing(self, value: Any) -> bool:
        """Whether a cell has no value: None, NaN, or an empty text, as in a CSV file. In older schemas an empty text
        is an unknown category."""
        return is_missing(value) or (self.as_written and is_blank(value))

    def _category_id(self, value: str, known: dict[str, int]) -> int:
        """The id of a category."""
        if value not in known and not self.as_written:
            value = by_number(value, known) or value
        return known.get(value, UNKNOWN)

    def to_dict(self) -> dict[str, Any]:
        """The form for JSON; keys that older schemas lack are left out if they have their default."""
        values = {name: value for name, value in asdict(self).items() if value not in (None, False)}
        return {name: value for name, value in values.items() if value or name not in ("dates", "marks")}


class TableError(ValueError):
    """A value that a table cannot have: its column, and the reason."""

    def __init__(self, column: str, reason: str):
        super().__init__(f"Column {column!r}: {reason}")
        self.column, self.reason = column, reason


def is_missing(value: Any) -> bool:
    """Whether a value is missing: None, NaN, or the missing value of pandas."""
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (is_number(value) and value != value)


def is_text(value: Any) -> bool:
    """Whether a value is a text."""
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    """Whether a value is a number, also of numpy, and not a boolean."""
    return isinstance(value, (Real, Decimal)) and not isinstance(value, bool)


def holds_numbers(name: str, values: list[Any], digits: bool = False) -> bool:
    """Whether a column is one of numbers, from its present values; see `TableSchema.fit`. With `digits`, strings of
    digits count as numbers too.

    Raises:
        ValueError: they are numbers that are formatted for people.
    """
    texts = Counter(value for value in values if isinstance(value, str))
    real = sum(is_number(value) for value in values)
    if real:
        spelled = sum(n for text, n in texts.items() if read_number(text) is not None and not is_code(text))
        return are_numbers(real + spelled, len(values) - real - spelled)
    if texts.total() < len(values):
        return False
    kind = kind_of_texts(texts)
    if kind == "written":
        example = next(text for text in texts if read_number(text) is None)
        raise ValueError(
            f"Column {name!r} of the table has numbers that are formatted for people, such as {example!r}: write them "
            "as 1234.5 without other marks, or name the column in category_columns if they are categories."
        )
    return kind == "numbers" or (digits and kind == "digits")


def format_of_values(name: str, values: list[Any], counts: Mapping[str, int], asked: str | None) -> str | None:
    """The format of a column of dates; None if its values are not dates. See `format_of_dates`."""
    typed = sum(map(is_date, values))
    if typed:
        return ISO if are_numbers(typed, len(values) - typed) else None
    return format_of_dates(name, counts, asked)


def as_number(value: Any, mark: str | None = None) -> float | None:
    """A number, or a text that spells one, as a Python number; None for anything else. For `mark` see
    `read_marked`."""
    if isinstance(value, str):
        return read_marked(value, mark)
    return as_float(value) if is_number(value) else None


def as_float(value: Any) -> float:
    """A number as a Python float; infinite if it is too large for that."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def category(value: Any) -> str:
    """A value of a column of categories as a string. Whole numbers get the same spelling as ints and as floats: a
    reader makes floats of a column with missing values."""
    if is_number(value) and math.isfinite(as_float(value)) and value == int(value):
        return str(int(value))
    return str(bool(value)) if isinstance(value, np.bool_) else str(value)
