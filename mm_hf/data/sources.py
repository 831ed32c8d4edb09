"""Opens people's own data, whatever form it has, as one `DatasetDict` with train, validation and test."""

import glob
import os
import re
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import (
    Audio,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    Json,
    List,
    Value,
    Video,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from transformers.utils import logging

from ..models.finite import kind_of_texts
from ..models.names import did_you_mean
from .csv_files import CELLS, Unreadable, read_csv, texts_in
from .cutting import cut, group_rows
from .files_read import cache_folder, files_of
from .labels import STRINGS, count_values, name_of
from .loading import SOURCE_ROW, Columns, resolve_path


logger = logging.get_logger(__name__)

READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", CELLS),
    ".tsv": ("csv", {**CELLS, "sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
    ".tar": ("webdataset", {}),
}
PARTS = ("train", "validation", "test")
# How people name the parts, in the keys of a data set and in file names; datasets' own list.
SYNONYMS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
PART_OF = {name: part for part, names in SYNONYMS.items() for name in names}
PART_IN_NAME = re.compile(rf"(?:^|[^a-z0-9])({'|'.join(PART_OF)})(?=[^a-z]|$)")
SOUND = {"bytes": Value("binary"), "path": Value("string")}  # what `datasets.Audio` holds, which needs torchcodec
STREAM_SHARDS = 64  # of a folder on disk: divisible by most numbers of processes


def load_splits(
    dataset: str | os.PathLike,
    columns: Columns,
    *,
    data_root: str | os.PathLike | None = None,
    streaming: bool = False,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    group_column: str | None = None,
    seed: int = 0,
    as_text: Collection[str] = (),
    measured: bool = False,
    as_written: bool = True,
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
        streaming: read while training; all three parts must be there.
        validation_fraction, test_fraction: of the rows of train; 0 leaves the part out.
        group_column: rows with equal values stay on one side of a cut; left out, those that share a picture do.
        seed: of the cut.
        as_text: columns of a CSV whose cells are texts, whatever they look like: labels that are to be written.
        measured: a validation or test part without any label is of no use: with a warning it is left out, and cut
            from train as if it had never been there.
        as_written: False reads CSVs as they were read when digits lost their zeros and text could be numbers: for runs
            that began so.

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
    root = data_root_of(dataset, data_root)
    wanted = wanted_columns(columns, group_column)
    splits, known = open_source(dataset, streaming, wanted, as_text, as_written)
    splits = named_parts(splits, dataset)
    if not streaming:
        splits = with_labels(splits, columns)
    for name, split in splits.items():
        # Rows are kept together where they are cut, and nowhere else.
        own = group_column if name == "train" or "train" not in splits else None
        splits[name] = prepare(split, name, dataset, columns, own, root, known.get(name))
    if as_written:
        splits = of_one_type(splits, wanted, dataset, find_files(dataset))
    if measured and not streaming:
        splits = {name: split for name, split in splits.items() if is_measurable(split, name, columns, dataset)}
    missing = [part for part in PARTS[1:] if part not in splits and fractions[part] > 0]
    if missing and (streaming or "train" not in splits):
        raise ValueError(
            f"{dataset} has no {' and no '.join(missing)} part (it has {list(splits)}), and one can be cut from train "
            f"alone, and not of a stream: add files named after the parts, or set {missing[0]}_fraction to 0."
        )
    kept = list(dict.fromkeys(column for _, column in columns.named()))
    if missing:
        train = splits["train"]
        groups = group_rows(train, columns, group_column)
        train = train.select_columns(kept).add_column(SOURCE_ROW, np.arange(len(train)))
        splits |= cut(train, groups, {part: fractions[part] for part in missing}, seed)
    ordered = sorted(splits, key=lambda name: PARTS.index(name) if name in PARTS else len(PARTS))
    selected = {
        name: splits[name].select_columns([*kept, *({SOURCE_ROW} & set(splits[name].column_names))])
        for name in ordered
    }
    return IterableDatasetDict(selected) if streaming else DatasetDict(selected)


def data_root_of(dataset: str | os.PathLike, data_root: str | os.PathLike | None = None) -> str | None:
    """The folder that paths of pictures are relative to and may not leave: `data_root`, else the folder of the data
    set or of its file; None for a Hub id.

    Raises:
        FileNotFoundError: `data_root` is no folder.
    """
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


def wanted_columns(columns: Columns, group_column: str | None) -> list[tuple[str, str]]:
    """The columns in use, as pairs of their part and their name."""
    return columns.named() + ([("group", group_column)] if group_column else [])


def open_source(
    dataset: str | os.PathLike,
    streaming: bool,
    wanted: list[tuple[str, str]],
    as_text: Collection[str] = (),
    as_written: bool = True,
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The parts of a data set by their own names, and of CSVs, of which only the columns in use are read, the names of
    all columns of each part; see `load_splits`."""
    if os.path.isdir(dataset) and any(
        os.path.exists(os.path.join(dataset, name)) for name in ("dataset_dict.json", "state.json")
    ):
        return open_saved(dataset, streaming), {}
    files = find_files(dataset)
    options: dict[str, Any] = {}
    reader = None
    cache = cache_folder([path for paths in files.values() for path in paths] if files else files_of(dataset))
    if files:
        suffix = Path(next(iter(files.values()))[0]).suffix.lower()
        reader, options = READERS[suffix]
        source, options = reader, {**options, "data_files": files}
    elif os.path.isdir(dataset):
        saved = sorted(str(file.parent) for file in Path(dataset).glob("*/dataset_dict.json"))
        if saved:
            raise FileNotFoundError(f"{dataset} is no folder that save_to_disk wrote, but {', '.join(saved)} is.")
        source = os.path.realpath(dataset)
    else:
        source = str(dataset)
    try:
        if reader == "csv" and wanted and as_written:
            return read_csv(files, wanted, streaming, as_text, cache)
        if reader in ("json", "parquet") and not streaming and as_written:
            return {part: load_files(reader, part, paths, wanted, cache) for part, paths in files.items()}, {}
        if as_written and not files and os.path.isdir(dataset):
            options = with_metadata(source, wanted, as_text)
        return dict(load_dataset(source, streaming=streaming, cache_dir=cache, **options)), {}
    except Unreadable:
        raise
    except Exception as error:  # each reader raises its own types
        raise unreadable(dataset, error, files or os.path.isdir(dataset)) from error


def with_metadata(folder: str, wanted: list[tuple[str, str]], as_text: Collection[str]) -> dict[str, Any]:
    """What a folder of pictures has to be loaded with, so that the cells of its metadata.csv stay as they are
    written; see `read_csv`."""
    paths = sorted(str(path) for pattern in ("metadata.csv", "*/metadata.csv") for path in Path(folder).glob(pattern))
    texts = texts_in(paths, wanted, as_text) if paths else []
    if not texts:
        return {}
    split = next(iter(load_dataset(folder, streaming=True).values()))
    features = dict(split.features or split._resolve_features().features)
    own = [name for name in texts if name in features and features[name] != Value("string")]
    own = [name for name in own if isinstance(features[name], Value)]
    return {"features": Features({**features, **dict.fromkeys(own, Value("string"))})} if own else {}


def load_files(
    reader: str, part: str, paths: list[str], wanted: list[tuple[str, str]], cache: str | None = None
) -> Dataset:
    """One part from files of JSON or Parquet; where they differ, each by itself, of the columns in use alone. For
    `cache` see `cache_folder`: it is that of all files, since what is made of several is kept beside the first."""
    try:
        return load_dataset(reader, data_files={part: paths}, cache_dir=cache)[part]
    except Exception:  # each reader raises its own types
        names = list(dict.fromkeys(column.split(".")[0] for _, column in wanted))
    loaded: dict[str, Any] = {}
    for path in paths:
        split = load_file(reader, part, path, names, cache)
        if lacking := [name for name in names if name not in split.column_names]:
            raise Unreadable(f"{path} has no column {lacking[0]!r}: it has {split.column_names}.")
        loaded[path] = split.select_columns(names)
    return concatenate_datasets(list(of_one_type(loaded, wanted, Path(paths[0]).parent, {}).values()))


def load_file(reader: str, part: str, path: str, names: list[str], cache: str | None = None) -> Dataset:
    """One file. In JSON, whose types are guessed by its first megabytes, a column of numbers may have a text later on:
    that one is then read as what each value is."""
    options: dict[str, Any] = {"data_files": {part: [path]}, "cache_dir": cache}
    try:
        return load_dataset(reader, **options)[part]
    except Exception as error:  # each reader raises its own types
        if reader == "json":
            features = load_dataset(reader, streaming=True, **options)[part]._resolve_features().features
            for name in names:
                if kind_of(getattr(features.get(name), "dtype", "")) not in ("int", "float", "bool"):
                    continue
                try:
                    return load_dataset(reader, features=Features({**features, name: Json()}), **options)[part]
                except Exception:
                    continue
        raise unreadable(path, error, local=True) from error


def with_labels(splits: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """The parts, those beside train with the columns of labels and weights that they lack: labels None, weights 1."""
    train = splits.get("train")
    if train is None:
        return splits
    values: dict[str, Any] = dict.fromkeys(columns.labels) | dict.fromkeys(columns.weights.values(), 1)
    found = {}
    for name, split in splits.items():
        for column, value in values.items():
            if name != "train" and column in train.column_names and column not in split.column_names:
                feature: Any = train.features[column]
                filled = str(value) if value is not None and kind_of(feature.dtype) == "string" else value
                split = split.add_column(column, [filled] * len(split), feature=feature)
        found[name] = split
    return found


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


def of_one_type(
    splits: dict[str, Any], wanted: list[tuple[str, str]], dataset: Any, places: Mapping[str, list[str]]
) -> dict[str, Any]:
    """The parts, with one type for each column in use.

    Args:
        splits: the parts.
        wanted: the columns in use.
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
            found = common_type(common, feature)
            if found is None:
                one, other = (places.get(part, [repr(part)]) for part in (first, name))
                raise Unreadable(
                    f"Column {column!r} of {dataset} holds {common} in {', '.join(one)} and {feature} in "
                    f"{', '.join(other)}: it needs one type in all."
                )
            common = found
        if isinstance(common.feature if isinstance(common, List) else common, ClassLabel):
            continue  # a cast would keep the numbers and change the names
        for name, feature in features.items():
            if feature != common:
                splits[name] = splits[name].cast_column(column, common)
    return splits


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


def kind_of(dtype: str) -> str:
    """What a type of values is for: "string", "int", "float", or itself."""
    if dtype in STRINGS:
        return "string"
    return next((kind for kind in ("int", "float") if dtype.removeprefix("u").startswith(kind)), dtype)


def open_saved(folder: str | os.PathLike, streaming: bool) -> dict[str, Any]:
    """What `save_to_disk` wrote."""
    try:
        saved = load_from_disk(str(folder))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} is no folder that save_to_disk wrote: {error}") from None
    splits = {"train": saved} if isinstance(saved, Dataset) else dict(saved)
    if not streaming:
        return splits
    return {
        name: split.to_iterable_dataset(num_shards=max(1, min(len(split), STREAM_SHARDS)))
        for name, split in splits.items()
    }


def unreadable(dataset: str | os.PathLike, error: Exception, local: Any) -> Exception:
    """The error to raise for what a reader of datasets raised: one line, with the cause and not its wrapping."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__  # type: ignore[assignment]
    if isinstance(error, StopIteration) or "corresponds to no data" in str(error):
        return Unreadable(f"{dataset} has no rows.")
    said = f"({type(cause).__name__}: {' '.join(str(cause).split())})"
    if local:
        return Unreadable(f"{dataset} cannot be read {said}.")
    return FileNotFoundError(
        f"Data set {str(dataset)!r} is neither a local file or folder nor could it be loaded from the Hub {said}."
    )


def find_files(dataset: str | os.PathLike) -> dict[str, list[str]]:
    """The data files of a file, a glob or a folder, by part; none for anything else, as a folder of pictures.

    Raises:
        FileNotFoundError: no such file.
        ValueError: files of several kinds, or an empty one.
    """
    if os.path.isdir(dataset):
        found = [str(path) for path in sorted(Path(dataset).iterdir()) if path.is_file() and path.stem != "metadata"]
        found = [path for path in found if Path(path).suffix.lower() in READERS]
    elif glob.has_magic(str(dataset)):
        found = sorted(glob.glob(str(dataset), recursive=True))
        if not found:
            raise FileNotFoundError(f"No file matches {str(dataset)!r}.")
    elif os.path.isfile(dataset):
        found = [str(dataset)]
    elif Path(dataset).suffix.lower() in READERS or os.path.isabs(dataset):
        raise FileNotFoundError(f"There is no file or folder {str(dataset)!r}.")
    else:
        return {}
    parts: dict[str, list[str]] = {}
    for path in found if len(found) > 1 else []:
        match = PART_IN_NAME.search(Path(path).stem.lower())
        if match:
            parts.setdefault(PART_OF[match[1]], []).append(path)
    if not parts and found:
        parts = {"train": found}
    used = [path for paths in parts.values() for path in paths]
    kinds = sorted({Path(path).suffix.lower() for path in used})
    if len(kinds) > 1 or any(kind not in READERS for kind in kinds):
        raise ValueError(f"{dataset} holds {', '.join(kinds)} files; needed is one kind of {', '.join(READERS)}.")
    for path in used:
        if os.path.getsize(path) == 0:
            raise ValueError(f"{path} is empty.")
    return parts


def named_parts(splits: dict[str, Any], dataset: str | os.PathLike) -> dict[str, Any]:
    """The parts under the names train, validation and test; others keep theirs."""
    named: dict[str, Any] = {}
    for name, split in splits.items():
        part = PART_OF.get(name.lower(), name)
        if part in named:
            raise ValueError(f"{dataset} has several parts that mean {part!r}: {list(splits)}.")
        named[part] = split
    return named


def prepare(
    split: Dataset | IterableDataset,
    name: str,
    dataset: str | os.PathLike,
    columns: Columns,
    group_column: str | None,
    root: str | None,
    known: list[str] | None = None,
) -> Dataset | IterableDataset:
    """One part with its columns checked, its pictures as structs of bytes and path, and its texts as strings.

    Args:
        split: its rows.
        name, dataset: of the part and of the whole, in messages.
        columns, group_column: those in use.
        root: see `resolve_path`.
        known: all columns that its files have; None: those of `split`.

    Raises:
        ValueError: see `load_splits`.
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
    wanted = wanted_columns(columns, group_column)
    split = add_fields(split, [column for _, column in wanted if column not in split.column_names])
    for part, column in wanted:
        if column in split.column_names and isinstance(split.features[column], Json) and part not in ("series",):
            split = spelled(split, name, column)
        if column not in split.column_names:
            key = "table_columns" if part == "table" else f"{part}_column"
            raise ValueError(
                f"Unknown column {column!r} (given as {key}) in split {name!r} of {dataset}: it has "
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
        if part == "text" and kind_of(kind) in ("int", "float") and isinstance(split, Dataset):
            split = split.cast_column(column, Value("string"))
    for column in columns.images:
        split = with_files(split, column, root, "images", Image(decode=False))
    if columns.audio is not None:
        split = with_files(split, columns.audio, root, "sounds", SOUND)
    if columns.video is not None:
        split = with_videos(split, columns.video, root)
    return split


def spelled(split: Dataset | IterableDataset, name: str, column: str) -> Dataset | IterableDataset:
    """A part with a column of numbers and texts, as JSON may have one, as texts."""
    features = Features({**split.features, column: Value("string")})
    return split.map(partial(spell, name=name, column=column), with_indices=True, features=features)


def spell(row: dict[str, Any], place: int, name: str, column: str) -> dict[str, str | None]:
    """A value of one row as a text.

    Raises:
        Unreadable: it is a list or a dict, naming the row.
    """
    value = row[column]
    if value is not None and not isinstance(value, (str, int, float)):
        raise Unreadable(
            f"Row {place} of part {name!r}, column {column!r}, holds {value!r:.80} where others are texts."
        )
    return {column: value if value is None or isinstance(value, str) else name_of(value)}


def holds_weights(split: Dataset | IterableDataset, column: str, kind: str) -> bool:
    """Whether a column holds numbers, or texts that are numbers but for a few bad ones."""
    if kind in STRINGS and isinstance(split, Dataset):
        return kind_of_texts(count_values(split, column)) in ("digits", "numbers")
    return kind_of(kind) in ("int", "float")


def add_fields(split: Dataset | IterableDataset, names: list[str]) -> Dataset | IterableDataset:
    """Makes fields of structs columns of their own, as `json.question` of the column `json`; skips what is none."""
    types = {}
    for name in names:
        column, *path = name.split(".")
        feature: Any = split.features.get(column)
        for key in path:
            feature = feature.get(key) if isinstance(feature, dict) else None
        if path and feature is not None:
            types[name] = feature
    if not types:
        return split
    whole = isinstance(split, Dataset)
    for column, feature in split.features.items():
        if isinstance(feature, Image):
            # `flatten` would take an undecoded picture apart. In a stream the cast is lost when it comes after `map`.
            split = split.cast_column(column, Image(decode=whole))
    if whole:
        return split.flatten()
    return split.map(partial(pick_fields, names=list(types)), features=Features({**split.features, **types}))


def pick_fields(row: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The fields of one row, by their dotted names."""
    fields = {}
    for name in names:
        column, *path = name.split(".")
        value = row[column]
        for key in path:
            value = None if value is None else value[key]
        fields[name] = value
    return fields


def with_files(
    split: Dataset | IterableDataset, column: str, root: str | None, what: str, target: Any
) -> Dataset | IterableDataset:
    """The split with this column as structs of bytes and path, made from paths or bytes where it holds these.

    Args:
        split: the rows.
        column: of pictures or sounds.
        root: see `resolve_path`.
        what: they are, in messages.
        target: the feature, `Image(decode=False)` or `SOUND`.

    Raises:
        ValueError: it holds something else, or paths of which none of the first 100 is a file.
    """
    feature: Any = split.features[column]
    strings = isinstance(feature, Value) and feature.dtype in STRINGS
    binary = isinstance(feature, Value) and "binary" in feature.dtype
    struct = isinstance(feature, dict) and set(feature) <= {"bytes", "path"}
    own = Image if isinstance(target, Image) else Audio
    if not (isinstance(feature, own) or strings or binary or struct):
        raise ValueError(
            f"Column {column!r} must hold {what} (datasets.{own.__name__}, bytes or paths), it holds {feature}."
        )
    if strings:
        first = [row[column] for row in split.select_columns([column]).take(100)]
        paths = [path for path in first if path]
        if paths and not any(is_file(path, root) for path in paths):
            raise ValueError(
                f"Column {column!r} must hold {what} or paths to them, but none of its first {len(paths)} values is a "
                f"file below {root or 'data_root'!r} (the first: {paths[0]!r}). Only files below that folder are "
                "read: --data_root names the folder that all of them are below."
            )
        if isinstance(split, Dataset) and "" in split.unique(column):
            split = split.map(partial(drop_empty, column=column), features=split.features)
    if isinstance(feature, own) or (isinstance(split, Dataset) and (struct or own is Image)):
        return split.cast_column(column, target) if feature != target else split
    features = Features({**split.features, column: target})
    return split.map(partial(as_file, column=column), features=features)


def with_videos(split: Dataset | IterableDataset, column: str, root: str | None) -> Dataset | IterableDataset:
    """The split with videos as structs of bytes and path, or as lists of those where they are lists of pictures; see
    `with_files`."""
    feature: Any = split.features[column]
    if isinstance(feature, Video):  # not to be decoded by datasets, see `prepare`
        return split
    if isinstance(feature, List) and isinstance(feature.feature, Image):
        return split.cast_column(column, List(Image(decode=False)))
    return with_files(split, column, root, "videos", SOUND)


def drop_empty(row: dict[str, Any], column: str) -> dict[str, Any]:
    """The row with None for an empty path: datasets would take "" for a file."""
    return {column: row[column] or None}


def as_file(row: dict[str, Any], column: str) -> dict[str, Any]:
    """The row with a path, bytes or part of a struct as the struct of both; None for what is empty."""
    value = row[column]
    if isinstance(value, (str, bytes)):
        value = {"path" if isinstance(value, str) else "bytes": value} if value else None
    return {column: None if value is None else {"bytes": value.get("bytes"), "path": value.get("path")}}


def is_file(path: str, root: str | None) -> bool:
    """Whether the path is allowed and leads to a file."""
    try:
        return os.path.isfile(resolve_path(path, root))
    except ValueError:
        return False
