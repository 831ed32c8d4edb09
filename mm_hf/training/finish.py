"""The end of a trained run: the test, its floors (baselines), and the files in the folder."""

import copy
import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import set_seed
from datasets import IterableDataset

from .. import MMFusionPreTrainedModel
from ..data import MultimodalCollator
from ..evaluation import Predictions, compare, measure_answers, predict, rounded, verdict
from ..evaluation.comparisons import LINE
from ..models.modality import modality_of
from ..models.text import Text
from ..models.vision import Vision
from ..nonfinite import check_finite
from .build import merge_adapters
from .calibrate import calibrate_run, measured_confidence
from .evaluator import Evaluator, OtherPictures, evaluate, report_of
from .folds import best_on_validation, best_step, keep_out_of_fold, measure_folds
from .line_answers import keep_answers
from .linear_floor import linear_floor
from .provenance import origin
from .recipe import recipe_of
from .rests_on import rests_on
from .run import Run
from .run_report import write_run
from .train_arguments import TrainArguments


# Trains a model in place: (run, model, collator, arguments) -> points of (step, value) by name.
Fit = Callable[[Run, MMFusionPreTrainedModel, MultimodalCollator, TrainArguments], dict[str, list]]
# A floor (a baseline): its name, the name of its metric, and its value.
Floor = tuple[str, str, float]
WER_OF_MAJORITY = "wer_of_majority"  # compared, but not in `floors`, where texts are measured by chrF
EXPLAINED = 100  # test rows that the card explains: which modalities their answers depend on
STREAMED_LABELS = 10_000  # the constant guess is learned from so many rows of a stream, which has no known end


def finish(run: Run, fit: Fit, history: dict[str, list]):
    """Saves the trained model, measures it once on the test part, and writes all files of the run.

    Raises:
        ValueError: its weights or its answers are not finite.
    """
    check_finite(run.model, run.output_dir)
    merge_adapters(run, run.model)
    if run.accelerator.is_main_process:  # before anything else can fail
        run.model.save_pretrained(run.output_dir)
        run.processor.save_pretrained(run.output_dir)

    if run.data_args.fold == 0:
        results, logits = measure_folds(run)
        splits = {
            **run.splits,
            "test": run.splits["train"],
        }  # measured by the folds
        return leave(run, results, splits, logits, history)
    started = time.perf_counter()
    calibrated = calibrate_run(run)
    if calibrated:
        run.seconds["calibrate"] = time.perf_counter() - started
    started = time.perf_counter()
    predictions, report = evaluate(run, run.model, run.collator, "test")
    if run.data_args.fold and run.accelerator.is_main_process:
        keep_out_of_fold(run, predictions)
    results = {"metrics": report["metrics"], "by_kind": report["by_kind"], "floors": {}}
    if isinstance(report.get("rows"), int):  # rows without a label, or with a bad label, do not count
        results |= {"test_rows": len(run.splits["test"]), "measured_rows": report["rows"]}
    if calibrated:
        results["confidence"] = rounded(measured_confidence(run, predictions))
    run.seconds["evaluate"] = time.perf_counter() - started
    run.say(f"test: {json.dumps(report['metrics'])}")

    started, streams = time.perf_counter(), isinstance(run.splits["train"], IterableDataset)
    # The verdict needs the constant guess. It costs nothing, except for a stream, which has to be read again.
    floors = constant_floors(run, predictions) if run.train_args.floors or not streams else []
    if run.train_args.floors:
        floors += [] if run.searches else measure_floors(run, fit)
        results["floors"] = {name: value for name, _, value in floors if name != WER_OF_MAJORITY}
        if run.searches:
            results["floors"] = run.task.chance(predictions.labels)[1] | results["floors"]
        run.seconds["floors"] = time.perf_counter() - started
    paired = None
    if run.train_args.floors:
        line, paired = add_line(run, predictions, results)
        floors += line
    asked = run.train_args.evidence
    if (run.train_args.defaults_version > 2 if asked is None else asked) and run.accelerator.is_main_process:
        started = time.perf_counter()
        results["evidence"] = rests_on(run, "test", run.splits["train"], EXPLAINED)
        run.seconds["evidence"] = time.perf_counter() - started
    results["comparisons"] = compare(report["metrics"], floors)
    for comparison in results["comparisons"]:
        if comparison["floor"] == LINE and paired is not None:
            comparison |= paired
    results["verdict"] = verdict(results["comparisons"])
    if best := best_on_validation(run, history):
        results["validation"] = {"metric": run.first_metric(), "score": best[1], "step": best[0]}
    if run.data_args.fold:
        results["best_step"] = best_step(run, history)
    leave(run, results, run.splits, predictions.logits, history)


def leave(run: Run, results: dict, splits: dict, logits: Any, history: dict[str, list]):
    """Writes the files of a run, and adds the facts that every run records; arguments as for `write_run`."""
    recipe = {"name": run.name, **recipe_of(run.model_args, run.data_args, run.train_args)}
    results |= {
        "seed": run.train_args.seed,
        "seconds": {key: round(value, 1) for key, value in run.seconds.items()},
        "num_processes": run.accelerator.num_processes,
        "bad_rows": len(run.bad_rows.entries),
        **origin(),
        "recipe": recipe,
    }
    if run.fusion_search is not None:
        results["fusion_search"] = run.fusion_search
    if run.start is not None:
        results["started_from"] = {"name": run.start.name, "parts": run.start.lines}
    if run.accelerator.is_main_process:
        write_run(run.output_dir, run.model, run.collator, splits, logits, results, history)
    run.accelerator.wait_for_everyone()  # a process that ends while others still communicate may make them fail
    if run.data_args.fold and run.world_size > 1:  # the next fold needs the same group of processes
        for tracker in run.accelerator.trackers:
            tracker.finish()
        return
    run.accelerator.end_training()


