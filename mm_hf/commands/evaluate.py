"""Measures a checkpoint: metrics with intervals, floors (baselines), calibration, confusion, the worst mistakes.

    mm_hf evaluate runs/easy_vqa --missing
    mm_hf evaluate runs/easy_vqa --calibrate --coverage 0.9
    mm_hf evaluate runs/easy_vqa --backend onnx
    accelerate launch -m mm_hf.commands.evaluate runs/easy_vqa
    mm_hf evaluate me/answers --dataset my.csv --image_column photo --text_column question --label_column answer

mm_hf train leaves recipe.json beside its checkpoint. For such a run, the data set and the columns need not be named
again. The results go into the folder evaluation/ of the checkpoint: report.html, a page that needs no other file,
evaluation.json with all the figures, and the pictures. If a model has several tasks, each task has its own folder
there. With --backend onnx, the export of the checkpoint answers. Its results go into evaluation-onnx, together with
the answers of torch to the same rows.
"""

import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import mm_hf

from ..data import GroupedBatchSampler, Rows
from ..data.modalities import READERS
from ..data.readers import PART_OF
from ..data.rows import SOURCE_ROW
from ..data.unseen import unseen_lines, unseen_values
from ..evaluation import (
    Predictions,
    TextTable,
    analyse,
    derangement,
    draw,
    group_codes,
    how_sure,
    predict,
    rounded,
    rows_without,
    table,
    with_how_sure,
    write_page,
)
from ..evaluation.abstention import costs_of_tasks
from ..evaluation.comparisons import LINE
from ..evaluation.html_report import PICTURES
from ..export.measuring import predict_exported
from ..models.costs import Costs
from ..models.text import Text
from ..models.vision import Vision
from ..training.asking import kept_curve
from ..training.calibrate import (
    VALIDATION,
    confidences_of,
    groups_of_rows,
    keep_confidences,
    lines_of,
    older_code,
    refuse_tasks,
)
from ..training.data_arguments import DatasetArguments
from ..training.evaluator import Evaluator, OtherPictures
from ..training.exits import MEASURING, run_script
from ..training.line_answers import kept_answers
from ..training.measuring_arguments import ONNX
from ..training.provenance import origin
from ..training.reopen import EvaluateArguments, GroupedColumns, open_checkpoint, parse_arguments
from ..training.rests_on import rests_on
from ..training.run_folder import in_place, read_run_json, write_json
from ..training.run_report import no_picture, picture_and_text, short_name
from ..training.search_fusions import FILE as SEARCH
from .measuring.exported import backend_fact, beside_torch, check_same_model, lines_beside, open_measured
from .measuring.floors import constant_floors, nearest_pictures, picture_keys


Absent = Mapping[str, Collection[int] | None]  # see `MultimodalCollator`
EXPLAINED = 200  # number of rows whose answers are explained
SHARES = (0.0, 0.3, 0.5, 0.7, 1.0)
LINE_MEANING = "a linear model on the features of the encoders before their training, fitted by the run"
NEAREST_PICTURE = "the text of the training picture that is most similar, for this model's vision encoder"


def predict_rows(run: Evaluator, rows: Rows, title: str, absent: Absent | None = None) -> Predictions:
    """The predictions of the model for all rows, computed by all processes. Each process takes whole batches, so the
    batches, and every digit of the result, are the same for any number of processes. `absent` is as in
    `MultimodalCollator`."""
    groups = len(rows) if rows.groups is None else rows.groups
    batches = list(GroupedBatchSampler(groups, run.batch_size, shuffle=False))
    loader = DataLoader(
        rows,
        batch_sampler=batches[run.rank :: run.world_size],
        collate_fn=replace(run.collator, absent=absent or {}),
        num_workers=run.num_workers,
    )
    return predict(run.model, loader, run.accelerator, title=title, generate=run.generate_arguments(""))


