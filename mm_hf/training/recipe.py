"""Reads the keys of a recipe, which are also the flags of the scripts.

`mm_hf train recipe.yaml --learning_rate 1e-3`: the file comes first, then the flags. A flag overrides the file, and an
unknown key is refused. A recipe may name another recipe in the same folder as its `base`: it takes over all keys that
it does not have itself.
"""

import argparse
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..models.files import read_json
from ..models.names import did_you_mean
from .by_modality import KEPT, listed, short_forms
from .data_arguments import DataArguments
from .flags import NOT_GIVEN, ArgumentParser
from .model_arguments import ModelArguments
from .recipe_files import RECIPE_ENDINGS, read_recipe
from .recipe_or_data import name_of_data, recipe_or_data
from .train_arguments import TrainArguments
from .values import checked_value, checked_values


ALL_ARGUMENTS = (ModelArguments, DataArguments, TrainArguments)
IMPORT, IMPORT_FILES = "import", "import_files"  # the key, and its field: `import` is a reserved word in Python
# recipe.json has these keys only if they are given, so that runs from before a key existed still match.
ONLY_WHERE_GIVEN = (
    *(IMPORT_FILES, *KEPT),
    *("cache_dir", "cache_limit", "cache_dtype", "encoding_workers", "image_draft"),
    *("split_seed", "folds", "fold", "long_text", "text_windows"),
    *("understand_columns", "ignore_columns", "time_column", "query_modality", "preset", "evidence", "calibrate"),
)


