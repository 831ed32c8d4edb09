"""Turns fields of structs into columns."""

from functools import partial
from typing import Any

from datasets import Dataset, Features, Image, IterableDataset


def add_fields(split: Dataset | IterableDataset, names: list[str]) -> Dataset | IterableDataset:
    """Turns fields of structs into columns, such as `json.question` of the column `json`. Ignores names that are not
    fields."""
    types = {}
    for name in names:
        column, *path = name.split(".")
        feature: Any = split.features.get(column)
        for key in path:
            feature = feature.get(key) if isinstance(feature, dict) else None
        if path and feature is not None:
            types[name] = feature
    if not types:
        return split
    whole = isinstance(split, Dataset)
    for column, feature in split.features.items():
        if isinstance(feature, Image):
            # `flatten` would split an undecoded picture into its fields. In a stream, a cast after `map` is lost.
            split = split.cast_column(column, Image(decode=whole))
    if whole:
        return split.flatten()
    return split.map(partial(pick_fields, names=list(types)), features=Features({**split.features, **types}))


def pick_fields(row: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The fields of one row, by dotted name."""
    fields = {}
    for name in names:
        column, *path = name.split(".")
        value = row[column]
        for key in path:
            value = None if value is None else value[key]
        fields[name] = value
    return fields
