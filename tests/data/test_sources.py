"""People's own data: its forms, cut into parts, its pictures kept inside their folder, its labels told."""

import io
import json
import os
import re
import tarfile

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDatasetDict, List, Value
from PIL import Image as PILImage

from mm_hf.data import Columns, Rows, data_root_of, labels_of, load_splits, normalise_labels, resolve_path
from mm_hf.data.splitting import cut, group_rows


ALL = Columns(image="image", text="question", label="answer")
UNCUT = {"validation_fraction": 0, "test_fraction": 0}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (8, 6), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def table(numbers, suffix, path="pics/{}.png"):
    """Rows as a text of this kind, with a picture, a question and an answer."""
    rows = [{"image": path.format(n), "question": f"what is {n}?", "answer": ["no", "yes"][n % 2]} for n in numbers]
    if suffix in (".csv", ".tsv"):
        mark = "," if suffix == ".csv" else "\t"
        return "\n".join([mark.join(rows[0]), *(mark.join(row.values()) for row in rows)]) + "\n"
    return json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows)) + "\n"


def write_table(path, numbers):
    if path.suffix == ".parquet":
        Dataset.from_list(json.loads(table(numbers, ".json"))).to_parquet(path)
    else:
        path.write_text(table(numbers, path.suffix))


def pictures(folder, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number}.png").write_bytes(encoded(number))


def questions(split) -> list[str]:
    return [row["question"] for row in split]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_tables(tmp_path, suffix, streaming):
    """A folder of files named after the parts, as people name them, with the pictures' paths."""
    pictures(tmp_path / "pics", range(8))
    for name, numbers in (("train", range(5)), ("my_val", [5, 6]), ("testing", [7])):
        write_table(tmp_path / f"{name}{suffix}", numbers)
    splits = load_splits(tmp_path, ALL, streaming=streaming)
    assert isinstance(splits, IterableDatasetDict if streaming else DatasetDict)
    assert list(splits) == ["train", "validation", "test"]
    assert questions(splits["train"]) == [f"what is {n}?" for n in range(5)]
    assert questions(splits["validation"]) == ["what is 5?", "what is 6?"]
    assert questions(splits["test"]) == ["what is 7?"]
    row = next(iter(splits["test"]))
    assert row["image"] == {"bytes": None, "path": "pics/7.png"}  # raw: the collator resolves it, row by row
    assert resolve_path(row["image"]["path"], data_root_of(tmp_path)) == str(tmp_path / "pics/7.png")
    assert labels_of(splits, "answer") == (["no", "yes"], "single_label_classification")


def test_files_and_globs(tmp_path):
    pictures(tmp_path / "pics", range(8))
    for name, numbers in (("train-0.csv", [0, 1]), ("train-1.csv", [2]), ("test-0.csv", [3]), ("other.jsonl", [4])):
        write_table(tmp_path / name, numbers)
    assert questions(load_splits(tmp_path / "test-0.csv", ALL, **UNCUT)["train"]) == ["what is 3?"]
    splits = load_splits(tmp_path / "*.csv", ALL, **UNCUT)
    assert {name: len(split) for name, split in splits.items()} == {"train": 3, "test": 1}
    # The file that is not named after a part is none of the data.
    assert {name: len(split) for name, split in load_splits(tmp_path, ALL, **UNCUT).items()} == {"train": 3, "test": 1}
    assert data_root_of(tmp_path / "*.csv") == data_root_of(tmp_path / "train-0.csv") == data_root_of(tmp_path)
    write_table(tmp_path / "train-2.jsonl", [5])
    with pytest.raises(ValueError, match=r"\.csv, \.jsonl .*\.csv, .*\.parquet"):
        load_splits(tmp_path / "*", ALL, **UNCUT)


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_with_metadata(tmp_path, streaming):
    for part in ("train", "valid", "test"):
        pictures(tmp_path / part, range(3))
        lines = [f"{n}.png,what is {n}?,{n % 2}" for n in range(3)] + [",no picture,1", "gone.png,missing,1"]
        (tmp_path / part / "metadata.csv").write_text("file_name,question,answer\n" + "\n".join(lines) + "\n")
    splits = load_splits(tmp_path, ALL, streaming=streaming)
    assert list(splits) == ["train", "validation", "test"]
    assert splits["train"].features["image"] == Image(decode=False)
    rows = list(splits["train"])
    assert len(rows) == 5
    for number in range(3):
        path = resolve_path(rows[number]["image"]["path"], data_root_of(tmp_path))
        assert path == str(tmp_path / "train" / f"{number}.png")
    assert rows[3]["image"] is None
    assert rows[4]["image"]["path"].endswith("gone.png")


