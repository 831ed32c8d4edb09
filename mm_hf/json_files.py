"""JSON files that a run resumes from: each value is checked before it is used."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


Rules = Mapping[str, Callable[[Any], bool]]  # for each key, whether a value is valid


class DamagedFileError(ValueError):
    """A file of a training state that cannot be read."""


def unreadable(file: Path, error: Exception) -> str:
    """The message for a file that a library fails to read."""
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{file.name} cannot be read ({type(error).__name__}: {first})"


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object; a `DamagedFileError` names the file."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedFileError(f"{file.name} is missing") from None
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(unreadable(file, error)) from error
    if not isinstance(values, dict):
        raise DamagedFileError(f"{file.name} must hold a JSON object (names with values), and holds {short(values)}")
    return values


def fault_of_values(where: str, values: Any, rules: Rules) -> str | None:
    """What is wrong with the values of a state. All keys of `rules` must be there, no others, and each rule must hold.
    `where` names the file, and the key in it."""
    if not isinstance(values, dict):
        return f"{where} is {short(values)}"
    for name in rules:
        if name not in values:
            return f"{where} has no {name}"
    for name, value in values.items():
        if name not in rules:
            return f"{where} has the unknown key {name!r}"
        if not rules[name](value):
            return f"{where}: {name} is {short(value)}"
    return None


def short(value: Any) -> str:
    """A value, shortened for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


# Checks of values


def is_count(value: Any) -> bool:
    """Whether a value is a whole number, at least 0 and small enough to be a count."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def is_number(value: Any) -> bool:
    """Whether a value is a number; NaN and infinity are numbers too."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return is_number(value) and abs(value) < math.inf


def is_duration(value: Any) -> bool:
    """Whether a value is a finite number of seconds, at least 0."""
    return is_finite_number(value) and value >= 0


def is_point(value: Any) -> bool:
    """Whether a value is a point of a curve: a step and a number."""
    return isinstance(value, list) and len(value) == 2 and is_count(value[0]) and is_number(value[1])


def is_list_of(value: Any, fits: Callable[[Any], bool]) -> bool:
    """Whether a value is a list, and all its elements fit."""
    return isinstance(value, list) and all(map(fits, value))


def is_dict_of(value: Any, fits: Callable[[Any], bool]) -> bool:
    """Whether a value is a dict, and all its values fit."""
    return isinstance(value, dict) and all(map(fits, value.values()))
