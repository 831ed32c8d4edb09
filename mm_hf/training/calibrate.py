"""Learns from the validation part how sure a model's answers are, and keeps it in its config; see `Confidence`."""

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
# Validation rows from which a run is calibrated that was not asked to be. On made rows a temperature of so many does
# no harm on average (-log of the probability of the truth +.0004, at worst +.008, where none was needed; of 20 rows
# +.01 and +.1), and takes off nearly all that can be taken off where one was.
BY_ITSELF = 200
COVERAGE = 0.9  # that a run measures by itself; any other one is asked of `mm_hf evaluate`, `predict` or a pipeline


def confidences_of(run: Evaluator, predictions: Predictions) -> dict[str | None, Confidence]:
    """By task, None for the only one, what predictions of the validation part say.

    Raises:
        ValueError: a task that has no probabilities, sets or intervals, or too few rows.
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
    """Refuses a model of whose answers validation rows cannot tell how sure they are.

    Raises:
        ValueError: naming the task.
    """
    for task in run.tasks:
        if not task.can_be_calibrated:
            raise ValueError(
                f"calibrate is for classes and numbers, and the task is {task.name!r}: it has no probabilities, sets "
                "or intervals that validation rows could tell anything of."
            )


def check_calibration(run: Run):
    """Refuses `calibrate: true` before a run trains that could not be calibrated.

    Raises:
        ValueError: naming what is in the way.
    """
    refuse_tasks(run)
    if run.data_args.folds or run.data_args.fold is not None:
        raise ValueError(
            "calibrate is true, and with folds the last model learns all rows: none is left that could tell how sure "
            "it is. Leave one of the two out."
        )
    for alone in run.alone():
        labelled = labelled_rows(alone)
        if labelled < LEAST_ROWS:
            raise ValueError(
                f"calibrate needs at least {LEAST_ROWS} validation rows with a label in {alone.label!r}, and there "
                f"are {labelled}: validation_fraction cuts more of them."
            )


def set_heads(run: Evaluator):
    """Gives each task the head of the run's model, which knows how sure it is."""
    config = run.model.config
    for task in run.tasks:
        head = config.task_heads[str(task.column)] if run.several else head_of_config(config, task.name)
        task.model_head = head


def calibrate_run(run: Run) -> bool:
    """Calibrates the model of a run that has trained, in memory and in its folder. All processes call it.

    Returns:
        whether it did; where it could not, it says why.
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
    """Whether a run is calibrated whose recipe says nothing of it."""
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
    """Writes what was learned into the config.json of a checkpoint, which is never half written, and its checksum."""
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
    """What is to be said of a checkpoint whose own code, which those without the package run, came before the key."""
    code = [(folder / name).exists() for name in ("modeling_mm_fusion.py", "confidence.py")]
    if code != [True, False]:
        return None
    return (
        f"The code that lies in {folder} is older and does not know what was learned: those who load it without the "
        "package see it once the checkpoint was saved anew (from_pretrained, then save_pretrained)."
    )


def measured_confidence(run: Evaluator, predictions: Predictions) -> dict[str, Any]:
    """By column of labels what of it holds on the test part; see `how_sure`."""
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
    """By name which of all rows belong to a group that sets and intervals are measured for: those of equal values in a
    column, of the most frequent ones, and those that lack a modality; bool `(N,)` each."""
    groups = {}
    if group is not None:
        values = rows.dataset[group][:]
        for value, count in Counter(values).most_common(conformal.MOST_GROUPS):
            if count >= conformal.LEAST_ROWS:
                groups[f"{group}: {value}"] = torch.tensor([other == value for other in values])
    for modality in run.model.config.modalities:
        if run.collator.parts[modality]:
            bad: list = []  # of which the evaluation tells
            lacking = [not any(key is not None for key in run.collator.item_keys(row, modality, bad)) for row in rows]
            if any(lacking):
                groups[f"without {modality}"] = torch.tensor(lacking)
    return groups
