"""Every recipe that shows a system, at a small budget: `make recipes`. Writes the table of docs/recipes.md.

    python benchmarks/recipes.py                          # those that were not run in this checkout, two at a time
    python benchmarks/recipes.py --recipes cnn_gru_sum    # these alone
    python benchmarks/recipes.py --write_docs             # the table of what is there

Each recipe is trained, measured by `mm_hf evaluate`, and asked about one row in a process that cannot import mm_hf.
The run stays in `runs/recipes/<recipe>`, the output of the scripts in `runs/recipes/<recipe>.log`. The results go into
`results/recipes.json`, and the card into `model_cards/`. If the script is interrupted, the next call runs the missing
recipes. The models are small: two at the same time, each on its share of the cores, take little more time than one.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datasets import load_from_disk
from tqdm import tqdm

from benchmarks.cards import keep_card
from mm_hf.data import names_of_classes
from mm_hf.training.provenance import commit_or_version
from mm_hf.training.recipe_files import read_recipe
from mm_hf.training.run_folder import write_json


ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs/recipes"
REPORT = ROOT / "benchmarks/results/recipes.json"
ASK = Path(__file__).with_name("ask_without_package.py")
ASKED = "asked.json"  # the last file that is written into a run's folder
BEGIN, END = "<!-- recipes -->", "<!-- end of recipes -->"


class System(NamedTuple):
    """The system that a recipe shows, and its training budget here."""

    what: str
    seconds: int
    also: str | None = None  # another metric to show after the first


SYSTEMS = {
    "cnn_lstm_concat": System("CNN + LSTM, side by side, one head", 30),
    "cnn_lstm_multitask": System("CNN + LSTM, side by side, two heads", 30),
    "cnn_gru_concat": System("CNN + GRU, side by side", 30),
    "cnn_gru_sum": System("CNN + GRU, weighted sum", 30),
    "cnn_gru_attention": System("CNN + GRU, cross-attention", 60),
    "cnn_gru_deep_cross": System("CNN + GRU, deep & cross", 30),
    "output_level": System("picture and name, fused at the output", 30),
    "mismatch": System("is the picture what the text says", 90),
    "spoken_digits": System("Whisper's encoder: which digit is said", 40),
    "speech_lstm": System("LSTM over log-mel frames: which digit is said", 180),
    "speech_ctc": System("speech to text, CTC: one word", 90, "wer"),
    "speech_ctc_numbers": System("speech to text, CTC: numbers of 2 to 5 digits", 150, "wer"),
    "speech_seq2seq": System("speech to text, encoder-decoder: numbers of 2 to 5 digits", 150, "wer"),
    "smart_home": System("voice + table: what is the heating to do", 60),
    "sentiment": System("text + table: stars of a review", 60),
    "record": System("picture + text + table: sentiment of an emoji", 30),
    "recommend": System("text + table: a viewer's rating of a film", 60),
    "video": System("video + sound + question", 120),
    "cnn_bilstm_caption": System("CNN + bidirectional LSTM, side by side: a caption's next word", 40),
    "audio_text_retrieval": System("search of sounds by text, and of texts by sound", 60),
    "translate": System("picture + English name: the German name", 120),
    "sensors": System("LSTM over sensors: what somebody is doing", 60),
    "houses_price": System("four photographs + table: log10 of a house's price", 180),
    "flickr_retrieval": System("search of photographs by caption, and of captions by photograph", 600),
    "flickr_captioning": System("a photograph's caption", 600),
}


def call(*words: Any, log: Path | None = None, jobs: int = 1) -> str:
    """Runs a script and returns its output. The cores are shared between `jobs` scripts. Its progress goes into `log`;
    None: it is shown.

    Raises:
        RuntimeError: it failed.
    """
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    with contextlib.nullcontext() if log is None else open(log, "a", encoding="utf-8") as file:
        ended = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env={"OMP_NUM_THREADS": threads, **os.environ},
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    if ended.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))} failed: see {log or 'its output above'}.")
    return ended.stdout


def row_of(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One test row in the form of a pipeline. Its picture and sound are written into the folder."""
    part = load_from_disk(str(ROOT / recipe["dataset"]))["test"]
    row = part[0]
    inputs: dict[str, Any] = {}
    if recipe["video_column"]:
        inputs["video"] = str(folder / "asked.mp4")
        Path(inputs["video"]).write_bytes(row[recipe["video_column"]]["bytes"])
    if recipe["table_columns"]:
        names = names_of_classes(part.features, recipe["table_columns"])
        inputs["table"] = {name: row[name] for name in recipe["table_columns"] if row[name] is not None}
        inputs["table"] |= {name: classes[row[name]] for name, classes in names.items() if row[name] is not None}
    if recipe["image_column"]:
        pictures = [str(folder / f"asked{place or ''}.png") for place in range(len(recipe["image_column"]))]
        for column, file in zip(recipe["image_column"], pictures):
            row[column].save(file)
        inputs["image"] = pictures if len(pictures) > 1 else pictures[0]
    if recipe["series_column"]:
        inputs["series"] = row[recipe["series_column"]]
    if recipe["text_column"]:
        inputs["text"] = row[recipe["text_column"]]
    if recipe["audio_column"]:
        inputs["audio"] = str(folder / "asked.wav")
        Path(inputs["audio"]).write_bytes(row[recipe["audio_column"]]["bytes"])
    return inputs


