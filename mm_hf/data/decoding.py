"""Pictures, sounds and videos of a row, decoded; what cannot be read is named."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..models.image import open_image
from ..models.sound import load_sound
from ..models.video import load_frames
from .plain_rows import is_decoded
from .rows import BadRowError, is_absent, resolve_path


# What to do where files lie beside the data. Without a root the message of `resolve_path` says it.
WAY_OUT = "Only files below that folder are read: --data_root names the folder that all of them are below."


def decode_image(
    row: dict[str, Any], column: str, root: str | None = None, background: str | Sequence[int] | None = "white"
) -> Image.Image:
    """Decodes the picture of a row, to RGB, see `open_image`.

    Args:
        row: as `Rows` gives it; the picture a dict of `bytes` and `path`, a PIL image, an array or a tensor.
        column: of the picture.
        root: see `resolve_path`.
        background: see `open_image`.

    Raises:
        BadRowError: it is missing or broken, or its path leaves the root.
    """
    value = row[column]
    decoded = isinstance(value, (Image.Image, np.ndarray, torch.Tensor))
    source = value if decoded else source_of(row, column, root, "picture")
    try:
        return open_image(source, background)
    except ValueError as error:
        raise BadRowError(row, column, str(error), file_name_of(value)) from None


def decode_sound(row: dict[str, Any], column: str, root: str | None, sampling_rate: int) -> np.ndarray:
    """Decodes the sound of a row, one channel, and resamples it where that is needed.

    Args:
        row, column, root: as for `decode_image`; the sound a dict of `bytes` and `path`, or samples, see `load_sound`.
        sampling_rate: samples a second.

    Returns:
        `(S,)` float32.

    Raises:
        BadRowError: it is missing, broken or empty, or its path leaves the root.
    """
    value = row[column]
    decoded = is_decoded(value)
    source = value if decoded else source_of(row, column, root, "sound")
    try:
        return load_sound(source, sampling_rate)
    except (ValueError, OSError) as error:
        file = None if decoded else file_name_of(value)
        raise BadRowError(row, column, " ".join(str(error).split()), file) from None


def content_of(row: dict[str, Any], column: str, what: str) -> bytes | str:
    """The bytes of a picture, sound or video of a row, or its path where the row has that alone.

    Args:
        row, column: as for `decode_image`.
        what: it is, in the message.

    Raises:
        BadRowError: it has neither.
    """
    value = row[column]
    if isinstance(value, dict) and (content := value.get("bytes")) is not None:
        if not isinstance(content, (bytes, bytearray, memoryview)):  # rows of JSON have none
            raise BadRowError(row, column, f"this is no {what}; its bytes are {content!r:.80}.", file_name_of(value))
        return bytes(content)
    path = file_name_of(value)
    if path is None:
        raise BadRowError(row, column, f"this is no {what}, with neither bytes nor a path: {value!r:.80}.")
    return path


def source_of(row: dict[str, Any], column: str, root: str | None, what: str) -> bytes | str:
    """The bytes of a picture, sound or video of a row, or its file; see `content_of` and `find_picture`."""
    content = content_of(row, column, what)
    return find_picture(row, column, root) if isinstance(content, str) else content


def find_picture(row: dict[str, Any], column: str, root: str | None = None) -> str:
    """The file of a picture or sound that a row has by its path alone; arguments as for `decode_image`.

    Raises:
        BadRowError: there is none, it is not regular, or its path leaves the root.
    """
    path = file_name_of(row[column])
    if path is None:
        raise BadRowError(row, column, f"there is no path: {row[column]!r:.80}.")
    try:
        file = resolve_path(path, root)
    except ValueError as error:
        way_out = "" if root is None else f" {WAY_OUT}"
        raise BadRowError(row, column, f"{error}{way_out}", path) from None
    if not os.path.exists(file):
        raise BadRowError(row, column, "there is no such file.", path)
    if not os.path.isfile(file):
        raise BadRowError(row, column, "it cannot be read: it is a folder, a pipe or a device.", path)
    return file


def file_name_of(value: Any) -> str | None:
    """The path of a picture or sound as its row has it; None where there is none."""
    path = value.get("path") if isinstance(value, dict) else None
    return None if path is None else str(path)


def decode_video(
    row: dict[str, Any],
    column: str,
    root: str | None,
    num_frames: int,
    background: str | Sequence[int] | None = "white",
) -> list[Image.Image]:
    """The frames that stand for the video of a row, see `load_frames`; arguments as for `decode_image`.

    Raises:
        BadRowError: it is missing or broken, or its path leads out of the root.
    """
    value = row[column]
    if is_absent(value):
        raise BadRowError(row, column, "there is no video.")
    if isinstance(value, list):
        source: Any = [decode_image({**row, column: frame}, column, root, background) for frame in value]
    else:
        source = source_of(row, column, root, "video")
    try:
        return load_frames(source, num_frames)
    except ValueError as error:
        raise BadRowError(row, column, str(error), file_name_of(value)) from None
