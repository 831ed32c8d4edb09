"""Which rows make a batch, on which process."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


class GroupedBatchSampler(Sampler[list[int]]):
    """Batches that keep the rows of one group together, so that a picture with ten questions is encoded once.

    The groups are shuffled, their rows laid end to end, and the sequence is cut into global batches; each process
    takes its own part of every global batch, so that two processes see the rows that one would see with twice the
    batch.

    Args:
        groups: for each row the key of its group; None: each row is its own.
        batch_size: rows a process and batch.
        shuffle: another order in each epoch (see `set_epoch`), drawn from `seed`.
        seed: of the order.
        rank, world_size: this process, and how many there are.
        drop_last: leave out a last global batch in which a process would have no row. Training needs it.

    Raises:
        ValueError: a batch size below one.
    """

    def __init__(
        self,
        groups: Sequence | int,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        places: dict = {}
        for row, key in enumerate(range(groups) if isinstance(groups, int) else groups):
            places.setdefault(("row", row) if key is None else key, []).append(row)
        self.groups = list(places.values())
        self.rows = sum(len(group) for group in self.groups)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.drop_last = drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int):
        """Chooses the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(self.rows, self.batch_size * self.world_size)
        return full + (rest >= self.world_size if self.drop_last else rest > 0)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(len(self.groups)))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(len(order), generator=generator).tolist()
        rows = [row for group in order for row in self.groups[group]]
        step = self.batch_size * self.world_size
        for start in range(0, len(self) * step, step):
            batch = rows[start : start + step]
            first, last = (len(batch) * part // self.world_size for part in (self.rank, self.rank + 1))
            if first < last:
                yield batch[first:last]
