"""Files of strangers, whose columns nobody names: what they are taken for, trained on and predicted by one command.

`expected.yaml` was written before the code. pytest -m slow trains on all of them; one is always trained on.
"""

import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pandas as pd
import pytest
import yaml
from datasets import Dataset, load_dataset
from messages import says

import mm_hf


FOLDER = Path(__file__).parent
EXPECTED = yaml.safe_load((FOLDER / "expected.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def strangers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("strangers")
    for name in EXPECTED:
        with ZipFile(FOLDER / f"{name}.zip") as archive:
            archive.extractall(folder / name)
    return folder


def data_of(strangers: Path, name: str) -> Path:
    return strangers / name / EXPECTED[name]["file"]


def test_columns_are_what_people_take_them_for(strangers, capsys):
    misses, columns = [], 0
    for name, expected in EXPECTED.items():
        seen = mm_hf.understand(data_of(strangers, name), label=expected["label"])
        assert set(seen.roles) == set(expected["columns"]), name
        why = {line.name: line.why for line in seen.lines}
        for column, role in expected["columns"].items():
            columns += 1
            if seen.roles[column] not in ([role] if isinstance(role, str) else role):
                misses.append(f"{name:12} {column:22} {role!s:12} taken for {seen.roles[column]}: {why[column]}")
    print("\n".join(misses))
    assert columns == 90
    assert len(misses) <= 0.05 * columns, "\n".join(misses)


@pytest.mark.parametrize("name", ["houses", "german", "sensors", "nested", "parquet", "pets"])
def test_without_a_label_it_is_among_the_candidates(strangers, name):
    seen = mm_hf.understand(data_of(strangers, name))
    assert EXPECTED[name]["label"] in seen.candidates()
    assert seen.columns.label is None


def test_the_answer_says_what_and_why(strangers):
    seen = mm_hf.understand(data_of(strangers, "pets"), label="adopted")
    assert seen.columns.images == ["photo_front", "photo_side"]
    assert seen.columns.table == ["name", "breed", "age_months", "vaccinated"]
    assert Path(seen.data_root).name == "photos"
    table = seen.table()
    assert re.search(says("photo_side", "image", "33 of 33", "photos", "--image_column"), table)
    assert re.search(says("pet_id", "id"), table)
    assert re.search(says("Understanding", "2 image", "adopted", "story"), repr(seen))


@pytest.mark.parametrize("form", ["path", "dataset", "frame", "index"])
def test_rows_are_understood_in_every_form(strangers, form):
    path = data_of(strangers, "indexed")
    frame = pd.read_csv(path, index_col=0)
    given = {"path": str(path), "dataset": Dataset.from_pandas(frame.reset_index(drop=True)), "frame": frame}
    given["index"] = frame.set_index("time")
    seen = mm_hf.understand(given[form], label="ozone")
    assert {column: seen.roles[column] for column in ("time", "station", "humidity", "sensor_version", "empty")} == {
        "time": "date",
        "station": "category",
        "humidity": "number",
        "sensor_version": "constant",
        "empty": "empty",
    }


def test_what_somebody_says_counts_more_than_what_is_seen(strangers):
    named = {"age_months": "text", "story": "table"}
    seen = mm_hf.understand(data_of(strangers, "pets"), label="adopted", named=named, ignore=["breed"])
    assert seen.columns.text == "age_months"
    assert "story" in seen.columns.table
    assert seen.roles["breed"] == "ignored"
    with pytest.raises(ValueError, match=says("'storry'", "story")):
        mm_hf.understand(data_of(strangers, "pets"), label="adopted", named={"storry": "text"})


def test_types_of_datasets_are_what_they_say(strangers):
    folder = load_dataset("imagefolder", data_dir=str(strangers / "pets/photos"), split="train")
    small = folder.select(range(8)).add_column("number", list(range(8)))
    seen = mm_hf.understand(small, label="number")
    assert seen.roles == {"image": "image"}


def column(values, name="column") -> str:
    frame = pd.DataFrame({name: values, "label": [0, 1] * (len(values) // 2)})
    return mm_hf.understand(Dataset.from_pandas(frame), label="label").roles[name]


@pytest.mark.parametrize(
    ("name", "values", "role"),
    [
        ("plz", [10115, 20095, 50667, 80331] * 10, "category"),
        ("area", [10115, 20095, 50667, 80331] * 10, "category"),  # one length, not round, repeated
        ("income", [10000, 20000, 50500, 80300] * 10, "number"),
        ("year", [1990 + place % 30 for place in range(40)], "number"),
        ("year", list(range(1990, 2030)), "number"),
        ("row", list(range(7, 47)), "id"),
        ("customer_id", [7 * place * place % 9973 for place in range(40)], "id"),
        ("mail", [f"a{place}@b.org" for place in range(40)], "id"),
        ("user", [place % 19 + 1 for place in range(40)], "category"),
        ("code_points", [place % 3 for place in range(40)], "number"),
        ("house", [place * 37 % 101 + 1 for place in range(80)], "id"),  # shuffled, and some are in other parts
        ("area", [place * 37 % 101 * 9 for place in range(80)], "number"),
        ("age", [place * 7 % 31 for place in range(20)], "number"),
        ("turnover", [f"1 {100 + place * 7},50" for place in range(40)], "number"),
        ("spent", [f"${place * 31}.29" for place in range(40)], "number"),
        ("share", [f"{place} %" for place in range(40)], "number"),
        ("spent", [f"{'$€'[place % 2]}{place * 31}.29" for place in range(40)], "unreadable"),  # said, and no texts
        ("weight", [f"{place}.5 kg" for place in range(40)], "unreadable"),
        ("machine", [f"M{place % 12}" for place in range(40)], "category"),
        ("day", [f"{place % 28 + 1:02d}.02.{place % 3 + 22}" for place in range(40)], "date"),
        ("mostly", [f"{place}.5" if place % 8 else "unknown" for place in range(40)], "category"),  # as a table has it
        ("flag", [True, False] * 20, "category"),
        ("when", list(pd.date_range("2024-01-01", periods=40)), "date"),
        ("when", [f"{place % 28 + 1} March 2024" for place in range(40)], "date"),
        ("title", [f"問題は{chr(0x4E00 + place)}何ですかそれは" for place in range(40)], "text"),
        ("name", [f"Name{chr(97 + place % 26)}{chr(97 + place // 26)}" for place in range(40)], "text"),
        ("opinion", ["strongly agree", "agree", "neither agree nor disagree", "disagree"] * 10, "category"),
        ("tags", [["a", "b"], ["c"]] * 20, "unreadable"),
        ("photo", [f"{place}.jpg" for place in range(40)], "unreadable"),  # there is no such file
        ("vector", [[float(place), 1.0] for place in range(40)], "series"),
    ],
)
def test_single_columns(name, values, role):
    assert column(values, name) == role


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"y": [0, 1] * 10}, index=pd.RangeIndex(100, 140, 2, name="house")),
        pd.DataFrame({"Unnamed: 0": [place * 37 % 101 for place in range(20)], "y": [0, 1] * 10}),
        pd.DataFrame({"__index_level_0__": [3, 9, 4, 7], "y": [0, 1, 0, 1]}),
        pd.DataFrame({"house": range(500, 800, 5), "y": [0, 1] * 30}),
    ],
    ids=["range", "unnamed", "parquet", "evenly"],
)
def test_an_index_is_an_id(frame):
    (line,) = mm_hf.understand(frame, label="y").lines
    assert line.role == "id"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1951 + place * 3 % 60 for place in range(80)], "numbers from 1951 to 2008"),
        ([12000 + place * 71 % 997 * 9 for place in range(80)], "numbers from 12,000 to 20,946"),
        ([f"{place}.5%" for place in range(40)], "numbers from 0.5 to 39.5, in %"),
        (
            [f"{place + 1},250" for place in range(40)],
            "numbers such as '1,250'; --decimal must say what begins the decimals",
        ),
    ],
)
def test_numbers_are_said_as_people_write_them(values, said):
    (line,) = mm_hf.understand(pd.DataFrame({"column": values})).lines
    assert line.why == said


