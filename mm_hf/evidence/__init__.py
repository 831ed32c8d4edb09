"""What an answer rests on: which modality, where in it, and how far to believe that.

import mm_hf.evidence
mm_hf.evidence.explain("runs/houses", "new.csv")["rows"][0]["answers"]
"""

from importlib import import_module
from typing import Any


def explain(run: str, rows: Any = None, **options: Any) -> dict[str, Any]:
    """Explains rows, as `mm_hf explain` does, and gives what that writes into evidence.json.

    Args:
        run: folder of a run or checkpoint, or Hub id.
        rows: a file as `mm_hf explain` takes it, or a list of dicts by the columns of the run; None: its test part.
        options: the flags of `mm_hf explain` by their names, such as `absence="token"`.

    Raises:
        ValueError: rows, columns or options that do not fit.
    """
    return import_module("mm_hf.commands.explain").explain(run, rows, **options)


__all__ = ["explain"]
