"""A modality from outside has flags of its own in each command, may be augmented, and goes on from a checkpoint."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kill_and_resume import call, recipe_writer

import mm_hf
from mm_hf.commands import predict
from mm_hf.commands.arguments import CompareArguments, RetrieveArguments
from mm_hf.commands.prediction import arguments as of_predict
from mm_hf.data import Columns, MultimodalCollator
from mm_hf.data.modalities import reader_of
from mm_hf.training import open_run, reopen, train
from mm_hf.training.by_modality import check_values_used
from mm_hf.training.checks import check_arguments
from mm_hf.training.measuring_arguments import EvaluateArguments
from mm_hf.training.recipe import given_keys, parse_arguments
from mm_hf.training.splits import columns_in_use


REPOSITORY = Path(__file__).parents[2]
FILE = "examples/custom_modality.py"
FLAGS = ["--import", str(REPOSITORY / FILE), "--point_column", "lat", "lon"]
NAMED = {"place": ["lat", "lon"]}
TINY = {
    "label_column": "walls",
    "fusion": "concat",
    "fusion_hidden_size": 16,
    "fusion_layers": 1,
    "max_steps": 3,
    "learning_rate": 1e-2,
    "floors": False,
}


@pytest.fixture(scope="module")
def example(imported):
    return imported("custom_modality")


def fresh(code: str) -> subprocess.CompletedProcess:
    """Code in a process in which nothing was imported."""
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_training_takes_the_flag(place):
    """In a process that knows nothing of the file before it reads the line; wherever the data stand."""
    words = ["pyproject.toml", *FLAGS] if place == "behind" else [*FLAGS, "--label", "price"]
    code = (
        "import json; from mm_hf.training.recipe import parse_arguments, given_keys\n"
        f"name, _, data, _ = parse_arguments('', {words})\n"
        f"print(json.dumps([name, data.columns, sorted(given_keys({words}))]))"
    )
    done = fresh(code)
    assert done.returncode == 0, done.stderr
    name, columns, given = json.loads(done.stdout.splitlines()[-1])
    assert columns == NAMED
    assert "columns" in given
    assert name == ("pyproject.toml" if place == "behind" else "run")


@pytest.mark.slow
def test_the_help_names_it():
    code = f"from mm_hf.cli import main; main(['train', '--import', {FILE!r}, '--help'])"
    done = fresh(code)
    assert "--point_column TEXT" in done.stdout, done.stderr
    assert "point_column" not in fresh("from mm_hf.cli import main; main(['train', '--help'])").stdout


@pytest.mark.slow
def test_a_recipe_may_import_what_brings_the_flag(tmp_path):
    """The key in the recipe, and the flag above it."""
    (tmp_path / "r.yaml").write_text(f"import: {REPOSITORY / FILE}\npoint_column: [lat, lon]\nseed: 1\n")
    words = [str(tmp_path / "r.yaml")]
    code = (
        "from mm_hf.training.recipe import parse_arguments\n"
        f"for more in ([], ['--point_column', 'y', 'x']): print(parse_arguments('', {words} + more)[2].columns)"
    )
    done = fresh(code)
    assert done.stdout.splitlines() == [str(NAMED), str({"place": ["y", "x"]})], done.stderr


def test_both_forms(example, capsys):
    same = [*FLAGS, "--columns", "{place: [lat, lon], text: a}"]
    _, _, data_args, _ = parse_arguments("", same)
    assert (data_args.columns, data_args.text_column) == (NAMED, "a")
    assert {"columns", "text_column"} <= given_keys(same)
    with pytest.raises(SystemExit):
        parse_arguments("", [*FLAGS, "--columns", "{place: [lon, lat]}"])
    error = capsys.readouterr().err
    assert all(part in error for part in ("['lon', 'lat']", "point_column", "['lat', 'lon']")), error


@pytest.mark.slow
def test_without_the_file_the_flag_is_unknown():
    done = fresh("from mm_hf.training.recipe import parse_arguments; parse_arguments('', ['--point_column', 'a'])")
    assert done.returncode == 2
    assert "point_column" in done.stderr


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The recipe.json of a run that had other columns."""
    folder = tmp_path_factory.mktemp("begun")
    keys = dict.fromkeys(reopen.RECIPE_KEYS) | {"seed": 0, "validation_fraction": 0.1, "test_fraction": 0.1}
    (folder / "recipe.json").write_text(json.dumps({**keys, "dataset": "d", "columns": {"place": ["a", "b"]}}))
    return folder


