# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Opens pictures and converts them. All code that takes a picture uses this module, so that training, processor and
pipelines see the same picture."""

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor, UnidentifiedImageError

from .files import regular_file


# The formats that Pillow may open. For an EPS it would start Ghostscript, whatever the file's name. HEIF works if the
# user has installed a plugin for it.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "MPO", "DIB", "ICO", "PPM", "QOI"),
    *("PCX", "SGI", "TGA"),
)
MAX_ASPECT = 1000  # a longer picture, resized to a shortest side of 256 pixels, would fill the memory
ORIENTATION = 0x0112  # the key in the EXIF data
TURNS = {  # the turn that makes a picture of each orientation upright; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)
CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # modes of arrays by their number of channels
RANGES = (255, 65535)  # the highest values of integers
FLOAT_RANGES = (1, *RANGES)
OVERSHOOT = 0.1  # share of the range: resizing a picture of floats may leave such values at sharp edges
FEWEST_SHADES = 16  # of 256: a picture must have so many if its range is guessed from its values
BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")
SECONDS = 30  # timeout for a URL


class PictureError(ValueError):
    """The value is not a picture, or cannot be read."""


def open_image(
    source: Any,
    background: str | Sequence[int] | None = "white",
    channels: int = 3,
    least: tuple[int, int] | None = None,
) -> Image.Image:
    """Opens a picture and converts it: upright, in 8 bits, without transparency.

    Args:
        source: a path, the bytes of a file, a dict of `bytes` and `path`, a PIL image, or an array or tensor, see
            `picture_of_array`; also an http(s) address, or a text that begins with `data:image/…;base64,`.
        background: the colour under transparent pixels, see `color_of`; None: transparency is dropped, and the colour
            that it hid becomes visible.
        channels: 3, or 1 for grey.
        least: width and height, of the upright picture, that are enough: a JPEG of at least twice the size is decoded
            to a half, a quarter or an eighth, but never to fewer pixels than these, see `shrink_jpeg`. A picture that
            was opened before is not changed. None: all of its pixels.

    Returns:
        an image of mode `RGB`, or `L` for one channel. EXIF's orientation is applied. Pictures of 16 or 32 bits and of
        floats are scaled by their type, see `eight_bits`. If there are several frames, it is the first one.

    Raises:
        PictureError: it is not a picture, cannot be read, is too large, or has pixels of an unknown type.
        ValueError: the file does not exist or is not regular, or the background is not a colour.
    """
    ground = color_of(background)
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return meaning_of(picture_of_array(source), ground, channels)
    if isinstance(source, Image.Image):
        return meaning_of(source, ground, channels)
    with open_file(source) as image:
        if least is not None:
            shrink_jpeg(image, least)
        return meaning_of(image, ground, channels)


def is_picture(value: Any) -> bool:
    """Whether a value is one picture: an image, an array or tensor of two or three dimensions, bytes, a path, or a
    dict of bytes and path."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim in (2, 3)
    if isinstance(value, Mapping):
        return bool(value) and set(value) <= {"bytes", "path"}
    return isinstance(value, (str, bytes, bytearray, memoryview, os.PathLike, Image.Image))


def color_of(background: str | Sequence[int] | None) -> tuple[int, int, int] | None:
    """The colour of a background: a name (`white`), `#rrggbb` or three whole numbers from 0 to 255; None for none.

    Raises:
        ValueError: it is none of these.
    """
    if background is None:
        return None
    color: Any = background
    if isinstance(background, str):
        try:
            color = ImageColor.getrgb(background)
        except ValueError:
            color = ()
    if (
        not isinstance(color, (list, tuple))
        or len(color) != 3
        or not all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255 for value in color)
    ):
        raise ValueError(
            "image_background must be the name of a colour such as 'white', '#rrggbb', three whole numbers from 0 to "
            f"255, or None, got {background!r}."
        )
    return color[0], color[1], color[2]


def open_file(source: Any) -> Image.Image:
    """Opens the file of a picture and reads its header, but not its pixels. Use it in a `with` block; see
    `open_image`.

    Raises:
        ValueError: it is not a regular file, or not a picture of one of `FORMATS`, or has too many pixels.
    """
    if isinstance(source, Mapping) and set(source) <= {"bytes", "path"}:
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if isinstance(source, str):
        source = content_of(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        file: Any = io.BytesIO(source)
    elif isinstance(source, (str, os.PathLike)):
        file = regular_file(source, "picture")
    else:
        raise PictureError(
            f"this is not a picture: {source!r:.80}. It must be a PIL image, an array, a path, or the bytes of a file."
        )
    Image.init()  # without it the list of formats is not complete
    known = [name for name in FORMATS if name in Image.OPEN]
    try:
        image = Image.open(file, formats=known)
    except UnidentifiedImageError:
        raise PictureError(
            f"the picture cannot be read{named(source)}: it is none of {', '.join(known)}, or damaged. It begins with "
            f"{beginning(file)!r}."
        ) from None
    except Exception as error:  # Pillow raises a dozen types for damaged files
        raise unreadable(error, source) from None
    width, height = image.size
    if max(width, height) > MAX_ASPECT * min(width, height):
        image.close()
        raise too_long(width, height)
    return image


def content_of(source: str) -> str | bytes:
    """Resolves a string: the content of an http(s) address, the decoded base 64 data, or else the path itself."""
    if source.startswith(("http://", "https://")):
        try:  # an import inside `try` is not listed as a requirement for the users of a checkpoint
            from huggingface_hub.utils import httpx
        except ImportError:  # older versions of the Hub's library need another import
            httpx = import_module("httpx")
        try:
            return httpx.get(source, timeout=SECONDS, follow_redirects=True).raise_for_status().content
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise unreadable(error, source) from None
    if source.startswith("data:image/"):
        source = source.partition(",")[2]
    elif not BASE64.fullmatch(source) or os.path.exists(source):
        return source
    try:
        return base64.b64decode(source)
    except ValueError as error:
        raise unreadable(error, source) from None


def meaning_of(image: Image.Image, ground: tuple[int, int, int] | None, channels: int) -> Image.Image:
    """An image converted as `open_image` describes; an image that it returned before is returned unchanged."""
    mode = CHANNELS[channels]
    if image.mode == mode and not image.info and type(image) is Image.Image and fits(image.size):
        return image
    try:
        image.load()
        size, kind = image.size, image.format
        if not fits(size):
            raise too_long(*size)
        turned = upright(image)
        if image.mode.startswith("I") or image.mode == "F":
            plain = wide_picture(turned, kind, ground)
        elif ground is not None and turned.has_transparency_data:
            # Pillow cannot convert premultiplied grey to colours.
            whole = (turned.convert("LA") if turned.mode == "La" else turned).convert("RGBA")
            plain = Image.new("RGB", whole.size, ground)
            plain.paste(whole.convert("RGB"), mask=whole.getchannel("A"))
        else:
            plain = turned if turned.mode in ("L", "RGB") else turned.convert("RGB")
        # For the user's own image always a copy.
        converted = plain if plain.mode == mode and plain is not image else plain.convert(mode)
    except PictureError:
        raise
    except Exception as error:  # see `open_file`
        raise unreadable(error, getattr(image, "filename", "")) from None
    converted.info = {}  # else the next step would turn it again
    return converted


def shrink_jpeg(image: Image.Image, least: tuple[int, int]):
    """Lets the JPEG decoder skip the frequencies that a smaller picture does not show: an eighth of the width and
    height takes a quarter of the time. Other formats are not changed, nor a JPEG below twice the size.

    Args:
        image: an opened file, whose pixels are not read yet.
        least: width and height of the upright picture that are enough.
    """
    if image.format in ("JPEG", "MPO"):
        width, height = least
        # No mode is given: Pillow would drop colours, and could not handle those of print (CMYK).
        image.draft(None, (height, width) if turn_of(image) in SIDEWAYS else (width, height))


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """The turn that makes an image upright, from its EXIF data; None if it is upright, or the data are damaged."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data are no reason to refuse the picture
        return None


def upright(image: Image.Image) -> Image.Image:
    """The image turned and mirrored as its EXIF data say."""
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)


def wide_picture(image: Image.Image, kind: str | None, ground: tuple[int, int, int] | None) -> Image.Image:
    """Converts a picture of one channel with more than 8 bits, of mode `I;16` (and similar), `I` or `F`, to grey or,
    on a background (see `color_of`), to colours. The kind is the format of its file."""
    values = np.asarray(image)
    if kind == "PPM" and image.mode == "I":  # Pillow has no other mode for 16 bits of this format
        values = values.astype(np.uint16)
    plain = Image.fromarray(eight_bits(values))
    hidden = image.info.get("transparency")  # in a PNG, the one value that is transparent
    if ground is None or not isinstance(hidden, int):
        return plain
    picture = Image.new("RGB", image.size, ground)
    picture.paste(plain.convert("RGB"), mask=Image.fromarray(255 * (values != hidden).astype(np.uint8)))
    return picture


def picture_of_array(values: np.ndarray | torch.Tensor, layout: str | None = None) -> Image.Image:
    """Makes an image from an array or a tensor.

    Args:
        values: `(H, W)`, `(H, W, C)` or `(C, H, W)`, with C = 1 (grey), 2 (grey and opacity), 3 (RGB) or 4 (RGB and
            opacity), of a type that `eight_bits` knows.
        layout: `"channels_first"` or `"channels_last"`; None: from the shape. If both are possible, a tensor has its
            channels first and an array last.

    Raises:
        ValueError: the shape is not allowed, or the pixels have an unknown type.
    """
    tensor = isinstance(values, torch.Tensor)
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    if values.ndim not in (2, 3) or not values.size:
        raise PictureError(f"the picture must be an array (H, W), (H, W, C) or (C, H, W), got shape {values.shape}.")
    if values.ndim == 3:
        first, last = values.shape[0] in CHANNELS, values.shape[-1] in CHANNELS
        if layout is not None:
            moved = "first" in str(getattr(layout, "value", layout))
        else:
            moved = first and (tensor or not last)
        values = np.moveaxis(values, 0, -1) if moved else values
        if values.shape[-1] not in CHANNELS:
            raise PictureError(f"the picture must have 1 to 4 channels, first or last, got shape {values.shape}.")
    grey = values.ndim == 2 or values.shape[-1] == 1
    plain = eight_bits(values)
    return Image.fromarray(np.ascontiguousarray(plain.reshape(plain.shape[:2]) if grey else plain))


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Scales pixels to uint8 by their type; the array is not empty.

    Booleans become 0 and 255; uint8 stays; uint16 is divided by 257. Other integers count as 8 bits if none is above
    255, as 16 if none is above 65535, else as 31 or 32. Floats are from 0 to 1, from 0 to 255 or from 0 to 65535: the
    first range that contains them, with a tenth of overshoot, which is cut off. If the range is guessed from the
    values and the largest value leaves fewer than 16 of the 256 shades, the picture is refused: it has some other
    range.

    Raises:
        PictureError: a number is not finite, is below 0, or no such range contains them.
    """
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return values
    if kind == "b":
        return 255 * values.astype(np.uint8)
    if kind not in "uif":
        raise PictureError(f"the picture must have numbers as pixels, got {values.dtype}.")
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise PictureError(f"the picture has pixels that are not finite numbers: they go from {low} to {high}.")
    if values.dtype.itemsize == 2 and kind == "u":
        top: float | None = RANGES[-1]
    elif kind == "f":
        top = next((top for top in FLOAT_RANGES if high <= (1 + OVERSHOOT) * top), None)
        low += OVERSHOOT * max(high, 0)
    else:
        wide = (2**32 - 1,) if values.dtype == np.uint32 else (2**31 - 1, 2**32 - 1)
        top = next((top for top in (*RANGES, *wide) if high <= top), None)
    guessed = top is not None and (kind == "f" or top > RANGES[-1]) and top != 1
    if top is None or low < 0 or (guessed and high < top * FEWEST_SHADES / 256):
        raise PictureError(
            f"the picture has pixels from {values.min():.6g} to {values.max():.6g} ({values.dtype}). Scale it: floats "
            "are from 0 to 1, 0 to 255 or 0 to 65535, integers from 0 to 255, 65535 or 4294967295."
        )
    return np.clip(np.rint(values.astype(np.float64) * (255 / top)), 0, 255).astype(np.uint8)


def fits(size: tuple[int, int]) -> bool:
    """Whether a picture has at least one pixel, and its sides do not differ too much."""
    return 0 < max(size) <= MAX_ASPECT * min(size)


def too_long(width: int, height: int) -> PictureError:
    """The error for a picture that is empty, or too long for its width."""
    return PictureError(
        f"the picture has {width} × {height} pixels: it needs at least one, and one side may be at most {MAX_ASPECT} "
        "times as long as the other."
    )


def named(source: Any) -> str:
    """The path of a picture, for a message; empty if it has none."""
    return f" from {os.fspath(source)!r:.300}" if source and isinstance(source, (str, os.PathLike)) else ""


def unreadable(error: Exception, source: Any) -> PictureError:
    """Turns an error of Pillow into a PictureError of one line."""
    hint = ""
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        hint = " PIL.Image.MAX_IMAGE_PIXELS is the limit."
    reason = " ".join(str(error).split())
    return PictureError(f"the picture cannot be read{named(source)} ({type(error).__name__}: {reason}).{hint}")


def beginning(file: Any) -> bytes:
    """The first bytes of a file."""
    if isinstance(file, io.BytesIO):
        return file.getvalue()[:12]
    with open(file, "rb") as content:
        return content.read(12)
