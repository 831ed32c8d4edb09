"""Recipes and flags: every key takes what its type says, and anything else is told in one line."""

import json
from dataclasses import fields
from itertools import pairwise
from typing import get_args, get_origin, get_type_hints

import pytest

from mm_hf.commands import results as show_results
from mm_hf.commands import search as retrieve
from mm_hf.training import reopen as open_checkpoint
from mm_hf.training.checks import check_tasks
from mm_hf.training.data_arguments import DataArguments
from mm_hf.training.model_arguments import ModelArguments
from mm_hf.training.recipe import ALL_ARGUMENTS, parse_arguments
from mm_hf.training.recipe_files import RecipeLoader, parse_yaml, read_recipe
from mm_hf.training.train_arguments import TrainArguments
from mm_hf.training.values import checked_value, ranges


HINTS = {name: hint for group in ALL_ARGUMENTS for name, hint in get_type_hints(group).items()}
KEYS = {key.name: key for group in ALL_ARGUMENTS for key in fields(group)}


def kind_of(name: str):
    """The type of a key, without None."""
    kinds = [kind for kind in get_args(HINTS[name]) if kind is not type(None)]
    return kinds[0] if kinds and get_origin(HINTS[name]) is not list else HINTS[name]


@pytest.fixture
def parse(tmp_path, capsys):
    """Reads a recipe of these lines (or bytes), and flags; gives all values by key."""

    def read(text: str | bytes, *flags: str) -> dict:
        file = tmp_path / "recipe.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        _, *groups = parse_arguments("", [str(file), *flags])
        return {name: value for group in groups for name, value in vars(group).items()}

    return read


@pytest.fixture
def refused(parse, capsys):
    """That a recipe (and flags) is refused in one line, which holds all parts."""

    def check(text: str | bytes, *parts: str, flags: tuple[str, ...] = ()) -> str:
        with pytest.raises(SystemExit) as caught:
            parse(text, *flags)
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert len(error) < 700, error
        assert "usage:" not in error
        for part in parts:
            assert part in error
        return error

    return check


# --- Every key


# What no key of a type takes; YAML as people write it.
WRONG = {
    int: (
        "true",
        "yes",
        "1.5",
        "four",
        "1e3x",
        "[1, 2]",
        "{a: 1}",
        "2020-01-01",
        ".nan",
        ".inf",
        "10e30",
        "1" + "0" * 30,
    ),
    float: ("true", "no", "fast", "[0.1, 0.2]", "{a: b}", "2020-01-01", ".nan", ".inf", "-.inf", "'nan'", "1e999"),
    bool: ("maybe", "3", "1.5", "{a: 1}", "2020-01-01"),
    str: ("true", "off", "[a, b]", "2020-01-01", "{a: [b]}"),
    list[str]: ("true", "[a, no]", "[[a]]", "{a: b}", "[a, 2020-01-01]", "[a, null]"),
    list[int]: ("true", "[1, yes]", "[[1]]", "{a: 1}", "[1.5]", "four", "[null]"),
}
EVERY_KEY = [(name, value) for name in KEYS for value in WRONG[kind_of(name)]]


def test_every_key_has_a_type_that_is_looked_at():
    assert {kind_of(name) for name in KEYS} <= set(WRONG)
    assert set(ranges()) <= set(KEYS)
    assert {get_origin(form) for key in KEYS.values() for form in key.metadata.get("forms", ())} == {list, dict}


