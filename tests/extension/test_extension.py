"""Each example from outside through all that a part of the package goes through: `mm_hf train` on a stranger's CSV, a
report with floors, `mm_hf predict`, a fresh process, a kill, two processes."""

import ast
import csv
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from kill_and_resume import (
    Kill,
    call,
    command,
    ends_alike_after_a_stop,
    recipe_writer,
    survive,
    two_processes_differ_by,
    weights,
)

import mm_hf
from mm_hf.commands import evaluate, explain, predict
from mm_hf.training import train
from mm_hf.training.recipe import parse_arguments


REPOSITORY = Path(__file__).parents[2]
LONGEST = {"custom_fusion": 40, "custom_modality": 150, "custom_task": 120}
SMALL = {
    "fusion_hidden_size": 32,
    "fusion_layers": 1,
    "fusion_heads": 2,
    "freeze_encoders": True,
    "learning_rate": 3e-3,
    "max_steps": 60,
    "eval_steps": 20,
    "save_steps": 20,
    "per_device_train_batch_size": 32,
}


@dataclass
class Example:
    """What is tried of an example.

    Args:
        name: of its file.
        keys: of a recipe that trains it.
        floors: that the report shows.
        beats: the floor that does not know what the example adds, and by how much the first metric has to beat it.
        said: of a prediction, its column and what may stand there.
        row: for a pipeline.
    """

    name: str
    keys: dict
    floors: set[str]
    beats: tuple[str, float]
    said: tuple[str, set[str]]
    row: dict

    @property
    def file(self) -> Path:
        return REPOSITORY / f"examples/{self.name}.py"


def example_of(name: str, request) -> Example:
    encoders = request.getfixturevalue("encoders")
    text = {"text_encoder": encoders / "minilm-l6"}
    if name == "custom_fusion":
        dataset = request.getfixturevalue("colours_csv")
        keys = {"image_column": "photo", "text_column": "question", "label_column": "answer", "fusion": "product"}
        keys |= {"vision_encoder": encoders / "mobilenet-v2", "image_size": 64}
        floors = {"majority", "image_only", "text_only", "shuffled_pairs", "linear"}
        said, beats = ("answer", {"yes", "no"}), ("text_only", 0.2)
        row = {"image": str(dataset.parent / "red.png"), "question": "is this red?"}
    elif name == "custom_modality":
        dataset = request.getfixturevalue("homes_csv")
        keys = {"text_column": "advert", "columns": {"place": ["latitude", "longitude"]}, "label_column": "walls"}
        floors = {"majority", "text_only", "place_only", "linear"}
        said, beats = ("walls", {"old", "new"}), ("text_only", 0.2)
        row = {"text": "a home of 2 rooms", "place": [52.5, 13.4]}
    else:
        dataset = request.getfixturevalue("reviews_csv")
        keys = {"text_column": "review", "table_columns": ["age"], "label_column": "stars"}
        keys |= {"problem_type": "ordered_classes"}
        floors = {"median_class", "text_only", "table_only"}
        said, beats = ("stars", set("12345")), ("median_class", 0.3)
        row = {"text": "coat: perfect in every way"}
    return Example(name, {**SMALL, **text, "dataset": dataset, **keys}, floors, beats, said, row)


@pytest.fixture(scope="module", params=list(LONGEST))
def example(request, imported) -> Example:
    return example_of(request.param, request)


@pytest.fixture(scope="module")
def recipe(example, tmp_path_factory):
    return recipe_writer(tmp_path_factory, {**example.keys, "import": example.file})


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    call(train.main, recipe(folder))
    return folder


def test_it_is_one_short_file(example):
    """And uses what is there for it, by no private name."""
    text = example.file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST[example.name]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert not [alias.name for alias in node.names if alias.name.startswith("_")]


def test_the_command_of_its_header_is_understood(example, monkeypatch):
    """All its words are flags that a file from outside may have made possible."""
    header = ast.get_docstring(ast.parse(example.file.read_text(encoding="utf-8")))
    (line,) = [line for line in header.splitlines() if line.strip().startswith("mm_hf train")]
    words = shlex.split(line)[2:]
    assert words[words.index("--import") + 1] == str(example.file.relative_to(REPOSITORY))
    monkeypatch.chdir(REPOSITORY)
    _, model_args, data_args, _ = parse_arguments("", [str(example.keys["dataset"]), *words[1:]])
    given = {**vars(model_args), **vars(data_args)}
    for key in {"fusion", "columns", "problem_type"} & set(example.keys):
        assert given[key] == example.keys[key]


