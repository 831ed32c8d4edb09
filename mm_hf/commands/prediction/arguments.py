"""What `mm_hf predict` is asked: the command line, the checkpoint, and the columns that the model reads."""

import os
from pathlib import Path
from typing import Any

from ... import MMFusionConfig, MMFusionPreTrainedModel, MMFusionProcessor
from ...data import Columns
from ...models.files import read_json
from ...models.names import did_you_mean
from ...models.vision import Vision
from ...training.data_arguments import COLUMN_OF
from ...training.heads import HEADS
from ...training.model_arguments import RETRIEVAL
from ...training.reopen import check_checkpoint, config_of
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
    run = parser.parse_known_args()[0].run
    file = Path(run) / "recipe.json"
    if file.exists():
        try:
            recipe = read_json(file)
            own = {key: recipe[key] for key in OF_DATA if key in recipe and key != "data_root"}
            parser.set_defaults(**checked_values(own, (ColumnArguments,), {}, lenient=True))
        except (OSError, ValueError) as error:
            parser.error(f"{file}: {error}")
    try:
        args, data_args, others = parser.parse_args_into_dataclasses()
    except ValueError as error:
        parser.error(str(error))
    args.output = others.output
    if os.path.realpath(args.output) == os.path.realpath(others.rows):
        parser.error(f"--output {args.output} is the file of the rows: name another one.")
    return others.run, others.rows, args, data_args


def load_config(run: str) -> tuple[MMFusionConfig, type[MMFusionPreTrainedModel]]:
    """The checkpoint's config, and its head.

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
    found = (config.architectures or [config.model_type])[0]
    if not isinstance(config, MMFusionConfig) or found not in heads:
        raise ValueError(f"{run} is a checkpoint of {found}; predict takes {', '.join(heads)}.")
    if heads[found] is HEADS[RETRIEVAL]:
        raise ValueError(f"{run} searches, and predicts nothing of a row: `mm_hf search` is for it.")
    return config, heads[found]


def columns_of(run: str, data_args: Any, config: MMFusionConfig, processor: MMFusionProcessor) -> Columns:
    """The columns that the model reads.

    Raises:
        ValueError: naming those that are not known, or that the checkpoint has no use for.
    """
    schema = processor.table_schema
    table = data_args.table_columns if data_args.table_columns or schema is None else schema.columns
    given = {key: getattr(data_args, key) for key in IN_COLUMNS} | {"table_columns": table}
    needed = [COLUMN_OF[modality] for modality in config.modalities]
    missing = [f"--{key}" for key in needed if given[key] is None]
    if given["video_column"] is not None and "--image_column" in missing:
        missing.remove("--image_column")
    if missing:
        raise ValueError(
            f"Needed: {', '.join(missing)}. {run} has no recipe.json that names them (a modality that the rows do not "
            'have: "").'
        )
    image = list(given["image_column"] or [])
    table = [column for column in table or [] if column]
    used = {key: value for key, value in given.items() if value and value != [""]}
    if used.get("video_column") and any(image):
        raise ValueError(f"A row has images or a video: got image_column {image} and {used['video_column']!r}.")
    for key in used:
        if key not in needed and not (key == "video_column" and Vision.name in config.modalities):
            raise ValueError(f"{key} is {used[key]}, but {run} has {config.modalities} alone.")
    if not any([any(image), table, *(used.get(key) for key in IN_COLUMNS if key.endswith("_column"))]):
        raise ValueError(f"No column is left of which {run} could say anything: it reads {config.modalities}.")
    if any(image) and len(image) != config.num_images:
        raise ValueError(
            f"image_column names {len(image)} columns, but {run} looks at {config.num_images} images a row: name one "
            'for each, in their order ("" for one that the rows do not have).'
        )
    if schema is not None and (unknown := [column for column in table if column not in schema.columns]):
        meant = did_you_mean(unknown[0], schema.columns)
        raise ValueError(f"table_columns names {unknown}, but the table of {run} has {schema.columns}.{meant}")
    places = [column or NO_COLUMN.format(place) for place, column in enumerate(image)]
    return Columns(
        image=places if any(image) else None,
        text=used.get("text_column"),
        audio=used.get("audio_column"),
        video=used.get("video_column"),
        table=table,
        series=used.get("series_column"),
    )
