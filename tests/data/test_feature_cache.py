"""Features of frozen encoders, kept: the encoder's own, bounded in size, and good ones beside bad items."""

import dataclasses
import io
import re

import pytest
import tiny_models
import torch
from PIL import Image as PILImage

from mm_hf import MMFusionForQuestionAnswering, MMFusionModel, MMFusionProcessor
from mm_hf.data import Columns, FeatureCache, MultimodalCollator
from mm_hf.data.augmentation import ImageAugmentation
from mm_hf.data.feature_cache import CacheTooLargeError
from mm_hf.data.rows import BadRowError


COLUMNS = Columns(image="image", text="question", label="answer")
BROKEN = {"bytes": b"no picture", "path": "broken.png"}


def picture(color):
    buffer = io.BytesIO()
    PILImage.new("RGB", (40, 30), color).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def rows(*values, answer=0):
    return [
        {"image": image, "question": question, "answer": answer, "row_id": row, "split": "train"}
        for row, (image, question) in enumerate(values)
    ]


@pytest.fixture(scope="module")
def collator(encoders):
    processor = MMFusionProcessor.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2", text=encoders / "minilm-l6"
    )
    return MultimodalCollator(processor, COLUMNS)


@pytest.fixture(scope="module")
def model(encoders):
    torch.manual_seed(0)
    return MMFusionForQuestionAnswering.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2",
        text=encoders / "minilm-l6",
        freeze_encoders=True,
        vision_feature_layer=[4, 11],
        num_labels=2,
        fusion_module_config={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    ).eval()


def fill(cache, collator, data, batch_size=64):
    """As the training script does: every column of every row, each distinct item once."""
    for modality in [name for name, columns in collator.parts.items() if columns]:
        columns, items = collator.parts[modality], {}
        for row in data:
            for column, key in zip(columns, collator.item_keys(row, modality)):
                if key is not None:
                    items.setdefault(key, (row, column))

        def prepare(chosen, modality=modality):
            return collator.prepare_items(modality, [row for row, _ in chosen], [column for _, column in chosen])

        cache.fill(modality, items.items(), prepare, batch_size, progress=False)
    return cache


def test_features_are_the_encoder(collator, model):
    data = rows(
        (picture("red"), "what is it?"),
        (picture("blue"), "why?"),
        (None, "what is it?"),
        (picture("red"), "a longer question"),
    )
    cache = fill(FeatureCache(model.base_model), collator, data)
    cached, direct = dataclasses.replace(collator, cache=cache)(data), collator(data)
    assert "pixel_values" not in cached
    for batch in (cached, direct):
        batch.pop("row_ids")
    with torch.no_grad():
        expected, got = model(**direct).logits, model(**cached).logits
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    with pytest.raises(KeyError):
        cache.states("text", ["never seen"])
    cached = dataclasses.replace(collator, cache=cache)(rows((None, "why?")))
    assert cached["vision_index"].tolist() == [-1]
    assert list(cached["encoder_states"]) == ["text"]


