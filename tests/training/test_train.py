"""`training/train.py` as its users run it: real encoders, real questions, real processes, wrong input."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import DatasetDict, Image
from messages import says
from PIL import Image as PILImage
from safetensors import safe_open


REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "training/recipes/easy_vqa.yaml"
FILES = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "modeling_mm_fusion.py"}
FILES |= {"results.json", "README.md", "curves.png", "predictions.png"}


@pytest.fixture(scope="session")
def small_set(easy_vqa) -> DatasetDict:
    """The questions of some 40 pictures of each part of easy-VQA."""
    return DatasetDict({name: split.select(range(400)) for name, split in easy_vqa.items()})


@pytest.fixture(scope="session")
def small_folder(small_set, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "set"
    small_set.save_to_disk(folder)
    return folder


def arguments(encoders, dataset, output_dir, *more) -> list[str]:
    flags = {
        "vision_encoder": encoders / "mobilenet-v2",
        "text_encoder": encoders / "minilm-l6",
        "dataset": dataset,
        "output_dir": output_dir,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 50,
    }
    return [str(RECIPE), *(str(word) for key, value in flags.items() for word in (f"--{key}", value)), *map(str, more)]


def launch(*command, **environment) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(
        [str(word) for word in command],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_process(encoders, small_folder, tmp_path, monkeypatch, capsys):
    from mm_hf.commands import results as show_results

    done = launch(sys.executable, "training/train.py", *arguments(encoders, small_folder, tmp_path))
    assert done.returncode == 0, done.stderr
    assert set(os.listdir(tmp_path)) >= FILES
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["floors"]) == {"majority", "text_only", "image_only", "shuffled_pairs", "linear"}
    assert set(results["seconds"]) == {"prepare", "train", "evaluate", "floors", "linear_floor"}
    assert set(results["by_kind"]) == {"color", "shape", "yes/no"}
    assert {"seed", "commit", "versions", "hardware", "recipe"} <= set(results)
    assert results["num_processes"] == 1
    assert 0 < results["metrics"]["accuracy"] < 1
    for name in ("curves.png", "predictions.png"):
        with PILImage.open(tmp_path / name) as plot:
            assert min(plot.size) > 300
    card = (tmp_path / "README.md").read_text()
    assert "model-index" in card
    assert f"{results['metrics']['accuracy']:.4f}" in card
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        assert any(key.startswith("model.fusion") for key in weights.keys())  # noqa: SIM118

    # A fresh process answers from the folder alone.
    done = launch(
        sys.executable, "training/answer.py", tmp_path, "--top_k", 2, HF_MODULES_CACHE=str(tmp_path / "modules")
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 3
    monkeypatch.setattr(sys, "argv", ["show_results.py", str(tmp_path)])
    show_results.script()
    assert "floor: text only" in capsys.readouterr().out


def broken_picture(splits):
    split = splits["train"].cast_column("image", Image(decode=False))
    images = split["image"][:]
    images[7] = {"bytes": b"\x89PNG but no more", "path": None}
    ids = split["image_id"][:]
    ids[7] = "broken"
    split = split.remove_columns(["image", "image_id"])
    split = split.add_column("image", images, feature=Image(decode=False)).add_column("image_id", ids)
    return DatasetDict({**splits, "train": split})


def empty_text(splits):
    questions = splits["train"]["question"][:]
    questions[3] = "  "
    split = splits["train"].remove_columns("question").add_column("question", questions)
    return DatasetDict({**splits, "train": split})


def unknown_label(splits):
    names = splits["train"].features["answer"].names
    new = {}
    for name, split in splits.items():
        answers = [names[answer] for answer in split["answer"]]
        if name == "test":
            answers[5] = "purple"
        new[name] = split.remove_columns("answer").add_column("answer", answers)
    return DatasetDict(new)


def no_train(splits):
    return DatasetDict({name: split for name, split in splits.items() if name != "train"})


CASES = [
    (None, ["--image_column", "picture"], "Unknown column 'picture'"),
    (None, ["--dataset", "no/such/folder"], "no/such/folder"),
    (None, ["--vision_encoder", "no/such/encoder"], "no/such/encoder"),
    (None, ["--fusion", "glue"], "Unknown fusion 'glue'"),
    (None, ["--vision_feature_layer", "99"], "99"),
    (broken_picture, [], "row 7 of split 'train', column 'image'"),
    (empty_text, [], "row 3 of split 'train', column 'question'"),
    (unknown_label, [], "row 5 of split 'test', column 'answer': label 'purple' is not in the list"),
    (no_train, [], "train"),
]


@pytest.mark.parametrize(("change", "more", "message"), CASES)
def test_wrong_input_is_one_clear_line(change, more, message, encoders, small_set, tmp_path, monkeypatch, capsys):
    from mm_hf.training import exits, train

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (small_set if change is None else change(small_set)).save_to_disk(tmp_path / "set")
    flags = arguments(encoders, tmp_path / "set", tmp_path / "run", "--floors", "false", "--max_steps", 1, *more)
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    with pytest.raises(SystemExit) as exit_info:
        exits.run_script(train.main)
    assert message in str(exit_info.value)
    assert "\n" not in str(exit_info.value)


def test_no_checkpoint_to_answer_from(encoders, monkeypatch):
    from mm_hf.commands import answer

    monkeypatch.setattr(sys, "argv", ["answer.py", str(encoders / "minilm-l6")])
    with pytest.raises(SystemExit, match=r"minilm-l6 .*mm_hf"):
        answer.script()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--logging_steps", "0"], says("logging_steps", 1, 0)),
        (["--bf16", "--fp16"], says("bf16", "fp16")),
        (["--learning_rate", "fast"], says("learning_rate", "'fast'")),
        (["--task", "guessing"], says("task", "'guessing'", "retrieval")),
        (["--no_such_flag", "1"], "no_such_flag"),
    ],
)
def test_wrong_flags(flags, message, monkeypatch, capsys):
    from mm_hf.training.recipe import parse_arguments

    monkeypatch.setattr(sys, "argv", ["train.py", str(RECIPE), *flags])
    with pytest.raises(SystemExit):
        parse_arguments("")
    assert re.search(message, capsys.readouterr().err)


def test_unknown_key_of_a_recipe(tmp_path, capsys):
    from mm_hf.training.recipe import parse_arguments

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rat: 1.0e-3\n")
    with pytest.raises(SystemExit):
        parse_arguments("", [str(recipe)])
    assert "unknown key 'learning_rat'" in capsys.readouterr().err


def test_a_recipe_takes_over_the_keys_of_its_base(tmp_path):
    from mm_hf.training.recipe import parse_arguments

    (tmp_path / "one.yaml").write_text("fusion: sum\nseed: 3\nlearning_rate: 0.5\n")
    (tmp_path / "two.yaml").write_text("base: one.yaml\nseed: 4\nfusion_layers: 2\n")
    (tmp_path / "three.yaml").write_text("base: two.yaml\nfusion: late\n")
    name, model_args, _, train_args = parse_arguments("", [str(tmp_path / "three.yaml"), "--fusion_layers", "1"])
    assert name == "three"
    assert (model_args.fusion, model_args.fusion_layers) == ("late", 1)
    assert (train_args.seed, train_args.learning_rate) == (4, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: here.yaml\n", says("'here.yaml'", "here.yaml")),
        ("base: other.yaml\n", says("'here.yaml'", "other.yaml")),
        ("base: ../other.yaml\n", says("base", "'../other.yaml'")),
        ("base: [one.yaml]\n", says("base", "['one.yaml']")),
        ("base: nowhere.yaml\n", "nowhere.yaml"),
        ("base: words.yaml\n", says("str", "words.yaml")),
        ("base: wrong.yaml\n", says("here.yaml", "'learning_rat'", "'learning_rate'?")),
    ],
)
def test_a_bad_base(tmp_path, capsys, text, message):
    from mm_hf.training.recipe import parse_arguments

    for name, content in {
        "here": text,
        "other": "base: here.yaml\n",
        "words": "fusion",
        "wrong": "learning_rat: 1",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    with pytest.raises(SystemExit):
        parse_arguments("", [str(tmp_path / "here.yaml")])
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_every_recipe_can_be_read():
    from mm_hf.training.recipe import parse_arguments

    recipes = sorted((REPOSITORY / "training/recipes").glob("*.yaml"))
    assert [parse_arguments("", [str(recipe)])[0] for recipe in recipes] == [recipe.stem for recipe in recipes]
    assert len(recipes) > 10


def test_flags_win_over_the_recipe(monkeypatch):
    from mm_hf.training.recipe import parse_arguments

    monkeypatch.setattr(sys, "argv", ["train.py", str(RECIPE), "--learning_rate", "0.5", "--seed", "7"])
    name, model_args, _, train_args = parse_arguments("")
    monkeypatch.setattr(sys, "argv", ["train.py", "--seed", "7", str(RECIPE)])  # the recipe may stand anywhere
    assert parse_arguments("")[0] == name
    assert name == "easy_vqa"
    assert train_args.learning_rate == 0.5
    assert train_args.seed == 7
    assert model_args.vision_feature_layer == [4, 11]
