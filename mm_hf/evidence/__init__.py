"""What an answer rests on: which modality, which part of it, and how far this can be trusted.

import mm_hf.evidence
mm_hf.evidence.explain("runs/houses", "new.csv")["rows"][0]["answers"]
"""

from importlib import import_module
from typing import Any


def explain(run: str, rows: Any = None, **options: Any) -> dict[str, Any]:
    """Explains rows like `mm_hf explain`, and returns the content of evidence.json.

    Args:
        run: folder of a run or checkpoint, or Hub id.
        rows: a file, as for `mm_hf explain`, or a list of dicts with the columns of the run; None: its test part.
        options: the flags of `mm_hf explain` by name, such as `absence="token"`.

    Raises:
        ValueError: the rows, columns or options do not fit.
    """
    return import_module("mm_hf.commands.explain").explain(run, rows, **options)


__all__ = ["explain"]
