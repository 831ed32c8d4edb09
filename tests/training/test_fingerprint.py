"""What changed in the data, the preprocessing or the frozen encoders of a run is found and named."""

import json
import os
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from kill_and_resume import call

from mm_hf import MMFusionProcessor
from mm_hf.commands import evaluate
from mm_hf.data import Columns, data_root_of, load_splits
from mm_hf.models.tabular import TableSchema
from mm_hf.training import fingerprint, loop, train
from mm_hf.training.fingerprint import STREAM, Fingerprint, frozen_sources, keys_of_processor, update
from mm_hf.training.run_folder import read_recipe_of, read_rows_of


STORED = Path(__file__).parents[1] / "data/checkpoints"
WHOLE = {"validation_fraction": 0.0, "test_fraction": 0.0}
FEATURES = Features(
    {
        "label": Value("string"),
        "text": Value("string"),
        "number": Value("float64"),
        "count": Value("int64"),
        "truth": Value("bool"),
        "steps": List(List(Value("float64"))),
        "picture": Image(decode=False),
        "frames": List(Image(decode=False)),
        "unused": Value("string"),
    }
)
COLUMNS = Columns(image="picture", text="text", label="label", table=["number", "count", "truth"], series="steps")


def row(i: int) -> dict:
    return {
        "label": "ab"[i % 2],
        "text": None if i == 3 else f"text {i}",
        "number": None if i == 4 else i / 3,
        "count": i,
        "truth": i % 3 == 0,
        "steps": None if i == 5 else [[float(i), 2.0]] * (i + 1),
        "picture": None if i == 6 else {"bytes": bytes([i]) * 50, "path": None},
        "frames": [{"bytes": bytes([i, k]), "path": None} for k in range(i % 3)],
        "unused": str(i),
    }


def taken(
    rows: list[dict], columns: Columns = COLUMNS, found: dict | None = None
) -> tuple[dict, list[str], list[str]]:
    """What is kept of rows, what differs from what was found, and what was touched."""
    part = Dataset.from_list(rows, features=FEATURES)
    mine = Fingerprint({"train": part}, columns, "rows", None)
    return mine.kept, *mine.settle(found)


def changed(place: int, **values) -> list[dict]:
    rows = [row(i) for i in range(12)]
    rows[place] |= values
    return rows