@pytest.mark.parametrize("count", [4, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("name", KEYS)
def test_every_key_refuses_what_it_is_not(name, count, refused):
    for value in WRONG[kind_of(name)][:count]:
        # By modality the config says what it may be, and test_what_may_change looks at the words of allow_changes.
        if name != "allow_changes" and (name, value) != ("modality_dropout", "{a: b}"):
            refused(f"{name}: {value}\n", name)
    if KEYS[name].default is not None:
        refused(f"{name}:\n", f"{name} has no value")


@pytest.mark.parametrize("name", [name for name in KEYS if kind_of(name) in (int, float, list[int])])
def test_every_flag_of_a_number_refuses_what_is_none(name, refused):
    whole = kind_of(name) is not float
    for value in ("true", "nan", "inf", "-inf", "fast", "1" + "0" * 40, *(["1.5"] if whole else [])):
        refused("seed: 1\n", f"--{name}", flags=(f"--{name}", value))


@pytest.mark.parametrize("name", [name for name in KEYS if kind_of(name) is bool])
def test_every_flag_of_yes_or_no(name, refused):
    refused("seed: 1\n", f"--{name}", flags=(f"--{name}", "maybe"))


@pytest.mark.parametrize("name", sorted({*KEYS} - {"allow_changes"}))
def test_every_default_can_be_written_in_a_recipe(name, parse):
    value = KEYS[name].default
    found = parse(f"{name}: {json.dumps(value)}\n")[name]
    assert found == value
    assert type(found) is type(value)


# --- Values that are taken


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("learning_rate: 1e-3", "learning_rate", 1e-3),
        ("learning_rate: 1.0e-3", "learning_rate", 1e-3),
        ("learning_rate: '0.5'", "learning_rate", 0.5),
        ("num_train_epochs: 3", "num_train_epochs", 3.0),
        ("max_steps: 1_000", "max_steps", 1000),
        ("max_steps: '7'", "max_steps", 7),
        ("max_steps: -1", "max_steps", -1),
        ("seed: 4294967295", "seed", 2**32 - 1),
        ("seed: 0x10", "seed", 16),
        ("fusion_layers: 0", "fusion_layers", 0),
        ("shuffle_buffer: 0", "shuffle_buffer", 0),
        ("eval_steps: 1000000000000", "eval_steps", 10**12),  # never
        ("text_column: 5", "text_column", "5"),
        ("text_column: 'yes'", "text_column", "yes"),
        ("text_column: '010'", "text_column", "010"),
        ("text_column: null", "text_column", None),
        ("image_column: front", "image_column", ["front"]),
        ("image_column: [front, 2]", "image_column", ["front", "2"]),
        ("image_column: []", "image_column", []),
        ("vision_feature_layer: -1", "vision_feature_layer", [-1]),
        ("vision_feature_layer: [4, '11']", "vision_feature_layer", [4, 11]),
        ("label_column: [one]", "label_column", "one"),
        ("floors: no", "floors", False),
        ("floors: 'true'", "floors", True),
        ("floors: 0", "floors", False),
        ("freeze_encoders: [vision]", "freeze_encoders", ["vision"]),
        ("freeze_encoders: true", "freeze_encoders", True),
        ("modality_dropout: {vision: 0.4, text: 1e-1}", "modality_dropout", {"vision": 0.4, "text": 0.1}),
        ("modality_dropout: 0", "modality_dropout", 0.0),
        ("problem_type: {a: regression}", "problem_type", {"a": "regression"}),
        ("weight_column: {a: trust}", "weight_column", {"a": "trust"}),
        ("task_weights: {a: 8}", "task_weights", {"a": 8.0}),
        ("task_weights: '{a: 0.5}'", "task_weights", {"a": 0.5}),
        ("optim: sgd", "optim", "sgd"),
        ("x: &x\n  seed: 3", None, "unknown key 'x'"),
        ("<<: {seed: 2, fusion: sum}\nseed: 3", "seed", 3),
        ("\ufeffseed: 3", "seed", 3),
        ("seed: 3".encode("utf-16"), "seed", 3),
        ("seed: 3\r\n", "seed", 3),
    ],
)
def test_values_that_are_taken(text, key, value, parse, refused):
    if key is None:
        refused(text, value)
        return
    found = parse(text)[key]
    assert found == value
    assert type(found) is type(value)


def test_flags_are_read_as_values_are(parse):
    flags = ("--max_steps", "7", "--learning_rate", "1e-3", "--floors", "false", "--task_weights", "{}")
    found = parse("max_steps: 3\n", *flags, "--image_column", "front", "back", "--vision_feature_layer", "-1", "2")
    assert (found["max_steps"], found["learning_rate"], found["floors"]) == (7, 1e-3, False)
    assert (found["task_weights"], found["image_column"]) == ({}, ["front", "back"])
    assert found["vision_feature_layer"] == [-1, 2]


