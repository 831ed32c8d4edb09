"""The recipes on photographs, compared with floors without a fusion: a linear model, or a caption of the nearest
photograph.

    python benchmarks/photographs.py --houses HOUSES.zip --flickr FLICKR.zip      # 5 splits each; finished runs are
    kept python benchmarks/photographs.py --houses HOUSES.zip --cuts 0 1 --threads 2 --num_train_epochs 5
    python benchmarks/photographs.py --flickr FLICKR.zip --tasks flickr_captioning --cuts 0

The archives are the same as for `mm_hf prepare houses` and `mm_hf prepare flickr8k`; each split has its own seed.
Photographs and captions are encoded once for all splits. Other flags are keys of the recipes. The results are kept in
`results/photographs.json`; photographs and captions are not kept.

- `houses_price`: RMSE of log10 of the price. The floors are the mean, the same recipe with photographs or table only,
  and scikit-learn's ridge on the table (with the logarithm of the area, and one column per zip code), on the pooled
  features of the four photographs, and on both. The strength of the ridge and the weight of the photographs are chosen
  on the validation part.
- `flickr_retrieval`: the mean of recall at 1, 5 and 10 in both directions. The floor is a ridge regression from the
  pooled photograph to the mean-pooled caption, with its strength chosen on the validation part.
- `flickr_captioning`: chrF of the generated text for each test photograph, the mean over its captions. The floors are
  captions of the training photograph with the nearest pooled features: the mean over all its captions, and the caption
  that is most similar to the others. It takes tens of minutes on a CPU, so it only runs if it is named.
"""

import argparse
import itertools
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import normalize

from mm_hf.data import FeatureCache
from mm_hf.evaluation.ranking import retrieval_metrics
from mm_hf.evaluation.texts import chrf
from mm_hf.prepare import flickr8k, houses
from mm_hf.training.evaluator import evaluate
from mm_hf.training.loop import fit
from mm_hf.training.open_run import open_run
from mm_hf.training.provenance import commit_or_version, hardware
from mm_hf.training.run import Run
from mm_hf.training.run_folder import write_json


ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs/photographs"
REPORT = ROOT / "benchmarks/results/photographs.json"
BUILDERS = {"houses_price": houses, "flickr_retrieval": flickr8k, "flickr_captioning": flickr8k}
STRENGTHS = 10.0 ** np.arange(-4, 5)  # of a ridge; where blocks are scaled to weight 1
MAP_STRENGTHS = 10.0 ** np.arange(1, 7)  # of a map between features as they are


def built(module: Any, archive: Path, cut: int) -> Path:
    """The folder of a split."""
    folder = ROOT / f"data/photographs/{module.__name__.rpartition('.')[2]}-{cut}"
    module.main([str(archive), str(folder), "--seed", str(cut)])
    return folder


def opened(task: str, folder: Path, cut: int, words: list[str], items: dict[str, Any]) -> Run:
    """A run of the recipe on this split. It uses the features in `items`, by modality and key, and adds new ones."""
    words = [str(ROOT / f"mm_hf/recipes/{task}.yaml"), "--dataset", str(folder), "--seed", str(cut), *words]
    words += ["--output_dir", str(RUNS / f"{task}-{cut}"), "--overwrite_output_dir", "true"]
    words += ["--report_to", "none", "--floors", "false"]
    run = open_run(__doc__.split("\n")[0], "train.py", [*words, "--cache_features", str(not items).lower()])
    if not items:
        items |= run.collator.cache.items
        return run
    cache = FeatureCache(run.model.base_model.eval())
    cache.items = {name: kept for name, kept in items.items() if name in run.collator.parts}
    cache.modalities = list(cache.items)
    run.collator = replace(run.collator, cache=cache)
    return run


def trained(run: Run, alone: str | None = None) -> tuple[Any, dict[str, float], float]:
    """Trains; with `alone`, a new model that only sees this modality.

    Returns:
        the model's answers to the test part, its metrics, and the CPU seconds of training.
    """
    others = set(run.model.config.modalities) - {alone}
    collator = run.collator if alone is None else replace(run.collator, absent=dict.fromkeys(others))
    torch.manual_seed(run.train_args.seed)
    model = run.model if alone is None else run.build().to(run.accelerator.device)
    start = time.process_time()
    fit(run, model, collator, run.train_args)
    seconds = time.process_time() - start
    predictions, report = evaluate(run, model, collator, "test")
    return predictions, report["metrics"], seconds


