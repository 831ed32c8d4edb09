"""A few digests that identify the data of a run: its rows, its preprocessing, its frozen encoders. rows.json keeps
them.

| what | is identified by |
|---|---|
| labels, texts, numbers, lists of them | their content, row by row |
| pictures, sounds, videos inside the data | their lengths and content |
| pictures, sounds, videos in files | path within the data and size; if times or inode differ, their content |
| a stream | its files, in the same way |
| preprocessing | the keys of what the processor's `save_pretrained` writes |
| frozen encoders | checksums of their config and weights; the revision for encoders from the Hub |
| imported files | their content |

At most `MOST_BYTES` of content are read per column and part; if there is more, only every n-th item is read. One
process computes all digests, and this takes little time compared to reading the data. The digests find mistakes, not
malice.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset, IterableDataset
from huggingface_hub import try_to_load_from_cache

from .. import MMFusionProcessor
from ..data import Columns, resolve_path
from ..data.files_read import files_of, marks_of
from ..models.checkpoint_files import CHECKSUMS
from ..models.checksums import CHUNK, checksum_of
from .by_modality import encoder_of, pretrained_modalities


MOST_BYTES = 2**30
BLOCK, BLOCK_OF_ITEMS = 10_000, 1000  # rows that are read together; fewer for items, since pictures are large
IMPORTED = "imported"
STREAM = "the files of the stream"
# Keys in the files of a processor that do not change the preprocessing: origin, and names in the library.
NO_PREPROCESSING = {
    *("auto_map", "backend", "is_local", "local_files_only", "merges_file", "name_or_path", "processor_class"),
    *("tokenizer_class", "tokenizer_file", "transformers_version", "vocab_file", "_commit_hash", "_name_or_path"),
}
MANY_KEYS = 50  # a dict with more keys, such as a vocabulary, counts as one value
LONG_VALUE = 60  # characters; a longer one is kept as its digest


class Fingerprint:
    """The fingerprint of the data and its preprocessing.

    Args:
        splits: the parts, as `load_splits` returns them.
        columns: the columns in use.
        dataset: the source that they were loaded from.
        root: see `data_root_of`.
        processor: the run's; None: it is not part of the fingerprint.
        encoders: by modality the folder or Hub id of each frozen encoder.
        imported: files that were imported; None: they are not part of the fingerprint.

    Attributes:
        kept: the part of rows.json, except the content of files, see `settle`.
    """

    def __init__(
        self,
        splits: dict[str, Dataset | IterableDataset],
        columns: Columns,
        dataset: str,
        root: str | None,
        processor: MMFusionProcessor | None = None,
        encoders: Mapping[str, str] = MappingProxyType({}),
        imported: Iterable[str] | None = None,
    ):
        self.paths: dict[tuple[str, str], list[str]] = {}
        self.kept: dict[str, Any] = {"columns": {}, "files": {}}
        for part, split in splits.items():
            if isinstance(split, IterableDataset):
                places = places_of_stream(dataset)
                # For a stream from the Hub, only its source is known.
                named = self.note_files(part, STREAM, places) if places else xxhash.xxh3_64_hexdigest(dataset.encode())
                self.kept["columns"][part] = {STREAM: named}
            else:
                names = list(dict.fromkeys(column for _, column in columns.named()))
                self.kept["columns"][part] = {name: self.digest_of(split, part, name, root) for name in names}
        self.kept["processor"] = {} if processor is None else keys_of_processor(processor)
        self.kept["encoders"] = {modality: files_of_encoder(source) for modality, source in encoders.items()}
        self.imported = None if imported is None else marks_of_imported(imported)
        if self.imported:
            self.kept[IMPORTED] = self.imported

    def digest_of(self, split: Dataset, part: str, column: str, root: str | None) -> str:
        """The digest of one column, in the order of its rows. Notes the files that the column names."""
        digest = xxhash.xxh3_64()
        held = 0
        if holds_items(split, column):
            held = sum(pc.sum(lengths_of(items)).as_py() or 0 for items in items_of(split, column))
        every, seen, paths = max(1, -(-held // MOST_BYTES)), 0, []
        for values in blocks_of(split, column):
            if not holds_items(split, column):
                update(digest, values)
                continue
            if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
                update(digest, pc.list_value_length(values))
            items = flat(values)
            lengths, content = lengths_of(items), pc.struct_field(items, "bytes")
            update(digest, lengths)
            numbers = np.arange(seen, seen + len(items))
            update(digest, content.take(pa.array(np.flatnonzero(numbers % every == 0))))
            named = pc.and_(pc.is_valid(pc.struct_field(items, "path")), pc.is_null(lengths))
            update(digest, named)  # which rows have the paths
            paths += pc.struct_field(items, "path").filter(named).to_pylist()
            seen += len(items)
        if paths:
            places = {path: place_of(path, root) for path in set(paths)}
            digest.update(self.note_files(part, column, [places[path] for path in paths]).encode())
        return digest.hexdigest()

    def note_files(self, part: str, column: str, places: list[tuple[str, str]]) -> str:
        """A digest of the names and sizes of the files that a column names, in this order. `places` holds for each
        file its name within the data and its path. Also notes the times and inodes of the files."""
        named, touched = xxhash.xxh3_64(), xxhash.xxh3_64()
        marks = {path: marks_of(path) for path in dict.fromkeys(path for _, path in places)}
        for name, path in places:
            size, *others = marks[path]
            named.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
            touched.update(f"{others}".encode())
        self.paths[part, column] = list(marks)
        self.kept["files"].setdefault(part, {})[column] = {"touched": touched.hexdigest()}
        return named.hexdigest()

    def settle(self, earlier: dict[str, Any] | None) -> tuple[list[str], list[str]]:
        """Compares with the data that a run was begun with, and adds digests of the content of files to `kept`. The
        content is read if its digest is not known, or if the files were touched since.

        Args:
            earlier: the fingerprint in rows.json; None: this run is new, or is older than fingerprints.

        Returns:
            what differs; and, for the terminal, which files were touched but have the same content.
        """
        differences = [] if earlier is None else list(self.differences(earlier))
        touched = []
        for (part, column), paths in self.paths.items():
            mine = self.kept["files"][part][column]
            theirs = ((earlier or {}).get("files", {}).get(part) or {}).get(column)
            if theirs is not None and theirs["touched"] == mine["touched"]:
                mine |= theirs
                continue
            mine |= content_of(paths)
            if theirs is None or said_of(part, column) in differences:
                continue
            if mine["content"] != theirs["content"]:
                differences.append(f"{said_of(part, column)} (the content of its files)")
            else:
                share = "" if mine["every"] == 1 else f" (of every {mine['every']}th)"
                touched.append(
                    f"the files of {said_of(part, column)} were touched or moved; their content{share} is the same"
                )
        return differences, touched

    def differences(self, earlier: dict[str, Any]) -> Iterator[str]:
        """What has changed, except the content of files. Only keys that both fingerprints have are compared: another
        version of the library may write more or fewer keys."""
        for part, columns in self.kept["columns"].items():
            before = earlier.get("columns", {}).get(part, {})
            yield from (said_of(part, name) for name in columns if before.get(name, columns[name]) != columns[name])
        for key, value in self.kept["processor"].items():
            before = earlier.get("processor", {}).get(key, value)
            if before != value:
                both = "" if is_digest(before) or is_digest(value) else f" ({before!r}, now {value!r})"
                yield f"the processor: {key}{both}"
        if self.imported is not None:
            for name in changed_files(earlier.get(IMPORTED, {}), self.imported):
                yield f"the imported file {name}"
        for modality, files in self.kept["encoders"].items():
            before = earlier.get("encoders", {}).get(modality)
            for name in sorted({*before, *files}) if before and files else []:  # else they were not known
                if before.get(name) != files.get(name):
                    yield f"the {modality} encoder's {name}"


def marks_of_imported(files: Iterable[str]) -> dict[str, str]:
    """A checksum of each imported file by its name, as `Fingerprint` keeps it."""
    return {Path(file).name: f"xxh3 {checksum_of(file)}" for file in files}


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names of imported files with changed content. A renamed file has not changed: only the content counts.

    Args:
        before, now: see `marks_of_imported`.
    """
    gone = {name: mark for name, mark in before.items() if name in now or mark not in now.values()}
    come = {name: mark for name, mark in now.items() if name in before or mark not in before.values()}
    return sorted(name for name in {*gone, *come} if gone.get(name) != come.get(name))


