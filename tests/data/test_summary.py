"""What is said of a data set before it is trained on."""

import re

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from messages import says
from PIL import Image as PILImage

from mm_hf.data import Columns, describe, labels_of, load_splits, normalise_labels, summary_lines


COLUMNS = Columns(image="image", text="question", label="answer")
SIZES = [(10, 10), (20, 10), (40, 30)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twelve rows of three pictures; a broken and a missing picture, absent ones, absent texts and labels."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    for number, size in enumerate(SIZES):
        PILImage.new("RGB", size).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    names = [
        "0.png",
        "1.png",
        "2.png",
        "0.png",
        "broken.png",
        "gone.png",
        "",
        "",
        "0.png",
        "1.png",
        "2.png",
        "../x.png",
    ]
    for part in ("train", "validation", "test"):
        lines = [f"{name},{'one ' * (n % 4)},{[1, 2, 2, ''][n % 4]}" for n, name in enumerate(names)]
        (tmp_path / f"{part}.csv").write_text("\n".join(["image,question,answer", *lines]).replace(" ,", ",") + "\n")
    return tmp_path


class Words:
    """A tokenizer of two tokens a word."""

    def __call__(self, texts, **kwargs):
        return type("Encoding", (), {"input_ids": [[0] * 2 * len(text.split()) for text in texts]})


@pytest.mark.parametrize("streaming", [False, True])
def test_everything(folder, streaming):
    splits = load_splits(folder, COLUMNS, streaming=streaming)
    names, problem_type = labels_of(splits, "answer")
    splits = normalise_labels(splits, {"answer": names})
    found = describe(splits, COLUMNS, names, problem_type, tokenizer=Words(), root=str(folder))
    assert found["streamed_rows"] == (1000 if streaming else None)
    assert found["rows"] == {"train": 12, "validation": 12, "test": 12}
    columns = {column["part"]: column for column in found["columns"]}
    assert columns["image"]["type"] == "image"
    assert columns["image"]["absent"]["train"] == 2 / 12
    assert columns["text"]["absent"]["test"] == columns["label"]["absent"]["test"] == 0.25
    assert found["labels"]["counts"]["train"] == {"1": 3, "2": 6}
    assert found["labels"]["ratio"] == 2
    pictures = found["pictures"]["image"]
    assert pictures == {"looked_at": 10, "unreadable": 3, "sizes": [(10, 10), (20, 10), (40, 30)], "distinct": 6}
    assert found["texts"] == {"looked_at": 9, "words": [2, 3, 3], "tokens": [4, 6, 6], "distinct": 3}
    lines = summary_lines(found)
    text = "\n".join(lines)
    for part in (
        "train 12, validation 12, test 12",
        "absent: train 16.7%, validation 16.7%, test 16.7%",
        "image: min / median / max 10×10 / 20×10 / 40×30; 6 distinct; unreadable 3 of 10 looked at",
        "words 2 / 3 / 3; tokens 4 / 6 / 6; 3 distinct",
        "single label classification, 2 classes, most to least frequent 2.0 : 1: 2 6, 1 3",
    ):
        assert part in text
    assert ("first 1,000 rows" in text) == streaming
    assert len(lines) <= 25


def test_many_classes_and_bytes_and_a_cut():
    """Counts are exact beyond what is shown and sampled, of rows that were cut out of others too."""
    names = [f"a class with a very long name indeed, number {n}" for n in range(150)]
    types = Features({"image": Image(decode=False), "answer": ClassLabel(names=names), "id": Value("int64")})
    picture = {"bytes": b"broken", "path": None}
    values = {
        "image": [None if n % 3 == 0 else picture for n in range(3000)],
        "answer": [n % 149 if n % 2 else -1 for n in range(3000)],
        "id": [n % 7 for n in range(3000)],
    }
    dataset = Dataset.from_dict(values, features=types)
    splits = DatasetDict(train=dataset.select(range(0, 3000, 3)), test=dataset)
    found = describe(splits, Columns(image="image", label="answer"), names, "single_label_classification")
    assert found["columns"][0]["absent"] == {"train": 1, "test": 1 / 3}
    assert sum(found["labels"]["counts"]["test"].values()) == 1500
    assert found["labels"]["ratio"] is None
    assert found["texts"] is None
    found = describe(DatasetDict(train=dataset), Columns(image="image", image_id="id"), None, "regression")
    assert found["labels"] is None
    assert found["pictures"]["image"]["distinct"] == 7
    assert found["pictures"]["image"]["sizes"] is None
    found = describe(
        DatasetDict(train=dataset), Columns(image="image", label="answer"), names, "single_label_classification"
    )
    assert found["pictures"]["image"]["distinct"] is None
    lines = summary_lines(found)
    assert any("150 classes" in line for line in lines)
    assert any("and 130 more" in line for line in lines)
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("several", [False, True])
def test_other_labels(several):
    labels = [["b", "a"], [], None, ["b"]] if several else [0.5, None, float("nan"), 2.5]
    splits = DatasetDict(train=Dataset.from_dict({"answer": labels}))
    names, problem_type = labels_of(splits, "answer")
    found = describe(splits, Columns(label="answer"), names, problem_type)
    line = summary_lines(found)[-1]
    if several:
        assert found["labels"]["counts"]["train"] == {"a": 1, "b": 2}
        assert found["columns"][0]["type"] == "list of string"
        assert "multi label classification, 2 classes, most to least frequent 2.0 : 1: b 2, a 1" in line
    else:
        assert found["labels"]["values"] == [0.5, 1.5, 2.5]
        assert found["columns"][0]["absent"]["train"] == 0.5
        assert "regression: min / mean / max 0.5 / 1.5 / 2.5" in line


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, 2, 3, 4, 5] * 6, ("regression",)),  # stars
        ([n % 13 for n in range(150)], ("regression",)),  # votes
        ([80_000 + 100 * n for n in range(50)], ("single_label_classification",)),  # prices
        ([0, 1] * 20, ()),
        ([0.5 * n for n in range(50)], ()),
        ([1000 * n for n in range(500)], ()),
        (["a", "b", "c"] * 9, ()),
    ],
    ids=["stars", "votes", "prices", "two", "halves", "many", "words"],
)
def test_what_whole_numbers_are_taken_for_and_the_flag_for_the_other(labels, said):
    splits = DatasetDict(train=Dataset.from_dict({"label": labels}))
    names, problem_type = labels_of(splits, "label")
    lines = "\n".join(summary_lines(describe(splits, Columns(label="label"), names, problem_type)))
    assert ("--problem_type" in lines) == bool(said)
    assert re.search(says("labels", *said), lines)
    # What is a class by its type is none of these.
    if said:
        classes = DatasetDict(
            train=Dataset.from_dict({"label": [0, 1, 2]}, Features(label=ClassLabel(names=["0", "1", "2"])))
        )
        lines = summary_lines(
            describe(classes, Columns(label="label"), ["0", "1", "2"], "single_label_classification")
        )
        assert "--problem_type" not in "\n".join(lines)


def test_classes_that_a_part_has_no_row_of():
    values = {"train": "aaabb", "validation": "ab", "test": "aac", "new": [None]}
    splits = {
        name: Dataset.from_dict({"x": [1.0] * len(labels), "y": list(labels)}) for name, labels in values.items()
    }
    found = describe(DatasetDict(splits), Columns(table=["x"], label="y"), list("abc"), "single_label_classification")
    lines = [line.strip() for line in summary_lines(found) if "no row of" in line]
    assert lines == [
        "no row of train, so not learned there: c",
        "no row of validation, so not measured there: c",
        "no row of test, so not measured there: b",
    ]
