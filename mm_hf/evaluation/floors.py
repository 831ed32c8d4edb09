"""Changes rows for floors (baselines): wrong pairs, and rows that lost a part."""

from collections.abc import Hashable, Sequence

import numpy as np


def derangement(items: Sequence[Hashable | None], seed: int) -> list[int]:
    """An order in which each row gets the item of another row. A row gets its own item only if more than half of the
    rows have this item.

    The rows are sorted by item, with the items in random order. Let M be the number of rows with the most frequent
    item. Each row takes the item of the row that is M places further. So every item occurs as often as before. Rows
    without an item stay without.

    Args:
        items: the item of each row. Equal values are the same item, None is no item.
        seed: the seed of the random order.

    Returns:
        for each row, the row from which it gets its item.
    """
    generator = np.random.default_rng(seed)
    by_item: dict[Hashable, list[int]] = {}
    for row in generator.permutation(len(items)).tolist():
        if items[row] is not None:
            by_item.setdefault(items[row], []).append(row)
    rows = [row for group in by_item.values() for row in group]
    shift = max(map(len, by_item.values()), default=0)
    order = list(range(len(items)))
    for place, row in enumerate(rows):
        order[row] = rows[(place + shift) % len(rows)]
    return order


def rows_without(count: int, share: float, seed: int | Sequence[int]) -> frozenset[int]:
    """Rows that lose something, a random share of all rows. Rows of a smaller share are also in a larger share."""
    order = np.random.default_rng(seed).permutation(count)
    return frozenset(order[: round(share * count)].tolist())
