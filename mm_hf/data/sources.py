"""Opens people's own data, whatever form it has, as one `DatasetDict` with train, validation and test."""

import glob
import os
import re
from collections.abc import Collection
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import (
    Audio,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    Json,
    Value,
    Video,
)
from transformers.utils import logging

from ..models.finite import kind_of_texts
from ..models.names import did_you_mean
from .class_names import name_of
from .column_types import STRINGS, count_values, kind_of, of_one_type
from .files_read import Unreadable
from .marked_numbers import with_plain_labels
from .modalities import key_of_part, reader_of_part
from .nested_fields import add_fields
from .readers import find_files, named_parts, open_source, unreadable
from .rows import SOURCE_ROW, BadRowError, Columns
from .splitting import cut, cut_by_time, cut_fold, group_rows, strata_of, times_of


logger = logging.get_logger(__name__)

PARTS = ("train", "validation", "test")


def load_splits(
    dataset: str | os.PathLike,
    columns: Columns,
    *,
    data_root: str | os.PathLike | None = None,
    streaming: bool = False,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    group_column: str | None = None,
    time_column: str | None = None,
    seed: int = 0,
    as_text: Collection[str] = (),
    measured: bool = False,
    as_written: bool = True,
    as_meant: bool = False,
    decimal: str | None = None,
    problem_type: Any = None,
    fold: tuple[int, int] | None = None,
    bad: list[BadRowError] | None = None,
) -> DatasetDict | IterableDatasetDict:
    """Loads a data set, checks its columns, and cuts validation and test from train where they are missing.

    Pictures stay encoded, as a struct of bytes and path: the collator decodes each distinct one of a batch once, and
    follows a path only through `resolve_path`. Only the columns in use are read, with one type for all parts; what the
    cells of a CSV are, `read_csv` says. Other parts than train may lack the labels, which then are None, and the
    weights, which then are 1.

    Args:
        dataset: one of
            a folder that `save_to_disk` wrote (a single `Dataset` is the training part);
            a .csv, .tsv, .json, .jsonl or .parquet file, a glob of such files, or a folder of them: files named after
            the parts (`train.csv`, `val.csv`…) become these, else all are the training part;
            WebDataset shards, .tar, likewise: columns are the members' extensions, `json.question` a key of the json;
            a folder of pictures with metadata.csv or .jsonl (column `image`), or with one sub-folder a class (columns
            `image` and `label`), and whatever else `datasets.load_dataset` reads in a folder;
            a Hub id.
        columns: see there; others are dropped. Parts that were cut, and what is left of train, have `_source_row` as
            well: the row's number before.
        data_root: folder of the pictures where a column holds their paths; see `data_root_of`.
        time_column: dates or times: the latest rows are cut off, and not some at random.
        streaming: read while training; all three parts must be there.
        validation_fraction, test_fraction: of the rows of train; 0 leaves the part out.
        group_column: rows with equal values stay on one side of a cut; left out, those that share a picture do.
        as_text: columns of a CSV whose cells are texts, whatever they look like: labels that are to be written.
        measured: a validation or test part without any label is of no use: with a warning it is left out, and cut
            from train as if it had never been there.
        as_written: False reads CSVs as they were read when digits lost their zeros and text could be numbers: for runs
            that began so.
        as_meant: labels that are numbers formatted for people ("1.402,15") become numbers, unless they are few; False
            leaves them as texts.
        decimal: "," or ".", what begins the decimals of such numbers where no value of their column tells.
        problem_type: of a recipe: of all labels, or by their columns; None: by what they hold.
        bad: rows without a time are left out of a cut by `time_column`, and put here; None: the first one is raised.
        fold: how many folds there are and the number of one, from 1: its rows are the test part, and validation is cut
            from the others; 0: all rows are train.

    Raises:
        FileNotFoundError: no such folder or file, nor a data set that the Hub gives.
        ValueError: a file that cannot be read or has no rows, a column that is not there or holds no pictures, types
            of a column that do not go together in all parts, a part that is missing and cannot be cut.
    """
    fractions = {"validation": validation_fraction, "test": test_fraction}
    if min(fractions.values()) < 0 or sum(fractions.values()) >= 1:
        raise ValueError(
            f"validation_fraction and test_fraction must be at least 0 and below 1 together, got {fractions}."
        )
    if group_column and time_column:
        raise ValueError(
            f"group_column is {group_column!r} and time_column is {time_column!r}: rows are cut by one of them."
        )
    root = data_root_of(dataset, data_root)
    wanted = wanted_columns(columns, group_column, time_column)
    splits, known = open_source(dataset, streaming, wanted, as_text, as_written, decimal)
    splits = named_parts(splits, dataset)
    if not streaming:
        splits = with_labels(splits, columns)
    for name, split in splits.items():
        # Rows are kept together where they are cut, and nowhere else.
        cut_up = name == "train" or "train" not in splits
        kept_together, times = (group_column, time_column) if cut_up else (None, None)
        splits[name] = prepare(split, name, dataset, columns, kept_together, root, known.get(name), times)
    if as_written:
        splits = of_one_type(splits, wanted, dataset, find_files(dataset))
    if as_meant and not streaming:
        splits = with_plain_labels(splits, columns, as_text, decimal, problem_type)
    if measured and not streaming:
        splits = {name: split for name, split in splits.items() if is_measurable(split, name, columns, dataset)}
    if fold is not None:
        if present := [part for part in PARTS[1:] if part in splits]:
            raise ValueError(
                f"{dataset} has the part(s) {', '.join(present)} itself, and folds cuts all rows: leave folds out, or "
                "name the file of train alone."
            )
        fractions = {"validation": 0.0, "test": 0.0}
    missing = [part for part in PARTS[1:] if part not in splits and fractions[part] > 0]
    if missing and (streaming or "train" not in splits):
        raise ValueError(
            f"{dataset} has no {' and no '.join(missing)} part (it has {list(splits)}), and one can be cut from train "
            f"alone, and not of a stream: add files named after the parts, or set {missing[0]}_fraction to 0."
        )
    kept = list(dict.fromkeys(column for _, column in columns.named()))
    if missing:
        train = splits["train"]
        shares = {part: fractions[part] for part in missing}
        whole = train.select_columns(kept).add_column(SOURCE_ROW, np.arange(len(train)))
        if time_column:
            moments = times_of(train, time_column, bad)
            timed = ~np.isnan(moments)
            splits |= cut_by_time(whole.select(np.flatnonzero(timed)), moments[timed], shares)
        else:
            splits |= cut(whole, group_rows(train, columns, group_column), shares, seed)
    if fold is not None and fold[1] > 0:
        train = splits["train"]
        groups, strata = group_rows(train, columns, group_column), strata_of(train, columns)
        train = train.select_columns(kept).add_column(SOURCE_ROW, np.arange(len(train)))
        splits |= cut_fold(train, groups, strata, *fold, validation_fraction, seed)
    ordered = sorted(splits, key=lambda name: PARTS.index(name) if name in PARTS else len(PARTS))
    selected = {
        name: splits[name].select_columns([*kept, *({SOURCE_ROW} & set(splits[name].column_names))])
        for name in ordered
    }
    return IterableDatasetDict(selected) if streaming else DatasetDict(selected)


