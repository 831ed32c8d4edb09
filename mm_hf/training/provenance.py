"""The origin of a run's results: the code, the packages and the machine."""

import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import __version__


PACKAGE = Path(__file__).resolve().parent.parent


@cache
def checkout() -> Path | None:
    """The root of the repository in which this package is developed. None if the package is installed, even if it is
    inside another project's repository (an environment in that project's folder, or a copy beside its code)."""
    root, file = PACKAGE.parent, f"{PACKAGE.name}/__init__.py"
    project = root / "pyproject.toml"
    if not (root / ".git").exists() or not project.is_file():
        return None
    if not re.search(rf"^name\s*=\s*[\"']{PACKAGE.name}[\"']", project.read_text(encoding="utf-8"), re.MULTILINE):
        return None
    command = ["git", "-C", str(root), "ls-files", "--error-unmatch", file]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:  # git is not installed
        return None
    return root if done.returncode == 0 else None


def commit_or_version() -> str:
    """The commit of the code, with `-dirty` if files were changed. Outside a checkout, the version, such as
    `mm_hf 0.5.0`."""
    root = checkout()
    if root is not None:
        command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if commit := done.stdout.strip():
            return commit
    return f"mm_hf {__version__}"


def origin(**more: str) -> dict[str, Any]:
    """Commit, versions and hardware, in the form of reports; `more` adds versions."""
    return {"commit": commit_or_version(), "versions": {**more, **versions()}, "hardware": hardware()}


def versions() -> dict[str, str]:
    """Versions of the packages that the results depend on."""
    packages = ("torch", "transformers", "datasets", "accelerate", "safetensors", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def hardware() -> dict:
    """The machine of the run."""
    facts = {"machine": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts
