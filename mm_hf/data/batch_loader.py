"""Batches of one part of a data set for one process. They can begin in the middle of an epoch."""

from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from .collator import MultimodalCollator
from .imported import import_again
from .rows import Rows
from .samplers import GroupedBatchSampler
from .streaming import StreamBatches


class BatchLoader(DataLoader):
    """A DataLoader that splits the rows between processes by itself, keeps the rows of one group together, and can
    begin in the middle of an epoch.

    It does not depend on the global random numbers or on the number of workers.

    Args:
        rows: one part of the data, or a stream of batches.
        collator: makes the batches.
        batch_size: rows per process and batch. A stream has its own batch size.
        train: shuffle the rows, group them by length and draw them by weight, as `rows` says. Drop a last batch in
            which some process would have no row. False: each row comes once, in order.
        seed: the seed of the order.
        rank, world_size: the number of this process, and how many processes there are.
        num_workers: worker processes that prepare batches.
    """

    def __init__(
        self,
        rows: Rows | StreamBatches,
        collator: MultimodalCollator,
        batch_size: int,
        *,
        train: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
    ):
        # The DataLoader needs a separate generator. It draws a number whenever an epoch begins, and a resumed run
        # begins its epochs at other times.
        generator = torch.Generator().manual_seed(seed)
        common: Any = {"collate_fn": collator, "num_workers": num_workers, "generator": generator}
        common["worker_init_fn"] = import_again
        if isinstance(rows, StreamBatches):
            super().__init__(rows, batch_size=None, **common)
            return
        sampler = GroupedBatchSampler(
            len(rows) if rows.groups is None else rows.groups,
            batch_size,
            shuffle=train,
            seed=seed,
            rank=rank,
            world_size=world_size,
            drop_last=train,
            lengths=rows.lengths if train else None,
            weights=rows.weights if train else None,
        )
        super().__init__(rows, batch_sampler=sampler, **common)

    def set_epoch(self, epoch: int, skip: int = 0):
        """Sets the epoch, which decides the order of rows that are not streamed, and how many batches to skip."""
        self.collate_fn.set_epoch(epoch)
        if not isinstance(self.dataset, StreamBatches):
            self.batch_sampler.set_epoch(epoch, skip)

    def start_at(self, epoch: int, rows: int):
        """Sets where a stream begins: the epoch of this process, and how many of its rows to skip."""
        cast(StreamBatches, self.dataset).start_at(epoch, rows)