# --- What is refused


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("seed: 1\nfusion: sum\nseed: 2\n", ("'seed' is given twice, in line 1 and line 3",)),
        ("seed: 1\n'seed': 2\n", ("'seed' is given twice, in line 1 and line 2",)),
        (
            "modality_dropout:\n  text: 0.1\n  vision: 0.2\n  text: 0.3\n",
            ("'text' is given twice, in line 2 and line 4",),
        ),
        ("max_steps: 1e3\n", ("max_steps", "'1e3'", "write 1000")),
        ("max_steps: 1000.0\n", ("max_steps", "'1000.0'", "write 1000")),
        ("seed: 1.5\n", ("seed", "'1.5'", "whole number")),
        ("seed: -1\n", ("seed must be at least 0, got -1",)),
        ("seed: 4294967296\n", ("seed must be at most 4,294,967,295, got 4294967296",)),
        (
            "per_device_train_batch_size: 1000000000000\n",
            ("per_device_train_batch_size must be at most", "1000000000000"),
        ),
        ("fusion_layers: -1\n", ("fusion_layers must be at least 0, got -1",)),
        ("fusion_layers: 1000\n", ("fusion_layers must be at most 999, got 1000",)),
        ("fusion_dropout: 1.5\n", ("fusion_dropout must be from 0 to 1, got 1.5",)),
        ("label_smoothing_factor: -0.1\n", ("label_smoothing_factor must be from 0 to 1, got -0.1",)),
        ("dataloader_num_workers: -1\n", ("dataloader_num_workers must be at least 0, got -1",)),
        ("task_weights: {a: yes}\n", ("task_weights", "True")),
        ("task_weights: [a]\n", ("task_weights", "['a']", "by name")),
        ("freeze_encoders: vision\n", ("freeze_encoders", "vision", "[vision]")),
        ("max_train_seconds: 12:30\n", ("line 1", "12:30", "750", "quotes")),
        ("\nseed: 010\n", ("line 2", "010", "8", "quotes")),
        ("text_column: 010\n", ("line 1", "010", "quotes")),
        ("label_column: [a, 010]\n", ("line 1", "010")),
        ("max_train_seconds: 1:30.5\n", ("line 1", "1:30.5", "90.5")),
        ("text_column: yes\n", ("text_column must be a text", "bool True", "quotes")),
        ("text_column: 2020-01-01\n", ("text_column must be a text", "date", "quotes")),
        ("task: guessing\n", ("task must be one of", "'ctc'", "'guessing'")),
        ("learning_rat: 1\n", ("unknown key 'learning_rat'", "Did you mean 'learning_rate'")),
        ("5: 1\n", ("unknown key '5'",)),
        ("seed: 1\n\tfusion: sum\n", ("line 2", "tab", "spaces")),
        ("seed: [1\n", ("line 2",)),
        ("seed: 1\n---\nseed: 2\n", ("line 2", "document")),
        ("? [a]\n: 1\n", ("line 1", "unhashable")),
        ("seed: !!python/object/apply:os.getcwd []\n", ("line 1", "python/object")),
        ("", ("a recipe has lines of `key: value`, got nothing",)),
        ("# seed: 1\n", ("got nothing",)),
        ("- seed\n", ("got list",)),
        ("seed\n", ("got str",)),
        (b"seed: \xff1\n", ("UTF-8", "byte 6")),
        (b"seed: \x001\n", ("not allowed",)),
        ("dataset: " + "[" * 10_000, ("line 1", "16 deep")),
        ("dataset: " + "[" * 30 + "]" * 30, ("16 deep",)),
        ("seed: " + "9" * 5000, ("line 1", "cannot be read as a number")),
        ("# " + "x" * 2**20, ("1,048,576 bytes",)),
    ],
)
def test_recipes_that_are_refused(text, parts, refused):
    refused(text, *parts)


def test_anchors_that_grow_without_end(refused):
    """Nine times nine times nine…: neither the value nor the message about it is ever written out."""
    names = "abcdefghij"
    lines = ["dataset: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{name}: &{name} [{', '.join(['*' + last] * 9)}]" for last, name in pairwise(names)]
    refused("\n".join(lines), "unknown key 'b'")
    listed = "label_column: [" + ", ".join(["&a [x, x, x]", "&b [*a, *a, *a]", "&c [*b, *b, *b]", "[*c, *c]"]) + "]"
    refused(listed, "label_column", "list")
    merged = ["dataset: &a {" + ", ".join(f"k{n}: 1" for n in range(200)) + "}"]
    merged += [f"{name}: &{name} {{<<: [{', '.join(['*' + last] * 9)}]}}" for last, name in pairwise(names)]
    refused("\n".join(merged))  # which newer versions of PyYAML do not let grow
    refused("<<: {" + ", ".join(f"k{n}: 1" for n in range(1001)) + "}", "1000 keys are merged")
    refused("base: &a {b: *a}\n", "base")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("recipes.yaml", ("recipes.yaml", "'recipe.yaml'?")),
        ("recipe", ("'recipe.yaml'?",)),
        ("recipe.yml", ("'recipe.yaml'?",)),
        ("", ("folder",)),
        ("nowhere/recipe.yaml", ("file", "nowhere")),
        ("zebra", ("file", "zebra")),
    ],
)
def test_a_recipe_that_is_not_there(name, parts, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    with pytest.raises(SystemExit):
        parse_arguments("", [str(tmp_path / name)])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in parts:
        assert part in error


def test_a_base_is_read_as_strictly(refused, tmp_path):
    (tmp_path / "one.yaml").write_text("seed: 1\nseed: 2\n")
    refused("base: one.yaml\n", "'seed' is given twice")
    refused("base: two.yaml\n", "two.yaml", "Did you mean 'one.yaml'")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--task_weights", "{a: 1, a: 2}"), ("task_weights", "'a' is given twice")),
        (("--task_weights", "{a: .nan}"), ("task_weights", "'nan'")),
        (("--task_weights", "3"), ("task_weights", "3")),
        (("--seed",), ("--seed", "expected one argument")),
        (("--sede", "3"), ("--sede", "Did you mean 'seed'")),
        (("--task", "guessing"), ("--task", "invalid choice", "guessing")),
        (("--max_steps", "1e3"), ("--max_steps", "write 1000")),
    ],
)
def test_flags_that_are_refused(flags, parts, refused):
    error = refused("fusion: sum\n", *parts, flags=flags)
    assert "--help" in error


