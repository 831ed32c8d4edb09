"""Finds out what a label column means: which classes it has, or that it holds numbers."""

import math
from collections import Counter
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, List, Value
from transformers.utils import logging

from ..models.finite import are_numbers, is_code, is_number_of_people, kind_of_texts, read_number
from ..models.tasks import CLASSES, NUMBERS, SEVERAL, problem_type_of, task_head_of
from .class_names import is_whole
from .column_types import STRINGS, are_few, count_values
from .labels import is_finite
from .rows import SOURCE_ROW


logger = logging.get_logger(__name__)

NUMBER_TYPES = ("int", "float", "decimal")  # how the names of number types begin (an unsigned one: after "u")


def labels_of(
    splits: DatasetDict | IterableDatasetDict, column: str, problem_type: str | None = None, sure: bool = False
) -> tuple[list[str] | None, str]:
    """What a label column means: the names of its classes, and the type of the problem.

    | the column holds | names | problem type |
    |---|---|---|
    | `ClassLabel` | its own | one label |
    | booleans | no, yes | one label |
    | strings | those of train (before parts were split off), sorted | one label |
    | few distinct whole numbers | "3" for 3 and 3.0, by value | one label |
    | other numbers | None | regression |
    | strings, almost all of them numbers, with many distinct values | None | regression |
    | lists of strings or of `ClassLabel` | as above | several labels |

    "Few" means at most 100, and at most half of the rows. Whole numbers of a float column count too, because an
    integer column with gaps becomes a float column in a CSV. Digits with leading zeros ("00501") are names, and so are
    strings of digits if all values are such strings. "Almost all" means that at most one string in twenty is something
    else (`are_numbers`). One word in a column of prices is a bad row. Numbers formatted for people ("1,234", "$5", "12
    %") are refused if there are many distinct ones and `load_splits` has not converted them. The function looks at
    every label of train, and of the parts that `load_splits` split off from it, because all rows of a rare class may
    be there. A stream is read once for this, unless its features give the answer.

    Args:
        splits: as `load_splits` gives them, before `normalise_labels`.
        column: the column of the labels. None and NaN are missing labels.
        problem_type: the problem type of a `TaskHead`, if the table above is not what is meant.
        sure: how to treat a column with mostly numbers and many other strings, such as prices with "on request". True:
            refuse it, and name both ways out. False: warn, and take each value for a class, as old runs do.

    Raises:
        ValueError: the problem type does not fit, or the column holds something else, or it has no label.
    """
    asked = None if problem_type is None else task_head_of(problem_type, texts=False).label_kind
    if "train" not in splits:
        raise ValueError(f"Labels are read from the part 'train', but the parts are {list(splits)}: name one 'train'.")
    feature: Any = splits["train"].features[column]
    several = isinstance(feature, List)
    inner = feature.feature if several else feature
    known = isinstance(inner, ClassLabel) or getattr(inner, "dtype", "") in ("bool", *STRINGS)
    known |= getattr(inner, "dtype", "").removeprefix("u").startswith(NUMBER_TYPES)
    if not known or (several and not is_named(inner)):
        raise ValueError(
            f"Labels must be classes, strings or numbers, or lists of classes or strings, but column {column!r} holds "
            f"{feature}."
        )
    parts = [part for name, part in splits.items() if name == "train" or SOURCE_ROW in part.column_names]
    if not several and getattr(inner, "dtype", "") in STRINGS:
        others = [part for part in splits.values() if isinstance(part, Dataset) and column in part.column_names]
        names, kind = names_of_texts(parts, others, column, asked, sure)
    else:
        names, kind = class_names(parts, column, inner, several, asked)
    if asked is not None and asked != kind:
        usual = problem_type_of(kind)
        raise ValueError(
            f"Column {column!r} cannot be {problem_type}: it holds {feature}, which fits {usual}. Change "
            "problem_type, or leave it out."
        )
    return names, problem_type or problem_type_of(kind)


def is_named(feature: ClassLabel | Value) -> bool:
    """Whether values of this type are always classes, and never numbers."""
    return isinstance(feature, ClassLabel) or feature.dtype in ("bool", *STRINGS)


