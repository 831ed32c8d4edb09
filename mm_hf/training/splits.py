"""The parts of a data set: loaded and cut, their labels understood, every row looked at before any is used."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, List

from ..checkpoints import list_checkpoints
from ..data import BadRowError, Columns, classes_to_write, labels_of, load_splits, normalise_labels
from ..data.column_types import STRINGS, count_values
from ..data.decoding import find_picture
from ..data.files_read import cache_folder, files_of
from ..data.rows import rows_by_path
from ..models.ctc_mm_fusion import CTC
from ..models.finite import is_code, kind_of_texts, read_number
from ..models.generation_mm_fusion import GENERATION
from ..models.losses import count_labels
from ..models.names import did_you_mean
from .data_arguments import DataArguments
from .evaluator import Evaluator
from .model_arguments import RETRIEVAL
from .run_folder import read_rows_of


AS_WRITTEN = "as written"  # what rows.json says of runs that read cells so


def reads_as_written(output_dir: Path) -> bool:
    """Whether a run reads cells as they are written (see `read_csv`): not where it began before that was so, and would
    otherwise find other classes and columns when it goes on."""
    file = output_dir / "rows.json"
    if not file.exists() or not list_checkpoints(output_dir):
        return True
    return read_rows_of(output_dir).get("cells") == AS_WRITTEN


def columns_in_use(data_args: Any) -> Columns:
    """The columns that a recipe or a command line names; "" is no column.

    Args:
        data_args: `DatasetArguments`, or what has their columns.
    """

    def there(named: list[str] | str | None) -> Any:
        return [column for column in named if column] or None if isinstance(named, list) else named or None

    extra: Any = data_args.columns
    return Columns(
        image=there(data_args.image_column),
        image_id=data_args.image_id_column or None,
        text=there(data_args.text_column),
        audio=there(data_args.audio_column),
        video=data_args.video_column or None,
        table=there(data_args.table_columns) or [],
        series=there(data_args.series_column),
        label=data_args.label_column or None,
        kind=data_args.kind_column or None,
        **({"extra": extra} if extra else {}),
    )


def load_parts(
    data_args: DataArguments, columns: Columns, seed: int, as_text: list[str], as_written: bool
) -> dict[str, Dataset | IterableDataset]:
    """Training, validation and test part; of a stream, the latter two are stored on disk first. For `as_text` and
    `as_written` see `load_splits`."""
    splits = load_splits(
        data_args.source,
        columns,
        data_root=data_args.data_root,
        streaming=data_args.streaming,
        validation_fraction=data_args.validation_fraction,
        test_fraction=data_args.test_fraction,
        group_column=data_args.group_column,
        seed=seed,
        as_text=as_text,
        measured=True,
        as_written=as_written,
    )
    missing = {"train", "validation", "test"} - set(splits)
    if missing:
        raise ValueError(
            f"{data_args.source} needs the parts train, validation and test; it has {list(splits)}. "
            "validation_fraction and test_fraction cut them from train."
        )
    parts = {name: splits[name] for name in ("train", "validation", "test")}
    for name, part in parts.items():
        if name != "train" and isinstance(part, IterableDataset):
            cache = cache_folder(files_of(data_args.source))
            parts[name] = Dataset.from_generator(partial(iter, part), features=part.features, cache_dir=cache)
    return parts


def read_labels(
    splits: dict[str, Any], columns: Columns, data_args: DataArguments, task: str | None
) -> tuple[dict[str, Any], Any, Any, Any]:
    """What the labels mean to a task of the recipe.

    Returns:
        the parts, with the same classes in all of them; names of the classes, None where there are none; the problem
        type, see `Evaluator`; numbers of the classes by name. Of several tasks the latter three are dicts by column.

    Raises:
        ValueError: see `labels_by_column`.
    """
    if task == RETRIEVAL:
        return splits, None, RETRIEVAL, None
    if task in (GENERATION, CTC):
        (column,) = columns.labels
        label2id = classes_to_write(splits["train"].features, column)
        written = None if label2id is None else list(label2id)
        return normalise_labels(splits, {column: written}) if written else splits, written, GENERATION, label2id
    names, problem_types = labels_by_column(splits, columns, data_args)
    splits = normalise_labels(splits, names)
    numbers = {column: numbers_of(found) for column, found in names.items()}
    if isinstance(columns.label, list):
        return splits, names, problem_types, numbers
    (column,) = columns.labels
    return splits, names[column], problem_types[column], numbers[column]


def numbers_of(names: Sequence[str] | None) -> dict[str, int] | None:
    """By its name the number of each class; None where there are none."""
    return {name: number for number, name in enumerate(names)} if names else None


def labels_by_column(
    splits: dict[str, Dataset | IterableDataset], columns: Columns, data_args: DataArguments
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each column of labels means: the names of its classes, and the problem type.

    Raises:
        ValueError: see `labels_of`; a problem type for a column that holds no labels.
    """
    named = data_args.problem_type
    asked: dict[str, str | None] = dict.fromkeys(columns.labels, named) if not isinstance(named, dict) else {**named}
    if unknown := set(asked) - set(columns.labels):
        meant = did_you_mean(sorted(unknown)[0], columns.labels)
        raise ValueError(
            f"problem_type names {sorted(unknown)}, but the columns of labels are {columns.labels}.{meant}"
        )
    found = {column: labels_of(splits, column, asked.get(column)) for column in columns.labels}
    for column, (classes, _) in found.items():
        if classes is not None and len(classes) == 1:
            raise ValueError(
                f"Column {column!r} has a single class, {classes[0]!r}: there is nothing to learn. Name another label."
            )
    names = {column: classes for column, (classes, _) in found.items()}
    return names, {column: problem_type for column, (_, problem_type) in found.items()}


