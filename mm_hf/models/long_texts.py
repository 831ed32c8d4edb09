# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Texts that are longer than an encoder can read, as several windows: texts again, each in a place of its own."""

from functools import lru_cache
from typing import Any

from transformers.utils import logging

from .raw_rows import Places
from .text import TOKENIZING, UNKNOWN_LENGTH


logger = logging.get_logger(__name__)

MAX_WINDOWS = 64
OVERLAP = 8  # one part in so many of a window is also in the one before: what stands at a seam is whole in one of them
REACH = 4  # the end of a word is looked for within the last quarter of a window
KEPT = 2048  # texts whose windows are remembered: each is asked for once a place


def check_windows(tokenizer: Any, count: Any):
    """Refuses windows that cannot be made.

    Raises:
        ValueError: no whole number from 2 on, or a tokenizer that does not say where its tokens stand.
    """
    if count is None:
        return
    if type(count) is not int or not 2 <= count <= MAX_WINDOWS:
        raise ValueError(f"text_windows must be a whole number from 2 to {MAX_WINDOWS} or None, got {count!r:.80}.")
    if tokenizer is not None and not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"text_windows is {count}, and {type(tokenizer).__name__} does not say where its tokens stand in a text: "
            "take its fast form (use_fast), or leave text_windows out, which cuts long texts."
        )


def windows_of(tokenizer: Any, text: str, count: int) -> list[str]:
    """A text as windows of at most as many tokens as the encoder reads: itself where it fits.

    They begin and end between words where the words allow it, and overlap a little. What lies behind the last of them
    is left out, and said once.

    Args:
        tokenizer: a fast one, whose `model_max_length` is what the encoder reads.
        count: windows at most.

    Returns:
        `1 … count` texts.
    """
    return list(_windows_of(tokenizer, text, count, tokenizer.model_max_length))


@lru_cache(KEPT)
def _windows_of(tokenizer: Any, text: str, count: int, longest: int) -> tuple[str, ...]:
    """See `windows_of`."""
    room = longest - tokenizer.num_special_tokens_to_add()
    if longest > UNKNOWN_LENGTH or room < 2 or len(text.encode("utf-8", "surrogatepass")) <= room:
        return (text,)
    with TOKENIZING:
        encoded = tokenizer(
            text, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False
        )
    offsets = [(start, end) for start, end in encoded["offset_mapping"] if end > start]
    if len(offsets) <= room:
        return (text,)
    overlap, reach = room // OVERLAP, room // REACH
    windows: list[str] = []
    begin = 0
    while len(windows) < count:
        end = min(begin + room, len(offsets))
        if end < len(offsets):  # back to the end of a word
            end = next((at for at in range(end, end - reach, -1) if begins_word(text, offsets, at)), end)
        windows.append(text[offsets[begin][0] : offsets[end - 1][1]])
        if end == len(offsets):
            return tuple(windows)
        nominal = end - overlap
        words = (at for at in range(nominal, end + 1) if begins_word(text, offsets, at))
        begin = max(begin + 1, next(words, nominal))
    logger.warning_once(
        f"A text of {len(offsets)} tokens has more than text_windows {count} windows of {room}: what is behind them "
        "is left out. This is said once."
    )
    return tuple(windows)


def begins_word(text: str, offsets: list[tuple[int, int]], at: int) -> bool:
    """Whether a word begins with a token: there is a space before it, or at its beginning, as some tokenizers have
    it."""
    start = offsets[at][0]
    return start == 0 or text[start - 1].isspace() or text[start].isspace()


def in_windows(tokenizer: Any, row: Any, count: int) -> Any:
    """The text or the texts of a row, each as `count` places of its windows, None for those that it does not need."""
    if row is None:
        return None
    places = Places()
    for text in row if isinstance(row, Places) else [row]:
        windows: list[Any] = windows_of(tokenizer, text, count) if isinstance(text, str) else [text]
        places += [*windows, *[None] * (count - len(windows))]
    return places
