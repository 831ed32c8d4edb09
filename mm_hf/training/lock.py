"""One writer per folder: a lock on a file in the folder. The lock ends with the process that holds it, in any case.

Locks of `fcntl.lockf` belong to one process: workers that load data do not inherit them. (Workers do inherit locks of
`flock`, and would keep them after the process is killed.) The drawback of `lockf`: the lock is lost when any
descriptor of the file is closed in this process, so no other code may open the file.
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
LONGEST = 200  # so many characters of a command are shown
_held: dict[Path, tuple[int, int]] = {}  # by folder: the descriptor of its lock, and the id of this process


def lock_folder(folder: Path, is_main_process: bool = True):
    """Locks a folder for this process, until the process ends or calls `release_folders`. Makes the folder if it does
    not exist. All processes of a run call it; the main process locks the folder for all.

    Raises:
        ValueError: another process has locked it; the message names that process.
    """
    told = [take(Path(folder)) if is_main_process else None]
    broadcast_object_list(told)
    if told[0] is not None:
        raise ValueError(told[0])


def take(folder: Path) -> str | None:
    """Takes the lock. If another process has it, returns a message that names that process."""
    if fcntl is None:
        say_no_locks(folder, "Windows")
        return None
    folder.mkdir(parents=True, exist_ok=True)
    key, path = folder.resolve(), folder / LOCK
    if key in _held and not is_at(_held[key][0], path):  # the folder was removed and made again
        os.close(_held.pop(key)[0])
    while key not in _held:
        kind = fcntl.LOCK_EX
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:  # another user's file, or a folder without write access: the first write will report that
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
        if not is_at(descriptor, path):  # the former holder has just ended, and removed the file
            os.close(descriptor)
            continue
        if kind == fcntl.LOCK_EX:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(this_process()).encode())
        _held[key] = descriptor, os.getpid()
    return None


@atexit.register
def release_folders():
    """Releases all locks of this process, and removes their files."""
    while _held:
        folder, (descriptor, process) = _held.popitem()
        path = folder / LOCK
        try:
            if process == os.getpid() and is_at(descriptor, path):
                # A forked child that ends must not remove the file. It is removed while it is still locked, so that no
                # other process has locked it.
                path.unlink()
        except OSError:
            pass  # the file stays, but is not locked
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether a descriptor belongs to the file that is at this path now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def this_process() -> dict[str, str | int]:
    """The facts about this process that are shown to another one."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": f"{sys.argv[0]} {shlex.join(sys.argv[1:])}".rstrip(),
    }


def in_use(folder: Path, holder: bytes) -> str:
    """The message about a locked folder: which process has it, and what the user can do."""
    try:
        holds = json.loads(holder)
        who = f"process {holds['pid']} on {holds['host']}, since {holds['since']}: {holds['command'][:LONGEST]}"
    except (ValueError, TypeError, KeyError):  # the holder has not written the file yet
        who = "another process"
    return f"{folder} is in use by {who}. Wait until it ends, stop it, or name another folder (--output_dir)."


def say_no_locks(folder: Path, reason: str | None):
    """Warns that a second process is not kept out."""
    print(f"note: {folder} cannot be locked ({reason}): make sure that no other process writes there.", flush=True)
