"""Columns named by keys, rows that know where they come from, and what their labels are."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import datasets
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, List, Value
from huggingface_hub.constants import HF_HUB_CACHE
from torch.utils.data import Dataset as TorchDataset


STRINGS = ("string", "large_string", "string_view")
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
# Whole numbers are classes where so few of them are distinct, and each comes twice on average.
MAX_NUMBER_CLASSES = 100


class BadRowError(ValueError):
    """A row that cannot be used: names the split, the row, the column, the file where there is one, and the reason.

    Attributes:
        entry: the same as a dict of `split`, `row`, `column`, `file` and `reason`, one line of `bad_rows.jsonl`.
    """

    def __init__(self, row: dict[str, Any], column: str | None, reason: str, file: str | None = None):
        self.entry = {"split": row["split"], "row": row["row_id"], "column": column, "file": file, "reason": reason}
        place = f"row {row['row_id']} of split {row['split']!r}, column {column!r}"
        super().__init__(f"{place}{'' if file is None else f', file {file!r}'}: {reason}")


@dataclass
class Columns:
    """Names of the columns that play a part; None where a data set has none for it.

    Args:
        image: pictures, a `datasets.Image` or paths; None in a row: this row has no picture. A list of names where a
            row has several pictures.
        image_id: equal values mean the same picture; left out, equal bytes do.
        text: strings; None in a row: this row has no text.
        label: a `ClassLabel`, strings, integers, floats, or lists of floats.
        kind: strings that metrics are split by.
    """

    image: str | list[str] | None = None
    image_id: str | None = None
    text: str | None = None
    label: str | None = None
    kind: str | None = None

    @property
    def images(self) -> list[str]:
        """The columns of pictures, none, one or several."""
        return [] if self.image is None else [self.image] if isinstance(self.image, str) else list(self.image)

    def named(self) -> list[tuple[str, str]]:
        """The columns that are there, as pairs of their part and their name."""
        others = [(name, getattr(self, name)) for name in ("image_id", "text", "label", "kind")]
        pairs = [*(("image", column) for column in self.images), *others]
        return [(part, column) for part, column in pairs if column is not None]


def resolve_path(path: str, root: str | None) -> str:
    """Makes the path of a picture absolute, links followed, and refuses it where it leads out of `root`: a table from
    a stranger must not read other files of this machine.

    Args:
        path: as the row has it, relative to `root` or absolute.
        root: see `data_root_of`; None: only the caches of datasets and of the Hub, where they put pictures themselves.

    Raises:
        ValueError: it leads elsewhere.
    """
    roots = [root] if root is not None else [str(datasets.config.HF_DATASETS_CACHE), HF_HUB_CACHE]
    if "\0" not in path:
        full = os.path.realpath(os.path.join(roots[0], path))
        for allowed in map(os.path.realpath, roots):
            if os.path.commonpath([full, allowed]) == allowed:
                return full
    hint = "" if root is not None else "; data_root names the folder of the pictures"
    raise ValueError(f"path {path!r} leads out of {' and '.join(map(repr, roots))}{hint}.")


def labels_of(
    splits: DatasetDict | IterableDatasetDict, column: str, problem_type: str | None = None
) -> tuple[list[str] | None, str]:
    """What a label column means: the names of its classes, and the type of the problem.

    | the column holds | names | problem type |
    |---|---|---|
    | `ClassLabel` | its own | one label |
    | booleans | no, yes | one label |
    | strings | those of train, sorted | one label |
    | few whole numbers | "3" for 3 and 3.0, by value | one label |
    | other numbers | None | regression |
    | lists of strings or of `ClassLabel` | as above | several labels |

    Few is at most 100, and at most half of the rows. Whole numbers of a float column count too: an integer column with
    gaps becomes one in a CSV. Looks at every label of train; a stream is read once for it, unless its features tell.

    Args:
        splits: as `load_splits` gives them, before `normalise_labels`.
        column: of the labels. None and NaN are missing labels.
        problem_type: one of `PROBLEM_TYPES`, where the above is not what is meant.

    Raises:
        ValueError: the problem type does not fit, or the column holds something else, or no label.
    """
    if problem_type not in (None, *PROBLEM_TYPES):
        raise ValueError(f"Unknown problem type {problem_type!r}; known are {', '.join(PROBLEM_TYPES)}.")
    if "train" not in splits:
        raise ValueError(f"Labels are read from the training part, and there is none: {list(splits)}.")
    feature: Any = splits["train"].features[column]
    several = isinstance(feature, List)
    inner = feature.feature if several else feature
    if not isinstance(inner, (ClassLabel, Value)) or (several and not is_named(inner)):
        raise ValueError(
            f"Labels must be classes, strings or numbers, or lists of classes or strings; column {column!r} holds "
            f"{feature}."
        )
    names, found = class_names(splits["train"], column, inner, several, problem_type)
    if problem_type is not None and problem_type != found:
        raise ValueError(f"Column {column!r} cannot be {problem_type}: it holds {feature}, which is {found}.")
    return names, found


def is_named(feature: ClassLabel | Value) -> bool:
    """Whether values of this type are classes by themselves, and no numbers."""
    return isinstance(feature, ClassLabel) or feature.dtype in ("bool", *STRINGS)


def class_names(
    split: Dataset | IterableDataset, column: str, feature: Any, several: bool, problem_type: str | None
) -> tuple[list[str] | None, str]:
    """Names and problem type for the type of a single label; see `labels_of`."""
    one_or_several = PROBLEM_TYPES[several]
    if isinstance(feature, ClassLabel):
        return list(feature.names), one_or_several
    if feature.dtype == "bool":
        return ["no", "yes"], one_or_several
    if problem_type == "regression" and not is_named(feature):
        return None, "regression"
    counts = count_values(split, column)
    if not counts:
        raise ValueError(f"No row of the training part has a label in column {column!r}.")
    if feature.dtype in STRINGS:
        return sorted(filter(None, counts)), one_or_several  # an empty name is a bad row
    if not all(is_whole(value) for value in counts):
        return None, "regression"
    few = len(counts) <= min(MAX_NUMBER_CLASSES, counts.total() / 2)
    if few or problem_type == "single_label_classification":
        return [str(int(value)) for value in sorted(counts)], "single_label_classification"
    return None, "regression"


def count_values(split: Dataset | IterableDataset, column: str) -> Counter:
    """How often each value comes; those of lists one by one, None and NaN not at all."""
    counts: Counter = Counter()
    for batch in split.select_columns([column]).iter(batch_size=1000):
        for value in batch[column]:
            counts.update(value if isinstance(value, list) else [value])
    return Counter({value: count for value, count in counts.items() if value is not None and value == value})


def normalise_labels(
    splits: DatasetDict | IterableDatasetDict, column: str, names: list[str] | None
) -> DatasetDict | IterableDatasetDict:
    """Gives plain numbers and booleans that are classes as names, so that the collator sees names, or the indices of a
    `ClassLabel`, and never a number that could be either.

    Nothing is copied: the rows of a `DatasetDict` are converted when they are read, and its features stay as they
    are. So call it after `labels_of`, and once.

    Args:
        splits, column: as for `labels_of`.
        names: what `labels_of` gave.
    """
    feature: Any = splits[next(iter(splits))].features[column]
    inner = feature.feature if isinstance(feature, List) else feature
    if names is None or isinstance(inner, ClassLabel) or inner.dtype in STRINGS:
        return splits
    convert = partial(name_labels, column=column)
    if isinstance(splits, DatasetDict):
        return splits.with_transform(convert)
    named = List(Value("string")) if isinstance(feature, List) else Value("string")
    return IterableDatasetDict(
        {
            name: split.map(convert, batched=True, features=Features({**split.features, column: named}))
            for name, split in splits.items()
        }
    )


def name_labels(batch: dict[str, list], column: str) -> dict[str, list]:
    """A batch of rows with the values of the label column, if it is among them, as names."""
    return {**batch, column: [name_of(value) for value in batch[column]]} if column in batch else batch


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
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def label_names(splits: DatasetDict, column: str) -> list[str] | None:
    """The class names of a label column, None where the labels are numbers: the first half of `labels_of`."""
    return labels_of(splits, column)[0]


class Rows(TorchDataset):
    """Rows of one split as dicts, each with its `row_id` (its position) and the name of its `split`.

    Fetched by the batch, which is some 20 times faster than one by one.

    Args:
        dataset: the rows.
        split: their name in messages.

    Attributes:
        groups, lengths, weights: one value a row, for `GroupedBatchSampler`; None where all rows are alike.
    """

    def __init__(self, dataset: Dataset, split: str):
        self.dataset = dataset
        self.split = split
        self.groups: Sequence | None = None
        self.lengths: Sequence[int] | None = None
        self.weights: Sequence[float] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        columns = self.dataset[indices]
        return [
            {**{name: values[place] for name, values in columns.items()}, "row_id": index, "split": self.split}
            for place, index in enumerate(indices)
        ]
