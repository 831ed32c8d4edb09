"""The ordered classes of `examples/custom_task.py`: their loss against its definition, their metrics, alone and beside
another task."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from kill_and_resume import call, recipe_writer

import mm_hf
from mm_hf.commands import predict
from mm_hf.tasks import task_of
from mm_hf.training import train


REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def example(imported):
    return imported("custom_task")


def layer_of(example, classes: int):
    torch.manual_seed(0)
    layer = example.CumulativeLinks(6, classes)
    layer.init_own_parameters(0.1)
    with torch.no_grad():
        layer.gaps.copy_(torch.randn(classes - 2))
    return layer


@pytest.mark.parametrize("classes", [2, 3, 5])
@torch.no_grad()
def test_probabilities_are_differences_of_the_links(example, classes):
    layer, vectors = layer_of(example, classes), 3 * torch.randn(9, 6)
    gaps = torch.nn.functional.softplus(layer.gaps)
    thresholds = layer.lowest + torch.cat([torch.zeros(1), gaps.cumsum(0)])
    below = (thresholds - layer.direction(vectors)).sigmoid()
    edges = torch.cat([torch.zeros(9, 1), below, torch.ones(9, 1)], dim=1)
    assert torch.allclose(layer(vectors).exp(), edges.diff(dim=1), atol=1e-6)


def test_far_places_have_a_finite_loss(example):
    layer = layer_of(example, 4)
    with torch.no_grad():
        layer.direction.weight.fill_(1e4)
    head = example.OrderedHead(4)
    loss = head.loss(layer(torch.ones(2, 6)), torch.tensor([0, -100]))
    loss.backward()
    assert 1e4 < loss.item() < math.inf
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_metrics_of_answers(example):
    task = task_of("ordered_classes", ["1", "2", "3", "4", "5"], "stars")
    answers, targets = torch.tensor([0, 1, 4, 2]), torch.tensor([0, 2, 2, 2])
    found = {name: metric(answers, targets).item() for name, metric in task.metrics(5).items()}
    assert next(iter(found)) == task.first_metric == "mae"
    assert found["mae"] == pytest.approx(0.75)
    assert found["accuracy"] == pytest.approx(0.5)
    squares, expected = (0 + 1 + 4 + 0) / 4, sum((a - t) ** 2 for a in answers for t in targets).item() / 16
    assert found["kappa"] == pytest.approx(1 - squares / expected)
    assert task.score(found, answers, targets) == found["kappa"]
    assert task.score({"kappa": math.nan}, answers, targets) == 0
    assert task.constants(torch.tensor([4, -100, 0, 1]), 5)["median_class"].answer.item() == 1
    assert task.row_scores(answers, targets).tolist() == [0, -1, -2, 0]


def test_the_answer_is_the_median(example):
    """Also where the likeliest class is one of the ends."""
    logits = torch.tensor([[0.35, 0.1, 0.2, 0.1, 0.25], [0.6, 0.1, 0.1, 0.1, 0.1], [0.0, 0.0, 0.1, 0.1, 0.8]]).log()
    assert task_of("ordered_classes", list("12345")).answers(logits).tolist() == [2, 0, 4]


def test_names_without_an_order_are_refused(example):
    assert task_of("ordered_classes", ["1 low", "2 middle", "3 high"], "level").numbers["3 high"] == 2
    for names in (["high", "low", "middle"], ["10 high", "2 low"]):
        with pytest.raises(ValueError, match=names[0]):
            task_of("ordered_classes", names, "level")


@pytest.fixture(scope="module")
def beside_another(encoders, reviews_csv, tmp_path_factory) -> Path:
    """A model that learns stars and price together."""
    keys = {
        "import": REPOSITORY / "examples/custom_task.py",
        "dataset": reviews_csv,
        "text_encoder": encoders / "minilm-l6",
        "text_column": "review",
        "label_column": ["stars", "price"],
        "problem_type": {"stars": "ordered_classes", "price": "regression"},
        "fusion_hidden_size": 32,
        "fusion_layers": 1,
        "fusion_heads": 2,
        "freeze_encoders": True,
        "learning_rate": 3e-3,
        "max_steps": 60,
        "eval_steps": 20,
        "per_device_train_batch_size": 32,
    }
    folder = tmp_path_factory.mktemp("runs") / "both"
    call(train.main, recipe_writer(tmp_path_factory, keys)(folder))
    return folder


def test_beside_another_task(beside_another):
    results = json.loads((beside_another / "results.json").read_text())
    metrics, floors = results["metrics"], results["floors"]
    assert next(iter(metrics)) == "score"
    assert metrics["stars_mae"] < floors["stars_median_class"] - 0.3
    assert metrics["price_rmse"] < floors["price_mean"]
    model = mm_hf.MMFusionForMultiTask.from_pretrained(beside_another)
    assert model.config.tasks["stars"]["problem_type"] == "ordered_classes"
    assert model.config.tasks["stars"]["labels"] == ["1", "2", "3", "4", "5"]


def test_predictions_of_both(beside_another, reviews_csv, tmp_path):
    call(predict.main, beside_another, reviews_csv, "-o", tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["stars_prediction"] for row in rows} <= set("12345")
    off = [abs(int(row["stars_prediction"]) - int(row["stars"])) for row in rows if row["stars"]]
    assert sum(off) / len(off) < 1
    assert all(0 < float(row["price_prediction"]) < 200 for row in rows)
