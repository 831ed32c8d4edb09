"""Sounds from files to the model's inputs: every form, resampled, and bad ones named with their row."""

import io

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset, DatasetDict, Features, Value
from transformers import (
    ASTFeatureExtractor,
    Speech2TextFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from mm_hf import MMFusionProcessor
from mm_hf.data import (
    BadRowError,
    Columns,
    MultimodalCollator,
    Rows,
    describe,
    load_splits,
    summary_lines,
    word_tokenizer,
)
from mm_hf.data.splitting import group_rows
from mm_hf.models.sound import limit_seconds, load_sound


RATE = 16000


def tone(hertz: float = 440.0, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def file_of(samples: np.ndarray, rate: int = RATE, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind)
    return file.getvalue()


def pitch(samples: np.ndarray) -> float:
    """The loudest frequency in hertz."""
    return float(np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples))


@pytest.fixture
def processor() -> MMFusionProcessor:
    extractor = WhisperFeatureExtractor(feature_size=80)
    limit_seconds(extractor, 1)
    return MMFusionProcessor(feature_extractor=extractor)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_files_are_resampled(kind, rate, tmp_path):
    content = file_of(tone(rate=rate), rate, kind)
    (tmp_path / "sound").write_bytes(content)
    for source in (content, str(tmp_path / "sound"), tmp_path / "sound"):
        found = load_sound(source, RATE)
        assert found.dtype == np.float32
        assert abs(len(found) - RATE / 2) <= 1
        assert abs(pitch(found) - 440) < 3
        assert 0.45 < np.abs(found[1000:-1000]).max() < 0.55


def test_samples_in_memory():
    samples = tone(rate=8000)
    for source in ({"array": samples, "sampling_rate": 8000}, {"raw": samples, "sampling_rate": 8000}):
        assert abs(pitch(load_sound(source, RATE)) - 440) < 3
    assert np.array_equal(load_sound(tone(), RATE), tone())
    both = np.stack([tone(), 0 * tone()])
    assert np.allclose(load_sound(both, RATE), tone() / 2)
    assert np.allclose(load_sound(file_of(both.T), RATE), tone() / 2, atol=1e-3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"RIFF", "sound.*Format"),
        (file_of(np.zeros(0)), "empty"),
        (np.zeros(0, np.float32), "empty"),
        (np.zeros(5, np.int16), "int16"),
        (np.array([0.0, np.nan]), "samples.*finite"),
        ({"array": tone()}, r"sampling_rate.*\['array'\].*None"),
        ({"array": tone(), "sampling_rate": True}, r"sampling_rate.*'array'.*True"),
        ({"array": tone(), "sampling_rate": 1}, r"1000 .*768000.*\b1\b"),
        ({"array": tone(), "sampling_rate": 16000.5}, r"1000 .*16000\.5"),
        (np.stack([tone(), tone()], 1), r"\(channels, samples\).*\(8000, 2\)"),
        (np.full(8, 1e300), "samples.*finite"),
        ({"sampling_rate": 8000}, r"array.*\['sampling_rate'\].*8000"),
        ("nowhere.wav", "sound.*'nowhere.wav'"),
        ("http://127.0.0.1/a.wav", "sound.*'http://127.0.0.1/a.wav'"),
        ("data:audio/wav;base64,UklGRg==", "sound.*'data:audio"),
    ],
)
def test_what_is_no_sound(source, message):
    with pytest.raises(ValueError, match=message):
        load_sound(source, RATE)


def test_the_processor(processor, tmp_path):
    one, two = tone(seconds=0.5), tone(880, seconds=2.0)
    batch = processor(audio=[one, None, two, one], sampling_rate=RATE, deduplicate=True)
    assert batch["audio_index"].tolist() == [0, -1, 1, 0]
    assert batch["input_features"].shape == (2, 80, 100)
    assert batch["audio_attention_mask"].sum(1).tolist() == [50, 100]  # the second is cut to a second
    processor.save_pretrained(tmp_path)
    again = MMFusionProcessor.from_pretrained(tmp_path)
    assert torch.equal(again(audio=one, sampling_rate=RATE)["input_features"][0], batch["input_features"][0])
    assert "input_features" in again.model_input_names
    plain = processor(audio=one.tolist(), sampling_rate=RATE)
    assert torch.equal(plain["input_features"][0], batch["input_features"][0])