def class_names(
    parts: list[Dataset | IterableDataset], column: str, feature: Any, several: bool, asked: str | None
) -> tuple[list[str] | None, str]:
    """Names and kind of the labels, from the type of a single label; see `labels_of`."""
    one_or_several = SEVERAL if several else CLASSES
    if isinstance(feature, ClassLabel):
        return list(feature.names), one_or_several
    if feature.dtype == "bool":
        return ["no", "yes"], one_or_several
    if asked == NUMBERS and not is_named(feature):
        return None, NUMBERS
    counts = sum((count_values(part, column) for part in parts), Counter())
    if not counts:
        raise ValueError(f"No row of the training part has a label in column {column!r}.")
    if feature.dtype in STRINGS:
        return sorted(filter(None, counts)), one_or_several  # an empty name is a bad row
    finite = Counter({value: count for value, count in counts.items() if is_finite(value)})
    if are_numbers(finite.total(), counts.total() - finite.total()):
        counts = finite  # the others are bad rows
    if not all(is_whole(value) for value in counts):
        return None, NUMBERS
    if are_few(len(counts), counts.total()) or asked == CLASSES:
        return [str(int(value)) for value in sorted(counts)], CLASSES
    return None, NUMBERS


def names_of_texts(
    parts: list[Dataset | IterableDataset], others: list[Dataset], column: str, asked: str | None, sure: bool = False
) -> tuple[list[str] | None, str]:
    """Names and kind of the labels of a column of strings, with one label per row; see `labels_of`.

    Args:
        parts: the parts from which labels are learned.
        others: all parts. Some may contain words, even if `parts` do not.
        column: the column of the labels.
        asked: the requested kind of labels; None: it is not set.
        sure: see `labels_of`.
    """
    counts = sum((count_values(part, column) for part in parts), Counter())
    if not counts:
        raise ValueError(f"No row of the training part has a label in column {column!r}.")
    names = sorted(filter(None, counts)), CLASSES  # an empty name is a bad row
    if asked not in (None, NUMBERS) or (asked is None and are_few(len(counts), counts.total())):
        return names
    every = sum((count_values(part, column) for part in others), Counter()) or counts
    kind = kind_of_texts(every)
    if kind == "numbers" or (kind == "digits" and asked == NUMBERS):
        return None, NUMBERS
    if kind == "written":
        example = next(value for value in every if value and read_number(value) is None)
        raise ValueError(
            f"Column {column!r} holds numbers that are formatted for people, such as {example!r}: write them as 1234.5"
            ", or set problem_type single_label_classification if each is the name of a class."
        )
    numbers = sum(count for value, count in every.items() if is_number_of_people(value))
    if asked == NUMBERS and 2 * numbers > every.total():
        return None, NUMBERS  # the user decided so; the others are bad rows
    numbers -= sum(count for value, count in every.items() if is_code(value))
    if asked is None and kind == "names" and 2 * numbers > every.total():
        example = next(value for value in every if read_number(value) is None or is_code(value))
        said = f"Column {column!r} holds numbers ({numbers} of {every.total()} labels) and others, such as {example!r}"
        ways = (
            f"--problem_type {problem_type_of(NUMBERS)} --on_error skip --max_bad_fraction "
            f"{bad_fraction(every.total() - numbers, every.total())} learns the numbers and leaves the other rows "
            f"out, as for an empty cell; --problem_type {problem_type_of(CLASSES)} takes each for the name of a class"
        )
        if sure:
            raise ValueError(f"{said}: choose how to read them. {ways}.")
        logger.warning(f"{said}: each value is taken for the name of a class. {ways}.")
    return names


def bad_fraction(bad: int, rows: int) -> float:
    """A `max_bad_fraction` for so many bad rows: their share, plus a reserve for a part that has more by chance."""
    return min(1.0, math.ceil(round(20 * (1.5 * bad / rows + 0.05), 6)) / 20)


def classes_to_write(features: Features, column: str) -> dict[str, int] | None:
    """The classes by name, if a column of texts to write is a `ClassLabel`. The names are then the texts. None if the
    column holds texts."""
    feature: Any = features[column]
    if not isinstance(feature, ClassLabel):
        return None
    return {name: number for number, name in enumerate(feature.names)}
