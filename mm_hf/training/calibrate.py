"""Learns from the validation part how sure a model's answers are, and keeps that in its config; see `Confidence`."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..data import Rows
from ..evaluation import Predictions, conformal, how_sure, learn_confidence
from ..evaluation.calibration import LEAST_ROWS
from ..models.checkpoint_files import read_checksums, write_checksums
from ..models.checksums import can_check, checksum_of
from ..models.confidence import Confidence
from ..models.files import read_json
from ..models.tasks import head_of_config
from .evaluator import Evaluator, evaluate
from .run import Run
from .run_folder import write_json


VALIDATION = "validation"
# With so many validation rows or more, a run is calibrated even if the recipe does not say so. Measured on simulated
# rows: if no calibration was needed, a temperature fitted to 200 rows adds .0004 to the negative log-likelihood on
# average (at worst .008); with 20 rows it adds .01 (at worst .1). If one was needed, it removes nearly all of the
# error that a temperature can remove.
BY_ITSELF = 200
COVERAGE = 0.9  # a run measures this coverage; `mm_hf evaluate`, `predict` and pipelines take other values


def confidences_of(run: Evaluator, predictions: Predictions) -> dict[str | None, Confidence]:
    """Learns the confidence of each task from predictions for the validation part. The key is the task's name, None if
    there is only one task.

    Raises:
        ValueError: a task has no probabilities, sets or intervals, or there are too few rows.
    """
    refuse_tasks(run)
    confidences: dict[str | None, Confidence] = {}
    for alone in run.alone():
        logits, labels = predictions.logits, predictions.labels
        name = alone.label if run.several else None
        if run.several:
            logits, labels = logits[name], labels[name]
        confidences[name] = learn_confidence(alone.task, logits, labels)
    return confidences


def refuse_tasks(run: Evaluator):
    """Refuses a model with a task that cannot be calibrated.

    Raises:
        ValueError: names the task.
    """
    for task in run.tasks:
        if not task.can_be_calibrated:
            raise ValueError(
                f"calibrate is for classes and numbers, but the task is {task.name!r}: it has no probabilities, sets "
                "or intervals to calibrate. Leave calibrate out."
            )


def check_calibration(run: Run):
    """Refuses `calibrate: true` before the training if the run could not be calibrated.

    Raises:
        ValueError: names the reason.
    """
    refuse_tasks(run)
    if run.data_args.folds or run.data_args.fold is not None:
        raise ValueError(
            "calibrate is true, but with folds the last model is trained on all rows, so no row is left to calibrate "
            "it on. Leave one of the two out."
        )
    for alone in run.alone():
        labelled = labelled_rows(alone)
        if labelled < LEAST_ROWS:
            raise ValueError(
                f"calibrate needs at least {LEAST_ROWS} validation rows with a label in {alone.label!r}, but there "
                f"are {labelled}: a larger validation_fraction gives more."
            )


def set_heads(run: Evaluator):
    """Gives each task the head of the run's model, which holds the confidence."""
    config = run.model.config
    for task in run.tasks:
        head = config.task_heads[str(task.column)] if run.several else head_of_config(config, task.name)
        task.model_head = head


def calibrate_run(run: Run) -> bool:
    """Calibrates the trained model of a run, in memory and in its folder. All processes call it.

    Returns:
        whether it did. If it could not, it prints why.
    """
    asked = run.train_args.calibrate
    if asked is False or (asked is None and not calibrates_by_itself(run)):
        return False
    predictions, _ = evaluate(run, run.model, run.collator, VALIDATION)
    set_heads(run)
    try:
        confidences = confidences_of(run, predictions)
    except ValueError as error:
        run.say(f"not calibrated: {error}")
        return False
    run.model.set_confidence(confidences)
    set_heads(run)
    if run.accelerator.is_main_process:
        keep_confidences(run.output_dir, confidences)
    for line in lines_of(confidences):
        run.say(line)
    return True


def calibrates_by_itself(run: Run) -> bool:
    """Whether a run is calibrated if its recipe does not say."""
    if run.train_args.defaults_version < 3 or run.data_args.fold is not None:
        return False
    return all(alone.task.can_be_calibrated and labelled_rows(alone) >= BY_ITSELF for alone in run.alone())


def labelled_rows(alone: Run) -> int:
    """How many validation rows have a label of its only task."""
    return int(alone.task.has_label(alone.read_labels(VALIDATION, bad=[])).sum())


def lines_of(confidences: Mapping[str | None, Confidence]) -> list[str]:
    """What was learned, in words."""
    lines = []
    for name, confidence in confidences.items():
        title = "calibrated" if name is None else f"{name}: calibrated"
        highest = "no coverage" if confidence.highest is None else f"coverages up to {confidence.highest:g}"
        lines.append(
            f"{title} on {confidence.rows:,} validation rows: temperature {confidence.temperature:.3g}, {highest}"
        )
    return lines


def keep_confidences(folder: Path, confidences: Mapping[str | None, Confidence]):
    """Writes what was learned into the config.json of a checkpoint, and updates its checksum. The file is never half
    written."""
    file = folder / "config.json"
    config = read_json(file)
    for name, confidence in confidences.items():
        target = config if name is None else config["tasks"][name]
        target["confidence"] = confidence.as_key()
    write_json(file, dict(sorted(config.items())))
    lines = read_checksums(folder)
    if file.name in lines and can_check():
        write_checksums(folder, {**lines, file.name: checksum_of(file)})


def older_code(folder: Path) -> str | None:
    """A note for a checkpoint with older code, which does not know the confidence. (Users without the package run the
    code in the checkpoint.) None if the code knows it."""
    code = [(folder / name).exists() for name in ("modeling_mm_fusion.py", "confidence.py")]
    if code != [True, False]:
        return None
    return (
        f"The code in {folder} is older and does not use what was learned. Save the checkpoint again "
        "(from_pretrained, then save_pretrained), so that it also works for users without the package."
    )


def measured_confidence(run: Evaluator, predictions: Predictions) -> dict[str, Any]:
    """For each column of labels, how well the confidence holds on the test part; see `how_sure`."""
    measured = {}
    for alone in run.alone():
        task, name = alone.task, alone.label
        logits, labels = predictions.logits, predictions.labels
        if run.several:
            logits, labels = logits[name], labels[name]
        labelled = task.has_label(labels)
        if labelled.any():
            measured[name] = how_sure(task, logits[labelled], labels[labelled], COVERAGE, {})
    return measured


def groups_of_rows(run: Evaluator, rows: Rows, group: str | None) -> dict[str, torch.Tensor]:
    """The groups of rows for which sets and intervals are measured, by name: rows with one of the most frequent values
    of a column, and rows that lack a modality. Each group is a bool tensor `(N,)`."""
    groups = {}
    if group is not None:
        values = rows.dataset[group][:]
        for value, count in Counter(values).most_common(conformal.MOST_GROUPS):
            if count >= conformal.LEAST_ROWS:
                groups[f"{group}: {value}"] = torch.tensor([other == value for other in values])
    for modality in run.model.config.modalities:
        if run.collator.parts[modality]:
            bad: list = []  # the evaluation reports these rows
            lacking = [not any(key is not None for key in run.collator.item_keys(row, modality, bad)) for row in rows]
            if any(lacking):
                groups[f"without {modality}"] = torch.tensor(lacking)
    return groups
