"""What each modality of a recipe brings: every subset of them trained for the same seconds, several seeds each.

    python benchmarks/subsets.py smart_home --seconds 60         # three seeds; what is there is kept
    python benchmarks/subsets.py video --seconds 120 --seeds 0 1 2
    python benchmarks/subsets.py video --seconds 120 --gradient_modulation 0.3   # and all of them, so balanced

Runs stay in `runs/subsets/<recipe>`, the figures in `results/subsets.json`: by subset the first metric of the test
part as a mean over the seeds with its 95 % interval, and by how much all modalities together are ahead of each subset,
seed by seed, likewise.
"""

import argparse
import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fusions import interval
from benchmarks.recipes import call
from training.arguments import read_recipe
from training.job import ROOT
from training.run_folder import git_commit, hardware, write_json


RUNS = ROOT / "runs/subsets"
REPORT = ROOT / "benchmarks/results/subsets.json"
# The keys of a recipe that speak of one modality.
KEYS: dict[str, tuple[str, ...]] = {
    "vision": ("vision_encoder", "image_column", "image_id_column", "video_column", "image_size", "num_frames"),
    "text": ("text_encoder", "text_column", "text_pooling", "max_text_length", "text_learning_rate"),
    "audio": ("audio_encoder", "audio_column", "max_audio_seconds", "audio_learning_rate"),
    "tabular": ("table_columns", "category_columns", "tabular_learning_rate"),
    "series": ("series_column", "series_rnn_type", "series_learning_rate"),
}


def modalities_of(recipe: dict[str, Any]) -> list[str]:
    """Those that a recipe has."""
    return [name for name, keys in KEYS.items() if any(key in recipe for key in keys)]


def restricted(recipe: dict[str, Any], subset: tuple[str, ...]) -> dict[str, Any]:
    """The recipe with these modalities alone."""
    gone = {key for name, keys in KEYS.items() if name not in subset for key in keys}
    found = {key: value for key, value in recipe.items() if key not in gone}
    if isinstance(found.get("freeze_encoders"), list):
        found["freeze_encoders"] = [name for name in found["freeze_encoders"] if name in subset]
    if found.get("train_sampling_strategy") == "group_by_length" and "text" not in subset:
        del found["train_sampling_strategy"]
    return found


def run_one(name: str, recipe: dict[str, Any], seconds: int, seed: int) -> float:
    """Trains, and gives the first metric of the test part."""
    folder = RUNS / name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(recipe), encoding="utf-8")  # which is YAML too
    words = ["--output_dir", folder / "run", "--overwrite_output_dir", "true", "--report_to", "none"]
    words += ["--floors", "false", "--seed", seed, "--max_train_seconds", seconds]
    call("training/train.py", file, *words)
    metrics = json.loads((folder / "run/results.json").read_text(encoding="utf-8"))["metrics"]
    return next(iter(metrics.values()))


def summary(runs: dict[str, dict[str, float]], everything: str) -> dict[str, Any]:
    """Means with intervals by subset, and how far all together are ahead; of the seeds that all subsets have."""
    seeds = sorted(set.intersection(*(set(scores) for scores in runs.values())))
    found = {}
    for name, scores in runs.items():
        mean, half = interval([scores[seed] for seed in seeds])
        found[name] = {"mean": mean, "interval": half}
        if name != everything:
            ahead, half = interval([runs[everything][seed] - scores[seed] for seed in seeds])
            found[name]["all_ahead_by"] = {"mean": ahead, "interval": half}
    return {"seeds": seeds, "subsets": found}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", help="name of a recipe with several modalities")
    parser.add_argument("--seconds", type=int, default=60, help="of training for each run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument(
        "--gradient_modulation", type=float, nargs="+", default=[], help="train all modalities with these too"
    )
    arguments = parser.parse_args()
    recipe = read_recipe(ROOT / f"training/recipes/{arguments.recipe}.yaml")
    modalities = modalities_of(recipe)
    everything = " + ".join(modalities)
    recipes = {
        " + ".join(subset): restricted(recipe, subset)
        for size in range(len(modalities), 0, -1)
        for subset in combinations(modalities, size)
    }
    for alpha in arguments.gradient_modulation:
        recipes[f"{everything}, gradient_modulation {alpha}"] = {**recipe, "gradient_modulation": alpha}
    report: dict[str, Any] = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else {}
    own = report.get(arguments.recipe, {})
    if own.get("seconds") != arguments.seconds:
        own = {"seconds": arguments.seconds, "runs": {}}
    for seed in arguments.seeds:
        for name, own_recipe in recipes.items():
            scores = own["runs"].setdefault(name, {})
            if str(seed) in scores:
                continue
            print(f"== {name}, seed {seed}", flush=True)
            folder = f"{arguments.recipe}/{name.replace(' ', '').replace(',', '-')}-{seed}"
            scores[str(seed)] = run_one(folder, own_recipe, arguments.seconds, seed)
            own |= {"commit": git_commit(ROOT), "hardware": hardware()}
            write_json(REPORT, {**report, arguments.recipe: own})
    own |= summary(own["runs"], everything)
    write_json(REPORT, {**report, arguments.recipe: own})
    for name, found in own["subsets"].items():
        ahead = found.get("all_ahead_by")
        more = "" if ahead is None else f"   all ahead by {ahead['mean']:.4f} ± {ahead['interval'] or 0:.4f}"
        print(f"{name:<48}{found['mean']:.4f} ± {found['interval'] or 0:.4f}{more}")


if __name__ == "__main__":
    main()
