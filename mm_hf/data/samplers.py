"""Decides which rows form a batch, in each process."""

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


# Groups are sorted by length within this many global batches. `LengthGroupedSampler` of transformers also uses 50.
WINDOW = 50

# The label of a row without a label.
NO_LABEL = -100


class GroupedBatchSampler(Sampler[list[int]]):
    """Batches that keep the rows of one group together, so that a picture with ten questions is encoded once.

    The groups are shuffled, their rows are put one after another, and this sequence is cut into global batches. Each
    process takes its part of every global batch. So two processes see the same rows as one process with twice the
    batch size.

    With `lengths`, groups of similar length form a batch, which then has little padding. Groups are sorted by the
    length of their longest row within windows of 50 global batches, and after the cut the batches are shuffled.

    With `weights`, an epoch draws as many rows as there are, with replacement. The drawn rows of one group stay
    together, except repeats of the same row.

    This sampler already divides the batches between the processes. Do not pass the loader to code that divides them
    again (`accelerator.prepare`). If that happens to the sampler of a single process, no row is lost, because
    `batch_size` is None. Accelerate would take a number to mean that all batches have this size.

    Args:
        groups: the key of the group of each row; None: each row is a group.
        batch_size: rows per process and batch.
        shuffle: use another order in each epoch (see `set_epoch`), drawn from `seed`.
        seed: the seed of the order.
        rank, world_size: the number of this process, and how many processes there are.
        drop_last: drop a last global batch in which some process would have no row. Training needs this.
        lengths: the length of each row, in any unit (tokens, words).
        weights: the weight of each row, see `balanced_weights`. A row with weight 0 is never drawn.

    Raises:
        ValueError: the batch size is below one; lengths or weights have another number of rows; a weight is negative;
            or no weight is positive.
    """

    batch_size = None

    def __init__(
        self,
        groups: Sequence | int,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        lengths: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        places: dict = {}
        for row, key in enumerate(range(groups) if isinstance(groups, int) else groups):
            places.setdefault(("row", row) if key is None else key, []).append(row)
        self.groups = list(places.values())
        self.rows = sum(len(group) for group in self.groups)
        for name, values in (("lengths", lengths), ("weights", weights)):
            if values is not None and len(values) != self.rows:
                raise ValueError(f"{name} must have one value for each of {self.rows} rows, got {len(values)}.")
        self.lengths = lengths
        self.bounds = None if weights is None else cumulated(weights)
        self.rows_per_batch = batch_size
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.rank, self.world_size = rank, world_size
        self.epoch = self.skip = 0

    def set_epoch(self, epoch: int, skip: int = 0):
        """Sets the epoch, which decides the order, and how many of its first batches to skip when a run resumes."""
        if not 0 <= skip <= len(self):
            raise ValueError(f"An epoch has {len(self)} batches, so skip must be from 0 to {len(self)}, got {skip}.")
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        """The number of batches of a whole epoch, with the skipped ones."""
        full, rest = divmod(self.rows, self.rows_per_batch * self.world_size)
        return full + (rest >= self.world_size if self.drop_last else rest > 0)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        for batch in self._global_batches(generator)[self.skip : len(self)]:
            first, last = (len(batch) * part // self.world_size for part in (self.rank, self.rank + 1))
            if first < last:
                yield batch[first:last]

    def _global_batches(self, generator: torch.Generator) -> list[list[int]]:
        """The rows of an epoch as batches of all processes together. The last batch may be shorter."""
        groups = self.groups if self.bounds is None else self._draw(self.bounds, generator)
        if self.shuffle:
            groups = [groups[place] for place in torch.randperm(len(groups), generator=generator).tolist()]
        if self.lengths is not None:
            groups = self._sort_in_windows(groups, self.lengths)
        rows = [row for group in groups for row in group]
        step = self.rows_per_batch * self.world_size
        batches = [rows[start : start + step] for start in range(0, len(rows), step)]
        if self.lengths is not None and self.shuffle:
            full = len(rows) // step
            order = torch.randperm(full, generator=generator).tolist()
            batches = [batches[place] for place in order] + batches[full:]
        return batches

    def _draw(self, bounds: torch.Tensor, generator: torch.Generator) -> list[list[int]]:
        """The groups of the drawn rows of an epoch. A group occurs as often as its most frequent row was drawn.
        Otherwise all repeats of a rare row would be in one batch, and fill most of it."""
        points = torch.rand(self.rows, dtype=torch.float64, generator=generator)
        drawn = Counter(torch.searchsorted(bounds, points, right=True).tolist())
        return [
            [row for row in group if drawn[row] > turn]
            for group in self.groups
            for turn in range(max(drawn[row] for row in group))
        ]

    def _sort_in_windows(self, groups: list[list[int]], lengths: Sequence[int]) -> list[list[int]]:
        """Sorts groups by length within `WINDOW` global batches, alternately up and down. So the batch at the border
        of two windows has rows of similar length."""

        def longest(group: list[int]) -> int:
            return max(lengths[row] for row in group)

        window = WINDOW * self.rows_per_batch * self.world_size
        windows: list[list[list[int]]] = [[]]
        count = 0
        for group in groups:
            if count >= window:
                windows.append([])
                count = 0
            windows[-1].append(group)
            count += len(group)
        return [
            group
            for number, part in enumerate(windows)
            for group in sorted(part, key=longest, reverse=number % 2 == 1)
        ]


def cumulated(weights: Sequence[float]) -> torch.Tensor:
    """The cumulative weights, divided by their sum, `(N,)` float64. They are the upper ends of shares of [0, 1)."""
    values = torch.as_tensor(weights, dtype=torch.float64)
    bad = ~(values.isfinite() & (values >= 0))
    if bad.any():
        row = int(bad.int().argmax())
        raise ValueError(f"weights must be finite and not negative, got {weights[row]} for row {row}.")
    sums = values.cumsum(0)
    if len(sums) == 0 or sums[-1] == 0:
        raise ValueError(f"weights must have at least one value above 0, but all {len(values)} are 0.")
    return sums / sums[-1]


def balanced_weights(labels: Sequence) -> list[float]:
    """Weights that make every class equally frequent in training.

    Args:
        labels: the class of each row, as any value that can be a dict key, or a list of classes if a row has several.
            None, NaN, -100 and an empty list mean a missing label.

    Returns:
        for each row, one divided by the number of rows with its class. With several classes, the mean of these values.
        0 if the label is missing.
    """
    if isinstance(labels, torch.Tensor):  # as dict keys, its entries would all be different
        labels = labels.tolist()
    classes = [[label for label in each if known(label)] for each in map(as_list, labels)]
    counts = Counter(label for row in classes for label in set(row))
    return [sum(1 / counts[label] for label in row) / len(row) if row else 0.0 for row in classes]


def as_list(label) -> list:
    """The classes of a row as a list."""
    return list(label) if isinstance(label, (list, tuple, set)) else [label]


def known(label) -> bool:
    """Whether this is a label. NaN is not; only NaN is different from itself."""
    return label is not None and label != NO_LABEL and label == label
