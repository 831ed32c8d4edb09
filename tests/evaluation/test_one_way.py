"""The files of mm_hf/evaluation use one another in one direction."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path


def test_no_file_of_the_evaluation_needs_one_that_needs_it():
    """Imports inside functions count too: they are where circles hide."""
    folder = Path(__file__).parents[2] / "mm_hf" / "evaluation"
    uses = {}
    for file in folder.glob("*.py"):
        nodes = ast.walk(ast.parse(file.read_text()))
        found = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module}
        uses[file.stem] = found
    assert {"metrics", "texts", "kinds"} <= set(uses)
    TopologicalSorter(uses).prepare()  # raises where there is a circle
