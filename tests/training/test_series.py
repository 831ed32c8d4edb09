"""Time series through the scripts: real readings of a wrist's sensors, some absent, some of other lengths."""

import json
import math
from pathlib import Path

import pytest
from datasets import DatasetDict, load_from_disk
from kill_and_resume import (
    ask_without_package,
    call,
    ends_alike_after_a_stop,
    recipe_writer,
    two_processes_differ_by,
)
from PIL import Image

import mm_hf
from mm_hf.commands import evaluate
from mm_hf.prepare import basic_motions
from mm_hf.training import finetune, train


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Recordings of other lengths, one with gaps, one row without any; a word beside each that tells little."""
    folder = tmp_path_factory.mktemp("motions")
    basic_motions.main([str(folder / "whole")])

    def spoil(row, place):
        row["readings"] = row["readings"][: 100 - place % 3 * 20]
        row["word"] = "still" if row["activity"] == 2 and place % 2 else "moving"
        if place == 4:
            row["readings"] = None
        if place == 5:
            row["readings"] = [[math.nan if k == 2 else value for k, value in enumerate(s)] for s in row["readings"]]
        return row

    parts = {}
    for name, part in load_from_disk(str(folder / "whole")).items():
        parts[name] = part.map(spoil, with_indices=True)
    DatasetDict(parts).save_to_disk(folder / "set")
    return folder / "set"


@pytest.fixture(scope="module")
def recipe(dataset, tmp_path_factory):
    defaults = {
        "dataset": dataset,
        "series_column": "readings",
        "series_rnn_type": "gru",
        "label_column": "activity",
        "fusion_hidden_size": 64,
        "fusion_layers": 1,
        "learning_rate": 5e-3,
        "max_steps": 60,
        "eval_steps": 20,
        "per_device_train_batch_size": 8,
    }
    return recipe_writer(tmp_path_factory, defaults)


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "train"
    call(train.main, recipe(folder))
    return folder


def test_a_run(trained):
    results = json.loads((trained / "results.json").read_text())
    assert results["metrics"]["accuracy"] >= 0.75 > 3 * results["floors"]["majority"] - 0.01
    scaler = mm_hf.MMFusionProcessor.from_pretrained(trained).series_scaler
    assert scaler.channels == 6
    assert all(std > 0.1 for std in scaler.stds)
    model = mm_hf.MMFusionForClassification.from_pretrained(trained)
    assert model.config.series_config.rnn_type == "gru"
    assert model.config.modalities == ["series"]
    with Image.open(trained / "predictions.png") as plot:  # the readings are drawn
        assert len(plot.convert("RGB").resize((200, 200)).getcolors(40000)) > 50
    card = (trained / "README.md").read_text()
    assert 'predict({"series": [[…], …]}, top_k=3)' in card
    assert "`MMFusionForClassification` of mm_hf: series encoder `gru`,\nfused by" in card


@pytest.mark.slow  # as test_speech.py and test_table.py do
def test_it_answers_without_the_package(trained, dataset, tmp_path):
    row = {"series": load_from_disk(str(dataset))["test"][0]["readings"]}
    answers = ask_without_package(trained, row, tmp_path)
    pipe = mm_hf.pipeline(model=trained)
    here = pipe(row)
    assert [answer["label"] for answer in here] == [answer["label"] for answer in answers]
    assert here[0]["score"] == pytest.approx(answers[0]["score"], abs=1e-5)
    # Padding beside a longer one changes nothing.
    _, longer = pipe([{"series": row["series"][:40]}, row], batch_size=2)
    assert longer[0]["score"] == pytest.approx(here[0]["score"], abs=1e-5)
    with pytest.raises(ValueError, match=r"\b6 channels.*\(2, 1\)"):
        pipe({"series": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"\['series'\]"):
        pipe({"text": "walking"})


def test_evaluation(trained):
    call(evaluate.main, "--model", trained, "--bootstrap_samples", 20)
    report = json.loads((trained / "evaluation/evaluation.json").read_text())
    expected = json.loads((trained / "results.json").read_text())["metrics"]["accuracy"]
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_beside_words_either_may_be_missing(recipe, encoders, tmp_path):
    """And the balance between the two is minded."""
    words = {"text_encoder": encoders / "minilm-l6", "text_column": "word", "freeze_encoders": True}
    call(train.main, recipe(tmp_path / "run", **words, gradient_modulation=0.5, max_steps=30))
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert set(results["floors"]) == {"majority", "series_only", "text_only"}
    call(evaluate.main, "--model", tmp_path / "run", "--missing", "--bootstrap_samples", 10)
    report = json.loads((tmp_path / "run/evaluation/evaluation.json").read_text())
    assert set(report["missing"]["by_modality"]) == {"text", "series"}


def test_bad_rows_are_named_and_skipped(recipe, dataset, tmp_path):
    parts = load_from_disk(str(dataset))

    def spoil(row, place):
        if place == 3:
            row["readings"][7][1] = math.inf
        return row

    for name in ("train", "test"):
        spoilt = DatasetDict({**parts, name: parts[name].map(spoil, with_indices=True)})
        spoilt.save_to_disk(tmp_path / name)
        keys = {"dataset": tmp_path / name, "floors": False, "max_steps": 2, "eval_steps": 2}
        with pytest.raises(SystemExit, match=rf"row 3 .*'{name}'.*'readings': .*finite.*\binf\b"):
            call(train.main, recipe(tmp_path / "run", **keys))
        keys |= {"on_error": "skip", "max_bad_fraction": 0.2}
        call(train.main, recipe(tmp_path / f"skipping-{name}", **keys))
        (line,) = (tmp_path / f"skipping-{name}/bad_rows.jsonl").read_text().splitlines()
        assert (json.loads(line)["row"], json.loads(line)["column"]) == (3, "readings")


@pytest.mark.slow
def test_an_interrupted_run_ends_as_one_that_was_not(recipe, trained, tmp_path):
    ends_alike_after_a_stop(recipe(tmp_path / "run", save_steps=5, floors=False), trained, 38)


@pytest.mark.slow
def test_the_trainer_learns_it_too(recipe, tmp_path):
    call(finetune.main, recipe(tmp_path / "run", floors=False))
    assert json.loads((tmp_path / "run/results.json").read_text())["metrics"]["accuracy"] >= 0.75


@pytest.mark.slow
def test_two_processes_learn_as_one(recipe, tmp_path):
    assert two_processes_differ_by(recipe, tmp_path, 8, learning_rate=0.05) < 1e-5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"series_column": None, "understand_columns": False},
            "image_column or text_column or audio_column or table_columns or series_column is",
        ),
        ({"series_column": "steps"}, "Unknown column 'steps' (given as series_column)"),
        ({"series_column": "word"}, "row 0 of split 'train', column 'word': a series is a list of steps"),
        ({"series_column": "activity"}, "series_column names ['activity'], the labels themselves"),
        ({"series_rnn_type": "rnn"}, "must be one of ['lstm', 'gru'], got 'rnn'"),
        ({"streaming": True}, "series_column does not go with streaming"),
        ({"gradient_modulation": 0.5}, "of which it needs two; got MMFusionForClassification with ['series']"),
        ({"gradient_modulation": -1}, "gradient_modulation must be at least 0, got -1"),
        ({"gradient_modulation": 0.5, "torch_compile": True}, "gradient_modulation is for models of classes"),
    ],
)
def test_what_does_not_fit_is_one_line(keys, message, recipe, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(train.main, recipe(tmp_path / "run", **keys))
    said = f"{stopped.value} {capsys.readouterr().err}"
    assert message in said
