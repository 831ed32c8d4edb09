"""Types of columns: what a type is for, one common type for all parts of a data set, and the values of a column."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from datasets import ClassLabel, Dataset, IterableDataset, List, Value

from .files_read import Unreadable


STRINGS = ("string", "large_string", "string_view")
# Whole numbers are classes if at most so many are distinct, and each of them comes twice on average.
MAX_NUMBER_CLASSES = 100


def kind_of(dtype: str) -> str:
    """The general kind of a type: "string", "int", "float", or the type itself."""
    if dtype in STRINGS:
        return "string"
    return next((kind for kind in ("int", "float") if dtype.removeprefix("u").startswith(kind)), dtype)


def is_null(feature: Any) -> bool:
    """Whether a column has only empty values, so that its type is unknown."""
    return isinstance(feature, Value) and feature.dtype == "null"


def common_type(one: Any, other: Any) -> Any:
    """A type that can hold the values of both types; None if there is none. Numbers and strings together become
    strings. Classes stay classes next to any other type, because they are read by their names."""
    if one == other or is_null(other):
        return one
    if is_null(one):
        return other
    if isinstance(one, ClassLabel) or isinstance(other, ClassLabel):
        return one if isinstance(one, ClassLabel) else other
    if isinstance(one, List) and isinstance(other, List):
        inner = common_type(one.feature, other.feature)
        return None if inner is None else List(inner)
    if not isinstance(one, Value) or not isinstance(other, Value):
        return None
    kinds = {kind_of(one.dtype), kind_of(other.dtype)}
    if kinds <= {"string", "int", "float"}:
        return Value("string" if "string" in kinds else "float64" if "float" in kinds else "int64")
    return None


def of_one_type(
    splits: dict[str, Any], wanted: list[tuple[str, str]], dataset: Any, places: Mapping[str, list[str]]
) -> dict[str, Any]:
    """The parts, with one common type for each column in use.

    Args:
        splits: the parts by name.
        wanted: pairs of the part that a column plays in a row and its name, see `Columns.named`.
        dataset: the name of the data set, for messages.
        places: the files of each part, for messages. May be empty.

    Raises:
        ValueError: two types do not fit together. The message names both, their parts and the column.
    """
    splits = dict(splits)
    for _, column in wanted:
        features = {name: split.features[column] for name, split in splits.items() if column in split.column_names}
        first = next((name for name, feature in features.items() if not is_null(feature)), None)
        if first is None:
            continue
        common = features[first]
        for name, feature in features.items():
            joint = common_type(common, feature)
            if joint is None:
                one, other = (places.get(part, [repr(part)]) for part in (first, name))
                raise Unreadable(
                    f"Column {column!r} of {dataset} holds {common} in {', '.join(one)} and {feature} in "
                    f"{', '.join(other)}: give it the same type in all parts."
                )
            common = joint
        if isinstance(common.feature if isinstance(common, List) else common, ClassLabel):
            continue  # a cast would keep the numbers but change the names
        for name, feature in features.items():
            if feature != common:
                splits[name] = splits[name].cast_column(column, common)
    return splits


def count_values(split: Dataset | IterableDataset, column: str) -> Counter:
    """How often each value occurs. Lists count value by value. None and NaN are not counted."""
    counts: Counter = Counter()
    for batch in split.select_columns([column]).iter(batch_size=1000):
        for value in batch[column]:
            counts.update(value if isinstance(value, list) else [value])
    return Counter({value: count for value, count in counts.items() if value is not None and value == value})


def are_few(distinct: int, total: int) -> bool:
    """Whether there are few enough values for classes: at most 100 are distinct, and each comes twice on average."""
    return distinct <= min(MAX_NUMBER_CLASSES, total / 2)