# By what is done the rows after it, and the columns that are named.
CHANGES = {
    "nothing": (changed(0), []),
    "a column that plays no part": (changed(2, unused="other"), []),
    "one label": (changed(7, label="a"), ["label"]),
    "one text": (changed(7, text="text 8"), ["text"]),
    "a text that is gone": (changed(7, text=None), ["text"]),
    "an absent text that is empty": (changed(3, text=""), ["text"]),
    "one number": (changed(7, number=7 / 3 + 1e-15), ["number"]),
    "an absent number that is 0": (changed(4, number=0.0), ["number"]),
    "an absent number that is NaN": (changed(4, number=float("nan")), ["number"]),
    "one count": (changed(7, count=8), ["count"]),
    "one truth": (changed(7, truth=True), ["truth"]),
    "one step of a series": (changed(7, steps=[[7.0, 2.0]] * 7 + [[7.0, 2.5]]), ["steps"]),
    "a step that moved to the next row": (
        [{**row(i), "steps": [[1.0]] * {1: 2, 2: 3}.get(i, 1)} for i in range(12)],
        ["steps"],
    ),
    "one byte of a picture": (changed(7, picture={"bytes": bytes([7]) * 49 + b"\0", "path": None}), ["picture"]),
    "a picture that is gone": (changed(7, picture=None), ["picture"]),
    "two rows that changed places": (
        [row(i) for i in (0, 2, 1, *range(3, 12))],
        ["label", "text", "number", "count", "steps", "picture"],
    ),
    "bytes that moved between texts": (
        [{**row(i), "text": {0: "text", 1: " 0text 1"}.get(i, f"text {i}" if i != 3 else None)} for i in range(12)],
        ["text"],
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_changed_in_the_rows_is_named(kind):
    rows, names = CHANGES[kind]
    before, *_ = taken(changed(0))
    _, differences, touched = taken(rows, found=json.loads(json.dumps(before)))
    assert sorted(differences) == sorted(f"train: column {name!r}" for name in names)
    assert touched == []


def test_frames_of_videos():
    columns = Columns(video="frames", label="label")
    before, *_ = taken(changed(0), columns)
    frames = [{"bytes": bytes([7, k]), "path": None} for k in (0,)]
    assert taken(changed(0), columns, before)[1] == []
    assert taken(changed(7, frames=frames), columns, before)[1] == []  # as it was
    assert taken(changed(7, frames=frames * 2), columns, before)[1] == ["train: column 'frames'"]
    assert taken(changed(7, frames=[{"bytes": b"\7\1", "path": None}]), columns, before)[1] == [
        "train: column 'frames'"
    ]


def test_a_part_that_was_not_there_is_not_compared():
    before, *_ = taken(changed(0))
    del before["columns"]["train"]["label"]
    assert taken(changed(7, label="a"), found=before)[1] == []
    del before["columns"]["train"]
    assert taken(changed(7, text="other"), found=before)[1] == []


def test_of_much_content_every_so_many_items_are_read(monkeypatch):
    """The lengths of all count, and the bytes of every third."""
    monkeypatch.setattr(fingerprint, "MOST_BYTES", 200)  # of 550
    before, *_ = taken(changed(0))
    other = {"bytes": b"\0" * 50, "path": None}
    for place, names in ((9, ["picture"]), (7, [])):
        assert taken(changed(place, picture=other), found=before)[1] == [f"train: column {name!r}" for name in names]
    longer = {"bytes": b"\7" * 51, "path": None}
    assert taken(changed(7, picture=longer), found=before)[1] == ["train: column 'picture'"]


# How Arrow lays out values does not matter: (the same values, in other arrays).
LAYOUTS = {
    "a slice": (pa.array(["x", "ab", None, "c", "y"])[1:4], pa.array(["ab", None, "c"])),
    "large strings": (pa.array(["ab", None], pa.large_string()), pa.array(["ab", None])),
    "a dictionary": (pa.array(["ab", "c", "ab"]).dictionary_encode(), pa.array(["ab", "c", "ab"])),
    "a slice of lists": (pa.array([[1], [2, 3], None, []])[1:], pa.array([[2, 3], None, []])),
    "behind a null": (
        pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.array([5, 77]).buffers()[1]]),
        pa.array([5, None]),
    ),
    "a slice of structs": (
        pa.array([{"b": 1, "a": "x"}, {"b": None, "a": "y"}, None])[1:],
        pa.array([{"b": None, "a": "y"}, None], pa.struct({"b": pa.int64(), "a": pa.string()})),
    ),
    "a slice of truths": (pa.array([True, False, None, True])[1:], pa.array([False, None, True])),
    "times": (pa.array([datetime(2026, 1, 2), None])[:1], pa.array([datetime(2026, 1, 2)])),
    "all null": (pa.nulls(3)[1:], pa.nulls(2)),
}


def digest(values: pa.Array) -> str:
    found = xxhash.xxh3_64()
    update(found, values)
    return found.hexdigest()


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_layout_of_arrow_does_not_matter(kind):
    one, other = LAYOUTS[kind]
    assert one.to_pylist() == other.to_pylist()
    assert digest(one) == digest(other)
    assert len({digest(values) for _, values in LAYOUTS.values()}) == len(LAYOUTS)


# Files


@pytest.fixture
def files(tmp_path):
    """Rows that name pictures in files, in a folder that can be moved."""
    folder = tmp_path / "data"
    shutil.copytree(STORED / "rows", folder)
    return folder


def of_files(folder: Path, found: dict | None = None) -> tuple[dict, list[str], list[str]]:
    columns = Columns(image="photo", text="text", label="colour")
    splits = load_splits(folder / "rows.csv", columns, seed=3)
    mine = Fingerprint(splits, columns, str(folder / "rows.csv"), data_root_of(folder / "rows.csv"))
    return mine.kept, *mine.settle(found)


