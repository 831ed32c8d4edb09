"""Example rows for a page: texts, numbers, and files in a folder."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import BadRowError
from ..data.item_files import source_of
from ..data.rows import is_absent
from ..models.files import read_json
from .fields import FILES, Field


FOLDER = "demo_examples"  # beside a checkpoint
FILE = "examples.json"
SUFFIXES = {  # extensions by the first bytes, for files without a name
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF8": ".gif",
    b"fLaC": ".flac",
    b"OggS": ".ogg",
}


def write_examples(
    rows: Iterable[Mapping[str, Any]], fields: Sequence[Field], folder: Path, root: str | None = None, most: int = 5
) -> list[dict[str, Any]]:
    """Writes the files of examples, and returns the values of the examples. Empty rows, and rows that cannot be read,
    are left out.

    Args:
        rows: as the collator takes them.
        folder: an existing folder.
        root: the folder of their paths, see `resolve_path`.
        most: the largest number of examples.

    Returns:
        by column: a text, a number, or the name of a file in the folder; None if the row has no value.
    """
    examples: list[dict[str, Any]] = []
    for row in rows:
        if len(examples) == most:
            break
        try:
            example = {
                field.column: value_of(row, field, folder / f"{len(examples)}-{place}", root)
                for place, field in enumerate(fields)
            }
        except (BadRowError, OSError, ValueError):
            continue
        if any(value is not None for value in example.values()):
            examples.append(example)
    return examples


def value_of(row: Mapping[str, Any], field: Field, file: Path, root: str | None) -> Any:
    """The value of one field of an example. A file is copied unchanged to `file`, plus its own extension."""
    value = row.get(field.column)
    if is_absent(value):
        return None
    if field.kind not in FILES:
        return field.given(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"{field.column} must be a file, got {value!r:.80}.")
    source = source_of({**row, "split": "examples", "row_id": 0}, field.column, root, field.kind)
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    suffix = os.path.splitext(str(value.get("path") or ""))[1].lower()
    known = next((ending for head, ending in SUFFIXES.items() if content.startswith(head)), "")
    known = ".wav" if content[:4] == b"RIFF" and content[8:12] == b"WAVE" else known
    file = file.with_name(file.name + (known or (suffix if suffix[1:].isalnum() else "")))
    file.write_bytes(content)
    return file.name


def keep_examples(examples: Sequence[Mapping[str, Any]], folder: Path):
    """Writes the values of examples to a JSON file. The files of the examples are in the same folder."""
    (folder / FILE).write_text(
        json.dumps({"examples": list(examples)}, ensure_ascii=False, indent=1), encoding="utf-8"
    )


def read_examples(folder: Path) -> list[dict[str, Any]]:
    """The examples that `keep_examples` wrote; an empty list if there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    if not (folder / FILE).is_file():
        return []
    examples = read_json(folder / FILE).get("examples")
    if not isinstance(examples, list) or not all(isinstance(example, dict) for example in examples):
        raise ValueError(f"{folder / FILE} is damaged: it has no list of examples. Remove it, or write it again.")
    return examples


def as_given(examples: Iterable[Mapping[str, Any]], fields: Sequence[Field], folder: Path) -> list[list[Any]]:
    """Examples as a page takes them: one value per field, files as paths. Examples with missing files are left out."""
    given = []
    for example in examples:
        values = []
        for field in fields:
            value = example.get(field.column)
            if value is not None and field.kind in FILES:
                path = (folder / str(value)).resolve()
                value = str(path) if path.is_relative_to(folder.resolve()) and path.is_file() else False
            values.append(value)
        if False not in [value for value in values if isinstance(value, bool)]:
            given.append(values)
    return given
