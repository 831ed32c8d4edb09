# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Names and values in messages: suggests the right name for a misspelt one, and shortens values."""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


def did_you_mean(name: object, known: Iterable[object], cutoff: float = 0.6) -> str:
    """The end of a message about an unknown name: " Did you mean 'text'?", or empty if no known name is similar. The
    cutoff, from 0 to 1, is that of `difflib.get_close_matches`."""
    meant = nearest(name, known, cutoff)
    return "" if meant is None else f" Did you mean {meant!r}?"


def nearest(name: object, known: Iterable[object], cutoff: float = 0.6) -> str | None:
    """The known name that is most similar to this one, ignoring case; None if none is similar."""
    spelled = {str(one).lower(): str(one) for one in known}
    matches = difflib.get_close_matches(str(name).lower(), list(spelled), n=1, cutoff=cutoff)
    return spelled[matches[0]] if matches else None


def shown(value: Any) -> str:
    """A value for a message: short, however large or deep it is."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 80, 80
    try:
        return short.repr(value)
    except ValueError:  # a whole number with more digits than Python prints
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"
