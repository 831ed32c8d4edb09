"""The keys of a recipe, which are the flags of the scripts too: how both are read.

`mm_hf train recipe.yaml --learning_rate 1e-3`: the file first, then the flags; a flag wins, and an unknown key is
refused. A recipe that names another one as its `base`, from its own folder, takes over all keys that it does not have.
"""

from argparse import SUPPRESS
from dataclasses import fields

from ..models.names import did_you_mean
from .data_arguments import DataArguments
from .flags import ArgumentParser
from .model_arguments import ModelArguments
from .recipe_files import RECIPE_ENDINGS, read_recipe
from .recipe_or_data import name_of_data, recipe_or_data
from .train_arguments import TrainArguments
from .values import checked_values


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


def training_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf train` and `mm_hf finetune`."""
    usage = f"{prog} [RECIPE.yaml | DATA] [flags]"
    parser = ArgumentParser(ALL_ARGUMENTS, prog=prog, usage=usage, description=description)
    parser.add_argument(
        "source",
        nargs="?",
        metavar="RECIPE.yaml | DATA",
        help="a YAML file with any of the keys below, or the name of a packaged one (mm_hf recipes list); what does "
        "not end in .yaml or .yml is the data, as --dataset",
    )
    return parser


def parse_arguments(
    description: str, words: list[str] | None = None, prog: str = "mm_hf train"
) -> tuple[str, ModelArguments, DataArguments, TrainArguments]:
    """Reads the recipe or the name of the data that stands first on the command line, if one does, and the flags.

    Args:
        description: of the script, for its help.
        words: in place of those of the command line.
        prog: what the script is called.

    Returns:
        the run's name (that of the recipe, else that of the data; `run` where only flags are given), and the three
        groups of arguments.

    Raises:
        SystemExit: with one line, for an unknown key or a value that does not fit.
    """
    parser = training_parser(description, prog)
    parsed, others = parser.parse_known_args(words)
    source, known = parsed.source, {key.name for group in ALL_ARGUMENTS for key in fields(group)}
    if flags := [word.split("=")[0] for word in others if word.startswith("--")]:
        # Said before the recipe is read, since the flag's value may have been taken for one.
        parser.error(f"unknown flag {flags[0]}.{did_you_mean(flags[0][2:], parser.names())}")
    if others:
        parser.error(
            f"{source!r:.80} and {others[0]!r:.80} both stand for the recipe or the data: name the data of a "
            "recipe as --dataset."
        )
    name = "run"
    try:
        recipe, data = recipe_or_data(source)
        if recipe is not None:
            values = read_recipe(recipe)
            if unknown := sorted(map(str, set(values) - known)):
                meant = did_you_mean(unknown[0], known)
                raise ValueError(f"unknown key {unknown[0]!r:.80}.{meant}")
            if isinstance(values.get("allow_changes"), bool):  # these are two of its words
                values["allow_changes"] = str(values["allow_changes"]).lower()
            parser.set_defaults(**checked_values(values, ALL_ARGUMENTS, FORMS))
            name = recipe.name.rsplit(".", 1)[0]
    except (OSError, ValueError) as error:
        parser.error(f"recipe {source}: {error}" if source.lower().endswith(RECIPE_ENDINGS) else str(error))
    if data is not None:
        if parsed.dataset not in (None, data):
            parser.error(f"the data are named twice, as {data!r} and as --dataset {parsed.dataset!r}: keep one.")
        parser.set_defaults(dataset=data)
        name = name_of_data(data)
    try:
        model_args, data_args, train_args, _ = parser.parse_args_into_dataclasses(words)
    except ValueError as error:
        parser.error(str(error))
    return name, model_args, data_args, train_args


def given_keys(words: list[str] | None = None) -> set[str]:
    """The keys that the recipe or the command line gives; those of a recipe without a value are left out."""
    parser = training_parser("", "mm_hf train")
    for action in parser._actions:
        action.default = SUPPRESS
    found = vars(parser.parse_known_args(words)[0])
    recipe, data = recipe_or_data(found.pop("source", None), quiet=True)
    values = {"dataset": data} if recipe is None else read_recipe(recipe)
    return set(found) | {key for key, value in values.items() if value is not None}
