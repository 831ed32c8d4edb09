"""The record of bad rows: each place once, bounded by the split's rows, written whole or not at all."""

import json
import os

import pytest

from mm_hf.data.bad_rows import BadRows


def entry(row, column="image", split="train", file=None, reason="broken."):
    return {"split": split, "row": row, "column": column, "file": file, "reason": reason}


def collected(*entries, max_fraction=0.5):
    bad = BadRows(max_fraction, "skip")
    bad.add(entries)
    return bad


def test_each_place_counts_once():
    bad = collected(entry(3), entry(3, "text"), entry(1), entry(1, split="test"))
    bad.add([entry(3, reason="again."), entry(1)])
    assert bad.count("train") == 2  # row 3 is bad in two columns
    assert bad.count("test") == 1
    assert bad.count("validation") == 0
    assert len(bad.entries) == 4
    assert {entry["reason"] for entry in bad.entries} == {"broken."}  # the first of a place is kept


def test_too_many_bad_rows_stop_the_run():
    bad = collected(entry(7), entry(2, file="a.png"), entry(2, "text"), max_fraction=0.2)
    bad.check({"train": 10, "validation": 5})  # exactly at the limit
    with pytest.raises(ValueError, match=r"^2 .*\b9 .*'train'") as caught:
        bad.check({"validation": 5, "train": 9})
    message = str(caught.value)
    assert "\n" not in message
    for part in ("0.2222", "max_bad_fraction is 0.2", "row 2", "'image'", "'a.png'", "broken."):
        assert part in message
    collected(entry(1, split="test"), max_fraction=0.0).check({"train": 1})
    with pytest.raises(ValueError, match=r"^1 .*1000 .*'test'"):
        collected(entry(1, split="test"), max_fraction=0.0).check({"test": 1000})


def test_written_sorted_and_beside(tmp_path, monkeypatch):
    path = tmp_path / "bad_rows.jsonl"
    collected(entry(10), entry(9, "text"), entry(9, "image"), entry(0, split="test"), entry(9, None)).write(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["split"], line["row"], line["column"]) for line in lines] == [
        ("test", 0, "image"),
        ("train", 9, None),
        ("train", 9, "image"),
        ("train", 9, "text"),
        ("train", 10, "image"),
    ]
    assert set(lines[0]) == {"split", "row", "column", "file", "reason"}
    before = path.read_bytes()

    def fail(*args):
        raise OSError("killed")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="killed"):
        collected(entry(1)).write(path)
    assert path.read_bytes() == before


def test_state_survives_json():
    bad = collected(entry(3), entry(3, "text"), entry(1, None))
    other = collected(entry(99))
    other.load_state_dict(json.loads(json.dumps(bad.state_dict())))
    assert other.entries == bad.entries
    other.add([entry(3)])
    assert other.count("train") == 2


def test_raise_takes_no_entry():
    bad = BadRows(1.0, "raise")
    bad.add([])
    with pytest.raises(ValueError, match=r"row 3 .*'train'.*'image'.*broken"):
        bad.add([entry(3)])


@pytest.mark.parametrize(
    ("fraction", "on_error", "message"),
    [(1.5, "skip", r"\[0, 1\], got 1.5"), (-0.1, "skip", "got -0.1"), (0.1, "ignore", "'raise', 'skip'.*'ignore'")],
)
def test_wrong_settings(fraction, on_error, message):
    with pytest.raises(ValueError, match=message):
        BadRows(fraction, on_error)