def test_other_commands_take_it(example, begun, monkeypatch):
    for group, first in (
        (EvaluateArguments, [str(begun)]),
        (CompareArguments, ["--model", str(begun)]),
    ):
        assert reopen.parse_arguments("", group, words=first)[1].columns == {"place": ["a", "b"]}
        assert reopen.parse_arguments("", group, words=[*first, *FLAGS])[1].columns == NAMED
    words = ["build", "--model", str(begun), *FLAGS]
    assert reopen.parse_arguments("", RetrieveArguments, ("build",), words=words)[1].columns == NAMED
    monkeypatch.setattr(sys, "argv", ["predict", str(begun), "rows.csv", "-o", "out.csv", *FLAGS])
    assert of_predict.parse_arguments("")[3].columns == NAMED


def test_no_column(example, begun):
    _, data_args, _ = reopen.parse_arguments("", words=[str(begun), "--point_column", ""])
    assert columns_in_use(data_args).extra == {}


@pytest.mark.parametrize("columns", [["lat"], ["lat", "lon", "height"]])
def test_too_few_or_too_many_columns(example, columns):
    _, *groups = parse_arguments(
        "", ["--dataset", "d", "--label", "l", "--report_to", "none", "--point_column", *columns]
    )
    with pytest.raises(ValueError, match=r"--point_column.*latitude, longitude"):
        check_arguments("train.py", *groups)
    with pytest.raises(ValueError, match=r"--point_column.*latitude, longitude"):
        columns_in_use(groups[1])  # of predict and evaluate


def test_nothing_there_is_no_point(example):
    scaler = example.PlaceScaler.fit([(52.5, 13.4), (52.6, 13.5)])
    processor = mm_hf.MMFusionProcessor(extra_parts={"place": scaler})
    empty = [math.nan, math.nan]
    for nothing in (empty, tuple(empty), np.array(empty), torch.tensor(empty), [None, None]):
        batch = processor(place=[(52.5, 13.4), nothing])
        assert batch["place_index"].tolist() == [0, -1]
        assert example.Place().load(processor, None, "place", nothing) == (None, None)
    for half in ([52.5, math.nan], [52.5, None]):
        with pytest.raises(ValueError, match="Row 1"):
            processor(place=[(52.5, 13.4), half])


@pytest.fixture
def shifting(example, monkeypatch):
    """The example's reader with an augmentation."""
    kind = type(reader_of("place"))
    monkeypatch.setattr(kind, "augmentation", "shift", raising=False)

    def augment(self, item, generator, collator):
        return [value + self.asked_augmentation(collator) * generator.random() for value in item]

    monkeypatch.setattr(kind, "augment", augment)


def test_augmentation_reaches_it(shifting, example):
    scaler = example.PlaceScaler.fit([(52.5, 13.4), (52.6, 13.5)])
    processor = mm_hf.MMFusionProcessor(extra_parts={"place": scaler})
    plain = MultimodalCollator(processor, Columns(extra=NAMED))
    collator = MultimodalCollator(processor, Columns(extra=NAMED), extra_augment={"place": 0.5})
    rows = [{"lat": 52.5, "lon": 13.4, "row_id": 0, "split": "train"}]
    values = [each(rows)["place_values"] for each in (plain, collator, collator, collator.unchanging())]
    assert torch.equal(values[1], values[2])
    assert torch.equal(values[0], values[3])
    assert (values[0] - values[1]).abs().max() > 0.01


def test_a_recipe_augments_it(shifting):
    """`augment` by modality, the library's among them, in a recipe and as a flag."""
    for words in (["{place: 0.5}"], ["{place: 0.5, text: 0.1, vision: [crop, flip]}"]):
        _, _, data_args, _ = parse_arguments("", [*FLAGS, "--augment", *words])
        assert data_args.extra_augment == {"place": 0.5}
    assert (data_args.token_dropout, data_args.augment) == (0.1, ["crop", "flip"])
    _, _, data_args, _ = parse_arguments("", [*FLAGS, "--augment", "crop", "flip"])
    assert (data_args.extra_augment, data_args.augment) == (None, ["crop", "flip"])


