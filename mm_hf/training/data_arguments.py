"""The recipe keys about the data: the data set, its columns, and how its rows are used."""

from argparse import SUPPRESS
from dataclasses import dataclass
from typing import Any

from .values import check_least, check_range, option


NO_FOLDER = "none"  # in place of a folder for features
CACHE_LIMIT = 20  # GB, if the recipe does not say
ONE_OR_SEVERAL = ("text_column", "audio_column", "series_column", "label_column")  # one is kept as a plain text


def keep_plain(data_args: Any):
    """Flags give lists for keys that may name several columns. Replaces a list with one column by that column."""
    for key in ONE_OR_SEVERAL:
        columns = getattr(data_args, key, None)
        if isinstance(columns, list) and len(columns) == 1:
            setattr(data_args, key, columns[0])


@dataclass
class DatasetArguments:
    """A data set and its columns: training and evaluation both need these."""

    import_files: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None,
        "Python files that add modalities, tasks or fusions from outside mm_hf; they run before "
        "everything else. A path is relative to the current folder. Commands on the finished run find it again.",
        flag="import",
    )
    dataset: str | None = option(
        None,
        "A .csv, .jsonl or .parquet file; a folder of save_to_disk, of pictures with metadata, or of such "
        "files; WebDataset shards (shards/*.tar); or a Hub id.",
    )
    data_root: str | None = option(
        None, "Folder that image paths are relative to; paths must stay inside it. Left out, the folder of the data."
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
        None, "Column of picture ids: rows with equal values have the same picture, and share a batch."
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
        "Columns of a table: numbers (standardised), strings, classes. An empty cell is a missing value.",
        names_columns=True,
    )
    series_column: list[str] | str | None = option(  # noqa: RUF009 (it gives a field)
        None,
        "Column of time series, or several: lists of steps, each a list of numbers, which are standardised.",
        names_columns=True,
    )
    label_column: list[str] | str | None = option(  # noqa: RUF009 (it gives a field)
        None, "Column of the labels, or several: each is one task, and all are trained together.", aliases=["--label"]
    )
    decimal: str | None = option(
        None,
        'The decimal separator of numbers such as "1,402" or "1.402", a comma or a point, for columns whose values '
        "do not show it.",
        choices=[",", "."],
    )
    date_format: str | None = option(
        None,
        "Format of dates such as 03/04/2024, if no value shows which number is the day: %%d/%%m/%%Y or %%m/%%d/%%Y.",
    )
    kind_column: str | None = option(None, "Column by which metrics are split: one result for each of its values.")
    on_error: str = option(
        "raise",
        "raise: a bad row stops the run; skip: it is left out and listed in bad_rows.jsonl.",
        choices=["raise", "skip"],
    )
    max_bad_fraction: float = option(
        0.05, "With on_error skip: the run stops if the share of bad rows in a part is larger than this."
    )
    cache_features: bool = option(
        True,
        "Cache the features of frozen encoders, so that each item is encoded once. A picture takes 14 KB in the "
        "easy_vqa recipe and 600 KB with ViT-B; features that do not fit are not cached.",
    )
    cache_dir: str | None = option(
        None,
        "Folder where features are cached, so that the next run encodes nothing. none: keep them only in memory, as "
        "runs did before this key existed. Left out, the environment variable MM_HF_CACHE, else a folder in HF_HOME.",
    )
    cache_limit: float | None = option(
        None,
        f"GB that all features in cache_dir may take; the least recently used are removed first. Left out, "
        f"{CACHE_LIMIT}.",
    )
    cache_dtype: str | None = option(
        None,
        "Type of cached features: float32 (the default), or float16 or bfloat16, which take half the space and round "
        "to 1/2000 and 1/250.",
        choices=["float32", "float16", "bfloat16"],
    )
    encoding_workers: int | None = option(
        None,
        "Processes that read and prepare items for the cache; left out, one per core if the work takes more than a "
        "few seconds.",
    )

    def __post_init__(self):
        check_range("max_bad_fraction", self.max_bad_fraction, 0, 1)
        keep_plain(self)
        if self.cache_dir is not None and self.cache_dir.lower() in (NO_FOLDER, "false", "no"):
            self.cache_dir = NO_FOLDER
        if self.cache_limit is not None and not self.cache_limit > 0:
            raise ValueError(
                f"cache_limit must be above 0 GB, got {self.cache_limit}. To keep no files, set cache_dir to none."
            )

    @property
    def source(self) -> str:
        """The data set.

        Raises:
            ValueError: it is not named.
        """
        if not self.dataset:
            raise ValueError("dataset is missing: give it in the recipe or as --dataset.")
        return self.dataset


