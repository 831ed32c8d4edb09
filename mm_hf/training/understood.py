"""Columns without a name in the recipe: their role is decided from their cells, printed before the training, and kept
in the recipe."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data import Columns, data_root_of
from ..data.suspicions import rare_classes, shared_rows
from ..data.understanding import Understanding, UnderstoodColumn, understand
from ..tasks import Task, task_of_head
from .by_modality import columns_by_modality, columns_of, listed, modalities, short_keys
from .data_arguments import DataArguments, keep_plain
from .model_arguments import ModelArguments
from .run_folder import is_begun, read_run_json, write_json


FILE = "understanding.json"
SUSPICION = "  look at this: {}"
# Keys of columns that are not read by a modality.
OTHERS = ("label_column", "kind_column", "image_id_column", "group_column", "time_column", "weight_column")
# Keys from this list with columns that are inputs too: a split by date does not change the inputs.
STILL_READ = ("time_column",)
ASKED = ("dataset", "data_root", "columns", "category_columns", "problem_type", "ignore_columns")


@dataclass
class Understood:
    """The decisions about the columns of a run.

    Args:
        asked: the keys that the recipe gave.
        keys: the keys that were decided.
        columns: the role of each column, and why.
        suspicions: see `Understanding`.
        folder: a folder within the folder of the data; names of files are relative to it. None: they are relative to
            the folder of the data.
    """

    asked: dict[str, Any]
    keys: dict[str, Any]
    columns: list[dict[str, str]]
    suspicions: list[str]
    folder: str | None = None

    def keep(self, output_dir: Path):
        """Writes it into the folder of the run."""
        write_json(output_dir / FILE, vars(self))

    def look_at_parts(
        self, splits: Mapping[str, Any], tasks: list[Task], columns: Columns, root: str | None, output_dir: Path
    ) -> list[str]:
        """Checks the loaded parts for problems that make a score doubtful, and writes them into the run's folder.
        Returns lines for the terminal.

        Args:
            splits, columns, root: see `shared_rows`.
            tasks: one for each column of labels.
            output_dir: the folder of the run.
        """
        classes = [str(task.column) for task in tasks if task.column is not None and task.names]
        lines = [*rare_classes(splits, classes), *shared_rows(splits, columns, root)]
        self.suspicions += [line for line in lines if line not in self.suspicions]
        self.keep(output_dir)
        return [SUSPICION.format(line) for line in lines]


def understand_columns(
    model_args: ModelArguments, data_args: DataArguments, output_dir: Path, overwrite: bool
) -> Understood | None:
    """Decides the role of each column if none is named, or if the recipe asks for it. Fills in the keys that name
    columns, and prints a table. A resumed run keeps its first decisions.

    Returns:
        the decisions; None if the recipe names the columns.

    Raises:
        ValueError: a label is needed but none is named, or a named column does not exist.
    """
    named = {name: columns_of(data_args, name) for name in modalities()}
    asked, ignored = data_args.understand_columns, data_args.ignore_columns
    if asked is False and ignored:
        raise ValueError(f"ignore_columns is {ignored}, but understand_columns is false: leave one of them out.")
    data_args.understand_columns = None  # recipe.json holds the decisions instead
    if not data_args.dataset or not (asked or (asked is None and (ignored or not any(named.values())))):
        return None
    if data_args.streaming:
        if asked or ignored:
            raise ValueError("understand_columns and ignore_columns do not work with streaming: name the columns.")
        return None  # missing columns are reported later
    given = asked_of(data_args)
    earlier = kept_of(output_dir) if is_begun(output_dir) and not overwrite else None
    if earlier is not None and earlier.asked == given:
        understood = earlier
    else:
        seen = look(model_args, data_args, named)
        folder = None
        if seen.data_root is not None:
            folder = os.path.relpath(os.path.realpath(seen.data_root), data_root_of(data_args.source))
        understood = Understood(given, keys_of(seen, model_args, data_args), lines_of(seen), seen.suspicions, folder)
        if data_args.fold in (None, 1):  # with cross-validation only once, not for each fold
            say(seen, data_args)
    for key, value in understood.keys.items():
        setattr(data_args, key, value)
    keep_plain(data_args)
    data_args.ignore_columns = None
    return understood


def asked_of(data_args: DataArguments) -> dict[str, Any]:
    """The given keys of a recipe that the decisions depend on."""
    keys = [*ASKED, *OTHERS, *(key for name in modalities() for key in short_keys(name))]
    return {key: value for key in keys if (value := getattr(data_args, key)) is not None}


def kept_of(output_dir: Path) -> Understood | None:
    """The decisions of a run in this folder from when it was started; None if there is no file."""
    file = output_dir / FILE
    return Understood(**read_run_json(file)) if file.exists() else None


def data_root_beside(run: str, rows: str) -> str | None:
    """The folder with the files (such as pictures) of rows to predict: a folder beside the rows with the same name as
    in the run. None if there is no such folder, or if the run's files were not in their own folder."""
    file = Path(run) / FILE
    folder = read_run_json(file).get("folder") if file.exists() else None
    root = data_root_of(rows)
    beside = None if folder is None or root is None else os.path.join(root, folder)
    return beside if beside is not None and os.path.isdir(beside) else None


