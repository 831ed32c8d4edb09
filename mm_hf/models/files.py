# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Files that are opened: regular ones alone, and what JSON they may hold."""

import json
import os
import stat
from collections.abc import Iterable
from typing import Any


# Arguments of the library that say where files come from.
HUB_KEYS = ("cache_dir", "force_download", "token", "revision", "local_files_only", "subfolder")
MAX_DEPTH = 64  # lists and dicts in one another: those of any config are some ten deep


def regular_file(path: Any, what: str) -> str:
    """The path of a file that can be read from its beginning to its end. A pipe would wait for ever, and a device such
    as /dev/zero never ends.

    Raises:
        ValueError: there is no file, or it is a folder, a pipe or a device; the message says `what` it should hold.
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
    """What a JSON file holds, a `dict` or a `list`.

    Raises:
        ValueError: in one line that names the file: it is no JSON in UTF-8, it is nested so deeply that it cannot be
            read, or it holds something of another kind.
        OSError: it cannot be opened.
    """
    name = os.fspath(path)
    with open(name, encoding="utf-8-sig") as file:
        try:
            value = json.load(file)
        except RecursionError:
            value = None
        except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
            raise ValueError(f"{name} is damaged, or no JSON file: {error!s:.200}") from None
    if value is None or is_too_deep(value):
        raise ValueError(
            f"{name}: lists or dicts stand in one another, more than {MAX_DEPTH} deep, or it holds nothing."
        )
    if not isinstance(value, kind):
        raise ValueError(f"{name} must hold a {kind.__name__}, and holds a {type(value).__name__}.")
    return value


def is_too_deep(value: Any, limit: int = MAX_DEPTH) -> bool:
    """Whether lists and dicts stand in one another more often than any code that walks through them can bear."""
    level = [value]
    for _ in range(limit + 1):
        level = [one for box in level if isinstance(box, (dict, list, tuple)) for one in inner(box)]
        if not level:
            return False
    return True


def inner(box: Any) -> Iterable[Any]:
    """The boxes that stand in one."""
    values = box.values() if isinstance(box, dict) else box
    return [value for value in values if isinstance(value, (dict, list, tuple)) and value]
