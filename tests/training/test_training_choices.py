"""The guide's runs: how their data is cut, how they are summed up, and that the guide shows what was run."""

import importlib.util
import json
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value


REPOSITORY = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("training_choices", REPOSITORY / "benchmarks/training_choices.py")
choices = importlib.util.module_from_spec(SPEC)
sys.modules["training_choices"] = choices  # dataclasses look their module up
SPEC.loader.exec_module(choices)

RESULTS = json.loads((REPOSITORY / "benchmarks/results/training_choices.json").read_text(encoding="utf-8"))
RUNS = RESULTS["runs"]
GUIDE = (REPOSITORY / "docs/guide.md").read_text(encoding="utf-8")
ANSWERS = ["red", "teal", "yes"]


def questions(pictures: int) -> Dataset:
    """Three rows a picture, one of each answer."""
    features = Features(
        {"image_id": Value("string"), "answer": ClassLabel(names=ANSWERS), "question": Value("string")}
    )
    rows = [(f"{number}", answer, f"{number} {answer}") for number in range(pictures) for answer in range(3)]
    return Dataset.from_dict(dict(zip(features, map(list, zip(*rows)), strict=True)), features=features)


@pytest.fixture(scope="module")
def full() -> DatasetDict:
    return DatasetDict(train=questions(200), validation=questions(60), test=questions(10))


def test_rare_answer_keeps_one_row_in_fifty(full):
    parts = choices.build_variant(full, choices.Variant(train=150, rare="teal"))
    assert Counter(parts["train"]["answer_name"][:]) == {"red": 150, "teal": 3, "yes": 150}
    assert Counter(parts["validation"]["answer_name"][:]) == {"red": 60, "teal": 1, "yes": 60}
    assert parts["test"]["question"][:] == full["test"]["question"][:]
    again = choices.build_variant(full, choices.Variant(train=150, rare="teal"))
    assert again["train"]["question"][:] == parts["train"]["question"][:]


def test_pictures_are_kept_with_all_their_rows(full):
    parts = choices.build_variant(full, choices.Variant(train=7, validation=5))
    assert set(Counter(parts["train"]["image_id"][:]).values()) == {3}
    assert (len(parts["train"]), len(parts["validation"]), len(parts["test"])) == (21, 15, 30)


def test_spread():
    assert choices.spread([0.5]) == "50.0"
    assert choices.spread([0.912, 0.9, 0.97]) == "92.7 (90.0–97.0)"


def test_table_counts_only_runs_with_the_very_keys():
    choice = next(c for c in choices.CHOICES if c.section == "imbalance, 3 rows" and c.keys)
    run = {"variant": choice.variant, "keys": choice.keys, "accuracy": 0.5, "macro_f1": 0.25, "steps": 3}
    run |= {"cpu_seconds": 7, "recall": {choices.RARE: 1.0}}
    runs = [run | {"seed": 0}, run | {"seed": 1, "accuracy": 0.7}, run | {"seed": 0, "variant": "few"}]
    runs += [run | {"seed": 99}, run | {"seed": 0, "keys": {}, "accuracy": 0.9}]
    rows = choices.table("imbalance, 3 rows", runs).splitlines()[2:]
    assert f"| {choice.label} | 2 | 60.0 (50.0–70.0) | 25.0 (25.0–25.0) | 100.0 (100.0–100.0) | 3 | 7 |" in rows
    assert len(rows) == 2  # this choice, and the one without keys


def test_flags_are_keys_of_the_scripts():
    from mm_hf.training.recipe import ALL_ARGUMENTS

    known = {f"--{field.name}" for group in ALL_ARGUMENTS for field in fields(group)}
    for choice in choices.CHOICES:
        words = choices.flags(choice.keys, Path("encoders"))
        assert {word for word in words if word.startswith("--")} <= known
        assert "None" not in words
    alone = choices.flags(choices.NO_IMAGE, Path("encoders"))
    assert not {"--vision_encoder", "--image_column", "--image_size"} & set(alone)
    assert "--text_encoder" in alone


def test_runs_were_made_with_these_keys():
    assert RESULTS["base"] == choices.BASE
    known = [(choice.variant, choice.keys, seed) for choice in choices.CHOICES for seed in choice.seeds]
    ran = [(run["variant"], run["keys"], run["seed"]) for run in RUNS]
    assert all(run in known for run in ran)
    assert all(ran.count(run) == 1 for run in ran)


def test_guide_shows_the_runs():
    assert choices.write_tables(GUIDE, RUNS) == GUIDE
    assert choices.write_tables(GUIDE, RUNS[1:]) != GUIDE
    with pytest.raises(ValueError, match=r"guide .*\[.*'few'.*\].*\["):
        choices.write_tables(GUIDE.replace(choices.BEGIN.format("few"), ""), RUNS)


@pytest.mark.parametrize(("section", "gain"), [("imbalance, 13 rows", 0.05), ("imbalance, 13 rows, 2 epochs", 0.04)])
@pytest.mark.parametrize("option", ["class_weights", "balanced_sampler", "logit_adjustment"])
def test_imbalance_options_raised_macro_f1(option, section, gain):
    """What the guide claims of a rare answer, in every one of three seeds."""
    plain, with_option = (
        [run["macro_f1"] for run in choices.runs_of(choice, RUNS)]
        for label in ("plain", option)
        for choice in choices.CHOICES
        if (choice.section, choice.label) == (section, label)
    )
    assert len(plain) == len(with_option) == 3
    assert min(with_option) > max(plain) + gain
