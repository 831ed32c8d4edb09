"""One process writes into a folder: a second one is told who does, and a killed one leaves the folder free."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from mm_hf.training import lock
from mm_hf.training.lock import LOCK, lock_folder, release_folders


HOLD = """
import fcntl, json, os, sys, time
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("held", flush=True)
time.sleep(600)
"""
HOLDER = {"pid": 4321, "host": "elsewhere", "since": "2026-01-02T03:04:05+00:00", "command": "train.py recipe.yaml"}


@pytest.fixture(autouse=True)
def released():
    yield
    release_folders()


def hold(folder, content: str) -> subprocess.Popen:
    """Another process that has the lock of a folder."""
    folder.mkdir(exist_ok=True)
    (folder / LOCK).write_text(content)
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder / LOCK], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen):
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (json.dumps(HOLDER), ["process 4321", "elsewhere", "2026-01-02T03:04:05", "train.py recipe.yaml"]),
        ("", ["another process"]),
        ("{", ["another process"]),
        ("[]", ["another process"]),
        (json.dumps({**HOLDER, "command": "x" * 9000}), ["process 4321"]),
    ],
)
def test_a_second_process_is_told_who_has_it(content, told, tmp_path):
    folder = tmp_path / "run"
    process = hold(folder, content)
    try:
        with pytest.raises(ValueError, match=r"run .*--output_dir") as raised:
            lock_folder(folder)
        message = str(raised.value)
        assert all(words in message for words in [*told, str(folder), "--output_dir"])
        assert "\n" not in message
        assert len(message) < 600
        assert (folder / LOCK).read_text() == content
        assert os.listdir(folder) == [LOCK]
    finally:
        end(process)
    lock_folder(folder)  # SIGKILL left it free at once
    found = json.loads((folder / LOCK).read_text())
    assert found["pid"] == os.getpid()
    assert set(found) == set(HOLDER)


def test_it_is_held_until_released(tmp_path):
    folder = tmp_path / "new" / "run"
    lock_folder(folder)
    inode = os.stat(folder / LOCK).st_ino
    lock_folder(folder)  # once more by the same process: it has it
    assert os.stat(folder / LOCK).st_ino == inode
    refused = subprocess.run([sys.executable, "-c", HOLD, folder / LOCK], capture_output=True, text=True, check=False)
    assert "BlockingIOError" in refused.stderr
    release_folders()
    assert os.listdir(folder) == []
    end(hold(folder, ""))


def test_a_worker_does_not_inherit_it(tmp_path):
    """A forked process that outlives this one's lock, as workers that load data do after SIGKILL."""
    lock_folder(tmp_path)
    worker = os.fork()
    if worker == 0:
        signal.pause()
        os._exit(0)
    try:
        release_folders()
        end(hold(tmp_path, ""))  # or it would be told that it cannot have it
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_a_forked_child_that_ends_leaves_it(tmp_path):
    lock_folder(tmp_path)
    child = os.fork()
    if child == 0:
        release_folders()  # as it does at the end of a process
        os._exit(0)
    os.waitpid(child, 0)
    refused = subprocess.run(
        [sys.executable, "-c", HOLD, tmp_path / LOCK], capture_output=True, text=True, check=False
    )
    assert "BlockingIOError" in refused.stderr


def test_a_folder_that_was_made_anew_is_locked_anew(tmp_path):
    folder = tmp_path / "run"
    lock_folder(folder)
    (folder / LOCK).unlink()
    folder.rmdir()
    process = hold(folder, json.dumps(HOLDER))
    try:
        with pytest.raises(ValueError, match="4321"):
            lock_folder(folder)
    finally:
        end(process)


def test_the_file_that_a_holder_removes_is_not_locked(tmp_path, monkeypatch):
    """The one that ends removes its file between the opening and the locking of the next."""
    real, opened = os.open, []

    def open_and_lose(path, *args):
        opened.append(real(path, *args))
        if len(opened) == 1:
            os.unlink(path)
        return opened[-1]

    monkeypatch.setattr(lock.os, "open", open_and_lose)
    lock_folder(tmp_path)
    assert len(opened) == 2
    assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_without_locks_it_says_so_and_goes_on(code, tmp_path, monkeypatch, capsys):
    def refuse(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    lock_folder(tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert os.strerror(code) in line
    assert str(tmp_path) in line


def test_windows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "fcntl", None)
    lock_folder(tmp_path)
    assert "Windows" in capsys.readouterr().out


@pytest.mark.parametrize("there", [True, False])
def test_what_cannot_be_written_is_not_refused(there, tmp_path, monkeypatch):
    """A medium that is read-only, or the file of another user's process that has ended."""
    if there:
        (tmp_path / LOCK).write_text(json.dumps(HOLDER))
    real = os.open

    def read_only(path, flags, *args):
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *args)

    monkeypatch.setattr(lock.os, "open", read_only)
    lock_folder(tmp_path)
    if there:
        release_folders()
        process = hold(tmp_path, json.dumps(HOLDER))
        try:
            with pytest.raises(ValueError, match="4321"):
                lock_folder(tmp_path)
        finally:
            end(process)


def test_other_ranks_ask_for_nothing(tmp_path):
    lock_folder(tmp_path / "run", is_main_process=False)
    assert not (tmp_path / "run").exists()
