# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Pictures: opened, and turned into what they mean. All that takes a picture takes it from here, so that training,
processor and pipelines see the same one."""

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


# What Pillow may open. It starts Ghostscript for an EPS, whatever the file's name; HEIF is there where a plugin of the
# user's brings it.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "MPO", "DIB", "ICO", "PPM", "QOI"),
    *("PCX", "SGI", "TGA"),
)
MAX_ASPECT = 1000  # resized to a shortest side of 256 pixels, a longer picture would fill the memory
ORIENTATION = 0x0112  # the key in EXIF data
TURNS = {  # what makes a picture of these orientations upright; 1 is upright
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
CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # modes of arrays by their channels
RANGES = (255, 65535)  # of integers
FLOAT_RANGES = (1, *RANGES)
OVERSHOOT = 0.1  # of its range, which resizing a picture of floats may leave behind at sharp edges
FEWEST_SHADES = 16  # of 256 that a picture must have where its range is read off its values
BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")
SECONDS = 30  # to wait for a URL


class PictureError(ValueError):
    """What is no picture, or one that cannot be read."""


def open_image(
    source: Any,
    background: str | Sequence[int] | None = "white",
    channels: int = 3,
    least: tuple[int, int] | None = None,
) -> Image.Image:
    """Opens a picture and says what it means: upright, in 8 bits, without transparency.

    Args:
        source: a path, the bytes of a file, a dict of `bytes` and `path`, a PIL image, or an array or tensor, see
            `picture_of_array`; also an http(s) address, or what `data:image/…;base64,` begins.
        background: the ground under transparent pixels, see `color_of`; None: their transparency is dropped, and the
            colour that it hid is seen.
        channels: 3, or 1 for grey.
        least: width and height, of the upright picture, that are enough: a JPEG of twice the size or more is decoded
            to a half, a quarter or an eighth, and never to fewer pixels than these, see `shrink_jpeg`. What was opened
            before is left as it is. None: all of its pixels.

    Returns:
        an image of mode `RGB`, or `L` for one channel. EXIF's orientation is applied. Pictures of 16 or 32 bits and of
        floats are scaled by their kind, see `eight_bits`. Of several frames it is the first.

    Raises:
        PictureError: it is no picture, cannot be read, is too large, or has pixels of no known kind.
        ValueError: a file that is not there or not regular, or a background that is no colour.
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
    """The colour of a ground: a name (`white`), `#rrggbb` or three whole numbers from 0 to 255; None for none.

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
    """Opens the file of a picture, of which the header is read; the pixels are not. Use it in a `with`; see
    `open_image`.

    Raises:
        ValueError: it is no regular file, or no picture of one of `FORMATS`, or has too many pixels.
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
            f"this is no picture: {source!r:.80}. Needed is a PIL image, an array, a path, or the bytes of a file."
        )
    Image.init()  # or the list of formats is not complete
    known = [name for name in FORMATS if name in Image.OPEN]
    try:
        image = Image.open(file, formats=known)
    except UnidentifiedImageError:
        raise PictureError(
            f"the picture cannot be read{named(source)}: it is none of {', '.join(known)}, or broken. It begins with "
            f"{beginning(file)!r}."
        ) from None
    except Exception as error:  # Pillow raises a dozen types for broken files
        raise unreadable(error, source) from None
    width, height = image.size
    if max(width, height) > MAX_ASPECT * min(width, height):
        image.close()
        raise too_long(width, height)
    return image


def content_of(source: str) -> str | bytes:
    """What a string means: the content behind an http(s) address, what is written in base 64, or else a path."""
    if source.startswith(("http://", "https://")):
        try:  # the library asks users of a checkpoint for all that is imported in any other way
            from huggingface_hub.utils import httpx
        except ImportError:  # of the Hub's library before it brought its own
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
    """An image as `open_image` gives it; of one that it gave, the very same."""
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
            # Pillow knows no way from premultiplied grey to colours.
            whole = (turned.convert("LA") if turned.mode == "La" else turned).convert("RGBA")
            plain = Image.new("RGB", whole.size, ground)
            plain.paste(whole.convert("RGB"), mask=whole.getchannel("A"))
        else:
            plain = turned if turned.mode in ("L", "RGB") else turned.convert("RGB")
        # Of the user's own image a copy, in any case.
        converted = plain if plain.mode == mode and plain is not image else plain.convert(mode)
    except PictureError:
        raise
    except Exception as error:  # see `open_file`
        raise unreadable(error, getattr(image, "filename", "")) from None
    converted.info = {}  # or what comes next would turn it again
    return converted


