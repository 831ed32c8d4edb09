"""Pictures and the page: what they show of any text, and that they are there."""

import base64
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from mm_hf.data.modalities.sound import picture_of_sound
from mm_hf.evaluation import (
    analyse,
    draw,
    plot_predictions,
    plots,
    table,
    write_page,
)
from mm_hf.evaluation.html_report import PICTURES
from mm_hf.evaluation.plots import drawable
from mm_hf.tasks import task_of


NUMBERS = task_of("regression")
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


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws samples, and gives of each panel its title's colour, its title, and the words in it; then the note."""

    def draw_samples(samples, **options):
        figures = []
        monkeypatch.setattr(plots, "save_figure", lambda figure, *args, **kwargs: figures.append(figure))
        plot_predictions(samples, tmp_path / "p.png", **options)
        (figure,) = figures
        panels = [
            (axes.title.get_color(), axes.get_title().replace("\n", " "), [text.get_text() for text in axes.texts])
            for axes in figure.axes[: len(samples)]
        ]
        return panels, figure.get_supxlabel()

    return draw_samples


@pytest.mark.parametrize("unit", [1, 1e-4, 1e5])
def test_numbers_are_marked_by_how_far_off_they_are(drawn, unit):
    """Labels 1 to 5: a deviation of the square root of 2. What is off by .7 is good, by .72 is not, though neither is
    equal to the truth; and what is off by 3 is not good, though both would be printed alike with four digits."""
    labels = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, float("nan")]) * unit
    logits = torch.tensor([[1.7], [2.72], [3.0], [1.0], [5.001], [2.0]]) * unit
    found = NUMBERS.judged(logits, labels)
    assert [right for _, _, right in found] == [True, False, True, False, True, None]
    panels, note = drawn([(None, "x", *row) for row in found], note=NUMBERS.note)
    assert [color for color, _, _ in panels] == ["black", plots.RED, "black", plots.RED, "black", "black"]
    assert "off by 0.49 SD" in panels[0][1]
    assert "off by 0.51 SD" in panels[1][1]
    assert "off by 2.12 SD" in panels[3][1]
    assert "no label" in panels[5][1]
    assert "0.5 standard deviations" in note
    for (said, true, _), answer, label in zip(found[:5], logits.flatten().tolist(), labels.tolist()):
        assert float(said.replace(",", "")) == pytest.approx(answer, abs=0.01 * unit)
        assert float(true.split(",  ")[0].split(", off")[0].replace(",", "")) == pytest.approx(label, abs=0.01 * unit)
        assert "e" not in said


def test_numbers_near_one_another_keep_the_digits_that_tell_them_apart():
    labels = torch.tensor([100000.125, 100000.25, 100000.5])
    said, true, right = NUMBERS.judged(labels[:, None] + 0.125, labels)[0]
    assert (said, true, right) == ("100,000.25", "100,000.125, off by 0.80 SD", False)


def test_labels_that_do_not_vary():
    found = NUMBERS.judged(torch.tensor([[2.0], [2.5]]), torch.tensor([2.0, 2.0]))
    assert found == [("2", "2", True), ("2.5", "2", False)]


def test_several_numbers_are_as_good_as_the_worst():
    labels = torch.tensor([[0.0, 0.0], [2.0, 200.0]])  # deviations 1 and 100
    found = NUMBERS.judged(torch.tensor([[0.4, 40.0], [2.4, 140.0]]), labels)
    assert [right for _, _, right in found] == [True, False]


@pytest.mark.parametrize(
    ("kind", "logits", "labels", "expected"),
    [
        (
            "single_label_classification",
            [[0.0, 2.0], [3.0, 1.0], [0.0, 1.0]],
            [1, 1, -100],
            [("b", "b", True), ("a", "b", False), ("b", None, None)],
        ),
        (
            "multi_label_classification",
            [[1.0, 2.0], [3.0, -1.0], [-1.0, -1.0], [1.0, 1.0]],
            [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [float("nan")] * 2],
            [("a, b", "a, b", True), ("a", "a, b", False), ("(none)", "(none)", True), ("a, b", None, None)],
        ),
    ],
)
def test_classes_are_said_by_name(drawn, kind, logits, labels, expected):
    found = task_of(kind, ["a", "b"]).judged(torch.tensor(logits), torch.tensor(labels))
    assert found == expected
    panels, note = drawn([(None, "x", *row) for row in found])
    assert [color == plots.RED for color, _, _ in panels] == [right is False for _, _, right in expected]
    assert note == ""


def test_a_row_without_a_picture_says_so(drawn):
    picture = Image.new("RGB", (8, 8))
    panels, _ = drawn([(None, "x", "a", "a"), (picture, "x", "a", "b")])
    assert [words for _, _, words in panels] == [["(no image)"], []]
    assert drawn([(None, "x", "a", "a")], no_picture="(no sound)")[0][0][2] == ["(no sound)"]
    assert drawn([(None, "x", "a", "a")], no_picture="")[0][0][2] == []  # of rows that have none at all


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
    task = task_of(problem_type, names)
    answers, targets = task.answers(logits), task.targets(labels)
    floors = {"majority": (answers, {"meaning": "<script>alert(1)</script>"})}
    curves = {"vision": [(0.0, answers), (1.0, answers)]}
    found = analyse(task, logits, labels, torch.arange(60), ["<u>kind</u>", "b"] * 30, floors, curves, samples=20)
    assert found["missing"]["by_modality"]["vision"][1]["value"] == found["floors"]["majority"]["value"]
    for mistake in found["mistakes"]:
        mistake |= {"row": mistake["place"], "text": "<img src=x onerror=alert(1)> é 日本"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = draw(tmp_path, task, found, answers, targets, [None] * len(found["mistakes"]))
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
    logits, labels, task = torch.eye(3) * 9, torch.arange(3), task_of("single_label_classification", ["a", "b", "c"])
    found = analyse(task, logits, labels, torch.arange(3), samples=5)
    drawn = draw(tmp_path, task, found, labels, labels, [])
    assert [file.name for file in drawn] == ["reliability.png", "confusion.png"]
    write_page(tmp_path / "page.html", "perfect", {}, found, drawn)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Worst mistakes" not in page
    assert "confusions" not in page
