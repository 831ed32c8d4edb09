"""Features of frozen encoders, computed once per distinct item and kept in memory.

Exactly what `MMFusionModel.encode` gives is kept, so training on it is training on the encoders, without running them
again.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch

from ..models.freezing import holds_adapters
from ..models.modeling_mm_fusion import MMFusionModel
from ..models.modeling_outputs import EncoderStates
from ..progress_bar import progress_bar
from .bad_rows import check_on_error
from .rows import BadRowError


Key = TypeVar("Key")


class CacheTooLargeError(ValueError):
    """The features would not fit into memory."""


def prepare_readable(
    items: dict[Key, Any], prepare: Callable[[list[Any]], dict[str, torch.Tensor]], bad: dict[Key, str] | None
) -> tuple[list[Key], dict[str, Any]]:
    """Prepares a batch; where that fails, finds the bad items one by one and prepares the others.

    Args:
        items: raw ones by key.
        prepare: turns raw items into the model's inputs.
        bad: takes by key why an item cannot be read; None: the first one raises.

    Returns:
        the keys of the good items, and their inputs, none where all are bad.

    Raises:
        BadRowError: an item that cannot be read, unless these are taken down.
    """
    try:
        return list(items), prepare(list(items.values()))
    except BadRowError:
        if bad is None:
            raise
    good = []
    for key, item in items.items():
        try:
            prepare([item])
            good.append(key)
        except BadRowError as error:
            bad[key] = error.entry["reason"]
    return good, prepare([items[key] for key in good]) if good else {}


class FeatureCache:
    """Encoder states by modality and item.

    Args:
        model: the base model, whose config says which encoders are frozen.
        max_bytes: most that all features may take; None: half of the memory that is free now, shared out evenly.
        processes: how many processes on this machine share the memory, each with a cache of its own.
        on_error: `"raise"` stops at an item that cannot be read; `"skip"` remembers it, so that the collator takes
            the rows that use it for bad.

    Attributes:
        modalities: those that were filled.
        bad: by modality and key why an item could not be read.

    Example:

    ```python
    >>> cache = FeatureCache(model.base_model)
    >>> cache.fill("text", [(question, question) for question in questions], lambda batch: processor(text=batch))
    >>> cache.states("text", ["what colour is it?"])
    ```
    """

    def __init__(
        self, model: MMFusionModel, max_bytes: int | None = None, processes: int = 1, on_error: str = "raise"
    ):
        check_on_error(on_error)
        self.model = model
        self.max_bytes = free_memory() // 2 // processes if max_bytes is None else max_bytes
        self.on_error = on_error
        self.modalities: list[str] = []
        self.items: dict[str, dict[str, tuple]] = {}
        self.bad: dict[str, dict[str, str]] = {}

    @torch.no_grad()
    def fill(
        self,
        modality: str,
        items: Iterable[tuple[str, Any]],
        prepare: Callable[[list[Any]], dict[str, torch.Tensor]],
        batch_size: int = 64,
        progress: bool = True,
    ):
        """Encodes items that are not there yet, in the order in which they come.

        Args:
            modality: its encoder must be frozen.
            items: pairs of key and raw item, keys as the collator makes them.
            prepare: turns raw items into the model's inputs.

        Raises:
            ValueError: the encoder trains, or adapters in it do, so its features would be out of date after a step.
            CacheTooLargeError: judged after each batch by the items encoded so far, the first one above all. The
                modality is dropped from the cache, so that a caller may go on without it.
            BadRowError: an item that cannot be read, unless these are skipped.
        """
        if modality not in self.model.config.frozen_encoders:
            raise ValueError(
                f"The {modality} encoder trains: features can be kept of {self.model.config.frozen_encoders} "
                "alone: see freeze_encoders."
            )
        encoder = self.model.encoders[modality]
        if holds_adapters(encoder) and any(parameter.requires_grad for parameter in encoder.parameters()):
            raise ValueError(
                f"Adapters train in the {modality} encoder: kept features would be those of before they learn. "
                "Take them into the weights first (merge_lora, or merge_and_unload of PEFT)."
            )
        kept, bad = self.items.setdefault(modality, {}), self.bad.setdefault(modality, {})
        if modality not in self.modalities:
            self.modalities.append(modality)
        pending = {key: item for key, item in items if key not in kept and key not in bad}
        keys = list(pending)
        held, encoded, done = self.size(), 0, 0  # bytes, bytes, items
        for start in progress_bar(range(0, len(keys), batch_size), desc=f"encoding {modality}", disable=not progress):
            chosen = {key: pending[key] for key in keys[start : start + batch_size]}
            batch, inputs = prepare_readable(chosen, prepare, bad if self.on_error == "skip" else None)
            if not batch:
                continue
            inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
            states = self.model.encode(**inputs)[modality]
            for place, key in enumerate(batch):
                tokens = slice(None) if states.mask is None else states.mask[place].bool()
                levels = tuple(level[place][tokens].cpu().clone() for level in states.levels)
                kept[key] = levels, states.mask is not None
                encoded += count_bytes(levels)
            done += len(batch)
            remaining = max(len(keys) - start - batch_size, 0)
            self._check_size(modality, held + encoded + encoded / done * remaining)

    def size(self) -> int:
        """Bytes that all features take."""
        return sum(count_bytes(levels) for kept in self.items.values() for levels, _ in kept.values())

    def _check_size(self, modality: str, estimate: float):
        """Gives the modality up where its features will not fit."""
        if estimate <= self.max_bytes:
            return
        self.drop(modality)
        raise CacheTooLargeError(
            f"With the {modality} features the cache would take about {estimate / 1e9:.3g} GB, and its limit is "
            f"{self.max_bytes / 1e9:.3g} GB: switch the feature cache off, or make the features smaller (image size, "
            "text length, fewer feature layers), or raise the limit."
        )

    def drop(self, modality: str):
        """Forgets the features of a modality, if there are any."""
        if modality in self.modalities:
            self.modalities.remove(modality)
        for store in (self.items, self.bad):
            store.pop(modality, None)

    def states(self, modality: str, keys: list[str]) -> EncoderStates:
        """The states of some items, padded to the longest of them."""
        kept = [self.items[modality][key] for key in keys]
        padded = kept[0][1]
        if not padded:
            return EncoderStates(levels=tuple(torch.stack(parts) for parts in zip(*(levels for levels, _ in kept))))
        lengths = torch.tensor([len(levels[0]) for levels, _ in kept])
        levels = tuple(
            torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
            for parts in zip(*(levels for levels, _ in kept))
        )
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        return EncoderStates(levels=levels, mask=mask)


def count_bytes(levels: tuple[torch.Tensor, ...]) -> int:
    """Bytes of the features of one item."""
    return sum(level.nelement() * level.element_size() for level in levels)


def free_memory() -> int:
    """Bytes of memory that this machine could give now."""
    import psutil

    return psutil.virtual_memory().available
