"""Prints the table of a run: its score, the floors (baselines), and published results of others.

    mm_hf results runs/easy_vqa

The command reads results.json of the run's folder, and writes nothing.
"""

import argparse
import sys
from pathlib import Path

from ..models.files import read_json


# Accuracy on the official test part. Sources: the README of the easy-VQA package and repository (Zhou 2019) for the
# authors' models; the third-party figure is a CNN and an LSTM joined by concatenation, as reported for the same split.
PUBLISHED = {
    "easy_vqa": {
        "third party: CNN + LSTM, concat": 0.876,
        "authors: Keras demo, 8 epochs": 0.938,
        "authors: bigger model, twice the data": 0.995,
    }
}


def script():
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="mm_hf results", description=__doc__, formatter_class=raw)
    parser.add_argument("run", type=Path, help="folder that mm_hf train or mm_hf finetune wrote")
    folder = parser.parse_args().run
    from ..evaluation import figure  # late, because it loads torch: so --help comes at once

    try:
        results = read_json(folder / "results.json")
    except FileNotFoundError as error:
        sys.exit(f"error: {folder} is not the folder of a finished run: {error}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    needed = {"metrics": dict, "recipe": dict, "seed": int, "floors": dict, "seconds": dict, "hardware": dict}
    if wrong := [key for key, kind in needed.items() if not isinstance(results.get(key), kind)]:
        sys.exit(f"error: {folder / 'results.json'} is damaged: it lacks {', '.join(wrong)}.")
    metric, score = next(iter(results["metrics"].items()))
    rows = [(f"mm_hf, {results['recipe']['fusion']}, seed {results['seed']}", score)]
    rows += list(PUBLISHED.get(results["recipe"]["name"], {}).items())
    rows += [(f"floor: {name.replace('_', ' ')}", value) for name, value in results["floors"].items()]
    width = max(len(name) for name, _ in rows) + 2
    print(f"\n{'test ' + metric:<{width}}")
    for name, value in rows:
        print(f"{name:<{width}}" + (f"{figure(value):>9}" if metric == "rmse" else f"{100 * value:6.2f} %"))
    print(f"\ntrained in {results['seconds']['train']:.0f} s on {results['hardware']['cores']} cores")
    print(f"pictures: {folder / 'curves.png'}, {folder / 'predictions.png'}; card: {folder / 'README.md'}\n")
    if "verdict" in results:  # older runs have none
        print(results["verdict"])


if __name__ == "__main__":
    script()
