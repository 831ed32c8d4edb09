"""`init_from` over everything: checkpoints of every head that an earlier version left, each as the start for every
task."""

import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from mm_hf.training.open_run import open_run


STORED = Path(__file__).parents[1] / "data/checkpoints"
PICTURES = {"image_column": "photo", "text_column": "text"}
TABLE = {"table_columns": ["beds", "kind"]}
TASKS = {  # what the recipe says of each task
    "classification": {"label_column": "colour", "task": "classification"},
    "question_answering": {"label_column": "colour", "task": "question_answering"},
    "regression": {"label_column": "price", "task": "classification"},
    "multi_task": {"label_column": ["colour", "price"]},
    "retrieval": {"task": "retrieval"},
    "generation": {"label_column": "text", "task": "generation", "max_target_length": 6, "decoder": "text"},
    "ctc": {"label_column": "text", "task": "ctc", "audio_column": "sound", "audio_encoder": "audio"},
}
COLUMNS = {"ctc": {"audio_column": "sound"}, "regression": TABLE}  # of the checkpoints; of others, pictures and texts
SOURCES = sorted(path.name for path in (STORED / "heads").iterdir())


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """The stored rows, each with a sound too."""
    folder = tmp_path_factory.mktemp("rows") / "rows"
    shutil.copytree(STORED / "rows", folder)
    head, *lines = (folder / "rows.csv").read_text().splitlines()
    draw = np.random.default_rng(0)
    for number in range(len(lines)):
        soundfile.write(folder / f"{number}.wav", draw.normal(0, 0.1, 12000).astype("float32"), 16000)
    told = [f"{line},{number}.wav" for number, line in enumerate(lines)]
    (folder / "rows.csv").write_text("\n".join([f"{head},sound", *told]) + "\n")
    return folder / "rows.csv"


def prepared(source: str, task: str, dataset: Path, output_dir: Path):
    """The job before it trains: on the columns of the checkpoint and those that the task needs."""
    keys = {**COLUMNS.get(source, PICTURES), **TASKS[task]}
    if task == "retrieval":
        keys |= PICTURES
        keys = {key: value for key, value in keys.items() if key not in ("audio_column", "table_columns")}
    if task == "question_answering":
        keys |= PICTURES
    if task == "generation" and source == "generation":
        del keys["decoder"]
    for name, column in {"vision": "image_column", "text": "text_column", "audio": "audio_column"}.items():
        has = {"ctc": ["audio"], "regression": []}.get(source, ["vision", "text"])
        keys[f"{name}_encoder"] = STORED / "encoders" / name if column in keys and name not in has else None
    if keys.get("decoder"):
        keys["decoder"] = STORED / "encoders" / keys["decoder"]
    words = ["--dataset", dataset, "--output_dir", output_dir, "--init_from", STORED / "heads" / source]
    words += ["--max_steps", 2, "--eval_steps", 2, "--floors", "false", "--report_to", "none"]
    for key, value in keys.items():
        if value is not None:
            words += [f"--{key}", *(value if isinstance(value, list) else [value])]
    return open_run("", "train.py", list(map(str, words)))


def possible(source: str, task: str) -> bool:
    """Whether checkpoint and task have a modality in common."""
    has = {"ctc": {"audio"}, "regression": {"table"}}.get(source, {"picture"})
    needs = {"retrieval": {"picture"}, "question_answering": {"picture"}, "ctc": {"audio"}}.get(task)
    return task == "ctc" or needs is None or bool(has & needs)


PAIRS = [(source, task) for source in SOURCES for task in TASKS if possible(source, task)]
QUICK = [("classification", "ctc"), ("ctc", "regression"), ("generation", "multi_task"), ("multi_task", "retrieval")]


@pytest.mark.parametrize(
    ("source", "task"),
    [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in PAIRS],
)
def test_every_checkpoint_starts_every_task(source, task, rows, tmp_path):
    """What both have is as it was, what the lines say of it is so, and the first batch gives a finite loss."""
    job = prepared(source, task, rows, tmp_path / "run")
    weights = load_file(STORED / "heads" / source / "model.safetensors")
    lines, state = job.start.lines, job.model.state_dict()
    assert any(line.startswith("fusion: from") for line in lines)
    compared = 0
    for name, value in state.items():
        modality = name.split(".")[2] if ".encoders." in name or ".projections." in name else None
        if modality is None or name not in weights:
            continue
        if f"{modality} encoder: from {source}" in lines and "place_embeddings" not in name:
            assert torch.equal(value, weights[name]), name
            compared += 1
    assert compared > 10
    told = " ".join(lines)
    for modality in job.model.config.modalities:
        assert f"{modality} encoder" in told
    rows_of = job.all_rows("train", job.splits["train"].column_names)[:4]
    batch = {key: value for key, value in job.collator(rows_of).items() if key not in ("row_ids", "bad_rows")}
    loss = job.model.train()(**batch).loss
    assert loss.isfinite()
    loss.backward()
    assert all(parameter.grad is not None for parameter in job.model.parameters() if parameter.requires_grad)
