"""Folders of training state that are either complete or not there.

A checkpoint is written beside its place, flushed to the disk, given a list of its files, and only then renamed: a
process that is killed in between leaves the last good one as it was.
"""

import contextlib
import json
import os
import re
import shutil
import warnings
from pathlib import Path

from safetensors import SafetensorError


PREFIX = "checkpoint-"  # as the Trainer names them
WRITING = ".writing"  # within the run's folder, so that the rename stays on one disk
MANIFEST = "complete.json"


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
    sizes = {str(path.relative_to(staged)): path.stat().st_size for path in files}
    (staged / MANIFEST).write_text(json.dumps({"files": sizes}, indent=2) + "\n", encoding="utf-8")
    for path in [*files, staged / MANIFEST]:
        flush(path)
    old = None
    if folder.exists():
        old = move_away(folder)
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


def fault_of(folder: Path) -> str | None:
    """Why a checkpoint cannot be used; None where it is whole."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (ValueError, KeyError, TypeError):
        return f"its {MANIFEST} cannot be read"
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes in place of {size}"
    return None


def list_checkpoints(run_dir: str | os.PathLike) -> list[Path]:
    """All checkpoints of a run, whole or not, the newest first."""
    found = [path for path in Path(run_dir).glob(f"{PREFIX}*") if re.fullmatch(rf"{PREFIX}\d+", path.name)]
    return sorted(found, key=step_of, reverse=True)


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


def rotate(run_dir: str | os.PathLike, limit: int | None, keep: tuple[str | os.PathLike | None, ...] = ()):
    """Removes the oldest checkpoints until `limit` whole ones are left, and all that are not whole.

    Args:
        run_dir: of the run.
        limit: how many stay, at least one; None: all.
        keep: checkpoints that stay on top of that, such as the best.
    """
    if limit is None:
        return
    found = list_checkpoints(run_dir)
    kept = [folder for folder in found if fault_of(folder) is None][: max(1, limit)]
    kept += [Path(folder) for folder in keep if folder is not None]
    for folder in found:
        if folder.resolve() not in {path.resolve() for path in kept}:
            shutil.rmtree(move_away(folder), ignore_errors=True)


def clear_staging(run_dir: str | os.PathLike):
    """Removes what a run that has ended needs no more."""
    shutil.rmtree(Path(run_dir) / WRITING, ignore_errors=True)
