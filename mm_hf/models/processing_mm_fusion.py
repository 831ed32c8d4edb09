# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The processor: raw rows of all modalities in, a batch for the model out, all of it saved as one."""

import inspect
import os
from collections.abc import Hashable, Mapping
from numbers import Real
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

from .configuration_mm_fusion import PRETRAINED_MODALITIES, MMFusionConfig, check_source, part_of_composite
from .probing import check_image_size, longest_text, said_positions
from .series import SeriesScaler, has_no_steps
from .sound import limit_seconds
from .tabular import TableError, TableSchema, is_missing


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

    Example:

    ```python
    >>> processor = MMFusionProcessor.from_encoders_pretrained(vision="google/vit-base-patch16-224",
    ...                                                        text="google-bert/bert-base-uncased")
    >>> batch = processor(images=[image, None], text=["what colour?", "what shape?"])  # the second row has no image
    ```
    """

    valid_processor_kwargs = MMFusionProcessorKwargs

    def __init__(
        self, image_processor=None, tokenizer=None, feature_extractor=None, table_schema=None, series_scaler=None
    ):
        # The library's own __init__ refuses absent parts.
        self.chat_template = None
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.feature_extractor = feature_extractor
        self.table_schema = TableSchema(**table_schema) if isinstance(table_schema, dict) else table_schema
        self.series_scaler = SeriesScaler(**series_scaler) if isinstance(series_scaler, dict) else series_scaler
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

        Args:
            images: an image (PIL, array or tensor) or a list of them; None in the list: this row has no image. A list
                in the list: the images of a row with several, or the frames of its video, None for a place without.
            text: a string or a list of them; None in the list: this row has no text.
            audio: a sound, `(S,)` float from -1 to 1, or a list of them; None in the list: this row has no sound.
            table: a row of the table, `{column: value}`, or a list of them; a column that is not there, None or NaN is
                missing; None in the list: this row has none at all.
            series: a time series, an array `(S, C)` (or `(S,)`) or a list of steps, NaN for a reading that is missing;
                or a list of them; None in the list: this row has none, as one without a step or of gaps alone.
            deduplicate: prepare equal strings, and images and sounds that are the very same object, once, and give the
                index of the item that each row uses. One image beside many texts is always shared.
            kwargs: for the tokenizer, the image processor and the feature extractor; `text_kwargs`, `images_kwargs`
                and `audio_kwargs` (dicts) tell them apart. `sampling_rate`, in samples a second, says what the sounds
                have: it has to be what the feature extractor has, since nothing is resampled here.

        Returns:
            `vision_index`, `text_index`, `audio_index`, `tabular_index`, `series_index` `(B,)` where rows share items
            or lack them (`vision_index` `(B, K)` where rows have up to K images), then `pixel_values`,
            `numerical_values`, `categorical_ids`, `series_values`, `series_attention_mask`, and what the tokenizer and
            the feature extractor make, for the distinct items; the latter's mask is `audio_attention_mask`.

        Raises:
            ValueError: nothing given, lists of different length, an empty text (None means absent), a sound that is
                empty, has several channels or what is no finite number, another sampling rate, or an input that this
                processor has no part for; a table's column that is not known, or what is no number in one of numbers;
                a series of other channels than those it learned.
        """
        given = {"images": images, "text": text, "audio": audio, "table": table, "series": series}
        for name, (_, part) in PARTS.items():
            if given[name] is not None and getattr(self, part) is None:
                raise ValueError(f"Got {name}, but this processor has only {self.present_parts}.")
        rows = {
            name: list_of_series(value) if name == "series" else as_list(value)
            for name, value in given.items()
            if value is not None
        }
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
            if name == "images" and any(isinstance(value, (list, tuple)) for value in values):
                values = [list(value) if isinstance(value, (list, tuple)) else [value] for value in values]
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
                images = [image.convert("RGB") if isinstance(image, Image) else image for image in items]
                data.update(self.image_processor(images, **output_kwargs["images_kwargs"]))
            elif items and name == "audio":
                data.update(self._hear([sounds[index.index(place)] for place in range(len(items))], audio_kwargs))
            elif items and name == "table":
                data.update(self.table_schema(items))
            elif items and name == "series":
                data.update(self._scale(rows[name], items))
            elif items:
                for row, value in enumerate(rows[name]):
                    if value is not None and not (isinstance(value, str) and value.strip()):
                        raise ValueError(
                            f"Row {row}: the text is empty or no string ({value!r}); None means that there is none."
                        )
                data.update(self._tokenize(items, output_kwargs["text_kwargs"]))
        # Indices first: the Trainer reads the size of a batch off its first tensor.
        return BatchFeature({**indices, **data})

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
        there = [text for text in texts if text is not None]
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
            try:
                self.table_schema.check(values)
            except TableError as error:
                raise ValueError(f"Row {row}: {error}") from None
        return [None if row is None or all(map(is_missing, row.values())) else row for row in rows]

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
        """Saves all parts: the tokenizer's files, the rest in `processor_config.json`, and the code that loads them.

        Raises:
            ValueError: `push_to_hub`, which goes through the method of that name.
        """
        if push_to_hub:
            raise ValueError(
                "Call processor.push_to_hub(repo_id), or model.push_to_hub(repo_id, processor=processor)."
            )
        os.makedirs(save_directory, exist_ok=True)
        custom_object_save(self, save_directory, config=cast(Any, self))
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)
        path = os.path.join(save_directory, "processor_config.json")
        self.to_json_file(path)
        vars(self).pop("auto_map", None)  # of the file alone: what was saved and what is loaded are equal
        return [path]

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs) -> list:
        """Loads the parts that were saved; None in the place of the others."""
        processor_dict = processor_dict or {}
        image_processor = tokenizer = feature_extractor = None
        if "image_processor" in processor_dict:
            image_processor = AutoImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        if "feature_extractor" in processor_dict:
            feature_extractor = AutoFeatureExtractor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        hub_keys = ("cache_dir", "force_download", "token", "revision", "local_files_only", "subfolder")
        tokenizer_file = cached_file(
            pretrained_model_name_or_path,
            "tokenizer_config.json",
            _raise_exceptions_for_missing_entries=False,
            **{key: kwargs[key] for key in hub_keys if kwargs.get(key) is not None},
        )
        if tokenizer_file is not None:
            tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        own = [processor_dict.get(name) for name in ("table_schema", "series_scaler")]
        return [image_processor, tokenizer, feature_extractor, *own]

    @classmethod
    def from_args_and_dict(cls, args, processor_dict, **kwargs):
        """As in the library, which takes every key of the file that `__init__` does not name for a mistake."""
        return cls(*args)


