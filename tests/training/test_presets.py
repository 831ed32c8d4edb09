"""What a run does where its recipe says nothing: what suits the rows and the machine, and one word for many keys."""

import json
import sys
from pathlib import Path

import pytest
import torch
from messages import says

from mm_hf.tasks import task_of_head
from mm_hf.training import exits, open_run, train
from mm_hf.training.model_arguments import ModelArguments
from mm_hf.training.presets import settings_for
from mm_hf.training.recipe import parse_arguments
from mm_hf.training.recipe_files import packaged_recipes, read_recipe
from mm_hf.training.train_arguments import TrainArguments


STORED = Path(__file__).parents[1] / "data" / "checkpoints"


def chosen(rows: int | None, gpu: bool = False, of_task=None, **given) -> dict:
    """What is chosen where these keys are given."""
    model, training = ({key: value for key, value in given.items() if hasattr(group, key)} for group in GROUPS)
    return settings_for(rows, gpu, ModelArguments(**model), TrainArguments(**training), set(given), 1, of_task or {})


GROUPS = (ModelArguments(), TrainArguments())


def test_without_a_gpu_encoders_are_frozen_and_few_rows_are_seen_often():
    few = chosen(300)
    assert few["freeze_encoders"] is True
    assert (few["num_train_epochs"], few["fusion_hidden_size"], few["fusion_layers"]) == (40, 128, 1)
    many = chosen(40_000)
    assert many["num_train_epochs"] * 40_000 / many["per_device_train_batch_size"] >= 900
    assert many["num_train_epochs"] < 5
    assert few["weight_decay"] > 0.01
    assert "weight_decay" not in many


def test_what_is_given_is_not_chosen():
    assert "num_train_epochs" not in chosen(300, max_steps=5)
    assert chosen(300, fusion_layers=3).keys().isdisjoint({"fusion_layers"})
    for key, value in {"freeze_encoders": False, "lora": "vision", "encoder_learning_rate": 1e-5}.items():
        assert chosen(300, **{key: value}).keys().isdisjoint({"freeze_encoders", "learning_rate"}), key
        fast = chosen(300, preset="fast", **{key: value})
        assert "freeze_encoders" not in fast, key
    assert "fusion_hidden_size" not in chosen(300, fusion_heads=3)  # which do not divide 128


def test_with_a_gpu_it_fine_tunes_as_before():
    assert chosen(100_000, gpu=True) == {}
    assert set(chosen(300, gpu=True)) == {"num_train_epochs"}  # three times ten steps teach nothing


def test_presets():
    fast, best = (chosen(300, preset=name) for name in ("fast", "best"))
    assert chosen(300, preset="balanced") == chosen(300)
    assert (fast["fusion"], fast["num_train_epochs"]) == ("concat", 20)
    assert best["num_train_epochs"] == 80
    assert best.get("fusion_layers", ModelArguments().fusion_layers) == 4
    assert 0 < best["ema_decay"] < 1
    assert chosen(300, gpu=True, preset="best").keys().isdisjoint({"freeze_encoders", "learning_rate"})
    assert chosen(300, gpu=True, preset="fast")["freeze_encoders"] is True


def test_a_search_does_not_look_at_every_pair():
    assert chosen(300, of_task=task_of_head("retrieval").without_gpu)["matching_weight"] == 0
    assert "matching_weight" not in chosen(300, gpu=True, of_task=task_of_head("retrieval").without_gpu)


def test_packaged_recipes_stay_what_was_measured():
    for name, file in packaged_recipes().items():
        assert read_recipe(file).get("defaults_version") in (2, 3), name


def run_of(folder: Path, **keys) -> dict:
    """A run with the stored encoders, in this process; what it wrote of itself."""
    flags = {
        "vision_encoder": STORED / "encoders/vision",
        "text_encoder": STORED / "encoders/text",
        "dataset": STORED / "rows/rows.csv",
        "image_column": "photo",
        "text_column": "text",
        "label_column": "colour",
        "output_dir": folder,
        "num_train_epochs": 1,
        "floors": "false",
        "report_to": "none",
        **keys,
    }
    words = [str(word) for key, value in flags.items() if value is not None for word in (f"--{key}", value)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *words])
        exits.run_script(train.main)
    return json.loads((folder / "recipe.json").read_text())


def test_a_run_says_what_it_chose_and_keeps_it(tmp_path, capsys, monkeypatch):
    recipe = run_of(tmp_path / "run")
    said = capsys.readouterr().out
    assert recipe["freeze_encoders"] is True
    assert recipe["chosen"]["freeze_encoders"] is True
    assert "num_train_epochs" not in recipe["chosen"]
    assert json.loads((tmp_path / "run/config.json").read_text())["freeze_encoders"] is True
    assert "freeze_encoders true" in said
    assert "learning_rate 0.001" in said
    assert "s, " in said.split("timed on")[1]
    # The same command finds it complete, and what would be chosen today does not count.
    monkeypatch.setattr(open_run, "settings_for", lambda *_: pytest.fail("it chose anew"))
    assert run_of(tmp_path / "run") == recipe
    with pytest.raises(SystemExit, match=says("learning_rate")):
        run_of(tmp_path / "run", learning_rate=0.5)


def test_version_2_does_as_before(tmp_path, capsys):
    recipe = run_of(tmp_path / "run", defaults_version=2, max_steps=1, fusion_layers=1)
    assert recipe["freeze_encoders"] is False
    assert "chosen" not in recipe
    assert "preset" not in recipe


def test_timing_changes_no_weight_and_no_random_number(tmp_path, monkeypatch):
    folders = tmp_path / "one", tmp_path / "other"
    run_of(folders[0])
    monkeypatch.setattr(open_run, "say_estimate", lambda run: None)
    run_of(folders[1])
    from safetensors.torch import load_file

    weights, same = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_recipe_names_no_preset_that_there_is_not(tmp_path):
    (tmp_path / "mine.yaml").write_text("preset: fastest\n")
    with pytest.raises(SystemExit) as ended:
        parse_arguments("", [str(tmp_path / "mine.yaml")])
    assert ended.value.code == 2
