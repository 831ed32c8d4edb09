"""What `mm_hf predict` is asked: the command line, the checkpoint, and the columns that the model reads."""

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
    """Reads the command line, and the columns that it leaves out from the checkpoint's recipe.json.

    Args:
        description: of the verb, for its help.

    Returns:
        the checkpoint, the rows, and both groups of arguments.
    """
    parser = predict_parser(description, "mm_hf predict")
    args, data_args, others = parse_with_recipe(parser)
    if data_args.data_root is None:
        data_args.data_root = data_root_beside(others.run, others.rows)
    args.output = others.output
    if os.path.realpath(args.output) == os.path.realpath(others.rows):
        parser.error(f"--output {args.output} is the file of the rows: name another one.")
    return others.run, others.rows, args, data_args


def parse_with_recipe(parser: ArgumentParser, words: list[str] | None = None) -> tuple[Any, Any, Any]:
    """Reads the command line, or `words` in its place, of a verb whose first word is a checkpoint; columns that it
    leaves out are those of the checkpoint's recipe.json. Gives both groups of arguments, and the words before the
    flags."""
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
    """The checkpoint's config, and its head; with `searches` also one that compares and predicts nothing.

    Raises:
        OSError, ValueError: there is none, or it is one that predicts nothing.
    """
    check_checkpoint(run)
    if os.path.isdir(run) and not (Path(run) / "config.json").is_file():
        parent = Path(run).resolve().parent
        way = f" The run is {parent}." if (parent / "config.json").is_file() else ""
        raise OSError(f"{run} holds no checkpoint of a model: it has no config.json.{way}")
    config = config_of(run)
    heads = {head.__name__: head for head in HEADS.values()}
    architecture = (config.architectures or [config.model_type])[0]
    if not isinstance(config, MMFusionConfig) or architecture not in heads:
        raise ValueError(f"{run} is a checkpoint of {architecture}; predict takes {', '.join(heads)}.")
    if heads[architecture] is HEADS[RETRIEVAL] and not searches:
        raise ValueError(f"{run} searches, and predicts nothing of a row: `mm_hf search` is for it.")
    return config, heads[architecture]


def columns_of(run: str, data_args: Any, config: MMFusionConfig, processor: MMFusionProcessor) -> Columns:
    """The columns that the model reads.

    Raises:
        ValueError: naming those that are not known, or that the checkpoint has no use for.
    """
    schema = processor.table_schema
    others = dict.fromkeys(("image_id_column", "label_column", "kind_column"))
    asked = SimpleNamespace(**others, **{key: getattr(data_args, key) for key in IN_COLUMNS})
    if schema is not None and not asked.table_columns:
        asked.table_columns = schema.columns
    if missing := missing_columns(asked, config.modalities):
        raise ValueError(
            f"Needed: {', '.join(missing)}. {run} has no recipe.json that names them (a modality that the rows do not "
            'have: "").'
        )
    named = columns_by_modality(asked)
    for name, given in named.items():
        if name not in config.modalities:
            raise ValueError(f"{key_in_use(asked, name)} is {given}, but {run} has {config.modalities} alone.")
    if not named:
        raise ValueError(f"No column is left of which {run} could say anything: it reads {config.modalities}.")
    for name in named:
        if modality_of(name).several_places and not modality_of(name).extra:
            fill_places(run, asked, name, config, modality_of(name).places_of_item(processor))
    table = [column for column in asked.table_columns or [] if column]
    if schema is not None and (unknown := [column for column in table if column not in schema.columns]):
        meant = did_you_mean(unknown[0], schema.columns)
        raise ValueError(f"table_columns names {unknown}, but the table of {run} has {schema.columns}.{meant}")
    return columns_in_use(asked)


def fill_places(run: str, asked: Any, name: str, config: MMFusionConfig, of_item: int = 1):
    """Gives each place of a modality that no column fills a name; `of_item` are the places that one item takes.

    Raises:
        ValueError: more or fewer columns than the model has places. Beside a column of videos, their frames take
            those that are left.
    """
    key, *others = short_keys(name)
    # A config knows the places of others than pictures once the model's half of this is there.
    known = getattr(config, "places_of", lambda _: config.num_images)
    given, places = listed(getattr(asked, key, None)), known(name) // of_item
    frames = any(getattr(asked, other) for other in others)
    beside = getattr(config, "num_frames", None) if frames else None
    if isinstance(beside, int):  # else nobody knows how many of the places are frames
        places, frames = places - beside, False
        given = given if any(given) else [""] * places
    elif not any(given):
        return
    if len(given) != places and not (frames and len(given) < places):
        raise ValueError(
            f"{key} names {len(given)} columns, but {run} looks at {places} {modality_of(name).argument} a row: name "
            'one for each, in their order ("" for one that the rows do not have).'
        )
    part = key.rpartition("_")[0]
    setattr(asked, key, [column or NO_COLUMN.format(part, place) for place, column in enumerate(given)])
    keep_plain(asked)
