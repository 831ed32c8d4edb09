# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Which numbers can be used for training: one rule for labels, weights, tables and time series. It is checked in
float32, the type in which losses and means are computed."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence


# Above this, squares and sums of inputs overflow in standardisation.
LARGEST = 1e30
# The largest distance from the mean, in deviations, that is kept. float16 ends at 65504.
FARTHEST = 1e4
# Labels and weights are part of the loss: the square of this, summed over a hundred rows, is still finite in float32.
LARGEST_IN_LOSS = 1e18

PLAIN = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)", re.ASCII | re.IGNORECASE)
CODE = re.compile(r"[+-]?0\d+", re.ASCII)  # the leading zeros of "007" show that it is a code, not a number
DIGITS = re.compile(r"[+-]?\d+", re.ASCII)
# Numbers as people write them: 1,234.50, 1 234,50, $5, 12 %. The meaning of the comma is not known yet.
WRITTEN = re.compile(
    r"[+-]?\s*[$€£¥]?[\s\u00a0]*[+-]?(\d{1,3}([,.' \u00a0\u202f]\d{3})+([.,]\d+)?|\d+([.,]\d+)?)"
    r"[\s\u00a0\u202f]*[%‰$€£¥]?",
    re.ASCII,
)
# By the decimal mark: numbers whose thousands may be separated by the other mark, by spaces or apostrophes.
GROUPS = r"[1-9]\d{{0,2}}(?P<parted>[{}' \u00a0\u202f])\d{{3}}(?:(?P=parted)\d{{3}})*"
MARKED = {
    mark: re.compile(rf"[+-]?(?:{GROUPS.format(other)}|\d+)(?:[{mark}]\d+)?", re.ASCII)
    for mark, other in ((",", "."), (".", ","))
}
UNITS = "%‰$€£¥"  # signs that all numbers of a column may have, before or after them: "12 %", "-$5"
MARKS = (*MARKED, *(mark + unit for mark in MARKED for unit in UNITS))  # the ways to read a column of such numbers


def read_number(text: str) -> float | None:
    """The number that a text spells in computer notation ("12", "-0.5", "1e3"); None for any other text.

    Formatted numbers ("1,234", "12 %", "$5") give None: their meaning depends on who wrote them.
    """
    text = text.strip()
    return float(text) if PLAIN.fullmatch(text) else None


def is_blank(value: object) -> bool:
    """Whether a value is an empty text, or one of spaces only."""
    return isinstance(value, str) and not value.strip()


def is_written_number(text: str) -> bool:
    """Whether a text is a number formatted for people, as "1,234", "12 %" or "$5"."""
    text = text.strip()
    return read_number(text) is None and WRITTEN.fullmatch(text) is not None


def is_number_of_people(text: str) -> bool:
    """Whether a text is a number, plain or formatted for people."""
    return read_number(text) is not None or is_written_number(text)


def unit_in(text: str) -> str:
    """The sign of a unit or currency in a number formatted for people, as "%" in "12 %"; else empty."""
    signs = [letter for letter in text if letter in UNITS]
    return signs[0] if len(signs) == 1 and WRITTEN.fullmatch(text.strip()) else ""


def without_unit(text: str, unit: str) -> str:
    """A number without the sign of this unit: "-5" for "-$5". A number with another sign is returned as it is."""
    return re.sub(r"^([+-]?)\s+", r"\1", text.replace(unit, "", 1).strip()) if unit_in(text) == unit else text


def read_marked(text: str, mark: str | None) -> float | None:
    """The number that a text spells if this mark, "," or ".", is the decimal mark: "1.402,15" with a comma. If the
    text is no such number, or the mark is None, see `read_number`. A mark may contain a unit: ".%" reads "12 %" as 12,
    and "12" as 12 too, because all numbers of a column have the same unit."""
    text = text.strip()
    if mark is not None and len(mark) > 1:
        text, mark = without_unit(text, mark[1:]), mark[:1]
    if mark is None or not MARKED[mark].fullmatch(text):
        return read_number(text)
    whole, _, decimals = text.partition(mark)
    return float(f"{re.sub(r'[^0-9+-]', '', whole)}.{decimals or 0}")


class AmbiguousNumbersError(ValueError):
    """Numbers from which one cannot see whether a mark separates thousands or is the decimal mark."""


def unit_of(counts: Mapping[str, int]) -> str:
    """The sign of the unit that most texts of a column have; empty if they have none, or several. For the arguments
    see `mark_of`."""
    units: Counter[str] = Counter()
    for text, count in counts.items():
        units[unit_in(text)] += 0 if is_blank(text) else count
    plain = units.pop("", 0)
    unit, signed = next(iter(units.items())) if len(units) == 1 else ("", 0)
    return unit if signed > plain else ""


class SeveralRefusedError(ValueError):
    """Several columns were refused: one error lists them all, so that they can be fixed together."""


