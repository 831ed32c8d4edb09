"""What `mm_hf predict` is asked: its flags, the checkpoint, and the columns that the model reads."""

import os
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any

from ... import MMFusionConfig, MMFusionPreTrainedModel, MMFusionProcessor
from ...data import Columns
from ...models.configuration_mm_fusion import check_source
from ...models.files import read_json
from ...models.names import did_you_mean
from ...training.data_arguments import COLUMN_OF, DatasetArguments
from ...training.flags import ArgumentParser
from ...training.heads import HEADS
from ...training.model_arguments import RETRIEVAL
from ...training.reopen import config_of
from ...training.values import checked_values
from .sources import NO_COLUMN


DESCRIPTION = "Predicts the rows of a file, and writes them again with what the model says beside them."
IN_COLUMNS = [*COLUMN_OF.values(), "video_column"]
OF_DATA = [*IN_COLUMNS, "data_root", "on_error", "max_bad_fraction"]
HELP = {
    "data_root": {"help": "Folder that image paths are relative to and cannot leave; left out, that of the rows."},
    "on_error": {
        "help": "raise: a bad row stops it; skip: it is kept with an empty prediction, and a column says why."
    },
    "max_bad_fraction": {"help": "Share of bad rows above which it stops all the same."},
}

# The flags of training that name columns and say what becomes of bad rows.
ColumnArguments: Any = make_dataclass(
    "ColumnArguments",
    [
        (key.name, key.type, field(default=key.default, metadata={**key.metadata, **HELP.get(key.name, {})}))
        for key in fields(DatasetArguments)
        if key.name in OF_DATA
    ],
)


@dataclass
class PredictArguments:
    """What is predicted, and how it is said."""

    split: str | None = field(default=None, metadata={"help": "Part of the rows, where they have several."})
    top_k: int = field(default=1, metadata={"help": "So many of the best classes, with their probabilities."})
    probabilities: str = field(
        default="best",
        metadata={
            "help": "all: one column for each class; several labels have them always.",
            "choices": ["best", "all"],
        },
    )
    prefix: str = field(default="", metadata={"help": "What the new columns begin with."})
    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Replace a finished output, and begin anew where one was begun with other rows or settings."
        },
    )
    bf16: bool = field(default=False, metadata={"help": "Work in bfloat16, where the device is faster with it."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Rows a process and step."})
    dataloader_num_workers: int = field(default=0, metadata={"help": "Processes that prepare batches."})

    def __post_init__(self):
        for name in ("top_k", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


def parse_arguments() -> tuple[str, str, Any, Any]:
    """Reads the command line, and the columns that it leaves out from the checkpoint's recipe.json.

    Returns:
        the checkpoint, the rows, and both groups of arguments.
    """
    parser = ArgumentParser(
        (PredictArguments, ColumnArguments),
        description=f"{DESCRIPTION} With a recipe.json beside the checkpoint, its columns are the "
        'defaults; "" is no column.',
    )
    parser.add_argument("run", metavar="RUN", help="Folder of a run or checkpoint, or Hub id.")
    parser.add_argument(
        "rows",
        metavar="ROWS",
        help="A .csv, .jsonl or .parquet file, - for JSON lines on standard input, or whatever training reads.",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="A .csv, .tsv, .jsonl or .parquet file to write."
    )
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
    check_source("RUN", run)
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
        if key not in needed and not (key == "video_column" and "vision" in config.modalities):
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
