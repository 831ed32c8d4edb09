"""Files of Python that a recipe imports: what they register is there for all else, and errors in them are told."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from messages import says

import mm_hf
from mm_hf.data import imported
from mm_hf.models.fusion import FUSIONS
from mm_hf.training import reopen
from mm_hf.training.fingerprint import Fingerprint
from mm_hf.training.places import find_data
from mm_hf.training.recipe import import_files_of, parse_arguments, recipe_of


FUSION = """
from mm_hf.models.fusion import register_fusion
from mm_hf.models.pooled_fusions import SumFusion

@register_fusion({name!r})
class Mine(SumFusion):
    pass
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in; what was imported is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(imported.VARIABLE, "")
    monkeypatch.setattr(imported, "__path__", [])
    known, before = set(FUSIONS), set(sys.modules)
    yield tmp_path
    for name in set(FUSIONS) - known:
        del FUSIONS[name]
    for name in set(sys.modules) - before:
        if name.startswith(imported.__name__ + "."):
            del sys.modules[name]


def recipe_json(folder, **keys):
    """A run's folder with its recipe, as it was begun in `folder`."""
    _, *groups = parse_arguments("", ["--dataset", "rows.csv", "--text_column", "title"])
    (folder / "run").mkdir(exist_ok=True)
    recipe = {**recipe_of(*groups), "working_dir": "..", **keys}
    (folder / "run/recipe.json").write_text(json.dumps(recipe))


@pytest.mark.parametrize("form", ["flag", "recipe", "list"])
def test_what_it_registers_is_there(form, folder):
    (folder / f"my_{form}.py").write_text(FUSION.format(name=form))
    (folder / "r.yaml").write_text(
        {"flag": "", "recipe": f"import: my_{form}.py\n", "list": f"import: [my_{form}.py]\n"}[form] + "seed: 1"
    )
    words = ["--import", f"my_{form}.py"] if form == "flag" else []
    _, *groups = parse_arguments("", ["r.yaml", *words])
    assert recipe_of(*groups)["import"] == [f"my_{form}.py"]
    assert form in FUSIONS
    parse_arguments("", ["r.yaml", *words])  # once is enough
    assert pickle.loads(pickle.dumps(FUSIONS[form])) is FUSIONS[form]


def test_a_process_that_is_started_finds_it(folder):
    (folder / "mine.py").write_text(FUSION.format(name="mine"))
    imported.import_files(["mine.py"])
    (folder / "object").write_bytes(pickle.dumps(FUSIONS["mine"]))
    code = (
        "import pickle; from mm_hf.models.fusion import FUSIONS; assert 'mine' not in FUSIONS\n"
        "found = pickle.load(open('object', 'rb')); assert found is FUSIONS['mine']\n"
        "from mm_hf.data.imported import import_again; import_again(); print(found.__module__)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(mm_hf.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "mm_hf.data.imported.mine", done.stderr


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("gone.py", None, ("gone.py", "file")),
        ("notes.txt", "", ("notes.txt",)),
        ("syntax.py", "a = 1\nb = (\n", ("syntax.py, line 2", "SyntaxError")),
        ("fails.py", "a = 1\n\n1 / 0\n", ("fails.py, line 3", "ZeroDivisionError")),
        ("inner.py", "def f():\n    raise KeyError('x')\nf()\n", ("inner.py, line 2", "KeyError")),
    ],
)
def test_an_error_is_told_with_its_line(name, text, parts, folder, capsys):
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(SystemExit):
        parse_arguments("", ["--import", name])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(part in error for part in parts), error
    assert imported.imported_files() == []


def test_two_files_of_one_name(folder):
    for place in ("one", "other"):
        (folder / place).mkdir()
        (folder / place / "twin.py").write_text(f"x = {place!r}\n")
    imported.import_files(["one/twin.py", "./one/twin.py"])
    with pytest.raises(ValueError, match=r"twin\.py"):
        imported.import_files(["other/twin.py"])
    (folder / "other/twin.py").write_text("x = 'one'\n")
    imported.import_files(["other/twin.py"])  # the same content


