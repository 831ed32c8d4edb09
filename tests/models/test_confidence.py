"""What travels of how sure answers are: the config's key, what pipelines say by it, and when it is void."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from messages import says

import mm_hf
from mm_hf import MMFusionConfig, MMFusionForClassification, MMFusionForMultiTask
from mm_hf.models.confidence import Confidence, conformal_thresholds, read_confidence


HEADS = Path(__file__).parents[1] / "data/checkpoints/heads"
SURE = {"rows": 99, "temperature": 2.0, "thresholds": [round(0.02 * place, 2) for place in range(1, 50)]}
CLASSES = {"problem_type": "single_label_classification", "num_labels": 3, "id2label": {0: "cat", 1: "dog", 2: "bird"}}
NUMBER = {"problem_type": "regression", "num_labels": 1, "label_mean": [10.0], "label_scale": [3.0]}
TASKS = {
    "tone": {"problem_type": "single_label_classification", "labels": ["good", "bad"], "confidence": SURE},
    "price": {"problem_type": "regression"},
}


def config_of(**keys) -> MMFusionConfig:
    return tiny.config(**keys)


def test_the_key_travels(tmp_path):
    config = config_of(**CLASSES, confidence=SURE)
    config.save_pretrained(tmp_path)
    assert MMFusionConfig.from_pretrained(tmp_path).confidence == SURE
    assert json.loads((tmp_path / "config.json").read_text())["confidence"] == SURE
    head = MMFusionForClassification(MMFusionConfig.from_pretrained(tmp_path)).task_head
    assert head.confidence == Confidence(99, 2.0, tuple(SURE["thresholds"]))
    config_of(**CLASSES).save_pretrained(tmp_path)  # nobody looked: config.json is what it was
    assert "confidence" not in json.loads((tmp_path / "config.json").read_text())
    config_of(tasks=TASKS).save_pretrained(tmp_path)
    heads = MMFusionConfig.from_pretrained(tmp_path).task_heads
    assert (heads["tone"].confidence.temperature, heads["price"].confidence) == (2.0, None)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("sure", ["dict", "sure"]),
        ({"rows": 9, "warmth": 1.0}, ["warmth", "temperature"]),
        ({"temperature": 1.0}, ["rows", "None"]),
        ({"rows": 0}, ["rows", 0]),
        ({"rows": True}, ["rows", "True"]),
        ({"rows": 9, "temperature": 0}, ["temperature", 0.01, 100.0, 0]),
        ({"rows": 9, "temperature": float("nan")}, ["temperature", "nan"]),
        ({"rows": 9, "temperature": "1"}, ["temperature", "'1'"]),
        ({"rows": 1, "thresholds": [1.0, 2.0]}, ["thresholds", 1]),
        ({"rows": 9, "thresholds": [2.0, 1.0]}, ["thresholds", 41]),
        ({"rows": 9, "thresholds": [-1.0, 1.0]}, ["thresholds", 0, "-1.0"]),
        ({"rows": 9, "thresholds": [1.0, float("inf")]}, ["thresholds", "inf"]),
        ({"rows": 9, "thresholds": 1.0}, ["thresholds", 1.0]),
    ],
)
def test_keys_that_are_refused(value, said):
    with pytest.raises(ValueError, match=says(*said)):
        config_of(**CLASSES, confidence=value)
    if isinstance(value, dict):
        with pytest.raises(ValueError, match=says("tone", *said)):
            config_of(tasks={"tone": {**TASKS["tone"], "confidence": value}})
        with pytest.raises(ValueError, match=says(*said)):
            read_confidence(value)


def test_one_for_all_tasks_is_refused():
    with pytest.raises(ValueError, match="confidence"):
        config_of(tasks=TASKS, confidence=SURE)


@pytest.mark.parametrize("several", [False, True])
def test_training_makes_it_void(several):
    """Whoever trains: weights that change are not those that were looked at."""
    config = config_of(tasks=TASKS) if several else config_of(**CLASSES, confidence=SURE)
    model = (MMFusionForMultiTask if several else MMFusionForClassification)(config)
    inputs = tiny.batch((6, 4, 7))
    model.eval()(**inputs)
    with torch.no_grad():
        model.train()(**inputs)
    assert model.config.has_confidence
    labels = torch.tensor([0, 1, 1])
    model.train()(**inputs, labels={"tone": labels} if several else labels)
    assert not model.config.has_confidence
    assert all(head.confidence is None for _, head in model.last_layers().values())


@pytest.mark.parametrize(
    ("changes", "stays"),
    [
        ({"id2label": {0: "cat", 1: "dog", 2: "bird"}}, True),
        ({"label_smoothing": 0.1}, True),
        ({"id2label": {0: "dog", 1: "cat", 2: "bird"}}, False),
        ({"num_labels": 5}, False),
        ({"problem_type": "multi_label_classification"}, False),
    ],
)
def test_other_labels(changes, stays, tmp_path):
    config_of(**CLASSES, confidence=SURE).save_pretrained(tmp_path)
    config = MMFusionConfig.from_pretrained(tmp_path, **changes)
    assert (config.confidence == SURE) == stays


def test_numbers_in_another_unit(tmp_path):
    config_of(**NUMBER, confidence=SURE).save_pretrained(tmp_path)
    assert MMFusionConfig.from_pretrained(tmp_path, label_mean=[10.0]).confidence == SURE
    assert MMFusionConfig.from_pretrained(tmp_path, label_scale=[9.0]).confidence is None


def test_scores_of_numbers_are_in_deviations():
    head = MMFusionForClassification(config_of(**NUMBER, confidence=SURE)).task_head
    assert head.true_scores(torch.tensor([[10.0]]), torch.tensor([16.0])).tolist() == [2.0]
    low, high = head.interval(torch.tensor([[10.0]]), 0.9)
    width = 3 * SURE["thresholds"][40]
    assert (low.item(), high.item()) == pytest.approx((10 - width, 10 + width))


# ---- Pipelines


def pipeline_of(head: str, folder: Path, confidence: dict | None, **task):
    """A stored checkpoint with this key, from a folder."""
    shutil.copytree(HEADS / head, folder)
    config = json.loads((folder / "config.json").read_text())
    if head == "multi_task":
        for name, value in task.items():
            config["tasks"][name]["confidence"] = value
    elif confidence is not None:
        config["confidence"] = confidence
    (folder / "config.json").write_text(json.dumps(config))
    return mm_hf.pipeline(model=str(folder))


ROW = {"text": "what colour is the big house ?"}


def test_classes(tmp_path):
    plain = pipeline_of("classification", tmp_path / "plain", None)(ROW, top_k=None)
    logits = torch.tensor([answer["score"] for answer in plain]).log()
    scores = -(logits / 2).log_softmax(-1)
    thresholds = sorted([*(scores[1] + 1e-3).repeat(20).tolist(), *(scores[2] + 1e-3).repeat(31).tolist()])
    pipe = pipeline_of(
        "classification", tmp_path / "sure", {"rows": 999, "temperature": 2.0, "thresholds": thresholds}
    )
    softer = pipe(ROW, top_k=None)
    assert [answer["label"] for answer in softer] == [answer["label"] for answer in plain]
    assert [answer["score"] for answer in softer] == pytest.approx((logits / 2).softmax(-1).tolist(), abs=1e-5)
    assert pipe(ROW, coverage=0.6) == softer[:2]
    assert pipe(ROW, coverage=0.9) == softer
    assert pipe(ROW, top_k=1, abstain_below=softer[0]["score"] - 1e-4) == softer[:1]
    assert pipe(ROW, top_k=1, abstain_below=softer[0]["score"] + 1e-4) == []
    for answer in pipe([ROW, ROW], coverage=0.6, batch_size=2):
        assert [each["label"] for each in answer] == [each["label"] for each in softer[:2]]
    with pytest.raises(ValueError, match=says("abstain_below", 0, 1, 7)):
        pipe(ROW, abstain_below=7)
    with pytest.raises(ValueError, match=says("coverage", "'high'")):
        pipe(ROW, coverage="high")
    with pytest.raises(ValueError, match=says(0.9, "--calibrate")):
        pipeline_of("classification", tmp_path / "other", None)(ROW, coverage=0.9)


def test_costs(tmp_path):
    pipe = pipeline_of("classification", tmp_path / "run", None)
    chances = {answer["label"]: answer["score"] for answer in pipe(ROW, top_k=None)}
    dear = min(chances, key=chances.get)  # the least likely one, which it is costly to miss
    wrong = dict.fromkeys(chances, 1.0) | {dear: 100.0}
    others = [label for label in pipe.model.config.id2label.values() if label != dear]
    (answer,) = pipe(ROW, costs={"wrong": wrong, "abstain": 10})
    expected = 1 - chances[dear]
    assert answer == {
        "label": dear,
        "score": pytest.approx(chances[dear]),
        "expected_cost": pytest.approx(expected, rel=1e-5),
    }
    assert pipe(ROW, costs={"wrong": wrong, "abstain": expected - 1e-3}) == []
    (answer,) = pipe([ROW], costs={"wrong": 1, "abstain": 1})[0]
    assert answer["label"] == max(chances, key=chances.get)
    for costs, said in (
        (
            {"wrong": {dear: 1}, "abstain": 1},
            ["costs", others[0]],
        ),
        ({"wrong": {**wrong, "elephant": 1}, "abstain": 1}, ["elephant"]),
        ({"wrong": 1}, ["wrong", "abstain"]),
        ({"wrong": -1, "abstain": 1}, ["-1"]),
        (7, ["wrong", "abstain", 7]),
    ):
        with pytest.raises(ValueError, match=says(*said)):
            pipe(ROW, costs=costs)
    with pytest.raises(ValueError, match=says("costs", "top_k")):
        pipe(ROW, costs={"wrong": 1, "abstain": 1}, top_k=2)
    with pytest.raises(ValueError, match=says("costs", "regression")):
        pipeline_of("regression", tmp_path / "number", None)({"table": {"beds": 3}}, costs={"wrong": 1, "abstain": 1})


def test_numbers(tmp_path):
    table = {"table": {"beds": 3, "kind": "old"}}
    pipe = pipeline_of("regression", tmp_path / "run", SURE)
    (plain,), (found,) = pipe(table), pipe(table, coverage=0.9)
    scale = (pipe.model.config.label_scale or [1.0])[0]
    width = scale * SURE["thresholds"][40]
    assert found["score"] == plain["score"]
    assert (found["low"], found["high"]) == pytest.approx((plain["score"] - width, plain["score"] + width), rel=1e-5)
    with pytest.raises(ValueError, match=says("abstain_below", "regression")):
        pipe(table, abstain_below=0.5)
    with pytest.raises(ValueError, match=says(0.995, 199, 99, 0.98)):
        pipe(table, coverage=0.995)


def test_several_tasks(tmp_path):
    config = json.loads((HEADS / "multi_task/config.json").read_text())
    pipe = pipeline_of("multi_task", tmp_path / "run", None, **dict.fromkeys(config["tasks"], SURE))
    found = pipe(ROW, coverage=0.9)
    assert set(found) == set(config["tasks"])
    numbers = [name for name, task in config["tasks"].items() if task["problem_type"] == "regression"]
    assert all({"low", "high"} <= set(found[name][0]) for name in numbers)
    classes = [name for name, task in config["tasks"].items() if task["problem_type"] == "single_label_classification"]
    paid = pipe(ROW, costs={name: {"wrong": 1, "abstain": 0.01} for name in classes})
    assert all(paid[name] == [] if name in classes else paid[name] for name in config["tasks"])
    with pytest.raises(ValueError, match=says("costs", "by task")):
        pipe(ROW, costs={"wrong": 1, "abstain": 1})
    one = next(iter(config["tasks"]))
    with pytest.raises(ValueError, match=says(0.9, "--calibrate")):
        pipeline_of("multi_task", tmp_path / "half", None, **{one: SURE})(ROW, coverage=0.9)


@pytest.mark.slow
def test_a_stranger_has_sets_too(tmp_path):
    """A fresh process that cannot import mm_hf: the checkpoint's own code reads the key."""
    pipe = pipeline_of("classification", tmp_path / "run", SURE)
    pipe.model.config.confidence = SURE
    pipe.model.save_pretrained(tmp_path / "run")  # with its code
    pipe.processor.save_pretrained(tmp_path / "run")
    script = tmp_path / "ask.py"
    script.write_text(
        "import sys\nsys.modules['mm_hf'] = None\nimport json\nfrom transformers import pipeline\n"
        "pipe = pipeline(model=sys.argv[1], trust_remote_code=True)\n"
        f"print(json.dumps([pipe({ROW}, coverage=0.9), pipe({ROW}, top_k=1, abstain_below=1.0)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    sets, nothing = json.loads(done.stdout.splitlines()[-1])
    assert [answer["label"] for answer in sets] == [answer["label"] for answer in pipe(ROW, coverage=0.9)]
    assert nothing == []


def test_thresholds_of_few_rows():
    assert conformal_thresholds(torch.empty(0)) == ()
    assert Confidence(3, 1.0, conformal_thresholds(torch.tensor([1.0, 2.0, 3.0]))).highest == 0.75
