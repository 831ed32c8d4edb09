# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Checks the values of a config before a module is built or memory is used. Errors take one line."""

import functools
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

from huggingface_hub.errors import (
    StrictDataclassClassValidationError,
    StrictDataclassError,
    StrictDataclassFieldValidationError,
)
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .files import MAX_DEPTH, is_too_deep
from .names import did_you_mean, shown


# Far above any size that is trained, and below the point where no machine has the memory.
MAX_LAYERS = 999
MAX_WIDTH = 2**16
MAX_LABELS = 100_000
MAX_IMAGES = 10_000
MAX_WORDS = 10**9
MAX_PARAMETERS = 200 * 10**9

SHARE = (0, 1)
FINITE = 1e30
# The lowest and the highest value of each number in a config. None, for keys that may be left out, is always allowed.
FUSION_RANGES = {
    "hidden_size": (1, MAX_WIDTH),
    "num_hidden_layers": (0, MAX_LAYERS),
    "num_attention_heads": (1, MAX_WIDTH),
    "intermediate_size": (1, 16 * MAX_WIDTH),
    "hidden_dropout_prob": SHARE,
    "attention_probs_dropout_prob": SHARE,
    "layer_norm_eps": (0, 1),
    "initializer_range": (0, FINITE),
    "memory_layers": (-math.inf, MAX_LAYERS),  # `validate_architecture` checks its other rules
    "num_latents": (1, MAX_WIDTH),
}
MODEL_RANGES = {
    "num_images": (1, MAX_IMAGES),
    "num_frames": (1, MAX_IMAGES),
    "classifier_dropout": SHARE,
    "label_smoothing": SHARE,
    "focal_gamma": (0, FINITE),
    "mixup_alpha": (0, FINITE),
    "projection_dim": (1, MAX_WIDTH),
    "logit_scale_init_value": (-80, 80),  # outside, its exponential does not fit into float32
    "matching_weight": (0, FINITE),
    "vocab_size": (1, MAX_WORDS),
    "ctc_stride": (1, MAX_WIDTH),
}
# For encoders and decoders, whose keys belong to transformers: ranges for keys with such names. Some keys that mean a
# position and not a number of things (`feature_layer`) may be negative; they are not included.
PART_RANGES = (
    (re.compile(r"(num_|n_)?(hidden_|encoder_|decoder_)?layers?|depths?"), (0, MAX_LAYERS)),
    (re.compile(r"(num_|n_)?(encoder_|decoder_)?(attention_)?heads?"), (1, MAX_WIDTH)),
    (re.compile(r"hidden_sizes?|d_model|n_embd|embed_dim|hidden_dim|intermediate_size|embedding_size"), (1, 10**9)),
    (
        re.compile(r"((encoder_|decoder_)?ffn_dim|d_ff|dim|patch_size|image_size|num_channels|num_mel_bins)"),
        (1, 10**9),
    ),
    (re.compile(r"vocab_size"), (1, MAX_WORDS)),
    (re.compile(r"\w*(dropout|dropout_prob|dropout_rate|drop_path_rate|layerdrop|_pdrop)"), SHARE),
    (re.compile(r"(\w+_)?(eps|epsilon)"), (0, 1)),
    (re.compile(r"initializer_range|init_std"), (0, FINITE)),
)


class ConfigError(StrictDataclassFieldValidationError, ValueError):
    """A value that a config key cannot have. (The library's own error for a value of the wrong type is not a
    ValueError, and takes two lines.)"""

    def __init__(self, message: str):
        Exception.__init__(self, " ".join(message.split()))  # the parent's __init__ would make two lines