def said_of(part: str, column: str) -> str:
    """The name of a column of a part, for messages."""
    return f"{part}: {column}" if column == STREAM else f"{part}: column {column!r}"


def blocks_of(split: Dataset, column: str) -> Iterator[pa.Array]:
    """A column, some rows at a time."""
    rows = BLOCK_OF_ITEMS if holds_items(split, column) else BLOCK
    for table in split.select_columns([column]).with_format("arrow").iter(batch_size=rows):
        values = table[column].combine_chunks()
        yield values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def holds_items(split: Dataset, column: str) -> bool:
    """Whether a column holds pictures, sounds or videos: structs of bytes and path, or lists of these."""
    kind = split.features.arrow_schema.field(column).type
    kind = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    return pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


def items_of(split: Dataset, column: str) -> Iterator[pa.Array]:
    """The structs of bytes and path of a column, some rows at a time."""
    return map(flat, blocks_of(split, column))


def flat(values: pa.Array) -> pa.Array:
    """The elements of lists, or the values themselves."""
    return values.flatten() if pa.types.is_list(values.type) or pa.types.is_large_list(values.type) else values


def lengths_of(items: pa.Array) -> pa.Array:
    """Number of bytes of each item inside the data; null for items in files."""
    return pc.binary_length(pc.struct_field(items, "bytes").cast(pa.large_binary())).cast(pa.int64())


