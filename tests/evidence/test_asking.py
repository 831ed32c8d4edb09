"""What to ask for next, of a real run: homes of which a table or a place on the map (a modality from outside) settles
what their walls are, and a table what they cost."""

import csv
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from kill_and_resume import call, recipe_writer
from messages import says

from benchmarks.missing import bound, smart_home_rows, video_rows
from mm_hf.evidence.coalition_answers import Coalition, CoalitionAnswers, coalitions_of, look
from mm_hf.evidence.cost_curve import cost_curve, price_of, score_at
from mm_hf.evidence.missing import Missing
from mm_hf.models.tasks import task_head_of
from mm_hf.tasks import task_of
from mm_hf.training import train
from mm_hf.training.asking import (
    batches_of,
    check_absence,
    learn_missing,
    lines_of_missing,
    missing_section,
    names_of_modalities,
    open_part,
    read_prices,
    write_cost_curve,
)


SMALL = {
    "fusion_hidden_size": 32,
    "fusion_layers": 1,
    "fusion_heads": 2,
    "learning_rate": 5e-3,
    "max_steps": 150,
    "per_device_train_batch_size": 64,
    "floors": False,
    "columns": {"place": ["latitude", "longitude"]},
    "table_columns": ["renovated"],
    "label_column": ["walls", "rent"],
    "modality_dropout": 0.3,
    "validation_fraction": 0.25,
    "test_fraction": 0.25,
}