def shrink_jpeg(image: Image.Image, least: tuple[int, int]):
    """Lets the decoder of JPEG leave out the frequencies that a smaller picture does not show: an eighth of the width
    and height takes a quarter of the time. Nothing happens to other formats, nor to a JPEG below twice the size.

    Args:
        image: an opened file, whose pixels are not read yet.
        least: width and height of the upright picture that are enough.
    """
    if image.format in ("JPEG", "MPO"):
        width, height = least
        # No mode is asked for: Pillow would give up colours, and leaves those of print (CMYK) alone.
        image.draft(None, (height, width) if turn_of(image) in SIDEWAYS else (width, height))


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What makes an image upright, as its EXIF data say; None where it is, or where these are broken."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # they are no reason to lose the picture
        return None


def upright(image: Image.Image) -> Image.Image:
    """The image turned and mirrored as its EXIF data say."""
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)


def wide_picture(image: Image.Image, kind: str | None, ground: tuple[int, int, int] | None) -> Image.Image:
    """A picture of one channel of more than 8 bits, of mode `I;16` (and its kin), `I` or `F`, as grey or, on a ground
    (see `color_of`), in colours. The kind is the format of its file."""
    values = np.asarray(image)
    if kind == "PPM" and image.mode == "I":  # Pillow has no other mode for its 16 bits
        values = values.astype(np.uint16)
    plain = Image.fromarray(eight_bits(values))
    hidden = image.info.get("transparency")  # of a PNG, one value that is transparent
    if ground is None or not isinstance(hidden, int):
        return plain
    picture = Image.new("RGB", image.size, ground)
    picture.paste(plain.convert("RGB"), mask=Image.fromarray(255 * (values != hidden).astype(np.uint8)))
    return picture


def picture_of_array(values: np.ndarray | torch.Tensor, layout: str | None = None) -> Image.Image:
    """An image of an array or a tensor.

    Args:
        values: `(H, W)`, `(H, W, C)` or `(C, H, W)`, of C = 1 (grey), 2 (grey and opacity), 3 (RGB) or 4 (RGB and
            opacity), of a kind that `eight_bits` knows.
        layout: `"channels_first"` or `"channels_last"`; None: by the shape, and where both are possible, a tensor has
            its channels first and an array last.

    Raises:
        ValueError: another shape, or pixels of no known kind.
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
    """Pixels, in an array that is not empty, scaled to uint8 by their kind.

    Truth values are 0 and 255; uint8 stays; uint16 is divided by 257. Other integers are of 8 bits if none is above
    255, of 16 if none is above 65535, else of 31 or 32. Floats are from 0 to 1, from 0 to 255 or from 0 to 65535: the
    first that holds them, a tenth of overshoot allowed and cut off. Where the range is read off the values, a largest
    one that leaves fewer than 16 of the 256 shades is refused: it is of some other kind.

    Raises:
        PictureError: numbers that are not finite, below 0, or of no such range.
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
        raise PictureError(f"the picture has pixels that are no finite numbers: they go from {low} to {high}.")
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
    """Whether a picture has a pixel, and is not many times as long as wide."""
    return 0 < max(size) <= MAX_ASPECT * min(size)


def too_long(width: int, height: int) -> PictureError:
    """The error for a picture that does not fit."""
    return PictureError(
        f"the picture has {width} × {height} pixels: needed is at least one, and one side at most {MAX_ASPECT} times "
        "as long as the other."
    )


def named(source: Any) -> str:
    """The path of a picture in a message; nothing for what has none."""
    return f" from {os.fspath(source)!r:.300}" if source and isinstance(source, (str, os.PathLike)) else ""


def unreadable(error: Exception, source: Any) -> PictureError:
    """The error to raise for one of Pillow's, in one line."""
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
