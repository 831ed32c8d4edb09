"""What train and finetune share after they trained: the test, the floors beside it, and the run's folder."""

import copy
import dataclasses
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from accelerate.utils import set_seed
from datasets import Dataset, IterableDataset

from .. import MMFusionPreTrainedModel
from ..data import BadRowError, BatchLoader, Columns, MultimodalCollator, Rows, label_tensor
from ..evaluation import (
    Predictions,
    chance_mean_recall,
    chance_recall,
    compare,
    constant_logits,
    has_label,
    majority_answer,
    median_answer,
    predict,
    verdict,
)
from ..optim import NonFiniteLossError
from ..states import check_finite, fault_of_answers
from .arguments import TrainArguments
from .new_run import merge_adapters
from .provenance import commit_or_version, hardware, versions
from .run import Run
from .run_folder import write_run


# Trains a model in place: (run, model, collator, arguments) -> points of (step, value) by name.
Fit = Callable[[Run, MMFusionPreTrainedModel, MultimodalCollator, TrainArguments], dict[str, list]]
# Of one floor its name, the name of its metric, and its value.
Floor = tuple[str, str, float]
WER_OF_MAJORITY = "wer_of_majority"  # compared, but not in `floors`, whose texts are by chrF
STREAMED_LABELS = 10_000  # rows of a stream that the constant guess is learned from: a stream has no known end


def evaluate(
    run: Run, model: MMFusionPreTrainedModel, collator: MultimodalCollator, split: str
) -> tuple[Predictions, dict]:
    """Runs the model over one part, every row once, on all processes.

    Returns:
        its predictions, and what `Run.metrics` gives; where answers to the validation part are not finite, all metrics
        are NaN.

    Raises:
        ValueError: weights, or answers to another part, are not finite.
    """
    check_finite(model, run.output_dir)
    batches = run.loader(split, collator, train=False)
    predictions = predict(model, batches, run.accelerator, generate=run.generate_arguments(split))
    run.note_bad_rows(predictions.bad_rows)
    run.share_bad_rows()
    fault = fault_of_answers(predictions.logits)
    if fault is not None and split != "validation":
        raise NonFiniteLossError(f"The {split} part cannot be measured: {fault}.")
    report = report_of(run, predictions, split)
    if fault is not None:  # such a score is never the best
        run.say(f"a score that does not count: {fault}")
        report = {**report, "metrics": dict.fromkeys(report["metrics"], math.nan)}
    return predictions, report


def report_of(run: Run, predictions: Predictions, split: str) -> dict:
    """The metrics of predictions of one part."""
    kinds = run.splits[split][run.columns.kind] if run.columns.kind else None
    generated = run.generate_arguments(split) is not None
    return run.metrics(predictions.logits, predictions.labels, kinds, generated)


def finish(run: Run, fit: Fit, history: dict[str, list]):
    """Saves the trained model, measures it once on the test part, and writes all that a run leaves behind.

    Raises:
        ValueError: its weights, or its answers, are not finite.
    """
    check_finite(run.model, run.output_dir)
    merge_adapters(run, run.model)
    if run.accelerator.is_main_process:  # before anything else can fail
        run.model.save_pretrained(run.output_dir)
        run.processor.save_pretrained(run.output_dir)

    started = time.perf_counter()
    predictions, report = evaluate(run, run.model, run.collator, "test")
    results = {"metrics": report["metrics"], "by_kind": report["by_kind"], "floors": {}}
    if isinstance(report.get("rows"), int):  # those without a label, and those whose label is bad, do not count
        results |= {"test_rows": len(run.splits["test"]), "measured_rows": report["rows"]}
    run.seconds["evaluate"] = time.perf_counter() - started
    run.say(f"test: {json.dumps(report['metrics'])}")

    started, streams = time.perf_counter(), isinstance(run.splits["train"], IterableDataset)
    # The constant guess costs nothing but for a stream, which is read again: the verdict needs it in any case.
    floors = constant_floors(run, predictions) if run.train_args.floors or not streams else []
    if run.train_args.floors:
        floors += [] if run.searches else measure_floors(run, fit)
        results["floors"] = {name: value for name, _, value in floors if name != WER_OF_MAJORITY}
        if run.searches:
            results["floors"] = chance_recall(predictions.labels) | results["floors"]
        run.seconds["floors"] = time.perf_counter() - started
    results["comparisons"] = compare(report["metrics"], floors)
    results["verdict"] = verdict(results["comparisons"])

    recipe = {"name": run.name, **vars(run.model_args), **vars(run.data_args), **vars(run.train_args)}
    results |= {
        "seed": run.train_args.seed,
        "seconds": {key: round(value, 1) for key, value in run.seconds.items()},
        "num_processes": run.accelerator.num_processes,
        "bad_rows": len(run.bad_rows.entries),
        "commit": commit_or_version(),
        "versions": versions(),
        "hardware": hardware(),
        "recipe": recipe,
    }
    if run.start is not None:
        results["started_from"] = {"name": run.start.name, "parts": run.start.lines}
    if run.accelerator.is_main_process:
        write_run(run.output_dir, run.model, run.collator, run.splits, predictions.logits, results, history)
    run.accelerator.wait_for_everyone()  # a process that leaves while others still talk may take them down
    run.accelerator.end_training()


