"""Columns by the part that they play, and rows that know where they come from."""

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


# Column with the row number before a part was split off. Only this number is in the user's own file.
SOURCE_ROW = "_source_row"
# What a row of a stream knows about its place, besides `row_id` and `split`, which every row has.
EPOCH, POSITION = "_epoch", "_position"
ROW_ID, SPLIT = "row_id", "split"
ABOUT_ROWS = ("label", "kind", "weight")  # parts of a row that no encoder reads
ROWS_AT_ONCE = 1000  # rows to fetch together when all rows are read


class BadRowError(ValueError):
    """A row that cannot be used. The message names the split, the row, the column, the file if there is one, and the
    reason.

    Attributes:
        entry: the same as a dict of `split`, `row`, `column`, `file` and `reason`. It is one line of `bad_rows.jsonl`.
            If the part was split off, it also has `source_row`, the row number in the data before the split.
    """

    def __init__(
        self, row: dict[str, Any] | str, column: str | None = None, reason: str = "", file: str | None = None
    ):
        if isinstance(row, str):  # the whole message, because a DataLoader worker passes on nothing else
            super().__init__(row.strip().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))
            return
        self.entry = {"split": row["split"], "row": row["row_id"], "column": column, "file": file, "reason": reason}
        if SOURCE_ROW in row:
            self.entry["source_row"] = row[SOURCE_ROW]
        super().__init__(describe_bad_row(self.entry))


def describe_bad_row(entry: dict[str, Any]) -> str:
    """The entry of a `BadRowError` as text."""
    file = "" if entry["file"] is None else f", file {entry['file']!r}"
    source = f" (row {entry['source_row']} of the data)" if "source_row" in entry else ""
    return (
        f"row {entry['row']} of split {entry['split']!r}{source}, column {entry['column']!r}{file}: {entry['reason']}"
    )


@dataclass
class Columns:
    """The names of the columns, by the part that they play in a row. None if a data set has no such column. A list of
    names if a row has several items of one kind. Each item then has its place in the row, and the model learns the
    places.

    Args:
        image: pictures, a `datasets.Image` or paths; None in a row: the row has no picture. One or several.
        image_id: equal values mean the same picture; if left out, equal bytes do.
        text: strings; None in a row: the row has no text. One or several.
        label: a `ClassLabel`, strings, integers, floats, or lists of floats. A list of names if a row has the labels
            of several tasks. Each task has the name of its column.
        kind: strings by which metrics are split.
        weight: numbers, how much each row counts in the training loss. By label column if only some tasks have
            weights.
        audio: sounds, a `datasets.Audio`, paths or bytes; None in a row: the row has no sound. One or several.
        video: files of videos, their paths or bytes, or lists of pictures; None in a row: the row has no video. The
            frames are pictures of the row and come after those of `image`.
        table: numbers, strings, truth values or classes, the columns of a table. None or NaN in a column: this value
            is missing. In all columns: the row has no table.
        series: time series: lists of steps, each a list of numbers (or a number); None in a row, or no step: the row
            has none. One or several.
        extra: for modalities from outside the package, by name, the columns for their `ModalityReader`.

    Raises:
        ValueError: a column has a name that rows reserve; a modality in `extra` has a field above; or weights belong
            to a label that does not exist.
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
            raise ValueError(
                f"extra is only for modalities from outside mm_hf, but {taken} are part of it: use their arguments."
            )
        read = [pair for pair in self.named() if pair[0] not in ("kind", "group")]  # those two are not read row by row
        reserved = [(part, column) for part, column in read if column in (ROW_ID, SPLIT)]
        if reserved:
            part, column = reserved[0]
            raise ValueError(
                f"The {part} column is called {column!r}, but rows use this name for their place: rename it, for "
                f"instance to {f'{column}_'!r}."
            )
        if isinstance(self.weight, dict) and (unknown := set(self.weight) - set(self.labels)):
            meant = did_you_mean(sorted(unknown)[0], self.labels)
            raise ValueError(f"weight names {sorted(unknown)}, but the label columns are {self.labels}.{meant}")

    @property
    def images(self) -> list[str]:
        """The columns of pictures: none, one or several."""
        return listed(self.image)

    @property
    def texts(self) -> list[str]:
        """The columns of texts: none, one or several."""
        return listed(self.text)

    @property
    def sounds(self) -> list[str]:
        """The columns of sounds: none, one or several."""
        return listed(self.audio)

    @property
    def files(self) -> list[str]:
        """The columns whose items are files: pictures, sounds and videos."""
        return [*self.images, *self.sounds, *listed(self.video)]

    def frames(self, pictures: int) -> int:
        """The number of frames of the video, if a model sees `pictures` pictures per row."""
        return max(1, pictures - len(self.images))

    @property
    def labels(self) -> list[str]:
        """The columns of labels: none, one or several."""
        return listed(self.label)

    @property
    def weights(self) -> dict[str, str]:
        """The weight column by label column, for labels that have weights."""
        if self.weight is None:
            return {}
        return dict.fromkeys(self.labels, self.weight) if isinstance(self.weight, str) else dict(self.weight)

    def named(self) -> list[tuple[str, str]]:
        """All columns, as pairs of their part and their name. A part is a field of this class, or a modality from
        outside. Labels, kinds and weights come last."""
        values = {each.name: getattr(self, each.name) for each in fields(Columns)}
        values |= {"weight": list(dict.fromkeys(self.weights.values()))}
        values |= values.pop("extra")
        ordered = sorted(values, key=ABOUT_ROWS.__contains__)  # the others keep their order
        return [(part, column) for part in ordered for column in listed(values[part])]


def listed(names: str | list[str] | None) -> list[str]:
    """The names of columns as a list."""
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def resolve_path(path: str, root: str | None) -> str:
    """The absolute path of a picture or sound, with links resolved. Refuses a path that leads out of `root`, because a
    table from a stranger must not read other files of this machine.

    Args:
        path: as the row has it, relative to `root` or absolute.
        root: see `data_root_of`; None: only the caches of datasets and of the Hub are allowed, where these libraries
            put pictures.

    Raises:
        ValueError: the path leads out of the root.
    """
    roots = [root] if root is not None else [str(datasets.config.HF_DATASETS_CACHE), HF_HUB_CACHE]
    if "\0" not in path:
        full = os.path.realpath(os.path.join(roots[0], path))
        for allowed in map(os.path.realpath, roots):
            if os.path.commonpath([full, allowed]) == allowed:
                return full
    hint = "" if root is not None else ": set data_root to the folder of the files"
    raise ValueError(f"path {path!r} leads out of {' and '.join(map(repr, roots))}{hint}.")


def is_absent(value: Any) -> bool:
    """Whether a value is absent: None, or NaN, which tables write for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def rows_by_path(dataset: Dataset, split: str, column: str) -> Iterator[dict[str, Any]]:
    """The rows whose picture or sound is a file outside the data, in the form of `Rows`, without other columns.
    Pictures are `Image(decode=False)`. Sounds are structs of bytes and path."""
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

    Rows are fetched in batches, which is about 20 times faster than one by one.

    Args:
        dataset: the rows.
        split: the name of the split, for messages.

    Attributes:
        groups, lengths, weights: one value per row, for `GroupedBatchSampler`; None if all rows are alike.
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
