# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Dates and times of a table: how they are written, and their parts as numbers."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timezone
from itertools import product
from typing import Any

import numpy as np

from .config_checks import has_finite, shown
from .finite import are_numbers, is_blank, read_number


ISO = "ISO 8601"  # 2024-06-15, 2024-06-15 08:30:00, 2024-06-15T08:30:00.5+02:00
ISO_FORM = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2})?(?:[.,](\d{1,9}))?(?: ?(Z|[+-]\d{2}(?::?\d{2})?))?)?", re.ASCII
)
# All else that is read, as strptime has it. Of two where day and month change places the values tell which it is.
DAYS = (
    *("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%m-%d-%Y", "%d-%m-%Y", "%Y.%m.%d"),
    *("%d.%m.%y", "%m/%d/%y", "%d/%m/%y"),
    *("%d %B %Y", "%d %b %Y", "%B %d, %Y", "%b %d, %Y", "%B %d %Y", "%b %d %Y", "%d-%b-%Y", "%d-%b-%y", "%d. %B %Y"),
    *("%A, %d %B %Y", "%a, %d %b %Y", "%A, %B %d, %Y"),
)
TIMES = ("", "%H:%M:%S", "%H:%M", "%I:%M %p", "%I:%M:%S %p", "%H:%M:%S.%f", "%H:%M:%S %z")
FORMATS = tuple(f"{day} {time}".strip() for time, day in product(TIMES, DAYS))
PADDED = re.compile(r"\d\d[./]\d\d[./]\d\d(?!\d)", re.ASCII)  # with two digits of the year; "1.2.10" is a version
LONGEST = 40  # letters of a date
LOOKED_AT = 50  # distinct texts by which a format is chosen among all
DAY = 24 * 60 * 60
YEAR = 365.25
OF_A_DATE, OF_A_TIME = 5, 7  # numbers that a date becomes, and one with a time of day


class AmbiguousDatesError(ValueError):
    """Dates of which nobody can know which number is the day."""


@dataclass
class DateColumn:
    """What a column of dates is like.

    Args:
        format: how texts of it are written: `ISO`, or as strptime has it. ISO is understood beside it.
        mean, std: of its training values, in days since 1970.
        hours: some of these have a time of day.
    """

    format: str
    mean: float
    std: float
    hours: bool = False

    @property
    def size(self) -> int:
        """Numbers that a date becomes."""
        return OF_A_TIME if self.hours else OF_A_DATE

    @classmethod
    def of(cls, name: str, value: Any) -> "DateColumn":
        """From what JSON keeps; `name` of the column, for messages.

        Raises:
            ValueError: it is none.
        """
        if isinstance(value, DateColumn):
            return value
        if not isinstance(value, Mapping) or not {"format", "mean", "std"} <= set(value) <= set(cls("", 0, 1).kept()):
            raise ValueError(
                f"table_schema: column {name!r:.80} of dates needs format, mean, std and hours, got {shown(value)}."
            )
        scale = [value["mean"], value["std"]]
        if value["format"] != ISO and value["format"] not in FORMATS:
            raise ValueError(
                f"table_schema: column {name!r:.80} has the date format {shown(value['format'])}; known are {ISO!r} "
                f"and what mm_hf.models.dates lists, such as {FORMATS[0]!r}."
            )
        if not has_finite(scale, 2) or not scale[1] > 0 or not isinstance(value.get("hours", False), bool):
            raise ValueError(
                f"table_schema: column {name!r:.80} of dates needs a finite mean, a deviation above 0 and hours true "
                f"or false, got {shown(value)}."
            )
        return cls(**value)

    @classmethod
    def fit(cls, dates: Sequence[datetime], format: str) -> "DateColumn":
        """What the dates of the training rows, at least one, are like."""
        days = np.array([days_of(value) for value in dates])
        hours = any((value.hour, value.minute, value.second, value.microsecond) != (0, 0, 0, 0) for value in dates)
        return cls(format, float(days.mean()), float(days.std()) or 1.0, hours)

    def read(self, value: Any) -> datetime | None:
        """See `read_date`."""
        return read_date(value, self.format)

    def numbers(self, value: datetime) -> list[float]:
        """The parts of a date, `size` of them: how far it is from the mean in deviations; where in the year, in the
        week and, with `hours`, in the day it is, as sine and cosine. These are of the clock where it was taken."""
        day = (value.hour * 60 * 60 + value.minute * 60 + value.second) / DAY
        turns = [(value.timetuple().tm_yday - 1 + day) / YEAR, (value.weekday() + day) / 7]
        turns += [day] if self.hours else []
        angles = [2 * math.pi * turn for turn in turns]
        parts = [part for angle in angles for part in (math.sin(angle), math.cos(angle))]
        return [(days_of(value) - self.mean) / self.std, *parts]

    def kept(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def days_of(value: datetime) -> float:
    """Days since 1970; a time without a zone is taken for one of Greenwich."""
    known = value if value.tzinfo is not None else value.replace(tzinfo=timezone.utc)
    return known.timestamp() / DAY


def read_date(value: Any, format: str = ISO) -> datetime | None:
    """A date or time, or a text that is one in this format or in ISO 8601; None for anything else."""
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, np.datetime64):
        exact = value.astype("datetime64[us]").item()
        return exact if isinstance(exact, datetime) else None
    if not isinstance(value, str) or len(value) > LONGEST:
        return None
    text = value.strip()
    if (iso := ISO_FORM.fullmatch(text)) is not None:
        day, minute, second, fraction, zone = iso.groups()
        zone = {None: "", "Z": "+00:00"}.get(zone, f"{zone[:3]}:{zone[3:].strip(':') or '00'}" if zone else "")
        try:
            return datetime.fromisoformat(
                day + (f"T{minute}{second or ':00'}.{(fraction or '').ljust(6, '0')[:6]}{zone}" if minute else "")
            )
        except ValueError:
            return None
    if format == ISO or ("%y" in format and "b" not in format and not PADDED.match(text)):
        return None
    try:
        return datetime.strptime(text, format)
    except ValueError:
        return None


