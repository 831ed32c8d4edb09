"""FSDP2 against DDP, with two real processes over gloo on the CPU: the same losses, the same checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models
import torch
from safetensors.torch import load_file

from mm_hf import MMFusionForQuestionAnswering
from mm_hf.sharding import keep_processes_in_step, shard_model


REPOSITORY = Path(__file__).parent.parent
WORKER = REPOSITORY / "tests/sharding_worker.py"

pytestmark = pytest.mark.slow  # part of `make reliability`


@pytest.fixture(scope="module")
def run(encoders, tmp_path_factory) -> SimpleNamespace:
    """What the two processes of the worker wrote."""
    folder = tmp_path_factory.mktemp("sharding")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [*command, str(WORKER), str(encoders), str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return SimpleNamespace(
        folder=folder,
        reports=[json.loads((folder / f"report{rank}.json").read_text()) for rank in range(2)],
        outputs=[torch.load(folder / f"outputs{rank}.pt", weights_only=True) for rank in range(2)],
    )


def test_both_processes_learn_as_under_ddp(run):
    for report in run.reports:
        losses = report["losses"]
        assert report["world_size"] == 2
        assert losses["fsdp2"] == pytest.approx(losses["ddp"], abs=1e-5)
        assert losses["bfloat16"] == pytest.approx(losses["ddp"][:4], abs=0.1)
        assert losses["bfloat16"] != losses["fsdp2"][:4]
        assert report["dtypes"] == ["torch.float32"]  # the weights themselves are not in 16 bits
    # Each process has data of its own, and what trains has really moved.
    assert run.reports[0]["losses"]["ddp"] != pytest.approx(run.reports[1]["losses"]["ddp"], abs=0.01)
    still = {name for name, distance in run.reports[0]["moved"].items() if distance == 0}
    frozen = ("model.encoders.vision.", "model.encoders.text.embeddings.word_embeddings.")
    assert still == {name for name in run.reports[0]["moved"] if name.startswith(frozen)}


def test_every_parameter_is_sharded_in_a_group_of_its_layer(run):
    for report in run.reports:
        assert all(report["sharded"].values())
        part, whole = report["numel"]
        assert part == pytest.approx(whole / 2, rel=0.001)
    groups = set(run.reports[0]["groups"])
    assert {"", "model", "model.encoders.vision", "model.encoders.text"} < groups
    assert {f"model.encoders.text.encoder.layer.{layer}" for layer in range(6)} < groups
    assert {"model.fusion.layers.0", "model.fusion.layers.1", "model.fusion.layers.0.cross_attn.k_proj"} < groups


def test_steps_can_be_called_apart(run):
    """Evaluation of a batch of which one process has no image; the same numbers on both sides of sharding."""
    for outputs in run.outputs:
        for name, expected in outputs["ddp"].items():
            torch.testing.assert_close(outputs["fsdp2"][name], expected, atol=1e-5, rtol=0)
        for name, expected in outputs["headless"].items():
            torch.testing.assert_close(outputs["headless_sharded"][name], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(outputs["fsdp2"]["prepared"], outputs["fsdp2"]["apart"])


def test_the_gathered_checkpoint_is_like_any_other(run, monkeypatch):
    plain, sharded = run.folder / "ddp", run.folder / "fsdp2"
    assert sorted(os.listdir(sharded)) == sorted(os.listdir(plain))
    for name in ("config.json", "README.md", "modeling_mm_fusion.py"):
        assert (sharded / name).read_text() == (plain / name).read_text(), name
    expected, weights = load_file(plain / "model.safetensors"), load_file(sharded / "model.safetensors")
    assert {name: (w.shape, w.dtype) for name, w in weights.items()} == {
        name: (w.shape, w.dtype) for name, w in expected.items()
    }

    # This process has no process group: the folder is all there is.
    model = MMFusionForQuestionAnswering.from_pretrained(sharded).eval()
    assert type(model) is MMFusionForQuestionAnswering
    monkeypatch.syspath_prepend(str(WORKER.parent))
    from sharding_worker import batch_of

    for rank in range(2):
        batch = batch_of(rank, 1)
        with torch.no_grad():
            logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
        torch.testing.assert_close(logits, run.outputs[rank]["ddp"]["logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("missing", ["vision", "text"])
def test_a_dummy_changes_nothing(missing):
    """In one process: the encoder that has no item runs all the same, and no row sees it."""
    model = tiny_models.model(freeze_encoders=True)
    base, index = model.base_model, torch.tensor([0, 2, 1])
    inputs = tiny_models.texts((6, 4, 7)) if missing == "vision" else tiny_models.images(3)
    present = "text" if missing == "vision" else "vision"
    calls = []
    base.encoders[missing].register_forward_hook(lambda *_: calls.append(1))
    expected = model(**inputs, **{f"{present}_index": index}).logits
    encoded = base.encode({present: index}, **inputs)
    assert not calls
    keep_processes_in_step(base)
    torch.testing.assert_close(model(**inputs, **{f"{present}_index": index}).logits, expected)
    assert len(calls) == 1
    # An index that says so itself, no index at all, and what was encoded before.
    everywhere = {f"{missing}_index": torch.full((3,), -1), f"{present}_index": index}
    torch.testing.assert_close(model(**inputs, **everywhere).logits, expected)
    assert model(**inputs).logits.shape == expected.shape
    given = {present: encoded[present]}
    torch.testing.assert_close(model(encoder_states=given).logits, expected)
    assert len(calls) == 4
    torch.testing.assert_close(model(encoder_states=encoded).logits, expected)
    assert len(calls) == 4


def test_sharding_needs_a_process_group():
    with pytest.raises(RuntimeError, match="init_process_group"):
        shard_model(tiny_models.model())
