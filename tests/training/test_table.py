"""Tables through the scripts: real reviews, their text and what the shop knows beside it, with gaps in both."""

import json
from pathlib import Path

import pytest
from datasets import ClassLabel, DatasetDict, Value, load_from_disk
from kill_and_resume import ask_without_package, call, ends_alike_after_a_stop, recipe_writer, two_processes_differ_by

import mm_hf
from mm_hf.commands import evaluate
from mm_hf.training import finetune, train


@pytest.fixture(scope="module")
def dataset(clothing_reviews_folder, tmp_path_factory) -> Path:
    """Every part of a garment's record that was kept: which department is it of? The text tells, and so does the
    class, which is missing in a third of the rows; some rows have no record, and some no text."""
    full = load_from_disk(str(clothing_reviews_folder))
    rows = {"train": 400, "validation": 60, "test": 121}

    def gaps(row, place):
        if place % 3 == 0:
            row["class"] = None
        if place % 11 == 10:
            row |= dict.fromkeys(["age", "feedback", "class", "clothing_id", "helpful"])
        if place % 13 == 12:
            row["text"] = None
        return row

    parts = {}
    for name, part in full.items():
        part = part.filter(lambda value: value in ("Dresses", "Tops", "Bottoms"), input_columns="department")
        part = part.select(range(rows[name]))
        helpful = [int(count > 0) for count in part["feedback"]]
        part = part.add_column("helpful", helpful).cast_column("helpful", ClassLabel(names=["no", "yes"]))
        part = part.cast_column("age", Value("float32"))
        parts[name] = part.map(gaps, with_indices=True)
    folder = tmp_path_factory.mktemp("reviews") / "set"
    DatasetDict(parts).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(encoders, dataset, tmp_path_factory):
    defaults = {
        "text_encoder": encoders / "minilm-l6",
        "max_text_length": 24,
        "dataset": dataset,
        "text_column": "text",
        "table_columns": ["age", "feedback", "class", "clothing_id", "helpful"],
        "category_columns": ["clothing_id"],
        "label_column": "department",
        "fusion_hidden_size": 64,
        "fusion_layers": 1,
        "freeze_encoders": True,
        "learning_rate": 3e-3,
        "max_steps": 60,
        "eval_steps": 20,
        "per_device_train_batch_size": 32,
    }
    return recipe_writer(tmp_path_factory, defaults)


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "train"
    call(train.main, recipe(folder))
    return folder


def test_a_run(trained):
    results = json.loads((trained / "results.json").read_text())
    assert set(results["floors"]) == {"majority", "text_only", "table_only", "linear"}
    assert results["metrics"]["accuracy"] > 0.9 > results["floors"]["majority"] + 0.2
    processor = mm_hf.MMFusionProcessor.from_pretrained(trained)
    schema = processor.table_schema
    assert list(schema.numerical) == ["age", "feedback"]
    assert 35 < schema.numerical["age"][0] < 50
    assert list(schema.categorical) == ["class", "clothing_id", "helpful"]
    assert schema.categorical["helpful"] == ["no", "yes"]  # by the names of the classes
    model = mm_hf.MMFusionForClassification.from_pretrained(trained)
    assert model.config.modalities == ["text", "tabular"]
    card = (trained / "README.md").read_text()
    assert 'predict({"text": "a text", "table": {"age": …, ' in card


def test_evaluation(trained):
    call(evaluate.main, "--model", trained, "--missing", "--bootstrap_samples", 20)
    report = json.loads((trained / "evaluation/evaluation.json").read_text())
    assert set(report["missing"]["by_modality"]) == {"text", "tabular"}
    expected = json.loads((trained / "results.json").read_text())["metrics"]["accuracy"]
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(expected, abs=1e-5)
    assert (trained / "evaluation/report.html").exists()


