"""The limits of a service, and the error for refused requests."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """The limits of a service.

    Args:
        body_bytes: size of one request.
        rows: rows of one request.
        queue: waiting rows, and requests at the same time; more are refused with 503.
        seconds: time for one request, from its first byte to its answer.
        pixels: of a picture, or of a frame of a video.
        sound_seconds: length of a sound or video.
        characters: length of a text.
        steps: length of a series.
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
        """The limit for an amount of `ModalityReader.amounts`, and the flag that sets it; infinite if there is no
        limit."""
        field = "sound_seconds" if name == "seconds" else name
        return getattr(self, field, float("inf")), f"--max_{field}"


class RefusedError(Exception):
    """A request is refused.

    Args:
        status: HTTP status.
        kind: one word for metrics and logs; it contains nothing of the request.
        message: a sentence for the client.
        headers: of the answer.
    """

    def __init__(self, status: int, kind: str, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, headers or {}

    def body(self) -> dict[str, Any]:
        """The body of the answer."""
        return error_body(self.kind, self.message)


def error_body(kind: str, message: str) -> dict[str, Any]:
    """The form of an error, for requests and rows."""
    return {"error": {"kind": kind, "message": message}}