def add_line(run: Run, predictions: Predictions, results: dict) -> tuple[list[Floor], dict | None]:
    """Adds the linear floor to the results, or the reason why there is none, and writes its answers into the folder.
    Only the main process does this, since it writes the report.

    Returns:
        the floor, and more facts about it: the paired comparison with the model. Empty and None if there is no floor.
    """
    floor = None
    if run.accelerator.is_main_process:
        floor, reason = linear_floor(run, predictions)
        if floor is None:
            run.say(f"no linear floor: {reason}")
            results["linear"] = {"left_out": reason}
        else:
            run.say(floor.said())
            keep_answers(run.output_dir, floor.predictions, predictions.labels)
            results["linear"] = floor.facts()
            run.seconds["linear_floor"] = floor.seconds
    run.accelerator.wait_for_everyone()
    if floor is None:
        return [], None
    floors = floor_of(run, LINE, floor.report)
    results["floors"] |= {name: value for name, _, value in floors}
    if run.line is not None:  # the model is the linear model: it is not compared with itself
        return [], None
    keeps = all(task.keeps_line for task in run.tasks)
    words = {} if keeps else {"words": next(iter(floor.answers.values())).words}
    return floors, {"paired": floor.paired, "keeps_line": keeps, **words}


def constant_floors(run: Evaluator, predictions: Predictions) -> list[Floor]:
    """The scores of the best constant answers, which do not look at any row, for each task; see `Task.constants`. They
    are learned from the labels of the training part and measured on the test part. For a search: the score of a random
    order."""
    if run.searches:
        return run.task.chance(predictions.labels)[0]
    firsts: list[Floor] = []
    others: list[Floor] = []
    scores = []
    for alone in run.alone():
        task, column = alone.task, alone.label
        try:
            learned = alone.read_labels("train", bad=[], of_stream=STREAMED_LABELS)  # bad labels were checked before
        except Exception as error:  # readers raise different types, and the trained model must not be lost
            run.say(f"no constant guess: the labels of train cannot be read again ({type(error).__name__}: {error})")
            return []
        labels = predictions.labels[column] if run.several else predictions.labels
        if task.writes:
            task, (learned, labels) = task.readable([learned, labels], run.collator.texts_of)
        if not task.has_label(learned).any():
            run.say(f"no constant guess: none of the first {len(learned):,} rows of train has a label in {column!r}")
            return []
        logits = None if task.writes else predictions.logits[column] if run.several else predictions.logits
        outputs, before = 0 if logits is None else logits.shape[1], f"{column}_" if run.several else ""
        targets = task.targets(labels[task.has_label(labels)])
        for place, (name, guess) in enumerate(task.constants(learned, outputs).items()):
            answers = guess.answer.expand(len(targets), *guess.answer.shape)
            metrics = measure_answers(task, answers, targets, outputs)["metrics"]
            floor = (before + name, before + guess.metric, metrics[guess.metric])
            if place:
                others.append(floor)
            else:
                firsts.append(floor)
                scores.append(task.score(metrics, answers, targets) if run.several else 0.0)
    together = [("constant_guess", "score", sum(scores) / len(scores))] if run.several else []
    return together + firsts + others


def measure_floors(run: Run, fit: Fit) -> list[Floor]:
    """More floors to compare the score with: models that see one modality only, and wrong pairs. The models with one
    modality are trained in the same way as the model, with a smaller budget and with the other modalities absent."""
    floors: list[Floor] = []
    modalities = run.model.config.modalities
    for modality in modalities if len(modalities) > 1 else []:
        alone = dataclasses.replace(run.collator, absent=dict.fromkeys(set(modalities) - {modality}))
        args = copy.copy(run.train_args)
        args.num_train_epochs, args.early_stopping_patience = args.num_train_epochs * args.floor_budget, None
        if args.unfreeze_epochs is not None:
            args.unfreeze_epochs *= args.floor_budget
        if args.max_train_seconds is not None:
            args.max_train_seconds *= args.floor_budget
        if args.max_steps > 0:
            args.max_steps = max(1, round(args.max_steps * args.floor_budget))
        set_seed(args.seed)
        model = run.build().to(run.accelerator.device)
        fit(run, model, alone, args)
        _, report = evaluate(run, model, alone, "test")
        floors += floor_of(run, f"{modality_of(modality).row_keys[0]}_only", report)
    if {Vision.name, Text.name} <= set(modalities):
        generator = torch.Generator().manual_seed(run.train_args.seed)
        order = torch.randperm(len(run.splits["test"]), generator=generator).tolist()
        shuffled = OtherPictures(run.splits["test"], "test", run.columns, order)
        batches = run.loader_of(shuffled, run.collator)
        # Bad rows are not noted: here a bad picture is in another row than its own.
        predictions = predict(run.model, batches, run.accelerator, generate=run.generate_arguments("test"))
        floors += floor_of(run, "shuffled_pairs", report_of(run, predictions, "test"))
    return floors


def floor_of(run: Evaluator, name: str, report: dict) -> list[Floor]:
    """The first metric of a report as a floor; for several tasks also the first metric of each task."""
    metrics, (first, *_) = report["metrics"], report["metrics"]
    of_tasks = [(f"{task}_{name}", metric, metrics[metric]) for task, metric in run.task_metrics().items()]
    return [(name, first, metrics[first]), *of_tasks]
