"""Cuts validation and test from a training part, so that no picture or sound stands on both sides."""

import hashlib
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from datasets import Dataset

from .rows import Columns


def group_rows(split: Dataset, columns: Columns, group_column: str | None = None) -> list[list[int]]:
    """Rows that must stay together, as lists of row numbers in the order of their first rows.

    Rows are one group when they share a value of `group_column`, else any sound or picture (its bytes or path, for
    pictures `columns.image_id` where there is one); this is transitive. A row without any is a group of its own.
    """
    keyed = columns.files
    if group_column:
        keyed = [group_column]
    elif columns.images and columns.image_id:
        keyed = [columns.image_id, *(column for column in keyed if column not in columns.images)]
    parents = list(range(len(split)))

    def root_of(row: int) -> int:
        while parents[row] != row:
            parents[row] = row = parents[parents[row]]
        return row

    first: dict[Any, int] = {}
    if keyed:
        row = 0
        for batch in split.select_columns(keyed).iter(batch_size=1000):
            for values in zip(*(batch[column] for column in keyed)):
                for key in group_keys(values):
                    one, other = root_of(row), root_of(first.setdefault(key, row))
                    parents[max(one, other)] = min(one, other)
                row += 1
    groups: dict[int, list[int]] = {}
    for row in range(len(split)):
        groups.setdefault(root_of(row), []).append(row)
    return list(groups.values())


def group_keys(values: Iterable[Any]) -> list[Any]:
    """What rows may share: pictures and sounds by their bytes or path, other values as they are; absent ones are left
    out."""
    keys = []
    for value in values:
        if isinstance(value, list):  # the pictures of a video
            value = tuple(group_keys(value)) or None
        if isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
            value = hashlib.sha256(content).digest() if content else os.path.normpath(path) if path else None
        if value is not None:
            keys.append(value)
    return keys


def cut(split: Dataset, groups: list[list[int]], fractions: dict[str, float], seed: int) -> dict[str, Dataset]:
    """Cuts parts from train by whole groups, drawn at random.

    Each part takes groups until it has its fraction of the rows, and passes over those that would be too many; one
    that would stay empty takes the smallest group left.

    Returns:
        train, which is the rest, and the parts; rows keep their order.

    Raises:
        ValueError: too few groups for every part to have one.
    """
    if len(groups) <= len(fractions):
        raise ValueError(
            f"{' and '.join(fractions)} cannot be cut from {len(split)} training rows in {len(groups)} group(s): rows "
            "that share a picture, a sound or a group stay together."
        )
    left = [groups[place] for place in np.random.default_rng(seed).permutation(len(groups))]
    parts: dict[str, list[int]] = {}
    for number, (part, fraction) in enumerate(fractions.items()):
        spare = len(fractions) - number  # groups that the later parts and train need
        wanted = round(fraction * len(split))
        rows: list[int] = []
        rest: list[list[int]] = []
        for place, group in enumerate(left):
            fits = len(rows) + len(group) <= wanted and len(left) - place + len(rest) > spare
            (rows.extend if fits else rest.append)(group)
        if not rows:
            smallest = min(range(len(rest)), key=lambda place: len(rest[place]))
            rows = rest.pop(smallest)
        parts[part], left = rows, rest
    parts = {"train": [row for group in left for row in group], **parts}
    return {part: split.select(sorted(rows)) for part, rows in parts.items()}
