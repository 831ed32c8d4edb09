# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Videos as pictures: frames at even distances, which take the places of a row's images."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from PIL import Image

from .files import regular_file
from .image import open_image


# FFmpeg reads playlists too, which name other files, or addresses on a network: no protocol is open to them.
ALONE = {"protocol_whitelist": "none"}


def chosen_frames(count: int, wanted: int) -> list[int]:
    """Which frames of a video, of so many, stand for it: the middles of as many equal parts as are wanted (Wang et al.
    2016, section 3.1, without the chance). Of fewer frames some come twice."""
    return [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]


def load_frames(
    source: Any,
    num_frames: int,
    background: str | Sequence[int] | None = "white",
    least: tuple[int, int] | None = None,
) -> list[Image.Image]:
    """Reads the frames that stand for a video.

    Args:
        source: path or bytes of a file that PyAV reads, or a dict of `bytes` and `path`; or its frames, as a list of
            pictures, see `open_image`.
        num_frames: how many are wanted.
        background, least: see `open_image`.

    Returns:
        as many pictures, RGB, in their order.

    Raises:
        ValueError: it has no frame, or cannot be read, as a playlist, which names other files.
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
            raise ValueError(f"this is no video, with neither bytes nor a path: {source!r:.80}.")
        source = regular_file(source, "video")
    try:  # the library asks users of a checkpoint for all that is imported in any other way
        import av
    except ImportError as error:
        raise ImportError("Reading files of videos needs `pip install av`.") from error
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
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:  # IndexError: no video among its streams
        reason = " ".join(str(error).split())
        raise ValueError(f"the video cannot be read ({type(error).__name__}: {reason}).") from None
    if not frames or set(wanted) - set(frames):
        raise ValueError("the video has no frame." if not frames else "the video breaks off.")
    return [frames[place].convert("RGB") for place in wanted]


@contextmanager
def open_video(av: Any, source: Any) -> Iterator[Any]:
    """The container of a file or of bytes, with a video of allowed size, which reads nothing beside itself.

    FFmpeg gets the file open, and not its path: so the protocol of files can be closed to it as well.
    """
    with (
        io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file,
        av.open(file, options=ALONE) as container,
    ):
        check_size(container.streams.video[0])
        yield container


def check_size(stream: Any):
    """Refuses frames of more pixels than a picture may have."""
    width, height, limit = stream.width or 0, stream.height or 0, Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > 2 * limit:
        raise ValueError(f"frames of {width} × {height} pixels; at most {2 * limit} are read")


def count_frames(av: Any, source: Any) -> int:
    """Frames of a video: what its header says, or, where that says nothing, those that come."""
    with open_video(av, source) as container:
        return container.streams.video[0].frames or sum(1 for _ in container.decode(video=0))
