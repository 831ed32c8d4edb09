# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Files that are opened: regular ones alone, and what JSON they may hold."""

import json
import os
import stat
from typing import Any


def regular_file(path: Any, what: str) -> str:
    """The path of a file that can be read from its beginning to its end. A pipe would wait for ever, and a device
    such as /dev/zero never ends.

    Args:
        path: a string or a `Path`.
        what: it holds, in messages.

    Raises:
        ValueError: there is no file, or it is a folder, a pipe or a device.
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
    """What a JSON file holds.

    Args:
        path: a string or a `Path`.
        kind: of the whole: `dict` or `list`.

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
            raise ValueError(f"{name} cannot be read: its lists and dicts stand in one another too deeply.") from None
        except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
            raise ValueError(f"{name} is damaged, or no JSON file: {error!s:.200}") from None
    if not isinstance(value, kind):
        raise ValueError(f"{name} must hold a {kind.__name__}, and holds a {type(value).__name__}.")
    return value


__all__ = ["read_json", "regular_file"]
