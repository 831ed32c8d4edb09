"""Does a run that starts from another one (`init_from`) learn a new label set sooner than a fresh one?

    mm_hf prepare openmoji data/openmoji
    python benchmarks/start.py                       # three seeds, a few minutes; finished runs are kept

Two catalogues of OpenMoji's pictures and names, without a row in common. The second one has 600 training rows, and its
labels have other names than those of the first one. `finer`: from ten categories to the 30 subcategories with at least
20 rows (without flags, which the word 'flag' reveals). `coarser`: from all subcategories to the ten categories. The
second job is trained from the first one for 2 epochs, and from a fresh model for 2 and for 6 epochs. It uses the
recipe `openmoji_category` at 96 pixels, with batches of 32 rows, at the recipe's learning rate (0.001) and at three
times this rate, which is better for so few steps. Writes `results/start.json` with the test accuracy of every run.
"""

import argparse
import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk

from mm_hf.data import FeatureCache
from mm_hf.prepare.openmoji import CATEGORIES, CATEGORIES_FILE, join_key, read_checked
from mm_hf.training.evaluator import evaluate
from mm_hf.training.loop import fit
from mm_hf.training.open_run import open_run
from mm_hf.training.provenance import commit_or_version, hardware
from mm_hf.training.run import Run
from mm_hf.training.run_folder import write_json


ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "benchmarks/results/start.json"
RECIPE = ROOT / "training/recipes/openmoji_category.yaml"
ROWS = {"train": 600, "validation": 100, "test": 250}  # of the second catalogue
LEAST = 20  # a subcategory must have so many rows
LEFT_OUT = ("country-flag",)
FIRST_EPOCHS = 12
LABELS = {"finer": ("category", "subcategory"), "coarser": ("subcategory", "category")}
KINDS = [("started", 2), ("fresh", 6), ("fresh", 2)]
RATES = (1e-3, 3e-3)  # the first one is the recipe's


def subcategories() -> dict[str, str]:
    """The subcategories by code point, in the form of the rows."""
    entries = json.loads(read_checked(CATEGORIES, CATEGORIES_FILE))
    return {join_key(entry["unified"]): entry["subcategory"] for entry in entries}


def cut(labels: list[str], seed: int, finer: bool = True) -> dict[str, list[int]]:
    """The rows of the first run and of the three parts of the second run, chosen by their subcategories. With `finer`
    the second run only has rows of frequent subcategories."""
    counts = Counter(labels)
    known = [row for row, label in enumerate(labels) if counts[label] >= LEAST and label not in LEFT_OUT]
    known = known if finer else list(range(len(labels)))
    drawn, parts, at = np.random.default_rng(seed).permutation(known), {}, 0
    for name, count in ROWS.items():
        parts[name] = sorted(drawn[at : at + count].tolist())
        at += count
    second = {row for rows in parts.values() for row in rows}
    return {"first": [row for row in range(len(labels)) if row not in second], **parts}


def read_rows(openmoji: Path) -> Dataset:
    """All rows, with their subcategory."""
    parts = load_from_disk(str(openmoji))
    rows = concatenate_datasets([parts[name] for name in ("train", "validation", "test")])
    finer = subcategories()
    labels = [finer[join_key(code)] for code in rows["code"]]
    return Dataset.add_column(rows.select_columns(["image", "name", "category"]), "subcategory", labels)


def make_catalogues(rows: Dataset, folder: Path, seed: int, finer: bool):
    """Makes both catalogues of a seed, once. The first one is a single part, which its job splits."""
    if (folder / "second").exists():
        return
    chosen = cut(rows["subcategory"][:], seed, finer)
    rows.select(chosen["first"]).save_to_disk(str(folder / "first"))
    DatasetDict({name: rows.select(chosen[name]) for name in ROWS}).save_to_disk(str(folder / "second"))


def prepare(args: argparse.Namespace, data: Path, output_dir: Path, cache: FeatureCache | None, **keys: Any) -> Run:
    """One run. With a cache, items that were encoded before are not encoded again."""
    flags = {"dataset": data, "output_dir": output_dir, "overwrite_output_dir": "true", "floors": "false"}
    flags |= {"report_to": "none", "image_size": 96, "cache_features": str(cache is None).lower()}
    flags |= {f"{name}_encoder": args.encoders / encoder for name, encoder in ENCODERS.items()} | keys
    words = [str(RECIPE), *(str(word) for key, value in flags.items() for word in (f"--{key}", value))]
    run = open_run(__doc__.split("\n")[0], "train.py", words)
    if cache is not None:
        run.collator = replace(run.collator, cache=cache)
    return run


