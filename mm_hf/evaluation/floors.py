"""What a score must be held against: wrong pairs, and rows that lost a part."""

from collections.abc import Hashable, Sequence

import numpy as np


def derangement(items: Sequence[Hashable | None], seed: int) -> list[int]:
    """An order in which each row gets the item of another row, and its own item only where more than half of the rows
    share it.

    The rows are sorted by item, the items in an order drawn from the seed, and each row takes the item that stands as
    many rows further on as the most frequent item has. Every item comes as often as before. Rows without one keep
    that.

    Args:
        items: what each row has; equal ones are the same item, None is none.

    Returns:
        for each row the row whose item it gets.
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
    """Rows drawn to lose something, a share of them all: those of a smaller one are among those of a larger one."""
    order = np.random.default_rng(seed).permutation(count)
    return frozenset(order[: round(share * count)].tolist())
