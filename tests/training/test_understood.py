"""`mm_hf train FILE --label NAME`: what follows from columns that nobody named, and what stays with who names them."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from kill_and_resume import call
from messages import says

from mm_hf.commands import evaluate, predict
from mm_hf.data import Columns, load_splits
from mm_hf.training import train
from mm_hf.training.open_run import open_run


ROWS = 60
DRAW = np.random.default_rng(1)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A table with a place name, numbers, codes, a month and votes."""
    frame = pd.DataFrame(
        {
            "row": range(ROWS),
            "town": DRAW.choice(["Bonn", "Ulm", "Jena"], ROWS),
            "area": DRAW.normal(80, 10, ROWS).round(1),
            "plz": DRAW.choice([10115, 20095, 50667], ROWS),
            "when": pd.date_range("2024-01-01", periods=ROWS).strftime("%d.%m.%Y"),
            "votes": [place % 25 for place in range(ROWS)],
            "sold": DRAW.choice(["yes", "no"], ROWS),
        }
    )
    frame.to_csv(tmp_path / "shop.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return frame


def opened(*words: str, folder: str = "run"):
    return open_run("", "train.py", ["shop.csv", "--output_dir", folder, *words])


def recipe_of(folder: str = "run") -> dict:
    with open(f"{folder}/recipe.json") as file:
        return json.load(file)


def test_what_is_understood_is_a_recipe_like_any_other(shop, capsys):
    run = opened("--label", "sold")
    said = capsys.readouterr().out
    assert run.columns.table == ["town", "area", "plz", "when", "votes"]
    recipe = recipe_of()
    assert recipe["table_columns"] == ["town", "area", "plz", "when", "votes"]
    assert recipe["category_columns"] == ["plz"]
    for value in ("row", "town", "id", "category", "date", "--table_columns", "--ignore_columns"):
        assert re.search(says(value), said)
    run.accelerator.free_memory()
    # Who writes the same keys has the same run.
    named = ["--table_columns", "town", "area", "plz", "when", "votes", "--category_columns", "plz"]
    opened("--label", "sold", *named, folder="named")
    written = recipe_of("named")
    assert {key for key in written if written[key] != recipe[key]} <= {"output_dir", "working_dir"}


def test_who_names_a_column_names_all(shop, capsys):
    run = opened("--label", "sold", "--table_columns", "area")
    assert run.columns.table == ["area"]
    assert "--ignore_columns" not in capsys.readouterr().out


def test_a_line_is_overridden_and_the_others_stay(shop):
    run = opened(
        "--label", "sold", "--understand_columns", "true", "--kind_column", "town", "--ignore_columns", "votes"
    )
    assert run.columns.table == ["area", "plz", "when"]
    assert run.columns.kind == "town"


def test_a_run_goes_on_with_what_it_began_with(shop, tmp_path):
    opened("--label", "sold")
    before = recipe_of()
    (tmp_path / "run/checkpoint-1").mkdir()  # it has begun
    file = tmp_path / "run/understanding.json"
    kept = json.loads(file.read_text())
    kept["keys"]["table_columns"] = ["area"]
    file.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=says("table_columns", "['area']")):  # the kept keys are taken, not new ones
        opened("--label", "sold")
    kept["keys"]["table_columns"] = before["table_columns"]
    kept["asked"]["label_column"] = "votes"
    file.write_text(json.dumps(kept))
    assert opened("--label", "sold").columns.table == before["table_columns"]


def test_without_a_label_the_candidates_are_said(shop):
    with pytest.raises(ValueError, match=says("label_column", "shop.csv", "'votes'", "mm_hf train shop.csv --label")):
        opened()
    with pytest.raises(ValueError, match=says("'solt'", "sold")):
        opened("--label", "solt")


def test_amounts_do_not_become_classes_without_a_word(shop, capsys):
    run = opened("--label", "votes")
    assert run.task.problem_type == "regression"
    assert recipe_of()["problem_type"] == "regression"
    assert re.search(says("votes", "25", "--problem_type single_label_classification"), capsys.readouterr().out)
    run = opened("--label", "votes", "--problem_type", "single_label_classification", folder="classes")
    assert len(run.task.names) == 25
    # Who names columns has what there was.
    run = opened("--label", "votes", "--table_columns", "area", folder="named")
    assert run.task.problem_type == "single_label_classification"


def test_what_does_not_go_together(shop):
    with pytest.raises(ValueError, match=says("ignore_columns", "['votes']", "understand_columns")):
        opened("--label", "sold", "--understand_columns", "false", "--ignore_columns", "votes")
    with pytest.raises(ValueError, match=says("group_column", "'town'", "time_column", "'when'")):
        opened("--label", "sold", "--group_column", "town", "--split_by_time", "when")


def test_the_latest_rows_are_the_test_part(shop, capsys):
    run = opened("--label", "sold", "--split_by_time", "when", "--ignore_columns", "when", folder="cut")
    assert "when" not in run.columns.table
    run = opened("--label", "sold", "--split_by_time", "when")
    assert "when" in run.columns.table  # who cuts by a date asks for no other inputs
    assert list(run.processor.table_schema.dates) == ["when"]
    assert re.search(says("when", "date", "test part", "--ignore_columns when"), capsys.readouterr().out)
    order = {name: part["_source_row"] for name, part in run.splits.items()}
    assert order == {"train": list(range(48)), "validation": list(range(48, 54)), "test": list(range(54, 60))}
    assert recipe_of()["time_column"] == "when"


