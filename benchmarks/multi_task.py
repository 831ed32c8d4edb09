"""Two tasks trained together, compared with each alone: OpenMoji's category and sentiment, from picture and name.

    python benchmarks/multi_task.py              # about 40 minutes of CPU time
    python benchmarks/multi_task.py --seeds 0 1

Four models of one recipe (`openmoji_multi_task`) on the same rows: category alone, sentiment
alone, both with the losses summed ('shared network'), both with learned weights (uncertainty, Kendall et al. 2018).
The emoji are split into parts again for each seed. Sentiment is measured on emoji with enough observations for a
reliable value. Other emoji are used for training, with a weight. Writes all runs into `results/multi_task.json`.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from datasets import Dataset, DatasetDict, concatenate_datasets, disable_progress_bars, load_from_disk

from mm_hf.data import FeatureCache
from mm_hf.prepare.openmoji import cut
from mm_hf.training.evaluator import evaluate
from mm_hf.training.loop import fit
from mm_hf.training.open_run import open_run
from mm_hf.training.provenance import commit_or_version, hardware


ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "training/recipes/openmoji_multi_task.yaml"
REPORT = ROOT / "benchmarks/results/multi_task.json"
LEAST_OCCURRENCES = 20
METHODS: dict[str, list[str]] = {
    "category alone": ["--label_column", "category", "--task_weights", "{}"],
    "sentiment alone": ["--label_column", "sentiment", "--task_weights", "{}"],
    "shared network": [],
    "uncertainty": ["--task_weighting", "uncertainty", "--task_weights", "{}"],
}
SCORES = ("category_accuracy", "sentiment_spearman")


def parts_of(full: DatasetDict, seed: int) -> DatasetDict:
    """All emoji, split into parts by a seed. The sentiment of emoji with few observations is used for training
    only."""
    rows = concatenate_datasets(list(full.values()))
    parts = cut(rows.select(sorted(range(len(rows)), key=rows["row_id"][:].__getitem__)), seed)
    for name in ("validation", "test"):
        known = parts[name]
        sentiment = [
            value if (seen or 0) >= LEAST_OCCURRENCES else None
            for value, seen in zip(known["sentiment"][:], known["occurrences"][:])
        ]
        feature = known.features["sentiment"]
        parts[name] = Dataset.add_column(known.remove_columns("sentiment"), "sentiment", sentiment, feature=feature)
    return parts


def run_once(
    method: str, dataset: Path, work: Path, seed: int, cache: FeatureCache | None, more: list[str]
) -> tuple[dict[str, Any], FeatureCache]:
    """Trains one model and tests it.

    Returns:
        its scores by the names of a run with several tasks, its costs, and the features of all items.
    """
    recipe = work / "recipe.yaml"
    text = RECIPE.read_text(encoding="utf-8").replace("data/", f"{ROOT / 'data'}/")
    if "--label_column" in METHODS[method]:  # these keys are by task, and there is only one
        weight = "sentiment_weight" if "sentiment" in METHODS[method] else "null"
        text = text.replace("{sentiment: sentiment_weight}", weight)
    recipe.write_text(text, encoding="utf-8")
    words = [str(recipe), "--dataset", str(dataset), "--output_dir", str(work / "run"), "--seed", str(seed)]
    words += ["--overwrite_output_dir", "true", "--report_to", "none", *METHODS[method], *more]
    words += ["--cache_features", str(cache is None)]
    run = open_run(__doc__.split("\n")[0], "train.py", words)
    if cache is not None:
        run.collator = replace(run.collator, cache=cache)
    fit(run, run.model, run.collator, run.train_args)
    _, report = evaluate(run, run.model, run.collator, "test")
    metrics = report["metrics"]
    if not run.several:
        metrics = {f"{run.columns.label}_{name}": value for name, value in metrics.items()}
    rows = report["rows"] if run.several else {run.columns.label: report["rows"]}
    weights = None
    if getattr(run.model, "task_weighting", None) is not None:
        weights = dict(zip(run.model.tasks, (-run.model.task_weighting.log_variances).exp().tolist()))
    scored = {"method": method, "seed": seed, "metrics": metrics, "rows": rows, "learned_weights": weights}
    return scored, run.collator.cache


def summarise(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By method and score: the mean, its spread over the seeds, and the mean difference, paired by seed, from the
    model that was trained on this task alone."""
    table: dict[str, dict[str, Any]] = {}
    for method in METHODS:
        for score in SCORES:
            by_seed = {
                run["seed"]: run["metrics"][score]
                for run in runs
                if run["method"] == method and score in run["metrics"]
            }
            alone = {
                run["seed"]: run["metrics"][score] for run in runs if run["method"] == f"{score.split('_')[0]} alone"
            }
            if by_seed:
                table.setdefault(method, {})[score] = {
                    "mean": mean(by_seed.values()),
                    "deviation": stdev(by_seed.values()) if len(by_seed) > 1 else None,
                    "beside_alone": mean(by_seed[seed] - alone[seed] for seed in by_seed),
                    "seeds": len(by_seed),
                }
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)), help="default: 0 to 7")
    parser.add_argument("--report", type=Path, default=REPORT, help="default: %(default)s")
    arguments, more = parser.parse_known_args()  # more: keys of the recipe, for trials
    torch.set_num_threads(1)
    disable_progress_bars()
    runs, cache = [], None
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory(prefix="multi_task_") as folder:
            work = Path(folder)
            parts_of(load_from_disk(str(ROOT / "data/openmoji")), seed).save_to_disk(work / "data")
            for method in METHODS:
                run, cache = run_once(method, work / "data", work, seed, cache, more)
                runs.append(run)
                scores = ", ".join(
                    f"{score} {run['metrics'][score]:.4f}" for score in SCORES if score in run["metrics"]
                )
                print(f"{method}, seed {seed}: {scores} {run['learned_weights'] or ''}", flush=True)
        report = {"table": summarise(runs), "runs": runs, "keys": more, "commit": commit_or_version(), **hardware()}
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\n{'':<18}" + "".join(f"{score:>44}" for score in SCORES))
    for method, scores in report["table"].items():
        cells = [
            f"{known['mean']:.4f} ± {known['deviation'] or 0:.4f} ({known['beside_alone']:+.4f} compared with alone)"
            if (known := scores.get(score))
            else "–"
            for score in SCORES
        ]
        print(f"{method:<18}" + "".join(f"{cell:>44}" for cell in cells))


if __name__ == "__main__":
    main()
