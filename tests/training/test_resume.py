"""Runs that are killed and started again end with the weights of a run that was left alone, bit for bit."""

import json
import os

import pytest
from kill_and_resume import Kill, Run, arguments, command, survive, weights

from mm_hf.checkpoints import list_checkpoints


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
    "eval_steps": 7,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 10,
}


@pytest.mark.parametrize("script", ["train.py", "finetune.py"])
def test_killed_and_started_again(script, encoders, tiny_folder, tmp_path):
    """`make reliability` kills more often, at other moments, and on two processes."""

    def words(name):
        return command(script, 1, arguments(encoders, tiny_folder, tmp_path / name, **CRAFT))

    Run(words("alone"), tmp_path / "alone").finish()
    met = survive(words("killed"), tmp_path / "killed", [Kill("writing", 0.02)])
    assert met[0][1] is not None
    assert met[0][1].startswith("writing"), met
    assert weights(tmp_path / "alone") == weights(tmp_path / "killed")
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("alone", "killed")]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert "taken up from" in (tmp_path / "killed.1.log").read_text()
    if script == "finetune.py":
        return  # what follows is the same code for both

    # The same command once more has nothing to do; another recipe is refused, key by key; some keys may change.
    again = Run(words("killed"), tmp_path / "killed", "again")
    again.finish()
    assert "this run is complete" in again.text()
    changed = Run([*words("killed"), "--learning_rate", "1", "--logging_steps", "3"], tmp_path / "killed", "changed")
    assert changed.process.wait() == 1
    last = changed.text().strip().splitlines()[-1]
    assert last.startswith("error:")
    assert "learning_rate (0.002, now 1.0), logging_steps (10, now 3)" in last
    assert "--allow_changes accepts new values of logging_steps" in last

    # A torn checkpoint is skipped with a warning, and the run goes on from the one before.
    newest, older = list_checkpoints(tmp_path / "killed")[:2]
    os.truncate(newest / "model.safetensors", 1000)
    (tmp_path / "killed/results.json").unlink()
    (tmp_path / "killed/model.safetensors").unlink()
    torn = Run(words("killed"), tmp_path / "killed", "torn")
    torn.finish()
    assert f"{newest.name} is skipped: model.safetensors has 1000 bytes" in torn.text()
    assert f"taken up from {older}" in torn.text()
    assert weights(tmp_path / "alone") == weights(tmp_path / "killed")


@pytest.mark.parametrize("script", ["train.py", pytest.param("finetune.py", marks=pytest.mark.slow)])
def test_a_disk_that_fails_leaves_the_last_good_checkpoint(script, encoders, tiny_folder, tmp_path):
    """No file can grow past 20 MB, so that the writing of the weights fails in the middle, as on a full disk."""
    words = command(script, 1, arguments(encoders, tiny_folder, tmp_path / "run", max_steps=4, eval_steps=2))
    Run(words, tmp_path / "run").finish()
    good = list_checkpoints(tmp_path / "run")[0]
    words = command(script, 1, arguments(encoders, tiny_folder, tmp_path / "run", max_steps=6, eval_steps=2))
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