def update(digest: Any, values: pa.Array):
    """Adds values to a digest: which ones are present, and their content. Their memory layout in Arrow has no
    effect."""
    kind = values.type
    if isinstance(values, pa.ExtensionArray):
        return update(digest, values.storage)
    if pa.types.is_dictionary(kind):
        return update(digest, values.dictionary_decode())
    digest.update(len(values).to_bytes(8, "little"))
    if pa.types.is_null(kind):
        return None
    digest.update(values.is_valid().to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_struct(kind):
        for field in sorted(kind, key=lambda field: field.name):
            digest.update(field.name.encode())
            update(digest, pc.struct_field(values, field.name))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        digest.update(pc.list_value_length(values).fill_null(0).cast(pa.int64()).to_numpy().tobytes())
        update(digest, values.flatten())
    elif pa.types.is_boolean(kind):
        digest.update(values.fill_null(False).to_numpy(zero_copy_only=False).tobytes())
    elif pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind):
        filled = values if values.null_count == 0 else values.fill_null(pa.scalar(0).cast(kind))
        digest.update(np.ascontiguousarray(filled.to_numpy(zero_copy_only=False)).tobytes())
    elif (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or (pa.types.is_large_binary(kind))
    ):
        texts = values.cast(pa.large_binary())
        texts = texts if texts.null_count == 0 else texts.fill_null(b"")
        _, offsets, content = texts.buffers()
        places = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        digest.update((places - places[0]).tobytes())
        if content is not None:
            digest.update(memoryview(content)[places[0] : places[-1]])
    else:
        digest.update(repr(values.to_pylist()).encode())
    return None


def place_of(path: str, root: str | None) -> tuple[str, str]:
    """The name of a file within the data, and its path; root as for `resolve_path`."""
    try:
        full = resolve_path(path, root)
    except ValueError:  # a bad row, which `check_rows` reports
        return path, path
    inside = root is not None and os.path.commonpath([full, root]) == root
    return os.path.relpath(full, root) if inside else path, full