def run_one(name: str, jobs: int) -> dict[str, Any]:
    """Trains and measures one recipe, and asks its model about one row; `jobs` recipes run at the same time. Returns
    by task the score with its interval and the floors, the costs, and the answer. If the recipe's data is not on this
    machine, the result has the reason in `skipped`."""
    began, folder = time.perf_counter(), RUNS / name
    recipe_file = ROOT / f"training/recipes/{name}.yaml"
    data = read_recipe(recipe_file)["dataset"]
    if not (ROOT / data).exists():
        return {"dataset": Path(data).name, "skipped": f"there is no {data}"}
    RUNS.mkdir(parents=True, exist_ok=True)
    log = RUNS / f"{name}.log"
    log.unlink(missing_ok=True)
    run = partial(call, log=log, jobs=jobs)
    budget = ("--max_train_seconds", SYSTEMS[name].seconds, "--floor_budget", 0.5, "--report_to", "none")
    run("training/train.py", recipe_file, "--output_dir", folder, "--overwrite_output_dir", "true", *budget)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    recipe = results["recipe"]
    scores = (measure_search if recipe["task"] == "retrieval" else measure)(run, folder, results, SYSTEMS[name].also)
    keep_card(folder, name)
    row_file = folder / ASKED
    write_json(row_file, row_of(recipe, folder))
    answer = json.loads(run("-I", ASK, folder, row_file, *pipeline_of(recipe)).strip().splitlines()[-1])
    return {
        "dataset": Path(recipe["dataset"]).name,
        "scores": scores,
        "train_seconds": results["seconds"]["train"],
        "wall_seconds": round(time.perf_counter() - began, 1),
        "jobs": jobs,
        "seed": results["seed"],
        # For embeddings, keep their similarity: the numbers themselves have no meaning.
        "answer_without_package": answer.get("similarity", answer) if isinstance(answer, dict) else answer,
        "commit": commit_or_version(),
        **results["hardware"],
    }


def pipeline_of(recipe: dict[str, Any]) -> list[str]:
    """The name of the pipeline for a row, if a checkpoint has several pipelines, or none of its own."""
    if recipe["task"] == "retrieval":
        return ["multimodal-feature-extraction"]
    if recipe["task"] != "generation":
        return []
    return ["automatic-speech-recognition" if recipe["audio_column"] else "visual-question-answering"]


def measure(run: Callable[..., str], folder: Path, results: dict[str, Any], also: str | None) -> dict[str, Any]:
    """The score of each task with its interval and the floors, from `mm_hf evaluate`. `run` runs a script, see `call`;
    for `also` see `System`."""
    run("training/evaluate.py", "--model", folder)
    labels = results["recipe"]["label_column"]
    scores = {}
    for task in labels if isinstance(labels, list) else [None]:
        file = folder / "evaluation" / (task or "") / "evaluation.json"
        measured = json.loads(file.read_text(encoding="utf-8"))
        metric, score = next(iter(measured["metrics"].items()))
        floors = {
            name.removeprefix(f"{task}_"): value
            for name, value in results["floors"].items()
            if task is None or name.startswith(f"{task}_")
            if not name.endswith("mae_of_median")  # it is for another metric
        }
        scores[measured["label_column"]] = {"metric": metric, **score, "floors": floors}
        if also is not None:
            scores[measured["label_column"]]["also"] = {"metric": also, **measured["metrics"][also]}
    return scores


