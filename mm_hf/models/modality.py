# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Everything that model, processor and pipelines must know about one kind of data, in one place: its `Modality`.

This file imports no modality. Each registers itself where it is defined, and the configuration imports those of the
package. Config, processor and collator keep only the *names* of modalities and look them up here. So they can be
copied and sent to other processes, and the package works beside a checkpoint's own code.

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
    """One kind of data that rows may have: which inputs the model reads, and how the processor makes them.

    A modality from outside the package is a subclass with `extra = True`, registered by `register_modality`. Its
    encoder is built from `MMFusionConfig(extra_configs={name: config})`, and its processor part is one of
    `MMFusionProcessor(extra_parts={name: part})`. Its code does not travel in checkpoints.

    Attributes:
        name: such as "vision"; `<name>_index` is the model's input with the item of each row.
        order: its place among the modalities of a model, and so of their parameters. Modalities from outside the
            package come after those of the package, sorted by name.
        inputs: the model's inputs that its encoder may read; the first one that is present gives the number of items.
        renamed: the inputs that have another name in the encoder, because another modality uses that name.
        floats: the inputs that are converted to the encoder's dtype.
        pretrained: whether its encoder is pretrained. No other data say what the columns of a table or the channels of
            sensors mean, so their encoders start from random weights.
        has_lengths: whether items are sequences that are padded to one length: see `encode_by_length` of
            `MMFusionConfig`.
        several_places: whether a row may have several items, each in its place.
        model_type: the type of the encoder's config, if that config does not name one.
        argument: the processor's argument for raw items.
        part: the attribute of the processor that prepares the items; for a modality from outside the package its key
            in `extra_parts`, which is the modality's name.
        part_class: the class of that part. It has a class method `from_pretrained` if the part comes from an encoder's
            folder, else `from_dict`; None if an `extra` modality has no part to save.
        part_file: a file in a processor's folder which shows that the part is there.
        settings: further attributes of the processor that its items depend on.
        kwargs_key: the argument of a processor's call with the options of this part; one that the library knows.
        item, items: the words for one and for several items in messages.
        row_keys: the keys for its items in a pipeline's row; the first is the usual one.
        meant: other words that people use for it, for messages.
        extra: whether it is from outside the package.
        mixes_parts: whether its encoder mixes the parts of an item, so that they cannot be told apart afterwards: an
            explanation then removes them before the encoder, see `erase`.
        places_key: the key of `MMFusionConfig` with the number of items that a row may have.
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
        """The model's input with the item of each row."""
        return f"{self.name}_index"

    # What the model calls

    def dummy_inputs(self, config: PreTrainedConfig, device=None, dtype=None) -> dict[str, torch.Tensor]:
        """The smallest valid input of one item for an encoder's config, all zeros, by the model's names: for dry
        runs, and for encoders that have nothing to encode."""
        raise NotImplementedError(f"{type(self).__name__} must implement dummy_inputs for its encoder.")

    def probe_items(self, encoder: Any) -> list[dict[str, torch.Tensor]]:
        """Inputs of one item each, `(1, …)`, with the names of the encoder, to find out how it works with its weights:
        see `probe_encoder`. Either one item of random numbers; or three, if there are causal encoders: the second item
        shares only its first step with the first item, the third only its last step."""
        dummy = self.dummy_inputs(encoder.config, device=encoder.device, dtype=encoder.dtype)
        generator = torch.Generator().manual_seed(0)
        return [
            {
                name: torch.randn(value.shape, generator=generator).to(value) if value.is_floating_point() else value
                for name, value in self.encoder_inputs(encoder, dummy).items()
            }
        ]

    def has_one_size(self, config: PreTrainedConfig) -> bool:
        """Whether the config of an encoder fixes the number of tokens per item; no for series of any length."""
        return True

    def pooling(self, config: PreTrainedConfig) -> str:
        """How one vector is read from the tokens of an item, unless `pooling` of `MMFusionConfig` says otherwise."""
        return "mean"

    def encoder_inputs(self, encoder: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The model's inputs, `(U, …)` each and none of them None, as an encoder (see `build_encoder`) takes them:
        with its own names, floats in its dtype."""
        inputs = {}
        for name, value in given.items():
            inputs[self.renamed.get(name, name)] = value.to(encoder.dtype) if name in self.floats else value
        return inputs

    def token_mask(self, encoder: Any, mask: torch.Tensor, tokens: int) -> torch.Tensor:
        """Which tokens of an encoder's output, `(U, tokens)`, represent the item and not padding; the mask is `(U, S)`
        for the encoder's input."""
        return mask

    # What an explanation calls

    def parts(
        self,
        shapes: Sequence[tuple[int, ...]],
        mask: torch.Tensor | None,
        config: PreTrainedConfig,
        item: Any = None,
        processor: Any = None,
    ) -> ItemParts:
        """Which tokens belong to which part of an item; without an own method, the item is one part.

        Args:
            shapes: the shapes of its levels, see `ModalityProjection.token_shapes`.
            mask: `(T,)` bool, its tokens without padding; None: all.
            config: the encoder's config.
            item: the item in the form that `check` takes, if it is available.
            processor: a `MMFusionProcessor`, if it is available.
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
        """The model's inputs of an item without some of its parts, once for each choice of parts. None if the modality
        cannot do this; then parts are removed only after the encoder.

        Args:
            inputs: the item's inputs, `(1, …)`.
            parts: see `parts`.
            erased: `(N, P)` bool.
            background: inputs of other items, `(U, …)`.
            processor: a `MMFusionProcessor`, if it is available.
            way: which of `ways`, from 0.

        Returns:
            `(N, …)`.
        """
        return None

    def ways(self, parts: ItemParts, background: dict[str, torch.Tensor] | None = None) -> int:
        """In how many ways each part is erased, if that depends on other items; the mean over them is used."""
        return 1

    # What the processor calls

    def is_item(self, value: Any) -> bool:
        """Whether an entry of a list is one item, and not several items of one row. True for values that contain no
        others, and for numbers in a list, a tuple or an array of one dimension."""
        return is_one(value) or holds_numbers(value)

    def is_single(self, value: Any) -> bool:
        """Whether the value that the processor is given is one item, and not a list of rows."""
        return self.is_item(value)

    def list_rows(self, value: Any) -> list:
        """The value that the processor is given, as a list with one entry per row: an item, None, or `Places`.

        Raises:
            ValueError: it does not hold items; the message names the row.
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
                raise ValueError(f"Row {row}: this is not a {self.item}: {item!r:.80}.")
        if not self.several_places:
            raise ValueError(f"Row {row}: a row has at most one {self.item}, got {entry!r:.80}.")
        return Places(items)

    def check(self, item: Any, processor: Any, settings: Mapping[str, Any]) -> Any:
        """One raw item in the form that `prepare` takes: decoded and converted. None if it is empty: the row then has
        no item. The settings are the options for this part in a `MMFusionProcessor` call.

        Raises:
            ValueError: it cannot be an item; the processor adds the row.
        """
        return item

    def prepare(self, items: list, processor: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The model's inputs, `(U, …)` each, for distinct items in the form of `check`, at least one."""
        part = processor.part_of(self)
        if part is None:
            raise NotImplementedError(f"{type(self).__name__} has no part, so it must implement prepare.")
        return self.by_model_names(part(items))

    def by_model_names(self, made: Mapping[str, Any]) -> dict[str, Any]:
        """The output of a part, which may use the encoder's names, by the model's names."""
        names = {encoder_name: name for name, encoder_name in self.renamed.items()}
        return {names.get(name, name): value for name, value in made.items()}

    def made_inputs(self, part: Any) -> list[str]:
        """Names of the model's inputs that a part makes."""
        if part is None:
            return list(self.inputs)
        return list(self.by_model_names(dict.fromkeys(part.model_input_names)))

    def part_arguments(self, part: Any) -> set[str]:
        """Names of the options of a part under `kwargs_key`, in addition to those that the library names."""
        return set()

    def read_part(self, values: Any) -> Any:
        """Makes a learned part from the result of its `to_dict`; a value that is not a dict is returned as it is."""
        return self.part_class.from_dict(values) if isinstance(values, dict) and self.part_class else values

    def parts_of_encoder(
        self, source: Any, settings: Mapping[str, Any], read_config: Callable[..., PreTrainedConfig], **kwargs: Any
    ) -> dict[str, Any]:
        """Arguments of a processor that come from the Hub id or folder of a pretrained encoder.
        `read_config(**kwargs)` returns its config. For the settings see `MMFusionProcessor.from_encoders_pretrained`;
        all other arguments are for loading."""
        raise NotImplementedError(f"{type(self).__name__} has no part that comes from an encoder's folder.")

    def compared(self, parts: Mapping[str, Any], config: PreTrainedConfig) -> list[tuple[str, Any, Any]]:
        """Properties that must be equal in the parts of a processor (by its arguments) and in the config of an
        encoder: the name of each property, and the two values."""
        return []

    def is_empty(self, item: Any) -> bool:
        """Whether an item is empty, so that its row has none: for a modality from outside, a list or an array in which
        all entries are missing, as a point without latitude and longitude."""
        if not self.extra or isinstance(item, (str, bytes, Mapping)) or not isinstance(item, Iterable):
            return False
        if getattr(item, "ndim", 1) != 1:
            return False
        entries = item.tolist() if hasattr(item, "tolist") else list(item)
        return bool(entries) and all(map(is_missing, entries))

    # What pipelines call

    def places(self, config: Any) -> int:
        """The most items per row of a model; its config may be from an older release."""
        return (getattr(config, "places", None) or {}).get(self.name, 1)

    def places_of_item(self, processor: Any) -> int:
        """How many of these places one item may take."""
        return 1

    def load(self, processor: Any, config: Any, key: str, value: Any) -> tuple[Any, Any]:
        """Loads the value of a row under a key. Returns the item in the form that the processor takes, and its source;
        or several items in `Places`, and their sources. Loading makes new objects: equal sources mean one item.

        Args:
            processor: a `MMFusionProcessor`.
            config: of the model.
            key: one of `row_keys`.
            value: the value; it is not missing.

        Raises:
            ValueError: it cannot be read, or the model has fewer places.
        """
        if self.is_item(value) or self.is_empty(value):
            return (None, None) if self.is_empty(value) else (self.load_item(processor, value), value)
        sources, most = entries_of(value), self.places(config) // self.places_of_item(processor)
        if len(sources) > most:
            raise ValueError(
                f"the row has {len(sources)} {self.items}, but this model takes at most {most} per row "
                f"({self.places_key} in its config); give several rows as a list of dicts."
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
        """Whether a row of a model may have values under several of `row_keys`.

        Args:
            config: see `places`.
        """
        return False

    def joined(self, config: Any, loaded: Mapping[str, tuple[Any, Any]]) -> tuple[Any, Any]:
        """Joins the values of a row under all its `row_keys`; each is in the form that `load` returns."""
        return next(iter(loaded.values()))

    def load_item(self, processor: Any, source: Any) -> Any:
        """Loads one item in the form that the processor takes; None if it is empty.

        Raises:
            ValueError: it cannot be read.
        """
        return source

    def source_key(self, source: Any) -> Any:
        """A key that is equal for equal sources."""
        return key_of(source)

    def told(self, processor: Any) -> dict[str, Any]:
        """Arguments of the processor that belong to loaded items."""
        return {}


MODALITIES: dict[str, Modality] = {}  # by name, in the order of a model's modalities


def register_modality(modality: type[Modality]) -> type[Modality]:
    """A decorator: registers a modality under its name.

    Raises:
        ValueError: another modality has this name or reads an input with the same name, or the name cannot be an
            argument in Python.
    """
    if not modality.name.isidentifier():
        raise ValueError(
            f"The name of a modality must be a valid Python name (letters, digits and '_'), got {modality.name!r}."
        )
    for other in MODALITIES.values():
        if other.name != modality.name and (taken := set(other.inputs) & set(modality.inputs)):
            raise ValueError(f"{modality.name} reads {sorted(taken)}, as {other.name} does: see `renamed`.")
    known = MODALITIES.get(modality.name)
    if known is not None and type(known).__qualname__ != modality.__qualname__:
        raise ValueError(f"The modality {modality.name!r} exists already, {type(known).__name__}: use another name.")
    MODALITIES[modality.name] = modality()
    ordered = sorted(MODALITIES.items(), key=lambda item: item[1].order)
    MODALITIES.clear()
    MODALITIES.update(ordered)
    return modality


def modality_of(name: str) -> Modality:
    """The modality with this name.

    Raises:
        ValueError: it is not registered; a modality from outside the package must be imported first.
    """
    if name not in MODALITIES:
        raise ValueError(
            f"There is no modality {name!r}; known are {list(MODALITIES)}.{did_you_mean(name, MODALITIES)} Import "
            "one from outside mm_hf before you load its model (`--import FILE`, or an import in Python)."
        )
    return MODALITIES[name]
