"""Runs the notebooks of this folder from top to bottom and keeps what they print: `make notebooks`.

Each runs in a new folder, with the encoders and data of the repository's `data/` where they are built, else it builds
its own. What is kept says nothing of the machine: no paths, no times, no names.
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient


FOLDER = Path(__file__).resolve().parent
DATA = FOLDER.parents[1] / "data"
BUILT = ("encoders", "openmoji")  # what the notebooks make with `mm_hf prepare`
COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def execute(file: Path, folder: Path, data: Path = DATA) -> nbformat.NotebookNode:
    """Runs a notebook.

    Args:
        folder: a new one, to run in.
        data: where `encoders` and `openmoji` may have been built.

    Returns:
        the notebook with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    (folder / "data").mkdir()
    for name in BUILT:
        if (data / name).is_dir():
            (folder / "data" / name).symlink_to(data / name, target_is_directory=True)
    notebook = nbformat.read(file, as_version=4)
    # `!mm_hf` is the command of this environment, and what IPython keeps lies in the folder.
    here = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    here |= {"IPYTHONDIR": str(folder / ".ipython"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    client = NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**os.environ, **here})
    return clean(notebook, folder)


def clean(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Leaves out times, colours and the stream of errors (progress bars, and warnings that name paths), joins what was
    printed in pieces, and names the folder of the run `…`."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        outputs: list = []
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                continue
            if output.output_type == "stream":
                output.text = COLOURS.sub("", output.text).replace("\r\n", "\n").replace(str(folder), "…")
                if outputs and outputs[-1].output_type == "stream":
                    outputs[-1].text += output.text
                    continue
            outputs.append(output)
        if "outputs" in cell:
            cell.outputs = outputs
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main():
    for file in sorted(FOLDER.glob("*.ipynb")):
        folder = Path(tempfile.mkdtemp(prefix="notebook-"))
        try:
            nbformat.write(execute(file, folder), file)
        finally:
            shutil.rmtree(folder)
        print(f"{file.name}: {file.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
