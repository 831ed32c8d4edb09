"""A digest of the content of each item. The digest finds the features of an item again, even if its file was moved or
renamed.

A file is read once to compute its digest. The next time, its path, size, inode and times are compared with those in
`files.sqlite` of the cache. This fails only if all of them are the same although the content changed. That can happen
on file systems that do not record when the inode changed, or if somebody set the clock back and wrote within the same
tick. For this reason small files are read each time, and files that were written in the last seconds are not
remembered.
"""

import hashlib
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from .files_read import marks_of


SMALL = 64 * 1024  # bytes; a file of at most this size is read each time
JUST_NOW = 2 * 10**9  # nanoseconds; no file system has clock ticks that are longer
CHUNK = 2**20
AT_ONCE = 500  # paths per query, below the limit on parameters of any SQLite


class File(str):
    """The path of a file. It stands for the content of the file."""


class FileDigests:
    """The digests of files. Some of them are known from an earlier run.

    Args:
        memo: the file that remembers digests; None: every file is read.

    Attributes:
        read: the number of files that were read.
    """

    def __init__(self, memo: Path | None = None):
        self.memo = memo
        self.read = 0

    def of(self, paths: Iterable[str]) -> dict[str, str]:
        """The digest of each file. A file that cannot be read gets a random digest, which no other file has. The code
        that needs its content will report the error."""
        marks = {path: marks_of(path) for path in dict.fromkeys(paths)}
        large = {key_of(path): path for path, (size, *_) in marks.items() if size > SMALL}
        known = {
            large[key]: digest for key, digest, kept in self._remembered(list(large)) if kept == str(marks[large[key]])
        }
        missing = [path for path in marks if path not in known]
        with ThreadPoolExecutor() as threads:
            digests = dict(zip(missing, threads.map(digest_of_file, missing)))
        self.read += len(missing)
        settled = time.time_ns() - JUST_NOW
        self._remember(
            [
                (key, digests[path], str(marks[path]))
                for key, path in large.items()
                if path in digests and max(marks[path][1:3]) < settled and marks_of(path) == marks[path]
            ]
        )
        return known | digests

    def _remembered(self, keys: list[bytes]) -> list[tuple[bytes, str, str]]:
        """Path, digest and marks of the files that are known. Empty if the memo cannot be read."""
        rows: list[tuple[bytes, str, str]] = []
        if self.memo is None or not self.memo.exists():
            return rows
        try:
            with closing(open_memo(self.memo)) as memo:
                for start in range(0, len(keys), AT_ONCE):
                    some = keys[start : start + AT_ONCE]
                    rows += memo.execute(f"SELECT * FROM files WHERE path IN ({','.join('?' * len(some))})", some)
        except sqlite3.Error:
            return []
        return rows

    def _remember(self, rows: list[tuple[bytes, str, str]]):
        """Writes these rows into the memo. If that fails, the files are read again the next time."""
        if self.memo is None or not rows:
            return
        try:
            self.memo.parent.mkdir(parents=True, exist_ok=True)
            with closing(open_memo(self.memo)) as memo, memo:
                memo.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
        except sqlite3.OperationalError:  # the memo is in use, or the disk is full
            pass
        except sqlite3.DatabaseError:  # the memo is damaged
            self.memo.unlink(missing_ok=True)
        except OSError:
            pass


def open_memo(file: Path) -> sqlite3.Connection:
    """Opens the memo, a table with the digests of files."""
    memo = sqlite3.connect(file, timeout=10)
    memo.execute("CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, digest TEXT, marks TEXT)")
    return memo


def key_of(path: str) -> bytes:
    """The key of a path in the memo."""
    return os.fsencode(os.path.abspath(path))


def digest_of_file(path: str) -> str:
    """The hash of the content of a file."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError:
        return uuid.uuid4().hex
    return digest.hexdigest()


def digests_of(items: Mapping[Any, tuple[str, ...]], files: FileDigests) -> dict[Any, str]:
    """A digest of each item, 32 hexadecimal digits.

    Args:
        items: by key the parts that identify an item. A part is a text, or a `File`, which stands for its content.
        files: computes the digests of these files.
    """
    known = files.of(part for parts in items.values() for part in parts if isinstance(part, File))
    digests = {}
    for key, parts in items.items():
        whole = hashlib.sha256()
        for part in parts:
            text = known[part] if isinstance(part, File) else part
            content = text.encode("utf-8", "surrogatepass")
            whole.update(len(content).to_bytes(8, "little") + content)
        digests[key] = whole.hexdigest()[:32]
    return digests