def constant_floors(run: Run, predictions: Predictions) -> list[Floor]:
    """What the best answer scores that looks at no row, see `majority_answer`: learned from the labels of the training
    part, measured on the test part, for each task; of a search what an order drawn at random finds.

    Args:
        run: the run.
        predictions: of the model, for the test part.
    """
    if run.searches:
        return [("chance_mean_recall", "mean_recall", chance_mean_recall(predictions.labels))]
    guesses: dict[str, torch.Tensor] = {}
    medians: dict[str, torch.Tensor] = {}
    for task in run.alone():
        column = task.columns.label
        try:
            labels = training_labels(task)
        except Exception as error:  # each reader raises its own types, and the model is trained by now
            run.say(f"no constant guess: the labels of train cannot be read again ({type(error).__name__}: {error})")
            return []
        if task.writes:
            texts = [tuple(tokens) for tokens in labels.tolist()]
            (answer, _), *_ = Counter(text for text in texts if set(text) != {-100}).most_common(1)
            answers = torch.tensor(answer).expand(len(predictions.labels), -1)
            metrics = run.metrics(answers, predictions.labels)["metrics"]
            return [("majority", "chrf", metrics["chrf"]), (WER_OF_MAJORITY, "wer", metrics["wer"])]
        logits = predictions.logits[column] if run.tasks else predictions.logits
        if not has_label(labels, task.problem_type).any():
            run.say(f"no constant guess: none of the first {len(labels):,} rows of train has a label in {column!r}")
            return []
        answer = majority_answer(labels, task.problem_type, logits.shape[1])
        guesses[column] = constant_logits(answer, task.problem_type, *logits.shape)
        if task.problem_type == "regression":
            medians[column] = constant_logits(median_answer(labels), task.problem_type, *logits.shape)
    if not run.tasks:
        (column,) = guesses
        name = "mean" if medians else "majority"
        floors = floor_of(run, name, run.metrics(guesses[column], predictions.labels))
        for values in medians.values():
            floors.append(("mae_of_median", "mae", run.metrics(values, predictions.labels)["metrics"]["mae"]))
        return floors
    report = run.metrics(guesses, predictions.labels)["metrics"]
    floors = [("constant_guess", "score", report["score"])]
    for task, metric in run.task_metrics().items():
        floors.append((f"{task}_{'mean' if task in medians else 'majority'}", metric, report[metric]))
    if medians:
        report = run.metrics({**guesses, **medians}, predictions.labels)["metrics"]
        floors += [(f"{task}_mae_of_median", f"{task}_mae", report[f"{task}_mae"]) for task in medians]
    return floors


def training_labels(run: Run) -> torch.Tensor:
    """The labels of the training part, of a stream those of its first rows. Bad ones are missing: the training has
    judged them."""
    part, column = run.splits["train"], run.columns.label
    bad: list[BadRowError] = []
    if isinstance(part, IterableDataset):
        found = islice(part.select_columns([column]), STREAMED_LABELS)
        rows = [{**row, "row_id": place, "split": "train"} for place, row in enumerate(found)]
    else:
        rows = run.all_rows("train", [column])
    if run.writes:
        return run.collator.targets(rows, bad)
    return label_tensor(rows, column, run.label2id, run.problem_type, bad)


def measure_floors(run: Run, fit: Fit) -> list[Floor]:
    """What the score must be held against beside a constant guess: each modality alone, and wrong pairs.

    The models that see one modality alone are trained as the model was, on a smaller budget, with the other absent.

    Args:
        run: the run.
        fit: trains.
    """
    floors: list[Floor] = []
    modalities = run.model.config.modalities
    names = {"vision": "image_only", "tabular": "table_only"}
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
        floors += floor_of(run, names.get(modality, f"{modality}_only"), report)
    if {"vision", "text"} <= set(modalities):
        generator = torch.Generator().manual_seed(run.train_args.seed)
        order = torch.randperm(len(run.splits["test"]), generator=generator).tolist()
        shuffled = OtherPictures(run.splits["test"], "test", run.columns, order)
        batches = BatchLoader(
            shuffled,
            run.collator,
            run.train_args.per_device_eval_batch_size,
            train=False,
            rank=run.rank,
            world_size=run.world_size,
            num_workers=run.train_args.dataloader_num_workers,
        )
        # Bad rows are not noted: a bad picture is here in another row than its own.
        predictions = predict(run.model, batches, run.accelerator, generate=run.generate_arguments("test"))
        floors += floor_of(run, "shuffled_pairs", report_of(run, predictions, "test"))
    return floors


def floor_of(run: Run, name: str, report: dict) -> list[Floor]:
    """The first metric of a report as a floor; of several tasks that of each as well."""
    metrics, (first, *_) = report["metrics"], report["metrics"]
    of_tasks = [(f"{task}_{name}", metric, metrics[metric]) for task, metric in run.task_metrics().items()]
    return [(name, first, metrics[first]), *of_tasks]


class OtherPictures(Rows):
    """Rows of one split, each with the pictures of another row: texts beside pictures that they do not belong to.

    Args:
        dataset, split: see `Rows`.
        columns: which of them are pictures.
        order: for each row the row whose pictures it gets.
    """

    def __init__(self, dataset: Dataset, split: str, columns: Columns, order: list[int]):
        super().__init__(dataset, split)
        moved = [*columns.images, *(column for column in (columns.image_id, columns.video) if column)]
        self.pictures, self.order = dataset.select_columns(moved), order
        self.groups = self.pictures[columns.image_id][order] if columns.image_id else None

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        pictures = self.pictures[[self.order[index] for index in indices]]
        return [
            {**row, **{name: values[place] for name, values in pictures.items()}}
            for place, row in enumerate(super().__getitems__(indices))
        ]
