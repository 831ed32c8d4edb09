"""Checks the values of keys and flags: their types and ranges. Each error message is one line."""

import datetime
import math
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, field, fields
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from ..models.names import did_you_mean, shown


# Ranges for keys that are not in `ranges`. They are wide: some users give a huge number of steps to mean "never".
WHOLE_NUMBERS = (-(10**15), 10**15)
NUMBERS = (-1e30, 1e30)
KINDS = {
    int: "a whole number, such as 10",
    float: "a finite number, such as 0.001",
    bool: "true or false",
    str: "a text",
}


def option(default: Any, help: str, **metadata: Any) -> Any:
    """The field of a key or flag: its default, its help, and other metadata for `ArgumentParser`."""
    return field(default=default, metadata={"help": help, **metadata})


def check_least(values: Any, least: int, *names: str):
    """Raises ValueError if one of these keys is below a number. None is accepted."""
    for name in names:
        if getattr(values, name) is not None and not getattr(values, name) >= least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(values, name)}.")


@cache
def ranges() -> dict[str, tuple[float, float]]:
    """The allowed ranges of numbers by key. Other conditions are checked where a key is defined. (The import is inside
    the function, since it loads transformers, and `--help` needs no range.)"""
    from ..models.config_checks import MAX_IMAGES, MAX_LAYERS, MAX_WIDTH, SHARE

    return {
        **dict.fromkeys(("seed", "split_seed"), (0, 2**32 - 1)),  # the range of numpy
        **dict.fromkeys(("fusion_layers", "memory_layers"), (0, MAX_LAYERS)),
        **dict.fromkeys(("fusion_hidden_size", "fusion_heads", "num_latents", "projection_dim"), (1, MAX_WIDTH)),
        **dict.fromkeys(("image_size", "ctc_stride", "lora_rank"), (-math.inf, MAX_WIDTH)),
        "num_frames": (-math.inf, MAX_IMAGES),
        "max_audio_seconds": (-math.inf, 86_400),
        "max_text_length": (1, 10**9),
        "shuffle_buffer": (0, 10**9),
        **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), (-math.inf, 10**9)),
        "gradient_accumulation_steps": (-math.inf, 10**9),
        **dict.fromkeys(("dataloader_num_workers", "encoding_workers"), (0, 1024)),
        **dict.fromkeys(("fusion_dropout", "classifier_dropout", "label_smoothing_factor"), SHARE),
    }


def truth(text: str) -> bool:
    """The value of a flag that is true or false.

    Raises:
        ArgumentTypeError: the text is no word for true or false.
    """
    for value, words in ((True, ("true", "yes", "t", "y", "1")), (False, ("false", "no", "f", "n", "0"))):
        if text.lower() in words:
            return value
    raise ArgumentTypeError(f"invalid value: {text!r:.80}; needed is {KINDS[bool]}.")


def whole_number(text: str, name: str = "") -> int:
    """The whole number in a text, for the key of this name.

    Raises:
        ArgumentTypeError: the text is no whole number, or the number is out of range.
    """
    try:
        value = int(text)
    except ValueError:
        number = number_of(text)
        hint = f": write {number:.0f}" if number is not None and number.is_integer() else ""
        raise ArgumentTypeError(f"invalid int value: {text!r:.80}; needed is {KINDS[int]}{hint}.") from None
    return in_range(value, name, WHOLE_NUMBERS)


def finite_number(text: str, name: str = "") -> float:
    """The number in a text, for the key of this name.

    Raises:
        ArgumentTypeError: the text is no number or NaN, or the number is out of range.
    """
    value = number_of(text)
    if value is None:
        raise ArgumentTypeError(f"invalid float value: {text!r:.80}; needed is {KINDS[float]}.")
    return in_range(value, name, NUMBERS)


def number_of(text: str) -> float | None:
    """The finite number in a text; None for any other text."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def in_range(value: Any, name: str, otherwise: tuple[float, float]) -> Any:
    """The number, if it is in the range of the key with this name.

    Raises:
        ArgumentTypeError: it is out of range.
    """
    from ..models.config_checks import check_number

    try:
        check_number(name or "it", value, *ranges().get(name, otherwise))
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return value


def check_range(name: str, value: float, low: float, high: float):
    """Raises ValueError if a value is not between two others."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, got {value}.")


