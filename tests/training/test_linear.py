"""A straight line beside the score, and the same line as a checkpoint: real pictures, texts and tables, real frozen
encoders."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import DatasetDict, Value, load_from_disk
from kill_and_resume import ask_without_package, call, recipe_writer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import mm_hf
from mm_hf.commands import evaluate
from mm_hf.evaluation.linear import ITERATIONS
from mm_hf.training import linear_floor, train
from mm_hf.training.line_answers import ANSWERS, kept_answers


STEPS = {"max_steps": 2, "eval_steps": 2, "per_device_train_batch_size": 16}


@pytest.fixture(scope="module")
def reviews(clothing_reviews_folder, tmp_path_factory) -> Path:
    """Title-less reviews and the shop's record; some rows lack one of them."""
    full = load_from_disk(str(clothing_reviews_folder))
    rows = {"train": 300, "validation": 80, "test": 120}

    def gaps(row, place):
        if place % 11 == 10:
            row |= dict.fromkeys(["age", "feedback", "class"])
        if place % 13 == 12:
            row["text"] = None
        row["liked"] = float(row["rating"])
        return row

    parts = {}
    for name, part in full.items():
        part = part.filter(lambda value: value in ("Dresses", "Tops", "Bottoms"), input_columns="department")
        part = part.select(range(rows[name])).cast_column("age", Value("float32"))
        parts[name] = part.map(gaps, with_indices=True)
    folder = tmp_path_factory.mktemp("reviews") / "set"
    DatasetDict(parts).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def of_reviews(encoders, reviews, tmp_path_factory):
    defaults = {
        "text_encoder": encoders / "minilm-l6",
        "max_text_length": 24,
        "dataset": reviews,
        "text_column": "text",
        "table_columns": ["age", "feedback", "class"],
        "label_column": "department",
        "fusion_layers": 1,
        "freeze_encoders": True,
        "seed": 3,
    }
    return recipe_writer(tmp_path_factory, defaults)


@pytest.fixture(scope="module")
def of_pictures(encoders, tiny_folder, tmp_path_factory):
    defaults = {
        "vision_encoder": encoders / "mobilenet-v2",
        "text_encoder": encoders / "minilm-l6",
        "image_size": 64,
        "dataset": tiny_folder,
        "image_column": "image",
        "text_column": "question",
        "label_column": "answer",
        "image_id_column": "image_id",
        "fusion_layers": 1,
        "freeze_encoders": True,
        "seed": 3,
    }
    return recipe_writer(tmp_path_factory, defaults)


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def answered(of_pictures, tmp_path_factory) -> Path:
    """Questions about pictures, two steps of training: a line does better."""
    folder = tmp_path_factory.mktemp("runs") / "concat"
    call(train.main, of_pictures(folder, fusion="concat", floor_budget=0.5, **STEPS))
    return folder


@pytest.fixture(scope="module")
def line(of_reviews, tmp_path_factory) -> Path:
    """The line itself, of reviews and their table."""
    folder = tmp_path_factory.mktemp("runs") / "line"
    call(train.main, of_reviews(folder, fusion="linear"))
    return folder


