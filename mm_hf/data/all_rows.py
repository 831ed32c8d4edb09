"""The rows of all parts of a data set as if they were one."""

from collections import Counter
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from .rows import SOURCE_ROW, Rows


PART = "_part"  # the column with the name of the part that a row comes from


class AllRows(Rows):
    """The rows of several parts, one part after the other. Each row keeps the name of its part and its number there.

    Args:
        parts: the parts by name.
        most: how many rows to draw at random; None: use all rows.
        seed: the seed of this draw.
    """

    def __init__(self, parts: dict[str, Dataset], most: int | None = None, seed: int = 0):
        marked = [
            part.add_column(SOURCE_ROW, np.arange(len(part))).add_column(PART, [name] * len(part))
            for name, part in parts.items()
        ]
        rows = concatenate_datasets(marked)
        if most is not None and most < len(rows):
            rows = rows.select(np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False)))
        super().__init__(rows, "all parts")

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [{**row, "split": f"{self.split}, here {row[PART]}"} for row in super().__getitems__(indices)]

    def counts(self) -> dict[str, int]:
        """The number of rows of each part."""
        return dict(Counter(self.dataset[PART]))


def rows_of_all(parts: dict[str, Dataset], most: int | None = None, seed: int = 0) -> Rows:
    """See `AllRows`. If there is only one part and nothing is drawn, gives the plain `Rows` of that part."""
    if len(parts) == 1 and most is None:
        (name,) = parts
        return Rows(parts[name], name)
    return AllRows(parts, most, seed)
