"""What `mm_hf evaluate --backend onnx` measures: an export in the place of the model that it was made of, and beside
it what that model says of the same rows."""

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


EVALUATION = "evaluation"  # the folder of what torch was measured with


def open_measured(args: EvaluateArguments) -> tuple[Model, EvaluateArguments]:
    """Opens the export that is to be measured, and gives the arguments with the folder of its report, which is not
    that of the model's own.

    Raises:
        OSError, ValueError: there is no such export, or it is not what the folder's own `runtime.py` would run; the
            model searches; or its report would replace that of the model.
    """
    config = config_of(args.model)
    task = task_of_class((config.architectures or [""])[0])
    if task is not None and not task.needs_labels:
        raise ValueError(
            f"{args.model} searches: `mm_hf search evaluate --model {args.model}` measures it, with torch alone. Its "
            "export gives embeddings, and the tests of mm_hf compare them with torch's."
        )
    folder = Path(args.export_folder or usual_folder(args.model))
    manifest = read_manifest(folder, args.model)
    check_runtime(folder, args.model, manifest)
    beside = Path(args.model) if os.path.isdir(args.model) else Path("runs", Path(args.model).name)
    output = Path(args.output_dir or beside / f"{EVALUATION}-{folder.resolve().name}")
    if output.resolve() == (beside / EVALUATION).resolve():
        raise ValueError(f"--output_dir {output} is where the figures of torch lie: name another folder.")
    return open_export(folder, torch.get_num_threads()), replace(args, output_dir=str(output))


def check_same_model(exported: Model, run: Evaluator):
    """Refuses an export of another model, and what cannot be measured.

    Raises:
        ValueError: naming what differs.
    """
    if run.world_size > 1:
        raise ValueError("--backend onnx runs in one process, with threads of its own: without accelerate launch.")
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
        raise ValueError(f"{exported.folder} is no export of this model: they differ in {', '.join(differing)}.")


def beside_torch(
    args: EvaluateArguments,
    run: Evaluator,
    name: str,
    exported: Model,
    predictions: tuple[Predictions, Predictions],
    units: tuple[str, Sequence],
) -> dict[str, dict[str, Any]]:
    """By column of labels how the answers of an export and those of the model, to the same rows, go together.

    Args:
        name: of the part.
        predictions: of the export and of the model; texts are tokens.
        units: see `write_evaluation`.

    Returns:
        of each `name`, `export`, `int8`, `versions`; `same_answers`, the share of rows with the same best answer (of
        several labels: with the same ones); None of numbers; `largest_difference` of the numbers that come out of the
        model, None of texts; `torch`, see `compare_outcomes`: A is the export and B the model; and `report_of_run`,
        see `figures_of_run`.
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
    """The metrics that the run itself has kept of a part, by torch: of `mm_hf evaluate`, else of the end of training;
    None where there are none, or they cannot be read.

    Args:
        column: of the task, where the model has several.
        name: of the part.

    Returns:
        `metrics` by name, `rows` (None: nobody says), and the `file`.
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
    """What `beside_torch` gives of a task, for the terminal."""
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
        said.append(f"the same answer as torch to {100 * beside['same_answers']:.2f} % of the rows")
    if beside["largest_difference"] is not None:
        said.append(f"numbers off by {beside['largest_difference']:.2g} at most")
    return "; ".join(said)


def backend_fact(beside: dict[str, Any]) -> str:
    """What answered, for the top of the page."""
    bits = ", 8 bits" if beside["int8"] else ""
    return f"onnx ({short_name(beside['export'])}{bits}): {agreement(beside)}. {beside['torch']['verdict']}"