def places_of_stream(dataset: str) -> list[tuple[str, str]]:
    """The same for all files of a data set, except hidden files, cache files of `datasets`, and runs."""
    files = files_of(dataset)
    base = dataset if os.path.isdir(dataset) else os.path.commonpath(map(os.path.dirname, files)) if files else ""
    places = [(os.path.relpath(file, base), file) for file in files]
    runs = tuple(os.path.dirname(name) + os.sep for name, _ in places if os.path.basename(name) == "recipe.json")
    hidden = re.compile(r"(^|[/\\])(\.|cache-[^/\\]*\.arrow$)")
    return [(name, file) for name, file in places if not name.startswith(runs) and not hidden.search(name)]


def content_of(paths: list[str]) -> dict[str, Any]:
    """A digest of the content of files, of at most `MOST_BYTES`. If the files are larger together, only every n-th
    file is read, and of it only the beginning."""
    total = sum(max(0, marks_of(path)[0]) for path in paths)
    every = max(1, -(-total // MOST_BYTES))
    chosen = paths[::every]
    digest = xxhash.xxh3_64()
    for path in chosen:
        left = MOST_BYTES // len(chosen) if every > 1 else MOST_BYTES
        try:
            with open(path, "rb") as file:
                while left > 0 and (chunk := file.read(min(left, CHUNK))):
                    digest.update(chunk)
                    left -= len(chunk)
        except OSError:  # a bad row
            digest.update(b"none")
    return {"content": digest.hexdigest(), "every": every}


def keys_of_processor(processor: MMFusionProcessor) -> dict[str, Any]:
    """The values that `save_pretrained` writes, by key; a digest for each file that is not JSON."""
    values: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.name == CHECKSUMS:  # the keys of these files are compared; they also hold the last call's padding
                continue
            if path.suffix == ".json":
                name = "" if path.name == "processor_config.json" else f"{path.stem}."
                values |= dict(leaves(json.loads(path.read_text(encoding="utf-8")), name))
            elif path.is_file() and path.suffix not in (".py", ".md"):
                values[path.name] = f"xxh3 {checksum_of(path)}"
    return values


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The values of nested dicts, with dotted names."""
    if isinstance(value, dict) and 0 < len(value) <= MANY_KEYS:
        for key, inner in value.items():
            if key not in NO_PREPROCESSING:
                yield from leaves(inner, f"{name}{key}.")
        return
    written = json.dumps(value, sort_keys=True)
    short = len(written) <= LONG_VALUE
    yield name.rstrip("."), value if short else f"xxh3 {xxhash.xxh3_64_hexdigest(written.encode())}"


def is_digest(value: Any) -> bool:
    """Whether a value is a digest, because the value itself was too long."""
    return isinstance(value, str) and value.startswith("xxh3 ")


def files_of_encoder(source: str) -> dict[str, str]:
    """For an encoder in a folder: size and checksum of its config and weights, by file name. For a Hub id: the
    revision, or nothing if it is not on this machine yet."""
    folder = Path(source)
    if not folder.is_dir():
        try:
            config = try_to_load_from_cache(source, "config.json")
        except ValueError:  # a folder that no longer exists, and not a valid Hub id
            return {}
        return {"revision": Path(config).parent.name} if isinstance(config, str) else {}
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    files = [path for path in [folder / "config.json", *weights] if path.is_file()]
    return {path.name: f"{path.stat().st_size} bytes, xxh3 {checksum_of(path)}" for path in files}


def frozen_sources(model_args: Any) -> dict[str, str]:
    """By modality the folder or Hub id of the frozen encoders. A run that starts from a checkpoint keeps its encoders
    in its own folder."""
    if getattr(model_args, "init_from", None) is not None:
        return {}
    frozen = model_args.freeze_encoders
    chosen: Iterable[str] = pretrained_modalities() if frozen is True else frozen or ()
    sources = {name: encoder_of(model_args, name) for name in chosen}
    return {name: source for name, source in sources.items() if source is not None}
