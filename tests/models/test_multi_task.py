"""Several tasks over one fused state: how their losses are summed, and rows that lack a label."""

import math

import pytest
import tiny_models as tiny
import torch
from transformers import AutoModel

from mm_hf import MMFusionConfig, MMFusionForMultiTask
from mm_hf.models.losses import classification_loss, count_all_labels, mixup


TASKS = {
    "tone": {"problem_type": "regression"},
    "kind": {"problem_type": "single_label_classification", "labels": ["a", "b", "c"]},
    "tags": {"problem_type": "multi_label_classification", "labels": ["x", "y"]},
}
NAN = math.nan
LABELS = {
    "kind": torch.tensor([0, 2, -100, 1]),
    "tags": torch.tensor([[1.0, 0.0], [NAN, NAN], [0.0, 1.0], [1.0, 1.0]]),
    "tone": torch.tensor([0.5, NAN, NAN, -1.0]),
}
WEIGHTED = {name: {**task, "weight": weight} for (name, task), weight in zip(TASKS.items(), (0.5, 1.0, 2.0))}
WEIGHTS = {"tone": 0.5, "kind": 1.0, "tags": 2.0}


def build(tasks=TASKS, **kwargs) -> MMFusionForMultiTask:
    model = tiny.model(MMFusionForMultiTask, tasks=tasks, **kwargs)
    for head in model.regression_heads():  # which start from zero
        torch.nn.init.normal_(head.weight)
    return model


def alone(outputs, name, labels=LABELS, **kwargs) -> torch.Tensor:
    return classification_loss(outputs.logits[name], labels[name], TASKS[name]["problem_type"], **kwargs)


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_outputs_and_names():
    model = build()
    assert list(model.config.tasks) == ["kind", "tags", "tone"]  # as they come back from JSON
    outputs = model(**tiny.batch())
    assert {name: tuple(logits.shape) for name, logits in outputs.logits.items()} == {
        "kind": (4, 3),
        "tags": (4, 2),
        "tone": (4, 1),
    }
    assert outputs.loss is None
    assert outputs.task_losses is None


@pytest.mark.parametrize("training", [False, True])
def test_the_loss_is_the_weighted_sum(training):
    model = build(WEIGHTED).train(training)
    outputs = model(**tiny.batch(), labels=LABELS)
    for name, weight in WEIGHTS.items():
        torch.testing.assert_close(outputs.task_losses[name], weight * alone(outputs, name))
    torch.testing.assert_close(outputs.loss, sum(outputs.task_losses.values()))


def test_settings_and_row_weights_belong_to_one_task():
    tasks = {**TASKS, "kind": {**TASKS["kind"], "label_smoothing": 0.2, "class_weights": [1.0, 2.0, 3.0]}}
    model, weights = build(tasks).train(), torch.tensor([0.5, 1.0, 2.0, 0.0])
    outputs = model(**tiny.batch(), labels=LABELS, sample_weight={"tone": weights})
    shaped = alone(outputs, "kind", label_smoothing=0.2, class_weights=[1.0, 2.0, 3.0])
    torch.testing.assert_close(outputs.task_losses["kind"], shaped)
    torch.testing.assert_close(outputs.task_losses["tone"], alone(outputs, "tone", sample_weight=weights))
    every = model(**tiny.batch(), labels=LABELS, sample_weight=weights)
    torch.testing.assert_close(every.task_losses["tags"], alone(every, "tags", sample_weight=weights))
    plain = model.eval()(**tiny.batch(), labels=LABELS, sample_weight=weights)
    torch.testing.assert_close(plain.loss, sum(alone(plain, name) for name in TASKS))