def test_metadata_that_leads_out(tmp_path):
    pictures(tmp_path / "set", range(2))
    (tmp_path / "secret.png").write_bytes(encoded(0))
    (tmp_path / "set/metadata.csv").write_text("file_name,question,answer\n0.png,a,1\n../secret.png,b,1\n")
    with pytest.raises(ValueError, match=r"set .*\.\./secret\.png"):
        load_splits(tmp_path / "set", ALL, **UNCUT)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_a_class(tmp_path, streaming):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            pictures(tmp_path / part / name, range(2))
    columns = Columns(image="image", label="label")
    splits = load_splits(tmp_path, columns, streaming=streaming, validation_fraction=0)
    assert labels_of(splits, "label") == (["cat", "dog"], "single_label_classification")
    assert sorted(row["label"] for row in splits["test"]) == [0, 0, 1, 1]


def write_shard(path, numbers):
    with tarfile.open(path, "w") as shard:
        for n in numbers:
            members = {"png": encoded(n), "txt": f"what is {n}?".encode(), "cls": str(n % 2).encode()}
            members["json"] = json.dumps({"question": f"why {n}?", "more": {"level": n}}).encode()
            for extension, content in members.items():
                member = tarfile.TarInfo(f"{n:04d}.{extension}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("pattern", ["", "*.tar"])
def test_webdataset(tmp_path, streaming, pattern):
    for name, numbers in (("train-0", range(4)), ("train-1", range(4, 8)), ("val-0", [8]), ("test-0", [9])):
        write_shard(tmp_path / f"{name}.tar", numbers)
    columns = Columns(image="png", text="txt", label="cls")
    splits = load_splits(tmp_path / pattern, columns, streaming=streaming)
    assert list(splits) == ["train", "validation", "test"]
    rows = list(splits["train"])
    assert [row["txt"] for row in rows] == [f"what is {n}?" for n in range(8)]
    assert rows[3]["png"]["bytes"] == encoded(3)
    assert labels_of(splits, "cls") == (["0", "1"], "single_label_classification")
    columns = Columns(image="png", text="json.question", label="json.more.level")
    splits = load_splits(tmp_path / pattern, columns, streaming=streaming)
    assert splits["test"].column_names == ["png", "json.question", "json.more.level"]
    row = next(iter(splits["test"]))
    assert (row["png"]["bytes"], row["json.question"], row["json.more.level"]) == (encoded(9), "why 9?", 9)
    with pytest.raises(ValueError, match=r"'json\.answer'.*text_column.*'json'"):
        load_splits(tmp_path / pattern, Columns(text="json.answer"), streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_saved_folders(tmp_path, streaming):
    features = Features({"image": Image(), "question": Value("string"), "answer": ClassLabel(names=["a", "b"])})
    values = {"image": [{"bytes": encoded(n), "path": None} for n in range(5)], "question": list("vwxyz")}
    whole = Dataset.from_dict({**values, "answer": [0, 1, 0, 1, 0]}, features=features)
    whole.save_to_disk(tmp_path / "one")
    DatasetDict({"train": whole, "Dev": whole, "test": whole, "extra": whole}).save_to_disk(tmp_path / "dict")
    splits = load_splits(tmp_path / "one", ALL, streaming=streaming, **UNCUT)
    assert questions(splits["train"]) == list("vwxyz")
    splits = load_splits(tmp_path / "dict", ALL, streaming=streaming)
    assert list(splits) == ["train", "validation", "test", "extra"]
    assert [row["image"]["bytes"] for row in splits["validation"]] == [encoded(n) for n in range(5)]
    DatasetDict({"dev": whole, "val": whole}).save_to_disk(tmp_path / "twice")
    with pytest.raises(ValueError, match=r"'validation'.*\['dev', 'val'\]"):
        load_splits(tmp_path / "twice", ALL, streaming=streaming, **UNCUT)


def test_pictures_as_bytes_and_structs(tmp_path):
    values = {"raw": [encoded(1), None], "struct": [{"path": None, "bytes": encoded(2)}, None], "n": [1, 2]}
    Dataset.from_dict(values).to_parquet(tmp_path / "train.parquet")
    for streaming in (False, True):
        splits = load_splits(tmp_path, Columns(image=["raw", "struct"]), streaming=streaming, **UNCUT)
        first, second = splits["train"]
        assert (first["raw"]["bytes"], first["struct"]["bytes"]) == (encoded(1), encoded(2))
        assert second == {"raw": None, "struct": None}
    with pytest.raises(ValueError, match=r"'n'.*datasets\.Image.*Value\('int64'\)"):
        load_splits(tmp_path, Columns(image="n"), **UNCUT)


@pytest.mark.parametrize("streaming", [False, True])
def test_absent_pictures(tmp_path, streaming):
    pictures(tmp_path, range(1))
    (tmp_path / "train.jsonl").write_text('{"image": "0.png"}\n{"image": ""}\n{"image": null}\n')
    (tmp_path / "train.csv").write_text("image,question\n0.png,a\n,b\nnan,c\n")
    for name in ("train.jsonl", "train.csv"):
        split = load_splits(tmp_path / name, Columns(image="image"), streaming=streaming, **UNCUT)["train"]
        assert [row["image"] for row in split] == [{"bytes": None, "path": "0.png"}, None, None]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_bad_path_is_a_row_and_a_wrong_root_is_an_error(tmp_path, streaming):
    pictures(tmp_path / "set/pics", range(2))
    write_table(tmp_path / "set/train.csv", [0, 1, 2])  # there is no 2.png
    assert len(list(load_splits(tmp_path / "set", ALL, streaming=streaming, **UNCUT)["train"])) == 3
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ValueError, match=r"\b3 .*elsewhere'.*'pics/0.png'"):
        load_splits(tmp_path / "set", ALL, data_root=tmp_path / "elsewhere", streaming=streaming, **UNCUT)
    with pytest.raises(FileNotFoundError, match=r"data_root.*nowhere'"):
        load_splits(tmp_path / "set", ALL, data_root=tmp_path / "nowhere", streaming=streaming, **UNCUT)


def test_paths_stay_inside(tmp_path):
    root = tmp_path / "set"
    pictures(root / "pics", range(2))
    pictures(tmp_path / "set2", range(1))
    (root / "inside.png").symlink_to(root / "pics/0.png")
    (root / "outside.png").symlink_to(tmp_path / "set2/0.png")
    (root / "outside").symlink_to(tmp_path / "set2")
    (tmp_path / "link").symlink_to(root)
    for path in (
        "pics/0.png",
        "inside.png",
        str(root / "pics/0.png"),
        "pics/../pics/0.png",
        str(tmp_path / "link/pics/0.png"),
    ):
        for given in (root, tmp_path / "link"):
            assert resolve_path(path, str(given)) == str(root / "pics/0.png")
    outside = ["../set2/0.png", str(tmp_path / "set2/0.png"), "outside.png", "outside/0.png", "pics/../../secret"]
    for path in [*outside, "/etc/passwd", "a\0b"]:
        with pytest.raises(ValueError, match=f"{re.escape(repr(path))}.*{re.escape(repr(str(root)))}"):
            resolve_path(path, str(root))
    with pytest.raises(ValueError, match="data_root"):
        resolve_path("/etc/passwd", None)
    cached = datasets.config.HF_DATASETS_CACHE / "picture.png"
    assert resolve_path(str(cached), None) == os.path.realpath(cached)
    assert data_root_of("someone/something") is None


def test_cutting_keeps_pictures_together(tmp_path):
    pictures(tmp_path / "pics", range(20))
    write_table(tmp_path / "all.csv", [n // 5 for n in range(100)])
    splits = load_splits(tmp_path / "all.csv", ALL)
    assert {name: len(split) for name, split in splits.items()} == {"train": 80, "validation": 10, "test": 10}
    seen = {name: {row["image"]["path"] for row in split} for name, split in splits.items()}
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == 20
    again = load_splits(tmp_path / "all.csv", ALL)
    other = load_splits(tmp_path / "all.csv", ALL, seed=1)
    assert questions(again["test"]) == questions(splits["test"]) != questions(other["test"])
    # By a column that is none of those that are kept.
    splits = load_splits(tmp_path / "all.csv", Columns(text="question"), group_column="answer", test_fraction=0)
    assert {name: len(split) for name, split in splits.items()} == {"train": 50, "validation": 50}
    assert splits["train"].column_names == ["question", "_source_row"]
    whole = load_splits(tmp_path / "all.csv", Columns(text="question"), **UNCUT)["train"]
    assert whole.column_names == ["question"]
    for split in splits.values():
        assert questions(split) == questions(whole.select(split["_source_row"]))
    with pytest.raises(ValueError, match=r"validation .*test .*\b100 .*\b2 "):
        load_splits(tmp_path / "all.csv", Columns(text="question"), group_column="answer")
    # Without pictures each row is its own; a part that is there is left alone.
    splits = load_splits(tmp_path / "all.csv", Columns(text="question"), validation_fraction=0.25, test_fraction=0)
    assert {name: len(split) for name, split in splits.items()} == {"train": 75, "validation": 25}
    with pytest.raises(ValueError, match=r"validation_fraction.*test_fraction.*\b0\.5.*\b0\.5"):
        load_splits(tmp_path / "all.csv", ALL, validation_fraction=0.5, test_fraction=0.5)


def test_groups():
    one, two, three = ({"bytes": encoded(n), "path": f"{n}.png"} for n in range(3))
    copy = {"bytes": encoded(0), "path": "another name.png"}
    values = {"a": [one, two, three, None, None, copy], "b": [None, three, None, None, None, None]}
    types = Features({"a": Image(decode=False), "b": Image(decode=False), "id": Value("int64")})
    split = Dataset.from_dict({**values, "id": [1, 1, None, None, 2, 2]}, features=types)
    assert group_rows(split, Columns(image="a")) == [[0, 5], [1], [2], [3], [4]]
    assert group_rows(split, Columns(image=["a", "b"])) == [[0, 5], [1, 2], [3], [4]]
    assert group_rows(split, Columns(image="a", image_id="id")) == [[0, 1], [2], [3], [4, 5]]
    assert group_rows(split, Columns(image="a"), "id") == [[0, 1], [2], [3], [4, 5]]
    assert group_rows(split, Columns()) == [[row] for row in range(6)]


@pytest.mark.parametrize("sizes", [[1] * 10, [10, 1, 1], [5, 5, 5], [1, 1, 50], [3] * 7 + [1] * 5])
def test_cut_loses_no_row(sizes):
    split = Dataset.from_dict({"row": list(range(sum(sizes)))})
    groups, start = [], 0
    for size in sizes:
        groups.append(list(range(start, start + size)))
        start += size
    for seed in range(5):
        parts = cut(split, groups, {"validation": 0.1, "test": 0.2}, seed)
        assert sorted(row for part in parts.values() for row in part["row"]) == split["row"][:]
        assert all(len(part) for part in parts.values())
        for group in groups:
            assert sum(set(group) <= set(part["row"]) for part in parts.values()) == 1


def test_missing_parts(tmp_path):
    write_table(tmp_path / "train.csv", range(9))
    columns = Columns(text="question")
    with pytest.raises(ValueError, match=r"stream.*validation_fraction.*\b0\b"):
        load_splits(tmp_path, columns, streaming=True)
    assert list(load_splits(tmp_path, columns, streaming=True, **UNCUT)) == ["train"]
    DatasetDict(test=Dataset.from_dict({"question": ["a"]})).save_to_disk(tmp_path / "alone")
    with pytest.raises(ValueError, match=r"validation.*\['test'\]"):
        load_splits(tmp_path / "alone", columns)
    assert list(load_splits(tmp_path / "alone", columns, **UNCUT)) == ["test"]


@pytest.mark.parametrize("streaming", [False, True])
def test_errors(tmp_path, monkeypatch, streaming):
    def load(name, columns=ALL):
        return load_splits(tmp_path / name, columns, streaming=streaming, **UNCUT)

    write_table(tmp_path / "train.csv", range(3))
    with pytest.raises(ValueError, match=r"'text'.*text_column.*'question', 'answer'"):
        load("train.csv", Columns(text="text"))
    (tmp_path / "lists.jsonl").write_text('{"question": "what?", "answer": "yes", "kinds": ["a", "b"]}\n')
    with pytest.raises(ValueError, match=r"'kinds'.*kind_column.*List"):
        load("lists.jsonl", Columns(text="question", label="answer", kind="kinds"))
    with pytest.raises(ValueError, match=r"'answer'.*weight_column.*string"):
        load("lists.jsonl", Columns(text="question", label="answer", weight="answer"))
    for name, content in (("no.csv", ""), ("no.jsonl", "")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=f"{name}.*empty"):
            load(name)
    (tmp_path / "head.csv").write_text("image,question,answer\n")
    with pytest.raises(ValueError, match=r"head\.csv.*rows"):
        load("head.csv")
    (tmp_path / "broken.jsonl").write_text('{"question": \n nonsense')
    with pytest.raises(ValueError, match=r"broken\.jsonl") as error:
        load("broken.jsonl")
    assert "\n" not in str(error.value)
    for name in ("gone.csv", "gone", "gone/*.csv"):
        with pytest.raises(FileNotFoundError, match="gone"):
            load(name)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="nothing"):
        load("nothing")
    (tmp_path / "words.txt").write_text("words")
    with pytest.raises(ValueError, match=r"\.txt .*\.csv"):
        load("words.txt")

    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setattr("mm_hf.data.readers.load_dataset", offline)
    with pytest.raises(FileNotFoundError, match=r"'me/set'.*ConnectionError: .*reach the"):
        load_splits("me/set", ALL, streaming=streaming)


def splits_of(values, feature=None, streaming=False, validation=None):
    types = Features({"label": feature}) if feature else None
    parts = {"train": values, "validation": validation or values}
    splits = {name: Dataset.from_dict({"label": part}, features=types) for name, part in parts.items()}
    if streaming:
        return IterableDatasetDict({name: split.to_iterable_dataset(2) for name, split in splits.items()})
    return DatasetDict(splits)


SINGLE, SEVERAL, NUMBERS = "single_label_classification", "multi_label_classification", "regression"
LABELS = {
    "classes": ([0, 1, None], ClassLabel(names=["x", "y"]), (["x", "y"], SINGLE), [0, 1, None]),
    "booleans": ([True, None, False], None, (["no", "yes"], SINGLE), ["yes", None, "no"]),
    "strings": (["b", "a", None, "b"], None, (["a", "b"], SINGLE), ["b", "a", None, "b"]),
    "large strings": (["b", "a"], Value("large_string"), (["a", "b"], SINGLE), ["b", "a"]),
    "integers": ([10, 9, 10, 9, -1, -1], None, (["-1", "9", "10"], SINGLE), ["10", "9", "10", "9", "-1", "-1"]),
    "many integers": (list(range(10)), None, (None, NUMBERS), list(range(10))),
    "whole floats": (
        [3.0, float("nan"), 1.0, 3.0, 1.0, None],
        None,
        (["1", "3"], SINGLE),
        ["3", None, "1", "3", "1", None],
    ),
    "floats": ([0.5, 1.0, 0.5, 1.0], None, (None, NUMBERS), [0.5, 1.0, 0.5, 1.0]),
    "infinite": ([float("inf"), 1.0] * 2, None, (None, NUMBERS), [float("inf"), 1.0] * 2),
    "lists of strings": ([["b", "a"], [], None, ["b"]], None, (["a", "b"], SEVERAL), [["b", "a"], [], None, ["b"]]),
    "lists of classes": ([[0, 1], []], List(ClassLabel(names=["x", "y"])), (["x", "y"], SEVERAL), [[0, 1], []]),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", LABELS)
def test_labels(kind, streaming):
    values, feature, expected, named = LABELS[kind]
    splits = splits_of(values, feature, streaming)
    assert labels_of(splits, "label") == expected
    split = normalise_labels(splits, {"label": expected[0]})["validation"]
    rows = list(split) if streaming else Rows(split, "validation").__getitems__(list(range(len(values))))
    assert [row["label"] for row in rows] == named


def test_given_problem_types():
    assert labels_of(splits_of([1, 2] * 5), "label", NUMBERS) == (None, NUMBERS)
    assert labels_of(splits_of([1, 2, 3]), "label", SINGLE) == (["1", "2", "3"], SINGLE)
    for values, given in (
        (["a", "b"], NUMBERS),
        ([0.5, 1.5], SINGLE),
        ([True], NUMBERS),
        ([["a"]], SINGLE),
        (["a"], SEVERAL),
    ):
        with pytest.raises(ValueError, match=f"'label'.*{given}"):
            labels_of(splits_of(values), "label", given)
    with pytest.raises(ValueError, match=r"problem_type.*'regression'.*'ranking'"):
        labels_of(splits_of([1]), "label", "ranking")
    for values in ([None, None], [float("nan")], []):
        with pytest.raises(ValueError, match=r"train.*'label'"):
            labels_of(splits_of(values, Value("float32")), "label")
    with pytest.raises(ValueError, match=r"'label'.*List\(Value\('int64'\)\)"):
        labels_of(splits_of([[1, 0]]), "label")
    with pytest.raises(ValueError, match=r"train.*\['test'\]"):
        labels_of(DatasetDict(test=Dataset.from_dict({"label": [1]})), "label")


def test_labels_of_a_csv(tmp_path):
    """An empty cell is missing; "None" is a class; integers with a gap, which come as floats, are classes."""
    lines = [f"{level},{['None', 'low', ''][n % 3]}" for n, level in enumerate(["1", "", "2"] * 4)]
    (tmp_path / "train.csv").write_text("level,name\n" + "\n".join(lines) + "\n")
    splits = load_splits(tmp_path / "train.csv", Columns(label="level", kind="name"), test_fraction=0)
    assert splits["train"].features["level"] == Value("float64")
    names, problem_type = labels_of(splits, "level")
    assert (names, problem_type) == (["1", "2"], SINGLE)
    assert labels_of(splits, "name") == (["None", "low"], SINGLE)
    named = normalise_labels(splits, {"level": names})  # of parts that were cut, by row and by column
    rows = Rows(named["train"], "train").__getitems__(list(range(len(named["train"]))))
    assert {row["level"] for row in rows} == set(named["train"]["level"]) == {"1", "2", None}
    assert {row["name"] for row in rows} == {"None", "low", None}
