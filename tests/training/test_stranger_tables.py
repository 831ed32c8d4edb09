"""Tables of strangers whose columns are named: trained, resumed, measured and predicted through the scripts."""

import json
import re
import zipfile
from datetime import datetime
from pathlib import Path

import datasets
import pandas as pd
import pytest
import torch
from kill_and_resume import call
from messages import says

import mm_hf
from mm_hf import MMFusionProcessor
from mm_hf.commands import evaluate, predict
from mm_hf.data import Columns, labels_of, load_splits
from mm_hf.data.modalities import reader_of
from mm_hf.models.table_schema import TableSchema
from mm_hf.training import open_run, train


STRANGERS = Path(__file__).parents[1] / "strangers"
UNCUT = {"validation_fraction": 0, "test_fraction": 0}
GERMAN = ("Stadtteil", "Fläche", "Zimmer", "Baujahr", "Balkon", "Inseriert")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def unpacked(name: str, folder: Path) -> Path:
    with zipfile.ZipFile(STRANGERS / f"{name}.zip") as archive:
        archive.extractall(folder / name)
    return folder / name


def start(data, folder, label, *more):
    if "--max_steps" not in more:
        more = (*more, "--max_steps", 2)
    call(
        train.main,
        *("--dataset", data, "--output_dir", folder, "--label_column", label, "--eval_steps", 2),
        *("--fusion_hidden_size", 16, "--fusion_layers", 1, "--floors", "false", "--report_to", "none"),
        *("--per_device_train_batch_size", 16, *more),
    )
    return json.loads((folder / "results.json").read_text())


def measured(run, *more):
    call(evaluate.main, "--bootstrap_samples", 10, "--model", run, *more)
    return json.loads((run / "evaluation/evaluation.json").read_text())


def predicted(run, file, output, separator=","):
    call(predict.main, run, file, "-o", output)
    return pd.read_csv(output, dtype=str, keep_default_na=False, sep=separator)


