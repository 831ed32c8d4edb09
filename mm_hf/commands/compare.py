"""Compares two runs on the same test rows: the paired difference of every metric, and the rows that make it.

    mm_hf compare runs/easy_vqa runs/easy_vqa_concat
    mm_hf compare runs/one runs/other --dataset new.csv --split train

RUN_A and RUN_B are folders of checkpoints, or Hub ids; they come first, and all flags are for both. Without --dataset
each is measured on the test part of its own recipe: these must be the same rows, which is checked. Runs of other rows
(another data set, or a cut with another seed) are measured on rows that neither has learned, which --dataset and
--split name. The folder runs/compare-<A>-<B> takes compare.html, a page that needs no other file, compare.json with
all figures, and differing_rows.csv. Models that search are compared by the plain search, without the rerank.
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
    """One of the two, A or B.

    Args:
        letter: "A" or "B".
        folder: where reports go, of both.
        args, data_args, recipe: see `parse_arguments`.
        part, rows: name and rows of the measured part.
        columns, root: those that the model reads, and of its labels; of the files that rows name.
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
        """Where its rows are from."""
        return os.path.realpath(self.data_args.source)

    def __str__(self) -> str:
        return f"{self.letter} ({self.args.model})"

    @property
    def name(self) -> str:
        """In the words that are to be remembered."""
        return f"{self.letter} ({short_name(self.args.model)})"

    def row_numbers(self) -> list[int]:
        """What the rows are called in the data."""
        return self.rows[SOURCE_ROW][:] if SOURCE_ROW in self.rows.column_names else list(range(len(self.rows)))


def main():
    """The whole comparison, from top to bottom."""
    sides = read_words()
    searches = [(config_of(side.args.model).architectures or [])[:1] == [SEARCHES] for side in sides]
    if searches[0] != searches[1]:
        names = [str(side) for side in sides]
        finder, other = names if searches[0] else names[::-1]
        raise ValueError(f"{finder} searches and {other} does not: they have no metric in common.")
    measure = compare_searches if all(searches) else compare_answers
    report = measure(sides)
    if report is not None and PartialState().is_main_process:
        write(sides, report)
    PartialState().wait_for_everyone()


def read_words() -> tuple[Side, Side]:
    """The two runs, and the flags, which are for both.

    Raises:
        ValueError: the first two words are no two runs.
    """
    words = sys.argv[1:]
    asks = {"-h", "--help"} & set(words)
    runs = [word for word in words[:2] if not word.startswith("-")]
    if len(runs) < 2 and not asks:
        raise ValueError(f"{COMPARING}: the two runs come first; got {' '.join(words) or 'nothing'}.")
    if "--model" in words:
        raise ValueError(f"{COMPARING}: the runs are the first two words, without --model.")
    if len(runs) == 2 and os.path.realpath(runs[0]) == os.path.realpath(runs[1]):
        raise ValueError(f"{COMPARING}: both are {runs[0]}, which does not differ from itself.")
    folder = Path("runs", "-".join(["compare", *(Path(os.path.realpath(run)).name for run in runs)]))
    for run in runs:
        check_checkpoint(run)
    sides = []
    for letter, run in zip("AB", runs if len(runs) == 2 else "AB"):
        others = ["--model", run, *words[len(runs) :]]
        args, data_args, recipe = parse_arguments(__doc__, CompareArguments, prog="mm_hf compare", words=others)
        if data_args.dataset is None:
            raise ValueError(f"{run} has no recipe.json that names its data: give --dataset, for both.")
        args.output_dir = args.output_dir or str(folder)
        sides.append(Side(letter, Path(args.output_dir), args, data_args, recipe))
    return sides[0], sides[1]


