"""What both scripts keep of a training in one way, and what the recipe's new values do to a run that goes on."""

import json
from pathlib import Path

import pytest
from kill_and_resume import call
from safetensors.torch import load_file

from mm_hf.checkpoints import list_checkpoints, step_of
from mm_hf.training import finetune, train


STORED = Path(__file__).parents[1] / "data/checkpoints"
SCRIPTS = pytest.mark.parametrize(
    "script", [pytest.param(train, id="train", marks=pytest.mark.slow), pytest.param(finetune, id="finetune")]
)
RECIPE = {
    "vision_encoder": str(STORED / "encoders/vision"),
    "text_encoder": str(STORED / "encoders/text"),
    "dataset": str(STORED / "rows/rows.csv"),
    "image_column": "photo",
    "text_column": "text",
    "table_columns": ["beds"],
    "label_column": "colour",
    "fusion_hidden_size": 16,
    "fusion_layers": 1,
    "fusion_heads": 2,
    "save_total_limit": 9,
    "per_device_train_batch_size": 8,
    "floors": False,
    "report_to": "none",
    "defaults_version": 2,  # the encoders train
}


def start(script, folder: Path, **keys):
    """Starts a run, or goes on with it."""
    file = folder.with_suffix(".yaml")
    file.write_text(json.dumps({**RECIPE, "output_dir": str(folder), **keys}))
    call(script.main, file)


def kept(state: Path, name: str) -> dict:
    return json.loads((state / name).read_text())


@SCRIPTS
def test_a_new_patience_counts_in_a_run_that_goes_on(script, tmp_path):
    """Without learning no evaluation is better than the first. The library brings back the patience of the state."""
    run = tmp_path / "run"
    still = {"learning_rate": 0.0, "max_steps": 9, "eval_steps": 1, "ema_decay": 0.5}
    start(script, run, **still, early_stopping_patience=2)
    first = list_checkpoints(run)[0]
    assert step_of(first) == 3
    start(script, run, **still, early_stopping_patience=4, allow_changes=True)
    last = list_checkpoints(run)[0]
    assert step_of(last) == 5
    # The seconds go on, and the files hold what those of before hold.
    stored = STORED / "states" / script.__name__.rpartition(".")[2] / "run/checkpoint-6"
    names = ["rank_0.json", *(["progress.json"] if script is train else [])]
    for name in names:
        assert set(kept(last, name)) == set(kept(stored, name))
    assert 0 < kept(first, names[-1])["seconds"] < kept(last, names[-1])["seconds"]
    assert set(load_file(last / "ema.safetensors")) == {
        "num_updates",
        *(f"averages.{name}" for name in load_file(run / "model.safetensors")),
    }
