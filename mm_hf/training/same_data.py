"""A resumed run must have the data that it was started with. If not, an error says what differs."""

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
    """Refuses to resume a run if rows, classes, preprocessing or frozen encoders have changed. All processes call it;
    the main process checks for all.

    Args:
        accelerator, output_dir, recipe: as for `claim_run_folder`.
        data: numbers of rows, classes, and how cells are read.
        take_fingerprint: computes the fingerprint of the data.
        allow_changes: "data" accepts other content. The number of training rows and the classes must still be the
            same: the order of batches and the head depend on them.

    Raises:
        ValueError: names what differs.
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
                print(f"resumes with changed data ({difference}), because of --allow_changes data", flush=True)
            begin_run(output_dir, recipe)
            write_json(output_dir / "rows.json", {**data, "fingerprint": fingerprint.kept})
    broadcast_object_list(told)  # all processes wait for the result
    if told[0] is not None:
        raise ValueError(told[0])


def refusal(
    output_dir: Path, before: dict[str, Any], data: dict[str, Any], differences: list[str], allowed: bool
) -> str | None:
    """Why a run cannot be resumed; None if it can. Arguments as in `check_same_data`."""
    ways_out = "--overwrite_output_dir starts again from the beginning; --output_dir names another folder."
    if before and allowed:  # only the number of training rows must be the same
        before = {**before, "rows": {**data["rows"], **{"train": before["rows"].get("train")}}}
        data = {**data, "rows": {**data["rows"], **{"train": data["rows"].get("train")}}}
    if before and before != data:
        limit = (
            "--allow_changes data accepts no other classes, and no more or fewer training rows; " if allowed else ""
        )
        return f"{output_dir} was started with {before}, but the data now has {data}. {limit}{ways_out}"
    if differences and not allowed:
        return (
            f"{output_dir} was started with other data. Changed: {'; '.join(differences)}. --allow_changes data "
            f"resumes with the present data; {ways_out}"
        )
    return None


def check_same_part(model: Path, dataset: str, root: str | None, columns: Columns, name: str, part: Dataset):
    """Refuses a part that was split in the same way as in training but has other rows now: the model may have been
    trained on some of them. An older run, in the folder `model`, may have no fingerprint; then nothing is checked.

    Raises:
        ValueError: names what differs.
    """
    earlier = read_rows_of(model).get("fingerprint")
    differences = [] if earlier is None else Fingerprint({name: part}, columns, dataset, root).settle(earlier)[0]
    if differences:
        raise ValueError(
            f"{dataset} has changed since {model} was trained. Changed: {'; '.join(differences)}. Its {name} part "
            "cannot be split off in the same way again. Put rows that the model was not trained on into their own "
            "file."
        )
