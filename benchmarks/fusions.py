"""Every fusion on easy-VQA, Sort-of-CLEVR and OpenMoji, at equal training seconds: what token-by-token fusion brings,
and where it brings nothing. Writes the tables of docs/fusions.md.

    python benchmarks/fusions.py                          # everything: about five hours of CPU time
    python benchmarks/fusions.py --tasks sort_of_clevr --seeds 0 1 2
    python benchmarks/fusions.py --write_docs

Encoders are frozen, and their features are computed once per task. Projections, fusion and head train, with the same
recipe for all fusions of a task. Each run gets the same CPU seconds of training on one thread: a few steps are timed
first, and the number of steps is chosen to fit the budget. The time that was really used is kept (`train_seconds`).
The weights that are best on validation are tested.

A run is one line of the JSON lines file. So the script may be stopped, and two of them may work on different tasks at
the same time: runs in the file are not repeated. Lines with another recipe or budget stay there, but do not count.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import torch
import yaml
from accelerate.utils import set_seed
from datasets import DatasetDict, concatenate_datasets, disable_progress_bars, load_from_disk

from mm_hf import FUSIONS
from mm_hf.data import FeatureCache, MultimodalCollator
from mm_hf.models.linear_fusion import LINEAR
from mm_hf.prepare.openmoji import cut
from mm_hf.training.evaluator import evaluate
from mm_hf.training.loop import Training
from mm_hf.training.open_run import open_run
from mm_hf.training.provenance import commit_or_version, hardware
from mm_hf.training.recipe_files import read_recipe
from mm_hf.training.run import Run


ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- fusions -->", "<!-- end of fusions -->"
RUNS = ROOT / "benchmarks/results/fusions_runs.jsonl"
REPORT = ROOT / "benchmarks/results/fusions.json"
PLOT = ROOT / "benchmarks/results/fusions.png"
# The default again, with self-attention between the tokens of the picture, which Sort-of-CLEVR needs.
WITH_MEMORY = "cross_attention + memory_layers"
SAME = {"memory_layers": 0, "distance_bias": False}
METHODS: dict[str, dict[str, Any]] = {
    **{name: {**SAME, "fusion": name} for name in sorted(FUSIONS) if name != LINEAR},
    LINEAR: {"fusion": LINEAR, "fusion_hidden_size": None},  # it is as wide as it has outputs
    WITH_MEMORY: {"fusion": "cross_attention", "fusion_layers": 1, "memory_layers": 3, "distance_bias": True},
    # The floors (baselines): the default, trained without the other modality.
    "image alone": {**SAME, "fusion": "cross_attention", "absent": "text"},
    "text alone": {**SAME, "fusion": "cross_attention", "absent": "vision"},
}
ALONE = ("image alone", "text alone")
# Pairs of colour and shape that are held out of easy-VQA's training part; each colour and shape is in other pairs.
HELD_OUT = (("blue", "circle"), ("red", "triangle"), ("green", "rectangle"), ("teal", "circle"), ("black", "triangle"))
LEAST_OCCURRENCES = 20


@dataclass(frozen=True)
class Task:
    """A task of the comparison.

    Args:
        recipe: file in `mm_hf/recipes`.
        seconds: CPU seconds of training steps.
        scores: names of the reported scores; each is a metric, or a kind of rows with its first metric.
        keys: changed keys of the recipe.
        more: more methods, in addition to the fusions.
        seeds: of weights and order of rows; with `splits`, also of the split into parts.
        splits: the data is split again for each seed.
    """

    recipe: str
    seconds: float
    scores: tuple[str, ...]
    keys: dict[str, Any] = field(default_factory=dict)
    more: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    splits: bool = False


TASKS = {
    "easy_vqa": Task("easy_vqa", 40, ("accuracy",), more=ALONE),
    "easy_vqa, unseen pairs": Task("easy_vqa", 40, ("accuracy",)),
    "sort_of_clevr": Task(
        "sort_of_clevr", 200, ("relational", "non-relational"), keys={"fusion_layers": 2}, more=(WITH_MEMORY,)
    ),
    "openmoji category": Task("openmoji_category", 60, ("accuracy",), more=ALONE),
    "openmoji sentiment": Task(
        "openmoji_sentiment", 10, ("spearman",), more=ALONE, seeds=tuple(range(8)), splits=True
    ),
}


def methods_of(name: str) -> list[str]:
    """The methods that are compared on a task: all fusions, and the additional methods of the task."""
    return [method for method in METHODS if method in FUSIONS or method in TASKS[name].more]


def unseen_pairs(full: DatasetDict) -> DatasetDict:
    """easy-VQA without five of the 24 pairs of colour and shape in training and validation; the test part only has
    pictures of these five pairs.

    Colour and shape of a picture are read from its questions: they are the answer to questions about colour or shape,
    and they are named in questions with the answer yes.
    """
    colors = {"black", "blue", "brown", "gray", "green", "red", "teal", "yellow"}
    shapes = {"circle", "rectangle", "triangle"}
    parts = {}
    for name, rows in full.items():
        answers = rows.features["answer"].int2str(rows["answer"][:])
        shown: dict[str, set[str]] = {}
        for image, question, answer in zip(rows["image_id"][:], rows["question"][:], answers):
            words = set(question.rstrip("?").split())
            holds = answer not in ("yes", "no") or (answer == "yes") != bool(words & {"no", "not"})
            shown.setdefault(image, set()).update((words | {answer}) & (colors | shapes) if holds else ())
        pairs = {image: (words & colors, words & shapes) for image, words in shown.items()}
        # If the questions do not show colour or shape, the picture is left out: it may belong to one of the five
        # pairs.
        pairs = {image: (*color, *shape) for image, (color, shape) in pairs.items() if color and shape}
        kept = {image for image, pair in pairs.items() if (pair in HELD_OUT) == (name == "test")}
        parts[name] = rows.select([row for row, image in enumerate(rows["image_id"][:]) if image in kept])
    return DatasetDict(parts)


def with_sentiment(full: DatasetDict, seed: int) -> DatasetDict:
    """The emoji with enough observations for a reliable sentiment, split into parts by a seed. Emoji with fewer
    observations are all in the training part: their sentiment is rough, but better than nothing."""
    rows = concatenate_datasets(list(full.values()))
    rows = rows.select(np.argsort(rows["row_id"][:]))
    seen = [occurrences or 0 for occurrences in rows["occurrences"][:]]
    parts = cut(rows.select([row for row, times in enumerate(seen) if times >= LEAST_OCCURRENCES]), seed)
    rare = rows.select([row for row, times in enumerate(seen) if 0 < times < LEAST_OCCURRENCES])
    parts["train"] = concatenate_datasets([parts["train"], rare])
    return parts


def recipe_of(name: str) -> dict[str, Any]:
    """The recipe of a task; methods only differ in their own keys."""
    file = ROOT / "training/recipes" / f"{TASKS[name].recipe}.yaml"
    return {**read_recipe(file), **TASKS[name].keys}


def job_of(name: str, seed: int, work: Path, cache: FeatureCache | None) -> Run:
    """The run of a task, with its model, its data, and the features of its encoders (computed unless `cache` has
    them). If the task splits its data by the seed, the parts go into the folder `work`."""
    task, recipe = TASKS[name], recipe_of(name)
    for key in ("vision_encoder", "text_encoder", "dataset"):
        recipe[key] = str(ROOT / recipe[key])
    if name == "easy_vqa, unseen pairs" or task.splits:
        full = load_from_disk(recipe["dataset"])
        recipe["dataset"] = str(work / "data")
        (with_sentiment(full, seed) if task.splits else unseen_pairs(full)).save_to_disk(recipe["dataset"])
    recipe |= {"floors": False, "report_to": "none", "cache_features": cache is None}
    (work / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    words = [str(work / "recipe.yaml"), "--output_dir", str(work / "run"), "--overwrite_output_dir", "true"]
    run = open_run(__doc__.split("\n")[0], "train.py", words)
    if cache is not None:
        run.collator = replace(run.collator, cache=cache)
    return run


class TimedTraining(Training):
    """Counts the CPU seconds of its evaluations separately."""

    evaluating = 0.0

    def evaluate(self):
        """See `Training`."""
        before = time.process_time()
        super().evaluate()
        self.evaluating += time.process_time() - before


def training_of(run: Run, keys: dict[str, Any], seed: int, **limits: Any) -> TimedTraining:
    """A training of the run's task with another fusion, with initial weights from the seed. It changes the run's model
    and arguments. The key `absent` names a modality that is left out."""
    model_keys = {key: value for key, value in keys.items() if key != "absent"}
    recipe, run.model_args = run.model_args, replace(run.model_args, **model_keys)
    run.train_args = replace(run.train_args, seed=seed, **limits)
    set_seed(seed)
    run.model = run.build()
    run.model_args = recipe
    collator = without(run, keys.get("absent"))
    return TimedTraining(run, run.model, collator, run.train_args, folder=None)


def without(run: Run, modality: str | None) -> MultimodalCollator:
    """The run's collator, without one modality in every row."""
    return run.collator if modality is None else replace(run.collator, absent={modality: None})


