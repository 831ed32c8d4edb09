"""The score that users get without any setting: the defaults, compared with `--fusion auto`, concat, a linear model,
and each modality alone, on seven data sets. Prints a table.

    python benchmarks/defaults.py                                  # the runs that the JSON lacks, seed 0
    python benchmarks/defaults.py --data houses openmoji_category --seeds 0 1 2
    python benchmarks/defaults.py --every_setting --data houses --seeds 0 1 2    # all eighteen settings of the search
    python benchmarks/defaults.py --write_docs                     # table of docs/guide.md and plot, run nothing

Columns are named as in the recipes, encoders by MM_HF_ENCODERS; everything else is left to the package. Each setting
runs in its own process, on one thread. Features of encoders are cached on disk: a first run of one step encodes, and a
second one measures the time to start. The CPU seconds in the table exclude this time and the floors.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from mm_hf.training.presets import FROZEN_RATE
from mm_hf.training.provenance import commit_or_version
from mm_hf.training.run_folder import write_json
from mm_hf.training.search_fusions import RATES, TRIED


ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "benchmarks/results/defaults.json"
RUNS = ROOT / "runs/defaults"
TABLE_OF_MOVIELENS = ["user", "movie", "age", "gender", "occupation", "year"]
TABLE_OF_MOVIELENS += ["user_mean", "user_count", "movie_mean", "movie_count"]
DATA: dict[str, list[str]] = {
    "openmoji_category": ["data/openmoji", "--image_column", "image", "--text_column", "name", "--label", "category"],
    "clothing_reviews": [
        *("data/clothing_reviews", "--text_column", "text", "--category_columns", "clothing_id", "--label", "rating"),
        *("--table_columns", "age", "feedback", "division", "department", "class", "clothing_id", "recommended"),
    ],
    "movielens": [
        *("data/movielens", "--text_column", "text", "--table_columns", *TABLE_OF_MOVIELENS),
        *("--category_columns", "user", "movie", "--label", "rating", "--problem_type", "regression"),
    ],
    "smart_home": [
        *("data/smart_home", "--audio_column", "audio", "--table_columns", "level", "mode", "window"),
        *("--max_audio_seconds", "2", "--label", "action"),
    ],
    "spoken_digits": ["data/fsdd", "--audio_column", "audio", "--max_audio_seconds", "2", "--label", "digit"],
    "houses": [
        *("data/houses", "--image_column", "frontal", "bedroom", "bathroom", "kitchen", "--label", "log_price"),
        *("--table_columns", "bedrooms", "bathrooms", "area", "zip"),
    ],
    "easy_vqa": [
        *("data/easy_vqa", "--image_column", "image", "--image_id_column", "image_id", "--text_column", "question"),
        *("--label", "answer"),
    ],
}
# What the table and the plot call them.
NAMES = {
    "openmoji_category": "OpenMoji, category",
    "clothing_reviews": "clothing reviews, stars",
    "movielens": "MovieLens, rating",
    "smart_home": "smart home, action",
    "spoken_digits": "spoken digits",
    "houses": "houses, log10 of the price",
    "easy_vqa": "easy-VQA",
}
BEGIN, END = "<!-- defaults -->", "<!-- end of defaults -->"
SETTINGS: dict[str, list[str]] = {
    "default": ["--floors", "false"],
    # The same with the whole budget: models with one modality get the same budget as the model with all.
    "floors": ["--floor_budget", "1"],
    "auto": ["--fusion", "auto", "--floors", "false"],
    "concat": ["--fusion", "concat", "--floors", "false"],
    "linear": ["--fusion", "linear", "--floors", "false"],
}
STEP = ["--max_steps", "1", "--floors", "false"]


def train(words: list[str], folder: Path, seed: int) -> tuple[dict[str, Any], float]:
    """One `mm_hf train`: its results, and the CPU seconds of the process."""
    command = [sys.executable, "-m", "mm_hf", "train", *words, "--seed", str(seed), "--output_dir", str(folder)]
    command += ["--overwrite_output_dir", "true", "--report_to", "none"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)}: it failed, see {folder}.log")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    shutil.rmtree(folder)
    return results, usage.ru_utime + usage.ru_stime


def scores_of(results: dict[str, Any]) -> dict[str, Any]:
    """The score of a run, and its floors."""
    metric, value = next(iter(results["metrics"].items()))
    kept = {"metric": metric, "score": value, "floors": results["floors"], "validation": results.get("validation")}
    lines = [line for line in results["comparisons"] if line["floor"] == "linear"]
    search = results.get("fusion_search")
    trials = {} if search is None else {"trials": search["trials"], "winner": search["winner"]}
    return kept | {"against_linear": lines[0] if lines else None, "seconds": results["seconds"], **trials}


def read_runs() -> list[dict[str, Any]]:
    """All runs that were made."""
    return json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else []


def known(**key: Any) -> dict[str, Any] | None:
    """The run with this key, if it exists."""
    return next((run for run in read_runs() if key.items() <= run.items()), None)


def run_once(data: str, setting: str, words: list[str], seed: int):
    """Runs a setting, once."""
    key = {"data": data, "setting": setting, "seed": seed}
    if known(**key) is None:
        folder = RUNS / f"{data}-{setting}-{seed}".replace(" ", "-")
        results, seconds = train([*DATA[data], *words], folder, seed)
        run = {**key, **scores_of(results), "cpu_seconds": round(seconds, 1), "commit": commit_or_version()}
        write_json(REPORT, [*read_runs(), run])
        print(f"{data}, {setting}, seed {seed}: {run['metric']} {run['score']:.4f}, {seconds:.0f} CPU s", flush=True)


def every_setting() -> dict[str, list[str]]:
    """All settings of a search."""
    rates = [rate * FROZEN_RATE for rate in RATES]
    return {
        f"{fusion} {rate:g}": ["--fusion", fusion, "--learning_rate", str(rate), "--floors", "false"]
        for fusion in TRIED
        for rate in rates
    }


def cells(data: str, runs: list[dict[str, Any]]) -> list[str]:
    """The row of a data set."""

    def of(setting: str) -> str:
        some = [run for run in runs if run["setting"] == setting]
        started = mean(run["cpu_seconds"] for run in runs if run["setting"] == "start")
        seconds = mean(run["cpu_seconds"] for run in some) - started if some else 0
        return f"{mean(run['score'] for run in some):.3f} ({max(seconds, 0):,.0f} s)" if some else ""

    default = [run for run in runs if run["setting"] == "floors"]
    alone = [name for name in default[0]["floors"] if name.endswith("_only")]
    others = ", ".join(
        f"{name.removesuffix('_only')} {mean(run['floors'][name] for run in default):.3f}" for name in alone
    )
    chosen = ", ".join(dict.fromkeys(run["winner"]["fusion"] for run in runs if run["setting"] == "auto"))
    paired = (default[0]["against_linear"] or {}).get("paired")
    ahead = "{difference:+.3f} [{low:+.3f}, {high:+.3f}]".format(**paired) if paired else ""
    return [
        *(f"{NAMES[data]}, {default[0]['metric'].upper().replace('ACCURACY', 'accuracy')}", of("default")),
        *(of("auto") + (f", `{chosen}`" if chosen else ""), of("concat"), of("linear"), others, ahead),
    ]


def whole(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs of seed 0 of each data set whose floors are measured."""
    of_data = {data: [run for run in runs if run["data"] == data and run["seed"] == 0] for data in DATA}
    return {data: some for data, some in of_data.items() if any(run["setting"] == "floors" for run in some)}


