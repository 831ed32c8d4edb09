"""The notebooks: they run from top to bottom, and what is kept of a run is small and says nothing of a machine."""

import ast
import re
import runpy
from pathlib import Path

import nbformat
import pytest


FOLDER = Path(__file__).parent.parent / "examples/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# A path of a machine (those of a notebook are relative), or a host; `http://127.0.0.1` is this machine.
PRIVATE = re.compile(
    r"(?<![\w.:/])/(?:root|home|work|tmp|opt|var|usr|mnt|Users)/|https?://(?!127\.0\.0\.1)|localhost|@\w"
)


def code_cells(file: Path) -> list:
    return [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]


def words_of(cell) -> str:
    """What a cell printed or showed, without its pictures."""
    said = []
    for output in cell.outputs:
        said.append(output.get("text", ""))
        said += [str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/")]
    return "\n".join(said)


def test_there_are_two():
    assert [file.stem for file in NOTEBOOKS] == ["your_pieces", "your_rows"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_what_is_kept(file):
    assert file.stat().st_size < 200_000
    nbformat.validate(nbformat.read(file, as_version=4))
    cells = code_cells(file)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))  # one run, in order
    for cell in cells:
        assert all(output.output_type != "error" for output in cell.outputs)
        assert not (found := PRIVATE.search(words_of(cell))), (found, words_of(cell))
        code = "\n".join(line for line in cell.source.splitlines() if not line.lstrip().startswith(("!", "%")))
        ast.parse(code)


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file, encoders, openmoji_folder, tmp_path):
    """Anew, with the same kinds of outputs from the same cells; and what it measured beats the most frequent class."""
    built = tmp_path / "built"
    built.mkdir()
    (built / "encoders").symlink_to(encoders)
    (built / "openmoji").symlink_to(openmoji_folder)
    folder = tmp_path / "run"
    folder.mkdir()
    done = runpy.run_path(str(FOLDER / "run.py"))["execute"](file, folder, built)
    cells = [cell for cell in done.cells if cell.cell_type == "code"]
    for cell, kept in zip(cells, code_cells(file)):
        assert [output.output_type for output in cell.outputs] == [output.output_type for output in kept.outputs]
        assert not PRIVATE.search(words_of(cell)), words_of(cell)
    said = "\n".join(map(words_of, cells))
    if file.stem == "your_pieces":
        both, floor = (float(re.search(rf"{name} (0\.\d+)", said)[1]) for name in ("both", "most frequent class"))
        assert both > floor + 0.2
        assert re.search(r"^1 .*mutual_gates", said, flags=re.MULTILINE)
    else:
        assert re.search(r"picture +image +500 of 500 cells name pictures", said)
        assert "'answers'" in said
