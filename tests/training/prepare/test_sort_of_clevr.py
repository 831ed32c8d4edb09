"""The Sort-of-CLEVR builder: every answer is found again from the pixels of its picture."""

import hashlib
import io
import itertools
import json
import re
from collections import Counter

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, List, Value, load_from_disk

from mm_hf.prepare import sort_of_clevr


IMAGES = {"train": 200, "validation": 40, "test": 60}
SIZES = [f"--{name}_images={images}" for name, images in IMAGES.items()]
ANSWERS = ["yes", "no", "circle", "square", "1", "2", "3", "4", "5", "6"]
COLORS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "orange": (255, 156, 0),
    "gray": (128, 128, 128),
    "yellow": (255, 255, 0),
}
# What each type asks, and of which kind it is.
QUESTIONS = {
    "closest": ("relational", "What is the shape of the object closest to the {} object?"),
    "furthest": ("relational", "What is the shape of the object furthest from the {} object?"),
    "count": ("relational", "How many objects have the shape of the {} object?"),
    "shape": ("non-relational", "What is the shape of the {} object?"),
    "left": ("non-relational", "Is the {} object in the left half of the image?"),
    "top": ("non-relational", "Is the {} object in the top half of the image?"),
}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "sort_of_clevr"
    sort_of_clevr.main([str(folder), *SIZES])
    return folder


@pytest.fixture(scope="module")
def splits(output):
    return load_from_disk(output)


@pytest.fixture(scope="module")
def images(splits):
    """For each split, its images in order: the bytes of the picture and the rows of its questions."""
    found = {}
    for split, rows in splits.items():
        files = [cell["bytes"] for cell in rows.with_format("arrow")[:]["image"].to_pylist()]
        texts = rows.remove_columns("image").to_list()
        groups = itertools.groupby(zip(files, texts, strict=True), key=lambda pair: pair[1]["image_id"])
        found[split] = []
        for _, group in groups:
            pictures, questions = zip(*group, strict=True)
            assert len(set(pictures)) == 1
            found[split].append((pictures[0], questions))
    return found


def pixels_of(picture: bytes) -> np.ndarray:
    """uint8 (75, 75, 3)."""
    image = PIL.Image.open(io.BytesIO(picture))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image)


def see(pixels: np.ndarray) -> dict[str, tuple[str, int, int]]:
    """Shape and centre (x, y) of the object of each colour, by looking."""
    objects, covered = {}, 0
    for color, value in COLORS.items():
        down, across = np.nonzero((pixels == value).all(axis=-1))
        left, top = across.min(), down.min()
        # Eleven pixels wide, and where anything lay on top of it, pixels of it would be missing.
        assert (across.max() - left, down.max() - top) == (10, 10)
        at_corner = bool((pixels[top, left] == value).all())
        assert len(across) == (121 if at_corner else 97)
        covered += len(across)
        assert (across.mean(), down.mean()) == (left + 5, top + 5)
        objects[color] = ("square" if at_corner else "circle", int(left) + 5, int(top) + 5)
    assert (pixels == 255).all(axis=-1).sum() == 75 * 75 - covered
    return objects


def answer(question: str, objects: dict[str, tuple[str, int, int]]) -> str:
    """The one answer to a question, from what was seen."""
    (color,) = re.findall(rf"the ({'|'.join(COLORS)}) object", question)
    shape, x, y = objects[color]
    if "How many" in question:
        return str([other for other, _, _ in objects.values()].count(shape))
    if "half" in question:
        place = x if "left" in question else y
        assert place != 37, "on the middle line"
        return "yes" if place < 37 else "no"
    if "closest" not in question and "furthest" not in question:
        return shape
    distances = {other: np.hypot(there[1] - x, there[2] - y) for other, there in objects.items() if other != color}
    wanted = min(distances.values()) if "closest" in question else max(distances.values())
    (meant,) = (other for other, distance in distances.items() if distance == wanted)
    return objects[meant][0]


def texts_of(rows) -> list[dict]:
    """All but the pictures and the positions, which depend on the sizes of the splits."""
    return rows.remove_columns(["image", "row_id"]).to_list()


def test_sizes(splits, images):
    assert list(splits) == ["train", "validation", "test"]
    assert {split: len(rows) for split, rows in splits.items()} == {name: 20 * n for name, n in IMAGES.items()}
    for split, found in images.items():
        ids = [questions[0]["image_id"] for _, questions in found]
        assert ids == [f"{split}/{number}" for number in range(IMAGES[split])]


def test_sizes_by_default():
    options = sort_of_clevr.parse_arguments(["out"])
    assert (options.train_images, options.validation_images, options.test_images) == (9_800, 200, 200)