def test_a_german_file_is_trained_resumed_measured_and_predicted(tmp_path, capsys):
    data = unpacked("german", tmp_path) / "wohnungen.csv"
    run = tmp_path / "run"
    start(data, run, "Kaltmiete", "--table_columns", *GERMAN)
    said = capsys.readouterr().out
    rents = pd.read_csv(data, sep=";", encoding="utf-8-sig", decimal=",", thousands=".", dtype={"Inseriert": str})
    schema = MMFusionProcessor.from_pretrained(run).table_schema
    assert list(schema.numerical) == ["Baujahr", "Fläche", "Zimmer"]
    assert list(schema.categorical) == ["Balkon", "Stadtteil"]
    assert schema.marks == {"Fläche": ",", "Zimmer": ","}
    assert schema.dates["Inseriert"].format == "%d.%m.%Y"
    assert schema.numerical["Fläche"][0] == pytest.approx(rents["Fläche"].mean(), rel=0.1)
    config = json.loads((run / "config.json").read_text())
    assert config["label_mean"][0] == pytest.approx(rents["Kaltmiete"].mean(), rel=0.1)
    listed = pd.to_datetime(rents["Inseriert"], format="%d.%m.%Y")
    assert re.search(says("Inseriert", "%d.%m.%Y", f"{listed.min():%Y}"), said)
    assert re.search(says("Fläche", "','"), said)
    # It goes on, and reads its rows again, as it began.
    before = json.loads((run / "rows.json").read_text())
    start(data, run, "Kaltmiete", "--table_columns", *GERMAN, "--max_steps", 4, "--allow_changes", "true")
    assert "resumed from" in capsys.readouterr().out
    assert json.loads((run / "rows.json").read_text()) == before
    assert measured(run)["rows"]["bad"] == 0
    # One row answers alike however it is written: as in the file, as one with points, alone, and as raw strings.
    lines = data.read_text(encoding="utf-8-sig").splitlines()
    (tmp_path / "few.csv").write_text("\n".join(lines[:4]) + "\n", encoding="utf-8")
    of_file = predicted(run, tmp_path / "few.csv", tmp_path / "few_out.csv", ";")
    plain = [dict(zip(lines[0].split(";"), line.split(";"))) for line in lines[1:4]]
    for row in plain:
        row["Fläche"], row["Zimmer"] = row["Fläche"].replace(",", "."), row["Zimmer"].replace(",", ".")
        row["Inseriert"] = f"{datetime.strptime(row['Inseriert'], '%d.%m.%Y'):%Y-%m-%d}"
    pd.DataFrame(plain).to_csv(tmp_path / "plain.csv", index=False)
    of_plain = predicted(run, tmp_path / "plain.csv", tmp_path / "plain_out.csv")
    assert of_file["prediction"].tolist() == of_plain["prediction"].tolist()
    assert len(set(of_file["prediction"])) == 3
    # As many thousands as in no row of the training part: not 1.234 but 1234.
    values = schema([{"Fläche": "1.234"}, {"Fläche": "1234"}, {"Fläche": "1.234,0"}])["numerical_values"]
    torch.testing.assert_close(values[0], values[1], equal_nan=True)
    torch.testing.assert_close(values[0], values[2], equal_nan=True)
    # Districts that no training row has are counted and said, and more of them in a larger file.
    strange = [line.replace(line.split(";")[1], "Bergedorf") for line in lines[1:4]]
    (tmp_path / "strange.csv").write_text("\n".join([*lines[:38], *strange]) + "\n", encoding="utf-8")
    capsys.readouterr()
    predicted(run, tmp_path / "strange.csv", tmp_path / "strange_out.csv", ";")
    assert re.search(says("Stadtteil", 3, 40, "'Bergedorf'"), capsys.readouterr().out)
    measured(run, "--dataset", tmp_path / "strange.csv", "--split", "train")
    assert re.search(says("Stadtteil", 3, 40, "'Bergedorf'"), capsys.readouterr().out)
    measured(run, "--dataset", data, "--split", "test")
    assert "Stadtteil:" not in capsys.readouterr().out
    # Measured on a file of its own, whose areas could be other numbers if it stood alone.
    few = [line.split(";") for line in lines[1:11]]
    for row in few:
        row[2] = "1.234"
    (tmp_path / "large.csv").write_text("\n".join([lines[0], *(";".join(row) for row in few)]), encoding="utf-8")
    report = measured(run, "--dataset", tmp_path / "large.csv", "--split", "train")
    assert report["rows"] == {"evaluated": 10, "labelled": 10, "bad": 0}


