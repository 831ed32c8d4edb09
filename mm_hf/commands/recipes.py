"""Lists the recipes of the package, shows one, or copies one so that you can change it.

    mm_hf recipes list
    mm_hf recipes show easy_vqa
    mm_hf recipes copy easy_vqa
    mm_hf recipes copy easy_vqa mine/colours.yaml

A packaged recipe also runs without a copy: mm_hf train easy_vqa.yaml. If a recipe is based on another recipe, both are
copied, because they have to be in the same folder.
"""

import argparse
import sys
from pathlib import Path

from ..models.names import did_you_mean
from ..training.recipe_files import RECIPE_ENDINGS, packaged_recipes, read_yaml


def script():
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="mm_hf recipes", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", metavar="list | show NAME | copy NAME [TO]")
    commands.add_parser("list", help="list all recipes with a short description")
    show = commands.add_parser("show", help="print a recipe")
    copy = commands.add_parser("copy", help="copy a recipe and the recipes that it is based on")
    for command in (show, copy):
        command.add_argument("name", metavar="NAME", help="name of the recipe, with or without .yaml")
    copy.add_argument(
        "to", metavar="TO", nargs="?", type=Path, default=Path(), help="folder or .yaml file; default: this folder"
    )
    copy.add_argument("--force", action="store_true", help="overwrite existing files that differ")
    options = parser.parse_args()
    try:
        if options.command == "show":
            print(find(options.name).read_text(encoding="utf-8"), end="")
        elif options.command == "copy":
            copy_recipe(find(options.name), options.to, options.force)
        else:
            print(listed())
    except (OSError, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def listed() -> str:
    """All recipes, each with the first line of its file, which describes it."""
    recipes = packaged_recipes().values()
    width = max(len(file.stem) for file in recipes) + 2
    return "\n".join(f"{file.stem:<{width}}{first_line(file)}" for file in recipes)


def first_line(file: Path) -> str:
    """The comment on the first line of a recipe."""
    with open(file, encoding="utf-8") as lines:
        return lines.readline().lstrip("# ").rstrip()


def find(name: str) -> Path:
    """The file of a packaged recipe.

    Raises:
        ValueError: there is no recipe with this name.
    """
    recipes = {file.stem: file for file in packaged_recipes().values()}
    stem = name.removesuffix(".yaml")
    if stem not in recipes:
        hint = did_you_mean(stem, recipes) or " `mm_hf recipes list` lists them."
        raise ValueError(f"the package has no recipe {name!r}.{hint}")
    return recipes[stem]


def copy_recipe(recipe: Path, to: Path, force: bool):
    """Copies a recipe and the recipes that it is based on. Either all are copied or none. If `to` is a file, the other
    recipes are written beside it under their own names.

    Raises:
        ValueError: a file exists and differs, and `force` is False.
    """
    target = to if to.suffix in RECIPE_ENDINGS else to / recipe.name
    copies = {target: recipe}
    while base := read_yaml(recipe).get("base"):
        recipe = recipe.with_name(base)
        copies[target.with_name(base)] = recipe
    texts = {file: source.read_bytes() for file, source in copies.items()}
    existing = {file for file in texts if file.exists()}
    differ = sorted(str(file) for file in existing if file.is_dir() or file.read_bytes() != texts[file])
    if differ and not force:
        raise ValueError(f"{', '.join(differ)} exists already and differs: name another place, or give --force.")
    target.parent.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        same = file in existing and str(file) not in differ
        if not same:
            file.write_bytes(text)
        print(f"{file}: {'exists already, with the same content' if same else 'written'}")
    print(f"to train: mm_hf train {target}")


if __name__ == "__main__":
    script()
