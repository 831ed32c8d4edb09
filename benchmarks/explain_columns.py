"""Do maps over the columns of a table give nothing to useless columns? The recipe `smart_home`, with three random
columns added to the state of the heating.

    mm_hf prepare smart_home data/fsdd data/smart_home_random --random_columns 3
    python benchmarks/explain_columns.py                    # trains three seeds, a few minutes each; MM_HF_ENCODERS
    python benchmarks/explain_columns.py --seeds 0 --runs DIR --method input_occlusion

The rule of the data says which columns matter: a column of the state matters in a row if another value would change
the action. The mean attribution to it in these rows, with a 95 % interval (bootstrap over rows), is compared with the
mean attribution to the random columns in all rows. The results go into `results/explain_columns.json`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_from_disk

from mm_hf.evidence import explain
from mm_hf.models.tabular import Table
from mm_hf.prepare.smart_home import ACTIONS, MODES, action_of
from mm_hf.training import train
from mm_hf.training.provenance import commit_or_version, hardware
from mm_hf.training.recipe_files import packaged_recipes
from mm_hf.training.run_folder import write_json


ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "benchmarks/results/explain_columns.json"
DATA = ROOT / "data/smart_home_random"
STATE: dict[str, Sequence[Any]] = {"level": range(10), "mode": MODES, "window": ("open", "closed")}
RANDOM = [f"random_{number}" for number in (1, 2, 3)]
SAMPLES = 2000


def run_of(data: Path, seed: int, folder: Path, words: Sequence[str]) -> Path:
    """The run of a seed; it is trained if it does not exist."""
    run = folder / f"smart_home_random-{seed}"
    if not (run / "results.json").exists():
        recipe = [str(packaged_recipes()["smart_home.yaml"]), "--dataset", str(data), "--output_dir", str(run)]
        columns = ["--table_columns", *STATE, *RANDOM, "--category_columns", "random_2"]
        train.train([*recipe, *columns, "--seed", str(seed), "--floors", "false", "--report_to", "none", *words])
    return run


def counts(row: dict[str, Any], column: str) -> bool:
    """Whether another value of the column changes the action of the row, by the rule."""
    state = {name: row[name] for name in STATE}
    action = action_of(row["said"], state)
    return any(action_of(row["said"], {**state, column: value}) != action for value in STATE[column])


def attributed(evidence: dict[str, Any], rows: Any) -> dict[str, list[float]]:
    """For each column, the attribution in each map of `evidence`: in the rows in which the column matters, or in all
    rows for a random column."""
    values: dict[str, list[float]] = {name: [] for name in (*STATE, *RANDOM)}
    for record in evidence["rows"]:
        row, (answer,) = rows[record["row"]], record["answers"]
        place, item = next((k, item) for k, item in enumerate(record["items"]) if item["modality"] == Table.name)
        (part,) = [part for part in answer["parts"] if part["item"] == place]
        for column, value in zip(item["shown"]["columns"], part["values"], strict=True):
            if column in RANDOM or counts(row, column):
                values[column].append(abs(value))
    return values


def interval(values: list[float], seed: int = 0) -> dict[str, float]:
    """The mean, and its 95 % interval over resamples of the rows."""
    draw, array = np.random.default_rng(seed), np.array(values)
    means = array[draw.integers(0, len(array), (SAMPLES, len(array)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {"mean": float(array.mean()), "low": float(low), "high": float(high), "rows": len(array)}


def measure(run: Path, data: Path, rows: int, options: dict[str, Any]) -> dict[str, Any]:
    """The columns of a run: the attribution to each, and whether the real columns are above the random ones."""
    evidence = explain(str(run), max_rows=rows, **options)
    test = load_from_disk(str(data))["test"].remove_columns("audio")
    names = test.features["action"].names
    assert list(names) == list(ACTIONS)
    columns = {name: interval(values) for name, values in attributed(evidence, test).items()}
    results = json.loads((run / "results.json").read_text())
    return {
        "accuracy": results["metrics"]["accuracy"],
        "method": sorted({part["method"] for row in evidence["rows"] for part in row["answers"][0]["parts"]}),
        "columns": columns,
        "apart": min(columns[name]["low"] for name in STATE) > max(columns[name]["high"] for name in RANDOM),
    }


def main(words: Sequence[str] | None = None):
    """Measures the seeds, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/explain_columns")
    parser.add_argument("--rows", type=int, default=300, help="number of test rows to explain")
    parser.add_argument("--method", help="method for the maps; left out, the default one")
    parser.add_argument("--report", type=Path, default=REPORT)
    args, more = parser.parse_known_args(words)
    options = {} if args.method is None else {"method": args.method}
    for seed in args.seeds:
        measured = measure(run_of(args.data, seed, args.runs, more), args.data, args.rows, options)
        report = json.loads(args.report.read_text()) if args.report.exists() else {}
        key = f"{seed}" if args.method is None else f"{seed}, {args.method}"
        report[key] = {**measured, "commit": commit_or_version(), "hardware": hardware()}
        write_json(args.report, report)
        print(f"seed {seed}: accuracy {measured['accuracy']:.4f}, {', '.join(measured['method'])}")
        for name, about in measured["columns"].items():
            print(f"  {name:<10}{about['mean']:8.4f}  [{about['low']:.4f}, {about['high']:.4f}]  {about['rows']} rows")
        print(f"  real columns above random ones, intervals apart: {measured['apart']}", flush=True)


if __name__ == "__main__":
    main()
