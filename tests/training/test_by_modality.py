"""Keys of a recipe by modality, in either form; several columns of one kind."""

import json
from types import SimpleNamespace

import pytest

from mm_hf.data.modalities import READERS, ModalityReader
from mm_hf.models.modality import MODALITIES, Modality
from mm_hf.training.by_modality import (
    check_columns,
    check_values_used,
    columns_by_modality,
    encoder_of,
    missing_columns,
    places_of,
    poolings_of,
)
from mm_hf.training.checks import check_arguments, check_table
from mm_hf.training.data_arguments import DataArguments
from mm_hf.training.model_arguments import ModelArguments
from mm_hf.training.recipe import given_keys, parse_arguments, recipe_of
from mm_hf.training.recipe_files import packaged_recipes


OF_BEFORE = {"encoders", "pooling", "columns", "extra_learning_rates", "extra_augment", "import", "import_files"}


@pytest.fixture
def parse(tmp_path):
    """The keys of recipe.json that a recipe of these lines, and flags, change."""
    _, *usual = parse_arguments("", [])
    before = recipe_of(*usual)

    def read(text: str, *flags: str) -> dict:
        (tmp_path / "recipe.yaml").write_text(text)
        _, *groups = parse_arguments("", [str(tmp_path / "recipe.yaml"), *flags])
        found = recipe_of(*groups)
        return {key: value for key, value in found.items() if key not in before or before[key] != value}

    return read


BOTH_FORMS = [
    ("learning_rate", "{default: 1e-3, vision: 1e-5}", {"learning_rate": 1e-3, "vision_learning_rate": 1e-5}),
    ("learning_rate", "{text: 2}", {"text_learning_rate": 2.0}),
    (
        "learning_rate",
        "{encoders: 0.1, decoder: 0.2}",
        {"encoder_learning_rate": 0.1, "decoder_learning_rate": 0.2},
    ),
    ("encoders", "{vision: a/b, text: c}", {"vision_encoder": "a/b", "text_encoder": "c"}),
    ("freeze_encoders", "[vision]", {"freeze_encoders": ["vision"]}),
    ("freeze_encoders", "{text: true, vision: no}", {"freeze_encoders": ["text"]}),
    ("freeze_encoders", "{default: yes}", {"freeze_encoders": True}),
    ("freeze_encoders", "{text: false}", {}),
    ("pooling", "{text: mean, audio: cls}", {"text_pooling": "mean", "pooling": {"audio": "cls"}}),
    ("pooling", "mean", {"pooling": {"default": "mean"}}),
    (
        "columns",
        "{vision: [front, back], text: [title, body]}",
        {"image_column": ["front", "back"], "text_column": ["title", "body"]},
    ),
    (
        "columns",
        "{video: clip, tabular: beds, series: 7}",
        {"video_column": "clip", "table_columns": ["beds"], "series_column": "7"},
    ),
    ("modality_dropout", "{text: 0.5}", {"modality_dropout": {"text": 0.5}}),
]


@pytest.mark.parametrize(("key", "value", "found"), BOTH_FORMS)
def test_recipes_and_flags_say_the_same(key, value, found, parse):
    assert parse(f"{key}: {value}\n") == found
    assert parse("seed: 0\n", f"--{key}", value) == found


def test_a_flag_wins_in_either_form(parse):
    recipe = "learning_rate: {default: 1e-3, vision: 1e-5}\n"
    assert parse(recipe, "--vision_learning_rate", "0.5") == {"learning_rate": 1e-3, "vision_learning_rate": 0.5}
    found = parse("vision_learning_rate: 1e-5\nlearning_rate: 1\n", "--learning_rate", "{vision: 0.5}")
    assert found == {"learning_rate": 1.0, "vision_learning_rate": 0.5}
    assert parse("pooling: {audio: cls}\n", "--pooling", "{vision: mean}") == {
        "pooling": {"audio": "cls", "vision": "mean"}
    }


def test_a_recipe_stands_above_its_base_in_either_form(parse, tmp_path):
    (tmp_path / "base.yaml").write_text("vision_encoder: a\ntext_encoder: b\n")
    assert parse("base: base.yaml\nencoders: {vision: c}\n") == {"vision_encoder": "c", "text_encoder": "b"}


