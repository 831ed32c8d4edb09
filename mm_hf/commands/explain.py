"""Explains answers: how much each modality contributed, alone and together, and which parts of the items mattered.

    mm_hf explain runs/houses new.csv
    mm_hf explain runs/houses --rows 20                    # test rows of the run's own data
    mm_hf explain me/answers new.jsonl -o evidence --image_column photo --text_column question

It writes index.html, a page that needs no other file and loads nothing from the network. evidence.json has the same
content: for each row its items, the answers, the exact Shapley value of each modality, and maps of the parts that
mattered. The Shapley values of a row add up to the change that all its modalities cause together.
"""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from transformers.utils import logging

from .. import MMFusionConfig, MMFusionPreTrainedModel, MMFusionProcessor
from ..data import Columns, MultimodalCollator, Rows, data_root_of, names_of_classes
from ..evidence.drawing import draw_rows
from ..evidence.page import write_page
from ..evidence.rows import (
    Background,
    Explainer,
    candidates,
    choose_rows,
    encode_background,
    explain_rows,
    rows_that_stand_in,
)
from ..evidence.summary import lines_of_summary, summary_of
from ..models.ctc_mm_fusion import MMFusionForCTC
from ..models.evidence import TOKEN
from ..models.files import read_json
from ..progress_bar import progress_bar
from ..tasks import Task
from ..training.asking import lines_of_missing, missing_section
from ..training.by_modality import listed
from ..training.data_arguments import DatasetArguments
from ..training.exits import MEASURING, run_script
from ..training.places import find_data
from ..training.recipe import fields_of
from ..training.reopen import is_data_of
from ..training.run_folder import write_json
from ..training.understood import data_root_beside
from .arguments import NO_MAPS, ExplainArguments, PredictArguments, explain_parser
from .predict import answers_of
from .prediction.arguments import columns_of, load_config, parse_with_recipe
from .prediction.cut_parts import PartOfRows, open_part, parts_of_run
from .prediction.sources import STDIN, RowSource, check_columns


FILE = "evidence.json"
CHECKED = 24  # number of rows for the checks; they have their own random draw


def main():
    """All of it, from top to bottom."""
    parser = explain_parser(__doc__ or "", "mm_hf explain")
    args, data_args, words = parse_with_recipe(parser)
    run = Path(words.run) if os.path.isdir(words.run) else Path("runs", Path(words.run).name)
    folder = Path(words.output or run / "evidence")
    if (folder / FILE).exists() and not args.overwrite:
        parser.error(f"{folder / FILE} exists already: --overwrite replaces it, -o names another folder.")
    logging.disable_progress_bar()  # of loading weights: seconds
    evidence = explain_source(words.run, words.file, args, data_args)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, evidence)
    page = write_page(evidence, folder)
    if args.png:
        draw_rows(evidence, folder)
    print(*lines_of(evidence), sep="\n")
    print(f"written: {page}", flush=True)


def explain(run: str, rows: str | Sequence[Mapping[str, Any]] | None = None, **options: Any) -> dict[str, Any]:
    """For Python; see `mm_hf.evidence.explain`.

    Raises:
        ValueError: see there.
    """
    parser = explain_parser("", "mm_hf explain")
    flags = [word for key, value in options.items() for word in (f"--{key}", *(map(str, listed(value))))]
    file = [rows] if isinstance(rows, str | os.PathLike) else []

    def refuse(message: str):
        raise ValueError(message)

    parser.error = refuse  # type: ignore[assignment, method-assign]
    args, data_args, words = parse_with_recipe(parser, [str(run), *map(str, file), *flags])
    given = None if rows is None or file else list(cast(Sequence[Mapping[str, Any]], rows))
    return explain_source(words.run, words.file, args, data_args, given)


