"""The folder of a run: who may write there, and what it is about."""

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


# Keys that a run may be resumed with though they changed, with `--allow_changes`: they leave its weights as they are,
# or say how long it goes on.
MAY_CHANGE = {
    *("num_train_epochs", "max_steps", "max_train_seconds", "early_stopping_patience"),
    *("logging_steps", "eval_steps", "save_steps", "save_total_limit", "report_to", "floors", "floor_budget"),
    *("per_device_eval_batch_size", "dataloader_num_workers", "max_bad_fraction", "max_nonfinite"),
    *("cache_dir", "cache_limit", "encoding_workers", "evidence", "calibrate"),
}
# What runs did before a key was there: a folder whose recipe.json lacks it holds such a run.
BEFORE_THE_KEY = {"defaults_version": 1}
CHOSEN = "chosen"  # the key for what suited the rows and the machine, where the recipe said nothing
ABOUT_THE_FOLDER = {"output_dir", "overwrite_output_dir", "allow_changes"}
DATA_KEYS = {"dataset", "data_root", "import"}
# What a run that starts anew must not find. The folders of checkpoints come on top.
LEFT_BEHIND = [
    *("results.json", "rows.json", "bad_rows.jsonl", "nonfinite_rows*.json", "understanding.json"),
    *("tensorboard", "runs", "floors", "start", ".writing", "fold-*", "predictions.jsonl", "cost_curve.*"),
]


def write_json(path: Path, value: Any):
    """Writes a file of JSON, which is never half written."""
    in_place(path, lambda beside: beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))


def in_place(file: Path, fill: Callable[[Path], Any]):
    """Writes beside the file and renames, so that it is never half written."""
    beside = file.with_name(f".{file.name}.new")
    fill(beside)
    beside.replace(file)


def read_run_json(file: Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return read_json(file)
    except ValueError as error:
        raise ValueError(f"{error} --overwrite_output_dir starts anew.") from None


def read_recipe_of(output_dir: Path) -> dict[str, Any]:
    """The recipe.json of a folder, with what runs did before a key was there; empty where it holds none."""
    file = output_dir / "recipe.json"
    return {**BEFORE_THE_KEY, **read_run_json(file)} if file.exists() else {}


def read_rows_of(output_dir: Path) -> dict[str, Any]:
    """The rows.json of a folder; empty where it holds none."""
    file = output_dir / "rows.json"
    return read_run_json(file) if file.exists() else {}


def is_begun(output_dir: Path) -> bool:
    """Whether a folder holds a run that has left anything but its recipe."""
    return (output_dir / "results.json").exists() or bool(list_checkpoints(output_dir))


def claim_run_folder(
    accelerator: Accelerator, output_dir: Path, recipe: dict[str, Any], overwrite: bool, allow_changes: bool | str
) -> bool:
    """Sees to it that a folder holds one run, and that one process writes there: a new run, or the same one begun
    earlier. Of that, nothing is changed before `check_same_data` has agreed. All processes call it.

    Args:
        accelerator, output_dir: the processes, and the folder.
        recipe: all that decides what the run does, by key.
        overwrite: start anew whatever the folder holds.
        allow_changes: accept new values of the keys in `MAY_CHANGE`; "data" does too.

    Returns:
        False where this very run is complete already.

    Raises:
        ValueError: the folder holds a run of another recipe, or another process writes there.
    """
    lock_folder(output_dir, accelerator.is_main_process)
    results = output_dir / "results.json"
    recipe = plain_recipe(recipe)
    before = {} if overwrite else read_recipe_of(output_dir)  # else it may be damaged
    before.pop(WORKING_DIR, None)
    begun = is_begun(output_dir)
    changed = sorted(key for key in {*before, *recipe} if before.get(key) != recipe.get(key))
    if begun and not overwrite:
        # Where the rows are known, they tell whether data in another place are the same.
        moved = DATA_KEYS if "fingerprint" in read_rows_of(output_dir) else set()
        refused = [key for key in changed if key not in moved and (key not in MAY_CHANGE or not allow_changes)]
        if refused:
            differences = ", ".join(f"{key} ({before.get(key)!r}, now {recipe.get(key)!r})" for key in refused)
            may = [key for key in refused if key in MAY_CHANGE]
            hint = f"--allow_changes accepts new values of {', '.join(may)}; " if may else ""
            raise ValueError(
                f"{output_dir} holds a run of another recipe. Changed: {differences}. {hint}"
                "--overwrite_output_dir starts anew; --output_dir names another folder."
            )
        if results.exists() and not changed:
            if accelerator.is_main_process:
                print(f"{output_dir}: this run is complete. --overwrite_output_dir starts it anew.")
            return False
    accelerator.wait_for_everyone()  # all have read
    if accelerator.is_main_process and (overwrite or not begun):
        if overwrite:
            folds = {"fold-*"} if recipe.get("folds") else set()  # they have started anew themselves
            left = [path for pattern in LEFT_BEHIND if pattern not in folds for path in output_dir.glob(pattern)]
            for path in [*left, *list_checkpoints(output_dir)]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        begin_run(output_dir, recipe)
    accelerator.wait_for_everyone()
    return True


def plain_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """The keys that tell runs apart, as JSON gives them back."""
    return json.loads(json.dumps({key: value for key, value in recipe.items() if key not in ABOUT_THE_FOLDER}))


def begin_run(output_dir: Path, recipe: dict[str, Any]):
    """Writes what the run in this folder is about from now on."""
    (output_dir / "results.json").unlink(missing_ok=True)  # it says that the run is complete
    write_json(output_dir / "recipe.json", {**plain_recipe(recipe), WORKING_DIR: working_dir(output_dir)})
