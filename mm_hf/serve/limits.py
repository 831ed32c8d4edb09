"""What a service takes on, and how it says no."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """The most that a service takes on.

    Args:
        body_bytes: of one request.
        rows: of one request.
        queue: rows that wait, and requests that are in work; more are refused with 503.
        seconds: for one request, from its first byte to its answer.
        pixels: of a picture, or of a frame of a video.
        sound_seconds: of a sound, or of a video.
        characters: of a text.
        steps: of a series.
    """

    body_bytes: int = 20_000_000
    rows: int = 64
    queue: int = 256
    seconds: float = 30.0
    pixels: int = 50_000_000
    sound_seconds: float = 300.0
    characters: int = 100_000
    steps: int = 100_000

    def of_amount(self, name: str) -> tuple[float, str]:
        """The most of what `ModalityReader.amounts` counts, and the flag that sets it; infinite for what nobody
        limits."""
        field = "sound_seconds" if name == "seconds" else name
        return getattr(self, field, float("inf")), f"--max_{field}"


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        kind: one word for metrics and logs, which holds nothing of the request.
        message: a sentence for who asked.
        headers: of the answer.
    """

    def __init__(self, status: int, kind: str, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, headers or {}

    def body(self) -> dict[str, Any]:
        """What stands in the answer."""
        return error_body(self.kind, self.message)


def error_body(kind: str, message: str) -> dict[str, Any]:
    """How an error looks, of a request and of a row."""
    return {"error": {"kind": kind, "message": message}}