class GivenRows(RowSource):
    """Rows in memory, as dicts of columns."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], columns: Columns, root: str | None):
        super().__init__(columns)
        self.rows, self.name, self.root = rows, "the rows", root
        self.header = list(dict.fromkeys(name for row in rows for name in row))
        check_columns(columns, self.header, self.name, self.header)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(map(dict, self.rows))

    def count(self) -> int:
        return len(self.rows)


def explain_source(
    run: str,
    file: str | None,
    args: ExplainArguments,
    data_args: Any,
    given: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Opens the checkpoint and the rows, and explains them. Returns the content of evidence.json.

    Args:
        run: folder or Hub id.
        file: file of rows; None: `given`, or the run's own data.
        args, data_args: see `ExplainArguments` and `ColumnArguments`.
        given: rows in memory.

    Raises:
        ValueError: the checkpoint, the rows and the columns do not fit together.
    """
    config, head = load_config(run, searches=True)
    recipe = recipe_beside(run)
    processor = MMFusionProcessor.from_pretrained(run)
    columns = columns_of(run, data_args, config, processor)
    if given is not None:
        source: RowSource = GivenRows(given, columns, data_args.data_root)
    else:
        source = open_source(run, file, args.split, columns, data_args.data_root, recipe, processor)
    model = head.from_pretrained(run, freeze_encoders=True).eval()
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    collator = MultimodalCollator(
        processor,
        columns,
        on_error="skip",
        root=source.root,
        num_frames=columns.frames(config.num_images),
        table_names=source.class_names,
        target_end=head is not MMFusionForCTC,
    )
    explainer = Explainer(
        model,
        collator,
        tasks_of(config, head, recipe),
        maps=args.method != NO_MAPS,
        method=None if args.method == NO_MAPS else args.method,
        on_error=data_args.on_error,
    )
    rows, left_out = rows_of(source, args, explainer.labels())
    missing = None
    if args.missing:
        of_run = args.given or [] if file is None and given is None else None
        missing = missing_section(run, model, collator, rows, args.prices, args.until, of_run)
    notes: list[str] = []
    if args.absence != TOKEN:
        explainer.background, of_rows = background_of(run, explainer, config, recipe, args, rows)
        notes += of_rows
    with progress_bar(total=len(rows), unit="row") as bar:
        records = explain_rows(explainer, rows, done=bar.update)
    checks = None
    if args.check:
        some = rows_of(source, replace(args, max_rows=CHECKED), explainer.labels())[0] if source.again else rows
        checks = explainer.check(some[:CHECKED], args.seed)
    about = explainer.about()
    about["warnings"] = [*about["warnings"], *notes, *sorted(explainer.reasons)]
    if bad := len({entry["row"] for entry in explainer.bad_rows}):
        about["warnings"].append(f"{bad:,} rows were left out, because they cannot be read.")
    if len(records) + bad < len(rows):
        about["warnings"].append(
            f"{len(rows) - len(records) - bad:,} rows were left out, because they have no input for the model."
        )
    return {
        "version": 1,
        "run": Path(run).name if os.path.isdir(run) else run,
        "left_out": left_out,
        **about,
        "checks": checks,
        "summary": summary_of(records, seed=args.seed) if len(records) > 1 else None,
        "missing": missing,
        "rows": records,
    }


def recipe_beside(run: str) -> dict[str, Any]:
    """The recipe.json of a run, with the present place of its data, see `find_data`; empty if there is none."""
    file = Path(run) / "recipe.json"
    return find_data(read_json(file), file.parent)[0] if file.is_file() else {}


def open_source(
    run: str,
    file: str | None,
    split: str | None,
    columns: Columns,
    data_root: str | None,
    recipe: dict[str, Any],
    processor: MMFusionProcessor,
) -> RowSource:
    """The rows of a file, or of the run's own data.

    Raises:
        ValueError: no rows are named, and the run names no data.
    """
    if file is None:
        if not recipe.get("dataset"):
            raise ValueError(f"{run} has no recipe.json that names its data. Name the rows: mm_hf explain {run} ROWS.")
        file, data_root = str(recipe["dataset"]), data_root or recipe.get("data_root")
        split = split or "test"
    elif is_data_of(recipe, file):
        data_root = data_root or recipe.get("data_root")
        split = split or "test"
    else:
        data_root = data_root_beside(run, file) if data_root is None and file != STDIN else data_root
    return open_part(run, file, split, columns, data_root, processor.table_schema)


