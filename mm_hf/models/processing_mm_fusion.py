# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The processor: turns raw rows of all modalities into a batch for the model. It is saved as one object."""

import copy
import json
import os
from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import AutoProcessor
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
from .files import HUB_KEYS, is_too_deep
from .image import color_of
from .image_processors import DRAFT, check_picture_settings
from .long_texts import check_windows, in_windows
from .modality import MODALITIES, Modality, modality_of
from .processor_parts import (
    check_argument_names,
    checked_items,
    learned_modalities,
    parts_of_encoders,
    read_extra_parts,
)
from .processor_record import RECORD, check_parts, record_of
from .series import SeriesScaler
from .sound import Sound
from .table_schema import TableSchema
from .text import Text, ensure_padding, target_ids


SETTINGS = (
    "image_background",
    "image_channels",
    "image_draft",
    "extra_parts",
    "text_windows",
)  # arguments of the processor itself
# Arguments that mean tokens if there are texts, but samples if there are only sounds.
LENGTHS = ("max_length", "truncation", "padding", "pad_to_multiple_of")


class MMFusionProcessorKwargs(ProcessingKwargs, total=False):
    """The defaults of the parts: texts are padded to the longest, and cut to the length that the encoder can read.
    Texts come with a mask of their tokens (SigLIP's tokenizer makes it only on request), sounds with a mask of their
    samples or frames."""

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
        feature_extractor: any feature extractor of the library for sounds; None for a model without sound.
        table_schema (`TableSchema` or `dict`): the meaning of a table's columns; None for a model without a table.
        series_scaler (`SeriesScaler` or `dict`): the scale of the channels of time series; None for a model without.
        image_background (`str` or three `int`): the colour under transparent pixels, `"white"`, `"#rrggbb"` or red,
            green and blue from 0 to 255; None: transparency is dropped, and the colour that it hid becomes visible.
        image_channels (`int`): the vision encoder's number of channels; None: 1 if the image processor has one mean,
            else 3.
        image_draft (`float`): JPEGs are decoded to a half, a quarter or an eighth if that leaves at least this many
            times the size that the image processor resizes to; at least 1; None: in full. This holds for files and
            bytes, not for pictures that were opened before (PIL, arrays).
        extra_parts (`dict`): parts of modalities from outside the package, by name: objects that make tensors from
            items (`part(items)` returns a dict), with `model_input_names`, `to_dict()` and a class method
            `from_dict`; or the result of that `to_dict`; or None for a modality that needs no part. The modality must
            be registered first, see `Modality`; its items are given under its `argument`.
        text_windows (`int`): a text that is longer than the encoder reads becomes up to this many windows, each with
            its own place, see `windows_of`; None: it is cut.

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
        extra_parts=None,
        image_draft=None,
        text_windows=None,
    ):
        # The library's own __init__ would refuse absent parts.
        self.chat_template = None
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.feature_extractor = feature_extractor
        self.table_schema = table_schema
        self.series_scaler = series_scaler
        self.extra_parts = read_extra_parts(extra_parts)
        for modality in learned_modalities():
            part = modality.read_part(getattr(self, modality.part))
            if isinstance(part, (str, list, int, float)):
                raise ValueError(f"{modality.part} must be a dict or an object of its class, got {part!r:.80}.")
            setattr(self, modality.part, part)
        check_picture_settings(image_channels, image_draft)
        color_of(image_background)
        self.image_background, self.image_channels, self.image_draft = image_background, image_channels, image_draft
        check_windows(tokenizer, text_windows)
        self.text_windows = text_windows
        for name in self.get_attributes():
            if getattr(self, name) is not None:
                self.check_argument_for_proper_class(name, getattr(self, name))
        if self.tokenizer is not None:
            ensure_padding(self.tokenizer)
        if not self.present_parts:
            known = [modality.part for modality in MODALITIES.values() if not modality.extra]
            raise ValueError(f"A processor needs at least one of its parts: {known}, or one of extra_parts.")

    @property
    def modalities(self) -> list[Modality]:
        """The modalities whose items this processor prepares."""
        return [
            modality
            for modality in MODALITIES.values()
            if (modality.name in self.extra_parts if modality.extra else self.part_of(modality) is not None)
        ]

    def part_of(self, modality: Modality) -> Any:
        """The part that prepares the items of a modality; None if there is none."""
        return self.extra_parts.get(modality.name) if modality.extra else getattr(self, modality.part)

    @property
    def present_parts(self) -> list[str]:
        """Names of the parts that this processor has."""
        return [modality.name if modality.extra else modality.part for modality in self.modalities]

    @property
    def model_input_names(self) -> list[str]:
        """Names of the inputs that the parts make, without the indices."""
        return [name for modality in self.modalities for name in modality.made_inputs(self.part_of(modality))]

    @classmethod
    def from_encoders_pretrained(
        cls,
        *,
        max_audio_seconds: int | None = None,
        image_size: int | None = None,
        table_schema: TableSchema | None = None,
        series_scaler: SeriesScaler | None = None,
        image_background: str | Sequence[int] | None = "white",
        extra_parts: dict[str, Any] | None = None,
        image_draft: float | None = DRAFT,
        text_windows: int | None = None,
        **encoders: Any,
    ) -> "MMFusionProcessor":
        """Builds a processor from the processors of the encoders.

        A tokenizer without a padding token gets one. Texts are cut to the length that the text encoder has positions
        for, whatever its tokenizer claims.

        Args:
            vision, text, audio (`str`): Hub id or local folder of each encoder, as for the model.
            max_audio_seconds: see `MMFusionModel.from_encoders_pretrained`; longer sounds are cut.
            image_size (`int`, *optional*): height and width that pictures are resized to: the whole picture, without
                a border. Give the model the same value.
            table_schema, series_scaler: for a table's columns and for time series, see the class.
            image_background, extra_parts, image_draft, text_windows: see the class.
            decoder (`str`): the decoder, if there is no text encoder.
            encoders: all other arguments go to the loading of each part (`revision`, `token`, `subfolder`…; a dict by
                modality if the encoders differ).

        Raises:
            ValueError: no encoder is named, or the image processor cannot make pictures of `image_size`.
            OSError: the folder or Hub id does not exist.
        """
        settings = {
            "max_audio_seconds": max_audio_seconds,
            "image_size": image_size,
            "image_background": image_background,
            "image_draft": image_draft,
        }
        learned = {"table_schema": table_schema, "series_scaler": series_scaler, "extra_parts": extra_parts}
        return cls(**parts_of_encoders(encoders, settings, learned), text_windows=text_windows)

    def __call__(
        self,
        images=None,
        text: str | list[str | list[str | None] | None] | None = None,
        audio=None,
        table: dict[str, Any] | list[dict[str, Any] | None] | None = None,
        series=None,
        deduplicate: bool | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Prepares a batch.

        Several rows may be a list, a tuple, a column of `datasets` or pandas, a `KeyDataset`, an array, or a
        generator. None, and NaN as pandas writes it, mean that the row has no item.

        Args:
            images: an image or several: PIL, an array or tensor, a path, the bytes of a file, or a dict of `bytes`
                and `path`, see `open_image`. A list in the list holds the images of a row with several, or the frames
                of its video, None for an empty place. (The same holds for texts, sounds and series, such as
                `text=[["a title", "a body"], ["another title", None]]`; a table has one place.)
            text: a string or several.
            audio: a sound or several: samples `(S,)` float from -1 to 1; or a path, the bytes of a file, or a dict of
                `array` and `sampling_rate`, which are resampled as in `load_sound`. A list of numbers is one sound,
                also inside a list; a list of such lists inside the list holds the sounds of one row.
            table: a row of the table, `{column: value}`, or several, also as a table of pandas. An absent column, None
                or NaN is a missing value.
            series: a time series, an array `(S, C)` (or `(S,)`), a list of steps or a table of pandas, NaN for a
                missing reading; or several. A series without steps, or with only gaps, counts as absent. In a list,
                numbers nested one or two deep are one series, and numbers three deep the series of one row; there,
                series of one channel are arrays `(S, 1)`.
            deduplicate: prepare equal strings, paths and bytes only once, and also all other values that are the same
                object; return the index of the item of each row. One image with many texts is always shared.
            kwargs: items of modalities from outside the package, by their `argument`. All others are for the
                tokenizer, the image processor and the feature extractor; `text_kwargs`, `images_kwargs` and
                `audio_kwargs` (dicts) tell them apart. `sampling_rate`, in samples per second, is the rate of arrays
                of samples: it must be the feature extractor's, because arrays are not resampled here.

        Returns:
            `vision_index`, `text_index`, `audio_index`, `tabular_index`, `series_index` `(B,)` if rows share items
            or lack them (`(B, K)` if rows have up to K items of a modality). Then, for the distinct items,
            `pixel_values`, `numerical_values`, `categorical_ids`, `series_values`, `series_attention_mask`, and the
            outputs of the tokenizer and the feature extractor; the latter's mask is `audio_attention_mask`.

        Raises:
            ValueError: nothing is given; lists have different lengths; a text is empty (None means absent) or has a
                lone surrogate; a sound is empty, has several channels, is not finite, or has another sampling rate;
                this processor has no part for an input; an argument is unknown; a table's column is unknown, or a
                value in a column of numbers is not a number; a series has other channels than the learned ones.
        """
        given = dict(images=images, text=text, audio=audio, table=table, series=series)  # noqa: C408
        for modality in MODALITIES.values():
            if modality.extra and modality.argument in kwargs:
                given[modality.argument] = kwargs.pop(modality.argument)
        self._check_arguments(kwargs)
        present, rows = self.modalities, {}
        for modality in MODALITIES.values():
            if (value := given.get(modality.argument)) is not None:
                if modality not in present:
                    raise ValueError(f"Got {modality.argument}, but this processor has only {self.present_parts}.")
                rows[modality] = modality.list_rows(value)
                if modality.name == Text.name and self.text_windows:
                    rows[modality] = [in_windows(self.tokenizer, row, self.text_windows) for row in rows[modality]]
        if not rows:
            raise ValueError(f"Give at least one of {', '.join(given)}.")
        counts = {modality.argument: len(entries) for modality, entries in rows.items()}
        batch = max(counts.values())
        if not batch:
            raise ValueError(f"Lists of {', '.join(given)} must have at least one entry.")
        if not set(counts.values()) <= {1, batch}:
            raise ValueError(f"Lists must have one entry per row: got {counts}.")
        settings = self._settings(list(rows), kwargs)
        indices, data = {}, {}
        for modality, entries in rows.items():
            part_settings = settings.get(modality.kwargs_key or "", {})
            items, index = checked_items(modality, entries, bool(deduplicate), self, part_settings)
            if len(entries) < batch:
                index = index * batch
            if index != list(range(batch)):
                indices[modality.index_name] = torch.tensor(index)
            if items:
                data.update(modality.prepare(items, self, part_settings))
        # Indices first, because the Trainer reads the batch size from the first tensor.
        return BatchFeature({**indices, **data})

    def _settings(self, given: list[Modality], kwargs: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The arguments of a call, by the part that they are for."""
        keys = {modality.kwargs_key for modality in given} - {None}
        if not keys and not kwargs:
            return {}
        settings = self._merge_kwargs(
            cast(Any, MMFusionProcessorKwargs),
            tokenizer_init_kwargs=self.tokenizer.init_kwargs if self.tokenizer is not None else {},
            **kwargs,
        )
        if Sound.kwargs_key in keys:
            # The tokenizer's own settings, and options for the text, would go to every part that has an argument of
            # the same name: a limit of 512 tokens would cut sounds to 512 samples.
            texts = Text.kwargs_key in keys
            others = {name: value for name, value in kwargs.items() if name not in LENGTHS or not texts}
            others = self._merge_kwargs(cast(Any, MMFusionProcessorKwargs), tokenizer_init_kwargs={}, **others)
            settings[Sound.kwargs_key] = others[Sound.kwargs_key]
        return settings

    @property
    def arguments(self) -> dict[str, set[str]]:
        """The arguments of a call beside the rows: by the part that they are for (`text_kwargs`, `images_kwargs`…),
        the names of its arguments, which may also be given directly."""
        names = {}
        for key, kind in MMFusionProcessorKwargs.__annotations__.items():
            if key != "videos_kwargs":  # here, videos are pictures
                names[key] = set(getattr(kind, "__annotations__", {}))
        for modality in self.modalities:
            if modality.kwargs_key is not None:
                names[modality.kwargs_key] |= modality.part_arguments(self.part_of(modality))
        return names

    def _check_arguments(self, kwargs: dict[str, Any]):
        """Refuses argument names that no part has: the library would ignore them."""
        if kwargs:
            check_argument_names(kwargs, self.arguments)

    def without_windows(self) -> "MMFusionProcessor":
        """The same processor for texts that are already windows."""
        plain = copy.copy(self)
        plain.text_windows = None
        return plain

    def target_ids(self, texts: list[str | None], max_length: int | None = None, end: bool = True) -> torch.Tensor:
        """The labels of `MMFusionForConditionalGeneration` and `MMFusionForCTC`: the tokens of the texts to
        generate.

        Args:
            texts: one per row, None for a row without a text.
            max_length: the most tokens of a text, with its end; longer texts are cut.
            end: whether a token ends each text; CTC needs none.

        Returns:
            `(B, S)` int64, each text without its start, padded with -100.
        """
        if self.tokenizer is None:
            raise ValueError(f"Texts to generate need a tokenizer, but this processor has only {self.present_parts}.")
        return target_ids(self.tokenizer, modality_of(Text.name).list_rows(texts), max_length, end)

    def to_dict(self) -> dict[str, Any]:
        """As in the library, without the parts that are absent."""
        values = {name: value for name, value in super().to_dict().items() if value is not None}
        for modality in learned_modalities():
            if (part := self.part_of(modality)) is not None:
                values[modality.part] = part.to_dict()
        values["extra_parts"] = {
            name: None if part is None else part.to_dict() for name, part in self.extra_parts.items()
        }
        if not self.extra_parts:
            del values["extra_parts"]
        return values

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Saves all parts: the tokenizer's files, and `processor_config.json` with all other parts, the types of the
        parts, and the code that loads them. Updates `checksums.json`.

        Raises:
            ValueError: `push_to_hub` is set; use the method of that name.
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
            values = json.loads(self.to_json_string())
            values[RECORD] = record_of(
                {modality.part: self.part_of(modality) for modality in self.modalities if not modality.extra}
            )
            with open(path, "w", encoding="utf-8") as file:
                file.write(json.dumps(values, indent=2, sort_keys=True) + "\n")
            vars(self).pop("auto_map", None)  # only in the file: the saved and the loaded object are equal
        return [path]

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As in the library, but with a clear error if the file is nested too deeply or holds no dict."""
        where = f"{pretrained_model_name_or_path}: processor_config.json"
        try:
            loaded = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        except (RecursionError, AttributeError, TypeError) as error:
            raise ValueError(f"{where} holds no dict, or one that is nested too deeply ({error!s:.80}).") from None
        if deep := [name for name, value in loaded[0].items() if is_too_deep(value)]:
            raise ValueError(f"{where} is nested too deeply at {deep[0]!r:.80}.")
        return loaded

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs) -> list:
        """Loads the saved parts; None for the others.

        Raises:
            ValueError: the parts have changed since they were saved, or do not fit the model beside them.
        """
        processor_dict = processor_dict or {}
        source = pretrained_model_name_or_path
        place = {key: kwargs[key] for key in HUB_KEYS if kwargs.get(key) is not None}
        names = list(dict.fromkeys(modality.part_file for modality in MODALITIES.values()))
        files = {
            name: cached_file(source, name, _raise_exceptions_for_missing_entries=False, **place) for name in names
        }
        folder = None
        if os.path.isdir(source):
            folder = os.path.normpath(os.path.join(source, place.get("subfolder") or ""))
        if folder is None and (beside := next(filter(None, files.values()), None)) is not None:
            folder = folder_with_checksums(source, beside, **place)
        parts: dict[str, Any] = {}
        if folder is not None:
            refuse_nan(folder, tuple(names))
        with names_of_unreadable_files(folder):
            for modality in MODALITIES.values():
                in_file = modality.part_file == Modality.part_file
                if modality.extra:
                    continue
                if not modality.pretrained:
                    parts[modality.part] = modality.read_part(processor_dict.get(modality.part))
                elif modality.part in processor_dict if in_file else files[modality.part_file] is not None:
                    parts[modality.part] = modality.part_class.from_pretrained(source, **kwargs)
                else:
                    parts[modality.part] = None
        parts |= {name: processor_dict.get(name) for name in SETTINGS}
        if folder is not None:
            check_parts(parts, processor_dict, folder, os.path.isdir(source), kwargs)
        return [parts]

    @classmethod
    def from_args_and_dict(cls, args, processor_dict, **kwargs):
        """As in the library, which would refuse every key of the file that is not an argument of `__init__`."""
        (parts,) = args
        return cls(**parts)


AutoProcessor.register(MMFusionConfig, MMFusionProcessor, exist_ok=True)
MMFusionProcessor.register_for_auto_class()

__all__ = ["MMFusionProcessor"]
