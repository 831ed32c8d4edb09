"""The easy-VQA builder: official splits, no picture on both sides of the cut, rows that match the package."""

import itertools
import json
from collections import Counter

import pytest
from datasets import ClassLabel, Value, load_from_disk

from mm_hf.prepare import easy_vqa
from mm_hf.prepare.common import package_path


@pytest.fixture(scope="session")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "easy_vqa"
    easy_vqa.main([str(folder)])
    return folder


@pytest.fixture(scope="session")
def splits(output):
    return load_from_disk(output)


@pytest.fixture(scope="session")
def package():
    data = package_path(easy_vqa.PACKAGE, easy_vqa.DATA)
    return data, {name: json.loads((data / name / "questions.json").read_text()) for name in ("train", "test")}


def test_sizes(splits):
    assert list(splits) == ["train", "validation", "test"]
    assert len(splits["train"]) + len(splits["validation"]) == 38_575
    assert len(splits["test"]) == 9_673
    images = {name: set(rows["image_id"][:]) for name, rows in splits.items()}
    assert {name: len(ids) for name, ids in images.items()} == {"train": 3_600, "validation": 400, "test": 1_000}


def test_no_image_is_in_two_splits(splits):
    images = [set(rows["image_id"][:]) for rows in splits.values()]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(images, 2))


def test_columns(splits):
    for rows in splits.values():
        assert rows.column_names == ["image", "image_id", "question", "answer", "kind", "row_id"]
        assert rows.features["image"].mode == "RGB"
        assert isinstance(rows.features["answer"], ClassLabel)
        assert rows.features["row_id"] == Value("int64")


def test_answers_keep_the_packages_order(splits, package):
    data, _ = package
    names = splits["train"].features["answer"].names
    assert len(names) == 13
    assert names == (data / "answers.txt").read_text().split()


def test_every_row_matches_the_package(splits, package):
    _, questions = package
    official = questions["train"] + questions["test"]
    names = splits["test"].features["answer"].names
    seen = []
    for split, rows in splits.items():
        folder = "test" if split == "test" else "train"
        for row in rows.remove_columns("image").to_list():
            question, answer, number = official[row["row_id"]]
            assert (row["question"], names[row["answer"]], row["image_id"]) == (question, answer, f"{folder}/{number}")
            seen.append(row["row_id"])
    assert sorted(seen) == list(range(len(official)))
    assert [names[label] for label in splits["test"]["answer"][:20]] == [row[1] for row in questions["test"][:20]]


def test_questions_of_an_image_are_adjacent(splits):
    for rows in splits.values():
        image_ids = rows["image_id"][:]
        assert len(list(itertools.groupby(image_ids))) == len(set(image_ids))


def test_pictures_are_those_of_the_package(splits, package):
    data, _ = package
    for split, rows in splits.items():
        row = rows[len(rows) // 2]
        assert (row["image"].mode, row["image"].size) == ("RGB", (64, 64)), split
        stored = rows.with_format("arrow")[len(rows) // 2]["image"][0].as_py()
        assert stored["bytes"] == (data / "{}/images/{}.png".format(*row["image_id"].split("/"))).read_bytes()


def test_kinds_follow_the_answer(splits):
    names = splits["test"].features["answer"].names
    kinds = {
        (names[label], kind) for label, kind in zip(splits["test"]["answer"], splits["test"]["kind"], strict=True)
    }
    assert len(kinds) == 13
    assert Counter(kind for _, kind in kinds) == {"yes/no": 2, "shape": 3, "color": 8}
    assert ("teal", "color") in kinds
    assert ("circle", "shape") in kinds
    assert Counter(splits["test"]["kind"])["yes/no"] == 7_136


def test_majority_floor_on_the_test_split(splits):
    _, count = Counter(splits["test"]["answer"]).most_common(1)[0]
    assert count / len(splits["test"]) == pytest.approx(0.373, abs=5e-4)


def test_the_seed_decides_the_cut(splits):
    official = easy_vqa.build(validation_fraction=0.1, seed=0)
    assert official["validation"]["row_id"][:] == splits["validation"]["row_id"][:]
    other = easy_vqa.build(validation_fraction=0.05, seed=1)
    assert len(set(other["validation"]["image_id"][:])) == 200
    assert not set(other["validation"]["image_id"][:]) <= set(splits["validation"]["image_id"][:])


def test_complete_folder_is_left(output, capsys, monkeypatch):
    def fail(*arguments):
        raise AssertionError("built again")

    monkeypatch.setattr(easy_vqa, "build", fail)
    easy_vqa.main([str(output)])
    assert "complete, left as it is" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="built again"):
        easy_vqa.main([str(output), "--force"])
    assert len(load_from_disk(output)["test"]) == 9_673


def test_other_settings_are_not_taken_for_done(output):
    with pytest.raises(SystemExit, match=r"'seed': 0.*'seed': 1.*--force"):
        easy_vqa.main([str(output), "--seed", "1"])


@pytest.mark.parametrize("fraction", ["0", "1", "-0.1", "1.5"])
def test_fraction_out_of_range_is_refused(tmp_path, fraction):
    with pytest.raises(SystemExit, match=rf"validation_fraction.*{float(fraction)} .*\b1 to 3999"):
        easy_vqa.main([str(tmp_path / "out"), f"--validation_fraction={fraction}"])
    assert not list(tmp_path.iterdir())


def test_changed_package_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(easy_vqa.SHA256, "test/questions.json", "0" * 64)
    with pytest.raises(SystemExit, match="0" * 64):
        easy_vqa.main([str(tmp_path / "out")])


def test_card_names_licence_and_source(output):
    card = (output / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: mit\n")
    assert "Victor Zhou" in card
    assert "https://github.com/vzhou842/easy-VQA" in card
    assert "Victor Zhou" in (output / "LICENSE").read_text(encoding="utf-8")
