# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The processor: raw rows of all modalities in, a batch for the model out, all of it saved as one."""

import inspect
import json
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import PIL.Image
import torch
from PIL.Image import Image
from transformers import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.dynamic_module_utils import custom_object_save
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin
from transformers.utils import cached_file, logging

from .checkpoint_files import (
    checksums_of_what_is_written,
    folder_with_checksums,
    names_of_unreadable_files,
    refuse_nan,
)
from .configuration_mm_fusion import PRETRAINED_MODALITIES, MMFusionConfig, check_source, part_of_composite
from .files import is_too_deep
from .image import color_of, open_image, picture_of_array
from .inputs import (
    fault_of_text,
    fault_of_unicode,
    list_of_images,
    list_of_series,
    list_of_sounds,
    list_of_table_rows,
    list_of_texts,
)
from .names import did_you_mean, nearest
from .probing import check_image_size, longest_text, said_positions
from .processor_record import RECORD, check_parts, record_of
from .series import SeriesScaler
from .sound import limit_seconds, load_sound
from .table_schema import TableError, TableSchema


logger = logging.get_logger(__name__)

# Lengths that tokenizers give when they know none (the library's own stand-in is 1e30).
UNKNOWN_LENGTH = 10**6
# What a call gives, the modality that it is of, and the part that prepares it.
PARTS = {
    "images": ("vision", "image_processor"),
    "text": ("text", "tokenizer"),
    "audio": ("audio", "feature_extractor"),
    "table": ("tabular", "table_schema"),
    "series": ("series", "series_scaler"),
}
# How the rows of each argument are listed.
LISTS = {
    "images": list_of_images,
    "text": list_of_texts,
    "audio": list_of_sounds,
    "table": list_of_table_rows,
    "series": list_of_series,
}
# What people call a modality, where an encoder is named.
MEANT = {"image": "vision", "images": "vision", "picture": "vision", "sound": "audio", "speech": "audio"}


# The library's tokenizers keep the length and the padding of a call in themselves: two threads at once would cut each
# other's texts. One lock for all of them, since processors share tokenizers; a forked process has its own.
TOKENIZING = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TOKENIZING._at_fork_reinit)  # type: ignore[attr-defined]


