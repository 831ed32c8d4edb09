"""Answers requests on Hugging Face's inference endpoints, with the checkpoint in this folder and the code in it.

`mm_hf serve RUN --write_handler FOLDER` has written this file. It does not require mm_hf, or any file outside this
folder.

A request is `{"inputs": row}` or `{"inputs": [row, …]}`, with `"parameters"` of the pipeline's call such as `top_k`.
Files are sent in base 64, `{"image": {"base64": "…"}}`. Paths and URLs are not opened. If one of several rows cannot
be answered, it gets `{"error": "…"}` instead of an answer. If a single row cannot be answered, the error is raised.
"""

import base64
import threading
from typing import Any, cast

from transformers import pipeline


TEXTS = ()  # keys of a row that hold texts
FILES = ()  # keys of a row that hold files
PARAMETERS = ("top_k", "coverage", "abstain_below", "max_new_tokens", "num_beams")
MOST_ROWS, MOST_TOKENS, MOST_BEAMS = 256, 512, 16


class EndpointHandler:
    """The class that the service loads; it prescribes the name and the methods.

    Args:
        path: of this folder.
    """

    def __init__(self, path: str = ""):
        self.pipe = cast(Any, pipeline)(model=path or ".", trust_remote_code=True)
        self.one_at_a_time = threading.Lock()  # requests come on many threads, but torch uses all cores for one

    def __call__(self, data: dict[str, Any]) -> Any:
        """Answers a request.

        Raises:
            ValueError: the request or its single row cannot be answered.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError(
                f"A request must be {{'inputs': row or list of rows, 'parameters': {{…}}}}, got {data!r:.80}."
            )
        parameters = data.get("parameters") or {}
        check_parameters(parameters)
        inputs = data["inputs"]
        if not isinstance(inputs, list):
            return self.answers([read_row(inputs)], parameters)[0]
        if len(inputs) > MOST_ROWS:
            raise ValueError(f"The request has {len(inputs)} rows; send at most {MOST_ROWS} rows in one request.")
        read = [read_or_reason(row) for row in inputs]
        good = [row for row, reason in read if reason is None]
        try:
            answers = iter(self.answers(good, parameters) if good else [])
        except ValueError:  # one of the rows fails, so each is answered alone
            answers = iter([self.answer_or_reason(row, parameters) for row in good])
        return [next(answers) if reason is None else {"error": reason} for _, reason in read]

    def answers(self, rows: list[dict[str, Any]], parameters: dict[str, Any]) -> list[Any]:
        """The answers of the pipeline."""
        with self.one_at_a_time:
            return self.pipe(rows, batch_size=min(len(rows), 32), **parameters)

    def answer_or_reason(self, row: dict[str, Any], parameters: dict[str, Any]) -> Any:
        """The answer to a row, or its error."""
        try:
            return self.answers([row], parameters)[0]
        except ValueError as error:
            return {"error": str(error)}


def check_parameters(parameters: Any):
    """Refuses parameters that are unknown or have a value that is not allowed."""
    if not isinstance(parameters, dict):
        raise ValueError(f"parameters must be a dict, got {parameters!r:.80}.")
    if unknown := [name for name in parameters if name not in PARAMETERS]:
        raise ValueError(f"Unknown parameter {unknown[0]!r:.80}; allowed are {list(PARAMETERS)}.")
    for name, most in (("max_new_tokens", MOST_TOKENS), ("num_beams", MOST_BEAMS)):
        value = parameters.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError(f"{name} must be a whole number from 1 to {most}, got {value!r:.80}.")


def read_or_reason(row: Any) -> tuple[dict[str, Any], str | None]:
    """A row as the pipeline takes it, or the reason why it is not a row."""
    try:
        return read_row(row), None
    except ValueError as error:
        return {}, str(error)


def read_row(row: Any) -> dict[str, Any]:
    """A row as the pipeline takes it: files are bytes, and no value is a path."""
    if isinstance(row, (bytes, bytearray)) and FILES:  # the body of the request is a file
        return {FILES[0]: bytes(row)}
    if not isinstance(row, dict):
        raise ValueError(f"A row must be a dict, got {row!r:.80}.")
    return {key: read_item(key, value) for key, value in row.items()}


def read_item(key: str, value: Any) -> Any:
    """The value of a row for a key."""
    if value is None or key in TEXTS:
        return value
    if key not in FILES:
        return value
    if isinstance(value, list):
        return [read_item(key, one) for one in value]
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, dict) and set(value) == {"base64"} and isinstance(value["base64"], str):
        text = value["base64"]
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text)
    raise ValueError(f"{key} must be the bytes of a file, {{'base64': '…'}}, not a path or URL; got {value!r:.80}.")
