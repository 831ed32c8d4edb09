"""`make reliability`: ten kills for each script on one and on two processes, streams, and the checks that belong to
them; a table of what was tried and what survived."""

import pytest
from kill_and_resume import Run, arguments, command, seeded_kills, survive, weights


pytestmark = pytest.mark.slow
CRAFT = {
    "freeze_encoders": "true",
    "fusion_dropout": 0.1,
    "modality_dropout": 0.1,
    "mixup_alpha": 0.2,
    "augment": "crop",
    "token_dropout": 0.1,
    "ema_decay": 0.9,
    "early_stopping_patience": 99,
    "dataloader_num_workers": 1,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 8,
    "eval_steps": 8,
}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("script", ["train.py", "finetune.py"])
def test_ten_kills(script, processes, encoders, tiny_folder, tmp_path, record_reliability):
    def words(name):
        keys = {**CRAFT, "per_device_train_batch_size": 10 // processes}
        return command(script, processes, arguments(encoders, tiny_folder, tmp_path / name, **keys))

    Run(words("alone"), tmp_path / "alone").finish()
    kills = seeded_kills(seed=10 * processes + len(script), count=10)
    met = survive(words("killed"), tmp_path / "killed", kills)
    for number, (kill, what) in enumerate(met):
        print(f"{script}, {processes} process(es), kill {number}: {kill.when} + {kill.offset} s -> {what}")
    same = weights(tmp_path / "alone") == weights(tmp_path / "killed")
    hit = [what for _, what in met if what is not None]
    record_reliability(
        f"{script}, {processes} process(es): kills",
        len(hit),
        same,
        {"inside the writing of a checkpoint": sum(what.startswith("writing") for what in hit)},
    )
    assert len(hit) == 10, met
    assert sum(what.startswith("writing") for what in hit) >= 2, met
    assert same


@pytest.mark.parametrize("processes", [1, 2])
def test_streams(processes, encoders, easy_vqa, tmp_path, record_reliability):
    """Rows from four files, mixed in a buffer, read by two workers."""
    folder = tmp_path / "set"
    folder.mkdir()
    for shard in range(4):
        part = easy_vqa["train"].select(range(shard * 40, shard * 40 + 40))
        part.to_parquet(folder / f"train-{shard}.parquet")
    for name in ("validation", "test"):
        easy_vqa[name].select(range(50)).to_parquet(folder / f"{name}.parquet")
    keys = {"streaming": "true", "max_steps": 60, "eval_steps": 6, "shuffle_buffer": 20, "dataloader_num_workers": 2}

    def words(name):
        more = {**keys, "per_device_train_batch_size": 12}
        return command("train.py", processes, arguments(encoders, folder, tmp_path / name, **more))

    Run(words("alone"), tmp_path / "alone").finish()
    met = survive(words("killed"), tmp_path / "killed", seeded_kills(seed=processes, count=4))
    same = weights(tmp_path / "alone") == weights(tmp_path / "killed")
    hit = [what for _, what in met if what is not None]
    record_reliability(f"train.py on a stream, {processes} process(es): kills", len(hit), same, {})
    assert len(hit) == 4, met
    assert same
