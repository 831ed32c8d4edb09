"""The features of rows for a linear model. For each place of each modality: the pooled output of its encoder, or
simpler features if the encoder has not learned anything yet.

Each distinct item is processed once. If a row has no item in a place, its features are zeros, and an indicator is 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..models.modeling_mm_fusion import MMFusionModel
from ..models.modeling_outputs import EncoderStates
from ..progress_bar import progress_bar
from .collator import MultimodalCollator
from .modalities import reader_of
from .preparing import prepare_readable
from .rows import Rows


TOGETHER = 64  # items that go through an encoder together


@dataclass
class LinearItems:
    """The distinct items of one modality, for `ModalityReader.linear_features`.

    Args:
        modality: its name.
        model: the base model with the encoders.
        collator: finds, loads and prepares items.
        rows: the parts of the data.
        places: the first place of each item, by its key: part, row, column.
        learned: whether a training row has the item, `(U,)` bool.
        progress: show a progress bar.
        bad: by number of an item, the reason why it cannot be read.
    """

    modality: str
    model: MMFusionModel
    collator: MultimodalCollator
    rows: Mapping[str, Rows]
    places: dict[str, tuple[str, int, str]]
    learned: np.ndarray
    progress: bool = False
    bad: dict[int, str] = field(default_factory=dict)

    def batches(self) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """The model's inputs of some items, with the numbers of these items. Where bad rows are skipped, items that
        cannot be read are left out and noted in `bad`.

        Raises:
            BadRowError: an item cannot be read, and bad rows are not skipped.
        """
        places = list(self.places.values())
        skip = self.collator.on_error == "skip"

        def prepare(chosen: Sequence[tuple[str, int, str]]) -> dict[str, torch.Tensor]:
            rows = [self.rows[part][row] for part, row, _ in chosen]
            return self.collator.prepare_items(self.modality, rows, [column for _, _, column in chosen])

        title = f"features of {self.modality}"
        for start in progress_bar(range(0, len(places), TOGETHER), desc=title, disable=not self.progress):
            chosen = dict(enumerate(places[start : start + TOGETHER], start))
            numbers, inputs = prepare_readable(chosen, prepare, self.bad if skip else None)
            if numbers:
                yield numbers, inputs

    def items(self) -> Iterator[tuple[int, Any]]:
        """The items as loaded, such as texts, with the number of each."""
        reader = reader_of(self.modality)
        for number, (part, row, column) in enumerate(self.places.values()):
            yield number, reader.load(self.rows[part][row], column, self.collator)

    @torch.no_grad()
    def states(self) -> Iterator[tuple[list[int], EncoderStates]]:
        """The output of the encoder for some items, with the numbers of these items. It comes from the collator's
        cache, if the cache has them."""
        if (cache := self.collator.cache_of(self.modality)) is not None:
            keys = [(number, key) for number, key in enumerate(self.places) if key in cache.items[self.modality]]
            for start in range(0, len(keys), TOGETHER):
                chosen = keys[start : start + TOGETHER]
                yield [number for number, _ in chosen], cache.states(self.modality, [key for _, key in chosen])
            return
        for numbers, inputs in self.batches():
            moved: dict[str, Any] = {name: value.to(self.model.device) for name, value in inputs.items()}
            yield numbers, self.model.encode(**moved)[self.modality]

    def table(self, batches: Iterator[tuple[list[int], np.ndarray]]) -> np.ndarray:
        """The features of all items, in their order, `(U, F)` float32. Zeros for items that could not be read."""
        rows: np.ndarray | None = None
        for numbers, values in batches:
            rows = np.zeros((len(self.places), values.shape[1]), dtype=np.float32) if rows is None else rows
            rows[numbers] = values
        return np.zeros((len(self.places), 0), dtype=np.float32) if rows is None else rows


@dataclass
class Block:
    """The features of one place of a modality.

    Args:
        modality: its name.
        place: number of the place.
        columns: the position of its features among all features.
        absent: the column that is 1 if the place is empty.
    """

    modality: str
    place: int
    columns: slice
    absent: int


@dataclass
class LinearFeatures:
    """The features of rows.

    Args:
        parts: by part the features, `(N, F)` float32.
        blocks: the position of each place in the features.
        numbers: by part the row numbers of the features.
        keys: by part and modality the keys of each row's items, one per place; None for no item.
    """

    parts: dict[str, np.ndarray]
    blocks: list[Block]
    numbers: dict[str, list[int]]
    keys: dict[str, dict[str, list[tuple[str | None, ...]]]]

    @property
    def width(self) -> int:
        """The number of features of a row."""
        return self.blocks[-1].absent + 1

    @property
    def groups(self) -> np.ndarray:
        """The number of the modality of each feature, `(F,)` int64."""
        names = list(dict.fromkeys(block.modality for block in self.blocks))
        numbers = np.zeros(self.width, dtype=np.int64)
        for block in self.blocks:
            numbers[block.columns] = numbers[block.absent] = names.index(block.modality)
        return numbers

    def by_modality(self, part: str) -> dict[str, np.ndarray]:
        """The features of each modality alone."""
        by_name: dict[str, list[np.ndarray]] = {}
        for block in self.blocks:
            by_name.setdefault(block.modality, []).append(self.parts[part][:, block.columns])
        return {name: np.concatenate(values, axis=1) for name, values in by_name.items()}


def linear_features(
    model: MMFusionModel,
    collator: MultimodalCollator,
    splits: Mapping[str, Any],
    rows: Mapping[str, list[int]],
    progress: bool = False,
) -> LinearFeatures:
    """Computes the features of rows for a linear model.

    Args:
        model: the base model in eval mode, with the encoders.
        collator: without augmentation. A modality that it leaves out (`absent`) is left out here too. Features in its
            cache are not computed again.
        splits: the parts, each a `Dataset`. Features that have to be learned (the words of texts) are learned from
            "train".
        rows: by part the row numbers.
        progress: show progress bars.

    Raises:
        BadRowError: a row cannot be read, and bad rows are not skipped.
    """
    sources = {part: Rows(splits[part], part) for part in rows}
    modalities = [name for name, columns in collator.parts.items() if columns]
    keys: dict[str, dict[str, list[tuple[str | None, ...]]]] = {part: {} for part in rows}
    for part, source in sources.items():
        for name in modalities:
            keys[part][name] = []
        for start in range(0, len(rows[part]), 1000):
            for row in source.__getitems__(rows[part][start : start + 1000]):
                for name in modalities:
                    without = collator.absent.get(name, ())
                    left_out = without is None or row["row_id"] in without
                    columns = collator.parts[name]
                    row_keys = [None] * len(columns) if left_out else collator.item_keys(row, name)
                    keys[part][name].append(tuple(row_keys))
    blocks: list[Block] = []
    made: dict[str, list[np.ndarray]] = {part: [] for part in rows}
    width = 0
    for name in modalities:
        items = items_of(name, model, collator, sources, rows, keys, progress)
        features = reader_of(name).linear_features(items) if items.places else np.zeros((0, 0), dtype=np.float32)
        features = np.concatenate([features, np.zeros((1, features.shape[1]), dtype=np.float32)])  # last: no item
        order = {key: number for number, key in enumerate(items.places) if number not in items.bad}
        for place in range(len(collator.parts[name])):
            blocks.append(Block(name, place, slice(width, width + features.shape[1]), width + features.shape[1]))
            width += features.shape[1] + 1
            for part in rows:
                row_keys = [key[place] for key in keys[part][name]]
                index = np.array([-1 if key is None else order.get(key, -1) for key in row_keys], dtype=np.int64)
                made[part] += [features[index], (index < 0)[:, None].astype(np.float32)]
    parts = {part: np.concatenate(values, axis=1) for part, values in made.items()}
    return LinearFeatures(parts, blocks, {part: list(numbers) for part, numbers in rows.items()}, keys)


def items_of(
    name: str,
    model: MMFusionModel,
    collator: MultimodalCollator,
    sources: Mapping[str, Rows],
    rows: Mapping[str, list[int]],
    keys: Mapping[str, Mapping[str, list[tuple[str | None, ...]]]],
    progress: bool,
) -> LinearItems:
    """The distinct items of one modality, without items that the cache knows to be bad."""
    cache = collator.cache_of(name)
    places: dict[str, tuple[str, int, str]] = {}
    learned: set[str] = set()
    bad = {} if cache is None else cache.bad.get(name, {})
    for part in rows:
        for row, row_keys in zip(rows[part], keys[part][name]):
            for key, column in zip(row_keys, collator.parts[name]):
                if key is not None and key not in bad:
                    places.setdefault(key, (part, row, column))
                    if part == "train":
                        learned.add(key)
    mask = np.array([key in learned for key in places], dtype=np.bool_)
    return LinearItems(name, model, collator, sources, places, mask, progress)
