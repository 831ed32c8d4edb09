"""What an earlier version left, made by `tests/data/checkpoints/make.py`: its checkpoints load and answer as they did,
its training states resume."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image
from safetensors.torch import load_file

import mm_hf
from mm_hf import MMFusionProcessor


REPOSITORY = Path(__file__).parents[1]
STORED = REPOSITORY / "tests/data/checkpoints"
HEADS = sorted(path.name for path in (STORED / "heads").iterdir())


def rows() -> list[dict]:
    """Those of the data set that the checkpoints were asked about."""
    table = load_dataset("csv", data_files=str(STORED / "rows/rows.csv"))["train"]
    return list(table.select(range(3, 8)))


def items_of(head: str) -> dict:
    """What the checkpoint of a head was asked."""
    if head == "ctc":
        return {"audio": [np.sin(np.arange(n) * 0.03).astype(np.float32) for n in (16000, 9000, 12000)]}
    if head == "regression":
        table = [{"beds": 3, "kind": "old"}, {"beds": None, "kind": "new"}, {"beds": 9, "kind": "ruin"}]
        return {"table": table, "series": [np.cumsum(np.ones((length, 2)), 0) for length in (4, 7, 5)]}
    chosen = rows()[: 2 if head == "retrieval" else 5]
    photos = [Image.open(STORED / "rows" / row["photo"]) if row["photo"] else None for row in chosen]
    return {"images": photos, "text": [row["text"] for row in chosen]}


def powers(features: torch.Tensor) -> torch.Tensor:
    """The spectra of sounds as shares of the loudest power of each, from Whisper's features of them, `(B, 80, T)`."""
    spectra = 10 ** (4 * features.double() - 4)
    return spectra / spectra.amax(dim=(1, 2), keepdim=True)


@pytest.mark.parametrize("head", HEADS)
def test_a_stored_checkpoint_answers_as_it_did(head):
    folder = STORED / "heads" / head
    config = json.loads((folder / "config.json").read_text())
    model = getattr(mm_hf, config["architectures"][0]).from_pretrained(folder).eval()
    stored = load_file(folder / "answers.safetensors")
    inputs = {name.removeprefix("input "): value for name, value in stored.items() if name.startswith("input ")}
    labels = {name: inputs.pop(name) for name in ("labels",) if name in inputs}
    made = MMFusionProcessor.from_pretrained(folder)(**items_of(head))
    assert set(made) == set(inputs)
    for name, value in inputs.items():
        found = made[name]
        if name == "input_features":  # the logarithm makes much of the rounding of another machine's Fourier transform
            found, value = powers(found), powers(value)
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-5, msg=name, equal_nan=True)
    with torch.no_grad():
        outputs = model(**inputs, **labels)
    answers = {name: value for name, value in stored.items() if name.startswith("logits")}
    assert answers
    for name, value in answers.items():
        _, _, task = name.partition(" ")
        found = outputs.logits[task] if task else outputs["logits" if "logits" in outputs else "logits_per_text"]
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-5, msg=name)
    if "written" in stored:
        assert torch.equal(model.generate(**inputs, max_new_tokens=6), stored["written"])


def start(script: str, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    """What a user types in the folder of a state."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    words = [sys.executable, REPOSITORY / f"training/{script}.py", "recipe.yaml", "--output_dir", "run", *flags]
    return subprocess.run(
        words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("script", ["train", pytest.param("finetune", marks=pytest.mark.slow)])
@pytest.mark.parametrize("resumed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_of_before_comes_to_the_same_end(script, resumed, tmp_path):
    """Taken up from its state, and begun anew with what was done then."""
    shutil.copytree(STORED / "states" / script, tmp_path, dirs_exist_ok=True)
    for part in ("encoders", "rows"):
        shutil.copytree(STORED / part, tmp_path / part)
    if not resumed:
        shutil.rmtree(tmp_path / "run")
    done = start(script, tmp_path, *([] if resumed else ["--defaults_version", "1"]))
    assert done.returncode == 0, done.stderr[-2000:]
    assert ("resumed from run/checkpoint-6" in done.stdout) == resumed
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["label_mean"], config["fusion_module_config"]["output_norm"]) == (None, False)
    found, ended = load_file(tmp_path / "run/model.safetensors"), load_file(tmp_path / "ended.safetensors")
    assert set(found) == set(ended)
    for name, value in ended.items():
        # Softmax does not see a key's bias: its gradient is rounding, of which Adam makes steps, other ones elsewhere.
        bound = 1e-4 if name.endswith(".key.bias") else 1e-5
        torch.testing.assert_close(found[name], value, rtol=bound, atol=bound, msg=name)
