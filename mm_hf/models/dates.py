# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Dates and times in a table: their formats, and their conversion to numbers."""

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
# All other formats that are read, in the notation of strptime. If day and month can be swapped, the values decide.
DAYS = (
    *("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%m-%d-%Y", "%d-%m-%Y", "%Y.%m.%d"),
    *("%d.%m.%y", "%m/%d/%y", "%d/%m/%y"),
    *("%d %B %Y", "%d %b %Y", "%B %d, %Y", "%b %d, %Y", "%B %d %Y", "%b %d %Y", "%d-%b-%Y", "%d-%b-%y", "%d. %B %Y"),
    *("%A, %d %B %Y", "%a, %d %b %Y", "%A, %B %d, %Y"),
)
TIMES = ("", "%H:%M:%S", "%H:%M", "%I:%M %p", "%I:%M:%S %p", "%H:%M:%S.%f", "%H:%M:%S %z")
FORMATS = tuple(f"{day} {time}".strip() for time, day in product(TIMES, DAYS))
PADDED = re.compile(r"\d\d[./]\d\d[./]\d\d(?!\d)", re.ASCII)  # a year of two digits; "1.2.10" is a version
LONGEST = 40  # characters of the longest date
LOOKED_AT = 50  # how many distinct texts are used to choose a format
DAY = 24 * 60 * 60
YEAR = 365.25
OF_A_DATE, OF_A_TIME = 5, 7  # how many numbers represent a date, and a date with a time of day


class AmbiguousDatesError(ValueError):
    """Dates from which one cannot see which number is the day."""


@dataclass
class DateColumn:
    """The properties of a column of dates.

    Args:
        format: the format of its texts: `ISO`, or in the notation of strptime. ISO is always understood too.
        mean, std: of the training values, in days since 1970.
        hours: whether some training values have a time of day.
    """

    format: str
    mean: float
    std: float
    hours: bool = False

    @property
    def size(self) -> int:
        """How many numbers represent a date."""
        return OF_A_TIME if self.hours else OF_A_DATE

    @classmethod
    def of(cls, name: str, value: Any) -> "DateColumn":
        """Reads the JSON form; `name` is the column's, for messages.

        Raises:
            ValueError: it is not a valid JSON form.
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
                f"table_schema: column {name!r:.80} has the date format {shown(value['format'])}; allowed are {ISO!r} "
                f"and the formats of mm_hf.models.dates, such as {FORMATS[0]!r}."
            )
        if not has_finite(scale, 2) or not scale[1] > 0 or not isinstance(value.get("hours", False), bool):
            raise ValueError(
                f"table_schema: column {name!r:.80} of dates needs a finite mean, a deviation above 0 and hours true "
                f"or false, got {shown(value)}."
            )
        return cls(**value)

    @classmethod
    def fit(cls, dates: Sequence[datetime], format: str) -> "DateColumn":
        """Learns the properties from the dates of the training rows, at least one."""
        days = np.array([days_of(value) for value in dates])
        hours = any((value.hour, value.minute, value.second, value.microsecond) != (0, 0, 0, 0) for value in dates)
        return cls(format, float(days.mean()), float(days.std()) or 1.0, hours)

    def read(self, value: Any) -> datetime | None:
        """See `read_date`."""
        return read_date(value, self.format)

    def numbers(self, value: datetime) -> list[float]:
        """The numbers of a date, `size` of them: its distance from the mean in standard deviations; then its place in
        the year, in the week and, with `hours`, in the day, each as sine and cosine, in the date's own time zone."""
        day = (value.hour * 60 * 60 + value.minute * 60 + value.second) / DAY
        turns = [(value.timetuple().tm_yday - 1 + day) / YEAR, (value.weekday() + day) / 7]
        turns += [day] if self.hours else []
        angles = [2 * math.pi * turn for turn in turns]
        parts = [part for angle in angles for part in (math.sin(angle), math.cos(angle))]
        return [(days_of(value) - self.mean) / self.std, *parts]

    def kept(self) -> dict[str, Any]:
        """The form for JSON."""
        return asdict(self)


def days_of(value: datetime) -> float:
    """Days since 1970; a time without a zone is read as UTC."""
    known = value if value.tzinfo is not None else value.replace(tzinfo=timezone.utc)
    return known.timestamp() / DAY


def read_date(value: Any, format: str = ISO) -> datetime | None:
    """Reads a date or time, or a text in this format or in ISO 8601; None for anything else."""
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
    """Whether a value is a date by its type, not a text."""
    return isinstance(value, (date, np.datetime64))


def format_of_dates(name: str, counts: Mapping[str, int], asked: str | None = None) -> str | None:
    """The format of the dates in a column of texts, in which a few may be bad (see `are_numbers`); None if they are
    not dates.

    Args:
        name: the column's name, for messages.
        counts: how often each text occurs.
        asked: the format to use if two fit.

    Raises:
        AmbiguousDatesError: day and month can be swapped in every text.
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
                f"({other})? No row decides it. Set --date_format {best[0]!r} or {other!r}, write the dates as {one}, "
                "or name the column in category_columns."
            )
    return best[0]
