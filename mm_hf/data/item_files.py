"""Files that rows hold or name: their content, their keys, and their errors."""

import hashlib
import os
import uuid
from typing import Any

import numpy as np
from datasets import Dataset

from .contents import File
from .plain_rows import fingerprint, is_decoded
from .rows import BadRowError, is_absent, resolve_path


LOOKED_AT = 200  # how many files of a column are checked before training
# The advice when files are not below the data root. If there is no root, the message of `resolve_path` has advice.
WAY_OUT = "Only files below that folder are read: set --data_root to the folder that contains all of them."


def content_of(row: dict[str, Any], column: str, what: str) -> bytes | str:
    """The bytes of a picture, sound or video of a row, or its path if the row has only that. `what` names it in
    messages."""
    value = row[column]
    if isinstance(value, dict) and (content := value.get("bytes")) is not None:
        if not isinstance(content, (bytes, bytearray, memoryview)):  # JSON cannot hold bytes
            raise BadRowError(row, column, f"this is not a {what}: its bytes: {content!r:.80}.", file_name_of(value))
        return bytes(content)
    path = file_name_of(value)
    if path is None:
        raise BadRowError(row, column, f"this is not a {what}: it has neither bytes nor a path: {value!r:.80}.")
    return path


def source_of(row: dict[str, Any], column: str, root: str | None, what: str) -> bytes | str:
    """The bytes of a picture, sound or video of a row, or the path of its file. See `content_of`, `find_picture`."""
    content = content_of(row, column, what)
    return find_picture(row, column, root) if isinstance(content, str) else content


def find_picture(row: dict[str, Any], column: str, root: str | None = None) -> str:
    """The file of a picture or sound, for a row that has only its path. For `root` see `resolve_path`.

    Raises:
        BadRowError: there is no such file, it is not a regular file, or its path is outside the root.
    """
    path = file_name_of(row[column])
    if path is None:
        raise BadRowError(row, column, f"it has no path: {row[column]!r:.80}.")
    try:
        file = resolve_path(path, root)
    except ValueError as error:
        way_out = "" if root is None else f" {WAY_OUT}"
        raise BadRowError(row, column, f"{error}{way_out}", path) from None
    if not os.path.exists(file) and is_url(path):
        raise BadRowError(
            row, column, "this is a URL, and nothing is downloaded here: download it first with `mm_hf fetch`.", path
        )
    if not os.path.exists(file):
        raise BadRowError(row, column, "there is no such file.", path)
    if not os.path.isfile(file):
        raise BadRowError(row, column, "it cannot be read: it is a folder, a pipe or a device.", path)
    return file


def is_url(value: Any) -> bool:
    """Whether a value is a web address."""
    return isinstance(value, str) and value.strip().lower().startswith(("http://", "https://"))


def file_name_of(value: Any) -> str | None:
    """The path of a picture or sound, as its row has it; None if there is none."""
    path = value.get("path") if isinstance(value, dict) else None
    return None if path is None else str(path)


def file_key(row: dict[str, Any], column: str, what: str, id_column: str | None = None) -> str | None:
    """The key of a picture or sound: a hash of its bytes, its path or its decoded content. None if the row has none.

    Args:
        row: as `Rows` gives it.
        column: the column of the picture or sound.
        what: "picture" or "sound", for messages.
        id_column: if the row has a value in this column, that value is the key, together with the split.
    """
    value = row[column]
    if is_absent(value):
        return None
    if is_decoded(value):
        return decoded_key(row, column, value)
    content = content_of(row, column, what)
    if id_column is not None and not is_absent(row[id_column]):
        return f"{row['split']}:{row[id_column]}"
    return digest(content).hex()


def contents_of_file(row: dict[str, Any], column: str, root: str | None, what: str) -> tuple[str, ...]:
    """The content of a picture, sound or video, see `ModalityReader.contents`. An item that cannot be read gets a
    random name. Preparing it later reports the error."""
    value = row[column]
    try:
        if is_decoded(value):
            return ("decoded", decoded_key(row, column, value))
        source = source_of(row, column, root, what)
    except BadRowError:
        return ("unreadable", uuid.uuid4().hex)
    return (File(source),) if isinstance(source, str) else (digest(source).hex(),)


def decoded_key(row: dict[str, Any], column: str, value: Any) -> str:
    """See `fingerprint`."""
    try:
        return fingerprint(value)
    except Exception as error:  # Pillow raises many types of errors, and decodes here if it has not before
        raise BadRowError(row, column, f"this cannot be read ({type(error).__name__}: {error}).") from None


def digest(content: bytes | str) -> bytes:
    """A hash of bytes or of a path."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content).digest()


def some_of(split: Dataset, column: str) -> list[dict[str, Any]]:
    """Some files of a column, spread over the split. Absent values are left out."""
    places = np.unique(np.linspace(0, len(split) - 1, min(LOOKED_AT, len(split))).astype(int)).tolist()
    return [value for value in split.select_columns([column])[places][column] if value is not None]
