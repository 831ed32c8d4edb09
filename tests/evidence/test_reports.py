"""What answers rest on, in a run's results and card, in the report of `mm_hf evaluate`, and by `mm_hf explain` of the
run's own test rows."""

import json
import random

import pytest
from kill_and_resume import call

from mm_hf.commands import evaluate, explain
from mm_hf.training import train


SMALL = [
    "--fusion_hidden_size",
    32,
    "--fusion_layers",
    1,
    "--max_steps",
    40,
    "--learning_rate",
    0.01,
    "--floors",
    "false",
]
SMALL += ["--report_to", "none", "--preset", "balanced"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A price that follows from two columns of a table, and a series that says nothing; some rows lack it."""
    folder, draw = tmp_path_factory.mktemp("evidence"), random.Random(0)
    with open(folder / "rows.jsonl", "w") as file:
        for number in range(160):
            rooms, old = draw.randint(1, 6), draw.random() < 0.5
            noise = [[draw.gauss(0, 1)] for _ in range(4)] if number % 8 else None
            row = {
                "rooms": rooms,
                "age": "old" if old else "new",
                "noise": noise,
                "price": 50 * rooms - 80 * old + draw.random(),
            }
            file.write(json.dumps(row) + "\n")
    columns = ["--table_columns", "rooms", "age", "--series_column", "noise", "--label", "price"]
    call(train.main, folder / "rows.jsonl", *columns, *SMALL, "--output_dir", folder / "run")
    return folder / "run"


def test_results_and_card(run):
    results = json.loads((run / "results.json").read_text())
    rests_on = results["evidence"]["price"]
    assert (rests_on["absence"], rests_on["unit"], rests_on["background"]) == ("other_rows", "price", 15)
    table, series = (rests_on["modalities"][name] for name in ("tabular", "series"))
    assert table["low"] > series["high"]
    assert series["rows"] < table["rows"] == rests_on["rows"]
    assert sum(rests_on["shares"].values()) == pytest.approx(1)
    card = (run / "README.md").read_text()
    section = card[card.index("## What it rests on") : card.index("## Training")]
    assert "| tabular |" in section
    assert "price" in section


def test_evaluate(run):
    call(evaluate.main, run, "--bootstrap_samples", 20)
    report = json.loads((run / "evaluation/evaluation.json").read_text())
    assert set(report["evidence"]["modalities"]) == {"tabular", "series"}
    assert (run / "evaluation/evidence.png").stat().st_size > 1000
    assert "What the answers rest on" in (run / "evaluation/report.html").read_text()
    call(evaluate.main, run, "--bootstrap_samples", 20, "--evidence", "false")
    assert json.loads((run / "evaluation/evaluation.json").read_text())["evidence"] is None
    assert not (run / "evaluation/evidence.png").exists()


def test_its_own_test_rows_with_their_truth(run):
    call(explain.main, run, "--rows", 6)
    evidence = json.loads((run / "evidence/evidence.json").read_text())
    assert len(evidence["rows"]) == 6
    assert evidence["background"] == 15
    rows = [json.loads(line) for line in (run.parent / "rows.jsonl").read_text().splitlines()]
    for record in evidence["rows"]:
        row, (answer,) = rows[record["row"]], record["answers"]
        assert float(answer["truth"]) == pytest.approx(row["price"], rel=1e-5)
        assert answer["right"] is None  # a number is near or far
        assert answer["explained"] == "price"
        assert set(answer["modalities"]) == ({"tabular", "series"} if row["noise"] else {"tabular"})
        assert answer["modalities"]["tabular"]["with"] == pytest.approx(answer["value"])


def test_a_file_with_a_bad_row(run, tmp_path):
    rows = [{"rooms": 3, "age": "new", "noise": [[1.0]]}, {"rooms": "many", "age": "new", "noise": [[1.0]]}]
    file = tmp_path / "new.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(SystemExit, match=r"row 1 .*'rooms'"):
        call(explain.main, run, file, "-o", tmp_path / "all")
    call(explain.main, run, file, "-o", tmp_path / "some", "--on_error", "skip")
    evidence = json.loads((tmp_path / "some/evidence.json").read_text())
    assert [record["row"] for record in evidence["rows"]] == [0]
    assert any(warning.startswith("1 ") for warning in evidence["warnings"])


def test_runs_of_before_have_none(tmp_path, run):
    """Recipes of earlier defaults keep what their reports cost, unless they ask."""
    words = [
        run.parent / "rows.jsonl",
        "--table_columns",
        "rooms",
        "--series_column",
        "noise",
        "--label_column",
        "price",
    ]
    words += ["--max_steps", 2, "--floors", "false", "--report_to", "none", "--fusion_hidden_size", 16]
    call(train.main, *words, "--defaults_version", 2, "--output_dir", tmp_path / "before")
    assert "evidence" not in json.loads((tmp_path / "before/results.json").read_text())
    assert "evidence" not in json.loads((tmp_path / "before/recipe.json").read_text())
    assert "rests on" not in (tmp_path / "before/README.md").read_text()
