"""CSV files as people have them: cells as they are written, parts that differ, odd encodings, separators and headers.
Every row of a table here says what has to come out."""

import json
import re

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image

from mm_hf.data import Columns, labels_of, load_splits, normalise_labels
from mm_hf.data.csv_files import Cells, read_csv


UNCUT = {"validation_fraction": 0, "test_fraction": 0}
COLUMNS = Columns(text="text", label="label")
SINGLE, NUMBERS = "single_label_classification", "regression"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def repeated(*values, times=10):
    return [*values] * times


def written(path, labels):
    lines = [f'text {number},"{label}"' for number, label in enumerate(labels)]
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    return path


# What the cells of a label column are, the type that they get, and what they mean.
LABEL_CELLS = {
    "whole numbers": (repeated("3", "10"), "int64", (["3", "10"], SINGLE)),
    "whole numbers with gaps": (repeated("3", "", "10"), "float64", (["3", "10"], SINGLE)),
    "zeros in front": (repeated("00501", "02134"), "string", (["00501", "02134"], SINGLE)),
    "a number with and without": (repeated("01", "1", "10"), "string", (["01", "1", "10"], SINGLE)),
    "many codes": ([f"{n:05d}" for n in range(300)], "string", ([f"{n:05d}" for n in range(300)], SINGLE)),
    "two spellings": (repeated("1.0", "1"), "string", (["1", "1.0"], SINGLE)),
    "exponents": (repeated("1e3", "1000"), "string", (["1000", "1e3"], SINGLE)),
    "signs": (repeated("-0", "0"), "string", (["-0", "0"], SINGLE)),
    "floats that are whole": (repeated("1.0", "2.0"), "float64", (["1", "2"], SINGLE)),
    "two spellings among many": ([*map(str, range(300)), "7.0"], "float64", (None, NUMBERS)),
    "ids beyond floats": (
        repeated("9007199254740993", "9007199254740992", ""),
        "string",
        (["9007199254740992", "9007199254740993"], SINGLE),
    ),
    "ids beyond 64 bits": (
        repeated("1", "92233720368547758080"),
        "string",
        (["1", "92233720368547758080"], SINGLE),
    ),
    "many numbers beyond floats": ([*(str(10**17 + n * 10**6) for n in range(30)), ""], "float64", (None, NUMBERS)),
    "truth values": (repeated("True", "false"), "bool", (["no", "yes"], SINGLE)),
    "truth values with gaps": (repeated("TRUE", "", "false"), "bool", (["no", "yes"], SINGLE)),
    "a truth value and a word": (repeated("True", "maybe"), "string", (["True", "maybe"], SINGLE)),
    "numbers": ([f"{n}.5" for n in range(30)], "float64", (None, NUMBERS)),
    "numbers and one word": ([*(f"{n}.5" for n in range(30)), "unknown"], "string", (None, NUMBERS)),
    "whole numbers and one word": ([*map(str, range(300)), "unknown"], "string", (None, NUMBERS)),
    "classes that are numbers, and a word": (repeated("1", "2", "other"), "string", (["1", "2", "other"], SINGLE)),
    "a late word": ([*repeated("1", "2", times=6000), "none"], "string", (["1", "2", "none"], SINGLE)),
    "an infinite one among classes": ([*repeated("1", "2"), "inf"], "float64", (["1", "2"], SINGLE)),
    "percents": (repeated("10 %", "20 %"), "string", (["10 %", "20 %"], SINGLE)),
    "names that look like gaps": (repeated("NA", "None", "null", ""), "string", (["NA", "None", "null"], SINGLE)),
    "underscores": (repeated("1_000", "2_000"), "string", (["1_000", "2_000"], SINGLE)),
    "spaces around numbers": (repeated(" 3", "4 "), "int64", (["3", "4"], SINGLE)),
}


@pytest.mark.parametrize("kind", LABEL_CELLS)
def test_cells_of_labels(tmp_path, kind):
    labels, dtype, meaning = LABEL_CELLS[kind]
    splits = load_splits(written(tmp_path / "all.csv", labels), COLUMNS, **UNCUT)
    assert splits["train"].features == Features({"text": Value("string"), "label": Value(dtype)})
    assert labels_of(splits, "label") == meaning
    if meaning[0] is not None and "inf" not in labels:  # every row has one of the names, or none
        named = normalise_labels(splits, {"label": meaning[0]})["train"]["label"]
        assert set(named) - {None} == set(meaning[0])
        assert [name is None for name in named] == [label == "" for label in labels]


