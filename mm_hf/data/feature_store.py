"""Features of frozen encoders on disk: encoded in one run, read in all that follow.

A set holds the features of one encoder with one way to prepare its items, in a folder whose name is a hash of both.
Its files are safetensors of some 32 MB, which are mapped into memory and never changed. A file is called by its own
checksum and appears whole, by `os.replace`: what was torn by a kill or a full disk is not called by what it holds, and
is taken for not there. Two processes may fill a set at once: each publishes under a lock what the set does not have
yet, so that an item has one value for all readers, for as long as the set is there.
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
except ImportError:  # Windows: nothing is removed while it may be in use, and an item may lie in two files
    fcntl = None  # type: ignore[assignment]


FORMAT = 1  # of the files, and of what is encoded: another number makes other sets
SHARD_BYTES = 32 * 2**20  # that are encoded between two files: what a kill loses at most
VARIABLE = "MM_HF_CACHE"
ABOUT, LOCK, PUBLISHING, WRITING, ENDING = "about.json", ".lock", ".publishing", ".writing", ".safetensors"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


class StoreError(ValueError):
    """Features cannot be kept on disk."""


def default_folder() -> Path:
    """Where features are kept unless told otherwise: `MM_HF_CACHE` of the environment, else a folder in `HF_HOME`."""
    return Path(os.environ.get(VARIABLE) or Path(HF_HOME) / "mm_hf")


class FeatureStore:
    """All sets of a folder.

    Args:
        folder: of the cache; None: `default_folder()`.
        limit: bytes that all sets may take; None: what fits on the disk.
    """

    def __init__(self, folder: str | os.PathLike | None = None, limit: int | None = None):
        self.folder = (default_folder() if folder is None else Path(folder)) / "features"
        self.limit = limit

    def open(self, identity: Mapping[str, Any], title: str = "") -> "FeatureSet":
        """The set of an encoder and its preparation, made where it is not there.

        Args:
            identity: all that decides what the features are; JSON can write it.
            title: what people call it.

        Raises:
            StoreError: the folder cannot be written.
        """
        written = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
        name = hashlib.sha256(written.encode()).hexdigest()[:32]
        try:
            return FeatureSet(self.folder / name, {"title": title, **json.loads(written)})
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be used ({error}): --cache_dir names another folder.") from None

    def sets(self) -> list[tuple[Path, int, float, str]]:
        """Of each set its folder, its bytes, when it was last opened and what it is called, the longest unused
        first."""
        sets = []
        for about in self.folder.glob(f"*/{ABOUT}"):
            with suppress(OSError, ValueError):  # another process removes it, or somebody wrote into it
                title = str(json.loads(about.read_text(encoding="utf-8")).get("title", ""))
                sets.append((about.parent, size_of(about.parent), about.stat().st_mtime, title))
        return sorted(sets, key=lambda one: one[2])

    def make_room(self, needed: int, keep: "FeatureSet"):
        """Removes sets, the longest unused first, until so many more bytes are within the limit. Those that any
        process uses stay.

        Args:
            needed: bytes.
            keep: the set that they are for.

        Raises:
            StoreError: that set alone would be above the limit, or the disk is full.
        """
        of_this_set = size_of(keep.folder) + needed
        if self.limit is not None and of_this_set > self.limit:
            raise StoreError(
                f"its features would take {of_this_set / 1e9:.3g} GB in {keep.folder}, and cache_limit is "
                f"{self.limit / 1e9:.3g} GB: raise it, or remove what is there."
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
            raise StoreError(f"its features would take {needed / 1e9:.3g} GB, and {keep.folder} has {free / 1e9:.3g}.")

    def clear(self) -> int:
        """Removes all sets that no process uses; gives the bytes that are free now."""
        return sum(size for folder, size, _, _ in self.sets() if remove_set(folder))


class FeatureSet:
    """The features of one encoder, by the digests of its items.

    Args:
        folder: of the set; held until this object or the process is gone.
        about: what it holds, for `about.json`.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        self.folder = folder
        self.lock = hold(folder)
        self.index: dict[str, tuple[Shard, int]] = {}
        self.shards: dict[str, Shard | None] = {}  # None: not what it is called
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
        return {**self.__dict__, "lock": None}  # of a process that a loader of batches starts: this one holds it

    def __contains__(self, digest: str) -> bool:
        return digest in self.index

    def refresh(self):
        """Takes in the files that came since."""
        for path in sorted(self.folder.glob(f"*{ENDING}")):
            if path.name in self.shards:
                continue
            try:
                shard = Shard(path)
            except (OSError, ValueError, KeyError, TypeError):  # torn, or not ours
                self.shards[path.name] = None
                continue
            self.shards[path.name] = shard
            for place, digest in enumerate(shard.digests):
                self.index.setdefault(digest, (shard, place))

    def check(self, digests: Iterable[str]):
        """Reads once each file that holds some of these items, and takes those that are not what they were written as
        for not there."""
        for shard in {self.index[digest][0] for digest in digests if digest in self.index} - self.checked:
            if shard.is_whole():
                self.checked.add(shard)
                continue
            self.shards[shard.path.name] = None
            self.index = {digest: place for digest, place in self.index.items() if place[0] is not shard}
            with suppress(OSError):
                shard.path.unlink()

    def add(self, digest: str, levels: tuple[torch.Tensor, ...], padded: bool, dtype: torch.dtype):
        """Takes the features of one item, and writes those that it has got once there are enough of them.

        Args:
            digest: of the item.
            levels: `(T, …)` each, without padding; of a modality that is never padded, its whole.
            padded: whether items of this modality have lengths of their own.
            dtype: in which they are given back.
        """
        alike = next(iter(self.pending.values()), None)
        if alike is not None and (alike[1:] != (padded, dtype) or shapes(alike[0], padded) != shapes(levels, padded)):
            self.publish()
        self.pending[digest] = levels, padded, dtype
        self.pending_bytes += count_bytes(levels)
        if self.pending_bytes >= SHARD_BYTES:
            self.publish()

    def publish(self):
        """Writes the features that it has got, but for those that another process has published meanwhile.

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
                    self.shards.pop(name, None)  # a torn one of that name gives way
                    self._write(content, name)
                    self.refresh()
                    self.check(new)
        except OSError as error:
            raise StoreError(f"features cannot be written to {self.folder} ({error}).") from None

    def levels(self, digest: str) -> tuple[tuple[torch.Tensor, ...], bool, torch.dtype]:
        """The features of an item as they lie on disk, see `add`. They are views of a file: copy them before `forget`.

        Raises:
            KeyError: there are none.
        """
        shard, place = self.index[digest]
        return shard.levels(place), shard.padded, shard.dtype

    def forget(self, digests: Iterable[str]):
        """Gives back the memory of the pages that were read, so that they do not add up."""
        for shard in {self.index[digest][0] for digest in digests}:
            shard.forget()

    def _write(self, content: bytes, name: str):
        """A whole file, or none."""
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
                os.fsync(descriptor)  # or a power cut may undo the renaming
            finally:
                os.close(descriptor)


class Shard:
    """One file of a set.

    Args:
        path: a safetensors file with `level0`, `level1`… `(sum of T, …)`, and `ends` `(N,)`, of each item where it
            ends.

    Raises:
        ValueError, KeyError, TypeError: it is no such file, or not whole.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path):
        self.path = path
        self.memory: mmap.mmap | None = None
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > os.fstat(file.fileno()).st_size:
                raise ValueError(f"{path} is torn.")
            header = json.loads(file.read(size))
            about = header.pop("__metadata__")
            ends = header.pop("ends")
            self.start = 8 + size
            if self.start + max(one["data_offsets"][1] for one in [ends, *header.values()]) != os.path.getsize(path):
                raise ValueError(f"{path} is torn.")
            file.seek(self.start + ends["data_offsets"][0])
            content = bytearray(file.read(8 * ends["shape"][0]))
        self.ends = [0, *torch.frombuffer(content, dtype=torch.int64).tolist()]
        self.digests: list[str] = json.loads(about["digests"])
        self.padded, self.dtype = about["padded"] == "true", getattr(torch, about["dtype"])
        self.header = [header[f"level{number}"] for number in range(len(header))]
        if len(self.digests) != len(self.ends) - 1:
            raise ValueError(f"{path} does not hold what it names.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "memory": None}

    def mapped(self) -> mmap.mmap:
        """The content. It stays what it is, whatever happens to the file's name."""
        if self.memory is None:
            with open(self.path, "rb") as file:
                # A copy that is never made: torch wants memory that may be written.
                self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return self.memory

    def is_whole(self) -> bool:
        """Whether the file holds what it is called by."""
        try:
            return checksum_of_bytes(self.mapped()) == self.path.name.removesuffix(ENDING)
        except (OSError, ValueError):  # it is gone, or empty
            return False
        finally:
            self.forget()

    def levels(self, place: int) -> tuple[torch.Tensor, ...]:
        """The features of one item, views of the file."""
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
    """The content of a file that holds the features of some items, see `FeatureSet.add`."""
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
    """What the items of one file have in common."""
    return [(level.dtype, *(level.shape[1:] if padded else level.shape)) for level in levels]


def count_bytes(levels: tuple[torch.Tensor, ...]) -> int:
    """Bytes of the features of one item."""
    return sum(level.nelement() * level.element_size() for level in levels)


def size_of(folder: Path) -> int:
    """Bytes of a folder's files."""
    total = 0
    for path in folder.glob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def hold(folder: Path) -> int | None:
    """Makes a folder and holds it, so that nobody removes it, until the descriptor that is given back is closed. Who
    is alone there removes what kills have left half written."""
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
        os.close(descriptor)  # it was removed between the two
        time.sleep(0.01)


def remove_set(folder: Path) -> bool:
    """Removes a set that no process holds; gives whether it is gone."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        names = sorted(folder.iterdir(), key=lambda path: path.name == LOCK)  # its lock last
        for path in names:
            path.unlink()
        folder.rmdir()
        return True
    except OSError:  # it is in use
        return False
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path):
    """One process at a time."""
    with open(path, "ab") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
