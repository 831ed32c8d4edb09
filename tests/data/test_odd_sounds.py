"""One sound, everywhere: odd files give the same samples by every route, and what is none is named."""

import functools
import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_models as tiny
import torch
from datasets import Dataset, Features, Value
from transformers import Wav2Vec2FeatureExtractor

import mm_hf
from mm_hf import MMFusionForClassification, MMFusionProcessor
from mm_hf.data import (
    BadRowError,
    Columns,
    FeatureCache,
    MultimodalCollator,
    Rows,
    StreamBatches,
    describe,
    load_splits,
)
from mm_hf.models import sound
from mm_hf.models.sound import load_sound


RATE = 16000
COLUMNS = Columns(audio="sound", label="label")
LABELS = {"a": 0, "b": 1}
TIME = np.arange(RATE // 4) / RATE
WAVE = 0.5 * np.sin(2 * np.pi * 440 * TIME)  # a quarter of a second


def at_rate(rate: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate // 4) / rate)


def saved(samples: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def several(*weights: float) -> np.ndarray:
    """Channels whose mean is the wave."""
    return WAVE[:, None] * np.array(weights)


@functools.cache
def corpus() -> dict[str, tuple[bytes, float]]:
    """By name the content, and how far off it may be from the wave: 8 bits are coarse, and a filter has edges."""
    found = {
        f"{subtype}": (saved(WAVE, subtype=subtype), off)
        for subtype, off in {
            "PCM_U8": 1 / 127,
            "PCM_16": 1e-4,
            "PCM_24": 1e-6,
            "PCM_32": 1e-6,
            "FLOAT": 1e-6,
            "DOUBLE": 1e-6,
            "ULAW": 0.03,
        }.items()
    }
    found |= {
        "stereo": (saved(several(2, 0)), 1e-4),
        "six channels": (saved(several(1, 2, 0, 1, 1, 1)), 1e-4),
        "stereo, a float": (saved(several(1.5, 0.5), subtype="FLOAT"), 1e-6),
        "louder than 1": (saved(several(4, -2), subtype="FLOAT"), 1e-6),
        "FLAC": (saved(WAVE, kind="FLAC", subtype="PCM_24"), 1e-6),
        "OGG": (saved(WAVE, kind="OGG"), 0.1),
        "AIFF": (saved(WAVE, kind="AIFF"), 1e-4),
        **{f"{rate} Hz": (saved(at_rate(rate), rate), 0.05) for rate in (8000, 11025, 22050, 44100, 48000, 96000)},
        "16001 Hz": (saved(at_rate(16001), 16001), 0.05),
        "stereo at 44100 Hz": (saved(np.stack([at_rate(44100)] * 2, 1), 44100), 0.05),
    }
    return found


def written(folder: Path) -> list[str]:
    names = []
    for number, (content, _) in enumerate(corpus().values()):
        names.append(f"{number}.wav")
        (folder / names[-1]).write_bytes(content)
    return names


@pytest.fixture(scope="module")
def processor() -> MMFusionProcessor:
    """Shows the encoder the samples as they are."""
    return MMFusionProcessor(
        feature_extractor=Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    )


def small_model(**kwargs):
    torch.manual_seed(0)
    config = tiny.config(vision=None, text=None, audio="wav2vec2", num_labels=2, **kwargs)
    return MMFusionForClassification(config).eval()


def watch(model, seen: list):
    encoder = model.base_model.encoders["audio"]
    encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.extend(
            (kwargs["input_values"] if "input_values" in kwargs else args[0]).unbind()
        ),
        with_kwargs=True,
    )


def table_of(folder: Path, values: list, suffix: str) -> str:
    labels = ["ab"[number % 2] for number in range(len(values))]
    if suffix == "csv":
        lines = [f"{value},{label}" for value, label in zip(values, labels)]
        (folder / "data.csv").write_text("\n".join(["sound,label", *lines, ""]))
    else:
        kind = Features({"sound": Value("binary"), "label": Value("string")})
        Dataset.from_dict({"sound": values, "label": labels}, features=kind).to_parquet(folder / "data.parquet")
    return str(folder / f"data.{suffix}")


def opened(folder: Path, suffix: str, streaming: bool = False):
    names = written(folder)
    values = [content for content, _ in corpus().values()] if suffix == "parquet" else names
    file = table_of(folder, values, suffix)
    return load_splits(file, COLUMNS, validation_fraction=0, test_fraction=0, streaming=streaming)["train"]


def by_table(suffix, folder, processor):
    collator = MultimodalCollator(processor, COLUMNS, LABELS, root=str(folder))
    rows = Rows(opened(folder, suffix), "train")
    return list(collator(rows.__getitems__(list(range(len(rows)))))["input_values"])


def by_stream(suffix, folder, processor):
    stream = StreamBatches(opened(folder, suffix, streaming=True), "train", batch_size=7)
    collator = MultimodalCollator(processor, COLUMNS, LABELS, root=str(folder))
    return [values for rows in stream for values in collator(rows)["input_values"]]


def forms(kind, folder) -> list:
    paths = [folder / name for name in written(folder)]
    read = functools.partial(soundfile.read, dtype="float32", always_2d=True)
    make = {
        "path": str,
        "Path": lambda path: path,
        "bytes": lambda path: path.read_bytes(),
        "dict of bytes": lambda path: {"bytes": path.read_bytes(), "path": None},
        "dict of path": lambda path: {"bytes": None, "path": str(path)},
        "array": lambda path: {"array": read(path)[0].T, "sampling_rate": read(path)[1]},
        "tensor": lambda path: {"array": torch.from_numpy(read(path)[0].T.copy()), "sampling_rate": read(path)[1]},
        "raw": lambda path: {"raw": read(path)[0].T, "sampling_rate": read(path)[1]},
    }[kind]
    return list(map(make, paths))


def by_loading(kind, folder, processor):
    return [torch.from_numpy(load_sound(value, RATE)) for value in forms(kind, folder)]


def by_processor(_, folder, processor):
    sounds = [load_sound(value, RATE) for value in forms("bytes", folder)]
    return list(processor(audio=sounds, sampling_rate=RATE)["input_values"])


def by_pipeline(kind, folder, processor):
    model, seen = small_model(), []
    watch(model, seen)
    pipe = mm_hf.pipeline(model=model, processor=processor, task="multimodal-classification")
    pipe([{"audio": value} for value in forms(kind, folder)], batch_size=8)
    return seen


def by_cache(_, folder, processor):
    model, seen = small_model(freeze_encoders=True), []
    watch(model, seen)
    collator = MultimodalCollator(processor, COLUMNS, LABELS, root=str(folder))
    rows = Rows(opened(folder, "csv"), "train")
    items = [(str(number), row) for number, row in enumerate(rows.__getitems__(list(range(len(rows)))))]
    cache = FeatureCache(model.base_model)
    cache.fill("audio", items, functools.partial(collator.prepare_items, "audio"), progress=False)
    return seen


OBJECTS = ["path", "Path", "bytes", "dict of bytes", "dict of path", "array", "tensor", "raw"]
ROUTES = {
    **{f"table, {kind}": (by_table, kind) for kind in ("csv", "parquet")},
    **{f"stream, {kind}": (by_stream, kind) for kind in ("csv", "parquet")},
    **{f"loading, {kind}": (by_loading, kind) for kind in OBJECTS},
    **{f"pipeline, {kind}": (by_pipeline, kind) for kind in OBJECTS},
    "processor": (by_processor, None),
    "cache": (by_cache, None),
}


@pytest.mark.parametrize("route", ROUTES)
def test_the_same_samples_by_every_route(route, processor, tmp_path):
    take, kind = ROUTES[route]
    found = take(kind, tmp_path, processor)
    assert len(found) == len(corpus())
    wrong = {}
    for (name, (content, off)), values in zip(corpus().items(), found):
        direct = load_sound(content, RATE)
        same = len(WAVE) - 1 <= len(direct) <= len(WAVE) + 1 and np.array_equal(values[: len(direct)], direct)
        silent = not values[len(direct) :].any()  # padding
        distance = np.abs(values[100:-100].numpy()[: len(WAVE) - 200] - WAVE[100 : 100 + len(values) - 200]).max()
        if not (same and silent and distance <= off):
            wrong[name] = (same, silent, distance)
    assert wrong == {}


# --- What is no sound

TALL = np.zeros((100, 65))
BAD_FILES = {
    "empty": (lambda: b"", "sound.*Format"),
    "text": (lambda: b"this is a text, and no sound at all", "sound.*Format"),
    "no samples": (lambda: saved(np.zeros(0)), "empty"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "sound.*Format"),
    "NaN": (lambda: saved(np.where(TIME > 0.1, np.nan, WAVE), subtype="FLOAT"), r"samples.*\bnan\b"),
    "infinity": (lambda: saved(np.where(TIME > 0.1, -np.inf, WAVE), subtype="DOUBLE"), r"samples.*-inf\b"),
    "1e300": (lambda: saved(np.full(100, 1e300), subtype="DOUBLE"), r"samples.*\binf\b"),
    "opposite infinities": (lambda: saved(several(np.inf, -np.inf), subtype="FLOAT"), r"samples.*\bnan\b"),
    "65 channels": (lambda: saved(TALL), "65 channels.*64"),
    "3601 seconds": (lambda: saved(np.zeros(3601 * 1000), 1000, subtype="PCM_U8"), "3601 seconds.*3600"),
    "a rate of 767999": (lambda: saved(WAVE, 767999), "767999 to 16000.*15359981.*1000000"),
    "a rate of 59999": (lambda: saved(WAVE, 59999), "59999 to 16000.*1199981"),
    "a rate of 1": (lambda: saved(WAVE, 1), r"\b1000 to 768000, .*\b1\b"),
}
BAD_PLACES = {
    "pipe": (os.mkfifo, r"\bpipe\b"),
    "folder": (os.mkdir, r"\bfolder\b"),
    "device": (lambda path: os.symlink("/dev/zero", path), r"\bdevice\b|--data_root"),
    "nothing": (lambda path: None, r"\bno .*\bfile\b|\bno file\b"),
}


@pytest.mark.parametrize("kind", [*BAD_FILES, *BAD_PLACES])
def test_what_is_no_sound_is_named(kind, processor, tmp_path):
    make, message = {**BAD_FILES, **BAD_PLACES}[kind]
    bad = tmp_path / "bad.wav"
    if kind in BAD_FILES:
        bad.write_bytes(make())
    else:
        make(bad)
    (tmp_path / "good.wav").write_bytes(saved(WAVE))
    objects = [str(bad), bad, {"bytes": None, "path": str(bad)}]
    if kind in BAD_FILES:
        objects += [bad.read_bytes(), {"bytes": bad.read_bytes(), "path": None}]
    for value in objects:
        with pytest.raises(ValueError, match=message):
            load_sound(value, RATE)
    with pytest.raises(ValueError, match=message):
        mm_hf.pipeline(model=small_model(), processor=processor)({"audio": bad})

    file = table_of(tmp_path, ["good.wav", "bad.wav"], "csv")
    split = load_splits(file, COLUMNS, validation_fraction=0, test_fraction=0)["train"]
    assert describe({"train": split}, COLUMNS, list(LABELS), "single_label_classification", root=str(tmp_path))
    rows = Rows(split, "train").__getitems__([0, 1])
    with pytest.raises(BadRowError, match=f"row 1 .*'train'.*'sound'.*'bad.wav'.*({message})"):
        MultimodalCollator(processor, COLUMNS, LABELS, root=str(tmp_path))(rows)
    batch = MultimodalCollator(processor, COLUMNS, LABELS, root=str(tmp_path), on_error="skip")(rows)
    assert batch["audio_index"].tolist() == [0, -1]
    assert batch["labels"].tolist() == [0, -100]
    assert [(entry["row"], entry["file"]) for entry in batch["bad_rows"]] == [(1, "bad.wav")]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"array": np.zeros(3601 * 1000, np.float32), "sampling_rate": 1000}, "3601 seconds"),
        ({"array": np.zeros((65, 100), np.float32), "sampling_rate": RATE}, "65 channels"),
        ({"array": WAVE, "sampling_rate": 767999}, "15359981"),
        ({"array": WAVE, "sampling_rate": 96001}, "96001 to 16000"),
        ({"bytes": None, "path": None}, "sound.*bytes.*path"),
        (torch.full((100,), torch.nan), "samples.*finite"),
        (torch.zeros(100, dtype=torch.int16), "int16"),
        ("a\0.wav", r"'a.x00\.wav'"),
    ],
)
def test_what_is_no_sound_in_memory(value, message):
    with pytest.raises(ValueError, match=message):
        load_sound(value, RATE)


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 22050, 24000, 32000, 37800, 44100, 47952, 48000, 96000, 192000])
def test_usual_rates_are_within_the_limit(rate):
    assert abs(len(load_sound({"array": at_rate(rate), "sampling_rate": rate}, RATE)) - len(WAVE)) <= 1


def test_a_long_file_is_read_in_blocks(monkeypatch):
    samples = np.random.default_rng(0).uniform(-1, 1, (5000, 3)).astype(np.float32)
    content = saved(samples, subtype="FLOAT")
    whole = load_sound(content, RATE)
    monkeypatch.setattr(sound, "BLOCK", 999)
    assert np.array_equal(load_sound(content, RATE), whole)
    assert np.allclose(whole, samples.mean(1), atol=1e-6)
