"""The file of predictions while it grows. A process can be killed at any moment; a later process continues its work.

While `out.csv` is written, the folder `out.csv.partial` beside it holds the rows up to now and `progress.json`. That
file says how many of the rows are valid, and with which settings they were made. Rows that were written after the last
note are removed again. The file gets its final name when it is complete.
"""

import errno
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pyarrow as pa
from accelerate.utils import broadcast_object_list
from pyarrow import parquet

from ...models.files import read_json
from ...models.names import did_you_mean
from ...training.lock import lock_folder, release_folders
from ...training.run_folder import write_json


KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
PROGRESS, ROWS, WHOLE = "progress.json", "rows", "whole"
GROUP_ROWS, GROUP_BYTES = 10_000, 2**26  # limits of a Parquet row group
LONE = "backslashreplace"  # for a lone surrogate (half a character): JSON writes \\ud800 too
# The errors of pyarrow for a value that does not fit its type.
MISFITS = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError)
QUOTED = re.compile('["\r\n]')


class CsvForm:
    """Rows as lines of a CSV.

    Args:
        types: the columns, and their types.
        separator: between the cells.
        marked: begin with a byte order mark; spreadsheets recognise UTF-8 by it.

    Attributes:
        whole: name of the file in the folder that becomes the final file.
    """

    whole = ROWS

    def __init__(self, types: pa.Schema, separator: str = ",", marked: bool = False):
        self.names, self.separator, self.marked = types.names, separator, marked
        self.known = frozenset(self.names)

    def head(self) -> bytes:
        """The bytes before all rows."""
        return ("\ufeff" if self.marked else "").encode() + self.line(self.names)

    def kept(self, row: dict[str, Any]) -> dict[str, Any]:
        """The part of a row that can be written. A cell may be infinite; JSON has no number for that."""
        infinite = {name: value for name, value in row.items() if isinstance(value, float) and math.isinf(value)}
        return {**{name: without_files(value) for name, value in row.items()}, **infinite}

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """The bytes of some rows, as `kept` gives them.

        Raises:
            ValueError: a row has a column that the first rows did not have.
        """
        self.check(rows)
        return b"".join(self.line([cell_of(row.get(name)) for name in self.names]) for row in rows)

    def check(self, rows: Iterable[Mapping[str, Any]]):
        for row in rows:
            if unknown := [name for name in row if name not in self.known]:
                raise ValueError(
                    f"A row has the column {unknown[0]!r:.80}, but the first rows have only {self.names}: write a "
                    ".jsonl file, where rows may have different columns."
                )

    def line(self, cells: list[str]) -> bytes:
        """One line. The module `csv` is not used, because it does not quote a lone carriage return."""
        return (self.separator.join(map(self.quoted, cells)) + "\n").encode("utf-8", LONE)

    def quoted(self, cell: str) -> str:
        """A cell, in quotes if it needs them."""
        if self.separator in cell or QUOTED.search(cell) or cell != cell.strip():
            return '"' + cell.replace('"', '""') + '"'
        return cell

    def finish(self, folder: Path):
        """Turns everything that was written into the final file."""


class JsonForm(CsvForm):
    """Rows as JSON objects, one per line."""

    def head(self) -> bytes:
        return b""

    def kept(self, row: dict[str, Any]) -> dict[str, Any]:
        return {name: without_files(value) for name, value in row.items()}

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        lines = [json.dumps(row, ensure_ascii=False, default=str, allow_nan=False) + "\n" for row in rows]
        return "".join(lines).encode("utf-8", LONE)


class ParquetForm(CsvForm):
    """Rows of Parquet. A Parquet file cannot grow, so the rows are an Arrow stream until they are complete.

    Raises:
        ValueError: Parquet does not have the type of a column.
    """

    whole = WHOLE

    def __init__(self, types: pa.Schema):
        super().__init__(types)
        self.types = types
        self.structs = [field for field in types if has_keys(field.type)]
        try:
            parquet.ParquetWriter(pa.BufferOutputStream(), types).close()
        except MISFITS as error:
            raise ValueError(f"A column cannot be written as .parquet ({error}): write a .jsonl file.") from None

    def head(self) -> bytes:
        return self.types.serialize().to_pybytes()

    def kept(self, row: dict[str, Any]) -> dict[str, Any]:
        """All of it."""
        return dict(row)

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """See `CsvForm`.

        Raises:
            ValueError: see `CsvForm`; or a value does not fit its column, or has a key that the first rows did not
                have.
        """
        self.check(rows)
        for field in self.structs:  # pyarrow ignores such keys
            for row in rows:
                if unknown := unknown_key(row.get(field.name), field.type):
                    raise ValueError(
                        f"A row has the key {field.name + unknown!r:.80}, which the first rows do not have: write a "
                        ".jsonl file, where rows may have different keys."
                    )
        try:
            batch = pa.RecordBatch.from_pylist(list(rows), schema=self.types)
        except MISFITS as error:
            raise ValueError(
                f"The rows have a value that does not fit the type of its column in the first rows ({error}): write a "
                ".jsonl file, which has no types."
            ) from None
        return batch.serialize().to_pybytes()

    def finish(self, folder: Path):
        with pa.OSFile(str(folder / ROWS)) as file, parquet.ParquetWriter(folder / self.whole, self.types) as writer:
            waiting: list[pa.RecordBatch] = []
            for batch in pa.ipc.open_stream(file):
                waiting.append(batch)
                full = sum(one.nbytes for one in waiting) >= GROUP_BYTES
                if full or sum(map(len, waiting)) >= GROUP_ROWS:
                    writer.write_table(pa.Table.from_batches(waiting))
                    waiting = []
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting))