def named(entry: str) -> str:
    return entry.split(" were ")[0].split(" (")[0]


def a_photo(folder: Path) -> Path:
    """One that a single row names, of the training part."""
    columns = Columns(image="photo", text="text", label="colour")
    train = load_splits(folder / "rows.csv", columns, seed=3)["train"]
    return folder / next(photo["path"] for photo in train["photo"] if photo)


def write_and_put_times_back(path: Path):
    times, content = os.stat(path), bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_files_that_changed_are_named(files):
    before, *_ = of_files(files)
    assert of_files(files, before)[1:] == ([], [])
    path = a_photo(files)
    column = "train: column 'photo'"

    os.utime(path, ns=(1, 1))  # touched alone
    now, differences, touched = of_files(files, before)
    assert (differences, [named(line) for line in touched]) == ([], [f"the files of {column}"])
    assert of_files(files, now)[1:] == ([], [])

    write_and_put_times_back(path)  # of the same size and time of change
    _, differences, touched = of_files(files, now)
    assert (differences, touched) == ([f"{column} (the content of its files)"], [])

    path.write_bytes(path.read_bytes() + b"\0")
    assert of_files(files, before)[1:] == ([column], [])
    path.unlink()
    assert of_files(files, before)[1] == [column]


def test_a_file_that_another_row_names(files):
    """The same files in the same order, but of other rows."""
    table = files / "rows.csv"
    lines = ["photo,text,colour", *(f",text {i},red" for i in range(20)), ",text 20,blue"]
    lines[3] = f"photos/0.png{lines[3]}"
    table.write_text("\n".join(lines) + "\n")
    columns = Columns(image="photo", text="text", label="colour")

    def kept(found=None):
        mine = Fingerprint(load_splits(table, columns, **WHOLE), columns, str(table), str(files.resolve()))
        return mine.kept, *mine.settle(found)

    before, *_ = kept()
    lines[3], lines[4] = lines[3].removeprefix("photos/0.png"), f"photos/0.png{lines[4]}"
    table.write_text("\n".join(lines) + "\n")
    assert kept(before)[1] == ["train: column 'photo'"]


def test_a_folder_that_was_copied_is_the_same_data(files, tmp_path):
    """Other inodes and times, another place: the content of all files is compared."""
    before, *_ = of_files(files)
    shutil.copytree(files, tmp_path / "other/place", copy_function=shutil.copyfile)
    _, differences, touched = of_files(tmp_path / "other/place", before)
    assert differences == []
    assert {named(line) for line in touched} == {f"the files of {part}: column 'photo'" for part in before["files"]}
    shutil.move(files, tmp_path / "third")
    _, differences, touched = of_files(tmp_path / "third", before)
    assert differences == []


def test_content_is_read_where_files_were_touched_alone(files, monkeypatch):
    before, *_ = of_files(files)
    monkeypatch.setattr(fingerprint, "content_of", None)
    assert of_files(files, before)[1:] == ([], [])


