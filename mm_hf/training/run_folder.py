"""The folder of a run: which process may write there, and which recipe it belongs to."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..checkpoints import list_checkpoints
from ..models.files import read_json
from .lock import lock_folder
from .places import WORKING_DIR, working_dir


# Keys that may have new values when a run is resumed with `--allow_changes`: they do not change its weights, or they
# only say when the training ends.
MAY_CHANGE = {
    *("num_train_epochs", "max_steps", "max_train_seconds", "early_stopping_patience"),
    *("logging_steps", "eval_steps", "save_steps", "save_total_limit", "report_to", "floors", "floor_budget"),
    *("per_device_eval_batch_size", "dataloader_num_workers", "max_bad_fraction", "max_nonfinite"),
    *("cache_dir", "cache_limit", "encoding_workers", "evidence", "calibrate"),
}
# The behaviour of runs from before a key existed: a recipe.json without the key belongs to such a run.
BEFORE_THE_KEY = {"defaults_version": 1}
CHOSEN = "chosen"  # key of the settings that were chosen for the rows and the machine
ABOUT_THE_FOLDER = {"output_dir", "overwrite_output_dir", "allow_changes"}
DATA_KEYS = {"dataset", "data_root", "import"}
# Files that are removed when a run starts again from the beginning. The folders of checkpoints are removed too.
LEFT_BEHIND = [
    *("results.json", "rows.json", "bad_rows.jsonl", "nonfinite_rows*.json", "understanding.json"),
    *("tensorboard", "runs", "floors", "start", ".writing", "fold-*", "predictions.jsonl", "cost_curve.*"),
]


def write_json(path: Path, value: Any):
    """Writes a JSON file. The file is never half written."""
    in_place(path, lambda beside: beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))


def in_place(file: Path, fill: Callable[[Path], Any]):
    """Writes a new file beside the old one and renames it, so that the file is never half written."""
    beside = file.with_name(f".{file.name}.new")
    fill(beside)
    beside.replace(file)


def read_run_json(file: Path) -> dict[str, Any]:
    """Reads a file that `write_json` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return read_json(file)
    except ValueError as error:
        raise ValueError(f"{error} --overwrite_output_dir starts again from the beginning.") from None


def read_recipe_of(output_dir: Path) -> dict[str, Any]:
    """The recipe.json of a folder, with the old behaviour for keys that did not exist yet; an empty dict if there is
    no file."""
    file = output_dir / "recipe.json"
    return {**BEFORE_THE_KEY, **read_run_json(file)} if file.exists() else {}


def read_rows_of(output_dir: Path) -> dict[str, Any]:
    """The rows.json of a folder; an empty dict if there is no file."""
    file = output_dir / "rows.json"
    return read_run_json(file) if file.exists() else {}


def is_begun(output_dir: Path) -> bool:
    """Whether a folder holds a run with at least a checkpoint or results."""
    return (output_dir / "results.json").exists() or bool(list_checkpoints(output_dir))


def claim_run_folder(
    accelerator: Accelerator, output_dir: Path, recipe: dict[str, Any], overwrite: bool, allow_changes: bool | str
) -> bool:
    """Makes sure that a folder holds only one run and that only one process writes there. The run is new, or the same
    run was started earlier; then nothing in the folder changes until `check_same_data` has passed. All processes call
    it.

    Args:
        accelerator, output_dir: the processes, and the folder.
        recipe: every setting that changes the result of the run, by key.
        overwrite: start again from the beginning, whatever the folder holds.
        allow_changes: accept new values of the keys in `MAY_CHANGE`; "data" does too.

    Returns:
        False if exactly this run is complete already.

    Raises:
        ValueError: the folder holds a run of another recipe, or another process writes there.
    """
    lock_folder(output_dir, accelerator.is_main_process)
    results = output_dir / "results.json"
    recipe = plain_recipe(recipe)
    before = {} if overwrite else read_recipe_of(output_dir)  # with overwrite, even a damaged file is accepted
    before.pop(WORKING_DIR, None)
    begun = is_begun(output_dir)
    changed = sorted(key for key in {*before, *recipe} if before.get(key) != recipe.get(key))
    if begun and not overwrite:
        # If there is a fingerprint of the rows, it shows whether data in another place is the same.
        moved = DATA_KEYS if "fingerprint" in read_rows_of(output_dir) else set()
        refused = [key for key in changed if key not in moved and (key not in MAY_CHANGE or not allow_changes)]
        if refused:
            differences = ", ".join(f"{key} ({before.get(key)!r}, now {recipe.get(key)!r})" for key in refused)
            may = [key for key in refused if key in MAY_CHANGE]
            hint = f"--allow_changes accepts new values of {', '.join(may)}; " if may else ""
            raise ValueError(
                f"{output_dir} holds a run of another recipe. Changed: {differences}. {hint}"
                "--overwrite_output_dir starts again from the beginning; --output_dir names another folder."
            )
        if results.exists() and not changed:
            if accelerator.is_main_process:
                print(f"{output_dir}: this run is complete. --overwrite_output_dir repeats it.")
            return False
    accelerator.wait_for_everyone()  # until all processes have read the files
    if accelerator.is_main_process and (overwrite or not begun):
        if overwrite:
            folds = {"fold-*"} if recipe.get("folds") else set()  # the folds have cleared their folders themselves
            left = [path for pattern in LEFT_BEHIND if pattern not in folds for path in output_dir.glob(pattern)]
            for path in [*left, *list_checkpoints(output_dir)]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        begin_run(output_dir, recipe)
    accelerator.wait_for_everyone()
    return True


def plain_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """The keys in which runs differ, with values as JSON stores them."""
    return json.loads(json.dumps({key: value for key, value in recipe.items() if key not in ABOUT_THE_FOLDER}))


def begin_run(output_dir: Path, recipe: dict[str, Any]):
    """Writes the recipe of the run that this folder holds from now on."""
    (output_dir / "results.json").unlink(missing_ok=True)  # this file would mean that the run is complete
    write_json(output_dir / "recipe.json", {**plain_recipe(recipe), WORKING_DIR: working_dir(output_dir)})
