"""The default encoders, if recipe and flags name none: those in the user's own file, else encoders from the Hub."""

import os
from dataclasses import fields
from pathlib import Path

from ..models.names import did_you_mean, shown
from .by_modality import pretrained_modalities
from .model_arguments import ModelArguments
from .recipe_files import read_yaml


VARIABLE = "MM_HF_ENCODERS"
OF_THE_HUB = {key.name: key.metadata["usual"] for key in fields(ModelArguments) if "usual" in key.metadata}


def default_encoder(modality: str) -> tuple[str, str]:
    """The default encoder of a modality: Hub id or folder, and in words where it is from.

    Raises:
        ValueError: see `own_encoders`; or there is no default, as for a modality from outside the package.
    """
    named = own_encoders()
    if modality in named:
        return named[modality], f"from {os.environ[VARIABLE]} ({VARIABLE})"
    if (key := f"{modality}_encoder") not in OF_THE_HUB:
        raise ValueError(f"encoders is missing: {modality} has no default encoder. Name one as {{{modality}: …}}.")
    return OF_THE_HUB[key], "the default, from the Hub"


def own_encoders() -> dict[str, str]:
    """The encoders by modality in the user's own file; an empty dict if the environment names no file.

    The file is YAML with lines such as `vision: encoders/my-vit`, and the same for `text` and `audio`. A value is a
    Hub id or a folder, relative to the folder of the file.

    Raises:
        ValueError: there is no such file, or its content has another form; the message names the file.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return {}
    file = Path(name)
    try:
        values = read_yaml(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{VARIABLE} is {name!r}: {error}") from None
    known = pretrained_modalities()
    of_all = f"{', '.join(known[:-1])} and {known[-1]}"
    form = f"lines such as `vision: google/vit-base-patch16-224`, for {of_all}"
    if not isinstance(values, dict):
        raise ValueError(f"{VARIABLE} is {name!r}: the file must have {form}; got {shown(values)}.")
    if unknown := [key for key in values if key not in known]:
        meant = did_you_mean(unknown[0], known)
        raise ValueError(f"{VARIABLE} is {name!r}: it names {shown(unknown[0])}; it must have {form}.{meant}")
    encoders = {}
    for modality, encoder in values.items():
        if not isinstance(encoder, str) or not encoder:
            raise ValueError(f"{VARIABLE} is {name!r}: {modality} must be a Hub id or a folder, got {shown(encoder)}.")
        beside = file.absolute().parent / Path(encoder).expanduser()
        if encoder.startswith((".", "~", "/")) and not beside.is_dir():
            raise ValueError(f"{VARIABLE} is {name!r}: {modality} names {encoder!r}, but there is no folder {beside}.")
        encoders[modality] = os.path.normpath(beside) if beside.is_dir() else encoder
    return encoders