def test_many_whole_numbers_are_amounts_and_few_are_classes(tmp_path):
    rows = 200
    frame = pd.DataFrame(
        {"votes": [place % 80 for place in range(rows)], "stars": [place % 5 for place in range(rows)]}
    )
    frame["text"] = [f"a text of row {place}" for place in range(rows)]
    votes, stars = (mm_hf.understand(frame, label=label) for label in ("votes", "stars"))
    assert votes.numbers == ["votes"]
    assert re.search(says("votes", "80", "--problem_type single_label_classification"), votes.table())
    assert stars.numbers == []
    assert re.search(says("stars", "5", "--problem_type regression"), stars.table())


FROM_OUTSIDE = """
import pandas as pd
import mm_hf
from mm_hf.data.imported import import_files
from mm_hf.data.looks import Evidence
from mm_hf.data.modalities import reader_of

import_files(["examples/custom_modality.py"])

def looks(self, sample):
    return Evidence("degrees", "place", "it says so", 0.9) if sample.name in ("lat", "lon") else None

type(reader_of("place")).looks = looks
frame = pd.DataFrame({"lat": [1.5, 2.5, 3.0], "lon": [4.0, 5.0, 6.5], "size": [1.0, 7.5, 3.0], "y": list("aba")})
seen = mm_hf.understand(frame, label="y")
assert seen.roles == {"lat": "degrees", "lon": "degrees", "size": "number"}
assert seen.keys() == {"columns": {"place": ["lat", "lon"]}, "table_columns": ["size"]}
assert seen.columns.extra == {"place": ["lat", "lon"]}
assert "--columns" in seen.table()
"""