def compare_answers(sides: tuple[Side, Side]) -> dict[str, Any] | None:
    """Measures both on all rows, by all processes; gives the main one what is to be written, see `write`.

    Raises:
        ValueError: their rows, their labels or their problems are not the same.
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
            f"{sides[0]} answers {list(a)} and {sides[1]} answers {list(b)}: they have no column of labels "
            "in common. Where these mean the same, --label_column names one for both."
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
    """The texts of each row in one, None where it has none; nothing where there is no column of them."""
    by_row = zip(*(rows[column][:] for column in columns))
    return [" | ".join(text for text in texts if isinstance(text, str)) or None for texts in by_row]


def check_same_rows(a: Side, b: Side):
    """Refuses two parts that cannot be shown to be the same rows: of the same place and with the same numbers, or, of
    two places, with the same content of what both read.

    Raises:
        ValueError: why, and what can be done.
    """
    measured = [f"{side} is measured on part {side.part!r} of {side.data_args.dataset}" for side in (a, b)]
    reason = None
    if len(a.rows) != len(b.rows):
        reason = f"these are {len(a.rows):,} and {len(b.rows):,} rows"
    elif a.row_numbers() != b.row_numbers():
        reason = "these are other rows of it"
    elif (a.place, a.part) != (b.place, b.part):
        reason = differing_content(a, b)
    if reason is None:
        return
    seeds = [seed_of_cut(side.recipe) if side.recipe else None for side in (a, b)]
    if a.place == b.place and None not in seeds and seeds[0] != seeds[1]:
        reason += f" (their seeds, {seeds[0]} and {seeds[1]}, cut other test rows, which the other one has learned)"
    raise ValueError(
        f"{measured[0]}, and {measured[1]}: {reason}. Only the same rows can be compared: --dataset FILE --split PART "
        "measures both on rows that neither has learned; their columns must have the names that both recipes give."
    )


def differing_content(a: Side, b: Side) -> str | None:
    """What two places have that differs, of what both models read; None where all of it is the same."""
    inputs = [{column for part, column in side.columns.named() if part != "label"} for side in (a, b)]
    shared = sorted(inputs[0] & inputs[1])
    if not shared:
        return f"no column is read by both, of {sorted(inputs[0])} and {sorted(inputs[1])}, that could show it"
    kept = []
    for side in (a, b):
        fingerprint = Fingerprint({side.part: side.rows}, side.columns, side.data_args.source, side.root)
        fingerprint.settle(None)
        columns, files = fingerprint.kept["columns"][side.part], fingerprint.kept["files"].get(side.part, {})
        kept.append({name: (columns[name], files.get(name, {}).get("content")) for name in shared})
    differing = [name for name in shared if kept[0][name] != kept[1][name]]
    return f"column(s) {', '.join(differing)} differ" if differing else None


def units_of(sides: tuple[Side, Side], runs: list[Evaluator]) -> tuple[str, list]:
    """What the resamples are drawn of, and for each row what is equal within one unit: see evaluate.py."""
    for side in sides:
        if side.columns.group:
            return f"rows of equal {side.columns.group}", side.rows[side.columns.group][:]
    for side, run in zip(sides, runs):
        if Vision.name in run.model.config.modalities and run.collator.parts[Vision.name]:
            return "rows of the same picture", picture_keys(run, Rows(side.rows, side.part))
    return "rows", list(range(len(sides[0].rows)))


def compare_searches(sides: tuple[Side, Side]) -> dict[str, Any]:
    """Measures both plain searches, in both directions: the rank of what was looked for, query by query.

    Raises:
        ValueError: several processes, other rows, or other items in them.
    """
    if PartialState().num_processes > 1:
        raise ValueError("Models that search are compared by one process: without accelerate launch.")
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
            f"{sides[0]} and {sides[1]} do not search the same items in these rows: they search "
            f"{[list(gallery.keys) for gallery in galleries]}, by the columns "
            f"{[sorted(column for _, column in side.columns.named()) for side in sides]}."
        )
    gallery, relevant, tasks = galleries[0], galleries[0].relevant(), {}
    texts, items = gallery.keys.values()
    row_numbers = sides[0].row_numbers()
    both = [list(gallery.embeddings.values()) for gallery in galleries]
    similarities = [text_vectors @ item_vectors.T for text_vectors, item_vectors in both]
    for direction, right, asked_by in zip(opened[0].directions, (relevant, relevant.T), gallery.keys):
        asked = right.any(-1)
        if not asked.any():
            raise ValueError(f"No row has both a text and what is searched: {direction} cannot be measured.")
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
    """Writes page, figures and rows, and prints the tables, the words last."""
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
        f"a straight line beside {letter}": f"{line['metric'].replace('_', ' ')} {figure(line['value'])}"
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
            print(f"{comparison['left_out']:,} rows have no label that both can read, and are left out")
    print("".join(f"\n{what}: {words}" for what, words in beside.items()))
    for letter, only in report["only"].items():
        if only:
            print(f"{letter} alone answers {', '.join(only)}")
    print(f"\nwritten: {folder / 'compare.html'}, {folder / 'differing_rows.csv'}")
    print(NOTE)
    for task, comparison in report["tasks"].items():  # last: what is to be remembered
        print(comparison["verdict"] if len(report["tasks"]) == 1 else f"{task}: {comparison['verdict']}")


def write_rows(file: Path, rows: list[dict[str, Any]]):
    """The table of rows that are answered differently."""
    with open(file, "w", newline="", encoding="utf-8", errors="replace") as output:
        writer = csv.DictWriter(output, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)


def script():
    """The command line."""
    run_script(main, MEASURING)


if __name__ == "__main__":
    script()
