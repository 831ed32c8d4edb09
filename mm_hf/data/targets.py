"""Texts that a model learns to write: reads them from rows, and decodes them from tokens."""

from collections.abc import Sequence
from typing import Any

import torch

from ..models.inputs import fault_of_unicode
from ..models.text import decode_as_written, ends_of_text
from .rows import BadRowError, is_absent


def texts_to_write(
    rows: list[dict[str, Any]],
    column: str,
    names: Sequence[str | None] | None = None,
    bad: list[BadRowError] | None = None,
) -> list[str | None]:
    """The texts to write. None for a row without a text.

    Args:
        rows: as `Rows` gives them.
        column: the column of the texts.
        names: for a column of classes, their names, which are the texts, followed by None for the missing class -1.
        bad: collects bad rows, which then have no text; None: a bad row raises.
    """
    texts: list[str | None] = []
    for row in rows:
        value = None if is_absent(row[column]) else row[column]
        if names is not None and isinstance(value, int):
            value = names[value]
        fault = None
        if value is not None and not (isinstance(value, str) and value.strip()):
            fault = f"this is not a text to write ({value!r:.80}); None means absent."
        elif value is not None:
            fault = fault_of_unicode(value)
        if fault is not None:
            error = BadRowError(row, column, fault)
            if bad is None:
                raise error
            bad.append(error)
            value = None
        texts.append(value)
    return texts


def texts_of_tokens(tokens: torch.Tensor, tokenizer: Any, ended: bool = True) -> list[str | None]:
    """Decodes tokens into texts with the tokenizer. None for a row without tokens.

    Args:
        tokens: `(N, S)` int64: labels (-100 for none), or the output of a model without its start token.
        tokenizer: decodes the tokens.
        ended: each text ends with an end token.
    """
    _, end, pad = ends_of_text(tokenizer) if ended else (None, None, tokenizer.pad_token_id)
    texts: list[str | None] = []
    for row in tokens.tolist():
        if row and all(token == -100 for token in row):
            texts.append(None)
            continue
        row = row[: row.index(end)] if end in row else row
        written = [token for token in row if token not in (-100, pad)]
        texts.append(decode_as_written(tokenizer, written).strip())
    return texts
