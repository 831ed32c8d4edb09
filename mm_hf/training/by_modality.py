"""Keys of a recipe that take one value, or one value per modality: `learning_rate: {default: 1e-4, vision: 1e-5}`.

Recipes and flags are changed into short forms (`learning_rate: 1e-4`, `vision_learning_rate: 1e-5`). The rest of the
code reads these forms, and recipe.json keeps them. A value without a short form stays in a dict: this is so for a
modality from outside the package. Its columns have their own key, which its reader names, but they are kept under
`columns`.
"""

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..models.names import did_you_mean, shown
from .values import checked_value, number_of


# The registries are imported inside the functions that use them: they load torch, and `--help` does not need it.

DEFAULT = "default"  # key in such a dict: the value for all modalities that are not named


def modalities() -> list[str]:
    """All registered modalities, also those from outside, in the order that a model uses."""
    from ..models.modality import MODALITIES

    return list(MODALITIES)


def pretrained_modalities() -> list[str]:
    """The modalities with a pretrained encoder."""
    from ..models.modality import MODALITIES

    return [name for name, modality in MODALITIES.items() if modality.pretrained]


def column_keys(name: str) -> tuple[str, ...]:
    """The recipe keys that name a modality's columns; the usual key comes first."""
    from ..data.modalities import reader_of

    return reader_of(name).column_keys


def words_for_columns() -> dict[str, str]:
    """The words that a dict of columns may use in addition to the names of modalities, such as `image` and `video`,
    with their keys."""
    from ..models.modality import MODALITIES

    packaged = [name for name, modality in MODALITIES.items() if not modality.extra]
    return {key.rpartition("_")[0]: key for name in packaged for key in column_keys(name)}


def keys_from_outside() -> dict[str, str]:
    """The keys (also flags) that name the columns of modalities from outside, with the modality of each. A recipe
    keeps such columns under `columns`. This loads nothing: if the registries are not loaded, nothing was
    registered."""
    known = sys.modules.get("mm_hf.data.modalities")
    if known is None:
        return {}
    extra = [name for name in modalities() if name in known.READERS and not short_keys(name)]
    return {key: name for name in extra for key in column_keys(name)}


def key_of_part(part: str) -> str:
    """The recipe key that names the columns of a part, see `Columns.named`."""
    outside = {name: key for key, name in reversed(keys_from_outside().items())}
    return {**words_for_columns(), **outside}.get(part, "columns" if part in modalities() else f"{part}_column")


def short_keys(name: str) -> tuple[str, ...]:
    """The keys that name a modality's columns and are flags too. A modality from outside has none: `columns` names its
    columns."""
    from ..models.modality import modality_of

    return () if modality_of(name).extra else column_keys(name)


def usual_key(name: str) -> str:
    """The key that usually names a modality's columns."""
    return next(iter(short_keys(name)), "columns")


def of_rates() -> dict[str, str]:
    """The words that a dict of learning rates may use in addition to the names of modalities."""
    return {"encoders": "encoder_learning_rate", "decoder": "decoder_learning_rate"}


@dataclass(frozen=True)
class Family:
    """A key that takes a dict by modality.

    Args:
        key: its name.
        form: an example of such a dict, for messages.
        short: gives the short form for a modality. If there is no key of this name, the value stays in the dict.
        default: the key that `default` stands for; "": the value stays in the dict; None: `default` is not allowed.
        others: other words that the dict may use, with their short forms.
        rest: the key of the dict that is kept; left out, `key`.
    """

    key: str
    form: str
    short: Callable[[str], str]
    default: str | None = None
    others: Callable[[], dict[str, str]] = dict
    rest: str = ""

    def short_form(self, name: Any) -> str:
        """The short form of one name in the dict; "" if the value stays in the dict.

        Raises:
            ValueError: the name is unknown.
        """
        others, known = self.others(), modalities()
        if name == DEFAULT and self.default is not None:
            return self.default
        if name in known:
            return self.short(name)
        if name not in others:
            refuse_name(self.key, name, [*([] if self.default is None else [DEFAULT]), *known, *others])
        return others[name]

    def spelled(self, given: Any) -> dict[str, Any]:
        """The value in a recipe as a dict.

        Raises:
            ValueError: it is no dict, and the key does not allow one value for all modalities.
        """
        if isinstance(given, dict):
            return given
        if self.default is None:
            raise ValueError(f"{self.key} must be of the form {self.form}, got {type(given).__name__} {shown(given)}.")
        return {DEFAULT: given}


