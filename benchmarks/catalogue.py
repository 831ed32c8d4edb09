"""Two tasks, category and price (not rescaled), trained together and each alone: do they harm each other?

    mm_hf prepare openmoji data/openmoji
    python benchmarks/catalogue.py                       # three seeds, about ten minutes; finished runs are kept

A generated catalogue: OpenMoji's pictures and names, its ten categories, and a price from 2 to about 500. The price
depends on the category and on how much of the picture is inked, with about 12 % noise. A loss on squared prices would
be a thousand times the loss of the categories. Writes `results/catalogue.json`.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, load_from_disk

from mm_hf.data import FeatureCache
from mm_hf.training.evaluator import evaluate
from mm_hf.training.loop import fit
from mm_hf.training.open_run import open_run
from mm_hf.training.provenance import commit_or_version, hardware
from mm_hf.training.run import Run
from mm_hf.training.run_folder import write_json


ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data/catalogue"
REPORT = ROOT / "benchmarks/results/catalogue.json"
TASKS = {"category": ["category"], "price": ["price"], "both": ["category", "price"]}


def make_catalogue():
    """Makes the rows with their price, once."""
    if DATA.exists():
        return
    parts = load_from_disk(str(ROOT / "data/openmoji"))
    rows = concatenate_datasets([parts[name] for name in ("train", "validation", "test")])
    draw, prices = np.random.default_rng(0), []
    for row in rows.select_columns(["image", "category"]):
        inked = float((np.asarray(row["image"].convert("L")) < 200).mean())
        prices.append(round(min(472.0, 2 * 10 ** (0.2 * row["category"] + 2 * inked + draw.normal(0, 0.05))), 2))
    Dataset.add_column(rows.select_columns(["image", "name", "category"]), "price", prices).save_to_disk(str(DATA))


def prepare(labels: list[str], seed: int, cache: FeatureCache | None, budget: list[str]) -> Run:
    """One run. Items that were encoded before are not encoded again."""
    words = [str(ROOT / "training/recipes/openmoji_category.yaml"), "--dataset", str(DATA), "--seed", str(seed)]
    words += ["--label_column", *labels, "--test_fraction", "0.25", "--floors", "false", "--report_to", "none"]
    words += [
        "--output_dir",
        str(ROOT / f"runs/catalogue/{'-'.join(labels)}-{seed}"),
        "--overwrite_output_dir",
        "true",
    ]
    words += ["--cache_features", str(cache is None).lower(), *(["--task", "multi_task"] if len(labels) > 1 else [])]
    run = open_run(__doc__.split("\n")[0], "train.py", [*words, *budget])
    if cache is not None:
        run.collator = replace(run.collator, cache=cache)
    return run


def scores(run: Run) -> dict[str, float]:
    """Accuracy of the category and RMSE of the price on the test part, for the tasks of the run."""
    predictions, _ = evaluate(run, run.model, run.collator, "test")
    metrics = {}
    for task in run.alone():
        name = task.columns.label
        logits = predictions.logits[name] if run.several else predictions.logits
        labels = predictions.labels[name] if run.several else predictions.labels
        if name == "category":
            metrics["category_accuracy"] = (logits.argmax(-1) == labels).double().mean().item()
        else:
            metrics["price_rmse"] = ((logits[:, 0] - labels) ** 2).double().mean().sqrt().item()
            metrics["price_rmse_of_the_mean"] = labels.double().std(correction=0).item()
    return metrics


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Means over the seeds, and the loss of training both together: in accuracy, and as a share of the error."""
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in runs.values())))

    def mean(kind: str, score: str) -> float:
        return float(np.mean([runs[kind][seed][score] for seed in seeds]))

    alone, both = mean("category", "category_accuracy"), mean("both", "category_accuracy")
    price, price_both = mean("price", "price_rmse"), mean("both", "price_rmse")
    return {
        "category accuracy alone": alone,
        "category accuracy of both": both,
        "points lost": 100 * (alone - both),
        "price RMSE of the mean": mean("price", "price_rmse_of_the_mean"),
        "price RMSE alone": price,
        "price RMSE of both": price_both,
        "share of the error added": price_both / price - 1,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Seeds of split and training.")
    parser.add_argument("--epochs", type=int, default=20, help="Training epochs.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=Path, default=REPORT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    make_catalogue()
    results = json.loads(args.report.read_text()) if args.report.exists() else {"runs": {kind: {} for kind in TASKS}}
    results |= {"commit": commit_or_version(), "hardware": hardware(), "epochs": args.epochs}
    cache = None
    for seed in args.seeds:
        for kind, labels in TASKS.items():
            if str(seed) in results["runs"][kind]:
                continue
            budget = ["--num_train_epochs", str(args.epochs), "--max_train_seconds", "100000"]
            run = prepare(labels, seed, cache, budget)
            cache = run.collator.cache
            fit(run, run.model, run.collator, run.train_args)
            results["runs"][kind][str(seed)] = metrics = scores(run)
            print(f"seed {seed}, {kind}: {metrics}", flush=True)
            write_json(args.report, results)
    results["summary"] = summary(results["runs"])
    write_json(args.report, results)
    for name, value in results["summary"].items():
        print(f"{name:<30}{value:10.4f}")


if __name__ == "__main__":
    main()
