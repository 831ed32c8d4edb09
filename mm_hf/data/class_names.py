"""The names of classes: names for numbers and booleans, and for the same classes in another order."""

from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, List, Value
from transformers.utils import logging

from .column_types import STRINGS


logger = logging.get_logger(__name__)

LISTED_LABELS = 20  # how many labels of a long list a message shows


def normalise_labels(
    splits: DatasetDict | IterableDatasetDict, names: Mapping[str, list[str] | None]
) -> DatasetDict | IterableDatasetDict:
    """Turns numbers and booleans that are classes into names. The collator then gets names, or indices of a
    `ClassLabel`, and never a number that could mean either. A `ClassLabel` whose order of classes differs from
    `names` in some part becomes names as well.

    Nothing is copied. The rows of a `DatasetDict` are converted when they are read, and its features do not change.
    So call this function after `labels_of`, and only once.

    Args:
        splits: see `labels_of`.
        names: by label column, the result of `labels_of` or the names in a checkpoint.
    """
    other = set()  # columns that have their classes in another order in some part
    for column, known in names.items():
        for split in splits.values():
            inner: Any = inner_feature(split.features[column])
            if known is not None and isinstance(inner, ClassLabel) and list(inner.names) != list(known):
                other.add(column)
    changed: dict[str, Any] = {}
    for name, split in splits.items():
        plain, numbered = [], {}
        for column, known in names.items():
            inner = inner_feature(split.features[column])
            if column in other and isinstance(inner, ClassLabel):
                numbered[column] = list(inner.names)
            elif known is not None and not isinstance(inner, ClassLabel) and inner.dtype not in STRINGS:
                plain.append(column)
        changed[name] = with_names(split, plain, numbered) if plain or numbered else split
    return DatasetDict(changed) if isinstance(splits, DatasetDict) else IterableDatasetDict(changed)


def inner_feature(feature: Any) -> Any:
    """The feature of one label, also for a column of lists."""
    return feature.feature if isinstance(feature, List) else feature


def with_names(split: Dataset | IterableDataset, plain: list[str], numbered: dict[str, list[str]]) -> Any:
    """A part with its classes as names, see `name_labels`. A transform that the part already has runs first."""
    convert = partial(name_labels, columns=plain, numbered=numbered)
    if isinstance(split, Dataset):
        before = split.format["format_kwargs"].get("transform") if split.format["type"] == "custom" else None
        return split.with_transform(
            convert if before is None else partial(one_after_other, first=before, then=convert)
        )
    features = split.features
    several = {column: isinstance(features[column], List) for column in [*plain, *numbered]}
    types = {column: List(Value("string")) if lists else Value("string") for column, lists in several.items()}
    return split.map(convert, batched=True, features=Features({**features, **types}))


def one_after_other(batch: dict[str, list], first: Any, then: Any) -> dict[str, list]:
    """Applies two transforms to a batch of rows, one after the other."""
    return then(first(batch))


def name_labels(batch: dict[str, list], columns: list[str], numbered: Mapping[str, list[str]] = {}) -> dict[str, list]:
    """A batch of rows with the values of its label columns as names. Columns that the batch lacks are ignored.

    Args:
        batch: the values by column.
        columns: columns of plain numbers and booleans.
        numbered: for columns of classes, the names of the classes by column.
    """
    changed = {c: [name_of(value) for value in batch[c]] for c in columns if c in batch}
    for column, names in numbered.items():
        if column in batch:
            changed[column] = [name_of_class(value, names) for value in batch[column]]
    return {**batch, **changed}


def name_of_class(value: Any, names: list[str]) -> Any:
    """The name of a class, from its number. None for -1. A name stays as it is."""
    if isinstance(value, list):
        return [name_of_class(part, names) for part in value]
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else None
    return value


def name_for_checkpoint(
    split: Dataset | IterableDataset, names: Mapping[str, list[str] | None]
) -> Dataset | IterableDataset:
    """A part with its `ClassLabel`s in the order of a checkpoint. Where the order differs, they become names.

    Args:
        split: the rows. A column that the split lacks is ignored.
        names: by label column, the class names of the checkpoint in its order; None: the checkpoint has none.
    """
    numbered = {}
    for column, known in names.items():
        inner: Any = inner_feature((split.features or {}).get(column))
        if known is None or not isinstance(inner, ClassLabel) or list(inner.names) == list(known):
            continue
        if not set(inner.names) & set(known):
            logger.warning(
                f"The classes of column {column!r}, {inner.names[:LISTED_LABELS]}, and the classes of the model, "
                f"{list(known)[:LISTED_LABELS]}, have no name in common: they are matched by their numbers."
            )
            continue
        numbered[column] = list(inner.names)
    return with_names(split, [], numbered) if numbered else split


def names_of_classes(features: Features, columns: list[str]) -> dict[str, list[str]]:
    """The names of the classes, for each column that is a `ClassLabel`."""
    chosen = {name: features[name] for name in columns}
    return {name: feature.names for name, feature in chosen.items() if isinstance(feature, ClassLabel)}


def name_of(value: Any) -> Any:
    """The name of a class that is a number: "3" for 3 and 3.0, "yes" for True, None for None and NaN. A number that
    is not whole keeps its digits, so that the collator can report that it is not a class."""
    if isinstance(value, list):
        return [name_of(part) for part in value]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value != value:
        return None
    return str(int(value)) if is_whole(value) else str(value)


def is_whole(value: Any) -> bool:
    """Whether a number is whole. A float such as 3.0 is."""
    if isinstance(value, Decimal):
        return value.is_finite() and value == int(value)
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