def markdown(runs: list[dict[str, Any]]) -> str:
    """The table: a row a data set, in brackets the CPU seconds."""
    names = ["data", "default", "`--fusion auto`, what it chose", "`--fusion concat`", "linear model"]
    names += ["each modality alone", "default less linear model [95 %]"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(cells(data, some))} |" for data, some in whole(runs).items()]
    return "\n".join(lines)


def write_docs(runs: list[dict[str, Any]]):
    """The table of the guide, and the plot of the README."""
    page = ROOT / "docs/guide.md"
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{markdown(runs)}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    for theme in ("light", "dark"):
        plot(runs, theme, ROOT / f"docs/assets/defaults-{theme}.svg")


def gone(runs: list[dict[str, Any]]) -> dict[str, float]:
    """The share of the constant guess's error that each setting takes away: 0 is that guess, 1 is never wrong."""
    floors = next(run["floors"] for run in runs if run["setting"] == "floors")
    lower = "mean" in floors
    guess = floors["mean" if lower else "majority"]
    alone = [value for name, value in floors.items() if name.endswith("_only")]
    scores = {setting: [run["score"] for run in runs if run["setting"] == setting] for setting in SETTINGS}
    values = {setting: mean(some) for setting, some in scores.items() if some and setting != "floors"}
    values |= {"best modality alone": (min if lower else max)(alone)} if alone else {}
    return {name: 1 - value / guess if lower else (value - guess) / (1 - guess) for name, value in values.items()}