@pytest.mark.slow
def test_it_answers_without_the_package(trained, tmp_path):
    row = {"text": None, "table": {"class": "Dresses", "age": 30, "helpful": "yes"}}
    answers = ask_without_package(trained, row, tmp_path)
    assert answers[0]["label"] == "Dresses"
    pipe = mm_hf.pipeline(model=trained)
    here = pipe(row)
    assert [answer["label"] for answer in here] == [answer["label"] for answer in answers]
    rows = [{"table": row["table"]}, {"text": "a warm sweater"}, {"table": {}, "text": "a nice skirt"}]
    one, *_ = pipe(rows, batch_size=3, top_k=3)
    assert one[0]["score"] == pytest.approx(here[0]["score"], abs=1e-5)
    with pytest.raises(ValueError, match=r"Column 'colour': this is no column of the table, which has \['age'"):
        pipe({"table": {"colour": "red"}})


def test_bad_rows_are_named_and_skipped(recipe, dataset, tmp_path):
    parts = load_from_disk(str(dataset))

    def spoil(row, place):
        if place == 7:
            row["age"] = float("inf")
        return row

    parts["train"] = parts["train"].map(spoil, with_indices=True)
    parts.save_to_disk(tmp_path / "set")
    keys = {"dataset": str(tmp_path / "set"), "floors": False, "max_steps": 4, "eval_steps": 4}
    with pytest.raises(SystemExit, match=r"row 7 of split 'train'.*'age': this must be a finite number, got inf"):
        call(train.main, recipe(tmp_path / "run", **keys))
    parts = load_from_disk(str(dataset))
    parts["test"] = parts["test"].map(spoil, with_indices=True)
    parts.save_to_disk(tmp_path / "other")
    keys["dataset"] = str(tmp_path / "other")
    with pytest.raises(SystemExit, match=r"row 7 of split 'test'.*'age': this must be a finite number, got inf"):
        call(train.main, recipe(tmp_path / "run", **keys))
    call(train.main, recipe(tmp_path / "skipping", on_error="skip", **keys))
    (line,) = (tmp_path / "skipping/bad_rows.jsonl").read_text().splitlines()
    assert (json.loads(line)["row"], json.loads(line)["column"]) == (7, "age")


def test_other_classes_in_another_part_are_refused(recipe, dataset, tmp_path):
    parts = load_from_disk(str(dataset))
    turned = (
        parts["test"].cast_column("helpful", Value("int64")).cast_column("helpful", ClassLabel(names=["yes", "no"]))
    )
    DatasetDict({**parts, "test": turned}).save_to_disk(tmp_path / "set")
    with pytest.raises(SystemExit, match="of part 'test' are not those of train"):
        call(train.main, recipe(tmp_path / "run", dataset=str(tmp_path / "set")))


@pytest.mark.slow
def test_an_interrupted_run_ends_as_one_that_was_not(recipe, trained, tmp_path):
    ends_alike_after_a_stop(recipe(tmp_path / "run", save_steps=5, floors=False), trained, 37)


@pytest.mark.slow
def test_the_trainer_learns_it_too(recipe, tmp_path):
    call(finetune.main, recipe(tmp_path / "run", floors=False))
    assert json.loads((tmp_path / "run/results.json").read_text())["metrics"]["accuracy"] > 0.9


@pytest.mark.slow
def test_two_processes_learn_as_one(recipe, tmp_path):
    assert two_processes_differ_by(recipe, tmp_path, 32, learning_rate=0.05) < 1e-5


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"table_columns": ["size"], "category_columns": None},
            "Unknown column 'size' (given as table_columns)",
        ),
        ({"table_columns": ["age", "age"], "category_columns": None}, "table_columns names a column twice"),
        (
            {"table_columns": ["department"], "category_columns": None},
            "table_columns names ['department'], the",
        ),
        ({"category_columns": ["size"]}, "category_columns names ['size'], but table_columns is ['age'"),
        ({"table_columns": None}, "category_columns names ['clothing_id'], but table_columns is []"),
        ({"streaming": True}, "table_columns does not go with streaming"),
    ],
)
def test_what_does_not_fit_is_one_line(keys, message, recipe, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        call(train.main, recipe(tmp_path / "run", **keys))
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)
