"""Numbers in the unit of their column: the head learns them standardised, and nothing outside of it sees that."""

import math

import numpy as np
import pytest
import tiny_models as tiny
import torch
from datasets import Dataset
from transformers.utils import logging

from mm_hf import MMFusionConfig, MMFusionForClassification, MMFusionForMultiTask
from mm_hf.data import label_statistics, label_tensor
from mm_hf.models.losses import in_label_unit, standardise


DOLLARS = torch.tensor([120_000.0, 450_500.0, 88_000.0, 1_250_000.0])
NAN = math.nan


def train(cls, labels, steps: int = 5, **settings):
    """A tiny model after some steps, the losses of these, and what it then says."""
    model = tiny.model(cls, **settings).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)  # Adam would amplify rounding
    losses = []
    for step in range(steps):
        torch.manual_seed(step)  # of mixup
        loss = model(**tiny.batch(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return losses, model.eval()(**tiny.batch()).logits


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.4])
@pytest.mark.parametrize(("factor", "shift"), [(1e-3, 0.0), (1.0, 0.0), (1e6, 0.0), (1.0, -600_000.0)])
def test_the_unit_changes_nothing_but_the_unit(factor, shift, mixup_alpha):
    settings = {"num_labels": 1, "problem_type": "regression", "mixup_alpha": mixup_alpha}
    plain = (DOLLARS - DOLLARS.mean()) / DOLLARS.std(correction=0)
    expected_losses, expected = train(MMFusionForClassification, plain, **settings)
    labels = factor * DOLLARS + shift
    losses, logits = train(MMFusionForClassification, labels, **settings, **label_statistics(labels))
    torch.testing.assert_close(losses, expected_losses, rtol=1e-3, atol=1e-4)
    in_unit = factor * (expected * DOLLARS.std(correction=0) + DOLLARS.mean()) + shift
    torch.testing.assert_close(logits, in_unit, rtol=2e-3, atol=factor * 200)
    assert expected.std() > 0.1  # rows that differ, not the mean alone


def test_several_numbers_a_row_and_missing_ones():
    labels = torch.tensor([[1.0, 1e5], [3.0, NAN], [NAN, 3e5], [5.0, 5e5]])
    scale = label_statistics(labels)
    assert scale == {"label_mean": [3.0, 3e5], "label_scale": [(8 / 3) ** 0.5, pytest.approx((8 / 3) ** 0.5 * 1e5)]}
    found = standardise(labels, *scale.values())
    assert torch.equal(found.isnan(), labels.isnan())
    torch.testing.assert_close(found[:, 0].nan_to_num(), torch.tensor([-2.0, 0.0, 0.0, 2.0]) / (8 / 3) ** 0.5)
    back = in_label_unit(found, scale["label_mean"], scale["label_scale"])
    torch.testing.assert_close(back, labels, equal_nan=True)
    model = tiny.model(num_labels=2, problem_type="regression", **scale)
    outputs = model(**tiny.batch(), labels=labels)
    torch.testing.assert_close(outputs.logits, torch.tensor([[3.0, 3e5]] * 4))  # a head of zeros says the mean
    torch.testing.assert_close(outputs.loss, torch.tensor(0.75))  # of the rows 1.5, 0, 0 and 1.5


@pytest.mark.parametrize(
    ("labels", "mean", "std"),
    [
        (torch.tensor([7.0, 7.0, NAN]), [7.0], [1.0]),  # alike
        (torch.tensor([0.1, 0.1, 0.1]), [pytest.approx(0.1)], [1.0]),  # alike, and its mean is rounded
        (torch.tensor([[1.0, NAN], [3.0, NAN]]), [2.0, 0.0], [1.0, 1.0]),  # a column without any
        (torch.tensor([1e30, -1e30]), [0.0], [pytest.approx(1e30)]),
        (torch.tensor([1.7e9, 1.7e9 + 1024]), [pytest.approx(1.7e9 + 512)], [512.0]),  # seconds since 1970
    ],
)
def test_scales(labels, mean, std):
    assert label_statistics(labels) == {"label_mean": mean, "label_scale": std}


def test_scales_of_what_holds_numbers():
    for labels in ([1.0, None, 3.0], (1, 3), np.array([1.0, NAN, 3.0]), Dataset.from_dict({"x": [1, None, 3]})["x"]):
        assert label_statistics(labels) == {"label_mean": [2.0], "label_scale": [1.0]}
    assert label_statistics([[1.0, 5.0], [3.0, 5.0]]) == {"label_mean": [2.0, 5.0], "label_scale": [1.0, 1.0]}


