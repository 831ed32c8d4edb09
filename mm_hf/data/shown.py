"""Items of rows in a form that a page can show: small, embedded in the page, and as JSON.

Each function returns the `kind` of an item, and under `shown` the data that a page draws, see
`ModalityReader.shown_item`.
"""

import base64
import io
import math
import wave
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..models.series import as_steps


PICTURE, TEXT, SOUND, SERIES, TABLE, VIDEO, OTHER = KINDS = (
    "picture",
    "text",
    "sound",
    "series",
    "table",
    "video",
    "other",
)
MOST_PIXELS = 512  # the longest side of a picture
FRAME_PIXELS = 256
MOST_CHARACTERS = 20_000
MOST_SECONDS = 30
MOST_STEPS = 2000
COLORS = 256  # a drawing has at most so many colours and becomes a PNG; other pictures are photographs


def embedded_picture(image: Image.Image, most: int = MOST_PIXELS) -> str:
    """A picture as a data URI. Drawings and small pictures become a PNG, others a JPEG.

    Args:
        image: upright, as `open_image` gives it.
        most: the largest number of pixels of the longer side. A larger picture is made smaller.
    """
    image = image.convert("L" if image.mode in ("1", "L", "I;16") else "RGB")
    image.thumbnail((most, most), Image.Resampling.LANCZOS)
    drawing = max(image.size) <= 128 or image.getcolors(COLORS) is not None
    image.save(buffer := io.BytesIO(), "PNG" if drawing else "JPEG", **({} if drawing else {"quality": 88}))
    return data_uri("image/png" if drawing else "image/jpeg", buffer.getvalue())


def data_uri(media_type: str, content: bytes) -> str:
    """The content of a file as a data URI, which a page can use without the file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def shown_picture(image: Image.Image) -> dict[str, Any]:
    """A picture."""
    return {"kind": PICTURE, "shown": {"src": embedded_picture(image)}}


def shown_frames(frames: Sequence[Image.Image], seconds: Sequence[float] | None = None) -> dict[str, Any]:
    """The frames of a video.

    Args:
        frames: in their order.
        seconds: the time of each frame; None: unknown.
    """
    pictures = [embedded_picture(frame, FRAME_PIXELS) for frame in frames]
    return {"kind": VIDEO, "shown": {"frames": pictures, "seconds": None if seconds is None else list(seconds)}}


def shown_text(text: str) -> dict[str, Any]:
    """A text."""
    return {"kind": TEXT, "shown": {"text": shortened(text)}}


def shown_other(item: Any) -> dict[str, Any]:
    """An item of a modality that does not define how it is shown."""
    return {"kind": OTHER, "shown": {"text": shortened(str(item))}}


def shortened(text: str) -> str:
    """A text of at most `MOST_CHARACTERS` characters. A cut text says how many characters are missing."""
    left = len(text) - MOST_CHARACTERS
    return text if left <= 0 else f"{text[:MOST_CHARACTERS]}… ({left:,} more characters)"


def shown_sound(samples: np.ndarray, sampling_rate: int, spectrogram: Image.Image) -> dict[str, Any]:
    """A sound.

    Args:
        samples: `(S,)` float, at most `MOST_SECONDS` seconds.
        sampling_rate: the rate of the samples in hertz.
        spectrogram: of the same samples, with time to the right.
    """
    peak = max(1.0, float(np.abs(samples).max(initial=0.0)))  # samples that are too loud for a file are scaled down
    with wave.open(buffer := io.BytesIO(), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sampling_rate)
        file.writeframes((samples / peak * 32767).round().astype("<i2").tobytes())
    shown = {
        "src": data_uri("audio/wav", buffer.getvalue()),
        "spectrogram": embedded_picture(spectrogram, max(spectrogram.size)),
        "seconds": len(samples) / sampling_rate,
    }
    return {"kind": SOUND, "shown": shown}


def shown_series(series: Any) -> dict[str, Any]:
    """A time series: `values` `(C, S)`, with None for a missing reading. A long series is thinned to one step in
    `every`."""
    steps = np.asarray(as_steps(series), dtype=float)
    every = -(-len(steps) // MOST_STEPS) or 1
    kept = steps[::every].T.tolist()
    values = [[float(f"{x:.6g}") if math.isfinite(x) else None for x in channel] for channel in kept]
    channels = [f"channel {number}" for number in range(len(kept))]
    return {"kind": SERIES, "shown": {"channels": channels, "values": values, "every": every}}


def shown_table(columns: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a table, in order. Empty texts where the row has no value."""
    texts = [shortened(str(values.get(name, ""))) for name in columns]
    return {"kind": TABLE, "shown": {"columns": list(columns), "values": texts}}
