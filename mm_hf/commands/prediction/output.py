"""The file of predictions while it grows: a process that is killed at any moment leaves what a later one goes on with.

Beside `out.csv` stands the folder `out.csv.partial` with the rows up to now and `progress.json`, which says how many
of them count and what was asked. What was written after the last note is cut off again. The file gets its name when it
is whole.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from ...models.files import read_json
from ...models.names import did_you_mean
from ...training.lock import lock_folder, release_folders
from ...training.run_folder import write_json


KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
PROGRESS, ROWS, WHOLE = "progress.json", "rows", "whole"
GROUP_ROWS, GROUP_BYTES = 10_000, 2**26  # of Parquet, whichever comes first
LONE = "backslashreplace"  # what becomes of half a character: JSON has it as \\ud800 too
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
        """What of a row can be written."""
        return {name: without_files(value) for name, value in row.items()}

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """Some rows, of what is kept of them.

        Raises:
            ValueError: one has a column that the first rows had not.
        """
        self.check(rows)
        return b"".join(self.line([cell_of(row.get(name)) for name in self.names]) for row in rows)

    def check(self, rows: Iterable[Mapping[str, Any]]):
        """See `rows`."""
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
        """See `CsvForm`."""
        return b""

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """See `CsvForm`."""
        return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows).encode("utf-8", LONE)


class ParquetForm(CsvForm):
    """Rows of Parquet, which cannot grow: until they are all there, they are a stream of Arrow."""

    whole = WHOLE

    def __init__(self, types: pa.Schema):
        super().__init__(types)
        self.types = types

    def head(self) -> bytes:
        """See `CsvForm`."""
        return self.types.serialize().to_pybytes()

    def kept(self, row: dict[str, Any]) -> dict[str, Any]:
        """See `CsvForm`: all of it."""
        return dict(row)

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """See `CsvForm`.

        Raises:
            ValueError: a value that its column cannot hold, too.
        """
        self.check(rows)
        try:
            batch = pa.RecordBatch.from_pylist(list(rows), schema=self.types)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(
                f"The rows have a value that does not fit the type of its column in the first rows ({error}): write a "
                ".jsonl, which has no types."
            ) from None
        return batch.serialize().to_pybytes()

    def finish(self, folder: Path):
        """See `CsvForm`."""
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
        ValueError: a name of another ending; the file is there already; another process writes it.
    """

    def __init__(self, path: str, overwrite: bool = False):
        self.path, self.overwrite = Path(path), overwrite
        kind = self.path.suffix.lower()
        if kind not in KINDS:
            raise ValueError(
                f"--output {self.path} ends in {kind!r}; it must end in one of {', '.join(KINDS)}."
                f"{did_you_mean(kind, KINDS)}"
            )
        if self.path.exists() and not overwrite and not self.path.with_name(f"{self.path.name}.partial").exists():
            raise ValueError(self.there)
        self.folder = self.path.with_name(f"{self.path.name}.partial")
        self.rows, self.digest, self.bad, self.size, self.noted = 0, "", 0, 0, 0
        self.summary: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        self.form: Any = None
        self.log: Any = None

    @property
    def there(self) -> str:
        """What to say where it is finished."""
        return f"{self.path} is there already: --overwrite replaces it, --output names another file."

    def claim(self, is_main_process: bool):
        """Takes it for this process; see the class. All processes call it."""
        try:
            lock_folder(self.folder, is_main_process)
        except ValueError as error:
            who = str(error).split(". Wait", 1)[0]
            raise ValueError(f"{who}. Wait for its end, stop it, or name another file (--output).") from None

    def begin(self, form: CsvForm, settings: dict[str, Any], same_rows: Callable[[int, str], bool]) -> bool:
        """Opens it, at its beginning or where a process before ended. The main process calls it.

        Args:
            form: how rows are written.
            settings: what decides on the content, by what it is called in a message.
            same_rows: whether so many first rows have this digest, as those that are done.

        Returns:
            whether there is something to do: a process may have been killed between the last row and its own end.

        Raises:
            ValueError: it is there already, or was begun with other settings.
        """
        self.form, self.settings = form, json.loads(json.dumps(settings))
        note = self.folder / PROGRESS
        before = read_json(note) if note.exists() else {}
        differences = [name for name in self.settings if before.get("settings", {}).get(name) != self.settings[name]]
        if before.get("complete") and not differences and not (self.folder / form.whole).exists():
            before = {}  # it has its name already
            if self.path.exists():
                self.clean_up()
                return False
        if self.path.exists() and not self.overwrite:
            if not before:
                self.clean_up()
            raise ValueError(self.there)
        others = bool(before) and not differences and not same_rows(before["rows"], before["digest"])
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
        if before.get("complete") and not differences:
            self.give_name()
            return False
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
        """Writes some rows.

        Args:
            rows: with their predictions.
            digest: of all rows of the input up to these.
        """
        self.write(self.form.rows(rows))
        self.rows, self.digest = self.rows + len(rows), digest

    def write(self, content: bytes):
        """Puts bytes behind the others."""
        self.log.write(content)
        self.size += len(content)

    def note(self):
        """Notes how far it is: from here a later process goes on."""
        self.log.flush()
        os.fsync(self.log.fileno())
        names = ("settings", "rows", "size", "digest", "bad", "summary")
        write_json(self.folder / PROGRESS, {**{name: getattr(self, name) for name in names}, "complete": False})
        self.noted = self.rows

    def finish(self):
        """Ends it, and gives it its name."""
        self.note()
        self.log.close()
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
            self.log.close()
        if not (self.folder / PROGRESS).exists():
            self.clean_up()


def cell_of(value: Any) -> str:
    """A value as a cell of a CSV: texts as they are, lists and dicts as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False, default=str)


def without_files(value: Any) -> Any:
    """A value without what a text cannot hold: of a picture its path, None for bytes and NaN."""
    if isinstance(value, (bytes, bytearray)):
        return None
    if isinstance(value, Mapping):
        if set(value) == {"bytes", "path"}:
            return value["path"]
        return {name: without_files(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_files(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def form_of(path: Path, types: pa.Schema, separator: str, marked: bool) -> CsvForm:
    """How rows are written into a file of this name; arguments as in `CsvForm`, those of the input."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        return ParquetForm(types)
    if kind == ".jsonl":
        return JsonForm(types)
    return CsvForm(types, "\t" if kind == ".tsv" else "," if separator == "\t" else separator, marked)
