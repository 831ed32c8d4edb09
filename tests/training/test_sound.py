"""Sound through the scripts: real speech, Whisper's encoder, written words beside it, and rows that lack either."""

import json
from pathlib import Path

import pytest
from datasets import DatasetDict, Value
from kill_and_resume import (
    ask_without_package,
    call,
    ends_alike_after_a_stop,
    ends_alike_after_kills,
    recipe_writer,
    two_processes_differ_by,
)
from PIL import Image

import mm_hf
from mm_hf.commands import evaluate
from mm_hf.training import finetune, train


@pytest.fixture(scope="module")
def dataset(fsdd, tmp_path_factory) -> Path:
    """Is this the number that is said? Every other row has the word of another recording; some lack their sound."""

    def asked(part):
        words = part["word"][:]
        words = [word if row % 2 == 0 else words[(row * 7 + 5) % len(words)] for row, word in enumerate(words)]
        said = ["yes" if word == own else "no" for word, own in zip(words, part["word"][:])]
        sounds = [None if row % 29 == 28 else sound for row, sound in enumerate(part["audio"][:])]
        part = part.select_columns(["speaker", "digit"]).add_column("said", said)
        part = part.add_column("audio", sounds, feature={"bytes": Value("binary"), "path": Value("string")})
        return part.add_column("word", [None if row % 31 == 30 else word for row, word in enumerate(words)])

    takes = {"train": (10, 11, 12, 13), "validation": (5,), "test": (0,)}
    folder = tmp_path_factory.mktemp("sounds") / "set"
    parts = {
        name: asked(fsdd[name].filter(lambda take, chosen=chosen: take in chosen, input_columns="take"))
        for name, chosen in takes.items()
    }
    DatasetDict(parts).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(encoders, dataset, tmp_path_factory):
    defaults = {
        "audio_encoder": encoders / "whisper-tiny-en",
        "text_encoder": encoders / "minilm-l6",
        "max_audio_seconds": 1,
        "dataset": dataset,
        "audio_column": "audio",
        "text_column": "word",
        "label_column": "digit",
        "kind_column": "speaker",
        "fusion_hidden_size": 64,
        "fusion_layers": 1,
        "freeze_encoders": True,
        "learning_rate": 5e-3,
        "max_steps": 40,
        "eval_steps": 10,
        "per_device_train_batch_size": 48,
    }
    return recipe_writer(tmp_path_factory, defaults)


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "train"
    call(train.main, recipe(folder))
    return folder


def test_a_run(trained):
    results = json.loads((trained / "results.json").read_text())
    assert results["metrics"]["accuracy"] > 0.8  # the word is another one's in half of the rows
    assert set(results["floors"]) == {"majority", "text_only", "audio_only", "linear"}
    assert results["floors"]["text_only"] < 0.65 < results["metrics"]["accuracy"]
    model = mm_hf.MMFusionForClassification.from_pretrained(trained)
    assert model.config.modalities == ["text", "audio"]
    assert model.config.audio_config.max_source_positions == 50
    card = (trained / "README.md").read_text()
    assert "text encoder `minilm-l6`, audio encoder `whisper-tiny-en`" in card
    assert 'predict({"text": "a text", "audio": "sound.wav"}, top_k=3)' in card
    with Image.open(trained / "predictions.png") as plot:
        assert min(plot.size) > 300


@pytest.mark.slow  # as test_speech.py and test_series.py do
def test_evaluation(trained):
    call(evaluate.main, "--model", trained, "--missing", "--bootstrap_samples", 20)
    report = json.loads((trained / "evaluation/evaluation.json").read_text())
    assert set(report["missing"]["by_modality"]) == {"text", "audio"}
    assert {"this_model_text_alone", "this_model_audio_alone"} <= set(report["floors"])
    expected = json.loads((trained / "results.json").read_text())["metrics"]["accuracy"]
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(expected, abs=1e-5)
    assert (trained / "evaluation/report.html").exists()


@pytest.mark.slow  # as test_speech.py and test_table.py do
def test_it_answers_without_the_package(trained, fsdd, tmp_path):
    row = fsdd["test"].filter(lambda row: row["speaker"] == "theo" and row["digit"] == 7)[0]
    (tmp_path / "seven.wav").write_bytes(row["audio"]["bytes"])
    answers = ask_without_package(trained, {"audio": str(tmp_path / "seven.wav"), "text": "seven"}, tmp_path)
    assert answers[0]["label"] == "7"
    pipe = mm_hf.pipeline(model=trained)
    here = pipe({"audio": str(tmp_path / "seven.wav"), "text": "seven"})
    assert [answer["label"] for answer in here] == [answer["label"] for answer in answers]
    assert here[0]["score"] == pytest.approx(answers[0]["score"], abs=1e-5)
    rows = [{"audio": row["audio"]["bytes"]}, {"text": "two"}, {"audio": row["audio"]["bytes"], "text": None}]
    one, two, three = pipe(rows, batch_size=3, top_k=1)
    assert one == three
    assert two[0]["label"] in {str(digit) for digit in range(10)}
    with pytest.raises(ValueError, match=r"reads \['text', 'audio'\] alone"):
        pipe({"image": Image.new("RGB", (8, 8))})


@pytest.mark.slow
def test_an_interrupted_run_ends_as_one_that_was_not(recipe, trained, tmp_path):
    ends_alike_after_a_stop(recipe(tmp_path / "run", save_steps=5, floors=False), trained, 17)


@pytest.mark.slow
def test_the_trainer_and_an_encoder_that_trains(recipe, tmp_path):
    keys = {"freeze_encoders": ["text"], "audio_learning_rate": 1e-3, "max_steps": 20, "floors": False}
    call(finetune.main, recipe(tmp_path / "run", **keys))
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["metrics"]["accuracy"] > 0.5


@pytest.mark.slow  # part of `make reliability`
def test_killed_and_started_again(recipe, tmp_path):
    ends_alike_after_kills(recipe, tmp_path, 13)


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [True, ["text"]])
def test_two_processes_learn_as_one(freeze, recipe, tmp_path):
    assert two_processes_differ_by(recipe, tmp_path, 48, learning_rate=0.05, freeze_encoders=freeze) < 1e-5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"audio_column": None}, "audio_column is missing"),
        ({"audio_column": "sound"}, "Unknown column 'sound' (given as audio_column)"),
        ({"audio_column": "digit"}, "Column 'digit' must hold sounds"),
        ({"max_audio_seconds": 31}, "must be a whole number between 1 and 30 for this encoder, got 31"),
        ({"max_audio_seconds": 0}, "max_audio_seconds must be a whole number from 1 up, got 0"),
        ({"audio_column": None, "audio_encoder": None}, "max_audio_seconds is 1, but there is no audio_encoder"),
        ({"audio_encoder": "text"}, "reads 'input_ids'; needed is one that reads 'input_features'"),
    ],
)
def test_what_does_not_fit_is_one_line(keys, message, recipe, encoders, tmp_path):
    if keys.get("audio_encoder") == "text":
        keys = {"audio_encoder": str(encoders / "minilm-l6")}
        message = "minilm-l6"
    with pytest.raises(SystemExit) as stopped:
        call(train.main, recipe(tmp_path / "run", **keys))
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)
