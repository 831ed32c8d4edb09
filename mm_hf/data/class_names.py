"""Classes by their names: numbers and booleans as names, and other orders of the same classes."""

from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, List, Value
from transformers.utils import logging

from .column_types import STRINGS


logger = logging.get_logger(__name__)

LISTED_LABELS = 20  # of a long list of labels, in a message


def normalise_labels(
    splits: DatasetDict | IterableDatasetDict, names: Mapping[str, list[str] | None]
) -> DatasetDict | IterableDatasetDict:
    """Gives plain numbers and booleans that are classes as names, so that the collator sees names, or the indices of a
    `ClassLabel`, and never a number that could be either. A `ClassLabel` that numbers its classes in another order
    than `names`, in whichever part, becomes names as well.

    Nothing is copied: the rows of a `DatasetDict` are converted when they are read, and its features stay as they
    are. So call it after `labels_of`, and once.

    Args:
        splits: as for `labels_of`.
        names: by label column what `labels_of` gave, or what a checkpoint has.
    """
    other = set()  # columns of classes in another order, in some part
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
    """The feature of one label, also of a column of lists."""
    return feature.feature if isinstance(feature, List) else feature


def with_names(split: Dataset | IterableDataset, plain: list[str], numbered: dict[str, list[str]]) -> Any:
    """A part whose classes come as names; see `name_labels`. A transform that it has goes first."""
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
    """A batch of rows through two transforms."""
    return then(first(batch))


def name_labels(batch: dict[str, list], columns: list[str], numbered: Mapping[str, list[str]] = {}) -> dict[str, list]:
    """A batch of rows with the values of the label columns, those that are among them, as names: `columns` are of
    plain numbers and booleans, `numbered` has by column of classes their names."""
    changed = {c: [name_of(value) for value in batch[c]] for c in columns if c in batch}
    for column, names in numbered.items():
        if column in batch:
            changed[column] = [name_of_class(value, names) for value in batch[column]]
    return {**batch, **changed}


def name_of_class(value: Any, names: list[str]) -> Any:
    """The name of a class by its number; None for -1, and a name as it is."""
    if isinstance(value, list):
        return [name_of_class(part, names) for part in value]
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else None
    return value


def name_for_checkpoint(
    split: Dataset | IterableDataset, names: Mapping[str, list[str] | None]
) -> Dataset | IterableDataset:
    """A part of any data with its `ClassLabel`s as a checkpoint numbers them: by their names where the numbers differ.

    Args:
        split: the rows; a column that it lacks is passed over.
        names: by column of labels those of the checkpoint, in its order; None: it has none.
    """
    numbered = {}
    for column, known in names.items():
        inner: Any = inner_feature((split.features or {}).get(column))
        if known is None or not isinstance(inner, ClassLabel) or list(inner.names) == list(known):
            continue
        if not set(inner.names) & set(known):
            logger.warning(
                f"The classes of column {column!r}, {inner.names[:LISTED_LABELS]}, have other names than those of the "
                f"model, {list(known)[:LISTED_LABELS]}: they go by their numbers."
            )
            continue
        numbered[column] = list(inner.names)
    return with_names(split, [], numbered) if numbered else split


def names_of_classes(features: Features, columns: list[str]) -> dict[str, list[str]]:
    """Of the columns that are a `ClassLabel`, the names of their classes."""
    chosen = {name: features[name] for name in columns}
    return {name: feature.names for name, feature in chosen.items() if isinstance(feature, ClassLabel)}


def name_of(value: Any) -> Any:
    """The name of a class that is a number: "3" for 3 and 3.0, "yes" for True; None for None and NaN. A number that
    is not whole keeps its digits, so that the collator can say that it is no class."""
    if isinstance(value, list):
        return [name_of(part) for part in value]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value != value:
        return None
    return str(int(value)) if is_whole(value) else str(value)


def is_whole(value: Any) -> bool:
    """Whether a number, a float too, is a whole one."""
    if isinstance(value, Decimal):
        return value.is_finite() and value == int(value)
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
