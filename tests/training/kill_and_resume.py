"""Kills a training run with SIGKILL again and again, starts it anew with the same command, and compares the end."""

import contextlib
import fcntl
import json
import os
import pty
import random
import struct
import subprocess
import sys
import termios
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from mm_hf.training import exits, loop, train


REPOSITORY = Path(__file__).parents[2]
TRAINING = "training:"  # what both scripts print before their first step
EVALUATING = ("evaluating", "Running Evaluation")  # the title of train.py's bar, the Trainer's message


@dataclass
class Kill:
    """When a run is killed.

    Args:
        when: `step`, so many seconds after the first step could begin; `evaluation`, after the first evaluation began;
            `writing`, after this run began to write a checkpoint behind those that it is to leave.
        offset: seconds.
        leaves: how many checkpoints this run has completed before it is killed in the writing of the next.
    """

    when: str
    offset: float
    leaves: int = 1


def seeded_kills(seed: int, count: int, longest: float = 3.0) -> list[Kill]:
    """Kills of all three kinds, three tenths of them in the writing of a checkpoint; those in a step within `longest`
    seconds, which a short run on a fast machine has to last."""
    draw = random.Random(seed)
    kinds = ["step", "writing", "step", "evaluation", "writing", "step", "step", "evaluation", "writing", "step"]
    reach = {"step": longest, "evaluation": 0.3, "writing": 0.4}
    kinds = [kinds[place % len(kinds)] for place in range(count)]
    return [Kill(kind, round(draw.uniform(0, reach[kind]), 3)) for kind in kinds]


def command(script: str, processes: int, arguments: list[str]) -> list[str]:
    """What a user types, for one process or two."""
    if processes == 1:
        return [sys.executable, f"training/{script}", *arguments]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    launcher += [
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
    ]
    return [*launcher, f"training/{script}", *arguments]


def arguments(encoders: Path, dataset: Path, output_dir: Path, **keys) -> list[str]:
    """The recipe of easy-VQA on other data, with some keys changed."""
    flags = {
        "vision_encoder": encoders / "mobilenet-v2",
        "text_encoder": encoders / "minilm-l6",
        "dataset": dataset,
        "output_dir": output_dir,
        "floors": "false",
        "report_to": "none",
        "max_train_seconds": 86_400,  # not the recipe's minutes: a busy machine would end a run sooner than another
        **keys,
    }
    recipe = str(REPOSITORY / "training/recipes/easy_vqa.yaml")
    return [recipe, *(str(word) for key, value in flags.items() for word in (f"--{key}", value))]


