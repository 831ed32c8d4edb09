# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Files that are opened: regular ones alone."""

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


__all__ = ["regular_file"]
