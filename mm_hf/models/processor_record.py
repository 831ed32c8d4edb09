# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""What a processor was when it was saved, so that one that lost a file is refused. The library makes a tokenizer of
the special tokens alone where the vocabulary is gone, and every text becomes a row of unknown words."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from typing import Any

from .checkpoint_files import read_checksums, tell_changed_files
from .configuration_mm_fusion import MMFusionConfig
from .modality import modality_of


RECORD = "saved_as"  # the key of processor_config.json
# Tokens that a vocabulary of words or pieces of words has at least; those of letters have fewer.
LEAST = 100
LEFT = 2  # tokens that are not special of a tokenizer that lost its vocabulary: T5's has the space
# Above that the tokens are not listed: of characters that are their own numbers (Canine's) there are a million.
MOST = 10**6
# What decides which numbers a picture or a sound becomes.
SETTINGS = {
    "image_processor": (
        "image_mean",
        "image_std",
        "size",
        "crop_size",
        "rescale_factor",
        "do_resize",
        "do_rescale",
        "do_normalize",
        "do_center_crop",
    ),
    "feature_extractor": (
        "sampling_rate",
        "feature_size",
        "n_fft",
        "hop_length",
        "num_mel_bins",
        "max_length",
        "mean",
        "std",
        "do_normalize",
    ),
}
WAY_OUT = (
    "Take its files from where they came once more. If the change is meant, load the parts one by one, make an "
    "MMFusionProcessor of them and save that."
)


