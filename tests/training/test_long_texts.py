"""Texts that are longer than the encoder reads: as windows, each in a place of its own, wherever they are read."""

import csv
import importlib
import sys
from pathlib import Path

import datasets
import pytest
import torch
import transformers as T
from messages import says

import mm_hf
from mm_hf import MMFusionForClassification, MMFusionProcessor
from mm_hf.commands import predict
from mm_hf.data import Columns, MultimodalCollator, Rows
from mm_hf.models.long_texts import windows_of
from mm_hf.training import exits


MINILM = Path(__file__).parents[2] / ".cache/encoders/minilm-l6"
pytestmark = pytest.mark.skipif(not MINILM.is_dir(), reason="needs the encoders of `mm_hf prepare encoders`")
LIMIT = 16  # tokens, two of them special


@pytest.fixture(scope="module", autouse=True)
def quiet(tmp_path_factory):
    """One thread, and a cache of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def tokenizer():
    tokenizer = T.AutoTokenizer.from_pretrained(MINILM)
    tokenizer.model_max_length = LIMIT
    return tokenizer


def text_of(count: int, last: str = "good") -> str:
    """So many words of one token each, the last of which says it all."""
    names = ("the", "house", "is", "old", "and", "its", "garden", "very", "small")
    return " ".join([names[place % len(names)] for place in range(count - 1)] + [last])


def test_windows_hold_all_words_in_their_order(tokenizer):
    text = text_of(50)
    windows = windows_of(tokenizer, text, 4)
    assert len(windows) == 4
    words, at = text.split(), 0
    for window in windows:
        assert len(tokenizer(window)["input_ids"]) <= LIMIT
        own_words = window.split()
        starts = [start for start in range(at + 1) if words[start : start + len(own_words)] == own_words]
        assert starts  # no gap before it
        at = starts[-1] + len(own_words)
    assert at == 50
    assert windows_of(tokenizer, text_of(14), 4) == [text_of(14)]
    assert len(windows_of(tokenizer, text, 2)) == 2


def test_windows_begin_between_words(tokenizer):
    tokenizer.model_max_length = 2 * LIMIT
    text = " ".join(["unbelievability"] * 20)  # several tokens each
    for window in windows_of(tokenizer, text, 8):
        assert set(window.split()) == {"unbelievability"}
    assert len("".join(windows_of(tokenizer, "x" * 200, 64)).replace(" ", "")) >= 200  # no word at all


def test_the_processor_gives_each_window_a_place(tokenizer):
    processor = MMFusionProcessor(tokenizer=tokenizer, text_windows=3)
    batch = processor(text=["short", text_of(30), None])
    assert batch["text_index"].tolist() == [[0, -1, -1], [1, 2, 3], [-1, -1, -1]]
    assert batch["input_ids"].shape == (4, LIMIT)
    two = processor(text=[["short", text_of(30)], [None, "other"]])
    assert two["text_index"].tolist() == [[0, -1, -1, 1, 2, 3], [-1, -1, -1, 4, -1, -1]]
    with pytest.raises(ValueError, match=says("Row 1", "empty")):
        processor(text=["short", ""])


def test_it_is_kept_and_old_processors_cut(tokenizer, tmp_path):
    MMFusionProcessor(tokenizer=tokenizer, text_windows=3).save_pretrained(tmp_path / "new")
    assert MMFusionProcessor.from_pretrained(tmp_path / "new").text_windows == 3
    MMFusionProcessor(tokenizer=tokenizer).save_pretrained(tmp_path / "old")
    assert "text_windows" not in (tmp_path / "old/processor_config.json").read_text()
    assert MMFusionProcessor.from_pretrained(tmp_path / "old").text_windows is None


@pytest.mark.parametrize("windows", [1, 65, "2", True])
def test_what_windows_cannot_be(tokenizer, windows):
    with pytest.raises(ValueError, match=says("text_windows", 2, 64)):
        MMFusionProcessor(tokenizer=tokenizer, text_windows=windows)


def test_the_collator_and_the_processor_agree(tokenizer):
    processor = MMFusionProcessor(tokenizer=tokenizer, text_windows=3)
    texts = [text_of(30), "short", None, text_of(30)]
    rows = Rows(datasets.Dataset.from_dict({"body": texts}), "train").__getitems__([0, 1, 2, 3])
    collator = MultimodalCollator(processor, Columns(text="body"))
    one, other = collator(rows), processor(text=texts, deduplicate=True)
    for name in other:
        assert torch.equal(one[name], other[name])
    with pytest.raises(ValueError, match="body"):
        collator([{**rows[0], "body": " "}])
    skipping = MultimodalCollator(processor, Columns(text="body"), on_error="skip")
    assert len(skipping([{**rows[0], "body": " "}, rows[1]])["bad_rows"]) == 1


def write_rows(file, count=64):
    with open(file, "w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["body", "kind"])
        for place in range(count):
            kind = ("good", "bad")[place % 2]
            writer.writerow([text_of(24 + place % 5, kind), kind])
    return file


def train(dataset, folder, *flags):
    words = ["--text_column", "body", "--label_column", "kind", "--text_encoder", MINILM, "--fusion_layers", 1]
    words += ["--fusion_hidden_size", 32, "--fusion_heads", 2, "--num_train_epochs", 40, "--report_to", "none"]
    words += ["--freeze_encoders", "true", "--max_text_length", LIMIT, "--learning_rate", 0.01, "--floors", "false"]
    words += ["--per_device_train_batch_size", 16, "--test_fraction", 0.25, *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mm_hf", str(dataset), "--output_dir", str(folder), *map(str, words)])
        exits.run_script(importlib.import_module("mm_hf.training.train").main)
    return folder


@pytest.mark.slow
def test_a_run_reads_what_cutting_loses(tmp_path, capsys):
    """The last word is the label, and behind the first window."""
    rows = write_rows(tmp_path / "rows.csv")
    cut = train(rows, tmp_path / "cut")
    said = capsys.readouterr().out
    assert "'body'" in said
    assert "--long_text windows" in said
    windows = train(rows, tmp_path / "windows", "--long_text", "windows", "--text_windows", 3)
    assert "up to 3 windows" in capsys.readouterr().out
    scores = [MMFusionForClassification.from_pretrained(run).config for run in (cut, windows)]
    assert [config.places_of("text") for config in scores] == [1, 3]
    out = tmp_path / "out.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mm_hf", str(windows), str(rows), "-o", str(out)])
        exits.run_script(predict.main)
    with open(out, newline="", encoding="utf-8") as lines:
        predicted = list(csv.DictReader(lines))
    assert sum(row["prediction"] == row["kind"] for row in predicted) >= 60
    pipe = mm_hf.pipeline(model=str(windows))
    answers = pipe([{"text": row["body"]} for row in predicted[:4]], top_k=1)
    for row, answer in zip(predicted, answers):
        best = answer[0] if isinstance(answer, list) else answer
        assert best["label"] == row["prediction"]
        assert best["score"] == pytest.approx(float(row["probability"]), abs=1e-5)


def test_keys_that_do_not_go_together(tmp_path, capsys):
    rows = write_rows(tmp_path / "rows.csv", 16)
    with pytest.raises(SystemExit):
        train(rows, tmp_path / "run", "--text_windows", 3)
    assert "text_windows is 3" in capsys.readouterr().err
