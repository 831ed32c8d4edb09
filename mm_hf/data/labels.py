"""What a label column means, and labels as the loss takes them."""

import math
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, List, Value
from transformers.utils import logging

from ..models.finite import LARGEST_IN_LOSS, are_numbers, by_number, is_code, kind_of_texts, read_number
from ..models.losses import PROBLEM_TYPES
from ..models.names import did_you_mean
from .loading import SOURCE_ROW, BadRowError, is_absent


logger = logging.get_logger(__name__)

STRINGS = ("string", "large_string", "string_view")
# Whole numbers are classes where so few of them are distinct, and each comes twice on average.
MAX_NUMBER_CLASSES = 100
NUMBERS = ("int", "float", "decimal")  # how types of numbers begin, an unsigned one aside
LISTED_LABELS = 20  # of a long list of labels, in a message


def labels_of(
    splits: DatasetDict | IterableDatasetDict, column: str, problem_type: str | None = None
) -> tuple[list[str] | None, str]:
    """What a label column means: the names of its classes, and the type of the problem.

    | the column holds | names | problem type |
    |---|---|---|
    | `ClassLabel` | its own | one label |
    | booleans | no, yes | one label |
    | strings | those of train (before parts were cut from it), sorted | one label |
    | few whole numbers | "3" for 3 and 3.0, by value | one label |
    | other numbers | None | regression |
    | strings that are numbers but for a few, and not few numbers | None | regression |
    | lists of strings or of `ClassLabel` | as above | several labels |

    Few is at most 100, and at most half of the rows. Whole numbers of a float column count too: an integer column with
    gaps becomes one in a CSV. Digits with leading zeros ("00501") are names, and so are strings of digits where
    nothing else stands among them. Strings are numbers but for a few where at most one in twenty is something else
    (`are_numbers`): one word in a column of prices is a bad row. Numbers formatted for people ("1,234", "12 %", "$5")
    are refused where they are not few. Looks at every label of train, and of the parts that `load_splits` cut from it:
    a rare class may have gone there with all its rows. A stream is read once for it, unless its features tell.

    Args:
        splits: as `load_splits` gives them, before `normalise_labels`.
        column: of the labels. None and NaN are missing labels.
        problem_type: one of `PROBLEM_TYPES`, where the above is not what is meant.

    Raises:
        ValueError: the problem type does not fit, or the column holds something else, or no label.
    """
    if problem_type not in (None, *PROBLEM_TYPES):
        meant = did_you_mean(problem_type, PROBLEM_TYPES)
        raise ValueError(f"Unknown problem type {problem_type!r}; known are {', '.join(PROBLEM_TYPES)}.{meant}")
    if "train" not in splits:
        raise ValueError(f"Labels are read from the training part, and there is none: {list(splits)}.")
    feature: Any = splits["train"].features[column]
    several = isinstance(feature, List)
    inner = feature.feature if several else feature
    known = isinstance(inner, ClassLabel) or getattr(inner, "dtype", "") in ("bool", *STRINGS)
    known |= getattr(inner, "dtype", "").removeprefix("u").startswith(NUMBERS)
    if not known or (several and not is_named(inner)):
        raise ValueError(
            f"Labels must be classes, strings or numbers, or lists of classes or strings; column {column!r} holds "
            f"{feature}."
        )
    parts = [part for name, part in splits.items() if name == "train" or SOURCE_ROW in part.column_names]
    if not several and getattr(inner, "dtype", "") in STRINGS:
        others = [part for part in splits.values() if isinstance(part, Dataset) and column in part.column_names]
        names, found = names_of_texts(parts, others, column, problem_type)
    else:
        names, found = class_names(parts, column, inner, several, problem_type)
    if problem_type is not None and problem_type != found:
        raise ValueError(f"Column {column!r} cannot be {problem_type}: it holds {feature}, which is {found}.")
    return names, found


def is_named(feature: ClassLabel | Value) -> bool:
    """Whether values of this type are classes by themselves, and no numbers."""
    return isinstance(feature, ClassLabel) or feature.dtype in ("bool", *STRINGS)