def pooled(run: Run, row: dict[str, Any], modality: str) -> torch.Tensor:
    """The features of a row's items: the means over their tokens, concatenated."""
    means = []
    for key in run.collator.item_keys(row, modality):
        for level in run.collator.cache.items[modality][key][0]:
            means.append(level.float().flatten(1).mean(-1) if level.ndim == 3 else level.float().mean(0))
    return torch.cat(means)


def photo_of(run: Run, row: dict[str, Any]) -> str:
    """The key of a row's photograph."""
    return run.collator.item_keys(row, "vision")[0]


def root_mean_square(values: np.ndarray) -> float:
    """Of errors."""
    return float(np.sqrt(np.mean(values**2)))


def measure_houses(run: Run) -> dict[str, float]:
    """See above."""
    labels, blocks = {}, {"table": {}, "photographs": {}}
    codes = sorted(set(run.splits["train"]["zip"]))
    for part in run.splits:
        rows = run.all_rows(part, [*houses.PHOTOGRAPHS, *houses.TABLE])
        labels[part] = run.labels(part).double().numpy()
        numbers = [[row[name] for name in houses.TABLE[:3]] + [np.log10(row["area"])] for row in rows]
        kinds = [[float(row["zip"] == code) for code in codes] for row in rows]
        blocks["table"][part] = np.hstack([np.array(numbers), np.array(kinds)])
        blocks["photographs"][part] = torch.stack([pooled(run, row, "vision") for row in rows]).numpy()
    for parts in blocks.values():  # each block with the same weight, whatever its width
        scaler = StandardScaler().fit(parts["train"])
        for part, values in parts.items():
            parts[part] = scaler.transform(values) / np.sqrt(values.shape[1])
    measured = {"mean": root_mean_square(labels["test"] - labels["train"].mean())}
    shares = {"table": [(1, 0)], "photographs": [(0, 1)], "both": [(1, share) for share in (0.1, 0.3, 1)]}
    for name, tried in shares.items():
        best = None
        for share, strength in itertools.product(tried, STRENGTHS):
            inputs = {
                part: np.hstack([weight * block[part] for weight, block in zip(share, blocks.values()) if weight])
                for part in run.splits
            }
            ridge = Ridge(strength).fit(inputs["train"], labels["train"])
            errors = [root_mean_square(ridge.predict(inputs[part]) - labels[part]) for part in ("validation", "test")]
            best = errors if best is None else min(best, errors)
        measured[f"ridge on {name}"] = best[1]
    _, metrics, measured["seconds"] = trained(run)
    measured["recipe"] = metrics["rmse"]
    for name, modality in {"table": "tabular", "photographs": "vision"}.items():
        measured[f"recipe, {name} alone"] = trained(run, modality)[1]["rmse"]
    return measured


def measure_retrieval(run: Run) -> dict[str, float]:
    """See above."""
    parts = {}
    for part in run.splits:
        rows = run.all_rows(part, ["image", "caption"])
        photos = [photo_of(run, row) for row in rows]
        ids = {"image": torch.tensor([photos.index(photo) for photo in photos]), "text": torch.arange(len(rows))}
        sides = [torch.stack([pooled(run, row, name) for row in rows]).double() for name in ("vision", "text")]
        parts[part] = (*sides, ids)
    pictures, texts, _ = parts["train"]
    mean, mean_text = pictures.mean(0), texts.mean(0)
    of_pictures, of_both = (pictures - mean).T @ (pictures - mean), (pictures - mean).T @ (texts - mean_text)
    best = (-1.0, -1.0)
    for strength in MAP_STRENGTHS:
        matrix = torch.linalg.solve(of_pictures + strength * torch.eye(len(mean), dtype=torch.float64), of_both)
        recalls = []
        for part in ("validation", "test"):
            pictures, texts, ids = parts[part]
            sides = {"image": (pictures - mean) @ matrix, "text": texts - mean_text}
            sides = {name: normalize(values, dim=-1) for name, values in sides.items()}
            recalls.append(retrieval_metrics(sides, ids)["metrics"]["mean_recall"])
        best = max(best, tuple(recalls))
    _, metrics, seconds = trained(run)
    recalls = {name: value for name, value in metrics.items() if "recall_at" in name}
    return {"ridge map": best[1], "recipe": metrics["mean_recall"], **recalls, "seconds": seconds}


