"""The keys of a recipe that say what it learns from: the data set, its columns, and what is done with its rows."""

from dataclasses import dataclass, field
from typing import Any

from .values import check_range


ONE_OR_SEVERAL = ("text_column", "audio_column", "series_column", "label_column")  # one is kept as a plain text


def keep_plain(data_args: Any):
    """Of keys that may name several columns, which flags give as lists: makes a list of one that one."""
    for key in ONE_OR_SEVERAL:
        columns = getattr(data_args, key, None)
        if isinstance(columns, list) and len(columns) == 1:
            setattr(data_args, key, columns[0])


@dataclass
class DatasetArguments:
    """A data set and its columns: what training and evaluation both have to be told."""

    import_files: list[str] | None = field(
        default=None,
        metadata={
            "help": "Files of Python that bring modalities, tasks or fusions from outside mm_hf; they are run before "
            "all else. A path starts from the present folder, and is found again from the folder of the run.",
            "flag": "import",
        },
    )
    dataset: str | None = field(
        default=None,
        metadata={
            "help": "A .csv, .jsonl or .parquet file; a folder of save_to_disk, of pictures with metadata, or of such "
            "files; WebDataset shards (shards/*.tar); or a Hub id."
        },
    )
    data_root: str | None = field(
        default=None,
        metadata={"help": "Folder that image paths are relative to and cannot leave; left out, the data's."},
    )
    columns: str | None = field(
        default=None,
        metadata={
            "help": 'Columns by modality, as "{vision: [front, back], text: title}"; short forms: image_column, '
            "video_column, text_column, audio_column, table_columns, series_column.",
            "forms": (dict[str, list[str]],),
            "names_columns": True,
        },
    )
    image_column: list[str] | None = field(
        default=None, metadata={"help": "Column of the pictures, or several.", "names_columns": True}
    )
    image_id_column: str | None = field(
        default=None, metadata={"help": "Column whose equal values mean the same picture; its rows share a batch."}
    )
    text_column: list[str] | str | None = field(
        default=None, metadata={"help": "Column of the texts, or several.", "names_columns": True}
    )
    audio_column: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Column of the sounds, or several: datasets.Audio, bytes, or paths to wav, flac, ogg, mp3.",
            "names_columns": True,
        },
    )
    video_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the videos: paths or bytes of files that PyAV reads, or lists of pictures.",
            "names_columns": True,
        },
    )
    table_columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns of a table: numbers (standardised), strings, classes; what is empty is missing.",
            "names_columns": True,
        },
    )
    series_column: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Column of time series, or several: lists of steps, each a list of numbers, which are "
            "standardised.",
            "names_columns": True,
        },
    )
    label_column: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Column of the labels, or several: one task each, learned together.",
            "aliases": ["--label"],
        },
    )
    kind_column: str | None = field(default=None, metadata={"help": "Column that metrics are split by."})
    on_error: str = field(
        default="raise",
        metadata={
            "help": "raise: a bad row stops the run; skip: it is left out and listed in bad_rows.jsonl.",
            "choices": ["raise", "skip"],
        },
    )
    max_bad_fraction: float = field(
        default=0.05, metadata={"help": "Share of bad rows in a part above which the run stops all the same."}
    )
    cache_features: bool = field(
        default=True,
        metadata={
            "help": "Keep the features of frozen encoders in memory: each item is encoded once. A picture takes 14 KB "
            "in the easy_vqa recipe and 600 KB with ViT-B, on every process; what would not fit is not kept."
        },
    )

    def __post_init__(self):
        check_range("max_bad_fraction", self.max_bad_fraction, 0, 1)
        keep_plain(self)

    @property
    def source(self) -> str:
        """The data set, which has to be named.

        Raises:
            ValueError: it is not.
        """
        if not self.dataset:
            raise ValueError("dataset is missing: give it in the recipe or as --dataset.")
        return self.dataset


@dataclass
class DataArguments(DatasetArguments):
    """What it learns from."""

    group_column: str | None = field(
        default=None, metadata={"help": "Rows with equal values go to the same part; left out, those of one picture."}
    )
    understand_columns: bool | None = field(
        default=None,
        metadata={
            "help": "Take every column for what it holds, those aside that are named; left out, where no column of a "
            "modality is named."
        },
    )
    ignore_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns that are left out where columns are understood by what they hold."}
    )
    time_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of dates or times: the latest rows become the test part, those before them the validation "
            "part, where the data has none.",
            "aliases": ["--split_by_time"],
        },
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of the rows that becomes the validation part where the data has none."}
    )
    test_fraction: float = field(default=0.1, metadata={"help": "Likewise the test part."})
    weight_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of how much each row counts in the training loss, from 0 up. In a recipe also by column "
            "of labels: {tone: trust}.",
            "forms": (dict[str, str],),
        },
    )
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": "single_label_classification, multi_label_classification or regression; left out, by the labels. "
            "In a recipe also by column of labels: {tone: regression}.",
            "forms": (dict[str, str],),
        },
    )
    category_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Those of the table_columns whose numbers are categories, such as ids."},
    )
    max_text_length: int | None = field(
        default=None, metadata={"help": "Tokens a text is cut to.", "needs": "text_encoder"}
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read the training part while it trains, not before. Needs max_steps."}
    )
    shuffle_buffer: int = field(default=1000, metadata={"help": "Rows that are mixed with streaming."})
    augment: list[str] | None = field(
        default=None,
        metadata={
            "help": "Change training pictures by: crop, flip, color. Flip only where no left is asked.",
            "needs": "vision_encoder",
        },
    )
    token_dropout: float = field(
        default=0.0, metadata={"help": "Chance that a training text loses a token.", "needs": "text_encoder"}
    )
    speed_perturbation: float = field(
        default=0.0,
        metadata={
            "help": "Play training sounds up to this share faster or slower, such as 0.2: for unknown voices.",
            "needs": "audio_encoder",
        },
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("validation_fraction", "test_fraction"):
            check_range(name, getattr(self, name), 0, 1)
        for name in ("token_dropout", "speed_perturbation"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}.")
