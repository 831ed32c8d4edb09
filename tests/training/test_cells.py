"""Tables as people have them, through the scripts: cells that are no numbers, parts without labels, digits with zeros,
and runs that began when cells were read otherwise."""

import csv
import json
import re

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from kill_and_resume import call
from messages import says

from mm_hf import MMFusionProcessor
from mm_hf.commands import evaluate
from mm_hf.data.modalities.table import lines_of_table
from mm_hf.training import open_run, train


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def rows(label, count=60):
    return [{"age": 20 + n % 23, "code": ["01", "1", "007"][n % 3], "label": label(n)} for n in range(count)]


def write_csv(path, table):
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path


def start(data, folder, *more):
    more = more if "--max_steps" in more else ("--max_steps", 2, *more)
    call(
        train.main,
        *("--dataset", data, "--output_dir", folder, "--table_columns", "age", "code", "--label_column", "label"),
        *("--fusion_hidden_size", 16, "--fusion_layers", 1, "--floors", "false", "--report_to", "none"),
        *(
            "--eval_steps",
            2,
            "--per_device_train_batch_size",
            16,
            *(() if "--max_steps" in more else ("--max_steps", 2)),
        ),
        *more,
    )
    return json.loads((folder / "results.json").read_text())


def bad_rows(folder):
    return [json.loads(line) for line in (folder / "bad_rows.jsonl").read_text().splitlines()]