# Where files come from.
HUB_KEYS = ("cache_dir", "force_download", "token", "revision", "local_files_only", "subfolder")
# What a feature extractor makes, where the model has another name for it.
AUDIO_NAMES = {"attention_mask": "audio_attention_mask"}


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
        # Without a text encoder, what is written needs the decoder's tokenizer.
        decoder = encoders.pop("decoder", None)
        sources = {name: encoders.pop(name, None) for name in PRETRAINED_MODALITIES}
        for name, source in {**sources, "decoder": decoder}.items():
            if source is not None:
                check_source(name, source)
        sources["text"] = sources["text"] or decoder
        sources = {name: source for name, source in sources.items() if source is not None}
        parts: dict[str, Any] = {"table_schema": table_schema, "series_scaler": series_scaler}
        if not sources and table_schema is None and series_scaler is None:
            raise ValueError(
                f"from_encoders_pretrained needs an encoder for at least one of {list(PRETRAINED_MODALITIES)}, or one "
                f"of {list(parts)}."
            )
        for key, value in encoders.items():
            known = [*PRETRAINED_MODALITIES, "decoder", *parts, "max_audio_seconds"]
            meant = MEANT.get(key) or nearest(key, known, cutoff=0.8)
            if meant is not None and isinstance(value, (str, os.PathLike, TableSchema, SeriesScaler)):
                raise ValueError(f"from_encoders_pretrained has no {key!r}; it has {known}. Did you mean {meant!r}?")
        for name, source in sources.items():
            kwargs = {}
            for key, value in encoders.items():
                if not (isinstance(value, dict) and set(value) <= set(PRETRAINED_MODALITIES)):
                    kwargs[key] = value
                elif name in value:
                    kwargs[key] = value[name]
            if name == "vision":
                parts["image_processor"] = AutoImageProcessor.from_pretrained(source, **kwargs)
                if image_size is not None:
                    resize_to(parts["image_processor"], image_size)
                parts["image_background"] = image_background
                parts["image_channels"] = channels_of(source, **kwargs)
            elif name == "audio":
                parts["feature_extractor"] = AutoFeatureExtractor.from_pretrained(source, **kwargs)
                if max_audio_seconds is not None:
                    limit_seconds(parts["feature_extractor"], max_audio_seconds)
            else:
                tokenizer = AutoTokenizer.from_pretrained(source, **kwargs)
                try:
                    config = part_of_composite(AutoConfig.from_pretrained(source, **kwargs), name)
                except (OSError, ValueError):  # a tokenizer without an encoder beside it
                    if tokenizer.model_max_length > UNKNOWN_LENGTH:
                        raise
                else:
                    limit_text(tokenizer, config)
                parts["tokenizer"] = tokenizer
        if image_size is not None and "image_processor" not in parts:
            raise ValueError(f"image_size is {image_size}, but there is no vision encoder.")
        return cls(**parts)

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
        sounds = self._check_sounds(rows.get("audio", []), audio_kwargs.get("sampling_rate"))
        indices, data = {}, {}
        for name, (modality, _) in PARTS.items():
            if name not in rows:
                continue
            values, places = rows[name], 0
            if name == "table":
                values = self._with_values(values)
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
                data.update(self._see(items, rows_of, output_kwargs["images_kwargs"]))
            elif items and name == "audio":
                data.update(self._hear([sounds[index.index(place)] for place in range(len(items))], audio_kwargs))
            elif items and name == "table":
                data.update(self.table_schema(items))
            elif items and name == "series":
                data.update(self._scale(rows[name], items))
            elif items:
                for row, value in enumerate(rows[name]):
                    if value is not None and (fault := fault_of_text(value)):
                        raise ValueError(f"Row {row}: {fault}")
                with TOKENIZING:
                    data.update(self._tokenize(items, output_kwargs["text_kwargs"]))
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
        last = [ends_of_text(self.tokenizer)[1]] if end else []
        texts = list_of_texts(texts)
        for row, text in enumerate(texts):
            if text is not None and (fault := fault_of_unicode(text)):
                raise ValueError(f"Row {row}: {fault}")
        there = [text for text in texts if text is not None]
        with TOKENIZING:
            found = iter(self.tokenizer(there, add_special_tokens=False, verbose=False)["input_ids"] if there else [])
        longest = None if max_length is None else max_length - len(last)
        rows = [[] if text is None else [*next(found)[:longest], *last] for text in texts]
        labels = torch.full((len(rows), max([1, *map(len, rows)])), -100)
        for row, tokens in enumerate(rows):
            labels[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        return labels

    def _with_values(self, rows: list) -> list:
        """Rows of the table, None for those without any value: a row of nothing but gaps is absent, as in training."""
        for row, values in enumerate(rows):
            if values is None:
                continue
            if not isinstance(values, Mapping):
                raise ValueError(f"Row {row}: a table's row is a dict of columns, got {values!r:.80}.")
            for column, value in values.items():
                if isinstance(value, (list, tuple, dict, np.ndarray)):
                    raise ValueError(
                        f"Row {row}: column {column!r} has one value a row, got {value!r:.80}; several rows are a "
                        "list of dicts, or a table of pandas."
                    )
            try:
                self.table_schema.check(values)
            except TableError as error:
                raise ValueError(f"Row {row}: {error}") from None
        return [None if row is None or all(map(self.table_schema.is_missing, row.values())) else row for row in rows]

    def _see(self, images: list, rows: list[int], images_kwargs: dict) -> dict[str, Any]:
        """What the image processor makes of distinct images, each opened as `open_image` says. Those that it is told
        not to rescale, and those of encoders with other channels than one or three, stay as they are where they are
        arrays.

        Args:
            images: raw ones.
            rows: the first row that has each.
            images_kwargs: for the image processor.

        Raises:
            ValueError: an image that cannot be read.
        """
        settings, channels = dict(images_kwargs), self.image_channels
        mean = settings.get("image_mean") or getattr(self.image_processor, "image_mean", None)
        if channels is None:
            channels = 1 if isinstance(mean, (list, tuple)) and len(mean) == 1 else 3
        rescaled = settings.get("do_rescale", getattr(self.image_processor, "do_rescale", True)) is not False
        layout, opened = settings.get("input_data_format"), []
        for row, image in zip(rows, images):
            array = isinstance(image, (np.ndarray, torch.Tensor))
            try:
                if array and (channels not in (1, 3) or (is_floating(image) and not rescaled)):
                    if not torch.as_tensor(image).isfinite().all():
                        raise ValueError("the picture has pixels that are no finite numbers.")
                    opened.append(image)
                    continue
                image = picture_of_array(image, layout) if array else image
                opened.append(open_image(image, self.image_background, 1 if channels == 1 else 3))
            except ValueError as error:
                raise ValueError(f"Row {row}: {error}") from None
        if all(isinstance(image, Image) for image in opened):
            settings.pop("input_data_format", None)
        if channels == 1:  # what the image processor has for three may not fit
            if getattr(self.image_processor, "do_convert_rgb", None):
                settings["do_convert_rgb"] = False
            for name in ("image_mean", "image_std"):
                values = settings.get(name) or getattr(self.image_processor, name, None)
                if isinstance(values, (list, tuple)) and len(values) > 1:
                    settings[name] = [sum(values) / len(values)]
        return dict(self.image_processor(opened, **settings))

    def _scale(self, rows: list, items: list) -> dict[str, torch.Tensor]:
        """Tensors of distinct series; what cannot be one is told by its row."""
        for row, series in enumerate(rows):
            if series is not None:
                try:
                    self.series_scaler.check(series)
                except ValueError as error:
                    raise ValueError(f"Row {row}: {error}") from None
        return self.series_scaler(items)

    def _check_sounds(self, sounds: list, sampling_rate: int | None) -> list[np.ndarray | None]:
        """Sounds as `(S,)` float32. Refuses what no feature extractor could make sense of."""
        if not sounds:
            return []
        needed = self.feature_extractor.sampling_rate
        if sampling_rate not in (None, needed):
            raise ValueError(f"Sounds must have a sampling_rate of {needed}, got {sampling_rate}: resample them.")
        found: list[np.ndarray | None] = []
        for row, sound in enumerate(sounds):
            if sound is None:
                found.append(None)
                continue
            if isinstance(sound, (str, bytes, os.PathLike, Mapping)):
                try:
                    sound = load_sound(sound, needed)
                except ValueError as error:
                    raise ValueError(f"Row {row}: {error}") from None
            values = np.asarray(sound.detach().float().cpu() if isinstance(sound, torch.Tensor) else sound)
            if values.ndim != 1 or not len(values) or values.dtype.kind != "f":
                raise ValueError(
                    f"Row {row}: a sound is a list of floats, one channel and not empty; got {values.dtype} of shape "
                    f"{values.shape}. None means that there is none."
                )
            with np.errstate(over="ignore"):  # what is too large is infinite then, and refused
                found.append(values.astype(np.float32))
            if not np.isfinite(found[-1]).all():
                raise ValueError(f"Row {row}: the sound has samples that are no finite numbers.")
        return found

    def _hear(self, sounds: list, audio_kwargs: dict) -> dict:
        """Makes frames or waves of sounds, padded alike, with a mask of what is heard, under the model's names."""
        extractor = self.feature_extractor
        settings = dict(audio_kwargs)
        if hasattr(extractor, "chunk_length"):  # Whisper's: all are as long as its encoder
            settings.setdefault("padding", "max_length")
        else:
            settings.setdefault("padding", True)
        if (longest := getattr(extractor, "max_audio_seconds", None)) is not None:
            sounds = [sound[: longest * extractor.sampling_rate] for sound in sounds]
        # Shorter than a window or two no extractor and no convolution can look at: what is missing is silence.
        least = extractor.sampling_rate // 25
        sounds = [np.pad(sound, (0, max(0, least - len(sound)))) for sound in sounds]
        found = dict(extractor(sounds, **settings))
        for name in ("input_features", "input_values"):  # normalised silence is 0 / 0
            if isinstance(found.get(name), torch.Tensor):
                found[name] = found[name].nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        return {AUDIO_NAMES.get(name, name): values for name, values in found.items()}

    def _tokenize(self, texts: list[str], text_kwargs: dict) -> dict:
        """Tokenizes, and says once if texts had to be cut."""
        encoded = self.tokenizer(texts, **text_kwargs)
        mask = encoded.get("attention_mask")
        if isinstance(mask, torch.Tensor) and not (filled := mask.bool().any(-1)).all():
            # Of a tokenizer that adds nothing: what has no word in it is one that is not known.
            if self.tokenizer.unk_token_id is None:
                raise ValueError(f"The text {texts[int(filled.int().argmin())]!r} has no token.")
            ids = encoded["input_ids"].long() if mask.shape[1] else torch.zeros(len(texts), 1, dtype=torch.int64)
            mask = mask if mask.shape[1] else torch.zeros_like(ids)
            ids[~filled, 0], mask[~filled, 0] = self.tokenizer.unk_token_id, 1
            encoded.update({"input_ids": ids, "attention_mask": mask})
        limit = text_kwargs.get("max_length") or self.tokenizer.model_max_length
        full = [
            text for text, ids in zip(texts, encoded["input_ids"]) if text_kwargs["truncation"] and len(ids) >= limit
        ]
        if full:
            lengths = [len(ids) for ids in self.tokenizer(full, verbose=False)["input_ids"]]
            if max(lengths) > limit:
                logger.warning_once(
                    f"Texts of up to {max(lengths)} tokens are cut to {limit}, all that the text encoder can read. "
                    "This is said once."
                )
        return encoded

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


def channels_of(source: Any, **kwargs: Any) -> int | None:
    """Channels that a vision encoder takes, where its config says so. Of the arguments those that say where it is."""
    place = {key: value for key, value in kwargs.items() if key in (*HUB_KEYS, "trust_remote_code", "code_revision")}
    try:
        config = part_of_composite(AutoConfig.from_pretrained(source, **place), "vision")
    except (OSError, ValueError):  # an image processor alone
        return None
    channels = getattr(config, "num_channels", None)
    return channels if isinstance(channels, int) else None


def is_floating(values: np.ndarray | torch.Tensor) -> bool:
    """Whether an array or tensor holds floats."""
    return values.is_floating_point() if isinstance(values, torch.Tensor) else values.dtype.kind == "f"


def distinct_items(values: list, deduplicate: bool) -> tuple[list, list]:
    """Gives the items that are there, and for each row the position of its item, -1 where it has none.

    Strings, paths and bytes are the same if they are equal, all else if it is the very same object.
    """
    items: list = []
    index: list[int] = []
    places: dict[Any, int] = {}
    for value in values:
        if value is None:
            index.append(-1)
            continue
        key = value if isinstance(value, (str, bytes, os.PathLike)) else id(value)
        if not deduplicate or key not in places:
            places[key] = len(items)
            items.append(value)
        index.append(places[key])
    return items, index


def ends_of_text(tokenizer) -> tuple[int, int, int]:
    """The tokens that a written text starts and ends with, and what follows its end: CLS, SEP and PAD of BERT and its
    kin, else the tokens of beginning and end of GPT-2 and its kin.

    Raises:
        ValueError: the tokenizer has neither.
    """
    start = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if start is None or end is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no token that a text could start and end with: neither CLS and SEP nor "
            "BOS and EOS."
        )
    return start, end, end if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def decode_as_written(tokenizer, tokens: Any, **kwargs: Any) -> str:
    """The text of tokens that stand for it one by one. A tokenizer of CTC (Wav2Vec2's) would take them for those of
    single moments, and equal letters for one."""
    parameters = inspect.signature(getattr(tokenizer, "_decode", tokenizer.decode)).parameters
    grouped = {"group_tokens": False} if "group_tokens" in parameters else {}
    return tokenizer.decode(tokens, **grouped, **kwargs)