def test_of_large_files_every_so_many_are_read(files, monkeypatch):
    monkeypatch.setattr(fingerprint, "MOST_BYTES", 1500)
    paths = sorted((files / "photos").iterdir())
    whole = sum(path.stat().st_size for path in paths)
    before = fingerprint.content_of(list(map(str, paths)))
    every = -(-whole // 1500)
    assert before["every"] == every > 1
    write_and_put_times_back(paths[1])
    assert fingerprint.content_of(list(map(str, paths))) == before
    content = bytearray(paths[every].read_bytes())
    content[0] ^= 1
    paths[every].write_bytes(content)
    assert fingerprint.content_of(list(map(str, paths))) != before


@pytest.mark.parametrize("kind", ["file", "glob", pytest.param("folder", marks=pytest.mark.slow)])
def test_streams(kind, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for part in ("train-0", "train-1", "validation", "test"):
        (folder / f"{part}.csv").write_text("text,label\n" + "".join(f"{part} {i},a\n" for i in range(5)))
    name = {"file": "train-0.csv", "glob": "*.csv", "folder": ""}[kind]
    columns = Columns(text="text", label="label")

    def of_stream(folder, found=None):
        dataset = str(folder / name)
        splits = load_splits(dataset, columns, streaming=True, **WHOLE)
        mine = Fingerprint({"train": splits["train"]}, columns, dataset, str(folder))
        return mine.kept, *mine.settle(found)

    before, *_ = of_stream(folder)
    assert list(before["columns"]["train"]) == [STREAM]
    assert of_stream(folder, before)[1:] == ([], [])
    shutil.copytree(folder, tmp_path / "moved", copy_function=shutil.copyfile)
    _, differences, (touched,) = of_stream(tmp_path / "moved", before)
    assert differences == []
    assert STREAM in touched
    # What is no data: a run in the folder, what datasets keeps, hidden files.
    (folder / "run").mkdir()
    for other in ("run/recipe.json", "run/model.safetensors", "cache-1f2e.arrow", ".hidden"):
        (folder / other).write_text("{}")
    assert of_stream(folder, before)[1:] == ([], [])
    (folder / "more.csv").write_text("text,label\n")
    assert of_stream(folder, before)[1] == ([f"train: {STREAM}"] if kind != "file" else [])
    (folder / "more.csv").unlink()
    file = folder / "train-0.csv"
    write_and_put_times_back(file)
    assert of_stream(folder, before)[1] == [f"train: {STREAM} (the content of its files)"]
    file.write_text(file.read_text() + "more,a\n")
    assert of_stream(folder, before)[1] == [f"train: {STREAM}"]


def test_a_stream_of_the_hub_is_known_by_its_name():
    columns = Columns(text="text", label="label")
    part = Dataset.from_dict({"text": ["a"], "label": ["b"]}).to_iterable_dataset()
    before = Fingerprint({"train": part}, columns, "me/rows", None).kept
    assert Fingerprint({"train": part}, columns, "me/rows", None).settle(before) == ([], [])
    assert Fingerprint({"train": part}, columns, "me/others", None).settle(before)[0] == [f"train: {STREAM}"]


# Preprocessing and encoders


def set_size(processor):
    processor.image_processor.size = {"height": 17, "width": 16}


def set_mean(processor):
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]


def set_word(processor):
    vocab = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    tokens = list(vocab["model"]["vocab"])
    one, other = tokens[-1], tokens[-2]
    words = vocab["model"]["vocab"]
    words[one], words[other] = words[other], words[one]
    processor.tokenizer._tokenizer = type(processor.tokenizer.backend_tokenizer).from_str(json.dumps(vocab))


def set_rate(processor):
    processor.feature_extractor.sampling_rate = 8000


def set_schema(processor):
    processor.table_schema = TableSchema.fit({"beds": [1.0, 2.0, 9.0], "kind": ["a", "b", "a"]})


# What is changed, a key that is named, and what is said of its values.
PREPROCESSING = {
    "size": (set_size, "image_processor.size.height", "(16, now 17)"),
    "mean": (set_mean, "image_processor.image_mean", "now [0.1, 0.2, 0.3]"),
    "length": (lambda p: setattr(p.tokenizer, "model_max_length", 5), "tokenizer_config.model_max_length", "now 5)"),
    "vocabulary": (set_word, "tokenizer.model.vocab", ""),
    "rate": (set_rate, "feature_extractor.sampling_rate", "(16000, now 8000)"),
    "background": (lambda p: setattr(p, "image_background", "black"), "image_background", "('white', now 'black')"),
    "table": (set_schema, "table_schema", ""),
}


def processor_of() -> MMFusionProcessor:
    encoders = {name: STORED / "encoders" / name for name in ("vision", "text", "audio")}
    schema = TableSchema.fit({"beds": [1.0, 2.0, 3.0], "kind": ["a", "b", "a"]})
    return MMFusionProcessor.from_encoders_pretrained(**encoders, table_schema=schema)


@pytest.mark.parametrize("kind", PREPROCESSING)
def test_preprocessing_that_changed_is_named(kind):
    change, key, values = PREPROCESSING[kind]
    before = json.loads(json.dumps({"columns": {}, "encoders": {}, "processor": keys_of_processor(processor_of())}))
    same = Fingerprint({}, COLUMNS, "", None, processor_of())
    assert same.settle(before) == ([], [])
    processor = processor_of()
    change(processor)
    differences, _ = Fingerprint({}, COLUMNS, "", None, processor).settle(before)
    assert differences
    assert any(line.startswith(f"the processor: {key}") and values in line for line in differences)
    assert all(line.startswith("the processor: ") and len(line) < 200 for line in differences)
    # A version of the library that writes more keys, or fewer, is no change.
    fewer = {**before, "processor": {"a key of later": 1}}
    assert Fingerprint({}, COLUMNS, "", None, processor).settle(fewer) == ([], [])


def test_where_a_processor_came_from_does_not_count(tmp_path):
    before = keys_of_processor(processor_of())
    shutil.copytree(STORED / "encoders", tmp_path / "elsewhere")
    encoders = {name: tmp_path / "elsewhere" / name for name in ("vision", "text", "audio")}
    schema = TableSchema.fit({"beds": [1.0, 2.0, 3.0], "kind": ["a", "b", "a"]})
    assert keys_of_processor(MMFusionProcessor.from_encoders_pretrained(**encoders, table_schema=schema)) == before
    assert str(STORED) not in json.dumps(before)


def flip(path: Path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda folder: flip(folder / "model.safetensors"), "model.safetensors"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "model-1.safetensors"), "model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json"),
    ],
)
def test_frozen_encoders_that_changed_are_named(change, name, tmp_path):
    shutil.copytree(STORED / "encoders/vision", tmp_path / "vision")
    encoders = {"vision": str(tmp_path / "vision")}
    before = Fingerprint({}, COLUMNS, "", None, None, encoders).kept
    (tmp_path / "vision/README.md").write_text("words")
    assert Fingerprint({}, COLUMNS, "", None, None, encoders).settle(before) == ([], [])
    change(tmp_path / "vision")
    differences, _ = Fingerprint({}, COLUMNS, "", None, None, encoders).settle(before)
    assert f"the vision encoder's {name}" in differences


