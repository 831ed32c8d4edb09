"""Cross-validation (`folds`): one run per fold, each measured on the rows that it was not trained on, and a last run
on all rows.

Each fold is a run in its own folder (`fold-1`, …). Its best weights are selected on validation rows that are cut from
its training rows, and it is measured once on the rows of its fold. The last run, in the main folder, is trained on all
rows, for the mean number of steps after which the folds were best. No rows are left to measure it: the score of the
folds is reported. If a run was killed, it resumes in the fold that it was in.
"""

import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..data.rows import SOURCE_ROW
from ..evaluation import Predictions, compare, verdict
from ..evaluation.comparisons import lower_is_better, range_of
from ..models.files import read_json
from .recipe import given_keys, parse_arguments
from .run import Run
from .run_folder import in_place


FOLD = "fold-{}"  # the folder of a fold, within the run's folder
OUT_OF_FOLD, PREDICTIONS = "out_of_fold.safetensors", "predictions.jsonl"
OF_TASK = "{} {}"  # the name of a tensor of one task, if there are several
CONFIDENCE = 0.95
NOTE = (
    "a 95 % interval by Student's t over the folds, clipped to the range of the metric (accuracy: 0 to 1). The folds "
    "share training rows, so their scores are not independent, and the interval may be too narrow (Bengio and "
    "Grandvalet 2004)."
)


def runs_of(description: str, script: str) -> Iterator[list[str] | None]:
    """The runs that the command line asks for, each as a list of words: several with `folds`, else one. None means the
    command line as it is."""
    words, prog = sys.argv[1:], f"mm_hf {Path(script).stem}"
    try:
        given = given_keys(words, prog)
    except (OSError, ValueError):  # the run itself reports this error
        given = set()
    if "folds" not in given or "fold" in given:
        yield None
        return
    name, _, data_args, train_args = parse_arguments(description, words, prog)
    output_dir, count = Path(train_args.output_dir or Path("runs", name)), int(data_args.folds or 0)
    for number in range(1, count + 1):
        say(f"\nfold {number} of {count}")
        yield [*words, "--fold", str(number), "--output_dir", str(output_dir / FOLD.format(number))]
    steps = round(mean(results["best_step"] for results in results_of(output_dir, count)))
    say(f"\nthe model trained on all rows: {steps} steps, the mean of the best steps of the folds")
    yield [*words, "--fold", "0", "--max_steps", str(max(1, steps))]


def say(line: str):
    """Prints on one process."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(line, flush=True)


def results_of(output_dir: Path, count: int) -> list[dict[str, Any]]:
    """The results.json of each fold."""
    return [read_json(output_dir / FOLD.format(number) / "results.json") for number in range(1, count + 1)]


def best_on_validation(run: Run, history: dict[str, list]) -> tuple[int, float] | None:
    """The step and the score of the weights that were best on validation; None if nothing was measured."""
    points = [(step, score) for step, score in history.get("validation", []) if math.isfinite(score)]
    sign = -1 if lower_is_better(run.first_metric()) else 1
    return max(points, key=lambda point: sign * point[1], default=None)


def best_step(run: Run, history: dict[str, list]) -> int:
    """The step after which a run was best on validation; its last step if nothing was measured."""
    if best := best_on_validation(run, history):
        return best[0]
    return max((step for values in history.values() for step, _ in values), default=1)


def keep_out_of_fold(run: Run, predictions: Predictions):
    """Keeps the predictions of a fold's run for the rows of its fold, with their row numbers in the data."""
    part: Any = run.splits["test"]
    numbers = torch.tensor(part[SOURCE_ROW])[predictions.row_ids]
    tensors = {"rows": numbers, **flat("logits", predictions.logits), **flat("labels", predictions.labels)}
    tensors = {name: values.contiguous() for name, values in tensors.items()}
    in_place(run.output_dir / OUT_OF_FOLD, lambda file: save_file(tensors, file))


def flat(name: str, values: Any) -> dict[str, torch.Tensor]:
    """Tensors by name; with several tasks, one tensor per task."""
    several = isinstance(values, dict)
    return {OF_TASK.format(name, task): value for task, value in values.items()} if several else {name: values}


