"""Whole words as tokens, and word vectors from a file, for recurrent encoders; letters as tokens, for CTC."""

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
    """A tokenizer whose tokens are the words and punctuation marks of some texts, in small letters without accents.

    Args:
        texts: of the training part alone, so that what is not in it is as unknown as it will be in use.
        max_words: the most frequent ones are kept, padding and the unknown word among them.
        min_count: how often a word must be there.
        max_length: tokens that a text is cut to.
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
        raise ValueError(f"The texts have no word that is there {min_count} times: lower min_count.")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        unk_token=UNKNOWN,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


def letter_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the characters of some texts, the space between words among them, in small letters.
    Its padding is the blank of CTC. The texts are of the training part alone, as for `word_tokenizer`."""
    normalizer = Normalizers([NFC(), Lowercase(), Replace(Regex(r"\s+"), " "), Strip()])
    letters = sorted({letter for text in texts for letter in normalizer.normalize_str(text)})
    if not letters:
        raise ValueError("letter_tokenizer: the texts have no letter.")
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
    2014): a word and its numbers a line, in word2vec's files below a line with the two counts.

    Args:
        path: the file, UTF-8; it may be far larger than the memory.
        words: those that are wanted, as they stand in the file.

    Returns:
        `(len(words), E)` float32, zero for words that are not in the file; and `(len(words),)` bool, which are.

    Raises:
        ValueError: a line with another count of numbers than the first, with what is no finite number; or the file has
            none of the words. Lines of words that are not wanted are looked at for their count alone.
    """
    places = {word: place for place, word in enumerate(words)}
    by_place: dict[int, torch.Tensor] = {}
    width = None
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            # GloVe has words with spaces in them (". . ."): the vector is what stands behind.
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
        raise ValueError(f"{path} has none of the {len(places)} words, such as {list(words)[:5]}.")
    vectors = torch.zeros(len(words), width or 0)
    known = torch.zeros(len(words), dtype=torch.bool)
    for place, numbers in by_place.items():
        vectors[place], known[place] = numbers, True
    return vectors, known


def is_number(text: str) -> bool:
    """Whether a text can be read as one."""
    try:
        float(text)
    except ValueError:
        return False
    return True