@pytest.mark.parametrize(
    ("text", "flags", "parts"),
    [
        (
            "learning_rate: {vision: 1e-5}\nvision_learning_rate: 1e-4",
            (),
            ("'1e-5'", "vision_learning_rate", "'1e-4'"),
        ),
        ("columns: {vision: a}\nimage_column: [b]", (), ("'a'", "image_column", "['b']")),
        ("seed: 1", ("--encoders", "{text: a}", "--text_encoder", "b"), ("encoders", "text_encoder", "'b'")),
        ("learning_rate: {visoin: 1}", (), ("'visoin'", "'vision'", "--import")),
        ("encoders: {default: a}", (), ("encoders", "'default'")),
        ("encoders: a/b", (), ("encoders", "a/b", "{vision: ")),
        ("learning_rate: {vision: fast}", (), ("vision_learning_rate", "fast")),
        ("freeze_encoders: {text: maybe}", (), ("freeze_encoders", "maybe")),
        ("pooling: {text: [mean]}", (), ("text_pooling", "mean")),
        ("seed: 1", ("--columns", "{text: "), ("--columns", "line 1")),
    ],
)
def test_what_is_refused(text, flags, parts, parse, capsys):
    with pytest.raises(SystemExit):
        parse(f"{text}\n", *flags)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(part in error for part in parts), error


def test_both_forms_may_say_the_same(parse):
    assert parse("learning_rate: {vision: 1e-5}\nvision_learning_rate: 0.00001\n") == {"vision_learning_rate": 1e-5}
    assert parse("columns: {vision: a}\nimage_column: [a]\n") == {"image_column": ["a"]}


def test_recipes_that_do_not_use_the_new_keys_are_kept_as_before(parse):
    recipe = "text_column: title\naudio_column: [a]\nlabel_column: kind\nfreeze_encoders: true\ntext_pooling: mean\n"
    assert parse(recipe) == {
        "text_column": "title",
        "audio_column": "a",
        "label_column": "kind",
        "freeze_encoders": True,
        "text_pooling": "mean",
    }
    _, *groups = parse_arguments("", ["--text_column", "title"])
    kept = json.loads(json.dumps(recipe_of(*groups)))
    assert set(kept).isdisjoint(OF_BEFORE)
    assert kept["text_column"] == "title"


def test_given_keys_are_those_of_the_short_forms(tmp_path):
    (tmp_path / "r.yaml").write_text("encoders: {vision: a}\ncolumns: {text: [b, c]}\n")
    found = given_keys([str(tmp_path / "r.yaml"), "--learning_rate", "{text: 1}"])
    assert found == {"vision_encoder", "text_column", "text_learning_rate"}


def groups_of(*flags: str):
    _, *groups = parse_arguments("", ["--dataset", "d", "--label_column", "l", "--report_to", "none", *flags])
    check_arguments("train.py", *groups)
    return groups


def test_all_but_one_encoder_is_frozen():
    texts = ("--text_column", "a", "--image_column", "b")
    model_args, *_ = groups_of(*texts, "--freeze_encoders", "{default: true, text: false}")
    assert model_args.freeze_encoders == ["vision"]
    model_args, *_ = groups_of("--text_column", "a", "--freeze_encoders", "{default: true, text: false}")
    assert model_args.freeze_encoders is False


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--text_column", "a", "--encoders", "{tabular: b}"), ("tabular", "text")),
        (("--text_column", "a", "--pooling", "{audio: cls}"), ("audio", "['text']")),
        (("--audio_column", "a", "b", "--task", "ctc"), ("ctc", "audio_column", "['a', 'b']")),
    ],
)
def test_what_does_not_fit_together(flags, parts):
    with pytest.raises(ValueError, match=parts[0]) as caught:
        groups_of(*flags)
    assert all(part in str(caught.value) for part in parts)


def test_a_search_has_one_column_of_each():
    _, *groups = parse_arguments(
        "", ["--dataset", "d", "--task", "retrieval", "--image_column", "a", "--text_column", "b", "c"]
    )
    with pytest.raises(ValueError, match=r"text_column.*\['b', 'c'\]"):
        check_arguments("train.py", *groups)


def test_what_a_recipe_says_of_each_modality():
    _, model_args, data_args, train_args = parse_arguments(
        "", ["--text_column", "a", "", "b", "--video_column", "c", "--pooling", "{default: mean, text: cls}"]
    )
    assert columns_by_modality(data_args) == {"vision": ["c"], "text": ["a", "b"]}
    assert missing_columns(data_args, ["vision", "text", "audio"]) == ["--audio_column"]
    assert poolings_of(model_args, ["vision", "text"]) == {"vision": "mean", "text": "cls"}
    assert poolings_of(ModelArguments(), ["vision", "text"]) is None
    assert train_args.encoder_learning_rates["vision"] == train_args.learning_rate / 5
    assert places_of({"vision": ["a", "b"], "text": ["c"]}) == {"num_images": 2}
    assert places_of({"text": ["c", "d"], "tabular": ["e", "f"]}) == {"num_images": 1, "places": {"text": 2}}
    nothing = {**vars(data_args), "columns": {}, "image_column": [""], "text_column": "", "video_column": None}
    assert columns_by_modality(SimpleNamespace(**nothing)) == {}


