"""Make a recurrent encoder, an LSTM or GRU, for the words of a data set's training part, or for the spectrum of
sounds.

    mm_hf prepare recurrent data/encoders/lstm-easy-vqa --dataset data/easy_vqa --text_column question
    mm_hf prepare recurrent OUT --dataset mine.csv --text_column review --word_vectors glove.6B.100d.txt
    mm_hf prepare recurrent data/encoders/lstm-sound --mel_bins 80

It writes a folder that a recipe can name as its text or audio encoder: `text_encoder: data/encoders/lstm-easy-vqa`.
    The
encoder is untrained, except for the word vectors if you give a file of them. So it must be trained: do not name it in
freeze_encoders, and set a text_learning_rate or audio_learning_rate as high as learning_rate. If the data have no
parts, the vocabulary has the words of all rows, including rows that a run will split off for its test. If this
matters, bring data with parts.

Sounds are read as frames of 25 ms, one every 10 ms. A frame has the logarithms of some mel bands. Each band of a sound
is scaled to mean 0 and variance 1. The feature extractor is `Speech2TextFeatureExtractor`, for 16 kHz.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Speech2TextFeatureExtractor

from ..data import Columns, load_splits, read_word_vectors, word_tokenizer
from ..models.recurrent import RNNS, RecurrentConfig, RecurrentModel
from .common import PreparationError, folder_in_place, is_complete


CODE = ("recurrent.py", "config_checks.py", "files.py", "names.py")
FILES = ("config.json", "model.safetensors", "README.md", *CODE)
WORD_FILES = (*FILES, "tokenizer.json", "tokenizer_config.json")
SOUND_FILES = (*FILES, "preprocessor_config.json")

MOST_MEL_BINS = 126  # with more bands, some contain no frequency of a frame

CARD = """---
library_name: transformers
pipeline_tag: feature-extraction
tags:
- mm_fusion_recurrent
---

# A recurrent encoder

`{rnn_type}` over {what}. Made by `mm_hf prepare recurrent` of mm_hf with seed {seed}; {trained}.
"""


def texts_of(options: argparse.Namespace) -> Iterator[str]:
    """The texts of the training part, without empty ones."""
    columns = Columns(text=options.text_column)
    splits = load_splits(options.dataset, columns, validation_fraction=0, test_fraction=0)
    if "train" not in splits:
        raise ValueError(f"{options.dataset} has no part train, only {list(splits)}: rename one of them to train.")
    return (text for text in splits["train"][options.text_column] if text)


def config_of(options: argparse.Namespace, **settings: Any) -> RecurrentConfig:
    """The config for the options."""
    return RecurrentConfig(
        rnn_type=options.rnn_type,
        hidden_size=options.hidden_size,
        num_hidden_layers=options.num_hidden_layers,
        bidirectional=not options.one_direction,
        hidden_dropout_prob=options.dropout,
        **settings,
    )


def write_card(folder: Path, options: argparse.Namespace, what: str, trained: str) -> None:
    """Writes the card of the encoder."""
    card = CARD.format(rnn_type=options.rnn_type, what=what, seed=options.seed, trained=trained)
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_sound_encoder(folder: Path, options: argparse.Namespace) -> None:
    """Writes an encoder of sounds with its feature extractor."""
    torch.manual_seed(options.seed)
    RecurrentModel(config_of(options, input_size=options.mel_bins)).save_pretrained(folder)
    extractor = Speech2TextFeatureExtractor(feature_size=options.mel_bins, num_mel_bins=options.mel_bins)
    extractor.save_pretrained(folder)
    write_card(folder, options, f"frames of {options.mel_bins} mel bands of sounds", "nothing in it is trained yet")


def write_text_encoder(folder: Path, options: argparse.Namespace) -> None:
    """Writes an encoder of words with its tokenizer."""
    tokenizer = word_tokenizer(texts_of(options), max_words=options.max_words, min_count=options.min_count)
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    vectors, known = None, torch.zeros(len(words), dtype=torch.bool)
    if options.word_vectors is not None:
        vectors, known = read_word_vectors(options.word_vectors, words)
    torch.manual_seed(options.seed)
    config = config_of(
        options,
        vocab_size=len(words),
        embedding_size=options.embedding_size if vectors is None else vectors.shape[1],
        pad_token_id=tokenizer.pad_token_id,
    )
    if vectors is not None and vectors[known].numel() > 1:  # vectors of other words get the same scale
        config.initializer_range = vectors[known].std().item() or 1.0
    model = RecurrentModel(config)
    if vectors is not None:
        model.get_parameter("embeddings.weight").data[known] = vectors[known]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    what = f"the {len(words)} words of column `{options.text_column}` of `{Path(options.dataset).name}`, training part"
    trained = "nothing in it is trained yet"
    if known.any():
        trained += f" except {int(known.sum())} word vectors, which come from `{Path(options.word_vectors).name}`"
    write_card(folder, options, what, trained)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="mm_hf prepare recurrent",
        description=__doc__.split("\n")[0],
        epilog="An existing encoder stays as it is.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("output", metavar="OUT", type=Path, help="folder for the encoder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", help="for words: a file, a folder or a Hub id, as in a recipe")
    source.add_argument("--mel_bins", type=int, help="for sounds instead of words: the number of mel bands of a frame")
    parser.add_argument("--text_column", help="column of the texts")
    parser.add_argument("--rnn_type", choices=list(RNNS), default="lstm", help="kind of recurrent layer")
    parser.add_argument("--word_vectors", metavar="FILE", help="text file with vectors of word2vec or GloVe")
    parser.add_argument("--embedding_size", type=int, default=100, help="width of word vectors, if there is no file")
    parser.add_argument("--hidden_size", type=int, default=128, help="width of the output, both directions together")
    parser.add_argument("--num_hidden_layers", type=int, default=1, help="number of recurrent layers")
    parser.add_argument("--one_direction", action="store_true", help="read only from the start to the end")
    parser.add_argument("--dropout", type=float, default=0.0, help="dropout on the input of each layer")
    parser.add_argument("--max_words", type=int, default=30000, help="size of the vocabulary (most frequent words)")
    parser.add_argument("--min_count", type=int, default=1, help="how often a word must occur")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights")
    parser.add_argument("--force", action="store_true", help="build the encoder again even if it is complete")
    options = parser.parse_args(arguments)
    if (options.dataset is None) != (options.text_column is None):
        parser.error("--dataset and --text_column go together: give both or none")
    if options.mel_bins is not None and options.word_vectors is not None:
        parser.error("--word_vectors is for words and --mel_bins for sounds: give only one of them")
    if options.mel_bins is not None and not 1 <= options.mel_bins <= MOST_MEL_BINS:
        parser.error(f"--mel_bins must be between 1 and {MOST_MEL_BINS}, got {options.mel_bins}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    options = parse_arguments(arguments)
    sounds = options.mel_bins is not None
    files: tuple[str, ...] = SOUND_FILES if sounds else WORD_FILES
    write = write_sound_encoder if sounds else write_text_encoder
    if is_complete(options.output, files) and not options.force:
        print(f"{options.output}: complete, left as it is, even if the options differ (--force builds it again)")
        return
    try:
        with folder_in_place(options.output, files) as folder:
            write(folder, options)
    except (PreparationError, ValueError, OverflowError, TypeError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{options.output}: written")
