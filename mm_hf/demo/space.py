"""Writes the folder of a Hugging Face Space that shows the page of a checkpoint."""

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__


MODEL = "model"  # the folder of the checkpoint
GRADIO = "6.31.0"  # the version if gradio is not installed
APP = '''"""A page to try the model in `{model}`. Made by `mm_hf demo --space`."""

import os
from pathlib import Path

from mm_hf.demo import build_demo


page = build_demo(str(Path(__file__).parent / "{model}"), title={title})

if __name__ == "__main__":
    # A Space sets the address in the environment. Elsewhere, only this machine can reach the page.
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    page.launch(host=host, port=int(os.environ.get("GRADIO_SERVER_PORT", 7860)))
'''
REQUIREMENTS = """# mm_hf and the extra for its page. If no index has mm_hf, name a wheel beside this file here.
mm_hf[demo]=={version}
"""
README = """---
title: {title}
colorFrom: blue
colorTo: gray
sdk: gradio
sdk_version: {gradio}
app_file: app.py
pinned: false
---

# {heading}

{about}

The page runs the checkpoint in `{model}` with the code of mm_hf. It runs no code from
the checkpoint. {examples}
"""


def is_free(folder: Path) -> bool:
    """Whether a folder does not exist, or is empty."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def write_files(folder: Path, title: str, about: str, recipe: Mapping[str, Any], examples: Sequence[Any]) -> Path:
    """Writes `app.py`, `requirements.txt`, `README.md`, and the names of the columns beside the checkpoint in `model`.

    Args:
        folder: an existing folder that contains the checkpoint.
        title: of the page.
        about: a sentence about its inputs and answers.
        recipe: the keys of a recipe that name columns.
        examples: the examples of the page.
    """
    try:
        version = metadata.version("gradio")
    except metadata.PackageNotFoundError:
        version = GRADIO
    shown = "Its examples are rows of the data that the model was tested on." if examples else "It shows no data."
    words = {"heading": " ".join(title.split()), "about": about, "model": MODEL, "examples": shown, "gradio": version}
    write(folder / "README.md", README.format(title=json.dumps(title, ensure_ascii=False), **words))
    write(folder / "app.py", APP.format(model=MODEL, title=repr(title)))
    write(folder / "requirements.txt", REQUIREMENTS.format(version=__version__))
    write(folder / ".gitattributes", "*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    write(folder / MODEL / "recipe.json", json.dumps(recipe, ensure_ascii=False, indent=2) + "\n")
    return folder


def write(file: Path, text: str):
    """Writes a text."""
    file.write_text(text, encoding="utf-8")