class PredictionFile:
    """One file of predictions, which grows.

    Args:
        path: of the file.
        overwrite: replace a finished file; start again if an unfinished file has other settings.

    Attributes:
        rows, digest, bad, summary: the progress: number of written rows, their digest (see `RowBatches`), number of
            bad rows among them, and counts of the predictions.
        noted: number of rows that a later process need not predict again.

    Raises:
        ValueError: the name has another extension or is a folder; the file exists already; another process writes it.
    """

    def __init__(self, path: str, overwrite: bool = False):
        kind = Path(path).suffix.lower()
        if kind not in KINDS:
            raise ValueError(
                f"--output {path} ends in {kind!r}; it must end in one of {', '.join(KINDS)}."
                f"{did_you_mean(kind, KINDS)}"
            )
        # Follow a link to its target; otherwise the link itself would be replaced.
        self.path = Path(os.path.realpath(path) if os.path.islink(path) else path)
        self.kind, self.overwrite = kind, overwrite
        if self.path.is_dir():
            raise ValueError(f"--output {path} is a folder: name a file.")
        self.folder = self.path.with_name(f"{self.path.name}.partial")
        if self.path.exists() and not overwrite and not self.folder.exists():
            raise ValueError(self.refusal)
        self.rows, self.digest, self.bad, self.size, self.noted = 0, "", 0, 0, 0
        self.summary: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        self.form: Any = None
        self.log: Any = None

    @property
    def refusal(self) -> str:
        """The message if the file is finished."""
        return f"{self.path} exists already: --overwrite replaces it, --output names another file."

    def claim(self, is_main_process: bool):
        """Locks the file for this process; see the class. All processes call it.

        Raises:
            ValueError: another process has locked it, or it cannot be written.
        """
        told = [make_folder(self.folder) if is_main_process else None]
        broadcast_object_list(told)
        if told[0] is not None:
            raise ValueError(f"--output {self.path} cannot be written: {told[0]}.")
        try:
            lock_folder(self.folder, is_main_process)
        except ValueError as error:
            who = str(error).split(". Wait", 1)[0]
            raise ValueError(f"{who}. Wait until it ends, stop it, or name another file (--output).") from None

    def begin(self, form: CsvForm, settings: dict[str, Any], same_rows: Callable[[int, str, bool], bool]) -> bool:
        """Opens the file at its beginning, or where an earlier process stopped. The main process calls it.

        Args:
            form: how rows are written.
            settings: the settings that influence the content, by their name in messages.
            same_rows: takes a number of first rows, a digest and a flag. It says whether the first rows have this
                digest; with the flag, also whether there are no more rows.

        Returns:
            whether there is something left to do. An earlier process may have been killed after the last row.

        Raises:
            ValueError: the file exists already, or was begun with other settings.
        """
        self.form, self.settings = form, json.loads(json.dumps(settings))
        note = self.folder / PROGRESS
        before = read_json(note) if note.exists() else {}
        differences = [name for name in self.settings if before.get("settings", {}).get(name) != self.settings[name]]
        if before.get("complete") and not (self.folder / form.whole).exists():  # it already has its final name
            again = self.overwrite or differences or not self.path.exists()
            if not again and same_rows(before["rows"], before["digest"], True):
                self.clean_up()
                return False
            before = {}
        if self.path.exists() and not self.overwrite:
            if not before:
                self.clean_up()
            raise ValueError(self.refusal)
        others = bool(before) and not differences and not same_rows(before["rows"], before["digest"], False)
        if before and (differences or others) and not self.overwrite:
            what = "other rows"
            if differences:
                old, new = (told.get(differences[0]) for told in (before.get("settings", {}), self.settings))
                what = f"{differences[0]} {old!r:.300}, and now it is {new!r:.300}"
            raise ValueError(
                f"{self.path} was begun with {what}. {self.folder} holds {before['rows']:,} rows of it: continue "
                "with the same rows and settings, or start again with --overwrite."
            )
        if others:
            before = {}
        if before and not differences:
            self.rows, self.digest, self.size = before["rows"], before["digest"], before["size"]
            self.bad, self.summary, self.noted = before["bad"], before["summary"], self.rows
        log = self.folder / ROWS
        if self.size and (not log.exists() or log.stat().st_size < self.size):  # damaged: shorter than noted
            self.rows, self.digest, self.size, self.bad, self.summary, self.noted = 0, "", 0, 0, {}, 0
        if not self.size:
            note.unlink(missing_ok=True)  # first, because it must not describe rows that no longer exist
        self.log = open(log, "r+b" if self.size else "wb")  # noqa: SIM115 (closed by `leave`)
        self.log.truncate(self.size)
        self.log.seek(self.size)
        if not self.size:
            self.write(form.head())
        return True

    def add(self, rows: Sequence[Mapping[str, Any]], digest: str):
        """Writes some rows with their predictions; `digest` covers all input rows up to these."""
        self.write(self.form.rows(rows))
        self.rows, self.digest = self.rows + len(rows), digest

    def write(self, content: bytes):
        """Appends bytes."""
        with naming(self.folder / ROWS):
            self.log.write(content)
        self.size += len(content)

    def note(self):
        """Notes the progress. A later process continues from here."""
        with naming(self.folder / ROWS):
            self.log.flush()
            os.fsync(self.log.fileno())
        names = ("settings", "rows", "size", "digest", "bad", "summary")
        with naming(self.folder / PROGRESS):
            write_json(self.folder / PROGRESS, {**{name: getattr(self, name) for name in names}, "complete": False})
        self.noted = self.rows

    def finish(self):
        """Completes the file, and gives it its final name."""
        self.note()
        self.log.close()
        with naming(self.folder / self.form.whole):
            self.form.finish(self.folder)
            with open(self.folder / self.form.whole, "rb+") as file:
                os.fsync(file.fileno())
        write_json(self.folder / PROGRESS, {**read_json(self.folder / PROGRESS), "complete": True})
        self.give_name()

    def give_name(self):
        """Moves the complete file to its final place, and removes the files beside it."""
        os.replace(self.folder / self.form.whole, self.path)
        self.clean_up()

    def clean_up(self):
        """Removes the files beside it, and unlocks it."""
        for name in (PROGRESS, f".{PROGRESS}.new", ROWS, WHOLE):
            (self.folder / name).unlink(missing_ok=True)
        release_folders()
        try:
            self.folder.rmdir()
        except OSError:  # another process has locked it now
            pass

    def leave(self):
        """Closes it after an error. The noted rows stay."""
        if self.log is not None:
            with suppress(OSError):  # a full disk was reported before; rows that were not noted do not count
                self.log.close()
        if not (self.folder / PROGRESS).exists():
            self.clean_up()