BAD = {
    "a word in a column of ages": ("age", "old", "this must be a finite number, got 'old'"),
    "an infinite age": ("age", "inf", "this must be a finite number, got inf"),
    "a label beyond float32": ("label", "1e39", "label 1e+39"),
    "a word for a label": ("label", "unknown", "label 'unknown'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_cell_is_one_bad_row(tmp_path, kind):
    column, cell, reason = BAD[kind]
    table = rows(lambda n: n * 0.25)
    table[7][column] = cell
    data = write_csv(tmp_path / "set/all.csv", table)
    with pytest.raises(SystemExit) as stopped:
        start(data, tmp_path / "run")
    for part in ("row 7 of the data", f"column '{column}'", reason):
        assert part in str(stopped.value)
    results = start(data, tmp_path / "run", "--on_error", "skip", "--max_bad_fraction", 0.2)
    (entry,) = bad_rows(tmp_path / "run")
    assert (entry["source_row"], entry["column"], results["bad_rows"]) == (7, column, 1)
    assert reason in entry["reason"]
    schema = MMFusionProcessor.from_pretrained(tmp_path / "run").table_schema
    assert (list(schema.numerical), schema.categorical["code"]) == (["age"], ["007", "01", "1"])
    assert 25 < schema.numerical["age"][0] < 40


def test_a_word_in_the_test_part_alone(tmp_path, capsys):
    """The column is one of numbers all the same, and that row is the bad one."""
    table = rows(lambda n: n * 0.25)
    for part, more in (("train", []), ("val", []), ("test", [{**table[0], "age": "old"}])):
        write_csv(tmp_path / f"set/{part}.csv", table + more)
    start(tmp_path / "set", tmp_path / "run", "--on_error", "skip", "--max_bad_fraction", 0.2)
    assert [(entry["split"], entry["row"], entry["column"]) for entry in bad_rows(tmp_path / "run")] == [
        ("test", 60, "age")
    ]
    assert list(MMFusionProcessor.from_pretrained(tmp_path / "run").table_schema.numerical) == ["age"]
    assert re.search(r"\bage .*\bnumbers\b", capsys.readouterr().out)


def test_what_the_texts_of_a_table_are_taken_for(tmp_path):
    table = {
        "age": ["20"] * 99 + ["old"],
        "size": ["20"] * 90 + ["n/a"] * 10,
        "digits": ["20"] * 100,
        "code": ["020"] * 100,
        "town": ["Oslo"] * 100,
        "id": ["20"] * 90 + ["none"] * 10,
    }
    parts = {"train": Dataset.from_dict(table)}
    age, digits, size = lines_of_table(parts, list(table), ["id"])
    assert re.search(says("age", "numbers"), age)
    assert re.search(says("digits", "categories", "100 of 100"), digits)
    assert re.search(says("size", "categories", "90 of 100"), size)


def test_a_weight_beyond_float32_skips_no_step(tmp_path, capsys):
    table = [{**row, "weight": 1.0} for row in rows(lambda n: n * 0.25)]
    table[7]["weight"] = 1e39
    data = write_csv(tmp_path / "set/all.csv", table)
    flags = ("--weight_column", "weight", "--on_error", "skip", "--max_bad_fraction", 0.2, "--max_steps", 6)
    start(data, tmp_path / "run", *flags)
    assert [(entry["source_row"], entry["column"]) for entry in bad_rows(tmp_path / "run")] == [(7, "weight")]
    assert not re.search(r"steps.*skipped", capsys.readouterr().out)


def test_a_test_part_without_labels(tmp_path, capsys):
    write_csv(tmp_path / "set/train.csv", rows(lambda n: ["no", "yes"][n % 2]))
    write_csv(tmp_path / "set/test.csv", [{"age": 30, "code": "01"}] * 5)
    start(tmp_path / "set", tmp_path / "run")
    found = json.loads((tmp_path / "run/rows.json").read_text())
    assert found["rows"] == {"train": 48, "validation": 6, "test": 6}
    call(evaluate.main, "--bootstrap_samples", 10, "--model", tmp_path / "run")  # the same rows again
    report = json.loads((tmp_path / "run/evaluation/evaluation.json").read_text())
    assert report["rows"]["evaluated"] == 6


@pytest.mark.slow
def test_a_run_of_before_goes_on_as_it_began(tmp_path, monkeypatch, capsys):
    """Its classes and the columns of its table are those that it found when cells lost their zeros."""
    data = write_csv(tmp_path / "set/all.csv", rows(lambda n: ["01", "02", "3"][n % 3]))
    monkeypatch.setattr(open_run, "cells_of_run", lambda folder: None)
    start(data, tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    before = json.loads((tmp_path / "run/rows.json").read_text())
    assert (before["classes"], "cells" in before) == (["1", "2", "3"], False)
    assert list(MMFusionProcessor.from_pretrained(tmp_path / "run").table_schema.numerical) == ["age", "code"]
    start(data, tmp_path / "run", "--max_steps", 4, "--allow_changes", "true")
    assert "resumed from" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/rows.json").read_text()) == before
    call(evaluate.main, "--bootstrap_samples", 10, "--model", tmp_path / "run")
    report = json.loads((tmp_path / "run/evaluation/evaluation.json").read_text())
    assert report["labels"] == ["1", "2", "3"]
    # On other data its classes go by their numbers, those of the table's codes too.
    other = write_csv(tmp_path / "other/new.csv", rows(lambda n: ["01", "02", "3"][n % 3], 30))
    call(evaluate.main, "--bootstrap_samples", 10, "--model", tmp_path / "run", "--dataset", other, "--split", "train")
    report = json.loads((tmp_path / "run/evaluation/evaluation.json").read_text())
    assert report["rows"] == {"evaluated": 30, "labelled": 30, "bad": 0}
    # Begun anew, it reads cells as they are written.
    start(data, tmp_path / "run", "--overwrite_output_dir", "true")
    now = json.loads((tmp_path / "run/rows.json").read_text())
    assert (now["rows"], now["classes"]) == (before["rows"], ["01", "02", "3"])


def test_classes_in_another_order_in_a_part(tmp_path):
    """Each part numbers its classes as it likes: by their names they are the same."""
    parts = {}
    for part, names in (("train", ["a", "b", "c"]), ("validation", ["c", "a", "b"]), ("test", ["b", "c", "a"])):
        types = Features({"age": Value("float64"), "code": Value("string"), "label": ClassLabel(names=names)})
        # What is asked for is in the table: a is 1, b is 2, c is 3.
        table = [{"age": float("abc".index(names[n % 3])), "code": "x", "label": n % 3} for n in range(90)]
        parts[part] = Dataset.from_list(table, features=types)
    DatasetDict(parts).save_to_disk(tmp_path / "set")
    more = ("--max_steps", 60, "--eval_steps", 20, "--learning_rate", 0.02)
    results = start(tmp_path / "set", tmp_path / "run", *more)
    assert results["metrics"]["accuracy"] == 1
    call(evaluate.main, "--bootstrap_samples", 10, "--model", tmp_path / "run", "--split", "validation")
    report = json.loads((tmp_path / "run/evaluation/evaluation.json").read_text())
    assert report["labels"] == ["a", "b", "c"]
    assert report["metrics"]["accuracy"]["value"] == 1


def test_categories_that_come_once_are_told(tmp_path, capsys):
    table = [{**row, "code": f"2026-11-{n}"} for n, row in enumerate(rows(lambda n: n * 0.25))]
    start(write_csv(tmp_path / "set/all.csv", table), tmp_path / "run")
    assert re.search(says("code", "48 of 48"), capsys.readouterr().out)


def test_what_cannot_be_learned_or_measured_is_one_line(tmp_path, capsys):
    data = write_csv(tmp_path / "set/all.csv", rows(lambda n: "x"))
    with pytest.raises(SystemExit, match=r"'label'.*'x'"):
        start(data, tmp_path / "run")
    with pytest.raises(SystemExit, match=r"checkpoint.*nowhere/run"):
        call(evaluate.main, "--model", tmp_path / "nowhere/run")
