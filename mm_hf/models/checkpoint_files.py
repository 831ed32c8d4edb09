# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The checksums of a checkpoint's files. Saving a file writes its line into `checksums.json`; loading compares.

Weights that differ are refused: nobody edits them by hand, and damaged numbers of the right shape look right. For all
other files a difference gives a warning, because people do edit a config.
"""

import json
import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from transformers.utils import cached_file, logging

from .checksums import can_check, checksum_of


logger = logging.get_logger(__name__)

CHECKSUMS = "checksums.json"
ALGORITHM = "xxh3_64"
# Files without a line: the list itself, and the model card, which people edit.
WITHOUT_LINE = (CHECKSUMS, "README.md")
# The clock of a file system has steps of up to a hundredth of a second: two writes of a file within one step have the
# same time.
TICK = 10_000_000  # nanoseconds
# The warnings that were already given, because model and processor check the same files.
TOLD: set[tuple] = set()


def read_checksums(folder: str | os.PathLike) -> dict[str, str]:
    """The checksums of a folder, by file name; empty if there are none. Warns if they cannot be read."""
    path = os.path.join(folder, CHECKSUMS)
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            lines = json.load(file)[ALGORITHM]
        if not all(isinstance(line, str) and os.path.basename(name) == name for name, line in lines.items()):
            raise ValueError("not every line is a file name and a checksum")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.warning_once(
            f"{path} cannot be read, so damage to the files beside it cannot be found "
            f"({type(error).__name__}: {error}). Delete it, or save the checkpoint again."
        )
        return {}
    return lines


@contextmanager
def checksums_of_what_is_written(folder: str | os.PathLike) -> Iterator[None]:
    """Updates `checksums.json` for the files that are written into a folder inside the `with` block. A file that was
    not written keeps its line; a file that is gone loses it. Without xxhash, a written file loses its line too. Older
    weights that would be loaded instead of the new ones are removed."""
    os.makedirs(folder, exist_ok=True)
    before, started = states_of_files(folder), time.time_ns()
    lines = read_checksums(folder)
    # If saving stops halfway, weights are left without a line, and not with the line of other weights.
    kept = {name: line for name, line in lines.items() if not is_weights(name)}
    if kept != lines:
        write_checksums(folder, kept)
    yield
    after = states_of_files(folder)
    written = [name for name in after if after[name] != before.get(name) or after[name][0] >= started - TICK]
    for name in older_weights(after, written):
        os.remove(os.path.join(folder, name))
        del after[name]
    lines = {name: line for name, line in lines.items() if name in after and name not in written}
    if can_check():
        lines |= {name: checksum_of(os.path.join(folder, name)) for name in written}
    if lines or os.path.exists(os.path.join(folder, CHECKSUMS)):
        write_checksums(folder, lines)


def is_weights(name: str) -> bool:
    """Whether a file contains weights, or is the index of several such files."""
    return ".safetensors" in name or name.endswith(".bin") or ".bin.index" in name


def older_weights(names: Iterable[str], written: Collection[str]) -> list[str]:
    """Old weights that must be removed: a single file if new weights were written into several files (the library
    would ignore the new ones), or the index of several files if new weights are in one file."""
    superseded = []
    for name in names:
        stem, dot, variant = name.removesuffix(".safetensors").partition(".")
        index = f"{stem}.safetensors.index{dot}{variant}.json"
        if name.endswith(".safetensors") and (name in written) != (index in written) and index in names:
            superseded.append(index if name in written else name)
    return superseded


def states_of_files(folder: str | os.PathLike) -> dict[str, tuple[int, int, int]]:
    """For each file with a line: the time of its last write, its size and its inode."""
    with os.scandir(os.fspath(folder)) as entries:
        stats = {
            entry.name: entry.stat()
            for entry in entries
            if entry.is_file() and entry.name not in WITHOUT_LINE and not entry.name.startswith(".")
        }
    return {name: (stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in stats.items()}


def write_checksums(folder: str | os.PathLike, lines: dict[str, str]):
    """Replaces the checksums of a folder in one step."""
    path = os.path.join(folder, CHECKSUMS)
    beside = os.path.join(folder, f".{CHECKSUMS}.{os.getpid()}")
    with open(beside, "w", encoding="utf-8") as file:
        json.dump({ALGORITHM: dict(sorted(lines.items()))}, file, indent=2)
        file.write("\n")
    os.replace(beside, path)


def folder_with_checksums(source: Any, beside: str, **hub_kwargs: Any) -> str:
    """The folder with the checksums of a checkpoint (a folder or Hub id). It is the folder of `beside`, any other file
    of the checkpoint on this machine. For a checkpoint on the Hub, `cached_file` downloads the checksums once."""
    folder = os.path.dirname(beside)
    if not os.path.exists(os.path.join(folder, CHECKSUMS)) and not os.path.exists(str(source)):
        fetched = cached_file(
            source,
            CHECKSUMS,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
            **hub_kwargs,
        )
        folder = folder if fetched is None else os.path.dirname(fetched)
    return folder


def differing(folder: str | os.PathLike, lines: dict[str, str], names: Iterable[str]) -> list[str]:
    """The names of files that differ from their checksums; a file without a line never differs."""
    checked = [name for name in names if name in lines] if can_check() else []
    return [name for name in checked if checksum_of(os.path.join(folder, name)) != lines[name]]


def weights_with_lines(lines: dict[str, str], files: Iterable[str]) -> list[str]:
    """Names of the loaded weight files that have a line; the index of several files is one of them."""
    names = [os.path.basename(file) for file in files]
    if len(names) > 1:
        names += [name for name in lines if ".safetensors.index" in name]
    return [name for name in names if name in lines]


def damaged_weights(folder: str | os.PathLike, names: list[str]) -> str:
    """The message for weights that differ from the saved ones, with the way out."""
    return (
        f"{', '.join(sorted(names))} in {folder} has changed since it was saved: the checksum in {CHECKSUMS} differs. "
        "The file is damaged or from another checkpoint: copy or download it again. If you changed it on purpose, "
        f"delete {CHECKSUMS}."
    )


def unreadable(folder: str | os.PathLike) -> list[str]:
    """Names of the files in a folder that should be JSON and are not."""
    damaged = []
    for name in sorted(os.listdir(folder)):
        if name.endswith(".json") and name != CHECKSUMS:
            try:
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    json.load(file)
            except (OSError, ValueError, RecursionError):
                damaged.append(name)
    return damaged


def refuse_nan(folder: str | os.PathLike, names: Iterable[str]):
    """Refuses NaN in those JSON files of a folder that exist: Python reads NaN, and everything computed from it is NaN
    too.

    Raises:
        ValueError: names the file.
    """
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            constants: list[str] = []
            with suppress(OSError, ValueError, RecursionError), open(path, encoding="utf-8") as file:
                json.load(file, parse_constant=constants.append)  # other errors are reported when it is read for use
            if "NaN" in constants:
                raise ValueError(f"{path} has a value that is NaN: it is damaged, or comes from a run that diverged.")


@contextmanager
def names_of_unreadable_files(folder: str | os.PathLike | None) -> Iterator[None]:
    """Replaces errors of the library while it reads the files of a folder. The new ValueError or OSError names the
    files that are not JSON, or else the files that changed since they were saved; the library's error names no
    file."""
    try:
        yield
    except Exception as error:  # tokenizers raise plain Exceptions
        if folder is None or not os.path.isdir(folder) or isinstance(error, RuntimeError):  # about weights, by name
            raise
        lines = read_checksums(folder)
        small = [name for name in lines if not is_weights(name) and os.path.isfile(os.path.join(folder, name))]
        names = unreadable(folder) or differing(folder, lines, small)
        if not names or any(name in str(error) for name in names):
            raise
        kind = ValueError if isinstance(error, ValueError) else OSError
        raise kind(f"{', '.join(names)} in {folder} cannot be read: {str(error).rstrip('.')}.") from error


def tell_changed_files(folder: str | os.PathLike, lines: dict[str, str], complete: bool):
    """Warns, once, if small files of a folder changed since they were saved. If the folder is not `complete` (a
    checkpoint of the Hub), it has only the files that were downloaded. Missing code files are ignored, because they
    are not loaded."""
    small = [name for name in lines if not is_weights(name)]
    present = [name for name in small if os.path.isfile(os.path.join(folder, name))]
    changed = differing(folder, lines, present)
    gone = [name for name in small if name not in present and not name.endswith(".py")] if complete else []
    states = states_of_files(folder)
    key = (str(folder), *((name, states.get(name)) for name in sorted([*changed, *gone])))
    if len(key) > 1 and key not in TOLD:
        TOLD.add(key)
        told = [f"{name} has changed" for name in sorted(changed)] + [f"{name} is gone" for name in sorted(gone)]
        logger.warning(
            f"{folder} has changed since it was saved: {', '.join(told)}. Answers may differ from the measured ones. "
            f"If that was intended, delete {CHECKSUMS} or save the checkpoint again. This is said once."
        )
