"""The run of every packaged recipe is explained by one command, and so are those of what comes from outside; on what
`make data-recipes` builds. Runs of two steps on sixty rows a part: what they have learned does not matter here."""

import json
import math
import sys
from pathlib import Path

import pytest
from datasets import load_from_disk
from kill_and_resume import REPOSITORY, call

from mm_hf.commands import explain
from mm_hf.training import train
from mm_hf.training.recipe_files import packaged_recipes, read_recipe


pytestmark = pytest.mark.slow

ROWS = 60


def small(dataset: Path, folder: Path) -> Path:
    """The first rows of each part, and the labels that all of them have."""
    parts = load_from_disk(str(dataset))
    for name, part in parts.items():
        parts[name] = part.select(range(min(ROWS, len(part))))
    parts.save_to_disk(folder / "rows")
    return folder / "rows"


def numbers_of(value) -> list[float]:
    """All numbers of a record."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers_of(part)]
    if isinstance(value, list):
        return [number for part in value for number in numbers_of(part)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("name", packaged_recipes())
def test_it_is_explained(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    recipe = read_recipe(packaged_recipes()[name])
    if not Path(recipe["dataset"]).exists():
        pytest.skip(f"{recipe['dataset']} is not built: make data-recipes")
    run, words = tmp_path / "run", ["--max_steps", 2, "--eval_steps", 2, "--floors", "false", "--report_to", "none"]
    words += ["--per_device_train_batch_size", 8, "--evidence", "false", "--cache_dir", "none"]
    call(train.main, name, "--dataset", small(Path(recipe["dataset"]), tmp_path), "--output_dir", run, *words)
    monkeypatch.setattr(sys, "argv", ["mm_hf explain", str(run), "--rows", "3"])
    explain.main()
    assert "index.html" in capsys.readouterr().out
    assert (run / "evidence/index.html").stat().st_size > 10_000
    evidence = json.loads((run / "evidence/evidence.json").read_text())
    assert len(evidence["rows"]) == 3
    assert all(map(math.isfinite, numbers_of(evidence)))
    for row in evidence["rows"]:
        assert row["answers"]
        for answer in row["answers"]:
            given = sum(about["value"] for about in answer["modalities"].values())
            assert given == pytest.approx(answer["value"] - answer["base"], abs=1e-4)
            # A map for every item, or the reason why there is none.
            mapped = {part["item"] for part in answer["parts"]}
            assert mapped == set(range(len(row["items"]))) or evidence["warnings"]
