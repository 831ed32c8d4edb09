"""`mm_hf.understand`. The modules that read data are loaded only when it is called."""

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
    """Finds out what each column of a data set is, from its values. `mm_hf train FILE --label NAME` begins with this.

    ```python
    seen = mm_hf.understand("houses.csv", label="price")
    print(seen)              # what each column is taken for, and why
    seen.roles["front"]      # "image"
    seen.columns             # for MultimodalCollator
    ```

    Args:
        dataset: a file, a folder or a Hub id; or a `Dataset`, a `DatasetDict`, or a pandas `DataFrame`.
        label: the column of the labels, or a list of several.
        data_root: the folder that paths start from; left out, the folder of the data, or one in it that has the files.
        named: the kind of some columns, as `{"story": "text", "code": "table"}`; the others are detected.
        ignore: columns to leave out.

    Returns:
        an object with `roles` (a dict), `columns` (a `Columns`), `keys()` (of a recipe), `table()` and `suspicions`.

    Raises:
        ValueError: a column does not exist, or the data set cannot be read.
        FileNotFoundError: the data set does not exist.
    """
    from .data.understanding import understand

    return understand(dataset, label, data_root=data_root, named=named, ignore=ignore)