def seconds_per_step(training: Training, steps: int = 40, warm_up: int = 8) -> float:
    """CPU seconds of one step, including loading its batch: the median of a few steps."""
    training.loader.set_epoch(0)
    batches: Iterator[dict] = iter(training.loader)
    times = []
    for _ in range(min(steps, training.epoch_batches)):
        before = time.process_time()
        training.make_step([next(batches)])
        times.append(time.process_time() - before)
    return median(times[min(warm_up, len(times) - 1) :])


def run_once(run: Run, keys: dict[str, Any], seed: int, seconds: float, scores: Sequence[str]) -> dict[str, Any]:
    """Trains and tests once.

    Returns:
        the results to keep.
    """
    asked = run.train_args
    step = seconds_per_step(training_of(run, keys, seed, max_steps=1000))
    steps = max(20, round(seconds / step))
    every = asked.eval_steps or max(10, steps // 8)
    # The recipe's limit of wall time is removed: on a busy machine it would stop the run too early.
    training = training_of(run, keys, seed, max_steps=steps, eval_steps=every, max_train_seconds=None)
    before = time.process_time()
    training.train()
    spent = time.process_time() - before
    run.train_args = asked
    tested = {}
    for modality in (None, "vision", "text"):
        _, report = evaluate(run, run.model, without(run, modality), "test")
        tested[modality] = {name: {**report["by_kind"], **report["metrics"]}[name] for name in scores}
    trained = [parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad]
    return {
        "scores": tested[keys.get("absent")],
        "without_vision": tested["vision"],
        "without_text": tested["text"],
        "validation": training.progress.best,
        "steps": training.progress.step,
        "best_step": training.progress.best_step,
        "step_seconds": step,
        "train_seconds": round(spent - training.evaluating, 2),
        "trainable_parameters": sum(trained),
    }


def key_of(task: str, method: str, seed: int, seconds: float | None = None) -> dict[str, Any]:
    """The values that identify a run; `seconds` replaces the task's budget."""
    key = {"task": task, "method": method, "seed": seed, "seconds": seconds or TASKS[task].seconds}
    recipe = recipe_of(task)
    recipe.pop("defaults_version")  # so that runs from before this key still match
    return {**key, "recipe": recipe, "keys": METHODS[method]}


def read_runs(file: Path) -> list[dict[str, Any]]:
    """All runs that were made."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def current(runs: Sequence[dict[str, Any]], seconds: float | None = None) -> list[dict[str, Any]]:
    """The runs with the present recipes, methods and budgets, in the order of the tasks; only the first of equal
    ones."""
    chosen = []
    for task in TASKS:
        for method in methods_of(task):
            for seed in TASKS[task].seeds:
                key = key_of(task, method, seed, seconds)
                chosen += [run for run in runs if key.items() <= run.items()][:1]
    return chosen


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its 95 % interval by Student's t over the seeds; None for one seed."""
    from scipy.stats import t

    if len(values) < 2:
        return mean(values), None
    return mean(values), float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """By task and method: seeds, mean and interval of each score, and mean costs. `runs` come from `current`."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for task, method in dict.fromkeys((run["task"], run["method"]) for run in runs):
        of_method = [run for run in runs if (run["task"], run["method"]) == (task, method)]
        scores = {name: interval([run["scores"][name] for run in of_method]) for name in of_method[0]["scores"]}
        costs = ("train_seconds", "steps", "trainable_parameters")
        table.setdefault(task, {})[method] = {
            "seeds": len(of_method),
            "scores": {name: {"mean": value, "half_width": half} for name, (value, half) in scores.items()},
            **{name: mean(run[name] for run in of_method) for name in costs},
        }
    return table


def columns_of(table: dict[str, Any]) -> list[tuple[str, str]]:
    """The pairs of task and score that were measured, in the order of `TASKS`."""
    return [(task, score) for task in TASKS if task in table for score in TASKS[task].scores]


def methods_in(table: dict[str, Any]) -> list[str]:
    """The methods that were measured, in the order of `METHODS`."""
    return [method for method in METHODS if any(method in by_method for by_method in table.values())]


def markdown(table: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The summary as docs/fusions.md shows it, one row per method: a table of scores, and one of costs."""
    columns, methods = columns_of(table), methods_in(table)
    head = [task if len(TASKS[task].scores) == 1 else f"{task}, {score}" for task, score in columns]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for method in methods:
        cells = [score_cell(table[task].get(method), task, score) for task, score in columns]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    tasks = [task for task in TASKS if task in table]
    lines += ["", f"| trainable parameters, steps in the budget | {' | '.join(tasks)} |"]
    lines.append("|---" * (len(tasks) + 1) + "|")
    for method in methods:
        lines.append(f"| `{method}` | {' | '.join(cost_cell(table[task].get(method)) for task in tasks)} |")
    return "\n".join(lines)


def score_cell(entry: dict[str, Any] | None, task: str, score: str) -> str:
    """One score of one method, with its interval; and the number of seeds if some are missing."""
    if entry is None:
        return "–"
    value, half = entry["scores"][score]["mean"], entry["scores"][score]["half_width"]
    scale, digits = (1, 3) if score == "spearman" else (100, 1)
    missing = len(TASKS[task].seeds) - entry["seeds"]
    seeds = f" ({entry['seeds']} of {len(TASKS[task].seeds)} seeds)" if missing else ""
    spread = "" if half is None else f" ± {scale * half:.{digits}f}"
    return f"{scale * value:.{digits}f}{spread}{seeds}"


def cost_cell(entry: dict[str, Any] | None) -> str:
    """The cost of one method."""
    return "–" if entry is None else f"{entry['trainable_parameters'] / 1e6:.2f} M, {entry['steps']:,.0f}"


def plot(table: dict[str, dict[str, dict[str, Any]]], path: Path):
    """One panel per score, one point per method, with its interval."""
    from matplotlib.figure import Figure

    columns, methods = columns_of(table), methods_in(table)
    colors = ["tab:orange" if method.startswith("cross_attention") else "tab:blue" for method in methods]
    figure = Figure(figsize=(3.2 * len(columns) + 2, 4.2), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    for axes, (task, score) in zip(panels, columns):
        entries = [table[task].get(method) for method in methods]
        means = [entry["scores"][score]["mean"] if entry else math.nan for entry in entries]
        halves = [entry["scores"][score]["half_width"] or 0 if entry else 0 for entry in entries]
        for place, (value, half, color) in enumerate(zip(means, halves, colors)):
            axes.errorbar(value, place, xerr=half, fmt="o", color=color, capsize=3)
        axes.set_yticks(range(len(methods)), methods)
        axes.set_title(f"{task}\n{score}", fontsize=9)
        axes.grid(alpha=0.3)
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=120)


def write_report(runs: Sequence[dict[str, Any]], page: Path):
    """JSON, plot and the page's tables of the runs that count."""
    table = summarise(current(runs))
    report = {"interval": "95 %, Student's t over seeds", "summary": table}
    REPORT.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    plot(table, PLOT)
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{markdown(table)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main():
    """Makes the runs that do not exist yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name, known in (("tasks", TASKS), ("methods", METHODS)):
        parser.add_argument(f"--{name}", nargs="+", choices=list(known), default=list(known), help="left out, all")
    parser.add_argument("--seeds", nargs="+", type=int, help="left out, the seeds of each task")
    parser.add_argument("--seconds", type=float, help="CPU seconds of training per run; left out, as the task says")
    parser.add_argument("--runs", type=Path, default=RUNS, help="JSON lines file that runs are added to")
    # --write_readme is the name of before.
    parser.add_argument(
        *("--write_docs", "--write_readme"),
        action="store_true",
        help="write JSON, plot and docs/fusions.md, run nothing",
    )
    arguments = parser.parse_args()
    if arguments.write_docs:
        write_report(read_runs(arguments.runs), ROOT / "docs/fusions.md")
        return

    torch.set_num_threads(1)
    disable_progress_bars()
    arguments.runs.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.tasks:
        task, cache, job = TASKS[name], None, None
        with tempfile.TemporaryDirectory(prefix="fusions_") as work:
            # Seed by seed, so that an unfinished task has complete seeds.
            for seed in task.seeds if arguments.seeds is None else arguments.seeds:
                if task.splits:
                    job = None  # each seed has its own parts
                for method in (method for method in methods_of(name) if method in arguments.methods):
                    key = key_of(name, method, seed, arguments.seconds)
                    if any(key.items() <= run.items() for run in read_runs(arguments.runs)):
                        continue
                    if job is None:
                        folder = Path(work, str(seed))
                        folder.mkdir()
                        job = job_of(name, seed, folder, cache)
                        cache = job.collator.cache
                    run = {**key, **run_once(job, METHODS[method], seed, key["seconds"], task.scores)}
                    run |= {"commit": commit_or_version(), **hardware()}
                    with arguments.runs.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(run) + "\n")
                    shown = ", ".join(f"{score} {value:.4f}" for score, value in run["scores"].items())
                    print(f"{name}, {method}, seed {seed}: {shown}, {run['steps']} steps", flush=True)
    print(markdown(summarise(current(read_runs(arguments.runs), arguments.seconds))))


if __name__ == "__main__":
    main()
