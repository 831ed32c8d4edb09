"""Compares two runs on the same test rows: the paired difference of every metric, and the rows that cause it.

    mm_hf compare runs/easy_vqa runs/easy_vqa_concat
    mm_hf compare runs/one runs/other --dataset new.csv --split train

RUN_A and RUN_B are folders of checkpoints, or Hub ids. They come first; all flags apply to both. Without --dataset,
each run is measured on the test part of its own recipe. The command checks that both parts hold the same rows. If two
runs have different test rows (another data set, or another seed of the split), name rows with --dataset and --split
that neither run was trained on. The results go into the folder runs/compare-<A>-<B>: compare.html, a page that needs
no other file, compare.json with all figures, and differing_rows.csv. Retrieval models are compared by the plain
search, without the reranking.
"""

import csv
import os
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from ..data import Rows
from ..data.rows import SOURCE_ROW
from ..evaluation import figure, ranks, rounded
from ..evaluation.html_report import write_html
from ..evaluation.outcomes import (
    MeasuredRows,
    compare_outcomes,
    compare_ranks,
    count_name,
    lines_of,
    paired_table,
    sign_words,
)
from ..evaluation.paired import NOTE
from ..models.text import Text
from ..models.vision import Vision
from ..tasks import Retrieval
from ..training.data_arguments import DatasetArguments
from ..training.evaluator import Evaluator
from ..training.exits import MEASURING, run_script
from ..training.fingerprint import Fingerprint
from ..training.line_answers import line_score
from ..training.lock import lock_folder
from ..training.provenance import origin
from ..training.reopen import check_checkpoint, config_of, open_checkpoint, parse_arguments
from ..training.run_folder import in_place, write_json
from ..training.run_report import short_name
from ..training.splits import seed_of_cut
from .arguments import COMPARING, CompareArguments
from .evaluate import predict_rows
from .measuring.floors import picture_keys
from .measuring.outcomes import outcomes_of
from .search import SEARCHES, RetrieveArguments, open_search


SHOWN = 24  # rows on the page
COLUMNS = ("task", "row", "kind", Text.name, "truth", "a", "b", "better", "score_a", "score_b")


@dataclass
class Side:
    """One of the two runs, A or B.

    Args:
        letter: "A" or "B".
        folder: where the reports of both runs go.
        args, data_args, recipe: see `parse_arguments`.
        part, rows: name and rows of the measured part.
        columns: the columns that the model reads, and its labels.
        root: the folder of the files that the rows name.
    """

    letter: str
    folder: Path
    args: CompareArguments
    data_args: DatasetArguments
    recipe: dict[str, Any]
    part: str = ""
    rows: Dataset = None
    columns: Any = None
    root: str | None = None

    @property
    def place(self) -> str:
        """Where its rows come from."""
        return os.path.realpath(self.data_args.source)

    def __str__(self) -> str:
        return f"{self.letter} ({self.args.model})"

    @property
    def name(self) -> str:
        """Its name in the verdict."""
        return f"{self.letter} ({short_name(self.args.model)})"

    def row_numbers(self) -> list[int]:
        """The numbers of the rows in the data."""
        return self.rows[SOURCE_ROW][:] if SOURCE_ROW in self.rows.column_names else list(range(len(self.rows)))


def main():
    """The whole comparison, from top to bottom."""
    sides = read_words()
    searches = [(config_of(side.args.model).architectures or [])[:1] == [SEARCHES] for side in sides]
    if searches[0] != searches[1]:
        names = [str(side) for side in sides]
        finder, other = names if searches[0] else names[::-1]
        raise ValueError(
            f"{finder} searches and {other} does not, so they have no metric in common: name two runs of the same "
            "kind."
        )
    measure = compare_searches if all(searches) else compare_answers
    report = measure(sides)
    if report is not None and PartialState().is_main_process:
        write(sides, report)
    PartialState().wait_for_everyone()


