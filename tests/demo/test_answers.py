"""What a page says of a row, without the page: fields, answers, evidence, examples."""

import math
import re
import shutil
import sys

import numpy as np
import pytest
from messages import says
from PIL import Image

import mm_hf.demo
from mm_hf.commands import demo
from mm_hf.data.shown import PICTURE, SERIES, TABLE, TEXT
from mm_hf.demo.answer_html import message, page_of, percent
from mm_hf.demo.examples import as_given, read_examples
from mm_hf.demo.fields import BadField, Field, csv_of, other_of, row_of, steps_of
from mm_hf.models.tasks import CLASSES, NUMBERS, SEVERAL, TEXTS


runs = sys.modules["demo_runs"]
HEADS = runs.STORED / "heads"
HOSTILE = '<img src=x onerror=alert(1)> {{ 7 * 7 }} ${7 * 7} & "quoted"'


def opened(run, **options) -> demo.Opened:
    args, data_args, _ = demo.parse_options(str(run), options)
    return demo.Opened(str(run), args, data_args)


@pytest.fixture(scope="module")
def asked():
    """The checkpoint that answers questions, and what answers for it."""
    checkpoint = opened(HEADS / "question_answering")
    return checkpoint.fields, checkpoint.answerer()


@pytest.fixture
def sound(tmp_path):
    import soundfile

    file = tmp_path / "tone.wav"
    soundfile.write(file, np.sin(np.arange(16000) * 0.03), 16000)
    return file


# --- Fields


def test_series_are_csv():
    header = steps_of("time, height\n1, 2\n\n3, \n5, 6\n")
    assert header[0] == [1, 2]
    assert header[1][0] == 3
    assert math.isnan(header[1][1])
    assert header[2] == [5, 6]
    assert steps_of("1;2\n3;4") == steps_of("1\t2\n3\t4") == steps_of("1 2\n3 4") == [[1, 2], [3, 4]]
    assert steps_of(csv_of([[0.125, 2e9], [3.0, -4.0]])) == [[0.125, 2e9], [3, -4]]
    assert steps_of(csv_of([1.0, 2.5])) == [[1], [2.5]]


@pytest.mark.parametrize(("text", "said"), [("1,2\n3,x", ["line 2", "'x'"]), ("1,2\n3", ["line 2", "1", "2"])])
def test_series_that_are_none(text, said):
    with pytest.raises(BadField, match=says(*said)):
        steps_of(text)


def test_the_fields_of_a_table():
    fields = opened(HEADS / "regression").fields
    assert [(field.kind, field.column) for field in fields] == [(TABLE, "beds"), (TABLE, "kind"), (SERIES, "series")]
    assert [field.choices for field in fields] == [None, ("new", "old"), None]
    assert [field.is_number for field in fields] == [True, False, False]
    assert row_of(fields, [3, "", None]) == {"beds": 3, "kind": None, "series": None}


def test_names_of_columns_are_labels():
    assert Field(TEXT, "text", "title_of_the_offer").label == "Title of the offer"
    fields = opened(HEADS / "classification", image_column="photo", text_column="").fields
    assert [(field.kind, field.column) for field in fields] == [(PICTURE, "photo")]


def test_nothing_was_given():
    fields = opened(HEADS / "question_answering").fields
    with pytest.raises(BadField, match=says("Picture", "Text")):
        row_of(fields, [None, "  "])


def test_an_empty_file(tmp_path):
    file = tmp_path / "nothing.png"
    file.touch()
    with pytest.raises(BadField, match=says("Photo", "nothing.png")):
        row_of([Field(PICTURE, "vision", "photo")], [file])


def test_other_things_are_json():
    assert other_of("[52.5, 13.4]") == [52.5, 13.4]
    assert other_of("north") == "north"


# --- Answers


def rows_of_heads(sound) -> dict[str, tuple[list, dict]]:
    """By stored head what a page is given, and the same for a pipeline."""
    photo = str(runs.PHOTO)
    series = [[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]]
    return {
        "classification": ([photo, runs.QUESTION], {"image": photo, "text": runs.QUESTION}),
        "question_answering": ([photo, runs.QUESTION], {"image": photo, "question": runs.QUESTION}),
        "multi_task": ([photo, None], {"image": photo}),
        "generation": ([photo, runs.QUESTION], {"image": photo, "text": runs.QUESTION}),
        "regression": ([3, "old", csv_of(series)], {"table": {"beds": 3, "kind": "old"}, "series": series}),
        "ctc": ([str(sound)], {"audio": str(sound)}),
    }