def test_rows_without_a_label_train_the_other_tasks():
    """The gradient of a row that has the label of one task is that of a model with this task alone."""
    model = build().train()
    none = {"kind": LABELS["kind"], "tags": torch.full((4, 2), NAN), "tone": torch.full((4,), NAN)}
    found = gradients(model, model(**tiny.batch(), labels=none).loss)
    expected = gradients(model, alone(model(**tiny.batch()), "kind"))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
    others = [gradient for name, gradient in found.items() if name.startswith(("heads.for_tags", "heads.for_tone"))]
    assert len(others) == 4  # they take part all the same
    assert not any(gradient.any() for gradient in others)
    assert sum(gradient.any().item() for gradient in expected.values()) > 40


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_every_parameter_takes_part_without_any_label(weighting):
    model = build(task_weighting=weighting).train()
    for labels in ({}, {"tone": torch.full((4,), NAN)}):
        found = gradients(model, model(**tiny.batch(), labels=labels).loss)
        assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
        assert all(gradient.isfinite().all() and not gradient.any() for gradient in found.values())


def test_learned_weights():
    """Kendall et al. 2018, equation 10, with the logarithm of the variance as the parameter."""
    model = build(task_weighting="uncertainty").train()
    log_variances = torch.tensor([0.3, -0.7, 1.1])
    model.task_weighting.log_variances.data = log_variances.clone()
    outputs = model(**tiny.batch(), labels=LABELS)
    for s, name in zip(log_variances, ("kind", "tags", "tone")):
        factor = 0.5 if name == "tone" else 1.0
        expected = factor * alone(outputs, name) / s.exp() + s / 2
        torch.testing.assert_close(outputs.task_losses[name], expected)
    assert (gradients(model, outputs.loss)["task_weighting.log_variances"] != 0).all()
    # A task without labels neither pulls at its variance nor at the others.
    outputs = model(**tiny.batch(), labels={**LABELS, "tone": torch.full((4,), NAN)})
    assert outputs.task_losses["tone"] == 0
    assert gradients(model, outputs.loss)["task_weighting.log_variances"][2] == 0
    # To measure, the losses stay what they are.
    plain = model.eval()(**tiny.batch(), labels=LABELS)
    torch.testing.assert_close(plain.loss, sum(alone(plain, name) for name in TASKS))


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_parts_of_a_batch_add_up_to_it(weighting):
    """As processes and accumulation steps do, each with the counts of all."""
    model = build(task_weighting=weighting).train()
    if weighting == "uncertainty":
        model.task_weighting.log_variances.data = torch.tensor([0.3, -0.7, 1.1])
    whole = gradients(model, model(**tiny.batch(), labels=LABELS).loss)
    halves = [{name: values[rows] for name, values in LABELS.items()} for rows in (slice(0, 2), slice(2, 4))]
    counts, total, loss = count_all_labels(halves), {}, 0.0
    assert {name: count.item() for name, count in counts.items()} == {"kind": 3, "tags": 6, "tone": 2}
    for rows, labels in zip((slice(0, 2), slice(2, 4)), halves):
        part = {name: values[rows] for name, values in tiny.batch().items()}
        outputs = model(**part, labels=labels, num_items_in_batch=counts)
        loss += outputs.loss.item()
        for name, gradient in gradients(model, outputs.loss).items():
            total[name] = total.get(name, 0.0) + gradient
    torch.testing.assert_close(torch.tensor(loss), model(**tiny.batch(), labels=LABELS).loss.detach())
    for name, gradient in whole.items():
        torch.testing.assert_close(total[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_mixup_mixes_the_labels_of_all_tasks():
    model = build(mixup_alpha=1.0).train()
    torch.manual_seed(3)
    outputs = model(**tiny.batch(), labels=LABELS)
    torch.manual_seed(3)
    pooled = model.model(**tiny.batch(), return_tokens=False).pooler_output
    mixed, partners, share = mixup(pooled, LABELS, 1.0)
    assert sorted(partners.tolist()) == [0, 1, 2, 3]
    torch.testing.assert_close(outputs.logits["kind"], model.heads["for_kind"](mixed))
    for name in TASKS:
        there = {key: values[partners] for key, values in LABELS.items()}
        expected = share * alone(outputs, name) + (1 - share) * alone(outputs, name, there)
        torch.testing.assert_close(outputs.task_losses[name], expected)


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_save_and_load(weighting, tmp_path):
    model = build(WEIGHTED if weighting == "fixed" else TASKS, task_weighting=weighting)
    if weighting == "uncertainty":
        model.task_weighting.log_variances.data = torch.tensor([0.3, -0.7, 1.1])
    model.save_pretrained(tmp_path)
    loaded, info = MMFusionForMultiTask.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert loaded.config.tasks == model.config.tasks
    for training in (False, True):
        one, other = (m.train(training)(**tiny.batch(), labels=LABELS) for m in (model, loaded))
        assert torch.equal(one.loss, other.loss)
        assert all(torch.equal(one.logits[name], other.logits[name]) for name in TASKS)
    assert type(AutoModel.from_pretrained(tmp_path)) is MMFusionForMultiTask
    assert loaded.config.auto_map["AutoModel"] == "modeling_mm_fusion.MMFusionForMultiTask"


def test_names_that_modules_cannot_have():
    tasks = {"json.tone": {"problem_type": "regression"}, "keys": TASKS["kind"], "type": TASKS["tone"]}
    model = tiny.model(MMFusionForMultiTask, tasks=tasks)
    assert set(model(**tiny.batch()).logits) == set(tasks)


def test_a_regression_starts_from_zero():
    model = tiny.model(MMFusionForMultiTask, tasks=TASKS)
    assert not model(**tiny.batch()).logits["tone"].any()
    assert model(**tiny.batch()).logits["kind"].any()


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({}, "tasks.*'problem_type'"),
        ({"tone": {"problem_type": "guess"}}, "'tone'.*problem_type.*'guess'"),
        ({"tone": {"problem_type": "regression", "labels": ["a"]}}, "'tone'.*regression.*labels"),
        ({"kind": {"problem_type": "single_label_classification"}}, "'kind'.*labels.*None"),
        ({"kind": {**TASKS["kind"], "num_labels": 4}}, "'kind'.*labels.*num_labels 4"),
        ({"kind": {**TASKS["kind"], "labels": ["a", "a"]}}, r"'kind'.*labels.*\['a', 'a'\]"),
        ({"kind": {**TASKS["kind"], "wait": 1}}, "'wait'.*problem_type"),
        ({"kind": {**TASKS["kind"], "weight": -1}}, "'kind'.*weight.*-1"),
        ({"kind": {**TASKS["kind"], "class_weights": [1.0]}}, r"'kind'.*class_weights.*\b3 .*\b1\b"),
        ({"tone": {**TASKS["tone"], "focal_gamma": 2.0}}, "'tone'.*focal_gamma.*2.0.*problem_type"),
        ({"a.b": TASKS["tone"], "a_b": TASKS["tone"]}, r"tasks \['a\.b', 'a_b'\]"),
    ],
)
def test_wrong_tasks(tasks, message):
    with pytest.raises(ValueError, match=message):
        tiny.config(tasks=tasks)


def test_wrong_use():
    with pytest.raises(ValueError, match=r"task_weighting.*'equal'"):
        tiny.config(tasks=TASKS, task_weighting="equal")
    with pytest.raises(ValueError, match=r"task_weighting.*'uncertainty'.*'tags'"):
        tiny.config(tasks=WEIGHTED, task_weighting="uncertainty")
    with pytest.raises(ValueError, match=r"label_smoothing.*tasks"):
        tiny.config(tasks=TASKS, label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"config\.tasks"):
        MMFusionForMultiTask(MMFusionConfig(**{"vision_config": tiny.VISION_CONFIGS["vit"]()}))
    model = build()
    with pytest.raises(ValueError, match=r"'mood'.*\['kind', 'tags', 'tone'\]"):
        model(**tiny.batch(), labels={"mood": LABELS["kind"]})
    with pytest.raises(ValueError, match=r"labels.*\['kind', 'tags', 'tone'\].*Tensor"):
        model(**tiny.batch(), labels=LABELS["kind"])