def checked_values(values: Mapping[str, Any], groups: Sequence[type], lenient: bool = False) -> dict[str, Any]:
    """The values of a recipe, each converted to the type of its key, or to one of the `forms` in its metadata.

    Args:
        values: by key, from YAML or JSON.
        groups: dataclasses with the keys as fields; other keys are left out.
        lenient: a key without a value gets its default.

    Raises:
        ValueError: names the key, the value and the type.
    """
    checked: dict[str, Any] = {}
    for group in groups:
        hints = get_type_hints(group)
        for key in fields(group):
            if key.name not in values:
                continue
            value, choices = values[key.name], key.metadata.get("choices")
            if value is None:
                if key.default is not None and not lenient:
                    kind = "a value" if key.default is MISSING else f"a value, such as {key.default!r}"
                    raise ValueError(f"{key.name} has no value: give {kind}, or leave the key out.")
                if key.default is None:
                    checked[key.name] = None
                continue
            hint = hints[key.name]
            forms = key.metadata.get("forms", ())
            hint = next((form for form in forms if isinstance(value, get_origin(form))), hint)
            try:
                checked[key.name] = value = checked_value(key.name, hint, value)
            except ValueError as error:
                more = {list: " In a recipe also a list: [vision].", dict: " In a recipe also by name."}
                raise ValueError("".join([str(error), *(more[get_origin(form)] for form in forms)])) from None
            for one in value.values() if isinstance(value, dict) else [value]:
                # argparse checks the choices only for values of flags, not for defaults.
                if choices and one not in choices:
                    raise ValueError(
                        f"{key.name} must be one of {choices}, got {shown(one)}.{did_you_mean(one, choices)}"
                    )
    return checked


def checked_value(name: str, hint: Any, value: Any) -> Any:
    """A value, converted to the type of its key. A whole number is accepted as a float, and a text with a number (YAML
    reads `1e-3` as a text) as that number. A number becomes a text if the key needs a text, and a single value becomes
    a list if the key needs a list.

    Raises:
        ValueError: it has another type.
    """
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if get_origin(hint) not in (list, dict) else []
    kind = kinds[0] if kinds else hint
    if get_origin(kind) is list:
        of = get_args(kind)[0]
        return [checked_one(name, of, one, "each of ") for one in (value if isinstance(value, list) else [value])]
    if get_origin(kind) is dict:
        of = get_args(kind)[1]
        values = {
            key: checked_value(name, of, one)
            if get_origin(of) is list
            else checked_one(name, of, one, "each value of ")
            for key, one in value.items()
        }
        return {checked_one(name, str, key, "each key of "): one for key, one in values.items()}
    return checked_one(name, kind, value)


def checked_one(name: str, kind: type, value: Any, which: str = "") -> Any:
    """A single value; see `checked_value`."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is object:  # the code that uses the value checks it
        number = number_of(value) if isinstance(value, str) else None
        return value if number is None else number
    try:
        if kind is str and (isinstance(value, str) or is_number):
            return str(value)
        if kind is bool and (isinstance(value, (bool, str)) or value in (0, 1)):
            return value if isinstance(value, bool) else truth(str(value))
        if kind is int and (isinstance(value, str) or is_number):
            return whole_number(str(value), name)
        if kind is float and (isinstance(value, str) or is_number):
            return finite_number(str(value), name)
    except ArgumentTypeError as error:
        raise ValueError(str(error) if str(error).startswith(name) else f"{which}{name}: {error}") from None
    except ValueError:  # a whole number with thousands of digits
        pass
    hint = ""
    if kind is str and isinstance(value, (bool, datetime.date)):
        hint = " (YAML reads yes, no, on, off and dates as such values: write a text in quotes)"
    raise ValueError(f"{which}{name} must be {KINDS[kind]}, got {type(value).__name__} {shown(value)}{hint}.")
