"""Functions that builders of photographs share: they read and check files in a folder or zip as published."""

import contextlib
import io
import os
import zipfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import PIL.Image

from .common import PreparationError


LARGEST_FILE = 50_000_000  # bytes


class PhotographFiles:
    """Files of a folder or a zip, by name. They may be in any subfolder. Nothing is unpacked.

    Args:
        source: the folder or the archive.
    """

    def __init__(self, source: Path):
        self.source = source
        self.archive: zipfile.ZipFile | None = None
        if source.is_dir():
            paths: Iterable[str] = (file.relative_to(source).as_posix() for file in source.rglob("*"))
            paths = sorted(path for path in paths if (source / path).is_file())
        else:
            try:
                self.archive = zipfile.ZipFile(source)
            except (OSError, zipfile.BadZipFile) as error:
                raise PreparationError(
                    f"{source} is neither a folder nor a zip archive that can be read: {error}"
                ) from error
            paths = [entry.filename for entry in self.archive.infolist() if not entry.is_dir()]
        self.paths: dict[str, str] = {}
        for path in paths:
            name = PurePosixPath(path).name
            if path.startswith("__MACOSX/") or name.startswith("."):  # macOS adds such a file next to each file
                continue
            if name in self.paths:
                raise PreparationError(
                    f"{source} has two files {name}: {self.paths[name]} and {path}. Remove or rename one of them"
                )
            self.paths[name] = path

    def close(self):
        """Closes the archive."""
        if self.archive is not None:
            self.archive.close()

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            PreparationError: the file is missing, too large, or cannot be read.
        """
        path = self.paths.get(name)
        if path is None:
            raise PreparationError(f"{self.source} has no file {name}")
        try:
            if self.archive is None:
                file = self.source / path
                size = file.stat().st_size
                content = file.read_bytes() if size <= LARGEST_FILE else b""
            else:
                size = self.archive.getinfo(path).file_size
                content = self.archive.read(path) if size <= LARGEST_FILE else b""
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:  # RuntimeError: the zip has a password
            raise PreparationError(f"{path} of {self.source} cannot be read: {error}") from error
        if size > LARGEST_FILE:
            raise PreparationError(f"{path} of {self.source} has {size} bytes, expected {LARGEST_FILE} at most")
        return content

    def text(self, name: str) -> str:
        """The content of a text file in UTF-8."""
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise PreparationError(f"{self.paths[name]} of {self.source} is not UTF-8 text: {error}") from error

    def photograph(self, name: str) -> dict[str, Any]:
        """An unchanged photograph as `datasets.Image` holds it. Its header is read to check that it is a picture."""
        content = self.read(name)
        try:
            PIL.Image.open(io.BytesIO(content)).close()
        except (OSError, PIL.Image.DecompressionBombError) as error:
            raise PreparationError(f"{self.paths[name]} of {self.source} is not a picture: {error}") from error
        return {"bytes": content, "path": name}


@contextlib.contextmanager
def photograph_files(source: Path | None, variable: str) -> Iterator[PhotographFiles]:
    """Opens the folder or archive from the command line, or else from the environment variable."""
    named = source or (Path(os.environ[variable]) if os.environ.get(variable) else None)
    if named is None:
        raise PreparationError(f"no archive: give its path before OUT, or set the environment variable {variable}")
    files = PhotographFiles(named)
    try:
        yield files
    finally:
        files.close()


def some_of(names: Collection[Any]) -> str:
    """The first few names, for a message."""
    few = ", ".join(map(str, sorted(names)[:3]))
    return few if len(names) <= 3 else f"{few} and {len(names) - 3} more"
