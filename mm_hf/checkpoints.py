"""Folders of training state that are either complete or absent.

A checkpoint is first written to a staging folder. It is flushed to disk, gets a list of its files with sizes and
checksums, and only then gets its final name. A process that is killed in between leaves the last good checkpoint as it
was. A run that resumes compares the checksums. A damaged checkpoint is renamed, and never deleted.
"""

import contextlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .models.checksums import can_check, checksum_of


PREFIX = "checkpoint-"  # the name that the Trainer uses
WRITING = ".writing"  # inside the run's folder, so that the rename stays on one disk
MANIFEST = "complete.json"
CHECKSUMS = "xxh3"  # in the manifest, beside "files"; older runs have none
DAMAGED = "damaged-"  # the prefix of a checkpoint that was set aside


def staging_folder(folder: str | os.PathLike) -> Path:
    """Where a checkpoint is written before it gets its name: `run/.writing/checkpoint-7` for `run/checkpoint-7`."""
    folder = Path(folder)
    return folder.parent / WRITING / folder.name


def begin(folder: str | os.PathLike) -> Path:
    """Makes an empty staging folder for a checkpoint, and removes what a killed process left there. Only one process
    calls it, before any process writes."""
    staged = staging_folder(folder)
    shutil.rmtree(staged.parent, ignore_errors=True)
    staged.mkdir(parents=True)
    return staged


@contextlib.contextmanager
def writing(folder: str | os.PathLike):
    """Wraps the writing of a checkpoint: if it fails, the error names the last complete checkpoint.

    Raises:
        OSError: with the reason (most often a full disk) and the last complete checkpoint.
    """
    folder = Path(folder)
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise their own for a full disk
        last = newest_checkpoint(folder.parent)
        left = f"The last complete one is {last}." if last else "There is no complete one."
        raise OSError(f"{folder.name} could not be written ({error}). {left}") from error


