"""Features of frozen encoders. Each distinct item is encoded once, and its features are kept in memory or on disk.

The cache keeps exactly the output of `MMFusionModel.encode`. Training on the cache therefore gives the same result as
running the encoders in each step.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from ..models.freezing import holds_adapters
from ..models.modality import modality_of
from ..models.modeling_mm_fusion import MMFusionModel
from ..models.modeling_outputs import EncoderStates
from ..progress_bar import progress_bar
from .bad_rows import check_on_error
from .feature_store import count_bytes
from .preparing import prepared
from .stored_items import StoredItems


# The levels of one item, `(T, H)` each or a feature map, and whether items of its modality are padded.
KeptStates = tuple[tuple[torch.Tensor, ...], bool]


class CacheTooLargeError(ValueError):
    """The features do not fit into memory."""


class FeatureCache:
    """Encoder states by modality and item.

    Args:
        model: the base model. Its config says which encoders are frozen.
        max_bytes: the largest size of all features together; None: half of the memory that is free now, shared evenly
            between the processes.
        processes: how many processes on this machine share the memory. Each has a separate cache.
        on_error: `"raise"` stops at an item that cannot be read. `"skip"` remembers the item, so that the collator
            treats rows with it as bad.
        dtype: the floating dtype in which features are kept; None: the encoder's dtype. Features are always returned
            in the encoder's dtype.
        workers: processes that read and prepare items; None: as many as help, see `prepared`.
        at_once: how many items of a batch go through an encoder of transformers together, if items are not padded;
            None: all. With many items on the CPU, allocating memory takes longer than the computation.

    Attributes:
        modalities: the modalities that were filled.
        items: by modality and key, the levels of each item and whether items of this modality are padded.
        bad: by modality and key, the reason why an item could not be read.

    Example:

    ```python
    >>> cache = FeatureCache(model.base_model)
    >>> cache.fill("text", [(question, question) for question in questions], lambda batch: processor(text=batch))
    >>> cache.states("text", ["what colour is it?"])
    ```
    """

    def __init__(
        self,
        model: MMFusionModel,
        max_bytes: int | None = None,
        processes: int = 1,
        on_error: str = "raise",
        dtype: torch.dtype | None = None,
        workers: int | None = 0,
        at_once: int | None = None,
    ):
        check_on_error(on_error)
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"Features are kept as floating numbers (float32, bfloat16, …), got dtype {dtype}.")
        self.model = model
        self.dtype, self.workers, self.processes, self.at_once = dtype, workers, processes, at_once
        self.max_bytes = free_memory() // 2 // processes if max_bytes is None else max_bytes
        self.on_error = on_error
        self.modalities: list[str] = []
        self.items: dict[str, Any] = {}  # a dict, or `StoredItems`
        self.dtypes: dict[str, torch.dtype] = {}  # of the encoders' outputs
        self.bad: dict[str, dict[str, str]] = {}

    @torch.no_grad()
    def fill(
        self,
        modality: str,
        items: Iterable[tuple[str, Any]],
        prepare: Callable[[list[Any]], dict[str, torch.Tensor]],
        batch_size: int = 64,
        progress: bool = True,
        fetch: Callable[[list[Any]], list[Any]] | None = None,
        stored: StoredItems | None = None,
    ):
        """Encodes items that are not in the cache yet, in the order in which they come.

        Args:
            modality: its encoder must be frozen.
            items: pairs of key and raw item, with keys as the collator makes them.
            prepare: turns raw items into the model's inputs. It is pickled if there are workers.
            batch_size: items that go through the encoder together.
            progress: show a progress bar.
            fetch: gives the raw items of a batch. Needed if `items` only say where to find the raw items.
            stored: keeps the features of this modality on disk; None: they are kept in memory.

        Raises:
            ValueError: the encoder, or adapters in it, are trained. Its features would be out of date after one step.
            CacheTooLargeError: the features will not fit. The size is estimated after each batch from the items
                encoded so far. The modality is dropped from the cache, so that the caller can go on without it.
            StoreError: features cannot be written to disk. The modality is dropped as well.
            BadRowError: an item cannot be read, and bad rows are not skipped.
        """
        self._check_frozen(modality)
        kept = self.items.setdefault(modality, {} if stored is None else stored)
        bad = self.bad.setdefault(modality, {})
        if modality not in self.modalities:
            self.modalities.append(modality)
        pending = {key: item for key, item in items if key not in bad and (stored is not None or key not in kept)}
        if stored is None:
            keys = list(pending)
            batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
        else:
            batches = stored.batches(list(pending), batch_size)
        left = sum(map(len, batches))
        held, encoded, done = self.size(), 0, 0  # bytes, bytes, items

        def raw(keys: list[str]) -> dict[str, Any]:
            chosen = [pending[key] for key in keys]
            return dict(zip(keys, chosen if fetch is None else fetch(chosen)))

        taken_down = bad if self.on_error == "skip" else None
        inputs_of = prepared(batches, raw, prepare, taken_down, self.workers, self.processes)
        bar = progress_bar(inputs_of, total=len(batches), desc=f"encoding {modality}", disable=not progress)
        try:
            for (batch, inputs), keys in zip(bar, batches):
                left -= len(keys)
                if not batch or (stored is not None and not stored.lacks(batch)):  # all missing items are unreadable
                    continue
                inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
                states = self._encoded(modality, inputs, len(batch))
                given = states.levels or ()
                self.dtypes[modality] = given[0].dtype
                for place, key in enumerate(batch):
                    tokens = slice(None) if states.mask is None else states.mask[place].bool()
                    levels = tuple(self._kept(modality, level[place][tokens]) for level in given)
                    if stored is None:
                        kept[key] = levels, states.mask is not None
                    else:
                        stored.put(key, levels, states.mask is not None, given[0].dtype)
                    encoded += count_bytes(levels)
                done += len(batch)
                if stored is None:
                    self._check_size(modality, held + encoded + encoded / done * left)
                else:
                    stored.expect(encoded / done * left)
            if stored is not None:
                stored.publish()
        except BaseException:
            if stored is not None:
                self.drop(modality)
            raise
        finally:
            inputs_of.close()

    def _encoded(self, modality: str, inputs: dict[str, Any], items: int) -> EncoderStates:
        """The output of the encoder for a batch. All items go through it together, or several threads encode some
        items each. Each thread computes alone, so the numbers do not depend on how many threads there are."""
        size, library = self.at_once, type(self.model.encoders[modality]).__module__.startswith("transformers.")
        # An encoder from elsewhere may keep state in the module while it runs, so it is not run in threads.
        if size is None or modality_of(modality).has_lengths or not library or self.model.config.seeded_encoders:
            return self.model.encode(**inputs)[modality]

        @torch.no_grad()
        def encode(start: int) -> tuple[torch.Tensor, ...]:
            part: dict[str, Any] = {name: value[start : start + size] for name, value in inputs.items()}
            return self.model.encode(**part)[modality].levels or ()

        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            parts = list(pool.map(encode, range(0, items, size)))
        torch.set_num_threads(threads)
        return EncoderStates(levels=tuple(map(torch.cat, zip(*parts))))

    def _check_frozen(self, modality: str):
        """Raises if the encoder trains."""
        if modality not in self.model.config.frozen_encoders:
            raise ValueError(
                f"The {modality} encoder trains, so its features cannot be cached. Frozen are "
                f"{self.model.config.frozen_encoders}: freeze it (freeze_encoders), or switch its cache off."
            )
        encoder = self.model.encoders[modality]
        if holds_adapters(encoder) and any(parameter.requires_grad for parameter in encoder.parameters()):
            raise ValueError(
                f"Adapters train in the {modality} encoder, so cached features would be out of date after one step. "
                "Merge them into the weights first (merge_lora, or merge_and_unload of PEFT)."
            )

    def _kept(self, modality: str, values: torch.Tensor) -> torch.Tensor:
        """One level of an item, in the dtype of the cache.

        Raises:
            ValueError: a number is too large for the dtype.
        """
        values = values.cpu().clone()
        if self.dtype is None or self.dtype == values.dtype:
            return values
        if not (rounded := values.to(self.dtype)).isfinite().all() and values.isfinite().all():
            raise ValueError(
                f"The {modality} features reach {values.abs().max():.6g}, too much for cache_dtype "
                f"{str(self.dtype).removeprefix('torch.')}: use float32 or bfloat16."
            )
        return rounded

    def size(self) -> int:
        """The size of all features in memory, in bytes."""
        held = [kept for kept in self.items.values() if not isinstance(kept, StoredItems)]
        return sum(count_bytes(levels) for kept in held for levels, _ in kept.values())

    def _check_size(self, modality: str, estimate: float):
        """Drops the modality and raises if its features will not fit."""
        if estimate <= self.max_bytes:
            return
        self.drop(modality)
        raise CacheTooLargeError(
            f"With the {modality} features the cache would take about {estimate / 1e9:.3g} GB, above its limit of "
            f"{self.max_bytes / 1e9:.3g} GB: switch the feature cache off, make the features smaller (image size, "
            "text length, fewer feature layers), or raise the limit."
        )

    def drop(self, modality: str):
        """Removes the features of a modality, if there are any."""
        if modality in self.modalities:
            self.modalities.remove(modality)
        for store in (self.items, self.bad, self.dtypes):
            store.pop(modality, None)

    def states(self, modality: str, keys: list[str]) -> EncoderStates:
        """The states of some items, padded to the longest of them.

        Raises:
            KeyError: an item that was not encoded.
        """
        source: Mapping[str, KeptStates] = self.items[modality]
        kept = [source[key] for key in keys]
        if not isinstance(source, StoredItems):
            return joined_states(kept, self.dtypes.get(modality))
        states = joined_states(kept, source.dtype_of(keys[0]))
        source.forget(keys)
        return states


def joined_states(kept: list[KeptStates], dtype: torch.dtype | None = None) -> EncoderStates:
    """The states of some items, padded to the longest of them. `dtype` None: the dtype that they have."""
    lengths = torch.tensor([len(levels[0]) for levels, _ in kept], device=kept[0][0][0].device)
    padded, parts = kept[0][1], zip(*(levels for levels, _ in kept))
    if padded:
        joined = [torch.nn.utils.rnn.pad_sequence(list(part), batch_first=True) for part in parts]
    else:
        joined = [torch.stack(part) for part in parts]
    mask = (torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]).long() if padded else None
    return EncoderStates(levels=tuple(level.to(dtype or level.dtype) for level in joined), mask=mask)


def free_memory() -> int:
    """The free memory of this machine in bytes."""
    import psutil

    return psutil.virtual_memory().available