def look(model_args: ModelArguments, data_args: DataArguments, named: Mapping[str, list[str]]) -> Understanding:
    """Decides the role of each column.

    Raises:
        ValueError: a label is needed but none is named; the message lists the columns that could be the label.
    """
    keys = [key for key in OTHERS[1:] if key not in STILL_READ]
    parts = {column: key.rpartition("_")[0] for key in keys for column in names_in(getattr(data_args, key))}
    for name in named:
        for key in short_keys(name):
            parts |= dict.fromkeys(filter(None, listed(getattr(data_args, key))), key.rpartition("_")[0])
    extra: Any = data_args.columns or {}
    parts |= {column: name for name, columns in extra.items() for column in columns}
    labels = listed(data_args.label_column)
    source = data_args.source
    parts = {column: part for column, part in parts.items() if column not in labels}
    seen = understand(
        source, labels, data_root=data_args.data_root, named=parts, ignore=data_args.ignore_columns or ()
    )
    known = task_of_head(model_args.task)
    if not labels and (known is None or known.needs_labels):
        candidates = seen.candidates()
        example = f" For instance: mm_hf train {source} --label {quoted(candidates[0])}" if candidates else ""
        raise ValueError(
            f"label_column is missing: name the column to predict. In {source}, these columns could be the label: "
            f"{candidates}.{example}"
        )
    if seen.data_root is not None and not os.path.isabs(source):
        seen.data_root = os.path.relpath(seen.data_root)
    seen.lines = [with_its_cut(line, data_args.time_column) for line in seen.lines]
    return seen


def with_its_cut(line: UnderstoodColumn, time_column: str | None) -> UnderstoodColumn:
    """The line of a column; if the split uses this column, the line says so."""
    if line.name != time_column:
        return line
    without = f"; with --ignore_columns {quoted(line.name)} it is used for the split only" if line.part else ""
    return replace(line, why=f"the latest rows are the test part{without}; {line.why}")


def names_in(value: Any) -> list[str]:
    """The columns that a key names; the value may be a dict by label."""
    return list(filter(None, value.values() if isinstance(value, dict) else listed(value)))


def quoted(name: str) -> str:
    """A name, quoted for a shell if needed."""
    return name if name.replace("_", "").isalnum() else f'"{name}"'


def keys_of(seen: Understanding, model_args: ModelArguments, data_args: DataArguments) -> dict[str, Any]:
    """The recipe keys for the decisions."""
    keys = seen.keys()
    if data_args.category_columns is not None:
        keys["category_columns"] = data_args.category_columns
    if seen.numbers and data_args.problem_type is None and model_args.task is None:
        kinds = dict.fromkeys(seen.numbers, seen.kind_of_numbers)
        keys["problem_type"] = kinds if len(seen.label) > 1 else seen.kind_of_numbers
    return keys


def lines_of(seen: Understanding) -> list[dict[str, str]]:
    """The role of each column, for the file in the run's folder."""
    return [{"column": line.name, "taken_as": line.role, "why": line.why} for line in (*seen.lines, *seen.targets)]


def say(seen: Understanding, data_args: DataArguments):
    """Prints the decisions."""
    if int(os.environ.get("RANK", 0)):
        return
    which = "columns that are not named are" if columns_by_modality(data_args) else "each column is"
    print(f"{data_args.source}: {which} taken for what the cells hold")
    print("\n".join(f"  {line}" for line in seen.table().splitlines()))
    print(
        "  To change a line: --understand_columns true with the flag of what it is, such as --text_column NAME; "
        "--ignore_columns NAME leaves one out.",
        flush=True,
    )
    for suspicion in seen.suspicions:
        print(SUSPICION.format(suspicion), flush=True)
