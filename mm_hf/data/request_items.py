"""Items of rows in requests to a service: values, and files as bytes. A request may not contain a path or an address.
Otherwise a client could find out which files are on the server, or make it connect to other machines."""

import base64
import binascii
from collections.abc import Mapping
from numbers import Real
from typing import Any


BASE64 = "base64"
DEEPEST = 4  # how deep lists and dicts may be nested, in an item of a modality from outside
FILE_SCHEMA = {
    "type": "object",
    "properties": {BASE64: {"type": "string", "format": "byte", "description": "the bytes of the file"}},
    "required": [BASE64],
    "additionalProperties": False,
}


def file_of_request(value: Any, key: str) -> bytes:
    """The bytes of a file in a request: a dict of `base64`, or the bytes themselves in an upload.

    Raises:
        ValueError: it is something else, such as a path or an address; it is not base 64; or it is empty.
    """
    if isinstance(value, bytes):
        content = value
    else:
        way = f'give the bytes of a file, {{"{BASE64}": "…"}} in JSON or an upload in a form'
        if isinstance(value, str):
            raise ValueError(f"{key} is the text {value!r:.80}, but paths and addresses are never opened: {way}.")
        if not isinstance(value, Mapping) or set(value) != {BASE64}:
            shape = f"a dict of {sorted(map(str, value))}" if isinstance(value, Mapping) else f"{value!r:.80}"
            raise ValueError(f"{key} is {shape:.200}; {way}.")
        text = value[BASE64]
        if not isinstance(text, str):
            raise ValueError(f"{key}: {BASE64} must be a text, got {text!r:.80}.")
        if text.startswith("data:"):  # browsers write files like this
            text = text.partition(",")[2]
        try:
            content = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"{key}: {BASE64} is not valid base 64 ({error}).") from None
    if not content:
        raise ValueError(f"{key} is an empty file. If there is no file, leave {key} out, or give null.")
    return content


def text_of_request(value: Any, key: str) -> str:
    """A text of a request.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a text, got {value!r:.80}.")
    return value


def numbers_of_request(value: Any, key: str, depth: int = DEEPEST) -> Any:
    """Checks that a value contains only numbers, truth values and gaps, in lists and dicts.

    Raises:
        ValueError: it contains something else, or it is nested too deeply.
    """
    if value is None or isinstance(value, (Real, bool)):
        return value
    if depth and isinstance(value, list):
        return [numbers_of_request(one, key, depth - 1) for one in value]
    if depth and isinstance(value, Mapping):
        return {name: numbers_of_request(one, key, depth - 1) for name, one in value.items()}
    raise ValueError(
        f"{key} must be numbers, alone or in lists that are nested at most {DEEPEST} deep; got {value!r:.80}."
    )


def encoded_file(content: bytes) -> dict[str, str]:
    """A file in the form that a JSON request has."""
    return {BASE64: base64.b64encode(content).decode()}
