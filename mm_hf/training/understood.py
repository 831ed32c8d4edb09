"""Columns that nobody named: understood by what they hold, said before the training, and kept in the recipe."""

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
# Keys of columns that no modality reads.
OTHERS = ("label_column", "kind_column", "image_id_column", "group_column", "time_column", "weight_column")
# Of these the columns that are read as well, for what they hold: who cuts by a date asks for no other inputs.
STILL_READ = ("time_column",)
ASKED = ("dataset", "data_root", "columns", "category_columns", "problem_type", "ignore_columns")


@dataclass
class Understood:
    """What was understood of the columns of a run.

    Args:
        asked: the keys that the recipe gave.
        keys: those that follow.
        columns: what each column was taken for, and why.
        suspicions: see `Understanding`.
        folder: below that of the data, that the names of its files start from; None: they start from that of the data.
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
        """Looks at the parts, once they are loaded, for what makes a score doubtful, and keeps it; lines for the
        terminal.

        Args:
            splits, columns, root: see `shared_rows`.
            tasks: those of the columns of labels.
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
    """Looks at the columns where none is named, or where the recipe asks for it, fills in the keys that name them, and
    says all in a table. A run that goes on takes what it began with.

    Returns:
        what was understood; None where the recipe names the columns.

    Raises:
        ValueError: no label is named where one is needed, or a column is not there.
    """
    named = {name: columns_of(data_args, name) for name in modalities()}
    asked, ignored = data_args.understand_columns, data_args.ignore_columns
    if asked is False and ignored:
        raise ValueError(f"ignore_columns is {ignored}, but understand_columns is false: leave one of them out.")
    data_args.understand_columns = None  # recipe.json says what followed from it
    if not data_args.dataset or not (asked or (asked is None and (ignored or not any(named.values())))):
        return None
    if data_args.streaming:
        if asked or ignored:
            raise ValueError("understand_columns does not go with streaming: name the columns.")
        return None  # what is missing is said later
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
        if data_args.fold in (None, 1):  # of cross-validation once, and not for each fold
            say(seen, data_args)
    for key, value in understood.keys.items():
        setattr(data_args, key, value)
    keep_plain(data_args)
    data_args.ignore_columns = None
    return understood


def asked_of(data_args: DataArguments) -> dict[str, Any]:
    """The keys of a recipe that the understanding starts from, where they are given."""
    keys = [*ASKED, *OTHERS, *(key for name in modalities() for key in short_keys(name))]
    return {key: value for key in keys if (value := getattr(data_args, key)) is not None}


def kept_of(output_dir: Path) -> Understood | None:
    """What a run of this folder understood when it began; None where there is nothing of it."""
    file = output_dir / FILE
    return Understood(**read_run_json(file)) if file.exists() else None


def data_root_beside(run: str, rows: str) -> str | None:
    """Where the files of rows that are to be predicted are: in the folder of the same name as those of the run were,
    beside the rows; None where there is none, or where they were not in a folder of their own."""
    file = Path(run) / FILE
    folder = read_run_json(file).get("folder") if file.exists() else None
    root = data_root_of(rows)
    beside = None if folder is None or root is None else os.path.join(root, folder)
    return beside if beside is not None and os.path.isdir(beside) else None


def look(model_args: ModelArguments, data_args: DataArguments, named: Mapping[str, list[str]]) -> Understanding:
    """What the columns are.

    Raises:
        ValueError: no label is named where one is needed; the message lists the columns that could be one.
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
            f"label_column is missing: which column is to be predicted? {source} has {candidates} that could be."
            f"{example}"
        )
    if seen.data_root is not None and not os.path.isabs(source):
        seen.data_root = os.path.relpath(seen.data_root)
    seen.lines = [with_its_cut(line, data_args.time_column) for line in seen.lines]
    return seen


def with_its_cut(line: UnderstoodColumn, time_column: str | None) -> UnderstoodColumn:
    """The line of a column, which says so where the parts are cut by it."""
    if line.name != time_column:
        return line
    without = f"; --ignore_columns {quoted(line.name)} cuts alone" if line.part else ""
    return replace(line, why=f"the latest rows are the test part{without}; {line.why}")


def names_in(value: Any) -> list[str]:
    """The columns that a key names, which may be a dict by label."""
    return list(filter(None, value.values() if isinstance(value, dict) else listed(value)))


def quoted(name: str) -> str:
    """A name as a shell takes it."""
    return name if name.replace("_", "").isalnum() else f'"{name}"'


def keys_of(seen: Understanding, model_args: ModelArguments, data_args: DataArguments) -> dict[str, Any]:
    """The keys of a recipe that say what was understood."""
    keys = seen.keys()
    if data_args.category_columns is not None:
        keys["category_columns"] = data_args.category_columns
    if seen.numbers and data_args.problem_type is None and model_args.task is None:
        kinds = dict.fromkeys(seen.numbers, seen.kind_of_numbers)
        keys["problem_type"] = kinds if len(seen.label) > 1 else seen.kind_of_numbers
    return keys


def lines_of(seen: Understanding) -> list[dict[str, str]]:
    """What each column was taken for, for the folder of the run."""
    return [{"column": line.name, "taken_as": line.role, "why": line.why} for line in (*seen.lines, *seen.targets)]


def say(seen: Understanding, data_args: DataArguments):
    """Prints what was understood."""
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