def class_names(
    parts: list[Dataset | IterableDataset], column: str, feature: Any, several: bool, problem_type: str | None
) -> tuple[list[str] | None, str]:
    """Names and problem type for the type of a single label; see `labels_of`."""
    one_or_several = "multi_label_classification" if several else "single_label_classification"
    if isinstance(feature, ClassLabel):
        return list(feature.names), one_or_several
    if feature.dtype == "bool":
        return ["no", "yes"], one_or_several
    if problem_type == "regression" and not is_named(feature):
        return None, "regression"
    counts = sum((count_values(part, column) for part in parts), Counter())
    if not counts:
        raise ValueError(f"No row of the training part has a label in column {column!r}.")
    if feature.dtype in STRINGS:
        return sorted(filter(None, counts)), one_or_several  # an empty name is a bad row
    finite = Counter({value: count for value, count in counts.items() if is_finite(value)})
    if are_numbers(finite.total(), counts.total() - finite.total()):
        counts = finite  # the others are bad rows
    if not all(is_whole(value) for value in counts):
        return None, "regression"
    if are_few(counts) or problem_type == "single_label_classification":
        return [str(int(value)) for value in sorted(counts)], "single_label_classification"
    return None, "regression"


def names_of_texts(
    parts: list[Dataset | IterableDataset], others: list[Dataset], column: str, problem_type: str | None
) -> tuple[list[str] | None, str]:
    """Names and problem type of a column of strings, one label a row; see `labels_of`.

    Args:
        parts: those whose labels are learned.
        others: all of which some may have a word where these have none.
        column: of the labels.
        problem_type: where it is given.
    """
    counts = sum((count_values(part, column) for part in parts), Counter())
    if not counts:
        raise ValueError(f"No row of the training part has a label in column {column!r}.")
    names = sorted(filter(None, counts)), "single_label_classification"  # an empty name is a bad row
    if problem_type not in (None, "regression") or (problem_type is None and are_few(counts)):
        return names
    every = sum((count_values(part, column) for part in others), Counter()) or counts
    kind = kind_of_texts(every)
    if kind == "numbers" or (kind == "digits" and problem_type == "regression"):
        return None, "regression"
    if kind == "written":
        example = next(value for value in every if value and read_number(value) is None)
        raise ValueError(
            f"Column {column!r} holds numbers that are formatted for people, such as {example!r}: write them as 1234.5"
            ", or give problem_type single_label_classification if each is the name of a class."
        )
    numbers = sum(count for value, count in every.items() if read_number(value) is not None)
    if problem_type == "regression" and 2 * numbers > every.total():
        return None, "regression"  # who says so has their reasons; the others are bad rows
    numbers -= sum(count for value, count in every.items() if is_code(value))
    if problem_type is None and kind == "names" and 2 * numbers > every.total():
        example = next(value for value in every if read_number(value) is None or is_code(value))
        logger.warning(
            f"Column {column!r} holds numbers ({numbers} of {every.total()} labels) and others, such as {example!r}: "
            "each is taken for the name of a class. problem_type regression takes the numbers, and the others for bad "
            "rows; leave their cells empty where they mean that nothing is known."
        )
    return names


def are_few(counts: Counter) -> bool:
    """Whether values are so few that they are classes: at most 100, and each comes twice on average."""
    return len(counts) <= min(MAX_NUMBER_CLASSES, counts.total() / 2)


def count_values(split: Dataset | IterableDataset, column: str) -> Counter:
    """How often each value comes; those of lists one by one, None and NaN not at all."""
    counts: Counter = Counter()
    for batch in split.select_columns([column]).iter(batch_size=1000):
        for value in batch[column]:
            counts.update(value if isinstance(value, list) else [value])
    return Counter({value: count for value, count in counts.items() if value is not None and value == value})


