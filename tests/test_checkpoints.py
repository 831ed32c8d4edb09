"""Checkpoints are whole or not there: real files, torn in every way that a killed process or a full disk leaves."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mm_hf import checkpoints
from mm_hf.checkpoints import MANIFEST, list_checkpoints, newest_checkpoint, publish, rotate, staging_folder


def write(folder, content=b"weights" * 1000):
    staged = staging_folder(folder)
    (staged / "sub").mkdir(parents=True)
    (staged / "model.safetensors").write_bytes(content)
    (staged / "sub/state.json").write_text("{}")
    publish(folder)


def test_published_is_found_and_replaced(tmp_path):
    for step in (9, 10, 2):
        write(tmp_path / f"checkpoint-{step}")
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-9", "checkpoint-2"]
    write(tmp_path / "checkpoint-10", b"new")
    assert (tmp_path / "checkpoint-10/model.safetensors").read_bytes() == b"new"
    assert newest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("tear", ["truncate", "delete", "no manifest", "torn manifest", "deeper file"])
def test_a_torn_one_is_skipped_with_a_warning(tear, tmp_path):
    write(tmp_path / "checkpoint-1")
    write(tmp_path / "checkpoint-2")
    folder = tmp_path / "checkpoint-2"
    if tear == "truncate":
        os.truncate(folder / "model.safetensors", 100)
    elif tear == "delete":
        (folder / "model.safetensors").unlink()
    elif tear == "no manifest":
        (folder / MANIFEST).unlink()
    elif tear == "torn manifest":
        os.truncate(folder / MANIFEST, 10)
    else:
        (folder / "sub/state.json").unlink()
    with pytest.warns(UserWarning, match=r"checkpoint-2.*skipped"):
        assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-1"


def test_rotation_spares_the_newest_and_the_best(tmp_path):
    for step in range(1, 6):
        write(tmp_path / f"checkpoint-{step}")
    rotate(tmp_path, 2, keep=(tmp_path / "checkpoint-1", None))
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-4", "checkpoint-1"]
    rotate(tmp_path, None)
    assert len(list_checkpoints(tmp_path)) == 3
    rotate(tmp_path, 0)
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["checkpoint-5"]
    assert not any((tmp_path / ".writing").iterdir())


def test_torn_ones_do_not_count_in_the_rotation(tmp_path):
    for step in (10, 20, 30):
        write(tmp_path / f"checkpoint-{step}")
    os.truncate(tmp_path / "checkpoint-30/model.safetensors", 10)
    write(tmp_path / "checkpoint-25")
    rotate(tmp_path, 1)
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["checkpoint-25"]


def test_a_full_disk_leaves_the_last_good_one(tmp_path, monkeypatch):
    write(tmp_path / "checkpoint-1")
    staged = staging_folder(tmp_path / "checkpoint-1")
    staged.mkdir(parents=True)
    os.symlink("/dev/full", staged / MANIFEST)  # writing here fails as it does on a full disk
    with pytest.raises(OSError, match="No space left"):
        publish(tmp_path / "checkpoint-1")
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-1"


def test_killed_while_writing(tmp_path):
    """A process that writes checkpoints without end is killed ten times: what is found is whole each time."""
    code = (
        "import itertools, sys, types\n"
        "from pathlib import Path\n"
        "sys.modules['mm_hf'] = package = types.ModuleType('mm_hf')\n"  # an empty one: all of it takes seconds
        "package.__path__ = [sys.argv[3]]\n"
        "from mm_hf.checkpoints import publish, rotate, staging_folder\n"
        "run = Path(sys.argv[1])\n"
        "for step in itertools.count(int(sys.argv[2])):\n"
        "    staged = staging_folder(run / f'checkpoint-{step}')\n"
        "    staged.mkdir(parents=True, exist_ok=True)\n"
        "    for part in range(4):\n"
        "        (staged / f'{part}.bin').write_bytes(bytes([step % 251]) * 300_000)\n"
        "    publish(run / f'checkpoint-{step}')\n"
        "    print(step, flush=True)\n"
        "    rotate(run, 2)\n"
    )
    step = 1
    for kill in range(10):
        command = [sys.executable, "-c", code, str(tmp_path), str(step), os.path.dirname(checkpoints.__file__)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        last = int(process.stdout.readline())
        time.sleep(0.003 * kill)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        last = max([last, *map(int, rest.split())])
        found = newest_checkpoint(tmp_path)
        number = int(found.name.removeprefix("checkpoint-"))
        assert number >= last  # what was announced is there
        for part in range(4):
            assert (found / f"{part}.bin").read_bytes() == bytes([number % 251]) * 300_000
        step = number + 1
