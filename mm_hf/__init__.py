"""mm_hf: fuse pretrained encoders of any modality by cross-attention, and keep the result as one Hub checkpoint.

Importing this package registers the config, the models and the processor with the Auto classes of transformers.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any


__version__ = "0.2.0"


def _is_the_command() -> bool:
    """Whether this process is the command `mm_hf`, or `python -m mm_hf`, and not somebody's program."""
    words, started = sys.orig_argv, (getattr(sys, "argv", None) or [""])[0]
    if "-m" in words[:-1]:
        return started == "-m" and words[words.index("-m") + 1] == "mm_hf"
    # The script that `pip install` makes, and not another file of that name: it is in the interpreter's folder.
    return Path(started).stem == "mm_hf" and Path(started).absolute().parent == Path(sys.executable).absolute().parent


if TYPE_CHECKING or not _is_the_command():
    from .api import *  # noqa: F403
    from .api import __all__ as __all__
else:
    # The command shows its help before torch and transformers load: each verb imports what it needs when it runs.
    def __getattr__(name: str) -> Any:
        return getattr(import_module(".api", __name__), name)
