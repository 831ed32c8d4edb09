"""The arguments of `mm_hf predict`: the command line, the checkpoint, and the columns that the model reads."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ... import MMFusionConfig, MMFusionPreTrainedModel, MMFusionProcessor
from ...data import Columns
from ...models.files import read_json
from ...models.modality import modality_of
from ...models.names import did_you_mean
from ...training.by_modality import columns_by_modality, key_in_use, listed, missing_columns, short_keys
from ...training.data_arguments import keep_plain
from ...training.flags import ArgumentParser
from ...training.heads import HEADS
from ...training.model_arguments import RETRIEVAL
from ...training.places import find_data
from ...training.recipe import fields_of, import_files_of, import_named
from ...training.reopen import check_checkpoint, config_of
from ...training.splits import columns_in_use
from ...training.understood import data_root_beside
from ...training.values import checked_values
from ..arguments import IN_COLUMNS, OF_DATA, ColumnArguments, predict_parser
from .sources import NO_COLUMN


def parse_arguments(description: str) -> tuple[str, str, Any, Any]:
    """Reads the command line. Columns that it does not name come from the checkpoint's recipe.json.

    Args:
        description: of the command, for its help.

    Returns:
        the checkpoint, the rows, and both groups of arguments.
    """
    parser = predict_parser(description, "mm_hf predict")
    args, data_args, others = parse_with_recipe(parser)
    if data_args.data_root is None:
        data_args.data_root = data_root_beside(others.run, others.rows)
    args.output = others.output
    if os.path.realpath(args.output) == os.path.realpath(others.rows):
        parser.error(f"--output {args.output} is the file of the rows: name another file.")
    return others.run, others.rows, args, data_args


def parse_with_recipe(parser: ArgumentParser, words: list[str] | None = None) -> tuple[Any, Any, Any]:
    """Reads the command line, or `words` instead, of a command that takes a checkpoint as its first word. Columns that
    are not named come from the checkpoint's recipe.json.

    Returns:
        both groups of arguments, and the words before the flags.
    """
    import_named(parser, words)
    parsed = parser.parse_known_args(words)[0]
    file = Path(parsed.run) / "recipe.json"
    try:
        recipe = read_json(file) if file.exists() else {}
        import_files_of(find_data(recipe, file.parent)[0], file.parent, parsed.import_files)
        parser.add_imported()
        defaults = {key: value for key, value in fields_of(recipe).items() if key in OF_DATA and key != "data_root"}
        parser.set_defaults(**checked_values(defaults, (ColumnArguments,), lenient=True))
    except (OSError, ValueError) as error:
        parser.error(f"{file}: {error}")
    try:
        args, data_args, others = parser.parse_args_into_dataclasses(words)
    except ValueError as error:
        parser.error(str(error))
    return args, data_args, others


def load_config(run: str, searches: bool = False) -> tuple[MMFusionConfig, type[MMFusionPreTrainedModel]]:
    """The config of a checkpoint, and its model class. With `searches`, retrieval models are allowed too.

    Raises:
        OSError, ValueError: there is no checkpoint, or its model predicts nothing.
    """
    check_checkpoint(run)
    if os.path.isdir(run) and not (Path(run) / "config.json").is_file():
        parent = Path(run).resolve().parent
        way = f" The run is {parent}." if (parent / "config.json").is_file() else ""
        raise OSError(f"{run} is not the checkpoint of a model: it has no config.json.{way}")
    config = config_of(run)
    heads = {head.__name__: head for head in HEADS.values()}
    architecture = (config.architectures or [config.model_type])[0]
    if not isinstance(config, MMFusionConfig) or architecture not in heads:
        raise ValueError(f"{run} is a checkpoint of {architecture}; allowed are {', '.join(heads)}.")
    if heads[architecture] is HEADS[RETRIEVAL] and not searches:
        raise ValueError(f"{run} is a retrieval model, and predicts no answers for rows: use `mm_hf search`.")
    return config, heads[architecture]


def columns_of(run: str, data_args: Any, config: MMFusionConfig, processor: MMFusionProcessor) -> Columns:
    """The columns that the model reads.

    Raises:
        ValueError: with the columns that are missing, unknown, or not used by the checkpoint.
    """
    schema = processor.table_schema
    others = dict.fromkeys(("image_id_column", "label_column", "kind_column"))
    asked = SimpleNamespace(**others, **{key: getattr(data_args, key) for key in IN_COLUMNS})
    if schema is not None and not asked.table_columns:
        asked.table_columns = schema.columns
    if missing := missing_columns(asked, config.modalities):
        raise ValueError(
            f"Required: {', '.join(missing)}. {run} has no recipe.json that names these columns. For a modality that "
            'the rows do not have, give "".'
        )
    named = columns_by_modality(asked)
    for name, given in named.items():
        if name not in config.modalities:
            raise ValueError(
                f"{key_in_use(asked, name)} is {given}, but {run} reads only {config.modalities}: leave it out."
            )
    if not named:
        raise ValueError(f"No column is left for {run}, which reads {config.modalities}: name at least one column.")
    for name in named:
        if modality_of(name).several_places and not modality_of(name).extra:
            fill_places(run, asked, name, config, modality_of(name).places_of_item(processor))
    table = [column for column in asked.table_columns or [] if column]
    if schema is not None and (unknown := [column for column in table if column not in schema.columns]):
        meant = did_you_mean(unknown[0], schema.columns)
        raise ValueError(f"table_columns names {unknown}, but the table of {run} has only {schema.columns}.{meant}")
    return columns_in_use(asked)


def fill_places(run: str, asked: Any, name: str, config: MMFusionConfig, of_item: int = 1):
    """Names each place of a modality that has no column. `of_item` is the number of places that one item takes.

    Raises:
        ValueError: there are more or fewer columns than the model has places. If there is a column of videos, their
            frames take the remaining places.
    """
    key, *others = short_keys(name)
    # Some configs know only the places of pictures.
    known = getattr(config, "places_of", lambda _: config.num_images)
    given, places = listed(getattr(asked, key, None)), known(name) // of_item
    frames = any(getattr(asked, other) for other in others)
    beside = getattr(config, "num_frames", None) if frames else None
    if isinstance(beside, int):  # otherwise it is unknown how many of the places are frames
        places, frames = places - beside, False
        given = given if any(given) else [""] * places
    elif not any(given):
        return
    if len(given) != places and not (frames and len(given) < places):
        raise ValueError(
            f"{key} names {len(given)} columns, but {run} reads {places} {modality_of(name).argument} per row: name "
            'one column for each, in order ("" if the rows do not have it).'
        )
    part = key.rpartition("_")[0]
    setattr(asked, key, [column or NO_COLUMN.format(part, place) for place, column in enumerate(given)])
    keep_plain(asked)
