"""A cache of encoded items, for items that come again: one picture with many questions, or the same sound twice."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..data.feature_cache import KeptStates, joined_states
from ..data.feature_store import count_bytes
from ..models.coalitions import encode_batch
from ..models.modality import modality_of
from ..models.modeling_outputs import EncoderStates


class KeptItems:
    """The encoder states of items. The key is the content of an item as it goes into the model.

    Args:
        max_bytes: maximum size of the cache. The least recently used items are removed first.

    Attributes:
        reused, encoded: number of items that were in the cache, and that were not.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes, self.bytes, self.reused, self.encoded = max_bytes, 0, 0, 0
        self.items: OrderedDict[tuple[str, bytes], KeptStates] = OrderedDict()

    @torch.no_grad()
    def encode(self, model: Any, batch: Mapping[str, Any]) -> dict[str, EncoderStates]:
        """Like `encode_batch`, but only items that are not in the cache are encoded. Batches have other sizes then, so
        numbers can differ by rounding."""
        states = {}
        seeded = model.config.seeded_encoders or ()
        for name in model.explained_base.encoders:
            modality = modality_of(name)
            inputs = {key: batch[key] for key in modality.inputs if batch.get(key) is not None}
            if inputs and name not in seeded and len(next(iter(inputs.values()))):
                states[name] = self.states(model, name, inputs)
        return encode_batch(model, {**batch, "encoder_states": states})

    def states(self, model: Any, name: str, inputs: Mapping[str, torch.Tensor]) -> EncoderStates:
        """The states of the items of one modality, from its inputs, `(U, …)` each."""
        keys = [(name, key) for key in contents(inputs)]
        known = {key: self.items[key] for key in keys if key in self.items}
        new = {key: place for place, key in enumerate(keys) if key not in known}
        if new:
            places = torch.tensor(list(new.values()))
            some = {key: value.index_select(0, places.to(value.device)) for key, value in inputs.items()}
            given = model.explained_base.encode({name: None}, **some)[name]
            for place, key in enumerate(new):
                tokens = slice(None) if given.mask is None else given.mask[place].bool()
                kept = tuple(level[place][tokens].clone() for level in given.levels), given.mask is not None
                known[key] = kept
                self.keep(key, kept)
        for key in keys:
            if key in self.items:
                self.items.move_to_end(key)
        self.encoded += len(new)
        self.reused += len(keys) - len(new)
        return joined_states([known[key] for key in keys])

    def keep(self, key: tuple[str, bytes], kept: KeptStates):
        """Adds an item, and removes the least recently used items until the cache fits its size."""
        self.items[key] = kept
        self.bytes += count_bytes(kept[0])
        while self.bytes > self.max_bytes:
            _, (levels, _) = self.items.popitem(last=False)
            self.bytes -= count_bytes(levels)


def contents(inputs: Mapping[str, torch.Tensor]) -> Iterator[bytes]:
    """A digest of the content of each item. It does not depend on padding."""
    mask = next((values for name, values in inputs.items() if name.endswith("attention_mask")), None)
    for place in range(len(next(iter(inputs.values())))):
        digest = hashlib.sha256()
        for name, values in inputs.items():
            item = values[place]
            if mask is not None and values.shape[:2] == mask.shape:
                item = item[mask[place].bool()]
            digest.update(f"{name} {item.dtype} {tuple(item.shape)}".encode())
            digest.update(item.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        yield digest.digest()