def features_by_hand(folder: Path, dataset: Path, encoders: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean-pooled pictures and questions of each part, by the encoders alone, and the classes."""
    processor = mm_hf.MMFusionProcessor.from_pretrained(folder)
    model = mm_hf.MMFusionForQuestionAnswering.from_pretrained(folder).eval().base_model
    found = {}
    for name, part in load_from_disk(str(dataset)).items():
        rows = []
        for start in range(0, len(part), 50):
            batch = part[start : start + 50]
            inputs = processor(images=batch["image"], text=batch["question"])
            with torch.no_grad():
                pixels = model.encoders["vision"](inputs["pixel_values"]).last_hidden_state.mean((2, 3))
                mask = inputs["attention_mask"]
                words = model.encoders["text"](input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
                words = (words * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            rows.append(torch.cat([pixels, words], 1).numpy())
        found[name] = np.concatenate(rows), np.array(part["answer"][:])
    return found


@pytest.mark.slow
def test_the_floor_is_that_of_a_pipeline_by_hand(answered, tiny_folder, encoders):
    found = results_of(answered)
    facts = found["linear"]
    parts = features_by_hand(answered, tiny_folder, encoders)
    sizes = np.sqrt(2 * np.repeat([1280, 384], [1280, 384]) / 1664)  # no modality weighs more than another
    alike = FunctionTransformer(lambda features: features / sizes)
    by_hand = make_pipeline(StandardScaler(), alike, LogisticRegression(C=facts["strength"], max_iter=ITERATIONS))
    by_hand.fit(*parts["train"])
    score = (by_hand.predict(parts["test"][0]) == parts["test"][1]).mean()
    assert found["floors"]["linear"] == pytest.approx(score, abs=0.011)  # one row of 97, for rounding
    assert facts["metrics"]["accuracy"] == found["floors"]["linear"]
    assert facts["learned_from"] == facts["training_rows"] == len(parts["train"][0])
    assert facts["features"] == parts["train"][0].shape[1] + 2  # of each place whether it is empty
    assert facts["seconds"] > 0


def test_the_last_line_says_that_a_line_is_better(answered):
    found = results_of(answered)
    (entry,) = [entry for entry in found["comparisons"] if entry["floor"] == "linear"]
    assert entry["paired"]["winner"] == "b"
    assert entry["paired"]["a"] == pytest.approx(found["metrics"]["accuracy"], abs=1e-6)
    assert entry["paired"]["b"] == pytest.approx(found["floors"]["linear"], abs=1e-6)
    assert entry["paired"]["low"] < entry["paired"]["difference"] < entry["paired"]["high"] < 0
    words = found["verdict"]
    assert "a linear model" in words.partition("NOT")[2]
    assert "--fusion linear" in words.partition("To try")[2]
    card = (answered / "README.md").read_text()
    assert f"**{words}**" in card
    assert "| floor: linear |" in card
    assert "logistic regression" in card


def test_an_evaluation_has_it_with_its_interval(answered, capsys):
    call(evaluate.main, answered, "--bootstrap_samples", "200")
    report = json.loads((answered / "evaluation/evaluation.json").read_text())
    floor = report["floors"]["linear"]
    assert floor["value"] == pytest.approx(results_of(answered)["floors"]["linear"], abs=1e-5)
    assert floor["low"] < floor["value"] < floor["high"]
    (entry,) = [entry for entry in report["comparisons"] if entry["floor"] == "linear"]
    assert entry["paired"]["winner"] == "b"
    assert "--fusion linear" in capsys.readouterr().out.strip().splitlines()[-1]
    assert "floor: linear" in (answered / "evaluation/report.html").read_text()


def test_answers_are_kept_for_their_own_rows(answered):
    labels = torch.tensor(load_from_disk(results_of(answered)["recipe"]["dataset"])["test"]["answer"][:])
    assert kept_answers(answered, labels).shape == (len(labels), 13)
    assert kept_answers(answered, labels.flip(0)) is None
    assert kept_answers(answered, labels[:-1]) is None
    assert kept_answers(answered.parent, labels) is None


def test_the_line_as_a_checkpoint(line, of_reviews):
    """It answers what the floor does, is not held against itself, and knows what is absent."""
    found = results_of(line)
    assert found["metrics"]["accuracy"] == pytest.approx(found["floors"]["linear"], abs=1e-3)
    assert found["metrics"]["accuracy"] > found["floors"]["majority"] + 0.1
    assert {"text_only", "table_only"} <= set(found["floors"])
    assert "linear" not in [entry["floor"] for entry in found["comparisons"]]
    assert (line / ANSWERS).exists()
    model = mm_hf.MMFusionForClassification.from_pretrained(line)
    assert model.config.fusion_module_config.fusion_type == "linear"
    assert model.config.frozen_encoders == ["text"]
    assert json.loads((line / "recipe.json").read_text())["freeze_encoders"] is True
    test = load_from_disk(found["recipe"]["dataset"])["test"]
    labels = torch.tensor(model_numbers(model, test["department"][:]))
    kept = kept_answers(line, labels)
    assert (kept.argmax(-1) == labels).float().mean() == pytest.approx(found["metrics"]["accuracy"], abs=1e-6)
    predict = mm_hf.pipeline(model=str(line))
    rows = [12, 10, 0, 1]  # without a text, without a record, and with both
    for row in rows:
        given = {"text": test[row]["text"], "table": {name: test[row][name] for name in ("age", "feedback", "class")}}
        scores = {entry["label"]: entry["score"] for entry in predict(given, top_k=3)}
        expected = kept[row].softmax(-1)
        for name, number in model.config.label2id.items():
            assert scores[name] == pytest.approx(expected[number].item(), abs=1e-3), row


def model_numbers(model, names: list[str]) -> list[int]:
    return [model.config.label2id[name] for name in names]


@pytest.mark.slow
def test_a_fresh_process_without_the_package_gives_the_same(of_pictures, encoders, tmp_path):
    folder = tmp_path / "line"
    call(train.main, of_pictures(folder, fusion="linear", floors=False))
    test = load_from_disk(results_of(folder)["recipe"]["dataset"])["test"]
    test[3]["image"].save(tmp_path / "picture.png")
    row = {"image": str(tmp_path / "picture.png"), "question": test[3]["question"]}
    here = mm_hf.pipeline(model=str(folder))(row)
    there = ask_without_package(folder, row, tmp_path)
    assert there[0]["answer"] == here[0]["answer"]
    assert there[0]["score"] == pytest.approx(here[0]["score"], abs=1e-5)


def test_numbers_in_their_unit(of_reviews, tmp_path):
    """Ratings, by a ridge: the checkpoint answers in stars, as the floor does."""
    folder = tmp_path / "stars"
    call(train.main, of_reviews(folder, fusion="linear", label_column="liked", problem_type="regression"))
    found = results_of(folder)
    for name in ("rmse", "mae", "r2"):
        assert found["metrics"][name] == pytest.approx(found["linear"]["metrics"][name], abs=1e-3)
    assert found["metrics"]["rmse"] < found["floors"]["mean"]
    assert found["linear"]["words"] == "ridge regression"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"task": "generation"}, "generation.*concat|decoder"),
        ({"lora": "text"}, "lora.*text"),
        ({"fusion_hidden_size": 32}, "fusion_hidden_size.*32"),
        ({"token_dropout": 0.1}, "token_dropout.*0.1"),
        ({"imbalance": "class_weights"}, "imbalance.*class_weights"),
    ],
)
def test_what_a_line_has_no_use_for_is_refused(of_reviews, tmp_path, keys, said):
    with pytest.raises(SystemExit, match=said):
        call(train.main, of_reviews(tmp_path / "run", fusion="linear", **keys))


@pytest.mark.slow
def test_encoders_that_train_are_asked_as_they_were_before(answered, of_pictures, tmp_path):
    """Steps that ruin the encoders leave the floor as it is."""
    folder = tmp_path / "trained"
    keys = {"freeze_encoders": False, "encoder_learning_rate": 0.3, "fusion": "concat", "floor_budget": 0.1}
    call(train.main, of_pictures(folder, **keys, **STEPS))
    found, expected = results_of(folder), results_of(answered)
    assert found["floors"]["linear"] == pytest.approx(expected["floors"]["linear"], abs=0.011)  # a row, for rounding
    assert found["linear"]["strength"] == expected["linear"]["strength"]


def test_of_very_many_rows_some_are_drawn(monkeypatch):
    run = SimpleNamespace(splits={"train": range(300)}, train_args=SimpleNamespace(seed=5))
    assert linear_floor.rows_to_learn(run) == list(range(300))
    monkeypatch.setattr(linear_floor, "MOST_ROWS", 100)
    rows = linear_floor.rows_to_learn(run)
    assert len(set(rows)) == 100
    assert rows == sorted(rows) == linear_floor.rows_to_learn(run)
    monkeypatch.setattr(linear_floor, "MOST_NUMBERS", 5000)
    assert len(linear_floor.rows_to_learn(run, width=100)) == 50
