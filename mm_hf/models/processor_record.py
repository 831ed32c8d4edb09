# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""A record of a processor when it was saved, so that one that lost a file is refused. Without its vocabulary file, the
library makes a tokenizer with only the special tokens, and every text becomes a row of unknown words."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from typing import Any

from .checkpoint_files import read_checksums, tell_changed_files
from .configuration_mm_fusion import MMFusionConfig
from .modality import modality_of


RECORD = "saved_as"  # the key of processor_config.json
# The least number of tokens in a vocabulary of words or word pieces; one of letters has fewer.
LEAST = 100
LEFT = 2  # tokens besides the special ones in a tokenizer that lost its vocabulary: T5 keeps the space
# Above this number the tokens are not listed: tokenizers of characters (Canine's) have a million.
MOST = 10**6
# The settings that change the numbers made from a picture or a sound.
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
    "Copy or download its files again. If the change is intended, load the parts one by one, make a "
    "MMFusionProcessor from them and save it."
)


def record_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the parts of a processor, by their names, in a form for JSON."""
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
    """The sha256 of all tokens with their ids, also of added tokens; None if they are too many to list."""
    if len(tokenizer) > MOST:
        return None
    try:
        tokens = tokenizer.get_vocab()
    except NotImplementedError:
        return None
    listed = json.dumps(sorted(tokens.items()), ensure_ascii=True)
    return hashlib.sha256(listed.encode()).hexdigest()


def settings_of(part: Any, names: Collection[str]) -> dict[str, Any]:
    """Those of some settings that a part has. A size object is converted to a dict without its empty entries."""
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
    """Refuses the parts of a processor if they have changed since they were saved, or do not fit the model beside it.

    Args:
        parts: by name; None for parts that are not there.
        complete: whether the folder has all files of the checkpoint; a folder of the Hub's cache may lack some.
        given: arguments of `from_pretrained`; the settings that they change are not compared.
    """
    lines = read_checksums(folder)
    if "processor_config.json" in lines and not processor_dict:
        raise ValueError(f"{folder} was saved with processor_config.json, but the file is missing. {WAY_OUT}")
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
            raise ValueError(f"{folder} was saved with the part {name}, but the part is missing. {WAY_OUT}")
        if name == "tokenizer":
            if any(key.endswith(("_token", "_tokens")) for key in given):
                continue
            if len(part) != saved.get("length"):
                raise ValueError(
                    f"The tokenizer in {folder} has {len(part)} tokens, but was saved with {saved.get('length')}: one "
                    f"of its files is damaged, missing, or from another tokenizer. {WAY_OUT}"
                )
            if saved.get("vocabulary") is not None and (vocabulary := hash_of_vocabulary(part)) != saved["vocabulary"]:
                raise ValueError(
                    f"The tokens of the tokenizer in {folder}, or their ids, have changed since it was saved "
                    f"(sha256 {str(vocabulary)[:12]}, not {str(saved['vocabulary'])[:12]}). {WAY_OUT}"
                )
            continue
        settings = json.loads(json.dumps(settings_of(part, SETTINGS.get(name, ()))))
        for key in sorted(set(saved) & set(settings)):
            # A key that only one of them has belongs to another release of the library.
            if key not in given and saved[key] != settings[key]:
                raise ValueError(
                    f"The {name} in {folder} has {key} {settings[key]}, but was saved with {saved[key]}. {WAY_OUT}"
                )


def check_unrecorded(tokenizer: Any, words: int | None, folder: str):
    """For a processor that was saved before there were records: refuses a tokenizer without its vocabulary."""
    length = len(tokenizer)
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    if words is None:
        gone = length <= len(special) and set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens)
    else:  # a vocabulary of letters may be this small
        gone = length < words and (length - len(special) <= LEFT or length < LEAST <= words)
    if gone:
        model = "" if words is None else f", but the model beside it has {words}"
        raise ValueError(
            f"The tokenizer in {folder} has {length} tokens, {len(special)} of them special{model}: its vocabulary "
            f"file, such as tokenizer.json, is missing. {WAY_OUT}"
        )


def config_beside(folder: str) -> MMFusionConfig | None:
    """The config of the model in the same folder as a processor; None if there is none that can be read (loading the
    model then reports why)."""
    path = os.path.join(folder, "config.json")
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        return MMFusionConfig.from_dict(values) if values.get("model_type") == MMFusionConfig.model_type else None
    except Exception:  # the config needs code of its own, or is damaged
        return None


def words_of(config: MMFusionConfig | None) -> int | None:
    """How many tokens a model has embeddings for; None if it reads and writes no text."""
    if config is None:
        return None
    for part in (config.text_config, getattr(config, "decoder_config", None)):
        if part is not None:
            return getattr(part.get_text_config(), "vocab_size", None)
    return getattr(config, "vocab_size", None)


def check_against(config: MMFusionConfig, parts: Mapping[str, Any], folder: str, given: Collection[str]):
    """Refuses a processor whose output does not fit the model in the same folder; the error names both values."""
    tokenizer, words = parts.get("tokenizer"), words_of(config)
    added = any(key.endswith(("_token", "_tokens")) for key in given)  # in this call: the model may be resized later
    highest = 0
    if tokenizer is not None and words is not None and len(tokenizer) > words and not added:
        highest = max(tokenizer.get_vocab().values())
    if words is not None and highest >= words:
        raise ValueError(
            f"The tokenizer in {folder} has ids up to {highest}, but the model beside it has embeddings for {words} "
            "tokens: call model.resize_token_embeddings(len(processor.tokenizer)) and save both, or use the "
            "tokenizer that the model was trained with."
        )
    pairs = [
        pair for name in config.modalities for pair in modality_of(name).compared(parts, config.encoder_config(name))
    ]
    for what, made, taken in pairs:
        if made != taken:
            raise ValueError(
                f"The processor in {folder} makes {made} {what}, but the model beside it takes {taken}: they do not "
                "belong to the same checkpoint."
            )
