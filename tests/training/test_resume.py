"""Runs that are killed and started again end with the weights of a run that was left alone, bit for bit."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from datasets import DatasetDict, load_from_disk


HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("kill_and_resume", HERE / "kill_and_resume.py")
kill_and_resume = importlib.util.module_from_spec(spec)
sys.modules["kill_and_resume"] = kill_and_resume
spec.loader.exec_module(kill_and_resume)
Kill, Run, command, seeded_kills = (
    getattr(kill_and_resume, name) for name in ("Kill", "Run", "command", "seeded_kills")
)
survive, weights = kill_and_resume.survive, kill_and_resume.weights

RECIPE = HERE.parents[1] / "training/recipes/easy_vqa.yaml"
# Everything that draws random numbers or keeps a state.
CRAFT = {
    "fusion_dropout": 0.1,
    "modality_dropout": 0.1,
    "mixup_alpha": 0.2,
    "token_dropout": 0.1,
    "ema_decay": 0.9,
    "early_stopping_patience": 9,
    "freeze_encoders": "true",
    "dataloader_num_workers": 1,
    "gradient_accumulation_steps": 2,
    "eval_steps": 7,
    "floors": "false",
    "report_to": "none",
}


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory) -> Path:
    """Some 40 pictures with their questions."""
    from training.prepare.easy_vqa import main

    folder = tmp_path_factory.mktemp("easy_vqa")
    main([str(folder / "all")])
    splits = load_from_disk(str(folder / "all"))
    rows = {"train": 400, "validation": 100, "test": 100}
    small = DatasetDict({name: split.select(range(rows[name])) for name, split in splits.items()})
    small.save_to_disk(folder / "small")
    return folder / "small"


def arguments(encoders, dataset, output_dir, **more) -> list[str]:
    flags = {
        "vision_encoder": encoders / "mobilenet-v2",
        "text_encoder": encoders / "minilm-l6",
        "dataset": dataset,
        "output_dir": output_dir,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 10,
        **CRAFT,
        **more,
    }
    return [str(RECIPE), *(str(word) for key, value in flags.items() for word in (f"--{key}", value))]


def alone_and_killed(script, processes, encoders, dataset, folder, kills, **more):
    """The weights of both runs, and what the kills met."""
    alone = Run(
        command(script, processes, arguments(encoders, dataset, folder / "alone", **more)),
        folder / "alone",
        folder / "alone.log",
    )
    alone.finish()
    met = survive(
        command(script, processes, arguments(encoders, dataset, folder / "killed", **more)), folder / "killed", kills
    )
    return weights(folder / "alone"), weights(folder / "killed"), met


QUICK = [Kill("writing", 0.02), Kill("step", 1.5)]


@pytest.mark.parametrize("script", ["train.py", "finetune.py"])
def test_killed_and_started_again(script, encoders, small_folder, tmp_path):
    alone, killed, met = alone_and_killed(script, 1, encoders, small_folder, tmp_path, QUICK)
    assert [what is not None for _, what in met] == [True] * 2, met
    assert any(what.startswith("writing") for _, what in met), met
    assert alone == killed
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("alone", "killed")]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert "taken up from" in (tmp_path / "killed.end.log").read_text()