ENCODERS = {"vision": "mobilenet-v2", "text": "minilm-l6"}


def trained(run: Run, folder: Path | None = None) -> dict[str, Any]:
    """Trains, and returns test accuracy and seconds. With a folder, writes a checkpoint there."""
    history = fit(run, run.model, run.collator, run.train_args)
    _, report = evaluate(run, run.model, run.collator, "test")
    if folder is not None:
        run.model.save_pretrained(folder)
        run.processor.save_pretrained(folder)
    validation = [round(score, 4) for _, score in history["validation"]]
    return {"accuracy": report["metrics"]["accuracy"], "validation": validation}


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds that all settings have, and the lead of two epochs from the first job over six fresh
    epochs."""
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in runs.values())))
    means = {name: float(np.mean([by_seed[seed]["accuracy"] for seed in seeds])) for name, by_seed in runs.items()}
    ahead = {
        f"{rate:g}": [
            runs[name_of("started", 2, rate)][seed]["accuracy"] - runs[name_of("fresh", 6, rate)][seed]["accuracy"]
            for seed in seeds
        ]
        for rate in RATES
    }
    return {"seeds": seeds, "accuracy": means, "started 2 ahead of fresh 6, by rate": ahead}


def name_of(kind: str, epochs: int, rate: float) -> str:
    """The name of a run in the report."""
    return f"{kind}, {epochs} epochs, rate {rate:g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Seeds of split and training.")
    parser.add_argument("--openmoji", type=Path, default=ROOT / "data/openmoji")
    parser.add_argument("--encoders", type=Path, default=ROOT / "data/encoders")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/start", help="Folder for catalogues and runs.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--directions", nargs="+", choices=list(LABELS), default=list(LABELS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = ["first job", *(name_of(kind, epochs, rate) for kind, epochs in KINDS for rate in RATES)]
    results = json.loads(args.report.read_text()) if args.report.exists() else {"runs": {}, "summary": {}}
    results |= {"commit": commit_or_version(), "hardware": hardware(), "rows": ROWS, "first_epochs": FIRST_EPOCHS}
    rows = read_rows(args.openmoji)
    if not (args.work / "all").exists():
        rows.save_to_disk(str(args.work / "all"))
    cache = prepare(args, args.work / "all", args.work / "encoded", None).collator.cache  # encodes each item once
    for seed, direction in itertools.product(args.seeds, args.directions):
        runs = results["runs"].setdefault(direction, {name: {} for name in names})
        if all(str(seed) in runs[name] for name in names):
            continue
        folder, (before, label) = args.work / direction / str(seed), LABELS[direction]
        make_catalogues(rows, folder, seed, direction == "finer")
        keys = {"label_column": before, "seed": seed, "num_train_epochs": FIRST_EPOCHS}
        run = prepare(args, folder / "first", folder / "job", cache, **keys)
        runs["first job"][str(seed)] = trained(run, folder / "job")
        for (kind, epochs), rate in itertools.product(KINDS, RATES):
            keys = {"label_column": label, "seed": seed, "num_train_epochs": epochs}
            keys |= {"per_device_train_batch_size": 32, "learning_rate": rate}
            keys |= {"init_from": folder / "job"} if kind == "started" else {}
            name = name_of(kind, epochs, rate)
            run = prepare(args, folder / "second", folder / name.replace(", ", "-").replace(" ", "-"), cache, **keys)
            runs[name][str(seed)] = result = trained(run)
            print(f"{direction}, seed {seed}, {name}: {result}", flush=True)
        results["summary"][direction] = summary(runs)
        write_json(args.report, results)
    for direction, means in results["summary"].items():
        accuracies = ", ".join(f"{name} {value:.4f}" for name, value in means["accuracy"].items())
        print(f"{direction}: {accuracies}; ahead {means['started 2 ahead of fresh 6, by rate']}")


if __name__ == "__main__":
    main()
