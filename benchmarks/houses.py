"""Prices of houses from four photographs and a table: a regression, compared with a constant guess and a linear model.

    python benchmarks/houses.py houses.zip --seconds 180            # three splits; finished runs are kept
    python benchmarks/houses.py houses.zip --steps 480 --cuts 0

The archive is from Ahmed and Moustafa (2016, arXiv 1609.08399): `Houses Dataset/` with `HousesInfo.txt` and four
photographs per house. Each fusion is trained on the logarithm of the price, on dollars, and on thousands of dollars;
the last two must give the same prices. All are measured by the RMSE of log10 of the price on the test part. A
prediction that is not positive is counted, and replaced by one dollar. The guess is the mean of the training rows.
The linear model is scikit-learn's ridge on the table, on the pooled features of the same frozen encoder, and on both;
its strength is chosen on the validation part. The results go into `results/houses.json`.
"""

import argparse
import csv
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from mm_hf.data import FeatureCache
from mm_hf.training.evaluator import evaluate
from mm_hf.training.loop import fit
from mm_hf.training.open_run import open_run
from mm_hf.training.provenance import commit_or_version, hardware
from mm_hf.training.run import Run
from mm_hf.training.run_folder import write_json


ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data/houses-csv"  # `mm_hf prepare houses` writes data/houses
REPORT = ROOT / "benchmarks/results/houses.json"
PHOTOS = ["frontal", "bedroom", "bathroom", "kitchen"]
TABLE = ["bedrooms", "bathrooms", "area", "zip"]
UNITS = {"log10": "log_price", "dollars": "price", "thousands": "thousands"}
FUSIONS = {
    "concat": ["--fusion", "concat"],
    "default": ["--fusion_layers", "1", "--fusion_hidden_size", "128"],
}