def training_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf train` and `mm_hf finetune`."""
    usage = f"{prog} [RECIPE.yaml | DATA] [flags]"
    parser = ArgumentParser(ALL_ARGUMENTS, prog=prog, usage=usage, description=description)
    parser.add_argument(
        "source",
        nargs="?",
        metavar="RECIPE.yaml | DATA",
        help="a YAML file with any of the keys below, or the name of a packaged recipe (mm_hf recipes list). A name "
        "that does not end in .yaml or .yml is the data, as with --dataset",
    )
    return parser


def parse_arguments(
    description: str, words: list[str] | None = None, prog: str = "mm_hf train"
) -> tuple[str, ModelArguments, DataArguments, TrainArguments]:
    """Reads the command line (or `words` in its place): the flags, and the recipe or data if it is the first word.

    Returns:
        the run's name (the name of the recipe, else of the data, or `run` if there are only flags), and the three
        groups of arguments.

    Raises:
        SystemExit: with one line, for an unknown key or a wrong value.
    """
    parser = training_parser(description, prog)
    import_named(parser, words)
    parsed, others = parser.parse_known_args(words)
    if others and imports_of_recipe(parser, parsed):  # an imported file may have added the unknown flag
        parsed, others = parser.parse_known_args(words)
    source = parsed.source
    if flags := [word.split("=")[0] for word in others if word.startswith("--")]:
        # This comes before the recipe is read, since the flag's value may have been taken for the recipe.
        parser.error(f"unknown flag {flags[0]}.{did_you_mean(flags[0][2:], parser.names())}")
    if others:
        parser.error(
            f"{source!r:.80} and {others[0]!r:.80} are both given as the recipe or the data: give the data of a "
            "recipe as --dataset."
        )
    name = "run"
    try:
        recipe, data = recipe_or_data(source)
        import_first(parsed.import_files, recipe)
        parser.add_imported()
        if recipe is not None:
            values = keys_of(recipe)
            known = known_keys()
            if unknown := sorted(map(str, set(values) - known)):
                meant = did_you_mean(unknown[0], {*known, IMPORT})
                raise ValueError(f"unknown key {unknown[0]!r:.80}.{meant}")
            if isinstance(values.get("allow_changes"), bool):  # its values are texts, and "true" and "false" are two
                values["allow_changes"] = str(values["allow_changes"]).lower()
            parser.set_defaults(**checked_values(values, ALL_ARGUMENTS))
            name = recipe.name.rsplit(".", 1)[0]
    except (OSError, ValueError) as error:
        parser.error(f"recipe {source}: {error}" if str(source).lower().endswith(RECIPE_ENDINGS) else str(error))
    if data is not None:
        if parsed.dataset not in (None, data):
            parser.error(f"the data is named twice, as {data!r} and as --dataset {parsed.dataset!r}: keep one.")
        parser.set_defaults(dataset=data)
        name = name_of_data(data)
    try:
        model_args, data_args, train_args, _ = parser.parse_args_into_dataclasses(words)
    except ValueError as error:
        parser.error(str(error))
    return name, model_args, data_args, train_args


def given_keys(words: list[str] | None = None, prog: str = "mm_hf train") -> set[str]:
    """The keys that the recipe or the command line gives; keys without a value in the recipe are left out. `prog` is
    the name of the command in error messages."""
    parsed = vars(training_parser("", prog).given(words)[0])
    recipe, data = recipe_or_data(parsed.pop("source"), quiet=True)
    values = {"dataset": data} if recipe is None else keys_of(recipe)
    flags = short_forms({key: value for key, value in parsed.items() if value is not NOT_GIVEN}, known_keys())
    return set(flags) | {key for key, value in values.items() if value is not None}


def known_keys() -> set[str]:
    """The keys that a recipe may have, by the names of their fields."""
    return {key.name for group in ALL_ARGUMENTS for key in fields(group)}


def keys_of(recipe: Path) -> dict[str, Any]:
    """The values of a recipe by the names of their fields, in their short forms."""

    def spell(values: dict[str, Any]) -> dict[str, Any]:
        return short_forms(fields_of(values), known_keys())

    return read_recipe(recipe, spell)


def import_named(parser: argparse.ArgumentParser, words: list[str] | None = None):
    """Imports the files that --import names, and adds their flags to a parser before it reads the command line. (It
    would misread the values of a flag that it does not know.)

    Raises:
        SystemExit: with one line, see `import_files`.
    """
    asked = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    asked.add_argument(f"--{IMPORT}", nargs="*")
    try:
        import_first(vars(asked.parse_known_args(words)[0])[IMPORT], None)
        if isinstance(parser, ArgumentParser):
            parser.add_imported()
    except (OSError, ValueError) as error:
        parser.error(str(error))


def imports_of_recipe(parser: ArgumentParser, parsed: argparse.Namespace) -> bool:
    """Imports the files that the recipe on the command line names. Returns whether that worked; if not, the error is
    reported later, when the recipe is read."""
    try:
        import_first(parsed.import_files, recipe_or_data(parsed.source, quiet=True)[0])
        parser.add_imported()
    except (OSError, ValueError):
        return False
    return True


def import_first(files: Iterable[str] | None, recipe: Path | None):
    """Imports the files that flags name, else the files that the recipe names. This comes first, because other keys
    may use what these files register.

    Raises:
        ValueError: see `import_files`.
    """
    if files is None and recipe is not None:
        values = read_recipe(recipe)
        key = IMPORT if IMPORT in values else IMPORT_FILES
        files = None if values.get(key) is None else checked_value(key, list[str], values[key])
    if files:
        from ..data.imported import import_files  # loads torch

        import_files(files)


def import_files_of(recipe: Mapping[str, Any], folder: Path, files: Iterable[str] | None = None):
    """Imports the files that flags name, else the files in a run's recipe (as returned by `find_data`). Prints a note
    if they have changed since the run was trained.

    Raises:
        ValueError: see `import_files`; or the files are inside the run's folder.
    """
    unasked, files = files is None, listed(recipe.get(IMPORT)) if files is None else files
    if not files:
        return
    for file in files if unasked else []:  # a folder from somebody else must not run its own code
        if Path(file).resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"{folder} was trained with {file}, which is inside this folder: its code is from the author of the "
                f"folder, and is not run by itself. Read it, and if you trust it, run it with --import {file}."
            )
    from ..data.imported import import_files
    from .fingerprint import IMPORTED, changed_files, marks_of_imported
    from .run_folder import read_rows_of

    import_files(files)
    before = (read_rows_of(folder).get("fingerprint") or {}).get(IMPORTED, {})
    if int(os.environ.get("RANK", 0)) == 0:
        now = marks_of_imported(files)
        changed = changed_files(before, now) if before else []  # older runs did not record their files
        for name in now:
            hint = "which has changed since" if name in before else "a file with new content since"
            print(f"imported {name}" + (f", {hint} {folder} was trained" if name in changed else ""))


def import_files_for(model: str, files: Iterable[str] | None = None):
    """Imports the files that a checkpoint needs: the files that flags name, else those in the recipe.json beside it.

    Raises:
        ValueError: see `import_files_of`.
    """
    from .places import find_data  # loads torch

    file = Path(model) / "recipe.json"
    recipe = read_json(file) if file.is_file() else {}
    import_files_of(find_data(recipe, file.parent)[0], file.parent, files)


def recipe_of(*groups: Any) -> dict[str, Any]:
    """The values of these groups of arguments by key, in the form of recipe.json."""
    values = {key: value for group in groups for key, value in vars(group).items()}
    given = {key: value for key, value in values.items() if key not in ONLY_WHERE_GIVEN or value is not None}
    return {IMPORT if key == IMPORT_FILES else key: value for key, value in given.items()}


def fields_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recipe.json by the names of their fields."""
    return {IMPORT_FILES if key == IMPORT else key: value for key, value in recipe.items()}
