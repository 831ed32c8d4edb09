"""Items of rows as requests to a service bring them: values, and files as their bytes. A request names no path and no
address: who asks must not learn what lies on the machine that answers, nor send it anywhere."""

import base64
import binascii
from collections.abc import Mapping
from numbers import Real
from typing import Any


BASE64 = "base64"
DEEPEST = 4  # lists and dicts in one another, of an item of a modality from outside
FILE_SCHEMA = {
    "type": "object",
    "properties": {BASE64: {"type": "string", "format": "byte", "description": "the bytes of the file"}},
    "required": [BASE64],
    "additionalProperties": False,
}


def file_of_request(value: Any, key: str) -> bytes:
    """The bytes of a file that a request brings: a dict of `base64`, or the bytes themselves, as of an upload.

    Raises:
        ValueError: it is something else, such as a path or an address, is no base 64, or is empty.
    """
    if isinstance(value, bytes):
        content = value
    else:
        way = f'give the bytes of a file, {{"{BASE64}": "…"}} in JSON or an upload in a form'
        if isinstance(value, str):
            raise ValueError(f"{key} is the text {value!r:.80}, but paths and addresses are not opened: {way}.")
        if not isinstance(value, Mapping) or set(value) != {BASE64}:
            shape = f"a dict of {sorted(map(str, value))}" if isinstance(value, Mapping) else f"{value!r:.80}"
            raise ValueError(f"{key} is {shape:.200}; {way}.")
        text = value[BASE64]
        if not isinstance(text, str):
            raise ValueError(f"{key}: {BASE64} must be a text, got {text!r:.80}.")
        if text.startswith("data:"):  # as browsers write files
            text = text.partition(",")[2]
        try:
            content = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"{key}: {BASE64} holds no base 64 ({error}).") from None
    if not content:
        raise ValueError(f"{key} is a file without a byte; leave it out, or give null, where there is none.")
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
    """What has nothing but numbers, truth values and gaps, in lists and dicts.

    Raises:
        ValueError: there is something else in it, or it is too deep.
    """
    if value is None or isinstance(value, (Real, bool)):
        return value
    if depth and isinstance(value, list):
        return [numbers_of_request(one, key, depth - 1) for one in value]
    if depth and isinstance(value, Mapping):
        return {name: numbers_of_request(one, key, depth - 1) for name, one in value.items()}
    raise ValueError(f"{key} takes numbers, alone or in lists of at most {DEEPEST} deep; got {value!r:.80}.")


def encoded_file(content: bytes) -> dict[str, str]:
    """A file as a request in JSON has it."""
    return {BASE64: base64.b64encode(content).decode()}
