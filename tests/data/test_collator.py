"""From real rows to batches: distinct items once, absent ones marked, bad rows named."""

import dataclasses
import io
import math
import re
from decimal import Decimal

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from mm_hf import MMFusionProcessor
from mm_hf.data import Columns, MultimodalCollator
from mm_hf.data.labels import label_tensor
from mm_hf.data.rows import BadRowError
from mm_hf.models.losses import classification_loss


COLUMNS = Columns(image="image", text="question", label="answer")
NAMES = ["no", "yes"]


def picture(color):
    buffer = io.BytesIO()
    PILImage.new("RGB", (40, 30), color).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def rows(images, questions, answers=None):
    answers = [0] * len(images) if answers is None else answers
    return [
        {"image": image, "question": question, "answer": answer, "row_id": row, "split": "train"}
        for row, (image, question, answer) in enumerate(zip(images, questions, answers))
    ]


@pytest.fixture(scope="module")
def processor(encoders):
    return MMFusionProcessor.from_encoders_pretrained(vision=encoders / "mobilenet-v2", text=encoders / "minilm-l6")


@pytest.fixture(scope="module")
def collator(processor):
    return MultimodalCollator(processor, COLUMNS, {name: number for number, name in enumerate(NAMES)})


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([1, 0], [1, 0]),
        ([1, None], [1, -100]),
        ([1, -1], [1, -100]),
        (["yes", "no"], [1, 0]),
        (["yes", None], [1, -100]),
    ],
)
def test_labels(collator, answers, expected):
    assert collator(rows([None, None], ["a", "b"], answers))["labels"].tolist() == expected


def test_missing_numbers_are_never_classes(processor):
    collator = MultimodalCollator(processor, COLUMNS, problem_type="regression")
    assert collator(rows([None, None], ["a", "b"], [None, None]))["labels"].isnan().all()
    labels = collator(rows([None, None], ["a", "b"], [5, None]))["labels"]
    assert labels.dtype == torch.float32
    assert labels[1].isnan()


def test_names_without_a_list(processor):
    with pytest.raises(BadRowError, match=r"'answer'.*'yes'.*label"):
        MultimodalCollator(processor, COLUMNS)(rows([None], ["a"], ["yes"]))


def test_pictures_without_an_id_are_told_apart_by_content(processor):
    collator = MultimodalCollator(processor, Columns(image="image", image_id="name", text="question", label="answer"))
    data = rows([picture("red"), picture("blue"), picture("red")], ["a", "a", "a"])
    batch = collator([{**row, "name": None} for row in data])
    assert batch["vision_index"].tolist() == [0, 1, 0]


def test_float_labels(processor):
    collator = MultimodalCollator(processor, COLUMNS)
    labels = collator(rows([None, None], ["a", "b"], [0.5, None]))["labels"]
    assert labels[0] == 0.5
    assert labels[1].isnan()
    labels = collator(rows([None, None], ["a", "b"], [[0.5, 1.0], None]))["labels"]
    assert labels.shape == (2, 2)
    assert labels[1].isnan().all()


@pytest.mark.parametrize(
    ("images", "questions", "answers", "message"),
    [
        (
            [{"bytes": b"no picture", "path": None}],
            ["a"],
            [0],
            r"row 0 .*'train'.*'image'.*b'no picture'",
        ),
        (
            [{"bytes": None, "path": "no/such.png"}],
            ["a"],
            [0],
            "'image'.*'no/such.png'",
        ),
        ([{"bytes": None, "path": "../x.png"}], ["a"], [0], r"'image'.*'\.\./x\.png'.*'/"),
        ([{"bytes": None, "path": None}], ["a"], [0], "'image'.*bytes.*path"),
        ([{"bytes": b"", "path": None}], ["a"], [0], "'image'.*picture.*(empty|b'')"),
        ([None], [7], [0], r"'question'.*text.*\(7\)"),
        ([None, None], ["a", " "], [0, 0], r"row 1 .*'train'.*'question'.*text.*\(' '\)"),
        ([None], ["a"], ["maybe"], "'answer'.*'maybe'.*'no', 'yes'"),
        ([None], ["a"], [7], r"'answer'.*\b7 .*0…1"),
    ],
)
def test_bad_rows_are_named(collator, tmp_path, images, questions, answers, message):
    with pytest.raises(BadRowError, match=message) as caught:
        dataclasses.replace(collator, root=str(tmp_path))(rows(images, questions, answers))
    assert "\n" not in str(caught.value)


