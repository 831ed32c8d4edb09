"""From real rows to batches: distinct items once, absent ones marked, bad rows named."""

import io

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from mm_hf import MMFusionForQuestionAnswering, MMFusionProcessor
from mm_hf.data import Columns, FeatureCache, MultimodalCollator, Rows, label_names, load_splits
from mm_hf.data.loading import BadRowError


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


def test_distinct_items_once(collator):
    batch = collator(rows([picture("red"), picture("blue"), picture("red")], ["what?", "why?", "what?"]))
    assert next(iter(batch)) == "vision_index"  # the Trainer reads the batch size off the first tensor
    assert batch["vision_index"].tolist() == [0, 1, 0]
    assert batch["text_index"].tolist() == [0, 1, 0]
    assert len(batch["pixel_values"]) == len(batch["input_ids"]) == 2
    assert batch["row_ids"].tolist() == [0, 1, 2]


def test_absent_items(collator):
    batch = collator(rows([None, picture("blue")], ["what?", None]))
    assert batch["vision_index"].tolist() == [-1, 0]
    assert batch["text_index"].tolist() == [0, -1]
    batch = collator(rows([None, None], ["what?", "why?"]))
    assert batch["vision_index"].tolist() == [-1, -1]
    assert "pixel_values" not in batch


def test_absent_modality(processor):
    blind = MultimodalCollator(processor, COLUMNS, absent=frozenset({"vision"}))
    batch = blind(rows([picture("red")], ["what?"]))
    assert batch["vision_index"].tolist() == [-1]
    assert "pixel_values" not in batch


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
    with pytest.raises(BadRowError, match="label 'yes' has no number"):
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
            r"row 0 of split 'train', column 'image'.*cannot be read",
        ),
        ([{"bytes": None, "path": "/no/such.png"}], ["a"], [0], "column 'image': there is no file '/no/such.png'"),
        ([None, None], ["a", " "], [0, 0], "row 1 of split 'train', column 'question': the text is empty"),
        ([None], ["a"], ["maybe"], "column 'answer': label 'maybe' is not in the list"),
        ([None], ["a"], [7], r"column 'answer': label 7 is not in 0…1"),
    ],
)
def test_bad_rows_are_named(collator, images, questions, answers, message):
    with pytest.raises(BadRowError, match=message):
        collator(rows(images, questions, answers))


def test_truncated_picture_is_named(collator):
    broken = picture("red")
    broken["bytes"] = broken["bytes"][:60]
    with pytest.raises(BadRowError, match="cannot be read"):
        collator(rows([broken], ["a"]))


@pytest.fixture
def folder(tmp_path):
    features = Features(
        {"image": Image(), "question": Value("string"), "answer": ClassLabel(names=NAMES), "name": Value("string")}
    )
    values = {
        "image": [picture("red"), None, picture("blue")],
        "question": ["a", "b", "c"],
        "answer": [0, 1, 0],
        "name": ["y", "x", "y"],
    }
    dataset = Dataset.from_dict(values, features=features)
    DatasetDict(train=dataset, test=dataset).save_to_disk(tmp_path / "set")
    return tmp_path / "set"


def test_loading(folder, collator):
    splits = load_splits(folder, COLUMNS)
    assert splits["train"].column_names == ["image", "question", "answer"]
    assert label_names(splits, "answer") == NAMES
    batch = collator([Rows(splits["test"], "test")[place] for place in (2, 1)])
    assert batch["row_ids"].tolist() == [2, 1]
    assert batch["vision_index"].tolist() == [0, -1]
    assert label_names(load_splits(folder, Columns(label="name")), "name") == ["x", "y"]
    splits = load_splits(folder, Columns(label="name"))
    assert label_names(splits.cast_column("name", Value("large_string")), "name") == ["x", "y"]
    booleans = DatasetDict(train=Dataset.from_dict({"label": [True, False]}))
    assert label_names(booleans, "label") == ["no", "yes"]
    with pytest.raises(ValueError, match="Labels must be classes, strings or numbers"):
        label_names(DatasetDict(train=Dataset.from_dict({"label": [[1.0, 0.0]]})), "label")


def test_loading_errors(folder):
    with pytest.raises(ValueError, match=r"Unknown column 'picture' \(given as image_column\).*'question'"):
        load_splits(folder, Columns(image="picture"))
    with pytest.raises(ValueError, match="must hold images"):
        load_splits(folder, Columns(image="question"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_splits(folder / "nowhere", COLUMNS)
    with pytest.raises(FileNotFoundError, match="save_to_disk"):
        load_splits(folder.parent, COLUMNS)


def test_feature_cache_is_the_encoder(processor, encoders, collator):
    torch.manual_seed(0)
    model = MMFusionForQuestionAnswering.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2",
        text=encoders / "minilm-l6",
        freeze_encoders=True,
        vision_feature_layer=[4, 11],
        num_labels=2,
        fusion_module_config={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    ).eval()
    data = rows(
        [picture("red"), picture("blue"), None, picture("red")],
        ["what is it?", "why?", "what is it?", "a longer question"],
    )
    cache = FeatureCache(model.base_model)
    for modality in ("vision", "text"):
        items = {collator.item_key(row, modality): row for row in data}
        items.pop(None, None)
        cache.fill(modality, items.items(), lambda batch, m=modality: collator.prepare_items(m, batch), progress=False)
    cached = MultimodalCollator(processor, COLUMNS, collator.label2id, cache=cache)(data)
    assert "pixel_values" not in cached
    direct = collator(data)
    for batch in (cached, direct):
        batch.pop("row_ids")
    with torch.no_grad():
        expected, got = model(**direct).logits, model(**cached).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    with pytest.raises(KeyError):
        cache.states("text", ["never seen"])


def test_feature_cache_refuses_encoders_that_train(encoders):
    model = MMFusionForQuestionAnswering.from_encoders_pretrained(text=encoders / "minilm-l6", num_labels=2)
    with pytest.raises(ValueError, match="text encoder trains"):
        FeatureCache(model.base_model).fill("text", [], lambda items: {})