def classes_to_write(features: Features, column: str) -> dict[str, int] | None:
    """For texts that are to be written: the classes by name where the column is a `ClassLabel`, of which the names are
    written; None where it holds texts."""
    feature: Any = features[column]
    if not isinstance(feature, ClassLabel):
        return None
    return {name: number for number, name in enumerate(feature.names)}


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
    for column, found in names.items():
        for split in splits.values():
            inner: Any = inner_feature(split.features[column])
            if found is not None and isinstance(inner, ClassLabel) and list(inner.names) != list(found):
                other.add(column)
    changed: dict[str, Any] = {}
    for name, split in splits.items():
        plain, numbered = [], {}
        for column, found in names.items():
            inner = inner_feature(split.features[column])
            if column in other and isinstance(inner, ClassLabel):
                numbered[column] = list(inner.names)
            elif found is not None and not isinstance(inner, ClassLabel) and inner.dtype not in STRINGS:
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
    """A batch of rows with the values of the label columns, those that are among them, as names.

    Args:
        batch: by column the values.
        columns: of plain numbers and booleans.
        numbered: by column of classes their names.
    """
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


def is_finite(value: Any) -> bool:
    """Whether a number can be trained on, as a label or a weight; see `LARGEST_IN_LOSS`."""
    return -LARGEST_IN_LOSS <= value <= LARGEST_IN_LOSS


def label_tensor(
    rows: list[dict[str, Any]],
    column: str,
    label2id: dict[str, int] | None = None,
    problem_type: str | None = None,
    bad: list[BadRowError] | None = None,
) -> torch.Tensor:
    """Labels as the loss takes them: -100 for a class that is missing, NaN for a number that is.

    Args:
        rows: as `Rows` gives them.
        column: of the labels: names in `label2id`, classes (-1 is what datasets writes for a missing one), booleans,
            numbers, or lists of any of these. None and NaN are missing.
        label2id: numbers of the classes.
        problem_type: regression and several labels take numbers as floats; None: as they are. Several labels with
            `label2id` take lists of names or classes, or one value in [0, 1] a class (soft targets, as VQA v2 has
            them; Goyal et al. 2017).
        bad: takes down bad labels, which then count as missing; None: they raise.

    Returns:
        `(B,)` int64, or `(B,)` or `(B, C)` float32.

    Raises:
        BadRowError: a label that is not in the list, or no label at all.
    """
    several = problem_type == "multi_label_classification"
    label2id = None if problem_type == "regression" else label2id  # the library names an output of numbers too
    values: list[Any] = []
    width: int | None = None  # of lists; 0 for numbers
    for row in rows:
        value = row[column].tolist() if isinstance(row[column], (np.generic, np.ndarray)) else row[column]
        try:
            if value is None or (label2id is not None and is_absent(value)):
                values.append(None)
                continue
            if label2id is None:
                value = read_numbers(value, texts=problem_type == "regression")
            else:
                value = read_classes(value, label2id) if several else read_class(value, label2id)
            length = len(value) if isinstance(value, list) else 0
            if width not in (None, length):
                raise ValueError(f"label {value} has {length} numbers where others have {width} (0: it is no list).")
            width = length
            values.append(value)
        except ValueError as reason:
            error = BadRowError(row, column, str(reason))
            if bad is None:
                raise error from None
            bad.append(error)
            values.append(None)
    if several and label2id is not None:
        width = len(label2id)
    floats = problem_type not in (None, "single_label_classification")
    if width or floats or any(isinstance(value, float) for value in values):
        missing: Any = [math.nan] * width if width else math.nan
        return torch.tensor([missing if value is None else value for value in values], dtype=torch.float32)
    return torch.tensor([-100 if value is None else value for value in values])


def label_statistics(labels: Any) -> dict[str, list[float]]:
    """What a regression's config needs to learn numbers of any unit: their mean and deviation in the training rows.

    Args:
        labels: `(N,)` or `(N, C)` numbers: a list, a column of `datasets` or pandas, an array or a tensor. None or NaN
            is a missing one.

    Returns:
        `label_mean` and `label_scale`, one number an output. Numbers that are all alike have the deviation 1.

    Example:

    ```python
    >>> scale = label_statistics(train["price"])
    >>> model = MMFusionForClassification.from_encoders_pretrained(..., num_labels=1, **scale)
    ```
    """
    if not isinstance(labels, torch.Tensor):
        labels = torch.from_numpy(np.array(list(labels), dtype=np.float64))  # None becomes NaN
    columns = labels.double().reshape(len(labels), -1).T
    known = [column[~column.isnan()] for column in columns]
    means = [column.mean().item() if len(column) else 0.0 for column in known]
    stds = [column.std(correction=0).item() if len(column) else 0.0 for column in known]
    # Of numbers that are alike, what is not zero is rounding.
    alike = [not len(column) or bool(column.min() == column.max()) for column in known]
    return {"label_mean": means, "label_scale": [1.0 if same else std for same, std in zip(alike, stds)]}


