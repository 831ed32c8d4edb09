"""`mm_hf.understand`, without loading what reads data until it is called."""

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .data.understanding import Understanding


def understand(
    dataset: Any,
    label: str | list[str] | None = None,
    *,
    data_root: str | os.PathLike | None = None,
    named: Mapping[str, str] | None = None,
    ignore: Collection[str] = (),
) -> "Understanding":
    """What every column of a data set is, by what it holds: what `mm_hf train FILE --label NAME` does first.

    ```python
    seen = mm_hf.understand("houses.csv", label="price")
    print(seen)              # what each column is taken for, and why
    seen.roles["front"]      # "image"
    seen.columns             # for MultimodalCollator
    ```

    Args:
        dataset: a file, folder or Hub id; a `Dataset`, a `DatasetDict`, or a pandas `DataFrame`.
        label: the column of the labels, or several.
        data_root: folder that paths start from; left out, that of the data, or one below it that holds the files.
        named: by column what it is, as `{"story": "text", "code": "table"}`; the others are looked at.
        ignore: columns that are left out.

    Returns:
        an object with `roles` (a dict), `columns` (a `Columns`), `keys()` (of a recipe), `table()` and `suspicions`.

    Raises:
        ValueError: a column that is not there, or a data set that cannot be read.
        FileNotFoundError: there is no such data set.
    """
    from .data.understanding import understand

    return understand(dataset, label, data_root=data_root, named=named, ignore=ignore)