def test_columns(splits):
    for rows in splits.values():
        assert rows.column_names == [
            "image", "image_id", "question", "answer", "kind", "type", "objects", "row_id",
        ]  # fmt: skip
        assert rows.features["image"].mode == "RGB"
        assert rows.features["answer"] == ClassLabel(names=ANSWERS)
        assert isinstance(rows.features["objects"], List)
        assert rows.features["row_id"] == Value("int64")
    assert [row for rows in splits.values() for row in rows["row_id"]] == list(range(20 * sum(IMAGES.values())))
    assert splits["test"][0]["image"].size == (75, 75)


def test_every_answer_is_that_of_the_picture(images):
    seen = Counter()
    for found in images.values():
        for picture, questions in found:
            objects = see(pixels_of(picture))
            for row in questions:
                expected = answer(row["question"], objects)
                assert ANSWERS[row["answer"]] == expected, (row["image_id"], row["question"], objects)
                seen[row["type"], expected] += 1
    # Every type was met with every answer that it can have.
    shapes = ["circle", "square"]
    answers = dict.fromkeys(QUESTIONS, shapes) | {"count": ANSWERS[4:], "left": ["yes", "no"], "top": ["yes", "no"]}
    assert set(seen) == {(name, one) for name, possible in answers.items() for one in possible}


def test_objects_are_those_in_the_picture(images):
    for found in images.values():
        for picture, questions in found:
            objects = [
                {"color": color, "shape": shape, "x": x, "y": y}
                for color, (shape, x, y) in see(pixels_of(picture)).items()
            ]
            assert all(row["objects"] == objects for row in questions)


def test_ten_and_ten_questions_an_image_and_none_twice(images):
    for _, questions in itertools.chain(*images.values()):
        assert Counter(row["kind"] for row in questions) == {"relational": 10, "non-relational": 10}
        assert len({row["question"] for row in questions}) == 20


def test_all_questions_appear_under_their_type_and_kind(splits):
    expected = {(text.format(color), kind, name) for name, (kind, text) in QUESTIONS.items() for color in COLORS}
    assert len(expected) == 36
    for rows in splits.values():
        assert set(zip(rows["question"], rows["kind"], rows["type"], strict=True)) == expected


def test_answers_are_balanced(splits):
    rows = splits["train"].remove_columns("image").to_list()
    shares = {
        name: np.bincount([row["answer"] for row in rows if row["type"] == name], minlength=10)
        / sum(row["type"] == name for row in rows)
        for name in QUESTIONS
    }
    for name in ("left", "top"):
        assert shares[name][0] == pytest.approx(0.5, abs=0.05), name
    for name in ("closest", "furthest", "shape"):
        assert shares[name][2] == pytest.approx(0.5, abs=0.05), name
    # One and a fair draw of the other five: 1, 5, 10, 10, 5 and 1 of 32. One picture gives all its counts at once.
    assert shares["count"][4:] == pytest.approx(np.array([1, 5, 10, 10, 5, 1]) / 32, abs=0.1)
    types = Counter(row["type"] for row in rows)
    assert all(types[name] / len(rows) == pytest.approx(1 / 6, abs=0.02) for name in QUESTIONS)


def test_no_picture_is_in_two_places(images):
    pictures = [pixels_of(picture).tobytes() for found in images.values() for picture, _ in found]
    assert len(set(pictures)) == len(pictures) == sum(IMAGES.values())


def test_the_seed_decides_and_the_sizes_do_not(splits):
    again = sort_of_clevr.build(train_images=30, validation_images=50, test_images=1, seed=0)
    for split, rows in again.items():
        count = min(len(rows), len(splits[split]))
        one, other = rows.select(range(count)), splits[split].select(range(count))
        assert texts_of(one) == texts_of(other)
        one, other = (part.with_format("arrow")[:]["image"].to_pylist() for part in (one, other))
        assert one == other
    other = sort_of_clevr.build(train_images=30, validation_images=1, test_images=1, seed=1)
    for one, two in zip(other["train"]["objects"][::20], again["train"]["objects"][::20], strict=True):
        assert one != two


def test_blocks_join_without_a_seam(splits, monkeypatch):
    monkeypatch.setattr(sort_of_clevr, "BLOCK", 7)
    rows = sort_of_clevr.generate_split("train", 30, seed=0, first_row_id=0)
    assert (
        rows.remove_columns("image").to_list() == splits["train"].select(range(600)).remove_columns("image").to_list()
    )


def test_the_first_picture_is_the_same_on_every_machine(images):
    """Found with Python 3.10 to 3.13 and Pillow 11.0 and 13.0."""
    picture, questions = images["train"][0]
    assert [tuple(thing.values()) for thing in questions[0]["objects"]] == [
        ("red", "circle", 33, 19),
        ("green", "circle", 36, 64),
        ("blue", "circle", 63, 35),
        ("orange", "square", 12, 18),
        ("gray", "square", 64, 46),
        ("yellow", "circle", 50, 38),
    ]
    assert [row["question"] for row in questions[:2]] == [
        "What is the shape of the object closest to the blue object?",
        "What is the shape of the object closest to the gray object?",
    ]
    digest = hashlib.sha256(pixels_of(picture).tobytes()).hexdigest()
    assert digest == "5ebb4457c69f79e360ee595fd8941c4e9327fb16293d7778d35209c81c5173eb"


