"""What tells the items of a row apart, for each modality: equal keys are one item of a batch, and of a cache."""

import hashlib
from collections.abc import Mapping
from typing import Any

from ..models.inputs import fault_of_text
from ..models.series import SeriesScaler, has_no_steps
from ..models.table_schema import TableError, TableSchema
from .decoding import content_of
from .plain_rows import fingerprint, is_decoded
from .rows import BadRowError, is_absent


def id_of(key: str) -> int:
    """A number for a key, the same in every process: the first 63 bits of its hash."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def text_key(row: dict[str, Any], column: str) -> str | None:
    """The text itself; None where the row has none.

    Raises:
        BadRowError: an empty text, or what is no text.
    """
    value = row[column]
    if is_absent(value):
        return None
    if not isinstance(value, str) or not value.strip():
        raise BadRowError(row, column, f"the text is empty or no text ({value!r:.80}); None means absent.")
    if fault := fault_of_text(value):
        raise BadRowError(row, column, fault)
    return value


def file_key(row: dict[str, Any], column: str, what: str, id_column: str | None = None) -> str | None:
    """A hash of the bytes or the path of a picture or sound, or of what is decoded; None where the row has none.

    Args:
        row: as `Rows` gives it.
        column: of the picture or sound.
        what: "picture" or "sound", in messages.
        id_column: its value is the key, with the split, where the row has one.

    Raises:
        BadRowError: what is no such file, or decoded and cannot be read.
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


def video_key(row: dict[str, Any], column: str) -> str | None:
    """A hash of the bytes or the path of a video, or of those of its pictures; None where the row has none.

    Raises:
        BadRowError: it is no video.
    """
    value = row[column]
    if is_absent(value):
        return None
    if isinstance(value, list) and any(map(is_decoded, value)):
        keys = [decoded_key(row, column, frame) if is_decoded(frame) else repr(frame) for frame in value]
        return hashlib.sha256("".join(keys).encode()).hexdigest()
    whole = hashlib.sha256()
    for frame in value if isinstance(value, list) else [value]:
        try:
            whole.update(digest(content_of({**row, column: frame}, column, "picture")))
        except BadRowError:
            raise BadRowError(row, column, f"this is no video: {value!r:.80}.") from None
    return whole.hexdigest()


def decoded_key(row: dict[str, Any], column: str, value: Any) -> str:
    """See `fingerprint`.

    Raises:
        BadRowError: it cannot be read.
    """
    try:
        return fingerprint(value)
    except Exception as error:  # Pillow raises a dozen types, and decodes here at the latest
        raise BadRowError(row, column, f"this cannot be read ({type(error).__name__}: {error}).") from None


def digest(content: bytes | str) -> bytes:
    """The hash of bytes, or of a path."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content).digest()


def table_values(
    row: dict[str, Any], columns: list[str], schema: TableSchema, names: Mapping[str, list[str]]
) -> dict[str, Any]:
    """The columns of the table that have a value, classes by their names.

    Args:
        row: as `Rows` gives it.
        columns: of the table.
        schema: says what counts as missing.
        names: of the columns that are a `ClassLabel` the names of their classes.
    """
    found = {name: row[name] for name in columns if not schema.is_missing(row[name])}
    for name in set(found) & set(names):
        number = found.pop(name)
        if number != -1:  # what datasets writes for a missing class
            found[name] = names[name][number]
    return found


def table_key(row: dict[str, Any], values: dict[str, Any], schema: TableSchema) -> str | None:
    """All values of a table's row by their columns; None where there is none.

    Args:
        row: as `Rows` gives it, for messages.
        values: see `table_values`.
        schema: checks them.

    Raises:
        BadRowError: no number in a column of numbers.
    """
    try:
        schema.check(values)
    except TableError as error:
        raise BadRowError(row, error.column, error.reason) from None
    return repr(sorted(values.items())) if values else None


def series_key(row: dict[str, Any], column: str, scaler: SeriesScaler) -> str | None:
    """A hash of a time series as the model sees it; None where the row has no step.

    Raises:
        BadRowError: what is no series, or has other channels than the scaler.
    """
    if has_no_steps(row[column]):
        return None
    try:
        return hashlib.sha256(scaler.check(row[column]).tobytes()).hexdigest()
    except ValueError as error:
        raise BadRowError(row, column, str(error)) from None