# The cells of a column of numbers and of a label, what the flag says, and the mean that comes out; None: refused.
CELLS = {
    "decimal commas": ([f"{n},5" for n in range(60)], None, 30.0),
    "points for thousands": ([f"{n + 1}.250,75" for n in range(60)], None, 30750.75),
    "commas for thousands": ([f"{n + 1},250.75" for n in range(60)], None, 30750.75),
    "millions tell": ([*(f"{n + 1},250" for n in range(59)), "1,000,000"], None, 46412.5),
    "spaces for thousands": ([f"{n + 1} 250" for n in range(60)], None, 30750.0),
    "nobody knows": ([f"{n + 1},250" for n in range(60)], None, None),
    "the flag knows: decimals": ([f"{n + 1},250" for n in range(60)], ",", 30.75),
    "the flag knows: thousands": ([f"{n + 1},250" for n in range(60)], ".", 30750.0),
    "points that the flag takes for thousands": ([f"{n + 1}.250" for n in range(60)], ",", 30750.0),
    "points as they are": ([f"{n + 1}.250" for n in range(60)], None, 30.75),
    "percent": ([f"{n} %" for n in range(60)], None, 29.5),
    "percent with a comma": ([f"{n},5%" for n in range(60)], None, 30.0),
    "dollars, and the flag knows": ([f"$ {n + 1},250" for n in range(60)], ".", 30750.0),
    "the values say more than the flag": ([f"{n},5" for n in range(60)], ".", 30.0),
}


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_numbers_formatted_for_people(tmp_path, kind, suffix):
    cells, flag, mean = CELLS[kind]
    table = pd.DataFrame({"area": cells, "rent": cells})
    data = tmp_path / f"data.{suffix}"
    if suffix == "csv":
        table.to_csv(data, index=False, sep=";")
    else:
        table.to_json(data, orient="records", lines=True)
    columns = Columns(table=["area"], label="rent")
    if mean is None:
        with pytest.raises(ValueError, match=says("'1,250'", "1.25", 1250, "--decimal", "--problem_type")):
            load_splits(data, columns, as_meant=True)
        with pytest.raises(ValueError, match=says("'area'", "'1,250'", "1.25", 1250, "--decimal")):
            TableSchema.fit({"area": cells})
        return
    splits = load_splits(data, columns, decimal=flag, as_meant=True, **UNCUT)
    assert labels_of(splits, "rent") == (None, "regression")
    assert sum(map(float, splits["train"]["rent"])) / 60 == pytest.approx(mean)
    reader = reader_of("tabular")
    schema = reader.fit(splits, columns, decimal=flag)
    assert schema.numerical["area"][0] == pytest.approx(mean)
    lines = reader.said_of_fit(splits, columns, part=schema)
    assert not schema.marks or len(lines) == 1
    assert all(re.search(says("area", mark[1:] or repr(mark)), lines[0]) for mark in schema.marks.values())
    # A row answers alike whether its cell has the sign or is a number by then.
    of_text, of_number = schema([{"area": cells[0]}, {"area": splits["train"]["rent"][0]}])["numerical_values"]
    assert of_text == pytest.approx(of_number)


def test_labels_of_a_german_file_with_a_word_and_a_gap(tmp_path):
    """The word is a bad row, the gap no label; few numbers are the names of classes, as they were."""
    cells = [*(f"1.{n:03d},50" for n in range(60)), "auf Anfrage", ""]
    pd.DataFrame({"rent": cells, "size": [1] * 62}).to_csv(tmp_path / "a.csv", index=False, sep=";")
    columns = Columns(table=["size"], label="rent")
    splits = load_splits(tmp_path / "a.csv", columns, as_meant=True, **UNCUT)
    assert splits["train"]["rent"][57:] == ["1057.5", "1058.5", "1059.5", "auf Anfrage", None]
    assert labels_of(splits, "rent") == (None, "regression")
    pd.DataFrame({"rent": ["1,5", "2,5"] * 30, "size": [1] * 60}).to_csv(tmp_path / "b.csv", index=False, sep=";")
    for asked, names in ((None, ["1,5", "2,5"]), ("regression", None)):
        splits = load_splits(tmp_path / "b.csv", columns, as_meant=True, problem_type=asked, **UNCUT)
        assert labels_of(splits, "rent", asked)[0] == names
    assert splits["train"]["rent"][:2] == [1.5, 2.5]


def test_a_run_of_before_dates_were_read_goes_on_as_it_began(tmp_path, monkeypatch, capsys):
    data = unpacked("houses", tmp_path) / "houses.csv"
    arguments = (data, tmp_path / "run", "price", "--table_columns", "beds", "listed")
    monkeypatch.setattr(open_run, "cells_of_run", lambda folder: "as written")
    start(*arguments)
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    before = json.loads((tmp_path / "run/rows.json").read_text())
    assert before["cells"] == "as written"
    schema = MMFusionProcessor.from_pretrained(tmp_path / "run").table_schema
    assert (list(schema.categorical), schema.dates) == (["listed"], {})
    start(*arguments, "--max_steps", 4, "--allow_changes", "true")
    assert "resumed from" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/rows.json").read_text()) == before
    assert measured(tmp_path / "run")["rows"]["bad"] == 0
    # Begun anew it reads dates.
    start(*arguments, "--overwrite_output_dir", "true")
    schema = MMFusionProcessor.from_pretrained(tmp_path / "run").table_schema
    assert list(schema.dates) == ["listed"]
    assert json.loads((tmp_path / "run/rows.json").read_text())["cells"] == "as meant"


