"""Search among sounds by text and back, through the scripts: real recordings, Whisper's encoder."""

import json
from pathlib import Path

import pytest
from datasets import DatasetDict, load_from_disk
from kill_and_resume import ask_without_package, call, recipe_writer, two_processes_differ_by
from PIL import Image

import mm_hf
from mm_hf.commands import search as retrieve
from mm_hf.retrieval import Gallery
from mm_hf.training import train


TEXTS = ["one", "two", "three", "eight"]


@pytest.fixture(scope="module")
def dataset(fsdd, tmp_path_factory) -> Path:
    """Some takes of four words by all speakers; one row has no sound, and one no text."""
    takes = {"train": range(10, 22), "validation": (5,), "test": (0, 1)}

    def part(name):
        rows = fsdd[name].filter(
            lambda take, word: take in takes[name] and word in TEXTS, input_columns=["take", "word"]
        )
        rows = rows.select_columns(["audio", "word", "speaker"])
        gap = {3: "audio", 7: "word"}
        return rows.map(
            lambda row, place: {**row, **({gap[place]: None} if place in gap else {})},
            with_indices=True,
            features=rows.features,
        )

    folder = tmp_path_factory.mktemp("words") / "set"
    DatasetDict({name: part(name) for name in takes}).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(encoders, dataset, tmp_path_factory):
    defaults = {
        "audio_encoder": encoders / "whisper-tiny-en",
        "max_audio_seconds": 1,
        "text_encoder": encoders / "minilm-l6",
        "text_pooling": "mean",
        "task": "retrieval",
        "dataset": dataset,
        "audio_column": "audio",
        "text_column": "word",
        "fusion_hidden_size": 64,
        "fusion_layers": 1,
        "projection_dim": 32,
        "matching_weight": 1.0,  # without a GPU it is off where nobody asks
        "freeze_encoders": True,
        "learning_rate": 3e-3,
        "max_steps": 40,
        "eval_steps": 20,
        "per_device_train_batch_size": 32,
    }
    return recipe_writer(tmp_path_factory, defaults)


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "train"
    call(train.main, recipe(folder))
    return folder


@pytest.mark.slow
def test_a_run(trained):
    results = json.loads((trained / "results.json").read_text())
    # Each of the four words is said by many: a text finds one of them, and a sound its word.
    assert results["metrics"]["audio_to_text_recall_at_1"] > 0.9
    assert results["metrics"]["text_to_audio_recall_at_1"] == 1.0
    card = (trained / "README.md").read_text()
    assert "get_sound_features" in card
    assert "type: multimodal-feature-extraction" in card
    with Image.open(trained / "predictions.png") as plot:
        assert min(plot.size) > 300


@pytest.mark.slow
def test_it_is_measured_built_and_asked(trained, dataset, tmp_path, capsys):
    call(retrieve.main, "evaluate", "--model", trained, "--bootstrap_samples", 20)
    report = json.loads((trained / "evaluation/retrieval.json").read_text())
    ways = {"text_to_audio, plain", "text_to_audio, reranked", "audio_to_text, plain", "audio_to_text, reranked"}
    assert set(report["metrics"]) == ways
    assert report["texts"] == len(TEXTS)
    gallery = tmp_path / "gallery"
    call(retrieve.main, "build", "--model", trained, "--gallery", gallery)
    assert list(Gallery.load(gallery).keys) == ["text", "audio"]
    row = load_from_disk(str(dataset))["test"][0]
    (tmp_path / "asked.wav").write_bytes(row["audio"]["bytes"])
    ask = ("query", "--model", trained, "--gallery", gallery, "--top_k", 1)
    capsys.readouterr()
    call(retrieve.main, *ask, "--audio", tmp_path / "asked.wav")
    assert row["word"] in capsys.readouterr().out
    call(retrieve.main, *ask, "--text", "three")
    assert "three" in capsys.readouterr().out
    for words, message in (
        (("--image", "a.png"), r"\['text', 'audio'\].*--image\b"),
        (("--audio", tmp_path / "no.wav"), r"no\.wav"),
        (("--audio", tmp_path / "asked.wav", "--text", "a"), "--text, --image .*--audio"),
        (("--text", "a", "--image_column", "word"), "--image_column"),
    ):
        with pytest.raises(SystemExit, match=message):
            call(retrieve.main, *ask, *words)


