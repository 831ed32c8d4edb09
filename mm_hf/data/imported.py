"""Python files from outside the package, which register modalities, tasks and fusions: `--import FILE`.

A file becomes a submodule of this module, with the name of the file. Processes started by this one find it there,
because the environment variable `VARIABLE` has its path. So objects of its classes can be pickled. These processes run
the file only when they need it.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

from ..models.checksums import checksum_of


VARIABLE = "MM_HF_IMPORTED"  # the imported files of this process and of its child processes


def imported_files() -> list[str]:
    """The files that were imported in this process or in a parent process."""
    return [name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]


__path__ = list(dict.fromkeys(map(os.path.dirname, imported_files())))  # the folders of the submodules


def import_files(files: Iterable[str]):
    """Runs Python files once, in this order.

    Args:
        files: paths, relative to the current folder or absolute.

    Raises:
        ValueError: the file does not exist, its name is taken, or it has an error. The message is one line, with the
            line number of the error.
    """
    for file in files:
        import_file(file)


def import_file(file: str):
    """See `import_files`."""
    path = Path(os.path.realpath(file))
    name = f"{__name__}.{path.stem}"
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise ValueError(
            f"import: {file!r} is not a Python file with a valid module name. Give it a name such as my_fusion.py."
        )
    if not path.is_file():
        raise ValueError(f"import: there is no file {file!r} here. If it has moved, give its new path: --import FILE.")
    known = getattr(sys.modules.get(name), "__file__", None)
    if known is not None:
        if os.path.realpath(known) != str(path) and checksum_of(Path(known)) != checksum_of(path):
            raise ValueError(f"import: {file!r} has the same name as {known!r}, a different file: rename one of them.")
        return
    if str(path.parent) not in __path__:
        __path__.append(str(path.parent))
    importlib.invalidate_caches()
    spec = PathFinder.find_spec(name, __path__)
    if spec is None or spec.origin is None or os.path.realpath(spec.origin) != str(path):
        taken = None if spec is None else spec.origin
        raise ValueError(f"import: the name of {file!r} is taken by another module, {taken!r}: rename the file.")
    try:
        importlib.import_module(name)
    except Exception as error:
        raise ValueError(f"import: {file}{line_of(error, path)}: {type(error).__name__}: {error}") from error
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*imported_files(), str(path)]))


def line_of(error: Exception, path: Path) -> str:
    """The line of a file where an error was raised, in words. Empty if the line is unknown."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {frames[-1]}" if frames else ""


def import_again(worker: int = 0):
    """In a child process: runs the files that its parent had imported, so that they are registered here too. It is the
    `worker_init_fn` of a DataLoader."""
    import_files(imported_files())
