"""What train.py and finetune.py share after they trained: the test, the floors beside it, and the run's folder."""

import copy
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import set_seed
from datasets import Dataset, IterableDataset

from mm_hf import MMFusionPreTrainedModel
from mm_hf.data import BatchLoader, Columns, MultimodalCollator, Rows
from mm_hf.evaluation import Predictions, chance_recall, majority_accuracy, predict
from training.arguments import TrainArguments
from training.job import ROOT, Job
from training.run_folder import git_commit, hardware, versions, write_run
from training.set_up import merge_adapters


# Trains a model in place: (job, model, collator, arguments) -> points of (step, value) by name.
Fit = Callable[[Job, MMFusionPreTrainedModel, MultimodalCollator, TrainArguments], dict[str, list]]


def evaluate(
    job: Job, model: MMFusionPreTrainedModel, collator: MultimodalCollator, split: str
) -> tuple[Predictions, dict]:
    """Runs the model over one part, every row once, on all processes.

    Returns:
        its predictions, and what `Job.metrics` gives.
    """
    batches = job.loader(split, collator, train=False)
    predictions = predict(model, batches, job.accelerator, generate=job.generate_arguments(split))
    job.note_bad_rows(predictions.bad_rows)
    job.share_bad_rows()
    return predictions, report_of(job, predictions, split)


def report_of(job: Job, predictions: Predictions, split: str) -> dict:
    """The metrics of predictions of one part."""
    kinds = job.splits[split][job.columns.kind] if job.columns.kind else None
    generated = job.generate_arguments(split) is not None
    return job.metrics(predictions.logits, predictions.labels, kinds, generated)


def finish(job: Job, fit: Fit, history: dict[str, list]):
    """Saves the trained model, measures it once on the test part, and writes all that a run leaves behind."""
    merge_adapters(job, job.model)
    if job.accelerator.is_main_process:  # before anything else can fail
        job.model.save_pretrained(job.output_dir)
        job.processor.save_pretrained(job.output_dir)

    started = time.perf_counter()
    predictions, report = evaluate(job, job.model, job.collator, "test")
    results = {"metrics": report["metrics"], "by_kind": report["by_kind"], "floors": {}}
    job.seconds["evaluate"] = time.perf_counter() - started
    job.say(f"test: {json.dumps(report['metrics'])}")

    if job.train_args.floors:
        started = time.perf_counter()
        results["floors"] = (
            chance_recall(predictions.labels) if job.searches else measure_floors(job, fit, predictions)
        )
        job.seconds["floors"] = time.perf_counter() - started

    recipe = {"name": job.name, **vars(job.model_args), **vars(job.data_args), **vars(job.train_args)}
    results |= {
        "seed": job.train_args.seed,
        "seconds": {key: round(value, 1) for key, value in job.seconds.items()},
        "num_processes": job.accelerator.num_processes,
        "bad_rows": len(job.bad_rows.entries),
        "commit": git_commit(ROOT),
        "versions": versions(),
        "hardware": hardware(),
        "recipe": recipe,
    }
    if job.accelerator.is_main_process:
        write_run(job.output_dir, ROOT, job.model, job.collator, job.splits, predictions.logits, results, history)
    job.accelerator.wait_for_everyone()  # a process that leaves while others still talk may take them down
    job.accelerator.end_training()


def measure_floors(job: Job, fit: Fit, predictions: Predictions) -> dict[str, float]:
    """What the score must be held against: the most frequent label, each modality alone, and wrong pairs.

    The models that see one modality alone are trained as the model was, on a smaller budget, with the other absent.

    Args:
        job: the run.
        fit: trains.
        predictions: of the model, for the test part.
    """
    floors, modalities = {}, job.model.config.modalities
    stream = isinstance(job.splits["train"], IterableDataset)
    for task in job.alone():
        if task.problem_type == "single_label_classification" and not stream:
            label = task.columns.label
            share = majority_accuracy(job.splits["train"][label], job.splits["test"][label])
            floors[f"{label}_majority" if job.tasks else "majority"] = share
        if task.writes and not stream:
            (answer, _), *_ = Counter(map(tuple, job.labels("train").tolist())).most_common(1)
            answers = torch.tensor(answer).expand(len(predictions.labels), -1)
            floors["majority"] = job.metrics(answers, predictions.labels)["metrics"]["chrf"]
    names = {"vision": "image_only", "tabular": "table_only"}
    for modality in modalities if len(modalities) > 1 else []:
        alone = dataclasses.replace(job.collator, absent=dict.fromkeys(set(modalities) - {modality}))
        args = copy.copy(job.train_args)
        args.num_train_epochs, args.early_stopping_patience = args.num_train_epochs * args.floor_budget, None
        if args.unfreeze_epochs is not None:
            args.unfreeze_epochs *= args.floor_budget
        if args.max_train_seconds is not None:
            args.max_train_seconds *= args.floor_budget
        if args.max_steps > 0:
            args.max_steps = max(1, round(args.max_steps * args.floor_budget))
        set_seed(args.seed)
        model = job.build().to(job.accelerator.device)
        fit(job, model, alone, args)
        _, report = evaluate(job, model, alone, "test")
        floors |= floor_of(job, names.get(modality, f"{modality}_only"), report)
    if {"vision", "text"} <= set(modalities):
        generator = torch.Generator().manual_seed(job.train_args.seed)
        order = torch.randperm(len(job.splits["test"]), generator=generator).tolist()
        shuffled = OtherPictures(job.splits["test"], "test", job.columns, order)
        batches = BatchLoader(
            shuffled,
            job.collator,
            job.train_args.per_device_eval_batch_size,
            train=False,
            rank=job.rank,
            world_size=job.world_size,
            num_workers=job.train_args.dataloader_num_workers,
        )
        # Bad rows are not noted: a bad picture is here in another row than its own.
        predictions = predict(job.model, batches, job.accelerator, generate=job.generate_arguments("test"))
        floors |= floor_of(job, "shuffled_pairs", report_of(job, predictions, "test"))
    return floors


def floor_of(job: Job, name: str, report: dict) -> dict[str, float]:
    """The first metric of a report as a floor; of several tasks that of each as well."""
    first, *_ = report["metrics"]
    of_tasks = {f"{task}_{name}": report["metrics"][metric] for task, metric in job.task_metrics().items()}
    return {name: report["metrics"][first], **of_tasks}


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
