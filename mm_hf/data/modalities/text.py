"""Texts of a row."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Value

from ...models.inputs import fault_of_text
from ...models.long_texts import windows_of
from ...models.recurrent import RecurrentModel
from ...models.text import Text
from ..column_types import count_values, kind_of
from ..looks import Evidence
from ..request_items import text_of_request
from ..rows import BadRowError, is_absent
from ..shown import TEXT, shown_text
from .linear import pooled_features, word_features
from .reader import ModalityReader, by_column, of_columns, register_reader


LOOKED_AT = 2000  # how many texts are measured before training


@register_reader
class TextReader(ModalityReader):
    """Texts, each in its place."""

    name = Text.name
    column_keys = ("text_column",)
    cells = "texts"
    takes_texts = True
    augmentation = "token_dropout"
    captions = 0

    def columns(self, columns, collator=None):
        """The columns. If long texts are split into windows, each name is followed by the number of the window."""
        names = super().columns(columns, collator)
        windows = None if collator is None else collator.processor.text_windows
        return [f"{name}#{place}" for name in names for place in range(windows)] if windows else names

    def kind_of(self, part):
        """A text."""
        return TEXT

    def looks(self, sample):
        """Texts of several words that are not repeated often."""
        if not sample.are_sentences:
            return None
        words = f"{sample.words:.0f} words on average" if sample.words >= 1.5 else "single words"
        return Evidence(self.name, self.name, f"{words}, {sample.distinct:,} of {sample.present:,} differ")

    def prepare_column(self, split, column, part, root):
        """Turns numbers into texts."""
        numbers = kind_of(getattr(split.features[column], "dtype", "")) in ("int", "float")
        return split.cast_column(column, Value("string")) if numbers and isinstance(split, Dataset) else split

    def key(self, row, column, collator):
        """The text itself, or its window."""
        windows, place = collator.processor.text_windows, 0
        if windows:
            column, _, number = column.rpartition("#")
            place = int(number)
        value = row[column]
        if is_absent(value):
            return None
        if place and not isinstance(value, str):  # the first place reports the error
            return None
        if place and (not value.strip() or fault_of_text(value)):
            return None
        if not isinstance(value, str) or not value.strip():
            raise BadRowError(row, column, f"the text is empty or not a text ({value!r:.80}); None means absent.")
        if fault := fault_of_text(value):
            raise BadRowError(row, column, fault)
        if not windows:
            return value
        texts = windows_of(collator.processor.tokenizer, value, windows)
        return texts[place] if place < len(texts) else None

    def load(self, row, column, collator):
        """The text, or its window."""
        return self.key(row, column, collator)

    def for_pipeline(self, row, collator):
        """Long texts stay whole, because a pipeline splits them into windows itself."""
        if not collator.processor.text_windows:
            return super().for_pipeline(row, collator)
        columns = self.data_columns(collator.columns)
        texts = [row[column] if self.key(row, f"{column}#0", collator) is not None else None for column in columns]
        if all(text is None for text in texts):
            return {}
        return {Text.row_keys[0]: texts if len(texts) > 1 else texts[0]}

    def contents(self, row, column, key, collator):
        """The text itself."""
        return (key,)

    def check(self, collator):
        """See `ModalityReader`. Token dropout also needs a token to replace dropped ones."""
        super().check(collator)
        if self.changes(collator) and mask_token_of(collator.processor.tokenizer) is None:
            raise ValueError("token_dropout needs a tokenizer with a mask token or an unknown token.")

    def linear_features(self, items):
        """The output of the encoder. For a recurrent encoder, which is not pretrained, the words."""
        fresh = isinstance(items.model.encoders[self.name], RecurrentModel)
        return word_features(items) if fresh else pooled_features(items)

    def line_refused(self, encoder):
        """A recurrent encoder does not give TF-IDF features."""
        return "its linear model uses words (TF-IDF)" if isinstance(encoder, RecurrentModel) else None

    def prepare(self, items, generators, collator):
        """Tokens. With token dropout, some of them are masked."""
        inputs = dict(collator.processor.without_windows()(text=items))
        if generators:
            tokenizer = collator.processor.tokenizer
            inputs["input_ids"] = drop_tokens(inputs["input_ids"], tokenizer, collator.token_dropout, generators)
        return inputs

    def describe(self, split, columns, root, tokenizer):
        """`texts`, see `summary.describe`."""
        return {"texts": by_column({column: describe_texts(split, column, tokenizer) for column in columns.texts})}

    def lines(self, summary):
        """Lines for the terminal, for each column."""
        return [line for name, about in of_columns(summary["texts"]) for line in text_lines(about, name=name)]

    def from_request(self, value, key):
        """A text."""
        return text_of_request(value, key)

    def amounts(self, item, key):
        """Its characters."""
        return {"characters": len(item)}

    def request_schema(self, processor, key):
        """A text."""
        return {"type": "string", "minLength": 1}

    def request_example(self, processor, key):
        """A question, which is a text too."""
        return "what color is the shape?"

    def shown_item(self, item, collator):
        """The text, or its window."""
        return shown_text(item)

    def caption(self, row, collator):
        """The texts, one after the other."""
        texts = [row[column] for column in collator.columns.texts]
        present = [text for text in texts if isinstance(text, str)]
        return " | ".join(present) if present else None


def mask_token_of(tokenizer: Any) -> int | None:
    """The token that replaces a dropped token: the mask token, else the unknown token."""
    return tokenizer.unk_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id


def drop_tokens(
    input_ids: torch.Tensor, tokenizer: Any, share: float, generators: Sequence[np.random.Generator]
) -> torch.Tensor:
    """Masks tokens at random. Special tokens, including padding, stay.

    Args:
        input_ids: `(U, T)` int64.
        tokenizer: has the mask token and the special tokens.
        share: the share of tokens to mask, in [0, 1).
        generators: one per text.

    Returns:
        `(U, T)` int64.
    """
    special = torch.isin(input_ids, torch.tensor(tokenizer.all_special_ids))
    input_ids = input_ids.clone()
    for text, fixed, generator in zip(input_ids, special, generators):
        words = (~fixed).nonzero()[:, 0]
        drawn = generator.random(len(words))
        text[words[torch.from_numpy(drawn < share)]] = mask_token_of(tokenizer)
    return input_ids


def describe_texts(split: Dataset, column: str, tokenizer: Any) -> dict[str, Any]:
    """Lengths of the first texts, and how many texts are distinct; see `summary.describe`."""
    counts = count_values(split, column)
    texts = list(islice(present_texts(split, column), LOOKED_AT))
    about = {"looked_at": len(texts), "words": spread_of([len(text.split()) for text in texts]), "tokens": None}
    if tokenizer is not None and texts:
        about["tokens"] = spread_of([len(ids) for ids in tokenizer(texts, truncation=False, verbose=False).input_ids])
    return {**about, "distinct": len(counts)}


def present_texts(split: Dataset, column: str) -> Iterator[str]:
    """The texts of a column, one after the other."""
    for batch in split.select_columns([column]).iter(batch_size=1000):
        yield from (text for text in batch[column] if isinstance(text, str))


def spread_of(lengths: Sequence[int]) -> list[int] | None:
    """Median, 95th percentile and maximum."""
    return [int(np.percentile(lengths, share, method="higher")) for share in (50, 95, 100)] if lengths else None


def text_lines(texts: dict[str, Any], what: str = "texts", name: str = "") -> list[str]:
    """The result of `describe_texts` as lines for the terminal, with `name` at the start. Empty if there are no
    texts."""
    if texts["words"] is None:
        return []
    lengths = [f"{unit} {' / '.join(map(str, texts[unit]))}" for unit in ("words", "tokens") if texts[unit]]
    return [f"  {what:<9} {name}median / 95 % / max: {'; '.join(lengths)}; {texts['distinct']:,} distinct"]
