"""What is said of a score beside its floors: both numbers, which is better, and by how much."""

import math
import re
from pathlib import Path

import pytest

from mm_hf.evaluation import compare, figure, lower_is_better, model_card, verdict
from mm_hf.evaluation.comparisons import CONSTANTS, NO_FLOORS
from mm_hf.tasks import TASKS, task_of


TEMPLATE = Path(__file__).resolve().parents[2] / "mm_hf/evaluation/card.md"
DIRECTIONS = {
    **dict.fromkeys(["accuracy", "macro_f1", "f1_micro", "f1_macro", "r2", "pearson", "spearman"], "higher"),
    **dict.fromkeys(["chrf", "exact_match", "score", "mean_recall", "token_accuracy"], "higher"),
    **dict.fromkeys(["text_to_image_recall_at_1", "image_to_text_recall_at_10"], "higher"),
    **dict.fromkeys(["rmse", "mae", "wer", "text_to_image_median_rank"], "lower"),
}


def test_every_metric_has_its_direction():
    known = {metric for name in TASKS for metric in task_of(name).metrics(2)}
    assert known <= set(DIRECTIONS)
    for metric, better in DIRECTIONS.items():
        assert lower_is_better(metric) == (better == "lower")
        assert lower_is_better(f"price_{metric}") == (better == "lower")  # of one of several tasks
        assert lower_is_better(f"rmse_{metric}") == (better == "lower")  # a task may have any name


@pytest.mark.parametrize("metric", [*DIRECTIONS, "price_rmse", "kind_accuracy"])
@pytest.mark.parametrize(
    ("score", "beaten"), [(0.4, None), (0.6, None), (0.5, False), (math.nan, False), (None, False)]
)
def test_a_floor_is_beaten_by_what_is_better(metric, score, beaten):
    (found,) = compare({metric: score}, [("majority", metric, 0.5)])
    if beaten is None:
        beaten = score < 0.5 if found["better"] == "lower" else score > 0.5
    assert found["beaten"] is beaten
    assert found["constant"]
    words = verdict([found])
    assert ("does NOT beat the constant guess" in words) == (not beaten)
    assert "0.5000" in words
    if found["score"] is None:
        assert "not defined" in words
    else:
        assert f"{score:.4f}" in words
        assert f"{found['better']} is better" in words
        assert ("better by 0.1000" in words) == beaten


def test_the_case_that_was_reported():
    """Log prices: the mean gives .413, the run 4.54."""
    words = verdict(compare({"rmse": 4.54, "mae": 4.4}, [("mean", "rmse", 0.413), ("mae_of_median", "mae", 0.3)]))
    assert words.count("NOT") == 1
    for part in ("rmse 4.5400", "the mean for every row 0.4130", "mae 4.4000", "the median for every row 0.3000"):
        assert part in words
    assert "lower is better" in words


def test_other_floors_are_told_apart():
    metrics = {"accuracy": 0.6}
    floors = [("majority", "accuracy", 0.4), ("text_only", "accuracy", 0.7), ("image_only", "accuracy", 0.5)]
    words = verdict(compare(metrics, floors))
    assert "beats the constant guess: accuracy 0.6000, the most frequent answer for every row 0.4000" in words
    assert "NOT beat accuracy 0.6000, text only 0.7000" in words
    assert "image only" not in words
    words = verdict(compare({"accuracy": 0.8}, floors))
    assert "NOT" not in words
    assert re.search(r"nearest.* accuracy 0.8000, text only 0.7000", words)


def test_a_floor_within_the_interval_is_told():
    (found,) = compare({"rmse": 3.0}, [("mean", "rmse", 3.2)], {"rmse": (2.5, 3.3)})
    assert "within the score's 95 % interval" in verdict([found])
    (found,) = compare({"rmse": 3.0}, [("mean", "rmse", 3.4)], {"rmse": (2.5, 3.3)})
    assert "interval" not in verdict([found])


