"""Every file of a search index gone, cut, changed by a bit, of another index or of another model: it is refused by
name. Who stops while it writes leaves the one that was there."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file, save_file

import mm_hf.gallery
from mm_hf import MMFusionForRetrieval
from mm_hf.gallery import EMBEDDINGS, FILE, Gallery, fingerprint


WIDTH = 16


def model_of(run: int, width: int = WIDTH) -> MMFusionForRetrieval:
    return tiny.model(MMFusionForRetrieval, seed=run, projection_dim=width)


def gallery_of(run: int) -> Gallery:
    generator = torch.Generator().manual_seed(run)
    drawn = {name: torch.randn(count, WIDTH, generator=generator) for name, count in (("text", 5), ("vision", 4))}
    return Gallery(
        {name: torch.nn.functional.normalize(vectors, dim=-1) for name, vectors in drawn.items()},
        {"text": [0, 1, 2, 3, 7], "vision": [0, 2, 3, 7]},
        {"text": [f"text {n} of {run}" for n in range(5)], "vision": [f"picture {n} of {run}" for n in range(4)]},
        torch.tensor([[0, 0], [1, 0], [2, 1], [3, 2], [4, 3]]),
        model=fingerprint(model_of(run)),
        source={"split": "test", "model": f"run {run}"},
    )


@pytest.fixture(scope="module")
def galleries(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("galleries")
    for run in (0, 1):
        gallery_of(run).save(folder / str(run))
    return folder


def vectors_in(folder: Path) -> Path:
    return next(folder.glob("embeddings*.safetensors"))


def equal(one: Gallery, other: Gallery) -> bool:
    rest = ("places", "keys", "factory", "model", "source")
    same = all(torch.equal(one.embeddings[name], other.embeddings[name]) for name in one.embeddings)
    return same and torch.equal(one.pairs, other.pairs) and all(getattr(one, n) == getattr(other, n) for n in rest)


def flip(path: Path, place: int):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "removed": lambda path, other: path.unlink(),
    "emptied": lambda path, other: path.write_bytes(b""),
    "cut": lambda path, other: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "bit at the start": lambda path, other: flip(path, 9),
    "bit at the middle": lambda path, other: flip(path, path.stat().st_size // 2),
    "bit at the end": lambda path, other: flip(path, -3),
    "of another index": lambda path, other: shutil.copy(other, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["rest", "embeddings"])
def test_every_file_damaged_in_every_way(file, damage, galleries, tmp_path):
    folder = tmp_path / "gallery"
    shutil.copytree(galleries / "0", folder)
    assert len(list(folder.iterdir())) == 2  # else a file is not tried here
    assert equal(Gallery.load(folder, model_of(0)), gallery_of(0))
    path, other = ((place / FILE) if file == "rest" else vectors_in(place) for place in (folder, galleries / "1"))
    DAMAGES[damage](path, other)
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    with pytest.raises((OSError, ValueError)) as raised:
        Gallery.load(folder, model_of(0))
    assert str(folder) in str(raised.value)
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before


@pytest.mark.parametrize("place", range(0, 1000, 37))
def test_any_bit_of_the_json(place, galleries, tmp_path):
    folder = tmp_path / "gallery"
    shutil.copytree(galleries / "0", folder)
    flip(folder / FILE, place % (folder / FILE).stat().st_size)
    with pytest.raises((OSError, ValueError), match="gallery"):
        Gallery.load(folder)


# --- Checks of sense, where there are no checksums: as of before


def as_before(folder: Path, change_tensors=lambda tensors: tensors, change_rest=lambda rest: rest) -> Path:
    """A gallery as earlier releases wrote it."""
    tensors, rest = load_file(vectors_in(folder)), json.loads((folder / FILE).read_text())
    shutil.rmtree(folder)
    folder.mkdir()
    save_file(change_tensors(tensors), folder / EMBEDDINGS)
    rest = {name: rest[name] for name in ("places", "keys", "factory")}
    (folder / FILE).write_text(json.dumps(change_rest(rest)))
    (folder / "source.json").write_text(json.dumps({"split": "test", "model": "runs/x"}))
    return folder


def scaled(name: str, factor: float) -> Callable[[dict], dict]:
    def change(tensors: dict) -> dict:
        values = tensors[name].clone()
        values[1] = values[1] * factor
        return {**tensors, name: values}

    return change


def paired(row: list[int]) -> Callable[[dict], dict]:
    return lambda tensors: {**tensors, "pairs": torch.tensor([row, [0, 0]])}


SENSELESS = {
    "NaN": (scaled("text", float("nan")), None, "text.*nan"),
    "infinite": (scaled("vision", float("inf")), None, "vision"),
    "another length": (scaled("text", 1.5), None, r"1\.5"),
    "zero": (scaled("text", 0.0), None, "lengths from 0"),
    "fewer vectors": (lambda tensors: {**tensors, "text": tensors["text"][:3]}, None, r"\(5, 5, 3\)"),
    "no vectors": (lambda tensors: {n: v for n, v in tensors.items() if n != "vision"}, None, r"\(4, 4, 0\)"),
    "16 bits": (lambda tensors: {**tensors, "text": tensors["text"].half()}, None, "float16"),
    "flat": (lambda tensors: {**tensors, "text": torch.ones(5)}, None, r"\(5,\)"),
    "no pairs": (lambda tensors: {n: v for n, v in tensors.items() if n != "pairs"}, None, "pairs"),
    "a pair of no item": (paired([5, 0]), None, r"\[5, 4\]"),
    "a pair of no picture": (paired([0, 4]), None, r"\[5, 4\]"),
    "a pair below": (paired([-1, 0]), None, "pairs"),
    "pairs of three": (lambda tensors: {**tensors, "pairs": torch.zeros(2, 3, dtype=torch.int64)}, None, r"\(2, 3\)"),
    "fewer places": (None, lambda rest: {**rest, "places": {**rest["places"], "text": [0]}}, r"\(5, 1, 5\)"),
    "a place that is NaN": (
        None,
        lambda rest: {**rest, "places": {**rest["places"], "text": [0, 1, 2, 3, float("nan")]}},
        "places of text",
    ),
    "a place below": (None, lambda rest: {**rest, "places": {**rest["places"], "text": [0, 1, 2, 3, -1]}}, "places"),
    "a key twice": (None, lambda rest: {**rest, "keys": {**rest["keys"], "vision": ["a", "a", "b", "c"]}}, "vision"),
    "no keys": (None, lambda rest: {**rest, "keys": {}}, "keys of"),
    "another factory": (None, lambda rest: {**rest, "factory": 3}, r"factory.*\b3\b"),
    "a key of nobody": (None, lambda rest: {**rest, "stranger": 3}, "stranger"),
    "a list": (None, lambda rest: [rest], "damaged"),
}


@pytest.mark.parametrize("case", SENSELESS)
def test_what_makes_no_sense_is_refused(case, galleries, tmp_path):
    folder = tmp_path / "gallery"
    shutil.copytree(galleries / "0", folder)
    change_tensors, change_rest, told = SENSELESS[case]
    given = {"change_tensors": change_tensors, "change_rest": change_rest}
    as_before(folder, **{name: change for name, change in given.items() if change is not None})
    with pytest.raises(ValueError, match=told) as raised:
        Gallery.load(folder)
    assert str(folder) in str(raised.value)


def test_a_gallery_of_before_loads(galleries, tmp_path):
    shutil.copytree(galleries / "0", tmp_path / "gallery")
    found = Gallery.load(as_before(tmp_path / "gallery"), model_of(1))  # nobody knows who made it
    assert found.source == {"split": "test", "model": "runs/x"}
    assert found.model is None
    found.source, found.model = gallery_of(0).source, gallery_of(0).model
    assert equal(found, gallery_of(0))


# --- Whose it is


def test_an_index_of_another_model_is_refused(galleries, tmp_path):
    assert fingerprint(model_of(0)) == fingerprint(model_of(0).train()) != fingerprint(model_of(1))
    with pytest.raises(ValueError, match=f"{fingerprint(model_of(0))}, not {fingerprint(model_of(1))}"):
        Gallery.load(galleries / "0", model_of(1))
    with pytest.raises(ValueError, match=rf"\[{WIDTH}\].*{WIDTH + 8}"):
        Gallery.load(galleries / "0", model_of(0, WIDTH + 8))
    model = model_of(0)
    model.save_pretrained(tmp_path)
    assert fingerprint(MMFusionForRetrieval.from_pretrained(tmp_path)) == fingerprint(model)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match=f"{galleries / '0'}.*model"):
        Gallery.load(galleries / "0", model)


# --- Writing


@pytest.mark.parametrize("stopped", ["save_file", "os.replace"])
def test_who_stops_while_writing_leaves_the_old_one(stopped, galleries, tmp_path, monkeypatch):
    folder = tmp_path / "gallery"
    shutil.copytree(galleries / "0", folder)
    with monkeypatch.context() as patch:

        def stop(*args, **kwargs):
            raise KeyboardInterrupt

        if stopped == "save_file":
            patch.setattr(mm_hf.gallery, "save_file", stop)
        else:
            patch.setattr(mm_hf.gallery.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            gallery_of(1).save(folder)
    assert equal(Gallery.load(folder, model_of(0)), gallery_of(0))
    gallery_of(1).save(folder)
    assert equal(Gallery.load(folder, model_of(1)), gallery_of(1))
    assert {file.name for file in folder.glob("*.safetensors")} == {vectors_in(folder).name}


def test_a_new_one_takes_the_place_of_one_of_before(galleries, tmp_path):
    shutil.copytree(galleries / "0", tmp_path / "gallery")
    as_before(tmp_path / "gallery")
    (tmp_path / "gallery/query.png").write_bytes(b"drawn")
    gallery_of(1).save(tmp_path / "gallery")
    assert equal(Gallery.load(tmp_path / "gallery"), gallery_of(1))
    names = {file.name for file in (tmp_path / "gallery").iterdir()}
    assert names == {FILE, vectors_in(tmp_path / "gallery").name, "query.png"}


def test_without_xxhash_a_gallery_is_written_and_read(galleries, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("mm_hf.models.checksums.xxhash", None)
    assert Gallery.load(galleries / "0", model_of(1)).model is not None
    found = gallery_of(0)
    found.save(tmp_path)
    assert equal(Gallery.load(tmp_path, model_of(1)), found)
    assert found.model is None
