"""Batches of a data set that is read while training, the same ones whatever the workers, and after a resume too."""

from collections.abc import Iterator
from typing import Any

from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import get_worker_info

from .rows import EPOCH, POSITION, ROW_ID, SPLIT


class StreamBatches(TorchIterableDataset):
    """Batches of rows of a stream, for one process.

    The processes share the rows by shards where their number is a multiple of the processes, else row by row. A row is
    a dict as `Rows` gives it, with its epoch, its position in this process's stream of that epoch, and as `row_id`
    the position times `world_size` plus `rank`, which differs on every process.

    Each worker of a `DataLoader` reads the process's whole stream and gives its share of the batches: their order does
    not depend on the number of workers, and the reading is repeated, which pays where decoding is what takes the time.
    (By itself datasets divides the shards between workers, and leaves workers without a shard idle.)

    Args:
        dataset: the rows; pictures as `Image(decode=False)`, or datasets decodes them, skipped ones too.
        split: its name, for the rows.
        batch_size: rows of a batch; the last one of an epoch may be smaller.
        rank, world_size: this process, and how many there are.
        shuffle_buffer: rows to draw the next one from, see `datasets.IterableDataset.shuffle`. The shards are shuffled
            too, but read one after the other: a buffer smaller than a shard that is sorted does not mix it. 0: the
            order of the files. (From the second epoch on datasets reads the shards in another order even then.)
        seed: of the shuffle; the same on every process.
        repeat: begin the next epoch after the last row, without waiting for other processes, and never end. Without
            it one epoch.

    Raises:
        ValueError: a batch size below one, or, when it is read, a process without a row.

    Example:

    ```python
    >>> batches = StreamBatches(splits["train"], "train", batch_size=32, shuffle_buffer=1000, repeat=True)
    >>> loader = DataLoader(batches, batch_size=None, collate_fn=collator, num_workers=2)
    ```
    """

    def __init__(
        self,
        dataset: IterableDataset,
        split: str,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle_buffer: int = 0,
        seed: int = 0,
        repeat: bool = False,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if shuffle_buffer > 0:
            # One shard after the other: several by turns are read by threads, and datasets 5.2 sleeps 5 s at the end
            # of each pass over Parquet to get rid of them.
            dataset = dataset.shuffle(seed=seed, buffer_size=shuffle_buffer, max_buffer_input_shards=1)
        self.dataset, self.split, self.batch_size = dataset, split, batch_size
        self.rank, self.world_size = rank, world_size
        self.repeat = repeat
        self.first_epoch = self.first_row = 0

    def start_at(self, epoch: int, rows: int):
        """Goes on as if this many rows of this epoch had been given already, on this process.

        The epoch is read again from its beginning and the rows dropped: datasets' own `load_state_dict` loses what was
        in the shuffle buffer. Exact, and as slow as reading is.
        """
        self.first_epoch, self.first_row = epoch, rows

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for place, batch in enumerate(self.batches()):
            if place % workers == number:
                yield batch

    def batches(self) -> Iterator[list[dict[str, Any]]]:
        """All batches of this process, whatever the worker."""
        epoch, skipped = self.first_epoch, self.first_row
        while True:
            seen = 0
            for columns in self.read(epoch):
                size = len(next(iter(columns.values())))
                if seen + size > skipped:
                    yield [self.row(columns, place, seen, epoch) for place in range(max(0, skipped - seen), size)]
                seen += size
            if seen == 0:
                raise ValueError(f"Process {self.rank} of {self.world_size} has no row of split {self.split!r}.")
            if not self.repeat:
                return
            epoch, skipped = epoch + 1, 0

    def read(self, epoch: int) -> Iterator[dict[str, list]]:
        """The process's part of an epoch, as dicts of columns of `batch_size` rows."""
        # A new object each time: an IterableDataset keeps its epoch in memory that all workers share, and one of them
        # would turn the page for another. Its `iter`, unlike `__iter__`, does not look for workers.
        part = split_dataset_by_node(self.dataset, rank=self.rank, world_size=self.world_size)
        part.set_epoch(epoch)
        return part.iter(batch_size=self.batch_size)

    def row(self, columns: dict[str, list], place: int, before: int, epoch: int) -> dict[str, Any]:
        """One row of a batch of columns, with where it comes from."""
        row_id = (before + place) * self.world_size + self.rank
        values = {name: column[place] for name, column in columns.items()}
        return {**values, ROW_ID: row_id, SPLIT: self.split, EPOCH: epoch, POSITION: before + place}