def test_a_run_says_what_it_beats(trained, example):
    results = json.loads((trained / "results.json").read_text())
    assert set(results["floors"]) >= example.floors
    assert results["verdict"]
    first, *_ = results["metrics"]
    floor, least = example.beats
    gain = results["metrics"][first] - results["floors"][floor]
    assert (-gain if first == "mae" else gain) > least
    card = (trained / "README.md").read_text()
    assert first in card
    assert f"import {example.file.stem}" in card
    assert f"--import {example.file.name}" in card
    assert "trust_remote_code" not in card  # its code does not travel
    assert str(REPOSITORY) not in card


def test_evaluation(trained):
    call(evaluate.main, "--model", trained, "--bootstrap_samples", 20)
    report = json.loads((trained / "evaluation/evaluation.json").read_text())
    results = json.loads((trained / "results.json").read_text())
    for name, value in results["metrics"].items():
        assert report["metrics"][name]["value"] == pytest.approx(value, abs=1e-4)
    assert (trained / "evaluation/report.html").exists()


def test_what_its_answers_rest_on(trained, example):
    """By one command, in the report and on the card: nothing of it names an example."""
    call(explain.main, trained, "--max_rows", 5, "--background", 6)
    evidence = json.loads((trained / "evidence/evidence.json").read_text())
    assert (len(evidence["rows"]), evidence["background"]) == (5, 6)
    _, allowed = example.said
    for record in evidence["rows"]:
        (answer,) = record["answers"]
        assert answer["answer"] in allowed
        assert answer["explained"] == f"log odds of {answer['answer']!r}"
        assert answer["right"] in ((answer["truth"] == answer["answer"]), None)
        given = sum(part["value"] for part in answer["modalities"].values())
        assert given == pytest.approx(answer["value"] - answer["base"], abs=1e-5)
        assert [item["modality"] for item in record["items"]] == list(answer["modalities"])
    (rests_on,) = json.loads((trained / "results.json").read_text())["evidence"].values()
    report = json.loads((trained / "evaluation/evaluation.json").read_text())
    assert (
        set(rests_on["modalities"])
        == set(report["evidence"]["modalities"])
        == set(evidence["summary"][""]["modalities"])
    )
    assert "What it rests on" in (trained / "README.md").read_text()


def test_predictions(trained, example, tmp_path):
    rows, out = Path(example.keys["dataset"]), tmp_path / "out.csv"
    call(predict.main, trained, rows, "-o", out)
    with open(out, newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(rows.read_text().splitlines()) - 1
    label, allowed = example.said
    assert {row["prediction"] for row in found if not row.get("error")} <= allowed
    right = [row["prediction"] == row[label] for row in found if row[label]]
    assert sum(right) / len(right) > 0.5


@pytest.mark.slow
def test_a_stop_changes_nothing(trained, recipe, example, tmp_path):
    ends_alike_after_a_stop(recipe(tmp_path / "run", floors=False), trained, 31)


FRESH = """
import json, sys
import mm_hf
folder, name, row = sys.argv[1:]
try:
    mm_hf.pipeline(model=folder)
    said = None
except Exception as error:
    said = f"{type(error).__name__}: {error}"
sys.path.insert(0, "examples")
__import__(name)
print(json.dumps([said, mm_hf.pipeline(model=folder)(json.loads(row))]))
"""


def test_a_fresh_process_has_to_import_it(trained, example):
    """Without it says so; with it answers as here."""
    words = [sys.executable, "-c", FRESH, trained, example.name, json.dumps(example.row)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, there = json.loads(done.stdout.splitlines()[-1])
    assert said is not None
    assert "import" in said
    here = mm_hf.pipeline(model=trained)(example.row)
    for answer, other in zip(here, there, strict=True):
        assert answer.pop("score") == pytest.approx(other.pop("score"), abs=1e-5)
        assert answer == other


@pytest.mark.slow
def test_a_kill_changes_nothing(trained, recipe, tmp_path):
    """SIGKILL while a checkpoint is written, one being there."""
    words = command("train.py", 1, [str(recipe(tmp_path / "run", floors=False))])
    met = survive(words, tmp_path / "run", [Kill("writing", 0.0)])
    assert met[0][1] is not None
    assert weights(tmp_path / "run") == weights(trained)


@pytest.mark.slow
def test_two_processes_train_as_one(recipe, tmp_path):
    assert two_processes_differ_by(recipe, tmp_path, 32) < 1e-5