@pytest.mark.slow
def test_a_gallery_of_other_rows_is_refused(trained, tmp_path):
    call(retrieve.main, "build", "--model", trained, "--gallery", tmp_path, "--max_rows", 12)
    ask = ("query", "--model", trained, "--gallery", tmp_path, "--text", "one", "--top_k", 8)
    with pytest.raises(SystemExit, match=r"--dataset, --max_rows .*--seed"):
        call(retrieve.main, *ask)
    call(retrieve.main, *ask, "--max_rows", 12)


@pytest.mark.slow
def test_a_sound_that_cannot_be_read(trained, dataset, tmp_path, capsys):
    """It stops the search with its row, or is left out; its word stays."""
    parts = load_from_disk(str(dataset))
    rows = parts["test"]

    def spoil(row, place):
        return {"audio": {"bytes": b"RIFF, and then nothing", "path": None}} if place == 1 else row

    DatasetDict({"test": rows.map(spoil, with_indices=True, features=rows.features)}).save_to_disk(tmp_path / "set")
    ask = ("--model", trained, "--dataset", tmp_path / "set", "--gallery", tmp_path / "gallery")
    with pytest.raises(SystemExit, match=r"row 1 .*'test'.*'audio': .*sound.*: Format not recognised"):
        call(retrieve.main, "build", *ask)
    call(retrieve.main, "build", *ask, "--on_error", "skip")
    gallery = Gallery.load(tmp_path / "gallery")
    assert 1 not in gallery.places["audio"]
    assert len(gallery.keys["text"]) == len({word for word in rows["word"] if word is not None})
    assert len(gallery.embeddings["audio"]) == len(gallery.keys["audio"]) == len(rows) - 2  # row 3 has none
    capsys.readouterr()
    call(retrieve.main, "query", *ask, "--on_error", "skip", "--text", "one")
    assert "one" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"validation.*--rerank_weight"):
        call(retrieve.main, "evaluate", *ask, "--on_error", "skip")
    with pytest.raises(SystemExit, match=r"faiss.*'nope'.*'Flat'"):
        call(retrieve.main, "build", *ask, "--index_factory", "nope")


@pytest.mark.slow  # as test_speech.py and modalities/test_training.py do
def test_it_answers_without_the_package(trained, dataset, tmp_path):
    row = load_from_disk(str(dataset))["test"][0]
    (tmp_path / "asked.wav").write_bytes(row["audio"]["bytes"])
    sound = str(tmp_path / "asked.wav")
    asked = [{"audio": sound, "text": text} for text in TEXTS]
    found = ask_without_package(trained, [*asked, {"audio": sound}], tmp_path, "multimodal-feature-extraction")
    best = max(found[:-1], key=lambda one: one["similarity"])
    assert TEXTS[found.index(best)] == row["word"]
    assert set(found[-1]) == {"audio"}
    here = mm_hf.pipeline(model=trained)([*asked, {"audio": sound}], batch_size=5)
    assert [one.get("similarity") for one in here] == pytest.approx(
        [one.get("similarity") for one in found[:-1]] + [None], abs=1e-4
    )


def test_without_a_matching_loss_the_fusion_does_not_train(encoders):
    parts = {"audio": encoders / "whisper-tiny-en", "text": encoders / "minilm-l6", "freeze_encoders": True}
    model = mm_hf.MMFusionForRetrieval.from_encoders_pretrained(**parts, max_audio_seconds=1, matching_weight=0)
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"embeddings", "logit_scale"}


@pytest.mark.slow
def test_two_processes_learn_as_one(recipe, tmp_path):
    """Negatives are those of both. Which of them are hard is drawn at random, so the matching is left out."""
    assert two_processes_differ_by(recipe, tmp_path, 32, learning_rate=0.05, matching_weight=0) < 1e-5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"audio_column": None, "audio_encoder": None, "max_audio_seconds": None}, "image_column or audio_column is"),
        ({"image_column": "audio"}, "retrieval needs one image_column or one audio_column"),
    ],
)
def test_what_does_not_fit_is_one_line(keys, message, recipe, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        call(train.main, recipe(tmp_path / "run", **keys))
    assert message in str(stopped.value)