def publish(folder: str | os.PathLike):
    """Moves what is in `staging_folder(folder)` to its final place. One process calls it, when all have written.

    A checkpoint that is there already is replaced.

    Raises:
        OSError: the disk is full or gone; a checkpoint that was there before is still there.
    """
    folder, staged = Path(folder), staging_folder(folder)
    files = sorted(path for path in staged.rglob("*") if path.is_file() and path.name != MANIFEST)
    names = [str(path.relative_to(staged)) for path in files]
    manifest: dict[str, dict[str, Any]] = {"files": {name: path.stat().st_size for name, path in zip(names, files)}}
    with ThreadPoolExecutor(1) as pool:  # computes checksums from memory while the disk is still writing
        checksums = pool.map(checksum_of, files if can_check() else [])
        for path in files:
            flush(path)
        if can_check():
            manifest[CHECKSUMS] = dict(zip(names, checksums))
    (staged / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    flush(staged / MANIFEST)
    old = move_away(folder) if folder.exists() else None
    staged.rename(folder)
    flush(folder.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def flush(path: Path):
    """Waits until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_away(folder: Path) -> Path:
    """Renames a checkpoint before it is deleted, so that a half-deleted one is never taken for a complete one."""
    old = folder.parent / WRITING / f"old-{folder.name}"
    old.parent.mkdir(exist_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    return folder.rename(old)


def fault_of(folder: Path, checksums: bool = False) -> str | None:
    """Why a checkpoint cannot be used; None if it is complete.

    Args:
        checksums: compare the content of the files too, not only their sizes: every file is read. An older manifest
            has no checksums; then only the sizes are compared.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (ValueError, RecursionError):
        manifest = None
    if not is_manifest(manifest):
        return f"its {MANIFEST} cannot be read"
    for name, size in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, expected {size}"
    if not checksums or CHECKSUMS not in manifest:
        return None
    if not can_check():
        warnings.warn(f"xxhash is not installed: only the sizes of the files of {folder} are compared.")
        return None
    for name, checksum in manifest[CHECKSUMS].items():
        actual = checksum_of(folder / name)
        if actual != checksum:
            return f"{name} is damaged: its xxh3 is {actual}, expected {checksum}"
    return None


def is_manifest(manifest: object) -> bool:
    """Whether a value has the form that `publish` writes, with or without checksums. This also finds a single flipped
    bit in a name or key."""
    if not isinstance(manifest, dict) or not {"files"} <= set(manifest) <= {"files", CHECKSUMS}:
        return False
    lists = list(manifest.values())
    return all(isinstance(entries, dict) and set(entries) == set(manifest["files"]) for entries in lists)


def has_checksums(folder: Path) -> bool:
    """Whether the manifest of a complete checkpoint has checksums."""
    return CHECKSUMS in json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def list_checkpoints(run_dir: str | os.PathLike) -> list[Path]:
    """All checkpoints of a run, complete or not, newest first."""
    return sorted(filter(is_checkpoint, Path(run_dir).glob(f"{PREFIX}*")), key=step_of, reverse=True)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has the name of a checkpoint."""
    return re.fullmatch(rf"{PREFIX}\d+", folder.name) is not None


def step_of(folder: Path) -> int:
    """The optimizer step, read from the name of a checkpoint."""
    return int(folder.name.removeprefix(PREFIX))


def newest_checkpoint(run_dir: str | os.PathLike) -> Path | None:
    """The newest complete checkpoint of a run. Warns about each newer one that is not complete."""
    for folder in list_checkpoints(run_dir):
        fault = fault_of(folder)
        if fault is None:
            return folder
        warnings.warn(f"Checkpoint {folder} is skipped: {fault}.")
    return None


def checkpoint_to_resume(run_dir: str | os.PathLike, check: Callable[[Path], str | None] | None = None) -> Path | None:
    """The newest checkpoint of a run that is complete, byte by byte. Newer ones that are not are renamed, see
    `set_aside`, with a warning that gives the reason. Only one process calls it.

    Args:
        check: takes a checkpoint whose files are complete; returns why its content cannot be used, or None if it can.

    Returns:
        its folder; None if the run has no checkpoints.

    Raises:
        ValueError: the run has checkpoints, but none is complete. All of them stay where they are.
    """
    faults: dict[Path, str] = {}
    for folder in list_checkpoints(run_dir):
        fault = fault_of(folder, checksums=True)
        if fault is None and check is not None:
            fault = check(folder)
        if fault is None:
            for damaged, reason in faults.items():
                warnings.warn(f"Checkpoint {damaged} is skipped: {reason}. It is kept as {set_aside(damaged).name}.")
            return folder
        faults[folder] = fault
    if faults:
        reasons = "; ".join(f"{folder.name}: {fault}" for folder, fault in faults.items())
        raise ValueError(
            f"{run_dir} has checkpoints, but the run cannot resume from any. {reasons}. Restore the missing or "
            "damaged files, or start again: in another folder (--output_dir), or in this one (--overwrite_output_dir)."
        )
    return None


def set_aside(folder: Path) -> Path:
    """Renames a damaged checkpoint (`damaged-checkpoint-7`), so that the run does not use, overwrite or delete it.
    Returns its new path."""
    aside, number = folder.with_name(f"{DAMAGED}{folder.name}"), 2
    while aside.exists():
        aside, number = folder.with_name(f"{DAMAGED}{folder.name}.{number}"), number + 1
    folder.rename(aside)
    flush(aside.parent)
    return aside


def rotate(run_dir: str | os.PathLike, limit: int | None, keep: tuple[str | os.PathLike | None, ...] = ()):
    """Removes the oldest checkpoints until `limit` complete ones are left, and all incomplete ones.

    Args:
        limit: how many checkpoints stay, at least one; None: all.
        keep: further checkpoints that stay, such as the best one.
    """
    if limit is None:
        return
    checkpoints = list_checkpoints(run_dir)
    kept = [folder for folder in checkpoints if fault_of(folder) is None][: max(1, limit)]
    kept += [Path(folder) for folder in keep if folder is not None]
    for folder in checkpoints:
        if folder.resolve() not in {path.resolve() for path in kept}:
            shutil.rmtree(move_away(folder), ignore_errors=True)


def clear_staging(run_dir: str | os.PathLike):
    """Removes temporary files that a finished run does not need any more."""
    shutil.rmtree(Path(run_dir) / WRITING, ignore_errors=True)