@pytest.mark.parametrize("batch_size", [2, 64])  # the bad picture beside one good one, or two
def test_bad_items_are_remembered_for_every_row(collator, model, batch_size):
    data = rows((picture("red"), "a"), (BROKEN, "b"), (picture("blue"), " "), ({**BROKEN, "path": "again.png"}, "c"))
    skipping = dataclasses.replace(collator, on_error="skip")
    cache = fill(FeatureCache(model.base_model, on_error="skip"), skipping, data, batch_size)
    good = fill(FeatureCache(model.base_model), collator, [data[0], data[2] | {"question": "a"}])
    assert len(cache.bad["vision"]) == 1
    assert cache.items["vision"].keys() == good.items["vision"].keys()
    for key, (levels, _) in good.items["vision"].items():
        for one, other in zip(levels, cache.items["vision"][key][0], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    batch = dataclasses.replace(skipping, cache=cache)(data)
    assert batch["encoder_states"]["vision"].index.tolist() == [0, -1, 1, -1]
    assert batch["labels"].tolist() == [0, -100, -100, -100]
    assert [(entry["row"], entry["column"], entry["file"]) for entry in batch["bad_rows"]] == [
        (1, "image", "broken.png"),
        (3, "image", "again.png"),
        (2, "question", None),
    ]
    assert re.search("picture.*b'", batch["bad_rows"][1]["reason"])
    key = next(iter(cache.bad["vision"]))
    cache.fill("vision", [(key, None)], lambda items: pytest.fail("a bad item was tried again"), progress=False)
    with pytest.raises(BadRowError, match=r"row 1 .*'train'.*'image'.*'broken\.png'"):
        dataclasses.replace(collator, cache=cache)(data[:2])
    with pytest.raises(BadRowError, match=r"row 1 .*'train'.*'image'"):
        fill(FeatureCache(model.base_model), collator, data[:2])


def test_only_bad_items(collator, model):
    data = rows((BROKEN, "b"))
    skipping = dataclasses.replace(collator, on_error="skip")
    cache = fill(FeatureCache(model.base_model, on_error="skip"), skipping, data)
    batch = dataclasses.replace(skipping, cache=cache)(data)
    assert batch["vision_index"].tolist() == [-1]
    for key in ("row_ids", "bad_rows"):
        batch.pop(key)
    assert model(**batch).loss.item() == 0


def test_what_is_cached_cannot_be_changed(collator, model):
    cache = fill(FeatureCache(model.base_model), collator, rows((picture("red"), "a")))
    for settings in ({"augment": ImageAugmentation(flip=True)}, {"token_dropout": 0.1}):
        name = next(iter(settings))
        with pytest.raises(ValueError, match=f"{name}.*cache"):
            dataclasses.replace(collator, cache=cache, **settings)
    images = FeatureCache(model.base_model)
    images.modalities.append("vision")
    assert dataclasses.replace(collator, cache=images, token_dropout=0.1).token_dropout == 0.1


@pytest.fixture(scope="module")
def tiny():
    return tiny_models.model(MMFusionModel, freeze_encoders=True, vision="vit", text="bert")


def tiny_fill(cache, count, batch_size=4):
    """Texts of 8 tokens, 32 wide, in fp32: 1,024 bytes each."""
    encoded = []

    def prepare(items):
        encoded.extend(items)
        return tiny_models.texts([8] * len(items))

    try:
        cache.fill("text", [(str(item), item) for item in range(count)], prepare, batch_size, progress=False)
    finally:
        cache.encoded = encoded
    return cache


def test_what_does_not_fit_is_found_after_the_first_batch(tiny):
    cache = FeatureCache(tiny, max_bytes=100 * 1024)
    tiny_fill(cache, 100)  # exactly at the limit
    assert cache.size() == 100 * 1024
    cache = FeatureCache(tiny, max_bytes=100 * 1024)
    with pytest.raises(CacheTooLargeError, match=r"text.*\b0\.000103 GB.*\b0\.000102 GB"):
        tiny_fill(cache, 101)
    assert len(cache.encoded) == 4
    assert cache.modalities == []
    assert cache.size() == 0


def test_what_is_held_counts(tiny):
    cache = tiny_fill(FeatureCache(tiny, max_bytes=100 * 1024), 60)
    assert tiny_fill(cache, 60).encoded == []  # all there
    with pytest.raises(CacheTooLargeError):
        tiny_fill(cache, 120)


def test_the_limit_is_half_of_what_is_free(tiny, monkeypatch):
    import psutil

    class Memory:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    assert FeatureCache(tiny).max_bytes == 500
    assert FeatureCache(tiny, processes=2).max_bytes == 250


def test_order_of_the_items_is_kept(tiny):
    cache = tiny_fill(FeatureCache(tiny), 10, batch_size=3)
    assert list(cache.items["text"]) == [str(item) for item in range(10)]
    assert cache.encoded == list(range(10))


def test_wrong_on_error(tiny):
    with pytest.raises(ValueError, match="'ignore'"):
        FeatureCache(tiny, on_error="ignore")