def is_date(value: Any) -> bool:
    """Whether a value is a date by its type, and no text."""
    return isinstance(value, (date, np.datetime64))


def format_of_dates(name: str, counts: Mapping[str, int], asked: str | None = None) -> str | None:
    """How the texts of a column are written as dates, but for a few bad ones (see `are_numbers`); None where they are
    none.

    Args:
        name: of the column, for messages.
        counts: how often each text comes.
        asked: one of two formats where both fit.

    Raises:
        AmbiguousDatesError: day and month may change places in all of them.
    """
    texts = {text: count for text, count in counts.items() if not is_blank(text)}
    sample = [
        text for text in texts if len(text) <= LONGEST and read_number(text) is None and any(map(str.isdigit, text))
    ]
    if not are_numbers(sum(texts[text] for text in sample), sum(texts.values()) - sum(texts[text] for text in sample)):
        return None
    shown_first = sample[:LOOKED_AT]
    asked_first = [asked] if asked else []
    candidates = [each for each in (ISO, *FORMATS) if any(read_date(text, each) is not None for text in shown_first)]
    fits = {each: sum(texts[text] for text in sample if read_date(text, each) is not None) for each in candidates}
    most = max(fits.values(), default=0)
    if not are_numbers(most, sum(texts.values()) - most):
        return None
    best = [each for each in candidates if fits[each] == most]
    if ISO in best:
        return ISO
    for each in asked_first:
        if each in best:
            return each
    for other in best[1:]:
        example = next((text for text in sample if read_date(text, best[0]) != read_date(text, other)), None)
        if example is not None:
            one, two = (f"{read_date(example, each):%Y-%m-%d}" for each in (best[0], other))
            raise AmbiguousDatesError(
                f"Column {name!r} of the table has dates such as {example!r}: is it {one} ({best[0]}) or {two} "
                f"({other})? No row tells. Say --date_format {best[0]!r} or {other!r}, write them as {one}, or name "
                "the column in category_columns."
            )
    return best[0]