def out_of_fold(run: Run) -> tuple[Any, Any, torch.Tensor]:
    """Logits and labels of all rows, and the fold of each row. Each row is predicted by the model that was not trained
    on it.

    Raises:
        ValueError: the folds do not hold exactly these rows.
    """
    count, total = int(run.data_args.folds or 0), len(run.splits["train"])  # type: ignore[arg-type]
    kept = [load_file(run.output_dir / FOLD.format(number) / OUT_OF_FOLD) for number in range(1, count + 1)]
    numbers = torch.cat([fold["rows"] for fold in kept])
    if sorted(numbers.tolist()) != list(range(total)):
        raise ValueError(
            f"The folds in {run.output_dir} hold {len(numbers):,} rows, but the data has {total:,}: "
            "--overwrite_output_dir starts again from the beginning."
        )
    order = numbers.argsort()

    def joined(name: str) -> Any:
        if run.several:
            return {task.label: whole(OF_TASK.format(name, task.label)) for task in run.alone()}
        return whole(name)

    def whole(name: str) -> torch.Tensor:
        parts = [fold[name] for fold in kept]
        if run.writes:  # tokens, padded to the length of the longest
            longest = max(part.shape[1] for part in parts)
            token = -100 if name == "labels" else int(run.model.config.pad_token_id or 0)
            parts = [torch.nn.functional.pad(part, (0, longest - part.shape[1]), value=token) for part in parts]
        return torch.cat(parts)[order]

    folds = torch.cat([torch.full_like(fold["rows"], place) for place, fold in enumerate(kept, 1)])[order]
    return joined("logits"), joined("labels"), folds


def over_folds(values: list[float | None], ends: tuple[float, float] = (-math.inf, math.inf)) -> dict[str, Any]:
    """The mean of one value per fold, its interval, and the values. Mean and interval are None if a fold has no value.
    The interval is clipped to `ends`, the smallest and the largest possible value: 0 and 1 for an accuracy."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(known) < len(values):
        return {"mean": None, "low": None, "high": None, "values": values}
    from scipy import stats  # imported here because it is slow to load

    middle = mean(known)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1)) * stdev(known) / math.sqrt(len(known))
    return {"mean": middle, "low": max(ends[0], middle - half), "high": min(ends[1], middle + half), "values": values}


def measure_folds(run: Run) -> tuple[dict[str, Any], Any]:
    """The joint results of the folds, as in results.json, and the logits of all rows."""
    logits, labels, folds = out_of_fold(run)
    part: Any = run.splits["train"]
    pooled = run.metrics(logits, labels, part[run.columns.kind][:] if run.columns.kind else None)
    each = results_of(run.output_dir, int(run.data_args.folds or 0))
    figures = {
        name: over_folds([fold["metrics"].get(name) for fold in each], range_of(name)) for name in each[0]["metrics"]
    }
    metrics = {name: figure["mean"] for name, figure in figures.items()}
    floors, against = [], {}
    for entry in each[0]["comparisons"]:
        name, metric = entry["floor"], entry["metric"]
        same = [one for fold in each for one in fold["comparisons"] if one["floor"] == name]
        if len(same) == len(each):
            floors.append((name, metric, mean(one["value"] for one in same)))
            scored = [None if one["score"] is None else one["score"] - one["value"] for one in same]
            against[name] = {"difference": over_folds(scored), "beaten_in": sum(one["beaten"] for one in same)}
    intervals = {name: (figure["low"], figure["high"]) for name, figure in figures.items()}
    comparisons = compare(metrics, floors, intervals)
    shown = [name for name in each[0]["floors"] if all(name in fold["floors"] for fold in each)]
    results = {
        "metrics": metrics,
        "by_kind": pooled["by_kind"],
        "floors": {name: mean(fold["floors"][name] for fold in each) for name in shown},
        "folds": {
            "count": len(each),
            "metrics": figures,
            "out_of_fold": pooled["metrics"],
            "floors": against,
            "best_steps": [fold["best_step"] for fold in each],
            "note": NOTE,
        },
        "comparisons": comparisons,
        "verdict": verdict(comparisons),
    }
    if isinstance(pooled.get("rows"), int):
        results |= {"test_rows": len(part), "measured_rows": pooled["rows"]}
    run.seconds["folds"] = sum(sum(fold["seconds"].values()) for fold in each)
    if run.accelerator.is_main_process:
        write_predictions(run, logits, folds)
    return results, logits


def write_predictions(run: Run, logits: Any, folds: torch.Tensor):
    """Writes the prediction for each row, by the model that was not trained on it, in the format of `mm_hf
    predict`."""
    part: Any = run.splits["train"]
    said: list[dict[str, Any]] = [{"row": row, "fold": fold} for row, fold in enumerate(folds.tolist())]
    for alone in run.alone():
        task, column = alone.task, alone.label
        values = logits[column] if run.several else logits
        answers = run.collator.texts_of(values) if task.writes else values
        before = f"{column}_" if run.several else ""
        names = task.columns(1 if task.writes else values.shape[1], 1, False)
        for row, label, predicted in zip(said, part[column][:], task.values(answers, 1, False)):
            row |= {column: label, **{before + name: value for name, value in zip(names, predicted)}}
    lines = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in said)
    in_place(run.output_dir / PREDICTIONS, lambda file: file.write_text(lines, encoding="utf-8"))
