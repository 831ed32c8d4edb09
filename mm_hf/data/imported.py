"""Files of Python from outside the package, which register modalities, tasks and fusions: `--import FILE`.

A file becomes a module below this one, named after the file. Processes that this one starts find it there by itself
(`VARIABLE` tells them where it is), so that what it defines can be sent to them; they run it only where it is asked
for.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

from ..models.checksums import checksum_of


VARIABLE = "MM_HF_IMPORTED"  # the files of this process and of those that it starts


def imported_files() -> list[str]:
    """The files that were imported, in this process or in one above it."""
    return [name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]


__path__ = list(dict.fromkeys(map(os.path.dirname, imported_files())))  # folders of the modules below this one


def import_files(files: Iterable[str]):
    """Runs files of Python once, in this order.

    Args:
        files: as they are seen from the present folder.

    Raises:
        ValueError: in one line: there is no such file, it is called like another one, or an error in it with its line.
    """
    for file in files:
        import_file(file)


def import_file(file: str):
    """See `import_files`."""
    path = Path(os.path.realpath(file))
    name = f"{__name__}.{path.stem}"
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise ValueError(f"import: {file!r} is no file of Python, with a name such as my_fusion.py.")
    if not path.is_file():
        raise ValueError(f"import: there is no file {file!r} here. Where it has moved, --import FILE names it anew.")
    known = getattr(sys.modules.get(name), "__file__", None)
    if known is not None:
        if os.path.realpath(known) != str(path) and checksum_of(Path(known)) != checksum_of(path):
            raise ValueError(f"import: {file!r} is called like {known!r}, which is another one: rename one of them.")
        return
    if str(path.parent) not in __path__:
        __path__.append(str(path.parent))
    importlib.invalidate_caches()
    spec = PathFinder.find_spec(name, __path__)
    if spec is None or spec.origin is None or os.path.realpath(spec.origin) != str(path):
        taken = None if spec is None else spec.origin
        raise ValueError(f"import: {file!r} is called like {taken!r}, which another file comes from: rename it.")
    try:
        importlib.import_module(name)
    except Exception as error:
        raise ValueError(f"import: {file}{line_of(error, path)}: {type(error).__name__}: {error}") from error
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*imported_files(), str(path)]))


def line_of(error: Exception, path: Path) -> str:
    """Where in a file an error came from, in words; nothing where nobody knows."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {frames[-1]}" if frames else ""


def import_again(worker: int = 0):
    """In a process that another one started: runs the files that this had imported, so that they are registered here
    too. (`worker_init_fn` of a DataLoader.)"""
    import_files(imported_files())