def test_a_modality_from_outside(parse, monkeypatch):
    class Point(Modality):
        name = "point"
        extra = True
        pretrained = True

    class PointReader(ModalityReader):
        name = "point"

    monkeypatch.setitem(MODALITIES, "point", Point())
    monkeypatch.setitem(READERS, "point", PointReader())
    found = parse(
        "columns: {point: [lat, lon], text: a}\nlearning_rate: {default: 1, point: 2}\nencoders: {point: x}\n"
        "freeze_encoders: {default: true, point: false}\n"
    )
    assert found == {
        "columns": {"point": ["lat", "lon"]},
        "text_column": "a",
        "learning_rate": 1.0,
        "extra_learning_rates": {"point": 2.0},
        "encoders": {"point": "x"},
        "freeze_encoders": {"default": True, "point": False},
    }
    flags = ["--columns", "{point: [lat, lon], text: a}", "--learning_rate", "{point: 2}", "--encoders", "{point: x}"]
    model_args, data_args, train_args = groups_of(*flags, "--freeze_encoders", "{default: yes, point: no}")
    assert columns_by_modality(data_args) == {"text": ["a"], "point": ["lat", "lon"]}
    assert train_args.encoder_learning_rates["point"] == 2
    assert model_args.freeze_encoders == ["text"]
    assert encoder_of(model_args, "point") == "x"
    data_args.columns = None
    assert missing_columns(data_args, ["point"]) == ['--columns "{point: …}"']
    with pytest.raises(ValueError, match="point"):
        groups_of("--columns", "{point: [a, b]}")  # it has no usual encoder


@pytest.mark.parametrize("key", ["text_column", "table_columns", "series_column"])
def test_labels_are_no_input(key):
    """The model would read the answer, and every score be a perfect one."""
    data_args = DataArguments(**{key: ["a", "kind"], "label_column": "kind"})
    with pytest.raises(ValueError, match=rf"{key}.*\['kind'\].*label"):
        check_table(data_args)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("columns: {text: [title, null]}", ("place 2 of 2", "text")),
        ("columns: {vision: [null, front, back]}", ("place 1 of 3", "vision")),
        ("columns: {image: front, vision: front}", ("image", "vision", "image_column")),
        ("columns: {vision: front, image: back}", ("image", "vision", "image_column")),
        ("augment: {tabular: 0.5}", ("augment", "tabular", "'vision', 'text', 'audio'")),
        ("augment: {visoin: [crop]}", ("augment", "'visoin'", "'vision'")),
        ("augment: {text: 0.5}\ntoken_dropout: 0.4", ("augment", "0.5", "token_dropout", "0.4")),
    ],
)
def test_what_is_meant_twice_or_not_at_all(text, parts, parse, capsys):
    with pytest.raises(SystemExit):
        parse(f"{text}\n")
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(part in error for part in parts), error


def test_augment_by_modality(parse):
    recipe = "augment: {vision: [crop], text: 0.1, audio: 0.2}\nimage_column: a\n"
    found = {"augment": ["crop"], "token_dropout": 0.1, "speed_perturbation": 0.2, "image_column": ["a"]}
    assert parse(recipe) == found
    assert parse("image_column: a\n", "--augment", "{vision: crop, text: 0.1, audio: 0.2}") == found
    assert parse("augment: [crop]\nimage_column: a\n", "--augment", "{text: 0.1}")["augment"] == ["crop"]


@pytest.mark.parametrize(
    ("flags", "key", "name"),
    [
        (("--audio_learning_rate", "1e-3"), "learning_rate", "audio"),
        (("--learning_rate", "{default: 1, tabular: 1e-3}"), "learning_rate", "tabular"),
        (("--freeze_encoders", "{default: true, audio: false}"), "freeze_encoders", "audio"),
        (("--freeze_encoders", "[vision]"), "freeze_encoders", "vision"),
    ],
)
def test_a_value_for_a_modality_that_is_not_there(flags, key, name):
    _, *groups = parse_arguments("", ["--dataset", "d", "--text_column", "a", *flags])
    with pytest.raises(ValueError, match=rf"{key}.*'{name}'.*\['text'\]"):
        check_values_used(*groups)


@pytest.mark.parametrize("recipe", sorted(packaged_recipes()))
def test_packaged_recipes_name_no_other_modality(recipe):
    _, *groups = parse_arguments("", [recipe])
    check_values_used(*groups)
    check_columns(groups[1])
