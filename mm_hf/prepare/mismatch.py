"""Pairs of picture and name, half of them right: does the text say what the picture shows?

    mm_hf prepare mismatch data/openmoji data/mismatch

Made from what `mm_hf prepare openmoji` wrote. Every emoji is there twice, with its own name and with that of
another one of its part: of the same category where `kind` says so (half of them), else of another category. Every
picture and every name is right as often as wrong, so that neither alone tells anything: whoever answers has compared
the two.
"""

import random
from collections.abc import Sequence

from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets

from .common import PreparationError, build_dataset


ANSWERS = ("match", "mismatch")
KINDS = ("own", "same category", "other category")

CARD = """---
license: cc-by-sa-4.0
---

# OpenMoji, right and wrong names

Made by `mm_hf prepare mismatch` of mm_hf (seed {seed}) from its OpenMoji data set, whose licences hold:
pictures CC-BY-SA-4.0 (OpenMoji), names BSD-3-Clause (`emoji`). Of {rows} rows one half has the picture's own name, the
other that of another emoji of the same part; each picture and each name is right as often as wrong.
"""


def exchanged(categories: list[int], seed: int) -> tuple[list[int], list[str]]:
    """For each row another one to take the name of: every row is taken once.

    Returns:
        the rows, and the kind of each exchange. Half of the rows, drawn at random, exchange names in their category;
        the others, and those whose category has no partner, go round among all.
    """
    draw = random.Random(seed)
    rows = list(range(len(categories)))
    draw.shuffle(rows)
    taken: dict[int, int] = {}
    within = rows[: len(rows) // 2]
    for category in sorted({categories[row] for row in within}):
        ring = [row for row in within if categories[row] == category]
        if len(ring) > 1:
            taken.update(zip(ring, ring[1:] + ring[:1]))
    # Ordered by category and turned by half their number, none meets its own category unless that is over a half.
    ring = sorted((row for row in rows if row not in taken), key=lambda row: categories[row])
    middle = len(ring) // 2
    taken.update(zip(ring, ring[middle:] + ring[:middle]))
    order = [taken[row] for row in range(len(categories))]
    if any(row == other for row, other in enumerate(order)):
        raise PreparationError(f"{len(categories)} rows are too few to exchange their names")
    same = [categories[row] == categories[other] for row, other in enumerate(order)]
    return order, [KINDS[1] if alike else KINDS[2] for alike in same]


def pairs(part: Dataset, seed: int) -> Dataset:
    """The rows with their own names, then with those of others."""
    order, kinds = exchanged(part["category"][:], seed)
    part = part.select_columns(["image", "name", "category", "row_id"])
    names = part["name"][:]
    wrong = part.remove_columns("name").add_column("name", [names[other] for other in order])
    both = concatenate_datasets([part, wrong.select_columns(part.column_names)])
    both = both.add_column("answer", [ANSWERS[0]] * len(part) + [ANSWERS[1]] * len(part))
    both = both.add_column("kind", [KINDS[0]] * len(part) + kinds)
    return both.cast_column("answer", ClassLabel(names=list(ANSWERS)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""

    def build(parts: DatasetDict, seed: int) -> DatasetDict:
        return DatasetDict({name: pairs(part, seed) for name, part in parts.items()})

    build_dataset("mismatch", __doc__, "openmoji", build, CARD, arguments)