def as_list(value) -> list:
    """One row as a list of one; arrays and tensors with a batch dimension as lists of their rows. A list of numbers is
    one sound."""
    if isinstance(value, (list, tuple)):
        return [value] if value and isinstance(value[0], (int, float)) else list(value)
    if getattr(value, "ndim", 0) == 4:
        return list(value)
    return [value]


def list_of_series(value) -> list:
    """One series as a list of one: an array or tensor of one or two dimensions, a list of numbers or of lists of
    numbers. What has no step, or nothing but gaps, is None."""
    rows = [value]
    if isinstance(value, (list, tuple)):
        first = next((row for row in value if row is not None), None)
        inner = first[0] if isinstance(first, (list, tuple)) and first else first
        rows = [value] if isinstance(inner, Real) else list(value)
    elif getattr(value, "ndim", 0) == 3:
        rows = list(value)
    return [None if has_no_steps(row) else row for row in rows]


def distinct_items(values: list, deduplicate: bool) -> tuple[list, list]:
    """Gives the items that are there, and for each row the position of its item, -1 where it has none.

    Strings are the same if they are equal, all else if it is the very same object.
    """
    items: list = []
    index: list[int] = []
    places: dict[Hashable, int] = {}
    for value in values:
        if value is None:
            index.append(-1)
            continue
        key = value if isinstance(value, str) else id(value)
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
