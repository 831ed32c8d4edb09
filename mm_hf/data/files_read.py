"""The files of a data set, and the folder where datasets may cache what it read from them.

`datasets.load_dataset` finds its cache by the path of a file and its time of change. If a file was rewritten with its
old time (by rsync, from a backup, from an archive), datasets would return the old content from the cache.
"""

import glob
import os
from collections.abc import Iterable
from pathlib import Path

import datasets
import xxhash


class Unreadable(ValueError):
    """A file cannot be read. The message is complete, so that callers do not add to it."""


def files_of(dataset: str | os.PathLike) -> list[str]:
    """All files of a data set: the file itself, the matches of a glob, or all files below a folder. None for a Hub
    id."""
    if os.path.isfile(dataset):
        return [str(dataset)]
    if os.path.isdir(dataset):
        return sorted(os.path.join(folder, name) for folder, _, names in os.walk(os.fspath(dataset)) for name in names)
    return sorted(path for path in glob.glob(str(dataset), recursive=True) if os.path.isfile(path))


def marks_of(path: str | os.PathLike) -> tuple[int, int, int, int]:
    """Size, times of change of content and of inode, and inode of a file. At least one of them differs after the file
    was written again, even with the old size and time. All are -1 for a missing file."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1, -1, -1
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def cache_folder(files: Iterable[str | os.PathLike]) -> str | None:
    """The folder where datasets caches what it reads from these files. It changes when any file is written again. None
    (datasets' own choice) if there are no files."""
    digest = xxhash.xxh3_64()
    count = 0
    for path in sorted(map(os.path.abspath, files)):
        count += 1
        digest.update(f"{path}\0{marks_of(path)}\0".encode(errors="surrogateescape"))
    return str(Path(datasets.config.HF_DATASETS_CACHE) / "mm_hf" / digest.hexdigest()) if count else None
