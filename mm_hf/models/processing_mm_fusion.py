# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The processor: raw rows of all modalities in, a batch for the model out, all of it saved as one."""

import os
from collections.abc import Hashable
from typing import Any, cast

import torch
from PIL.Image import Image
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.dynamic_module_utils import custom_object_save
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin
from transformers.utils import cached_file, logging

from .configuration_mm_fusion import MMFusionConfig, part_of_composite


logger = logging.get_logger(__name__)

# Lengths that tokenizers give when they know none (the library's own stand-in is 1e30).
UNKNOWN_LENGTH = 10**6


class MMFusionProcessorKwargs(ProcessingKwargs, total=False):
    """What the parts do unless told otherwise: texts are padded to the longest, and cut at what the encoder can
    read."""

    _defaults = {"text_kwargs": {"padding": True, "truncation": True}, "common_kwargs": {"return_tensors": "pt"}}


class MMFusionProcessor(ProcessorMixin):
    """Prepares images and texts for the models of mm_hf.

    Args:
        image_processor: any image processor of the library; None for a model without vision.
        tokenizer: any tokenizer of the library; None for a model without text.

    Example:

    ```python
    >>> processor = MMFusionProcessor.from_encoders_pretrained(vision="google/vit-base-patch16-224",
    ...                                                        text="google-bert/bert-base-uncased")
    >>> batch = processor(images=[image, None], text=["what colour?", "what shape?"])  # the second row has no image
    ```
    """

    valid_processor_kwargs = MMFusionProcessorKwargs

    def __init__(self, image_processor=None, tokenizer=None):
        # The library's own __init__ refuses absent parts.
        self.chat_template = None
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        for name in self.present_parts:
            self.check_argument_for_proper_class(name, getattr(self, name))
        if not self.present_parts:
            raise ValueError(f"A processor needs at least one of its parts: {self.get_attributes()}.")

    @property
    def present_parts(self) -> list[str]:
        """Names of the parts that this processor has."""
        return [name for name in self.get_attributes() if getattr(self, name) is not None]

    @property
    def model_input_names(self) -> list[str]:
        """Names of the inputs that the parts make, without the indices."""
        return [name for part in self.present_parts for name in getattr(self, part).model_input_names]

    @classmethod
    def from_encoders_pretrained(cls, **encoders: Any) -> "MMFusionProcessor":
        """Builds a processor from those of the encoders.

        Args:
            vision, text (`str`): Hub id or local folder of each encoder, as for the model.
            decoder (`str`): that of the decoder, where there is no text encoder.
            encoders: everything else goes to the loading of each part (`revision`, `token`, `subfolder`…; a dict by
                modality where the encoders differ).

        Raises:
            ValueError: no encoder was named.
        """
        # Without a text encoder, what is written needs the decoder's tokenizer.
        decoder = encoders.pop("decoder", None)
        sources = {name: encoders.pop(name, None) for name in ("vision", "text")}
        sources["text"] = sources["text"] or decoder
        sources = {name: source for name, source in sources.items() if source is not None}
        if not sources:
            raise ValueError("from_encoders_pretrained needs an encoder for at least one of ['vision', 'text'].")
        parts: dict[str, Any] = {}
        for name, source in sources.items():
            kwargs = {}
            for key, value in encoders.items():
                if not (isinstance(value, dict) and set(value) <= {"vision", "text"}):
                    kwargs[key] = value
                elif name in value:
                    kwargs[key] = value[name]
            if name == "vision":
                parts["image_processor"] = AutoImageProcessor.from_pretrained(source, **kwargs)
            else:
                tokenizer = AutoTokenizer.from_pretrained(source, **kwargs)
                if tokenizer.model_max_length > UNKNOWN_LENGTH:
                    config = part_of_composite(AutoConfig.from_pretrained(source, **kwargs), name)
                    tokenizer.model_max_length = longest_text(config)
                parts["tokenizer"] = tokenizer
        return cls(**parts)

    def __call__(
        self,
        images=None,
        text: str | list[str | None] | None = None,
        deduplicate: bool | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Prepares a batch.

        Args:
            images: an image (PIL, array or tensor) or a list of them; None in the list: this row has no image.
            text: a string or a list of them; None in the list: this row has no text.
            deduplicate: prepare equal strings, and images that are the very same object, once, and give the index of
                the item that each row uses. One image beside many texts is always shared.
            kwargs: for the tokenizer and the image processor; `text_kwargs` and `images_kwargs` (dicts) tell them
                apart.

        Returns:
            `vision_index`, `text_index` `(B,)` where rows share items or lack them, then `pixel_values` and what the
            tokenizer makes, for the distinct items.

        Raises:
            ValueError: nothing given, lists of different length, an empty text (None means absent), or an input that
                this processor has no part for.
        """
        given = {"images": images, "text": text}
        for name, part in (("images", self.image_processor), ("text", self.tokenizer)):
            if given[name] is not None and part is None:
                raise ValueError(f"Got {name}, but this processor has only {self.present_parts}.")
        rows = {name: as_list(value) for name, value in given.items() if value is not None}
        if not rows:
            raise ValueError("Give at least one of images, text.")
        batch = max(len(values) for values in rows.values())
        counts = {name: len(values) for name, values in rows.items()}
        if not batch:
            raise ValueError("Lists of images and text must have at least one entry.")
        if not set(counts.values()) <= {1, batch}:
            raise ValueError(f"images and text must have one entry a row: got {counts}.")

        output_kwargs = self._merge_kwargs(
            cast(Any, MMFusionProcessorKwargs),
            tokenizer_init_kwargs=self.tokenizer.init_kwargs if self.tokenizer is not None else {},
            **kwargs,
        )
        indices, data = {}, {}
        for name, modality in (("images", "vision"), ("text", "text")):
            if name not in rows:
                continue
            items, index = distinct_items(rows[name], bool(deduplicate))
            if len(rows[name]) < batch:
                index = index * batch
            if index != list(range(batch)):
                indices[f"{modality}_index"] = torch.tensor(index)
            if items and name == "images":
                images = [image.convert("RGB") if isinstance(image, Image) else image for image in items]
                data.update(self.image_processor(images, **output_kwargs["images_kwargs"]))
            elif items:
                for row, value in enumerate(rows[name]):
                    if value is not None and not (isinstance(value, str) and value.strip()):
                        raise ValueError(
                            f"Row {row}: the text is empty or no string ({value!r}); None means that there is none."
                        )
                data.update(self._tokenize(items, output_kwargs["text_kwargs"]))
        # Indices first: the Trainer reads the size of a batch off its first tensor.
        return BatchFeature({**indices, **data})

    def target_ids(self, texts: list[str | None], max_length: int | None = None) -> torch.Tensor:
        """The labels of `MMFusionForConditionalGeneration`: the tokens of texts that are to be written.

        Args:
            texts: one a row, None for a row without.
            max_length: tokens that a text is cut to, its end included.

        Returns:
            `(B, S)` int64, each text with its end and without its start, -100 behind the end.
        """
        if self.tokenizer is None:
            raise ValueError(f"Texts to write need a tokenizer, and this processor has only {self.present_parts}.")
        _, end, _ = ends_of_text(self.tokenizer)
        there = [text for text in texts if text is not None]
        found = iter(self.tokenizer(there, add_special_tokens=False, verbose=False)["input_ids"] if there else [])
        longest = None if max_length is None else max_length - 1
        rows = [[] if text is None else [*next(found)[:longest], end] for text in texts]
        labels = torch.full((len(rows), max([1, *map(len, rows)])), -100)
        for row, tokens in enumerate(rows):
            labels[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        return labels

    def _tokenize(self, texts: list[str], text_kwargs: dict) -> dict:
        """Tokenizes, and says once if texts had to be cut."""
        encoded = self.tokenizer(texts, **text_kwargs)
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
        return {name: value for name, value in super().to_dict().items() if value is not None}

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
        image_processor = tokenizer = None
        if "image_processor" in processor_dict:
            image_processor = AutoImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        hub_keys = ("cache_dir", "force_download", "token", "revision", "local_files_only", "subfolder")
        tokenizer_file = cached_file(
            pretrained_model_name_or_path,
            "tokenizer_config.json",
            _raise_exceptions_for_missing_entries=False,
            **{key: kwargs[key] for key in hub_keys if kwargs.get(key) is not None},
        )
        if tokenizer_file is not None:
            tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return [image_processor, tokenizer]

    @classmethod
    def from_args_and_dict(cls, args, processor_dict, **kwargs):
        """As in the library, which takes every key of the file that `__init__` does not name for a mistake."""
        return cls(*args)


def as_list(value) -> list:
    """One row as a list of one; arrays and tensors with a batch dimension as lists of their rows."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if getattr(value, "ndim", 0) == 4:
        return list(value)
    return [value]


def distinct_items(values: list, deduplicate: bool) -> tuple[list, list[int]]:
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


def longest_text(config) -> int:
    """Tokens that a text encoder can read, where its tokenizer does not say: positions after those that RoBERTa and
    its kin keep for padding."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return 512
    return positions - (config.pad_token_id + 1 if "roberta" in config.model_type else 0)


AutoProcessor.register(MMFusionConfig, MMFusionProcessor, exist_ok=True)
MMFusionProcessor.register_for_auto_class()

__all__ = ["MMFusionProcessor"]