def measure_search(run: Callable[..., str], folder: Path, results: dict[str, Any], also: str | None) -> dict[str, Any]:
    """For each direction the recall at 1 of the plain search with its interval, and chance, from `mm_hf search`.
    Arguments as for `measure`."""
    run("training/retrieve.py", "evaluate", "--model", folder)
    measured = json.loads((folder / "evaluation/retrieval.json").read_text(encoding="utf-8"))
    floors = {"chance": measured["chance"]["chance_recall_at_1"]}
    return {
        direction.removesuffix(", plain").replace("_", " "): {
            "metric": "recall at 1",
            **metrics["recall_at_1"],
            "floors": floors,
        }
        for direction, metrics in measured["metrics"].items()
        if direction.endswith(", plain")
    }


def listed(values: dict[str, Any]) -> str:
    """Floors or scores as a text for the table."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in values.items() if value is not None)


def markdown(runs: dict[str, dict[str, Any]]) -> str:
    """The table, with one line per recipe and task, and the total time."""
    lines = ["| recipe | system | data | score [95 %] | floors | seconds |", "|---|---|---|---|---|---|"]
    for name, run in runs.items():
        if "skipped" in run:
            lines.append(f"| `{name}` | {SYSTEMS[name].what} | {run['dataset']} | skipped: {run['skipped']} | | |")
            continue
        for task, score in run["scores"].items():
            values = [score, *([score["also"]] if "also" in score else [])]
            value = "; ".join(f"{s['metric']} {s['value']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" for s in values)
            cells = [f"`{name}`", SYSTEMS[name].what, f"{run['dataset']}, {task}", value, listed(score["floors"])]
            lines.append(f"| {' | '.join(cells)} | {run['train_seconds']:.0f} |")
    spent = [run["wall_seconds"] / run["jobs"] for run in runs.values() if "skipped" not in run]
    lines += ["", f"Features, floors, reports and answers included, all of it took {sum(spent) / 60:.0f} minutes."]
    return "\n".join(lines)


def write_docs(runs: dict[str, dict[str, Any]], page: Path):
    """Puts the table where the page has a place for it."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{markdown(runs)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def run_all(chosen: list[str], jobs: int, runs: dict[str, dict[str, Any]]):
    """Runs these recipes, the longest first, and adds each result to the runs and to the report."""
    began = time.perf_counter()
    with ThreadPoolExecutor(jobs) as pool:
        order = sorted(chosen, key=lambda name: -SYSTEMS[name].seconds)
        names = {pool.submit(run_one, name, jobs): name for name in order}
        for future in tqdm(as_completed(names), total=len(names), desc="recipes"):
            name = names[future]
            try:
                runs[name] = future.result()
            except Exception:
                pool.shutdown(cancel_futures=True)
                raise
            write_json(REPORT, {name: runs[name] for name in SYSTEMS if name in runs})
            tqdm.write(f"{name}: {runs[name].get('skipped') or listed(firsts(runs[name]))}")
    print(f"{len(chosen)} recipes in {(time.perf_counter() - began) / 60:.1f} minutes")


def firsts(run: dict[str, Any]) -> dict[str, float]:
    """The first score of each task by its name and metric."""
    return {f"{task}, {score['metric']}": score["value"] for task, score in run["scores"].items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--recipes",
        nargs="+",
        choices=list(SYSTEMS),
        help="run these, even if they exist; left out, those not run here",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="recipes that run at the same time (default: %(default)s)",
    )
    # --write_readme is the name of before.
    parser.add_argument(
        *("--write_docs", "--write_readme"),
        action="store_true",
        help="write the table of docs/recipes.md, run nothing",
    )
    arguments = parser.parse_args()
    runs = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else {}
    # Every checkout has the report. A recipe counts as run only if its folder exists in this checkout.
    missing = [name for name in SYSTEMS if "scores" not in runs.get(name, {}) or not (RUNS / name / ASKED).exists()]
    chosen = missing if arguments.recipes is None else arguments.recipes
    if not arguments.write_docs:
        run_all(chosen, arguments.jobs, runs)
    runs = {name: runs[name] for name in SYSTEMS if name in runs}
    if arguments.write_docs:
        write_docs(runs, ROOT / "docs/recipes.md")
    print(markdown(runs))


if __name__ == "__main__":
    main()
