"""Which rows make a batch, on which process: the same ones on any number of processes, and after a restart too."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import xxhash
from torch.utils.data import Dataset

from ...data.file_columns import is_file
from .sources import RowSource


FIRST_FILES = 100  # rows of which some picture must be there


class RowBatches:
    """The batches of rows of one process: of each round, which has a batch for each process, its own. It is the
    sampler of a `DataLoader`, and so runs in this process, whoever prepares the batches.

    Args:
        source: the rows.
        size: of a batch.
        rank, world_size: this process, and how many there are.
        first: how many rows are done already, whole batches.
        digest: of these rows, as `waiting` had it; they are read again, and must be the same.
        kept: what is kept of a row until it is written; None: nothing, this process does not write.
        look: whether to look for files among the first rows, see `check_files`.
        count: what is counted in the rows of a batch as the collator takes them, until it is written.

    Attributes:
        waiting: what was read and is not written: of each batch of all processes its rows as they stand in the file,
            and a digest of all rows up to its end. Whoever writes takes from it.
        counted: of each of these batches what `count` gave.
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
                f"The first {self.first:,} rows of {self.source.name} are other ones than those that were predicted "
                "before: give those again, or remove what is left of that and begin anew."
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
        """Tells paths that start from another folder: all of the first rows' lead nowhere.

        Raises:
            ValueError: naming the first, and the flag.
        """
        for column in self.source.columns.files:
            files = [row[column] for row in rows if isinstance(row[column], dict)]
            paths = [file["path"] for file in files if file.get("bytes") is None and file.get("path")]
            if len(paths) > 1 and not any(is_file(path, self.source.root) for path in paths):
                below = "" if self.source.root is None else f" below {self.source.root!r}"
                raise ValueError(
                    f"Column {column!r} of {self.source.name} must hold paths, but none of its first {len(paths)} "
                    f"values is a file{below} (the first: {paths[0]!r}). --data_root names the folder."
                )


class GivenRows(Dataset):
    """Gives a `DataLoader` the rows that its sampler hands to it."""

    def __getitems__(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return rows


def pass_over(rows: Iterator[dict[str, Any]], count: int, size: int) -> str:
    """Reads so many rows, in batches of this size, and gives their digest."""
    digest = ""
    for _ in range(0, count, size):
        digest = digest_of(list(itertools.islice(rows, size)), digest)
    return digest


def digest_of(rows: list[dict[str, Any]], before: str) -> str:
    """A digest of rows, and of what came before them."""
    return xxhash.xxh3_64(f"{before}{rows}".encode()).hexdigest()
