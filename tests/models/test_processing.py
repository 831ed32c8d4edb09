"""The processor, with the parts of the real encoders."""

import logging

import numpy as np
import pytest
import tiny_models as tiny
import torch
from PIL import Image
from skimage import data
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.utils import logging as library_logging

from mm_hf import MMFusionProcessor


@pytest.fixture(scope="module")
def parts(encoders):
    return {
        "image_processor": AutoImageProcessor.from_pretrained(encoders / "mobilenet-v2"),
        "tokenizer": AutoTokenizer.from_pretrained(encoders / "minilm-l6"),
    }


@pytest.fixture(scope="module")
def processor(encoders):
    return MMFusionProcessor.from_encoders_pretrained(vision=encoders / "mobilenet-v2", text=encoders / "minilm-l6")


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    return [Image.fromarray(getattr(data, name)()).resize((96, 80)) for name in ("chelsea", "coffee", "rocket")]


def same(one, other):
    assert list(one) == list(other)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_batch_is_what_its_parts_make(processor, parts, photos):
    texts = ["what is it?", "a cat", "one more question, longer than the others"]
    batch = processor(images=photos, text=texts)
    expected = {
        **parts["image_processor"](photos, return_tensors="pt"),
        **parts["tokenizer"](texts, padding=True, return_tensors="pt"),
    }
    same(batch, expected)
    assert batch["pixel_values"].shape == (3, 3, 224, 224)


def test_saved_twice(processor, photos, tmp_path):
    processor.save_pretrained(tmp_path / "one")
    AutoProcessor.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    names = [sorted(file.name for file in (tmp_path / folder).iterdir()) for folder in ("one", "two")]
    assert names[0] == names[1]
    again = AutoProcessor.from_pretrained(tmp_path / "two")
    same(again(images=photos, text="what?"), processor(images=photos, text="what?"))


def test_changed_settings_survive(parts, tmp_path):
    image_processor = type(parts["image_processor"])(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    MMFusionProcessor(image_processor=image_processor).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded(images=Image.new("RGB", (64, 64)))["pixel_values"].shape[-2:] == (32, 32)


def test_parts_are_needed_and_checked(parts):
    with pytest.raises(ValueError, match=r"image_processor.*tokenizer"):
        MMFusionProcessor()
    with pytest.raises(TypeError, match="tokenizer"):
        MMFusionProcessor(tokenizer=parts["image_processor"])
    with pytest.raises(ValueError, match=r"\['vision', 'text', 'audio'\]"):
        MMFusionProcessor.from_encoders_pretrained()


@pytest.mark.parametrize(("texts", "row"), [([""], 0), ("", 0), (["a", " \n"], 1), (["a", None, ""], 2)])
def test_an_empty_text_is_a_bad_row(processor, texts, row):
    with pytest.raises(ValueError, match=rf"Row {row}: .*text.*\('\s*(\\n)?'\)"):
        processor(text=texts)


def test_nothing_given(processor):
    with pytest.raises(ValueError, match=r"\bimages, text\b"):
        processor()


@pytest.fixture
def warnings_seen():
    """What the library logs. It keeps its messages from other loggers, hence a handler of its own."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = library_logging.get_logger("mm_hf.models.text")
    type(logger).warning_once.cache_clear() if hasattr(type(logger).warning_once, "cache_clear") else None
    logger.addHandler(handler)
    root = library_logging.get_logger()
    root.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
    root.removeHandler(handler)


def test_long_texts_are_cut_with_one_warning(processor, warnings_seen):
    long = "word " * 600
    for _ in range(2):
        batch = processor(text=[long, "short", long + "more"])
        assert batch["input_ids"].shape == (3, 512)
        assert batch["attention_mask"].sum(1).tolist() == [512, 3, 512]
    assert len(warnings_seen) == 1
    assert "603 tokens are cut to 512" in warnings_seen[0]


@pytest.mark.parametrize("count", [509, 510])
def test_texts_that_just_fit_are_not_cut(processor, warnings_seen, count):
    assert processor(text=["word " * count])["input_ids"].shape == (1, count + 2)
    assert warnings_seen == []


def test_options_reach_the_parts(processor, photos):
    batch = processor(
        images=photos[:2],
        text=["a b c d e f", "a"],
        text_kwargs={"max_length": 4},
        images_kwargs={"do_normalize": False},
    )
    assert batch["input_ids"].shape == (2, 4)
    assert 0 <= batch["pixel_values"].min() <= batch["pixel_values"].max() <= 1
    assert processor(text=["a", "b c"], padding="max_length", max_length=9)["input_ids"].shape == (2, 9)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_pictures_of_every_mode(processor, photos, mode):
    batch = processor(images=[photos[0].convert(mode), photos[1]])
    assert batch["pixel_values"].shape == (2, 3, 224, 224)


def test_arrays_and_tensors(processor, photos):
    array = np.array(photos[0])
    expected = processor(images=photos[0])["pixel_values"]
    for image in (array, [array], torch.tensor(array).permute(2, 0, 1), np.stack([array])):
        torch.testing.assert_close(processor(images=image)["pixel_values"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "longest"),
    [("bert", 40), ("roberta", 38)],
)
def test_the_longest_text_where_the_tokenizer_knows_none(encoders, tmp_path, config, longest):
    """RoBERTa's positions start after the id of its padding."""
    tokenizer = AutoTokenizer.from_pretrained(encoders / "minilm-l6")
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(tmp_path)
    tiny.TEXT_CONFIGS[config]().save_pretrained(tmp_path)
    processor = MMFusionProcessor.from_encoders_pretrained(text=tmp_path)
    assert processor(text=["word " * 90])["input_ids"].shape == (1, longest)
    processor.save_pretrained(tmp_path / "saved")
    assert AutoProcessor.from_pretrained(tmp_path / "saved")(text=["word " * 90])["input_ids"].shape == (1, longest)


def test_subfolders(encoders, photos, processor):
    other = MMFusionProcessor.from_encoders_pretrained(
        vision=encoders, text=encoders, subfolder={"vision": "mobilenet-v2", "text": "minilm-l6"}
    )
    same(other(images=photos[0], text="what?"), processor(images=photos[0], text="what?"))


def test_arguments_of_one_modality(encoders):
    processor = MMFusionProcessor.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2",
        text=encoders / "minilm-l6",
        size={"vision": {"shortest_edge": 40}},
        crop_size={"vision": {"height": 32, "width": 32}},
    )
    assert processor(images=Image.new("RGB", (64, 64)))["pixel_values"].shape[-2:] == (32, 32)
