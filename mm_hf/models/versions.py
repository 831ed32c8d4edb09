# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Which versions made a checkpoint, and whether those that are here are too far from them."""

import re
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers.utils import logging


logger = logging.get_logger(__name__)

VERSION = "0.2.0"  # of mm_hf, here too since this file travels without it; a test holds both together
# Versions of mm_hf below 1.0 that give the same answers from the same checkpoint: tests/test_stored_checkpoints.py has
# checkpoints of before 0.2, which 0.1 alone wrote, and holds that they answer as they did.
SAME_ANSWERS = {"0.1", "0.2"}


def versions_here() -> dict[str, str]:
    """The versions of what computes the answers, as a checkpoint keeps them.

    Pillow's and numpy's are not among them: theirs change every year, and their decoding and arithmetic do not.
    """
    return {"mm_hf": VERSION, "torch": str(torch.__version__), "transformers": transformers.__version__}


def major_of(version: Any) -> str | None:
    """The part of a version that says what is compatible (Semantic Versioning 2.0.0, items 4 and 8): the first number,
    of versions below 1 the first two. None for what is no version."""
    numbers = re.match(r"(\d{1,9})(?:\.(\d{1,9}))?", version) if isinstance(version, str) else None
    if numbers is None:
        return None
    first, second = numbers.groups()
    return first if int(first) else f"0.{second or 0}"


def warn_of_other_versions(made: Mapping[str, Any]):
    """Warns, once a process, where a checkpoint was made with another major version of something.

    Args:
        made: as `versions_here` gives them. What it does not name, or names without a version, is not compared.
    """
    others = []
    for name, here in versions_here().items():
        major = major_of(made.get(name))
        if name == "mm_hf" and {major, major_of(here)} <= SAME_ANSWERS:
            continue
        if major is not None and major != major_of(here):
            others.append((name, major, here))
    if others:
        said = ", ".join(f"{name} {major}.x (here: {here})" for name, major, here in others)
        logger.warning_once(
            f"This checkpoint was made with {said}: its answers may differ from those that were measured. Install "
            "these versions, or measure it again (mm_hf evaluate) and save it."
        )
