"""A page on which people try a checkpoint: they give what they have, and read the answer and what it rests on.

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
        options: the flags of `mm_hf demo` by their names, such as `examples=0`.

    Returns:
        a `DemoPage`, whose `launch` starts a server.

    Raises:
        ValueError: options that do not fit, or a checkpoint that answers nothing.
        ImportError: gradio is not installed.
    """
    return import_module("mm_hf.commands.demo").build_demo(run, **options)


def write_space(run: str, folder: str | Path, **options: Any) -> Path:
    """Writes the folder of a Space of the Hugging Face Hub that shows the same page: `app.py`, `requirements.txt`,
    `README.md` and the checkpoint. It uploads nothing.

    Args:
        run: folder of a run or checkpoint.
        folder: that is empty, or not there.
        options: the flags of `mm_hf demo` by their names. Without `examples` no row of the run's data is written.

    Returns:
        the folder.

    Raises:
        ValueError: options that do not fit, a folder that is not empty, or a checkpoint that answers nothing.
    """
    return import_module("mm_hf.commands.demo").write_space(run, folder, **options)


__all__ = ["build_demo", "write_space"]
