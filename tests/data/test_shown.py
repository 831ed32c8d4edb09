"""What a page shows of the items of rows: small, upright, whole in itself, and within the data's folder."""

import base64
import io
import json
import wave

import modality_cases
import numpy as np
import pytest
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from mm_hf import MMFusionProcessor
from mm_hf.data import BadRowError, Columns, MultimodalCollator
from mm_hf.data.modalities import reader_of
from mm_hf.data.shown import MOST_CHARACTERS, embedded_picture, shown_series, shown_sound, shown_text


PICTURES = MMFusionProcessor(ViTImageProcessorPil(size={"height": 32, "width": 32}), modality_cases.tokenizer())


def content(uri: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))


def items(columns: Columns, values: dict, modality: str, **settings) -> list:
    collator = MultimodalCollator(PICTURES, columns, **settings)
    return reader_of(modality).shown({"row_id": 0, "split": "train", **values}, collator)


def test_pictures_are_small_and_upright(tmp_path):
    """A photograph that lies on its side in the file, its left half red."""
    photo = Image.effect_noise((1200, 800), 30).convert("RGB")
    photo.paste("red", (0, 0, 600, 800))
    exif = photo.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    photo.save(tmp_path / "photo.jpg", exif=exif)
    cell = {"bytes": None, "path": "photo.jpg"}
    (item,) = items(Columns(image=["front", "back"]), {"front": None, "back": cell}, "vision", root=str(tmp_path))
    assert (item["modality"], item["column"], item["place"], item["kind"]) == ("vision", "back", 1, "picture")
    with Image.open(content(item["shown"]["src"])) as shown:
        assert shown.format == "JPEG"
        assert max(shown.size) <= 512
        assert abs(shown.size[1] / shown.size[0] - 1.5) < 0.01
        red, grey = (np.asarray(shown, dtype=int)[row].mean(0) for row in (5, -5))
    assert red[0] > 240
    assert red[1] < 20
    assert abs(grey[0] - grey[1]) < 10
    for mode in ("1", "L", "P", "CMYK", "RGBA"):
        assert embedded_picture(Image.new(mode, (600, 300))).startswith("data:image/png;base64,")


def test_no_path_leaves_the_root(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    (tmp_path / "data").mkdir()
    for path in ("../secret.png", str(tmp_path / "secret.png")):
        cell = {"bytes": None, "path": path}
        with pytest.raises(BadRowError, match="secret"):
            items(Columns(image="front"), {"front": cell}, "vision", root=str(tmp_path / "data"))


def test_a_video_is_one_item():
    pictures = [Image.new("RGB", (700, 90), (red, 0, 0)) for red in range(6)]
    frames = [modality_cases.file_of(lambda file, each=each: each.save(file, "PNG")) for each in pictures]
    picture, video = items(
        Columns(image="front", video="clip"), {"front": frames[0], "clip": frames}, "vision", num_frames=3
    )
    assert (picture["place"], video["place"]) == (0, 1)
    assert (video["column"], video["kind"]) == ("clip", "video")
    sizes = [Image.open(content(frame)).size for frame in video["shown"]["frames"]]
    assert sizes == [(256, 33)] * 3
    assert video["shown"]["seconds"] is None
    assert len(items(Columns(image="front", video="clip"), {"front": frames[0], "clip": None}, "vision")) == 1


def test_sounds_are_cut_and_not_louder_than_a_file_can_hold():
    item = shown_sound(np.array([0.0, 4.0, -2.0]), 8000, Image.new("RGB", (640, 128)))["shown"]
    with wave.open(content(item["src"])) as file:
        assert (file.getframerate(), file.getnchannels()) == (8000, 1)
        assert np.frombuffer(file.readframes(9), "<i2").tolist() == [0, 32767, -16384]
    case = next(case for case in modality_cases.CASES if case.name == "audio")
    collator = MultimodalCollator(case.processor(), case.data_columns())
    shown = reader_of("audio").shown_item(np.zeros(40 * 16000, np.float32), collator)["shown"]
    assert shown["seconds"] == 30
    assert Image.open(content(shown["spectrogram"])).size == (640, 128)


def test_long_texts_and_series_are_cut():
    assert shown_text("a" * 10_000)["shown"]["text"] == "a" * 10_000
    long = shown_text("é" * (MOST_CHARACTERS + 1500))["shown"]["text"]
    assert long.startswith("é" * MOST_CHARACTERS + "…")
    assert "1,500" in long
    shown = shown_series([[1.23456789, float("nan")]] * 5000)["shown"]
    assert shown["every"] == 3
    assert shown["values"] == [[1.23457] * 1667, [None] * 1667]
    json.dumps(shown, allow_nan=False)