def data_root_of(dataset: str | os.PathLike, data_root: str | os.PathLike | None = None) -> str | None:
    """The folder that paths of pictures are relative to and may not leave: `data_root`, else the folder of the data
    set or of its file; None for a Hub id."""
    if data_root is not None:
        if not os.path.isdir(data_root):
            raise FileNotFoundError(f"data_root {str(data_root)!r} is no folder.")
        return os.path.realpath(data_root)
    if os.path.isdir(dataset):
        return os.path.realpath(dataset)
    if glob.has_magic(str(dataset)):
        fixed = re.split(r"[*?\[]", str(dataset), maxsplit=1)[0]
        return os.path.realpath(os.path.dirname(fixed) or ".")
    return os.path.realpath(os.path.dirname(dataset) or ".") if os.path.isfile(dataset) else None


def wanted_columns(
    columns: Columns, group_column: str | None, time_column: str | None = None
) -> list[tuple[str, str]]:
    """The columns in use, as pairs of their part and their name."""
    others = [("group", group_column), ("time", time_column)]
    return columns.named() + [(part, column) for part, column in others if column]


def with_labels(splits: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """The parts, those beside train with the columns of labels and weights that they lack: labels None, weights 1."""
    train = splits.get("train")
    if train is None:
        return splits
    values: dict[str, Any] = dict.fromkeys(columns.labels) | dict.fromkeys(columns.weights.values(), 1)
    completed = {}
    for name, split in splits.items():
        for column, value in values.items():
            if name != "train" and column in train.column_names and column not in split.column_names:
                feature: Any = train.features[column]
                filled = str(value) if value is not None and kind_of(feature.dtype) == "string" else value
                split = split.add_column(column, [filled] * len(split), feature=feature)
        completed[name] = split
    return completed


def is_measurable(split: Dataset, name: str, columns: Columns, dataset: str | os.PathLike) -> bool:
    """Whether a part can be measured: it has a label. Says so where it cannot."""
    if name not in PARTS[1:] or not columns.labels or any(has_labels(split, column) for column in columns.labels):
        return True
    logger.warning(
        f"Part {name!r} of {dataset} has no label in {' and '.join(map(repr, columns.labels))}: nothing can be "
        "measured on it, so it is left out, and rows of train take its place."
    )
    return False


def has_labels(split: Dataset, column: str) -> bool:
    """Whether any row has a label: neither None, NaN nor the -1 that stands for a missing class."""
    classes = isinstance(split.features[column], ClassLabel)
    for table in split.select_columns([column]).with_format("arrow").iter(batch_size=1000):
        values = table[column].filter(pc.invert(pc.is_null(table[column], nan_is_null=True)))
        if len(values) and (not classes or pc.max(values).as_py() >= 0):
            return True
    return False


def prepare(
    split: Dataset | IterableDataset,
    name: str,
    dataset: str | os.PathLike,
    columns: Columns,
    group_column: str | None,
    root: str | None,
    known: list[str] | None = None,
    time_column: str | None = None,
) -> Dataset | IterableDataset:
    """One part with its columns checked, its pictures as structs of bytes and path, and its texts as strings.

    Args:
        name, dataset: of the part and of the whole, in messages.
        columns, group_column, time_column: those in use.
        known: all columns that its files have; None: those of `split`.
    """
    for column, feature in (split.features or {}).items():
        if isinstance(feature, Audio):  # decoding it would need torchcodec, and is not wanted here
            split = split.cast_column(column, Audio(decode=False))
        if isinstance(feature, Video):
            split = split.cast_column(column, Video(decode=False))
    try:
        empty = next(iter(split.select_columns(split.column_names or []).take(1)), None) is None
    except Exception as error:  # a stream is opened here, and each reader raises its own types
        raise unreadable(dataset, error, local=True) from error
    if empty:
        raise ValueError(f"Part {name!r} of {dataset} has no rows.")
    if split.features is None:
        split = split._resolve_features()  # a stream that was mapped; datasets' own methods do the same
    wanted = wanted_columns(columns, group_column, time_column)
    split = add_fields(split, [column for _, column in wanted if column not in split.column_names])
    for part, column in wanted:
        reader = reader_of_part(part)
        nested = reader is not None and reader.lists
        if column in split.column_names and isinstance(split.features[column], Json) and not nested:
            split = spelled(split, name, column)
        if column not in split.column_names:
            raise ValueError(
                f"Unknown column {column!r} (given as {key_of_part(part)}) in split {name!r} of {dataset}: it has "
                f"{known or split.column_names}.{did_you_mean(column, known or split.column_names)}"
            )
        if part in ("image_id", "kind", "group") and not isinstance(split.features[column], Value | ClassLabel):
            raise ValueError(
                f"Column {column!r} (given as {part}_column) of {dataset} holds {split.features[column]}: its values "
                "tell rows apart, so they have to be strings or numbers."
            )
        kind = getattr(split.features[column], "dtype", "")
        if part == "weight" and not holds_weights(split, column, kind):
            raise ValueError(f"Column {column!r} (given as weight_column) of {dataset} holds no numbers, but {kind}.")
    for part, column in wanted:
        if (reader := reader_of_part(part)) is not None:
            split = reader.prepare_column(split, column, part, root)
    return split


def holds_weights(split: Dataset | IterableDataset, column: str, kind: str) -> bool:
    """Whether a column holds numbers, or texts that are numbers but for a few bad ones."""
    if kind in STRINGS and isinstance(split, Dataset):
        return kind_of_texts(count_values(split, column)) in ("digits", "numbers")
    return kind_of(kind) in ("int", "float")


def spelled(split: Dataset | IterableDataset, name: str, column: str) -> Dataset | IterableDataset:
    """A part with a column of numbers and texts, as JSON may have one, as texts."""
    features = Features({**split.features, column: Value("string")})
    return split.map(partial(spell, name=name, column=column), with_indices=True, features=features)


def spell(row: dict[str, Any], place: int, name: str, column: str) -> dict[str, str | None]:
    """A value of one row as a text."""
    value = row[column]
    if value is not None and not isinstance(value, (str, int, float)):
        raise Unreadable(
            f"Row {place} of part {name!r}, column {column!r}, holds {value!r:.80} where others are texts."
        )
    return {column: value if value is None or isinstance(value, str) else name_of(value)}
