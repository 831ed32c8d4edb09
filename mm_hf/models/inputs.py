# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Checks of inputs: inputs that a model cannot take, and texts that cannot be read."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from .modality import MODALITIES
from .names import did_you_mean, nearest


# Texts


def fault_of_text(text: Any) -> str | None:
    """Why a text cannot be read; None if it can."""
    if not isinstance(text, str) or not text.strip():
        return f"the text is empty or not a string ({text!r:.80}); use None if there is no text."
    return fault_of_unicode(text)


def fault_of_unicode(text: Any) -> str | None:
    """Why a value is not a valid text (an empty text is valid); None if it is one."""
    if not isinstance(text, str):
        return f"this is not a text: {text!r:.80}."
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"the text has a lone surrogate, {text[error.start]!r} at character {error.start}, so it is not valid "
            f"Unicode ({text!r:.80}): decode it again, or drop such characters with text.encode('utf-8', "
            "'ignore').decode()."
        )
    return None


# The inputs of a model


def check_model_inputs(inputs: Mapping[str, Any], known: Iterable[str], others: Iterable[str] = ()):
    """Refuses inputs that a model cannot take, and says what to do. `known` inputs must be tensors, `others` may be
    anything.

    Raises:
        ValueError: raw rows instead of tensors, a batch without its two stars, a tensor under an unknown name, or a
            name that is almost the name of an input.
    """
    known, others = list(known), set(others)
    for name, value in inputs.items():
        if value is None or name in others:
            continue
        if name in known:
            if not isinstance(value, torch.Tensor):
                check_is_tensor(name, value)
        elif (argument := argument_of(name)) is not None:
            raise ValueError(
                f"The model has no input {name!r}, because it reads tensors: the processor makes them, as in "
                f"model(**processor({argument}=…))."
            )
        elif isinstance(value, torch.Tensor) or name == "labels" or nearest(name, {*known, *others, "labels"}, 0.9):
            meant = "" if name == "labels" else did_you_mean(name, {*known, *others, "labels"})
            raise ValueError(f"The model has no input [{name!r}]; it has {known}, and heads have 'labels'.{meant}")


def argument_of(name: str) -> str | None:
    """The processor's argument for raw rows, if people give the model such rows under this name; else None."""
    for modality in MODALITIES.values():
        if name in (modality.argument, *modality.row_keys, *modality.meant):
            return modality.argument
    return None


def check_is_tensor(name: str, value: Any):
    """Refuses objects that are often given instead of a tensor: a batch, a picture, a text, or lists and arrays of
    these or of numbers."""
    if isinstance(value, Mapping):
        raise ValueError(
            f"{name} must be a tensor, got {type(value).__name__} with {list(value)[:6]}: give a batch with two "
            "stars, model(**batch)."
        )
    first: Any = value
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    kind = type(value).__name__ if first is value else f"{type(value).__name__} of {type(first).__name__}"
    if isinstance(first, (str, bytes, os.PathLike, Image, Mapping)):
        raise ValueError(
            f"{name} must be a tensor, got {kind}: give rows to the processor first, as in "
            "model(**processor(images=…, text=…))."
        )
    if isinstance(value, (list, tuple, np.ndarray)):
        raise ValueError(f"{name} must be a tensor, got {kind}: torch.tensor(…) makes one from numbers.")


def check_labels(labels: Any, name: str = "labels"):
    """Refuses labels that are not a tensor: names of classes, lists or arrays of numbers, or anything else."""
    if isinstance(labels, torch.Tensor):
        return
    first: Any = labels
    while isinstance(first, (list, tuple, np.ndarray)) and len(first):
        first = first[0]
    if isinstance(first, str):
        raise ValueError(
            f"{name} must be a tensor of numbers, got names such as {first!r:.80}: use model.config.label2id for "
            "their numbers, or processor.target_ids for the tokens of texts to generate."
        )
    way = "" if first is labels else f": torch.tensor({name}) makes one."
    raise ValueError(f"{name} must be a tensor, got {type(labels).__name__}{way or '.'}")


def check_token_labels(labels: Any, rows: int):
    """Refuses labels that are not the tokens of a text for each row: they must be `(rows, S)` int64."""
    check_labels(labels)
    if labels.is_floating_point() or labels.ndim != 2 or len(labels) != rows:
        raise ValueError(
            f"labels must be whole numbers of shape ({rows}, S), the tokens of each row's text as "
            f"processor.target_ids gives them; got {labels.dtype} of shape {tuple(labels.shape)}."
        )


def check_classes(labels: torch.Tensor, count: int):
    """Refuses numbers that are not a class; -100 means no label. Only on the CPU: on another device, the check would
    wait for all earlier computations."""
    if labels.device.type != "cpu":
        return
    outside = (labels != -100) & ((labels < 0) | (labels >= count))
    if outside.any():
        numbers = sorted(set(labels[outside].tolist()))[:10]
        raise ValueError(f"Labels must be numbers from 0 to {count - 1}, or -100 for none; got {numbers}.")
