# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Opens files: only regular ones; and checks the JSON that they hold."""

import json
import os
import stat
from collections.abc import Iterable
from typing import Any


# Arguments of transformers that say where files come from.
HUB_KEYS = ("cache_dir", "force_download", "token", "revision", "local_files_only", "subfolder")
MAX_DEPTH = 64  # of nested lists and dicts: a usual config is some ten deep


def regular_file(path: Any, what: str) -> str:
    """The path of a file that can be read from beginning to end. Reading a pipe could wait for ever, and a device such
    as /dev/zero never ends.

    Raises:
        ValueError: there is no file, or it is a folder, a pipe or a device; the message says `what` it should be.
    """
    name = os.fspath(path)
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):  # ValueError: a NUL in the path
        raise ValueError(f"the {what} cannot be read: there is no file {name!r:.300}.") from None
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"the {what} cannot be read: {name!r:.300} is a folder, a pipe or a device. Only regular files are read."
        )
    return str(name) if isinstance(name, str) else os.fsdecode(name)


def read_json(path: Any, kind: type = dict) -> Any:
    """Reads a JSON file that holds a `dict` or a `list`.

    Raises:
        ValueError: in one line that names the file: it is not JSON in UTF-8, it is nested too deeply, or it holds
            another type.
        OSError: it cannot be opened.
    """
    name = os.fspath(path)
    with open(name, encoding="utf-8-sig") as file:
        try:
            value = json.load(file)
        except RecursionError:
            value = None
        except ValueError as error:  # not JSON, not UTF-8, or a number with thousands of digits
            raise ValueError(f"{name} is damaged, or not a JSON file: {error!s:.200}") from None
    if value is None or is_too_deep(value):
        raise ValueError(f"{name} is empty, or its lists and dicts are nested more than {MAX_DEPTH} deep.")
    if not isinstance(value, kind):
        raise ValueError(f"{name} must hold a {kind.__name__}, but it holds a {type(value).__name__}.")
    return value


def is_too_deep(value: Any, limit: int = MAX_DEPTH) -> bool:
    """Whether lists and dicts are nested deeper than code that walks through them can handle."""
    level = [value]
    for _ in range(limit + 1):
        level = [one for box in level if isinstance(box, (dict, list, tuple)) for one in inner(box)]
        if not level:
            return False
    return True


def inner(box: Any) -> Iterable[Any]:
    """The lists and dicts directly inside one."""
    values = box.values() if isinstance(box, dict) else box
    return [value for value in values if isinstance(value, (dict, list, tuple)) and value]
