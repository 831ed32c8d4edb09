"""Runs that pages are tried on: stored checkpoints, with rows beside them."""

import csv
import json
import shutil
from pathlib import Path


STORED = Path(__file__).parents[1] / "data/checkpoints"
PHOTO = STORED / "rows/photos/0.png"
QUESTION = "what colour is the big house ?"


def run_of(folder: Path, head: str, **recipe) -> Path:
    """A run of a stored checkpoint, whose data have a training and a test part."""
    run, data = folder / "houses", folder / "data"
    shutil.copytree(STORED / "heads" / head, run)
    shutil.copytree(STORED / "rows", data)
    with open(data / "rows.csv", newline="") as file:
        header, *rows = csv.reader(file)
    (data / "rows.csv").unlink()
    for part, chosen in (("train", rows[:30]), ("test", rows[30:])):
        with open(data / f"{part}.csv", "w", newline="") as file:
            csv.writer(file).writerows([header, *chosen])
    cut = {"validation_fraction": 0.1, "test_fraction": 0.1, "group_column": None, "seed": 0}
    (run / "recipe.json").write_text(json.dumps({"dataset": str(data), **cut, **recipe}))
    return run


PAIR = {"image_column": ["photo"], "text_column": "text", "label_column": "colour"}
