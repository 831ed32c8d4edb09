"""One writer a folder: a lock on a file in it, which ends with the process that holds it, however it ends.

Locks of `fcntl.lockf` belong to one process: workers that load data do not inherit them (those of `flock` they do, and
keep them when the process is killed). The price: whatever closes a descriptor of the file in this process drops the
lock, so nothing else opens it.
"""

import atexit
import errno
import json
import os
import shlex
import socket
import sys
from datetime import datetime, timezone
from pathlib import Path

from accelerate.utils import broadcast_object_list


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


LOCK = ".lock"
LONGEST = 200  # characters of a command that are told
_held: dict[Path, tuple[int, int]] = {}  # of each folder the descriptor of its lock, and this process


def lock_folder(folder: Path, is_main_process: bool = True):
    """Takes a folder, which is made where it is not there, for this process, until it ends or calls `release_folders`.
    All processes of a run call it; the main one takes it for all.

    Raises:
        ValueError: another process has it, naming that.
    """
    told = [take(Path(folder)) if is_main_process else None]
    broadcast_object_list(told)
    if told[0] is not None:
        raise ValueError(told[0])


def take(folder: Path) -> str | None:
    """Takes the lock; where that fails, gives who has it."""
    if fcntl is None:
        say_no_locks(folder, "Windows")
        return None
    folder.mkdir(parents=True, exist_ok=True)
    key, path = folder.resolve(), folder / LOCK
    if key in _held and not is_at(_held[key][0], path):  # the folder was removed and made anew
        os.close(_held.pop(key)[0])
    while key not in _held:
        kind = fcntl.LOCK_EX
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:  # another user's, or nothing can be written here: whatever writes will say so
            kind = fcntl.LOCK_SH
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return None
        try:
            fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 10_000)
            os.close(descriptor)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return in_use(folder, holder)
            say_no_locks(folder, error.strerror)
            return None
        if not is_at(descriptor, path):  # whoever held it has ended just now, and removed the file
            os.close(descriptor)
            continue
        if kind == fcntl.LOCK_EX:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(this_process()).encode())
        _held[key] = descriptor, os.getpid()
    return None


@atexit.register
def release_folders():
    """Gives up all locks of this process, and removes their files."""
    while _held:
        folder, (descriptor, process) = _held.popitem()
        path = folder / LOCK
        try:
            if process == os.getpid() and is_at(descriptor, path):
                # Not where a forked child ends. While it is locked, so that nobody else has locked what is removed.
                path.unlink()
        except OSError:
            pass  # left behind, and free
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether a descriptor is of the file that is there now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def this_process() -> dict[str, str | int]:
    """What a second one is told of this one."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": f"{sys.argv[0]} {shlex.join(sys.argv[1:])}".rstrip(),
    }


def in_use(folder: Path, holder: bytes) -> str:
    """Who has a folder, and what can be done."""
    try:
        holds = json.loads(holder)
        who = f"process {holds['pid']} on {holds['host']}, since {holds['since']}: {holds['command'][:LONGEST]}"
    except (ValueError, TypeError, KeyError):  # it has not written it yet
        who = "another process"
    return f"{folder} is in use by {who}. Wait for its end, stop it, or name another folder (--output_dir)."


def say_no_locks(folder: Path, reason: str | None):
    """Says that nobody keeps a second process off."""
    print(f"note: {folder} cannot be locked ({reason}): see to it that no other process writes there.", flush=True)
