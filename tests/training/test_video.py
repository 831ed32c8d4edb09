"""Videos with sound and a question through the scripts: real files, a frozen CNN over the frames, an LSTM of sound."""

import json
from pathlib import Path

import pytest
from datasets import DatasetDict
from kill_and_resume import ask_without_package, call, ends_alike_after_kills, recipe_writer, two_processes_differ_by
from PIL import Image

import mm_hf
from mm_hf.commands import evaluate
from mm_hf.prepare import recurrent
from mm_hf.prepare.moving_shapes import questions
from mm_hf.training import train


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """A few clips; some rows lack the video, some the sound."""

    def part(clips, first):
        gap = {5: "video", 6: "audio"}
        rows = questions(clips, first, 0)
        return rows.map(
            lambda row, place: {**row, **({gap[place]: None} if place in gap else {})},
            with_indices=True,
            features=rows.features,
        )

    folder = tmp_path_factory.mktemp("clips") / "set"
    parts = {"train": part(60, 0), "validation": part(9, 60), "test": part(12, 69)}
    DatasetDict(parts).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(encoders, dataset, tmp_path_factory):
    ears = tmp_path_factory.mktemp("encoders") / "lstm-sound"
    recurrent.main([str(ears), "--mel_bins", "40"])
    defaults = {
        "vision_encoder": encoders / "mobilenet-v2",
        "image_size": 64,
        "num_frames": 4,
        "text_encoder": encoders / "minilm-l6",
        "audio_encoder": ears,
        "max_audio_seconds": 1,
        "dataset": dataset,
        "video_column": "video",
        "audio_column": "audio",
        "text_column": "question",
        "label_column": "answer",
        "kind_column": "kind",
        "fusion": "bottleneck",
        "fusion_hidden_size": 64,
        "fusion_layers": 1,
        "freeze_encoders": ["vision", "text"],
        "learning_rate": 3e-3,
        "max_steps": 60,
        "eval_steps": 30,
        "per_device_train_batch_size": 32,
        "floors": False,
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
    assert results["by_kind"]["colour"] > 0.5
    model = mm_hf.MMFusionForQuestionAnswering.from_pretrained(trained)
    assert model.config.modalities == ["vision", "text", "audio"]
    assert model.config.num_images == 4
    assert '"video": "clip.mp4"' in (trained / "README.md").read_text()
    with Image.open(trained / "predictions.png") as plot:
        assert min(plot.size) > 300


@pytest.mark.slow
def test_evaluation(trained):
    call(evaluate.main, "--model", trained, "--missing", "--bootstrap_samples", 20)
    report = json.loads((trained / "evaluation/evaluation.json").read_text())
    assert set(report["missing"]["by_modality"]) == {"vision", "text", "audio"}
    expected = json.loads((trained / "results.json").read_text())["metrics"]["accuracy"]
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(expected, abs=1e-5)
    assert "this_model_shuffled_pairs" in report["floors"]


@pytest.mark.slow
def test_it_answers_without_the_package(trained, tmp_path):
    row = questions(1, 1000, 0)[0]
    (tmp_path / "clip.mp4").write_bytes(row["video"]["bytes"])
    (tmp_path / "clip.wav").write_bytes(row["audio"]["bytes"])
    asked = {"video": str(tmp_path / "clip.mp4"), "audio": str(tmp_path / "clip.wav"), "question": row["question"]}
    found = ask_without_package(trained, asked, tmp_path)
    pipe = mm_hf.pipeline(model=trained)
    here = pipe(asked)
    assert [answer["answer"] for answer in found] == [one["answer"] for one in here]
    one, two = pipe([{**asked, "video": row["video"]["bytes"]}, {"question": "what colour?"}], batch_size=2, top_k=1)
    assert one[0]["score"] == pytest.approx(here[0]["score"], abs=1e-5)
    assert two[0]["answer"]
    with pytest.raises(ValueError, match=r".image. .*.video."):
        pipe({**asked, "image": Image.new("RGB", (8, 8))})


@pytest.mark.slow  # part of `make reliability`
def test_killed_and_started_again(recipe, tmp_path):
    ends_alike_after_kills(recipe, tmp_path, 15, save_steps=10)


@pytest.mark.slow
def test_two_processes_learn_as_one(recipe, tmp_path):
    assert two_processes_differ_by(recipe, tmp_path, 32, learning_rate=0.05) < 1e-5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"image_column": "video"}, "names a column twice"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"video_column": "clip"}, "Column 'clip' must hold videos"),
        ({"video_column": None, "image_column": None}, "image_column is missing"),
    ],
)
def test_what_does_not_fit_is_one_line(keys, message, recipe, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(train.main, recipe(tmp_path / "run", **keys))
    assert message in str(stopped.value) + capsys.readouterr().err
