"""The features on disk of the items of one run, by the keys of its collator."""

from collections.abc import Callable, Iterator, Mapping

import torch

from .feature_store import FeatureSet, FeatureStore


class StoredItems(Mapping):
    """Features by key, stored in a set of a `FeatureStore`.

    The place of an item among all items of the run decides its batch. A batch is encoded as a whole if one of its
    items is missing. So a run that was killed during encoding and starts again gets the same features, bit for bit, as
    a run that was not killed. (Features from another run with other rows were encoded in other batches, so they differ
    by rounding.)

    Args:
        store: the store of the set.
        features: the set.
        digests: the digest of each item by key.
        rank, world_size: the number of this process, and how many processes share the encoding.
        say: prints a line.
    """

    def __init__(
        self,
        store: FeatureStore,
        features: FeatureSet,
        digests: Mapping[str, str],
        rank: int = 0,
        world_size: int = 1,
        say: Callable[[str], None] = print,
    ):
        self.store, self.features, self.digests = store, features, digests
        self.rank, self.world_size, self.say = rank, world_size, say
        self.missing = 0  # missing items of all processes, at the time when this process looked
        self.told = False

    def __getstate__(self):
        return {**self.__dict__, "say": print}

    def __getitem__(self, key: str) -> tuple[tuple[torch.Tensor, ...], bool]:
        levels, padded, _ = self.features.levels(self.digests[key])
        return levels, padded

    def __iter__(self) -> Iterator[str]:
        return (key for key, digest in self.digests.items() if digest in self.features)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def batches(self, keys: list[str], size: int) -> list[list[str]]:
        """The batches that this process must encode, because at least one of their items is missing."""
        self.features.check(self.digests[key] for key in keys)
        first: dict[str, str] = {}  # of equal items
        for key in keys:
            first.setdefault(self.digests[key], key)
        distinct = list(first.values())
        whole = [distinct[start : start + size] for start in range(0, len(distinct), size)]
        self.missing = sum(map(len, filter(self.lacks, whole)))
        return [batch for batch in whole[self.rank :: self.world_size] if self.lacks(batch)]

    def lacks(self, keys: list[str]) -> bool:
        """Whether the features of any of these items are missing."""
        return any(self.digests[key] not in self.features for key in keys)

    def put(self, key: str, levels: tuple[torch.Tensor, ...], padded: bool, dtype: torch.dtype):
        """Stores the features of an item, see `FeatureSet.add`."""
        self.features.add(self.digests[key], levels, padded, dtype)

    def expect(self, left: float):
        """Prints once how much disk space the features will need, and makes room for them.

        Args:
            left: bytes that this process still has to encode.

        Raises:
            StoreError: the features do not fit.
        """
        if self.told:
            return
        self.told = True
        needed = int(left * self.world_size + self.features.pending_bytes)
        if left:
            self.say(
                f"{self.missing:,} items to encode: their features need {needed / 1e9:.3g} GB in {self.store.folder}"
            )
        self.store.make_room(needed, self.features)

    def publish(self):
        """Writes features that are not written yet."""
        self.features.publish()

    def dtype_of(self, key: str) -> torch.dtype:
        """The dtype in which an item's features are returned."""
        return self.features.index[self.digests[key]][0].dtype

    def forget(self, keys: list[str]):
        """See `FeatureSet.forget`."""
        self.features.forget(self.digests[key] for key in keys)
