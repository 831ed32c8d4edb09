"""The contribution of each modality of a recipe: every subset is trained in the same way, with the other modalities
absent, and several seeds.

    python benchmarks/subsets.py smart_home --seconds 60         # three seeds; finished runs are kept
    python benchmarks/subsets.py video --steps 350 --seeds 0 1 2
    python benchmarks/subsets.py video --steps 350 --gradient_modulation 0.3 --fusion bottleneck  # these too

The results go into `results/subsets.json`: for each subset the first metric on the test part, as a mean over the seeds
with its 95 % interval, and the lead of all modalities over this subset, paired by seed, also with an interval. A
budget in steps does not depend on other load on the machine. A budget in seconds also counts the time that a modality
adds.
"""

import argparse
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

from benchmarks.fusions import interval
from mm_hf.training.evaluator import evaluate
from mm_hf.training.loop import fit
from mm_hf.training.open_run import open_run
from mm_hf.training.provenance import commit_or_version, hardware
from mm_hf.training.run import Run
from mm_hf.training.run_folder import write_json


ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs/subsets"
REPORT = ROOT / "benchmarks/results/subsets.json"


def prepare(recipe: str, budget: list[str]) -> Run:
    """The recipe's run. The features of its frozen encoders are computed once for all trainings."""
    words = [str(ROOT / f"training/recipes/{recipe}.yaml"), "--output_dir", str(RUNS / recipe), *budget]
    words += ["--overwrite_output_dir", "true", "--report_to", "none"]
    return open_run(__doc__.split("\n")[0], "train.py", words)


def variants(
    modalities: list[str], changes: list[tuple[str, Any]]
) -> Iterator[tuple[str, tuple[str, ...], dict[str, Any]]]:
    """Name, modalities and changed keys of all trainings. All modalities come first; keys are only changed for
    these."""
    for size in range(len(modalities), 0, -1):
        for subset in combinations(modalities, size):
            yield " + ".join(subset), subset, {}
    for key, value in changes:
        unset = {"memory_layers": 0} if key == "fusion" else {}  # which cross_attention alone has
        yield f"{' + '.join(modalities)}, {key} {value}", tuple(modalities), {key: value, **unset}


def run_one(run: Run, subset: tuple[str, ...], changes: dict[str, Any]) -> float:
    """Trains with these modalities and keys, and returns the first metric on the test part."""
    absent = dict.fromkeys(set(run.model.config.modalities) - set(subset))
    collator, model_args = replace(run.collator, absent=absent), run.model_args
    run.model_args, run.train_args = copy.copy(model_args), copy.copy(run.train_args)  # what `build` and loaders ask
    for key, value in changes.items():
        setattr(run.train_args if hasattr(run.train_args, key) else run.model_args, key, value)
    set_seed(run.train_args.seed)
    model = run.build().to(run.accelerator.device)
    run.model_args = model_args
    fit(run, model, collator, run.train_args)
    _, report = evaluate(run, model, collator, "test")
    return next(iter(report["metrics"].values()))


def summary(runs: dict[str, dict[str, float]], everything: str) -> dict[str, Any]:
    """Means with intervals by subset, and the lead of all modalities, over the seeds that all subsets have."""
    seeds = sorted(set.intersection(*(set(scores) for scores in runs.values())))
    subsets = {}
    for name, scores in runs.items():
        mean, half = interval([scores[seed] for seed in seeds])
        subsets[name] = {"mean": mean, "interval": half}
        if name != everything:
            ahead, half = interval([runs[everything][seed] - scores[seed] for seed in seeds])
            subsets[name]["all_ahead_by"] = {"mean": ahead, "interval": half}
    return {"seeds": seeds, "subsets": subsets}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", help="name of a recipe with several modalities")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--seconds", type=int, help="seconds of training for each")
    budget.add_argument("--steps", type=int, help="steps of training for each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    for key, kind in (("gradient_modulation", float), ("fusion", str)):
        parser.add_argument(
            f"--{key}", type=kind, nargs="+", default=[], help="also train all modalities with these values"
        )
    arguments = parser.parse_args()
    spent = {"seconds": arguments.seconds} if arguments.steps is None else {"steps": arguments.steps}
    flag = "--max_train_seconds" if arguments.steps is None else "--max_steps"
    report: dict[str, Any] = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else {}
    of_recipe = report.get(arguments.recipe, {})
    if any(of_recipe.get(key) != value for key, value in spent.items()):
        of_recipe = {**spent, "runs": {}}
    changes = [(key, value) for key in ("gradient_modulation", "fusion") for value in getattr(arguments, key)]
    run = prepare(arguments.recipe, [flag, str(*spent.values())])
    modalities = run.model.config.modalities
    for seed in arguments.seeds:
        for name, subset, changed in variants(modalities, changes):
            scores = of_recipe["runs"].setdefault(name, {})
            if str(seed) in scores:
                continue
            print(f"== {name}, seed {seed}", flush=True)
            scores[str(seed)] = run_one(run, subset, {"gradient_modulation": 0.0, "seed": seed, **changed})
            of_recipe |= {"commit": commit_or_version(), "hardware": hardware()}
            write_json(REPORT, {**report, arguments.recipe: of_recipe})
    of_recipe |= summary(of_recipe["runs"], " + ".join(modalities))
    write_json(REPORT, {**report, arguments.recipe: of_recipe})
    for name, scores in of_recipe["subsets"].items():
        ahead = scores.get("all_ahead_by")
        more = "" if ahead is None else f"   all ahead by {ahead['mean']:.4f} ± {ahead['interval'] or 0:.4f}"
        print(f"{name:<48}{scores['mean']:.4f} ± {scores['interval'] or 0:.4f}{more}")


if __name__ == "__main__":
    main()
