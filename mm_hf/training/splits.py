"""The parts of a data set: loads and splits the rows, reads their labels, and checks every row before it is used."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, List

from ..checkpoints import list_checkpoints
from ..data import BadRowError, Columns, labels_of, load_splits, normalise_labels
from ..data.files_read import cache_folder, files_of
from ..data.item_files import find_picture
from ..data.modalities import READERS
from ..data.rows import rows_by_path
from ..models.finite import together
from ..models.losses import count_labels
from ..models.names import did_you_mean
from ..tasks import Task, task_of, task_of_head
from .by_modality import check_columns
from .data_arguments import DataArguments
from .evaluator import Evaluator
from .run_folder import read_rows_of


# How a run reads cells, as written in rows.json. Runs of older versions have no entry.
AS_WRITTEN = "as written"  # texts of digits keep their leading zeros
AS_MEANT = "as meant"  # the same, and dates are read as dates, "1.402,15" as a number


def cells_of_run(output_dir: Path) -> str | None:
    """How a run reads cells (see `read_csv`). A resumed run reads them in the same way as when it was started;
    otherwise it could find other classes and columns."""
    file = output_dir / "rows.json"
    if not file.exists() or not list_checkpoints(output_dir):
        return AS_MEANT
    return read_rows_of(output_dir).get("cells")


def reading_of(cells: str | None) -> dict[str, Any]:
    """The entry of rows.json about cells, as arguments of `load_splits`."""
    return {"as_written": cells is not None, "as_meant": cells == AS_MEANT}


def seed_of_cut(recipe: Mapping[str, Any]) -> int:
    """The seed that splits rows into parts, from a recipe.json or from a recipe's values by key: `split_seed`, else
    `seed`."""
    given = recipe.get("split_seed")
    return recipe["seed"] if given is None else given


def fold_of(recipe: Mapping[str, Any]) -> tuple[int, int] | None:
    """The number of folds and the number of this fold; None if the run is no fold. Arguments as in `seed_of_cut`."""
    return None if recipe.get("fold") is None else (recipe["folds"], recipe["fold"])


def columns_in_use(data_args: Any) -> Columns:
    """The columns that a recipe or a command line names; "" means no column.

    Args:
        data_args: `DatasetArguments`, or an object with the same fields for columns.

    Raises:
        ValueError: see `check_columns`.
    """

    def without_empty(named: list[str] | str | None) -> Any:
        return [column for column in named if column] or None if isinstance(named, list) else named or None

    check_columns(data_args)
    extra: Any = {name: without_empty(list(named)) for name, named in (data_args.columns or {}).items() if any(named)}
    return Columns(
        image=without_empty(data_args.image_column),
        image_id=data_args.image_id_column or None,
        text=without_empty(data_args.text_column),
        audio=without_empty(data_args.audio_column),
        video=data_args.video_column or None,
        table=without_empty(data_args.table_columns) or [],
        series=without_empty(data_args.series_column),
        label=data_args.label_column or None,
        kind=data_args.kind_column or None,
        **({"extra": extra} if extra else {}),
    )


def load_parts(
    data_args: DataArguments,
    columns: Columns,
    seed: int,
    as_text: list[str],
    cells: str | None,
    bad: list[BadRowError] | None = None,
) -> dict[str, Dataset | IterableDataset]:
    """The training, validation and test part. For a stream, validation and test are first stored on disk. For
    `as_text` and `bad` see `load_splits`, for `cells` see `cells_of_run`."""
    splits = load_splits(
        data_args.source,
        columns,
        data_root=data_args.data_root,
        streaming=data_args.streaming,
        validation_fraction=data_args.validation_fraction,
        test_fraction=data_args.test_fraction,
        group_column=data_args.group_column,
        time_column=data_args.time_column,
        seed=seed,
        as_text=as_text,
        measured=True,
        decimal=data_args.decimal,
        problem_type=data_args.problem_type,
        **reading_of(cells),
        fold=fold_of(vars(data_args)),
        bad=bad,
    )
    if data_args.fold == 0:
        return dict(splits)
    missing = {"train", "validation", "test"} - set(splits)
    if missing:
        raise ValueError(
            f"{data_args.source} needs the parts train, validation and test, but it has {list(splits)}. "
            "Set validation_fraction and test_fraction above 0 to split them from train."
        )
    parts = {name: splits[name] for name in ("train", "validation", "test")}
    for name, part in parts.items():
        if name != "train" and isinstance(part, IterableDataset):
            cache = cache_folder(files_of(data_args.source))
            parts[name] = Dataset.from_generator(partial(iter, part), features=part.features, cache_dir=cache)
    return parts


def read_labels(
    splits: dict[str, Any], columns: Columns, data_args: DataArguments, head: str | None, sure: bool = False
) -> tuple[dict[str, Any], list[Task]]:
    """Reads the labels; `head` is the recipe's key `task`, and for `sure` see `labels_of`.

    Returns:
        the parts, with the same classes in all of them; and the task of each column of labels. A search has one task
        without labels.

    Raises:
        ValueError: see `labels_by_column`.
    """
    known = task_of_head(head)
    if known is not None:
        tasks = [known.learn(splits, column) for column in columns.labels] or [known.learn(splits, None)]
    else:
        tasks = labels_by_column(splits, columns, data_args, sure)
    for task in tasks:
        task.weight = columns.weights.get(str(task.column))
    names = {str(task.column): task.names for task in tasks if known is None or task.names}
    return normalise_labels(splits, names) if names else splits, tasks  # type: ignore[arg-type]


def labels_by_column(
    splits: dict[str, Dataset | IterableDataset], columns: Columns, data_args: DataArguments, sure: bool = False
) -> list[Task]:
    """The task of each column of labels.

    Raises:
        ValueError: see `labels_of`; or problem_type names a column that is no label column.
    """
    named = data_args.problem_type
    asked: dict[str, str | None] = dict.fromkeys(columns.labels, named) if not isinstance(named, dict) else {**named}
    if unknown := set(asked) - set(columns.labels):
        meant = did_you_mean(sorted(unknown)[0], columns.labels)
        raise ValueError(f"problem_type names {sorted(unknown)}, but the label columns are {columns.labels}.{meant}")
    meanings: dict[str, tuple[list[str] | None, str]] = {}
    refused: list[ValueError] = []
    for column in columns.labels:
        try:
            meanings[column] = labels_of(splits, column, asked.get(column), sure)  # type: ignore[arg-type]
        except ValueError as error:
            refused.append(error)
    if refused:
        raise together(refused)
    for column, (classes, _) in meanings.items():
        if classes is not None and len(classes) == 1:
            raise ValueError(
                f"Column {column!r} has only one class, {classes[0]!r}: there is nothing to learn. Name another label."
            )
    return [task_of(problem_type, classes, column) for column, (classes, problem_type) in meanings.items()]


def check_rows(run: Evaluator):
    """Checks every label, text and path of a picture, so that a bad one stops the run before the training and not
    after it. The content of a picture is checked when it is read."""
    bad: list[BadRowError] | None = [] if run.bad_rows.on_error == "skip" else None
    for split, dataset in run.splits.items():
        if isinstance(dataset, IterableDataset):
            continue
        for alone in [] if run.searches else run.alone():
            if count_labels(alone.labels(split)) == 0:
                raise ValueError(f"No row of split {split!r} has a label in column {alone.label!r}.")
        for modality, reader in READERS.items():
            columns = [] if reader.files else reader.data_columns(run.columns)
            for row in run.all_rows(split, columns) if columns else []:
                run.collator.item_keys(row, modality, bad)
        for column in run.columns.files:
            if isinstance(dataset.features[column], List):  # the pictures of videos are checked when they are read
                continue
            for row in rows_by_path(dataset, split, column):
                try:
                    find_picture(row, column, run.collator.root)
                except BadRowError as error:
                    if bad is None:
                        raise
                    bad.append(error)
    run.note_bad_rows([error.entry for error in bad or []])
