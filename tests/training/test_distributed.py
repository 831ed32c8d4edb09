"""Two processes train as one would: the same rows in the same batches, the loss over the global count, each row
measured once; and where one fails, all end."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict, Image, load_from_disk
from kill_and_resume import Run, arguments, command
from messages import says
from safetensors.torch import load_file


@pytest.fixture(scope="session")
def still_encoders(encoders, tmp_path_factory):
    """The pretrained encoders without dropout, for runs that are compared."""
    folder = tmp_path_factory.mktemp("encoders") / "still"
    shutil.copytree(encoders, folder)
    file = folder / "minilm-l6/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
    return folder


def one_and_two(script, still_encoders, dataset, folder, **keys):
    """The weights and results of a run on one process and of the same on two with half the batch each."""
    weights, results = [], []
    for processes in (1, 2):
        more = {"per_device_train_batch_size": 20 // processes, **keys}
        run_dir = folder / f"on-{processes}"
        Run(command(script, processes, arguments(still_encoders, dataset, run_dir, **more)), run_dir).finish()
        weights.append(load_file(run_dir / "model.safetensors"))
        results.append(json.loads((run_dir / "results.json").read_text()))
        assert results[-1]["num_processes"] == processes
    return weights, results


def largest_difference(first, second):
    return max((first[name] - second[name]).abs().max().item() for name in first)


STILL = {
    "freeze_encoders": "false",
    "classifier_dropout": 0.0,
    "fusion_dropout": 0.0,
    "modality_dropout": 0.0,
    "optim": "sgd",
    "learning_rate": 0.01,
    "encoder_learning_rate": 0.001,
}


@pytest.fixture(scope="session")
def few_pictures(tiny_folder, tmp_path_factory) -> Path:
    """Nine of ten rows have lost their picture: on some step a process has nothing for its vision encoder, whose
    gradients the other one waits for."""
    parts = {}
    for name, part in load_from_disk(tiny_folder).items():
        part = part.cast_column("image", Image(decode=False))
        images = [image if row % 10 == 0 else None for row, image in enumerate(part["image"])]
        parts[name] = part.remove_columns("image").add_column("image", images, feature=Image(decode=False))
    folder = tmp_path_factory.mktemp("few_pictures") / "set"
    DatasetDict(parts).save_to_disk(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "finetune.py"])
def test_ten_steps_of_sgd_agree(script, still_encoders, few_pictures, tmp_path):
    """Both towers train. Parts of 101 and 97 rows leave uneven last batches."""
    weights, results = one_and_two(script, still_encoders, few_pictures, tmp_path, max_steps=10, **STILL)
    difference = largest_difference(*weights)
    assert 0 < difference < 1e-5  # not bit for bit: the gradients are summed in another order
    for encoder, tower, name in (
        ("minilm-l6", "text", "encoder.layer.5.output.dense.weight"),
        ("mobilenet-v2", "vision", "layer.9.reduce_1x1.convolution.weight"),
    ):
        pretrained = load_file(still_encoders / encoder / "model.safetensors")
        (pretrained,) = [weight for key, weight in pretrained.items() if key.endswith(name)]
        moved = (weights[0][f"model.encoders.{tower}.{name}"] - pretrained).abs().max().item()
        assert moved > 10 * difference, tower
    assert results[0]["metrics"] == results[1]["metrics"]
    assert (results[1]["metrics"]["accuracy"] * 97) % 1 == pytest.approx(0, abs=1e-3) or (
        results[1]["metrics"]["accuracy"] * 97
    ) % 1 == pytest.approx(1, abs=1e-3)


@pytest.mark.slow  # part of `make reliability`
def test_where_one_fails_all_end(encoders, easy_vqa, tmp_path):
    """A picture is broken that only the second process meets."""
    parts = {name: part.select(range(40)).cast_column("image", Image(decode=False)) for name, part in easy_vqa.items()}
    images, ids = parts["train"]["image"][:], parts["train"]["image_id"][:]
    images[13], ids[13] = {"bytes": b"\x89PNG and no more", "path": None}, "broken"
    train = parts["train"].remove_columns(["image", "image_id"]).add_column("image_id", ids)
    parts["train"] = train.add_column("image", images, feature=Image(decode=False))
    DatasetDict(parts).save_to_disk(tmp_path / "set")
    keys = {"freeze_encoders": "false", "max_steps": 9, "per_device_train_batch_size": 5}
    run = Run(
        command("train.py", 2, arguments(encoders, tmp_path / "set", tmp_path / "run", **keys)), tmp_path / "run"
    )
    assert run.process.wait() != 0
    assert re.search(says("error: row 13", "'train'", "'image'", "picture"), run.text())
    assert run.processes() == []


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "finetune.py"])
def test_fifty_steps(script, still_encoders, tiny_folder, tmp_path, record_reliability):
    """SGD to 1e-5; AdamW, which divides rounding by rounding, is reported."""
    differences = {}
    for optim in ("sgd", "adamw_torch_fused"):
        keys = {**STILL, "optim": optim, "max_steps": 50, "num_train_epochs": 9}
        weights, _ = one_and_two(script, still_encoders, tiny_folder, tmp_path / optim, **keys)
        differences[optim] = largest_difference(*weights)
    record_reliability(f"{script}: 50 steps on 1 and on 2 processes, SGD", 1, differences["sgd"] < 1e-5, differences)
    assert differences["sgd"] < 1e-5


def test_all_parameters_start_alike(still_encoders):
    """What the comparison rests on: the encoders of the comparison have no dropout."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(still_encoders / "minilm-l6")
    assert not any(module.p for module in model.modules() if isinstance(module, torch.nn.Dropout))