def tasks_of(
    config: MMFusionConfig, head: type[MMFusionPreTrainedModel], recipe: dict[str, Any]
) -> dict[str | None, Task]:
    """The tasks of the model by name, with their label column if it is known."""
    answers = answers_of(config, head, PredictArguments())
    labels = listed(recipe.get("label_column"))
    tasks: dict[str | None, Task] = {}
    for answer in answers:
        column = answer.column or (labels[0] if len(labels) == 1 else None)
        tasks[answer.column or None] = replace(answer.task, column=column)
    return tasks


def rows_of(source: RowSource, args: ExplainArguments, labels: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    """The rows to explain, as the collator takes them, with their labels; and the number of rows that were left
    out."""
    numbers = sorted(source.numbers) if isinstance(source, PartOfRows) else itertools.count()
    count, read = source.count(), iter(source)
    if count is None:  # known only after reading
        all_rows = list(read)
        count, read = len(all_rows), iter(all_rows)
    if not count:
        raise ValueError(f"{source.name} has no rows: give at least one.")
    chosen = choose_rows(count, args.max_rows or count, args.seed)
    wanted, rows = set(chosen), []
    for place, (number, row) in enumerate(itertools.islice(zip(numbers, read), chosen[-1] + 1)):
        if place in wanted:
            known = labels_of(source.named(row), labels)
            rows.append({**source.inputs(row), **known, "row_id": number, "split": source.name})
    return rows, count - len(chosen)


def labels_of(row: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """The labels that a row has. An empty cell is no label."""
    return {name: row[name] for name in labels if row.get(name) not in (None, "")}


def background_of(
    run: str,
    explainer: Explainer,
    config: MMFusionConfig,
    recipe: dict[str, Any],
    args: ExplainArguments,
    rows: Sequence[dict[str, Any]],
) -> tuple[Background, list[str]]:
    """The encoded rows that replace removed modalities, and notes about them. They are training rows of the run. If
    the data of the run are not available or are a stream, some of the explained rows are used instead."""
    wanted, notes = args.background or rows_that_stand_in(len(config.modalities)), []
    collator, train = explainer.collator, None
    if recipe.get("dataset") and not recipe.get("streaming"):
        try:
            _, _, splits = parts_of_run(run, recipe, recipe["dataset"], recipe.get("data_root"))
            train = splits["train"]
        except (OSError, ValueError) as error:
            notes.append(f"The training rows of {run} are not available ({' '.join(str(error).split())[:200]}).")
    if train is None:
        chosen = choose_rows(len(rows), candidates(wanted), args.seed)
        background = encode_background(explainer.model, collator, [rows[place] for place in chosen], wanted)
        notes.append(
            f"{background.pool.rows} of the explained rows replace removed modalities, instead of training rows."
        )
        return background, notes
    keys: Any = {**dict.fromkeys(key.name for key in fields(DatasetArguments)), **fields_of(recipe)}
    columns = columns_of(run, SimpleNamespace(**keys), config, collator.processor)
    collator = replace(
        collator,
        columns=columns,
        root=data_root_of(recipe["dataset"], recipe.get("data_root")),
        table_names=names_of_classes(train.features, columns.table),
    )
    lacking = dict.fromkeys(column for _, column in columns.named())
    chosen = choose_rows(len(train), candidates(wanted), args.seed)
    learned = [{**lacking, **row} for row in Rows(train, "train").__getitems__(chosen)]
    return encode_background(explainer.model, collator, learned, wanted), notes


def lines_of(evidence: dict[str, Any]) -> list[str]:
    """The results, for the terminal."""
    stands_in = "the absent token" if evidence["absence"] == TOKEN else f"items of {evidence['background']} other rows"
    left_out = f" of {len(evidence['rows']) + evidence['left_out']:,} (--rows 0: all)" if evidence["left_out"] else ""
    lines = [f"{len(evidence['rows']):,} rows{left_out}; a removed modality is replaced by {stands_in}"]
    for task, summary in (evidence["summary"] or {}).items():
        lines += lines_of_summary(summary, task)
    lines += lines_of_missing(evidence["missing"]) if evidence["missing"] else []
    for name, one in (evidence["checks"] or {}).items():
        lines.append(f"{'passed' if one['passed'] else 'FAILED'}  {name}: {one['says']}")
    return lines + [f"note: {warning}" for warning in evidence["warnings"]]


def script():
    """The command line."""
    run_script(main, MEASURING)


if __name__ == "__main__":
    script()
