"""Every modality through the scripts, on real recordings, readings, reviews and films, some of which lack something:
one small run of each is trained once, and all else is asked of it. `tests/extension/` does the same with a place."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, DatasetDict, Value, load_from_disk
from kill_and_resume import (
    ask_without_package,
    call,
    ends_alike_after_a_stop,
    ends_alike_after_kills,
    recipe_writer,
    two_processes_differ_by,
)
from PIL import Image

import mm_hf
from mm_hf.commands import evaluate, predict
from mm_hf.prepare import basic_motions, moving_shapes, recurrent
from mm_hf.training import finetune, train


# The data


def sounds(folder: Path, made) -> DatasetDict:
    """Is this the number that is said? Every other row has the word of another recording; some lack their sound."""

    def asked(part):
        words = part["word"][:]
        words = [word if row % 2 == 0 else words[(row * 7 + 5) % len(words)] for row, word in enumerate(words)]
        heard = [None if row % 29 == 28 else sound for row, sound in enumerate(part["audio"][:])]
        part = part.select_columns(["speaker", "digit"])
        part = part.add_column("audio", heard, feature={"bytes": Value("binary"), "path": Value("string")})
        return part.add_column("word", [None if row % 31 == 30 else word for row, word in enumerate(words)])

    fsdd = made.request.getfixturevalue("fsdd")
    takes = {"train": (10, 11, 12, 13), "validation": (5,), "test": (0,)}
    return DatasetDict(
        {
            name: asked(fsdd[name].filter(lambda take, chosen=chosen: take in chosen, input_columns="take"))
            for name, chosen in takes.items()
        }
    )


def motions(folder: Path, made) -> DatasetDict:
    """Recordings of other lengths, one with gaps, one row without any; a word beside each that tells little."""
    basic_motions.main([str(folder / "whole")])

    def spoil(row, place):
        row["readings"] = row["readings"][: 100 - place % 3 * 20]
        row["word"] = "still" if row["activity"] == 2 and place % 2 else "moving"
        if place == 4:
            row["readings"] = None
        if place == 5:
            row["readings"] = [[math.nan if k == 2 else value for k, value in enumerate(s)] for s in row["readings"]]
        return row

    whole = load_from_disk(str(folder / "whole"))
    return DatasetDict({name: part.map(spoil, with_indices=True) for name, part in whole.items()})


def reviews(folder: Path, made) -> DatasetDict:
    """Every part of a garment's record that was kept: which department is it of? The text tells, and so does the
    class, which is missing in a third of the rows; some rows have no record, and some no text."""
    full = load_from_disk(str(made.request.getfixturevalue("clothing_reviews_folder")))
    rows = {"train": 400, "validation": 60, "test": 121}

    def gaps(row, place):
        if place % 3 == 0:
            row["class"] = None
        if place % 11 == 10:
            row |= dict.fromkeys(["age", "feedback", "class", "clothing_id", "helpful"])
        if place % 13 == 12:
            row["text"] = None
        return row

    parts = DatasetDict()
    for name, part in full.items():
        part = part.filter(lambda value: value in ("Dresses", "Tops", "Bottoms"), input_columns="department")
        part = part.select(range(rows[name]))
        helpful = [int(count > 0) for count in part["feedback"]]
        part = part.add_column("helpful", helpful).cast_column("helpful", ClassLabel(names=["no", "yes"]))
        parts[name] = part.cast_column("age", Value("float32")).map(gaps, with_indices=True)
    return parts


def clips(folder: Path, made) -> DatasetDict:
    """A few films with sound and a question; some rows lack the video, some the sound."""

    def part(count, first):
        gap = {5: "video", 6: "audio"}
        rows = moving_shapes.questions(count, first, 0)
        return rows.map(
            lambda row, place: {**row, **({gap[place]: None} if place in gap else {})},
            with_indices=True,
            features=rows.features,
        )

    return DatasetDict(train=part(60, 0), validation=part(9, 60), test=part(12, 69))


# Rows for pipelines, of things that JSON can say


def seven(folder: Path, made) -> dict[str, Any]:
    rows = made.request.getfixturevalue("fsdd")["test"]
    row = rows.filter(lambda row: row["speaker"] == "theo" and row["digit"] == 7)[0]
    (folder / "seven.wav").write_bytes(row["audio"]["bytes"])
    return {"audio": str(folder / "seven.wav"), "text": "seven"}


def clip(folder: Path, made) -> dict[str, Any]:
    row = moving_shapes.questions(1, 1000, 0)[0]
    for key, name in (("video", "clip.mp4"), ("audio", "clip.wav")):
        (folder / name).write_bytes(row[key]["bytes"])
    return {"video": str(folder / "clip.mp4"), "audio": str(folder / "clip.wav"), "question": row["question"]}


def ears(made) -> dict[str, Any]:
    """Keys of an encoder of sounds that starts from random weights."""
    folder = made.folder.mktemp("encoders") / "lstm-sound"
    recurrent.main([str(folder), "--mel_bins", "40"])
    return {"audio_encoder": folder}


@dataclass
class Run:
    """A small run, and what is asked of it.

    Args:
        data: makes the rows.
        keys: of its recipe.
        modalities: of its model.
        score: that it has to reach, and its floors.
        card: what stands on it.
        row: for its pipeline, and what else may stand in its place, each of which has to be answered alike.
        answer: what it says to that; None: anything.
        spoil: a column, and what makes a bad value of a good one.
        stop: the step at which it is stopped, to go on.
        trainer: keys of a run by the library's Trainer, and the score that this has to reach.
        two: keys of runs by two processes.
        kills: seed of the moments at which it is killed; None: it is not.
    """

    data: Callable[[Path, Any], DatasetDict]
    keys: dict[str, Any]
    modalities: list[str]
    score: float
    floors: set[str]
    card: str
    row: Callable[[Path, Any], dict[str, Any]]
    stop: int
    answer: str | None = None
    spoil: tuple[str, Callable[[Any], Any]] | None = None
    trainer: tuple[dict, float] = ({}, 0.0)
    two: list[dict] = field(default_factory=lambda: [{}])
    kills: int | None = None
    more: Callable[[Any], dict] = lambda made: {}


def with_inf(steps: list) -> list:
    return [*steps[:7], [steps[7][0], math.inf, *steps[7][2:]], *steps[8:]]


RUNS = {
    "sounds": Run(
        data=sounds,
        keys={
            "audio_encoder": "whisper-tiny-en",
            "text_encoder": "minilm-l6",
            "max_audio_seconds": 1,
            "audio_column": "audio",
            "text_column": "word",
            "label_column": "digit",
            "kind_column": "speaker",
            "learning_rate": 5e-3,
            "max_steps": 40,
            "eval_steps": 10,
            "per_device_train_batch_size": 48,
        },
        modalities=["text", "audio"],
        score=0.8,  # the word is another one's in half of the rows
        floors={"linear", "majority", "text_only", "audio_only"},
        card='predict({"text": "a text", "audio": "sound.wav"}, top_k=3)',
        row=seven,
        answer="7",
        stop=17,
        trainer=({"freeze_encoders": ["text"], "audio_learning_rate": 1e-3, "max_steps": 20}, 0.5),
        two=[{}, {"freeze_encoders": ["text"]}],
        kills=13,
    ),
    "motions": Run(
        data=motions,
        keys={
            "series_column": "readings",
            "series_rnn_type": "gru",
            "label_column": "activity",
            "freeze_encoders": None,
            "learning_rate": 5e-3,
            "max_steps": 60,
            "eval_steps": 20,
            "per_device_train_batch_size": 8,
        },
        modalities=["series"],
        score=0.74,
        floors={"linear", "majority"},
        card='predict({"series": [[…], …]}, top_k=3)',
        row=lambda folder, made: {"series": made.rows("motions")["test"][0]["readings"]},
        spoil=("readings", with_inf),
        stop=38,
        trainer=({}, 0.74),
    ),
    "reviews": Run(
        data=reviews,
        keys={
            "text_encoder": "minilm-l6",
            "max_text_length": 24,
            "text_column": "text",
            "table_columns": ["age", "feedback", "class", "clothing_id", "helpful"],
            "category_columns": ["clothing_id"],
            "label_column": "department",
            "learning_rate": 3e-3,
            "max_steps": 60,
            "eval_steps": 20,
            "per_device_train_batch_size": 32,
        },
        modalities=["text", "tabular"],
        score=0.9,
        floors={"linear", "majority", "text_only", "table_only"},
        card='predict({"text": "a text", "table": {"age": …, ',
        row=lambda folder, made: {"text": None, "table": {"class": "Dresses", "age": 30, "helpful": "yes"}},
        answer="Dresses",
        spoil=("age", lambda value: math.inf),
        stop=37,
        trainer=({}, 0.9),
    ),
    "clips": Run(
        data=clips,
        keys={
            "vision_encoder": "mobilenet-v2",
            "image_size": 64,
            "num_frames": 4,
            "text_encoder": "minilm-l6",
            "max_audio_seconds": 1,
            "video_column": "video",
            "audio_column": "audio",
            "text_column": "question",
            "label_column": "answer",
            "kind_column": "kind",
            "fusion": "bottleneck",
            "freeze_encoders": ["vision", "text"],
            "learning_rate": 3e-3,
            "max_steps": 60,
            "eval_steps": 30,
            "per_device_train_batch_size": 32,
            "floors": False,
        },
        modalities=["vision", "text", "audio"],
        score=0.3,
        floors=set(),
        card='"video": "clip.mp4"',
        row=clip,
        stop=37,
        kills=15,
        more=ears,
    ),
}


class Made:
    """What is made once of each run, when it is asked for first."""

    def __init__(self, request):
        self.request, self.folder = request, request.getfixturevalue("tmp_path_factory")
        self.rows, self.recipe, self.trained = map(cache, (self.rows, self.recipe, self.trained))

    def rows(self, name: str) -> DatasetDict:
        folder = self.folder.mktemp(name)
        RUNS[name].data(folder, self).save_to_disk(folder / "set")
        return load_from_disk(str(folder / "set"))

    def folder_of(self, name: str) -> Path:
        return Path(self.rows(name)["train"].cache_files[0]["filename"]).parents[1]

    def recipe(self, name: str):
        run, encoders = RUNS[name], self.request.getfixturevalue("encoders")
        named = {key: encoders / value for key, value in run.keys.items() if key.endswith("_encoder")}
        usual = {
            "dataset": self.folder_of(name),
            "fusion_hidden_size": 64,
            "fusion_layers": 1,
            "freeze_encoders": True,
        }
        return recipe_writer(self.folder, {**usual, **run.keys, **named, **run.more(self)})

    def trained(self, name: str) -> Path:
        folder = self.folder.mktemp("runs") / "train"
        call(train.main, self.recipe(name)(folder))
        return folder


@pytest.fixture(scope="module")
def made(request) -> Made:
    return Made(request)


# Of "sounds" test_speech.py trains one in `make test` too; `make reliability` has all.
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in ("clips", "sounds") else ()) for name in RUNS]
EACH = pytest.mark.parametrize("name", NAMES)


def read(file: Path) -> dict:
    return json.loads(file.read_text())


@EACH
def test_a_run(name, made):
    run, folder = RUNS[name], made.trained(name)
    results = read(folder / "results.json")
    assert results["metrics"]["accuracy"] > run.score
    assert set(results["floors"]) == run.floors
    if run.floors:
        assert run.score > results["floors"]["majority"] + 0.2
    assert mm_hf.MMFusionForClassification.from_pretrained(folder).config.modalities == run.modalities
    assert run.card in (folder / "README.md").read_text()
    with Image.open(folder / "predictions.png") as plot:
        assert min(plot.size) > 300
        assert len(plot.convert("RGB").resize((200, 200)).getcolors(40000)) > 50


@EACH
def test_evaluation(name, made):
    """It measures what the run did, and each modality alone where there are two."""
    run, folder = RUNS[name], made.trained(name)
    several = ["--missing"] if len(run.modalities) > 1 else []
    call(evaluate.main, "--model", folder, *several, "--bootstrap_samples", 20)
    report = read(folder / "evaluation/evaluation.json")
    expected = read(folder / "results.json")["metrics"]["accuracy"]
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(expected, abs=1e-5)
    if several:
        assert set(report["missing"]["by_modality"]) == set(run.modalities)
        alone = {f"this_model_{modality}_alone" for modality in run.modalities}
        pairs = {"this_model_shuffled_pairs"} if "vision" in run.modalities else set()
        assert alone | pairs <= set(report["floors"])
    assert (folder / "evaluation/report.html").exists()


@EACH
def test_predictions(name, made, tmp_path):
    """Of rows as they are measured: as many of them are right; one that has nothing at all has no answer."""
    folder, rows = made.trained(name), made.rows(name)["test"]
    rows.save_to_disk(tmp_path / "rows")
    call(predict.main, folder, tmp_path / "rows", "-o", tmp_path / "out.jsonl", "--on_error", "skip")
    said = [json.loads(line)["prediction"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    label = RUNS[name].keys["label_column"]
    names = getattr(rows.features[label], "names", None)
    truth = [str(value if names is None else names[value]) for value in rows[label]]
    right = sum(str(one) == other for one, other in zip(said, truth, strict=True))
    measured = read(folder / "results.json")["metrics"]["accuracy"] * len(rows)
    empty = said.count(None) + said.count("")
    assert empty == (name == "motions")
    assert right - 1e-3 <= measured <= right + empty + 1e-3


@pytest.mark.slow
@EACH
def test_it_answers_without_the_package(name, made, tmp_path):
    """As in this process, alone and beside rows that lack something."""
    row = RUNS[name].row(tmp_path, made)
    answers = ask_without_package(made.trained(name), row, tmp_path)
    pipe = mm_hf.pipeline(model=made.trained(name))
    here = pipe(row)
    spoken = next(key for key in ("label", "answer") if key in here[0])
    assert [one[spoken] for one in here] == [one[spoken] for one in answers]
    assert here[0]["score"] == pytest.approx(answers[0]["score"], abs=1e-5)
    assert answers[0][spoken] == RUNS[name].answer or RUNS[name].answer is None
    first, *others = [key for key, value in row.items() if value is not None]
    less = {first: row[first], **dict.fromkeys(others)}
    for beside in (less, row):
        first, second = pipe([beside, row], batch_size=2)
        assert second[0]["score"] == pytest.approx(here[0]["score"], abs=1e-5)
        assert first[0][spoken]


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if run.spoil])
def test_a_bad_row_is_named_and_skipped(name, part, made, tmp_path):
    column, value = RUNS[name].spoil
    rows = made.rows(name)
    spoilt = rows[part].map(
        lambda row, at: {column: value(row[column]) if at == 7 else row[column]}, with_indices=True
    )
    DatasetDict({**rows, part: spoilt}).save_to_disk(tmp_path / "set")
    keys = {"dataset": tmp_path / "set", "floors": False, "max_steps": 1, "eval_steps": 1}
    with pytest.raises(SystemExit, match=rf"row 7 of split '{part}'.*'{column}'.*inf"):
        call(train.main, made.recipe(name)(tmp_path / "run", **keys))
    keys |= {"on_error": "skip", "max_bad_fraction": 0.2}
    call(train.main, made.recipe(name)(tmp_path / "skipping", **keys))
    (line,) = (tmp_path / "skipping/bad_rows.jsonl").read_text().splitlines()
    assert (json.loads(line)["row"], json.loads(line)["column"]) == (7, column)


@pytest.mark.slow
@EACH
def test_an_interrupted_run_ends_as_one_that_was_not(name, made, tmp_path):
    recipe = made.recipe(name)(tmp_path / "run", save_steps=5, floors=False)
    ends_alike_after_a_stop(recipe, made.trained(name), RUNS[name].stop)


@pytest.mark.slow
@EACH
def test_the_trainer_learns_it_too(name, made, tmp_path):
    keys, score = RUNS[name].trainer
    call(finetune.main, made.recipe(name)(tmp_path / "run", **keys, floors=False))
    assert read(tmp_path / "run/results.json")["metrics"]["accuracy"] > score


@pytest.mark.slow
@EACH
def test_two_processes_learn_as_one(name, made, tmp_path):
    run = RUNS[name]
    for number, keys in enumerate(run.two):
        rows, folder = run.keys["per_device_train_batch_size"], tmp_path / str(number)
        assert two_processes_differ_by(made.recipe(name), folder, rows, learning_rate=0.05, **keys) < 1e-5


@pytest.mark.slow  # part of `make reliability`
@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if run.kills])
def test_killed_and_started_again(name, made, tmp_path):
    keys = {"save_steps": 10} if name == "clips" else {}
    ends_alike_after_kills(made.recipe(name), tmp_path, RUNS[name].kills, **keys)


@pytest.mark.slow
def test_beside_words_either_may_be_missing(made, encoders, tmp_path):
    """And the balance between the two is minded."""
    words = {"text_encoder": encoders / "minilm-l6", "text_column": "word", "freeze_encoders": True}
    call(train.main, made.recipe("motions")(tmp_path / "run", **words, gradient_modulation=0.5, max_steps=30))
    assert set(read(tmp_path / "run/results.json")["floors"]) == {"linear", "majority", "series_only", "text_only"}
    call(evaluate.main, "--model", tmp_path / "run", "--missing", "--bootstrap_samples", 10)
    report = read(tmp_path / "run/evaluation/evaluation.json")
    assert set(report["missing"]["by_modality"]) == {"text", "series"}


def test_what_is_learned_from_the_rows(made):
    scaler = mm_hf.MMFusionProcessor.from_pretrained(made.trained("motions")).series_scaler
    assert scaler.channels == 6
    assert all(std > 0.1 for std in scaler.stds)
    schema = mm_hf.MMFusionProcessor.from_pretrained(made.trained("reviews")).table_schema
    assert list(schema.numerical) == ["age", "feedback"]
    assert 35 < schema.numerical["age"][0] < 50
    assert list(schema.categorical) == ["class", "clothing_id", "helpful"]
    assert schema.categorical["helpful"] == ["no", "yes"]  # by the names of the classes


@pytest.mark.slow
def test_what_keys_made_of_encoders(made):
    config = mm_hf.MMFusionForClassification.from_pretrained(made.trained("motions")).config
    assert config.series_config.rnn_type == "gru"
    card = (made.trained("motions") / "README.md").read_text()
    assert "`MMFusionForClassification` of mm_hf: series encoder `gru`,\nfused by" in card
    config = mm_hf.MMFusionForClassification.from_pretrained(made.trained("sounds")).config
    assert config.audio_config.max_source_positions == 50
    card = (made.trained("sounds") / "README.md").read_text()
    assert "text encoder `minilm-l6`, audio encoder `whisper-tiny-en`" in card
    assert read(made.trained("sounds") / "results.json")["floors"]["text_only"] < 0.65


@pytest.mark.slow
def test_frames_stand_in_places(made, tmp_path):
    folder = made.trained("clips")
    assert read(folder / "results.json")["by_kind"]["colour"] > 0.5
    assert mm_hf.MMFusionForQuestionAnswering.from_pretrained(folder).config.num_images == 4
    asked, pipe = clip(tmp_path, made), mm_hf.pipeline(model=folder)
    content = Path(asked["video"]).read_bytes()
    one, two = pipe([{**asked, "video": content}, {"question": "what colour?"}], batch_size=2, top_k=1)
    assert one[0]["score"] == pytest.approx(pipe(asked)[0]["score"], abs=1e-5)
    assert two[0]["answer"]
    with pytest.raises(ValueError, match=r"image.*video"):
        pipe({**asked, "image": Image.new("RGB", (8, 8))})


def test_other_classes_in_another_part_are_refused(made, tmp_path):
    parts = made.rows("reviews")
    turned = (
        parts["test"].cast_column("helpful", Value("int64")).cast_column("helpful", ClassLabel(names=["yes", "no"]))
    )
    DatasetDict({**parts, "test": turned}).save_to_disk(tmp_path / "set")
    with pytest.raises(SystemExit, match="'test'"):
        call(train.main, made.recipe("reviews")(tmp_path / "run", dataset=str(tmp_path / "set")))


# What a recipe says, and what stands in the one line that refuses it.
REFUSED = [
    ("sounds", {"audio_column": None}, ["audio_column"]),
    ("sounds", {"audio_column": "sound"}, ["'sound'", "audio_column"]),
    ("sounds", {"audio_column": "digit"}, ["'digit'", "sounds"]),
    ("sounds", {"max_audio_seconds": 31}, ["1 and 30", "31"]),
    ("sounds", {"max_audio_seconds": 0}, ["max_audio_seconds", "got 0"]),
    ("sounds", {"audio_column": None, "audio_encoder": None}, ["max_audio_seconds is 1", "audio_encoder"]),
    ("sounds", {"audio_encoder": "text"}, ["minilm-l6"]),
    (
        "motions",
        {"series_column": None, "understand_columns": False},
        ["image_column", "audio_column", "table_columns", "series_column"],
    ),
    ("motions", {"series_column": "steps"}, ["'steps'", "series_column"]),
    ("motions", {"series_column": "word"}, ["row 0 of split 'train'", "'word'"]),
    ("motions", {"series_column": "activity"}, ["series_column", "['activity']"]),
    ("motions", {"series_rnn_type": "rnn"}, ["['lstm', 'gru']", "'rnn'"]),
    ("motions", {"streaming": True}, ["series_column", "streaming"]),
    ("motions", {"gradient_modulation": 0.5}, ["MMFusionForClassification", "['series']"]),
    ("motions", {"gradient_modulation": -1}, ["gradient_modulation", "0, got -1"]),
    ("motions", {"gradient_modulation": 0.5, "torch_compile": True}, ["gradient_modulation", "torch_compile", "True"]),
    ("reviews", {"table_columns": ["size"], "category_columns": None}, ["'size'", "table_columns"]),
    ("reviews", {"table_columns": ["age", "age"], "category_columns": None}, ["table_columns", "twice"]),
    ("reviews", {"table_columns": ["department"], "category_columns": None}, ["table_columns", "['department']"]),
    ("reviews", {"category_columns": ["size"]}, ["category_columns", "['size']", "table_columns is ['age'"]),
    ("reviews", {"table_columns": None}, ["['clothing_id']", "table_columns is []"]),
    ("reviews", {"streaming": True}, ["table_columns", "streaming"]),
    ("clips", {"image_column": "video"}, ["twice"]),
    ("clips", {"num_frames": 0}, ["num_frames", "1, got 0"]),
    ("clips", {"video_column": "clip"}, ["'clip'", "videos"]),
    ("clips", {"video_column": None, "image_column": None}, ["image_column"]),
]


@pytest.mark.parametrize(("name", "keys", "values"), REFUSED)
def test_what_does_not_fit_is_one_line(name, keys, values, made, encoders, tmp_path, capsys):
    keys = {key: encoders / "minilm-l6" if value == "text" else value for key, value in keys.items()}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        call(train.main, made.recipe(name)(tmp_path / "run", **keys))
    said = stopped.value.code if isinstance(stopped.value.code, str) else capsys.readouterr().err.strip()
    assert [value for value in values if value not in said] == []
    assert "\n" not in said