def test_which_encoders_are_frozen():
    class Asked:
        vision_encoder, text_encoder, audio_encoder, encoders = "a", "b", None, None
        freeze_encoders: bool | list = False

    assert frozen_sources(Asked()) == {}
    for frozen, found in ((True, {"vision": "a", "text": "b"}), (["text"], {"text": "b"}), (["audio"], {})):
        Asked.freeze_encoders = frozen
        assert frozen_sources(Asked()) == found
    Asked.freeze_encoders, Asked.init_from = True, "runs/x"
    assert frozen_sources(Asked()) == {}


def test_encoders_from_the_hub(tmp_path, monkeypatch):
    """Their revision tells them apart; what was not downloaded yet when a run began is not compared."""
    assert Fingerprint({}, COLUMNS, "", None, None, {"vision": str(tmp_path / "gone")}).kept["encoders"] == {
        "vision": {}
    }
    encoders = {"vision": "me/eyes"}
    unknown = Fingerprint({}, COLUMNS, "", None, None, encoders).kept
    assert unknown["encoders"] == {"vision": {}}

    def cached(revision):
        path = str(tmp_path / f"models--me--eyes/snapshots/{revision}/config.json")
        monkeypatch.setattr(fingerprint, "try_to_load_from_cache", lambda *_: path)
        return Fingerprint({}, COLUMNS, "", None, None, encoders)

    assert cached("1a").settle(unknown) == ([], [])
    before = cached("1a").kept
    assert cached("1a").settle(before) == ([], [])
    assert cached("2b").settle(before)[0] == ["the vision encoder's revision"]