def test_truncated_picture_is_named(collator):
    broken = picture("red")
    broken["bytes"] = broken["bytes"][:60]
    with pytest.raises(BadRowError, match=r"row 0 .*'image'.*truncated"):
        collator(rows([broken], ["a"]))


BROKEN = {"bytes": b"no picture", "path": "folder/broken.png"}


@pytest.fixture
def skipping(collator, tmp_path):
    return dataclasses.replace(collator, on_error="skip", root=str(tmp_path))


def places(batch):
    return [(entry["row"], entry["column"]) for entry in batch["bad_rows"]]


def test_skipped_rows_keep_their_place(skipping):
    data = rows(
        [picture("red"), BROKEN, picture("blue"), picture("red"), None, picture("red")],
        ["a", "b", " ", "a", "c", "d"],
        [1, 1, 1, 7, 1, 0],
    )
    batch = skipping(data)
    assert batch["vision_index"].tolist() == [0, -1, 1, 0, -1, 0]
    assert batch["text_index"].tolist() == [0, 1, -1, 0, 2, 3]
    assert batch["labels"].tolist() == [1, -100, -100, -100, 1, 0]
    assert batch["row_ids"].tolist() == list(range(6))
    assert places(batch) == [(1, "image"), (2, "question"), (3, "answer")]
    first = batch["bad_rows"][0]
    assert (first["split"], first["file"]) == ("train", "folder/broken.png")
    assert re.search("picture.*b'", first["reason"])
    good = skipping([data[0], data[5]])
    assert "bad_rows" not in good


