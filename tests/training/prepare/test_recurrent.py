"""A recurrent encoder for a data set: its words, its vectors, and that it goes where BERT goes."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from mm_hf import MMFusionForClassification, MMFusionForQuestionAnswering, MMFusionProcessor
from mm_hf.prepare import recurrent


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("question,answer\nwhat colour?,red\nwhat shape?,circle\n,red\n")
    return file


def make(table, *flags):
    folder = table.parent / "encoder"
    recurrent.main([str(folder), "--dataset", str(table), "--text_column", "question", *map(str, flags)])
    return folder


def test_an_encoder_that_goes_where_bert_goes(table, encoders, capsys):
    folder = make(table, "--rnn_type", "gru", "--hidden_size", 16)
    assert "written" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert set(tokenizer.get_vocab()) == {"[PAD]", "[UNK]", "what", "colour", "shape", "?"}
    parts = {"vision": str(encoders / "mobilenet-v2"), "text": str(folder)}
    model = MMFusionForQuestionAnswering.from_encoders_pretrained(**parts, num_labels=3).eval()
    assert model.config.poolings["text"] == "mean"
    assert model.config.fusion_module_config.hidden_size == 16
    weights = AutoModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(model.model.encoders.text.state_dict()[name], value) for name, value in weights.items())
    processor = MMFusionProcessor.from_encoders_pretrained(**parts)
    batch = processor(text=["what colour?", "what?"])
    with torch.no_grad():
        together = model(**batch).logits
        alone = model(**processor(text="what?")).logits
    torch.testing.assert_close(together[1:], alone)
    make(table)
    assert "complete, left as it is" in capsys.readouterr().out


def test_an_encoder_of_sounds(tmp_path):
    recurrent.main([str(tmp_path / "sound"), "--mel_bins", "40", "--hidden_size", "16"])
    parts = {"audio": str(tmp_path / "sound")}
    model = MMFusionForClassification.from_encoders_pretrained(**parts, num_labels=3).eval()
    processor = MMFusionProcessor.from_encoders_pretrained(**parts, max_audio_seconds=1)
    generator = np.random.default_rng(0)
    sounds = [generator.normal(size=size).astype(np.float32) for size in (8000, 24000)]
    batch = processor(audio=sounds, sampling_rate=16000)
    assert batch["input_features"].shape == (2, 98, 40)  # the second sound is cut to a second
    assert batch["audio_attention_mask"].sum(1).tolist() == [48, 98]
    with torch.no_grad():
        together = model(**batch).logits
        alone = model(**processor(audio=sounds[0], sampling_rate=16000)).logits
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)


def test_word_vectors(table, tmp_path):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("what 0.25 -0.5 1\nunused 1 2 3\ncolour 0.5 0.25 -1\n")
    folder = make(table, "--word_vectors", vectors)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = model.embeddings.weight[tokenizer.convert_tokens_to_ids(["what", "colour"])]
    assert found.tolist() == [[0.25, -0.5, 1], [0.5, 0.25, -1]]
    assert model.embeddings.weight[tokenizer.pad_token_id].tolist() == [0, 0, 0]
    assert model.embeddings.weight[tokenizer.convert_tokens_to_ids("shape")].abs().min() > 0
    assert "2 word vectors, which come from `vectors.txt`" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text_column", "text"], "text"),
        (["--hidden_size", 3], "even: .*3"),
        (["--word_vectors", "nowhere.txt"], "nowhere.txt"),
        (["--dataset", "nowhere.csv"], "nowhere.csv"),
        (["--min_count", 9], r"\b9 .*min_count"),
        (["--num_hidden_layers", 0], r"num_hidden_layers.*\b1, .*\b0\b"),
    ],
)
def test_what_it_cannot_make(table, flags, message):
    with pytest.raises(SystemExit, match=message):
        make(table, *flags)
    assert not (table.parent / "encoder").exists()


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--dataset", "x.csv"],
        ["--text_column", "text"],
        ["--mel_bins", "8", "--text_column", "x"],
        ["--mel_bins", "127"],
    ],
)
def test_words_or_sounds(flags, tmp_path, capsys):
    with pytest.raises(SystemExit):
        recurrent.main([str(tmp_path / "out"), *flags])
    assert "--" in capsys.readouterr().err
