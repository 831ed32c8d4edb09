"""The record of rows that could not be used: counted, bounded, and written down."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..models.names import did_you_mean
from .rows import describe_bad_row


ON_ERROR = ("raise", "skip")


def check_on_error(on_error: str):
    """Refuses what is neither of the two."""
    if on_error not in ON_ERROR:
        meant = did_you_mean(on_error, ON_ERROR)
        raise ValueError(f"on_error must be one of {list(ON_ERROR)}, got {on_error!r}.{meant}")


class BadRows:
    """Collects the entries of `BadRowError`, each place (split, row, column) once, however often it comes by.

    Args:
        max_fraction: of the rows of a split that may be bad before `check` stops the run.
        on_error: `"skip"` collects; `"raise"` stops at the first entry.

    Raises:
        ValueError: a fraction that is not in [0, 1], or an unknown `on_error`.
    """

    def __init__(self, max_fraction: float, on_error: str):
        check_on_error(on_error)
        if not 0 <= max_fraction <= 1:
            raise ValueError(f"max_bad_fraction must be in [0, 1], got {max_fraction}.")
        self.max_fraction = max_fraction
        self.on_error = on_error
        self.places: dict[tuple, dict[str, Any]] = {}

    def add(self, entries: Iterable[dict[str, Any]]):
        """Takes entries in; of one place the first is kept."""
        for entry in entries:
            if self.on_error == "raise":
                raise ValueError(f"A bad row, and on_error is 'raise': {describe_bad_row(entry)}")
            self.places.setdefault((entry["split"], entry["row"], entry["column"] or ""), entry)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """All entries, by split, row and column."""
        return [self.places[place] for place in sorted(self.places)]

    def count(self, split: str) -> int:
        """How many rows of a split are bad; one that is bad in two columns counts once."""
        return len({row for name, row, _ in self.places if name == split})

    def check(self, totals: dict[str, int]):
        """Stops a run that loses too many rows; `totals` are rows by split, and other splits are not looked at."""
        for split, rows in totals.items():
            bad = self.count(split)
            if bad > self.max_fraction * rows:
                first = next(entry for entry in self.entries if entry["split"] == split)
                raise ValueError(
                    f"{bad} of {rows} rows of split {split!r} are bad, a fraction of {bad / max(rows, 1):.4f}; "
                    f"max_bad_fraction is {self.max_fraction}. The first one: {describe_bad_row(first)}"
                )

    def write(self, path: str | os.PathLike):
        """Writes one JSON object a line, sorted; beside the file first and then renamed, so that it is never half
        written."""
        path = Path(path)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.entries]
        beside.write_text("".join(lines), encoding="utf-8")
        os.replace(beside, path)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"entries": self.entries}

    def load_state_dict(self, state: dict[str, Any]):
        """Takes the entries of a checkpoint in place of its own."""
        self.places = {(entry["split"], entry["row"], entry["column"] or ""): entry for entry in state["entries"]}
