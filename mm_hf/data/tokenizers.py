"""Tokenizers of whole words and word vectors from a file, for recurrent encoders. Tokenizers of letters, for CTC."""

import os
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.normalizers import NFC, BertNormalizer, Lowercase, Replace, Strip
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import BertPreTokenizer, Split
from tokenizers.trainers import WordLevelTrainer
from transformers import PreTrainedTokenizerFast


PADDING, UNKNOWN = "[PAD]", "[UNK]"


def word_tokenizer(
    texts: Iterable[str], *, max_words: int = 30000, min_count: int = 1, max_length: int = 512
) -> PreTrainedTokenizerFast:
    """A tokenizer with the words and punctuation marks of some texts as tokens, in lower case without accents.

    Args:
        texts: only texts of the training part, so that other words are unknown, as they will be in use.
        max_words: the size of the vocabulary, including padding and the unknown word. The most frequent words are
            kept.
        min_count: how often a word must occur.
        max_length: the largest number of tokens of a text.

    Raises:
        ValueError: no word occurs often enough.
    """
    tokenizer = Tokenizer(WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    special = [PADDING, UNKNOWN]
    trainer = WordLevelTrainer(
        vocab_size=max_words, min_frequency=min_count, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() == len(special):
        raise ValueError(f"No word occurs at least {min_count} times in the texts: lower min_count.")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        unk_token=UNKNOWN,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


def letter_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with the characters of some texts as tokens, in lower case, including the space between words. Its
    padding is the blank of CTC. Use only texts of the training part, as for `word_tokenizer`."""
    normalizer = Normalizers([NFC(), Lowercase(), Replace(Regex(r"\s+"), " "), Strip()])
    letters = sorted({letter for text in texts for letter in normalizer.normalize_str(text)})
    if not letters:
        raise ValueError("letter_tokenizer: the texts are empty, so there are no letters to learn.")
    vocabulary = {token: number for number, token in enumerate([PADDING, UNKNOWN, *letters])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        unk_token=UNKNOWN,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def read_word_vectors(path: str | os.PathLike, words: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads the vectors of some words from a text file of word2vec (Mikolov et al. 2013) or GloVe (Pennington et al.
    2014). Each line has a word and its numbers. Files of word2vec begin with a line that has the two counts.

    Args:
        path: the file, UTF-8. It may be much larger than the memory.
        words: the words to read, as written in the file.

    Returns:
        `(len(words), E)` float32, with zeros for words that are not in the file; and `(len(words),)` bool, whether a
        word is in the file.

    Raises:
        ValueError: a line has another count of numbers than the first line; a number is not finite; or the file has
            none of the words. In lines of other words only the count is checked.
    """
    places = {word: place for place, word in enumerate(words)}
    by_place: dict[int, torch.Tensor] = {}
    width = None
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            # GloVe has words that contain spaces (". . ."): the vector is at the end of the line.
            word, *values = line.rstrip().split(" ")
            if number == 1 and len(values) == 1 and word.isdecimal() and values[0].isdecimal():
                width = int(values[0])
                continue
            width = len(values) if width is None else width
            extra = values[: len(values) - width]
            if len(values) < width or not width or any(not part or is_number(part) for part in extra):
                raise ValueError(f"{path}, line {number}: expected a word and {width} numbers, got {line[:60]!r}.")
            word = " ".join([word, *extra])
            if word not in places or places[word] in by_place:
                continue
            try:
                vector = torch.tensor([float(value) for value in values[len(extra) :]])
            except ValueError as error:
                raise ValueError(f"{path}, line {number}, word {word!r}: {error}.") from None
            if not vector.isfinite().all():
                raise ValueError(f"{path}, line {number}, word {word!r}: not all of its numbers are finite.")
            by_place[places[word]] = vector
    if not by_place:
        raise ValueError(f"{path} has none of the {len(places)} words, such as {list(words)[:5]}: check its language.")
    vectors = torch.zeros(len(words), width or 0)
    known = torch.zeros(len(words), dtype=torch.bool)
    for place, numbers in by_place.items():
        vectors[place], known[place] = numbers, True
    return vectors, known


def is_number(text: str) -> bool:
    """Whether a text can be read as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
