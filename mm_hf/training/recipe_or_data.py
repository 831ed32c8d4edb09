"""The first word after `mm_hf train`: a recipe of the user, a recipe of the package, or the data."""

import os
import re
from dataclasses import fields
from glob import has_magic
from pathlib import Path

from ..models.names import did_you_mean
from .data_arguments import DataArguments
from .model_arguments import ModelArguments
from .recipe_files import RECIPE_ENDINGS, YamlError, packaged_recipes, read_yaml
from .train_arguments import TrainArguments


DATA_ENDING = re.compile(r"\.(csv|tsv|jsonl?|parquet|tar)(\.(gz|bz2|xz|zst|zip))?$")


def recipe_or_data(word: str | None, quiet: bool = False) -> tuple[Path | None, str | None]:
    """Decides whether the first word is a recipe or data. Returns the file of the recipe, or the value of `dataset`,
    or None for both if there is no word. A recipe ends in .yaml or .yml, or is a file that holds only keys of recipes;
    everything else is data. A name without a folder that is no file here may be a recipe of the package; unless
    `quiet`, a line says so.

    Raises:
        ValueError: one line: there is no such recipe, or the word looks like a file but there is none.
    """
    if word is None:
        return None, None
    path, packaged = Path(word), packaged_recipes()
    bare = path.name == word
    if word.lower().endswith(RECIPE_ENDINGS) or holds_keys(path):
        if bare and word in packaged and not path.exists():
            if not quiet and int(os.environ.get("RANK", 0)) == 0:
                note = f"`mm_hf recipes copy {path.stem}` makes a copy to change"
                print(f"recipe {word}: from the package, since there is no such file here ({note})", flush=True)
            return packaged[word], None
        if not path.exists() and path.name in packaged:
            raise YamlError(
                f"there is no file {word!r}. The package has a recipe of this name: give {path.name!r}, without a "
                "folder."
            )
        if bare and not path.exists() and (meant := did_you_mean(word, [*recipes_in(path.parent), *packaged])):
            raise YamlError(f"there is no file {word!r}.{meant}")
        return path, None
    if path.is_dir() and recipes_in(path) == sorted(file.name for file in path.iterdir()) != []:
        raise YamlError(f"{word!r} is a folder of recipes: name one of them, {', '.join(recipes_in(path))}.")
    if path.exists() or has_magic(word):
        return None, word
    as_recipe, recipes = f"{path.name}.yaml", [*recipes_in(path.parent), *(packaged if bare else [])]
    if not DATA_ENDING.search(word) and (meant := did_you_mean(as_recipe, recipes, cutoff=0.75)):
        raise YamlError(f"there is no file {word!r}.{meant} (For a data set from the Hub: --dataset {word}.)")
    if path.is_absolute() or word.startswith(".") or word.count("/") > 1 or DATA_ENDING.search(word):
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise YamlError(f"there is no file or folder {word!r}.{did_you_mean(path.name, beside)}")
    return None, word


def holds_keys(path: Path) -> bool:
    """Whether a file with another ending holds only keys of a recipe. Recipes of older versions may be such files."""
    if not path.is_file() or (DATA_ENDING.search(path.name) and path.suffix != ".json"):
        return False
    try:
        values = read_yaml(path)
    except (OSError, ValueError):
        return False
    known = {key.name for group in (ModelArguments, DataArguments, TrainArguments) for key in fields(group)}
    return isinstance(values, dict) and bool(values) and set(values) <= {*known, "base", "import"}


def recipes_in(folder: Path) -> list[str]:
    """The sorted names of the YAML files in a folder; an empty list if there is no such folder."""
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return sorted(name for name in names if name.endswith(RECIPE_ENDINGS))


def name_of_data(data: str) -> str:
    """The name of a run on this data: `houses` for houses.csv, data/houses, me/houses and houses/*.tar."""
    parts = [part for part in Path(os.path.abspath(data) if data.strip("./") == "" else data).parts if part != ".."]
    for part in reversed(parts):
        name = DATA_ENDING.sub("", part)
        if name.strip("/\\") and not has_magic(name) and "{" not in name:
            return name
    return "run"