def measure_captioning(run: Run) -> dict[str, float]:
    """See above."""
    captions: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    features: dict[str, dict[str, torch.Tensor]] = {"train": {}, "test": {}}
    for part, by_photo in captions.items():
        rows = run.all_rows(part, ["image", "caption"])
        texts = run.collator.texts_of(run.labels(part))  # as the tokenizer spells them
        for row, text in zip(rows, texts):
            photo = photo_of(run, row)
            by_photo.setdefault(photo, []).append(text)
            if photo not in features[part]:
                features[part][photo] = pooled(run, row, "vision")
    known, asked = (torch.stack(list(features[part].values())) for part in ("train", "test"))
    mean = known.mean(0)
    nearest = (normalize(asked - mean, dim=-1) @ normalize(known - mean, dim=-1).T).argmax(1).tolist()
    photos, scores = list(captions["train"]), {"any caption": [], "most like the others": []}
    for place, truths in zip(nearest, captions["test"].values()):
        said = captions["train"][photos[place]]
        of_each = [float(np.mean(chrf([text] * len(truths), truths))) for text in said]
        alike = [np.mean(chrf([text] * len(said), said)) for text in said]
        scores["any caption"].append(float(np.mean(of_each)))
        scores["most like the others"].append(of_each[int(np.argmax(alike))])
    _, metrics, seconds = trained(run)
    floors = {f"nearest photograph, {name}": float(np.mean(values)) for name, values in scores.items()}
    return {**floors, "recipe": metrics["chrf"], "seconds": seconds}


MEASURES = {
    "houses_price": measure_houses,
    "flickr_retrieval": measure_retrieval,
    "flickr_captioning": measure_captioning,
}


def summary(cuts: list[dict[str, float]]) -> dict[str, Any]:
    """Means over the splits, and the difference between recipe and each floor, paired by split, with a 95 % interval
    by Student's t."""
    from scipy.stats import t

    means = {name: float(np.mean([cut[name] for cut in cuts])) for name in cuts[0]}
    ahead = {}
    for name in means:
        if name not in ("recipe", "seconds") and "recall_at" not in name:
            apart = np.array([cut["recipe"] - cut[name] for cut in cuts])
            half = t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else None
            ahead[name] = {"mean": float(apart.mean()), "interval": None if half is None else float(half)}
    return {"cuts": len(cuts), "means": means, "recipe minus": ahead}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--houses", type=Path, help="archive or folder of the houses")
    parser.add_argument("--flickr", type=Path, help="archive or folder of Flickr8k")
    parser.add_argument("--tasks", nargs="+", default=["houses_price", "flickr_retrieval"], choices=MEASURES)
    parser.add_argument("--cuts", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of split and training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", type=Path, default=REPORT)
    args, keys = parser.parse_known_args()
    torch.set_num_threads(args.threads)
    results = json.loads(args.report.read_text()) if args.report.exists() else {}
    results |= {"commit": commit_or_version(), "hardware": hardware()}
    for task in args.tasks:
        archive = args.houses if BUILDERS[task] is houses else args.flickr
        of_task, items = results.setdefault(task, {"cuts": {}}), {}
        for cut in args.cuts if archive is not None else []:
            if str(cut) in of_task["cuts"]:
                continue
            run = opened(task, built(BUILDERS[task], archive, cut), cut, keys, items)
            of_task["cuts"][str(cut)] = MEASURES[task](run)
            of_task["summary"] = summary(list(of_task["cuts"].values()))
            write_json(args.report, results)
            print(task, cut, {name: round(value, 4) for name, value in of_task["cuts"][str(cut)].items()}, flush=True)
        for name, value in of_task.get("summary", {}).get("means", {}).items():
            ahead = of_task["summary"]["recipe minus"].get(name)
            apart = (
                "" if ahead is None else f"   recipe minus this {ahead['mean']:+.4f} ± {ahead['interval'] or 0:.4f}"
            )
            print(f"{task:<20}{name:<42}{value:8.4f}{apart}")


if __name__ == "__main__":
    main()
