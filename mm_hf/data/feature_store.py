"""Features of frozen encoders on disk. They are encoded in one run and read in all later runs.

A set holds the features of one encoder for one way to prepare its items. The name of its folder is a hash of both. Its
files are safetensors of about 32 MB. They are mapped into memory and never changed. The name of a file is its
checksum, and the file appears as a whole, by `os.replace`. If a kill or a full disk damages a file, its content does
not fit its name, and the file is ignored. Two processes may fill a set at the same time. Each process publishes, under
a lock, only the items that the set lacks. So every reader sees the same value for an item, as long as the set exists.
"""

import hashlib
import json
import mmap
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HOME
from safetensors.torch import save

from ..models.checksums import checksum_of_bytes


try:
    import fcntl
except ImportError:  # Windows has no file locks: nothing is removed there, and an item may be in two files
    fcntl = None  # type: ignore[assignment]


FORMAT = 1  # the version of the files and of the encoding; another number makes other sets
SHARD_BYTES = 32 * 2**20  # encoded bytes per file; a kill loses at most so many
VARIABLE = "MM_HF_CACHE"
ABOUT, LOCK, PUBLISHING, WRITING, ENDING = "about.json", ".lock", ".publishing", ".writing", ".safetensors"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


class StoreError(ValueError):
    """Features cannot be kept on disk."""


def default_folder() -> Path:
    """The default folder for features: the environment variable `MM_HF_CACHE`, else a folder in `HF_HOME`."""
    return Path(os.environ.get(VARIABLE) or Path(HF_HOME) / "mm_hf")


class FeatureStore:
    """All sets of a folder.

    Args:
        folder: the folder of the cache; None: `default_folder()`.
        limit: the largest size of all sets together in bytes; None: what fits on the disk.
    """

    def __init__(self, folder: str | os.PathLike | None = None, limit: int | None = None):
        self.folder = (default_folder() if folder is None else Path(folder)) / "features"
        self.limit = limit

    def open(self, identity: Mapping[str, Any], title: str = "") -> "FeatureSet":
        """Opens the set of an encoder and its preparation. Creates the set if it does not exist.

        Args:
            identity: everything that the features depend on. It must be JSON.
            title: the name of the set for people.

        Raises:
            StoreError: the folder cannot be written.
        """
        written = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
        name = hashlib.sha256(written.encode()).hexdigest()[:32]
        try:
            return FeatureSet(self.folder / name, {"title": title, **json.loads(written)})
        except OSError as error:
            raise StoreError(
                f"The cache folder {self.folder} cannot be used ({error}): choose another folder with --cache_dir."
            ) from None

    def sets(self) -> list[tuple[Path, int, float, str]]:
        """All sets, those unused for the longest time first. Each is its folder, its bytes, the time when it was last
        opened, and its title."""
        sets = []
        for about in self.folder.glob(f"*/{ABOUT}"):
            with suppress(OSError, ValueError):  # another process removes it now, or its file was changed by hand
                title = str(json.loads(about.read_text(encoding="utf-8")).get("title", ""))
                sets.append((about.parent, size_of(about.parent), about.stat().st_mtime, title))
        return sorted(sets, key=lambda one: one[2])

    def make_room(self, needed: int, keep: "FeatureSet"):
        """Removes sets, those unused for the longest time first, until `needed` more bytes are within the limit. A set
        that any process uses is kept.

        Args:
            needed: bytes.
            keep: the set that needs the room.

        Raises:
            StoreError: this set alone would be above the limit, or the disk is full.
        """
        of_this_set = size_of(keep.folder) + needed
        if self.limit is not None and of_this_set > self.limit:
            raise StoreError(
                f"its features would take {of_this_set / 1e9:.3g} GB in {keep.folder}, but cache_limit is "
                f"{self.limit / 1e9:.3g} GB: raise cache_limit, or remove old features."
            )
        sets = [one for one in self.sets() if one[0] != keep.folder]
        total = of_this_set + sum(size for _, size, _, _ in sets)
        free = shutil.disk_usage(keep.folder).free
        for folder, size, _, _ in sets:
            full = needed > 0.9 * free
            if (self.limit is None or total <= self.limit) and not full:
                return
            if remove_set(folder):
                total, free = total - size, free + size
        if needed > 0.9 * free:
            raise StoreError(
                f"its features would take {needed / 1e9:.3g} GB, but the disk of {keep.folder} has only "
                f"{free / 1e9:.3g} GB free: free some space, or choose another folder with --cache_dir."
            )

    def clear(self) -> int:
        """Removes all sets that no process uses. Returns how many bytes this freed."""
        return sum(size for folder, size, _, _ in self.sets() if remove_set(folder))


