# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Compares the versions that made a checkpoint with the installed ones, and warns if they differ too much."""

import re
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers.utils import logging


logger = logging.get_logger(__name__)

VERSION = "0.2.0"  # of mm_hf; here too, because this file travels without the package; a test checks that both agree
# Versions of mm_hf below 1.0 that give the same answers from the same checkpoint. The checkpoints in
# tests/test_stored_checkpoints.py were written by 0.1, and the test checks that they answer as they did.
SAME_ANSWERS = {"0.1", "0.2"}


def versions_here() -> dict[str, str]:
    """The versions of the packages that compute the answers, as a checkpoint records them.

    Pillow and numpy are not included: their version changes every year, but their decoding and arithmetic do not.
    """
    return {"mm_hf": VERSION, "torch": str(torch.__version__), "transformers": transformers.__version__}


def major_of(version: Any) -> str | None:
    """The part of a version that defines compatibility (Semantic Versioning 2.0.0, items 4 and 8): the first number,
    or the first two for versions below 1. None if it is not a version."""
    numbers = re.match(r"(\d{1,9})(?:\.(\d{1,9}))?", version) if isinstance(version, str) else None
    if numbers is None:
        return None
    first, second = numbers.groups()
    return first if int(first) else f"0.{second or 0}"


def warn_of_other_versions(made: Mapping[str, Any]):
    """Warns, once per process, if a checkpoint was made with another major version of a package.

    Args:
        made: as `versions_here` returns them. A package without a version is not compared.
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
            f"This checkpoint was made with {said}: its answers may differ from the measured ones. Install "
            "these versions, or measure it again (mm_hf evaluate) and save it."
        )
