"""mm_hf: fuse pretrained encoders of any modality by cross-attention, and keep the result as one Hub checkpoint.

Importing this package registers the config, the models and the processor with the Auto classes of transformers.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"


def _is_the_command() -> bool:
    """Whether this process is the command `mm_hf`, or `python -m mm_hf`, and not somebody's program."""
    started = (getattr(sys, "argv", None) or [""])[0]
    return Path(started).stem == "mm_hf" or (started == "-m" and "mm_hf" in sys.orig_argv)


if TYPE_CHECKING or not _is_the_command():
    from .api import *  # noqa: F403
    from .api import __all__ as __all__
else:
    # The command shows its help without waiting for torch and transformers: a verb imports what it needs when it runs.
    def __getattr__(name: str) -> Any:
        return getattr(import_module(".api", __name__), name)
