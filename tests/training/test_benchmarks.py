"""What the benchmarks work out around their runs: parts without a speaker, recipes without a modality, summaries."""

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from benchmarks import recipes, speakers, start, subsets


REPOSITORY = Path(__file__).parents[2]


def test_a_speaker_is_held_out_of_all_parts():
    rows = {"speaker": ["ann", "bob", "ann", "cy"], "take": [1, 2, 3, 4]}
    parts = DatasetDict({name: Dataset.from_dict(rows) for name in ("train", "validation", "test")})
    found = speakers.without(parts, "ann")
    assert found["train"]["speaker"][:] == found["validation"]["speaker"][:] == ["bob", "cy"]
    assert found["test"]["speaker"][:] == ["ann"] * 6


def test_every_subset_is_trained_once_and_all_of_them_balanced_too():
    found = list(
        subsets.variants(["vision", "text", "audio"], [("gradient_modulation", 0.3), ("fusion", "bottleneck")])
    )
    names = [name for name, _, _ in found]
    assert names[0] == "vision + text + audio"
    assert len(set(names)) == len(names) == 9
    assert found[-2] == (f"{names[0]}, gradient_modulation 0.3", ("vision", "text", "audio"), found[-2][2])
    assert found[-2][2] == {"gradient_modulation": 0.3}
    assert found[-1][2] == {"fusion": "bottleneck", "memory_layers": 0}
    assert {subset for _, subset, changes in found if not changes} >= {("audio",), ("text", "audio")}


def test_the_summary_is_seed_by_seed():
    runs = {"a + b": {"0": 0.9, "1": 0.8, "2": 0.7}, "a": {"0": 0.8, "1": 0.7, "2": 0.6}, "b": {"0": 0.5, "1": 0.5}}
    found = subsets.summary(runs, "a + b")
    assert found["seeds"] == ["0", "1"]
    assert found["subsets"]["a + b"]["mean"] == pytest.approx(0.85)
    ahead = found["subsets"]["a"]["all_ahead_by"]
    assert ahead["mean"] == pytest.approx(0.1)
    assert ahead["interval"] == pytest.approx(0, abs=1e-9)
    assert found["subsets"]["b"]["all_ahead_by"]["interval"] > 0


def test_every_system_has_a_recipe_and_a_line_in_the_table():
    runs = {}
    for name in recipes.SYSTEMS:
        assert (REPOSITORY / f"training/recipes/{name}.yaml").exists()
        score = {
            "metric": "accuracy",
            "value": 0.5,
            "low": 0.4,
            "high": 0.6,
            "floors": {"majority": 0.1, "x_only": None},
        }
        also = {"also": {"metric": "wer", "value": 0.1, "low": 0.0, "high": 0.2}} if recipes.SYSTEMS[name].also else {}
        runs[name] = {
            "dataset": "set",
            "scores": {"answer": {**score, **also}},
            "train_seconds": 59.6,
            "wall_seconds": 180,
            "jobs": 2,
        }
    table = recipes.markdown({**runs, "speech_ctc": {"dataset": "fsdd", "skipped": "there is no data/fsdd"}})
    assert len(table.splitlines()) == 4 + len(recipes.SYSTEMS)
    assert table.endswith(f"took {1.5 * (len(recipes.SYSTEMS) - 1):.0f} minutes.")
    assert (
        "| `video` | video + sound + question | set, answer | accuracy 0.500 [0.400, 0.600] | majority 0.100 | 60 |"
        in table
    )
    assert "; wer 0.100 [0.000, 0.200]" in table
    assert "skipped: there is no data/fsdd" in table


def test_two_catalogues_have_no_row_in_common(monkeypatch):
    monkeypatch.setattr(start, "ROWS", {"train": 30, "validation": 5, "test": 10})
    labels = ["cup"] * 25 + ["hat"] * 24 + ["pen"] * 19 + ["country-flag"] * 60
    found = start.cut(labels, seed=0)
    assert sorted(row for rows in found.values() for row in rows) == list(range(len(labels)))
    assert [len(found[name]) for name in ("train", "validation", "test")] == [30, 5, 10]
    assert {labels[row] for name in ("train", "validation", "test") for row in found[name]} == {"cup", "hat"}
    assert found != start.cut(labels, seed=1)


def test_the_start_of_two_epochs_is_held_against_six_fresh_ones():
    names = ["first job"]
    names += [start.name_of(kind, epochs, rate) for kind, epochs in start.KINDS for rate in start.RATES]
    runs = {name: {"0": {"accuracy": 0.5}, "1": {"accuracy": 0.6}} for name in names}
    runs[start.name_of("started", 2, start.RATES[1])]["1"] = {"accuracy": 0.55}
    found = start.summary(runs)
    ahead = found["started 2 ahead of fresh 6, by rate"]
    assert ahead == {"0.001": [0.0, 0.0], "0.003": pytest.approx([0.0, -0.05])}
    assert found["accuracy"][start.name_of("fresh", 6, start.RATES[0])] == pytest.approx(0.55)