def read_words() -> tuple[Side, Side]:
    """Reads the two runs, and the flags, which apply to both.

    Raises:
        ValueError: the first two words are not two runs.
    """
    words = sys.argv[1:]
    asks = {"-h", "--help"} & set(words)
    runs = [word for word in words[:2] if not word.startswith("-")]
    if len(runs) < 2 and not asks:
        raise ValueError(f"{COMPARING}: the two runs come first; got {' '.join(words) or 'nothing'}.")
    if "--model" in words:
        raise ValueError(f"{COMPARING}: give the runs as the first two words, without --model.")
    if len(runs) == 2 and os.path.realpath(runs[0]) == os.path.realpath(runs[1]):
        raise ValueError(f"{COMPARING}: both runs are {runs[0]}: name two different runs.")
    folder = Path("runs", "-".join(["compare", *(Path(os.path.realpath(run)).name for run in runs)]))
    for run in runs:
        check_checkpoint(run)
    sides = []
    for letter, run in zip("AB", runs if len(runs) == 2 else "AB"):
        others = ["--model", run, *words[len(runs) :]]
        args, data_args, recipe = parse_arguments(__doc__, CompareArguments, prog="mm_hf compare", words=others)
        if data_args.dataset is None:
            raise ValueError(f"{run} has no recipe.json that names its data: give --dataset, for both runs.")
        args.output_dir = args.output_dir or str(folder)
        sides.append(Side(letter, Path(args.output_dir), args, data_args, recipe))
    return sides[0], sides[1]


def compare_answers(sides: tuple[Side, Side]) -> dict[str, Any] | None:
    """Measures both runs on all rows, with all processes.

    Returns:
        what `write` takes, on the main process; None on the others.

    Raises:
        ValueError: their rows, labels or problem types differ.
    """
    runs, predictions = [], []
    for side in sides:
        run, side.part, _ = open_checkpoint(side.args, side.data_args, side.recipe)
        side.rows, side.columns, side.root = run.splits[side.part], run.columns, run.collator.root
        runs.append(run)
    check_same_rows(*sides)
    for side, run in zip(sides, runs):
        run.say(f"{side} on {len(side.rows):,} rows of {side.data_args.dataset}, part {side.part}")
        predictions.append(predict_rows(run, run.rows(side.part), f"measuring {side.letter}"))
        run.share_bad_rows(predictions[-1].bad_rows)
        bad = run.output_dir / "bad_rows.jsonl"
        if predictions[-1].bad_rows and run.accelerator.is_main_process:
            bad.replace(bad.with_name(f"bad_rows_{side.letter.lower()}.jsonl"))
    if not runs[0].accelerator.is_main_process:
        return None
    a, b = (outcomes_of(run, answers) for run, answers in zip(runs, predictions))
    shared = [task for task in a if task in b]
    if not shared:
        raise ValueError(
            f"{sides[0]} answers {list(a)} and {sides[1]} answers {list(b)}: they have no label column in common. If "
            "these columns mean the same, name one for both with --label_column."
        )
    unit, units = units_of(sides, runs)
    kinds = next((side.rows[side.columns.kind][:] for side in sides if side.columns.kind), None)
    texts = next(filter(None, (texts_of(side.rows, side.columns.texts) for side in sides)), None)
    about = MeasuredRows(sides[0].row_numbers(), units, unit, kinds, texts)
    names, args = (sides[0].name, sides[1].name), sides[0].args
    options: dict[str, Any] = {"samples": args.bootstrap_samples, "seed": args.seed}
    tasks = {
        task: compare_outcomes(task, a[task], b[task], names, about, title=f"intervals of {task}", **options)
        for task in shared
    }
    alone = {side.letter: [task for task in tasks_of if task not in shared] for side, tasks_of in zip(sides, (a, b))}
    lines = {
        side.letter: line_score(run, side.args.model, answers) for side, run, answers in zip(sides, runs, predictions)
    }
    classes = [type(run.model).__name__ for run in runs]
    lines = {letter: line for letter, line in lines.items() if line is not None}
    return {"classes": classes, "only": alone, "unit": unit, "tasks": tasks, "lines": lines}


def texts_of(rows: Dataset, columns: list[str]) -> list[str | None]:
    """The texts of each row, joined to one; None for a row without text. An empty list if there is no text column."""
    by_row = zip(*(rows[column][:] for column in columns))
    return [" | ".join(text for text in texts if isinstance(text, str)) or None for texts in by_row]


