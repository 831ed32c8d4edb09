"""`mm_hf evaluate --backend onnx` measures an export as evaluate measures its checkpoint: same rows, same metrics."""

import csv
import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import says
from PIL import Image

import mm_hf
from mm_hf import MMFusionForQuestionAnswering, MMFusionProcessor
from mm_hf.cli import main
from mm_hf.export import export_model
from mm_hf.export.check import load_runtime
from mm_hf.models.confidence import Confidence


STORED = Path(__file__).parents[1] / "data/checkpoints"
HOUSES = ["--dataset", STORED / "rows/rows.csv", "--split", "train", "--bootstrap_samples", 50]
PAIR = [*HOUSES, "--image_column", "photo", "--text_column", "text"]
COLOURS = [*PAIR, "--label_column", "colour"]
ONNX = ["--backend", "onnx"]
TEXT = "what colour is the big red house ?"
BESIDE = {"backend", "evidence", "cost_curve", "run"}  # of a report what is not the same


def measure(run: Path, *flags) -> None:
    main(["evaluate", *map(str, [run, *flags])])


def report_of(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def assert_close(one, other, place: str = "report"):
    """The same figures but for rounding."""
    if isinstance(one, dict):
        assert set(one) == set(other), place
        for key in one:
            assert_close(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for number, pair in enumerate(zip(one, other)):
            assert_close(*pair, f"{place}.{number}")
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-4, rel=1e-4), place
    else:
        assert one == other, place


@pytest.fixture(scope="module")
def run(exported, tmp_path_factory) -> Path:
    """A copy of it that torch was measured on."""
    copy = tmp_path_factory.mktemp("measured") / "houses"
    shutil.copytree(exported, copy)
    measure(copy, *COLOURS, "--missing", "--evidence", "false")
    return copy


@pytest.fixture(scope="module")
def report(run) -> dict:
    """Of the export."""
    before = (run / "evaluation/evaluation.json").read_bytes()
    measure(run, *COLOURS, "--missing", *ONNX)
    assert (run / "evaluation/evaluation.json").read_bytes() == before
    return report_of(run / "evaluation-onnx")


def test_an_export_has_the_figures_of_its_model(run, report):
    """Metrics and intervals, floors, lost modalities, calibration, coverage and mistakes."""
    of_torch = report_of(run / "evaluation")
    assert set(report) == {*of_torch, "backend"}
    same = [key for key in of_torch if key not in BESIDE]
    assert {"floors", "missing", "confidence", "mistakes"} <= set(same)
    assert_close({key: report[key] for key in same}, {key: of_torch[key] for key in same})


def test_what_is_said_of_the_agreement(run, report):
    beside = report["backend"]
    assert beside["same_answers"] == 1.0
    assert 0 < beside["largest_difference"] < 1e-4
    assert beside["torch"]["rows"] == report["rows"]["labelled"] == 48
    accuracy = beside["torch"]["metrics"]["accuracy"]
    assert accuracy["a"] == accuracy["b"] == report["metrics"]["accuracy"]["value"]
    assert (accuracy["difference"], accuracy["winner"]) == (0, None)
    of_run = beside["report_of_run"]
    assert of_run["metrics"]["accuracy"] == report["metrics"]["accuracy"]["value"]
    assert of_run["file"] == str(run / "evaluation/evaluation.json")
    page = (run / "evaluation-onnx/report.html").read_text(encoding="utf-8")
    assert "100.00 %" in page
    assert beside["torch"]["verdict"].split(":")[0] in page


def test_an_export_that_answers_otherwise_is_seen(run, tmp_path, capsys):
    """Of a model that says "red" of every row by now, without checksums that tell: what each scores, how many answers
    agree, and how far the numbers are apart."""
    shutil.copytree(run, tmp_path / "run")
    model = mm_hf.MMFusionForClassification.from_pretrained(tmp_path / "run")
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    model.save_pretrained(tmp_path / "run")
    (tmp_path / "run/checksums.json").unlink()
    measure(tmp_path / "run", *COLOURS, *ONNX)
    report = report_of(tmp_path / "run/evaluation-onnx")
    beside = report["backend"]
    accuracy = beside["torch"]["metrics"]["accuracy"]
    with open(STORED / "rows/rows.csv") as file:
        reds = [row["colour"] == "red" for row in csv.DictReader(file)]
    assert accuracy["b"] == pytest.approx(np.mean(reds), abs=1e-6)
    assert accuracy["a"] == report["metrics"]["accuracy"]["value"] == beside["report_of_run"]["metrics"]["accuracy"]
    assert beside["same_answers"] < 1
    assert beside["largest_difference"] > 1
    assert f"{100 * beside['same_answers']:.2f} %" in capsys.readouterr().out


def test_rows_that_cannot_be_read(run, tmp_path):
    """They count for neither, and are said as ever."""
    shutil.copytree(STORED / "rows", tmp_path / "rows")
    (tmp_path / "rows/photos/3.png").write_bytes(b"none")
    flags = ["--dataset", tmp_path / "rows/rows.csv", *COLOURS[2:], "--output_dir", tmp_path / "report"]
    measure(run, *flags, *ONNX, "--on_error", "skip", "--max_bad_fraction", 0.5)
    report = report_of(tmp_path / "report")
    assert report["rows"] == {"evaluated": 48, "labelled": 47, "bad": 1}
    assert report["backend"]["torch"]["rows"] == 47
    assert report["backend"]["largest_difference"] < 1e-4
    with pytest.raises(SystemExit, match=says("3.png")):
        measure(run, *flags, *ONNX)


def test_what_is_refused(run, tmp_path, monkeypatch):
    def refused(values: tuple, *flags, of: Path = run):
        with pytest.raises(SystemExit, match=says(*values)):
            measure(of, *COLOURS, *flags)

    refused(
        (tmp_path / "none", f"mm_hf export {run} -o {tmp_path / 'none'}"), *ONNX, "--export_folder", tmp_path / "none"
    )
    refused((run / "evaluation",), *ONNX, "--output_dir", run / "evaluation")
    alone = tmp_path / "alone"
    shutil.copytree(STORED / "heads/question_answering", alone)
    refused((alone / "onnx", f"mm_hf export {alone}"), *ONNX, of=alone)
    refused((run / "onnx", "model"), *ONNX, "--export_folder", run / "onnx", of=alone)
    searches = STORED / "heads/retrieval"
    refused((searches, f"mm_hf search evaluate --model {searches}"), *ONNX, of=searches)
    with pytest.raises(SystemExit) as ended:
        measure(run, *COLOURS, *ONNX, "--calibrate")
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        measure(run, *COLOURS, "--export_folder", run / "onnx")
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("change", "values"),
    [
        ({"format": 2}, (2, 1)),
        ({"graphs": {"fuse": {"file": "../fuse.onnx", "inputs": []}}}, ("../fuse.onnx",)),
        ({"graphs": {"fuse": {"file": "fuse.pt2", "inputs": []}}}, ("fuse.pt2", "--to onnx")),
        ({"graphs": []}, ("manifest.json",)),
        ({"answers": None}, ("manifest.json",)),
        ({"checkpoint": {"model.safetensors": "0"}}, ("mm_hf export", "--overwrite")),
        ({"checkpoint": {"config.json": "0"}}, ("config.json", "mm_hf export", "--overwrite")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_manifests_that_are_refused(run, tmp_path, change, values):
    """Damaged ones, those of a stranger, and exports of another state of the run."""
    shutil.copytree(run / "onnx", tmp_path / "onnx")
    file = tmp_path / "onnx/manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(SystemExit, match=says(*values)):
        measure(run, *COLOURS, *ONNX, "--export_folder", tmp_path / "onnx")


def test_another_runtime_is_not_what_is_measured(run, tmp_path):
    """And nothing of it runs."""
    shutil.copytree(run / "onnx", tmp_path / "onnx")
    (tmp_path / "onnx/runtime.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(SystemExit, match=says("runtime.py", mm_hf.__version__, "--overwrite")):
        measure(run, *COLOURS, *ONNX, "--export_folder", tmp_path / "onnx")
    assert not (tmp_path / "ran").exists()


def test_a_calibration_after_the_export_is_seen(exported, tmp_path):
    """By the checksums; and where there are none by what the manifest says."""
    shutil.copytree(exported, tmp_path / "run")
    model = mm_hf.MMFusionForClassification.from_pretrained(tmp_path / "run")
    model.set_confidence({None: Confidence(50, 2.5, (0.4, 0.5, 0.6))})
    model.save_pretrained(tmp_path / "run")
    with pytest.raises(SystemExit, match=says("config.json", f"mm_hf export {tmp_path / 'run'} --overwrite")):
        measure(tmp_path / "run", *COLOURS, *ONNX)
    (tmp_path / "run/checksums.json").unlink()
    with pytest.raises(SystemExit, match=says("tasks")):
        measure(tmp_path / "run", *COLOURS, *ONNX)


# ---- Every head, and real pictures


def sounds(folder: Path) -> Path:
    """Sounds with a text each."""
    rows = []
    for number, length in enumerate((16000, 9000, 12000, 11000)):
        samples = (np.sin(np.arange(length) * 0.01 * (number + 3)) * 2**14).astype("<i2")
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(samples.tobytes())
        rows.append({"sound": f"{number}.wav", "said": "ab cd"[number:] or "a"})
    return table(folder, rows)


def readings(folder: Path) -> Path:
    """Houses with a series each; some lack it, or a bed."""
    draw = np.random.default_rng(0)
    rows = []
    for number in range(24):
        steps = draw.normal(size=(3 + number % 5, 2)).cumsum(0).tolist()
        house = {"beds": None if number % 7 == 0 else number % 6, "kind": ["new", "old", "ruin"][number % 3]}
        rows.append({**house, "steps": None if number % 11 == 0 else steps, "price": 100.0 + 20 * (number % 6)})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def table(folder: Path, rows: list[dict]) -> Path:
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "rows.csv"


def flags_of(head: str, folder: Path) -> list:
    """Rows of each head, and what is read of them."""
    few = ["--split", "train", "--bootstrap_samples", 20]
    if head == "ctc":
        return ["--dataset", sounds(folder), "--audio_column", "sound", "--label_column", "said", *few]
    if head == "regression":
        columns = ["--table_columns", "beds", "kind", "--series_column", "steps", "--label_column", "price"]
        return ["--dataset", readings(folder), *columns, *few]
    labels = {"multi_task": ["colour", "price"], "generation": ["colour"], "question_answering": ["colour"]}[head]
    return [*PAIR, "--label_column", *labels]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["question_answering", "regression", "multi_task", "ctc", "generation"])
def test_every_head_is_measured(head, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(STORED / "heads" / head, run)
    flags = flags_of(head, tmp_path)
    main(["export", str(run)])
    measure(run, *flags, "--evidence", "false")
    measure(run, *flags, *ONNX)
    reports = sorted(file.relative_to(run / "evaluation").parent for file in run.glob("evaluation/**/evaluation.json"))
    assert len(reports) == (2 if head == "multi_task" else 1)
    for place in reports:
        of_torch, of_onnx = (report_of(run / name / place) for name in ("evaluation", "evaluation-onnx"))
        same = [key for key in of_torch if key not in BESIDE]
        assert_close({key: of_onnx[key] for key in same}, {key: of_torch[key] for key in same})
        beside = of_onnx["backend"]
        numbers = of_onnx["problem_type"] == "regression"
        assert beside["same_answers"] == (None if numbers else 1.0)
        assert (beside["largest_difference"] is None) == (head in ("ctc", "generation"))
        assert beside["report_of_run"]["rows"] == of_onnx["rows"]["labelled"]


@pytest.mark.slow
def test_several_labels_and_windows_of_long_texts(tmp_path):
    """Through the same door: lists of labels, of texts that are cut into windows."""
    processor = MMFusionProcessor.from_pretrained(STORED / "heads/classification")
    processor.text_windows = 2
    processor.tokenizer.model_max_length = 6
    config = mm_hf.MMFusionConfig.from_pretrained(STORED / "heads/classification")
    config.places = {"text": 2}
    config.problem_type = "multi_label_classification"
    torch.manual_seed(0)
    model = mm_hf.MMFusionForClassification(config).eval()
    with torch.no_grad():
        model.classifier.weight.normal_(std=2.0)
    model.save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")
    main(["export", str(tmp_path / "run")])
    words = [*TEXT.split(), *TEXT.split()]
    rows = [
        {"text": " ".join(words[number % 5 : 3 * number + 3]), "colours": ["red", "green", "blue"][: number % 4]}
        for number in range(20)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ["--image_column", "", "--text_column", "text", "--label_column", "colours"]
    measure(tmp_path / "run", "--dataset", file, *columns, "--split", "train", "--bootstrap_samples", 20, *ONNX)
    beside = report_of(tmp_path / "run/evaluation-onnx")["backend"]
    assert beside["same_answers"] == 1.0
    assert beside["largest_difference"] < 1e-4


@pytest.mark.slow
def test_real_pictures_and_questions_have_the_pipelines_answers(encoders, easy_vqa, tmp_path):
    """MobileNetV2 and MiniLM, whose answers differ from row to row: the best of runtime and pipeline is the same."""
    rows = easy_vqa["test"].shuffle(seed=0).select(range(48))
    names = rows.features["answer"].names
    folders = {"vision": encoders / "mobilenet-v2", "text": encoders / "minilm-l6"}
    torch.manual_seed(0)
    model = MMFusionForQuestionAnswering.from_encoders_pretrained(
        **folders, num_labels=len(names), id2label=dict(enumerate(names))
    ).eval()
    processor = MMFusionProcessor.from_encoders_pretrained(**folders)
    export_model(model, processor, tmp_path)
    asked = [{"image": picture, "question": question} for picture, question in zip(rows["image"], rows["question"])]
    asked = [{**row, "image": row["image"].convert("RGB")} for row in asked]
    pipe = mm_hf.pipeline(model=model, processor=processor)
    expected = [answer[0] for answer in pipe(asked, batch_size=16)]
    found = [answer[0] for answer in load_runtime(tmp_path).Model(tmp_path)(asked, batch_size=16)]
    assert len({answer["answer"] for answer in expected}) > 1
    assert [answer["answer"] for answer in found] == [answer["answer"] for answer in expected]
    assert [answer["score"] for answer in found] == pytest.approx([answer["score"] for answer in expected], abs=1e-4)
    assert all(isinstance(row["image"], Image.Image) for row in asked)
