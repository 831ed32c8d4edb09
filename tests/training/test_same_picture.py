"""The scripts see the picture that training saw: a phone's photo, and a drawing on transparent ground."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models as tiny
import torch
from PIL import Image
from transformers import ViTConfig, ViTImageProcessor, ViTModel

import mm_hf
from mm_hf import MMFusionForQuestionAnswering, MMFusionProcessor
from mm_hf.commands import answer, chat
from mm_hf.commands import search as retrieve
from mm_hf.data import Columns, MultimodalCollator, word_tokenizer
from mm_hf.training.build import build_processor
from mm_hf.training.recipe import parse_arguments
from mm_hf.training.run_report import picture_and_text


UPRIGHT = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
DRAWING = np.zeros((32, 32, 4), np.uint8)  # black, all of it
DRAWING[8:20, 8:20, 3] = 255
ON = {"white": 255, "black": 0, None: 0}


@pytest.fixture(params=["photo", "drawing on white", "drawing on black", "drawing as before"])
def case(request, tmp_path):
    """A file, what is to be seen of it, and a processor."""
    file = tmp_path / "picture.png"
    background = {"drawing on black": "black", "drawing as before": None}.get(request.param, "white")
    if request.param == "photo":
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.rot90(UPRIGHT).copy()).save(file, exif=exif)
        seen = UPRIGHT
    else:
        Image.fromarray(DRAWING).save(file)
        seen = np.where(DRAWING[..., 3:] == 255, 0, ON[background]).repeat(3, -1).astype(np.uint8)
    image_processor = ViTImageProcessor(do_resize=False)
    processor = MMFusionProcessor(image_processor, word_tokenizer(["what is it"]), image_background=background)
    return file, seen, processor


def shown(seen: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(seen / 255 * 2 - 1).permute(2, 0, 1)[None].float()


def test_answer(case, monkeypatch, capsys):
    file, seen, processor = case
    model, inputs = MMFusionForQuestionAnswering(tiny.config(num_labels=2)).eval(), {}
    forward = model.forward
    model.forward = lambda **given: inputs.update(given) or forward(**given)
    ours = {"model": model, "processor": processor}
    monkeypatch.setattr("transformers.pipeline", lambda task, **_: mm_hf.pipeline(task, **ours))
    monkeypatch.setattr(sys, "argv", ["answer.py", "model", "--image", str(file), "--question", "what"])
    answer.script()
    torch.testing.assert_close(inputs["pixel_values"], shown(seen))
    assert "picture.png: what" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["answer.py", "model", "--image", "nowhere.png", "--question", "what"])
    with pytest.raises(SystemExit, match=r"error: .*nowhere\.png"):
        answer.script()


def test_chat(case):
    file, seen, processor = case
    inputs = {}
    encoder = SimpleNamespace(encode=lambda **given: inputs.update(given) or {"vision": None})
    model = SimpleNamespace(device="cpu", get_encoder=lambda: encoder)
    chat.Dialogue(model, processor, turns=1).show(str(file))
    torch.testing.assert_close(inputs["pixel_values"], shown(seen))


def test_search(case):
    file, seen, processor = case
    search = SimpleNamespace(
        args=SimpleNamespace(text=None, image=str(file), audio=None, model="model"),
        collator=SimpleNamespace(processor=processor),
        model=SimpleNamespace(item_modality="vision"),
    )
    asked, picture, inputs = retrieve.prepare_query(search)
    assert asked == "vision"
    assert np.array_equal(np.asarray(picture), seen)
    torch.testing.assert_close(inputs["pixel_values"], shown(seen))


def test_what_reports_draw(case):
    file, seen, processor = case
    columns = Columns(image="image", text="text")
    collator = MultimodalCollator(processor, columns, root=str(file.parent))
    row = {"image": {"bytes": None, "path": file.name}, "text": "what", "row_id": 0, "split": "test"}
    picture, text = picture_and_text(row, collator)
    assert np.array_equal(np.asarray(picture), seen)
    assert text == "what"
    torch.testing.assert_close(collator([row])["pixel_values"], shown(seen))


@pytest.mark.parametrize(("flags", "background"), [([], "white"), (["--image_background", "#102030"], "#102030")])
def test_a_run_names_the_ground(flags, background, tmp_path):
    ViTModel(ViTConfig(**tiny.PATCHES)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    words = ["--dataset", "rows.csv", "--image_column", "image", "--vision_encoder", str(tmp_path), *flags]
    _, model_args, data_args, train_args = parse_arguments("", words)
    parts = {"train": None}
    processor = build_processor(model_args, data_args, parts, True, train_args.defaults_version)
    assert (processor.image_background, processor.image_channels) == (background, 3)
    with pytest.raises(ValueError, match=r"image_background.*'no colour'"):
        build_processor(replace(model_args, image_background="no colour"), data_args, parts, True, 2)
    if not flags:  # a run of before knew no ground
        assert build_processor(model_args, data_args, parts, True, 1).image_background is None
