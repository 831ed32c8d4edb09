"""What travels of a task, and a head from outside the package: ordered classes by cumulative links."""

import math
import re

import pytest
import tiny_models as tiny
import torch
from torch import nn

from mm_hf import MMFusionConfig, MMFusionForClassification, MMFusionForMultiTask
from mm_hf.data import label_tensor
from mm_hf.models import head_table
from mm_hf.models.tasks import PROBLEM_TYPES, TASK_HEADS, TaskHead, check_settings, register_task_head, task_head_of


STARS = ["bad", "fair", "good", "best"]
LABELS = torch.tensor([0, 3, -100, 2])


class Ladder(nn.Module):
    """One direction and a threshold between each two neighbours."""

    def __init__(self, width: int, steps: int):
        super().__init__()
        self.direction = nn.Linear(width, 1, bias=False)
        self.thresholds = nn.Parameter(torch.zeros(steps))

    def init_own_parameters(self, std: float):
        with torch.no_grad():
            self.thresholds.copy_(torch.linspace(-1, 1, len(self.thresholds)))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.direction(pooled) - self.thresholds


class Ordered(TaskHead):
    """Classes in an order (McCullagh 1980): each output says how likely the class is above a threshold."""

    name = "ordered"
    settings = ("label_smoothing",)

    @property
    def num_outputs(self) -> int:
        return self.num_labels - 1

    def layer(self, width: int, num_outputs: int) -> nn.Module:
        return Ladder(width, num_outputs)

    def in_unit(self, scores: torch.Tensor) -> torch.Tensor:
        above = nn.functional.pad(scores.float().sigmoid(), (1, 0), value=1.0)
        return (above - nn.functional.pad(above[:, 1:], (0, 1))).clamp(min=1e-6).log()

    def row_losses(self, scores: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        steps = torch.arange(scores.shape[1])
        above = (labels[:, None] > steps).float() * (1 - label_smoothing) + label_smoothing / 2
        return nn.functional.binary_cross_entropy_with_logits(scores, above, reduction="none").sum(-1)


@pytest.fixture
def ordered():
    """The head, known for a test."""
    register_task_head(Ordered)
    yield Ordered
    del TASK_HEADS[Ordered.name]
    PROBLEM_TYPES.remove(Ordered.name)


def single(**kwargs) -> MMFusionForClassification:
    names = {"id2label": dict(enumerate(STARS)), "num_labels": len(STARS)}
    return tiny.model(MMFusionForClassification, problem_type="ordered", **names, **kwargs)


def several(**kwargs) -> MMFusionForMultiTask:
    tasks = {"stars": {"problem_type": "ordered", "labels": STARS, **kwargs}, "tone": {"problem_type": "regression"}}
    return tiny.model(MMFusionForMultiTask, tasks=tasks)


def labels_for(model):
    return {"stars": LABELS, "tone": torch.rand(4)} if isinstance(model, MMFusionForMultiTask) else LABELS


@pytest.mark.parametrize("build", [single, several])
def test_a_head_from_outside_learns(build, ordered):
    torch.manual_seed(0)
    model = build()
    labels, before = labels_for(model), None
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(12):
        loss = model.train()(**tiny.batch(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        before = loss.item() if before is None else before
    after = model.eval()(**tiny.batch(), labels=labels)
    assert after.loss.item() < 0.7 * before
    logits = after.logits["stars"] if isinstance(after.logits, dict) else after.logits
    assert logits.shape == (4, len(STARS))
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("build", [single, several])
def test_it_is_saved_and_loaded_while_it_is_known(build, ordered, tmp_path):
    model = build().eval()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    found, expected = (one(**tiny.batch()).logits for one in (again, model))
    torch.testing.assert_close(found, expected)
    assert "Ordered" not in "".join(file.read_text() for file in tmp_path.glob("*.py"))
    TASK_HEADS.pop("ordered")
    try:
        with pytest.raises(ValueError, match=r"'ordered'.*--import FILE"):
            type(model).from_pretrained(tmp_path)
    finally:
        TASK_HEADS["ordered"] = ordered


@pytest.mark.parametrize("build", [single, several])
def test_it_is_refused_where_nobody_knows_it(build):
    with pytest.raises(ValueError, match=r"'ordered'.*--import FILE"):
        build()
    config = tiny.config(problem_type="regression")
    with pytest.raises(ValueError, match=r"'ordered'.*--import FILE"):
        config.problem_type = "ordered"


def test_rows_without_a_label_and_counts(ordered):
    """The loss is that of the labelled rows, divided by those of the global batch where they are known."""
    head = ordered(len(STARS))
    scores = torch.randn(4, 3, requires_grad=True)
    alone = [head.loss(scores[[row]], LABELS[[row]]) for row in (0, 1, 3)]
    torch.testing.assert_close(head.loss(scores, LABELS), sum(alone) / 3)
    torch.testing.assert_close(head.loss(scores, LABELS, torch.tensor(6)), sum(alone) / 6)
    none = head.loss(scores, torch.full((4,), -100))
    none.backward()
    assert none == 0
    assert not scores.grad.any()
    weights = torch.tensor([2.0, 0.0, 1.0, 1.0])
    weighed = head.loss(scores, LABELS, sample_weight=weights, training=True)
    torch.testing.assert_close(weighed, (2 * alone[0] + alone[2]) / 3)
    torch.testing.assert_close(head.loss(scores, LABELS, sample_weight=weights), sum(alone) / 3)


def test_a_label_that_lacks_a_part_is_none():
    class Distance(TaskHead):
        name, label_kind = "distance", "numbers"

        def row_losses(self, scores, labels):
            return (scores - labels).abs().sum(-1)

    head = Distance(2, label_mean=(1.0, 0.0), label_scale=(2.0, 1.0))
    scores = torch.zeros(3, 2)
    labels = torch.tensor([[3.0, 1.0], [math.nan, 5.0], [1.0, 4.0]])
    TASK_HEADS["distance"] = Distance
    try:
        torch.testing.assert_close(head.loss(scores, labels), torch.tensor(((1 + 1) + (0 + 4)) / 2))
        torch.testing.assert_close(head.in_unit(scores), torch.tensor([[1.0, 0.0]] * 3))
    finally:
        del TASK_HEADS["distance"]


def test_what_does_not_fit_is_told(ordered):
    head, scores = ordered(len(STARS)), torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"'ordered'.*\(4,\).*float32"):
        head.loss(scores, torch.rand(4))
    with pytest.raises(ValueError, match="4"):
        head.loss(scores, torch.tensor([0, 4, 1, 1]))
    with pytest.raises(ValueError, match=r"focal_gamma is 2.0.*'ordered'"):
        several(focal_gamma=2.0)
    with pytest.raises(ValueError, match=r"focal_gamma is 2.0.*'ordered'"):
        single(focal_gamma=2.0)
    with pytest.raises(ValueError, match=r"label_mean.*'ordered'"):
        several(label_mean=[0.0], label_scale=[1.0])
    assert several(label_smoothing=0.1).tasks["stars"].loss_settings == {"label_smoothing": 0.1}
    with pytest.raises(ValueError, match=r"'ordered'"):  # the name is taken

        @register_task_head
        class Other(TaskHead):
            name = "ordered"


def test_labels_of_a_head_from_outside(ordered):
    rows = [{"stars": value, "row_id": row, "split": "train"} for row, value in enumerate(["good", None, "bad"])]
    label2id = {name: number for number, name in enumerate(STARS)}
    assert label_tensor(rows, "stars", label2id, "ordered").tolist() == [2, -100, 0]


def test_names_of_parameters():
    """Those of checkpoints and of training states, in their order: the latter go by it."""

    def of_head(model):
        return [name for name, _ in model.named_parameters() if not name.startswith("model.")]

    assert of_head(tiny.model(MMFusionForClassification)) == ["classifier.weight", "classifier.bias"]
    tasks = {
        "tone.of voice": {"problem_type": "regression"},
        "kind": {"problem_type": "single_label_classification", "labels": ["a", "b"]},
        "tags": {"problem_type": "multi_label_classification", "labels": ["x", "y"]},
    }
    assert of_head(tiny.model(MMFusionForMultiTask, tasks=tasks, task_weighting="uncertainty")) == [
        "heads.for_kind.weight",
        "heads.for_kind.bias",
        "heads.for_tags.weight",
        "heads.for_tags.bias",
        "heads.for_tone_of voice.weight",
        "heads.for_tone_of voice.bias",
        "task_weighting.log_variances",
    ]


def test_the_library_s_own_heads():
    logits = torch.tensor([[0.0, math.log(3.0)]])
    kinds = {name: head.label_kind for name, head in TASK_HEADS.items()}
    assert kinds == {
        "regression": "numbers",
        "single_label_classification": "classes",
        "multi_label_classification": "several",
        "generation": "texts",
        "ctc": "texts",
    }
    chances = {name: task_head_of(name)(2).probabilities(logits) for name in list(kinds)[:3]}
    assert chances["regression"] is None
    torch.testing.assert_close(chances["single_label_classification"], torch.tensor([[0.25, 0.75]]))
    torch.testing.assert_close(chances["multi_label_classification"], torch.tensor([[0.5, 0.75]]))
    with pytest.raises(ValueError, match=r"class_priors is \[1.0\].*\['single_label_classification'\]"):
        check_settings("multi_label_classification", {"class_priors": [1.0]})
    for name in ("generation", "ctc", "", None, 3, ["regression"]):  # what no config names
        with pytest.raises(ValueError, match=rf"problem_type.*'regression'.*{re.escape(repr(name))}"):
            task_head_of(name, texts=False)


def test_the_table_of_heads():
    """Each has its class, which names it to the Auto classes as the table does."""
    for entry in head_table.HEAD_TABLE:
        module = __import__(f"mm_hf.models.{entry.module}", fromlist=["x"])
        assert getattr(module, entry.class_name)._auto_class == entry.auto_class
        assert issubclass(getattr(module, entry.class_name).config_class, MMFusionConfig)
    assert len({entry.task for entry in head_table.HEAD_TABLE}) == len(head_table.HEAD_TABLE)
    assert head_table.CUSTOM_PIPELINES["MMFusionForCTC"] == {
        "automatic-speech-recognition": {
            "impl": "pipelines_mm_fusion.MMFusionSpeechRecognitionPipeline",
            "pt": ["AutoModelForCTC"],
            "type": "multimodal",
        }
    }
