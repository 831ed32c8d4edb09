# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Which numbers can be trained on: one rule for labels, weights, tables and time series, judged in float32, in which
losses and means are worked out."""

import re
from collections.abc import Collection, Mapping


# Above, squares and sums of inputs overflow while they are standardised.
LARGEST = 1e30
# Deviations from the mean that are told apart. What is trained in float16 ends at 65504.
FARTHEST = 1e4
# Labels and weights enter the loss: the square of this, summed over a hundred rows, is still finite in float32.
LARGEST_IN_LOSS = 1e18

PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)", re.ASCII | re.IGNORECASE)
CODE = re.compile(r"[+-]?0\d+", re.ASCII)  # the zeros of "007" say that it is a name, and no number
DIGITS = re.compile(r"[+-]?\d+", re.ASCII)
# Numbers as people write them: 1,234.50, 1 234,50, $5, 12 %. What the comma means, nobody can know.
WRITTEN = re.compile(
    r"[+-]?\s*[$€£¥]?\s*[+-]?(\d{1,3}([,.' \u00a0\u202f]\d{3})+([.,]\d+)?|\d+([.,]\d+)?)\s*[%‰$€£¥]?", re.ASCII
)


def read_number(text: str) -> float | None:
    """The number that a text spells as a computer does ("12", "-0.5", "1e3"); None for any other text.

    Formatted numbers ("1,234", "12 %", "$5") are none: what they mean depends on who wrote them.
    """
    text = text.strip()
    return float(text) if PLAIN.fullmatch(text) else None


def is_written_number(text: str) -> bool:
    """Whether a text is a number formatted for people, as "1,234", "12 %" or "$5"."""
    text = text.strip()
    return read_number(text) is None and WRITTEN.fullmatch(text) is not None


def is_code(text: str) -> bool:
    """Whether a text is digits with leading zeros, as "007": the name of something, and no number."""
    return CODE.fullmatch(text.strip()) is not None


def by_number(text: str, names: Collection[str]) -> str | None:
    """Finds digits among names that were numbers once: "007" and "7.0" are "7" there; None where they are not. Where
    some of the names are codes themselves, "7" is no "007" and nothing is found."""
    number = read_number(text)
    if number is None or abs(number) >= 2**53 or number != int(number) or any(map(is_code, names)):
        return None
    name = str(int(number))
    return name if name in names else None


def are_numbers(numbers: int, others: int) -> bool:
    """Whether a column of so many numbers and others is one of numbers: the others, which then are bad rows, may be
    one in twenty, or a single one among at least five values."""
    return others <= max(0.05 * (numbers + others), 1) and numbers >= 4 * others and numbers > 0


def kind_of_texts(counts: Mapping[str, int]) -> str:
    """What the texts of a column are, by how often each comes.

    Returns:
        "digits", where all are whole numbers ("12"); "numbers", where they are numbers but for a few bad ones, see
        `are_numbers`; "written", where they are numbers formatted for people; "names", for anything else, codes with
        leading zeros among them.
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
