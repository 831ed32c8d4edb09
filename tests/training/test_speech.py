"""Speech to text through the scripts: real recordings, Whisper's encoder, CTC in letters and in words."""

import json
from pathlib import Path

import pytest
from datasets import DatasetDict
from kill_and_resume import ask_without_package, call, ends_alike_after_kills, recipe_writer, two_processes_differ_by

import mm_hf
from mm_hf.commands import evaluate
from mm_hf.models.ctc_mm_fusion import CTC
from mm_hf.training import finetune, train


@pytest.fixture(scope="module")
def dataset(fsdd, tmp_path_factory) -> Path:
    """Some takes of four words by all speakers; some rows lack their sound or what it says."""
    takes = {"train": range(10, 22), "validation": (5,), "test": (0, 1)}

    def part(name):
        rows = fsdd[name].filter(
            lambda take, word: take in takes[name] and word in ("one", "two", "three", "eight"),
            input_columns=["take", "word"],
        )
        rows = rows.select_columns(["audio", "word", "speaker", "take"])
        gap = {"audio": None, "word": None}
        return rows.map(
            lambda row, place: {**row, **{key: gap[key] for key, at in (("audio", 20), ("word", 11)) if place == at}},
            with_indices=True,
            features=rows.features,
        )

    folder = tmp_path_factory.mktemp("speech") / "set"
    DatasetDict({name: part(name) for name in takes}).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(encoders, dataset, tmp_path_factory):
    defaults = {
        "audio_encoder": encoders / "whisper-tiny-en",
        "max_audio_seconds": 1,
        "task": CTC,
        "dataset": dataset,
        "audio_column": "audio",
        "label_column": "word",
        "kind_column": "speaker",
        "fusion_hidden_size": 64,
        "fusion_layers": 1,
        "freeze_encoders": True,
        "learning_rate": 5e-3,
        "max_steps": 100,
        "eval_steps": 50,
        "per_device_train_batch_size": 32,
    }
    return recipe_writer(tmp_path_factory, defaults)


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "train"
    call(train.main, recipe(folder))
    return folder


def test_a_run(trained):
    results = json.loads((trained / "results.json").read_text())
    assert list(results["metrics"]) == ["chrf", "exact_match", "wer"]
    assert results["metrics"]["wer"] < 0.4
    assert results["floors"] == {"majority": pytest.approx(0.25, abs=0.2)}
    assert results["linear"] == {"left_out": "no linear model is defined for ctc"}
    assert "no floor with a linear model" in (trained / "README.md").read_text()
    model = mm_hf.MMFusionForCTC.from_pretrained(trained)
    assert model.config.vocab_size == 2 + len(set("onetwothreeeight"))
    card = (trained / "README.md").read_text()
    assert "pipeline_tag: automatic-speech-recognition" in card
    assert 'write("sound.wav")' in card
    assert "the letters of its training texts" in card


def test_evaluation(trained):
    call(evaluate.main, "--model", trained, "--bootstrap_samples", 20)
    report = json.loads((trained / "evaluation/evaluation.json").read_text())
    expected = json.loads((trained / "results.json").read_text())["metrics"]
    for name, value in expected.items():
        assert report["metrics"][name]["value"] == pytest.approx(value, abs=1e-5)
    assert (trained / "evaluation/report.html").exists()


@pytest.mark.slow
def test_it_writes_without_the_package(trained, fsdd, tmp_path):
    row = fsdd["train"].filter(lambda row: row["speaker"] == "theo" and row["word"] == "three")[0]
    (tmp_path / "three.wav").write_bytes(row["audio"]["bytes"])
    found = ask_without_package(trained, str(tmp_path / "three.wav"), tmp_path)
    pipe = mm_hf.pipeline(model=trained)
    here = pipe(str(tmp_path / "three.wav"))
    assert found == here
    assert set(here) == {"text"}
    one, two = pipe([row["audio"]["bytes"], {"audio": str(tmp_path / "three.wav")}], batch_size=2)
    assert one == two == here
    assert pipe(row["audio"]["bytes"], num_beams=4)["text"]
    with pytest.raises(ValueError, match=r"num_return_sequences.*\b1\b"):
        pipe(row["audio"]["bytes"], num_return_sequences=2)
    with pytest.raises(ValueError, match=r"num_beams.*\b1\b"):
        pipe(row["audio"]["bytes"], num_beams=0)


@pytest.mark.slow
def test_the_trainer_writes_words_of_other_voices(recipe, tmp_path):
    keys = {"tokenizer": "words", "speed_perturbation": 0.2, "max_steps": 60, "eval_steps": 30, "floors": False}
    call(finetune.main, recipe(tmp_path / "run", **keys))
    assert json.loads((tmp_path / "run/results.json").read_text())["metrics"]["wer"] < 0.5
    assert mm_hf.MMFusionForCTC.from_pretrained(tmp_path / "run").config.vocab_size == 6


@pytest.mark.slow
def test_a_sentence_beside_the_sound_and_an_encoder_that_trains(recipe, encoders, tmp_path):
    keys = {"text_encoder": str(encoders / "minilm-l6"), "text_column": "speaker", "kind_column": None}
    keys |= {"freeze_encoders": ["text"], "max_steps": 10, "eval_steps": 10, "floors": False}
    call(train.main, recipe(tmp_path / "run", **keys))
    config = mm_hf.MMFusionForCTC.from_pretrained(tmp_path / "run").config
    assert config.vocab_size == 30522
    assert config.fusion_module_config.query_modality == "audio"


@pytest.mark.slow  # part of `make reliability`
def test_killed_and_started_again(recipe, tmp_path):
    ends_alike_after_kills(recipe, tmp_path, 14, save_steps=10)


@pytest.mark.slow
def test_two_processes_learn_as_one(recipe, tmp_path):
    assert two_processes_differ_by(recipe, tmp_path, 32, learning_rate=0.05) < 1e-5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"audio_encoder": None, "audio_column": None, "max_audio_seconds": None, "understand_columns": False},
            "column",
        ),
        ({"num_beams": 4}, "num_beams does not work with ctc"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor does not work with ctc"),
        ({"decoder": "minilm"}, "decoder is 'minilm', but only the task generation has a decoder"),
        ({"imbalance": "focal_loss"}, "imbalance is 'focal_loss', but ctc writes texts, without classes"),
        (
            {"task": None, "tokenizer": "words"},
            "tokenizer is 'words', but it is only for the task ctc without a text_encoder",
        ),
        ({"label_column": "take", "kind_column": None}, "label_column 'take' holds 10, but ctc needs texts"),
        ({"speed_perturbation": 1.5}, "speed_perturbation must be below 1, got 1.5"),
    ],
)
def test_what_does_not_fit_is_one_line(keys, message, recipe, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(train.main, recipe(tmp_path / "run", **keys))
    said = str(stopped.value) + capsys.readouterr().err
    assert message in said
