# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""What model, processor and pipelines have to know of one kind of data, in one place: its `Modality`.

This file imports none of the modalities; each registers itself where it is defined, and the configuration imports
those of the library. Config, processor and collator keep the *names* of modalities and look them up here: so they can
be copied and sent to other processes, and the package works beside a checkpoint's own code.

Notation used for tensor shapes: see `modeling_outputs`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from transformers.configuration_utils import PreTrainedConfig

from .names import did_you_mean


class Modality:
    """One kind of data that rows may have: what the model reads of it, and how the processor makes that.

    A modality from outside the package is a subclass with `extra = True`, registered by `register_modality`. Its
    encoder is built from `MMFusionConfig(extra_configs={name: config})`, and its processor part is one of
    `MMFusionProcessor(extra_parts={name: part})`. Its code does not travel in checkpoints.

    Attributes:
        name: "vision"; `<name>_index` is the model's input that says which item each row uses.
        order: its place among the modalities of a model, by which parameters are ordered too. Those from outside
            stand behind all of the library, by their names.
        inputs: the model's inputs that its encoder may read; the first of those present counts the items.
        renamed: of these inputs those that the encoder knows by another name, since another modality has that.
        floats: of these inputs those that take the encoder's dtype.
        pretrained: its encoder comes from elsewhere. What the columns of a table or the channels of sensors mean, no
            other data tell: such encoders start from random weights.
        has_lengths: items are sequences that are padded to one length: see `encode_by_length` of `MMFusionConfig`.
        several_places: a row may have several items, each in its place.
        model_type: of the encoder's config, where that does not name one.
        argument: under which the processor takes raw items.
        part: the attribute of the processor that prepares them.
        row_keys: under which a row of a pipeline has one; the first is the usual one.
        meant: other words that people use for it, for messages.
        extra: it is from outside the package.
    """

    name: ClassVar[str]
    order: ClassVar[int] = 100
    inputs: ClassVar[tuple[str, ...]]
    renamed: ClassVar[Mapping[str, str]] = {}
    floats: ClassVar[tuple[str, ...]] = ()
    pretrained: ClassVar[bool] = False
    has_lengths: ClassVar[bool] = False
    several_places: ClassVar[bool] = True
    model_type: ClassVar[str | None] = None
    argument: ClassVar[str]
    part: ClassVar[str]
    row_keys: ClassVar[tuple[str, ...]]
    meant: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[bool] = False

    @property
    def config_key(self) -> str:
        """The key of `MMFusionConfig` that holds its encoder's config."""
        return f"{self.name}_config"

    @property
    def index_name(self) -> str:
        """The model's input that says which item each row uses."""
        return f"{self.name}_index"

    # What the model asks

    def dummy_inputs(self, config: PreTrainedConfig, device=None, dtype=None) -> dict[str, torch.Tensor]:
        """The smallest valid input of one item, all zeros, by the model's names: for dry runs, and for encoders that
        have nothing to encode.

        Args:
            config: of the encoder.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what dummy_inputs its encoder takes.")

    def probe_items(self, encoder: Any) -> list[dict[str, torch.Tensor]]:
        """Inputs of one item each, `(1, …)`, by the encoder's names, to find out what it does: see `probe_encoder`.

        Args:
            encoder: with its weights.

        Returns:
            one, of random numbers; or three, where there are causal encoders: the second has the first step of the
            first one, the third its last step, and nothing else in common.
        """
        dummy = self.dummy_inputs(encoder.config, device=encoder.device, dtype=encoder.dtype)
        generator = torch.Generator().manual_seed(0)
        return [
            {
                name: torch.randn(value.shape, generator=generator).to(value) if value.is_floating_point() else value
                for name, value in self.encoder_inputs(encoder, dummy).items()
            }
        ]

    def pooling(self, config: PreTrainedConfig) -> str:
        """How one vector is read from the tokens of an item, unless `pooling` of `MMFusionConfig` says otherwise."""
        return "mean"

    def encoder_inputs(self, encoder: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Inputs as its encoder takes them: by its own names, floats in its dtype.

        Args:
            encoder: see `build_encoder`.
            given: the model's inputs by their names, `(U, …)` each, none of them None.
        """
        found = {}
        for name, value in given.items():
            found[self.renamed.get(name, name)] = value.to(encoder.dtype) if name in self.floats else value
        return found

    def token_mask(self, encoder: Any, mask: torch.Tensor, tokens: int) -> torch.Tensor:
        """Which tokens of an encoder stand for something of the item, and not for padding.

        Args:
            encoder: see `build_encoder`.
            mask: `(U, S)` of what went in.
            tokens: how many came out of each item.

        Returns:
            `(U, tokens)`.
        """
        return mask


MODALITIES: dict[str, Modality] = {}  # by name, in the order of a model's modalities


def register_modality(modality: type[Modality]) -> type[Modality]:
    """A decorator: makes a modality known under its name.

    Raises:
        ValueError: another one has that name or reads an input of that name, or it is no name that an argument of
            Python can have.
    """
    if not modality.name.isidentifier():
        raise ValueError(
            f"A modality's name is made of letters, digits and '_', as that of a variable: {modality.name!r}."
        )
    for other in MODALITIES.values():
        if other.name != modality.name and (taken := set(other.inputs) & set(modality.inputs)):
            raise ValueError(f"{modality.name} reads {sorted(taken)}, which {other.name} has: see `renamed`.")
    known = MODALITIES.get(modality.name)
    if known is not None and type(known).__qualname__ != modality.__qualname__:
        raise ValueError(f"There is a modality {modality.name!r} already, {type(known).__name__}: take another name.")
    MODALITIES[modality.name] = modality()
    ordered = sorted(MODALITIES.items(), key=lambda item: item[1].order)
    MODALITIES.clear()
    MODALITIES.update(ordered)
    return modality


def modality_of(name: str) -> Modality:
    """The modality of a name.

    Raises:
        ValueError: nobody has registered it, as where a model needs one from outside the package.
    """
    if name not in MODALITIES:
        raise ValueError(
            f"There is no modality {name!r}; known are {list(MODALITIES)}.{did_you_mean(name, MODALITIES)} One from "
            "outside mm_hf has to be imported before its model is loaded (`--import FILE`, or an import in Python)."
        )
    return MODALITIES[name]


__all__ = ["MODALITIES", "Modality", "modality_of", "register_modality"]
