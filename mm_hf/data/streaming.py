"""Batches of a data set that is read during training. They do not depend on the number of workers or on a resume."""

from collections.abc import Iterator
from typing import Any

from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import get_worker_info

from .rows import EPOCH, POSITION, ROW_ID, SPLIT


class StreamBatches(TorchIterableDataset):
    """Batches of rows of a stream, for one process.

    If the number of shards is a multiple of the number of processes, the processes share the rows by shards, else row
    by row. A row is a dict as `Rows` gives it, with its epoch and its position in this process's stream of that epoch.
    Its `row_id` is the position times `world_size` plus `rank`, so it is different in every process.

    Each worker of a `DataLoader` reads the process's whole stream and gives its share of the batches. So their order
    does not depend on the number of workers. The repeated reading pays off if decoding takes most of the time.
    (datasets alone divides the shards between workers, and a worker without a shard is idle.)

    Args:
        dataset: the rows. Pictures must be `Image(decode=False)`, else datasets decodes them, also skipped ones.
        split: the name of the split, for the rows.
        batch_size: rows of a batch. The last batch of an epoch may be smaller.
        rank, world_size: the number of this process, and how many processes there are.
        shuffle_buffer: the number of rows from which the next one is drawn, see `datasets.IterableDataset.shuffle`.
            The shards are shuffled too, but read one after the other, so a buffer that is smaller than a sorted shard
            does not mix it. 0: the order of the files. (Even then datasets changes the order of the shards from the
            second epoch on.)
        seed: the seed of the shuffle. It must be the same in every process.
        repeat: after the last row, begin the next epoch without waiting for other processes, and never end. False: one
            epoch.

    Raises:
        ValueError: the batch size is below one; or, during reading, this process has no row.

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
            # Read one shard after the other. datasets 5.2 reads several shards with threads, and at the end of each
            # pass over Parquet it sleeps for 5 s until they are gone.
            dataset = dataset.shuffle(seed=seed, buffer_size=shuffle_buffer, max_buffer_input_shards=1)
        self.dataset, self.split, self.batch_size = dataset, split, batch_size
        self.rank, self.world_size = rank, world_size
        self.repeat = repeat
        self.first_epoch = self.first_row = 0

    def start_at(self, epoch: int, rows: int):
        """Continues as if this process had already given this many rows of this epoch.

        The epoch is read again from its beginning, and these rows are dropped, because `load_state_dict` of datasets
        loses the rows in the shuffle buffer. This is exact, but takes as long as reading the rows.
        """
        self.first_epoch, self.first_row = epoch, rows

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for place, batch in enumerate(self.batches()):
            if place % workers == number:
                yield batch

    def batches(self) -> Iterator[list[dict[str, Any]]]:
        """All batches of this process, for all workers."""
        epoch, skipped = self.first_epoch, self.first_row
        while True:
            seen = 0
            for columns in self.read(epoch):
                size = len(next(iter(columns.values())))
                if seen + size > skipped:
                    yield [self.row(columns, place, seen, epoch) for place in range(max(0, skipped - seen), size)]
                seen += size
            if seen == 0:
                raise ValueError(
                    f"Process {self.rank} of {self.world_size} has no row of {self.split!r}: use fewer processes."
                )
            if not self.repeat:
                return
            epoch, skipped = epoch + 1, 0

    def read(self, epoch: int) -> Iterator[dict[str, list]]:
        """This process's part of an epoch, as dicts of columns with `batch_size` rows."""
        # A new object each time, because an IterableDataset keeps its epoch in memory that all workers share, and one
        # worker would change the epoch of another. Its `iter`, unlike `__iter__`, does not split rows between workers.
        part = split_dataset_by_node(self.dataset, rank=self.rank, world_size=self.world_size)
        part.set_epoch(epoch)
        return part.iter(batch_size=self.batch_size)

    def row(self, columns: dict[str, list], place: int, before: int, epoch: int) -> dict[str, Any]:
        """One row of a batch of columns, with its place in the stream."""
        row_id = (before + place) * self.world_size + self.rank
        values = {name: column[place] for name, column in columns.items()}
        return {**values, ROW_ID: row_id, SPLIT: self.split, EPOCH: epoch, POSITION: before + place}
