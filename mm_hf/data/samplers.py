"""Which rows make a batch, on which process."""

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler


# Groups are sorted by length among so many global batches: the library's own `LengthGroupedSampler` takes 50 too.
WINDOW = 50

# The label of a row that has none.
NO_LABEL = -100


class GroupedBatchSampler(Sampler[list[int]]):
    """Batches that keep the rows of one group together, so that a picture with ten questions is encoded once.

    The groups are shuffled, their rows laid end to end, and the sequence is cut into global batches; each process
    takes its own part of every global batch, so that two processes see the rows that one would see with twice the
    batch.

    With `lengths`, groups of similar length come into one batch, which then has little padding: within windows of 50
    global batches they are sorted by the length of their longest row, and the batches change places after the cut.

    With `weights`, an epoch draws as many rows as there are, with replacement; what it drew of one group stays
    together, but for repeats of a row.

    The batches of several processes are cut here: hand the loader to nothing that deals them out again
    (`accelerator.prepare`). Where that happens to a sampler of one process, no row is lost, because its `batch_size`
    is None: Accelerate takes a number to mean that all batches are as large.

    Args:
        groups: for each row the key of its group; None: each row is its own.
        batch_size: rows a process and batch.
        shuffle: another order in each epoch (see `set_epoch`), drawn from `seed`.
        seed: of the order.
        rank, world_size: this process, and how many there are.
        drop_last: leave out a last global batch in which a process would have no row. Training needs it.
        lengths: of each row, in any unit (tokens, words).
        weights: of each row, as `balanced_weights` gives them; a row of weight 0 is never drawn.

    Raises:
        ValueError: a batch size below one, lengths or weights for another number of rows, a negative weight, or none
            that is positive.
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
        """Chooses the order of an epoch, and how many of its first batches to leave out, where a run resumes."""
        if not 0 <= skip <= len(self):
            raise ValueError(f"An epoch has {len(self)} batches: from 0 to as many can be skipped, got {skip}.")
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        """Batches of a whole epoch, those that are skipped included."""
        full, rest = divmod(self.rows, self.rows_per_batch * self.world_size)
        return full + (rest >= self.world_size if self.drop_last else rest > 0)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        for batch in self._global_batches(generator)[self.skip : len(self)]:
            first, last = (len(batch) * part // self.world_size for part in (self.rank, self.rank + 1))
            if first < last:
                yield batch[first:last]

    def _global_batches(self, generator: torch.Generator) -> list[list[int]]:
        """The rows of an epoch in batches of all processes together; a shorter one is the last."""
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
        """Groups of the rows that an epoch draws. A group comes as often as its most frequent row was drawn: all
        repeats of a rare row in one batch would make most of that batch."""
        points = torch.rand(self.rows, dtype=torch.float64, generator=generator)
        drawn = Counter(torch.searchsorted(bounds, points, right=True).tolist())
        return [
            [row for row in group if drawn[row] > turn]
            for group in self.groups
            for turn in range(max(drawn[row] for row in group))
        ]

    def _sort_in_windows(self, groups: list[list[int]], lengths: Sequence[int]) -> list[list[int]]:
        """Sorts by length among `WINDOW` global batches, upwards and downwards in turn, so that the batch in which two
        windows meet is no mixture."""

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
    """Upper ends of the rows' shares of [0, 1), `(N,)` float64."""
    values = torch.as_tensor(weights, dtype=torch.float64)
    bad = ~(values.isfinite() & (values >= 0))
    if bad.any():
        row = int(bad.int().argmax())
        raise ValueError(f"weights must be finite and not negative, got {weights[row]} for row {row}.")
    sums = values.cumsum(0)
    if len(sums) == 0 or sums[-1] == 0:
        raise ValueError(f"weights must have one above 0 at least, got {len(values)} that are 0.")
    return sums / sums[-1]


def balanced_weights(labels: Sequence) -> list[float]:
    """Weights with which every class is drawn equally often.

    Args:
        labels: for each row its class, in any form that can be a key, or a list of classes where a row has several;
            None, NaN, -100 and an empty list stand for a label that is missing.

    Returns:
        for each row one over the number of rows with its class; for several classes the mean of that; 0 where the
        label is missing.
    """
    if isinstance(labels, torch.Tensor):  # its entries would be keys by identity
        labels = labels.tolist()
    classes = [[label for label in each if known(label)] for each in map(as_list, labels)]
    counts = Counter(label for row in classes for label in set(row))
    return [sum(1 / counts[label] for label in row) / len(row) if row else 0.0 for row in classes]


def as_list(label) -> list:
    """The classes of a row as a list."""
    return list(label) if isinstance(label, (list, tuple, set)) else [label]


def known(label) -> bool:
    """Whether this is a label: NaN alone differs from itself."""
    return label is not None and label != NO_LABEL and label == label