# Runs


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run that was stopped in its fifth step, and the words that take it up."""
    shutil.copytree(STORED / "rows", tmp_path / "rows")
    shutil.copytree(STORED / "encoders", tmp_path / "encoders")
    recipe = json.loads((STORED / "states/train/recipe.yaml").read_text())
    recipe |= {"freeze_encoders": True, "max_steps": 6, "eval_steps": 3, "output_dir": "run", "label_column": "colour"}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    monkeypatch.chdir(tmp_path)
    make_step = loop.Training.make_step

    def until_then(training, window):
        if training.progress.step == 4:
            raise OSError("the machine went away")
        return make_step(training, window)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Training, "make_step", until_then)
        with pytest.raises(SystemExit, match="went away"):
            call(train.main, "recipe.yaml")
    return tmp_path


def refused(*words) -> str:
    with pytest.raises(SystemExit) as raised:
        call(train.main, "recipe.yaml", *words)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_goes_on_with_the_data_that_it_was_begun_with(stopped, capsys):
    before, kept = files_in(stopped / "run"), read_rows_of(stopped / "run")
    assert set(kept) == {"rows", "classes", "cells", "fingerprint"}
    table = stopped / "rows/rows.csv"
    original, lines = table.read_text(), table.read_text().splitlines()

    # Rows in another order are refused: their number is the same.
    table.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    message = refused()
    assert all(f"column '{name}'" in message for name in ("photo", "text", "beds", "colour"))
    assert all(f"{way}" in message for way in ("--allow_changes data", "--overwrite_output_dir", "--output_dir"))
    assert "--allow_changes data" in refused("--allow_changes", "true")  # that is for the recipe
    # So is one text that is not what it was, and nothing else is named.
    table.write_text(original.replace("what colour is the big house ?", "what colour is the big horse ?", 1))
    assert refused().count("column") == 1
    table.write_text(original)

    # The files of a frozen encoder, and of preprocessing.
    weights, settings = stopped / "encoders/vision/model.safetensors", stopped / "encoders/vision"
    settings /= "preprocessor_config.json"
    contents = {path: path.read_bytes() for path in (weights, settings)}
    flip(weights)
    assert "the vision encoder's model.safetensors" in refused()
    weights.write_bytes(contents[weights])
    values = json.loads(contents[settings])
    settings.write_text(json.dumps({**values, "image_mean": [0.25, 0.5, 0.75]}))
    assert "the processor: image_processor.image_mean" in refused()
    settings.write_bytes(contents[settings])
    # Nothing of the run was changed by what was refused.
    assert files_in(stopped / "run") == before

    # Another number of rows is refused in any case.
    table.write_text("\n".join(lines[:-9]) + "\n")
    message = refused("--allow_changes", "data")
    assert "was started with" in message
    assert files_in(stopped / "run") == before

    # Touched files are no other data; what is allowed goes on, and is what the run is about from then on.
    table.write_text(original.replace("what colour is the big house ?", "what colour is the big horse ?", 1))
    for photo in (stopped / "rows/photos").iterdir():
        os.utime(photo)
    capsys.readouterr()
    call(train.main, "recipe.yaml", "--allow_changes", "data")
    said = capsys.readouterr().out
    assert "resumed from run/checkpoint-3" in said
    assert said.count("column 'photo' were touched") == 3
    assert "(train: column 'text')" in said
    assert read_rows_of(stopped / "run")["fingerprint"] != kept["fingerprint"]
    call(train.main, "recipe.yaml")
    assert "this run is complete" in capsys.readouterr().out


def test_data_in_another_place_is_the_same_data(stopped, capsys):
    """The recipe names another folder, and the rows are the same. Where they differ it is refused, and recipe.json
    stays as it was."""
    before = files_in(stopped / "run")
    shutil.copytree(stopped / "rows", stopped / "moved", copy_function=shutil.copyfile)
    table = stopped / "moved/rows.csv"
    original = table.read_text()
    table.write_text(original.replace("what colour is the big house ?", "what colour is the big horse ?", 1))
    assert "train: column 'text'" in refused("--dataset", "moved/rows.csv")
    assert "learning_rate (0.01, now 0.5)" in refused("--dataset", "moved/rows.csv", "--learning_rate", "0.5")
    assert files_in(stopped / "run") == before
    table.write_text(original)
    call(train.main, "recipe.yaml", "--dataset", "moved/rows.csv")
    assert "were touched or moved" in capsys.readouterr().out
    assert read_recipe_of(stopped / "run")["dataset"] == "moved/rows.csv"


def test_a_run_of_before_goes_on_and_keeps_its_rows_from_then_on(stopped, capsys):
    file = stopped / "run/rows.json"
    rows = json.loads(file.read_text())
    kept = rows.pop("fingerprint")
    file.write_text(json.dumps(rows))
    recipe = json.loads((stopped / "run/recipe.json").read_text())
    del recipe["working_dir"]
    (stopped / "run/recipe.json").write_text(json.dumps(recipe))
    assert "dataset ('rows/rows.csv', now 'rows/photos')" in refused("--dataset", "rows/photos")
    call(train.main, "recipe.yaml")
    assert "resumed from run/checkpoint-3" in capsys.readouterr().out
    assert json.loads(file.read_text()) == {**rows, "fingerprint": kept}
    assert json.loads((stopped / "run/recipe.json").read_text()) == {**recipe, "working_dir": ".."}

    # What is measured is cut as in training, of the rows that they were then.
    call(evaluate.main, "--model", "run", "--bootstrap_samples", 10)
    table = stopped / "rows/rows.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    with pytest.raises(SystemExit, match=r"test: column 'photo'.* test "):
        call(evaluate.main, "--model", "run", "--bootstrap_samples", 10)


@pytest.mark.parametrize("name", ["rows.json", "recipe.json"])
@pytest.mark.parametrize("content", ["{", *(pytest.param(one, marks=pytest.mark.slow) for one in ("", "[]", "3"))])
def test_a_damaged_record_is_named(name, content, stopped):
    (stopped / "run" / name).write_text(content)
    message = refused()
    assert f"run/{name}" in message
    assert "--overwrite_output_dir" in message
    if content == "":
        call(train.main, "recipe.yaml", "--overwrite_output_dir", "true")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], False),
        (["--allow_changes"], True),
        (["--allow_changes", "true"], True),
        (["--allow_changes", "false"], False),
        (["--allow_changes", "data"], "data"),
        ({"allow_changes": True}, True),
        ({"allow_changes": False}, False),
        ({"allow_changes": "data"}, "data"),
    ],
)
def test_what_may_change(words, found, tmp_path):
    from mm_hf.training.recipe import parse_arguments

    if isinstance(words, dict):
        (tmp_path / "recipe.yaml").write_text(json.dumps(words))
        words = [str(tmp_path / "recipe.yaml")]
    assert parse_arguments("", words)[-1].allow_changes == found
    with pytest.raises(SystemExit):
        parse_arguments("", ["--allow_changes", "everything"])


def test_saved_data(tmp_path):
    """What save_to_disk wrote, whose parts have pictures inside, and rows that were cut from it."""
    rng = np.random.default_rng(0)
    rows = [{**row(i), "picture": {"bytes": rng.bytes(40), "path": f"{i}.png"}} for i in range(40)]
    columns = Columns(image="picture", text="text", label="label")

    def kept(rows, found=None):
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        DatasetDict(train=Dataset.from_list(rows, features=FEATURES)).save_to_disk(tmp_path / "set")
        splits = load_splits(tmp_path / "set", columns, seed=1)
        mine = Fingerprint(splits, columns, str(tmp_path / "set"), data_root_of(tmp_path / "set"))
        return mine.kept, *mine.settle(found)

    before, *_ = kept(rows)
    assert set(before["columns"]) == {"train", "validation", "test"}
    assert before["files"] == {}
    assert kept(rows, before)[1:] == ([], [])
    rows[3]["picture"]["bytes"] = b"0" * 40
    (difference,) = kept(rows, before)[1]
    assert difference.endswith("column 'picture'")