@dataclass
class DataArguments(DatasetArguments):
    """The data."""

    group_column: str | None = option(
        None, "Rows with equal values go to the same part; left out, rows with the same picture do."
    )
    understand_columns: bool | None = option(
        None,
        "Decide from the cells what each column is, except for named columns. Left out, this is done if the recipe "
        "names no column of any modality.",
    )
    ignore_columns: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None, "Columns to leave out when understand_columns decides what each column is."
    )
    time_column: str | None = option(
        None,
        "Column of dates or times: the latest rows become the test part, and the rows before them the validation "
        "part, if the data has no such part.",
        aliases=["--split_by_time"],
    )
    validation_fraction: float = option(
        0.1, "Share of the rows that becomes the validation part, if the data has none."
    )
    test_fraction: float = option(0.1, "Share of the rows that becomes the test part, if the data has none.")
    split_seed: int | None = option(
        None, "Seed of the split into parts, so that --seed does not change it; left out, seed."
    )
    folds: int | None = option(
        None,
        "Cross-validation: the number of models, such as 5. Each is measured on rows that it was not trained on, and "
        "a last model is trained on all rows.",
    )
    fold: int | None = option(None, SUPPRESS)  # number of one fold, from 1; 0: the model that is trained on all rows
    weight_column: str | None = option(
        None,
        "Column with the weight of each row in the training loss, at least 0. In a recipe also by label column: "
        "{tone: trust}.",
        forms=(dict[str, str],),
    )
    problem_type: str | None = option(
        None,
        "single_label_classification, multi_label_classification or regression; left out, the labels decide. "
        "In a recipe also by label column: {tone: regression}.",
        forms=(dict[str, str],),
    )
    category_columns: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None, "The table_columns whose numbers are categories, such as ids."
    )
    max_text_length: int | None = option(None, "Longer texts are cut to so many tokens.", needs="text_encoder")
    streaming: bool = option(False, "Read the training part during training, not before it. Needs max_steps.")
    shuffle_buffer: int = option(1000, "With streaming: size of the shuffle buffer in rows.")
    augment: list[str] | None = option(  # noqa: RUF009 (it gives a field)
        None,
        "Augment training pictures: crop, flip, color. Do not use flip if left and right matter. Also by "
        'modality: "{vision: [crop], text: 0.1}"; for text this is token_dropout. Modalities from outside have their '
        "own values.",
        needs="vision_encoder",
        forms=(dict[str, object],),
    )
    extra_augment: str | None = option(  # the values of augment for modalities from outside the package
        None, SUPPRESS, forms=(dict[str, object],)
    )
    image_draft: float | None = option(
        None,
        "JPEGs are decoded to at least this many times the size that they are resized to, which is faster than "
        "decoding in full; 0: in full. Left out, 2.",
        needs="vision_encoder",
    )
    token_dropout: float = option(0.0, "Probability that a token of a training text is dropped.", needs="text_encoder")
    speed_perturbation: float = option(
        0.0,
        "Play training sounds faster or slower by up to this share, such as 0.2; this helps with unknown voices.",
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
                f"folds is {self.folds} and time_column is {self.time_column!r}. Folds are drawn at random, so a "
                "model would be trained on later rows than it is measured on. Leave one of them out."
            )
        if self.fold is not None:
            check_range("fold", self.fold, 0, self.folds or 0)
        for name in ("token_dropout", "speed_perturbation"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}.")
