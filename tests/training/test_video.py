"""Videos with sound and a question through the scripts: real files, a frozen CNN over the frames, an LSTM of sound."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import DatasetDict
from kill_and_resume import REPOSITORY, call, command, survive
from PIL import Image
from safetensors.torch import load_file

import mm_hf
from training import evaluate, train
from training.prepare import recurrent
from training.prepare.moving_shapes import questions


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
    """Writes a recipe of questions about clips."""
    ears = tmp_path_factory.mktemp("encoders") / "lstm-sound"
    recurrent.main([str(ears), "--mel_bins", "40"])

    def write(output_dir, **keys) -> Path:
        values = {
            "vision_encoder": str(encoders / "mobilenet-v2"),
            "image_size": 64,
            "num_frames": 4,
            "text_encoder": str(encoders / "minilm-l6"),
            "audio_encoder": str(ears),
            "max_audio_seconds": 1,
            "dataset": str(dataset),
            "output_dir": str(output_dir),
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
            "report_to": "none",
            "floors": False,
            **keys,
        }
        values = {key: value for key, value in values.items() if value is not None}
        file = tmp_path_factory.mktemp("recipe") / "clips.yaml"
        file.write_text(json.dumps(values))  # which is YAML too
        return file

    return write


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "train"
    call(train.main, recipe(folder))
    return folder


def test_a_run(trained):
    results = json.loads((trained / "results.json").read_text())
    assert results["by_kind"]["colour"] > 0.5
    model = mm_hf.MMFusionForQuestionAnswering.from_pretrained(trained)
    assert model.config.modalities == ["vision", "text", "audio"]
    assert model.config.num_images == 4
    assert '"video": "clip.mp4"' in (trained / "README.md").read_text()
    with Image.open(trained / "predictions.png") as plot:
        assert min(plot.size) > 300


def test_evaluation(trained):
    call(evaluate.main, "--model", trained, "--missing", "--bootstrap_samples", 20)
    report = json.loads((trained / "evaluation/evaluation.json").read_text())
    assert set(report["missing"]["by_modality"]) == {"vision", "text", "audio"}
    expected = json.loads((trained / "results.json").read_text())["metrics"]["accuracy"]
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(expected, abs=1e-5)
    assert "this_model_shuffled_pairs" in report["floors"]


def test_it_answers_without_the_package(trained, tmp_path):
    row = questions(1, 1000, 0)[0]
    (tmp_path / "clip.mp4").write_bytes(row["video"]["bytes"])
    (tmp_path / "clip.wav").write_bytes(row["audio"]["bytes"])
    asked = {"video": str(tmp_path / "clip.mp4"), "audio": str(tmp_path / "clip.wav"), "question": row["question"]}
    (tmp_path / "row.json").write_text(json.dumps(asked))
    words = [sys.executable, "-I", "benchmarks/ask_without_package.py", str(trained), str(tmp_path / "row.json")]
    found = subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    pipe = mm_hf.pipeline(model=trained)
    here = pipe(asked)
    assert [answer["answer"] for answer in json.loads(found.splitlines()[-1])] == [one["answer"] for one in here]
    one, two = pipe([{**asked, "video": row["video"]["bytes"]}, {"question": "what colour?"}], batch_size=2, top_k=1)
    assert one[0]["score"] == pytest.approx(here[0]["score"], abs=1e-5)
    assert two[0]["answer"]
    with pytest.raises(ValueError, match="an image or a video, not both"):
        pipe({**asked, "image": Image.new("RGB", (8, 8))})


@pytest.mark.slow
def test_two_processes_learn_as_one(recipe, tmp_path):
    """Five steps of SGD without dropout, half of the rows on each process."""
    still = {"optim": "sgd", "fusion_dropout": 0.0, "classifier_dropout": 0.0, "max_steps": 5, "eval_steps": 5}
    still |= {"warmup_ratio": 0.0, "learning_rate": 0.05}
    ends = {}
    for processes in (1, 2):
        file = recipe(tmp_path / str(processes), **still, per_device_train_batch_size=32 // processes)
        survive(command("train.py", processes, [str(file)]), tmp_path / str(processes), [])
        ends[processes] = load_file(tmp_path / str(processes) / "model.safetensors")
    assert max((ends[1][name] - ends[2][name]).abs().max().item() for name in ends[1]) < 1e-5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"image_column": "video"}, "a row has pictures or a video, not both"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"video_column": "clip"}, "Column 'clip' must hold videos"),
        ({"video_column": None, "image_column": None}, "image_column is missing"),
    ],
)
def test_what_does_not_fit_is_one_line(keys, message, recipe, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(train.main, recipe(tmp_path / "run", **keys))
    assert message in str(stopped.value) + capsys.readouterr().err