@pytest.mark.parametrize("head", [name.name for name in sorted(HEADS.iterdir()) if name.name != "retrieval"])
def test_answers_are_those_of_the_pipeline(head, sound):
    given, row = rows_of_heads(sound)[head]
    checkpoint = opened(HEADS / head)
    answered = checkpoint.answerer().answer(row_of(checkpoint.fields, given))
    expected = mm_hf.pipeline(model=str(HEADS / head))(row, evidence=True)
    answers = expected["answer"] if isinstance(expected["answer"], dict) else {None: expected["answer"]}
    answers = {None: [answers]} if set(answers) == {"text"} else answers
    assert [said.task for said in answered.said] == list(answers)
    for said, evidence in zip(answered.said, expected["evidence"]["answers"]):
        scores = [one.get("score") for one in answers[said.task]]
        assert [score for _, score in said.answers] == (scores if None in scores else pytest.approx(scores, abs=1e-5))
        if said.kind != NUMBERS:
            labels = [next(value for key, value in one.items() if key != "score") for one in answers[said.task]]
            assert [label for label, _ in said.answers] == labels
        for name, about in evidence["modalities"].items():
            assert said.evidence["modalities"][name]["value"] == pytest.approx(about["value"], abs=1e-5)
    html = page_of(answered, checkpoint.fields)
    assert html.count("<section") == len(answered.said)
    kinds = {said.kind for said in answered.said}
    assert kinds == {"multi_task": {CLASSES, NUMBERS, SEVERAL}, "regression": {NUMBERS}}.get(
        head, {TEXTS} if head in ("generation", "ctc") else {CLASSES}
    )


def test_a_picture_has_its_map(asked):
    fields, answerer = asked
    answered = answerer.answer(row_of(fields, [runs.PHOTO, runs.QUESTION]))
    html = page_of(answered, fields)
    assert html.count('data-kind="picture"') == html.count("<img ") == html.count("data:image/") == 1
    assert len(re.findall('data-modality="', html)) == 2
    assert "<mark" in html
    without = page_of(answerer.answer(row_of(fields, [None, runs.QUESTION])), fields)
    assert "<img " not in without
    assert "data-modality" not in without  # the only one gave everything


def test_a_photo_that_lies_on_its_side(asked, tmp_path):
    """As phones write them: the pixels turned, and a note which way is up."""
    fields, answerer = asked
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8))
    turned, exif = picture.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "upright.png")
    turned.save(tmp_path / "noted.png", exif=exif)
    turned.save(tmp_path / "lying.png")
    upright, noted, lying = (
        answerer.answer(row_of(fields, [tmp_path / name, None])).said[0].answers
        for name in ("upright.png", "noted.png", "lying.png")
    )
    assert noted == upright != lying


@pytest.mark.parametrize("content", [b"no picture", runs.PHOTO.read_bytes()[:60]], ids=["text", "half"])
def test_a_broken_file(asked, tmp_path, content):
    fields, answerer = asked
    file = tmp_path / "holiday.png"
    file.write_bytes(content)
    with pytest.raises(BadField, match=says("Picture", "holiday.png")) as caught:
        answerer.answer(row_of(fields, [file, runs.QUESTION]))
    assert "Traceback" not in str(caught.value)
    assert "split" not in str(caught.value)


def test_what_data_hold_is_text(asked):
    fields, answerer = asked
    html = page_of(answerer.answer(row_of(fields, [runs.PHOTO, HOSTILE])), fields) + message(HOSTILE + "\ud800")
    assert "<img src=x" not in html
    assert "&lt;img src=x" in html
    html.encode()


def test_percent():
    assert [percent(share) for share in (0, 0.00001, 0.5, 0.99999, 1)] == [
        "0.0 %",
        "&lt; 0.1 %",
        "50.0 %",
        "&gt; 99.9 %",
        "100.0 %",
    ]


