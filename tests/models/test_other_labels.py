"""Checkpoints that are loaded with other labels, another problem, other tasks: what is left, fresh and said.
`test_refusals.py` has the plain cases."""

import pytest
import tiny_models as tiny
import torch

from mm_hf import MMFusionConfig, MMFusionForClassification, MMFusionForMultiTask
from mm_hf.models import other_labels


SINGLE, MULTI, NUMBER = "single_label_classification", "multi_label_classification", "regression"
PETS = {"id2label": {0: "cat", 1: "dog", 2: "bird"}, "num_labels": 3}
PRICE = {"problem_type": NUMBER, "num_labels": 1, "label_mean": [100.0], "label_scale": [9.0]}
WEIGHTS = [1.0, 2.0, 3.0]
TASKS = {
    "tone": {"problem_type": SINGLE, "labels": ["good", "bad"], "class_weights": [1.0, 2.0]},
    "price": {"problem_type": NUMBER, "label_mean": [10.0], "label_scale": [2.0]},
}
OTHER_TONE = {"problem_type": SINGLE, "labels": ["bad", "so so", "good"]}
TURNED = {"problem_type": SINGLE, "labels": ["bad", "good"]}
OTHER_PRICE = {"problem_type": NUMBER, "label_mean": [100.0], "label_scale": [7.0]}
NONE = {"class_weights": None, "class_priors": None, "label_mean": None, "label_scale": None}

# What the checkpoint has, what is asked for, what the config then says, the weights of the head (None: as they were;
# "numbers": zero; "classes": small and random), and what is said.
CASES = {
    "weighted classes to a scaled number": (
        {**PETS, "problem_type": SINGLE, "class_weights": WEIGHTS},
        PRICE,
        {**PRICE, "class_weights": None},
        "numbers",
        ["class_weights"],
    ),
    "a scaled number to classes": (
        PRICE,
        {"id2label": {0: "no", 1: "yes"}, "problem_type": SINGLE},
        {**NONE, "problem_type": SINGLE, "num_labels": 2, "label2id": {"no": 0, "yes": 1}},
        "classes",
        ["label_mean, label_scale"],
    ),
    "a scaled number to classes, the problem not named": (
        PRICE,
        {"num_labels": 3},
        {**NONE, "problem_type": None, "num_labels": 3},
        "classes",
        ["problem_type, label_mean, label_scale"],
    ),
    "as many numbers as classes": (
        {**PETS, "problem_type": SINGLE, "class_priors": WEIGHTS, "label_smoothing": 0.1},
        {"problem_type": NUMBER},
        {**NONE, "problem_type": NUMBER, "label_smoothing": 0.0, "num_labels": 3},
        None,
        ["label_smoothing, class_priors", "were classes, now numbers"],
    ),
    "one label a row to several": (
        {**PETS, "problem_type": SINGLE, "class_priors": WEIGHTS, "class_weights": WEIGHTS},
        {"problem_type": MULTI},
        {"problem_type": MULTI, "class_priors": None, "class_weights": WEIGHTS, "id2label": PETS["id2label"]},
        None,
        ["removed: class_priors."],
    ),
    "names alone, by label": (
        {**PETS, "class_weights": WEIGHTS},
        {"label2id": {"no": 0, "yes": 1}},
        {**NONE, "num_labels": 2, "id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}},
        "classes",
        ["class_weights"],
    ),
    "as many labels in another order": (
        PETS,
        {"id2label": {0: "dog", 1: "cat", 2: "bird"}},
        {"id2label": {0: "dog", 1: "cat", 2: "bird"}, "label2id": {"dog": 0, "cat": 1, "bird": 2}},
        None,
        ["['cat', 'dog', 'bird'], now ['dog', 'cat', 'bird']"],
    ),
    "names where there were none": (
        {"num_labels": 3},
        {"id2label": PETS["id2label"]},
        {"id2label": PETS["id2label"], "label2id": {"cat": 0, "dog": 1, "bird": 2}},
        None,
        [],
    ),
    "the same names": (PETS, {"id2label": PETS["id2label"]}, {"id2label": PETS["id2label"]}, None, []),
    "another unit": (
        PRICE,
        {"label_mean": [5.0], "label_scale": [2.0]},
        {"label_mean": [5.0], "label_scale": [2.0], "problem_type": NUMBER},
        None,
        ["[[100.0], [9.0]], now [[5.0], [2.0]]"],
    ),
    "as many labels, half the weights": (
        {**PETS, "settings": {"output_norm": True}},
        {"num_labels": 7},
        {"num_labels": 7},
        "half",
        [],
    ),
}


@pytest.fixture
def said(monkeypatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(other_labels.logger, "warning_once", found.append, raising=False)
    return found


def trained(cls, **settings):
    """Its head has weights that no fresh one has."""
    model = tiny.model(cls, vision=None, **settings)
    for head in model.heads.values() if cls is MMFusionForMultiTask else [model.classifier]:
        torch.nn.init.normal_(head.weight, std=30.0)
        torch.nn.init.normal_(head.bias, std=30.0)
    return model


def is_like(head, kind: str) -> bool:
    """Whether a head is fresh, as one of its kind."""
    std = {"numbers": 0.0, "classes": 0.2, "half": 0.1}[kind]
    found = head.weight.std().item() if head.weight.numel() > 1 else 0.0
    return not head.bias.any() and std * 0.7 <= found <= std * 1.4


def told(said, expected):
    assert len(said) == len(expected), said
    assert all(any(part in message for message in said) for part in expected), said


@pytest.mark.parametrize("case", CASES)
def test_other_labels(case, said, tmp_path):
    own, asked, left, head, expected = CASES[case]
    model = trained(MMFusionForClassification, **own)
    model.save_pretrained(tmp_path)
    said.clear()
    found = MMFusionForClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **asked)
    told(said, expected)
    assert {name: getattr(found.config, name) for name in left} == left
    if head is None:
        assert torch.equal(found.classifier.weight, model.classifier.weight)
    else:
        assert is_like(found.classifier, head)
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, model.model.state_dict()[name])
    found.save_pretrained(tmp_path / "again")
    again = MMFusionConfig.from_pretrained(tmp_path / "again")
    assert {name: getattr(again, name) for name in left} == left
    count = found.config.num_labels
    numbers = found.config.problem_type == NUMBER
    labels = torch.rand(4, count) if numbers or found.config.problem_type == MULTI else torch.tensor([0, 1, 0, 1])
    loss = found.train()(**tiny.texts((6, 4, 7, 5)), labels=labels).loss
    assert loss.isfinite()
    assert MMFusionConfig.from_pretrained(tmp_path, return_unused_kwargs=True, sense=1, **asked)[1] == {"sense": 1}