def test_whoever_opens_the_run_imports_it_again(folder, monkeypatch, capsys):
    (folder / "opened.py").write_text(FUSION.format(name="opened"))
    recipe_json(folder, **{"import": ["opened.py"]})
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    _, data_args, recipe = reopen.parse_arguments("", words=["../run"])
    assert "opened" in FUSIONS
    assert data_args.import_files == recipe["import"] == [str(folder / "opened.py")]
    assert "imported opened.py\n" in capsys.readouterr().out


def test_flags_stand_above_the_recipe_of_the_run(folder):
    (folder / "instead.py").write_text(FUSION.format(name="instead"))
    recipe_json(folder, **{"import": ["gone.py"]})
    reopen.parse_arguments("", words=["run", "--import", "instead.py"])
    assert "instead" in FUSIONS
    with pytest.raises(SystemExit):
        reopen.parse_arguments("", words=["run"])


def test_a_file_that_changed_is_told(folder, capsys):
    (folder / "mine.py").write_text("x = 1\n")
    before = Fingerprint({}, None, "d", None, imported=["mine.py"])
    assert before.settle(None) == ([], [])
    kept = json.loads(json.dumps(before.kept))
    assert Fingerprint({}, None, "d", None, imported=["mine.py"]).settle(kept)[0] == []
    assert Fingerprint({}, None, "d", None).settle(kept)[0] == []  # not looked at
    assert Fingerprint({}, None, "d", None, imported=[]).settle(kept)[0] == ["the imported file mine.py"]
    recipe_json(folder, **{"import": ["mine.py"]})
    (folder / "run/rows.json").write_text(json.dumps({"fingerprint": kept}))
    (folder / "mine.py").write_text("x = 2\n")
    assert Fingerprint({}, None, "d", None, imported=["mine.py"]).settle(kept)[0] == ["the imported file mine.py"]
    import_files_of({"import": ["mine.py"]}, folder / "run")
    assert re.search(says("mine.py", "changed"), capsys.readouterr().out)


def test_runs_that_import_nothing_are_kept_as_before():
    assert "imported" not in Fingerprint({}, None, "d", None, imported=()).kept
    assert find_data({"dataset": "no such rows"}, Path("run")) == ({"dataset": "no such rows"}, [])


def test_a_folder_that_brings_its_own_code_is_not_believed(folder):
    recipe_json(folder, **{"import": ["run/mine.py"]})
    (folder / "run/mine.py").write_text(FUSION.format(name="theirs"))
    recipe, _ = find_data(json.loads((folder / "run/recipe.json").read_text()), folder / "run")
    with pytest.raises(ValueError, match=r"--import .*mine\.py"):
        import_files_of(recipe, folder / "run")
    assert "theirs" not in FUSIONS
    import_files_of(recipe, folder / "run", ["run/mine.py"])
    assert "theirs" in FUSIONS


def test_a_file_that_was_renamed_is_the_same(folder, capsys):
    """Its content counts; a file of the old name with other content does not stand for it."""
    (folder / "mine.py").write_text("x = 1\n")
    kept = Fingerprint({}, None, "d", None, imported=["mine.py"]).kept
    (folder / "mine.py").rename(folder / "ours.py")
    assert Fingerprint({}, None, "d", None, imported=["ours.py"]).settle(kept)[0] == []
    (folder / "theirs.py").write_text("x = 2\n")
    assert Fingerprint({}, None, "d", None, imported=["theirs.py"]).settle(kept)[0] == [
        "the imported file mine.py",
        "the imported file theirs.py",
    ]
    (folder / "mine.py").write_text("x = 2\n")
    found = Fingerprint({}, None, "d", None, imported=["mine.py", "ours.py"]).settle(kept)[0]
    assert found == ["the imported file mine.py"]
    recipe_json(folder, **{"import": ["mine.py"]})
    (folder / "run/rows.json").write_text(json.dumps({"fingerprint": kept}))
    for name, changed in (("ours.py", False), ("theirs.py", True), ("mine.py", True)):
        import_files_of({"import": ["mine.py"]}, folder / "run", [name])
        assert (" since " in capsys.readouterr().out) == changed
