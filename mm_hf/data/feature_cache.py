"""Features of frozen encoders, computed once per distinct item and kept in memory.

Exactly what `MMFusionModel.encode` gives is kept, so training on it is training on the encoders, without running them
again.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from tqdm.auto import tqdm

from ..models.modeling_mm_fusion import MMFusionModel
from ..models.modeling_outputs import EncoderStates


class FeatureCache:
    """Encoder states by modality and item.

    Args:
        model: the base model, whose config says which encoders are frozen.

    Example:

    ```python
    >>> cache = FeatureCache(model.base_model)
    >>> cache.fill("text", [(question, question) for question in questions], lambda batch: processor(text=batch))
    >>> cache.states("text", ["what colour is it?"])
    ```
    """

    def __init__(self, model: MMFusionModel):
        self.model = model
        self.modalities: list[str] = []
        self.items: dict[str, dict[str, tuple]] = {}

    @torch.no_grad()
    def fill(
        self,
        modality: str,
        items: Iterable[tuple[str, Any]],
        prepare: Callable[[list[Any]], dict[str, torch.Tensor]],
        batch_size: int = 64,
        progress: bool = True,
    ):
        """Encodes items that are not there yet.

        Args:
            modality: its encoder must be frozen.
            items: pairs of key and raw item, keys as the collator makes them.
            prepare: turns raw items into the model's inputs.
            batch_size: items that go through the encoder together.
            progress: show a bar.

        Raises:
            ValueError: the encoder trains, so its features would be out of date after a step.
        """
        if modality not in self.model.config.frozen_encoders:
            raise ValueError(
                f"The {modality} encoder trains: features can be kept of {self.model.config.frozen_encoders} alone."
            )
        kept = self.items.setdefault(modality, {})
        if modality not in self.modalities:
            self.modalities.append(modality)
        pending = {key: item for key, item in items if key not in kept}
        keys = list(pending)
        for start in tqdm(range(0, len(keys), batch_size), desc=f"encoding {modality}", disable=not progress):
            batch = keys[start : start + batch_size]
            inputs: dict[str, Any] = {
                name: value.to(self.model.device) for name, value in prepare([pending[k] for k in batch]).items()
            }
            states = self.model.encode(**inputs)[modality]
            for place, key in enumerate(batch):
                tokens = slice(None) if states.mask is None else states.mask[place].bool()
                levels = tuple(level[place][tokens].cpu().clone() for level in states.levels)
                kept[key] = levels, states.mask is not None

    def states(self, modality: str, keys: list[str]) -> EncoderStates:
        """The states of some items, padded to the longest of them.

        Raises:
            KeyError: an item that was not encoded.
        """
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
