"""What a run says before and while it trains: what frozen encoders would save, and few lines of progress in a log."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mm_hf.training import exits, open_run, train


STORED = Path(__file__).parents[1] / "data" / "checkpoints"


def run_of(folder: Path, **keys) -> Path:
    """Some steps with the stored encoders, in this process."""
    flags = {
        "vision_encoder": STORED / "encoders/vision",
        "text_encoder": STORED / "encoders/text",
        "dataset": STORED / "rows/rows.csv",
        "image_column": "photo",
        "text_column": "text",
        "label_column": "colour",
        "output_dir": folder,
        "fusion_hidden_size": 16,
        "fusion_layers": 1,
        "max_steps": 5,
        "logging_steps": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.001,
        "floors": "false",
        "report_to": "none",
        "defaults_version": 2,  # the encoders train
        **keys,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["train.py", *(str(w) for key, value in flags.items() for w in (f"--{key}", value))]
        )
        exits.run_script(train.main)
    return folder


def test_what_frozen_encoders_would_save(tmp_path, capsys, monkeypatch):
    """It is measured, and the run is the very same; in a log there is no line a step."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = run_of(tmp_path / "one")
    said = capsys.readouterr()
    assert "(vision, text)" in said.out
    assert "forward alone" in said.out
    assert "--freeze_encoders true" in said.out
    assert said.err.count("\r") + said.err.count("\n") < 12, said.err
    assert "%|" not in said.err
    monkeypatch.setattr(open_run, "advise_on_freezing", lambda run: None)
    other = run_of(tmp_path / "other")
    assert "There is no GPU" not in capsys.readouterr().out
    weights, same = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    torch.set_num_threads(threads)


def test_frozen_encoders_need_no_advice(tmp_path, capsys):
    run_of(tmp_path / "run", freeze_encoders="true", max_steps=2)
    assert "There is no GPU" not in capsys.readouterr().out
