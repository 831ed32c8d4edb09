# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The modality of pictures; a video is a series of pictures."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoImageProcessor

from .files import HUB_KEYS
from .image import open_image
from .image_processors import (
    box_seen,
    least_size,
    opened_image,
    picture_settings,
    pixels_made,
    prepare_images,
    resize_to,
)
from .item_parts import cells, whole_item
from .modality import Modality, register_modality
from .raw_rows import Places, columns_of, holds_numbers, is_one
from .video import load_frames


class Frame(NamedTuple):
    """The source of a picture that is a frame of a video."""

    video: Any
    place: int


@register_modality
class Vision(Modality):
    """Pictures, one or several per row, and the frames of a video."""

    name = "vision"
    order = 0
    inputs = ("pixel_values",)
    floats = ("pixel_values",)
    pretrained = True
    model_type = "vit"
    argument = "images"
    part = "image_processor"
    part_class = AutoImageProcessor
    settings = ("image_background", "image_channels", "image_draft")
    kwargs_key = "images_kwargs"
    item = "picture"
    items = "images"
    places_key = "num_images"
    row_keys = ("image", "video")
    meant = ("image", "images", "picture")

    def dummy_inputs(self, config, device=None, dtype=None):
        size = getattr(config, "image_size", None) or 64
        height, width = (size, size) if isinstance(size, int) else size
        channels = getattr(config, "num_channels", 3)
        return {"pixel_values": torch.zeros(1, channels, height, width, device=device, dtype=dtype)}

    def encoder_inputs(self, encoder, given):
        """In the memory layout with which the encoder is fastest."""
        inputs = super().encoder_inputs(encoder, given)
        if "pixel_values" in inputs:
            # On the CPU, convolutions are 1.7 to 2.3 times faster with the channels last; patch embeddings are as
            # fast.
            layout = torch.contiguous_format if trains_above_group_norm(encoder) else torch.channels_last
            inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=layout)
        return inputs

    def is_item(self, value):
        """A picture; also numbers of one dimension: their shape is checked when they are opened."""
        return is_one_image(value) or (not isinstance(value, (list, tuple)) and holds_numbers(value))

    def is_single(self, value):
        return is_one_image(value)

    def check(self, item, processor, settings):
        """See `opened_image`."""
        return opened_image(
            item,
            processor.image_processor,
            settings,
            processor.image_background,
            processor.image_channels,
            processor.image_draft,
        )

    def prepare(self, items, processor, settings):
        """See `prepare_images`."""
        return prepare_images(processor.image_processor, items, settings, processor.image_channels)

    def part_arguments(self, part):
        return set(getattr(getattr(part, "valid_kwargs", None), "__annotations__", {}))

    def parts_of_encoder(self, source, settings, read_config, **kwargs):
        """With the background of pictures and the encoder's number of channels, if its config has it."""
        image_processor = AutoImageProcessor.from_pretrained(source, **kwargs)
        if settings["image_size"] is not None:
            resize_to(image_processor, settings["image_size"])
        place = {name: kwargs[name] for name in kwargs if name in (*HUB_KEYS, "trust_remote_code", "code_revision")}
        try:
            channels = getattr(read_config(**place), "num_channels", None)
        except (OSError, ValueError):  # an image processor without an encoder in its folder
            channels = None
        draft = settings["image_draft"]
        return {
            self.part: image_processor,
            "image_background": settings["image_background"],
            "image_draft": draft if least_size(image_processor, draft, {}) is not None else None,
            "image_channels": channels if isinstance(channels, int) else None,
        }

    def compared(self, parts, config):
        made, taken = parts.get("image_channels"), getattr(config, "num_channels", None)
        return [("channels of a picture", made, taken)] if made is not None and isinstance(taken, int) else []

    def places(self, config):
        return config.num_images - (getattr(config, "num_frames", None) or 0)

    def parts(self, shapes, mask, config, item=None, processor=None):
        """The cells of the encoder's grid."""
        parts = cells(shapes, config, pixels_made(getattr(processor, self.part, None), item))
        if parts is None:
            return whole_item(sum(map(math.prod, shapes)), mask, "picture")
        box = box_seen(getattr(processor, self.part, None), item)
        return parts if box is None else replace(parts, where={"box": box})

    def erase(self, inputs, parts, erased, background=None, processor=None, way=0):
        """Replaces cells by the mean of other pictures; without other pictures by the picture's own mean colour."""
        pixels = inputs["pixel_values"]
        instead = pixels.mean((2, 3), keepdim=True) if background is None else background["pixel_values"].mean(0)
        shown = parts.shape if len(parts.shape) == 2 else (1, 1)
        gone = erased.reshape(len(erased), 1, *shown).to(pixels)
        gone = nn.functional.interpolate(gone, pixels.shape[2:], mode="nearest")
        return {"pixel_values": torch.where(gone > 0, instead, pixels)}

    def goes_together(self, config):
        """Pictures and a video can be in one row if the config says how many places are frames."""
        return bool(getattr(config, "num_frames", None))

    def load(self, processor, config, key, value):
        """The frames of a video take the places of a row's pictures."""
        if key == self.row_keys[0]:
            return super().load(processor, config, key, value)
        count = getattr(config, "num_frames", None) or config.num_images
        frames = load_frames(value, count, **picture_settings(processor))
        return Places(frames), [Frame(value, place) for place in range(len(frames))]

    def joined(self, config, loaded):
        """The frames come after the places of the pictures, whether these are filled or not."""
        pictures, video = (loaded.get(key, (None, None)) for key in self.row_keys)
        if video[0] is None or not self.goes_together(config):
            return super().joined(config, loaded)
        items, sources = pictures if isinstance(pictures[0], Places) else ([pictures[0]], [pictures[1]])
        absent = [None] * (self.places(config) - len(items))
        return Places([*items, *absent, *video[0]]), [*sources, *absent, *video[1]]

    def load_item(self, processor, source):
        return open_image(source, **picture_settings(processor))

    def source_key(self, source):
        if isinstance(source, Frame):
            return super().source_key(source.video), source.place
        return super().source_key(source)


def is_one_image(value: Any) -> bool:
    """Whether a value is a single picture or None, not several pictures."""
    return is_one(value) or (hasattr(value, "ndim") and value.ndim in (2, 3) and columns_of(value) is None)


def trains_above_group_norm(encoder: nn.Module) -> bool:
    """Whether an encoder trains in part and has group norms (BiT). On CPUs, torch 2.13 crashes in the gradient of a
    group norm if its input needs no gradient and has its channels last."""
    return (
        torch.is_grad_enabled()
        and any(isinstance(module, nn.GroupNorm) for module in encoder.modules())
        and len({parameter.requires_grad for parameter in encoder.parameters()}) > 1
    )
