"""Opens files, folders and data sets of the Hub with the readers of `datasets`, and finds their parts."""

import glob
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Json, Value, concatenate_datasets, load_dataset, load_from_disk

from .column_types import kind_of, of_one_type
from .csv_files import CELLS, read_csv, texts_in
from .files_read import Unreadable, cache_folder, files_of


READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", CELLS),
    ".tsv": ("csv", {**CELLS, "sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
    ".tar": ("webdataset", {}),
}
# Names of the parts in keys of a data set and in file names. datasets has the same list.
SYNONYMS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
PART_OF = {name: part for part, names in SYNONYMS.items() for name in names}
PART_IN_NAME = re.compile(rf"(?:^|[^a-z0-9])({'|'.join(PART_OF)})(?=[^a-z]|$)")
STREAM_SHARDS = 64  # for a folder on disk; most numbers of processes divide it


def open_source(
    dataset: str | os.PathLike,
    streaming: bool,
    wanted: list[tuple[str, str]],
    as_text: Collection[str] = (),
    as_written: bool = True,
    decimal: str | None = None,
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Opens a data set, see `load_splits`.

    Returns:
        the parts by their original names; and for CSV files, of which only the columns in use are read, the names of
        all columns by part.
    """
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
            raise FileNotFoundError(
                f"save_to_disk did not write the folder {dataset}, but it wrote {', '.join(saved)}: use that path."
            )
        source = os.path.realpath(dataset)
    else:
        source = str(dataset)
    try:
        if reader == "csv" and wanted and as_written:
            return read_csv(files, wanted, streaming, as_text, cache, decimal)
        if reader in ("json", "parquet") and not streaming and as_written:
            return {part: load_files(reader, part, paths, wanted, cache) for part, paths in files.items()}, {}
        if as_written and not files and os.path.isdir(dataset):
            options = with_metadata(source, wanted, as_text)
        return dict(load_dataset(source, streaming=streaming, cache_dir=cache, **options)), {}
    except Unreadable:
        raise
    except Exception as error:  # each reader raises different types
        raise unreadable(dataset, error, files or os.path.isdir(dataset)) from error


def find_files(dataset: str | os.PathLike) -> dict[str, list[str]]:
    """The data files of a file, a glob or a folder, by part. Empty for anything else, such as a folder of pictures.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there are several kinds of files, or a file is empty.
    """
    if os.path.isdir(dataset):
        files = [str(path) for path in sorted(Path(dataset).iterdir()) if path.is_file() and path.stem != "metadata"]
        files = [path for path in files if Path(path).suffix.lower() in READERS]
    elif glob.has_magic(str(dataset)):
        files = sorted(glob.glob(str(dataset), recursive=True))
        if not files:
            raise FileNotFoundError(f"No file matches {str(dataset)!r}.")
    elif os.path.isfile(dataset):
        files = [str(dataset)]
    elif Path(dataset).suffix.lower() in READERS or os.path.isabs(dataset):
        raise FileNotFoundError(f"There is no file or folder {str(dataset)!r}: check the path.")
    else:
        return {}
    parts: dict[str, list[str]] = {}
    for path in files if len(files) > 1 else []:
        match = PART_IN_NAME.search(Path(path).stem.lower())
        if match:
            parts.setdefault(PART_OF[match[1]], []).append(path)
    if not parts and files:
        parts = {"train": files}
    used = [path for paths in parts.values() for path in paths]
    kinds = sorted({Path(path).suffix.lower() for path in used})
    if len(kinds) > 1 or any(kind not in READERS for kind in kinds):
        raise ValueError(f"{dataset} holds {', '.join(kinds)} files; give files of one kind: {', '.join(READERS)}.")
    for path in used:
        if os.path.getsize(path) == 0:
            raise ValueError(f"{path} is empty.")
    return parts


def with_metadata(folder: str, wanted: list[tuple[str, str]], as_text: Collection[str]) -> dict[str, Any]:
    """Options for loading a folder of pictures, so that the cells of its metadata.csv stay as they are written; see
    `read_csv`."""
    paths = sorted(str(path) for pattern in ("metadata.csv", "*/metadata.csv") for path in Path(folder).glob(pattern))
    texts = texts_in(paths, wanted, as_text) if paths else []
    if not texts:
        return {}
    split = next(iter(load_dataset(folder, streaming=True).values()))
    features = dict(split.features or split._resolve_features().features)
    guessed = [name for name in texts if name in features and features[name] != Value("string")]
    guessed = [name for name in guessed if isinstance(features[name], Value)]
    return {"features": Features({**features, **dict.fromkeys(guessed, Value("string"))})} if guessed else {}


def load_files(
    reader: str, part: str, paths: list[str], wanted: list[tuple[str, str]], cache: str | None = None
) -> Dataset:
    """One part from JSON or Parquet files. If the files differ, each file is read alone, and only its columns in use.
    `cache` is the folder for all files (see `cache_folder`), because the result for several files is kept next to the
    first."""
    try:
        return load_dataset(reader, data_files={part: paths}, cache_dir=cache)[part]
    except Exception:  # each reader raises different types
        names = list(dict.fromkeys(column.split(".")[0] for _, column in wanted))
    loaded: dict[str, Any] = {}
    for path in paths:
        split = load_file(reader, part, path, names, cache)
        if lacking := [name for name in names if name not in split.column_names]:
            raise Unreadable(f"{path} has no column {lacking[0]!r}: it has {split.column_names}.")
        loaded[path] = split.select_columns(names)
    return concatenate_datasets(list(of_one_type(loaded, wanted, Path(paths[0]).parent, {}).values()))


def load_file(reader: str, part: str, path: str, names: list[str], cache: str | None = None) -> Dataset:
    """One file. For JSON, datasets guesses types from the first megabytes, but a column of numbers may contain a text
    later. Such a column is then read again, with the type of each value as it is."""
    options: dict[str, Any] = {"data_files": {part: [path]}, "cache_dir": cache}
    try:
        return load_dataset(reader, **options)[part]
    except Exception as error:  # each reader raises different types
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


def open_saved(folder: str | os.PathLike, streaming: bool) -> dict[str, Any]:
    """Opens a folder that `save_to_disk` wrote."""
    try:
        saved = load_from_disk(str(folder))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"save_to_disk did not write the folder {folder}: {error}") from None
    splits = {"train": saved} if isinstance(saved, Dataset) else dict(saved)
    if not streaming:
        return splits
    return {
        name: split.to_iterable_dataset(num_shards=max(1, min(len(split), STREAM_SHARDS)))
        for name, split in splits.items()
    }


def unreadable(dataset: str | os.PathLike, error: Exception, local: Any) -> Exception:
    """Converts an error of datasets into an error with one line, which names the original cause."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__  # type: ignore[assignment]
    if isinstance(error, StopIteration) or "corresponds to no data" in str(error):
        return Unreadable(f"{dataset} has no rows.")
    said = f"({type(cause).__name__}: {' '.join(str(cause).split())})"
    if local:
        return Unreadable(f"{dataset} cannot be read {said}.")
    return FileNotFoundError(
        f"Data set {str(dataset)!r} is not a local file or folder, and it could not be loaded from the Hub {said}."
    )


def named_parts(splits: dict[str, Any], dataset: str | os.PathLike) -> dict[str, Any]:
    """The parts with the names train, validation and test. Other parts keep their names."""
    named: dict[str, Any] = {}
    for name, split in splits.items():
        part = PART_OF.get(name.lower(), name)
        if part in named:
            raise ValueError(f"{dataset} has several parts that mean {part!r}: {list(splits)}. Rename all but one.")
        named[part] = split
    return named
