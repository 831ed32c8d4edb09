"""The keys of a recipe that say what it learns from: the data set, its columns, and what is done with its rows."""

from argparse import SUPPRESS
from dataclasses import dataclass
from typing import Any

from .values import check_least, check_range, option


NO_FOLDER = "none"  # in place of a folder for features
CACHE_LIMIT = 20  # GB, where the recipe says nothing
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

    import_files: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None,
        "Files of Python that bring modalities, tasks or fusions from outside mm_hf; they are run before "
        "all else. A path starts from the present folder, and is found again from the folder of the run.",
        flag="import",
    )
    dataset: str | None = option(
        None,
        "A .csv, .jsonl or .parquet file; a folder of save_to_disk, of pictures with metadata, or of such "
        "files; WebDataset shards (shards/*.tar); or a Hub id.",
    )
    data_root: str | None = option(
        None, "Folder that image paths are relative to and cannot leave; left out, the data's."
    )
    columns: str | None = option(
        None,
        'Columns by modality, as "{vision: [front, back], text: title}"; short forms: image_column, '
        "video_column, text_column, audio_column, table_columns, series_column.",
        forms=(dict[str, list[str]],),
        names_columns=True,
    )
    image_column: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None,
        "Column of the pictures, or several.",
        names_columns=True,
    )
    image_id_column: str | None = option(
        None, "Column whose equal values mean the same picture; its rows share a batch."
    )
    text_column: list[str] | str | None = option(  # noqa: RUF009 (it gives a field)
        None,
        "Column of the texts, or several.",
        names_columns=True,
    )
    audio_column: list[str] | str | None = option(  # noqa: RUF009 (it gives a field)
        None,
        "Column of the sounds, or several: datasets.Audio, bytes, or paths to wav, flac, ogg, mp3.",
        names_columns=True,
    )
    video_column: str | None = option(
        None,
        "Column of the videos: paths or bytes of files that PyAV reads, or lists of pictures.",
        names_columns=True,
    )
    table_columns: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None,
        "Columns of a table: numbers (standardised), strings, classes; what is empty is missing.",
        names_columns=True,
    )
    series_column: list[str] | str | None = option(  # noqa: RUF009 (it gives a field)
        None,
        "Column of time series, or several: lists of steps, each a list of numbers, which are standardised.",
        names_columns=True,
    )
    label_column: list[str] | str | None = option(  # noqa: RUF009 (it gives a field)
        None, "Column of the labels, or several: one task each, learned together.", aliases=["--label"]
    )
    decimal: str | None = option(
        None,
        'What begins the decimals of numbers such as "1,402" or "1.402" where no value of their column tells: a comma '
        "or a point.",
        choices=[",", "."],
    )
    date_format: str | None = option(
        None, "Of dates such as 03/04/2024 where no value tells which is the day: %%d/%%m/%%Y or %%m/%%d/%%Y."
    )
    kind_column: str | None = option(None, "Column that metrics are split by.")
    on_error: str = option(
        "raise",
        "raise: a bad row stops the run; skip: it is left out and listed in bad_rows.jsonl.",
        choices=["raise", "skip"],
    )
    max_bad_fraction: float = option(0.05, "Share of bad rows in a part above which the run stops all the same.")
    cache_features: bool = option(
        True,
        "Keep the features of frozen encoders: each item is encoded once. A picture takes 14 KB in the easy_vqa "
        "recipe and 600 KB with ViT-B; what would not fit is not kept.",
    )
    cache_dir: str | None = option(
        None,
        "Folder where features are kept, so that the next run encodes nothing; none: in memory alone, as runs did "
        "before this key was there. Left out, MM_HF_CACHE of the environment, else a folder in HF_HOME.",
    )
    cache_limit: float | None = option(
        None,
        f"GB that all features in cache_dir may take, those longest unused leave first; left out, {CACHE_LIMIT}.",
    )
    cache_dtype: str | None = option(
        None,
        "Numbers that features are kept in: float32, the default, or float16 and bfloat16, which take half the place "
        "and round to 1/2000 and 1/250.",
        choices=["float32", "float16", "bfloat16"],
    )
    encoding_workers: int | None = option(
        None,
        "Processes that read and prepare what is encoded and kept; left out, one a core, where that takes more than "
        "seconds.",
    )

    def __post_init__(self):
        check_range("max_bad_fraction", self.max_bad_fraction, 0, 1)
        keep_plain(self)
        if self.cache_dir is not None and self.cache_dir.lower() in (NO_FOLDER, "false", "no"):
            self.cache_dir = NO_FOLDER
        if self.cache_limit is not None and not self.cache_limit > 0:
            raise ValueError(f"cache_limit must be above 0 GB, got {self.cache_limit}; cache_dir none keeps no files.")

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

    group_column: str | None = option(
        None, "Rows with equal values go to the same part; left out, those of one picture."
    )
    understand_columns: bool | None = option(
        None,
        "Take every column for what it holds, those aside that are named; left out, where no column of a modality is "
        "named.",
    )
    ignore_columns: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None, "Columns that are left out where columns are understood by what they hold."
    )
    time_column: str | None = option(
        None,
        "Column of dates or times: the latest rows become the test part, those before them the validation part, where "
        "the data has none.",
        aliases=["--split_by_time"],
    )
    validation_fraction: float = option(
        0.1, "Share of the rows that becomes the validation part where the data has none."
    )
    test_fraction: float = option(0.1, "Likewise the test part.")
    split_seed: int | None = option(
        None, "Seed of the cut into parts, so that --seed does not move it; left out, seed cuts them."
    )
    folds: int | None = option(
        None,
        "Cross-validation: so many models, such as 5, each measured on rows that it has not learned, and a last one "
        "of all rows.",
    )
    fold: int | None = option(None, SUPPRESS)  # one of them, from 1; 0: that of all rows
    weight_column: str | None = option(
        None,
        "Column of how much each row counts in the training loss, from 0 up. In a recipe also by column "
        "of labels: {tone: trust}.",
        forms=(dict[str, str],),
    )
    problem_type: str | None = option(
        None,
        "single_label_classification, multi_label_classification or regression; left out, by the labels. "
        "In a recipe also by column of labels: {tone: regression}.",
        forms=(dict[str, str],),
    )
    category_columns: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None, "Those of the table_columns whose numbers are categories, such as ids."
    )
    max_text_length: int | None = option(None, "Tokens a text is cut to.", needs="text_encoder")
    streaming: bool = option(False, "Read the training part while it trains, not before. Needs max_steps.")
    shuffle_buffer: int = option(1000, "Rows that are mixed with streaming.")
    augment: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None,
        "Change training pictures by: crop, flip, color. Flip only where no left is asked. Also by "
        'modality: "{vision: [crop], text: 0.1}", which is token_dropout; those from outside say what they take.',
        needs="vision_encoder",
        forms=(dict[str, object],),
    )
    extra_augment: str | None = option(  # what augment says of modalities from outside the package
        None, SUPPRESS, forms=(dict[str, object],)
    )
    image_draft: float | None = option(
        None,
        "JPEGs are decoded to no less than this many times the size that they are resized to, which is quicker than "
        "in full; 0: in full. Left out, 2.",
        needs="vision_encoder",
    )
    token_dropout: float = option(0.0, "Chance that a training text loses a token.", needs="text_encoder")
    speed_perturbation: float = option(
        0.0,
        "Play training sounds up to this share faster or slower, such as 0.2: for unknown voices.",
        needs="audio_encoder",
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("validation_fraction", "test_fraction"):
            check_range(name, getattr(self, name), 0, 1)
        if self.image_draft is not None and self.image_draft != 0 and self.image_draft < 1:
            raise ValueError(f"image_draft must be 0 (all pixels) or at least 1, got {self.image_draft}.")
        check_least(self, 2, "folds")
        if self.folds and self.time_column:
            raise ValueError(
                f"folds is {self.folds} and time_column {self.time_column!r}: folds are drawn at random, and would "
                "learn from later rows than they are measured on. Leave one of them out."
            )
        if self.fold is not None:
            check_range("fold", self.fold, 0, self.folds or 0)
        for name in ("token_dropout", "speed_perturbation"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}.")
