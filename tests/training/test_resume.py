"""Runs that are killed and started again end with the weights of a run that was left alone, bit for bit."""

import json
import os
import re
import sys

import pytest
from datasets import DatasetDict, load_from_disk
from kill_and_resume import Kill, Run, arguments, command, survive, weights
from messages import says

from mm_hf.checkpoints import list_checkpoints
from mm_hf.training import exits, train


# Everything that draws random numbers or keeps a state.
CRAFT = {
    "fusion_dropout": 0.1,
    "modality_dropout": 0.1,
    "mixup_alpha": 0.2,
    "token_dropout": 0.1,
    "ema_decay": 0.9,
    "early_stopping_patience": 99,
    "dataloader_num_workers": 1,
    "gradient_accumulation_steps": 2,
    "eval_steps": 3,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 10,
}


@pytest.fixture(scope="module")
def few_rows(tiny_folder, tmp_path_factory):
    """Eight steps an epoch."""
    folder = tmp_path_factory.mktemp("few_rows") / "set"
    rows = {"train": 160, "validation": 41, "test": 37}
    parts = load_from_disk(tiny_folder)
    DatasetDict({name: part.select(range(rows[name])) for name, part in parts.items()}).save_to_disk(folder)
    return folder


def started(script, encoders, dataset, folder, name) -> list[str]:
    return command(script, 1, arguments(encoders, dataset, folder / name, **CRAFT))


def ended_alike(folder):
    assert weights(folder / "alone") == weights(folder / "killed")
    alone, killed = (json.loads((folder / name / "results.json").read_text()) for name in ("alone", "killed"))
    assert alone["metrics"] == killed["metrics"]


@pytest.mark.slow
def test_train_killed_torn_full_and_started_again(encoders, few_rows, tmp_path, monkeypatch, capsys):
    """Killed in the writing of its third checkpoint, its second torn, then a disk that fails, then to the end."""
    Run(started("train.py", encoders, few_rows, tmp_path, "alone"), tmp_path / "alone").finish()
    words = started("train.py", encoders, few_rows, tmp_path, "killed")
    folder = tmp_path / "killed"
    assert Run(words, folder, "killed").kill(Kill("writing", 0.02, leaves=2)) == "writing checkpoint-9"
    torn, good = list_checkpoints(folder)
    os.truncate(torn / "model.safetensors", 1000)

    # No file can grow past 20 MB, so that the writing of the weights fails in the middle, as on a full disk.
    full = Run(["bash", "-c", 'ulimit -f 20000; exec "$@"', "bash", *words], folder, "full")
    assert full.process.wait() == 1
    assert f"{torn.name} is skipped: model.safetensors has 1000 bytes" in full.text()
    assert f"resumed from {good}" in full.text()
    (error,) = [line for line in full.text().splitlines() if line.startswith("error:")]
    assert error.startswith(f"error: {torn.name} could not be written")
    assert error.endswith(f"The last complete one is {good}.")
    assert "Traceback" not in full.text()
    assert list_checkpoints(folder)[-1] == good

    room = Run(words, folder, "room")
    room.finish()
    assert f"resumed from {good}" in room.text()
    ended_alike(tmp_path)

    # The same command once more has nothing to do; another recipe is refused, key by key; some keys may change.
    monkeypatch.setattr(sys, "argv", words[1:])
    exits.run_script(train.main)
    assert "this run is complete" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*words[1:], "--learning_rate", "1", "--logging_steps", "3"])
    with pytest.raises(SystemExit) as exit_info:
        exits.run_script(train.main)
    last = str(exit_info.value)
    assert last.startswith("error:")
    assert "learning_rate (0.002, now 1.0), logging_steps (10, now 3)" in last
    assert re.search(says("--allow_changes", "logging_steps"), last)


@pytest.mark.slow  # the second way, and part of `make reliability`
def test_finetune_killed_and_started_again(encoders, few_rows, tmp_path):
    """What it finds and skips is the same code as above. `make reliability` kills both more often, at other moments,
    and on two processes."""
    Run(started("finetune.py", encoders, few_rows, tmp_path, "alone"), tmp_path / "alone").finish()
    words = started("finetune.py", encoders, few_rows, tmp_path, "killed")
    ((_, met),) = survive(words, tmp_path / "killed", [Kill("writing", 0.02)])
    assert met == "writing checkpoint-6"
    assert "resumed from" in (tmp_path / "killed.1.log").read_text()
    ended_alike(tmp_path)


@pytest.mark.slow
def test_a_disk_that_fails_leaves_the_last_good_checkpoint(encoders, tiny_folder, tmp_path):
    """Through the Trainer."""
    words = command("finetune.py", 1, arguments(encoders, tiny_folder, tmp_path / "run", max_steps=4, eval_steps=2))
    Run(words, tmp_path / "run").finish()
    good = list_checkpoints(tmp_path / "run")[0]
    words = command("finetune.py", 1, arguments(encoders, tiny_folder, tmp_path / "run", max_steps=6, eval_steps=2))
    words += ["--allow_changes", "true"]
    full = Run(["bash", "-c", 'ulimit -f 20000; exec "$@"', "bash", *words], tmp_path / "run", "full")
    assert full.process.wait() == 1
    (error,) = [line for line in full.text().splitlines() if line.startswith("error:")]
    assert error.startswith("error: checkpoint-6 could not be written")
    assert error.endswith(f"The last complete one is {good}.")
    assert list_checkpoints(tmp_path / "run")[0] == good
    Run(words, tmp_path / "run", "room").finish()


@pytest.mark.slow
def test_a_stream_goes_on_where_it_was(encoders, easy_vqa, tmp_path):
    """Rows from two files, mixed in a buffer, read by two workers. tests/data/test_streaming.py has the quick part."""
    folder = tmp_path / "set"
    folder.mkdir()
    for shard in range(2):
        part = easy_vqa["train"].select(range(shard * 40, shard * 40 + 40))
        part.to_parquet(folder / f"train-{shard}.parquet")
    for name in ("validation", "test"):
        easy_vqa[name].select(range(50)).to_parquet(folder / f"{name}.parquet")
    keys = {"streaming": "true", "max_steps": 24, "eval_steps": 6, "shuffle_buffer": 20, "dataloader_num_workers": 2}

    def words(name):
        more = {**keys, "per_device_train_batch_size": 12}
        return command("train.py", 1, arguments(encoders, folder, tmp_path / name, **more))

    Run(words("alone"), tmp_path / "alone").finish()
    met = survive(words("killed"), tmp_path / "killed", [Kill("writing", 0.02)])
    assert met[0][1] is not None
    assert weights(tmp_path / "alone") == weights(tmp_path / "killed")