def told_in_one_line(config_class: type) -> type:
    """Decorates a strict config: a value of the wrong type raises a `ConfigError`, both when the config is made and
    when a value is set. The error names the key, the value and the allowed type."""
    strict: Any = config_class  # mypy does not see its methods
    assign, validate, fields = strict.__setattr__, strict.validate, strict.__dataclass_fields__

    @functools.wraps(assign)
    def set_value(self, name, value):
        try:
            assign(self, name, value)
        except (StrictDataclassFieldValidationError, RecursionError) as error:
            if isinstance(error, ConfigError) or name not in fields:
                raise
            kind = fields[name].type
            kind = kind.__name__ if isinstance(kind, type) else re.sub(r"\w+\.", "", str(kind))
            where = getattr(config_class, "base_config_key", "") or config_class.__name__
            raise ConfigError(
                f"{where}: {name} must be of type {kind}, got {type(value).__name__} {shown(value)}."
            ) from None

    @functools.wraps(validate)
    def validate_all(self):
        try:
            validate(self)
        except StrictDataclassClassValidationError as error:
            if not isinstance(error.__cause__, ValueError):
                raise
            raise error.__cause__ from None

    strict.__setattr__, strict.validate = set_value, validate_all
    return config_class


def check_number(name: str, value: Any, low: float, high: float):
    """Refuses a number that is not between two others; also NaN. The error names the key, the value and the allowed
    range."""
    if low <= value <= high:
        return
    if high == 1 or value != value:
        allowed = f"from {low:g} to {high:g}"
    else:
        allowed = f"at least {low:g}" if value < low else f"at most {high:,}"
    raise ConfigError(f"{name} must be {allowed}, got {shown(value)}.")


def check_ranges(config: PreTrainedConfig, ranges: Mapping[str, tuple[float, float]], prefix: str = ""):
    """Refuses numbers of a config that are out of range; `prefix` comes before the key in the message."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if value is not None:
            check_number(prefix + name, value, low, high)


def check_activation(name: str, value: str):
    """Refuses an activation that the library does not have."""
    if value not in ACT2FN:
        known = sorted(ACT2FN)
        raise ConfigError(f"{name} must be one of {known}, got {value!r:.80}.{did_you_mean(value, known)}")


def check_parameters(count: float, what: str):
    """Refuses to build a model with more parameters than any machine can hold. Infinite: too many to count."""
    if count == math.inf:
        raise ConfigError(f"{what} would have more parameters than can be counted: check the sizes in its config.")
    if count > MAX_PARAMETERS:
        raise ConfigError(
            f"{what} would have {count / 1e9:,.0f} billion parameters by its config. The limit is "
            f"{MAX_PARAMETERS / 1e9:,.0f} billion: look for a mistyped size or number of layers."
        )


def check_given(values: Mapping[str, Any], prefix: str = ""):
    """Checks the given config values before anything is built from them. The library would make a name for each of
    `num_labels`, and would fail on deeply nested values with an error about its own code."""
    for name, value in values.items():
        if is_too_deep(value):
            raise ConfigError(f"{prefix}{name} has lists or dicts nested more than {MAX_DEPTH} deep: flatten it.")
        if name == "num_labels":
            check_num_labels(value, prefix)
        elif isinstance(value, dict) and str(name).endswith("_config"):
            check_given(value, f"{prefix}{name}.")


def check_num_labels(value: Any, prefix: str = ""):
    """Refuses a value that is not a number of labels."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(
            f"{prefix}num_labels must be a whole number, got {type(value).__name__} {shown(value)}; if id2label names "
            "the labels, leave num_labels out."
        )
    check_number(f"{prefix}num_labels", value, 0, MAX_LABELS)


def build_part(key: str, spec: SubConfigSpec, value: Any) -> PreTrainedConfig:
    """Makes the sub-config from a dict; a config is returned as it is.

    Raises:
        ConfigError: the library does not know its type, or its type refuses a value.
    """
    if isinstance(value, dict):
        model_type = value.get("model_type", spec.model_type)
        of_one_type = issubclass(spec.config_class, PreTrainedConfig)  # a single type, which AutoConfig may not know
        if not of_one_type and not (isinstance(model_type, str) and model_type in CONFIG_MAPPING):
            meant = did_you_mean(model_type, list(CONFIG_MAPPING)) if isinstance(model_type, str) else ""
            raise ConfigError(f"{key}: the library has no model type {shown(model_type)}.{meant}")
        check_given(value, f"{key}.")
        if not all(isinstance(name, str) for name in value):
            raise ConfigError(f"{key}: keys must be texts, got {shown(list(value))}.")
    try:
        part, _ = spec.create_subconfig(key, value)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        told = f"{error!s:.500}"
        raise ConfigError(told if told.startswith(key) else f"{key}: {told}") from None
    return part


