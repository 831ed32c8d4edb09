# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Which tokens belong to which part of an item: the cells of a picture, the words of a text, moments, columns.

Notation used for tensor shapes: `T` tokens of an item; `P` parts.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


MOMENTS = 48  # the most parts of a sound, a series or a text: more cannot be told apart in a drawing
CELLS = 8  # the most cells per side of a picture: finer ones show little more, and each costs a run of the fusion
# How many tokens may come before the patches of a picture: the class token, a distillation token, four registers.
SPECIAL_TOKENS = (0, 1, 2, 4, 5, 6)
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class ItemParts:
    """The parts of one item.

    Args:
        kind: how a page draws the item: "picture", "text", "sound", "series", "table" or "other".
        shape: the shape of a map over the parts, `(rows, columns)` for a picture, else `(P,)`.
        tokens: `(T,)` int64, the part of each token, counted row by row; -1 for none: padding, and tokens that stand
            for the whole item.
        reach: how many neighbours on each side are removed together with a part, because an object may cross the
            border of a part.
        where: the places of the parts, by name: `spans` (characters, from and to), `times` (from and to), `columns`;
            for a picture of which the encoder sees only a part, also the `box` that the cells cover, see
            `box_seen`.
    """

    kind: str
    shape: tuple[int, ...]
    tokens: torch.Tensor
    reach: int = 0
    where: Mapping[str, list] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """P."""
        return math.prod(self.shape)

    def windows(self, reach: int | None = None) -> torch.Tensor:
        """Which parts are removed with each, `(P, P)` bool: those at most `reach` steps away, across, down or both."""
        reach = self.reach if reach is None else reach
        places = torch.cartesian_prod(*map(torch.arange, self.shape)).reshape(self.count, -1)  # (P, 1 or 2)
        return (places[:, None] - places[None]).abs().amax(-1) <= reach

    def tokens_of(self, parts: torch.Tensor) -> torch.Tensor:
        """The tokens of chosen parts: from `(N, P)` bool to `(N, T)` bool."""
        return parts.to(self.tokens.device)[:, self.tokens.clamp(min=0)] & (self.tokens >= 0)


def whole_item(tokens: int, mask: torch.Tensor | None = None, kind: str = "other") -> ItemParts:
    """An item as a single part; the mask is `(T,)` bool, None if there is no padding."""
    parts = torch.zeros(tokens, dtype=torch.int64)
    return ItemParts(kind, (1,), parts if mask is None else parts.masked_fill(~mask.cpu(), -1))


