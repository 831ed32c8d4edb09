"""The recipes that the package brings: lists them, shows one, or copies one to change it.

    mm_hf recipes list
    mm_hf recipes show easy_vqa
    mm_hf recipes copy easy_vqa
    mm_hf recipes copy easy_vqa mine/colours.yaml

A packaged recipe runs without a copy too: mm_hf train easy_vqa.yaml. A recipe that is based on another one is copied
with that one, since both have to lie in one folder.
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
    commands.add_parser("list", help="each recipe and what it is about")
    show = commands.add_parser("show", help="print a recipe")
    copy = commands.add_parser("copy", help="copy a recipe, and those that it is based on")
    for command in (show, copy):
        command.add_argument("name", metavar="NAME", help="of the recipe, with or without .yaml")
    copy.add_argument("to", metavar="TO", nargs="?", type=Path, default=Path(), help="folder or .yaml file; here")
    copy.add_argument("--force", action="store_true", help="write over files that are there and differ")
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
    """Each recipe with the first line of its file, which says what it is about."""
    recipes = packaged_recipes().values()
    width = max(len(file.stem) for file in recipes) + 2
    return "\n".join(f"{file.stem:<{width}}{first_line(file)}" for file in recipes)


def first_line(file: Path) -> str:
    """The comment that a recipe begins with."""
    with open(file, encoding="utf-8") as lines:
        return lines.readline().lstrip("# ").rstrip()


def find(name: str) -> Path:
    """The file of a packaged recipe.

    Raises:
        ValueError: there is none of this name.
    """
    recipes = {file.stem: file for file in packaged_recipes().values()}
    stem = name.removesuffix(".yaml")
    if stem not in recipes:
        hint = did_you_mean(stem, recipes) or " `mm_hf recipes list` lists them."
        raise ValueError(f"the package has no recipe {name!r}.{hint}")
    return recipes[stem]


def copy_recipe(recipe: Path, to: Path, force: bool):
    """Copies a recipe and those that it is based on, all or none, to a folder, or to a file, beside which the others
    keep their names.

    Raises:
        ValueError: a file is there and differs, and it is not to be written over (`force`).
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
        raise ValueError(f"{', '.join(differ)} is there already and differs: name another place, or give --force.")
    target.parent.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        same = file in existing and str(file) not in differ
        if not same:
            file.write_bytes(text)
        print(f"{file}: {'there already, the same' if same else 'written'}")
    print(f"to train: mm_hf train {target}")


if __name__ == "__main__":
    script()
