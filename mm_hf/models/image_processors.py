# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Image processors of the library: what they make of pictures, and the size that they make them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from .image import open_image, picture_of_array
from .probing import check_image_size


def channels_made(image_processor, settings: Mapping[str, Any], channels: int | None) -> int:
    """The channels of pictures: those that a vision encoder takes, where that is known, else 1 where there is the mean
    of one, else 3."""
    mean = settings.get("image_mean") or getattr(image_processor, "image_mean", None)
    if channels is None:
        return 1 if isinstance(mean, (list, tuple)) and len(mean) == 1 else 3
    return channels


def opened_image(
    image: Any,
    image_processor,
    settings: Mapping[str, Any],
    background: str | Sequence[int] | None,
    channels: int | None,
) -> Any:
    """A picture, opened as `open_image` says, for an image processor with its settings and the `image_background` and
    `image_channels` of `MMFusionProcessor`. An array that is not to be rescaled, and that of an encoder with other
    channels than one or three, stays as it is."""
    channels = channels_made(image_processor, settings, channels)
    rescaled = settings.get("do_rescale", getattr(image_processor, "do_rescale", True)) is not False
    if isinstance(image, (np.ndarray, torch.Tensor)):
        floating = image.is_floating_point() if isinstance(image, torch.Tensor) else image.dtype.kind == "f"
        if channels not in (1, 3) or (floating and not rescaled):
            values = torch.as_tensor(image)
            if not values.isfinite().all():
                first = values[~values.isfinite()][0].item()
                raise ValueError(f"the picture has pixels that are no finite numbers, the first of them {first}.")
            return image
        image = picture_of_array(image, settings.get("input_data_format"))
    return open_image(image, background, 1 if channels == 1 else 3)


def prepare_images(
    image_processor, images: list, images_kwargs: Mapping[str, Any], channels: int | None
) -> dict[str, Any]:
    """What an image processor of the library makes of pictures that `opened_image` gave."""
    settings = dict(images_kwargs)
    channels = channels_made(image_processor, settings, channels)
    if all(isinstance(image, Image.Image) for image in images):
        settings.pop("input_data_format", None)
    if channels == 1:  # what the image processor has for three may not fit
        if getattr(image_processor, "do_convert_rgb", None):
            settings["do_convert_rgb"] = False
        for name in ("image_mean", "image_std"):
            values = settings.get(name) or getattr(image_processor, name, None)
            if isinstance(values, (list, tuple)) and len(values) > 1:
                settings[name] = [sum(values) / len(values)]
    return dict(image_processor(images, **settings))


def resize_to(image_processor, image_size: int):
    """Makes an image processor resize the whole of each picture to one height and width, where it can: without a
    border, and without cutting anything off but where it knows no other way than to crop. Refuses what it cannot
    make."""
    check_image_size(image_size)
    square = {"height": image_size, "width": image_size}
    edge = {"shortest_edge": image_size}
    whole = {"size": square, "do_resize": True, "do_center_crop": False, "do_pad": False}
    cropped = {"size": edge, "do_resize": True, "crop_size": square, "do_center_crop": True, "crop_pct": 1.0}
    picture = Image.new("RGB", (2 * image_size + 3, image_size + 7), (255, 255, 255))
    before = dict(vars(image_processor))
    failure: Exception | None = None
    for settings in (whole, cropped):
        vars(image_processor).clear()
        vars(image_processor).update(before)
        for name, value in settings.items():
            if hasattr(image_processor, name) or name == "size":
                setattr(image_processor, name, value)
        try:
            pixels = image_processor([picture], return_tensors="pt")["pixel_values"]
        except Exception as error:
            failure = error
            continue
        as_asked = tuple(pixels.shape[-2:]) == (image_size, image_size)
        if as_asked and torch.equal(pixels.amin((2, 3)), pixels.amax((2, 3))):
            return
    raise ValueError(
        f"{type(image_processor).__name__} cannot make pictures of {image_size} x {image_size} without a border: "
        f"leave image_size out, or resize the pictures yourself. {failure or ''}"
    )