def check_same_rows(a: Side, b: Side):
    """Refuses two parts that are not known to hold the same rows. They are the same if they come from the same place
    with the same row numbers, or from two places with the same content in the columns that both models read.

    Raises:
        ValueError: with the reason, and what to do.
    """
    measured = [f"{side} is measured on part {side.part!r} of {side.data_args.dataset}" for side in (a, b)]
    reason = None
    if len(a.rows) != len(b.rows):
        reason = f"they have {len(a.rows):,} and {len(b.rows):,} rows"
    elif a.row_numbers() != b.row_numbers():
        reason = "they are different rows of it"
    elif (a.place, a.part) != (b.place, b.part):
        reason = differing_content(a, b)
    if reason is None:
        return
    seeds = [seed_of_cut(side.recipe) if side.recipe else None for side in (a, b)]
    if a.place == b.place and None not in seeds and seeds[0] != seeds[1]:
        reason += (
            f" (their seeds, {seeds[0]} and {seeds[1]}, give different test rows; each run may have been trained on "
            "test rows of the other)"
        )
    raise ValueError(
        f"{measured[0]}, and {measured[1]}: {reason}. Only the same rows can be compared. Name rows that neither run "
        "was trained on: --dataset FILE --split PART. Their columns must have the names that both recipes give."
    )


def differing_content(a: Side, b: Side) -> str | None:
    """Which columns that both models read differ between two places; None if all of them are the same."""
    inputs = [{column for part, column in side.columns.named() if part != "label"} for side in (a, b)]
    shared = sorted(inputs[0] & inputs[1])
    if not shared:
        return f"A reads {sorted(inputs[0])} and B reads {sorted(inputs[1])}, so no common column can show it"
    kept = []
    for side in (a, b):
        fingerprint = Fingerprint({side.part: side.rows}, side.columns, side.data_args.source, side.root)
        fingerprint.settle(None)
        columns, files = fingerprint.kept["columns"][side.part], fingerprint.kept["files"].get(side.part, {})
        kept.append({name: (columns[name], files.get(name, {}).get("content")) for name in shared})
    differing = [name for name in shared if kept[0][name] != kept[1][name]]
    return f"column(s) {', '.join(differing)} differ" if differing else None


def units_of(sides: tuple[Side, Side], runs: list[Evaluator]) -> tuple[str, list]:
    """The unit of the bootstrap resamples, and for each row the key that is equal within one unit: see evaluate.py."""
    for side in sides:
        if side.columns.group:
            return f"rows of equal {side.columns.group}", side.rows[side.columns.group][:]
    for side, run in zip(sides, runs):
        if Vision.name in run.model.config.modalities and run.collator.parts[Vision.name]:
            return "rows of the same picture", picture_keys(run, Rows(side.rows, side.part))
    return "rows", list(range(len(sides[0].rows)))


def compare_searches(sides: tuple[Side, Side]) -> dict[str, Any]:
    """Measures both plain searches in both directions: for each query, the rank of the right result.

    Raises:
        ValueError: there are several processes, or the rows or their items differ.
    """
    if PartialState().num_processes > 1:
        raise ValueError(
            f"Retrieval models are compared by one process, got {PartialState().num_processes}: leave accelerate "
            "launch out."
        )
    args = sides[0].args
    lock_folder(sides[0].folder)
    opened = []
    for side in sides:
        keys = ("model", "split", "max_rows", "seed", "per_device_eval_batch_size")
        searched = RetrieveArguments(**{key: getattr(side.args, key) for key in keys})
        search = open_search(searched, side.data_args, side.recipe)
        side.part, side.rows = search.part(searched.split)
        side.columns, side.root = search.columns, search.collator.root
        opened.append(search)
    check_same_rows(*sides)
    galleries = []
    for side, search in zip(sides, opened):
        print(f"{side} on {len(side.rows):,} rows of {side.data_args.dataset}, part {side.part}", flush=True)
        galleries.append(search.gallery(Rows(side.rows, side.part)))
    if galleries[0].keys != galleries[1].keys:
        raise ValueError(
            f"{sides[0]} and {sides[1]} do not search the same items of these rows. They search "
            f"{[list(gallery.keys) for gallery in galleries]}, from the columns "
            f"{[sorted(column for _, column in side.columns.named()) for side in sides]}: name the same columns for "
            "both."
        )
    gallery, relevant, tasks = galleries[0], galleries[0].relevant(), {}
    texts, items = gallery.keys.values()
    row_numbers = sides[0].row_numbers()
    both = [list(gallery.embeddings.values()) for gallery in galleries]
    similarities = [text_vectors @ item_vectors.T for text_vectors, item_vectors in both]
    for direction, right, asked_by in zip(opened[0].directions, (relevant, relevant.T), gallery.keys):
        asked = right.any(-1)
        if not asked.any():
            raise ValueError(
                f"No row has both a text and an item to find, so {direction} cannot be measured: give rows that have "
                "both."
            )
        places = [ranks(scores if right is relevant else scores.T, right)[asked] for scores in similarities]
        numbers = asked.nonzero().flatten().tolist()
        tasks[direction] = compare_ranks(
            Retrieval(),
            (places[0], places[1]),
            (sides[0].name, sides[1].name),
            [row_numbers[gallery.places[asked_by][number]] for number in numbers],
            [texts[number] if asked_by == Text.name else None for number in numbers],
            args.bootstrap_samples,
            args.seed,
            f"intervals of {direction}",
        )
    only: dict[str, list[str]] = {side.letter: [] for side in sides}
    classes = [type(search.model).__name__ for search in opened]
    return {"classes": classes, "only": only, "unit": "queries", "items": len(items), "tasks": tasks}


