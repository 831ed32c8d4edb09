"""Where the data of a run are, for whoever opens it from another folder: recipes keep paths as they were given."""

import glob
import os
from pathlib import Path
from typing import Any

from .provenance import checkout


# Key of recipe.json: the folder that its relative paths start from, seen from the run's folder. Like this it holds
# when both are moved together, and tells nobody where on a machine they were.
WORKING_DIR = "working_dir"


def working_dir(output_dir: Path) -> str | None:
    """The present folder, seen from that of a run; None where no relative path leads from one to the other."""
    try:
        return Path(os.path.relpath(os.getcwd(), os.path.realpath(output_dir))).as_posix()
    except ValueError:  # two drives of Windows
        return None


def find_data(recipe: dict[str, Any], run_folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The recipe.json of a run with the places of its data, and of what it imports, as they are seen from the present
    folder; and what to say of data that are not below that.

    A relative path starts from the folder that the run was started in. Of a run that does not know it, or was moved
    without its data, the present folder, the repository and the two folders above the run are tried, in this order;
    what is in none of them is left as it is, as a Hub id.
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
