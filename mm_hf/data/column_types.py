"""Types of columns: what one is for, one for all parts of a data set, and the values that a column holds."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from datasets import ClassLabel, Dataset, IterableDataset, List, Value

from .files_read import Unreadable


STRINGS = ("string", "large_string", "string_view")
# Whole numbers are classes where so few of them are distinct, and each comes twice on average.
MAX_NUMBER_CLASSES = 100


def kind_of(dtype: str) -> str:
    """What a type of values is for: "string", "int", "float", or itself."""
    if dtype in STRINGS:
        return "string"
    return next((kind for kind in ("int", "float") if dtype.removeprefix("u").startswith(kind)), dtype)


def is_null(feature: Any) -> bool:
    """Whether nothing is known of a column but that it is empty."""
    return isinstance(feature, Value) and feature.dtype == "null"


def common_type(one: Any, other: Any) -> Any:
    """The type that holds what two hold; None where there is none. Numbers beside strings become strings. Classes stay
    as they are, with whatever: they are read by their names."""
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
    """The parts, with one type for each column in use.

    Args:
        dataset: its name in messages, and `places` the files of each part, where it has some.

    Raises:
        ValueError: two types that do not go together, naming both, their parts and the column.
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
                    f"{', '.join(other)}: it needs one type in all."
                )
            common = joint
        if isinstance(common.feature if isinstance(common, List) else common, ClassLabel):
            continue  # a cast would keep the numbers and change the names
        for name, feature in features.items():
            if feature != common:
                splits[name] = splits[name].cast_column(column, common)
    return splits


def count_values(split: Dataset | IterableDataset, column: str) -> Counter:
    """How often each value comes; those of lists one by one, None and NaN not at all."""
    counts: Counter = Counter()
    for batch in split.select_columns([column]).iter(batch_size=1000):
        for value in batch[column]:
            counts.update(value if isinstance(value, list) else [value])
    return Counter({value: count for value, count in counts.items() if value is not None and value == value})


def are_few(distinct: int, total: int) -> bool:
    """Whether values are so few that they are classes: at most 100 are distinct, and each comes twice on average."""
    return distinct <= min(MAX_NUMBER_CLASSES, total / 2)