def main():
    """The whole evaluation, from top to bottom."""
    args, data_args, recipe = parse_arguments(__doc__)
    exported = None
    if args.backend == ONNX:
        exported, args = open_measured(args)
    if args.calibrate:
        calibrate(args, data_args, recipe)
    run, name, learned = open_checkpoint(args, data_args, recipe)
    if exported is not None:
        check_same_model(exported, run)
    rows = run.rows(name)
    costs = {} if args.costs is None else costs_of_tasks(args.costs, run.tasks_by_name)
    run.say(f"{args.model} on {len(rows):,} rows of {data_args.dataset}, part {name}")
    if name == VALIDATION and run.model.config.has_confidence:
        run.say(
            f"the part {VALIDATION} may also have been used for calibration: its calibration figures can be too good"
        )
    known = [
        column for reader in READERS.values() if reader.knows_values for column in reader.data_columns(run.columns)
    ]
    for sentence in unseen_lines(unseen_values(run.all_rows(name, known) if known else [], run.collator), len(rows)):
        run.say(sentence)
    predictions = predict_rows(run, rows, "evaluating" if exported is None else "evaluating torch")
    run.share_bad_rows(predictions.bad_rows)
    of_torch, texts = predictions, TextTable()

    def answered(rows: Rows, title: str, absent: Absent | None = None) -> Any:
        """The predictions of the model, or of its export, for rows."""
        if exported is None:
            return predict_rows(run, rows, title, absent).logits
        return predict_exported(exported, rows, run.collator, run.batch_size, absent, title)

    if exported is not None:
        predictions = replace(of_torch, logits=answered(rows, "evaluating onnx"))
    of_both = (replace(predictions), of_torch)

    def numbered(tokens: torch.Tensor) -> torch.Tensor:
        """The numbers of texts, `(N,)`."""
        return texts.codes(run.collator.texts_of(tokens))

    def logits(title: str, rows: Rows = rows, absent: Absent | None = None) -> Any:
        """The logits of all rows. Bad rows are not recorded again."""
        values = answered(rows, title, absent)
        return numbered(values) if run.writes else values

    line = kept_answers(args.model, predictions.labels)
    if run.writes:
        # The texts of train come first: the floor takes the first of equally frequent texts, as in training.
        learned = None if learned is None else numbered(learned)
        predictions.logits, predictions.labels = numbered(predictions.logits), numbered(predictions.labels)

    # All processes compute the floors and the missing modalities together.
    modalities = [modality for modality in run.model.config.modalities if run.collator.parts[modality]]
    floors: dict[str, tuple[Any, dict[str, Any]]] = {}
    for modality in modalities if len(modalities) > 1 else []:
        others = dict.fromkeys(set(modalities) - {modality})
        meaning = f"this model, not trained for it, with the {' and '.join(others)} of every row removed"
        floors[f"this_model_{modality}_alone"] = logits(f"{modality} alone", absent=others), {"meaning": meaning}
    items = picture_keys(run, rows) if Vision.name in modalities else None
    if items is not None and Text.name in modalities:
        order = derangement(items, args.seed)
        kept = sum(items[row] is not None and items[row] == items[other] for row, other in enumerate(order))
        shuffled = logits("shuffled pairs", OtherPictures(rows.dataset, name, run.columns, order))
        meaning = "this model, with each text beside the picture of another row"
        floors["this_model_shuffled_pairs"] = shuffled, {"meaning": meaning, "rows_that_kept_their_picture": kept}
    if run.writes and modalities == [Vision.name] and learned is not None:
        floors["nearest_picture"] = learned[nearest_pictures(run, rows)], {"meaning": NEAREST_PICTURE}
    if line is not None:
        floors[LINE] = numbered(line) if run.writes else line, {"meaning": LINE_MEANING}
    curves: dict[str, list] = {}
    for place, modality in enumerate(modalities if args.missing else []):
        for share in SHARES:
            lost: Absent = {modality: rows_without(len(rows), share, [args.seed, place])}
            curves.setdefault(modality, []).append((share, logits(f"{share:.0%} without {modality}", absent=lost)))

    evidence = None
    if args.evidence and exported is None and run.accelerator.is_main_process:
        evidence = rests_on(run, name, run.learned, EXPLAINED, args.seed)
    units: tuple[str, Sequence] = ("rows", range(len(rows)))
    if isinstance(run.columns, GroupedColumns) and run.columns.group:
        units = (f"rows of equal {run.columns.group}", rows.dataset[run.columns.group][:])
    elif items is not None:
        units = ("rows of the same picture", items)
    beside = {} if exported is None else beside_torch(args, run, name, exported, of_both, units)
    if run.writes:  # all texts that were predicted
        run.tasks = [replace(run.task, names=texts.texts)]
    if run.accelerator.is_main_process:
        column = run.columns.group if isinstance(run.columns, GroupedColumns) else None
        groups = groups_of_rows(run, rows, column) if run.model.config.has_confidence else {}
        confidences = {}
        for alone in run.alone():
            of_task = (evidence or {}).get(alone.label)
            of_export = beside.get(alone.label)
            confidences[alone.label] = write_task(
                *(args, data_args, run, alone, name, predictions, learned, units, floors, curves, of_task),
                *(groups, costs, of_export),
            )
        card = Path(args.model) / "README.md"
        if args.calibrate and args.max_rows is None and name == "test" and card.exists():
            text = with_how_sure(card.read_text(encoding="utf-8"), confidences)
            in_place(card, lambda file: file.write_text(text, encoding="utf-8"))
    run.accelerator.wait_for_everyone()  # a process that ends while others still communicate may stop them
    run.accelerator.end_training()


