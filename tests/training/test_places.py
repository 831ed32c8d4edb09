"""What a run left is measured from any folder: its data are found where they were, and it says where that is."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from kill_and_resume import call

from mm_hf.training import places, train
from mm_hf.training.evaluator import Evaluator
from mm_hf.training.lock import release_folders
from mm_hf.training.places import WORKING_DIR, find_data, working_dir
from mm_hf.training.reopen import open_checkpoint, parse_arguments
from mm_hf.training.run_folder import read_recipe_of


STORED = Path(__file__).parents[1] / "data/checkpoints"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Three folders that hold data of one name, and a repository in the place of this one."""
    for name in ("project", "here", "repository", "runs/group"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(places, "checkout", lambda: tmp_path / "repository")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


# What holds the data, what the recipe knows of where it began, and where the data are found; None: as they were given.
PLACES = {
    "where it began": (["project", "here", "repository"], "../../../project", "project"),
    "it began here": (["project", "here"], "../../../here", None),
    "moved without its data": (["here"], "../../../project", None),
    "not moved, from elsewhere": (["project"], "../../../project", "project"),
    "of before: here": (["here", "repository"], None, None),
    "of before: the repository": (["repository", "runs"], None, "repository"),
    "of before: above the run": (["runs/group"], None, "runs/group"),
    "of before: two above": (["runs"], None, "runs"),
    "nowhere, or on the Hub": ([], "../../../project", None),
}


@pytest.mark.parametrize("dataset", ["data/rows.csv", "data/*.csv", "data", "./data/../data"])
@pytest.mark.parametrize("kind", PLACES)
def test_where_data_are_found(kind, dataset, world):
    there, began, expected = PLACES[kind]
    for name in there:
        (world / name / "data").mkdir()
        (world / name / "data/rows.csv").write_text("a\n1\n")
    run = world / "runs/group/run"
    run.mkdir()
    recipe = {"dataset": dataset, "data_root": None, "seed": 3} | ({} if began is None else {WORKING_DIR: began})
    found, notes = find_data(recipe, run)
    if expected is None:
        assert (found, notes) == (recipe, [])
        return
    place = os.path.normpath(world / expected / dataset)
    assert found == {**recipe, "dataset": place}
    (note,) = notes
    assert dataset in note
    assert place in note


def test_what_is_absolute_or_no_path_stays(world):
    (world / "project/data").mkdir()
    recipe = {"dataset": str(world / "project/data"), "data_root": "photos", WORKING_DIR: "../../../project"}
    (world / "runs/group/run").mkdir()
    assert find_data(recipe, world / "runs/group/run") == (recipe, [])
    (world / "project/photos").mkdir()
    found, (note,) = find_data(recipe, world / "runs/group/run")
    assert found["data_root"] == str(world / "project/photos")
    assert "photos" in note


def test_the_working_dir_is_seen_from_the_run(world, monkeypatch):
    assert working_dir(Path("runs/x")) == "../.."
    assert working_dir(world / "runs/group") == "../../here"
    (world / "link").symlink_to(world / "runs/group")
    assert working_dir(world / "link") == "../../here"  # a link may be gone when it is read

    def two_drives(*args):
        raise ValueError

    monkeypatch.setattr(places.os.path, "relpath", two_drives)
    assert working_dir(Path("runs/x")) is None
    (world / "runs/group/run").mkdir()
    recipe = {"dataset": "data", WORKING_DIR: None}
    assert find_data(recipe, world / "runs/group/run") == (recipe, [])


def measured_rows(*words) -> list[str]:
    """The texts that evaluate.py would measure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
        job, name, _ = open_checkpoint(*parse_arguments(""))
    release_folders()
    assert type(job) is Evaluator  # nothing is invented to train it
    return job.splits[name]["text"][:]


def test_a_run_is_measured_from_another_folder(tmp_path, monkeypatch, capsys):
    """Also when it was moved together with its data."""
    project = tmp_path / "project"
    for part in ("rows", "encoders"):
        shutil.copytree(STORED / part, project / part)
    recipe = json.loads((STORED / "states/train/recipe.yaml").read_text())
    recipe |= {"max_steps": 1, "eval_steps": 1, "label_column": "colour", "output_dir": "runs/x"}
    (project / "recipe.yaml").write_text(json.dumps(recipe))
    monkeypatch.chdir(project)
    call(train.main, "recipe.yaml")
    assert read_recipe_of(project / "runs/x")[WORKING_DIR] == "../.."
    assert str(tmp_path) not in (project / "runs/x/recipe.json").read_text()
    capsys.readouterr()
    rows = measured_rows("--model", "runs/x")
    assert capsys.readouterr().out == ""

    project = project.rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert measured_rows("--model", project / "runs/x") == rows
    assert f"dataset 'rows/rows.csv' of x is {project}/rows/rows.csv" in capsys.readouterr().out
    # Data that are named in the command are what they are.
    shutil.copytree(project / "rows", "own")
    assert len(measured_rows("--model", project / "runs/x", "--dataset", "own/rows.csv", "--split", "train")) == 48
    assert capsys.readouterr().out == ""
    # A run that began before this was kept, from its own folder.
    record = project / "runs/x/recipe.json"
    record.write_text(json.dumps({key: value for key, value in recipe_of(record).items() if key != WORKING_DIR}))
    monkeypatch.chdir(project)
    assert measured_rows("--model", "runs/x") == rows
    # It is complete, whatever folder it is looked at from.
    call(train.main, "recipe.yaml")
    assert "this run is complete" in capsys.readouterr().out


def recipe_of(file: Path) -> dict:
    return json.loads(file.read_text())
