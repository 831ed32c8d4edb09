# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Splits texts that are longer than an encoder can read into several windows. Each window is a text with its own
place."""

from functools import lru_cache
from typing import Any

from transformers.utils import logging

from .raw_rows import Places
from .text import TOKENIZING, UNKNOWN_LENGTH


logger = logging.get_logger(__name__)

MAX_WINDOWS = 64
OVERLAP = 8  # 1 / 8 of each window repeats the end of the window before, so that a word at a border is whole in one
REACH = 4  # a window ends at the end of a word, which is looked for in its last quarter
KEPT = 2048  # the windows of so many texts are cached, because each text is used once per place


def check_windows(tokenizer: Any, count: Any):
    """Refuses windows that cannot be made.

    Raises:
        ValueError: the count is not a whole number from 2 on, or the tokenizer does not give the places of its tokens.
    """
    if count is None:
        return
    if type(count) is not int or not 2 <= count <= MAX_WINDOWS:
        raise ValueError(f"text_windows must be a whole number from 2 to {MAX_WINDOWS} or None, got {count!r:.80}.")
    if tokenizer is not None and not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"text_windows is {count}, but {type(tokenizer).__name__} does not give the places of its tokens in a "
            "text: use its fast form (use_fast), or leave text_windows out, which cuts long texts."
        )


def windows_of(tokenizer: Any, text: str, count: int) -> list[str]:
    """Splits a text into windows of at most as many tokens as the encoder reads; a short text stays as it is.

    Windows begin and end between words if possible, and overlap a little. The text after the last window is left out,
    with a warning, once.

    Args:
        tokenizer: a fast one; its `model_max_length` is what the encoder reads.
        count: the highest number of windows.

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
        if end < len(offsets):  # move back to the end of a word
            end = next((at for at in range(end, end - reach, -1) if begins_word(text, offsets, at)), end)
        windows.append(text[offsets[begin][0] : offsets[end - 1][1]])
        if end == len(offsets):
            return tuple(windows)
        nominal = end - overlap
        words = (at for at in range(nominal, end + 1) if begins_word(text, offsets, at))
        begin = max(begin + 1, next(words, nominal))
    logger.warning_once(
        f"A text of {len(offsets)} tokens has more than text_windows {count} windows of {room}: the text after them "
        "is left out. This is said once."
    )
    return tuple(windows)


def begins_word(text: str, offsets: list[tuple[int, int]], at: int) -> bool:
    """Whether a token begins a word: there is a space before it, or at its beginning, as with some tokenizers."""
    start = offsets[at][0]
    return start == 0 or text[start - 1].isspace() or text[start].isspace()


def in_windows(tokenizer: Any, row: Any, count: int) -> Any:
    """The text or texts of a row, each as `count` places for its windows; places that it does not need are None."""
    if row is None:
        return None
    places = Places()
    for text in row if isinstance(row, Places) else [row]:
        windows: list[Any] = windows_of(tokenizer, text, count) if isinstance(text, str) else [text]
        places += [*windows, *[None] * (count - len(windows))]
    return places
