"""Answers requests on Hugging Face's inference endpoints, by the checkpoint in this folder and the code that travels
in it. Written by `mm_hf serve RUN --write_handler FOLDER`; it needs neither mm_hf nor anything beside this folder.

A request is `{"inputs": row}` or `{"inputs": [row, …]}`, with `"parameters"` of the pipeline's call such as `top_k`.
Files are their bytes in base 64, `{"image": {"base64": "…"}}`. Paths and addresses are not opened. A row of several
that cannot be answered has `{"error": "…"}` in its place; of one alone it is raised.
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
    """The name and the methods are those that the service asks for.

    Args:
        path: of this folder.
    """

    def __init__(self, path: str = ""):
        self.pipe = cast(Any, pipeline)(model=path or ".", trust_remote_code=True)
        self.one_at_a_time = threading.Lock()  # requests come on many threads; torch uses all cores for each

    def __call__(self, data: dict[str, Any]) -> Any:
        """Answers a request.

        Raises:
            ValueError: it holds what cannot be answered.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError("A request is {'inputs': row or list of rows, 'parameters': {…}}.")
        parameters = data.get("parameters") or {}
        check_parameters(parameters)
        inputs = data["inputs"]
        if not isinstance(inputs, list):
            return self.answers([read_row(inputs)], parameters)[0]
        if len(inputs) > MOST_ROWS:
            raise ValueError(f"There are {len(inputs)} rows; at most {MOST_ROWS} are answered at once.")
        read = [read_or_reason(row) for row in inputs]
        good = [row for row, reason in read if reason is None]
        try:
            answers = iter(self.answers(good, parameters) if good else [])
        except ValueError:  # one of them: each by itself
            answers = iter([self.answer_or_reason(row, parameters) for row in good])
        return [next(answers) if reason is None else {"error": reason} for _, reason in read]

    def answers(self, rows: list[dict[str, Any]], parameters: dict[str, Any]) -> list[Any]:
        """The answers of the pipeline."""
        with self.one_at_a_time:
            return self.pipe(rows, batch_size=min(len(rows), 32), **parameters)

    def answer_or_reason(self, row: dict[str, Any], parameters: dict[str, Any]) -> Any:
        """The answer to a row, or why it has none."""
        try:
            return self.answers([row], parameters)[0]
        except ValueError as error:
            return {"error": str(error)}


def check_parameters(parameters: Any):
    """Refuses what no request may ask for."""
    if not isinstance(parameters, dict):
        raise ValueError(f"parameters must be a dict, got {parameters!r:.80}.")
    if unknown := [name for name in parameters if name not in PARAMETERS]:
        raise ValueError(f"There is no parameter {unknown[0]!r:.80}; there are {list(PARAMETERS)}.")
    for name, most in (("max_new_tokens", MOST_TOKENS), ("num_beams", MOST_BEAMS)):
        value = parameters.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError(f"{name} must be a whole number from 1 to {most}, got {value!r:.80}.")


def read_or_reason(row: Any) -> tuple[dict[str, Any], str | None]:
    """A row as the pipeline takes it, or why it is none."""
    try:
        return read_row(row), None
    except ValueError as error:
        return {}, str(error)


def read_row(row: Any) -> dict[str, Any]:
    """A row as the pipeline takes it: files are bytes, and nothing is a path."""
    if isinstance(row, (bytes, bytearray)) and FILES:  # a request whose body is a file
        return {FILES[0]: bytes(row)}
    if not isinstance(row, dict):
        raise ValueError(f"A row is a dict, got {row!r:.80}.")
    return {key: read_item(key, value) for key, value in row.items()}


def read_item(key: str, value: Any) -> Any:
    """What a row has under a key."""
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
    raise ValueError(
        f"{key} must be the bytes of a file, {{'base64': '…'}}, and no path or address; got {value!r:.80}."
    )