def test_a_modality_from_outside_takes_part():
    done = subprocess.run(
        [sys.executable, "-c", FROM_OUTSIDE], cwd=FOLDER.parent.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# By one command


def run(verb: str, *words: object, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mm_hf", verb, *map(str, words)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def one_command(strangers, encoders, tmp_path, monkeypatch):
    """Trains two steps on a file, and predicts it: the output of both, and the folder of the run."""
    file = tmp_path / "encoders.yaml"
    named = {"vision": "mobilenet-v2", "text": "minilm-l6", "audio": "whisper-tiny-en"}
    file.write_text("".join(f"{name}: {encoders / encoder}\n" for name, encoder in named.items()))
    monkeypatch.setenv("MM_HF_ENCODERS", str(file))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent.parent))
    budget = ("--max_steps", 2, "--freeze_encoders", "true", "--floors", "false", "--output_dir", tmp_path / "run")

    def train(name: str, *flags: object) -> str:
        data = EXPECTED[name]["file"]
        words = (data, "--label", EXPECTED[name]["label"], *budget, *flags)
        return run("train", *words, folder=strangers / name)

    return train


def rows_to_predict(strangers: Path, name: str) -> str:
    return "test.csv" if (strangers / name / "test.csv").exists() else EXPECTED[name]["file"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_one_command_trains_and_one_predicts(one_command, strangers, tmp_path, name):
    said = one_command(name)
    for column in EXPECTED[name]["columns"]:
        assert column in said
    out = tmp_path / "out.csv"
    run("predict", tmp_path / "run", rows_to_predict(strangers, name), "-o", out, folder=strangers / name)
    rows = len(pd.read_csv(out))
    assert rows == {"competition": 20}.get(name, rows)
    assert rows >= 20
    if name == "indexed":
        assert "complete" in one_command(name)  # the same command again: it is the same run
