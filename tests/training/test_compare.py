"""`mm_hf compare` on stored checkpoints: what is measured, what is written, and what cannot be compared."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mm_hf.commands import compare
from mm_hf.training import exits


STORED = Path(__file__).parents[1] / "data" / "checkpoints"
ROWS = STORED / "rows" / "rows.csv"
COLUMNS = {"image_column": "photo", "text_column": "text", "kind_column": "kind"}


def call(*words):
    """The command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["compare", *map(str, words)])
        exits.run_script(compare.main)


def flags(**keys) -> list:
    keys = {"bootstrap_samples": 30, "per_device_eval_batch_size": 64, **keys}
    return [word for key, value in keys.items() for word in (f"--{key}", value)]


def a_run(folder: Path, head: str, recipe: dict | None = None, names: dict | None = None) -> Path:
    """A stored checkpoint as a run would have left it: with a recipe, or other names of its classes."""
    shutil.copytree(STORED / "heads" / head, folder)
    if recipe is not None:
        keys = {"dataset": str(ROWS), "image_id_column": None, "group_column": None, "seed": 0, **COLUMNS}
        keys |= {"image_column": ["photo"], "validation_fraction": 0.1, "test_fraction": 0.3}
        keys |= {"label_column": "colour"}
        (folder / "recipe.json").write_text(json.dumps({**keys, **recipe}))
    if names is not None:
        config = json.loads((folder / "config.json").read_text())
        config |= {"id2label": names, "label2id": {name: int(number) for number, name in names.items()}}
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_two_runs_on_their_test_rows(tmp_path, capsys):
    """No flag names the data: each recipe does, and cuts the same rows."""
    one, other = a_run(tmp_path / "one", "classification", {}), a_run(tmp_path / "two", "question_answering", {})
    call(one, other, *flags())
    folder = tmp_path / "runs/compare-one-two"
    assert {file.name for file in folder.iterdir()} - {".lock"} == {
        *("compare.json", "compare.html", "differing_rows.csv")
    }
    report = json.loads((folder / "compare.json").read_text())
    found = report["tasks"]["colour"]
    assert (report["a"]["split"], report["b"]["model_class"]) == ("test", "MMFusionForQuestionAnswering")
    accuracy = found["metrics"]["accuracy"]
    counts = found["counts"]
    assert accuracy["a"] - accuracy["b"] == pytest.approx(accuracy["difference"], abs=1e-5)
    only = counts["only_a_right"] - counts["only_b_right"]
    assert accuracy["difference"] == pytest.approx(only / found["rows"], abs=1e-5)
    assert accuracy["low"] <= accuracy["difference"] <= accuracy["high"]
    assert sum(values["rows"] for values in found["by_kind"].values()) == found["rows"]
    table = list(csv.DictReader(ROWS.read_text(encoding="utf-8").splitlines()))
    with (folder / "differing_rows.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == counts["differ"] > 0
    for line in lines:
        row = table[int(line["row"])]
        assert (line["text"], line["truth"], line["kind"]) == (row["text"], row["colour"], row["kind"])
        assert line["a"] != line["b"]
        right = {"A": line["a"], "B": line["b"]}.get(line["better"])
        assert right in (row["colour"], None)
    said = capsys.readouterr().out.strip().splitlines()
    assert said[-1] == found["verdict"]
    assert "A (one)" in said[-1]
    page = (folder / "compare.html").read_text()
    assert found["verdict"] in page
    assert str(tmp_path) not in page


def test_rows_that_another_seed_cut_are_refused(tmp_path):
    one = a_run(tmp_path / "one", "classification", {})
    other = a_run(tmp_path / "two", "question_answering", {"seed": 1})
    with pytest.raises(SystemExit) as stop:
        call(one, other, *flags())
    for word in ("seeds, 0 and 1", "--dataset", "--split"):
        assert word in str(stop.value)


def test_a_copy_of_the_data_is_the_same_rows_and_a_changed_one_is_not(tmp_path):
    one = a_run(tmp_path / "one", "classification", {})
    shutil.copytree(ROWS.parent, tmp_path / "copy")
    other = a_run(tmp_path / "two", "question_answering", {"dataset": str(tmp_path / "copy/rows.csv")})
    call(one, other, *flags())
    text = (tmp_path / "copy/rows.csv").read_text()
    (tmp_path / "copy/rows.csv").write_text(text.replace("small", "tiny"))
    with pytest.raises(SystemExit, match=r"\btext\b.*--"):
        call(one, other, *flags())


def test_other_numbers_of_the_classes_are_the_same_classes(tmp_path):
    """The same model with its classes renamed in a circle answers otherwise, on the same truths."""
    names = json.loads((STORED / "heads/classification/config.json").read_text())["id2label"]
    circle = dict(zip(names, [*list(names.values())[1:], names["0"]]))
    one, other = a_run(tmp_path / "one", "classification"), a_run(tmp_path / "two", "classification", names=circle)
    call(
        one,
        other,
        "--output_dir",
        tmp_path / "out",
        *flags(dataset=ROWS, split="train", label_column="colour", **COLUMNS),
    )
    found = json.loads((tmp_path / "out/compare.json").read_text())["tasks"]["colour"]
    assert found["counts"]["differ"] == found["rows"] == 48
    after = dict(zip(names.values(), circle.values()))
    with (tmp_path / "out/differing_rows.csv").open() as file:
        assert all(line["b"] == after[line["a"]] for line in csv.DictReader(file))


def test_a_task_of_several_and_one_alone(tmp_path, capsys):
    """What both answer is compared, and the rest is named."""
    one, other = a_run(tmp_path / "one", "multi_task"), a_run(tmp_path / "two", "multi_task")
    weights = load_file(other / "model.safetensors")
    for name in weights:
        if ".encoders." not in name and name.endswith("weight") and ("classifier" in name or "heads" in name):
            weights[name] = weights[name].flip(0) * 1.5
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    tasks = ["colour", "price"]
    options = flags(dataset=ROWS, split="train", **COLUMNS)
    call(one, other, "--label_column", *tasks, *options)
    last = capsys.readouterr().out.strip().splitlines()[-2:]
    assert [line.partition(":")[0] for line in last] == tasks
    report = json.loads((tmp_path / "runs/compare-one-two/compare.json").read_text())
    assert list(report["tasks"]) == tasks
    price = report["tasks"]["price"]
    assert set(price["counts"]) == {"a_closer", "b_closer", "equal", "differ"}
    assert price["metrics"]["mae"]["difference"] != 0
    single = a_run(tmp_path / "three", "classification")
    call(one, single, *options, "--label_column", "colour")
    report = json.loads((tmp_path / "runs/compare-one-three/compare.json").read_text())
    assert list(report["tasks"]) == ["colour"]


def test_texts_and_searches(tmp_path):
    for head, column in (("generation", ["--label_column", "colour"]), ("retrieval", [])):
        one, other = (a_run(tmp_path / f"{head}_{number}", head) for number in (1, 2))
        weights = load_file(other / "model.safetensors")
        for name in weights:
            if "text" in name and weights[name].ndim == 2:
                weights[name] = weights[name].flip(0)
        save_file(weights, other / "model.safetensors", {"format": "pt"})
        keys = {key: value for key, value in COLUMNS.items() if key != "kind_column" or column}
        call(one, other, *column, *flags(dataset=ROWS, split="train", **keys))
        folder = tmp_path / f"runs/compare-{head}_1-{head}_2"
        report = json.loads((folder / "compare.json").read_text())
        for found in report["tasks"].values():
            counts, first = found["counts"], next(iter(found["metrics"]))
            assert found["rows"] > 0
            if head == "retrieval":
                assert counts["differ"] > 0
                gained = (counts["only_a_first"] - counts["only_b_first"]) / found["rows"]
                assert found["metrics"]["recall_at_1"]["difference"] == pytest.approx(gained, abs=1e-5)
            assert first == ("recall_at_1" if head == "retrieval" else "chrf")
        assert len(report["tasks"]) == (2 if head == "retrieval" else 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "RUN_A RUN_B"),
        (["one", "--split", "test"], "RUN_A RUN_B.* one --split test"),
        (["--split", "test", "one", "two"], "RUN_A RUN_B.* --split test .*two"),
        (["one", "./one"], r"RUN_A RUN_B.*\bone\b"),
        (["classification", "retrieval"], "searches"),
    ],
)
def test_what_is_refused(words, message, tmp_path):
    words = [STORED / "heads" / word if word in ("classification", "retrieval") else word for word in words]
    options = flags(dataset=ROWS, split="train") if "searches" in message else []
    with pytest.raises(SystemExit, match=message):
        call(*words, *options)
