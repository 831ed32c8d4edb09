"""Pairs of a picture and a name, half of them right: does the text say what the picture shows?

    mm_hf prepare mismatch data/openmoji data/mismatch

It is made from the output of `mm_hf prepare openmoji`. Every emoji occurs twice: with its own name, and with the name
of another emoji of the same part. For half of the wrong pairs the other emoji is of the same category, for the rest of
another category, as `kind` says. Every picture and every name is right as often as wrong. So neither the picture nor
the name alone gives the answer: a model must compare the two.
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

Made by `mm_hf prepare mismatch` of mm_hf (seed {seed}) from its OpenMoji data set, with the same licences:
pictures CC-BY-SA-4.0 (OpenMoji), names BSD-3-Clause (`emoji`). Half of the {rows} rows have the picture's own name,
the other half the name of another emoji of the same part. Each picture and each name is right as often as wrong.
"""


def exchanged(categories: list[int], seed: int) -> tuple[list[int], list[str]]:
    """Chooses for each row another row, and the row gets the name of that other row. Every row is chosen once.

    Returns:
        the other rows, and the kind of each exchange. Half of the rows, drawn at random, exchange names within their
        category. The others, and rows without a partner in their category, exchange names among all of them.
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
    # Sorted by category and shifted by half their number, no row meets its own category, unless more than half have
    # it.
    ring = sorted((row for row in rows if row not in taken), key=lambda row: categories[row])
    middle = len(ring) // 2
    taken.update(zip(ring, ring[middle:] + ring[:middle]))
    order = [taken[row] for row in range(len(categories))]
    if any(row == other for row, other in enumerate(order)):
        raise PreparationError(f"{len(categories)} rows are too few to exchange their names")
    same = [categories[row] == categories[other] for row, other in enumerate(order)]
    return order, [KINDS[1] if alike else KINDS[2] for alike in same]


def pairs(part: Dataset, seed: int) -> Dataset:
    """The rows with their own names, followed by the rows with wrong names."""
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
