"""Columns named by keys, and rows that know where they come from."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import datasets
import pyarrow.compute as pc
from datasets import Dataset
from huggingface_hub.constants import HF_HUB_CACHE
from torch.utils.data import Dataset as TorchDataset

from ..models.modality import MODALITIES
from ..models.names import did_you_mean


# Column of the row number before a part was cut off, the only one that people can find in their own file.
SOURCE_ROW = "_source_row"
# What a row of a stream tells of its place, beside `row_id` and `split`, which every row has.
EPOCH, POSITION = "_epoch", "_position"
ROW_ID, SPLIT = "row_id", "split"
ABOUT_ROWS = ("label", "kind", "weight")  # parts of a row that no encoder reads
ROWS_AT_ONCE = 1000  # that are fetched together where all of them are looked at


class BadRowError(ValueError):
    """A row that cannot be used: names the split, the row, the column, the file where there is one, and the reason.

    Attributes:
        entry: the same as a dict of `split`, `row`, `column`, `file` and `reason`, one line of `bad_rows.jsonl`; in a
            part that was cut, `source_row` as well: the row of the data before the cut.
    """

    def __init__(
        self, row: dict[str, Any] | str, column: str | None = None, reason: str = "", file: str | None = None
    ):
        if isinstance(row, str):  # the whole message: from a worker of a DataLoader nothing else comes through
            super().__init__(row.strip().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))
            return
        self.entry = {"split": row["split"], "row": row["row_id"], "column": column, "file": file, "reason": reason}
        if SOURCE_ROW in row:
            self.entry["source_row"] = row[SOURCE_ROW]
        super().__init__(describe_bad_row(self.entry))


def describe_bad_row(entry: dict[str, Any]) -> str:
    """The entry of a `BadRowError` as a sentence."""
    file = "" if entry["file"] is None else f", file {entry['file']!r}"
    source = f" (row {entry['source_row']} of the data)" if "source_row" in entry else ""
    return (
        f"row {entry['row']} of split {entry['split']!r}{source}, column {entry['column']!r}{file}: {entry['reason']}"
    )


@dataclass
class Columns:
    """Names of the columns that play a part; None where a data set has none for it. A list of names where a row has
    several of a kind: each has its place in the row, which the model learns.

    Args:
        image: pictures, a `datasets.Image` or paths; None in a row: this row has no picture. One or several.
        image_id: equal values mean the same picture; left out, equal bytes do.
        text: strings; None in a row: this row has no text. One or several.
        label: a `ClassLabel`, strings, integers, floats, or lists of floats. A list of names where a row has the
            labels of several tasks, each of which is called by its column.
        kind: strings that metrics are split by.
        weight: numbers, how much each row counts in the training loss; by label column where only some tasks have it.
        audio: sounds, a `datasets.Audio`, paths or bytes; None in a row: this row has no sound. One or several.
        video: files of videos, their paths or bytes, or lists of pictures; None in a row: this row has no video. Its
            frames are pictures of the row, behind those of `image`.
        table: numbers, strings, truth values or classes, the columns of a table; None or NaN in one of them: this
            value is missing; in all of them: this row has no table.
        series: time series, lists of steps, each a list of numbers (or a number); None in a row, or no step: this row
            has none. One or several.
        extra: by modality from outside the package its columns, as its `ModalityReader` reads them.

    Raises:
        ValueError: a column has a name that rows need for themselves, or a modality that of a field above; weights of
            a label that is not there.
    """

    image: str | list[str] | None = None
    image_id: str | None = None
    text: str | list[str] | None = None
    label: str | list[str] | None = None
    kind: str | None = None
    weight: str | dict[str, str] | None = None
    audio: str | list[str] | None = None
    video: str | None = None
    table: list[str] = field(default_factory=list)
    series: str | list[str] | None = None
    extra: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self):
        library = [name for name, modality in MODALITIES.items() if not modality.extra]
        if taken := sorted(set(self.extra) & {*library, *(each.name for each in fields(self))}):
            raise ValueError(f"extra is for modalities from outside mm_hf; {taken} are its own: use their arguments.")
        read = [pair for pair in self.named() if pair[0] not in ("kind", "group")]  # these are not read row by row
        reserved = [(part, column) for part, column in read if column in (ROW_ID, SPLIT)]
        if reserved:
            part, column = reserved[0]
            raise ValueError(
                f"The {part} column is called {column!r}, which is what rows keep their place under: rename it, for "
                f"instance to {f'{column}_'!r}."
            )
        if isinstance(self.weight, dict) and (unknown := set(self.weight) - set(self.labels)):
            meant = did_you_mean(sorted(unknown)[0], self.labels)
            raise ValueError(f"weight names {sorted(unknown)}, but the columns of labels are {self.labels}.{meant}")

    @property
    def images(self) -> list[str]:
        """The columns of pictures, none, one or several."""
        return listed(self.image)

    @property
    def texts(self) -> list[str]:
        """The columns of texts, none, one or several."""
        return listed(self.text)

    @property
    def sounds(self) -> list[str]:
        """The columns of sounds, none, one or several."""
        return listed(self.audio)

    @property
    def files(self) -> list[str]:
        """The columns whose items are files: pictures, sounds and videos."""
        return [*self.images, *self.sounds, *listed(self.video)]

    def frames(self, pictures: int) -> int:
        """Of so many pictures that a model looks at in a row those that are frames of its video."""
        return max(1, pictures - len(self.images))

    @property
    def labels(self) -> list[str]:
        """The columns of labels, none, one or several."""
        return listed(self.label)

    @property
    def weights(self) -> dict[str, str]:
        """By column of labels the column of their weights, where they have one."""
        if self.weight is None:
            return {}
        return dict.fromkeys(self.labels, self.weight) if isinstance(self.weight, str) else dict(self.weight)

    def named(self) -> list[tuple[str, str]]:
        """The columns that are there, as pairs of their part and their name: the part is a field of this class, or a
        modality from outside. What says something about a row comes last."""
        values = {each.name: getattr(self, each.name) for each in fields(Columns)}
        values |= {"weight": list(dict.fromkeys(self.weights.values()))}
        values |= values.pop("extra")
        ordered = sorted(values, key=ABOUT_ROWS.__contains__)  # the others stay in their order
        return [(part, column) for part in ordered for column in listed(values[part])]


def listed(names: str | list[str] | None) -> list[str]:
    """The names of columns as a list."""
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def resolve_path(path: str, root: str | None) -> str:
    """Makes the path of a picture or sound absolute, links followed, and refuses it where it leads out of `root`: a
    table from a stranger must not read other files of this machine.

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


