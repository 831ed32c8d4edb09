"""What the tests of the scripts share: a small part of easy-VQA."""

import json
from pathlib import Path

import pytest
from datasets import DatasetDict


TABLE = Path(__file__).parents[2] / ".cache/reliability.jsonl"


@pytest.fixture(scope="session")
def tiny_folder(easy_vqa, tmp_path_factory) -> Path:
    """Some 40 pictures with their questions for training, and a number of rows to measure that two cannot share."""
    rows = {"train": 400, "validation": 101, "test": 97}
    folder = tmp_path_factory.mktemp("tiny") / "set"
    DatasetDict({name: part.select(range(rows[name])) for name, part in easy_vqa.items()}).save_to_disk(folder)
    return folder


@pytest.fixture
def record_reliability():
    """Takes (what, tried, survived, more) into a file: the workers that run the tests cannot print."""

    def record(what: str, tried: int, survived: bool, more: dict):
        TABLE.parent.mkdir(exist_ok=True)
        with open(TABLE, "a", encoding="utf-8") as file:
            file.write(json.dumps([what, tried, tried if survived else 0, more]) + "\n")

    return record


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # once, before any worker begins
        TABLE.unlink(missing_ok=True)


def pytest_terminal_summary(terminalreporter):
    """Prints what was recorded as one table."""
    if not TABLE.exists():
        return
    terminalreporter.write_line(f"\n{'':<58}{'tried':>6}{'survived':>10}{'lost':>6}")
    for line in sorted(TABLE.read_text(encoding="utf-8").splitlines()):
        what, tried, survived, more = json.loads(line)
        notes = [f"{name} {value if isinstance(value, int) else f'{value:.1e}'}" for name, value in more.items()]
        terminalreporter.write_line(f"{what:<58}{tried:>6}{survived:>10}{tried - survived:>6}  {', '.join(notes)}")
