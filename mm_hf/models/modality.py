# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""What model, processor and pipelines have to know of one kind of data, in one place: its `Modality`.

This file imports none of the modalities; each registers itself where it is defined, and the configuration imports
those of the library. Config, processor and collator keep the *names* of modalities and look them up here: so they can
be copied and sent to other processes, and the package works beside a checkpoint's own code.

Notation used for tensor shapes: see `modeling_outputs`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar

import torch
from transformers.configuration_utils import PreTrainedConfig

from .item_parts import ItemParts, whole_item
from .names import did_you_mean
from .raw_rows import Places, entries_of, holds_numbers, is_one, key_of, reason_of
from .table_schema import is_missing


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
        part: the attribute of the processor that prepares them; of one from outside the package its name among
            `extra_parts`, the modality's.
        part_class: of that part, with a class method `from_pretrained` where the part comes from an encoder's folder,
            else `from_dict`; None where an `extra` one has no part to save.
        part_file: of a processor's folder, which tells that the part is there.
        settings: attributes of the processor beside the part that its items depend on.
        kwargs_key: of a call of the processor, what is for this part; one that the library knows.
        item, items: what one and several are called in messages.
        row_keys: under which a row of a pipeline has one; the first is the usual one.
        meant: other words that people use for it, for messages.
        extra: it is from outside the package.
        mixes_parts: behind its encoder the parts of an item can be told apart no more: an explanation takes them away
            before it, see `erase`.
        places_key: of `MMFusionConfig`, which says how many items a row may have.
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
    part_class: ClassVar[Any] = None
    part_file: ClassVar[str] = "processor_config.json"
    settings: ClassVar[tuple[str, ...]] = ()
    kwargs_key: ClassVar[str | None] = None
    item: ClassVar[str] = "item"
    items: ClassVar[str] = "items"
    row_keys: ClassVar[tuple[str, ...]]
    meant: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[bool] = False
    mixes_parts: ClassVar[bool] = False
    places_key: ClassVar[str] = "places"

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
        """The smallest valid input of one item for the config of an encoder, all zeros, by the model's names: for dry
        runs, and for encoders that have nothing to encode."""
        raise NotImplementedError(f"{type(self).__name__} must say what dummy_inputs its encoder takes.")

    def probe_items(self, encoder: Any) -> list[dict[str, torch.Tensor]]:
        """Inputs of one item each, `(1, …)`, by the names of an encoder with its weights, to find out what it does:
        see `probe_encoder`. One, of random numbers; or three, where there are causal encoders: the second has the
        first step of the first one, the third its last step, and nothing else in common."""
        dummy = self.dummy_inputs(encoder.config, device=encoder.device, dtype=encoder.dtype)
        generator = torch.Generator().manual_seed(0)
        return [
            {
                name: torch.randn(value.shape, generator=generator).to(value) if value.is_floating_point() else value
                for name, value in self.encoder_inputs(encoder, dummy).items()
            }
        ]

    def has_one_size(self, config: PreTrainedConfig) -> bool:
        """Whether the config of an encoder says how many tokens each item has: no series of steps of any number."""
        return True

    def pooling(self, config: PreTrainedConfig) -> str:
        """How one vector is read from the tokens of an item, unless `pooling` of `MMFusionConfig` says otherwise."""
        return "mean"

    def encoder_inputs(self, encoder: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The model's inputs, `(U, …)` each, none of them None, as an encoder (see `build_encoder`) takes them: by its
        own names, floats in its dtype."""
        inputs = {}
        for name, value in given.items():
            inputs[self.renamed.get(name, name)] = value.to(encoder.dtype) if name in self.floats else value
        return inputs

    def token_mask(self, encoder: Any, mask: torch.Tensor, tokens: int) -> torch.Tensor:
        """Which of the tokens that came out of an encoder, `(U, tokens)`, stand for something of the item, and not for
        padding; the mask is `(U, S)` of what went in."""
        return mask

    # What an explanation asks

    def parts(
        self,
        shapes: Sequence[tuple[int, ...]],
        mask: torch.Tensor | None,
        config: PreTrainedConfig,
        item: Any = None,
        processor: Any = None,
    ) -> ItemParts:
        """How the parts of an item lie over its tokens; without a method of its own an item is one part.

        Args:
            shapes: of its levels, see `ModalityProjection.token_shapes`.
            mask: `(T,)` bool, its tokens without padding; None: all.
            config: of the encoder.
            item: as `check` takes it, where it is at hand.
            processor: a `MMFusionProcessor`, likewise.
        """
        return whole_item(sum(map(math.prod, shapes)), mask)

    def erase(
        self,
        inputs: dict[str, torch.Tensor],
        parts: ItemParts,
        erased: torch.Tensor,
        background: dict[str, torch.Tensor] | None = None,
        processor: Any = None,
        way: int = 0,
    ) -> dict[str, torch.Tensor] | None:
        """The model's inputs of an item without some of its parts, once for each choice of them; None where it does
        not say how, and parts are taken away behind the encoder alone.

        Args:
            inputs: of the item, `(1, …)`.
            parts: see `parts`.
            erased: `(N, P)` bool.
            background: inputs of other items, `(U, …)`.
            processor: a `MMFusionProcessor`, where it is at hand.
            way: which of `ways`, from 0.

        Returns:
            `(N, …)`.
        """
        return None

    def ways(self, parts: ItemParts, background: dict[str, torch.Tensor] | None = None) -> int:
        """In how many ways each part is erased, where that depends on other items: their mean counts."""
        return 1

    # What the processor asks

    def is_item(self, value: Any) -> bool:
        """Whether an entry of a list is one item, and not several of one row: what is no holder of others, and
        numbers in a list, a tuple or an array of one dimension."""
        return is_one(value) or holds_numbers(value)

    def is_single(self, value: Any) -> bool:
        """Whether what the processor is given is one item, and not a list of rows."""
        return self.is_item(value)

    def list_rows(self, value: Any) -> list:
        """What the processor is given as a list with one entry a row: an item, None for a row without, or `Places`.

        Raises:
            ValueError: it holds no items, and names the row.
        """
        if self.is_single(value):
            return [None if is_missing(value) else value]
        return [self._entry(entry, row) for row, entry in enumerate(entries_of(value))]

    def _entry(self, entry: Any, row: int) -> Any:
        """One entry of `list_rows`."""
        if entry is None or isinstance(entry, Places) or self.is_item(entry) or self.is_empty(entry):
            return entry
        try:
            items = [entry] if isinstance(entry, Real) else entries_of(entry)
        except ValueError as error:
            raise ValueError(f"Row {row}: {error}") from None
        for item in items:
            if item is not None and not self.is_item(item):
                raise ValueError(f"Row {row}: this is no {self.item}: {item!r:.80}.")
        if not self.several_places:
            raise ValueError(f"Row {row}: a row has one {self.item} at most, got {entry!r:.80}.")
        return Places(items)

    def check(self, item: Any, processor: Any, settings: Mapping[str, Any]) -> Any:
        """One raw item as `prepare` takes it: decoded, converted. None where it holds nothing: its row has none then.
        The settings are those of the call of a `MMFusionProcessor`, for the part.

        Raises:
            ValueError: what cannot be one; the processor names the row.
        """
        return item

    def prepare(self, items: list, processor: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The model's inputs, `(U, …)` each, for distinct items as `check` gives them, at least one."""
        part = processor.part_of(self)
        if part is None:
            raise NotImplementedError(f"{type(self).__name__} has no part: it must say how it would prepare items.")
        return self.by_model_names(part(items))

    def by_model_names(self, made: Mapping[str, Any]) -> dict[str, Any]:
        """What a part made, which may name it as the encoder does, by the model's names."""
        names = {encoder_name: name for name, encoder_name in self.renamed.items()}
        return {names.get(name, name): value for name, value in made.items()}

    def made_inputs(self, part: Any) -> list[str]:
        """Names of the model's inputs that a part makes."""
        if part is None:
            return list(self.inputs)
        return list(self.by_model_names(dict.fromkeys(part.model_input_names)))

    def part_arguments(self, part: Any) -> set[str]:
        """Names of what a part takes under `kwargs_key`, beside what the library names."""
        return set()

    def read_part(self, values: Any) -> Any:
        """A part that was learned, from what its `to_dict` gave; what is no dict is left as it is."""
        return self.part_class.from_dict(values) if isinstance(values, dict) and self.part_class else values

    def parts_of_encoder(
        self, source: Any, settings: Mapping[str, Any], read_config: Callable[..., PreTrainedConfig], **kwargs: Any
    ) -> dict[str, Any]:
        """Arguments of a processor that come from the Hub id or folder of a pretrained encoder;
        `read_config(**kwargs)` gives its config. For the settings see `MMFusionProcessor.from_encoders_pretrained`,
        all else is for the loading."""
        raise NotImplementedError(f"{type(self).__name__} has no part that comes from an encoder's folder.")

    def compared(self, parts: Mapping[str, Any], config: PreTrainedConfig) -> list[tuple[str, Any, Any]]:
        """What the parts of a processor, by its arguments, make and what the encoder of a config takes, which have to
        be equal: what it is, and the two."""
        return []

    def is_empty(self, item: Any) -> bool:
        """Whether an item holds nothing, so that its row has none: of a modality from outside a list, or an array, of
        which no entry is there, as a point without latitude and longitude."""
        if not self.extra or isinstance(item, (str, bytes, Mapping)) or not isinstance(item, Iterable):
            return False
        if getattr(item, "ndim", 1) != 1:
            return False
        entries = item.tolist() if hasattr(item, "tolist") else list(item)
        return bool(entries) and all(map(is_missing, entries))

    # What pipelines ask

    def places(self, config: Any) -> int:
        """Items that a row of a model may have; its config may be of an older release."""
        return (getattr(config, "places", None) or {}).get(self.name, 1)

    def places_of_item(self, processor: Any) -> int:
        """Of those the places that one item may take."""
        return 1

    def load(self, processor: Any, config: Any, key: str, value: Any) -> tuple[Any, Any]:
        """What a row has under a key: the item as the processor takes it, and its source; or items in `Places`, and
        their sources. Loading makes new objects: equal sources are one item.

        Args:
            processor: a `MMFusionProcessor`.
            config: of the model.
            key: one of `row_keys`.
            value: not missing.

        Raises:
            ValueError: it cannot be read, or is more than the model has places for.
        """
        if self.is_item(value) or self.is_empty(value):
            return (None, None) if self.is_empty(value) else (self.load_item(processor, value), value)
        sources, most = entries_of(value), self.places(config) // self.places_of_item(processor)
        if len(sources) > most:
            raise ValueError(
                f"the row has {len(sources)} {self.items}, but this model looks at {most} a row "
                f"({self.places_key} in its config); many rows are a list of dicts, each with its own."
            )
        items = Places()
        for place, source in enumerate(sources):
            try:
                items.append(None if source is None else self.load_item(processor, source))
            except ImportError:
                raise
            except Exception as error:
                raise ValueError(f"{key} {place + 1} of {len(sources)}: {reason_of(error)}") from error
        return (None, None) if all(item is None for item in items) else (items, sources)

    def goes_together(self, config: Any) -> bool:
        """Whether a row of a model may have something under several of `row_keys`.

        Args:
            config: see `places`.
        """
        return False

    def joined(self, config: Any, loaded: Mapping[str, tuple[Any, Any]]) -> tuple[Any, Any]:
        """What a row has under all of `row_keys`, as `load` gives it, of what it has under each that is there."""
        return next(iter(loaded.values()))

    def load_item(self, processor: Any, source: Any) -> Any:
        """One item as the processor takes it; None where it holds nothing.

        Raises:
            ValueError: it cannot be read.
        """
        return source

    def source_key(self, source: Any) -> Any:
        """What tells sources apart."""
        return key_of(source)

    def told(self, processor: Any) -> dict[str, Any]:
        """Arguments of the processor that go with items that were loaded."""
        return {}


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
