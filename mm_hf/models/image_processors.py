# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Image processors of the library: what they make of pictures, and the size that they make them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from .image import open_image, picture_of_array
from .probing import check_image_size


# How many times the size that a picture is resized to a JPEG is decoded to at least: what Pillow takes for its own
# thumbnails (`reducing_gap`). At 1 the decoder, which knows no more than averages, would do all of the resizing.
DRAFT = 2
# Image processors that make several pictures of one, or choose their size by its own, say so by one of these.
OTHER_SIZES = (
    *("image_grid_pinpoints", "do_image_splitting", "crop_to_patches", "max_num_patches", "max_patches", "patch_size"),
    *("do_align_long_axis", "do_thumbnail", "max_image_size", "min_pixels", "max_pixels", "keep_aspect_ratio"),
)


def channels_made(image_processor, settings: Mapping[str, Any], channels: int | None) -> int:
    """The channels of pictures: those that a vision encoder takes, where that is known, else 1 where there is the mean
    of one, else 3."""
    mean = settings.get("image_mean") or getattr(image_processor, "image_mean", None)
    if channels is None:
        return 1 if isinstance(mean, (list, tuple)) and len(mean) == 1 else 3
    return channels


def least_size(image_processor, draft: float | None, settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height that are enough of a picture, which is going to be resized: see `least` of `open_image`.

    Args:
        image_processor: any of the library.
        draft: how many times the size that it resizes to, before it cuts anything off; None: all pixels are needed.
        settings: for the image processor, in place of its own.

    Returns:
        None too where it does not resize, or in a way that is not known here.
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
    share = settings.get("crop_pct", getattr(image_processor, "crop_pct", None)) or 1  # resized to more, then cut
    return math.ceil(draft * width / min(share, 1)), math.ceil(draft * height / min(share, 1))


def picture_settings(processor) -> dict[str, Any]:
    """How a `MMFusionProcessor` opens a picture, as arguments of `open_image`: all that opens pictures for one asks
    here, so that it sees the same."""
    draft = getattr(processor, "image_draft", None)
    return {
        "background": processor.image_background,
        "least": least_size(processor.image_processor, draft, {}),
    }


def check_picture_settings(channels: Any, draft: Any):
    """Refuses an `image_channels` or `image_draft` of `MMFusionProcessor` that it cannot have."""
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
    return open_image(image, background, 1 if channels == 1 else 3, least_size(image_processor, draft, settings))


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


def pixels_made(image_processor: Any, picture: Any) -> tuple[int, int] | None:
    """Height and width in pixels of what an image processor makes of a picture of PIL; None where nobody knows."""
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
    """The part of a picture that an image processor leaves, [left, top, right, bottom] as shares of its width and
    height: what lies outside is cut off. None where all of it is left, or nobody knows its size.

    Args:
        picture: of PIL.
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
