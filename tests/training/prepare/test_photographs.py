"""The builders of photographs: tiny archives in the layout of the real ones, made here, and what is something else."""

import io
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from datasets import load_from_disk

from benchmarks import photographs
from mm_hf.prepare import flickr8k, houses
from tests.messages import says


REPOSITORY = Path(__file__).parents[3]
HOUSES = 20


def jpeg(number: int) -> bytes:
    """A small photograph of its own: one colour, with noise on it."""
    random = np.random.default_rng(number)
    pixels = random.integers(0, 200, 3, np.uint8) + random.integers(0, 56, (24, 32, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def house_files(count: int = HOUSES) -> dict[str, bytes]:
    """Files by path: houses as their authors hand them out."""
    lines = [
        f"{1 + k % 5} {1 + k % 3 / 2} {900 + 10 * k} {'0' if k % 2 else '9'}1234 {100000 + k}" for k in range(count)
    ]
    files = {"Houses Dataset/HousesInfo.txt": "\n".join(lines).encode()}
    for house in range(1, count + 1):
        for place, name in enumerate(houses.PHOTOGRAPHS):
            files[f"Houses Dataset/{house}_{name}.jpg"] = jpeg(10 * house + place)
    return files


def flickr_files(photos: int = 8) -> dict[str, bytes]:
    """Files by path: Flickr8k as it is handed around."""
    lines = ["image,caption"]
    for photo in range(photos):
        lines += [f'{photo}_a.jpg,"A dog , number {photo} , seen {time} times ."' for time in range(1 + photo % 3)]
    pictures = {f"Images/{photo}_a.jpg": jpeg(photo) for photo in range(photos)}
    return {"captions.txt": "\n".join(lines).encode(), **pictures}


def archive(path: Path, files: dict[str, bytes]) -> str:
    """A zip of these files."""
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return str(path)


def folder(path: Path, files: dict[str, bytes]) -> str:
    """A folder of these files."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return str(path)


def stored(out: Path) -> dict[str, list[dict]]:
    """The rows of each part, photographs as bytes."""
    parts = load_from_disk(str(out))
    return {part: [dict(row) for row in rows.with_format("arrow")[:].to_pylist()] for part, rows in parts.items()}


@pytest.mark.parametrize("handed_out", [archive, folder])
def test_every_house_is_in_one_part(handed_out, tmp_path, capsys):
    files = house_files()
    houses.main([handed_out(tmp_path / "given", files), str(tmp_path / "out")])
    assert "14" in capsys.readouterr().out
    parts = stored(tmp_path / "out")
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 14, "validation": 2, "test": 4}
    rows = [row for part in parts.values() for row in part]
    assert sorted(row["house"] for row in rows) == list(range(1, HOUSES + 1))
    for row in rows:
        k = row["house"] - 1
        assert (row["bedrooms"], row["bathrooms"], row["area"]) == (1 + k % 5, 1 + k % 3 / 2, 900 + 10 * k)
        assert row["zip"] == ("01234" if k % 2 else "91234")  # the 0 in front stays
        assert row["price"] == 100000 + k
        assert row["log_price"] == pytest.approx(np.log10(100000 + k))
        for name in houses.PHOTOGRAPHS:
            assert row[name]["bytes"] == files[f"Houses Dataset/{row['house']}_{name}.jpg"]
    card = (tmp_path / "out/README.md").read_text()
    assert "Do not pass the data on" in card
    assert "1609.08399" in card


def test_each_seed_is_another_cut(tmp_path, monkeypatch):
    monkeypatch.setenv("HOUSES_ZIP", archive(tmp_path / "houses.zip", house_files()))
    drawn = []
    for seed, out in ((0, "a"), (0, "b"), (1, "c")):
        houses.main([str(tmp_path / out), "--seed", str(seed)])
        drawn.append([row["house"] for row in stored(tmp_path / out)["test"]])
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(SystemExit, match=says("seed", 0, "seed", 1, "--force")):
        houses.main([str(tmp_path / "a"), "--seed", "1"])


@pytest.mark.parametrize("handed_out", [archive, folder])
def test_a_photograph_is_in_one_part_with_all_its_captions(handed_out, tmp_path):
    files = flickr_files()
    given = handed_out(tmp_path / "given", files)
    flickr8k.main([given, str(tmp_path / "out"), "--validation", "2", "--test", "3"])
    parts = stored(tmp_path / "out")
    photos = {part: list(dict.fromkeys(row["photo"] for row in rows)) for part, rows in parts.items()}
    assert {part: len(names) for part, names in photos.items()} == {"train": 3, "validation": 2, "test": 3}
    assert sorted(name for names in photos.values() for name in names) == [f"{photo}_a.jpg" for photo in range(8)]
    for rows in parts.values():
        assert [row["row_id"] for row in rows] == sorted(row["row_id"] for row in rows)
        for row in rows:
            number = int(row["photo"][0])
            assert row["caption"] == f"A dog , number {number} , seen {row['caption_number']} times ."
            assert row["image"]["bytes"] == files[f"Images/{row['photo']}"]
    assert sum(map(len, parts.values())) == sum(1 + photo % 3 for photo in range(8))
    card = (tmp_path / "out/README.md").read_text()
    assert "Do not pass the data on" in card


def test_fewer_photographs_to_train_on_leave_the_other_parts(tmp_path):
    given = archive(tmp_path / "flickr.zip", flickr_files())
    parts = []
    for out, sizes in (("a", []), ("b", ["--train", "2"]), ("c", ["--seed", "1"])):
        flickr8k.main([given, str(tmp_path / out), "--validation", "2", "--test", "3", *sizes])
        parts.append({name: {row["photo"] for row in rows} for name, rows in stored(tmp_path / out).items()})
    assert parts[0]["test"] == parts[1]["test"] != parts[2]["test"]
    assert parts[0]["validation"] == parts[1]["validation"]
    assert parts[1]["train"] < parts[0]["train"]
    assert [len(part["train"]) for part in parts] == [3, 2, 3]


def changed(files: dict[str, bytes], name: str, content: bytes | None) -> dict[str, bytes]:
    """The files with another content of one, or without it."""
    return {path: old for path, old in files.items() if path != name} | ({} if content is None else {name: content})


@pytest.mark.parametrize(
    ("builder", "name", "content", "values"),
    [
        (houses, "Houses Dataset/HousesInfo.txt", None, ["HousesInfo.txt"]),
        (houses, "Houses Dataset/HousesInfo.txt", b"\xff\xfe\x00", ["HousesInfo.txt", "UTF-8"]),
        (houses, "Houses Dataset/HousesInfo.txt", b"3 2 1500 91234 9\n" * 4, [4, 10]),
        (
            houses,
            "Houses Dataset/HousesInfo.txt",
            b"3 2 1500 91234 9\n" * 11 + b"3 2 1500 91234",
            ["line 12", "91234"],
        ),
        (houses, "Houses Dataset/HousesInfo.txt", b"3 2 nan 91234 9\n" * 12, ["line 1", "nan"]),
        (houses, "Houses Dataset/HousesInfo.txt", b"3 2 150 91234 0\n" * 12, ["line 1", "3 2 150 91234 0"]),
        (houses, "Houses Dataset/7_kitchen.jpg", None, [HOUSES, 1, "7_kitchen.jpg"]),
        (houses, "Houses Dataset/7_kitchen.jpg", b"no picture", ["7_kitchen.jpg", "picture"]),
        (houses, "other/7_kitchen.jpg", b"another", ["7_kitchen.jpg", "Houses Dataset", "other"]),
        (flickr8k, "captions.txt", None, ["captions.txt"]),
        (flickr8k, "captions.txt", b"photo,caption\n0_a.jpg,A dog", ["photo", "image"]),
        (flickr8k, "captions.txt", b"image,caption\n0_a.jpg,A dog, black", ["row 0", "black"]),
        (flickr8k, "captions.txt", b"image,caption\n0_a.jpg,A dog\n1_a.jpg, ", ["row 1", "1_a.jpg"]),
        (flickr8k, "captions.txt", b"image,caption\n0_a.jpg,A dog\n77.jpg,A cat", [2, 1, "77.jpg"]),
        (flickr8k, "Images/3_a.jpg", b"", ["3_a.jpg", "picture"]),
    ],
)
def test_what_is_something_else(builder, name, content, values, tmp_path):
    files = changed(house_files() if builder is houses else flickr_files(), name, content)
    sizes = [] if builder is houses else ["--validation", "2", "--test", "3"]
    for handed_out in (archive, folder):
        given = handed_out(tmp_path / handed_out.__name__, files)
        with pytest.raises(SystemExit, match=says(*values)):
            builder.main([given, str(tmp_path / "out"), *sizes])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("builder", "variable"), [(houses, "HOUSES_ZIP"), (flickr8k, "FLICKR_ZIP")])
def test_no_archive(builder, variable, tmp_path, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(SystemExit, match=says("OUT", variable)):
        builder.main([str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=says("nowhere.zip")):
        builder.main([str(tmp_path / "nowhere.zip"), str(tmp_path / "out")])
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(SystemExit, match=says("text.zip")):
        builder.main([str(tmp_path / "text.zip"), str(tmp_path / "out")])


@pytest.mark.parametrize("sizes", [{"train": 4}, {"test": 0}, {"validation": 5}])
def test_parts_that_cannot_be(sizes, tmp_path):
    sizes = {"validation": 2, "test": 3, **sizes}
    words = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    ((name, size),) = [
        (name, size) for name, size in sizes.items() if (name, size) not in (("validation", 2), ("test", 3))
    ]
    with pytest.raises(SystemExit, match=says(8, f"--{name} {size}")):
        flickr8k.main([archive(tmp_path / "flickr.zip", flickr_files()), str(tmp_path / "out"), *words])


def test_what_macos_adds_is_left_out(tmp_path):
    files = flickr_files()
    files |= {"__MACOSX/Images/._0_a.jpg": b"x", "__MACOSX/0_a.jpg": b"x", ".DS_Store": b"x", "Images/.DS_Store": b"x"}
    given = archive(tmp_path / "flickr.zip", files)
    flickr8k.main([given, str(tmp_path / "out"), "--validation", "2", "--test", "3"])
    assert len(load_from_disk(str(tmp_path / "out"))["test"]) > 0


@pytest.mark.parametrize(
    ("recipe", "builder", "measured"),
    [
        ("houses_price", houses, {"ridge on both", "recipe, photographs alone", "recipe, table alone"}),
        ("flickr_retrieval", flickr8k, {"ridge map", "image_to_text_recall_at_5"}),
        ("flickr_captioning", flickr8k, {"nearest photograph, most like the others"}),
    ],
)
def test_the_recipes_take_them_and_the_benchmark_measures_them(
    recipe, builder, measured, encoders, tmp_path, monkeypatch
):
    """Two steps each, from the archive to the figures."""
    monkeypatch.setattr(photographs, "RUNS", tmp_path / "runs")
    files, sizes = (house_files(), []) if builder is houses else (flickr_files(), ["--validation", "2", "--test", "3"])
    builder.main([archive(tmp_path / "given.zip", files), str(tmp_path / "set"), *sizes])
    named = {"vision_encoder": "mobilenet-v2", "text_encoder": "minilm-l6", "decoder": "minilm-l6"}
    of_recipe = (REPOSITORY / f"mm_hf/recipes/{recipe}.yaml").read_text()
    base = (REPOSITORY / f"mm_hf/recipes/{recipe.replace('flickr', 'openmoji')}.yaml") if builder is flickr8k else None
    of_recipe += "" if base is None else base.read_text()
    words = [
        word for key, name in named.items() if f"{key}:" in of_recipe for word in (f"--{key}", str(encoders / name))
    ]
    words += ["--image_size", "64", "--max_steps", "2", "--eval_steps", "2"]
    items = {}
    run = photographs.opened(recipe, tmp_path / "set", 0, words, items)
    first = photographs.MEASURES[recipe](run)
    assert measured | {"recipe", "seconds"} <= set(first)
    assert all(np.isfinite(value) for value in first.values())
    assert len(items["vision"]) == (4 * HOUSES if builder is houses else 8)
    if recipe != "flickr_retrieval":  # the quickest
        return
    # With the features that are there: the same figures, and nothing is encoded.
    again = photographs.MEASURES[recipe](photographs.opened(recipe, tmp_path / "set", 0, words, items))
    assert {**first, "seconds": 0} == pytest.approx({**again, "seconds": 0}, abs=1e-5)


def test_the_summary_is_cut_by_cut():
    cuts = [{"floor": 0.5, "recipe": 0.4, "seconds": 2.0}, {"floor": 0.7, "recipe": 0.6, "seconds": 4.0}]
    measured = photographs.summary(cuts)
    assert measured["means"] == pytest.approx({"floor": 0.6, "recipe": 0.5, "seconds": 3.0})
    assert set(measured["recipe minus"]) == {"floor"}
    assert measured["recipe minus"]["floor"] == pytest.approx({"mean": -0.1, "interval": 0}, abs=1e-9)
    assert photographs.summary(cuts[:1])["recipe minus"]["floor"]["interval"] is None
