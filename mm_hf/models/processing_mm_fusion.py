# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The processor: raw rows of all modalities in, a batch for the model out, all of it saved as one."""

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.dynamic_module_utils import custom_object_save
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin
from transformers.utils import cached_file

from .checkpoint_files import (
    checksums_of_what_is_written,
    folder_with_checksums,
    names_of_unreadable_files,
    refuse_nan,
)
from .configuration_mm_fusion import MMFusionConfig
from .files import is_too_deep
from .image import color_of
from .image_processors import prepare_images
from .inputs import distinct_items, fault_of_text, list_of_texts
from .names import did_you_mean
from .processor_parts import HUB_KEYS, LISTS, PARTS, parts_of_encoders
from .processor_record import RECORD, check_parts, record_of
from .series import SeriesScaler
from .sound import AUDIO_NAMES, check_sounds, prepare_sounds
from .table_schema import TableSchema, rows_with_values
from .text import ensure_padding, target_ids, tokenize


# Arguments that mean tokens of texts where there are texts, and samples of sounds where there are sounds alone.
LENGTHS = ("max_length", "truncation", "padding", "pad_to_multiple_of")


class MMFusionProcessorKwargs(ProcessingKwargs, total=False):
    """What the parts do unless told otherwise: texts are padded to the longest, and cut at what the encoder can read;
    texts come with a mask of their tokens (SigLIP's tokenizer gives none unless asked), sounds with one of what is
    heard."""

    _defaults = {
        "text_kwargs": {"padding": True, "truncation": True, "return_attention_mask": True},
        "audio_kwargs": {"return_attention_mask": True},
        "common_kwargs": {"return_tensors": "pt"},
    }


