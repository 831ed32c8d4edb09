"""The validation and test parts that a run cut from its own rows: for `mm_hf predict RUN ROWS --split test`."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...data import Columns, data_root_of, load_splits
from ...data.readers import PART_OF
from ...data.rows import SOURCE_ROW
from ...models.files import read_json
from ...models.tabular import TableSchema
from ...tasks import task_of_head
from ...training.data_arguments import DatasetArguments
from ...training.places import find_data
from ...training.recipe import fields_of
from ...training.reopen import check_cut, is_data_of, options_of_cut
from ...training.same_data import check_same_part
from ...training.splits import columns_in_use
from .sources import STDIN, RowSource, open_rows


class PartOfRows(RowSource):
    """Some of the rows of another source, in their order.

    Args:
        source: all of them.
        numbers: row numbers of the part, counted from 0.
    """

    def __init__(self, source: RowSource, numbers: list[int]):
        super().__init__(source.columns)
        self.source, self.numbers = source, frozenset(numbers)
        for name in ("name", "header", "root", "separator", "marked", "class_names", "again"):
            setattr(self, name, getattr(source, name))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (row for number, row in enumerate(self.source) if number in self.numbers)

    def types(self) -> Any:
        return self.source.types()

    def count(self) -> int:
        return len(self.numbers)

    def named(self, row: dict[str, Any]) -> dict[str, Any]:
        return self.source.named(row)

    def value(self, row: Mapping[str, Any], part: str, column: str) -> Any:
        return self.source.value(row, part, column)


def open_part(
    run: str, dataset: str, split: str | None, columns: Columns, data_root: str | None, schema: TableSchema | None
) -> RowSource:
    """The rows that `open_rows` gives, or the rows of a part that the run cut from its own training rows.

    Args:
        run: the checkpoint.
        dataset, split, columns, data_root, schema: as for `open_rows`. If the data have a part of this name, it is
            taken.

    Raises:
        FileNotFoundError, ValueError: see `open_rows`; or the part cannot be cut again in the same way.
    """
    try:
        return open_rows(dataset, split, columns, data_root, schema)
    except ValueError:
        numbers = rows_of_cut(run, dataset, split, data_root)
        if numbers is None:
            raise
    return PartOfRows(open_rows(dataset, "train", columns, data_root, schema), numbers)


def parts_of_run(run: str, recipe: dict[str, Any], dataset: str, data_root: str | None) -> tuple[Any, Columns, Any]:
    """The arguments, the columns and the parts of a run's own data, read and cut as the run did it. `recipe` comes
    from `find_data`."""
    keys = dict.fromkeys(key.name for key in fields(DatasetArguments))
    data_args: Any = SimpleNamespace(**{**keys, **fields_of(recipe), "dataset": dataset})
    columns = replace(columns_in_use(data_args), weight=recipe.get("weight_column"))
    known = task_of_head(recipe.get("task"))
    as_text = columns.labels if known is not None and known.writes else []
    options = options_of_cut(recipe, Path(run))
    return data_args, columns, load_splits(dataset, columns, data_root=data_root, as_text=as_text, **options)


def rows_of_cut(run: str, dataset: str, split: str | None, data_root: str | None) -> list[int] | None:
    """The row numbers, counted from 0, of a part that a run cut from the training rows of its own data. None if the
    data do not belong to the run, or the run cut no such part.

    Raises:
        ValueError: the part cannot be cut again in the same way.
    """
    file = Path(run) / "recipe.json"
    part = None if split is None else PART_OF.get(split.lower(), split)
    if part is None or dataset == STDIN or not file.exists():
        return None
    recipe = find_data(read_json(file), file.parent)[0]
    if not is_data_of(recipe, dataset):
        return None
    data_args, columns, splits = parts_of_run(run, recipe, dataset, data_root)
    if part not in splits or SOURCE_ROW not in splits[part].column_names:
        return None
    check_cut(Path(run), data_args, recipe, {name: len(rows) for name, rows in splits.items()})
    check_same_part(Path(run), dataset, data_root_of(dataset, data_root), columns, part, splits[part])
    return splits[part][SOURCE_ROW][:]