RATES = Family(
    "learning_rate",
    "{default: 1e-4, vision: 1e-5}",
    "{}_learning_rate".format,
    default="learning_rate",
    others=of_rates,
    rest="extra_learning_rates",
)
COLUMNS = Family("columns", "{text: [title, body]}", lambda name: usual_key(name), others=words_for_columns)
FAMILIES = (
    RATES,
    Family("encoders", "{vision: google/vit-base-patch16-224}", "{}_encoder".format),
    Family("pooling", "{text: mean}", "{}_pooling".format, default=""),
    COLUMNS,
)
AUGMENT, EXTRA_AUGMENT = "augment", "extra_augment"  # the key, and the key for modalities from outside
KEPT = [*(family.rest or family.key for family in FAMILIES), EXTRA_AUGMENT]  # keys of the dicts that are kept


def short_forms(values: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The values of a recipe, or of flags, in their short forms.

    Args:
        values: by key.
        known: all keys that exist.

    Raises:
        ValueError: a name is unknown, a single value is given where a dict is needed, or a key is given in both forms
            with different values.
    """
    values = with_columns_from_outside(values)
    shortened = dict(values)
    for family in FAMILIES:
        if values.get(family.key) is None:
            continue
        kept: dict[Any, Any] = {}
        names: dict[str, Any] = {}
        del shortened[family.key]
        for name, value in family.spelled(values[family.key]).items():
            short = family.short_form(name)
            if family is COLUMNS and None in listed(value):
                place, count = listed(value).index(None) + 1, len(listed(value))
                raise ValueError(
                    f"{family.key}: place {place} of {count} of {name} is null. Name its column, or write "
                    '"" for a place without a column.'
                )
            if short not in known or (short == family.key and name != DEFAULT):
                kept[name] = value
                continue
            if short in names:
                raise ValueError(
                    f"{family.key} names {names[short]} and {name}, which both stand for {short}: keep one of them."
                )
            names[short] = name
            other = None if short == family.key else values.get(short)
            if other is not None and not is_same(other, value):
                raise ValueError(
                    f"{family.key} has {shown(value)} for {name}, and {short} is {shown(other)}: keep one of them."
                )
            shortened[short] = value
        if kept:
            shortened[family.rest or family.key] = kept
    if isinstance(values.get("freeze_encoders"), dict):
        shortened["freeze_encoders"] = frozen(values["freeze_encoders"])
    asked: Any = values.get(AUGMENT)
    asked = asked[0] if isinstance(asked, list) and len(asked) == 1 else asked  # a flag gives a list
    if isinstance(asked, dict):
        del shortened[AUGMENT]
        shortened |= augmentations(asked, shortened)
    extra = shortened.get(EXTRA_AUGMENT)
    for name in extra if isinstance(extra, dict) else ():
        if name not in modalities() or short_keys(name):
            refuse_name(EXTRA_AUGMENT, name, [other for other in modalities() if not short_keys(other)])
    return shortened


def with_columns_from_outside(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with the columns of modalities from outside moved under `columns`.

    Raises:
        ValueError: both forms are given, with different columns.
    """
    keys = keys_from_outside()
    given = {key: values[key] for key in keys if values.get(key) is not None}
    if not given:
        return {key: value for key, value in values.items() if key not in keys}
    columns = {} if values.get(COLUMNS.key) is None else dict(COLUMNS.spelled(values[COLUMNS.key]))
    for key, value in given.items():
        name = keys[key]
        other = columns.get(name)
        if other is not None and not is_same(other, value):
            raise ValueError(
                f"{COLUMNS.key} has {shown(other)} for {name}, and {key} is {shown(value)}: keep one of them."
            )
        columns[name] = value
    return {**{key: value for key, value in values.items() if key not in keys}, COLUMNS.key: columns}


def augmentations(given: dict[Any, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """`augment` by modality in its short forms: `augment` for pictures, `token_dropout` for texts and so on. Values
    for modalities from outside go to their readers.

    Raises:
        ValueError: a name is unknown, a modality has no augmentation, or the short form is given too, with another
            value.
    """
    from ..data.modalities import reader_of

    by_key: dict[str, Any] = {}
    for name, value in given.items():
        if name not in modalities():
            refuse_name(AUGMENT, name, modalities())
        key = reader_of(name).augmentation
        if key is None:
            can = [other for other in modalities() if reader_of(other).augmentation is not None]
            raise ValueError(f"{AUGMENT} names {name}, which has no augmentation. Modalities that have one: {can}.")
        if not short_keys(name):
            by_key.setdefault(EXTRA_AUGMENT, {})[name] = value
            continue
        if key != AUGMENT and others.get(key) is not None and not is_same(others[key], value):
            raise ValueError(
                f"{AUGMENT} has {shown(value)} for {name}, and {key} is {shown(others[key])}: keep one of them."
            )
        by_key[key] = value
    return by_key


def frozen(given: dict[Any, Any]) -> bool | list[str] | dict[str, bool]:
    """Which encoders are frozen, from true and false by modality: all, a list, or (all except some) a dict, which is
    kept until the modalities are known.

    Raises:
        ValueError: a name is unknown, or a value is neither true nor false.
    """
    known = [DEFAULT, *modalities()]
    for name in given:
        if name not in known:
            refuse_name("freeze_encoders", name, known)
    values = checked_value("freeze_encoders", dict[str, bool], given)
    if not values.get(DEFAULT):
        return [name for name, value in values.items() if value] or False
    return True if all(values.values()) else values


def refuse_name(key: str, name: Any, known: list[str]):
    """Raises ValueError about an unknown name."""
    raise ValueError(
        f"{key} names {shown(name)}. Known names: {', '.join(known)}.{did_you_mean(name, known)} A modality from "
        "outside mm_hf has to be imported: --import FILE."
    )


def is_same(one: Any, other: Any) -> bool:
    """Whether two values of a recipe mean the same: `front` and `[front]`, `1e-5` and `0.00001`."""

    def plain(value: Any) -> list[Any]:
        numbers = [number_of(part) if isinstance(part, str) else part for part in listed(value)]
        return [part if number is None else number for part, number in zip(listed(value), numbers)]

    return plain(one) == plain(other)


def listed(value: Any) -> list[Any]:
    """One value or several as a list; None gives an empty list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `below`, overridden by those of `above`. Dicts by modality are merged value by value."""
    merged = {**below, **above}
    for key in KEPT:
        if isinstance(below.get(key), dict) and isinstance(above.get(key), dict):
            merged[key] = {**below[key], **above[key]}
    return merged


# What a recipe says about one modality


def encoder_of(model_args: Any, name: str) -> Any:
    """Hub id or folder of a modality's encoder; None if the recipe names none."""
    return getattr(model_args, f"{name}_encoder", None) or (model_args.encoders or {}).get(name)


def columns_of(data_args: Any, name: str) -> list[str]:
    """The columns of a modality in a recipe; "" is a place without a column."""
    if name in (data_args.columns or {}):
        return list(data_args.columns[name])
    return [column for key in short_keys(name) for column in listed(getattr(data_args, key))]


def columns_by_modality(data_args: Any) -> dict[str, list[str]]:
    """The columns of each modality that has any, in the order that a model uses."""
    named = {name: [column for column in columns_of(data_args, name) if column] for name in modalities()}
    return {name: columns for name, columns in named.items() if columns}


def key_in_use(data_args: Any, name: str) -> str:
    """The key that names the columns of a modality."""
    return next((key for key in short_keys(name) if any(listed(getattr(data_args, key)))), "columns")


def check_columns(data_args: Any):
    """Refuses columns that a modality cannot use.

    Raises:
        ValueError: a column is named twice, or there are more or fewer columns than one item needs.
    """
    from ..data.modalities import reader_of

    for name, columns in columns_by_modality(data_args).items():
        key, parts = key_in_use(data_args, name), reader_of(name).item_columns
        if len(set(columns)) < len(columns):
            raise ValueError(f"{key} names a column twice: {columns}.")
        if parts and len(columns) != len(parts):
            raise ValueError(
                f"--{key_of_part(name)} names {columns} for {name}. One item of {name} needs {len(parts)} columns: "
                f"{', '.join(parts)}. Name these, in this order."
            )


def check_values_used(model_args: Any, data_args: Any, train_args: Any):
    """Refuses a value for a modality that the rows do not have: it would be ignored in silence.

    Raises:
        ValueError: names the key, the modality, and the modalities that the rows have.
    """
    named = list(columns_by_modality(data_args))
    extra_rates = train_args.extra_learning_rates or {}
    rates = {name: getattr(train_args, f"{name}_learning_rate", extra_rates.get(name)) for name in modalities()}
    frozen_or_not = model_args.freeze_encoders
    given: dict[str, Any] = {
        RATES.key: {name for name, rate in rates.items() if rate is not None},
        "freeze_encoders": {*frozen_or_not} - {DEFAULT} if isinstance(frozen_or_not, list | dict) else set(),
        "pooling": {name for name in modalities() if getattr(model_args, f"{name}_pooling", None) is not None},
        AUGMENT: {*(data_args.extra_augment or ())},
    }
    for key, names in given.items():
        if unused := [name for name in modalities() if name in names and name not in named]:
            raise ValueError(f"{key} names {unused}, but the rows have only {named}: leave it out.")


def missing_columns(data_args: Any, names: Collection[str]) -> list[str]:
    """The flags for those modalities whose columns are not named. (The value "" says that there is no column.)"""
    missing = []
    for name in names:
        keys = short_keys(name)
        if name not in (data_args.columns or {}) and all(getattr(data_args, key) is None for key in keys):
            missing.append(f"--{keys[0]}" if keys else f'--columns "{{{name}: …}}"')
    return missing


def places_of(parts: Mapping[str, list[str]], columns: Any = None) -> dict[str, Any]:
    """How many items of each modality a row may have, in the form of the model's config.

    Args:
        parts: see `MultimodalCollator`.
        columns: the columns of the data set (`Columns`). They say which pictures are frames of a video.
    """
    from ..models.modality import modality_of
    from ..models.vision import Vision

    several = {name: len(columns) for name, columns in parts.items() if modality_of(name).several_places}
    places = {name: count for name, count in several.items() if count > 1 and name != Vision.name}
    counts: dict[str, Any] = {"num_images": max(1, several.get(Vision.name, 1))}
    if columns is not None and columns.video is not None and columns.images:
        counts["num_frames"] = columns.frames(counts["num_images"])
    return {**counts, **({"places": places} if places else {})}


def poolings_of(model_args: Any, names: Collection[str]) -> dict[str, str] | None:
    """How one vector is read from the tokens of these modalities, if the recipe says so."""
    asked = model_args.pooling or {}
    short = {name: getattr(model_args, f"{name}_pooling", None) for name in names}
    poolings = {name: short[name] or asked.get(name, asked.get(DEFAULT)) for name in names}
    unused = sorted(set(asked) - {DEFAULT, *names})
    if unused:
        raise ValueError(f"pooling names {unused}, but the rows have only {sorted(names)}: leave it out.")
    return {name: how for name, how in poolings.items() if how} or None


def windows_asked(model_args: Any) -> int | None:
    """How many windows a long text becomes; None if it is cut."""
    return (model_args.text_windows or 4) if model_args.long_text == "windows" else None
