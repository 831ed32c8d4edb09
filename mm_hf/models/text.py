# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Texts: converts them to tokens, cut to the length that an encoder can read, and tokens back to texts."""

import inspect
import os
import threading
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.utils import logging

from .encoding import to_the_right
from .inputs import fault_of_text, fault_of_unicode
from .item_parts import whole_item, words
from .modality import Modality, register_modality
from .probing import longest_text, said_positions
from .raw_rows import arguments_of_call, is_one


logger = logging.get_logger(__name__)


# Encoders whose first token does not represent the sentence: causal ones, and those trained to pool elsewhere.
POOLING_OF_TYPE = {"clip_text_model": "last", "siglip_text_model": "last", "t5": "mean", "mm_fusion_recurrent": "mean"}
WAYS = 8  # the most ways in which a word is erased
RUNS = 96  # the number of encoder runs for one text, about
# Lengths above this mean that a tokenizer knows no limit (transformers itself uses 1e30).
UNKNOWN_LENGTH = 10**6
# The library's tokenizers store the length and the padding of a call in themselves: two threads at once would cut each
# other's texts. One lock is for all of them, because processors share tokenizers; a forked process has its own lock.
TOKENIZING = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TOKENIZING._at_fork_reinit)  # type: ignore[attr-defined]


def tokenize(tokenizer, texts: list[str], text_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Tokenizes texts, one thread at a time, and warns once if texts had to be cut. Refuses a text without any token,
    if the tokenizer has no token for unknown words."""
    with TOKENIZING:
        encoded = tokenizer(texts, **text_kwargs)
        mask = encoded.get("attention_mask")
        if isinstance(mask, torch.Tensor) and not (filled := mask.bool().any(-1)).all():
            # The tokenizer adds no special tokens: a text without any known word becomes the unknown token.
            if tokenizer.unk_token_id is None:
                raise ValueError(f"The text {texts[int(filled.int().argmin())]!r} has no token: use None.")
            ids = encoded["input_ids"].long() if mask.shape[1] else torch.zeros(len(texts), 1, dtype=torch.int64)
            mask = mask if mask.shape[1] else torch.zeros_like(ids)
            ids[~filled, 0], mask[~filled, 0] = tokenizer.unk_token_id, 1
            encoded.update({"input_ids": ids, "attention_mask": mask})
        limit = text_kwargs.get("max_length") or tokenizer.model_max_length
        full = [
            text for text, ids in zip(texts, encoded["input_ids"]) if text_kwargs["truncation"] and len(ids) >= limit
        ]
        if full:
            lengths = [len(ids) for ids in tokenizer(full, verbose=False)["input_ids"]]
            if max(lengths) > limit:
                logger.warning_once(
                    f"Texts of up to {max(lengths)} tokens are cut to {limit}, the limit of the text encoder. "
                    "This is said once."
                )
    return encoded


def target_ids(tokenizer, texts: list[str | None], max_length: int | None = None, end: bool = True) -> torch.Tensor:
    """See `MMFusionProcessor.target_ids`. Refuses a text with a lone surrogate, and a tokenizer without an end
    token."""
    last = [ends_of_text(tokenizer)[1]] if end else []
    for row, text in enumerate(texts):
        if text is not None and (fault := fault_of_unicode(text)):
            raise ValueError(f"Row {row}: {fault}")
    written = [text for text in texts if text is not None]
    with TOKENIZING:
        tokenized = iter(tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"] if written else [])
    longest = None if max_length is None else max_length - len(last)
    rows = [[] if text is None else [*next(tokenized)[:longest], *last] for text in texts]
    labels = torch.full((len(rows), max([1, *map(len, rows)])), -100)
    for row, tokens in enumerate(rows):
        labels[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
    return labels


def ends_of_text(tokenizer) -> tuple[int, int, int]:
    """The tokens at the start and at the end of a generated text, and the padding after it: CLS, SEP and PAD for BERT
    and similar tokenizers, else the BOS and EOS tokens of GPT-2 and similar ones. Refuses a tokenizer that has
    neither."""
    start = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if start is None or end is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no tokens for the start and end of a text: it needs CLS and SEP, or "
            "BOS and EOS."
        )
    return start, end, end if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def decode_as_written(tokenizer, tokens: Any, **kwargs: Any) -> str:
    """The text of tokens that represent it one by one. A CTC tokenizer (Wav2Vec2's) would treat them as the tokens of
    single moments, and merge repeated letters."""
    parameters = inspect.signature(getattr(tokenizer, "_decode", tokenizer.decode)).parameters
    grouped = {"group_tokens": False} if "group_tokens" in parameters else {}
    return tokenizer.decode(tokens, **grouped, **kwargs)


def limit_text(tokenizer, config):
    """Makes a tokenizer cut texts to the length that the text encoder of a config has positions for, even if the
    tokenizer claims more. If the tokenizer has no limit and positions have none either, nothing is cut."""
    longest = longest_text(config)
    if tokenizer.model_max_length > UNKNOWN_LENGTH:
        longest = longest or said_positions(config)
    if longest is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)


def ensure_padding(tokenizer):
    """Gives a tokenizer without a padding token (GPT-2's, Llama's) one of its other special tokens, if it has any. It
    does not matter which one, because the mask shows where padding is."""
    if tokenizer.pad_token is not None:
        return
    names = ("sep_token", "eos_token", "unk_token", "bos_token", "cls_token")
    name = next((name for name in names if getattr(tokenizer, name, None) is not None), None)
    if name is None:
        return
    tokenizer.pad_token = getattr(tokenizer, name)
    logger.warning_once(
        f"{type(tokenizer).__name__} has no padding token: its {name} {tokenizer.pad_token!r} is used, and the mask "
        "shows where padding is. This is said once."
    )


@register_modality
class Text(Modality):
    """Texts, one or several per row."""

    name = "text"
    order = 1
    inputs = ("input_ids", "inputs_embeds", "attention_mask", "token_type_ids")
    pretrained = True
    has_lengths = True
    model_type = "bert"
    argument = "text"
    part = "tokenizer"
    part_class = AutoTokenizer
    part_file = "tokenizer_config.json"
    kwargs_key = "text_kwargs"
    item = "text"
    items = "texts"
    row_keys = ("text", "question")
    meant = ("texts",)
    mixes_parts = True

    def dummy_inputs(self, config, device=None, dtype=None):
        ids = torch.zeros(1, 4, dtype=torch.long, device=device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def probe_items(self, encoder):
        """Three texts of seven words."""
        size = getattr(encoder.config.get_text_config(), "vocab_size", None) or 256  # CANINE reads characters
        kept: set = set()
        for name in ("pad", "bos", "eos", "cls", "sep", "mask"):
            special = getattr(encoder.config, f"{name}_token_id", None)
            kept.update(special if isinstance(special, (list, tuple)) else [special])
        ordinary = [number for number in range(max(2, size // 4), size) if number not in kept]
        chosen = [ordinary[place * len(ordinary) // 14] for place in range(14)]
        texts = [chosen[:7], [chosen[0], *chosen[8:]], [*chosen[8:], chosen[6]]]
        return [
            {
                "input_ids": torch.tensor([text], device=encoder.device),
                "attention_mask": torch.ones(1, len(text), dtype=torch.long, device=encoder.device),
            }
            for text in texts
        ]

    def pooling(self, config):
        """The first token, except for causal encoders and those that were trained to pool elsewhere."""
        return POOLING_OF_TYPE.get(config.model_type, "cls")

    def is_item(self, value):
        """A string, or any value that holds none: an empty list in a row is a bad row."""
        return is_one(value) or (isinstance(value, (list, tuple)) and not value)

    def is_single(self, value):
        return is_one(value)

    def list_rows(self, value):
        if getattr(value, "ndim", 1) == 0 and hasattr(value, "item"):  # an array of one string
            value = value.item()
        return super().list_rows(value)

    def check(self, item, processor, settings):
        """See `fault_of_text`."""
        return self.load_item(processor, item)

    def prepare(self, items, processor, settings):
        """See `tokenize`."""
        return tokenize(processor.tokenizer, items, dict(settings))

    def made_inputs(self, part):
        """With the mask, which SigLIP's tokenizer does not list, but makes on request."""
        return list(dict.fromkeys([*super().made_inputs(part), "attention_mask"]))

    def part_arguments(self, part):
        return arguments_of_call(part)

    def parts_of_encoder(self, source, settings, read_config, **kwargs):
        """A tokenizer that cuts texts to the length that the encoder in the same folder can read."""
        tokenizer = AutoTokenizer.from_pretrained(source, **kwargs)
        try:
            config = read_config(**kwargs)
        except (OSError, ValueError):  # a tokenizer without an encoder in its folder
            if tokenizer.model_max_length > UNKNOWN_LENGTH:
                raise
        else:
            limit_text(tokenizer, config)
        return {self.part: tokenizer}

    def parts(self, shapes, mask, config, item=None, processor=None):
        """Words, if the text is given."""
        ((tokens,),), tokenizer = shapes, getattr(processor, self.part, None)
        if isinstance(item, str) and tokenizer is not None:
            with TOKENIZING:
                parts = words(item, tokenizer, tokens, mask)
            if parts is not None:
                return parts
        return whole_item(tokens, mask, "text")

    def erase(self, inputs, parts, erased, background=None, processor=None, way=0):
        """Replaces words by the words at the same place in another text, counted from the nearer end; without other
        texts by the mask token, or the unknown token if there is no mask token."""
        tokenizer = getattr(processor, self.part, None)
        masks = (getattr(tokenizer, f"{name}_token_id", None) for name in ("mask", "unk"))
        mask = next((token for token in masks if token is not None), None)
        if "input_ids" not in inputs or mask is None:
            return None
        inputs = to_the_right(inputs)
        ids = inputs["input_ids"]
        instead = torch.full_like(ids[0], mask)
        if background is not None and "input_ids" in background:
            others = to_the_right(background)
            other, tokens = counted_ids(others, way % len(others["input_ids"])), len(counted_ids(inputs, 0))
            special = torch.tensor(tokenizer.all_special_ids, device=ids.device)
            at = torch.arange(tokens, device=ids.device)
            at = torch.where(at < tokens / 2, at, at + len(other) - tokens).clamp(0, len(other) - 1)
            instead[:tokens] = other[at].masked_fill(torch.isin(other[at], special), mask)
        gone = parts.tokens_of(erased)[:, : ids.shape[1]].to(ids.device)
        edited = {name: value.expand(len(gone), *value.shape[1:]) for name, value in inputs.items()}
        return {**edited, "input_ids": torch.where(gone, instead, ids)}

    def ways(self, parts, background=None):
        """As many ways as there are other texts, fewer for a long text: each way is one more encoder run per word."""
        return 1 if not background else max(1, min(WAYS, RUNS // parts.count))

    def places_of_item(self, processor):
        """One, except if long texts become windows."""
        return getattr(processor, "text_windows", None) or 1

    def load_item(self, processor, source):
        if fault := fault_of_text(source):
            raise ValueError(fault)
        return source


def counted_ids(inputs: dict[str, torch.Tensor], row: int) -> torch.Tensor:
    """The tokens of one text without its padding, from the model's inputs."""
    ids, mask = inputs["input_ids"][row], inputs.get("attention_mask")
    return ids if mask is None else ids[mask[row].bool()]