@pytest.mark.parametrize(
    ("cells", "example"),
    [
        ([f"{n + 1},{n:03d}" for n in range(30)], "1,000"),
        ([f"{n},5" for n in range(30)], "0,5"),
        ([f"{n} %" for n in range(30)], "0 %"),
        ([f"${n}" for n in range(30)], "$0"),
        ([f"{n}.5" for n in range(10)] + [f"{n} €" for n in range(10)], "0 €"),
    ],
)
def test_numbers_formatted_for_people_are_refused(tmp_path, cells, example):
    splits = load_splits(written(tmp_path / "all.csv", cells), COLUMNS, **UNCUT)
    with pytest.raises(ValueError, match=rf"'label' .*{re.escape(repr(example))}.* 1234\.5.*single_label"):
        labels_of(splits, "label")
    names = sorted(set(cells))
    assert labels_of(splits, "label", SINGLE) == (names, SINGLE)
    # A single one is a bad row, which the collator names.
    splits = load_splits(written(tmp_path / "one.csv", [*(f"{n}.25" for n in range(30)), "1,234"]), COLUMNS, **UNCUT)
    assert labels_of(splits, "label") == (None, NUMBERS)


def test_many_words_among_numbers_are_told(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("mm_hf.data.problem_types.logger.warning", said.append)
    cells = [*map(str, range(300)), *["n/a"] * 40]
    splits = load_splits(written(tmp_path / "all.csv", cells), COLUMNS, **UNCUT)
    assert labels_of(splits, "label") == (sorted(set(cells)), SINGLE)
    assert [all(part in message for part in ("300 of 340", "'n/a'", "regression")) for message in said] == [True]
    assert labels_of(splits, "label", NUMBERS) == (None, NUMBERS)
    splits = load_splits(written(tmp_path / "padded.csv", [f"{n:04d}" for n in range(300)]), COLUMNS, **UNCUT)
    assert labels_of(splits, "label", NUMBERS) == (None, NUMBERS)
    splits = load_splits(written(tmp_path / "words.csv", ["a", "b", "1"] * 5), COLUMNS, **UNCUT)
    with pytest.raises(ValueError, match=r"'label'.*regression.*string"):
        labels_of(splits, "label", NUMBERS)
    assert len(said) == 1


def test_a_word_in_another_part_makes_no_classes_of_numbers(tmp_path):
    (tmp_path / "set").mkdir()
    for part, labels in (("train", range(300)), ("val", range(300)), ("test", [5, "unknown", *range(30)])):
        written(tmp_path / f"set/{part}.csv", labels)
    splits = load_splits(tmp_path / "set", COLUMNS)
    assert {split.features["label"].dtype for split in splits.values()} == {"string"}
    assert labels_of(splits, "label") == (None, NUMBERS)


ROLES = {
    "text": (Columns(text="c"), ["1984", "007", "1.50", "1e3", "True"]),
    "image": (Columns(image="c"), ["1", "02"]),
    "kind": (Columns(text="text", kind="c"), ["007", "7"]),
    "image_id": (Columns(image="text", image_id="c"), ["01", "1"]),
    "table": (Columns(table=["c"]), ["00501", "501"]),
}


@pytest.mark.parametrize("role", ROLES)
def test_cells_that_stay_as_they_are_written(tmp_path, role):
    columns, cells = ROLES[role]
    lines = [f"{number},{cell}" for number, cell in enumerate(cells)]
    (tmp_path / "all.csv").write_text("\n".join(["text,c", *lines]))
    for name in ("0", "1", "02"):
        (tmp_path / name).touch()
    split = load_splits(tmp_path / "all.csv", columns, **UNCUT)["train"]
    found = [cell["path"] if isinstance(cell, dict) else cell for cell in split["c"]]
    assert found == cells


def test_a_weight_is_a_number_and_a_caption_a_text(tmp_path):
    (tmp_path / "all.csv").write_text("label,w\n7,1\n007,2.5\n")
    split = load_splits(tmp_path / "all.csv", Columns(label="label", weight="w"), **UNCUT)["train"]
    assert split["w"][:] == [1, 2.5]
    (tmp_path / "two.csv").write_text("label,w\n7,1\n8,2.5\n")
    split = load_splits(tmp_path / "two.csv", Columns(label="label"), as_text=["label"], **UNCUT)["train"]
    assert split["label"][:] == ["7", "8"]
    (tmp_path / "three.csv").write_text("label,w\n7,one\n8,two\n")
    with pytest.raises(ValueError, match=r"'w'.*weight_column.*string"):
        load_splits(tmp_path / "three.csv", Columns(label="label", weight="w"), **UNCUT)


def test_as_before(tmp_path):
    """A run that began when cells lost their zeros goes on with what it began with."""
    path = written(tmp_path / "all.csv", repeated("01", "1"))
    splits = load_splits(path, COLUMNS, as_written=False, **UNCUT)
    assert labels_of(splits, "label") == (["1"], SINGLE)


PLAIN = "text,label\n a,1\nb,0\n"
FILES = {
    "plain": (PLAIN.encode(), [" a", "b"]),
    "byte order mark": (PLAIN.encode("utf-8-sig"), [" a", "b"]),
    "byte order mark before a quote": ('"text",label\na,1\nb,0\n'.encode("utf-8-sig"), ["a", "b"]),
    "utf-16": (PLAIN.encode("utf-16"), [" a", "b"]),
    "other alphabets": ("text,label\nчто,1\n何,0\n".encode(), ["что", "何"]),
    "semicolons": (b"text;label\na,x;1\nb;0\n", ["a,x", "b"]),
    "tabs": (b"text\tlabel\na\t1\nb\t0\n", ["a", "b"]),
    "bars": (b"text|label\na|1\nb|0\n", ["a", "b"]),
    "spaces in the header": (b" text , label \na,1\nb,0\n", ["a", "b"]),
    "spaces after commas": (b'text, label\n"a, x", 1\nb, 0\n', ["a, x", "b"]),
    "quoted line breaks": (b'text,label\n"a\nx",1\n"b",0\n', ["a\nx", "b"]),
    "quotes in quotes": (b'text,label\n"a ""x""",1\nb,0\n', ['a "x"', "b"]),
    "windows' line ends": (b"text,label\r\na,1\r\nb,0\r\n", ["a", "b"]),
    "empty lines": (b"\n\ntext,label\n\na,1\n\n\nb,0\n\n", ["a", "b"]),
    "no line end at the end": (b"text,label\na,1\nb,0", ["a", "b"]),
    "lines that end with a comma": (b"text,label\na,1,\nb,0,\n", ["a", "b"]),
    "names of rows, as R writes them": (b'"text","label"\n"1","a",1\n"2","b",0\n', ["a", "b"]),
    "columns that nobody needs": (b"x,text,y,label\n1,a,,1\nx,b,,0\n", ["a", "b"]),
    "a long text": (b"text,label\n" + b"x" * 200_000 + b",1\nb,0\n", ["x" * 200_000, "b"]),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", FILES)
def test_ways_to_write_a_file(tmp_path, kind, streaming):
    content, texts = FILES[kind]
    (tmp_path / "all.csv").write_bytes(content)
    split = load_splits(tmp_path / "all.csv", COLUMNS, streaming=streaming, **UNCUT)["train"]
    assert list(split) == [{"text": text, "label": label} for text, label in zip(texts, [1, 0])]


def test_a_single_column(tmp_path):
    (tmp_path / "all.csv").write_text("text\na; b\nc\n")
    split = load_splits(tmp_path / "all.csv", Columns(text="text"), **UNCUT)["train"]
    assert split["text"][:] == ["a; b", "c"]


REFUSED = {
    "cp1252": ("text,label\nété,1\n".encode("cp1252"), r"all\.csv .*UTF-8.*0xe9.*iconv -f cp1252"),
    "a column twice": (b"text,label,label\na,1,2\n", r"all\.csv .*'label'.*\['text', 'label', 'label'\]"),
    "an unused column twice": (b"text,label,x,x\na,1,2,3\n", r"all\.csv .*'x'.*\['text', 'label', 'x', 'x'\]"),
    "a long line": (b"text,label\na,1\nb,x,1\n", r"all\.csv .*line 3\b"),
    "a long line first": (b"text,label\na,x,1\nb,1\n", r"all\.csv .*lengths.*\['text', 'label'\]"),
    "an open quote": (b'text,label\n"a,1\nb,0\n', r"all\.csv .*string"),
    "a header alone": (b"text,label\n", r"all\.csv .*rows"),
    "blank lines alone": (b"\n\n", r"all\.csv .*rows"),
    "another column": (b"text,Label\na,1\n", r"'label' .given as label_column.*all\.csv.*\['text', 'Label'\]"),
    "a line of comments": (b"# by me\ntext,label\na,1\n", r"'text' .given as text_column.*\['# by me'\]"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", REFUSED)
def test_files_that_are_refused(tmp_path, kind, streaming):
    content, message = REFUSED[kind]
    (tmp_path / "all.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_splits(tmp_path / "all.csv", COLUMNS, streaming=streaming, **UNCUT)
    assert "\n" not in str(error.value)


# Parts in files of their own: train, test, and what comes of the first row of each.
TRAIN = [{"text": f"film {n}", "label": n % 2} for n in range(20)]
PARTS = {
    "classes of train have a word": (
        [*TRAIN, {"text": "x", "label": "other"}],
        [{"text": "y", "label": 1}],
        [("film 0", "0"), ("y", "1")],
    ),
    "classes of test have a word": (TRAIN, [{"text": "y", "label": "other"}], [("film 0", "0"), ("y", "other")]),
    "titles of test are numbers": (TRAIN, [{"text": 1984, "label": 1}], [("film 0", 0), ("1984", 1)]),
    "titles of train are numbers": (
        [{**row, "text": n} for n, row in enumerate(TRAIN)],
        [{"text": "y", "label": 1}],
        [("0", 0), ("y", 1)],
    ),
    "test has gaps": (
        TRAIN,
        [{"text": "y", "label": 1.0}, {"text": "z", "label": None}],
        [("film 0", 0), ("y", 1)],
    ),
    "test has fractions": (TRAIN, [{"text": "y", "label": 0.5}], [("film 0", 0), ("y", 0.5)]),
    "test has no text": (TRAIN, [{"text": None, "label": 1}], [("film 0", 0), (None, 1)]),
    "test has no label": (TRAIN, [{"text": "y"}], [("film 0", 0), ("y", None)]),
    "labels of test are empty": (TRAIN, [{"text": "y", "label": None}], [("film 0", 0), ("y", None)]),
    "a column of train alone": (
        [{**row, "id": "x"} for row in TRAIN],
        [{"text": "y", "label": 1}],
        [("film 0", 0), ("y", 1)],
    ),
    "a column that means two things": (
        [{**row, "id": n} for n, row in enumerate(TRAIN)],
        [{"text": "y", "label": 1, "id": "word"}],
        [("film 0", 0), ("y", 1)],
    ),
    "the columns in another order": (TRAIN, [{"label": 1, "text": "y"}], [("film 0", 0), ("y", 1)]),
}


def write(path, rows):
    if path.suffix == ".csv":
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [["" if row.get(name) is None else str(row[name]) for name in names] for row in rows]
        path.write_text("\n".join(",".join(line) for line in [names, *cells]) + "\n")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        labels = [row.get("label") for row in rows]
        if len({type(label) for label in labels} - {type(None)}) > 1:
            rows = [{**row, "label": str(row["label"])} for row in rows]
        Dataset.from_list(rows).to_parquet(path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("kind", PARTS)
def test_parts_that_differ(tmp_path, kind, suffix):
    train, test, expected = PARTS[kind]
    (tmp_path / "set").mkdir()
    write(tmp_path / f"set/train{suffix}", train)
    write(tmp_path / f"set/test{suffix}", test)
    splits = load_splits(tmp_path / "set", COLUMNS, **UNCUT)
    assert splits["train"].features == splits["test"].features
    assert [(split[0]["text"], split[0]["label"]) for split in splits.values()] == expected
    assert {name: len(split) for name, split in splits.items()} == {"train": len(train), "test": len(test)}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_of_one_part_that_differ(tmp_path, suffix):
    (tmp_path / "set").mkdir()
    write(tmp_path / f"set/train-0{suffix}", TRAIN)
    write(tmp_path / f"set/train-1{suffix}", [{"label": "other", "more": 1, "text": 300}])
    split = load_splits(tmp_path / "set", COLUMNS, **UNCUT)["train"]
    assert len(split) == 21
    assert (split[0], split[20]) == ({"text": "film 0", "label": "0"}, {"text": "300", "label": "other"})
    write(tmp_path / f"set/train-1{suffix}", [{"label": "other", "more": 1}])
    with pytest.raises(ValueError, match=rf"train-1\{suffix}.*'text'"):
        load_splits(tmp_path / "set", COLUMNS, **UNCUT)


def test_types_that_do_not_go_together_are_named(tmp_path):
    (tmp_path / "set").mkdir()
    write(tmp_path / "set/train.jsonl", [{"text": "a", "label": ["x"]}] * 3)
    write(tmp_path / "set/test.jsonl", [{"text": "a", "label": 0.5}] * 3)
    with pytest.raises(ValueError, match=r"'label'.*float64.*test\.jsonl.*List.*train\.jsonl"):
        load_splits(tmp_path / "set", COLUMNS, **UNCUT)


def test_a_word_among_numbers_in_json(tmp_path):
    lines = [{"text": "a", "label": 1}, {"text": "b", "label": "x"}, {"text": 7, "label": True}] * 3
    write(tmp_path / "all.jsonl", lines)
    split = load_splits(tmp_path / "all.jsonl", COLUMNS, **UNCUT)["train"]
    assert [tuple(row.values()) for row in split][:3] == [("a", "1"), ("b", "x"), ("7", "yes")]
    write(tmp_path / "list.jsonl", [*lines, {"text": "c", "label": [1]}])
    with pytest.raises(ValueError, match=r"Row 9 .*'train'.*'label'.*\[1\]"):
        load_splits(tmp_path / "list.jsonl", COLUMNS, **UNCUT)


def test_a_late_word_in_json(tmp_path):
    """Types of JSON are guessed by its first ten megabytes."""
    rows = [{"text": "x" * 100_000, "label": n % 3} for n in range(120)] + [{"text": "b", "label": "word"}]
    write(tmp_path / "all.jsonl", rows)
    split = load_splits(tmp_path / "all.jsonl", COLUMNS, **UNCUT)["train"]
    assert (split[0]["label"], split[120]["label"], len(split)) == ("0", "word", 121)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_test_part_without_labels(tmp_path, suffix):
    """It is kept for those who only want answers, and cut from train where it is to be measured."""
    (tmp_path / "set").mkdir()
    write(tmp_path / f"set/train{suffix}", [{**row, "w": 0.5} for row in TRAIN])
    write(tmp_path / f"set/test{suffix}", [{"text": f"new {n}"} for n in range(7)])
    columns = Columns(text="text", label="label", weight="w")
    splits = load_splits(tmp_path / "set", columns)
    assert list(splits["test"])[:1] == [{"text": "new 0", "label": None, "w": 1.0}]
    assert {name: len(split) for name, split in splits.items()} == {"train": 18, "validation": 2, "test": 7}
    splits = load_splits(tmp_path / "set", columns, measured=True)
    assert {name: len(split) for name, split in splits.items()} == {"train": 16, "validation": 2, "test": 2}
    assert all(row["text"].startswith("film") for row in splits["test"])
    # As the test parts of the Hub have it: -1 is no class.
    types = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    parts = {"train": [0, 1] * 10, "test": [-1] * 5}
    DatasetDict(
        {name: Dataset.from_dict({"text": ["a"] * len(v), "label": v}, features=types) for name, v in parts.items()}
    ).save_to_disk(tmp_path / "saved")
    splits = load_splits(tmp_path / "saved", COLUMNS, measured=True)
    assert {name: len(split) for name, split in splits.items()} == {"train": 16, "validation": 2, "test": 2}


def test_many_cells_at_once_are_seen_as_one_by_one(tmp_path):
    """A block of many numbers takes a short way; what it finds must be the same."""
    import pandas as pd

    columns = [
        [str(n) for n in range(1, 3000)],
        [f"{n}.{n % 9 + 1}" for n in range(3000)],
        [*(str(n) for n in range(1, 3000)), "007", "word", "1e3", "True", "9007199254740993", "-5"],
        [f"{n}.0" for n in range(3000)],
    ]
    for column in columns:
        fast, slow = Cells(), Cells()
        fast.add(pd.Series(column, dtype=str))
        for start in range(0, len(column), 100):
            slow.add(pd.Series(column[start : start + 100], dtype=str))
        for name in (
            "numbers",
            "words",
            "truths",
            "gaps",
            "fractions",
            "uneven",
            "codes",
            "large",
            "huge",
            "two_ways",
        ):
            assert getattr(fast, name) == getattr(slow, name), name
        for part in ("label", "table", "kind"):
            assert fast.dtype(part) == slow.dtype(part)


def test_files_that_are_written_in_other_ways(tmp_path):
    """One part from a file with commas and one with semicolons."""
    (tmp_path / "a.csv").write_text("text,label\na,1\n")
    (tmp_path / "b.csv").write_text("label;text\n0;b\n")
    paths = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    splits, known = read_csv({"train": paths}, COLUMNS.named())
    assert list(splits["train"]) == [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    assert known == {"train": ["text", "label"]}
    with pytest.raises(ValueError, match=r"b\.csv"):
        read_csv({"train": paths}, COLUMNS.named(), streaming=True)


@pytest.mark.parametrize("streaming", [False, True])
def test_metadata_of_pictures(tmp_path, streaming):
    """The table of a folder of pictures is a CSV as well."""
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        lines = [f"{n}.png,{['01', '1', '007'][n % 3] if part == 'train' else n % 2},{n}" for n in range(6)]
        for n in range(6):
            Image.new("RGB", (4, 4)).save(tmp_path / part / f"{n}.png")
        (tmp_path / part / "metadata.csv").write_text("\n".join(["file_name,label,text", *lines]) + "\n")
    columns = Columns(image="image", text="text", label="label")
    splits = load_splits(tmp_path, columns, streaming=streaming, **UNCUT)
    assert [row["label"] for row in splits["train"]] == ["01", "1", "007"] * 2
    assert [(row["label"], row["text"]) for row in splits["test"]][:2] == [("0", "0"), ("1", "1")]
    assert labels_of(splits, "label") == (["007", "01", "1"], SINGLE)


def test_spaces_behind_commas_and_a_comma_in_quotes(tmp_path):
    """The comma within the quotes ends no cell, though a space stands before them."""
    (tmp_path / "rows.csv").write_text('text, label\n"x, y", a\nz, "b, c"\n' * 1 + '"p, q", a\nw, "b, c"\n' * 9)
    parts = load_splits(tmp_path / "rows.csv", COLUMNS, **UNCUT)
    assert parts["train"]["text"][:3] == ["x, y", "z", "p, q"]
    assert set(parts["train"]["label"][:]) == {"a", "b, c"}


@pytest.mark.parametrize("times", [1, 1200])  # few cells, and so many that they are looked at at once
@pytest.mark.parametrize(
    ("separator", "cells", "refused"),
    [
        (";", ["742", "1.160", "1.217"], r"'1\.(\d{3})'.* 1\1\b.*\b1\."),
        (",", ["742", "1.160", "1.217"], None),  # decimals, as a computer writes them
        (";", ["742.000", "1.160", "1.217"], None),
        (";", ["742", "1.160", "0.5"], None),
        (";", ["0.125", "0.250", "3"], None),
    ],
)
def test_dots_that_may_part_thousands(tmp_path, separator, cells, refused, times):
    more = [f"{number}.{number % 900 + 100}" if "." in cells[0] else str(number + 1000) for number in range(1, times)]
    lines = [f"text {number}{separator}{cell}" for number, cell in enumerate([*cells, *more] * 3)]
    (tmp_path / "rows.csv").write_text("\n".join([f"text{separator}label", *lines]) + "\n")
    if refused is None:
        assert load_splits(tmp_path / "rows.csv", COLUMNS, **UNCUT)["train"]["label"][0] == float(cells[0])
    else:
        with pytest.raises(ValueError, match=f"'label'.*{refused}"):
            load_splits(tmp_path / "rows.csv", COLUMNS, **UNCUT)