def test_the_library_names_an_output_of_numbers():
    """`config.label2id` of a regression is {"LABEL_0": 0}, which says nothing of its labels."""
    rows = [{"price": 888_597.27, "row_id": 0, "split": "train"}]
    assert label_tensor(rows, "price", {"LABEL_0": 0}, "regression").tolist() == pytest.approx([888_597.27])


def test_whole_numbers_and_the_mark_of_a_missing_one():
    labels = torch.tensor([100, -100, 300, 200])
    model = tiny.model(num_labels=1, problem_type="regression", label_mean=[200.0], label_scale=[100.0]).train()
    expected = model(**tiny.batch(), labels=torch.tensor([100.0, NAN, 300.0, 200.0])).loss
    assert torch.equal(model(**tiny.batch(), labels=labels).loss, expected)


def test_tasks_weigh_alike_at_the_start():
    """Squared dollars would be a loss of 1e11 beside a cross-entropy of 1.1."""
    tasks = {
        "kind": {"problem_type": "single_label_classification", "labels": ["a", "b", "c"]},
        "price": {"problem_type": "regression", **label_statistics(DOLLARS)},
    }
    model = tiny.model(MMFusionForMultiTask, tasks=tasks)
    for head in model.heads.values():
        torch.nn.init.zeros_(head.weight)
    outputs = model(**tiny.batch(), labels={"kind": torch.tensor([0, 1, 2, 0]), "price": DOLLARS})
    assert outputs.task_losses["price"].item() == pytest.approx(1.0, abs=1e-5)
    assert outputs.task_losses["kind"].item() == pytest.approx(math.log(3), abs=1e-5)
    torch.testing.assert_close(outputs.logits["price"], DOLLARS.mean().expand(4, 1))
    again = MMFusionConfig.from_dict(model.config.to_dict())
    assert again.task_heads["price"].label_scale == tuple(tasks["price"]["label_scale"])


def test_a_price_keeps_its_digits_in_bfloat16():
    model = tiny.model(num_labels=1, problem_type="regression", label_mean=[612_345.0], label_scale=[1.0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(**tiny.batch()).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, torch.full((4, 1), 612_345.0), rtol=0, atol=10)


def test_it_travels_in_the_config_alone(tmp_path):
    model = tiny.model(num_labels=1, problem_type="regression", label_mean=[5e5], label_scale=[1e5])
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(tmp_path)
    again = MMFusionForClassification.from_pretrained(tmp_path)
    assert (again.config.label_mean, again.config.label_scale) == ([5e5], [1e5])
    assert set(again.state_dict()) == set(tiny.model(num_labels=1).state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(**tiny.batch()).logits, model(**tiny.batch()).logits)


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"label_mean": [1.0]}, "None"),
        ({"label_mean": [1.0], "label_scale": [0.0]}, r"\[0.0\]"),
        ({"label_mean": [1.0], "label_scale": [-1.0]}, r"\[-1.0\]"),
        ({"label_mean": [NAN], "label_scale": [1.0]}, "nan"),
        ({"label_mean": [1.0, 2.0], "label_scale": [1.0, 1.0]}, r"\[1.0, 2.0\]"),
        ({"label_mean": [1.0], "label_scale": [1.0], "problem_type": "single_label_classification"}, "single_label"),
    ],
)
def test_what_is_refused(settings, value):
    with pytest.raises(ValueError, match=value):
        tiny.config(num_labels=1, **settings)
    task = {"problem_type": "regression", **settings, "labels": None}
    if settings.get("problem_type"):
        task["labels"] = ["a"]
    with pytest.raises(ValueError, match=value):
        tiny.config(tasks={"price": task})


def test_numbers_of_another_size_are_told_of_once(caplog):
    """What would be learned badly and silently: a head that starts at zero, and a target of half a million."""
    logging.enable_propagation()
    try:
        for labels, scale, times in (
            (DOLLARS, {}, 1),
            (DOLLARS, label_statistics(DOLLARS), 0),
            (DOLLARS / 1e6, {}, 0),
        ):
            caplog.clear()
            model = tiny.model(num_labels=1, problem_type="regression", **scale).train()
            for _ in range(2):
                model(**tiny.batch(), labels=labels)
            assert sum("1.25e+06" in message and "label_mean" in message for message in caplog.messages) == times
    finally:
        logging.disable_propagation()