def test_a_row_without_a_time_is_left_out_where_bad_rows_are(shop):
    shop.loc[[3, 7], "when"] = [None, "soon"]
    shop.to_csv("shop.csv", index=False)
    words = ["--label", "sold", "--split_by_time", "when", "--ignore_columns", "when"]
    with pytest.raises(ValueError, match=says("'when'", 3, "--on_error skip")):
        opened(*words)
    run = opened(*words, "--on_error", "skip", folder="skipped")
    assert [(entry["source_row"], entry["column"]) for entry in run.bad_rows.entries] == [(3, "when"), (7, "when")]
    assert sum(map(len, run.splits.values())) == ROWS - 2
    assert {3, 7}.isdisjoint(row for part in run.splits.values() for row in part["_source_row"])


def test_prices_with_words_are_refused_with_both_ways_out(shop):
    shop["price"] = [f"{place * 7}.5" if place % 10 else "on request" for place in range(ROWS)]
    shop.to_csv("shop.csv", index=False)
    ways = ("54", "60", "'on request'", "--problem_type regression --on_error skip --max_bad_fraction 0.2")
    with pytest.raises(ValueError, match=says("'price'", *ways, "--problem_type single_label_classification")):
        opened("--label", "price")
    numbers = ["--problem_type", "regression", "--on_error", "skip", "--max_bad_fraction", "0.5"]
    run = opened("--label", "price", *numbers, folder="numbers")
    assert run.task.problem_type == "regression"
    assert {run.splits[entry["split"]]["price"][entry["row"]] for entry in run.bad_rows.entries} == {"on request"}
    shop["price"] = [f"${place + 1},250" if place % 10 else "on request" for place in range(ROWS)]
    shop.to_csv("shop.csv", index=False)
    with pytest.raises(ValueError, match=says("54", "60", "'on request'")):
        opened("--label", "price", folder="dollars")
    run = opened("--label", "price", *numbers, "--decimal", ".", folder="read")
    assert run.task.problem_type == "regression"
    assert sum(map("2250.0".__eq__, [price for part in run.splits.values() for price in part["price"]])) == 1


def test_all_columns_that_are_refused_are_said_at_once(shop, capsys):
    shop["fee"] = [f"{place + 1},250" for place in range(ROWS)]
    shop["due"] = [f"{place % 9 + 1:02d}/{place % 7 + 1:02d}/2024" for place in range(ROWS)]
    shop["price"] = [f"{place + 2},750" for place in range(ROWS)]
    shop.to_csv("shop.csv", index=False)
    with pytest.raises(ValueError, match=says("3 columns")) as refused:
        opened("--label", "price")
    _, *lines = str(refused.value).splitlines()
    for line, values in zip(
        lines, (("'price'", "--problem_type"), ("'fee'", "--decimal"), ("'due'", "--date_format"))
    ):
        assert re.search(says(*values), line)
    assert re.search(says("fee", "number", "--decimal"), capsys.readouterr().out)  # the table comes first


def test_what_is_cut_by_time_is_measured_as_it_was_cut(shop, tmp_path, capsys):
    words = ["--label", "sold", "--split_by_time", "when", "--max_steps", "2", "--floors", "false"]
    call(train.main, "shop.csv", "--output_dir", "run", *words)
    call(evaluate.main, "--model", "run", "--bootstrap_samples", "10", "--split", "test")
    call(predict.main, "run", "shop.csv", "-o", "out.csv")
    assert len(pd.read_csv("out.csv")) == ROWS


@pytest.mark.parametrize(
    ("times", "test"),
    [
        (["2024-03-01", "2023-12-31", "2024-01-15", "2024-02-01", "2024-02-29"], [0]),
        (["01/03/2024", "31/12/2023", "15/01/2024", "01/02/2024", "29/02/2024"], [0]),
        (["03/01/2024", "12/31/2023", "01/15/2024", "02/01/2024", "02/29/2024"], [0]),
        (["1.3.2024", "2.12.2023", "3.1.2024", "1.2.2024", "4.2.2024"], [0]),
        (["5 March 2024", "31 December 2023", "15 January 2024", "01 February 2024", "29 February 2024"], [0]),
        ([3, 1, 2, 5, 4], [3]),
        ([1.5, 1, 2, 5, 5], [3, 4]),  # rows of one time stay together
    ],
)
def test_times_are_read_as_they_are_written(tmp_path, times, test):
    pd.DataFrame({"time": times, "x": range(5), "y": range(5)}).to_csv(tmp_path / "rows.csv", index=False)
    columns = Columns(table=["x"], label="y")
    options = {"validation_fraction": 0, "test_fraction": 0.2}
    splits = load_splits(tmp_path / "rows.csv", columns, time_column="time", **options)
    assert splits["test"]["x"] == test
    assert sorted([*splits["train"]["x"], *test]) == list(range(5))


@pytest.mark.parametrize(
    ("times", "values"),
    [
        (["01/02/2024", "03/04/2024", "05/06/2024"], ("'time'", "'01/02/2024'")),
        (["13/02/2024", "02/13/2024", "05/06/2024"], ("'time'", "'13/02/2024'")),
        (["2024-01-01", "soon", "2024-01-02"], ("'time'", 1, "'soon'")),
        (["2024-01-01", "2024-01-01", "2024-01-01"], ("test", 3, 1)),
    ],
)
def test_times_that_nobody_can_order_are_refused(tmp_path, times, values):
    pd.DataFrame({"time": times, "x": range(3), "y": range(3)}).to_csv(tmp_path / "rows.csv", index=False)
    options = {"validation_fraction": 0, "test_fraction": 0.4}
    with pytest.raises(ValueError, match=says(*values)):
        load_splits(tmp_path / "rows.csv", Columns(table=["x"], label="y"), time_column="time", **options)
