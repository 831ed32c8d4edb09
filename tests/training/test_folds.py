"""Cross-validation: every row is measured once by a model that has not learned it, and no kill harms it."""

import csv
import importlib
import json
import os
import random
import re
import subprocess
import sys
import time

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from messages import says
from safetensors.torch import load_file

from mm_hf.commands import evaluate
from mm_hf.data import Columns, load_splits
from mm_hf.evaluation.comparisons import range_of
from mm_hf.training import exits, loop
from mm_hf.training.folds import OUT_OF_FOLD, over_folds


@pytest.fixture(scope="module", autouse=True)
def quiet(tmp_path_factory):
    """One thread, and a cache of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Rows of two classes, one of them rare, in groups of two that belong together."""
    file, rng = tmp_path_factory.mktemp("data") / "rows.csv", random.Random(0)
    with open(file, "w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["group", "beds", "area", "kind"])
        for place in range(60):
            kind = "rare" if place // 2 % 5 == 0 else "usual"
            writer.writerow(
                [f"g{place // 2}", rng.randint(1, 6), f"{rng.gauss(3 if kind == 'rare' else 0, 1):.3f}", kind]
            )
    return file


def train(dataset, folder, *flags, script="train"):
    """Three folds of a few steps on the table."""
    words = ["--table_columns", "beds", "area", "--label_column", "kind", "--fusion", "concat", "--folds", 3]
    words += ["--fusion_hidden_size", 8, "--fusion_layers", 0, "--num_train_epochs", 3, "--report_to", "none"]
    words += ["--group_column", "group", "--learning_rate", 0.02, "--per_device_train_batch_size", 16, *flags]
    module = importlib.import_module(f"mm_hf.training.{script}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mm_hf", str(dataset), "--output_dir", str(folder), *map(str, words)])
        exits.run_script(module.main)
    (folder / "words.json").write_text(json.dumps([str(word) for word in words]))
    return folder


