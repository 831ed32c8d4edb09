"""Gradient modulation: the modality that is ahead is held back, and only its own parameters are touched."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models as tiny
import torch

from mm_hf import MMFusionForClassification, MMFusionForMultiTask
from mm_hf.balance import GradientModulation, coefficients


def build(**kwargs) -> MMFusionForClassification:
    torch.manual_seed(0)
    return tiny.model(
        MMFusionForClassification, num_labels=3, problem_type="single_label_classification", **kwargs
    ).train()


def gradients(alpha: float | None, labels=(0, 1, 2, -100), **inputs):
    """Those of one step, before and after the step's hook, and the modulation."""
    model = build()
    for module in model.modules():  # what is compared must not be drawn at random
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    modulation = None if alpha is None else GradientModulation(model, optimizer, alpha)
    model(**tiny.batch(), **inputs, labels=torch.tensor(labels)).loss.backward()
    optimizer.step()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, modulation


def test_coefficients():
    """Equation 10, by hand."""
    found = coefficients({"vision": 0.6, "text": 0.3}, alpha=0.5)
    assert found == {"vision": pytest.approx(1 - torch.tanh(torch.tensor(0.5 * 2.0)).item()), "text": 1.0}
    three = coefficients({"vision": 0.6, "text": 0.3, "audio": 0.1}, alpha=0.2)
    assert three["vision"] == pytest.approx(1 - torch.tanh(torch.tensor(0.2 * 3.0)).item())
    assert three["text"] == three["audio"] == 1.0
    assert coefficients({"vision": 0.6}, alpha=0.5) == {}
    assert coefficients({}, alpha=0.5) == {}


def test_only_what_belongs_to_one_modality_is_touched():
    plain, _ = gradients(None)
    modulated, modulation = gradients(0.7)
    ahead = min(modulation.coefficients, key=modulation.coefficients.get)
    assert modulation.coefficients[ahead] < 1.0
    assert max(modulation.coefficients.values()) == 1.0
    touched = 0
    for name, gradient in plain.items():
        owner = next((m for m in ("vision", "text") if f"encoders.{m}." in name or f"projections.{m}." in name), None)
        if owner is None or gradient.numel() < 2:
            torch.testing.assert_close(modulated[name], gradient)
            continue
        if gradient.numel() < 200 or gradient.std() == 0:
            continue
        touched += 1
        # The noise is as large as the gradient's own deviation, and falls on all modalities.
        noise = modulated[name] - modulation.coefficients[owner] * gradient
        assert 0.7 * gradient.std() < noise.std() < 1.3 * gradient.std(), name
    assert touched > 10


def test_the_same_step_gives_the_same_noise():
    one, other = gradients(0.7)[0], gradients(0.7)[0]
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], rtol=0, atol=0)


def test_a_modality_that_no_row_has_is_not_compared():
    nothing = torch.full((4,), -1)
    plain, _ = gradients(None, vision_index=nothing)
    modulated, modulation = gradients(0.7, vision_index=nothing)
    assert modulation.coefficients == {}
    for name, gradient in plain.items():
        torch.testing.assert_close(modulated[name], gradient)


@pytest.mark.slow
def test_two_processes_stay_alike(tmp_path):
    """Each has rows of its own: the scores are those of all rows, and the noise is the same."""
    worker = [sys.executable, str(Path(__file__).parent / "balance_worker.py")]
    started = [subprocess.Popen([*worker, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    one, other = (torch.load(tmp_path / f"result-{rank}.pt", weights_only=True) for rank in range(2))
    assert one["coefficients"] == other["coefficients"]
    assert all(min(found.values()) < 1 for found in one["coefficients"])
    for name, weight in one["weights"].items():
        assert torch.equal(weight, other["weights"][name]), name


def test_nothing_is_scored_in_eval_mode_and_dropout_goes_on():
    model = build()
    modulation = GradientModulation(model, torch.optim.SGD(model.parameters(), lr=0.0), 0.5)
    model.eval()(**tiny.batch(), labels=torch.tensor([0, 1, 2, 0]))
    assert not modulation.sums.any()
    model.train()(**tiny.batch(), labels=torch.tensor([0, 1, 2, 0]))
    assert modulation.sums[:, 1].tolist() == [4, 4]
    assert model.model.fusion.training


@pytest.mark.parametrize(
    ("kind", "keys"),
    [(MMFusionForMultiTask, {"tasks": {"a": {"problem_type": "regression"}}}), (None, {"text": None})],
)
def test_what_cannot_be_balanced(kind, keys):
    if kind is None:
        model = build()
        model.config.text_config = None
    else:
        model = tiny.model(kind, **keys)
    with pytest.raises(ValueError, match=r"[Gg]radient.* with \["):
        GradientModulation(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.5)
