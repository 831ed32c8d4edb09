# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""What a model cannot take, and texts that cannot be read."""

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
    """Why a text cannot be read; None where it can."""
    if not isinstance(text, str) or not text.strip():
        return f"the text is empty or no string ({text!r:.80}); None means that there is none."
    return fault_of_unicode(text)


def fault_of_unicode(text: Any) -> str | None:
    """Why a text, which may be empty, is none; None where it is one."""
    if not isinstance(text, str):
        return f"this is no text: {text!r:.80}."
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"the text has a lone surrogate, {text[error.start]!r} at character {error.start}, and so is no valid "
            f"Unicode ({text!r:.80}): decode it anew, or drop such characters by text.encode('utf-8', "
            "'ignore').decode()."
        )
    return None


# What a model is given


def check_model_inputs(inputs: Mapping[str, Any], known: Iterable[str], others: Iterable[str] = ()):
    """Refuses what a model cannot take, and says what to do. The `known` inputs are tensors, `others` are let through.

    Raises:
        ValueError: raw rows in place of tensors, a batch without its two stars, a tensor under a name that is no
            input, or a name that is nearly one.
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
                f"The model has no input {name!r}, it reads tensors: the processor makes them, as in "
                f"model(**processor({argument}=…))."
            )
        elif isinstance(value, torch.Tensor) or name == "labels" or nearest(name, {*known, *others, "labels"}, 0.9):
            meant = "" if name == "labels" else did_you_mean(name, {*known, *others, "labels"})
            raise ValueError(f"The model has no input [{name!r}]; it has {known}, and heads have 'labels'.{meant}")


def argument_of(name: str) -> str | None:
    """The processor's argument for raw rows that people hand to a model under some name; None where they do not."""
    for modality in MODALITIES.values():
        if name in (modality.argument, *modality.row_keys, *modality.meant):
            return modality.argument
    return None


def check_is_tensor(name: str, value: Any):
    """Refuses the objects that people take for an input of a model: a batch, a picture, a text, or lists and arrays of
    these or of numbers."""
    if isinstance(value, Mapping):
        raise ValueError(
            f"{name} must be a tensor, got {type(value).__name__} with {list(value)[:6]}: a batch goes in with two "
            "stars, model(**batch)."
        )
    first: Any = value
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    kind = type(value).__name__ if first is value else f"{type(value).__name__} of {type(first).__name__}"
    if isinstance(first, (str, bytes, os.PathLike, Image, Mapping)):
        raise ValueError(
            f"{name} must be a tensor, got {kind}: rows go through the processor first, as in "
            "model(**processor(images=…, text=…))."
        )
    if isinstance(value, (list, tuple, np.ndarray)):
        raise ValueError(f"{name} must be a tensor, got {kind}: torch.tensor(…) makes one of numbers.")


def check_labels(labels: Any, name: str = "labels"):
    """Refuses labels that are no tensor: names of classes, lists or arrays of numbers, or anything else."""
    if isinstance(labels, torch.Tensor):
        return
    first: Any = labels
    while isinstance(first, (list, tuple, np.ndarray)) and len(first):
        first = first[0]
    if isinstance(first, str):
        raise ValueError(
            f"{name} must be a tensor of numbers, got names such as {first!r:.80}: model.config.label2id gives their "
            "numbers, processor.target_ids the tokens of texts that are to be written."
        )
    way = "" if first is labels else f": torch.tensor({name}) makes one."
    raise ValueError(f"{name} must be a tensor, got {type(labels).__name__}{way or '.'}")


def check_token_labels(labels: Any, rows: int):
    """Refuses labels that are no tokens of a text for each row: `(rows, S)` int64 is what is needed."""
    check_labels(labels)
    if labels.is_floating_point() or labels.ndim != 2 or len(labels) != rows:
        raise ValueError(
            f"labels must be whole numbers of shape ({rows}, S), the tokens of each row's text as "
            f"processor.target_ids gives them; got {labels.dtype} of shape {tuple(labels.shape)}."
        )


def check_classes(labels: torch.Tensor, count: int):
    """Refuses numbers that are no class; -100 is none. On the CPU alone: elsewhere a look would wait for all that was
    computed before."""
    if labels.device.type != "cpu":
        return
    outside = (labels != -100) & ((labels < 0) | (labels >= count))
    if outside.any():
        numbers = sorted(set(labels[outside].tolist()))[:10]
        raise ValueError(f"Labels are numbers from 0 to {count - 1}, or -100 for none; got {numbers}.")