def cell_of(value: Any) -> str:
    """A value as a CSV cell: texts unchanged, lists and dicts as JSON, anything else as Python's `str`."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    return str(value)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Adds the name of a file to an error that lacks it, such as the error of a full disk.

    Raises:
        OSError: with the name of the file.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(file)) from None


def make_folder(folder: Path) -> str | None:
    """Creates a folder. Returns an error message if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder}: {os.strerror(errno.EACCES)}"


def has_keys(kind: pa.DataType) -> bool:
    """Whether values of a type have keys, or contain values with keys."""
    return pa.types.is_struct(kind) or any(has_keys(kind.field(place).type) for place in range(kind.num_fields))


def unknown_key(value: Any, kind: pa.DataType) -> str | None:
    """The first key within a value that its type does not have, as `.a.b`; None if there is none."""
    if isinstance(value, Mapping) and pa.types.is_struct(kind):
        for name, one in value.items():
            place = kind.get_field_index(name)
            inner = "" if place < 0 else unknown_key(one, kind.field(place).type)
            if inner is not None:
                return f".{name}{inner}"
    elif isinstance(value, (list, tuple)) and pa.types.is_nested(kind) and kind.num_fields == 1:
        return next((key for one in value if (key := unknown_key(one, kind.field(0).type))), None)
    return None


def without_files(value: Any) -> Any:
    """A value without the things that JSON cannot hold: a picture becomes its path; bytes, NaN and infinite numbers
    become None."""
    if isinstance(value, (bytes, bytearray)):
        return None
    if isinstance(value, Mapping):
        if set(value) == {"bytes", "path"}:
            return value["path"]
        return {name: without_files(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_files(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def form_of(kind: str, types: pa.Schema, separator: str, marked: bool) -> CsvForm:
    """How rows are written into a file of this kind. `separator` and `marked` describe the input, see `CsvForm`."""
    if kind == ".parquet":
        return ParquetForm(types)
    if kind == ".jsonl":
        return JsonForm(types)
    return CsvForm(types, "\t" if kind == ".tsv" else "," if separator == "\t" else separator, marked)