def limit_text(tokenizer, config):
    """Makes a tokenizer cut texts to what the text encoder of a config can place: a tokenizer that claims more is not
    believed. One that claims nothing takes the encoder's word, and cuts nothing where the positions have no end."""
    longest = longest_text(config)
    if tokenizer.model_max_length > UNKNOWN_LENGTH:
        longest = longest or said_positions(config)
    if longest is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)


def ensure_padding(tokenizer):
    """Gives a tokenizer that has no token for padding (GPT-2's, Llama's) one of its own, if it has any special one:
    the mask says where padding is, so that which one does not matter."""
    if tokenizer.pad_token is not None:
        return
    names = ("sep_token", "eos_token", "unk_token", "bos_token", "cls_token")
    name = next((name for name in names if getattr(tokenizer, name, None) is not None), None)
    if name is None:
        return
    tokenizer.pad_token = getattr(tokenizer, name)
    logger.warning_once(
        f"{type(tokenizer).__name__} has no token for padding: its {name} {tokenizer.pad_token!r} pads, and the mask "
        "says where. This is said once."
    )


def resize_to(image_processor, image_size: int):
    """Makes an image processor resize the whole of each picture to one height and width, where it can: without a
    border, and without cutting anything off but where it knows no other way than to crop.

    Raises:
        ValueError: no height and width, or what the image processor cannot make.
    """
    check_image_size(image_size)
    square = {"height": image_size, "width": image_size}
    edge = {"shortest_edge": image_size}
    whole = {"size": square, "do_resize": True, "do_center_crop": False, "do_pad": False}
    cropped = {"size": edge, "do_resize": True, "crop_size": square, "do_center_crop": True, "crop_pct": 1.0}
    picture = PIL.Image.new("RGB", (2 * image_size + 3, image_size + 7), (255, 255, 255))
    before = dict(vars(image_processor))
    failure: Exception | None = None
    for settings in (whole, cropped):
        vars(image_processor).clear()
        vars(image_processor).update(before)
        for name, value in settings.items():
            if hasattr(image_processor, name) or name == "size":
                setattr(image_processor, name, value)
        try:
            found = image_processor([picture], return_tensors="pt")["pixel_values"]
        except Exception as error:
            failure = error
            continue
        if tuple(found.shape[-2:]) == (image_size, image_size) and torch.equal(found.amin((2, 3)), found.amax((2, 3))):
            return
    raise ValueError(
        f"{type(image_processor).__name__} cannot make pictures of {image_size} x {image_size} without a border: "
        f"leave image_size out, or resize the pictures yourself. {failure or ''}"
    )


AutoProcessor.register(MMFusionConfig, MMFusionProcessor, exist_ok=True)
MMFusionProcessor.register_for_auto_class()

__all__ = ["MMFusionProcessor"]