def test_a_model_that_searches_answers_nothing():
    with pytest.raises(ValueError, match=says("mm_hf search")):
        opened(HEADS / "retrieval")


def test_code_of_a_checkpoint_is_not_run(tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(HEADS / "classification", folder)
    for name in ("modeling_mm_fusion", "configuration_mm_fusion", "processing_mm_fusion"):
        (folder / f"{name}.py").write_text("raise SystemExit('code of a checkpoint runs')\n")
    checkpoint = opened(folder)
    assert checkpoint.answerer().answer(row_of(checkpoint.fields, [runs.PHOTO, None])).said


# --- The rows of a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return runs.run_of(tmp_path_factory.mktemp("run"), "question_answering", **runs.PAIR)


def test_examples_of_the_test_part(run, tmp_path):
    checkpoint = opened(run)
    examples = checkpoint.examples(4, tmp_path)
    assert len(examples) == 4
    given = as_given(examples, checkpoint.fields, tmp_path)
    test_rows = (run.parent / "data/test.csv").read_text()
    for (photo, text), example in zip(given, examples):
        assert (photo is None) == (example["photo"] is None)
        assert text is None or text in test_rows
        assert photo is None or Image.open(photo).size
    assert checkpoint.answerer().explainer.background.pool.rows == 15  # training rows, for two modalities


def test_examples_whose_files_are_elsewhere(tmp_path):
    fields = [Field(PICTURE, "vision", "photo"), Field(TEXT, "text", "text")]
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    examples = [{"photo": "../secret.png", "text": "a"}, {"photo": None, "text": "b"}, {"photo": "gone.png"}]
    assert as_given(examples, fields, tmp_path / "inside") == [[None, "b"]]


def test_data_that_are_gone(run, tmp_path):
    moved = tmp_path / "houses"
    shutil.copytree(run, moved)
    (moved / "recipe.json").write_text((run / "recipe.json").read_text().replace("/data", "/no-data"))
    checkpoint = opened(moved)
    assert checkpoint.examples(4, tmp_path) == []
    assert [field.label for field in checkpoint.fields] == ["Photo", "Text"]
    assert checkpoint.answerer().explainer.background is None
    assert any("not available" in note for note in checkpoint.notes)


# --- A Space


def test_the_folder_of_a_space(run, tmp_path):
    import yaml

    folder = mm_hf.demo.write_space(str(run), tmp_path / "space", title="Which colour?")
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    header = yaml.safe_load(header)
    assert (header["title"], header["sdk"], header["app_file"]) == ("Which colour?", "gradio", "app.py")
    assert header["sdk_version"].count(".") == 2
    assert "Photo, Text" in text
    assert f"mm_hf[demo]=={mm_hf.__version__}" in (folder / "requirements.txt").read_text()
    compile((folder / "app.py").read_text(), "app.py", "exec")
    everything = [file for file in folder.rglob("*") if file.is_file()]
    assert not any(str(run.parent).encode() in file.read_bytes() for file in everything)  # no path of this machine
    assert read_examples(folder / "model/demo_examples") == []
    one, other = opened(run), opened(folder / "model")
    assert one.fields == other.fields
    row = row_of(one.fields, [runs.PHOTO, runs.QUESTION])
    answers = [checkpoint.answerer().answer(row, evidence=False).said for checkpoint in (one, other)]
    assert answers[0] == answers[1]
    with pytest.raises(ValueError, match=says(str(folder))):
        mm_hf.demo.write_space(str(run), folder)


def test_a_space_shows_rows_where_they_are_asked_for(run, tmp_path):
    folder = mm_hf.demo.write_space(str(run), tmp_path / "space", examples=3)
    place = folder / "model/demo_examples"
    checkpoint = opened(folder / "model")
    assert len(as_given(read_examples(place), checkpoint.fields, place)) == 3
    with pytest.raises(ValueError, match=says("--examples", 3)):
        mm_hf.demo.write_space(str(HEADS / "classification"), tmp_path / "other", examples=3)


@pytest.mark.parametrize("options", [{"port": 70000}, {"examples": -1}, {"evidense": True}])
def test_options_that_do_not_fit(options):
    with pytest.raises(ValueError, match=says(next(iter(options)))):
        demo.parse_options("runs/houses", options)
