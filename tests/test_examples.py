"""The examples, run as they stand on the CSV of a stranger, with small encoders."""

import ast
import csv
import re
import runpy
import sys
from pathlib import Path

import pytest
from datasets import load_from_disk
from transformers import AutoConfig

import mm_hf
from mm_hf.trainer import MMTrainer


FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = ["train_loop.py", "trainer.py"]
PUBLIC = {"mm_hf", "mm_hf.data", "mm_hf.evaluation", "mm_hf.optim", "mm_hf.tasks", "mm_hf.trainer"}


@pytest.fixture(scope="module")
def emoji_csv(openmoji_folder, tmp_path_factory) -> Path:
    """400 emoji in a table with pictures beside it; one row lacks its picture, one its name."""
    train = load_from_disk(str(openmoji_folder))["train"].shuffle(seed=0).select(range(400))
    kinds = train.features["category"]
    folder = tmp_path_factory.mktemp("emoji")
    (folder / "pictures").mkdir()
    with open(folder / "emoji.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["photo", "title", "kind"])
        for number, row in enumerate(train):
            picture, title = f"pictures/{row['code']}.png", row["name"]
            row["image"].resize((64, 64)).save(folder / picture)
            rows.writerow(["" if number == 3 else picture, "" if number == 5 else title, kinds.names[row["category"]]])
    return folder / "emoji.csv"


@pytest.fixture
def run(emoji_csv, encoders, tmp_path, monkeypatch, capsys):
    """Runs an example in this process: the folder that it writes, and its lines, without the Trainer's log."""

    def run(name: str) -> tuple[Path, list[str]]:
        flags = {
            "data": emoji_csv,
            "image": "photo",
            "text": "title",
            "label": "kind",
            "vision_encoder": encoders / "mobilenet-v2",
            "text_encoder": encoders / "minilm-l6",
            "image_size": 64,
            "output": tmp_path / "run",
        }
        words = [f"--{flag}={value}" for flag, value in flags.items()]
        monkeypatch.setattr(sys, "argv", [name, *words])
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        lines = capsys.readouterr().out.splitlines()
        return tmp_path / "run", [line for line in lines if line.strip() and not line.startswith("{'")]

    return run


def shape(line: str) -> str:
    """A printed line without its numbers, the row that was asked, and the answers."""
    line = re.sub(r"^.* \[\{", "… [{", line)
    return re.sub(r"'label': ('[^']*'|\"[^\"]*\")", "'label': …", re.sub(r"\d+(\.\d+)?(e-?\d+)?", "#", line))


def check(folder: Path, lines: list[str], name: str):
    """What is printed looks as the header says, the score is above the floor, and the checkpoint is whole."""
    header = ast.get_docstring(ast.parse((FOLDER / name).read_text(encoding="utf-8")))
    told = re.findall(r"^    (.*)$", header.split("it prints", 1)[1], flags=re.MULTILINE)
    assert [shape(line) for line in lines] == [shape(line) for line in told]
    score, floor = map(float, re.search(r"test accuracy ([\d.]+); .*: ([\d.]+)$", "\n".join(lines), re.M).groups())
    assert score > floor + 0.15
    config = AutoConfig.from_pretrained(folder)
    assert set(config.label2id) >= {"Animals & Nature", "Flags", "Objects"}
    answer = mm_hf.pipeline(model=str(folder))({"text": "flag: Chad"}, top_k=1)  # a row without a picture
    assert answer[0]["label"] == "Flags"


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs_as_its_header_says(name, run):
    check(*run(name), name)


@pytest.mark.slow
def test_the_trainer_of_the_package_takes_the_same_arguments(run, monkeypatch):
    monkeypatch.setattr("transformers.Trainer", MMTrainer)
    folder, lines = run("trainer.py")
    check(folder, lines, "trainer.py")
    assert list(folder.glob("checkpoint-*/complete.json"))  # it was this Trainer


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_short_and_uses_what_is_public(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    for node in ast.walk(ast.parse(text)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert not [alias.name for alias in node.names if alias.name.startswith("_")]
            modules = [node.module]
        assert {module for module in modules if module.startswith("mm_hf")} <= PUBLIC
