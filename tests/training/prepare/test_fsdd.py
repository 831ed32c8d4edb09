"""The Free Spoken Digit Dataset: all recordings, the project's own test part, and archives that are something else."""

import zipfile
from collections import Counter

import pytest

from mm_hf.models.sound import load_sound
from mm_hf.prepare import fsdd as builder


def test_every_recording_is_in_one_part(fsdd):
    assert {part: len(rows) for part, rows in fsdd.items()} == {"train": 2400, "validation": 300, "test": 300}
    rows = [row for part in fsdd.values() for row in part.remove_columns("audio")]
    assert sorted(row["row_id"] for row in rows) == list(range(3000))
    assert len({(row["digit"], row["speaker"], row["take"]) for row in rows}) == 3000
    for part in fsdd.values():
        assert len(set(Counter(part["digit"]).values())) == len(set(Counter(part["speaker"]).values())) == 1
    assert set(fsdd["test"]["take"]) == {0, 1, 2, 3, 4}
    assert {(row["digit"], row["word"]) for row in rows} == set(enumerate(builder.WORDS))
    assert len(set(fsdd["train"]["speaker"])) == 6


def test_the_recordings_are_the_files(fsdd, fsdd_zip):
    row = fsdd["test"][7]
    name = f"{row['digit']}_{row['speaker']}_{row['take']}.wav"
    assert row["audio"]["path"] == name
    with zipfile.ZipFile(fsdd_zip) as files:
        (entry,) = [entry for entry in files.namelist() if entry.endswith(f"/{name}")]
        assert row["audio"]["bytes"] == files.read(entry)
    assert 0.1 < len(load_sound(row["audio"]["bytes"], 16000)) / 16000 < 2.4


def test_what_is_no_archive_of_it(tmp_path, monkeypatch):
    monkeypatch.delenv("FSDD_ZIP", raising=False)
    out = str(tmp_path / "out")
    with pytest.raises(SystemExit, match=r"\bOUT\b.*FSDD_ZIP"):
        builder.main([out])
    with pytest.raises(SystemExit, match=r"nowhere\.zip.*zip archive"):
        builder.main([str(tmp_path / "nowhere.zip"), out])
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(SystemExit, match=r"text\.zip.*zip archive"):
        builder.main([str(tmp_path / "text.zip"), out])
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as files:
        files.writestr("recordings/3_theo_1.wav", b"RIFF")
        files.writestr("../4_theo_1.txt", b"no recording")
    monkeypatch.setenv("FSDD_ZIP", str(tmp_path / "other.zip"))
    with pytest.raises(SystemExit, match=r"other\.zip.*\b1 recordings.*\b3000\b"):
        builder.main([out])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("takes", [0, 45])
def test_no_takes_for_a_part(takes, fsdd_zip, tmp_path):
    with pytest.raises(SystemExit, match=rf"validation_takes.*{takes} .*\b45, .*\b1 to 44"):
        builder.main([fsdd_zip, str(tmp_path / "out"), "--validation_takes", str(takes)])