@pytest.mark.parametrize(
    ("sounds", "rate", "message"),
    [
        ([tone()], 8000, r"sampling_rate.*16000.*8000"),
        ([tone(), np.zeros(0, np.float32)], RATE, r"Row 1: .*float32.*\(0,\)"),
        ([np.stack([tone(), tone()])], RATE, r"Row 0: .*shape \(2, 8000\)"),
        ([None, None, np.full(5, np.nan)], RATE, "Row 2: .*samples.*finite"),
    ],
)
def test_what_the_processor_refuses(processor, sounds, rate, message):
    with pytest.raises(ValueError, match=message):
        processor(audio=sounds, sampling_rate=rate)


@pytest.mark.parametrize("size", [1, 50, 399, 600])
@pytest.mark.parametrize("kind", ["whisper", "spectrum", "waves", "ast"])
def test_silence_and_short_sounds(kind, size):
    extractor = {
        "whisper": lambda: WhisperFeatureExtractor(chunk_length=1),
        "spectrum": lambda: Speech2TextFeatureExtractor(feature_size=80, num_mel_bins=80),
        "waves": lambda: Wav2Vec2FeatureExtractor(return_attention_mask=True),
        "ast": lambda: ASTFeatureExtractor(num_mel_bins=16, max_length=32),
    }[kind]()
    processor = MMFusionProcessor(feature_extractor=extractor)
    sounds = [np.zeros(size, np.float32), tone(1000, 0.5), torch.zeros(size, requires_grad=True)]
    batch = processor(audio=sounds, sampling_rate=RATE)
    name = "input_features" if kind in ("whisper", "spectrum") else "input_values"
    assert batch[name].isfinite().all()
    assert len(batch[name]) == 3
    assert torch.equal(batch[name][0], batch[name][2])
    if kind != "ast":
        assert batch["audio_attention_mask"].sum(1).min() > 0


def test_the_texts_lengths_are_not_the_sounds(processor):
    processor = MMFusionProcessor(
        feature_extractor=processor.feature_extractor, tokenizer=word_tokenizer(["what is it", "who"])
    )
    batch = processor(text=["what is it"], audio=[tone()], truncation=True, max_length=2, sampling_rate=RATE)
    assert batch["input_ids"].shape == (1, 2)
    assert batch["audio_attention_mask"].sum() == 50


def test_a_text_without_a_word_is_an_unknown_one(processor):
    processor = MMFusionProcessor(tokenizer=word_tokenizer(["what is it", "who"]))
    for texts in (["\u200b", "what is it"], ["\u200b"]):
        batch = processor(text=texts)
        assert batch["input_ids"][0, 0] == processor.tokenizer.unk_token_id
        assert batch["attention_mask"][0].tolist() == [1, 0, 0][: batch["attention_mask"].shape[1]]
    assert processor(text=["what is it"])["attention_mask"].tolist() == [[1, 1, 1]]


STRUCT = {"bytes": Value("binary"), "path": Value("string")}
SOUNDS = [file_of(tone(300, rate=8000), 8000), file_of(tone(500))]


def splits_of(column: list, feature, root) -> Dataset:
    whole = isinstance(feature, Audio)  # to encode for it would need torchcodec; others have saved such data
    features = Features({"sound": STRUCT if whole else feature, "label": Value("int64")})
    rows = Dataset.from_dict({"sound": column, "label": [0, 1, 0, 1][: len(column)]}, features=features)
    rows = rows.cast_column("sound", feature) if whole else rows
    folder = root / "data"
    DatasetDict(train=rows, validation=rows, test=rows).save_to_disk(folder)
    return load_splits(folder, Columns(audio="sound", label="label"), data_root=root)["train"]


