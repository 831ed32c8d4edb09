"""Folders of training state that are either complete or not there.

A checkpoint is written beside its place, flushed to the disk, given a list of its files with their sizes and
checksums, and only then renamed: a process that is killed in between leaves the last good one as it was. The checksums
are compared when a run resumes. What is found damaged then gets another name, and is never deleted.
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


PREFIX = "checkpoint-"  # as the Trainer names them
WRITING = ".writing"  # within the run's folder, so that the rename stays on one disk
MANIFEST = "complete.json"
CHECKSUMS = "xxh3"  # in the manifest, beside "files"; runs of before have none
DAMAGED = "damaged-"  # before the name of a checkpoint that is set aside


def staging_folder(folder: str | os.PathLike) -> Path:
    """Where a checkpoint is written before it takes its place: `run/.writing/checkpoint-7` for `run/checkpoint-7`."""
    folder = Path(folder)
    return folder.parent / WRITING / folder.name


def begin(folder: str | os.PathLike) -> Path:
    """Makes an empty staging folder for a checkpoint, without what a killed process left there. One process calls it,
    before any writes."""
    staged = staging_folder(folder)
    shutil.rmtree(staged.parent, ignore_errors=True)
    staged.mkdir(parents=True)
    return staged


@contextlib.contextmanager
def writing(folder: str | os.PathLike):
    """Within, a checkpoint is written: whatever fails there says what is left.

    Raises:
        OSError: naming the last complete checkpoint, with the reason: a full disk above all.
    """
    folder = Path(folder)
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own for a full disk
        last = newest_checkpoint(folder.parent)
        left = f"The last complete one is {last}." if last else "There is no complete one."
        raise OSError(f"{folder.name} could not be written ({error}). {left}") from error


def publish(folder: str | os.PathLike):
    """Puts what was written to `staging_folder(folder)` in its place. One process calls it, when all have written.

    A checkpoint that stands there already is replaced.

    Raises:
        OSError: the disk is full or gone; what stood there before still does.
    """
    folder, staged = Path(folder), staging_folder(folder)
    files = sorted(path for path in staged.rglob("*") if path.is_file() and path.name != MANIFEST)
    names = [str(path.relative_to(staged)) for path in files]
    manifest: dict[str, dict[str, Any]] = {"files": {name: path.stat().st_size for name, path in zip(names, files)}}
    with ThreadPoolExecutor(1) as pool:  # it reads from memory what the disk is still busy with
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
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_away(folder: Path) -> Path:
    """Renames a checkpoint that is to be deleted, so that a half-deleted one is never taken for a whole."""
    old = folder.parent / WRITING / f"old-{folder.name}"
    old.parent.mkdir(exist_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    return folder.rename(old)


def fault_of(folder: Path, checksums: bool = False) -> str | None:
    """Why a checkpoint cannot be used; None where it is whole.

    Args:
        checksums: compare the files byte by byte, and not their sizes alone: all of it is read. A manifest of before,
            which has none, is judged by the sizes.
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
            return f"{name} has {path.stat().st_size} bytes in place of {size}"
    if not checksums or CHECKSUMS not in manifest:
        return None
    if not can_check():
        warnings.warn(f"xxhash is not installed: the files of {folder} are compared by their sizes alone.")
        return None
    for name, checksum in manifest[CHECKSUMS].items():
        actual = checksum_of(folder / name)
        if actual != checksum:
            return f"{name} is damaged: its xxh3 is {actual} in place of {checksum}"
    return None


def is_manifest(manifest: object) -> bool:
    """Whether a value is what `publish` writes, with or without checksums. A single bit that is flipped in a name or
    key is found here."""
    if not isinstance(manifest, dict) or not {"files"} <= set(manifest) <= {"files", CHECKSUMS}:
        return False
    lists = list(manifest.values())
    return all(isinstance(entries, dict) and set(entries) == set(manifest["files"]) for entries in lists)


def has_checksums(folder: Path) -> bool:
    """Whether the manifest of a whole checkpoint has checksums."""
    return CHECKSUMS in json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def list_checkpoints(run_dir: str | os.PathLike) -> list[Path]:
    """All checkpoints of a run, whole or not, the newest first."""
    return sorted(filter(is_checkpoint, Path(run_dir).glob(f"{PREFIX}*")), key=step_of, reverse=True)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has the name of a checkpoint."""
    return re.fullmatch(rf"{PREFIX}\d+", folder.name) is not None


def step_of(folder: Path) -> int:
    """The optimizer step in the name of a checkpoint."""
    return int(folder.name.removeprefix(PREFIX))


def newest_checkpoint(run_dir: str | os.PathLike) -> Path | None:
    """The newest whole checkpoint of a run. Warns of each newer one that is not whole."""
    for folder in list_checkpoints(run_dir):
        fault = fault_of(folder)
        if fault is None:
            return folder
        warnings.warn(f"Checkpoint {folder} is skipped: {fault}.")
    return None


def checkpoint_to_resume(run_dir: str | os.PathLike, check: Callable[[Path], str | None] | None = None) -> Path | None:
    """The newest checkpoint of a run that is whole byte by byte. Those newer are set aside, see `set_aside`, with a
    warning that says why. One process calls it.

    Args:
        check: given a checkpoint whose files are whole, says why its content cannot be used; None where it can.

    Returns:
        its folder; None where the run has none at all.

    Raises:
        ValueError: there are checkpoints and none of them is whole. All stay where they are.
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
            f"{run_dir} has checkpoints, and none can be resumed from. {reasons}. Put back what is missing or "
            "damaged, or begin anew: in another folder (--output_dir), or here (--overwrite_output_dir)."
        )
    return None


def set_aside(folder: Path) -> Path:
    """Renames a damaged checkpoint (`damaged-checkpoint-7`), so that the run neither takes, overwrites nor deletes it;
    gives where it is now."""
    aside, number = folder.with_name(f"{DAMAGED}{folder.name}"), 2
    while aside.exists():
        aside, number = folder.with_name(f"{DAMAGED}{folder.name}.{number}"), number + 1
    folder.rename(aside)
    flush(aside.parent)
    return aside


def rotate(run_dir: str | os.PathLike, limit: int | None, keep: tuple[str | os.PathLike | None, ...] = ()):
    """Removes the oldest checkpoints until `limit` whole ones are left, and all that are not whole.

    Args:
        limit: how many stay, at least one; None: all.
        keep: checkpoints that stay on top of that, such as the best.
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
    """Removes what a run that has ended needs no more."""
    shutil.rmtree(Path(run_dir) / WRITING, ignore_errors=True)