OF_TASKS = {  # what is asked for, the heads that are fresh, and what is said
    "more labels, another unit": (
        {"tone": OTHER_TONE, "price": OTHER_PRICE},
        {"tone": "classes"},
        ["those of task 'price' had label_mean and label_scale [[10.0], [2.0]], now [[100.0], [7.0]]"],
    ),
    "labels the other way round": (
        {"tone": TURNED, "price": TASKS["price"]},
        {},
        ["those of task 'tone' were ['good', 'bad'], now ['bad', 'good']"],
    ),
    "another task": (
        {"size": OTHER_TONE, "age": OTHER_PRICE, "price": TASKS["price"]},
        {"size": "classes", "age": "numbers"},
        [],
    ),
    "the same": (TASKS, {}, []),
}


@pytest.mark.parametrize("case", OF_TASKS)
def test_other_tasks(case, said, tmp_path):
    tasks, fresh, expected = OF_TASKS[case]
    model = trained(MMFusionForMultiTask, tasks=TASKS)
    model.save_pretrained(tmp_path)
    said.clear()
    found = MMFusionForMultiTask.from_pretrained(tmp_path, ignore_mismatched_sizes=True, tasks=tasks)
    told(said, expected)
    assert set(found.config.tasks) == set(tasks)
    for name, head in found.heads.items():
        task = name.removeprefix("for_")
        if task in fresh:
            assert is_like(head, fresh[task]), task
        else:
            assert torch.equal(head.weight, model.heads[name].weight)
    found.save_pretrained(tmp_path / "again")
    assert MMFusionConfig.from_pretrained(tmp_path / "again").tasks == found.config.tasks


def test_from_one_task_to_several_and_back(said, tmp_path):
    model = trained(MMFusionForClassification, **PETS, problem_type=SINGLE, class_weights=WEIGHTS)
    model.save_pretrained(tmp_path / "one")
    several = MMFusionForMultiTask.from_pretrained(tmp_path / "one", tasks=TASKS)
    told(said, ["tasks ['price', 'tone']"])
    assert (several.config.class_weights, several.config.problem_type) == (None, None)
    assert is_like(several.heads["for_price"], "numbers")
    assert is_like(several.heads["for_tone"], "classes")
    several.save_pretrained(tmp_path / "several")
    said.clear()
    one = MMFusionForClassification.from_pretrained(tmp_path / "several", num_labels=3)
    told(said, ["removed: tasks."])
    assert (one.config.tasks, one.config.num_labels) == (None, 3)
    assert is_like(one.classifier, "classes")


@pytest.mark.parametrize("asked", [{"problem_type": NUMBER, "class_weights": WEIGHTS}, {"label_mean": [1.0]}])
def test_what_does_not_fit_together_is_refused(asked, tmp_path):
    """What was asked for, where it comes with the checkpoint's own."""
    tiny.model(vision=None, **PETS, problem_type=SINGLE).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{list(asked)[-1]}"):
        MMFusionConfig.from_pretrained(tmp_path, **asked)


def test_names_that_contradict_each_other_are_refused(tmp_path):
    tiny.model(vision=None, **PETS).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"id2label \{0: 'a', 1: 'b'\} and label2id \{'b': 0, 'a': 1\}"):
        MMFusionConfig.from_pretrained(tmp_path, id2label={0: "a", 1: "b"}, label2id={"b": 0, "a": 1})
