"""The file of predictions while it grows: a process that is killed at any moment leaves what a later one goes on with.

Beside `out.csv` stands the folder `out.csv.partial` with the rows up to now and `progress.json`, which says how many
of them count and what was asked. What was written after the last note is cut off again. The file gets its name when it
is whole.
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
GROUP_ROWS, GROUP_BYTES = 10_000, 2**26  # of Parquet, whichever comes first
LONE = "backslashreplace"  # what becomes of half a character: JSON has it as \\ud800 too
# What pyarrow raises of a value that does not fit its type.
MISFITS = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError)
QUOTED = re.compile('["\r\n]')


class CsvForm:
    """Rows as lines of a CSV.

    Args:
        types: the columns, and their types.
        separator: between the cells.
        marked: begin with a byte order mark, by which spreadsheets know UTF-8.

    Attributes:
        whole: which file of the folder becomes the one of predictions.
    """

    whole = ROWS

    def __init__(self, types: pa.Schema, separator: str = ",", marked: bool = False):
        self.names, self.separator, self.marked = types.names, separator, marked
        self.known = frozenset(self.names)

    def head(self) -> bytes:
        """What stands before all rows."""
        return ("\ufeff" if self.marked else "").encode() + self.line(self.names)

    def kept(self, row: dict[str, Any]) -> dict[str, Any]:
        """What of a row can be written. A cell can be infinite, which JSON has no number for."""
        infinite = {name: value for name, value in row.items() if isinstance(value, float) and math.isinf(value)}
        return {**{name: without_files(value) for name, value in row.items()}, **infinite}

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """Some rows, of what is kept of them.

        Raises:
            ValueError: one has a column that the first rows had not.
        """
        self.check(rows)
        return b"".join(self.line([cell_of(row.get(name)) for name in self.names]) for row in rows)

    def check(self, rows: Iterable[Mapping[str, Any]]):
        for row in rows:
            if unknown := [name for name in row if name not in self.known]:
                raise ValueError(
                    f"A row has {unknown[0]!r:.80}, which is no column of the first rows; they have "
                    f"{self.names}: write a .jsonl, whose rows may differ."
                )

    def line(self, cells: list[str]) -> bytes:
        """One line. Not by the module `csv`, which leaves a lone carriage return without quotes."""
        return (self.separator.join(map(self.quoted, cells)) + "\n").encode("utf-8", LONE)

    def quoted(self, cell: str) -> str:
        """A cell, in quotes where it needs them."""
        if self.separator in cell or QUOTED.search(cell) or cell != cell.strip():
            return '"' + cell.replace('"', '""') + '"'
        return cell

    def finish(self, folder: Path):
        """Makes the whole file of all that was written."""


class JsonForm(CsvForm):
    """Rows as JSON objects, one a line."""

    def head(self) -> bytes:
        return b""

    def kept(self, row: dict[str, Any]) -> dict[str, Any]:
        return {name: without_files(value) for name, value in row.items()}

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        lines = [json.dumps(row, ensure_ascii=False, default=str, allow_nan=False) + "\n" for row in rows]
        return "".join(lines).encode("utf-8", LONE)


class ParquetForm(CsvForm):
    """Rows of Parquet, which cannot grow: until they are all there, they are a stream of Arrow.

    Raises:
        ValueError: a type that Parquet does not have.
    """

    whole = WHOLE

    def __init__(self, types: pa.Schema):
        super().__init__(types)
        self.types = types
        self.structs = [field for field in types if has_keys(field.type)]
        try:
            parquet.ParquetWriter(pa.BufferOutputStream(), types).close()
        except MISFITS as error:
            raise ValueError(f"A column cannot be written as .parquet ({error}): write a .jsonl.") from None

    def head(self) -> bytes:
        return self.types.serialize().to_pybytes()

    def kept(self, row: dict[str, Any]) -> dict[str, Any]:
        """All of it."""
        return dict(row)

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """See `CsvForm`.

        Raises:
            ValueError: a value that its column cannot hold, or a key within one that the first rows had not, too.
        """
        self.check(rows)
        for field in self.structs:  # pyarrow passes over such keys
            for row in rows:
                if unknown := unknown_key(row.get(field.name), field.type):
                    raise ValueError(
                        f"A row has {field.name + unknown!r:.80}, which the first rows have not: write a .jsonl, "
                        "whose rows may differ."
                    )
        try:
            batch = pa.RecordBatch.from_pylist(list(rows), schema=self.types)
        except MISFITS as error:
            raise ValueError(
                f"The rows have a value that does not fit the type of its column in the first rows ({error}): write a "
                ".jsonl, which has no types."
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
        path: of it.
        overwrite: replace a finished one; begin anew where an unfinished one is of other settings.

    Attributes:
        rows, digest, bad, summary: how far it is: the rows that are written, their digest (see `RowBatches`), how many
            of them are bad, and what was predicted; `noted`: the rows that a later process has not to do again.

    Raises:
        ValueError: a name of another ending, or of a folder; the file is there already; another process writes it.
    """

    def __init__(self, path: str, overwrite: bool = False):
        kind = Path(path).suffix.lower()
        if kind not in KINDS:
            raise ValueError(
                f"--output {path} ends in {kind!r}; it must end in one of {', '.join(KINDS)}."
                f"{did_you_mean(kind, KINDS)}"
            )
        # Where a link leads to: the link itself would be replaced.
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
        """What to say where it is finished."""
        return f"{self.path} is there already: --overwrite replaces it, --output names another file."

    def claim(self, is_main_process: bool):
        """Takes it for this process; see the class. All processes call it.

        Raises:
            ValueError: another process has it, or nothing can be written there.
        """
        told = [make_folder(self.folder) if is_main_process else None]
        broadcast_object_list(told)
        if told[0] is not None:
            raise ValueError(f"--output {self.path} cannot be written: {told[0]}.")
        try:
            lock_folder(self.folder, is_main_process)
        except ValueError as error:
            who = str(error).split(". Wait", 1)[0]
            raise ValueError(f"{who}. Wait for its end, stop it, or name another file (--output).") from None

    def begin(self, form: CsvForm, settings: dict[str, Any], same_rows: Callable[[int, str, bool], bool]) -> bool:
        """Opens it, at its beginning or where a process before ended. The main process calls it.

        Args:
            form: how rows are written.
            settings: what decides on the content, by what it is called in a message.
            same_rows: whether so many first rows have this digest, as those that are done; with a third argument,
                whether they are all rows, too.

        Returns:
            whether there is something to do: a process may have been killed between the last row and its own end.

        Raises:
            ValueError: it is there already, or was begun with other settings.
        """
        self.form, self.settings = form, json.loads(json.dumps(settings))
        note = self.folder / PROGRESS
        before = read_json(note) if note.exists() else {}
        differences = [name for name in self.settings if before.get("settings", {}).get(name) != self.settings[name]]
        if before.get("complete") and not (self.folder / form.whole).exists():  # it has its name already
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
                f"{self.path} was begun with {what}. {self.folder} holds {before['rows']:,} rows of it: go on with "
                "what it was begun with, or --overwrite begins anew."
            )
        if others:
            before = {}
        if before and not differences:
            self.rows, self.digest, self.size = before["rows"], before["digest"], before["size"]
            self.bad, self.summary, self.noted = before["bad"], before["summary"], self.rows
        log = self.folder / ROWS
        if self.size and (not log.exists() or log.stat().st_size < self.size):  # damaged: it is not what was noted
            self.rows, self.digest, self.size, self.bad, self.summary, self.noted = 0, "", 0, 0, {}, 0
        if not self.size:
            note.unlink(missing_ok=True)  # first: it must not speak of rows that are gone
        self.log = open(log, "r+b" if self.size else "wb")  # noqa: SIM115 (closed by `leave`)
        self.log.truncate(self.size)
        self.log.seek(self.size)
        if not self.size:
            self.write(form.head())
        return True

    def add(self, rows: Sequence[Mapping[str, Any]], digest: str):
        """Writes some rows with their predictions; `digest` is of all rows of the input up to these."""
        self.write(self.form.rows(rows))
        self.rows, self.digest = self.rows + len(rows), digest

    def write(self, content: bytes):
        """Puts bytes behind the others."""
        with naming(self.folder / ROWS):
            self.log.write(content)
        self.size += len(content)

    def note(self):
        """Notes how far it is: from here a later process goes on."""
        with naming(self.folder / ROWS):
            self.log.flush()
            os.fsync(self.log.fileno())
        names = ("settings", "rows", "size", "digest", "bad", "summary")
        with naming(self.folder / PROGRESS):
            write_json(self.folder / PROGRESS, {**{name: getattr(self, name) for name in names}, "complete": False})
        self.noted = self.rows

    def finish(self):
        """Ends it, and gives it its name."""
        self.note()
        self.log.close()
        with naming(self.folder / self.form.whole):
            self.form.finish(self.folder)
            with open(self.folder / self.form.whole, "rb+") as file:
                os.fsync(file.fileno())
        write_json(self.folder / PROGRESS, {**read_json(self.folder / PROGRESS), "complete": True})
        self.give_name()

    def give_name(self):
        """Puts the whole file where it is expected, and removes what stood beside it."""
        os.replace(self.folder / self.form.whole, self.path)
        self.clean_up()

    def clean_up(self):
        """Removes what stands beside it, and gives it free."""
        for name in (PROGRESS, f".{PROGRESS}.new", ROWS, WHOLE):
            (self.folder / name).unlink(missing_ok=True)
        release_folders()
        try:
            self.folder.rmdir()
        except OSError:  # another process has it now
            pass

    def leave(self):
        """Closes it where something went wrong; what is noted stays."""
        if self.log is not None:
            with suppress(OSError):  # a full disk: it is told, and what was not noted does not count
                self.log.close()
        if not (self.folder / PROGRESS).exists():
            self.clean_up()


def cell_of(value: Any) -> str:
    """A value as a cell of a CSV: texts as they are, lists and dicts as JSON, anything else as Python spells it."""
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
    """Lets an error say which file it is about, as that of a full disk does not.

    Raises:
        OSError: with the name.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(file)) from None


def make_folder(folder: Path) -> str | None:
    """Makes a folder, and gives what is wrong where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder}: {os.strerror(errno.EACCES)}"


def has_keys(kind: pa.DataType) -> bool:
    """Whether values of a type have keys, or hold something that has."""
    return pa.types.is_struct(kind) or any(has_keys(kind.field(place).type) for place in range(kind.num_fields))


def unknown_key(value: Any, kind: pa.DataType) -> str | None:
    """The first key within a value that its type has not, as `.a.b`; None where there is none."""
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
    """A value without what JSON cannot hold: of a picture its path, None for bytes, NaN and what is infinite."""
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
    """How rows are written into a file of this kind; arguments as in `CsvForm`, those of the input."""
    if kind == ".parquet":
        return ParquetForm(types)
    if kind == ".jsonl":
        return JsonForm(types)
    return CsvForm(types, "\t" if kind == ".tsv" else "," if separator == "\t" else separator, marked)
