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


LOOKED_AT = 2000  # texts whose length is looked at before the training


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
        """The columns; where long texts become windows, the name of each with the number of the window behind it."""
        names = super().columns(columns, collator)
        windows = None if collator is None else collator.processor.text_windows
        return [f"{name}#{place}" for name in names for place in range(windows)] if windows else names

    def kind_of(self, part):
        """A text."""
        return TEXT

    def looks(self, sample):
        """Texts of several words that do not keep coming back."""
        if not sample.are_sentences:
            return None
        words = f"{sample.words:.0f} words on average" if sample.words >= 1.5 else "single words"
        return Evidence(self.name, self.name, f"{words}, {sample.distinct:,} of {sample.present:,} differ")

    def prepare_column(self, split, column, part, root):
        """Numbers as texts."""
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
        if place and not isinstance(value, str):  # its first place says it
            return None
        if place and (not value.strip() or fault_of_text(value)):
            return None
        if not isinstance(value, str) or not value.strip():
            raise BadRowError(row, column, f"the text is empty or no text ({value!r:.80}); None means absent.")
        if fault := fault_of_text(value):
            raise BadRowError(row, column, fault)
        if not windows:
            return value
        texts = windows_of(collator.processor.tokenizer, value, windows)
        return texts[place] if place < len(texts) else None

    def load(self, row, column, collator):
        """The same."""
        return self.key(row, column, collator)

    def for_pipeline(self, row, collator):
        """Long texts are whole: a pipeline makes windows of them itself."""
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
        """See `ModalityReader`; and a token has to stand for dropped ones."""
        super().check(collator)
        if self.changes(collator) and mask_token_of(collator.processor.tokenizer) is None:
            raise ValueError("token_dropout needs a tokenizer with a mask token or an unknown token.")

    def linear_features(self, items):
        """What the encoder gives; of a recurrent one, which nobody has trained, the words in place of that."""
        fresh = isinstance(items.model.encoders[self.name], RecurrentModel)
        return word_features(items) if fresh else pooled_features(items)

    def line_refused(self, encoder):
        """A recurrent encoder gives no TF-IDF."""
        return "its line is fitted on words (TF-IDF)" if isinstance(encoder, RecurrentModel) else None

    def prepare(self, items, generators, collator):
        """Tokens, some of them dropped where that is asked for."""
        inputs = dict(collator.processor.without_windows()(text=items))
        if generators:
            tokenizer = collator.processor.tokenizer
            inputs["input_ids"] = drop_tokens(inputs["input_ids"], tokenizer, collator.token_dropout, generators)
        return inputs

    def describe(self, split, columns, root, tokenizer):
        """`texts`, see `summary.describe`."""
        return {"texts": by_column({column: describe_texts(split, column, tokenizer) for column in columns.texts})}

    def lines(self, summary):
        """One line a column."""
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
    """The token that stands for a dropped one: the mask, else the unknown one."""
    return tokenizer.unk_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id


def drop_tokens(
    input_ids: torch.Tensor, tokenizer: Any, share: float, generators: Sequence[np.random.Generator]
) -> torch.Tensor:
    """Masks tokens at random; special tokens, padding among them, stay.

    Args:
        input_ids: `(U, T)` int64.
        generators: one a text.

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
    """Lengths of the first texts, and how many differ; see `summary.describe`."""
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
    """What `describe_texts` found, for the terminal, with `name` in front of it; nothing where there are none."""
    if texts["words"] is None:
        return []
    lengths = [f"{unit} {' / '.join(map(str, texts[unit]))}" for unit in ("words", "tokens") if texts[unit]]
    return [f"  {what:<9} {name}median / 95 % / max: {'; '.join(lengths)}; {texts['distinct']:,} distinct"]