def calibrate(args: EvaluateArguments, data_args: DatasetArguments, recipe: dict[str, Any]):
    """Calibrates the checkpoint on the validation part, and writes the result into its config.

    Raises:
        ValueError: the checkpoint is not a local folder, there is no validation part, or it is the part to measure.
    """
    if not os.path.isdir(args.model):
        raise ValueError(
            f"--calibrate writes into the config.json of a local folder, and {args.model} is not a folder: download "
            "the checkpoint first."
        )
    if args.split is not None and PART_OF.get(args.split.lower(), args.split) == VALIDATION:
        raise ValueError(
            f"--calibrate uses the part {VALIDATION!r}, and --split {args.split} would measure on the same rows. "
            "Their figures would be too good: name another part with --split."
        )
    try:
        run, name, _ = open_checkpoint(replace(args, split=VALIDATION, max_rows=None), data_args, recipe)
    except ValueError as error:
        raise ValueError(f"--calibrate requires a validation part: {error}") from None
    refuse_tasks(run)
    predictions = predict_rows(run, run.rows(name), "calibrating")
    run.share_bad_rows(predictions.bad_rows)
    confidences = confidences_of(run, predictions)
    for line in lines_of(confidences):
        run.say(line)
    if run.accelerator.is_main_process:
        keep_confidences(Path(args.model), confidences)
        notes = [f"written: {Path(args.model) / 'config.json'}", older_code(Path(args.model))]
        print(*filter(None, notes), sep="\n", flush=True)
    run.accelerator.wait_for_everyone()


def write_task(
    args: EvaluateArguments,
    data_args: DatasetArguments,
    run: Evaluator,
    alone: Evaluator,
    name: str,
    predictions: Predictions,
    learned: Any,
    units: tuple[str, Sequence],
    floors: dict[str, tuple[Any, dict[str, Any]]],
    curves: dict[str, list[tuple[float, Any]]],
    evidence: dict[str, Any] | None,
    groups: dict[str, torch.Tensor],
    costs: dict[str | None, Costs],
    beside: dict[str, Any] | None,
) -> dict[str, Any] | None:
    """Writes the evaluation of one task, the only task of `alone`, over the rows that have a label for it. If the
    model has several tasks, each evaluation has its own folder.

    Args:
        args, data_args, run, name, units: see `write_evaluation`.
        predictions: of all rows.
        learned: labels of the training part; None if there is no training part.
        floors, curves: as for `write_evaluation`, but with the logits of all rows instead of answers.
        evidence: what its answers rest on, see `rests_on`.
        groups: by name of a group, a mask of all rows that belong to it.
        costs: of answers, by name of the task; the key is None if there is only one task.
        beside: see `write_evaluation`.

    Returns:
        see `how_sure`.
    """
    column, task = alone.label, alone.task

    def of_task(values: Any) -> torch.Tensor:
        return values[column] if run.several else values

    labelled = task.has_label(of_task(predictions.labels))
    logits, labels = of_task(predictions.logits)[labelled], of_task(predictions.labels)[labelled]

    def answers(values: Any) -> torch.Tensor:
        return task.answers(of_task(values)[labelled])

    known = None if learned is None else of_task(learned)
    outputs = 0 if task.writes else logits.shape[1]
    task_floors = constant_floors(task, labels, known, outputs)
    task_floors |= {floor: (answers(values), notes) for floor, (values, notes) in floors.items()}
    task_curves = {
        modality: [(share, answers(values)) for share, values in points] for modality, points in curves.items()
    }
    if run.several:
        alone.output_dir = run.output_dir / re.sub(r"[^\w-]", "_", column)
        alone.output_dir.mkdir(exist_ok=True)
        alone.name = f"{run.name}, {column}"
    of_rows = {name: rows[labelled] for name, rows in groups.items()}
    paid = costs.get(column if run.several else None)
    sure = how_sure(task, logits, labels, args.coverage, of_rows, paid)
    write_evaluation(
        args, data_args, alone, name, labelled, logits, labels, units, task_floors, task_curves, evidence, sure, beside
    )
    return sure


