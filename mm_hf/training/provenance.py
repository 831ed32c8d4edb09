"""What a run's figures come from: the code, the packages and the machine."""

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
    """The root of the repository that this very package is developed in; None where the package is installed, though
    it may lie below somebody else's repository (an environment in a project's folder, a copy beside their code)."""
    root, file = PACKAGE.parent, f"{PACKAGE.name}/__init__.py"
    project = root / "pyproject.toml"
    if not (root / ".git").exists() or not project.is_file():
        return None
    if not re.search(rf"^name\s*=\s*[\"']{PACKAGE.name}[\"']", project.read_text(encoding="utf-8"), re.MULTILINE):
        return None
    command = ["git", "-C", str(root), "ls-files", "--error-unmatch", file]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:  # there is no git
        return None
    return root if done.returncode == 0 else None


def commit_or_version() -> str:
    """The commit that the code is at, with `-dirty` where files were changed; outside of a checkout its version, such
    as `mm_hf 0.5.0`."""
    root = checkout()
    if root is not None:
        command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if commit := done.stdout.strip():
            return commit
    return f"mm_hf {__version__}"


def origin(**more: str) -> dict[str, Any]:
    """All of it, as reports keep it; `more` are versions beside the others."""
    return {"commit": commit_or_version(), "versions": {**more, **versions()}, "hardware": hardware()}


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("torch", "transformers", "datasets", "accelerate", "safetensors", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def hardware() -> dict:
    """What the run ran on."""
    facts = {"machine": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts
