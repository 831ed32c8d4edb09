"""`mm_hf evaluate --backend onnx`: measures an export, and compares it with its checkpoint on the same rows."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...data.rows import SOURCE_ROW
from ...evaluation import Predictions, figure
from ...evaluation.outcomes import MeasuredRows, compare_outcomes, paired_table
from ...export.answering import answering_of
from ...export.opening import check_runtime, open_export, read_manifest, usual_folder
from ...export.runtime import Model
from ...models.files import read_json
from ...training.evaluator import Evaluator
from ...training.heads import task_of_class
from ...training.measuring_arguments import EvaluateArguments
from ...training.reopen import config_of
from ...training.run_report import short_name
from .outcomes import outcomes_of


EVALUATION = "evaluation"  # the folder of the evaluation with torch


def open_measured(args: EvaluateArguments) -> tuple[Model, EvaluateArguments]:
    """Opens the export to measure. Returns it, and the arguments with the folder of its report. The report of the
    checkpoint has another folder.

    Raises:
        OSError, ValueError: there is no such export, or the folder's own `runtime.py` would not run it; the model is a
            retrieval model; or the report would replace the report of the checkpoint.
    """
    config = config_of(args.model)
    task = task_of_class((config.architectures or [""])[0])
    if task is not None and not task.needs_labels:
        raise ValueError(
            f"{args.model} is a retrieval model, and --backend onnx does not measure those: use `mm_hf search "
            f"evaluate --model {args.model}`, which runs torch. The tests of mm_hf compare the embeddings of exports "
            "with torch's."
        )
    folder = Path(args.export_folder or usual_folder(args.model))
    manifest = read_manifest(folder, args.model)
    check_runtime(folder, args.model, manifest)
    beside = Path(args.model) if os.path.isdir(args.model) else Path("runs", Path(args.model).name)
    output = Path(args.output_dir or beside / f"{EVALUATION}-{folder.resolve().name}")
    if output.resolve() == (beside / EVALUATION).resolve():
        raise ValueError(f"--output_dir {output} holds the figures of torch: name another folder.")
    return open_export(folder, torch.get_num_threads()), replace(args, output_dir=str(output))


def check_same_model(exported: Model, run: Evaluator):
    """Refuses an export of another model, and an export that cannot be measured.

    Raises:
        ValueError: with the differences.
    """
    if run.world_size > 1:
        raise ValueError(
            f"--backend onnx runs in one process with several threads, got {run.world_size} processes: leave "
            "accelerate launch out."
        )
    model: Any = run.model
    try:
        answers = json.loads(json.dumps(answering_of(model, {})[0]))
    except NotImplementedError as error:
        raise ValueError(f"--backend onnx: {error}") from None
    expected = {
        "model": type(model).__name__,
        "modalities": {name: model.config.places_of(name) for name in model.config.modalities},
        **{key: value for key, value in answers.items() if key != "cache"},
    }
    said = {
        **exported.answers,
        "model": exported.manifest["model"],
        "modalities": {each["name"]: each["places"] for each in exported.modalities},
    }
    if differing := [key for key, value in expected.items() if said.get(key) != value]:
        raise ValueError(
            f"{exported.folder} is not an export of {type(model).__name__} with these settings: they differ in "
            f"{', '.join(differing)}. Export the checkpoint again."
        )


def beside_torch(
    args: EvaluateArguments,
    run: Evaluator,
    name: str,
    exported: Model,
    predictions: tuple[Predictions, Predictions],
    units: tuple[str, Sequence],
) -> dict[str, dict[str, Any]]:
    """Compares the answers of an export with the answers of its model to the same rows, by label column.

    Args:
        name: name of the part.
        predictions: of the export and of the model; texts are tokens.
        units: see `write_evaluation`.

    Returns:
        for each label column: `name`, `export`, `int8`, `versions`; `same_answers`, the share of rows with the same
        best answer (for several labels: with the same labels), None for numbers; `largest_difference` between the
        outputs of both, None for texts; `torch`, see `compare_outcomes`, where A is the export and B the model; and
        `report_of_run`, see `figures_of_run`.
    """
    part = run.splits[name]
    numbers = part[SOURCE_ROW][:] if SOURCE_ROW in part.column_names else list(range(len(part)))
    kinds = part[run.columns.kind][:] if run.columns.kind else None
    about = MeasuredRows(numbers, list(units[1]), units[0], kinds)
    both = [outcomes_of(run, each) for each in predictions]
    manifest, beside = exported.manifest, {}
    for alone in run.alone():
        column = alone.label
        one, other = (outcomes[column] for outcomes in both)
        compared = compare_outcomes(
            column,
            one,
            other,
            ("onnx", "torch"),
            about,
            args.bootstrap_samples,
            args.seed,
            "intervals: onnx beside torch",
        )
        compared.pop("differing")
        values = [(each.logits[column] if run.several else each.logits)[one.labelled] for each in predictions]
        continuous = values[0].is_floating_point()
        beside[column] = {
            "name": "onnx",
            "export": str(exported.folder),
            "int8": manifest["int8"],
            "versions": manifest["versions"],
            "same_answers": None
            if one.answers.is_floating_point()
            else 1 - compared["counts"]["differ"] / compared["rows"],
            "largest_difference": (values[0] - values[1]).abs().max().item() if continuous else None,
            "torch": compared,
            "report_of_run": figures_of_run(args.model, column if run.several else None, name),
        }
    return beside


def figures_of_run(model: str, column: str | None, name: str) -> dict[str, Any] | None:
    """The metrics of a part that the run has stored, computed with torch: by `mm_hf evaluate`, else at the end of
    training. None if there are none, or if they cannot be read.

    Args:
        column: label column of the task, if the model has several tasks.
        name: name of the part.

    Returns:
        `metrics` by name, `rows` (None: not known), and the `file`.
    """
    folder = Path(model)
    evaluation = folder / EVALUATION / ("" if column is None else re.sub(r"[^\w-]", "_", column)) / "evaluation.json"
    results = folder / "results.json"
    try:
        if evaluation.is_file() and (report := read_json(evaluation)).get("split") == name:
            metrics = {metric: value["value"] for metric, value in report["metrics"].items()}
            return {"metrics": metrics, "rows": report["rows"]["labelled"], "file": str(evaluation)}
        if results.is_file() and name == "test":
            prefix = "" if column is None else f"{column}_"
            metrics = read_json(results)["metrics"]
            metrics = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
            return {"metrics": metrics, "rows": None, "file": str(results)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def lines_beside(beside: dict[str, Any], unit: str) -> str:
    """The result of `beside_torch` for one task, for the terminal."""
    compared, reported = beside["torch"], beside["report_of_run"]
    lines = ["", "A: onnx, B: torch, on the same rows", paired_table(compared, unit), agreement(beside)]
    if reported is not None:
        shown = [f"{name} {figure(reported['metrics'].get(name))}" for name in compared["metrics"]]
        rows = "" if reported["rows"] is None else f", {reported['rows']:,} rows"
        lines.append(f"torch in the run's own report: {', '.join(shown)} ({reported['file']}{rows})")
    return "\n".join([*lines, compared["verdict"]])


def agreement(beside: dict[str, Any]) -> str:
    """How far answers and numbers agree, as a sentence."""
    said = []
    if beside["same_answers"] is not None:
        said.append(f"the same answer as torch for {100 * beside['same_answers']:.2f} % of the rows")
    if beside["largest_difference"] is not None:
        said.append(f"outputs differ by at most {beside['largest_difference']:.2g}")
    return "; ".join(said)


def backend_fact(beside: dict[str, Any]) -> str:
    """The backend that answered, for the top of the page."""
    bits = ", 8 bits" if beside["int8"] else ""
    return f"onnx ({short_name(beside['export'])}{bits}): {agreement(beside)}. {beside['torch']['verdict']}"