def check_part(key: str, config: PreTrainedConfig):
    """Refuses numbers that the config of an encoder or decoder (under a key) cannot have: sizes and counts below 1,
    shares outside of 0 to 1, NaN."""
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            check_part(f"{key}.{name}", value)
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        numbers = [one for one in values if isinstance(one, (int, float)) and not isinstance(one, bool)]
        if any(one != one for one in numbers):
            raise ConfigError(f"{key}.{name} must be a number, got {shown(value)}.")
        for form, (low, high) in PART_RANGES if numbers else ():
            if form.fullmatch(name):
                for one in numbers:
                    check_number(f"{key}.{name}", one, low, high)


def read_labels(
    id2label: Mapping[Any, str] | None, label2id: Mapping[str, Any] | None
) -> tuple[dict[int, str] | None, dict[str, int] | None]:
    """The names of the labels by number, and the numbers by name. If one is not given, it follows from the other.

    Args:
        id2label: keys are numbers from 0 on; also as texts, as in JSON (`"0"`).
        label2id: the same, from name to number. Names that the library made up (`LABEL_0`) are replaced by `id2label`.

    Raises:
        ConfigError: a number is missing, two numbers have the same name, or the two dicts contradict each other.
    """
    if id2label is None:
        if label2id is None:
            return None, None
        if len({str(number) for number in label2id.values()}) < len(label2id):
            raise ConfigError(f"label2id has one number for several names: {shown(dict(label2id))}.")
        id2label = {number: name for name, number in label2id.items()}
    check_number("the number of labels in id2label", len(id2label), 0, MAX_LABELS)
    names: dict[int, str] = {}
    for key, name in id2label.items():
        plain = isinstance(key, int) or (isinstance(key, str) and key.isdecimal() and key.isascii() and len(key) < 10)
        if isinstance(key, bool) or not plain or (isinstance(key, str) and str(int(key)) != key):
            raise ConfigError(f"id2label: keys must be whole numbers from 0 on, got {shown(key)}.")
        if not isinstance(name, str):
            raise ConfigError(f"id2label: a name must be a text, got {shown(name)} for {key}.")
        names[int(key)] = name
    if gaps := sorted(set(range(len(names))) ^ set(names)):
        raise ConfigError(
            f"id2label: {len(names)} names need the numbers 0 to {len(names) - 1}, each once; wrong are {shown(gaps)}."
        )
    names = dict(sorted(names.items()))
    numbers = {name: number for number, name in names.items()}
    if len(numbers) < len(names):
        number = next(number for number, name in names.items() if numbers[name] != number)
        raise ConfigError(
            f"id2label: each label needs its own name, but {number} and {numbers[names[number]]} are both "
            f"{names[number]!r:.80}."
        )
    if label2id and any(name != f"LABEL_{number}" for name, number in label2id.items()):
        told = {name: str(number) for name, number in label2id.items()}
        if told != {name: str(number) for name, number in numbers.items()}:
            name = next(name for name in {**told, **numbers} if told.get(name) != str(numbers.get(name)))
            raise ConfigError(
                f"label2id and id2label disagree about {name!r:.80}: {shown(label2id.get(name))} and "
                f"{numbers.get(name)}. Give only id2label; label2id follows from it."
            )
    return names, numbers


def has_finite(values: Any, count: int | None = None) -> bool:
    """Whether this is a list (or an array) of finite numbers, with the given length."""
    values = values.tolist() if hasattr(values, "tolist") else values
    return (
        isinstance(values, (list, tuple))
        and (count is None or len(values) == count)
        and all(isinstance(one, (Real, Decimal)) and not isinstance(one, bool) for one in values)
        and all(map(is_finite, values))
    )


def is_finite(number: Any) -> bool:
    """Whether a number is finite as a float: a whole number may be too large for one."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False
