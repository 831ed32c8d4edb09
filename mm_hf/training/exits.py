"""How a script ends: in one line where the user can do something about it, in a traceback where the fault is ours."""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError

from ..checkpoints import MANIFEST, list_checkpoints
from ..data import BadRowError
from ..models.finite import SeveralRefusedError
from ..progress_bar import quiet_in_logs
from .lock import release_folders


# What can be lowered where memory does not do.
TRAINING = (
    "Lower --per_device_train_batch_size (and raise --gradient_accumulation_steps as much) or --image_size, which "
    "needs a new run, or --per_device_eval_batch_size or --dataloader_num_workers, which does not (--allow_changes "
    "true); --cache_features false keeps no features in memory."
)
MEASURING = "Lower --per_device_eval_batch_size; --cache_features false keeps no features in memory."
ANSWERING = "Take a smaller model or picture."
# What torch says in a RuntimeError, where it has no type of its own.
NO_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc"),
    *("can't start new thread", "threadpoolbuilderror", "failed to map segment", "status_alloc_failed"),
    "could not create a primitive",  # oneDNN, which found no room for its code
)
WORKER_DIED = ("is killed by signal", "exited unexpectedly")
DAMAGED = ("PytorchStreamReader", "unexpected EOF", "Invalid magic number", "corrupted file")
PEER_LEFT = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")

_run_folder: list[Path] = []


class Stopped(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT."""


def goes_on_in(folder: Path):
    """Notes where the run that this process is about can be taken up."""
    _run_folder[:] = [folder]


def run_script(main: Callable[[], None], lower: str = TRAINING):
    """Calls `main`, with one line in place of a traceback where the user can do something: what was given is wrong,
    memory does not do (then `lower` says what to do), a file is damaged, a worker was killed, or the user stopped it.
    Anything else is a fault of ours.

    Raises:
        SystemExit: with that line, or with status 130 or 143 after SIGINT or SIGTERM.
    """
    _run_folder.clear()
    quiet_in_logs()
    before = stop_on_sigterm()
    try:
        main()
    except (KeyboardInterrupt, Stopped) as stop:
        by, status = ("Ctrl-C", 130) if isinstance(stop, KeyboardInterrupt) else ("SIGTERM", 143)
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"\nstopped by {by}. {where_it_goes_on()}".rstrip(), file=sys.stderr, flush=True)
        sys.exit(status)
    except SystemExit:
        raise
    except BaseException as error:  # what a library in Rust raises is no Exception
        line = line_of(error, lower)
        if line is None:
            raise
        lines = line.splitlines() if isinstance(error, SeveralRefusedError) else [line]  # a line a column
        sys.exit("error: " + "\n  ".join(" ".join(each.split()) for each in lines))
    finally:
        release_folders()
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def stop_on_sigterm():
    """Lets SIGTERM unwind this process as Ctrl-C does, and gives what was done before; None where nothing changes.

    Not where several processes make a run: one that waits for another in the network's code would never come to look
    at it, and its launcher would wait for it.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 or threading.current_thread() is not threading.main_thread():
        return None
    this_process = os.getpid()

    def stop(number, frame):
        signal.signal(number, signal.SIG_DFL)  # the second one ends it at once
        if os.getpid() != this_process:  # a worker, which was forked with this
            os.kill(os.getpid(), number)
        raise Stopped

    return signal.signal(signal.SIGTERM, stop)


def where_it_goes_on() -> str:
    """How a run is taken up; empty where this process is about none, or has too little memory to look."""
    if not _run_folder:
        return ""
    folder = _run_folder[0]
    try:
        if (folder / "results.json").exists():
            return f"{folder} is complete."
        whole = next((path for path in list_checkpoints(folder) if (path / MANIFEST).is_file()), None)
    except (OSError, MemoryError):
        return ""
    if whole is None:
        return f"{folder} has no checkpoint yet: the same command starts anew."
    return f"The same command goes on from {whole}."


def line_of(error: BaseException, lower: str = TRAINING) -> str | None:
    """What to tell the user of an error; None where it is a fault of ours."""
    said = words_of(error)
    if is_out_of_memory(error):
        return f"memory does not do ({said[:300]}). {lower} {where_it_goes_on()}"
    if is_damaged(error):
        return (
            f"a file is damaged ({type(error).__name__}: {said[:300]}). Of a checkpoint-… folder: remove it, and the "
            "same command goes on from the one before."
        )
    if isinstance(error, BadRowError):
        return f"{said} (--on_error skip leaves such rows out, and lists them.)"
    if isinstance(error, SeveralRefusedError):
        return str(error)
    if isinstance(error, (ValueError, OSError)):
        return said
    if isinstance(error, RuntimeError) and "DataLoader worker" in said and any(word in said for word in WORKER_DIED):
        return (
            f"a process that loads data was killed ({said[:300]}). Most often memory did not do: lower "
            f"--dataloader_num_workers (0: none). {where_it_goes_on()}"
        )
    if isinstance(error, RuntimeError) and any(word in said for word in PEER_LEFT):
        return f"another process of this run has ended, which says why ({said[:200]}). {where_it_goes_on()}"
    return None


def is_damaged(error: BaseException) -> bool:
    """Whether a file could not be read for what stands in it. torch.load raises whatever its reading came upon."""
    if isinstance(error, (OSError, BadRowError)):
        return False
    if isinstance(error, (UnpicklingError, SafetensorError, EOFError)):
        return True
    if isinstance(error, RuntimeError) and any(word in str(error) for word in DAMAGED):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(frame.f_code.co_filename.endswith("_weights_only_unpickler.py") for frame in frames)


def words_of(error: BaseException) -> str:
    """The message of an error; of one that came from a worker its last line, which says it all."""
    text = str(error).strip() or type(error).__name__
    if text.startswith("Caught ") and "Traceback" in text:
        text = text.splitlines()[-1]
    return " ".join(text.split())


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory did not do, here or in what this error was raised from."""
    while error is not None:
        if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        said, rust = str(error).lower(), type(error).__name__ == "PanicException"
        types = (RuntimeError, SafetensorError, ImportError)
        if (isinstance(error, types) or rust) and any(word in said for word in NO_MEMORY):
            return True
        error = error.__cause__
    return False