@pytest.mark.parametrize(
    ("places", "tie"),
    [
        ([(33, 19), (36, 64), (63, 35), (12, 18), (64, 46), (50, 38)], False),
        # Blue and gray are closest to red; no other two are in the way of a question.
        ([(17, 53), (33, 26), (25, 64), (61, 60), (9, 42), (48, 11)], True),
        # Red and orange are furthest from gray.
        ([(57, 20), (42, 63), (26, 21), (5, 12), (25, 55), (39, 22)], True),
    ],
)
def test_ties_are_seen(places, tie):
    scene = [sort_of_clevr.Thing(color, "circle", *place) for color, place in zip(COLORS, places, strict=True)]
    assert sort_of_clevr.has_tie(scene) is tie


def test_complete_folder_is_left(output, capsys, monkeypatch):
    def fail(**settings):
        raise AssertionError("built again")

    monkeypatch.setattr(sort_of_clevr, "build", fail)
    sort_of_clevr.main([str(output), *SIZES])
    assert "complete, left as it is" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="built again"):
        sort_of_clevr.main([str(output), *SIZES, "--force"])
    assert len(load_from_disk(output)["test"]) == 20 * IMAGES["test"]


def test_force_builds_anew(tmp_path):
    sizes = [f"--{name}_images=1" for name in IMAGES]
    sort_of_clevr.main([str(tmp_path / "out"), *sizes])
    sort_of_clevr.main([str(tmp_path / "out"), *sizes, "--seed=1", "--force"])
    one, other = load_from_disk(tmp_path / "out"), sort_of_clevr.build(1, 1, 1, seed=1)
    assert [rows["objects"][:] for rows in one.values()] == [rows["objects"][:] for rows in other.values()]
    assert json.loads((tmp_path / "out/preparation.json").read_text())["seed"] == 1


def test_other_settings_are_not_taken_for_done(output):
    with pytest.raises(SystemExit, match=r"'seed': 0.*'seed': 1.*--force"):
        sort_of_clevr.main([str(output), *SIZES, "--seed", "1"])
    with pytest.raises(SystemExit, match=r"'test_images': 60.*'test_images': 61.*--force"):
        sort_of_clevr.main([str(output), *SIZES, "--test_images=61"])


@pytest.mark.parametrize("name", IMAGES)
def test_empty_split_is_refused(tmp_path, name):
    sizes = [f"--{split}_images={0 if split == name else 1}" for split in IMAGES]
    with pytest.raises(SystemExit, match=rf"error: {name}_images.*\b0, .*\b1 "):
        sort_of_clevr.main([str(tmp_path / "out"), *sizes])
    assert not list(tmp_path.iterdir())


def test_card_gives_the_floors_that_were_measured(splits, images, output):
    card = (output / "README.md").read_text(encoding="utf-8")
    train = splits["train"].remove_columns("image").to_list()
    right = {name: [] for name in [*QUESTIONS, "relational", "non-relational", "all"]}
    for picture, questions in images["test"]:
        shapes = {color: shape for color, (shape, _, _) in see(pixels_of(picture)).items()}
        for row in questions:
            (constant, _), *_ = Counter(one["answer"] for one in train if one["type"] == row["type"]).most_common()
            (color,) = re.findall(rf"the ({'|'.join(COLORS)}) object", row["question"])
            others = [shape for other, shape in shapes.items() if other != color]
            guess = {
                "count": str(1 + others.count(shapes[color])),
                "shape": shapes[color],
                "closest": max(("circle", "square"), key=others.count),
                "furthest": max(("circle", "square"), key=others.count),
            }.get(row["type"], ANSWERS[constant])
            for name in (row["type"], row["kind"], "all"):
                right[name].append((row["answer"] == constant, ANSWERS[row["answer"]] == guess))
    for name, pairs in right.items():
        constant, shapes = 100 * np.mean(pairs, axis=0)
        assert f"\n| {name} | {constant:.1f} | {shapes:.1f} |\n" in card
    assert "63 % of the relational" in card
    assert "over 94 % of both kinds" in card


def test_card_names_licence_source_and_questions(output):
    card = (output / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "https://arxiv.org/abs/1706.01427" in card
    assert all(f"| `{name}` | {text.format('red')} |" in card for name, (_, text) in QUESTIONS.items())
    assert "Apache License" in (output / "LICENSE").read_text(encoding="utf-8")
