"""Splits validation and test off from a training part, so that no picture or sound is in two parts."""

import hashlib
import os
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from .rows import SOURCE_ROW, BadRowError, Columns


MAX_STRATA, TENTHS = 100, 10  # most classes that folds balance; number of bins for numbers


def group_rows(split: Dataset, columns: Columns, group_column: str | None = None) -> list[list[int]]:
    """Rows that must stay together, as lists of row numbers in the order of their first rows.

    Rows are in one group if they share a value of `group_column`. Without `group_column`, they are if they share any
    sound or picture (by its bytes or path; pictures by `columns.image_id`, if there is one). If A shares with B and B
    with C, all three are in one group. A row without any of these is a group by itself.
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
    """The values that rows may share: pictures and sounds by their bytes or path, other values as they are. Absent
    values are left out."""
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


def times_of(split: Dataset, column: str, bad: list[BadRowError] | None = None) -> np.ndarray:
    """The times of rows as numbers, `(N,)` float64. The column holds dates, texts that are dates, or numbers.

    Args:
        split: the rows.
        column: the column of the times.
        bad: collects rows without a time, which get NaN; None: the first of them raises.

    Raises:
        ValueError: a row has no time; a text is not a time; or it is ambiguous whether the day or the month comes
            first.
    """
    values = pd.Series(split[column][:])
    numeric = pd.api.types.is_numeric_dtype(values)
    times = values.astype(float) if numeric else read_times(values, column)
    for place in np.flatnonzero(times.isna()).tolist():
        if bad is None:
            raise ValueError(
                f"time_column is {column!r}, but row {place} has {values[place]!r} there, which is not a time. To "
                "leave such rows out and list them, use --on_error skip."
            )
        row = {"split": "train", "row_id": place, SOURCE_ROW: place}
        bad.append(BadRowError(row, column, f"the split needs a time here, got {values[place]!r:.80}"))
    return times.to_numpy(dtype=float)


def read_times(values: pd.Series, column: str) -> pd.Series:
    """Times as numbers, NaN for values that are not times. For arguments and errors see `times_of`."""
    parted = values.astype(str).str.extract(r"^\s*(\d{1,2})[-/](\d{1,2})[-/]\d{4}").dropna().astype(int)
    days = [bool((parted[place] > 12).any()) for place in (0, 1)]
    if len(parted) and days[0] == days[1]:
        raise ValueError(
            f"time_column is {column!r}, and its values, such as {values[parted.index[0]]!r}, do not show whether the "
            "day or the month comes first: write them as 2025-12-31."
        )
    dots = bool(values.astype(str).str.match(r"\s*\d{1,2}\.\d{1,2}\.\d{4}").any())
    read = pd.to_datetime(values, format="mixed", dayfirst=dots or days[0], errors="coerce", utc=True)
    return (read - pd.Timestamp(0, tz="UTC")).dt.total_seconds()


def cut_by_time(split: Dataset, times: np.ndarray, fractions: dict[str, float]) -> dict[str, Dataset]:
    """Splits parts off from train by time. The test part is the latest. Rows with the same time stay together.

    Args:
        split: the rows of train.
        times: the times of the rows, `(N,)`.
        fractions: the share of the rows for each part.

    Raises:
        ValueError: there are too few different times for all parts.
    """
    left, parts = np.arange(len(split)), {}
    for part in sorted(fractions):  # test before validation
        wanted = max(1, round(fractions[part] * len(split)))
        since = np.sort(times[left])[-min(wanted, len(left))]
        parts[part] = left[times[left] >= since]
        left = left[times[left] < since]
        if not len(left):
            raise ValueError(
                f"{' and '.join(fractions)} cannot be split off by time: the {len(split)} rows have only "
                f"{len(set(times))} different time(s)."
            )
    return {"train": split.select(left), **{part: split.select(rows) for part, rows in parts.items()}}


def cut(split: Dataset, groups: list[list[int]], fractions: dict[str, float], seed: int) -> dict[str, Dataset]:
    """Splits parts off from train at random. Groups stay together.

    Each part takes groups until it has its share of the rows, and skips groups that are too large for this. A part
    that would stay empty takes the smallest group that is left.

    Args:
        split: the rows of train.
        groups: see `group_rows`.
        fractions: the share of the rows for each part.
        seed: the seed of the draw.

    Returns:
        train, with the remaining rows, and the parts. Rows keep their order.

    Raises:
        ValueError: there are too few groups for all parts.
    """
    if len(groups) <= len(fractions):
        raise ValueError(
            f"{' and '.join(fractions)} cannot be split off from {len(split)} training rows in {len(groups)} "
            "group(s): rows that share a picture, a sound or a group stay together."
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


def strata_of(split: Dataset, columns: Columns) -> list[int] | None:
    """What folds should balance, for each row: its class, or for numbers their decile. None if there are several label
    columns, or if the labels are neither classes nor numbers."""
    if len(columns.labels) != 1:
        return None
    values = split[columns.labels[0]][:]
    if any(isinstance(value, (list, dict)) for value in values):
        return None
    codes: dict[Any, int] = {}
    numbered = [codes.setdefault(None if value != value else value, len(codes)) for value in values]
    if len(codes) <= min(MAX_STRATA, len(values) // 2):
        return numbered
    if not all(value is None or isinstance(value, (int, float)) for value in values):
        return None
    ranks = np.argsort(np.argsort([np.nan if value is None else value for value in values], kind="stable"))
    return (ranks * TENTHS // len(values)).tolist()


def cut_fold(
    split: Dataset,
    groups: list[list[int]],
    strata: list[int] | None,
    count: int,
    number: int,
    validation_fraction: float,
    seed: int,
) -> dict[str, Dataset]:
    """One fold as the test part, and validation split off from the other rows. Groups stay together.

    Args:
        split: the rows.
        groups: see `group_rows`.
        strata: see `strata_of`.
        count: how many folds there are.
        number: the number of this fold, from 1.
        validation_fraction: the share of all rows.
        seed: the seed of the folds and of the split.

    Returns:
        train, validation and test. Rows keep their order.

    Raises:
        ValueError: there are too few groups for all parts.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold  # imported late: it comes with mm_hf[train]

    if len(groups) < count + (2 if count == 2 else 0):
        raise ValueError(
            f"{count} folds are too many for {len(split)} rows in {len(groups)} group(s): rows that share a picture, "
            "a sound or a group stay together. Set --folds to a smaller number."
        )
    of_row = np.empty(len(split), dtype=np.int64)
    for place, group in enumerate(groups):
        of_row[group] = place
    options: dict[str, Any] = {"n_splits": count, "shuffle": True, "random_state": seed}
    alike = strata is not None and np.bincount(strata).max() >= count
    cutter = StratifiedGroupKFold(**options) if alike else GroupKFold(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about classes with fewer rows than folds
        folds = list(cutter.split(of_row, strata if alike else None, of_row))
    rows = set(folds[number - 1][1].tolist())
    if not rows:
        raise ValueError(f"Fold {number} of {count} has no rows: set --folds to a smaller number.")
    others = [group for group in groups if group[0] not in rows]
    parts = cut(split, others, {"validation": validation_fraction}, seed)
    return {**parts, "test": split.select(sorted(rows))}