def write(sides: tuple[Side, Side], report: dict[str, Any]):
    """Writes the page, the figures and the rows. Prints the tables, then the verdict."""
    folder, args = sides[0].folder, sides[0].args
    unit = report["unit"]
    rows = [{"task": task, **row} for task, comparison in report["tasks"].items() for row in comparison["differing"]]
    shown = {task: comparison.pop("differing")[:SHOWN] for task, comparison in report["tasks"].items()}
    report = rounded(
        {
            **{
                side.letter.lower(): {
                    "model": side.args.model,
                    "model_class": name,
                    "dataset": side.data_args.dataset,
                    "split": side.part,
                }
                for side, name in zip(sides, report.pop("classes"))
            },
            **report,
            "intervals": {"confidence": 0.95, "samples": args.bootstrap_samples, "note": NOTE},
            "seed": args.seed,
            "max_rows": args.max_rows,
            "run": {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), **origin()},
        }
    )
    names = [short_name(side.args.model) for side in sides]
    page = {
        task: {
            **comparison,
            "lines": lines_of(comparison),
            "counted": [(count_name(name), count) for name, count in comparison["counts"].items()],
            "sign_words": sign_words(comparison, unit),
            "shown": shown[task],
        }
        for task, comparison in report["tasks"].items()
    }
    facts = {side.letter: f"{name} ({report[side.letter.lower()]['model_class']})" for side, name in zip(sides, names)}
    facts |= {
        "data set": f"{short_name(sides[0].data_args.source)}, part {sides[0].part}, {len(sides[0].rows):,} rows",
        "intervals": f"{args.bootstrap_samples} resamples of {unit}, the same for both, seed {args.seed}",
        "date": report["run"]["date"],
        "code": report["run"]["commit"],
    }
    beside = {
        f"linear model beside {letter}": f"{line['metric'].replace('_', ' ')} {figure(line['value'])}"
        for letter, line in report.get("lines", {}).items()
    }
    facts |= beside
    in_place(
        folder / "compare.html",
        lambda file: write_html(
            file, "compare.html", title=f"{names[0]} and {names[1]}", facts=facts, report={"tasks": page}, note=NOTE
        ),
    )
    in_place(folder / "differing_rows.csv", lambda file: write_rows(file, rows))
    write_json(folder / "compare.json", report)
    print(f"\nA  {sides[0].args.model}\nB  {sides[1].args.model}")
    for task, comparison in report["tasks"].items():
        print(f"\n{task}", paired_table(comparison, unit), sep="\n")
        if comparison["left_out"]:
            print(f"{comparison['left_out']:,} rows are left out, because they have no label that both runs can read")
    print("".join(f"\n{what}: {words}" for what, words in beside.items()))
    for letter, only in report["only"].items():
        if only:
            print(f"only {letter} answers {', '.join(only)}")
    print(f"\nwritten: {folder / 'compare.html'}, {folder / 'differing_rows.csv'}")
    print(NOTE)
    for task, comparison in report["tasks"].items():  # last, because the verdict is the main result
        print(comparison["verdict"] if len(report["tasks"]) == 1 else f"{task}: {comparison['verdict']}")


def write_rows(file: Path, rows: list[dict[str, Any]]):
    """Writes the table of the rows that the two runs answer differently."""
    with open(file, "w", newline="", encoding="utf-8", errors="replace") as output:
        writer = csv.DictWriter(output, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)


def script():
    """The command line."""
    run_script(main, MEASURING)


if __name__ == "__main__":
    script()
