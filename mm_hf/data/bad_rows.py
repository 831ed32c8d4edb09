"""The record of rows that could not be used. It counts them, limits their number, and writes them to a file."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..models.names import did_you_mean
from .rows import describe_bad_row


ON_ERROR = ("raise", "skip")


def check_on_error(on_error: str):
    """Raises if `on_error` is neither of the two."""
    if on_error not in ON_ERROR:
        meant = did_you_mean(on_error, ON_ERROR)
        raise ValueError(f"on_error must be one of {list(ON_ERROR)}, got {on_error!r}.{meant}")


class BadRows:
    """Collects the entries of `BadRowError`. Each place (split, row, column) is kept once, even if it is met often.

    Args:
        max_fraction: the share of the rows of a split that may be bad. Above it `check` stops the run.
        on_error: `"skip"` collects the entries; `"raise"` stops at the first entry.

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
        """Adds entries. If a place comes several times, the first entry is kept."""
        for entry in entries:
            if self.on_error == "raise":
                raise ValueError(
                    f"A row is bad, and on_error is 'raise' ('skip' leaves bad rows out): {describe_bad_row(entry)}"
                )
            self.places.setdefault((entry["split"], entry["row"], entry["column"] or ""), entry)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """All entries, by split, row and column."""
        return [self.places[place] for place in sorted(self.places)]

    def count(self, split: str) -> int:
        """The number of bad rows of a split. A row that is bad in two columns counts once."""
        return len({row for name, row, _ in self.places if name == split})

    def check(self, totals: dict[str, int]):
        """Stops a run that loses too many rows. `totals` has the number of rows by split; other splits are ignored."""
        for split, rows in totals.items():
            bad = self.count(split)
            if bad > self.max_fraction * rows:
                first = next(entry for entry in self.entries if entry["split"] == split)
                raise ValueError(
                    f"{bad} of {rows} rows of split {split!r} are bad, a fraction of {bad / max(rows, 1):.4f}; "
                    f"max_bad_fraction is {self.max_fraction}. Fix the rows, or raise max_bad_fraction. "
                    f"The first bad row: {describe_bad_row(first)}"
                )

    def write(self, path: str | os.PathLike):
        """Writes one JSON object per line, sorted. It writes a temporary file and then renames it, so that the file is
        never half written."""
        path = Path(path)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.entries]
        beside.write_text("".join(lines), encoding="utf-8")
        os.replace(beside, path)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"entries": self.entries}

    def load_state_dict(self, state: dict[str, Any]):
        """Replaces the entries by those of a checkpoint."""
        self.places = {(entry["split"], entry["row"], entry["column"] or ""): entry for entry in state["entries"]}