def test_the_loader_gives_what_safe_load_gives():
    import yaml

    text = "a: [1, 2.5, x, null, true, 2020-01-01]\nb: {c: &c {d: 1e-3, e: 1.0e-3}, f: *c}\n"
    text += "g: |\n  two\n  lines\nh: 0x1F\n"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert issubclass(RecipeLoader, yaml.SafeLoader)


def test_values_by_name():
    assert checked_value("task_weights", dict[str, float], {"a": 1, 2: "1e-1"}) == {"a": 1.0, "2": 0.1}
    with pytest.raises(ValueError, match="task_weights"):
        ModelArguments(task_weights="[")


def test_a_recipe_is_read_whole(tmp_path):
    (tmp_path / "r.yaml").write_text("seed: 1\nlearning_rate: 1e-3\n")
    assert read_recipe(tmp_path / "r.yaml") == {"seed": 1, "learning_rate": "1e-3"}


# --- What a run left behind


RUN = {
    "dataset": "rows.csv",
    "image_column": ["photo"],
    "image_id_column": None,
    "group_column": None,
    "seed": 0,
    "validation_fraction": 0.1,
    "test_fraction": 0.1,
    "label_column": "kind",
    "max_train_seconds": float("inf"),  # as earlier versions took it
}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ("damaged",)),
        ('{"seed": 0', ("damaged",)),
        ("[1]", ("dict",)),
        ('{"x": ' + "[" * 100_000 + "]" * 100_000 + "}", ("deep",)),
        ("{}", ("recipe.json", "dataset")),
        (json.dumps({**RUN, "dataset": 5.5}), None),
        (json.dumps({**RUN, "dataset": ["a"]}), ("dataset", "['a']")),
        (json.dumps({**RUN, "seed": "one"}), ("seed", "'one'")),
        (json.dumps({**RUN, "seed": True}), ("seed", "True")),
        (json.dumps({**RUN, "label_column": {"a": 1}}), ("label_column", "{'a': 1}")),
        (json.dumps({**RUN, "validation_fraction": float("nan")}), ("validation_fraction", "nan")),
        (json.dumps(RUN), None),
    ],
)
@pytest.mark.parametrize("script", ["evaluate", "retrieve"])
def test_a_recipe_json_that_is_damaged(script, content, parts, tmp_path, monkeypatch, capsys):
    (tmp_path / "recipe.json").write_text(content)
    words = ["--model", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [f"{script}.py", *(["evaluate"] if script == "retrieve" else []), *words])
    more = (retrieve.RetrieveArguments, retrieve.COMMANDS) if script == "retrieve" else ()
    if parts is None:
        _, data_args, recipe = open_checkpoint.parse_arguments("", *more)
        assert (data_args.label_column, recipe["seed"]) == ("kind", 0)
        return
    with pytest.raises(SystemExit):
        open_checkpoint.parse_arguments("", *more)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "recipe.json" in error
    for part in parts:
        assert part in error


@pytest.mark.parametrize("flag", ["seed", "bootstrap_samples", "max_rows", "per_device_eval_batch_size"])
def test_flags_of_measuring(flag, tmp_path, monkeypatch, capsys):
    for value in ("true", "1.5", "nan", "1" + "0" * 30):
        monkeypatch.setattr("sys.argv", ["evaluate.py", "--model", str(tmp_path), f"--{flag}", value])
        with pytest.raises(SystemExit):
            open_checkpoint.parse_arguments("")
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"--{flag}" in error


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "damaged"),
        ("[1]", "dict"),
        ('{"metrics": {}}', "recipe"),
        ('{"metrics": [1]}', "metrics"),
        (None, "finished"),
    ],
)
def test_results_that_are_damaged(content, part, tmp_path, monkeypatch):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    monkeypatch.setattr("sys.argv", ["show_results.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=part) as caught:
        show_results.script()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[1]", "", '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}"])
def test_a_checkpoint_whose_config_is_damaged(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        open_checkpoint.load_config(str(tmp_path))


@pytest.mark.parametrize("named", ["regresion", {"a": "regresion"}])
def test_a_problem_type_that_nobody_has_registered(named):
    data_args = DataArguments(dataset="rows.csv", text_column="t", label_column=["a", "b"], problem_type=named)
    with pytest.raises(ValueError, match=r"'regresion'.*'regression'\?.*--import"):
        check_tasks(ModelArguments(), data_args, TrainArguments())