def test_a_run_augments_its_training_rows(shifting, homes_csv, tmp_path, tmp_path_factory):
    keys = {"dataset": homes_csv, "import": REPOSITORY / FILE, "point_column": ["latitude", "longitude"], **TINY}
    file = recipe_writer(tmp_path_factory, keys)(tmp_path / "run", augment={"place": 0.5})
    run = open_run.open_run("", "train.py", [str(file)])
    assert run.training_collator(run.collator).extra_augment == {"place": 0.5}
    assert run.collator.extra_augment is None
    assert json.loads((tmp_path / "run/recipe.json").read_text())["extra_augment"] == {"place": 0.5}


def test_what_cannot_be_augmented(example, capsys):
    with pytest.raises(SystemExit):
        parse_arguments("", [*FLAGS, "--augment", "{place: 0.5}"])
    error = capsys.readouterr().err
    assert "place" in error
    assert "'vision', 'text', 'audio'" in error


def test_a_rate_of_a_place_that_is_not_there(example):
    _, *groups = parse_arguments("", ["--text_column", "a", "--learning_rate", "{place: 1}"])
    with pytest.raises(ValueError, match=r"learning_rate.*'place'.*\['text'\]"):
        check_values_used(*groups)


def test_it_goes_on_from_a_checkpoint(example, homes_csv, tmp_path, tmp_path_factory):
    """Encoder, projection and scaler are the checkpoint's; in another order its columns are refused."""
    keys = {"dataset": homes_csv, "import": REPOSITORY / FILE, "point_column": ["latitude", "longitude"], **TINY}
    recipe = recipe_writer(tmp_path_factory, keys)
    call(train.main, recipe(tmp_path / "first"))
    old = mm_hf.MMFusionForClassification.from_pretrained(tmp_path / "first")
    scaler = mm_hf.MMFusionProcessor.from_pretrained(tmp_path / "first").extra_parts["place"]
    moved = tmp_path / "moved.csv"
    lines = homes_csv.read_text().splitlines()
    moved.write_text("\n".join([lines[0], *(line.replace("52.", "42.", 1) for line in lines[1:])]) + "\n")
    leave = dict.fromkeys(("fusion", "fusion_hidden_size", "fusion_layers"))
    file = recipe(tmp_path / "next", init_from=tmp_path / "first", dataset=moved, **leave)
    run = open_run.open_run("", "train.py", [str(file)])
    assert run.processor.extra_parts["place"] == scaler
    for name, value in run.model.base_model.encoders["place"].state_dict().items():
        assert torch.equal(value, old.base_model.encoders["place"].state_dict()[name])
    assert any("place" in line and "first" in line for line in run.start.lines)
    turned = recipe(tmp_path / "turned", init_from=tmp_path / "first", point_column=["longitude", "latitude"], **leave)
    with pytest.raises(ValueError, match=r"\['latitude', 'longitude'\].*\['longitude', 'latitude'\]"):
        open_run.open_run("", "train.py", [str(turned)])
    call(train.main, file)
    assert (tmp_path / "next/results.json").exists()
    out = tmp_path / "out.csv"
    call(predict.main, tmp_path / "next", moved, "-o", out, "--on_error", "skip")
    assert len(out.read_text().splitlines()) == len(lines)


def test_a_checkpoint_without_it_gets_a_fresh_one(example, encoders, homes_csv, tmp_path, tmp_path_factory):
    text = {"text_column": "advert", "text_encoder": encoders / "minilm-l6", "freeze_encoders": True}
    recipe = recipe_writer(tmp_path_factory, {"dataset": homes_csv, **text, **TINY})
    call(train.main, recipe(tmp_path / "first"))
    more = {"import": REPOSITORY / FILE, "point_column": ["latitude", "longitude"], "init_from": tmp_path / "first"}
    leave = dict.fromkeys(("fusion", "fusion_hidden_size", "fusion_layers", "text_encoder"))
    run = open_run.open_run("", "train.py", [str(recipe(tmp_path / "next", **more, **leave))])
    assert run.model.config.modalities == ["text", "place"]
    assert run.processor.extra_parts["place"].spread > 0
    assert any(line.startswith("place") and "fresh" in line for line in run.start.lines)