def write_evaluation(
    args: EvaluateArguments,
    data_args: DatasetArguments,
    run: Evaluator,
    name: str,
    labelled: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    units: tuple[str, Sequence],
    floors: dict[str, tuple[torch.Tensor, dict[str, Any]]],
    curves: dict[str, list[tuple[float, torch.Tensor]]],
    evidence: dict[str, Any] | None,
    sure: dict[str, Any] | None,
    beside: dict[str, Any] | None,
):
    """Computes the metrics of the answers, writes the report, and prints the table.

    Args:
        args, data_args, run, name: what was measured, and the name of the part.
        labelled: mask of the rows that have a label; all other arguments are about these rows.
        logits, labels: the predictions.
        units: the unit that the resamples draw, and for each of all rows the key of its unit.
        floors: by name, the answers of each floor and notes about it.
        curves: by modality, the answers at each share of rows that lose it.
        evidence: what the answers rest on, see `rests_on`.
        sure: see `how_sure`.
        beside: if an export is measured, the answers of torch to the same rows, see `beside_torch`; None if torch is
            measured.
    """
    part, columns, task = run.splits[name], run.columns, run.task
    rows = labelled.nonzero().flatten().tolist()
    groups = group_codes([units[1][row] for row in rows])
    kinds = part[columns.kind][rows] if columns.kind else None
    options: dict[str, Any] = {"samples": args.bootstrap_samples, "seed": args.seed}
    analysis = analyse(task, logits, labels, groups, kinds, floors, curves, **options)
    analysis["intervals"]["unit"] = units[0]
    wrong = Rows(part, name).__getitems__([rows[mistake.pop("place")] for mistake in analysis["mistakes"]])
    looks = [picture_and_text(row, run.collator) for row in wrong]
    for mistake, row, (_, text) in zip(analysis["mistakes"], wrong, looks):
        mistake |= {"row": row.get(SOURCE_ROW, row["row_id"]), Text.name: text}
    report = {
        "model": args.model,
        "model_class": type(run.model).__name__,
        "dataset": data_args.dataset,
        "split": name,
        "rows": {"evaluated": len(part), "labelled": len(labels), "bad": run.bad_rows.count(name)},
        "label_column": columns.label,
        "problem_type": task.problem_type,
        "labels": task.classes,
        **analysis,
        "evidence": evidence,
        "confidence": sure,
        "cost_curve": kept_curve(args.model) if beside is None else None,  # measured with torch
        "seed": args.seed,
        "max_rows": args.max_rows,
        "run": {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **origin(mm_hf=mm_hf.__version__, torchmetrics=version("torchmetrics")),
            "num_processes": run.world_size,
        },
    }
    if (search := search_of(args.model)) is not None:
        report["fusion_search"] = search
    if beside is not None:
        report["backend"] = beside
    report = rounded(report)

    staged = run.output_dir / ".writing"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    shown = [picture for picture, _ in looks]
    pictures = draw(staged, task, report, task.answers(logits), task.targets(labels), shown, no_picture(run.collator))
    write_page(staged / "report.html", f"Evaluation of {run.name}", facts(report), report, pictures)
    if (run.output_dir / "evaluation.json").exists():  # remove files that only an earlier evaluation has
        for left in PICTURES if run.bad_rows.entries else (*PICTURES, "bad_rows.jsonl"):
            (run.output_dir / left).unlink(missing_ok=True)
    for file in staged.iterdir():
        file.replace(run.output_dir / file.name)
    staged.rmdir()
    write_json(run.output_dir / "evaluation.json", report)
    print(f"\n{run.name}" if report["model_class"] == "MMFusionForMultiTask" else "", table(report, name), sep="")
    if beside is not None:
        print(lines_beside(beside, units[0]))
    print(f"written: {run.output_dir / 'report.html'}")
    print(report["verdict"])  # last, because it is the main result


def search_of(model: str) -> dict[str, Any] | None:
    """The fusion search of a run (`--fusion auto`); None if the checkpoint has none."""
    file = Path(model) / SEARCH
    return read_run_json(file) if file.exists() else None


def facts(report: dict[str, Any]) -> dict[str, str]:
    """What was measured, and with what, for the top of the page. Local folders are shown by their last name."""
    rows, intervals, run = report["rows"], report["intervals"], report["run"]
    model, dataset = short_name(report["model"]), short_name(report["dataset"])
    drawn = f", drawn at random with seed {report['seed']}" if report["max_rows"] else ""
    packages = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
    return {
        "model": f"{model} ({report['model_class']}, {report['problem_type'].replace('_', ' ')})",
        **({"backend": backend_fact(report["backend"])} if "backend" in report else {}),
        "data set": f"{dataset}, part {report['split']}",
        "rows": f"{rows['evaluated']:,}{drawn}; {rows['labelled']:,} of them measured, {rows['bad']:,} bad",
        "intervals": f"{intervals['samples']} resamples of {intervals['groups']:,} groups ({intervals['unit']}), "
        f"seed {report['seed']}; {intervals['method']}",
        "date": run["date"],
        "code": f"{run['commit']}; {packages}",
    }


def script():
    """The command line."""
    run_script(main, MEASURING)


if __name__ == "__main__":
    script()