class MMFusionProcessor(ProcessorMixin):
    """Prepares images, texts, sounds, rows of a table and time series for the models of mm_hf.

    Args:
        image_processor: any image processor of the library; None for a model without vision.
        tokenizer: any tokenizer of the library; None for a model without text.
        feature_extractor: of sounds, any of the library; None for a model without sound.
        table_schema (`TableSchema` or `dict`): what the columns of a table mean; None for a model without a table.
        series_scaler (`SeriesScaler` or `dict`): what the channels of time series are like; None for a model without.
        image_background (`str` or three `int`): the ground that transparent pixels are shown on, `"white"`,
            `"#rrggbb"` or red, green and blue from 0 to 255; None: their transparency is dropped, and the colour that
            it hid is seen.
        image_channels (`int`): channels that the vision encoder takes; None: 1 where the image processor has the mean
            of one, else 3.

    Example:

    ```python
    >>> processor = MMFusionProcessor.from_encoders_pretrained(vision="google/vit-base-patch16-224",
    ...                                                        text="google-bert/bert-base-uncased")
    >>> batch = processor(images=[image, None], text=["what colour?", "what shape?"])  # the second row has no image
    ```
    """

    valid_processor_kwargs = MMFusionProcessorKwargs

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        feature_extractor=None,
        table_schema=None,
        series_scaler=None,
        image_background=None,
        image_channels=None,
    ):
        # The library's own __init__ refuses absent parts.
        self.chat_template = None
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.feature_extractor = feature_extractor
        self.table_schema = TableSchema.from_dict(table_schema) if isinstance(table_schema, dict) else table_schema
        self.series_scaler = (
            SeriesScaler.from_dict(series_scaler) if isinstance(series_scaler, dict) else series_scaler
        )
        for name in ("table_schema", "series_scaler"):
            if isinstance(getattr(self, name), (str, list, int, float)):
                raise ValueError(f"{name} must be a dict or an object of its class, got {getattr(self, name)!r:.80}.")
        if image_channels is not None and (type(image_channels) is not int or image_channels < 1):
            raise ValueError(
                f"image_channels must be a whole number of at least 1 or None, got {image_channels!r:.80}."
            )
        color_of(image_background)
        self.image_background = image_background
        self.image_channels = image_channels
        for name in self.get_attributes():
            if getattr(self, name) is not None:
                self.check_argument_for_proper_class(name, getattr(self, name))
        if self.tokenizer is not None:
            ensure_padding(self.tokenizer)
        if not self.present_parts:
            raise ValueError(f"A processor needs at least one of its parts: {[part for _, part in PARTS.values()]}.")

    @property
    def present_parts(self) -> list[str]:
        """Names of the parts that this processor has."""
        return [part for _, part in PARTS.values() if getattr(self, part) is not None]

    @property
    def model_input_names(self) -> list[str]:
        """Names of the inputs that the parts make, without the indices."""
        names = []
        for part in self.present_parts:
            own = getattr(self, part).model_input_names
            if part == "tokenizer":  # SigLIP's does not count the mask, which it is asked for here
                own = dict.fromkeys([*own, "attention_mask"])
            if part == "feature_extractor":  # some do not count the mask, which they are asked for here
                own = dict.fromkeys([*(AUDIO_NAMES.get(name, name) for name in own), *AUDIO_NAMES.values()])
            names += own
        return names

    @classmethod
    def from_encoders_pretrained(
        cls,
        *,
        max_audio_seconds: int | None = None,
        image_size: int | None = None,
        table_schema: TableSchema | None = None,
        series_scaler: SeriesScaler | None = None,
        image_background: str | Sequence[int] | None = "white",
        **encoders: Any,
    ) -> "MMFusionProcessor":
        """Builds a processor from those of the encoders.

        A tokenizer without a token for padding gets one. Texts are cut to what the text encoder can place, whatever
        its tokenizer claims.

        Args:
            vision, text, audio (`str`): Hub id or local folder of each encoder, as for the model.
            max_audio_seconds: see `MMFusionModel.from_encoders_pretrained`; longer sounds are cut.
            image_size (`int`, *optional*): height and width that pictures are resized to, the whole of each, without
                a border; see the model's.
            table_schema, series_scaler: of a table's columns and of time series, see the class.
            image_background: see the class.
            decoder (`str`): that of the decoder, where there is no text encoder.
            encoders: everything else goes to the loading of each part (`revision`, `token`, `subfolder`…; a dict by
                modality where the encoders differ).

        Raises:
            ValueError: no encoder was named, or an `image_size` that the image processor cannot make.
            OSError: no such folder or Hub id.
        """
        return cls(
            **parts_of_encoders(encoders, max_audio_seconds, image_size, table_schema, series_scaler, image_background)
        )

    def __call__(
        self,
        images=None,
        text: str | list[str | None] | None = None,
        audio=None,
        table: dict[str, Any] | list[dict[str, Any] | None] | None = None,
        series=None,
        deduplicate: bool | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Prepares a batch.

        Wherever several rows are taken, they may be a list, a tuple, a column of `datasets` or pandas, a `KeyDataset`,
        an array, or a generator; None, and NaN as pandas writes it, mean that this row has none.

        Args:
            images: an image or several: PIL, an array or tensor, a path, the bytes of a file, or a dict of `bytes`
                and `path`, see `open_image`. A list in the list: the images of a row with several,
                or the frames of its video, None for a place without.
            text: a string or several.
            audio: a sound or several: samples `(S,)` float from -1 to 1; or a path, the bytes of a file, or a dict of
                `array` and `sampling_rate`, which are resampled as in `load_sound`. A list of numbers is one sound.
            table: a row of the table, `{column: value}`, or several, also as a table of pandas; a column that is not
                there, None or NaN is missing.
            series: a time series, an array `(S, C)` (or `(S,)`), a list of steps or a table of pandas, NaN for a
                reading that is missing; or several. One without a step or of gaps alone is none.
            deduplicate: prepare equal strings, and images and sounds that are the very same object, once, and give the
                index of the item that each row uses. One image beside many texts is always shared.
            kwargs: for the tokenizer, the image processor and the feature extractor; `text_kwargs`, `images_kwargs`
                and `audio_kwargs` (dicts) tell them apart. `sampling_rate`, in samples a second, says what arrays of
                samples have: it has to be what the feature extractor has, since they are not resampled here.

        Returns:
            `vision_index`, `text_index`, `audio_index`, `tabular_index`, `series_index` `(B,)` where rows share items
            or lack them (`vision_index` `(B, K)` where rows have up to K images), then `pixel_values`,
            `numerical_values`, `categorical_ids`, `series_values`, `series_attention_mask`, and what the tokenizer and
            the feature extractor make, for the distinct items; the latter's mask is `audio_attention_mask`.

        Raises:
            ValueError: nothing given, lists of different length, an empty text (None means absent) or one with a lone
                surrogate, a sound that is empty, has several channels or what is no finite number, another sampling
                rate, an input that this processor has no part for, or an unknown argument; a table's column that is
                not known, or what is no number in one of numbers; a series of other channels than those it learned.
        """
        given = {"images": images, "text": text, "audio": audio, "table": table, "series": series}
        for name, (_, part) in PARTS.items():
            if given[name] is not None and getattr(self, part) is None:
                raise ValueError(f"Got {name}, but this processor has only {self.present_parts}.")
        self._check_arguments(kwargs)
        rows = {name: LISTS[name](value) for name, value in given.items() if value is not None}
        if not rows:
            raise ValueError(f"Give at least one of {', '.join(PARTS)}.")
        batch = max(len(values) for values in rows.values())
        counts = {name: len(values) for name, values in rows.items()}
        if not batch:
            raise ValueError(f"Lists of {', '.join(PARTS)} must have at least one entry.")
        if not set(counts.values()) <= {1, batch}:
            raise ValueError(f"Lists must have one entry a row: got {counts}.")

        output_kwargs = self._merge_kwargs(
            cast(Any, MMFusionProcessorKwargs),
            tokenizer_init_kwargs=self.tokenizer.init_kwargs if self.tokenizer is not None else {},
            **kwargs,
        )
        # What a tokenizer was made with, and what is meant for the text, goes to all parts that have an argument of
        # that name: a longest text of 512 tokens would cut sounds to 512 samples.
        own = {name: value for name, value in kwargs.items() if name not in LENGTHS or text is None}
        own = self._merge_kwargs(cast(Any, MMFusionProcessorKwargs), tokenizer_init_kwargs={}, **own)
        audio_kwargs = own["audio_kwargs"]
        sounds = []
        if "audio" in rows:
            needed = self.feature_extractor.sampling_rate
            sounds = check_sounds(rows["audio"], needed, audio_kwargs.get("sampling_rate"))
        indices, data = {}, {}
        for name, (modality, _) in PARTS.items():
            if name not in rows:
                continue
            values, places = rows[name], 0
            if name == "table":
                values = rows_with_values(self.table_schema, values)
            if name == "images" and any(isinstance(value, list) for value in values):
                values = [value if isinstance(value, list) else [value] for value in values]
                places = max(1, *map(len, values))
                values = [image for own in values for image in (*own, *[None] * (places - len(own)))]
            items, index = distinct_items(values, bool(deduplicate))
            if places:
                index = [index[start : start + places] for start in range(0, len(index), places)]
            if len(rows[name]) < batch:
                index = index * batch
            if index != list(range(batch)):
                indices[f"{modality}_index"] = torch.tensor(index)
            if items and name == "images":
                first: dict[int, int] = {}
                for row, own in enumerate(index):
                    for place in own if places else [own]:
                        first.setdefault(place, row)
                rows_of = [first[place] for place in range(len(items))]
                data.update(
                    prepare_images(
                        self.image_processor,
                        items,
                        rows_of,
                        output_kwargs["images_kwargs"],
                        self.image_background,
                        self.image_channels,
                    )
                )
            elif items and name == "audio":
                distinct = [sounds[index.index(place)] for place in range(len(items))]
                data.update(prepare_sounds(self.feature_extractor, distinct, audio_kwargs))
            elif items and name == "table":
                data.update(self.table_schema(items))
            elif items and name == "series":
                data.update(self._scale(rows[name], items))
            elif items:
                for row, value in enumerate(rows[name]):
                    if value is not None and (fault := fault_of_text(value)):
                        raise ValueError(f"Row {row}: {fault}")
                data.update(tokenize(self.tokenizer, items, output_kwargs["text_kwargs"]))
        # Indices first: the Trainer reads the size of a batch off its first tensor.
        return BatchFeature({**indices, **data})

    @property
    def arguments(self) -> dict[str, set[str]]:
        """What a call takes beside the rows: by the part that it is for (`text_kwargs`, `images_kwargs`…) the names of
        its arguments, which may be given flat too."""
        found = {}
        for key, kind in MMFusionProcessorKwargs.__annotations__.items():
            if key != "videos_kwargs":  # videos are pictures here
                found[key] = set(getattr(kind, "__annotations__", {}))
        own = {"text_kwargs": self.tokenizer, "audio_kwargs": self.feature_extractor}
        for key, part in own.items():
            if part is not None:
                found[key] |= set(inspect.signature(type(part).__call__).parameters) - {"self", "args", "kwargs"}
        found["images_kwargs"] |= set(
            getattr(getattr(self.image_processor, "valid_kwargs", None), "__annotations__", {})
        )
        return found

    def _check_arguments(self, kwargs: dict[str, Any]):
        """Refuses names of arguments that no part has: the library would ignore them."""
        known = self.arguments
        flat = {*known, "common_kwargs", *set().union(*known.values()), *PARTS, "deduplicate"}
        for name, value in kwargs.items():
            if name not in flat:
                raise ValueError(
                    f"The processor has no argument {name!r}; it has {[*PARTS, 'deduplicate']}, those of its parts, "
                    f"and {list(known)}.{did_you_mean(name, flat)}"
                )
            if known.get(name) and isinstance(value, Mapping):
                for key in value:
                    if key not in known[name]:
                        raise ValueError(
                            f"{name} has no {key!r}; it has {sorted(known[name])}.{did_you_mean(key, known[name])}"
                        )

    def target_ids(self, texts: list[str | None], max_length: int | None = None, end: bool = True) -> torch.Tensor:
        """The labels of `MMFusionForConditionalGeneration` and `MMFusionForCTC`: the tokens of texts that are to be
        written.

        Args:
            texts: one a row, None for a row without.
            max_length: tokens that a text is cut to, its end included.
            end: a token ends each text; CTC needs none.

        Returns:
            `(B, S)` int64, each text without its start, -100 behind it.
        """
        if self.tokenizer is None:
            raise ValueError(f"Texts to write need a tokenizer, and this processor has only {self.present_parts}.")
        return target_ids(self.tokenizer, list_of_texts(texts), max_length, end)

    def _scale(self, rows: list, items: list) -> dict[str, torch.Tensor]:
        """Tensors of distinct series; what cannot be one is told by its row."""
        for row, series in enumerate(rows):
            if series is not None:
                try:
                    self.series_scaler.check(series)
                except ValueError as error:
                    raise ValueError(f"Row {row}: {error}") from None
        return self.series_scaler(items)

    def to_dict(self) -> dict[str, Any]:
        """As in the library, without the parts that are absent."""
        found = {name: value for name, value in super().to_dict().items() if value is not None}
        if self.table_schema is not None:
            found["table_schema"] = self.table_schema.to_dict()
        if self.series_scaler is not None:
            found["series_scaler"] = self.series_scaler.to_dict()
        return found

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Saves all parts: the tokenizer's files, the rest in `processor_config.json`, which also keeps what the parts
        are, and the code that loads them. `checksums.json` gets their lines.

        Raises:
            ValueError: `push_to_hub`, which goes through the method of that name.
        """
        if push_to_hub:
            raise ValueError(
                "Call processor.push_to_hub(repo_id), or model.push_to_hub(repo_id, processor=processor)."
            )
        path = os.path.join(save_directory, "processor_config.json")
        with checksums_of_what_is_written(save_directory):
            custom_object_save(self, save_directory, config=cast(Any, self))
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(save_directory)
            found = json.loads(self.to_json_string())
            found[RECORD] = record_of({name: getattr(self, name) for name in self.present_parts})
            with open(path, "w", encoding="utf-8") as file:
                file.write(json.dumps(found, indent=2, sort_keys=True) + "\n")
            vars(self).pop("auto_map", None)  # of the file alone: what was saved and what is loaded are equal
        return [path]

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As in the library, whose error is about itself where the file is nested too deeply or holds no dict."""
        where = f"{pretrained_model_name_or_path}: processor_config.json"
        try:
            found = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        except (RecursionError, AttributeError, TypeError) as error:
            raise ValueError(f"{where} holds no dict, or one that is nested too deeply ({error!s:.80}).") from None
        if deep := [name for name, value in found[0].items() if is_too_deep(value)]:
            raise ValueError(f"{where} is nested too deeply at {deep[0]!r:.80}.")
        return found

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs) -> list:
        """Loads the parts that were saved; None in the place of the others.

        Raises:
            ValueError: parts that are not those that were saved, or not those of the model beside them.
        """
        processor_dict = processor_dict or {}
        source = pretrained_model_name_or_path
        place = {key: kwargs[key] for key in HUB_KEYS if kwargs.get(key) is not None}
        config_file, tokenizer_file = (
            cached_file(source, name, _raise_exceptions_for_missing_entries=False, **place)
            for name in ("processor_config.json", "tokenizer_config.json")
        )
        folder = None
        if os.path.isdir(source):
            folder = os.path.normpath(os.path.join(source, place.get("subfolder") or ""))
        if folder is None and (beside := config_file or tokenizer_file) is not None:
            folder = folder_with_checksums(source, beside, **place)
        parts: dict[str, Any] = {"image_processor": None, "tokenizer": None, "feature_extractor": None}
        if folder is not None:
            refuse_nan(folder, ("processor_config.json", "tokenizer_config.json"))
        with names_of_unreadable_files(folder):
            if "image_processor" in processor_dict:
                parts["image_processor"] = AutoImageProcessor.from_pretrained(source, **kwargs)
            if "feature_extractor" in processor_dict:
                parts["feature_extractor"] = AutoFeatureExtractor.from_pretrained(source, **kwargs)
            if tokenizer_file is not None:
                parts["tokenizer"] = AutoTokenizer.from_pretrained(source, **kwargs)
            for name, kind in (("table_schema", TableSchema), ("series_scaler", SeriesScaler)):
                found = processor_dict.get(name)
                parts[name] = kind.from_dict(found) if isinstance(found, dict) else found
        parts |= {name: processor_dict.get(name) for name in ("image_background", "image_channels")}
        if folder is not None:
            check_parts(parts, processor_dict, folder, os.path.isdir(source), kwargs)
        return list(parts.values())

    @classmethod
    def from_args_and_dict(cls, args, processor_dict, **kwargs):
        """As in the library, which takes every key of the file that `__init__` does not name for a mistake."""
        return cls(*args)


AutoProcessor.register(MMFusionConfig, MMFusionProcessor, exist_ok=True)
MMFusionProcessor.register_for_auto_class()

__all__ = ["MMFusionProcessor"]