def read_class(value: Any, label2id: dict[str, int]) -> int:
    """The number of a class; -100 for the -1 that datasets writes where there is none.

    Raises:
        ValueError: not one of the classes.
    """
    if isinstance(value, str):
        if value not in label2id and (name := by_number(value, label2id)) is not None:
            logger.warning_once(
                f"Label {value!r:.80} is taken for {name!r}: the model learned its classes as numbers, not as written."
            )
            return label2id[name]
        if value not in label2id:
            names = ", ".join(repr(name) for name in list(label2id)[:LISTED_LABELS])
            more = f", … ({len(label2id)} in all)" if len(label2id) > LISTED_LABELS else ""
            meant = did_you_mean(value, label2id) if len(label2id) <= MAX_NUMBER_CLASSES else ""
            raise ValueError(f"label {value!r} is not in the list [{names}{more}].{meant}")
        return label2id[value]
    number = int(value) if isinstance(value, (int, float)) and value == value // 1 else None
    if number is None or not -1 <= number < len(label2id):
        raise ValueError(f"label {value!r:.80} is not in 0…{len(label2id) - 1}.")
    return -100 if number == -1 else number


def read_classes(value: Any, label2id: dict[str, int]) -> list[float]:
    """One value a class, from a list of names or classes, or from such values.

    Raises:
        ValueError: no list, not one of the classes, or values that are not one a class and in [0, 1].
    """
    if not isinstance(value, list):
        raise ValueError(f"label {value!r:.80} is no list; several labels are lists of names or classes.")
    if value and all(isinstance(entry, (bool, float)) for entry in value):
        if len(value) != len(label2id) or not all(0 <= entry <= 1 for entry in value):
            raise ValueError(f"label {value!r:.80} must be {len(label2id)} values in [0, 1], one a class.")
        return [float(entry) for entry in value]
    targets = [0.0] * len(label2id)
    for entry in value:
        number = read_class(entry, label2id)
        if number < 0:
            raise ValueError(f"label {entry!r} is not in 0…{len(label2id) - 1}.")
        targets[number] = 1.0
    return targets


def read_numbers(value: Any, texts: bool = False) -> Any:
    """A number, or a list of numbers in which None is NaN.

    Args:
        value: of a label.
        texts: a text that spells a number is one, see `read_number`.

    Raises:
        ValueError: what is no number, or one that float32 cannot train on, see `LARGEST_IN_LOSS`.
    """
    if isinstance(value, list):
        return [math.nan if entry is None else float(read_numbers(entry, texts)) for entry in value]
    if isinstance(value, str):
        number = read_number(value) if texts else None
        if number is None:
            why = "is no number" if texts else "has no number: there is no list of labels"
            raise ValueError(f"label {value!r:.80} {why}.")
        value = number
    if not isinstance(value, (int, float, Decimal)):
        raise ValueError(f"label {value!r:.80} is no number.")
    if value != value:
        return math.nan
    if not is_finite(value):
        raise ValueError(f"label {value!r:.80} is no finite number of at most {LARGEST_IN_LOSS:g} (in float32).")
    return float(value) if isinstance(value, Decimal) else int(value) if isinstance(value, bool) else value


def names_of_classes(features: Features, columns: list[str]) -> dict[str, list[str]]:
    """Of the columns that are a `ClassLabel`, the names of their classes."""
    found = {name: features[name] for name in columns}
    return {name: feature.names for name, feature in found.items() if isinstance(feature, ClassLabel)}
