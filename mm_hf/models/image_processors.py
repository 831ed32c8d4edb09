# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Image processors of transformers: how they are used, and the size of the pictures that they make."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from .image import open_image, picture_of_array
from .probing import check_image_size


# A JPEG is decoded to at least this many times the size that it is resized to. Pillow uses the same value for its own
# thumbnails (`reducing_gap`). At 1 the decoder, which can only average, would do all of the resizing.
DRAFT = 2
# One of these shows an image processor that makes several pictures of one, or chooses the size itself.
OTHER_SIZES = (
    *("image_grid_pinpoints", "do_image_splitting", "crop_to_patches", "max_num_patches", "max_patches", "patch_size"),
    *("do_align_long_axis", "do_thumbnail", "max_image_size", "min_pixels", "max_pixels", "keep_aspect_ratio"),
)


def channels_made(image_processor, settings: Mapping[str, Any], channels: int | None) -> int:
    """The number of channels of pictures: the vision encoder's, if it is known; else 1 if the image processor has one
    mean, else 3."""
    mean = settings.get("image_mean") or getattr(image_processor, "image_mean", None)
    if channels is None:
        return 1 if isinstance(mean, (list, tuple)) and len(mean) == 1 else 3
    return channels


def least_size(image_processor, draft: float | None, settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """The width and height of a picture that are enough, if it is resized afterwards: see `least` of `open_image`.

    Args:
        image_processor: any image processor of transformers.
        draft: how many times the size that it resizes to, before it crops; None: all pixels are needed.
        settings: arguments for the image processor, which replace its own.

    Returns:
        None too if it does not resize, or resizes in a way that is not known here.
    """
    values = {name: settings.get(name, getattr(image_processor, name, None)) for name in ("do_resize", "size")}
    if draft is None or not values["do_resize"] or not isinstance(values["size"], Iterable):
        return None
    if any(getattr(image_processor, name, None) or settings.get(name) for name in OTHER_SIZES):
        return None
    size = {key: value for key, value in dict(values["size"]).items() if value is not None}
    if set(size) == {"height", "width"}:
        width, height = size["width"], size["height"]
    elif set(size) == {"shortest_edge"}:
        width = height = size["shortest_edge"]
    else:
        return None
    share = settings.get("crop_pct", getattr(image_processor, "crop_pct", None)) or 1  # resized to more, then cropped
    return math.ceil(draft * width / min(share, 1)), math.ceil(draft * height / min(share, 1))


def picture_settings(processor) -> dict[str, Any]:
    """How a `MMFusionProcessor` opens a picture, as arguments of `open_image`. All code that opens pictures for a
    processor uses this, so that it sees the same picture."""
    draft = getattr(processor, "image_draft", None)
    return {
        "background": processor.image_background,
        "least": least_size(processor.image_processor, draft, {}),
    }


def check_picture_settings(channels: Any, draft: Any):
    """Refuses an invalid `image_channels` or `image_draft` of `MMFusionProcessor`."""
    if channels is not None and (type(channels) is not int or channels < 1):
        raise ValueError(f"image_channels must be a whole number of at least 1 or None, got {channels!r:.80}.")
    number = isinstance(draft, (int, float)) and not isinstance(draft, bool)
    if draft is not None and not (number and 1 <= draft < float("inf")):
        raise ValueError(f"image_draft must be a finite number of at least 1 or None, got {draft!r:.80}.")


def opened_image(
    image: Any,
    image_processor,
    settings: Mapping[str, Any],
    background: str | Sequence[int] | None,
    channels: int | None,
    draft: float | None = None,
) -> Any:
    """A picture, opened with `open_image` for an image processor, with its settings and the `image_background` and
    `image_channels` of `MMFusionProcessor`. An array stays as it is if it must not be rescaled, or if the encoder has
    a number of channels other than one or three."""
    channels = channels_made(image_processor, settings, channels)
    rescaled = settings.get("do_rescale", getattr(image_processor, "do_rescale", True)) is not False
    if isinstance(image, (np.ndarray, torch.Tensor)):
        floating = image.is_floating_point() if isinstance(image, torch.Tensor) else image.dtype.kind == "f"
        if channels not in (1, 3) or (floating and not rescaled):
            values = torch.as_tensor(image)
            if not values.isfinite().all():
                first = values[~values.isfinite()][0].item()
                raise ValueError(f"the picture has pixels that are not finite numbers, the first of them {first}.")
            return image
        image = picture_of_array(image, settings.get("input_data_format"))
    return open_image(image, background, 1 if channels == 1 else 3, least_size(image_processor, draft, settings))


def prepare_images(
    image_processor, images: list, images_kwargs: Mapping[str, Any], channels: int | None
) -> dict[str, Any]:
    """Runs an image processor of transformers on pictures that `opened_image` returned."""
    settings = dict(images_kwargs)
    channels = channels_made(image_processor, settings, channels)
    if all(isinstance(image, Image.Image) for image in images):
        settings.pop("input_data_format", None)
    if channels == 1:  # settings of the image processor for three channels may not fit
        if getattr(image_processor, "do_convert_rgb", None):
            settings["do_convert_rgb"] = False
        for name in ("image_mean", "image_std"):
            values = settings.get(name) or getattr(image_processor, name, None)
            if isinstance(values, (list, tuple)) and len(values) > 1:
                settings[name] = [sum(values) / len(values)]
    return dict(image_processor(images, **settings))


def resize_to(image_processor, image_size: int):
    """Sets an image processor to resize the whole of each picture to one height and width, if it can: without a
    border, and without cropping, except if it cannot reach the size in another way. Raises if the result has another
    size."""
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


def pixels_made(image_processor: Any, picture: Any) -> tuple[int, int] | None:
    """Height and width in pixels of the result of an image processor for a PIL picture; None if it is not known."""
    crop, size = (getattr(image_processor, name, None) or {} for name in ("crop_size", "size"))
    sides = getattr(picture, "size", None)
    if getattr(image_processor, "do_center_crop", False):
        height, width = dict(crop).get("height"), dict(crop).get("width")
    elif getattr(image_processor, "do_resize", False) and dict(size).get("height"):
        height, width = size["height"], size["width"]
    elif image_processor is not None and isinstance(sides, tuple):
        edge = dict(size).get("shortest_edge") if getattr(image_processor, "do_resize", False) else min(sides)
        height, width = (round(side * (edge or min(sides)) / min(sides)) for side in reversed(sides))
    else:
        return None
    return None if not height or not width else (int(height), int(width))


def box_seen(image_processor: Any, picture: Any) -> list[float] | None:
    """The part of a picture that an image processor keeps, [left, top, right, bottom] as shares of its width and
    height; the rest is cropped. None if all of it is kept, or its size is not known.

    Args:
        picture: a PIL picture.
    """
    crop, size = (getattr(image_processor, name, None) or {} for name in ("crop_size", "size"))
    sides = getattr(picture, "size", None)
    if not getattr(image_processor, "do_center_crop", False) or not isinstance(sides, tuple):
        return None
    edge = dict(size).get("shortest_edge")
    resized = getattr(image_processor, "do_resize", True)
    ends = []
    for name, side in (("width", sides[0]), ("height", sides[1])):
        scaled = side if not resized else edge * side / min(sides) if edge else size[name]
        share = min(1.0, crop[name] / scaled)
        ends.append(((1 - share) / 2, (1 + share) / 2))
    (left, right), (top, bottom) = ends
    return None if left == top == 0 else [left, top, right, bottom]