class Run:
    """One start of the command, in a process group of its own, its output in `<run_dir>.<name>.log`."""

    def __init__(self, words: list[str], run_dir: Path, name: str = "alone"):
        self.run_dir, self.log = run_dir, run_dir.parent / f"{run_dir.name}.{name}.log"
        self.left = self.staged()
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
        environment["TRANSFORMERS_VERBOSITY"] = "info"  # the Trainer says when it evaluates
        self.log.touch()
        # A terminal, where bars are live and so say what goes on.
        terminal, output = pty.openpty()
        fcntl.ioctl(output, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))  # lines and columns
        self.process = subprocess.Popen(
            words,
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.close(output)
        self.copying = threading.Thread(target=self.copy, args=(terminal,), daemon=True)
        self.copying.start()

    def copy(self, terminal: int):
        """Writes into the log what the processes say, until the last of them has ended."""
        # An error is how a terminal ends that nobody holds any more.
        with open(self.log, "wb", buffering=0) as log, contextlib.suppress(OSError):
            while said := os.read(terminal, 65536):
                log.write(said)
        os.close(terminal)

    def text(self) -> str:
        if self.process.poll() is not None:
            self.copying.join(10)  # what it said last is on its way
        return self.log.read_text(errors="replace")

    def wait_for(self, happened) -> bool:
        """Whether it happened before the process ended."""
        while self.process.poll() is None:
            if happened():
                return True
            time.sleep(0.002)
        return False

    def kill(self, kill: Kill) -> str | None:
        """Kills all processes of the run at the moment asked for.

        Returns:
            what was going on, or None where the run ended before.
        """
        if not self.wait_for(lambda: TRAINING in self.text()):
            return None
        if kill.when == "evaluation" and not self.wait_for(lambda: any(words in self.text() for words in EVALUATING)):
            return None
        if kill.when == "writing":
            known = set(self.run_dir.glob("checkpoint-*"))
            if not self.wait_for(lambda: len(set(self.run_dir.glob("checkpoint-*")) - known) >= kill.leaves):
                return None
            if not self.wait_for(self.being_written):
                return None
        ends = time.monotonic() + kill.offset
        self.wait_for(lambda: time.monotonic() >= ends)
        if kill.when == "writing" and not self.being_written():  # it was quicker than that: at once in the next one
            self.wait_for(self.being_written)
        if self.process.poll() is not None:
            return None
        self.kill_all()
        written = self.being_written()
        return f"writing {min(written)}" if written else f"not writing ({kill.when})"

    def kill_all(self):
        """SIGKILL for the launcher and its workers, which have sessions of their own and would go on without it."""
        processes = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        psutil.wait_procs(processes)

    def processes(self) -> list[psutil.Process]:
        """All processes of this run that are alive."""
        alive = []
        for process in psutil.process_iter(["cmdline"]):
            if str(self.run_dir) in (process.info["cmdline"] or []) and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        return alive

    def being_written(self) -> set[str]:
        """Checkpoints that this run, and not one that was killed before it, has begun to write."""
        return {name for name, _ in self.staged() - self.left}

    def staged(self) -> set[tuple[str, int]]:
        try:
            entries = list(os.scandir(self.run_dir / ".writing"))
        except FileNotFoundError:  # it comes and goes
            return set()
        return {(entry.name, entry.inode()) for entry in entries if entry.name.startswith("checkpoint-")}

    def finish(self):
        """Waits for the end, which must be a good one."""
        code = self.process.wait()
        if code:
            raise RuntimeError(f"exit status {code}:\n{self.text()[-4000:]}")


def survive(words: list[str], run_dir: Path, kills: list[Kill]) -> list[tuple[Kill, str | None]]:
    """Starts, kills, starts again…, and lets the last one finish.

    Returns:
        each kill with what it met; None where the run had ended.
    """
    met = []
    for number, kill in enumerate(kills):
        run = Run(words, run_dir, str(number))
        met.append((kill, run.kill(kill)))
        if met[-1][1] is None:
            break
    Run(words, run_dir, str(len(kills))).finish()
    return met


def weights(run_dir: Path) -> bytes:
    """The file that a run is for."""
    return (run_dir / "model.safetensors").read_bytes()


def call(main, *words):
    """A script's `main` in this process, as a user would run it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script.py", *map(str, words)])
        exits.run_script(main)


def recipe_writer(tmp_path_factory, defaults: dict):
    """A function that writes a recipe of these keys and others into a file; None leaves a key out."""

    def write(output_dir: Path, **keys) -> Path:
        values = {**defaults, "output_dir": str(output_dir), "report_to": "none", **keys}
        values = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
        file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
        file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
        return file

    return write


def ends_alike_after_a_stop(file: Path, whole: Path, step: int):
    """Stops a run in its making of a step, starts it again, and compares its weights with those of a whole run.

    Args:
        file: the recipe.
        whole: folder of the run that was not stopped.
        step: how many steps are made before.
    """
    make_step, run_dir = loop.Training.make_step, Path(json.loads(file.read_text())["output_dir"])

    def until_then(training, window):
        if training.progress.step == step:
            raise OSError("the machine went away")
        return make_step(training, window)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Training, "make_step", until_then)
        with pytest.raises(SystemExit, match="went away"):
            call(train.main, file)
    call(train.main, file)
    assert weights(run_dir) == weights(whole)


def two_processes_differ_by(recipe, folder: Path, rows: int, **keys) -> float:
    """Five steps of SGD without dropout on one process and, with half of the rows each, on two: how far the weights
    are apart.

    Args:
        recipe: see `recipe_writer`.
        folder: for both runs.
        rows: of a batch.
        keys: of both recipes.
    """
    still = {"optim": "sgd", "fusion_dropout": 0.0, "classifier_dropout": 0.0, "max_steps": 5, "eval_steps": 5}
    still |= {"floors": False, "warmup_ratio": 0.0, **keys}
    ends = []
    for processes in (1, 2):
        run_dir = folder / str(processes)
        file = recipe(run_dir, **still, per_device_train_batch_size=rows // processes)
        survive(command("train.py", processes, [str(file)]), run_dir, [])
        ends.append(load_file(run_dir / "model.safetensors"))
    return max((ends[0][name] - ends[1][name]).abs().max().item() for name in ends[0])


def ask_without_package(checkpoint: Path, row: dict, folder: Path, *task: str):
    """What the checkpoint's pipeline answers in a process that cannot import mm_hf."""
    (folder / "row.json").write_text(json.dumps(row))
    words = [sys.executable, "-I", "benchmarks/ask_without_package.py", str(checkpoint), str(folder / "row.json")]
    found = subprocess.run([*words, *task], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    return json.loads(found.splitlines()[-1])


def ends_alike_after_kills(recipe, folder: Path, seed: int, **keys):
    """A run that was killed twice, at moments drawn with the seed, ends with the bytes of one that was not.

    Args:
        recipe: see `recipe_writer`.
        folder: for both runs.
        seed: of the moments.
        keys: of both recipes.
    """
    for name, kills in (("alone", []), ("killed", seeded_kills(seed, 2, longest=0.2))):
        met = survive(command("train.py", 1, [str(recipe(folder / name, floors=False, **keys))]), folder / name, kills)
        assert all(what is not None for _, what in met), met
    assert weights(folder / "alone") == weights(folder / "killed")
