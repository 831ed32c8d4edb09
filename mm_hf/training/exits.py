"""How a script ends: with one line if the user can fix the problem, with a traceback if the bug is ours."""

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


# What the user can lower if there is not enough memory.
TRAINING = (
    "Lower --per_device_train_batch_size (and raise --gradient_accumulation_steps by the same factor) or "
    "--image_size; both need a new run. Or lower --per_device_eval_batch_size or --dataloader_num_workers, which does "
    "not need a new run (--allow_changes true). --cache_features false keeps no features in memory."
)
MEASURING = "Lower --per_device_eval_batch_size. --cache_features false keeps no features in memory."
ANSWERING = "Use a smaller model or picture."
# Texts of RuntimeErrors of torch that mean "no memory"; torch has no own type for these.
NO_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc"),
    *("can't start new thread", "threadpoolbuilderror", "failed to map segment", "status_alloc_failed"),
    "could not create a primitive",  # oneDNN had no memory for its code
)
WORKER_DIED = ("is killed by signal", "exited unexpectedly")
DAMAGED = ("PytorchStreamReader", "unexpected EOF", "Invalid magic number", "corrupted file")
PEER_LEFT = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")

_run_folder: list[Path] = []


class Stopped(BaseException):
    """Raised on SIGTERM, as KeyboardInterrupt is raised on SIGINT."""


def goes_on_in(folder: Path):
    """Notes the folder of the present run, from which it can be resumed."""
    _run_folder[:] = [folder]


def run_script(main: Callable[[], None], lower: str = TRAINING):
    """Calls `main`. If the user can fix an error, prints one line in place of a traceback: an argument is wrong, there
    is not enough memory (then `lower` says what to do), a file is damaged, a worker was killed, or the user stopped
    the script. Any other error is our bug and keeps its traceback.

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
    except BaseException as error:  # libraries in Rust raise errors that are no Exception
        line = line_of(error, lower)
        if line is None:
            raise
        lines = line.splitlines() if isinstance(error, SeveralRefusedError) else [line]  # one line per column
        sys.exit("error: " + "\n  ".join(" ".join(each.split()) for each in lines))
    finally:
        release_folders()
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def stop_on_sigterm():
    """Makes SIGTERM end this process as Ctrl-C does: through an exception. Returns the former handler; None if nothing
    was changed.

    Nothing is changed if several processes share a run: a process that waits for another one inside network code would
    not raise the exception, and its launcher would wait for it.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 or threading.current_thread() is not threading.main_thread():
        return None
    this_process = os.getpid()

    def stop(number, frame):
        signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once
        if os.getpid() != this_process:  # a forked worker, which inherited this handler
            os.kill(os.getpid(), number)
        raise Stopped

    return signal.signal(signal.SIGTERM, stop)


def where_it_goes_on() -> str:
    """How to resume the run; empty if this process has no run, or too little memory to look."""
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
        return f"{folder} has no checkpoint yet: the same command starts again from the beginning."
    return f"The same command resumes from {whole}."


def line_of(error: BaseException, lower: str = TRAINING) -> str | None:
    """The line for the user about an error; None if it is our bug."""
    said = words_of(error)
    if is_out_of_memory(error):
        return f"not enough memory ({said[:300]}). {lower} {where_it_goes_on()}"
    if is_damaged(error):
        return (
            f"a file is damaged ({type(error).__name__}: {said[:300]}). If it is in a checkpoint-… folder, remove the "
            "folder: the same command then resumes from the checkpoint before it."
        )
    if isinstance(error, BadRowError):
        return f"{said} (--on_error skip leaves such rows out and lists them.)"
    if isinstance(error, SeveralRefusedError):
        return str(error)
    if isinstance(error, (ValueError, OSError)):
        return said
    if isinstance(error, RuntimeError) and "DataLoader worker" in said and any(word in said for word in WORKER_DIED):
        return (
            f"a process that loads data was killed ({said[:300]}). The usual reason is too little memory: lower "
            f"--dataloader_num_workers (0: no such processes). {where_it_goes_on()}"
        )
    if isinstance(error, RuntimeError) and any(word in said for word in PEER_LEFT):
        return f"another process of this run has ended; its own output says why ({said[:200]}). {where_it_goes_on()}"
    return None


def is_damaged(error: BaseException) -> bool:
    """Whether a file could not be read because its content is damaged. torch.load raises many types of errors then."""
    if isinstance(error, (OSError, BadRowError)):
        return False
    if isinstance(error, (UnpicklingError, SafetensorError, EOFError)):
        return True
    if isinstance(error, RuntimeError) and any(word in str(error) for word in DAMAGED):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(frame.f_code.co_filename.endswith("_weights_only_unpickler.py") for frame in frames)


def words_of(error: BaseException) -> str:
    """The message of an error. For an error from a worker, its last line, which holds the message."""
    text = str(error).strip() or type(error).__name__
    if text.startswith("Caught ") and "Traceback" in text:
        text = text.splitlines()[-1]
    return " ".join(text.split())


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether there was not enough memory, in this error or in the one that caused it."""
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
