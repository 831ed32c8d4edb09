"""The features on disk of the items of one run, by the keys that its collator makes."""

from collections.abc import Callable, Iterator, Mapping

import torch

from .feature_store import FeatureSet, FeatureStore


class StoredItems(Mapping):
    """Features by key, which lie in a set of a `FeatureStore`.

    Batches are cut by the place of an item among all items of the run, and encoded as a whole where one of them is
    missing: a run that was killed while it encoded and begins again has the features of one that was not, bit for bit.
    (Features that another run with other rows left there were encoded in its batches: those differ by rounding.)

    Args:
        store: of the set.
        features: the set.
        digests: by key that of the item.
        rank, world_size: this process and how many encode the items, each its share of the batches.
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
        self.missing = 0  # items of all processes, when this one looked
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
        """The batches of items that this process has to encode: those in which one is missing."""
        self.features.check(self.digests[key] for key in keys)
        first: dict[str, str] = {}  # of equal items
        for key in keys:
            first.setdefault(self.digests[key], key)
        distinct = list(first.values())
        whole = [distinct[start : start + size] for start in range(0, len(distinct), size)]
        self.missing = sum(map(len, filter(self.lacks, whole)))
        return [batch for batch in whole[self.rank :: self.world_size] if self.lacks(batch)]

    def lacks(self, keys: list[str]) -> bool:
        """Whether the features of one of these items are not there."""
        return any(self.digests[key] not in self.features for key in keys)

    def put(self, key: str, levels: tuple[torch.Tensor, ...], padded: bool, dtype: torch.dtype):
        """Takes the features of an item, see `FeatureSet.add`."""
        self.features.add(self.digests[key], levels, padded, dtype)

    def expect(self, left: float):
        """Says once what the features are going to take on disk, and makes room for them.

        Args:
            left: bytes that this process still has to encode.

        Raises:
            StoreError: they do not fit.
        """
        if self.told:
            return
        self.told = True
        needed = int(left * self.world_size + self.features.pending_bytes)
        if left:
            self.say(
                f"{self.missing:,} items to encode: their features take {needed / 1e9:.3g} GB in {self.store.folder}"
            )
        self.store.make_room(needed, self.features)

    def publish(self):
        """Writes what is not written yet."""
        self.features.publish()

    def dtype_of(self, key: str) -> torch.dtype:
        """In which an item's features are given back."""
        return self.features.index[self.digests[key]][0].dtype

    def forget(self, keys: list[str]):
        """See `FeatureSet.forget`."""
        self.features.forget(self.digests[key] for key in keys)