class FeatureSet:
    """The features of one encoder, by the digests of its items.

    Args:
        folder: the folder of the set. It is locked until this object or the process ends.
        about: a description of the content, for `about.json`.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        self.folder = folder
        self.lock = hold(folder)
        self.index: dict[str, tuple[Shard, int]] = {}
        self.shards: dict[str, Shard | None] = {}  # None: the content does not fit the name
        self.checked: set[Shard] = set()
        self.pending: dict[str, tuple[tuple[torch.Tensor, ...], bool, torch.dtype]] = {}
        self.pending_bytes = 0
        if (folder / ABOUT).exists():
            os.utime(folder / ABOUT)
        else:
            self._write(json.dumps(about, indent=2).encode(), ABOUT)
        self.refresh()

    def __del__(self):
        if (lock := self.__dict__.get("lock")) is not None:
            os.close(lock)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lock": None}  # for workers of a DataLoader; this process keeps the lock

    def __contains__(self, digest: str) -> bool:
        return digest in self.index

    def refresh(self):
        """Finds files that were added since the last call."""
        for path in sorted(self.folder.glob(f"*{ENDING}")):
            if path.name in self.shards:
                continue
            try:
                shard = Shard(path)
            except (OSError, ValueError, KeyError, TypeError):  # damaged, or not a file of ours
                self.shards[path.name] = None
                continue
            self.shards[path.name] = shard
            for place, digest in enumerate(shard.digests):
                self.index.setdefault(digest, (shard, place))

    def check(self, digests: Iterable[str]):
        """Reads each file that holds some of these items once. A file with a wrong checksum is removed, and its items
        count as missing."""
        for shard in {self.index[digest][0] for digest in digests if digest in self.index} - self.checked:
            if shard.is_whole():
                self.checked.add(shard)
                continue
            self.shards[shard.path.name] = None
            self.index = {digest: place for digest, place in self.index.items() if place[0] is not shard}
            with suppress(OSError):
                shard.path.unlink()

    def add(self, digest: str, levels: tuple[torch.Tensor, ...], padded: bool, dtype: torch.dtype):
        """Adds the features of one item. Once there are enough features, they are written to a file.

        Args:
            digest: the digest of the item.
            levels: `(T, …)` each, without padding. For a modality that is never padded, the whole tensor.
            padded: whether items of this modality have different lengths.
            dtype: the dtype in which features are returned.
        """
        alike = next(iter(self.pending.values()), None)
        if alike is not None and (alike[1:] != (padded, dtype) or shapes(alike[0], padded) != shapes(levels, padded)):
            self.publish()
        self.pending[digest] = levels, padded, dtype
        self.pending_bytes += count_bytes(levels)
        if self.pending_bytes >= SHARD_BYTES:
            self.publish()

    def publish(self):
        """Writes the collected features, except those that another process has published in the meantime.

        Raises:
            StoreError: they cannot be written.
        """
        pending, self.pending, self.pending_bytes = self.pending, {}, 0
        if not pending:
            return
        try:
            with locked(self.folder / PUBLISHING):
                self.refresh()
                new = {digest: value for digest, value in pending.items() if digest not in self.index}
                if new:
                    content = shard_of(new)
                    name = f"{checksum_of_bytes(content)}{ENDING}"
                    self.shards.pop(name, None)  # replaces a damaged file of the same name
                    self._write(content, name)
                    self.refresh()
                    self.check(new)
        except OSError as error:
            raise StoreError(
                f"features cannot be written to {self.folder} ({error}): choose another folder with --cache_dir."
            ) from None

    def levels(self, digest: str) -> tuple[tuple[torch.Tensor, ...], bool, torch.dtype]:
        """The features of an item, as stored, see `add`. They are views of a file: copy them before `forget`.

        Raises:
            KeyError: the set does not have the item.
        """
        shard, place = self.index[digest]
        return shard.levels(place), shard.padded, shard.dtype

    def forget(self, digests: Iterable[str]):
        """Releases the memory of the pages that were read, so that the memory in use does not grow."""
        for shard in {self.index[digest][0] for digest in digests}:
            shard.forget()

    def _write(self, content: bytes, name: str):
        """Writes a file as a whole or not at all."""
        beside = self.folder / f"{WRITING}{uuid.uuid4().hex}"
        try:
            with open(beside, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.folder / name)
        finally:
            with suppress(OSError):
                beside.unlink()
        if hasattr(os, "O_DIRECTORY"):
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)  # else a power cut may undo the renaming
            finally:
                os.close(descriptor)


class Shard:
    """One file of a set.

    Args:
        path: a safetensors file with `level0`, `level1`… of shape `(sum of T, …)`, and `ends` `(N,)`, where each item
            ends.

    Raises:
        ValueError, KeyError, TypeError: the file has another format, or is not complete.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path):
        self.path = path
        self.memory: mmap.mmap | None = None
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > os.fstat(file.fileno()).st_size:
                raise ValueError(f"{path} is not complete.")
            header = json.loads(file.read(size))
            about = header.pop("__metadata__")
            ends = header.pop("ends")
            self.start = 8 + size
            if self.start + max(one["data_offsets"][1] for one in [ends, *header.values()]) != os.path.getsize(path):
                raise ValueError(f"{path} is not complete.")
            file.seek(self.start + ends["data_offsets"][0])
            content = bytearray(file.read(8 * ends["shape"][0]))
        self.ends = [0, *torch.frombuffer(content, dtype=torch.int64).tolist()]
        self.digests: list[str] = json.loads(about["digests"])
        self.padded, self.dtype = about["padded"] == "true", getattr(torch, about["dtype"])
        self.header = [header[f"level{number}"] for number in range(len(header))]
        if len(self.digests) != len(self.ends) - 1:
            raise ValueError(f"{path} has {len(self.ends) - 1} items but {len(self.digests)} digests.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "memory": None}

    def mapped(self) -> mmap.mmap:
        """The content of the file, mapped into memory. It stays valid even if the file is renamed or removed."""
        if self.memory is None:
            with open(self.path, "rb") as file:
                # torch needs writable memory. Nothing writes to it, so no copy is ever made.
                self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return self.memory

    def is_whole(self) -> bool:
        """Whether the checksum of the file is its name."""
        try:
            return checksum_of_bytes(self.mapped()) == self.path.name.removesuffix(ENDING)
        except (OSError, ValueError):  # the file is gone or empty
            return False
        finally:
            self.forget()

    def levels(self, place: int) -> tuple[torch.Tensor, ...]:
        """The features of one item, as views of the file."""
        begin, end = self.ends[place], self.ends[place + 1]
        levels = []
        for level in self.header:
            dtype, shape = DTYPES[level["dtype"]], level["shape"][1:]
            offset = self.start + level["data_offsets"][0] + begin * prod(shape) * dtype.itemsize
            count = (end - begin) * prod(shape)
            values = torch.empty(0, dtype=dtype)
            if count:
                values = torch.frombuffer(self.mapped(), dtype=dtype, count=count, offset=offset)
            values = values.reshape(end - begin, *shape)
            levels.append(values if self.padded else values[0])
        return tuple(levels)

    def forget(self):
        """See `FeatureSet.forget`."""
        if self.memory is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.memory.madvise(mmap.MADV_DONTNEED)


def shard_of(items: Mapping[str, tuple[tuple[torch.Tensor, ...], bool, torch.dtype]]) -> bytes:
    """The content of a file with the features of some items, see `FeatureSet.add`."""
    levels, (padded, *_), (dtype, *_) = zip(*items.values())
    parts = [[values if padded else values[None] for values in level] for level in zip(*levels)]
    tensors = {f"level{number}": torch.cat(values).contiguous() for number, values in enumerate(parts)}
    tensors["ends"] = torch.tensor([len(values) for values in parts[0]]).cumsum(0)
    about = {
        "digests": json.dumps(list(items)),
        "padded": str(padded).lower(),
        "dtype": str(dtype).removeprefix("torch."),
    }
    return save(tensors, about)


def shapes(levels: tuple[torch.Tensor, ...], padded: bool) -> list[tuple]:
    """The dtypes and shapes that all items of one file must share."""
    return [(level.dtype, *(level.shape[1:] if padded else level.shape)) for level in levels]


def count_bytes(levels: tuple[torch.Tensor, ...]) -> int:
    """The size of the features of one item, in bytes."""
    return sum(level.nelement() * level.element_size() for level in levels)


def size_of(folder: Path) -> int:
    """The size of the files of a folder, in bytes."""
    total = 0
    for path in folder.glob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def hold(folder: Path) -> int | None:
    """Creates a folder and locks it, so that nobody removes it until the returned descriptor is closed. If no other
    process uses the folder, half-written files of killed processes are removed."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return None
        path = folder / LOCK
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in folder.glob(f"{WRITING}*"):
                left.unlink()
        except BlockingIOError:
            pass
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # the folder was removed in between: try again
        time.sleep(0.01)


def remove_set(folder: Path) -> bool:
    """Removes a set that no process uses. Returns whether it is gone."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        names = sorted(folder.iterdir(), key=lambda path: path.name == LOCK)  # the lock comes last
        for path in names:
            path.unlink()
        folder.rmdir()
        return True
    except OSError:  # the set is in use
        return False
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path):
    """Lets one process at a time run the block."""
    with open(path, "ab") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
