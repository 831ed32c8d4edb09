"""Pictures and the page: what they show of any text, and that they are there."""

import base64
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from mm_hf.evaluation import (
    answers_of,
    draw,
    find_out,
    picture_of_sound,
    plot_predictions,
    table,
    targets_of,
    write_page,
)
from mm_hf.evaluation.page import PICTURES
from mm_hf.evaluation.plots import drawable


STRANGE = [
    "",
    "日本語の質問ですか？" * 30,
    "e\u0301 ﷽ \U0001f431\u200d\U0001f464",
    "a\x00b\tc\nd\x07",
    "cost $5 or $6_x^2",
    "\ud800",
]


@pytest.mark.parametrize("hertz", [500, 2000, 6000])
def test_a_spectrogram_is_bright_where_the_tone_is(hertz):
    tone = np.sin(2 * np.pi * hertz * np.arange(16000) / 16000)
    tone[8000:] = 0
    image = np.asarray(picture_of_sound(tone, 16000))[..., 0].astype(float)
    assert image.shape == (224, 224)
    row = image[:, :100].mean(1).argmax()  # from above
    assert abs(8000 * (1 - (row + 0.5) / 224) - hertz) < 100
    assert image[:, :100].max() > 240
    assert image[:, 130:].max() < 30


@pytest.mark.parametrize("size", [1, 100, 401])
def test_any_sound_has_a_picture(size):
    for sound in (np.zeros(size), np.full(size, 1e-30), np.ones(size)):
        assert picture_of_sound(sound.astype(np.float32), 16000).size == (224, 224)


def test_any_text_can_be_drawn(tmp_path):
    samples = [(Image.new("RGB", (8, 8)), text, text, "x" * 900) for text in STRANGE]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_predictions([*samples, (None, None, "a", "a")], tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert image.size[0] == 1320
        assert image.size[1] > 600
    assert drawable("a\x00b\tc\nd\x07") == "ab c d"
    assert drawable("\ud800x") == "x"
    assert len(drawable("日" * 900, 60)) == 60


@pytest.mark.parametrize(
    ("problem_type", "files"),
    [
        ("single_label_classification", ["reliability.png", "confusion.png", "missing.png", "mistakes.png"]),
        ("multi_label_classification", ["reliability.png", "labels.png", "missing.png", "mistakes.png"]),
        ("regression", ["scatter.png", "missing.png", "mistakes.png"]),
    ],
)
def test_a_page_of_each_problem(problem_type, files, tmp_path):
    generator = torch.Generator().manual_seed(0)
    names = ["<b>bold</b>", "日本", "$x$", "d"]
    logits = torch.randn(60, 4, generator=generator)
    labels = torch.randint(4, (60,), generator=generator)
    if problem_type == "multi_label_classification":
        labels = torch.nn.functional.one_hot(labels).float()
    if problem_type == "regression":
        logits, labels, names = logits[:, :1], labels.float(), None
    answers, targets = answers_of(logits, problem_type), targets_of(labels, problem_type)
    floors = {"majority": (answers, {"meaning": "<script>alert(1)</script>"})}
    curves = {"vision": [(0.0, answers), (1.0, answers)]}
    found = find_out(
        logits, labels, problem_type, names, torch.arange(60), ["<u>kind</u>", "b"] * 30, floors, curves, samples=20
    )
    assert found["missing"]["by_modality"]["vision"][1]["value"] == found["floors"]["majority"]["value"]
    for mistake in found["mistakes"]:
        mistake |= {"row": mistake["place"], "text": "<img src=x onerror=alert(1)> é 日本"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = draw(tmp_path, found, names, answers, targets, [None] * len(found["mistakes"]))
    assert [file.name for file in drawn] == files
    assert set(files) <= set(PICTURES)
    for file in drawn:
        with Image.open(file) as image:
            assert min(image.size) > 250
    write_page(tmp_path / "page.html", "a & b", {"model": "<m>"}, found, drawn)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    embedded = [base64.b64decode(text) for text in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert embedded == [file.read_bytes() for file in drawn]
    assert page.count("src=") == len(drawn) + page.count("&lt;img src=x")
    assert not re.search(r"<(script|b|u|m|img src=x)>", page)
    for text in ("a &amp; b", "&lt;m&gt;", "&lt;script&gt;", "&lt;u&gt;kind", "&lt;img src=x", "é 日本"):
        assert text in page
    assert ("&lt;b&gt;bold" in page) == (names is not None)
    assert "http" not in page
    first = next(iter(found["metrics"].values()))
    assert f"{first['value']:.4f}" in page
    assert f"{first['low']:.4f}" in page
    assert f"{first['value']:.4f}" in table(found, "test").splitlines()[1]


def test_without_mistakes(tmp_path):
    logits, labels = torch.eye(3) * 9, torch.arange(3)
    found = find_out(logits, labels, "single_label_classification", ["a", "b", "c"], torch.arange(3), samples=5)
    drawn = draw(tmp_path, found, ["a", "b", "c"], labels, labels, [])
    assert [file.name for file in drawn] == ["reliability.png", "confusion.png"]
    write_page(tmp_path / "page.html", "perfect", {}, found, drawn)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Worst mistakes" not in page
    assert "confusions" not in page