def is_absent(value: Any) -> bool:
    """Whether a row has nothing there: None, or the NaN that tables write for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def rows_by_path(dataset: Dataset, split: str, column: str) -> Iterator[dict[str, Any]]:
    """The rows whose picture or sound is in a file and not in the data, without their other columns, as `Rows` gives
    them. Pictures are `Image(decode=False)`, sounds likewise structs of bytes and path."""
    names = [column, *({SOURCE_ROW} & set(dataset.column_names))]
    start = 0
    for table in dataset.select_columns(names).with_format("arrow").iter(batch_size=1000):
        inside = pc.is_valid(pc.struct_field(table[column], "bytes")).to_pylist()
        paths = pc.struct_field(table[column], "path").to_pylist()
        for place, path in enumerate(paths):
            if path is not None and not inside[place]:
                others = {name: table[name][place].as_py() for name in names[1:]}
                yield {column: {"bytes": None, "path": path}, **others, "row_id": start + place, "split": split}
        start += len(paths)


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

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from self.__getitems__(range(start, min(start + ROWS_AT_ONCE, len(self))))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        columns = self.dataset[indices]
        return [
            {**{name: values[place] for name, values in columns.items()}, ROW_ID: index, SPLIT: self.split}
            for place, index in enumerate(indices)
        ]
