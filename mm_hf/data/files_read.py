"""Which files a data set is read from, and where datasets may keep what it read from them.

`datasets.load_dataset` keeps what it read by the path of a file and its time of change. A file that was rewritten with
its old time (by rsync, a restored backup, an unpacked archive) would come from that store as it was before.
"""

import glob
import os
from collections.abc import Iterable
from pathlib import Path

import datasets
import xxhash


class Unreadable(ValueError):
    """A file that cannot be read, with a message that says it all."""


def files_of(dataset: str | os.PathLike) -> list[str]:
    """All files of a data set: itself, those that a glob finds, or all below a folder; none of a Hub id."""
    if os.path.isfile(dataset):
        return [str(dataset)]
    if os.path.isdir(dataset):
        return sorted(os.path.join(folder, name) for folder, _, names in os.walk(os.fspath(dataset)) for name in names)
    return sorted(path for path in glob.glob(str(dataset), recursive=True) if os.path.isfile(path))


def marks_of(path: str | os.PathLike) -> tuple[int, int, int, int]:
    """Size, times of change of content and of inode, and inode of a file: one of them differs when it was written
    anew, even with the old size and time. -1 for what is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1, -1, -1
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def cache_folder(files: Iterable[str | os.PathLike]) -> str | None:
    """The folder where datasets keeps what it reads from these files: another one after any of them was written anew.
    None, its own choice, where there are none."""
    digest = xxhash.xxh3_64()
    count = 0
    for path in sorted(map(os.path.abspath, files)):
        count += 1
        digest.update(f"{path}\0{marks_of(path)}\0".encode(errors="surrogateescape"))
    return str(Path(datasets.config.HF_DATASETS_CACHE) / "mm_hf" / digest.hexdigest()) if count else None