def together(refused: Sequence[ValueError]) -> ValueError:
    """Joins the errors of several columns into one, with a line for each; a single error is returned as it is."""
    lines = list(dict.fromkeys(line for error in refused for line in lines_of(error)))
    if len(lines) == 1:
        return refused[0]
    return SeveralRefusedError("\n".join([f"{len(lines)} columns cannot be read as they are:", *lines]))


def lines_of(error: ValueError) -> list[str]:
    """The refusals that an error contains, see `together`."""
    return str(error).splitlines()[1:] if isinstance(error, SeveralRefusedError) else [f"  {error}"]


def mark_of(name: str, counts: Mapping[str, int], asked: str | None = None) -> str | None:
    """The decimal mark of the numbers of a column, if they are formatted for people, followed by the sign of their
    unit, if they have one; see `read_marked`.

    Args:
        name: the column's name, for messages.
        counts: how often each text occurs.
        asked: "," or ".", to use if no value decides it.

    Returns:
        one of `MARKS`; None if they are plain numbers, or not numbers, see `are_numbers`.

    Raises:
        AmbiguousNumbersError: all are like "1,402", and `asked` is not given.
    """
    if unit := unit_of(counts):
        bare: Counter[str] = Counter()
        for text, count in counts.items():
            bare[without_unit(text, unit)] += count
        numbers = sum(count for text, count in bare.items() if read_number(text) is not None)
        others = sum(count for text, count in bare.items() if not is_blank(text)) - numbers
        mark = mark_of(name, bare, asked) or ("." if are_numbers(numbers, others) else None)
        return None if mark is None else mark + unit
    seen = {",": 0, ".": 0, "either": 0, "both": 0, "others": 0}
    plain, example = {True: 0, False: 0}, ""
    for text, count in counts.items():
        if is_blank(text):
            continue
        if is_code(text):
            return None
        values = [read_marked(text, mark) for mark in MARKED]
        number = read_number(text)
        plain[number is not None] += count
        if values[0] == values[1]:  # "72.5" is no number with a decimal comma, so it is read as it is
            dots = number is not None and "." in text
            seen["others" if values[0] is None else "." if dots else "both"] += count
        elif None in values:
            seen["," if values[1] is None else "."] += count
        else:
            seen["either"] += count
            example = example or text.strip()
    either = seen["either"] + seen["both"]
    for mark, other in ((",", "."), (".", ",")):
        if seen[mark] > seen[other] and are_numbers(seen[mark] + either, seen["others"] + seen[other]):
            return mark if plain[False] else None
    if seen[","] or seen["."] or not are_numbers(either, seen["others"]):
        return None
    if are_numbers(plain[True], plain[False]):  # the few others are bad values, unless `asked` explains them
        return asked if plain[False] or asked == "," else None
    if not seen["either"]:
        return "."
    if asked is None:
        values = [f"{read_marked(example, mark):g}" for mark in MARKED]
        raise AmbiguousNumbersError(
            f"Column {name!r} has numbers such as {example!r}: is it {values[0]} or {values[1]}? No other value "
            "decides it. Set --decimal , or --decimal . (the decimal mark), or write the numbers as 1234.5."
        )
    return asked


def is_code(text: str) -> bool:
    """Whether a text is digits with leading zeros, as "007": a code, not a number."""
    return CODE.fullmatch(text.strip()) is not None


def by_number(text: str, names: Collection[str]) -> str | None:
    """Finds a number among names that were numbers once: "007" and "7.0" match the name "7"; None if there is no
    match. If some of the names are codes like "007" themselves, "7" matches no name."""
    number = read_number(text)
    if number is None or abs(number) >= 2**53 or number != int(number) or any(map(is_code, names)):
        return None
    name = str(int(number))
    return name if name in names else None


def are_numbers(numbers: int, others: int) -> bool:
    """Whether a column is one of numbers, given the counts of numbers and of other values. The others count as bad
    rows: they may be one in twenty, or a single one among at least five values."""
    return others <= max(0.05 * (numbers + others), 1) and numbers >= 4 * others and numbers > 0


def kind_of_texts(counts: Mapping[str, int]) -> str:
    """The kind of the texts of a column, from how often each occurs.

    Returns:
        "digits" if all are whole numbers ("12"); "numbers" if they are numbers except a few bad ones, see
        `are_numbers`; "written" if they are numbers formatted for people; "names" for anything else, also for codes
        with leading zeros.
    """
    numbers = written = others = 0
    whole = True
    for text, count in counts.items():
        if is_code(text):
            return "names"
        number = read_number(text)
        if number is not None:
            numbers += count
            whole &= DIGITS.fullmatch(text.strip()) is not None
        elif is_written_number(text):
            written += count
        else:
            others += count
    if are_numbers(numbers, written + others):
        return "digits" if whole and not written + others else "numbers"
    return "written" if are_numbers(numbers + written, others) else "names"
