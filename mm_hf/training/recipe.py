"""The keys of a recipe, which are the flags of the scripts too: how both are read.

`mm_hf train recipe.yaml --learning_rate 1e-3`: the file first, then the flags; a flag wins, and an unknown key is
refused. A recipe that names another one as its `base`, from its own folder, takes over all keys that it does not have.
"""

from argparse import SUPPRESS
from dataclasses import fields
from pathlib import Path

from ..models.names import did_you_mean
from .data_arguments import DataArguments
from .model_arguments import ModelArguments
from .recipe_files import read_recipe
from .train_arguments import TrainArguments
from .values import ArgumentParser, checked_values


# What a key may also be in a recipe, and not as a flag.
FORMS = {
    "freeze_encoders": list[str],
    "modality_dropout": dict[str, object],  # the config says what each may be
    "problem_type": dict[str, str],
    "weight_column": dict[str, str],
    "task_weights": dict[str, float],
    "trained_layers": dict[str, int],
}
ALL_ARGUMENTS = (ModelArguments, DataArguments, TrainArguments)


def parse_arguments(
    description: str, words: list[str] | None = None
) -> tuple[str, ModelArguments, DataArguments, TrainArguments]:
    """Reads the recipe named first on the command line, if one is, and the flags.

    Args:
        description: of the script.
        words: in place of those of the command line.

    Returns:
        the recipe's name (`run` without one), and the three groups of arguments.

    Raises:
        SystemExit: with one line, for an unknown key or a value that does not fit.
    """
    parser = ArgumentParser(ALL_ARGUMENTS, description=description, allow_abbrev=False)
    parser.add_argument("recipe", nargs="?", help="A YAML file with any of these keys.")
    parsed, others = parser.parse_known_args(words)
    recipe, known = parsed.recipe, {key.name for group in ALL_ARGUMENTS for key in fields(group)}
    if flags := [word.split("=")[0] for word in others if word.startswith("--")]:
        # Said before the recipe is read, since the flag's value may have been taken for one.
        parser.error(f"unknown flag {flags[0]}.{did_you_mean(flags[0][2:], known)}")
    if recipe is not None:
        try:
            values = read_recipe(Path(recipe))
            if unknown := sorted(map(str, set(values) - known)):
                meant = did_you_mean(unknown[0], known)
                raise ValueError(f"unknown key {unknown[0]!r:.80}.{meant}")
            if isinstance(values.get("allow_changes"), bool):  # these are two of its words
                values["allow_changes"] = str(values["allow_changes"]).lower()
            parser.set_defaults(**checked_values(values, ALL_ARGUMENTS, FORMS))
        except (OSError, ValueError) as error:
            parser.error(f"recipe {recipe}: {error}")
    try:
        model_args, data_args, train_args, _ = parser.parse_args_into_dataclasses(words)
    except ValueError as error:
        parser.error(str(error))
    name = "run" if recipe is None else recipe.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return name, model_args, data_args, train_args


def given_keys(words: list[str] | None = None) -> set[str]:
    """The keys that the recipe or the command line gives; those of a recipe without a value are left out."""
    parser = ArgumentParser(ALL_ARGUMENTS, allow_abbrev=False)
    parser.add_argument("recipe", nargs="?")
    for action in parser._actions:
        action.default = SUPPRESS
    found = vars(parser.parse_known_args(words)[0])
    recipe = found.pop("recipe", None)
    values = {} if recipe is None else read_recipe(Path(recipe))
    return set(found) | {key for key, value in values.items() if value is not None}
