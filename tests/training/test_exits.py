"""A script that ends before its time says why in one line, and where it can be taken up; a fault of ours is seen."""

import contextlib
import errno
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from kill_and_resume import REPOSITORY, call, command
from messages import says
from safetensors import SafetensorError

from mm_hf.data import BadRowError
from mm_hf.training import exits, train
from mm_hf.training.exits import goes_on_in, line_of, run_script
from mm_hf.training.lock import LOCK, lock_folder


STORED = REPOSITORY / "tests/data/checkpoints"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def damaged_by_torch(content: bytes) -> Exception:
    """What torch.load says of a file."""
    with pytest.raises(Exception) as raised:  # noqa: PT011  each has a type of its own
        torch.load(io.BytesIO(content), weights_only=True)
    return raised.value


def saved(value) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


WORKER = "DataLoader worker (pid 12) is killed by signal: Killed. "
CPU = (
    "[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
)
FROM_WORKER = (
    "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File…\n"
)
MEMORY, LOADER, FILE = "not enough memory", "--dataloader_num_workers", "a file is damaged"
PanicException = type("PanicException", (BaseException,), {})  # as that of a library in Rust
NO_THREADS = 'ThreadPoolBuildError { kind: IOError(Os { code: 11, message: "Resource temporarily unavailable" }) }'
# By name: the error, and what stands in its line; None: a traceback.
ERRORS = {
    "a wrong value": (ValueError("learning_rate must be at least 0"), "learning_rate must be at least 0"),
    "no file": (FileNotFoundError(errno.ENOENT, "No such file", "a.csv"), "a.csv"),
    "a bad row": (BadRowError({"split": "train", "row_id": 3}, "photo", "broken"), "--on_error skip"),
    "a value from a worker": (ValueError(f"{FROM_WORKER}ValueError: the row is bad\n"), "ValueError: the row is bad"),
    "python's memory": (MemoryError(), f"{MEMORY} (MemoryError)"),
    "numpy's memory": (MemoryError("Unable to allocate 8 GiB for an array"), "8 GiB"),
    "torch's memory": (RuntimeError(CPU), "you tried to allocate 9 bytes"),
    "a GPU's memory": (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MEMORY),
    "the system's memory": (OSError(errno.ENOMEM, "Cannot allocate memory"), MEMORY),
    "memory for a file": (SafetensorError("Error while mapping: Cannot allocate memory (os error 12)"), MEMORY),
    "memory for a thread": (RuntimeError("can't start new thread"), MEMORY),
    "memory for code": (RuntimeError("could not create a primitive"), MEMORY),
    "memory for a library in Rust": (PanicException(NO_THREADS), MEMORY),
    "a fault in Rust": (PanicException("called `Option::unwrap()` on a `None` value"), None),
    "memory for a library": (ImportError("x.so: failed to map segment from shared object"), MEMORY),
    "memory behind another error": (caused(ValueError("a.csv cannot be read"), MemoryError()), MEMORY),
    "a killed worker": (RuntimeError(WORKER), LOADER),
    "a worker that is gone": (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), LOADER),
    "another process of the run": (RuntimeError("[…/pair.cc:534] Connection closed by peer [127.0.0.1]:9"), "another"),
    "a file of python's": (pickle.UnpicklingError("Weights only load failed"), FILE),
    "a file that ends": (EOFError("Ran out of input"), FILE),
    "a file of safetensors": (SafetensorError("Error while deserializing header: header too large"), FILE),
    "an empty file": (damaged_by_torch(b""), FILE),
    "a torn file": (damaged_by_torch(saved({"a": torch.ones(99)})[:-200]), FILE),
    "a file of something else": (damaged_by_torch(b"something else"), FILE),
    "a file of code": (damaged_by_torch(saved({"a": Path("x")})), FILE),
    "a fault of ours": (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
    "another fault of ours": (KeyError("image"), None),
    "a library that is not there": (ImportError("No module named 'torchvision'"), None),
    "a state that does not fit": (RuntimeError("Error(s) in loading state_dict for Model: size mismatch"), None),
    "an assertion": (AssertionError(), None),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_one_line_or_a_traceback(kind):
    error, words = ERRORS[kind]

    def main():
        raise error

    if words is None:
        with pytest.raises(type(error)) as raised:
            run_script(main)
        assert raised.value is error
        return
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    line = str(ended.value)
    assert line.startswith("error: ")
    assert words in line
    assert "\n" not in line
    assert "Traceback" not in line
    if words in (MEMORY, LOADER, FILE):
        assert len(line) < 700


@pytest.mark.parametrize("lower", [exits.TRAINING, exits.MEASURING, exits.ANSWERING])
def test_what_to_lower_depends_on_the_script(lower):
    assert lower in line_of(MemoryError(), lower)


def checkpoint(folder: Path, name: str, whole: bool = True):
    (folder / name).mkdir(parents=True)
    if whole:
        (folder / name / "complete.json").write_text("{}")


@pytest.mark.parametrize(
    ("makes", "said"),
    [
        (lambda folder: None, r"\brun\b.*checkpoint"),
        (lambda folder: checkpoint(folder, "checkpoint-3"), r"run/checkpoint-3\b"),
        (
            lambda folder: [checkpoint(folder, "checkpoint-12", whole=False), checkpoint(folder, "checkpoint-9")],
            r"run/checkpoint-9\b",
        ),
        (lambda folder: (folder / "results.json").write_text("{}"), r"run .*complete"),
    ],
)
def test_where_a_run_goes_on(makes, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def main():
        lock_folder(Path("run"))
        goes_on_in(Path("run"))
        makes(Path("run"))
        raise MemoryError

    with pytest.raises(SystemExit, match=said):
        run_script(main)
    assert not Path("run", LOCK).exists()  # the folder is free again

    def other():
        raise MemoryError

    with pytest.raises(SystemExit) as ended:
        run_script(other)
    assert str(ended.value).endswith(exits.TRAINING)  # of a script that is about no run


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_too_little_memory_to_look_where_it_goes_on(error, tmp_path, monkeypatch):
    def fail(*args):
        raise error

    def main():
        goes_on_in(tmp_path)
        monkeypatch.setattr(exits, "list_checkpoints", fail)
        raise MemoryError

    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert str(ended.value).endswith(exits.TRAINING)


@pytest.mark.parametrize(("number", "by"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
@pytest.mark.parametrize("rank", [None, "0", "1"])
def test_a_stop(number, by, rank, monkeypatch, capsys):
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    before = signal.getsignal(signal.SIGTERM)

    def main():
        os.kill(os.getpid(), number)
        time.sleep(60)

    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert ended.value.code == 128 + number
    said = capsys.readouterr().err
    assert said.strip() == ("" if rank == "1" else f"stopped by {by}.")
    assert signal.getsignal(signal.SIGTERM) == before


def test_of_several_processes_none_waits_for_python(monkeypatch):
    """SIGTERM ends them at once, also where they wait for one another."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = signal.getsignal(signal.SIGTERM)
    assert exits.stop_on_sigterm() is None
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_ends_a_worker_without_a_word(capfd):
    """It is forked with what its parent does about the signal."""

    def main():
        worker = os.fork()
        if worker == 0:
            signal.pause()
            os._exit(0)
        time.sleep(0.1)
        os.kill(worker, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -signal.SIGTERM

    run_script(main)
    assert "stopped" not in capfd.readouterr().err


# Real processes


@pytest.fixture
def folder(tmp_path):
    """Data, tiny encoders, and a recipe of a run that has no end."""
    shutil.copytree(STORED / "rows", tmp_path / "rows")
    shutil.copytree(STORED / "encoders", tmp_path / "encoders")
    recipe = json.loads((STORED / "states/train/recipe.yaml").read_text())
    recipe |= {"max_steps": 100_000, "eval_steps": 5, "output_dir": "run", "defaults_version": 2}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    return tmp_path


def start(script: str, folder: Path, *words, before: tuple[str, ...] = (), processes: int = 1) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    typed = command(script, processes, ["recipe.yaml", *map(str, words)])
    typed = [str(REPOSITORY / word) if word.startswith("training/") else word for word in typed]
    with open(folder / "log.txt", "w") as log:
        return subprocess.Popen(
            [*before, *typed], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def wait_for(process: subprocess.Popen, happened):
    while not happened():
        assert process.poll() is None, (process.args, Path(process.args[-1]))
        time.sleep(0.01)


def whole_checkpoints(folder: Path) -> set[str]:
    return {str(path.parent) for path in (folder / "run").glob("checkpoint-*/complete.json")}


def ended_in_one_line(process: subprocess.Popen, folder: Path, begins: str) -> str:
    process.wait(timeout=120)
    said = (folder / "log.txt").read_text(errors="replace")
    assert "Traceback" not in said, said[-3000:]
    lines = [line for line in said.splitlines() if line.startswith(begins)]
    assert len(lines) == 1, said[-3000:]
    return lines[0]


@pytest.mark.slow  # `make reliability` runs it
def test_a_second_start_is_refused_and_a_killed_worker_is_told(folder, monkeypatch):
    process = start("train.py", folder, "--dataloader_num_workers", 1)
    try:
        wait_for(process, lambda: whole_checkpoints(folder))
        monkeypatch.chdir(folder)
        before = (folder / "run/recipe.json").read_bytes()
        for words in ([], ["--overwrite_output_dir"], ["--max_steps", "7", "--allow_changes"]):
            with pytest.raises(SystemExit) as ended:
                call(train.main, "recipe.yaml", *words)
            assert re.search(says("run", f"process {process.pid}"), str(ended.value))
            assert "training/train.py recipe.yaml" in str(ended.value)
        assert (folder / "run/recipe.json").read_bytes() == before
        known = whole_checkpoints(folder)
        wait_for(process, lambda: whole_checkpoints(folder) - known)  # the first one goes on
        killed = 0
        while process.poll() is None:
            for worker in psutil.Process(process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
                    worker.kill()
                    killed += 1
            time.sleep(0.02)
        line = ended_in_one_line(process, folder, "error: ")
        assert killed
        assert process.returncode == 1
        assert "--dataloader_num_workers" in line
        assert (folder / re.search(r"run/checkpoint-\d+", line)[0]).is_dir()
    finally:
        process.kill()


@pytest.mark.slow  # a second way, as above
@pytest.mark.parametrize("script", ["train.py", "finetune.py"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_scripts_are_stopped(script, number, folder):
    words = ["--label_column", "colour", "--output_dir", "run"]
    process = start(script, folder, *words)
    try:
        wait_for(process, lambda: whole_checkpoints(folder))
        process.send_signal(number)
        line = ended_in_one_line(process, folder, "stopped by ")
        assert process.returncode == 128 + number
        assert re.search(r"run/checkpoint-\d+", line)
        assert not (folder / "run" / LOCK).exists()
        process = start(script, folder, *words)  # and it does go on
        wait_for(process, lambda: f"resumed from {line.split(' from ')[1][:-1]}" in (folder / "log.txt").read_text())
    finally:
        process.kill()


@pytest.mark.slow  # each limit is a process
@pytest.mark.parametrize("script", ["train.py", "finetune.py"])
def test_a_low_address_space(script, folder):
    """At any limit that lets all libraries be loaded, it ends well or in one line, be it that of the C library."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = (
        "import sys; sys.argv = ['x']; import mm_hf.training.train, psutil; print(psutil.Process().memory_info().vms)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    imported = int(found.stdout) // 1024
    words = ["--label_column", "colour", "--max_steps", 5, "--output_dir", "run"]
    ends = set()
    for more in (30_000, 100_000, 200_000, 400_000):
        shutil.rmtree(folder / "run", ignore_errors=True)
        limit = ("bash", "-c", f'ulimit -v {imported + more}; exec "$@"', "bash")
        process = start(script, folder, *words, before=limit)
        try:
            status = process.wait(timeout=300)
            if status == 1:
                assert "not enough memory" in ended_in_one_line(process, folder, "error: ")
            ends.add(status)
        finally:
            process.kill()
    assert 1 in ends
    assert ends <= {0, 1, 127, -signal.SIGABRT}


@pytest.mark.slow  # two processes
def test_two_processes_are_refused_and_released(folder, monkeypatch):
    """The second start of a run on two processes: both end, and say why. After SIGKILL the folder is free."""
    monkeypatch.chdir(folder)
    first = start("train.py", folder)
    try:
        wait_for(first, lambda: whole_checkpoints(folder))
        (folder / "log.txt").rename(folder / "first.txt")
        second = start("train.py", folder, processes=2)
        try:
            assert second.wait(timeout=300) == 1
            said = (folder / "log.txt").read_text()
            assert re.search(says("error: run", f"process {first.pid}"), said)
        finally:
            second.kill()
        first.kill()
        first.wait()
        assert (folder / "run" / LOCK).exists()
        with pytest.raises(SystemExit, match=r"run .*learning_rate.*0\.5"):  # read, and not refused for the lock
            call(train.main, "recipe.yaml", "--learning_rate", "0.5")
    finally:
        first.kill()
