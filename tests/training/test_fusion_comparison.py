"""The comparison of fusions: what its data are, that runs are fair, and how they are summed up."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from kill_and_resume import arguments

from mm_hf import FUSIONS


REPOSITORY = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("fusions", REPOSITORY / "benchmarks/fusions.py")
fusions = importlib.util.module_from_spec(SPEC)
sys.modules["fusions"] = fusions  # dataclasses look their module up
SPEC.loader.exec_module(fusions)


def test_every_fusion_is_compared():
    assert set(FUSIONS) <= set(fusions.METHODS)


def test_held_out_pairs_leave_every_colour_and_shape_in_company():
    colors, shapes = zip(*fusions.HELD_OUT, strict=True)
    assert len(set(fusions.HELD_OUT)) == 5
    assert max(colors.count(color) for color in colors) == 1
    assert set(shapes) == {"circle", "rectangle", "triangle"}


def test_unseen_pairs(easy_vqa):
    """Counted by the questions that say it outright: 'what color is the circle?' → 'blue'."""
    parts = fusions.unseen_pairs(easy_vqa)
    assert list(parts) == ["train", "validation", "test"]
    seen = {}
    for name, rows in parts.items():
        answers = rows.features["answer"].int2str(rows["answer"][:])
        seen[name] = {
            (answer, question.rstrip("?").split()[-1])
            for question, answer in zip(rows["question"][:], answers, strict=True)
            if question.startswith("what color is the ") and "shape" not in question
        }
    assert seen["test"] == set(fusions.HELD_OUT)
    assert len(seen["train"]) == 24 - 5
    assert seen["train"].isdisjoint(fusions.HELD_OUT)
    assert seen["validation"].isdisjoint(fusions.HELD_OUT)
    share = len(parts["test"]) / len(easy_vqa["test"])
    assert 0.15 < share < 0.27, share  # five pairs of 24
    assert len(parts["train"]) > 0.7 * len(easy_vqa["train"])


def test_sentiment_is_cut_anew_by_seed():
    rows = [{"row_id": number, "occurrences": None if number % 3 else number} for number in range(300)]
    full = DatasetDict(train=Dataset.from_list(rows[100:]), test=Dataset.from_list(rows[:100]))
    one, again, other = (fusions.with_sentiment(full, seed) for seed in (0, 0, 1))
    ids = [sorted(row for part in cut.values() for row in part["row_id"][:]) for cut in (one, other)]
    assert ids[0] == ids[1] == [number for number in range(1, 300) if number % 3 == 0]
    for parts in (one, other):  # what was seen less than 20 times is in no part that measures
        assert min(parts["validation"]["row_id"][:] + parts["test"]["row_id"][:]) >= 20
        assert {3, 6, 9, 12, 15, 18} <= set(parts["train"]["row_id"][:])
    assert one["test"]["row_id"][:] == again["test"]["row_id"][:] != other["test"]["row_id"][:]


@pytest.fixture(scope="module")
def job(encoders, tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    # A recipe's limit of wall time is not the comparison's: a run would end where the machine is busy.
    words = arguments(encoders, tiny_folder, folder / "run", max_train_seconds=1e-3)
    return fusions.open_run("a test", "train.py", words)


@pytest.mark.slow
def test_runs_differ_in_the_fusion_alone(job, monkeypatch):
    """As many steps as fit into the seconds, at the cost that was measured. The same seed gives the same batches."""
    tested, original = [], fusions.evaluate

    def note(job, model, collator, split):
        rows = job.rows(split).__getitems__([0, 1])
        batch = collator(rows)  # without an index every row has its own item
        seen = {name for name in ("vision", "text") if (batch.get(f"{name}_index", torch.zeros(1)) >= 0).any()}
        found = original(job, model, collator, split)
        tested.append((seen, found[1]["metrics"]["accuracy"]))
        return found

    monkeypatch.setattr(fusions, "evaluate", note)
    runs = {
        method: fusions.run_once(job, fusions.METHODS[method], 0, 1.0, ("accuracy",))
        for method in ("concat", "text alone")
    }
    for run in runs.values():
        assert run["steps"] == max(20, round(1.0 / run["step_seconds"]))
        assert run["train_seconds"] > 0
        assert 0 < run["best_step"] <= run["steps"]
        assert 0 <= run["scores"]["accuracy"] <= 1
    # What each figure was measured on: accuracies of a few rows may be equal by chance, so the batches are looked at.
    whole, no_vision, no_text = [{"vision", "text"}, {"text"}, {"vision"}]
    assert [seen for seen, _ in tested] == [whole, no_vision, no_text] * 2
    (full, blind, _), (_, alone, _) = ([score for _, score in tested[place : place + 3]] for place in (0, 3))
    assert runs["concat"]["scores"]["accuracy"] == full
    assert runs["concat"]["without_vision"]["accuracy"] == blind
    assert runs["text alone"]["scores"]["accuracy"] == alone
    assert runs["concat"]["trainable_parameters"] != runs["text alone"]["trainable_parameters"]
    assert job.model_args.fusion == "cross_attention"  # the recipe stays as it was
    assert job.train_args.eval_steps is None
    first, second = (fusions.training_of(job, {"fusion": name}, 0, max_steps=4) for name in ("concat", "sum"))
    order = [next(iter(training.loader))["row_ids"].tolist() for training in (first, second)]
    assert order[0] == order[1]


def made_run(task, method, seed, parameters=250_000, **scores):
    more = {"train_seconds": 60.0, "steps": 1000, "trainable_parameters": parameters}
    return {**fusions.key_of(task, method, seed), "scores": scores, **more}


def test_runs_of_other_recipes_do_not_count():
    run = made_run("easy_vqa", "concat", 0, accuracy=0.9)
    others = [
        {**run, "seconds": 5},
        {**run, "recipe": {**run["recipe"], "learning_rate": 1.0}},
        {**run, "keys": {"fusion": "concat", "fusion_layers": 9}},
        {**run, "seed": 7},
        {**run, "scores": {"accuracy": 0.1}},  # the same once more
    ]
    assert fusions.current([others[0], run, *others[1:]]) == [run]
    assert fusions.current([run, *others], seconds=5) == others[:1]


def test_summary_and_plot(tmp_path, monkeypatch):
    runs = [made_run("easy_vqa", "concat", seed, accuracy=0.9 + 0.01 * seed) for seed in range(3)]
    runs += [made_run("easy_vqa", "sum", 0, accuracy=0.8)]
    both = {"relational": 0.7, "non-relational": 0.9}
    runs += [made_run("sort_of_clevr", "concat", seed, 120_000, **both) for seed in range(3)]
    runs += [made_run("openmoji sentiment", "concat", seed, 380_000, spearman=0.5) for seed in range(2)]
    table = fusions.summarise(fusions.current(runs))
    entry = table["easy_vqa"]["concat"]
    assert entry["scores"]["accuracy"]["mean"] == pytest.approx(0.91)
    # Student's t with two degrees of freedom, 4.303, times .01 / sqrt(3).
    assert entry["scores"]["accuracy"]["half_width"] == pytest.approx(4.3027 * 0.01 / math.sqrt(3), rel=1e-4)
    text = fusions.markdown(table)
    lines = text.splitlines()
    assert "| `concat` | 91.0 ± 2.5 | 70.0 ± 0.0 | 90.0 ± 0.0 | 0.500 ± 0.000 (2 of 8 seeds) |" in lines
    assert "| `sum` | 80.0 (1 of 3 seeds) | – | – | – |" in lines
    assert "| `concat` | 0.25 M, 1,000 | 0.12 M, 1,000 | 0.38 M, 1,000 |" in lines
    monkeypatch.setattr(fusions, "REPORT", tmp_path / "fusions.json")
    monkeypatch.setattr(fusions, "PLOT", tmp_path / "fusions.png")
    page = tmp_path / "fusions.md"
    page.write_text(f"before\n{fusions.BEGIN}\nold\n{fusions.END}\nafter\n")
    fusions.write_report([*runs, {**runs[0], "seconds": 1}], page)
    assert page.read_text() == f"before\n{fusions.BEGIN}\n{text}\n{fusions.END}\nafter\n"
    written = json.loads((tmp_path / "fusions.json").read_text(), parse_constant=pytest.fail)
    assert written["summary"] == table
    assert (tmp_path / "fusions.png").stat().st_size > 10_000
