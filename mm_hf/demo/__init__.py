"""A web page to try a checkpoint: give inputs, read the answer and what it rests on.

import mm_hf.demo
mm_hf.demo.build_demo("runs/houses").launch()
mm_hf.demo.write_space("runs/houses", "space")
"""

from importlib import import_module
from pathlib import Path
from typing import Any


def build_demo(run: str, **options: Any) -> Any:
    """Makes the page of a checkpoint: see `mm_hf demo`.

    Args:
        run: folder of a run or checkpoint, or Hub id.
        options: the flags of `mm_hf demo` by name, such as `examples=0`.

    Returns:
        a `DemoPage`. Its method `launch` starts a server.

    Raises:
        ValueError: an option does not fit, or the checkpoint does not answer rows.
        ImportError: gradio is not installed.
    """
    return import_module("mm_hf.commands.demo").build_demo(run, **options)


def write_space(run: str, folder: str | Path, **options: Any) -> Path:
    """Writes the folder of a Hugging Face Space that shows the same page: `app.py`, `requirements.txt`, `README.md`
    and the checkpoint. It uploads nothing.

    Args:
        run: folder of a run or checkpoint.
        folder: an empty folder, or a folder that does not exist yet.
        options: the flags of `mm_hf demo` by name. Without `examples`, no row of the run's data is written.

    Returns:
        the folder.

    Raises:
        ValueError: an option does not fit, the folder is not empty, or the checkpoint does not answer rows.
    """
    return import_module("mm_hf.commands.demo").write_space(run, folder, **options)


__all__ = ["build_demo", "write_space"]