@pytest.fixture(scope="module")
def homes(tmp_path_factory) -> Path:
    """The walls of a home are new where it is renovated, as half are; else those near the middle are old. Rents are
    20 where it is renovated, 10 where not."""
    file, draw = tmp_path_factory.mktemp("homes") / "homes.csv", random.Random(0)
    with open(file, "w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["latitude", "longitude", "renovated", "walls", "rent"])
        for _ in range(600):
            far, around = math.sqrt(draw.random()) * 0.1, draw.random() * 2 * math.pi
            latitude, longitude = 52.5 + far * math.sin(around), 13.4 + far * math.cos(around) / 0.61
            renovated = draw.choice(["yes", "no"])
            walls = "new" if renovated == "yes" or far > 0.07 else "old"
            rent = (20 if renovated == "yes" else 10) + draw.gauss(0, 0.5)
            writer.writerow([f"{latitude:.5f}", f"{longitude:.5f}", renovated, walls, f"{rent:.2f}"])
    return file


@pytest.fixture(scope="module")
def run(homes, imported, tmp_path_factory) -> Path:
    module = imported("custom_modality")
    folder = tmp_path_factory.mktemp("runs") / "homes"
    recipe = recipe_writer(tmp_path_factory, {**SMALL, "dataset": homes, "import": module.__file__})
    call(train.main, recipe(folder))
    return folder


@pytest.fixture(scope="module")
def missing(run):
    return learn_missing(str(run))


@pytest.mark.slow
def test_a_table_that_settles_half_of_the_rows_is_asked_for_first(run, missing):
    assert missing.warnings == []
    nothing, table = Coalition(), Coalition(["tabular"])
    # Rents: the table takes away nearly all of the error. Walls: it settles the half that is renovated.
    assert missing.scores.units["rent"] == pytest.approx(5, abs=0.4)
    evaluator = open_part(str(run), "test")
    rows = look(evaluator.model, batches_of(evaluator))
    score = missing.scores(rows)
    assert score[table].mean() > score[nothing].mean() + 0.3
    curve = write_cost_curve(str(run), missing, {"place": 3})
    assert curve["prices"] == {"place": 3, "tabular": 1}
    assert curve["rows"] == len(rows) == 150
    everything = curve["lines"]["random_order"][-1]["score"]
    assert everything > 0.8
    assert score_at(curve["lines"]["plan"], 0.25) == pytest.approx(score[table].mean(), abs=0.02)
    for name in ("same_for_all", "random_order"):
        assert score_at(curve["lines"]["plan"], 0.6) > score_at(curve["lines"][name], 0.6)
    assert json.loads((run / "cost_curve.json").read_text())["lines"] == curve["lines"]
    assert (run / "cost_curve.png").stat().st_size > 10_000


@pytest.mark.slow
def test_rows_that_lack_a_modality_are_told_what_it_would_bring(run, missing):
    evaluator = open_part(str(run), "test")
    places = {"latitude": 52.5, "longitude": 13.4}
    rows = [
        {**places, "renovated": None},
        {"latitude": None, "longitude": None, "renovated": "yes"},
        {"latitude": None, "longitude": None, "renovated": "no"},
        {**places, "renovated": "no"},
    ]
    rows = [{**row, "walls": None, "rent": None, "row_id": place, "split": "rows"} for place, row in enumerate(rows)]
    told = missing_section(str(run), evaluator.model, evaluator.collator, rows, "place=1", 0.95, missing=missing)
    assert [row["missing"] for row in told["rows"]] == [["tabular"], ["place"], ["place"], []]
    assert told["rows"][0]["next"] == "tabular"
    assert told["rows"][0]["gains"]["tabular"] > 0.2
    # Of a renovated one the place changes nothing; of another it says what the walls are.
    assert told["rows"][1]["gains"]["place"] < 0.02 < told["rows"][2]["gains"]["place"]
    assert told["rows"][1]["next"] is None
    assert told["rows"][2]["next"] == "place"
    assert told["rows"][3]["reason"] == "complete"
    assert told["prices"] == {"place": 1, "tabular": 1}
    assert told["columns"] == {"tabular": ["renovated"], "place": ["latitude", "longitude"]}
    json.dumps(told, allow_nan=False)
    assert any("tabular" in line for line in lines_of_missing(told))


@pytest.mark.slow
def test_the_same_row_is_told_the_same_in_any_batch(run, missing):
    evaluator = open_part(str(run), "test")
    (part,) = evaluator.splits.values()
    rows = [{**part[place], "row_id": place, "split": "test", "renovated": None} for place in range(40)]
    whole = missing_section(str(run), evaluator.model, evaluator.collator, rows, None, 0.9, missing=missing)["rows"]
    alone = missing_section(str(run), evaluator.model, evaluator.collator, rows[7:8], None, 0.9, missing=missing)[
        "rows"
    ]
    assert alone[0]["next"] == whole[7]["next"]
    assert alone[0]["gains"] == pytest.approx(whole[7]["gains"], abs=1e-6)


@pytest.mark.slow
def test_a_model_that_was_not_taught_to_do_without_is_warned_of_and_refused(run, missing):
    evaluator = open_part(str(run), "validation")
    evaluator.model.config.fusion_module_config.modality_dropout = {"place": 0.3, "tabular": 0.0}
    assert "tabular" in check_absence(evaluator.model, missing)[0]
    worse = dict(missing.score)
    missing.score[Coalition(["place"])] = np.full(len(missing.answers), -1.0)
    with pytest.raises(ValueError, match=says("place", "modality_dropout", 0, "tabular")):
        check_absence(evaluator.model, missing)
    missing.score.update(worse)


def test_prices_are_read_by_modality_and_by_column():
    names = names_of_modalities({"vision": ["photo"], "tabular": ["beds", "baths"]})
    assert read_prices("photo=5, tabular=0.5", names) == {"vision": 5, "tabular": 0.5}
    assert read_prices(None, names) == {}
    with pytest.raises(ValueError, match=says("beds")):
        read_prices("beds=1", names)
    with pytest.raises(ValueError, match=says("vision=5,audio=1", "photo=much")):
        read_prices("photo=much", names)


# What is possible, by the rules that the data are made by.


def test_the_bound_of_smart_home_is_that_of_its_rule():
    line = bound(smart_home_rows(), [], {"audio": 1, "tabular": 1})
    assert line[0] == {"price": 0, "score": pytest.approx(0.2, abs=0.002)}
    # The state of the heating first. It leaves open what a row without it needs 94 % of the price for.
    assert line[-1]["price"] == pytest.approx(0.94, abs=0.005)
    assert line[-1]["score"] == pytest.approx(1)
    assert score_at(line, 0.6) == pytest.approx(0.784, abs=0.004)
    assert score_at(line, 0.8) == pytest.approx(0.939, abs=0.004)


def test_the_bound_of_video_is_that_of_its_questions():
    line = bound(video_rows(), ["text"], {"vision": 1, "audio": 1})
    # Of 11 questions 6 need the picture, 3 the tone, and 2 both: 6 of 11 halves, 3 halves, and 2 wholes.
    assert line[-1] == {"price": pytest.approx(13 / 22), "score": pytest.approx(1)}
    assert line[0] == {"price": 0, "score": pytest.approx((3 / 4 + 3 / 3 + 3 / 4 + 2 / 2) / 11, abs=0.06)}


def test_a_line_is_read_between_its_points():
    line = [{"price": 0.0, "score": 0.2}, {"price": 0.5, "score": 0.6}, {"price": 1.0, "score": 1.0}]
    assert score_at(line, 0.75) == pytest.approx(0.8)
    assert price_of(line, 0.7) == pytest.approx(0.625)
    assert price_of(line, 0.2) == 0
    assert price_of(line, 1.1) is None


def perfect(joint: list, rows: int, seed: int) -> CoalitionAnswers:
    """What a model says that knows the rule, of rows drawn from all that can happen: the probabilities of the labels,
    given what is seen."""
    draw, names, labels = np.random.default_rng(seed), list(joint[0][0]), sorted({label for _, label, _ in joint})
    shares = np.array([share for _, _, share in joint])
    drawn = [joint[place] for place in draw.choice(len(joint), rows, p=shares / shares.sum())]
    pooled, logits = {}, {}
    for seen in coalitions_of(names):
        known: dict[tuple, np.ndarray] = {}
        for values, label, share in joint:
            key = tuple(values[name] for name in names if name in seen)
            known.setdefault(key, np.full(len(labels), 1e-6))[labels.index(label)] += share
        said = np.log([known[tuple(values[name] for name in names if name in seen)] for values, _, _ in drawn])
        logits[seen] = {None: torch.tensor(said)}
        pooled[seen] = draw.normal(size=(rows, 16)).astype(np.float32)  # of which nothing can be learned
    truth = torch.tensor([labels.index(label) for _, label, _ in drawn])
    return CoalitionAnswers(names, np.ones((rows, len(names)), dtype=bool), pooled, logits, {None: truth})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "start", "known", "new"), [(smart_home_rows, [], 300, 600), (video_rows, ["text"], 367, 1100)]
)
def test_of_a_model_that_knows_the_rule_the_plan_comes_to_the_bound(rows, start, known, new):
    """As many rows as the recipes have for validation and test."""
    joint = rows()
    task = task_of("single_label_classification", sorted({label for _, label, _ in joint}))
    head = task_head_of(task.name)(len(task.names))
    missing = Missing({None: task}, {None: head}, perfect(joint, known, 1))
    test_rows = perfect(joint, new, 2)
    curve = cost_curve(missing, test_rows, start)
    assert curve["lines"]["plan"][-1] == {"price": 1, "score": 1}
    for corner in bound(joint, start, curve["prices"])[1:]:
        plan, fixed = (score_at(curve["lines"][name], corner["price"]) for name in ("plan", "fixed_order"))
        assert plan >= corner["score"] - 0.02
        assert plan >= fixed - 0.01
