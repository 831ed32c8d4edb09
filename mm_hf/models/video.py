# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Videos as pictures: frames at equal distances, which take the places of a row's images."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from PIL import Image

from .files import regular_file
from .image import open_image


# FFmpeg also reads playlists, which name other files or network addresses: no protocol is enabled for them.
ALONE = {"protocol_whitelist": "none"}


def chosen_frames(count: int, wanted: int) -> list[int]:
    """Which frames of a video represent it: the middle frames of equal parts, one for each wanted frame (Wang et al.
    2016, section 3.1, but not at random). If there are fewer frames than wanted, some are repeated."""
    return [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]


def load_frames(
    source: Any,
    num_frames: int,
    background: str | Sequence[int] | None = "white",
    least: tuple[int, int] | None = None,
) -> list[Image.Image]:
    """Reads the frames that represent a video.

    Args:
        source: path or bytes of a file that PyAV reads, or a dict of `bytes` and `path`; or its frames, as a list of
            pictures, see `open_image`.
        num_frames: how many frames are wanted.
        background, least: see `open_image`.

    Returns:
        that many pictures, RGB, in order.

    Raises:
        ValueError: it has no frame, or cannot be read; a playlist, which names other files, cannot be read either.
        ImportError: PyAV is not installed.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}.")
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        if not source:
            raise ValueError(f"the video has no frame: {source!r}.")
        return [open_image(source[place], background, least=least) for place in chosen_frames(len(source), num_frames)]
    if isinstance(source, Mapping):
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if not isinstance(source, bytes):
        if not isinstance(source, (str, os.PathLike)):
            raise ValueError(f"this is not a video, because it has neither bytes nor a path: {source!r:.80}.")
        source = regular_file(source, "video")
    try:  # an import inside `try` is not listed as a requirement for the users of a checkpoint
        import av
    except ImportError as error:
        raise ImportError("Reading video files needs `pip install av`.") from error
    try:
        count = count_frames(av, source)
        wanted = chosen_frames(count, num_frames) if count else []
        frames: dict[int, Image.Image] = {}
        with open_video(av, source) as container:
            for place, frame in enumerate(container.decode(video=0)):
                if place in wanted:
                    frames[place] = frame.to_image()
                if wanted and place >= wanted[-1]:
                    break
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:  # IndexError: it has no video stream
        reason = " ".join(str(error).split())
        raise ValueError(f"the video cannot be read ({type(error).__name__}: {reason}).") from None
    if not frames or set(wanted) - set(frames):
        raise ValueError("the video has no frame." if not frames else "the video breaks off.")
    return [frames[place].convert("RGB") for place in wanted]


@contextmanager
def open_video(av: Any, source: Any) -> Iterator[Any]:
    """Opens a file or bytes with a video of allowed size. It reads nothing except this source.

    FFmpeg gets an open file, not its path: so the file protocol can be disabled too.
    """
    with (
        io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file,
        av.open(file, options=ALONE) as container,
    ):
        check_size(container.streams.video[0])
        yield container


def check_size(stream: Any):
    """Refuses frames with more pixels than a picture may have."""
    width, height, limit = stream.width or 0, stream.height or 0, Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > 2 * limit:
        raise ValueError(f"frames of {width} × {height} pixels are too large: the limit is {2 * limit} pixels")


def count_frames(av: Any, source: Any) -> int:
    """The number of frames of a video, from its header, or counted if the header does not contain it."""
    with open_video(av, source) as container:
        return container.streams.video[0].frames or sum(1 for _ in container.decode(video=0))
