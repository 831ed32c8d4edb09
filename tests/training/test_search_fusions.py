"""`--fusion auto`: what is tried, what is kept of it, and that what follows is the run of a recipe that names it."""

import json
import sys
from pathlib import Path

import pytest
import torch
from messages import says
from safetensors.torch import load_file

from mm_hf.commands import evaluate
from mm_hf.tasks import task_of_head
from mm_hf.training import exits, finetune, search_fusions, train
from mm_hf.training.data_arguments import DataArguments
from mm_hf.training.model_arguments import ModelArguments


STORED = Path(__file__).parents[1] / "data" / "checkpoints"


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Two fusions, two rounds."""
    monkeypatch.setattr(search_fusions, "TRIED", ("concat", "cross_attention"))
    monkeypatch.setattr(search_fusions, "ROUNDS", ((4, 1 / 6), (3, 1 / 2)))
    monkeypatch.setattr(search_fusions, "FEWEST_STEPS", 1)


def run_of(folder: Path, script=train, **keys) -> Path:
    flags = {
        "vision_encoder": STORED / "encoders/vision",
        "text_encoder": STORED / "encoders/text",
        "dataset": STORED / "rows/rows.csv",
        "image_column": "photo",
        "text_column": "text",
        "label_column": "colour",
        "output_dir": folder,
        "fusion": "auto",
        "fusion_hidden_size": 16,
        "fusion_layers": 1,
        "max_steps": 12,
        "eval_steps": 12,
        "learning_rate": 0.003,
        "freeze_encoders": "true",
        "per_device_train_batch_size": 8,
        "floors": "false",
        "report_to": "none",
        **keys,
    }
    words = [str(word) for key, value in flags.items() if value is not None for word in (f"--{key}", value)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script.__name__.rpartition('.')[2]}.py", *words])
        exits.run_script(script.main)
    return folder


@pytest.mark.parametrize("script", [train, pytest.param(finetune, marks=pytest.mark.slow)])
def test_the_best_on_validation_is_trained_to_the_end(tmp_path, monkeypatch, script):
    folder = run_of(tmp_path / "auto", script)
    results = json.loads((folder / "results.json").read_text())
    trials, winner = results["fusion_search"]["trials"], results["fusion_search"]["winner"]
    first, last, (line,) = ([trial for trial in trials if trial["round"] == number] for number in (0, 1, 2))
    assert (line["fusion"], line["steps"]) == ("linear", 0)
    assert [trial["steps"] for trial in first] == [2] * 4
    assert [trial["steps"] for trial in last] == [6] * len(last)
    ahead = max(first, key=lambda trial: trial["score"])["fusion"]
    tried = [(trial["fusion"], trial["learning_rate"]) for trial in last]
    assert sorted(tried) == sorted({(ahead, 0.003), (ahead, 3 * 0.003), ("cross_attention", 0.003)})
    assert winner["fusion"] == max([*last, line], key=lambda trial: trial["score"])["fusion"]
    assert (results["recipe"]["fusion"], results["recipe"]["learning_rate"]) == tuple(winner.values())
    assert json.loads((folder / "recipe.json").read_text())["fusion"] == "auto"
    card = (folder / "README.md").read_text()
    assert all(f"| {trial['fusion']} | {trial['learning_rate']:g} | {trial['steps']} |" in card for trial in trials)

    # `mm_hf evaluate` shows the search on its page.
    if script is train:
        monkeypatch.setattr(sys, "argv", ["mm_hf evaluate", str(folder), "--bootstrap_samples", "10"])
        exits.run_script(evaluate.main)
        page = (folder / "evaluation/report.html").read_text()
        assert page.count("<td>concat</td>") == sum(trial["fusion"] == "concat" for trial in trials)
        assert f"The winner is {winner['fusion']}" in page

    named = run_of(tmp_path / "named", script, **winner)
    weights, same = (load_file(path / "model.safetensors") for path in (folder, named))
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_rounds_of_a_short_training(monkeypatch):
    monkeypatch.undo()
    assert search_fusions.rounds_of(5400) == [(18, 200), (5, 600), (3, 1800)]
    assert search_fusions.rounds_of(150) == [(18, 20), (3, 50)]  # 150 / 9 is below 20 as well: one round
    assert search_fusions.rounds_of(12) == [(18, 12)]


def test_the_last_round_has_what_a_run_without_a_search_takes():
    rates = [0.001, 0.003]
    usual, other = {"fusion": "cross_attention", "learning_rate": 0.001}, {"fusion": "sum", "learning_rate": 0.003}
    rest = [{"fusion": "late", "learning_rate": 0.001}]
    assert search_fusions.finalists([other, *rest], rates) == [other, {**other, "learning_rate": 0.001}, usual]
    assert search_fusions.finalists([usual, *rest], rates) == [usual, {**usual, "learning_rate": 0.003}]


def test_a_line_that_is_ahead_is_the_run(tmp_path, monkeypatch):
    """And is the checkpoint of `--fusion linear`."""
    monkeypatch.setattr(search_fusions, "goodness", lambda trial: trial["fusion"] == "linear")
    folder = run_of(tmp_path / "auto")
    results = json.loads((folder / "results.json").read_text())
    assert results["fusion_search"]["winner"]["fusion"] == results["recipe"]["fusion"] == "linear"
    assert results["fusion_search"]["trials"][-1]["score"] == results["validation"]["score"]
    monkeypatch.undo()
    named = run_of(tmp_path / "named", fusion="linear", fusion_hidden_size=None)
    weights, same = (load_file(path / "model.safetensors") for path in (folder, named))
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_of_an_error_the_least_is_the_best(tmp_path):
    keys = dict.fromkeys(["vision_encoder", "image_column"])
    keys |= {"label_column": "price", "problem_type": "regression", "learning_rate": 0.0003}
    folder = run_of(tmp_path / "auto", **keys)
    search = json.loads((folder / "results.json").read_text())["fusion_search"]
    first, others = (
        [trial for trial in search["trials"] if (trial["round"] == 0) is early] for early in (True, False)
    )
    assert first[0]["metric"] == "rmse"
    best = min(first, key=lambda trial: trial["score"])
    assert best["fusion"] in {trial["fusion"] for trial in others if trial["learning_rate"] == best["learning_rate"]}
    chosen = min(others, key=lambda trial: trial["score"])
    assert search["winner"] == {name: chosen[name] for name in ("fusion", "learning_rate")}
    assert len({trial["score"] for trial in others}) > 1


def test_a_line_that_cannot_be_kept_is_left_out(tmp_path):
    """A series has none; the others are tried as ever."""
    rows = [[value, value * 2.0] for value in range(8)]
    table = [{"readings": rows, "size": number % 7, "colour": "red" if number % 2 else "blue"} for number in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, table)))
    keys = dict.fromkeys(["vision_encoder", "text_encoder", "image_column", "text_column"])
    keys |= {"dataset": tmp_path / "rows.jsonl", "series_column": "readings", "table_columns": "size"}
    folder = run_of(tmp_path / "auto", **keys)
    search = json.loads((folder / "results.json").read_text())["fusion_search"]
    assert search["trials"][-1]["score"] is None
    assert "series" in search["trials"][-1]["fault"]
    assert search["winner"]["fusion"] != "linear"


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path, monkeypatch):
    """What ended is not tried again, and the outcome is that of a search that was not killed."""
    whole = run_of(tmp_path / "whole")
    tried, run_trial = [], search_fusions.run_trial

    def killed(run, fit, setting, steps):
        if len(tried) == 3:
            raise KeyboardInterrupt
        tried.append(setting)
        return run_trial(run, fit, setting, steps)

    monkeypatch.setattr(search_fusions, "run_trial", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run_of(tmp_path / "run")
    assert len(json.loads((tmp_path / "run/fusion_search.json").read_text())["trials"]) == 3

    again = []
    monkeypatch.setattr(search_fusions, "run_trial", lambda *args: again.append(args[2:]) or run_trial(*args))
    run_of(tmp_path / "run")
    every = len(json.loads((whole / "fusion_search.json").read_text())["trials"])
    assert len(again) == every - 3 - 1  # the line is fitted anew
    kept, other = (json.loads((path / "fusion_search.json").read_text()) for path in (whole, tmp_path / "run"))
    assert kept["winner"] == other["winner"]
    scores = [[trial["score"] for trial in search["trials"]] for search in (kept, other)]
    assert scores[0] == scores[1]
    weights, same = (load_file(path / "model.safetensors") for path in (whole, tmp_path / "run"))
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    # Of another recipe nothing counts.
    again.clear()
    (tmp_path / "run/results.json").unlink()
    run_of(tmp_path / "run", seed=1, overwrite_output_dir="true")
    assert len(again) == len(json.loads((tmp_path / "run/fusion_search.json").read_text())["trials"]) - 1


def test_what_no_search_is_for(tmp_path):
    with pytest.raises(SystemExit, match=says("auto", "False", "['vision', 'text']")):
        run_of(tmp_path / "run", freeze_encoders="false")
    streamed = DataArguments(streaming=True, image_column=["photo"])
    with pytest.raises(ValueError, match=says("auto", "streaming")):
        search_fusions.check_search(ModelArguments(freeze_encoders=True), streamed, [])
    search = task_of_head("retrieval")
    with pytest.raises(ValueError, match=says("auto", "regression", "retrieval")):
        search_fusions.check_search(ModelArguments(freeze_encoders=True), DataArguments(), [search])
