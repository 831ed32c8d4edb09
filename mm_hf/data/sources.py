"""Opens the user's data in any form as one `DatasetDict` with train, validation and test."""

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
    """Loads a data set, checks its columns, and splits validation and test off from train if they are missing.

    Pictures stay encoded, as structs of bytes and path. The collator decodes each distinct picture of a batch once,
    and opens a path only through `resolve_path`. Only the columns in use are read, with one type for all parts.
    `read_csv` describes how cells of a CSV are read. Parts other than train may lack labels, which are then None, and
    weights, which are then 1.

    Args:
        dataset: one of
            a folder that `save_to_disk` wrote (a single `Dataset` is the training part);
            a .csv, .tsv, .json, .jsonl or .parquet file, a glob of such files, or a folder of them. Files with the
            name of a part (`train.csv`, `val.csv`…) become this part. If no file has such a name, all are the training
            part; WebDataset shards, .tar, in the same way: columns are the members' extensions, `json.question` is a
            key of the json;
            a folder of pictures with metadata.csv or .jsonl (column `image`), or with one sub-folder per class
            (columns `image` and `label`), and any other folder that `datasets.load_dataset` reads;
            a Hub id.
        columns: the columns in use. Others are dropped. If parts are split off, they and the rest of train also have
            `_source_row`, the row's number before the split.
        data_root: the folder of the files, if a column holds their paths; see `data_root_of`.
        streaming: read rows during training. All three parts must exist.
        validation_fraction, test_fraction: the share of train's rows for the part; 0: the part is left out.
        group_column: rows with equal values stay in the same part. If left out, rows with the same picture do.
        time_column: dates or times. The latest rows become validation and test, instead of random rows.
        seed: the seed of the random split.
        as_text: CSV columns with cells that are always texts: labels to write.
        measured: a validation or test part without any label is useless. It is replaced, with a warning, by a part
            that is split off from train.
        as_written: False reads CSVs in the old way, in which digits lost leading zeros and texts could become numbers.
            For runs that began in this way.
        as_meant: labels that are numbers formatted for people ("1.402,15") become numbers, unless few are distinct.
            False: they stay texts.
        decimal: "," or ".", the mark before the decimals of such numbers, for columns in which no value shows it.
        problem_type: the problem type of a recipe: one for all labels, or by column; None: found from the values.
        fold: the number of folds and the number of one fold, from 1. Its rows are the test part, and validation is
            split off from the others. Number 0: all rows are train.
        bad: collects rows without a time, which are left out of a split by `time_column`; None: the first one raises.

    Raises:
        FileNotFoundError: there is no such folder, file or data set on the Hub.
        ValueError: a file cannot be read or has no rows; a column does not exist or holds no pictures; the types of a
            column do not fit together in all parts; or a part is missing and cannot be split off.
    """
    fractions = {"validation": validation_fraction, "test": test_fraction}
    if min(fractions.values()) < 0 or sum(fractions.values()) >= 1:
        raise ValueError(
            f"validation_fraction and test_fraction must be at least 0, and their sum below 1, got {fractions}."
        )
    if group_column and time_column:
        raise ValueError(f"group_column is {group_column!r} and time_column is {time_column!r}: set only one of them.")
    root = data_root_of(dataset, data_root)
    wanted = wanted_columns(columns, group_column, time_column)
    splits, known = open_source(dataset, streaming, wanted, as_text, as_written, decimal)
    splits = named_parts(splits, dataset)
    if not streaming:
        splits = with_labels(splits, columns)
    for name, split in splits.items():
        # Group and time columns are needed only in a part that is split up.
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
                f"{dataset} already has the part(s) {', '.join(present)}, but folds splits all rows itself: leave "
                "folds out, or give only the file of train."
            )
        fractions = {"validation": 0.0, "test": 0.0}
    missing = [part for part in PARTS[1:] if part not in splits and fractions[part] > 0]
    if missing and (streaming or "train" not in splits):
        raise ValueError(
            f"{dataset} has no {' and no '.join(missing)} part (it has {list(splits)}). A part can be split off only "
            f"from train, and not from a stream: add files named after the parts, or set {missing[0]}_fraction to 0."
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
    """The folder that paths of files are relative to, and that they must stay in: `data_root`, else the folder of the
    data set or of its file. None for a Hub id."""
    if data_root is not None:
        if not os.path.isdir(data_root):
            raise FileNotFoundError(f"data_root {str(data_root)!r} is not a folder.")
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
    """The parts. If a part lacks label or weight columns that train has, they are added: labels None, weights 1."""
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
    """Whether a part can be measured, because it has a label. Warns if it cannot."""
    if name not in PARTS[1:] or not columns.labels or any(has_labels(split, column) for column in columns.labels):
        return True
    logger.warning(
        f"Part {name!r} of {dataset} has no label in {' and '.join(map(repr, columns.labels))}, so nothing can be "
        "measured on it. It is left out, and rows of train are used instead."
    )
    return False


def has_labels(split: Dataset, column: str) -> bool:
    """Whether any row has a label. None, NaN and -1, the number of a missing class, do not count."""
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
    """One part with checked columns, pictures as structs of bytes and path, and texts as strings.

    Args:
        split: the rows.
        name, dataset: the names of the part and of the data set, for messages.
        columns, group_column, time_column: the columns in use.
        root: the folder of files, see `data_root_of`.
        known: all columns in its files; None: those of `split`.
    """
    for column, feature in (split.features or {}).items():
        if isinstance(feature, Audio):  # decoding is not needed here, and would require torchcodec
            split = split.cast_column(column, Audio(decode=False))
        if isinstance(feature, Video):
            split = split.cast_column(column, Video(decode=False))
    try:
        empty = next(iter(split.select_columns(split.column_names or []).take(1)), None) is None
    except Exception as error:  # a stream is opened here, and each reader raises different types
        raise unreadable(dataset, error, local=True) from error
    if empty:
        raise ValueError(f"Part {name!r} of {dataset} has no rows. Add some, or remove the part.")
    if split.features is None:
        split = split._resolve_features()  # for a stream after `map`; datasets does the same
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
                f"Column {column!r} (given as {part}_column) of {dataset} holds {split.features[column]}, but its "
                "values identify rows: they must be strings or numbers."
            )
        kind = getattr(split.features[column], "dtype", "")
        if part == "weight" and not holds_weights(split, column, kind):
            raise ValueError(
                f"Column {column!r} (given as weight_column) of {dataset} must hold numbers, but it holds {kind}."
            )
    for part, column in wanted:
        if (reader := reader_of_part(part)) is not None:
            split = reader.prepare_column(split, column, part, root)
    return split


def holds_weights(split: Dataset | IterableDataset, column: str, kind: str) -> bool:
    """Whether a column holds numbers, or texts that are almost all numbers."""
    if kind in STRINGS and isinstance(split, Dataset):
        return kind_of_texts(count_values(split, column)) in ("digits", "numbers")
    return kind_of(kind) in ("int", "float")


def spelled(split: Dataset | IterableDataset, name: str, column: str) -> Dataset | IterableDataset:
    """A part with a column of mixed numbers and texts, as JSON may have one, converted to texts."""
    features = Features({**split.features, column: Value("string")})
    return split.map(partial(spell, name=name, column=column), with_indices=True, features=features)


def spell(row: dict[str, Any], place: int, name: str, column: str) -> dict[str, str | None]:
    """A value of one row as a text."""
    value = row[column]
    if value is not None and not isinstance(value, (str, int, float)):
        raise Unreadable(
            f"Row {place} of part {name!r}, column {column!r}, holds {value!r:.80}, but other rows have texts there."
        )
    return {column: value if value is None or isinstance(value, str) else name_of(value)}
