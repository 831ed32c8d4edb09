"""Holds out each speaker in turn: how well does a speech recipe work for a voice that it was not trained on?

    python benchmarks/speakers.py speech_ctc                 # six runs; finished runs are kept
    python benchmarks/speakers.py speech_ctc --seconds 60

For each speaker, a model is trained on the training rows of the other speakers, its best weights are selected on their
validation rows, and it is tested on all rows of the held-out speaker. Runs stay in `runs/speakers/<recipe>/<speaker>`.
The results go into `results/speakers.json`: by speaker, the mean, and the lowest.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from datasets import DatasetDict, concatenate_datasets, load_from_disk

from benchmarks.recipes import call
from mm_hf.training.provenance import commit_or_version, hardware
from mm_hf.training.recipe_files import read_recipe
from mm_hf.training.run_folder import write_json


ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs/speakers"
REPORT = ROOT / "benchmarks/results/speakers.json"


def without(splits: DatasetDict, speaker: str) -> DatasetDict:
    """The parts, with all rows of one speaker in the test part and none in the other parts."""

    def of(part, wanted: bool):
        return part.filter(lambda name: (name == speaker) is wanted, input_columns="speaker")

    parts = {name: of(splits[name], wanted=False) for name in ("train", "validation")}
    return DatasetDict({**parts, "test": concatenate_datasets([of(part, wanted=True) for part in splits.values()])})


def run_one(recipe: str, splits: DatasetDict, speaker: str, seconds: int) -> dict[str, float]:
    """Trains and tests for one speaker, and returns the metrics."""
    folder = RUNS / recipe / speaker
    without(splits, speaker).save_to_disk(folder / "data")
    words = ["--dataset", folder / "data", "--output_dir", folder / "run", "--max_train_seconds", seconds]
    words += ["--floors", "false", "--overwrite_output_dir", "--report_to", "none"]
    call("training/train.py", f"training/recipes/{recipe}.yaml", *words)
    return json.loads((folder / "run/results.json").read_text(encoding="utf-8"))["metrics"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", help="name of a recipe whose data set has a column `speaker`")
    parser.add_argument(
        "--seconds", type=int, default=120, help="seconds of training per speaker (default: %(default)s)"
    )
    arguments = parser.parse_args()
    splits = load_from_disk(str(ROOT / read_recipe(ROOT / f"training/recipes/{arguments.recipe}.yaml")["dataset"]))
    report: dict[str, Any] = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else {}
    of_recipe = report.get(arguments.recipe, {})
    if of_recipe.get("seconds") != arguments.seconds:
        of_recipe = {"seconds": arguments.seconds, "by_speaker": {}}
    for speaker in sorted(set(splits["train"]["speaker"][:])):
        if speaker not in of_recipe["by_speaker"]:
            print(f"== without {speaker}", flush=True)
            of_recipe["by_speaker"][speaker] = run_one(arguments.recipe, splits, speaker, arguments.seconds)
            print(of_recipe["by_speaker"][speaker])
            of_recipe |= {"commit": commit_or_version(), "hardware": hardware()}
            write_json(REPORT, {**report, arguments.recipe: of_recipe})
    by_speaker = list(of_recipe["by_speaker"].values())
    of_recipe["mean"] = {name: statistics.mean(metrics[name] for metrics in by_speaker) for name in by_speaker[0]}
    write_json(REPORT, {**report, arguments.recipe: of_recipe})
    for speaker, metrics in {**of_recipe["by_speaker"], "mean": of_recipe["mean"]}.items():
        print(f"{speaker:<12}" + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))


if __name__ == "__main__":
    main()
