"""Right and wrong pairs: as many of each, of every picture and of every name."""

from collections import Counter

import pytest
from datasets import load_from_disk

from mm_hf.prepare import mismatch


@pytest.fixture(scope="module")
def built(openmoji_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "mismatch"
    mismatch.main([str(openmoji_folder), str(folder)])
    return folder


def test_neither_picture_nor_name_tells_anything(built, openmoji_folder):
    openmoji = load_from_disk(str(openmoji_folder))
    for name, part in load_from_disk(str(built)).items():
        names, answers, ids = part["name"][:], part["answer"][:], part["row_id"][:]
        assert Counter(zip(names, answers)) == Counter(
            (n, answer) for n in openmoji[name]["name"] for answer in (0, 1)
        )
        assert Counter(zip(ids, answers)) == Counter(
            (i, answer) for i in openmoji[name]["row_id"] for answer in (0, 1)
        )
        own = dict(zip(openmoji[name]["row_id"], openmoji[name]["name"]))
        assert all((own[i] == n) == (answer == 0) for i, n, answer in zip(ids, names, answers))
        category = dict(zip(openmoji[name]["name"], openmoji[name]["category"]))
        for row_category, n, kind in zip(part["category"], names, part["kind"]):
            assert (row_category == category[n]) == (kind != "other category")
        kinds = Counter(part["kind"])
        assert abs(kinds["same category"] - len(part) / 4) <= 2
        first = part[0]
        assert first["image"].size == openmoji[name][0]["image"].size


def test_the_same_seed_gives_the_same_pairs(openmoji_folder):
    categories = load_from_disk(str(openmoji_folder))["test"]["category"][:]
    assert mismatch.exchanged(categories, 3) == mismatch.exchanged(categories, 3)
    assert mismatch.exchanged(categories, 3) != mismatch.exchanged(categories, 4)


@pytest.mark.parametrize("categories", [[0, 0], [0, 1], [0, 0, 0, 1], [0] * 7, list(range(9))])
def test_every_name_is_taken_once(categories):
    for seed in range(20):
        order, kinds = mismatch.exchanged(categories, seed)
        assert sorted(order) == list(range(len(categories)))
        assert all(row != other for row, other in enumerate(order))
        same = [categories[row] == categories[other] for row, other in enumerate(order)]
        assert kinds == ["same category" if alike else "other category" for alike in same]


def test_what_it_cannot_be_made_from(built, tmp_path, capsys):
    with pytest.raises(SystemExit, match="nowhere"):
        mismatch.main([str(tmp_path / "nowhere"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    mismatch.main([str(tmp_path / "nowhere"), str(built)])
    assert "complete, left as it is" in capsys.readouterr().out
