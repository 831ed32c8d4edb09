"""Data sets with their columns named by keys, and rows that know where they come from."""

import os
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset, load_from_disk
from torch.utils.data import Dataset as TorchDataset


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


def load_splits(dataset: str | os.PathLike, columns: Columns) -> DatasetDict:
    """Loads a data set and checks its columns.

    Pictures stay encoded: the collator decodes each distinct one of a batch once.

    Args:
        dataset: folder that `DatasetDict.save_to_disk` wrote, or a Hub id.
        columns: see there; others are dropped.

    Raises:
        FileNotFoundError: neither such a folder nor a data set that the Hub gives.
        ValueError: a column that the data set does not have.
    """
    if os.path.isdir(dataset):
        try:
            splits = load_from_disk(str(dataset))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{dataset} is no folder that save_to_disk wrote: {error}") from None
    else:
        try:
            splits = load_dataset(str(dataset))
        except Exception as error:
            raise FileNotFoundError(
                f"Data set {str(dataset)!r} is neither a local folder nor could it be loaded from the Hub "
                f"({type(error).__name__}: {error})."
            ) from None
    if isinstance(splits, Dataset):
        raise ValueError(f"{dataset} holds a single Dataset; needed is a DatasetDict with its splits.")
    for name, split in splits.items():
        for part, column in columns.named():
            if column not in split.column_names:
                raise ValueError(
                    f"Unknown column {column!r} (given as {part}_column) in split {name!r} of {dataset}: it has "
                    f"{split.column_names}."
                )
    splits = splits.select_columns([column for _, column in columns.named()])
    for column in columns.images:
        feature = next(iter(splits.values())).features[column]
        if not isinstance(feature, Image):
            raise ValueError(f"Column {column!r} must hold images (datasets.Image), it holds {feature}.")
        splits = splits.cast_column(column, Image(decode=False))
    return splits


def label_names(splits: DatasetDict, column: str) -> list[str] | None:
    """The class names of a label column: those of a `ClassLabel`, no and yes for booleans, or the sorted strings of
    the training part; None where the labels are numbers, which have no names."""
    features: Features = splits["train"].features
    if isinstance(features[column], ClassLabel):
        return list(features[column].names)
    if isinstance(features[column], (list, dict)) or not hasattr(features[column], "dtype"):
        raise ValueError(f"Labels must be classes, strings or numbers; column {column!r} holds {features[column]}.")
    if features[column].dtype == "bool":
        return ["no", "yes"]
    if features[column].dtype in ("string", "large_string", "string_view"):
        return sorted({value for value in splits["train"].unique(column) if value is not None})
    return None


class Rows(TorchDataset):
    """Rows of one split as dicts, each with its `row_id` (its position) and the name of its `split`.

    Fetched by the batch, which is some 20 times faster than one by one.
    """

    def __init__(self, dataset: Dataset, split: str):
        self.dataset = dataset
        self.split = split

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
