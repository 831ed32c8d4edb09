"""What `mm_hf search build` embeds: all parts of the data, or the one that is asked for."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest

from mm_hf.commands import search
from mm_hf.retrieval import Gallery
from mm_hf.training import exits


STORED = Path(__file__).parents[1] / "data" / "checkpoints"
MODEL = STORED / "heads" / "retrieval"
PARTS = {"train": range(0, 20), "validation": range(20, 29), "test": range(29, 48)}


def call(*words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["search", *map(str, words)])
        exits.run_script(search.main)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The stored rows in three files, each with a text of its own."""
    folder = tmp_path_factory.mktemp("parts") / "set"
    shutil.copytree(STORED / "rows/photos", folder / "photos")
    rows = list(csv.DictReader((STORED / "rows/rows.csv").open()))
    for name, chosen in PARTS.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["photo", "text"])
            writer.writeheader()
            writer.writerows({"photo": rows[n]["photo"], "text": f"house {n}"} for n in chosen)
    return folder


def options(data: Path, gallery: Path) -> list:
    columns = ["--image_column", "photo", "--text_column", "text"]
    return ["--model", MODEL, "--gallery", gallery, "--dataset", data, *columns]


def test_all_parts_are_embedded(data, tmp_path, capsys):
    ask = options(data, tmp_path / "gallery")
    call("build", *ask)
    said = capsys.readouterr().out
    for name, chosen in PARTS.items():
        assert f"{len(chosen)} of {name}" in said
    gallery = Gallery.load(tmp_path / "gallery")
    assert gallery.source["parts"] == {name: len(chosen) for name, chosen in PARTS.items()}
    assert sorted(gallery.keys["text"]) == sorted(f"house {n}" for n in range(48))
    call("query", *ask, "--image", data / "photos/31.png", "--top_k", 48, "--rerank_top", 0)
    lines = capsys.readouterr().out.splitlines()[:48]
    found = {line.split("house ")[1]: line for line in lines}
    assert "row 2 of test " in found["31"]
    assert "row 0 of validation " in found["20"]
    assert len(found) == 48


def test_one_part_is_embedded_where_it_is_named(data, tmp_path, capsys):
    """So were all galleries of before, which said nothing of parts: they open."""
    ask = options(data, tmp_path / "gallery")
    call("build", *ask, "--split", "validation")
    file = tmp_path / "gallery/gallery.json"
    kept = json.loads(file.read_text())
    assert (kept["source"].pop("parts"), kept["source"]["split"]) == ({"validation": 9}, "validation")
    kept["xxh3_64"].pop("rest", None)
    file.write_text(json.dumps(kept))
    capsys.readouterr()
    call("query", *ask, "--text", "house", "--top_k", 3, "--rerank_top", 0)
    lines = capsys.readouterr().out.splitlines()[:3]
    assert all(line.split()[1] == "row" and int(line.split()[2]) < 9 for line in lines)


def test_rows_that_are_drawn_are_the_same_in_a_query(data, tmp_path, capsys):
    ask = [*options(data, tmp_path / "gallery"), "--max_rows", 11, "--seed", 3]
    call("build", *ask)
    assert sum(Gallery.load(tmp_path / "gallery").source["parts"].values()) == 11
    call("query", *ask, "--text", "house", "--rerank_top", 0)
    with pytest.raises(SystemExit, match=r"--max_rows .*--seed"):
        call("query", *ask[:-1], 4, "--text", "house", "--rerank_top", 0)


def test_a_bad_row_names_its_part(data, tmp_path):
    shutil.copytree(data, tmp_path / "set")
    (tmp_path / "set/photos/30.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"here test.*row 1 "):
        call("build", *options(tmp_path / "set", tmp_path / "gallery"))
