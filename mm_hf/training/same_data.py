"""A run goes on with the data that it was begun with, or says what differs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset

from ..checkpoints import list_checkpoints
from ..data import Columns
from .fingerprint import Fingerprint
from .run_folder import begin_run, read_rows_of, write_json


def check_same_data(
    accelerator: Accelerator,
    output_dir: Path,
    recipe: dict[str, Any],
    data: dict[str, Any],
    take_fingerprint: Callable[[], Fingerprint],
    allow_changes: bool | str,
):
    """Refuses to go on with a run on other rows, classes, preprocessing or frozen encoders than it was begun with. All
    processes call it; the main one looks for all.

    Args:
        accelerator, output_dir, recipe: as for `claim_run_folder`.
        data: numbers of rows, classes, and how cells are read.
        take_fingerprint: makes that of the data.
        allow_changes: "data" goes on with other content. The number of training rows and the classes stay as they are:
            the order of batches and the head depend on them.

    Raises:
        ValueError: naming what differs.
    """
    told: list[str | None] = [None]
    if accelerator.is_main_process:
        before = read_rows_of(output_dir) if list_checkpoints(output_dir) else {}
        earlier = before.pop("fingerprint", None)
        fingerprint = take_fingerprint()
        differences, touched = fingerprint.settle(earlier)
        told[0] = refusal(output_dir, before, data, differences, allow_changes == "data")
        if told[0] is None:
            for line in touched:
                print(line, flush=True)
            for difference in differences:
                print(f"goes on with other data ({difference}): --allow_changes data", flush=True)
            begin_run(output_dir, recipe)
            write_json(output_dir / "rows.json", {**data, "fingerprint": fingerprint.kept})
    broadcast_object_list(told)  # all wait for it
    if told[0] is not None:
        raise ValueError(told[0])


def refusal(
    output_dir: Path, before: dict[str, Any], data: dict[str, Any], differences: list[str], allowed: bool
) -> str | None:
    """Why a run cannot go on; None where it can. Arguments as in `check_same_data`."""
    ways_out = "--overwrite_output_dir starts anew; --output_dir names another folder."
    if before and allowed:  # other parts than train may have other numbers of rows
        before = {**before, "rows": {**data["rows"], **{"train": before["rows"].get("train")}}}
        data = {**data, "rows": {**data["rows"], **{"train": data["rows"].get("train")}}}
    if before and before != data:
        limit = "--allow_changes data takes neither other classes nor more or fewer training rows; " if allowed else ""
        return f"{output_dir} was begun on {before}, and the data now has {data}. {limit}{ways_out}"
    if differences and not allowed:
        return (
            f"{output_dir} was begun on other data. Changed: {'; '.join(differences)}. --allow_changes data goes on "
            f"with what is there now; {ways_out}"
        )
    return None


def check_same_part(model: Path, dataset: str, root: str | None, columns: Columns, name: str, part: Dataset):
    """Refuses the rows of a part that was cut as in training, but holds others than it did then: some may have been
    learned. What a run of before, in the folder `model`, did not keep is not asked for.

    Raises:
        ValueError: naming what differs.
    """
    earlier = read_rows_of(model).get("fingerprint")
    differences = [] if earlier is None else Fingerprint({name: part}, columns, dataset, root).settle(earlier)[0]
    if differences:
        raise ValueError(
            f"{dataset} is not what it was when {model} was trained. Changed: {'; '.join(differences)}. Its {name} "
            "part cannot be cut again as it was. Put rows that it has not learned into a file of their own."
        )