def record_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of the parts of a processor, by their names; JSON keeps it as it is."""
    record: dict[str, Any] = {}
    for name, part in parts.items():
        if part is None:
            continue
        if name == "tokenizer":
            record[name] = {"length": len(part), "vocabulary": hash_of_vocabulary(part)}
        elif name in SETTINGS:
            record[name] = settings_of(part, SETTINGS[name])
    return json.loads(json.dumps(record))


def hash_of_vocabulary(tokenizer: Any) -> str | None:
    """The sha256 of all tokens with their ids, those that were added among them; None where they are not listed."""
    if len(tokenizer) > MOST:
        return None
    try:
        tokens = tokenizer.get_vocab()
    except NotImplementedError:
        return None
    listed = json.dumps(sorted(tokens.items()), ensure_ascii=True)
    return hashlib.sha256(listed.encode()).hexdigest()


def settings_of(part: Any, names: Collection[str]) -> dict[str, Any]:
    """Those of some settings that a part has. A size is a dict of its own kind, with gaps for what is not said."""
    values = part.to_dict()
    settings = {name: values[name] for name in names if values.get(name) is not None}
    for name, value in settings.items():
        if isinstance(value, Mapping) or hasattr(value, "keys"):
            settings[name] = {key: value[key] for key in value if value[key] is not None}
        elif isinstance(value, tuple):
            settings[name] = list(value)
    return {name: value for name, value in settings.items() if isinstance(value, (dict, list, int, float, str))}


def check_parts(
    parts: Mapping[str, Any], processor_dict: Mapping[str, Any], folder: str, complete: bool, given: Collection[str]
):
    """Refuses the parts of a processor that are not those that were saved, or not those of the model beside it.

    Args:
        parts: by name; None for those that are not there.
        complete: whether the folder holds all files of the checkpoint; that of the Hub's cache may not.
        given: arguments of `from_pretrained`: what they change is not compared.
    """
    lines = read_checksums(folder)
    if "processor_config.json" in lines and not processor_dict:
        raise ValueError(f"{folder} was saved with processor_config.json, and has none now. {WAY_OUT}")
    if lines:
        tell_changed_files(folder, lines, complete)
    record = processor_dict.get(RECORD)
    config = config_beside(folder)
    if record is not None:
        check_record(parts, record, folder, given)
    elif parts.get("tokenizer") is not None:
        check_unrecorded(parts["tokenizer"], words_of(config), folder)
    if config is not None:
        check_against(config, parts, folder, given)


def check_record(parts: Mapping[str, Any], record: Any, folder: str, given: Collection[str]):
    """See `check_parts`."""
    if not isinstance(record, Mapping) or not all(isinstance(part, Mapping) for part in record.values()):
        raise ValueError(f"{folder}/processor_config.json is damaged: {RECORD} is {str(record)[:80]!r}. {WAY_OUT}")
    for name, saved in record.items():
        part = parts.get(name)
        if part is None:
            raise ValueError(f"{folder} was saved with the part {name}, and has none now. {WAY_OUT}")
        if name == "tokenizer":
            if any(key.endswith(("_token", "_tokens")) for key in given):
                continue
            if len(part) != saved.get("length"):
                raise ValueError(
                    f"The tokenizer in {folder} has {len(part)} tokens, and was saved with {saved.get('length')}: a "
                    f"file of it is damaged, of another tokenizer, or gone. {WAY_OUT}"
                )
            if saved.get("vocabulary") is not None and (vocabulary := hash_of_vocabulary(part)) != saved["vocabulary"]:
                raise ValueError(
                    f"The tokens of the tokenizer in {folder} are not those that it was saved with, or have other ids "
                    f"(sha256 {str(vocabulary)[:12]}, not {str(saved['vocabulary'])[:12]}). {WAY_OUT}"
                )
            continue
        settings = json.loads(json.dumps(settings_of(part, SETTINGS.get(name, ()))))
        for key in sorted(set(saved) & set(settings)):
            # A key that only one of them has is of another release of the library.
            if key not in given and saved[key] != settings[key]:
                raise ValueError(
                    f"The {name} in {folder} has {key} {settings[key]}, and was saved with {saved[key]}. {WAY_OUT}"
                )


def check_unrecorded(tokenizer: Any, words: int | None, folder: str):
    """Of a processor that was saved before there were records: a vocabulary that is gone."""
    length = len(tokenizer)
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    if words is None:
        gone = length <= len(special) and set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens)
    else:  # of letters there may be few
        gone = length < words and (length - len(special) <= LEFT or length < LEAST <= words)
    if gone:
        model = "" if words is None else f", and the model beside it has {words}"
        raise ValueError(
            f"The tokenizer in {folder} has {length} tokens, {len(special)} of them special{model}: its vocabulary is "
            f"gone, such as tokenizer.json. {WAY_OUT}"
        )


def config_beside(folder: str) -> MMFusionConfig | None:
    """The config of the model that lies beside a processor; None where there is none that can be read: loading the
    model tells why."""
    path = os.path.join(folder, "config.json")
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        return MMFusionConfig.from_dict(values) if values.get("model_type") == MMFusionConfig.model_type else None
    except Exception:  # of configs of encoders that need code of their own, or that somebody damaged
        return None


def words_of(config: MMFusionConfig | None) -> int | None:
    """How many tokens a model has a place for; None where it reads and writes no text."""
    if config is None:
        return None
    for part in (config.text_config, getattr(config, "decoder_config", None)):
        if part is not None:
            return getattr(part.get_text_config(), "vocab_size", None)
    return getattr(config, "vocab_size", None)


def check_against(config: MMFusionConfig, parts: Mapping[str, Any], folder: str, given: Collection[str]):
    """What a processor makes has to be what the model beside it takes: refuses what is not, and names both values."""
    tokenizer, words = parts.get("tokenizer"), words_of(config)
    added = any(key.endswith(("_token", "_tokens")) for key in given)  # in this very call: the model may grow later
    highest = 0
    if tokenizer is not None and words is not None and len(tokenizer) > words and not added:
        highest = max(tokenizer.get_vocab().values())
    if words is not None and highest >= words:
        raise ValueError(
            f"The tokenizer in {folder} has ids up to {highest}, and the model beside it has embeddings for {words} "
            "tokens: call model.resize_token_embeddings(len(processor.tokenizer)) and save both, or take the "
            "tokenizer that it was trained with."
        )
    pairs = [
        pair for name in config.modalities for pair in modality_of(name).compared(parts, config.encoder_config(name))
    ]
    for what, made, taken in pairs:
        if made != taken:
            raise ValueError(
                f"The processor in {folder} makes {made} {what}, and the model beside it takes {taken}: they are not "
                "of one checkpoint."
            )
