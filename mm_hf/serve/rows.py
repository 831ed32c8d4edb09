"""Turns requests into rows: checks JSON or a form, and converts it into the rows of a pipeline. Nothing in a request
is opened as a path or URL."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..data.modalities.reader import ModalityReader, reader_of
from ..models.files import MAX_DEPTH, is_too_deep
from ..models.modality import Modality, modality_of
from ..models.names import did_you_mean
from .backend import Backend, RowError
from .limits import Limits, RefusedError


ROWS = "rows"


@dataclass(frozen=True)
class Key:
    """The modality and the reader of one key of a row."""

    modality: Modality
    reader: ModalityReader


@dataclass
class Request:
    """A parsed request.

    Args:
        rows: as they arrived, with files still in base 64.
        options: of the answers, see `Backend`.
    """

    rows: list[Any]
    options: dict[str, Any] = field(default_factory=dict)


def keys_of(config: Any) -> dict[str, Key]:
    """The keys that the rows of a model may have."""
    modalities = [modality_of(name) for name in config.modalities]
    return {key: Key(one, reader_of(one.name)) for one in modalities for key in one.row_keys}


def read_json(body: bytes, options: Iterable[str], limits: Limits) -> Request:
    """Parses a JSON request: `rows`, and options beside it.

    Raises:
        RefusedError: the body has another form.
    """

    def no_such_number(text: str):
        raise ValueError(f"JSON has no {text}: use null for a missing number")

    def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"an object has the key {twice!r:.80} more than once")
        return made

    try:
        text = body.decode("utf-8-sig")
        value = json.loads(text, parse_constant=no_such_number, object_pairs_hook=without_doubles)
    except RecursionError:
        raise RefusedError(400, "bad_json", f"The body is nested more than {MAX_DEPTH} deep.") from None
    except ValueError as error:  # not UTF-8, not JSON, or a number with thousands of digits
        raise RefusedError(400, "bad_json", f"The body is not valid JSON in UTF-8: {error!s:.200}.") from None
    if is_too_deep(value):
        raise RefusedError(400, "bad_json", f"The body is nested more than {MAX_DEPTH} deep.")
    way = f'Give {{"{ROWS}": [{{…}}]}}'
    if not isinstance(value, dict):
        raise RefusedError(422, "bad_request", f"The body must be an object, got a {type(value).__name__}. {way}.")
    known = [ROWS, *options]
    if unknown := [name for name in value if name not in known]:
        meant = did_you_mean(unknown[0], known)
        raise RefusedError(
            422,
            "bad_request",
            f"A request may have the keys {known}, got {unknown[0]!r:.80}.{meant} Put the inputs into the rows.",
        )
    rows = value.pop(ROWS, None)
    if not isinstance(rows, list):
        raise RefusedError(422, "bad_request", f"{ROWS} must be a list, got {rows!r:.80}. {way}.")
    check_count(rows, limits)
    return Request(rows, value)


def check_count(rows: list[Any], limits: Limits):
    """Refuses a request without rows, or with too many rows."""
    if not rows:
        raise RefusedError(422, "bad_request", f"{ROWS} is empty: give at least one row.")
    if len(rows) > limits.rows:
        message = f"The request has {len(rows)} rows; send at most {limits.rows} in one request (--max_rows)."
        raise RefusedError(413, "too_many_rows", message)


def row_of_form(fields: Iterable[tuple[str, str | bytes]], keys: Mapping[str, Key], options: Iterable[str]) -> Request:
    """Converts a form into a request with one row. An upload is a file. A text field is a text if the key takes texts;
    otherwise it is JSON. If a key occurs several times, its values fill the places of the modality, in order.

    Args:
        fields: pairs of name and value; the value of an upload is its bytes.

    Raises:
        RefusedError: a field is unknown, or is not valid JSON.
    """
    row: dict[str, list[Any]] = {}
    asked: dict[str, Any] = {}
    for name, value in fields:
        if name not in keys and name not in (known := [*options]):
            meant = did_you_mean(name, [*keys, *known])
            raise RefusedError(
                422, "bad_request", f"A form may have the fields {[*keys, *known]}, got {name!r:.80}.{meant}"
            )
        if name in keys:
            plain = isinstance(value, bytes) or keys[name].reader.files or keys[name].reader.takes_texts
            row.setdefault(name, []).append(value if plain else value_of_field(name, str(value)))
        elif isinstance(value, bytes):
            raise RefusedError(422, "bad_request", f"The field {name!r} must be JSON, got a file.")
        else:
            asked[name] = value_of_field(name, value)
    return Request([{name: values if len(values) > 1 else values[0] for name, values in row.items()}], asked)


def value_of_field(name: str, text: str) -> Any:
    """The JSON value of a field."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedError(422, "bad_request", f"The field {name!r:.80} must be JSON: {error!s:.200}.") from None
    if is_too_deep(value):
        raise RefusedError(422, "bad_request", f"The field {name!r:.80} is nested more than {MAX_DEPTH} deep.")
    return value


@dataclass(frozen=True)
class ReadRow:
    """A row that can be answered: the row as the backend loaded it, and the modalities that it lacks."""

    loaded: Any
    absent: tuple[str, ...]


def read_row(value: Any, keys: Mapping[str, Key], backend: Backend, limits: Limits) -> ReadRow | RowError:
    """Checks and decodes one row; gives its error if it cannot be answered."""
    try:
        row = check_row(value, keys, backend.config, limits)
        loaded = backend.load(row)
    except ValueError as error:
        return RowError(" ".join(str(error).split()))
    except Exception as error:
        return RowError(f"{type(error).__name__}: the service could not read this row.", ours=True)
    given = {keys[key].modality.name for key in row}
    return ReadRow(loaded, tuple(name for name in backend.config.modalities if name not in given))


def check_row(value: Any, keys: Mapping[str, Key], config: Any, limits: Limits) -> dict[str, Any]:
    """A row with its files as bytes. All its items are within the limits.

    Raises:
        ValueError: it has an unknown key or a wrong value, or an item is too large.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"A row must be an object with keys from {list(keys)}, got {value!r:.80}.")
    row: dict[str, Any] = {}
    for name, given in value.items():
        if name not in keys:
            meant = key_meant(name, keys)
            raise ValueError(f"A row may have the keys {list(keys)}, got {name!r:.80}.{meant}")
        if given is None:
            continue
        modality, reader = keys[name].modality, keys[name].reader
        if isinstance(given, list) and modality.several_places and not modality.is_item(given):
            items = [None if one is None else reader.from_request(one, name) for one in given]
            row[name] = items
        else:
            row[name] = reader.from_request(given, name)
            items = [row[name]]
        check_amounts([item for item in items if item is not None], name, reader.amounts, limits)
    return row


def key_meant(name: str, keys: Mapping[str, Key]) -> str:
    """A suggestion which key was meant, for messages."""
    words = {word: key.modality.row_keys[0] for key in keys.values() for word in key.modality.meant}
    return f" Did you mean {words[name]!r}?" if name in words else did_you_mean(name, keys)


def check_amounts(items: list[Any], key: str, amounts: Callable[[Any, str], dict[str, float]], limits: Limits):
    """Refuses items that are too large, before they are decoded."""
    for item in items:
        for name, amount in amounts(item, key).items():
            most, flag = limits.of_amount(name)
            if amount > most:
                raise ValueError(f"{key} has {amount:,.10g} {name}, but at most {most:,.10g} are allowed ({flag}).")
