"""A file that was rewritten, with its old size and times, is read anew: nothing comes from a store as it was."""

import csv
import io
import json
import os
import tarfile

import pytest
from datasets import Dataset
from PIL import Image

from mm_hf.data import Columns, load_splits
from mm_hf.data.files_read import cache_folder, files_of
from mm_hf.training.data_arguments import DataArguments
from mm_hf.training.splits import load_parts


ROWS = 12
WHOLE = {"validation_fraction": 0.0, "test_fraction": 0.0}
BEFORE = 1_600_000_000 * 10**9


def rows(first: str) -> list[dict]:
    return [{"text": f"text {i}", "label": first if i == 0 else "ab"[i % 2]} for i in range(ROWS)]


def write_csv(path, first, separator=","):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label"], delimiter=separator)
        writer.writeheader()
        writer.writerows(rows(first))


def write_json_lines(path, first):
    path.write_text("\n".join(map(json.dumps, rows(first))))


def write_mixed_json(path, first):
    """Numbers, then a text: the reader of such columns."""
    values = [{**row, "text": i if i < ROWS - 1 else "text"} for i, row in enumerate(rows(first))]
    path.write_text("\n".join(map(json.dumps, values)))


def write_tar(path, first):
    with tarfile.open(path, "w") as file:
        for i, row in enumerate(rows(first)):
            content = json.dumps(row).encode()
            entry = tarfile.TarInfo(f"{i:03}.json")
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))


def write_pictures(folder):
    folder.mkdir(exist_ok=True)
    for i in range(ROWS):
        if not (folder / f"{i}.png").exists():
            Image.new("RGB", (4, 4), (i, i, i)).save(folder / f"{i}.png")


def write_metadata_csv(path, first):
    write_pictures(path.parent)
    lines = [f"{i}.png,{row['text']},{row['label']}" for i, row in enumerate(rows(first))]
    path.write_text("\n".join(["file_name,text,label", *lines]) + "\n")


def write_metadata_jsonl(path, first):
    write_pictures(path.parent)
    path.write_text("\n".join(json.dumps({"file_name": f"{i}.png", **row}) for i, row in enumerate(rows(first))))


# By name: the file, how it is written, what is loaded (None: the file), and the column of labels.
FORMATS = {
    "csv": ("rows.csv", write_csv, None, "label"),
    "tsv": ("rows.tsv", lambda path, first: write_csv(path, first, "\t"), None, "label"),
    "json": ("rows.json", lambda path, first: path.write_text(json.dumps(rows(first))), None, "label"),
    "jsonl": ("rows.jsonl", write_json_lines, None, "label"),
    "numbers, then a text": ("rows.jsonl", write_mixed_json, None, "label"),
    "parquet": ("rows.parquet", lambda path, first: Dataset.from_list(rows(first)).to_parquet(path), None, "label"),
    "tar": ("rows.tar", write_tar, None, "json.label"),
    "glob": ("part-1.csv", write_csv, "part-*.csv", "label"),
    "folder of files": ("part.csv", write_csv, ".", "label"),
    "folder in a folder": ("data/part.csv", write_csv, ".", "label"),
    "metadata.csv": ("metadata.csv", write_metadata_csv, ".", "label"),
    "metadata.jsonl": ("metadata.jsonl", write_metadata_jsonl, ".", "label"),
}


def write(kind, folder, first):
    """The data with this label in the first row; the file with the same time of change each time."""
    name, writer, what, column = FORMATS[kind]
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    writer(path, first)
    os.utime(path, ns=(BEFORE, BEFORE))
    text = column.replace("label", "text")
    return path, (path if what is None else folder / what), Columns(text=text, label=column)


@pytest.mark.parametrize("as_written", [True, False])
@pytest.mark.parametrize("kind", FORMATS)
def test_what_was_rewritten_is_read_anew(kind, as_written, tmp_path):
    found, sizes = [], []
    for first in "ab":
        path, dataset, columns = write(kind, tmp_path, first)
        sizes.append((os.stat(path).st_size, os.stat(path).st_mtime_ns))
        train = load_splits(dataset, columns, **WHOLE, as_written=as_written)["train"]
        found.append(train[columns.label][0])
    assert sizes[0] == sizes[1]
    assert found == ["a", "b"]


def test_what_was_not_rewritten_is_read_once(tmp_path, monkeypatch):
    """From the store: what makes tables of rows is not asked again."""
    from datasets.packaged_modules.csv.csv import Csv

    _, dataset, columns = write("csv", tmp_path, "a")
    assert len(load_splits(dataset, columns, **WHOLE)["train"]) == ROWS
    monkeypatch.setattr(Csv, "_generate_tables", None)
    assert len(load_splits(dataset, columns, **WHOLE)["train"]) == ROWS


def test_the_second_of_two_files_is_rewritten(tmp_path):
    """What is made of several files is kept beside the first, which is as it was."""
    write_mixed_json(tmp_path / "1.jsonl", "a")
    columns, found = Columns(text="text", label="label"), []
    for first in "ab":
        (tmp_path / "2.jsonl").write_text("\n".join(map(json.dumps, rows(first))))
        os.utime(tmp_path / "2.jsonl", ns=(BEFORE, BEFORE))
        found.append(load_splits(tmp_path, columns, **WHOLE)["train"]["label"][ROWS])
    assert found == ["a", "b"]


def test_parts_of_a_stream_that_are_stored(tmp_path):
    columns, found = Columns(text="text", label="label"), []
    for first in "ab":
        for part in ("train", "validation", "test"):
            write_csv(tmp_path / f"{part}.csv", first)
            os.utime(tmp_path / f"{part}.csv", ns=(BEFORE, BEFORE))
        data_args = DataArguments(dataset=str(tmp_path), streaming=True)
        parts = load_parts(data_args, columns, seed=0, as_text=[], cells="as meant")
        found.append([parts[part]["label"][0] for part in ("validation", "test")])
    assert found == [["a", "a"], ["b", "b"]]


@pytest.mark.parametrize("change", ["bytes", "time", "inode"])
def test_another_folder_for_each_state_of_a_file(change, tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("one")
    before = cache_folder([file])
    assert cache_folder([str(file)]) == before
    if change == "bytes":
        times = os.stat(file)
        file.write_text("two")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "time":
        os.utime(file, ns=(BEFORE, BEFORE))
    else:
        (tmp_path / "b.csv").write_text("one")
        os.replace(tmp_path / "b.csv", file)
    assert cache_folder([file]) != before


def test_files_of_what_people_name(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.csv", "b.csv", "in/c.png"):
        (tmp_path / name).write_text(name)
    assert files_of(tmp_path / "a.csv") == [str(tmp_path / "a.csv")]
    assert files_of(tmp_path) == [str(tmp_path / name) for name in ("a.csv", "b.csv", "in/c.png")]
    assert files_of(str(tmp_path / "*.csv")) == [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    assert files_of("somebody/something") == []
    assert cache_folder([]) is None
