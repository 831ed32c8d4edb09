"""Finds the data of a run that is opened from another folder. Recipes keep paths as the user gave them."""

import glob
import os
from pathlib import Path
from typing import Any

from .provenance import checkout


# Key of recipe.json: the folder that its relative paths start from, as a path relative to the run's folder. So it
# stays valid if both are moved together, and it shows nothing about the machine.
WORKING_DIR = "working_dir"


def working_dir(output_dir: Path) -> str | None:
    """The current folder, relative to a run's folder; None if there is no relative path between the two."""
    try:
        return Path(os.path.relpath(os.getcwd(), os.path.realpath(output_dir))).as_posix()
    except ValueError:  # two drives of Windows
        return None


def find_data(recipe: dict[str, Any], run_folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The recipe.json of a run, with paths of its data and imported files that are valid from the current folder; and
    notes about paths that were changed.

    A relative path starts from the folder that the run was started in. If the run does not know that folder, or was
    moved without its data, these are tried in order: the current folder, the repository, and the two folders above the
    run. A path that is found in none of them stays as it is; it may be a Hub id.
    """
    run_folder = Path(os.path.realpath(run_folder))
    began = recipe.get(WORKING_DIR)
    bases = [] if began is None else [os.path.normpath(run_folder / began)]
    repository = checkout()
    bases += [os.getcwd(), *([] if repository is None else [str(repository)])]
    bases += [str(run_folder.parent), str(run_folder.parent.parent)]
    resolved, notes = dict(recipe), []

    def find(key: str, given: Any) -> Any:
        if not isinstance(given, str) or os.path.isabs(given):
            return given
        places = (os.path.normpath(os.path.join(base, given)) for base in bases)
        place = next((place for place in places if os.path.exists(place) or glob.glob(place, recursive=True)), None)
        if place is None or os.path.realpath(place) == os.path.realpath(given):
            return given
        notes.append(f"{key} {given!r} of {run_folder.name} is {place}")
        return place

    for key in [key for key in ("dataset", "data_root", "import") if key in recipe]:
        given = recipe[key]
        resolved[key] = [find(key, file) for file in given] if isinstance(given, list) else find(key, given)
    return resolved, notes