def measure(run, folder):
    """`mm_hf evaluate`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mm_hf evaluate", str(run), "--output_dir", str(folder)])
        exits.run_script(evaluate.main)


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    return train(table, tmp_path_factory.mktemp("runs") / "whole")


def test_folds_keep_groups_whole_and_classes_alike(table):
    columns = Columns(table=["beds", "area"], label="kind")
    cuts = [
        load_splits(table, columns, group_column="group", validation_fraction=0.1, fold=(3, fold))
        for fold in (1, 2, 3)
    ]
    assert sorted(row for cut in cuts for row in cut["test"]["_source_row"]) == list(range(60))
    for cut in cuts:
        groups = [{row // 2 for row in cut[part]["_source_row"]} for part in ("train", "validation", "test")]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 30
        assert cut["test"]["kind"].count("rare") == 4
    assert list(load_splits(table, columns, fold=(3, 0))) == ["train"]


def test_numbers_are_spread_too():
    rows = Dataset.from_dict({"x": list(range(50)), "price": [float(3**place % 1009) for place in range(50)]})
    means = []
    for fold in range(1, 6):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mm_hf.data.sources.open_source", lambda *words: ({"train": rows}, {}))
            cut = load_splits("rows", Columns(table=["x"], label="price"), as_written=False, fold=(5, fold))
        means.append(np.mean(cut["test"]["price"]))
    assert np.std(means) < 0.25 * np.std(rows["price"])


def test_what_a_run_of_folds_leaves(table, whole):
    results, folds = read(whole / "results.json"), [read(whole / f"fold-{fold}/results.json") for fold in (1, 2, 3)]
    first = next(iter(results["metrics"]))
    scores = [fold["metrics"][first] for fold in folds]
    assert results["metrics"][first] == pytest.approx(np.mean(scores))
    assert results["folds"]["metrics"][first]["values"] == scores
    assert results["floors"]["majority"] == pytest.approx(np.mean([fold["floors"]["majority"] for fold in folds]))
    assert results["recipe"]["max_steps"] == round(np.mean([fold["best_step"] for fold in folds]))
    said = [json.loads(line) for line in (whole / "predictions.jsonl").read_text().splitlines()]
    with open(table, newline="") as lines:
        kinds = [row["kind"] for row in csv.DictReader(lines)]
    assert [row["row"] for row in said] == list(range(60))
    assert [row["kind"] for row in said] == kinds
    right = np.mean([row["prediction"] == row["kind"] for row in said])
    assert results["folds"]["out_of_fold"]["accuracy"] == pytest.approx(right)
    of_second = load_file(whole / "fold-2" / OUT_OF_FOLD)["rows"].tolist()
    assert [row["row"] for row in said if row["fold"] == 2] == sorted(of_second)
    card = (whole / "README.md").read_text()
    assert "mean of 3 folds" in card
    assert "validation part" not in card
    assert not list((whole / "fold-1").glob("fold-*"))


def test_the_last_model_has_learned_all_rows(table, whole, tmp_path):
    assert read(whole / "rows.json")["rows"] == {"train": 60}
    with pytest.raises(SystemExit, match=says("rows.csv", "results.json")):
        measure(whole, tmp_path)
    measure(whole / "fold-2", tmp_path)  # a fold is measured again as any run
    again, before = read(tmp_path / "evaluation.json"), read(whole / "fold-2/results.json")
    assert again["metrics"]["accuracy"]["value"] == pytest.approx(before["metrics"]["accuracy"])


@pytest.mark.slow
def test_what_starts_from_folds_is_warned(table, whole, tmp_path, capsys):
    """The model of all rows has learned those of any test part; folds may start from a checkpoint as well."""
    words = ["--table_columns", "beds", "area", "--label_column", "kind", "--report_to", "none", "--max_steps", "1"]
    words += ["--floors", "false", "--init_from", str(whole), "--group_column", "group"]
    for name, more in (("one", []), ("folds", ["--folds", "2"])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["mm_hf", str(table), "--output_dir", str(tmp_path / name), *words, *more])
            exits.run_script(importlib.import_module("mm_hf.training.train").main)
        assert re.search(says("warning", "whole", "all rows"), capsys.readouterr().out)


class KilledError(BaseException):
    """Of a process that is killed."""


def test_goes_on_with_the_fold_that_it_was_in(table, whole, tmp_path, monkeypatch, capsys):
    folder, save, saved = tmp_path / "run", loop.Training.save, []

    def save_and_die(self):
        save(self)
        saved.append(self.folder)
        if self.folder is not None and self.folder.name == "fold-2":
            raise KilledError

    monkeypatch.setattr(loop.Training, "save", save_and_die)
    with pytest.raises(KilledError):
        train(table, folder)
    monkeypatch.setattr(loop.Training, "save", save)
    finished = (folder / "fold-1/results.json").stat().st_mtime_ns
    assert not (folder / "fold-3").exists()
    capsys.readouterr()
    train(table, folder)
    assert (folder / "fold-1/results.json").stat().st_mtime_ns == finished
    assert "fold-2/checkpoint-" in capsys.readouterr().out
    for place in ("fold-1", "fold-2", "fold-3", "."):
        one, other = (load_file(run / place / "model.safetensors") for run in (whole, folder))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert read(folder / "results.json")["metrics"] == read(whole / "results.json")["metrics"]
    train(table, folder)
    assert capsys.readouterr().out.count("complete") == 4


@pytest.mark.slow
def test_a_real_kill(table, whole, tmp_path):
    """SIGKILL in the second fold, behind its first checkpoint."""
    folder, words = tmp_path / "run", read(whole / "words.json")
    command = [sys.executable, "-m", "mm_hf.training.train", str(table), "--output_dir", str(folder), *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while process.poll() is None and not list((folder / "fold-2").glob("checkpoint-*")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (folder / "results.json").exists()
    train(table, folder)
    one, other = (load_file(run / "model.safetensors") for run in (whole, folder))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read(folder / "results.json")["metrics"] == read(whole / "results.json")["metrics"]


@pytest.mark.slow
def test_through_the_trainer(table, tmp_path):
    folder = train(table, tmp_path / "run", "--floors", "false", script="finetune")
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 60
    assert read(folder / "results.json")["folds"]["count"] == 3


@pytest.mark.slow
def test_numbers_in_folds(table, tmp_path):
    folder = train(table, tmp_path / "run", "--label_column", "area", "--table_columns", "beds", "--floors", "false")
    results = read(folder / "results.json")
    assert results["folds"]["metrics"]["rmse"]["low"] < results["metrics"]["rmse"]
    said = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    errors = [row["prediction"] - row["area"] for row in said]
    assert results["folds"]["out_of_fold"]["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-3)


def test_the_interval_over_folds():
    """By hand: the mean of 1, 2, 3 is 2, their deviation 1, and t of two degrees of freedom 4.303."""
    figures = over_folds([1.0, 2.0, 3.0])
    half = 4.3027 / 3**0.5
    assert [figures[name] for name in ("mean", "low", "high")] == pytest.approx([2, 2 - half, 2 + half], abs=1e-3)
    assert over_folds([1.0, None])["mean"] is None
    # By hand: the mean is 0.9, the deviation 0.1, half an interval 0.248; no accuracy is above 1, and no rmse below 0.
    accuracy, rmse = (over_folds([0.8, 0.9, 1.0], range_of(name)) for name in ("kind_accuracy", "rmse"))
    assert [accuracy["low"], accuracy["high"]] == pytest.approx([0.6516, 1.0], abs=1e-4)
    assert rmse["high"] == pytest.approx(1.1484, abs=1e-4)
    assert over_folds([0.1, 0.2, 0.3], range_of("mae"))["low"] == 0
    assert over_folds([-1.0, 0.0, 1.0], range_of("kappa_of_a_task_from_outside"))["low"] < -1


@pytest.mark.parametrize(
    ("flags", "values"),
    [
        (("--folds", 1), ("folds", 2, 1)),
        (("--folds", 40), (40, "folds", 60, 30)),
    ],
)
def test_what_does_not_go_with_folds(table, tmp_path, flags, values, capsys):
    with pytest.raises(SystemExit) as stopped:
        train(table, tmp_path / "run", *flags)
    said = str(stopped.value.code) + capsys.readouterr().err
    assert re.search(says(*values), said), said


def test_a_part_of_the_datas_own_is_refused(table, tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text(table.read_text())
    with pytest.raises(SystemExit, match=says("test", "folds")):
        train(tmp_path, tmp_path / "run")


def test_few_rows_are_told_of_folds(table, tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["--table_columns", "beds", "--label_column", "kind", "--fusion", "concat", "--max_steps", "1"]
    words += ["--fusion_hidden_size", "8", "--fusion_layers", "0", "--report_to", "none", "--floors", "false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mm_hf", str(table), "--output_dir", str(folder), *words])
        exits.run_script(importlib.import_module("mm_hf.training.train").main)
    assert "--folds 5" in capsys.readouterr().out