def unpack(archive: Path):
    """Makes a table of paths and numbers from the archive, once."""
    file = DATA / "houses.csv"
    if file.exists():
        return
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(DATA)
    folder = DATA / "Houses Dataset"
    rows = []
    for number, line in enumerate((folder / "HousesInfo.txt").read_text().split("\n"), start=1):
        photos = {name: folder / f"{number}_{name}.jpg" for name in PHOTOS}
        if not line.strip() or not all(path.exists() for path in photos.values()):
            continue
        beds, baths, area, code, price = line.split()
        row = {name: str(path.relative_to(DATA)) for name, path in photos.items()}
        row |= dict(zip(TABLE, (beds, baths, area, f"z{code}")))
        rows.append({**row, "price": price, "thousands": int(price) / 1000, "log_price": float(np.log10(int(price)))})
    with open(file, "w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def prepare(fusion: str, unit: str, cut: int, budget: list[str], cache: FeatureCache | None) -> Run:
    """One run, with features of photographs that were computed before."""
    words = ["--dataset", str(DATA / "houses.csv"), "--image_column", *PHOTOS, "--table_columns", *TABLE]
    words += ["--label_column", UNITS[unit], "--vision_encoder", str(ROOT / "data/encoders/mobilenet-v2")]
    words += ["--freeze_encoders", "true", "--test_fraction", "0.2", "--seed", str(cut), "--floors", "false"]
    words += ["--output_dir", str(ROOT / f"runs/houses/{fusion}-{unit}-{cut}"), "--overwrite_output_dir", "true"]
    words += ["--report_to", "none", "--cache_features", str(cache is None).lower(), *FUSIONS[fusion], *budget]
    run = open_run(__doc__.split("\n")[0], "train.py", words)
    if cache is not None:
        run.collator = replace(run.collator, cache=cache)
    return run


def to_dollars(values: torch.Tensor, unit: str) -> np.ndarray:
    """Labels or predictions, converted from their unit to dollars."""
    numbers = values.double().flatten().numpy()
    return 10**numbers if unit == "log10" else numbers * (1000 if unit == "thousands" else 1)


def error_of(dollars: np.ndarray, truth: np.ndarray) -> float:
    """Root of the mean squared error of log10 of the price."""
    return float(np.sqrt(np.mean((np.log10(dollars.clip(1)) - np.log10(truth)) ** 2)))


def run_once(run: Run, unit: str) -> dict[str, Any]:
    """Trains, and measures the test part."""
    history = fit(run, run.model, run.collator, run.train_args)
    predictions, _ = evaluate(run, run.model, run.collator, "test")
    dollars, truth = to_dollars(predictions.logits, unit), to_dollars(predictions.labels, unit)
    return {
        "rmse_log10": error_of(dollars, truth),
        "not_positive": int((dollars <= 0).sum()),
        "steps": history["learning rate"][-1][0],
        "predictions": [round(value, 2) for value in dollars.tolist()],
    }


def features(run: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The features of the linear model: the table, with one column per zip code, and pooled features."""
    rows = run.all_rows(split, [*run.columns.images, *TABLE])
    codes = sorted({row["zip"] for row in run.all_rows("train", ["zip"])})
    table, photos = [], []
    for row in rows:
        numbers = [float(row[name]) for name in TABLE[:3]] + [float(np.log10(row["area"]))]
        table.append(numbers + [float(row["zip"] == code) for code in codes])
        levels = [
            run.collator.cache.states("vision", [key]).levels[0] for key in run.collator.item_keys(row, "vision")
        ]
        photos.append(torch.cat([level.float().flatten(2).mean(-1)[0] for level in levels]).numpy())
    return np.array(table), np.array(photos)


def straight_line(run: Run) -> dict[str, float]:
    """The errors of the constant guess and of the ridges, on log10 of the price."""
    labels = {split: run.labels(split).double().numpy() for split in run.splits}
    errors_of = {"mean": float(np.sqrt(np.mean((labels["test"] - labels["train"].mean()) ** 2)))}
    blocks: dict[str, dict[str, np.ndarray]] = {"table": {}, "photos": {}}
    for split in run.splits:
        for name, values in zip(blocks, features(run, split)):
            blocks[name][split] = values
    for parts in blocks.values():  # each block with the same weight, whatever its width
        scaler = StandardScaler().fit(parts["train"])
        for split, values in parts.items():
            parts[split] = scaler.transform(values) / np.sqrt(values.shape[1])
    for name, used in {"table": ["table"], "photos": ["photos"], "both": list(blocks)}.items():
        inputs = {split: np.hstack([blocks[block][split] for block in used]) for split in run.splits}
        ridges = [Ridge(alpha).fit(inputs["train"], labels["train"]) for alpha in 10.0 ** np.arange(-4, 4)]
        errors = [np.mean((ridge.predict(inputs["validation"]) - labels["validation"]) ** 2) for ridge in ridges]
        best = ridges[int(np.argmin(errors))]
        errors_of[f"ridge on {name}"] = float(np.sqrt(np.mean((best.predict(inputs["test"]) - labels["test"]) ** 2)))
    return errors_of


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """Means over the splits, and the difference between prices from thousands and from dollars."""
    cuts = list(results["cuts"].values())
    means: dict[str, Any] = {}
    for name in cuts[0]["floors"]:
        means[name] = float(np.mean([cut["floors"][name] for cut in cuts]))
    for fusion in FUSIONS:
        for unit in UNITS:
            scores = [cut[fusion][unit]["rmse_log10"] for cut in cuts if unit in cut.get(fusion, {})]
            if scores:
                means[f"{fusion}, {unit}"] = float(np.mean(scores))
        pairs = [cut[fusion] for cut in cuts if {"dollars", "thousands"} <= set(cut.get(fusion, {}))]
        if pairs:
            apart = [
                np.abs(np.array(pair["thousands"]["predictions"]) / np.array(pair["dollars"]["predictions"]) - 1).max()
                for pair in pairs
            ]
            means[f"{fusion}, thousands apart from dollars, at most"] = float(max(apart))
    return means


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="houses.zip")
    parser.add_argument("--cuts", type=int, nargs="+", default=[0, 1, 2], help="Seeds of split and training.")
    parser.add_argument("--fusions", nargs="+", default=list(FUSIONS), choices=FUSIONS)
    parser.add_argument("--units", nargs="+", default=list(UNITS), choices=UNITS)
    parser.add_argument("--seconds", type=float, help="Wall time of each training.")
    parser.add_argument("--epochs", type=int, default=40, help="Training epochs.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=Path, default=REPORT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    unpack(args.archive)
    budget = ["--num_train_epochs", str(args.epochs)]
    budget += ["--max_train_seconds", str(args.seconds)] if args.seconds else []
    results = json.loads(args.report.read_text()) if args.report.exists() else {"cuts": {}}
    results |= {"commit": commit_or_version(), "hardware": hardware(), "seconds": args.seconds, "epochs": args.epochs}
    cache = None
    for cut in map(str, args.cuts):
        of_cut = results["cuts"].setdefault(cut, {})
        for fusion in args.fusions:
            for unit in args.units:
                if unit in of_cut.get(fusion, {}):
                    continue
                run = prepare(fusion, unit, int(cut), budget, cache)
                cache = run.collator.cache
                if "floors" not in of_cut and unit == "log10":
                    of_cut["floors"] = straight_line(run)
                    print(cut, of_cut["floors"], flush=True)
                of_cut.setdefault(fusion, {})[unit] = scored = run_once(run, unit)
                shown = {key: value for key, value in scored.items() if key != "predictions"}
                print(f"cut {cut}, {fusion}, {unit}: {shown}", flush=True)
                results["summary"] = summary(results)
                write_json(args.report, results)
    for name, value in results["summary"].items():
        print(f"{name:<50}{value:8.4f}")


if __name__ == "__main__":
    main()
