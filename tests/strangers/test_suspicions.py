"""What is said before a score is trusted, each in data that have it and in data that have not."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from messages import says
from PIL import Image

import mm_hf
from mm_hf.data import Columns, load_splits
from mm_hf.data.suspicions import rare_classes, shared_rows
from mm_hf.training.open_run import open_run


ROWS = 120
DRAW = np.random.default_rng(0)
NOISE = DRAW.normal(size=ROWS)
CLASSES = np.array(["red", "green", "blue"])[DRAW.integers(0, 3, ROWS)]
PRICE = 1000 + 300 * NOISE


@pytest.mark.parametrize(
    ("label", "column", "told"),
    [
        (CLASSES, np.char.upper(CLASSES), True),  # a copy in other words
        (CLASSES, np.where(CLASSES == "red", 3.0, np.where(CLASSES == "blue", 8.5, 1.5)), True),
        (CLASSES, NOISE, False),
        (np.where(NOISE > 1.5, "rare", "usual"), DRAW.normal(size=ROWS), False),  # guessing is right in 9 of 10 rows
        (np.where(NOISE > 0, "up", "down"), np.where(NOISE > 0, NOISE, np.nan), True),  # what is missing tells
        (PRICE, 0.9 * PRICE + 20, True),  # the same amount in another currency
        (PRICE, PRICE + 200 * DRAW.normal(size=ROWS), False),  # correlated, and no copy
        (PRICE, CLASSES, False),
    ],
)
def test_a_column_that_gives_the_label_away(label, column, told):
    frame = pd.DataFrame({"leak": column, "other": DRAW.normal(size=ROWS), "label": label})
    said = "\n".join(mm_hf.understand(frame, label="label").suspicions)
    assert bool(re.search(says("'leak'", "'label'"), said)) is told
    assert "'other'" not in said


def test_a_text_that_looks_like_an_id():
    names = [f"Anne{chr(97 + place % 26)}{chr(97 + place // 26)}" for place in range(ROWS)]
    frame = pd.DataFrame({"member": names, "colour": CLASSES, "body": [f"some words {name}" for name in names]})
    (said,) = mm_hf.understand(frame, label="colour").suspicions
    assert re.search(says("'member'", "120 of 120", "--ignore_columns", "'member'"), said)


def test_a_column_that_names_groups_of_rows():
    users = DRAW.integers(0, 40, ROWS)
    pictures = users * 1001
    frame = pd.DataFrame({"picture_id": pictures, "user": users, "floor": users, "colour": CLASSES})
    seen = mm_hf.understand(frame, label="colour")
    assert seen.roles == {"picture_id": "category", "user": "category", "floor": "number"}
    assert seen.keys()["category_columns"] == ["picture_id", "user"]
    for column, said in zip(("'picture_id'", "'user'"), seen.suspicions, strict=True):
        assert re.search(says(column, len(set(pictures)), "--group_column", column), said)


def test_classes_with_one_row():
    train = Dataset.from_dict({"label": ["a", "a", "b", "c"]})
    test = Dataset.from_dict({"label": ["b", "a", "d"]})
    (said,) = rare_classes({"train": train, "test": test}, ["label"])
    assert re.search(says("2 of 4", "'label'", "'c', 'd'"), said)
    assert rare_classes({"train": train.select(range(2))}, ["label"]) == []


def test_rows_on_both_sides_of_a_cut(tmp_path):
    texts = [f"A long text that is number {place}." for place in range(30)]
    for place in range(30):
        color = (place, 0, 0) if place < 20 else (place - 20, 0, 0)  # the last ten are the first ten again
        Image.new("RGB", (8, 8), color).save(tmp_path / f"{place}.png")
    paths = [f"{place}.png" for place in range(30)]
    again = [text.upper().replace(".", " !") for text in texts[:4]] + texts[24:]
    rows = {
        "train": {"image": paths[:20], "text": texts[:20], "number": list(range(20))},
        "test": {"image": paths[20:], "text": again, "number": list(range(10))},
    }
    parts = DatasetDict({name: Dataset.from_dict(values) for name, values in rows.items()})
    parts.save_to_disk(tmp_path / "data")
    columns = Columns(image="image", text="text")
    splits = load_splits(tmp_path / "data", columns, data_root=tmp_path, validation_fraction=0)
    said = shared_rows(splits, columns, str(tmp_path))
    assert [re.search(r"\d+ of \d+ \w+", line)[0] for line in said] == ["4 of 10 test", "10 of 10 test"]
    assert re.search(says("'text'"), said[0])
    assert re.search(says("'image'"), said[1])
    table = Columns(table=["number"], text="text")
    asked = Dataset.from_dict({"question": ["Is there a red thing?", "Is there a blue thing?"] * 5})
    assert shared_rows({"train": asked, "test": asked}, Columns(text="question"), None) == []  # they always come again
    (line,) = shared_rows({"train": parts["train"], "test": parts["train"].select(range(3))}, table, None)[1:]
    assert re.search(says("3 of 3", "test"), line)


def test_a_run_says_and_keeps_them(tmp_path, capsys):
    frame = pd.DataFrame({"height": NOISE, "weight": DRAW.normal(size=ROWS), "label": CLASSES, "code": CLASSES})
    frame.loc[0, "label"] = frame.loc[0, "code"] = "violet"
    frame["note"] = [
        "the words of this note are always these",
        *[f"note {place} of many" for place in range(ROWS - 1)],
    ]
    frame.to_csv(tmp_path / "rows.csv", index=False)
    words = [str(tmp_path / "rows.csv"), "--label", "label", "--output_dir", str(tmp_path / "run")]
    open_run("", "train.py", [*words, "--ignore_columns", "note"])
    said = capsys.readouterr().out
    kept = json.loads((tmp_path / "run/understanding.json").read_text())
    assert len(kept["suspicions"]) == 2
    for line in kept["suspicions"]:
        assert line in said
    assert re.search(says("'code'", "'label'"), kept["suspicions"][0])
    assert re.search(says("'violet'"), kept["suspicions"][1])
    recipe = json.loads((tmp_path / "run/recipe.json").read_text())
    assert recipe["table_columns"] == ["height", "weight", "code"]
    assert {"understand_columns", "ignore_columns", "time_column"}.isdisjoint(recipe)


def test_categories_that_are_written_in_several_ways(tmp_path):
    frame = pd.DataFrame({"garage": [*[" oui ", "oui", "OUI", "non"] * 10], "sold": DRAW.choice(["ja", "Ja"], 40)})
    garage, sold = mm_hf.understand(frame, label="sold").suspicions
    assert re.search(says("'garage'", "' oui ' and 'OUI' and 'oui'"), garage)
    assert "non" not in garage
    assert re.search(says("'sold'", "'Ja' and 'ja'"), sold)
    frame["garage"], frame["sold"] = [f"A note number {place}." for place in range(40)], ["ja", "nein"] * 20
    assert mm_hf.understand(frame, label="sold").suspicions == []
