# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""What the values of a config may be: checked before a module is built or memory is taken, and told in one line."""

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


# Far above what is trained, and far below what no machine has.
MAX_LAYERS = 999
MAX_WIDTH = 2**16
MAX_LABELS = 100_000
MAX_IMAGES = 10_000
MAX_WORDS = 10**9
MAX_PARAMETERS = 200 * 10**9

SHARE = (0, 1)
FINITE = 1e30
# The least and the most that a number of a config may be; None, where a key may be left out, is neither.
FUSION_RANGES = {
    "hidden_size": (1, MAX_WIDTH),
    "num_hidden_layers": (0, MAX_LAYERS),
    "num_attention_heads": (1, MAX_WIDTH),
    "intermediate_size": (1, 16 * MAX_WIDTH),
    "hidden_dropout_prob": SHARE,
    "attention_probs_dropout_prob": SHARE,
    "layer_norm_eps": (0, 1),
    "initializer_range": (0, FINITE),
    "memory_layers": (-math.inf, MAX_LAYERS),  # `validate_architecture` says what else they must be
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
    "logit_scale_init_value": (-80, 80),  # beyond, its exponential is no float32
    "matching_weight": (0, FINITE),
    "vocab_size": (1, MAX_WORDS),
    "ctc_stride": (1, MAX_WIDTH),
}
# Of encoders and decoders, whose keys are the library's: what names of this form may be. Some keys that mean a place
# and not a number of things (`feature_layer`) are negative; they are not among these.
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
    """A value that a key of a config cannot have. (The library's own error for a value of the wrong type is no
    ValueError, and takes two lines.)"""

    def __init__(self, message: str):
        Exception.__init__(self, " ".join(message.split()))  # not that of the parent, which makes two lines


def told_in_one_line(config_class: type) -> type:
    """Decorates a strict config: a value of the wrong type is a `ConfigError` that names the key, what came and the
    type, when the config is made and when a value is set."""
    strict: Any = config_class  # whose methods mypy does not see
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
    """Refuses a number that is not between two others, NaN among them: names the key, what came and what is
    allowed."""
    if low <= value <= high:
        return
    if high == 1 or value != value:
        allowed = f"from {low:g} to {high:g}"
    else:
        allowed = f"at least {low:g}" if value < low else f"at most {high:,}"
    raise ConfigError(f"{name} must be {allowed}, got {shown(value)}.")


def check_ranges(config: PreTrainedConfig, ranges: Mapping[str, tuple[float, float]], prefix: str = ""):
    """Refuses numbers of a config that are out of their range; `prefix` stands before the key in the message."""
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
    """Refuses to build what has more parameters than any machine can hold; infinite: more than can be counted."""
    if count == math.inf:
        raise ConfigError(f"{what} would have more parameters by its config than can be counted: look at its sizes.")
    if count > MAX_PARAMETERS:
        raise ConfigError(
            f"{what} would have {count / 1e9:,.0f} billion parameters by its config, and at most "
            f"{MAX_PARAMETERS / 1e9:,.0f} billion are built: look for a size or a number of layers that is mistyped."
        )


def check_given(values: Mapping[str, Any], prefix: str = ""):
    """Looks at the keys of a config before anything is made of them: the library would make a name for each of
    `num_labels`, and would end at its depth with an error about itself."""
    for name, value in values.items():
        if is_too_deep(value):
            raise ConfigError(f"{prefix}{name} has lists or dicts in one another, more than {MAX_DEPTH} deep.")
        if name == "num_labels":
            check_num_labels(value, prefix)
        elif isinstance(value, dict) and str(name).endswith("_config"):
            check_given(value, f"{prefix}{name}.")


def check_num_labels(value: Any, prefix: str = ""):
    """Refuses what is no number of labels."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(
            f"{prefix}num_labels must be a whole number, got {type(value).__name__} {shown(value)}; where id2label "
            "names the labels, leave it out."
        )
    check_number(f"{prefix}num_labels", value, 0, MAX_LABELS)


def build_part(key: str, spec: SubConfigSpec, value: Any) -> PreTrainedConfig:
    """The sub-config that a dict stands for, or a config as it is.

    Raises:
        ConfigError: it is of no type that the library knows, or has a value that its type refuses.
    """
    if isinstance(value, dict):
        model_type = value.get("model_type", spec.model_type)
        of_one_type = issubclass(spec.config_class, PreTrainedConfig)  # one type alone, which AutoConfig need not know
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
    """Refuses what no encoder or decoder, whose config stands under a key, can have among its numbers: sizes and
    numbers of things that are not at least 1, shares outside of 0 to 1, NaN."""
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
    """The names of the labels by number, and the numbers by name, each from the other where one is not given.

    Args:
        id2label: numbers from 0 on, as JSON has them too (`"0"`).
        label2id: the same the other way round. What the library made up (`LABEL_0`) gives way to `id2label`.

    Raises:
        ConfigError: a number that is missing, a name that two numbers have, or two answers to which is which.
    """
    if id2label is None:
        if label2id is None:
            return None, None
        if len({str(number) for number in label2id.values()}) < len(label2id):
            raise ConfigError(f"label2id gives one number to several names: {shown(dict(label2id))}.")
        id2label = {number: name for name, number in label2id.items()}
    check_number("the number of labels in id2label", len(id2label), 0, MAX_LABELS)
    names: dict[int, str] = {}
    for key, name in id2label.items():
        plain = isinstance(key, int) or (isinstance(key, str) and key.isdecimal() and key.isascii() and len(key) < 10)
        if isinstance(key, bool) or not plain or (isinstance(key, str) and str(int(key)) != key):
            raise ConfigError(f"id2label: its keys must be whole numbers from 0 on, got {shown(key)}.")
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
            f"id2label: labels need names of their own, and {number} and {numbers[names[number]]} are both "
            f"{names[number]!r:.80}."
        )
    if label2id and any(name != f"LABEL_{number}" for name, number in label2id.items()):
        told = {name: str(number) for name, number in label2id.items()}
        if told != {name: str(number) for name, number in numbers.items()}:
            name = next(name for name in {**told, **numbers} if told.get(name) != str(numbers.get(name)))
            raise ConfigError(
                f"label2id and id2label disagree about {name!r:.80}: {shown(label2id.get(name))} and "
                f"{numbers.get(name)}. Give id2label alone, and label2id follows."
            )
    return names, numbers


def has_finite(values: Any, count: int | None = None) -> bool:
    """Whether this is a list (or an array) of finite numbers, and of so many."""
    values = values.tolist() if hasattr(values, "tolist") else values
    return (
        isinstance(values, (list, tuple))
        and (count is None or len(values) == count)
        and all(isinstance(one, (Real, Decimal)) and not isinstance(one, bool) for one in values)
        and all(map(is_finite, values))
    )


def is_finite(number: Any) -> bool:
    """Whether a number is finite as a float has it: a whole number may be too large for one."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False
