"""The cut of a run's rows into parts: its own seed, and its parts named again by predict and evaluate."""

import csv
import importlib
import json
import random
import sys

import datasets
import pytest
import torch
from messages import says

from mm_hf.commands import evaluate, predict
from mm_hf.commands.prediction.cut_parts import rows_of_cut
from mm_hf.training import exits
from mm_hf.training.run_folder import read_recipe_of


@pytest.fixture(scope="module", autouse=True)
def quiet(tmp_path_factory):
    """One thread, and a cache of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield
    torch.set_num_threads(threads)


def write_table(file, count=60, seed=0):
    """Rows whose price follows from two numbers, and that know their own place."""
    rng = random.Random(seed)
    with open(file, "w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["place", "beds", "area", "price"])
        for place in range(count):
            beds, area = rng.randint(1, 6), rng.uniform(20, 200)
            writer.writerow([place, beds, f"{area:.2f}", f"{100 * beds + 3 * area:.2f}"])
    return file


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("houses") / "houses.csv")


def run(module, *words):
    """A command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mm_hf", *map(str, words)])
        exits.run_script(module.main)


def train(dataset, folder, *flags):
    """A run of a few steps on the table."""
    words = ["--table_columns", "beds", "area", "--label_column", "price", "--fusion", "concat"]
    words += ["--fusion_hidden_size", 8, "--fusion_layers", 0, "--max_steps", 2, "--report_to", "none"]
    words += ["--floors", "false", "--validation_fraction", 0.2, "--test_fraction", 0.25]
    run(importlib.import_module("mm_hf.training.train"), dataset, "--output_dir", folder, *words, *flags)
    return folder


def places(file):
    with open(file, newline="", encoding="utf-8") as lines:
        return [int(row["place"]) for row in csv.DictReader(lines)]


@pytest.fixture(scope="module")
def first(table, tmp_path_factory):
    return train(table, tmp_path_factory.mktemp("runs") / "first", "--split_seed", 5)


@pytest.mark.slow
def test_the_cut_has_a_seed_of_its_own(table, first, tmp_path):
    other = train(table, tmp_path / "other", "--split_seed", 5, "--seed", 1)
    by_seed = train(table, tmp_path / "by_seed", "--seed", 5)
    old = train(table, tmp_path / "old", "--seed", 0)
    cuts = [rows_of_cut(str(folder), str(table), "test", None) for folder in (first, other, by_seed, old)]
    assert cuts[0] == cuts[1] == cuts[2]
    assert cuts[3] != cuts[0]
    assert read_recipe_of(first)["split_seed"] == 5
    assert "split_seed" not in read_recipe_of(old)  # as recipes were before the key


def test_another_split_seed_is_another_run(table, first):
    with pytest.raises(SystemExit, match=says("split_seed", 5, 6)):
        train(table, first, "--split_seed", 6)


def test_predict_takes_the_part_that_the_run_cut(table, first, tmp_path, capsys):
    run(predict, first, table, "-o", tmp_path / "all.csv")
    for part in ("test", "validation"):
        out = tmp_path / f"{part}.csv"
        capsys.readouterr()
        run(predict, first, table, "-o", out, "--split", part)
        numbers = rows_of_cut(str(first), str(table), part, None)
        assert places(out) == numbers
        assert 0 < len(numbers) < 20
        assert f"{len(numbers)} rows of {table}" in capsys.readouterr().out
        with open(tmp_path / "all.csv") as whole, open(out) as lines:
            known = {row["place"]: row for row in csv.DictReader(whole)}
            for row in csv.DictReader(lines):
                assert float(row.pop("prediction")) == pytest.approx(float(known[row["place"]]["prediction"]))
    run(evaluate, first, "--split", "test", "--output_dir", tmp_path / "evaluation")
    measured = json.loads((tmp_path / "evaluation/evaluation.json").read_text())
    assert measured["rows"]["evaluated"] == len(rows_of_cut(str(first), str(table), "test", None))
    trained = json.loads((first / "results.json").read_text())
    assert measured["metrics"]["rmse"]["value"] == pytest.approx(trained["metrics"]["rmse"], rel=1e-4)


def test_predict_refuses_a_part_that_is_not_the_runs(table, first, tmp_path):
    other = write_table(tmp_path / "other.csv", seed=1)
    with pytest.raises(SystemExit, match=says("test", "train")):
        run(predict, first, other, "-o", tmp_path / "out.csv", "--split", "test")
    changed = tmp_path / "changed"
    changed.mkdir()
    moved = write_table(changed / "houses.csv")
    again = train(moved, tmp_path / "run", "--split_seed", 5)
    write_table(moved, seed=2)
    with pytest.raises(SystemExit, match=says("Changed", "test")):
        run(predict, again, moved, "-o", tmp_path / "out.csv", "--split", "test")