def test_a_broken_picture_of_several_rows_is_decoded_once(skipping, monkeypatch):
    calls = []
    real = PILImage.open
    monkeypatch.setattr(PILImage, "open", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    red = picture("red")
    batch = skipping(rows([BROKEN, red, BROKEN, red], ["a", "b", "c", "d"], [1, 1, 1, 0]))
    assert len(calls) == 2  # a good one of several rows, too
    assert places(batch) == [(0, "image"), (2, "image")]
    assert batch["labels"].tolist() == [-100, 1, -100, 0]
    assert batch["vision_index"].tolist() == [-1, 0, -1, 0]


def test_a_row_can_be_bad_twice(skipping):
    batch = skipping(rows([BROKEN, None], ["", "a"], ["maybe", "yes"]))
    assert places(batch) == [(0, "image"), (0, "question"), (0, "answer")]
    assert batch["labels"].tolist() == [-100, 1]


def test_masked_numbers_are_nan(processor):
    skipping = MultimodalCollator(processor, COLUMNS, problem_type="regression", on_error="skip")
    labels = skipping(rows([BROKEN, None, None], ["a", "b", "c"], [0.5, 0.25, math.inf]))["labels"]
    assert labels.isnan().tolist() == [True, False, True]
    several = dataclasses.replace(skipping, problem_type="multi_label_classification", label2id={"no": 0, "yes": 1})
    labels = several(rows([BROKEN, None], ["a", "b"], [["no"], ["yes"]]))["labels"]
    assert labels.isnan().tolist() == [[True, True], [False, False]]


def test_pictures_by_path(skipping, tmp_path):
    (tmp_path / "in").mkdir()
    PILImage.new("RGB", (8, 8), "red").save(tmp_path / "in/red.png")
    (tmp_path / "folder.png").mkdir()
    paths = ["in/red.png", "in/../in/red.png", "../outside.png", "in/none.png", "folder.png", "/etc/hostname"]
    batch = skipping(rows([{"bytes": None, "path": path} for path in paths], list("abcdef")))
    assert batch["vision_index"].tolist() == [0, 1, -1, -1, -1, -1]
    assert [entry["file"] for entry in batch["bad_rows"]] == paths[2:]
    reasons = [entry["reason"] for entry in batch["bad_rows"]]
    assert "'../outside.png'" in reasons[0]
    assert "file" in reasons[1]
    assert "folder" in reasons[2]
    assert "'/etc/hostname'" in reasons[3]


def test_wrong_on_error(collator):
    with pytest.raises(ValueError, match=r"\['raise', 'skip'\].*'ignore'"):
        dataclasses.replace(collator, on_error="ignore")


PAIR = Columns(image=["before", "after"], image_id="name", text="question")


def pairs(*images):
    return [
        {"before": one, "after": other, "question": "what changed?", "name": "x", "row_id": row, "split": "train"}
        for row, (one, other) in enumerate(images)
    ]


def test_an_id_does_not_tell_pictures_of_several_columns_apart(processor):
    red, blue, green = map(picture, ("red", "blue", "green"))
    batch = MultimodalCollator(processor, PAIR)(pairs((red, blue), (blue, None), (None, None), (green, red)))
    assert batch["vision_index"].dtype == torch.int64
    assert batch["vision_index"].tolist() == [[0, 1], [1, -1], [-1, -1], [2, 0]]
    assert batch["text_index"].tolist() == [0, 0, 0, 0]


def labelled(*values):
    return [{"answer": value, "row_id": row, "split": "train"} for row, value in enumerate(values)]


CLASSES = {"cat": 0, "dog": 1, "cow": 2}
NAN = math.nan


def test_weights(processor):
    columns = dataclasses.replace(COLUMNS, weight="reliability")
    collator = MultimodalCollator(processor, columns, problem_type="regression")
    data = rows([None] * 4, ["what?"] * 4, [0.5, 0.1, None, 0.3])
    for row, weight in zip(data, [2, 0.25, None, 0.0]):
        row["reliability"] = weight
    batch = collator(data)
    assert batch["sample_weight"].tolist() == [2, 0.25, 0, 0]
    assert batch["sample_weight"].dtype == torch.float32
    for weight, read in ((2, 2.0), ("0.5", 0.5), (True, 1.0), (np.float32(3), 3.0), (1e18, 1e18)):
        data[1]["reliability"] = weight
        torch.testing.assert_close(collator(data)["sample_weight"], torch.tensor([2, read, 0, 0]))
    for weight in (None, math.nan, -1, math.inf, 1e39, 10**400, "much", "1,000", [1.0], {}):
        data[1]["reliability"] = weight
        with pytest.raises(BadRowError, match=r"row 1 .*'train'.*'reliability'"):
            collator(data)
        batch = dataclasses.replace(collator, on_error="skip")(data)
        assert batch["sample_weight"].tolist() == [2, 0, 0, 0]
        assert batch["labels"].isnan().tolist() == [False, True, True, False]
        assert [entry["row"] for entry in batch["bad_rows"]] == [1]


@pytest.mark.parametrize(
    ("values", "problem_type", "expected"),
    [
        ([["cat", "cow"], [], None], "multi_label_classification", [[1, 0, 1], [0, 0, 0], [NAN] * 3]),
        ([[1], [2, 0, 2]], "multi_label_classification", [[0, 1, 0], [1, 0, 1]]),
        ([[0.0, 0.3, 1.0]], "multi_label_classification", [[0, 0.3, 1]]),
        ([None, NAN], "multi_label_classification", [[NAN] * 3] * 2),
        ([np.int64(2), np.float32(1), 1.0, NAN, "dog"], "single_label_classification", [2, 1, 1, -100, 1]),
        ([True, False, None], None, [1, 0, -100]),
    ],
)
def test_kinds_of_labels(values, problem_type, expected):
    tensor = label_tensor(labelled(*values), "answer", CLASSES, problem_type)
    floats = problem_type == "multi_label_classification"
    assert tensor.dtype == (torch.float32 if floats else torch.int64)
    torch.testing.assert_close(tensor, torch.tensor(expected, dtype=tensor.dtype), equal_nan=True)


@pytest.mark.parametrize(
    ("values", "problem_type", "expected"),
    [
        ([True, None, False], None, torch.tensor([1, -100, 0])),
        ([True, None], "regression", torch.tensor([1.0, NAN])),
        ([3, None], None, torch.tensor([3, -100])),
        ([NAN, None], None, torch.tensor([NAN, NAN])),
        ([[0.5, None], None], "regression", torch.tensor([[0.5, NAN], [NAN, NAN]])),
        ([[1, 0], [0, 1]], "multi_label_classification", torch.tensor([[1.0, 0], [0, 1]])),
        (["1.5", " 2", Decimal("0.25"), "1e3"], "regression", torch.tensor([1.5, 2, 0.25, 1000])),
        ([1e18, -1e18], "regression", torch.tensor([1e18, -1e18])),
    ],
)
def test_labels_without_names(values, problem_type, expected):
    torch.testing.assert_close(label_tensor(labelled(*values), "answer", None, problem_type), expected, equal_nan=True)


@pytest.mark.parametrize(
    ("value", "label2id", "problem_type", "message"),
    [
        (["cat", "bird"], CLASSES, "multi_label_classification", r"'bird'.*\['cat', 'dog', 'cow'\]"),
        ([0, 3], CLASSES, "multi_label_classification", r"\b3 .*0…2"),
        ([-1], CLASSES, "multi_label_classification", r"-1 .*0…2"),
        ("cat", CLASSES, "multi_label_classification", "'cat'.*list"),
        ([0.5, 0.5], CLASSES, "multi_label_classification", r"\[0\.5, 0\.5\]"),
        ([0.5, 0.5, 1.5], CLASSES, "multi_label_classification", r"\[0\.5, 0\.5, 1\.5\]"),
        (1.5, CLASSES, "single_label_classification", r"1\.5 .*0…2"),
        (math.inf, CLASSES, "single_label_classification", r"\binf .*0…2"),
        (["cat"], CLASSES, "single_label_classification", r"\['cat'\].*0…2"),
        (math.inf, None, "regression", r"\binf .*finite"),
        ([0.5, -math.inf], None, "regression", r"-inf .*finite"),
        (1e39, None, "regression", r"1e\+39 .*finite"),
        (-1e19, None, "regression", r"-1e\+19 .*finite"),
        (10**400, None, "regression", r"10+ .*finite"),
        ([0.5, 1e39], None, "regression", r"1e\+39 .*finite"),
        ("inf", None, "regression", r"\binf .*finite"),
        ("unknown", None, "regression", "'unknown'.*number"),
        ("1,234", None, "regression", "'1,234'.*number"),
        ({"a": 1}, None, "regression", "{'a': 1}.*number"),
        ([1.0], None, "regression", r"\[1\.0\].*\b1 .*\b0 "),
    ],
)
def test_bad_labels(value, label2id, problem_type, message):
    good = {"multi_label_classification": ["cat"], "regression": 0.5}.get(problem_type, "cat")
    data = labelled(good, value, None)
    with pytest.raises(BadRowError, match=f"row 1 .*'train'.*'answer'.*{message}"):
        label_tensor(data, "answer", label2id, problem_type)
    bad = []
    labels = label_tensor(data, "answer", label2id, problem_type, bad)
    assert [error.entry["row"] for error in bad] == [1]
    torch.testing.assert_close(labels[1], labels[2], equal_nan=True)  # as a missing one
    torch.testing.assert_close(labels[:1], label_tensor(data[:1], "answer", label2id, problem_type))


def test_a_bad_number_takes_no_neighbour_with_it(processor):
    """One label or weight that float32 cannot hold would make the loss of its whole batch infinite, and the step would
    be skipped."""
    columns = dataclasses.replace(COLUMNS, weight="reliability")
    collator = MultimodalCollator(processor, columns, problem_type="regression", on_error="skip")
    data = [{**row, "reliability": 1.0} for row in rows([None] * 4, ["what?"] * 4, [0.5, 1e39, 0.1, 0.3])]
    data[2]["reliability"] = 1e39
    batch = collator(data)
    assert [(entry["row"], entry["column"]) for entry in batch["bad_rows"]] == [(1, "answer"), (2, "reliability")]
    logits = torch.zeros(4, 1, requires_grad=True)
    loss = classification_loss(logits, batch["labels"], "regression", sample_weight=batch["sample_weight"])
    torch.testing.assert_close(loss.item(), (0.5**2 + 0.3**2) / 2)


@pytest.mark.parametrize(
    ("value", "names", "number"),
    [("007", ["7", "8"], 0), ("8.0", ["7", "8"], 1), ("1", ["01", "1"], 1), ("01", ["01", "1"], 0)],
)
def test_classes_of_before_go_by_their_number(value, names, number, monkeypatch):
    said = []
    monkeypatch.setattr("mm_hf.data.labels.logger.warning_once", said.append)
    label2id = {name: place for place, name in enumerate(names)}
    assert label_tensor(labelled(value), "answer", label2id, "single_label_classification").tolist() == [number]
    assert [value in message for message in said] == ([] if value in names else [True])


def test_where_zeros_tell_classes_apart_none_is_guessed():
    for value in ("001", "2"):
        with pytest.raises(BadRowError, match=f"'{value}'.*list"):
            label_tensor(labelled(value), "answer", {"01": 0, "1": 1}, "single_label_classification")


def test_long_lists_of_labels_are_cut():
    with pytest.raises(BadRowError, match=r"'name 19', … .*\b500\b") as caught:
        label_tensor(labelled("maybe"), "answer", {f"name {number}": number for number in range(500)})
    assert "name 20" not in str(caught.value)


@pytest.mark.parametrize("column", ["split", "row_id"])
@pytest.mark.parametrize("part", ["text", "table", "label", "weight"])
def test_names_that_rows_keep_for_themselves(part, column):
    """A column of such a name would be read as the part or the number of its row; metrics by it read the data set."""
    with pytest.raises(ValueError, match=f"{part}.*'{column}'.*'{column}_'"):
        Columns(**{"label": "y", part: [column] if part == "table" else column})
    assert Columns(kind=column).kind == column
