"""Word tokenizers and word vectors."""

import pytest
import torch
from transformers import AutoTokenizer

from mm_hf.data import read_word_vectors, word_tokenizer


TEXTS = ["What colour is the circle?", "What shape is it?", "Is the CIRCLE rouge, café?"]
GLOVE = "the 0.1 0.2 0.3\ncircle 1 2 3\n. . . 4 5 6\nunused 7 8 9\n"


def test_words_are_tokens(tmp_path):
    tokenizer = word_tokenizer(TEXTS)
    words = tokenizer.tokenize("What is the Café?")
    assert words == ["what", "is", "the", "cafe", "?"]
    assert tokenizer.pad_token_id == 0
    assert tokenizer.convert_tokens_to_ids("square") == tokenizer.unk_token_id == 1
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS, padding=True)["input_ids"] == tokenizer(TEXTS, padding=True)["input_ids"]
    assert set(loaded(TEXTS)) == {"input_ids", "attention_mask"}


def test_rare_words_are_unknown():
    assert set(word_tokenizer(TEXTS, min_count=3).get_vocab()) == {"[PAD]", "[UNK]", "is", "?"}
    assert len(word_tokenizer(TEXTS, max_words=5)) == 5
    with pytest.raises(ValueError, match=r"\b9 .*min_count"):
        word_tokenizer(TEXTS, min_count=9)
    with pytest.raises(ValueError, match=r"\b1 .*min_count"):
        word_tokenizer([])


@pytest.mark.parametrize("first", ["", "4 3\n", "\ufeff", "\n"], ids=["GloVe", "word2vec", "byte order mark", "blank"])
def test_vectors(tmp_path, first):
    file = tmp_path / "vectors.txt"
    file.write_text(first + GLOVE)
    vectors, there = read_word_vectors(file, ["circle", "square", ". . .", "the"])
    assert there.tolist() == [True, False, True, True]
    torch.testing.assert_close(vectors, torch.tensor([[1.0, 2, 3], [0, 0, 0], [4, 5, 6], [0.1, 0.2, 0.3]]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("the 1 2\ncircle 1\n", r"line 2: .*\b2 .*'circle 1"),
        ("the\n", r"line 1: .*\b0 .*'the"),
        ("the 1 x\n", r"line 1, .*'the': .*'x'"),
        ("the 1 nan\n", "line 1, .*'the': .*finite"),
        ("the 1 1e39\n", "line 1, .*'the': .*finite"),
        ("the 1 2\ncircle 3 4 5\n", r"line 2: .*\b2 .*'circle 3 4 5"),
        ("the 1 2\ncircle  3 4\n", r"line 2: .*\b2 .*'circle  3 4"),
        ("square 1 2\n", r"\b2 .*\['the', 'circle'\]"),
        ("", r"\b2 .*\['the', 'circle'\]"),
    ],
)
def test_a_bad_file(tmp_path, content, message):
    file = tmp_path / "vectors.txt"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_word_vectors(file, ["the", "circle"])