def test_an_index_without_a_name_is_no_input(tmp_path, capsys):
    data = unpacked("indexed", tmp_path) / "weather.csv"
    run = tmp_path / "run"
    start(data, run, "ozone", "--table_columns", "time", "station", "temperature", "humidity", "wind_direction")
    schema = MMFusionProcessor.from_pretrained(run).table_schema
    assert schema.columns == ["humidity", "temperature", "time", "station", "wind_direction"]
    assert (schema.dates["time"].format, schema.dates["time"].hours) == ("ISO 8601", True)
    assert re.search(says("time", "2025-06-01", "2025-06-06"), capsys.readouterr().out)
    # It stays beside the predictions, and a file may lack it.
    of_file = predicted(run, data, tmp_path / "out.csv")
    assert of_file.iloc[:, 0].tolist() == [str(row) for row in range(140)]
    pd.read_csv(data, index_col=0).to_csv(tmp_path / "bare.csv", index=False)
    assert predicted(run, tmp_path / "bare.csv", tmp_path / "bare_out.csv")["prediction"].tolist() == (
        of_file["prediction"].tolist()
    )
    # Who wants it says so by the name that pandas gives it; a column that is not there is named beside it.
    assert load_splits(data, Columns(table=["Unnamed: 0"], label="ozone"), **UNCUT)["train"]["Unnamed: 0"][:2] == [
        0,
        1,
    ]
    with pytest.raises(ValueError, match=says("stations", "station")):
        load_splits(data, Columns(table=["stations"], label="ozone"))


def test_a_competition_whose_test_part_has_no_labels(tmp_path, capsys):
    """`sample_submission.csv` is no part, and the test part is predicted, not measured."""
    data, run = unpacked("competition", tmp_path), tmp_path / "run"
    start(data, run, "disease", "--table_columns", "plot", "rainfall_mm", "soil")
    assert json.loads((run / "rows.json").read_text())["rows"] == {"train": 64, "validation": 8, "test": 8}
    assert measured(run)["rows"]["evaluated"] == 8
    answers = predicted(run, data / "test.csv", tmp_path / "answers.csv")
    assert (len(answers), set(answers["prediction"]) <= {"rust", "healthy"}) == (20, True)
    assert "disease" not in answers.columns


def test_sensors_of_other_channels_and_rates(tmp_path):
    """Three channels in one place, one in the other, and the day it began."""
    data, run = unpacked("sensors", tmp_path) / "sensors.jsonl", tmp_path / "run"
    series = ("--series_column", "vibration", "temperature")
    start(data, run, "state", *series, "--table_columns", "machine", "started", "load")
    processor = MMFusionProcessor.from_pretrained(run)
    assert processor.series_scaler.widths == [3, 1]
    assert json.loads((run / "config.json").read_text())["series_config"]["input_size"] == 4
    assert (processor.table_schema.dates["started"].format, processor.table_schema.dates["started"].hours) == (
        "ISO 8601",
        True,
    )
    assert measured(run)["rows"]["bad"] == 0
    call(predict.main, run, data, "-o", tmp_path / "out.jsonl")
    answers = [json.loads(line)["prediction"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(answers) == 90
    # A pipeline takes the series in their places, as raw lists.
    row = json.loads(data.read_text().splitlines()[1])
    given = {
        "series": [row["vibration"], row["temperature"]],
        "table": {n: row[n] for n in ("machine", "started", "load")},
    }
    assert mm_hf.pipeline(model=run)(given, top_k=1)[0]["label"] == answers[1]
