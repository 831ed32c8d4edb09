"""Forms batches of rows, and assigns them to processes. The batches are the same for any number of processes, and
after a restart."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import xxhash
from torch.utils.data import Dataset

from ...data.file_columns import is_file
from .sources import RowSource


FIRST_FILES = 100  # at least one picture of this many first rows must exist


class RowBatches:
    """The batches of one process. Each round has one batch per process. It is the sampler of a `DataLoader`, so it
    runs in this process, also if worker processes prepare the batches.

    Args:
        source: the rows.
        size: number of rows in a batch.
        rank, world_size: number of this process, and number of processes.
        first: number of rows that are done already; whole batches.
        digest: digest of these rows, from `waiting`. They are read again, and must be the same.
        kept: gives what is kept of a row until it is written; None: this process does not write.
        look: whether to check the files of the first rows, see `check_files`.
        count: counts something in the rows of a batch, as the collator takes them.

    Attributes:
        waiting: batches of all processes that were read and are not yet written: the rows as they are in the file, and
            a digest of all rows up to the end of the batch. The writer takes batches from it.
        counted: the result of `count` for each of these batches.
    """

    def __init__(
        self,
        source: RowSource,
        size: int,
        rank: int,
        world_size: int,
        first: int = 0,
        digest: str = "",
        kept: Callable[[dict[str, Any]], dict[str, Any]] | None = dict,
        look: bool = True,
        count: Callable[[list[dict[str, Any]]], Any] | None = None,
    ):
        self.source, self.size, self.rank, self.world_size = source, size, rank, world_size
        self.first, self.before, self.kept, self.look = first, digest, kept, look
        self.waiting: deque[tuple[list[dict[str, Any]], str]] = deque()
        self.count, self.counted = count, deque()  # type: ignore[var-annotated]

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        rows, number = iter(self.source), self.first
        if (digest := pass_over(rows, self.first, self.size)) != self.before:
            raise ValueError(
                f"The first {self.first:,} rows of {self.source.name} differ from the rows that were predicted "
                "before. Give the same rows again, or start again with --overwrite."
            )
        if self.look and not self.first:
            seen = list(itertools.islice(rows, FIRST_FILES))
            self.check_files([self.source.inputs(row) for row in seen])
            rows = itertools.chain(seen, rows)
        while True:
            batches = []
            for _ in range(self.world_size):
                if not (batch := list(itertools.islice(rows, self.size))):
                    break
                digest = digest_of(batch, digest)
                batches.append((batch, number))
                number += len(batch)
                if self.kept is not None:
                    self.waiting.append((list(map(self.kept, batch)), digest))
                if self.count is not None:
                    self.counted.append(self.count([self.source.inputs(row) for row in batch]))
            if self.rank < len(batches):
                yield self.prepared(*batches[self.rank])
            if len(batches) < self.world_size:
                return

    def prepared(self, batch: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
        """Rows as the collator takes them."""
        return [
            {**self.source.inputs(row), "row_id": first + n, "split": self.source.name} for n, row in enumerate(batch)
        ]

    def check_files(self, rows: list[dict[str, Any]]):
        """Refuses paths that are relative to another folder: none of the first paths is a file.

        Raises:
            ValueError: with the first path, and the flag to set.
        """
        for column in self.source.columns.files:
            files = [row[column] for row in rows if isinstance(row[column], dict)]
            paths = [file["path"] for file in files if file.get("bytes") is None and file.get("path")]
            if len(paths) > 1 and not any(is_file(path, self.source.root) for path in paths):
                below = "" if self.source.root is None else f" below {self.source.root!r}"
                raise ValueError(
                    f"Column {column!r} of {self.source.name} must hold paths, but none of its first {len(paths)} "
                    f"values is a file{below} (the first is {paths[0]!r}). Name the folder with --data_root."
                )


class GivenRows(Dataset):
    """Passes the rows of the sampler on to a `DataLoader`."""

    def __getitems__(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return rows


def pass_over(rows: Iterator[dict[str, Any]], count: int, size: int) -> str:
    """Reads `count` rows in batches of `size`, and returns their digest."""
    digest = ""
    for _ in range(0, count, size):
        digest = digest_of(list(itertools.islice(rows, size)), digest)
    return digest


def digest_of(rows: list[dict[str, Any]], before: str) -> str:
    """A digest of rows and of the digest of the rows before them."""
    return xxhash.xxh3_64(f"{before}{rows}".encode()).hexdigest()
