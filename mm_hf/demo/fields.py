"""The fields of a page, one per column of the model's rows, and the row that is made from the inputs."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.modalities import reader_of_part
from ..data.shown import PICTURE, SERIES, SOUND, TABLE, TEXT, VIDEO
from ..models.finite import read_number


FILES = (PICTURE, SOUND, VIDEO)  # kinds that are given as files
SEPARATORS = ",;\t"


class BadField(ValueError):
    """The input of a field cannot be read."""


@dataclass(frozen=True)
class Field:
    """One input field of a page.

    Args:
        kind: kind of the item, one of `data.shown.KINDS`; for a table, the field is one column.
        modality: the modality of the item.
        column: the column of the row.
        choices: the categories that the model knows; None if any text is allowed.
        is_number: whether the input is a number.
        hint: the format of the input, if it is not obvious.
    """

    kind: str
    modality: str
    column: str
    choices: tuple[str, ...] | None = None
    is_number: bool = False
    hint: str = ""

    @property
    def label(self) -> str:
        """The name of the column in a readable form."""
        words = " ".join(self.column.replace("_", " ").split())
        return words[:1].upper() + words[1:]

    def value(self, given: Any) -> Any:
        """The value for the column of a row; None if the field is empty.

        Args:
            given: a text, a number, or the path of a file.

        Raises:
            BadField: it cannot be read.
        """
        if given is None or (isinstance(given, str) and not given.strip()):
            return None
        if self.kind in FILES:
            file = Path(given)
            if not file.stat().st_size:
                raise BadField(f"the file {file.name} is empty.")
            return {"bytes": file.read_bytes(), "path": file.name}
        if self.kind == SERIES:
            return steps_of(given)
        if self.kind in (TEXT, TABLE):
            return given
        return other_of(given)

    def given(self, value: Any) -> Any:
        """The reverse of `value`, for all kinds except files."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if self.kind == SERIES:
            return csv_of(value)
        if self.kind == TEXT:
            return str(value)
        if self.kind != TABLE:
            return json.dumps(value)
        if self.choices is not None:
            return str(value) if str(value) in self.choices else None
        return read_number(value) if self.is_number and isinstance(value, str) else value


def fields_of(columns: Iterable[tuple[str, str]], processor: Any) -> list[Field]:
    """The fields of a page, in the order of the model's modalities.

    Args:
        columns: the columns that the model reads, as pairs of part and name, see `Columns.named`.
        processor: of the checkpoint; the schema of its table names the categories of columns.
    """
    schema, fields = getattr(processor, "table_schema", None), []
    for part, column in columns:
        reader = reader_of_part(part)
        if reader is None:
            continue
        kind, more = reader.kind_of(part), dict[str, Any]()
        if kind == TABLE and schema is not None:
            if column in schema.categorical:
                more = {"choices": tuple(schema.categorical[column])}
            elif column in schema.dates:
                more = {"hint": f"a date, as {schema.dates[column].format}"}
            else:
                more = {"is_number": True}
        elif kind == SERIES:
            more = {"hint": "CSV: one line per step, with the readings of the step separated by commas"}
        fields.append(Field(kind, reader.name, column, **more))
    return fields


def row_of(fields: Sequence[Field], given: Sequence[Any]) -> dict[str, Any]:
    """The row from the inputs, as the collator takes it.

    Args:
        given: one value per field, see `Field.value`.

    Raises:
        BadField: with every field that cannot be read, or with all fields if all are empty.
    """
    row: dict[str, Any] = {}
    bad = []
    for field, value in zip(fields, given):
        try:
            row[field.column] = field.value(value)
        except (BadField, OSError) as error:
            bad.append(f"{field.label}: {error}")
    if bad:
        raise BadField("\n".join(bad))
    if all(value is None for value in row.values()):
        raise BadField(f"All fields are empty. Fill in at least one of: {names_of(fields)}.")
    return row


def names_of(fields: Iterable[Field]) -> str:
    """The labels of the fields, separated by commas."""
    return ", ".join(field.label for field in fields)


def steps_of(text: str) -> list[list[float]]:
    """The steps of a time series in CSV. If the first line has words, it is a header. An empty cell is a missing
    reading.

    Raises:
        BadField: with the line that has a bad number, or another length than the others.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    separator = next((mark for mark in SEPARATORS if mark in lines[0]), " ")
    cells = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator, skipinitialspace=True)]
    if len(cells) > 1 and all(read_number(cell) is None for cell in cells[0]) and any(cells[0]):
        cells = cells[1:]
    steps: list[list[float]] = []
    for number, row in enumerate(cells, 1):
        readings = [math.nan if not cell else read_number(cell) for cell in row]
        if None in readings:
            raise BadField(f"line {number}: {row[readings.index(None)]!r:.80} is not a number.")
        if steps and len(readings) != len(steps[0]):
            raise BadField(f"line {number} has {len(readings)} numbers, but the lines before it have {len(steps[0])}.")
        steps.append([float(reading) for reading in readings if reading is not None])
    return steps


def csv_of(series: Any) -> str:
    """A time series in the format that `steps_of` reads."""
    written = io.StringIO()
    rows = [step if isinstance(step, (list, tuple)) or hasattr(step, "__len__") else [step] for step in series]
    readings = [["" if x is None or math.isnan(x) else f"{float(x):.9g}" for x in row] for row in rows]
    csv.writer(written, lineterminator="\n").writerows(readings)
    return written.getvalue()


def other_of(text: str) -> Any:
    """The value of a JSON text; the text itself if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def sentences_of(bad_rows: Iterable[Mapping[str, Any]], fields: Sequence[Field]) -> str:
    """Why a row cannot be read, one line per column, with the labels of the page, from entries of `BadRowError`."""
    labels = {field.column: field.label for field in fields}
    lines = []
    for entry in bad_rows:
        file = f" ({entry['file']})" if entry.get("file") else ""
        lines.append(f"{labels.get(entry['column'], entry['column'])}{file}: {entry['reason']}")
    return "\n".join(dict.fromkeys(lines))