def check_rows(run: Evaluator):
    """Looks at every label, text and path of a picture, so that a bad one stops the run before the training and not
    after it. What a picture holds is seen when it is read."""
    bad: list[BadRowError] | None = [] if run.bad_rows.on_error == "skip" else None
    for split, dataset in run.splits.items():
        if isinstance(dataset, IterableDataset):
            continue
        for alone in [] if run.searches else run.alone():
            if count_labels(alone.labels(split)) == 0:
                raise ValueError(f"No row of split {split!r} has a label in column {alone.label!r}.")
        parts = run.collator.parts
        for modality, columns in {**parts, "tabular": run.columns.table, "vision": [], "audio": []}.items():
            for row in run.all_rows(split, columns) if columns else []:
                run.collator.item_keys(row, modality, bad)
        for column in run.columns.files:
            if isinstance(dataset.features[column], List):  # the pictures of videos are looked at when they are read
                continue
            for row in rows_by_path(dataset, split, column):
                try:
                    find_picture(row, column, run.collator.root)
                except BadRowError as error:
                    if bad is None:
                        raise
                    bad.append(error)
    run.note_bad_rows([error.entry for error in bad or []])


def texts_of_table(splits: Any, data_args: DataArguments) -> dict[str, Counter]:
    """By column of the table that holds texts, and is not named in `category_columns`, how often each comes, in all
    parts."""
    found = {}
    for name in sorted(set(data_args.table_columns or []) - set(data_args.category_columns or [])):
        parts = [part for part in splits.values() if getattr(part.features[name], "dtype", None) in STRINGS]
        if parts:
            found[name] = sum((count_values(part, name) for part in parts), Counter())
    return found


def lines_of_table(splits: Any, data_args: DataArguments) -> list[str]:
    """What the texts of a table are taken for, where that is not plain to see, for the terminal."""
    lines = []
    for name, counts in texts_of_table(splits, data_args).items():
        spelled = sum(count for text, count in counts.items() if read_number(text) is not None and not is_code(text))
        if kind_of_texts(counts) == "numbers":
            lines.append(
                f"  table     {name} is read as numbers; what is none makes a bad row (else: category_columns)"
            )
        elif 2 * spelled > counts.total():
            of_all = f"{spelled:,} of {counts.total():,} values"
            lines.append(f"  table     {name} is read as categories, though {of_all} are texts that spell numbers")
        else:
            known = count_values(splits["train"], name)
            once = sum(count for count in known.values() if count == 1)
            if 2 * once > known.total():
                lines.append(
                    f"  table     {name}: {once:,} of {known.total():,} training values come once, and tell nothing: "
                    "they are unknown categories (dates and ids are not read as numbers)"
                )
    return lines