def plot(runs: list[dict[str, Any]], theme: str, path: Path):
    """One line per data set: the floors, and the scores of the defaults and of the search."""
    import matplotlib
    from matplotlib.figure import Figure

    ink, page = {"light": ("#1f2328", "#ffffff"), "dark": ("#e6edf3", "#0d1117")}[theme]
    styles = {
        "best modality alone": ("D", "#8c959f", "best modality alone"),
        "linear": ("|", "#bc4c00" if theme == "light" else "#f0883e", "linear model on the same features"),
        "auto": ("o", "#8250df" if theme == "light" else "#bc8cff", "mm_hf, --fusion auto"),
        "default": ("o", "#0969da" if theme == "light" else "#58a6ff", "mm_hf, defaults"),
    }
    shown = whole(runs)
    with matplotlib.rc_context({"svg.hashsalt": "mm_hf", "svg.fonttype": "none", "font.size": 11}):
        figure = Figure(figsize=(8.6, 0.42 * len(shown) + 1.5), layout="constrained", facecolor=page)
        axes = figure.subplots()
        axes.set_facecolor(page)
        for name, (marker, color, label) in styles.items():
            values = [gone(some).get(name) for some in shown.values()]
            places = [place for place, value in enumerate(values) if value is not None]
            hollow = {"markerfacecolor": "none"} if name == "auto" else {}
            size = {"linear": 16, "auto": 11}.get(name, 8)
            known = [value for value in values if value is not None]
            axes.plot(known, places, marker, color=color, label=label, markersize=size, markeredgewidth=2, **hollow)
        axes.set_yticks(range(len(shown)), [NAMES[data] for data in shown])
        axes.invert_yaxis()
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("reduction of the constant guess's error (0: the guess, 1: no error)", color=ink)
        axes.tick_params(colors=ink)
        axes.grid(alpha=0.3)
        for spine in axes.spines.values():
            spine.set_visible(False)
        legend = figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9.5, handletextpad=0.3)
        for text in legend.get_texts():
            text.set_color(ink)
        figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA), help="left out, all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="left out, 0")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="left out, all")
    parser.add_argument("--every_setting", action="store_true", help="also all that --fusion auto tries, to the end")
    parser.add_argument("--write_table", action="store_true", help="print the table of what is there, run nothing")
    parser.add_argument("--write_docs", action="store_true", help="write the table and the plot of docs, run nothing")
    arguments = parser.parse_args()
    if arguments.write_docs:
        write_docs(read_runs())
    for data in arguments.data if not (arguments.write_table or arguments.write_docs) else []:
        run_once(data, "encode", STEP, 0)
        run_once(data, "start", STEP, 0)
        for seed in arguments.seeds:
            settings = {name: SETTINGS[name] for name in arguments.settings}
            settings |= every_setting() if arguments.every_setting else {}
            for name, words in settings.items():
                run_once(data, name, words, seed)
    print(markdown(read_runs()))


if __name__ == "__main__":
    main()
