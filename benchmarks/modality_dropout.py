"""The effect of `modality_dropout` on the score: each packaged recipe with 0 and with 0.1, on the same seeds.

    python benchmarks/modality_dropout.py                              # the runs that the JSON lacks
    python benchmarks/modality_dropout.py --recipes easy_vqa record --seeds 0 1 2
    python benchmarks/modality_dropout.py --write_table                # only prints the table of known results

A model that never saw a row without a modality gives random answers to such rows, and then explanations with absent
modalities are meaningless. So the score with each modality absent is measured too. The results of each run go into
`results/modality_dropout.json` when it has ended, so the script may be stopped and started again. Recipes without data
on this machine, and recipes with one modality, are left out with a message.
"""

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from datasets import disable_progress_bars

from mm_hf.training.evaluator import evaluate
from mm_hf.training.loop import fit
from mm_hf.training.open_run import open_run
from mm_hf.training.provenance import commit_or_version
from mm_hf.training.recipe_files import packaged_recipes
from mm_hf.training.run_folder import write_json


ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "benchmarks/results/modality_dropout.json"
RATES = (0.0, 0.1)


def run_once(recipe: str, rate: float, seed: int, seconds: int | None) -> dict[str, Any] | None:
    """Trains and tests a recipe at one rate; None if it has only one modality, which cannot be dropped."""
    folder = tempfile.mkdtemp(prefix="modality_dropout_")
    words = [str(packaged_recipes()[f"{recipe}.yaml"]), "--output_dir", folder, "--overwrite_output_dir", "true"]
    words += ["--modality_dropout", str(rate), "--seed", str(seed), "--floors", "false", "--report_to", "none"]
    words += [] if seconds is None else ["--max_train_seconds", str(seconds)]
    try:
        run = open_run(__doc__.split("\n")[0], "train.py", words)
        modalities = run.model.config.modalities
        if len(modalities) < 2:
            return None
        before = time.process_time()
        fit(run, run.model, run.collator, run.train_args)
        spent = time.process_time() - before
        metric, scores = "", {}
        for name in (None, *modalities):
            collator = run.collator if name is None else replace(run.collator, absent={name: None})
            try:
                _, report = evaluate(run, run.model, collator, "test")
            except ValueError as error:  # a search without the items to search
                scores[f"without {name}"] = str(error)
                continue
            metric = next(iter(report["metrics"]))
            scores["score" if name is None else f"without {name}"] = report["metrics"][metric]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    key = {"recipe": recipe, "rate": rate, "seed": seed, "seconds": seconds}
    return {**key, "metric": metric, **scores, "cpu_seconds": round(spent, 1), "commit": commit_or_version()}


def read_runs() -> list[dict[str, Any]]:
    """All runs that were made."""
    return json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else []


def cell(values: list[float]) -> str:
    """The mean of a score over the seeds, and its standard deviation."""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def markdown(runs: list[dict[str, Any]]) -> str:
    """One row per recipe and score, with a column for each of the two rates."""
    lines = ["| recipe | score | " + " | ".join(f"{rate:g}" for rate in RATES) + " |", "|---|---|---|---|"]
    for recipe in dict.fromkeys(run["recipe"] for run in runs):
        chosen = [run for run in runs if run["recipe"] == recipe]
        for name in (key for key in chosen[0] if key == "score" or key.startswith("without ")):
            by_rate = [[run[name] for run in chosen if run["rate"] == rate] for rate in RATES]
            if all(values and all(isinstance(value, float) for value in values) for values in by_rate):
                what = chosen[0]["metric"] if name == "score" else name
                lines.append(f"| {recipe} | {what} | " + " | ".join(map(cell, by_rate)) + " |")
    return "\n".join(lines)


def main():
    """Makes the runs that do not exist yet."""
    known = [name.removesuffix(".yaml") for name in packaged_recipes()]
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--recipes", nargs="+", choices=known, default=known, help="left out, all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="left out, three")
    parser.add_argument("--seconds", type=int, help="seconds of training per run; left out, as the recipe says")
    parser.add_argument("--write_table", action="store_true", help="only print the table of known results")
    arguments = parser.parse_args()
    if not arguments.write_table:
        torch.set_num_threads(1)
        disable_progress_bars()
        for recipe in arguments.recipes:
            for seed, rate in ((seed, rate) for seed in arguments.seeds for rate in RATES):
                key = {"recipe": recipe, "rate": rate, "seed": seed, "seconds": arguments.seconds}
                if any(key.items() <= run.items() for run in read_runs()):
                    continue
                try:
                    run = run_once(recipe, rate, seed, arguments.seconds)
                except (ValueError, OSError, SystemExit) as error:
                    print(f"{recipe}: left out: {error}", flush=True)
                    break
                if run is None:
                    print(f"{recipe}: left out: it has one modality", flush=True)
                    break
                write_json(REPORT, [*read_runs(), run])
                print(f"{recipe}, {rate:g}, seed {seed}: {run['metric']} {run['score']:.4f}", flush=True)
    print(markdown(read_runs()))


if __name__ == "__main__":
    main()
