"""Counts values that a model does not know, such as categories that no training row has, and describes them."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .modalities import READERS


if TYPE_CHECKING:
    from .collator import MultimodalCollator


Unseen = dict[str, list[Any]]  # by column: how many rows have an unknown value, and the first such value


def unseen_values(rows: Iterable[Mapping[str, Any]], collator: "MultimodalCollator") -> Unseen:
    """Counts the values of rows (as `Rows` gives them) that the model of a collator does not know."""
    counts: Unseen = {}
    for name in collator.parts:
        reader = READERS[name]
        if not reader.knows_values or not reader.data_columns(collator.columns):
            continue
        for row in rows:
            for column, value in reader.unseen(dict(row), collator).items():
                counts.setdefault(column, [0, value])[0] += 1
    return counts


def join_unseen(counts: Unseen, more: Unseen):
    """Adds the counts of more rows."""
    for column, (count, value) in more.items():
        counts.setdefault(column, [0, value])[0] += count


def unseen_lines(counts: Unseen, rows: int) -> list[str]:
    """The counts in words; `rows` is the number of all rows."""
    return [
        f"{column}: {count:,} of {rows:,} rows have a value not seen in training, such as {value!r:.80}"
        for column, (count, value) in sorted(counts.items())
    ]