def cells(shapes: Sequence[tuple[int, ...]], config: Any, size: tuple[int, int] | None = None) -> ItemParts | None:
    """The cells of a picture: the cells of its coarsest level, or groups of them. Finer levels have several tokens per
    cell.

    Args:
        shapes: see `ModalityProjection.token_shapes`.
        config: the encoder's config, which contains the grid of patches.
        size: height and width of the picture in pixels, as the encoder gets it; None: from the config.

    Returns:
        None if a level is not a grid.
    """
    grids = [(0, *shape) if len(shape) == 2 else patches(config, shape[0], size) for shape in shapes]
    known = [grid for grid in grids if grid is not None]
    if not known or len(known) < len(grids):
        return None
    coarsest = min(known, key=lambda grid: grid[1] * grid[2])
    rows, columns = (-(-side // -(-side // CELLS)) for side in coarsest[1:])
    tokens = []
    for before, height, width in known:
        down = (torch.arange(height) + 0.5) * rows / height
        right = (torch.arange(width) + 0.5) * columns / width
        cell = down.long()[:, None] * columns + right.long()
        tokens += [torch.full((before,), -1), cell.flatten()]
    return ItemParts("picture", (rows, columns), torch.cat(tokens), reach=1)


def patches(config: Any, tokens: int, size: tuple[int, int] | None = None) -> tuple[int, int, int] | None:
    """The grid of a vision transformer's tokens: the number of tokens before the patches, its rows and its columns;
    None if the tokens are not a grid. A grid has the proportions of its picture, even if the encoder has merged
    patches. If neither `size` nor the config gives them, it is a square."""
    patch, known = getattr(config, "patch_size", None), size or getattr(config, "image_size", None)
    height, width = (known, known) if isinstance(known, int) else tuple(known or (1, 1))
    if patch and known:
        down, right = (patch, patch) if isinstance(patch, int) else tuple(patch)
        before = tokens - (height // down) * (width // right)
        if 0 <= before <= max(SPECIAL_TOKENS):
            return before, height // down, width // right
    for before in SPECIAL_TOKENS:
        count = max(tokens - before, 1)
        rows, columns = (round(math.sqrt(count * ratio)) for ratio in (height / width, width / height))
        if rows * columns == tokens - before:
            return before, rows, columns
    return None


def moments(kind: str, tokens: int, mask: torch.Tensor | None, length: float | None, most: int = MOMENTS) -> ItemParts:
    """Moments of an item that runs in time; all have the same length except the last.

    Args:
        kind: see `ItemParts`.
        tokens: T.
        mask: `(T,)` bool, the tokens that count; None: all.
        length: the length of the item in seconds or steps; None: it is counted in tokens.
        most: the highest number of moments.
    """
    count = tokens if mask is None else max(1, int(mask.sum()))
    each = -(-count // most)
    parts = torch.arange(tokens) // each
    parts[count:] = -1
    step = each if length is None else each * length / count
    number = -(-count // each)
    end = count if length is None else length
    times = [[place * step, min((place + 1) * step, end)] for place in range(number)]
    return ItemParts(kind, (number,), parts, reach=1, where={"times": times})


def words(text: str, tokenizer: Any, tokens: int, mask: torch.Tensor | None, **settings: Any) -> ItemParts | None:
    """The words of a text, and the tokens of each.

    A fast tokenizer gives the places of its tokens. With other tokenizers each word is tokenized alone; if the numbers
    of tokens then differ, the whole text is one part.

    Args:
        text: the text that was tokenized; its padding is at the end.
        tokenizer: the processor's tokenizer.
        tokens: T.
        mask: `(T,)` bool, the tokens that count; None: all.
        settings: the arguments of the call that tokenized it, such as `max_length`.

    Returns:
        None if the words cannot be told apart.
    """
    count = tokens if mask is None else int(mask.sum())
    parts = torch.full((tokens,), -1)
    if getattr(tokenizer, "is_fast", False):
        settings = {"truncation": True, **settings, "padding": False, "return_tensors": None}
        encoded = tokenizer(text, return_offsets_mapping=True, **settings)
        numbers, offsets = encoded.word_ids(0), encoded["offset_mapping"]
        if len(numbers) != count:
            return None
        spans: dict[int, list[int]] = {}
        for place, (number, (start, end)) in enumerate(zip(numbers, offsets)):
            start += len(text[start:end]) - len(text[start:end].lstrip())  # some include the space before a word
            if number is None or end <= start:
                continue
            span = spans.setdefault(number, [start, end])
            span[0], span[1] = min(span[0], start), max(span[1], end)
            parts[place] = list(spans).index(number)
        return text_parts(parts, list(spans.values()))
    matches = [match.span() for match in WORD.finditer(text)]
    lengths = [len(tokenizer.tokenize(text[start:end])) for start, end in matches]
    before = leading_tokens(tokenizer)
    if before is None or sum(lengths) + tokenizer.num_special_tokens_to_add() != count:
        return None
    place = before
    for number, length in enumerate(lengths):
        parts[place : place + length] = number
        place += length
    return text_parts(parts, [list(span) for span in matches])


def text_parts(tokens: torch.Tensor, spans: list[list[int]]) -> ItemParts | None:
    """Parts with their spans; if there are many, neighbours are merged. None if there is no word."""
    each = -(-len(spans) // MOMENTS)
    if each > 1:
        tokens = torch.where(tokens < 0, tokens, tokens // each)
        spans = [[spans[at][0], spans[min(at + each, len(spans)) - 1][1]] for at in range(0, len(spans), each)]
    return ItemParts("text", (len(spans),), tokens, where={"spans": spans}) if spans else None


def leading_tokens(tokenizer: Any) -> int | None:
    """How many special tokens a tokenizer puts before a text; None if it does not say."""
    try:
        return tokenizer.build_inputs_with_special_tokens([-1]).index(-1)
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return None


def table_columns(tokens: int, names: Sequence[str] | None) -> ItemParts:
    """The columns of a table, one token each, by their names; numbered if the names are not known."""
    names = list(names or map(str, range(tokens)))
    return ItemParts("table", (tokens,), torch.arange(tokens), where={"columns": names})