@pytest.mark.parametrize("form", ["bytes", "struct", "Audio", "path"])
def test_columns_of_every_form(form, processor, tmp_path):
    for number, content in enumerate(SOUNDS):
        (tmp_path / f"{number}.wav").write_bytes(content)
    column, feature = {
        "bytes": ([*SOUNDS, None], Value("binary")),
        "struct": ([*({"bytes": content, "path": None} for content in SOUNDS), None], STRUCT),
        "Audio": ([*({"bytes": content, "path": None} for content in SOUNDS), None], Audio()),
        "path": (["0.wav", str(tmp_path / "1.wav"), None], Value("string")),
    }[form]
    part = splits_of(column, feature, tmp_path)
    assert part.features["sound"] == STRUCT
    collator = MultimodalCollator(
        processor, Columns(audio="sound", label="label"), {"0": 0, "1": 1}, root=str(tmp_path)
    )
    rows = Rows(part, "train").__getitems__([0, 1, 2])
    batch = collator([*rows, rows[1]])
    assert batch["audio_index"].tolist() == [0, 1, -1, 1]
    assert batch["input_features"].shape == (2, 80, 100)
    expected = processor(audio=[load_sound(content, RATE) for content in SOUNDS], sampling_rate=RATE)
    assert torch.equal(batch["input_features"], expected["input_features"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"bytes": b"RIFF", "path": None}, "sound.*Format"),
        ({"bytes": file_of(np.zeros(0)), "path": None}, "empty"),
        ({"bytes": None, "path": "nowhere.wav"}, "'nowhere.wav'"),
        ({"bytes": None, "path": "../../secret.wav"}, r"'\.\./\.\./secret\.wav'.*'/"),
        ({"bytes": None, "path": None}, "sound.*bytes.*path"),
        ({"bytes": SOUNDS[0][:24] + b"\xff\xff\xff\x7f" + SOUNDS[0][28:], "path": None}, "1000 .*768000"),
    ],
)
def test_a_bad_row_is_named(value, message, processor, tmp_path):
    part = splits_of([{"bytes": SOUNDS[0], "path": None}, value], STRUCT, tmp_path)
    columns = Columns(audio="sound", label="label")
    rows = Rows(part, "train").__getitems__([0, 1])
    collator = MultimodalCollator(processor, columns, {"0": 0, "1": 1}, root=str(tmp_path))
    with pytest.raises(BadRowError, match=rf"row 1 .*'train'.*'sound'.*{message}"):
        collator(rows)
    collator = MultimodalCollator(processor, columns, {"0": 0, "1": 1}, root=str(tmp_path), on_error="skip")
    batch = collator(rows)
    assert batch["audio_index"].tolist() == [0, -1]
    assert batch["labels"].tolist() == [0, -100]
    assert [entry["row"] for entry in batch["bad_rows"]] == [1]


def test_a_column_of_numbers_holds_no_sounds(tmp_path):
    with pytest.raises(ValueError, match=r"'sound'.*datasets\.Audio.*int64"):
        splits_of([1, 2], Value("int64"), tmp_path)


def test_what_is_said_of_them(tmp_path):
    contents = [*SOUNDS, file_of(tone(seconds=2.0)), b"RIFF"]
    part = splits_of([{"bytes": content, "path": None} for content in contents], STRUCT, tmp_path)
    columns = Columns(audio="sound", label="label")
    found = describe({"train": part}, columns, ["0", "1"], "single_label_classification")
    assert found["sounds"] == {"looked_at": 4, "unreadable": 1, "seconds": [0.5, 0.5, 2.0]}
    (line,) = [line for line in summary_lines(found) if "sounds" in line]
    assert line == "  sounds    shortest / median / longest 0.5 s / 0.5 s / 2.0 s; unreadable 1 of 4 looked at"


def test_rows_that_share_a_sound_stay_together(tmp_path):
    column = [{"bytes": content, "path": None} for content in (SOUNDS[0], SOUNDS[1], SOUNDS[0])]
    part = splits_of([*column, None], STRUCT, tmp_path)
    assert group_rows(part, Columns(audio="sound", label="label")) == [[0, 2], [1], [3]]