def test_floors_of_tasks_and_undefined_ones():
    metrics = {"score": 0.5, "price_rmse": 3.0, "price_mae": 2.0, "kind_accuracy": 0.2}
    floors = [
        ("constant_guess", "score", 0.1),
        ("price_mean", "price_rmse", 2.0),
        ("price_mae_of_median", "price_mae", 2.5),
        ("kind_majority", "kind_accuracy", 0.3),
        ("kind_text_only", "kind_accuracy", None),
        ("kind_image_only", "kind_accuracy", math.nan),
    ]
    found = compare(metrics, floors)
    assert [entry["floor"] for entry in found] == [name for name, _, value in floors if value and value == value]
    assert all(entry["constant"] for entry in found)
    words = verdict(found)
    assert "price rmse 3.0000, the mean for every row (price) 2.0000 (lower is better)" in words
    assert "kind accuracy 0.2000, the most frequent answer for every row (kind) 0.3000 (higher is better)" in words
    assert verdict([]) == NO_FLOORS


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.41312, "0.4131"), (0, "0.0000"), (153012.7, "153,012.7"), (3.2e-7, "3.2e-07"), (-2.5, "-2.5000"), (None, "–")],
)
def test_figures_have_digits_that_say_something(value, text):
    assert figure(value) == text


@pytest.mark.parametrize("beaten", [True, False])
@pytest.mark.parametrize(
    ("problem_types", "metric", "floor", "says"),
    [
        ({"price": "regression"}, "rmse", "mean", "Answers are a number, in the unit of the column `price`"),
        ({"kind": "single_label_classification"}, "accuracy", "majority", "Answers are one of 2 labels: a, b"),
        ({"tags": "multi_label_classification"}, "f1_micro", "majority", "Answers are any of 2 labels: a, b"),
        ({"text": "generation"}, "chrf", "majority", "image-to-text"),
        ({}, "mean_recall", "chance_mean_recall", "get_text_features"),
    ],
)
def test_the_card_says_it(problem_types, metric, floor, says, beaten):
    better = beaten != lower_is_better(metric)
    comparisons = compare({metric: 0.3}, [(floor, metric, 0.2 if better else 0.4)])
    results = {
        "metrics": {metric: 0.3},
        "by_kind": {},
        "floors": {floor: comparisons[0]["value"]},
        "comparisons": comparisons,
        "verdict": verdict(comparisons),
        "recipe": dict.fromkeys(["audio_column", "text_column", "video_column", "table_columns", "series_column"])
        | {"image_column": ["photo"], "fusion": "concat", "fusion_layers": 1, "task": "x", "max_target_length": 9},
        "seed": 0,
        "num_processes": 1,
        "hardware": {"cores": 2},
        "seconds": {"train": 1},
        "commit": None,
        "versions": {},
        "bad_rows": 0,
    }
    kind = next(iter(problem_types.values()), None)
    card = model_card(
        TEMPLATE,
        results,
        name="x",
        dataset="d",
        pipeline_tag=None,
        task_type="t",
        base_models=None,
        model_class="M",
        encoders={},
        parameters=1.0,
        answers={name: task_of(kind, ["a", "b"], name).answer_in_words for name, kind in problem_types.items()},
        numbers=kind == "regression",
        writes=kind == "generation",
        searches=kind is None,
        tasks={},
        problem_types=problem_types,
        figure=figure,
        rows={"test": 10},
    )
    words = results["verdict"]
    assert ("NOT" in words) != beaten
    assert (f"\n**{words}**\n" in card.text) != beaten
    assert (f"\n{words}\n" in card.text) == beaten
    assert says in card.text
    assert "LABEL_0" not in card.text
    assert "only knows the labels above" not in card.text or (kind in problem_types.values() and "label" in kind)
    assert f"| floor: {floor.replace('_', ' ')} | {comparisons[0]['value']:.4f} |" in card.text
    assert ("*mean* is the mean of the numbers in the training part" in card.text) == (kind == "regression")


def test_floors_that_look_at_no_row():
    assert {"majority", "mean", "mae_of_median", "chance_mean_recall"} <= set(CONSTANTS)


def test_what_is_alike_but_for_rounding_is_not_beaten():
    (row,) = compare({"rmse": 3.0729997}, [("mean", "rmse", 3.073)])
    assert row["beaten"] is False
