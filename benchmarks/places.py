"""Title and body of a review as two places of one encoder, compared with both in one text: stars of 23,486 real
reviews.

    python benchmarks/places.py --output benchmarks/results/places.json     # about 15 minutes on two cores

For each seed, both variants train on the same rows for the same number of steps, and use the same test part.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from mm_hf.prepare.clothing_reviews import FILE, PACKAGE
from mm_hf.prepare.common import package_path


ROOT = Path(__file__).resolve().parent.parent
VARIANTS = {"one_text": ["text"], "two_places": ["title", "body"]}
SETTINGS = {
    "text_encoder": "data/encoders/lstm-reviews",  # mm_hf prepare recurrent …, see recipes/sentiment.yaml
    "max_text_length": 100,
    "fusion": "merged_attention",  # it uses tokens, so it can distinguish the places
    "fusion_hidden_size": 64,
    "fusion_layers": 1,
    "fusion_dropout": 0.2,
    "classifier_dropout": 0.3,
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "train_sampling_strategy": "group_by_length",
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 256,
    "report_to": "none",
}


def write_rows(file: Path):
    """Writes the reviews as a CSV: title, body, both in one text, and the stars."""
    rows = pd.read_parquet(package_path(PACKAGE, FILE))[["Title", "Review Text", "Rating"]]
    rows.columns = ["title", "body", "stars"]
    rows = rows[rows.title.notna() | rows.body.notna()]
    parts = rows[["title", "body"]].fillna("").apply(lambda row: ". ".join(part for part in row if part), axis=1)
    rows.assign(text=parts, stars="stars " + rows.stars.astype(str)).to_csv(file, index=False)


def train(variant: str, seed: int, rows: Path, steps: int, threads: int) -> dict[str, float]:
    """One run; its test metrics and the seconds that it trained."""
    folder = rows.parent / f"{variant}-{seed}"
    flags = [word for key, value in SETTINGS.items() for word in (f"--{key}", str(value))]
    flags += ["--max_steps", str(steps), "--seed", str(seed), "--output_dir", str(folder)]
    columns = ["--label", "stars", "--text_column", *VARIANTS[variant]]
    subprocess.run(
        [sys.executable, "-m", "mm_hf", "train", str(rows), *columns, *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    results = json.loads((folder / "results.json").read_text())
    return {**results["metrics"], "majority": results["floors"]["majority"], "seconds": results["seconds"]["train"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/places", help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=600, help="steps per run; default: %(default)s")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = args.folder / "reviews.csv"
    write_rows(rows)
    jobs = [(variant, seed) for seed in args.seeds for variant in VARIANTS]
    with ThreadPoolExecutor(2) as pool:
        measured = list(pool.map(lambda job: train(*job, rows, args.steps, 1), jobs))
    runs = [{"variant": variant, "seed": seed, **metrics} for (variant, seed), metrics in zip(jobs, measured)]
    report = {"steps": args.steps, "settings": SETTINGS, "runs": runs}
    for metric in ("accuracy", "macro_f1"):
        by_variant = {v: [run[metric] for run in runs if run["variant"] == v] for v in VARIANTS}
        gaps = [two - one for one, two in zip(by_variant["one_text"], by_variant["two_places"])]
        report[metric] = {**{v: statistics.mean(values) for v, values in by_variant.items()}, "gaps": gaps}
        print(metric, report[metric])
    if args.output is not None:
        args.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
