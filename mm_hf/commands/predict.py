"""Predicts the rows of a file of any length: writes the same columns again, and the predictions beside them.

    mm_hf predict runs/houses new.csv -o prices.csv
    accelerate launch -m mm_hf.commands.predict runs/houses new.csv -o prices.csv
    mm_hf predict me/answers new.jsonl -o answers.parquet --image_column photo --text_column question

A run leaves recipe.json beside its checkpoint. For such a run, the columns need not be named again. If the process is
killed, give the same command again: it continues where it stopped.

The file is the same, byte for byte, for any number of processes and after any kill. On a CPU, this requires the same
number of threads (OMP_NUM_THREADS): the number of threads and the batch size change the last digits.
"""

import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, send_to_device
from torch.utils.data import DataLoader
from transformers.utils import logging

import mm_hf

from .. import MMFusionConfig, MMFusionPreTrainedModel, MMFusionProcessor
from ..data import MultimodalCollator
from ..data.imported import import_again
from ..data.modalities import READERS
from ..data.unseen import join_unseen, unseen_lines, unseen_values
from ..evaluation.prediction import write
from ..models.checksums import checksum_of, checksum_of_bytes
from ..models.ctc_mm_fusion import MMFusionForCTC
from ..models.generation_mm_fusion import MMFusionForConditionalGeneration
from ..models.losses import infer_problem_type
from ..models.tasks import head_of_config
from ..progress_bar import progress_bar
from ..tasks import TASKS, task_of
from ..training.exits import MEASURING, run_script
from ..training.heads import TASK_OF
from ..training.values import check_range
from .arguments import PredictArguments
from .prediction.answers import ERROR, Answer, Summary, reasons_of, without_input
from .prediction.arguments import columns_of, load_config, parse_arguments
from .prediction.batches import GivenRows, RowBatches, pass_over
from .prediction.cut_parts import PartOfRows, open_part
from .prediction.how_sure import check_sure, how_sure_asked, with_head
from .prediction.output import PredictionFile, form_of
from .prediction.sources import STDIN, RowSource


NOTED = 2.0  # seconds between two notes of the progress
UNSEEN = "(unseen)"  # the key of unseen values among the counts of finished rows
CHECKED = 1000  # number of rows from which the share of bad rows is meaningful
OF_MODEL = (".safetensors", ".json", ".txt", ".model")  # the files of a checkpoint that its answers depend on
OF_RUN = ("recipe.json", "results.json", "rows.json")  # files that its answers do not depend on
WRITERS = (MMFusionForConditionalGeneration, MMFusionForCTC)


@dataclass
class Predictor:
    """A checkpoint that answers batches: the model, the collator, and how each task writes its answer."""

    model: MMFusionPreTrainedModel
    collator: MultimodalCollator
    answers: list[Answer]
    accelerator: Accelerator

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> tuple[list[list[list[Any]]], dict[int, str]]:
        """For each task the values of its columns for each row; and by row number the reason why a row is bad."""
        row_ids = batch.pop("row_ids").tolist()
        reasons = reasons_of(batch.pop("bad_rows", []))
        empty = without_input(batch)
        batch = send_to_device(batch, self.accelerator.device)
        with self.accelerator.autocast():
            if isinstance(self.model, WRITERS):
                said: Any = {"": self.collator.texts_of(write(self.model, batch, {})[1].cpu())}
            else:
                logits = self.model(**batch).logits
                said = logits if isinstance(logits, dict) else {"": logits}
                said = {name: values.float().cpu() for name, values in said.items()}
        answered = []
        for answer in self.answers:
            rows, good = answer.rows(said[answer.column])
            answered.append(rows)
            for row_id, finite in zip(row_ids, good):
                if not finite:
                    reasons.setdefault(row_id, "the model's answer is not a finite number.")
        for row_id, nothing in zip(row_ids, empty):
            if nothing:
                reasons.setdefault(row_id, "the row is empty: it has no input for the model.")
        return answered, reasons


def main():
    """All of it, from top to bottom."""
    run, rows, args, data_args = parse_arguments(__doc__)
    check_range("max_bad_fraction", data_args.max_bad_fraction, 0, 1)
    file = PredictionFile(args.output, args.overwrite)
    config, head = load_config(run)
    logging.disable_progress_bar()  # of loading weights: seconds
    accelerator = Accelerator(mixed_precision="bf16" if args.bf16 else None)
    if rows == STDIN and accelerator.num_processes > 1:
        raise ValueError(
            f"Standard input goes to one process, but there are {accelerator.num_processes}: give a file, or use one "
            "process."
        )
    file.claim(accelerator.is_main_process)  # before anything that takes long
    try:
        predict_file(run, rows, args, data_args, file, config, head, accelerator)
    finally:
        if accelerator.is_main_process:
            file.leave()
    accelerator.wait_for_everyone()  # a process that ends while others still communicate may stop them
    accelerator.end_training()


def predict_file(
    run: str,
    rows: str,
    args: Any,
    data_args: Any,
    file: PredictionFile,
    config: MMFusionConfig,
    head: type[MMFusionPreTrainedModel],
    accelerator: Accelerator,
):
    """Opens the rows and the model, and predicts into a file that this process has locked."""
    processor = MMFusionProcessor.from_pretrained(run)
    columns = columns_of(run, data_args, config, processor)
    with accelerator.local_main_process_first():  # the others use what it has prepared
        source = open_part(run, rows, args.split, columns, data_args.data_root, processor.table_schema)
    if isinstance(source, PartOfRows) and accelerator.is_main_process:
        print(f"part {args.split} as {run} cut it: {source.count():,} rows of {rows}", flush=True)
    answers = answers_of(config, head, args)
    model = head.from_pretrained(run, freeze_encoders=True).to(accelerator.device).eval()
    collator = MultimodalCollator(
        processor,
        columns,
        on_error="skip",  # all processes report the first bad row together
        root=source.root,
        num_frames=columns.frames(config.num_images),
        table_names=source.class_names,
        target_end=head is not MMFusionForCTC,
    )
    settings = settings_of(run, config, source, args, data_args, accelerator.mixed_precision)
    told = [begin(file, source, answers, settings, args, data_args) if accelerator.is_main_process else None]
    broadcast_object_list(told)  # all wait for it
    if isinstance(told[0], str):
        raise ValueError(told[0])
    if told[0] is not None:
        predict_rows(Predictor(model, collator, answers, accelerator), source, file, args, data_args, *told[0])


def answers_of(config: MMFusionConfig, head: type[MMFusionPreTrainedModel], args: PredictArguments) -> list[Answer]:
    """How each task of a checkpoint writes its predictions.

    Raises:
        ValueError: a flag is for classes, and the checkpoint has none.
    """
    options: Any = {"prefix": args.prefix, "top_k": args.top_k, "every": args.probabilities == "all"}
    options |= {"coverage": args.coverage, "abstain_below": args.abstain_below}
    asked = TASKS.get(TASK_OF.get(head.__name__, ""))
    if asked is not None:
        answers = [Answer("", asked(), **options)]
    elif config.tasks is not None:
        answers = [
            Answer(name, with_head(task_of(task.problem_type, task.labels), task), task.num_labels, **options)
            for name, task in config.task_heads.items()
        ]
    else:
        names: Any = config.id2label
        outputs, problem_type = len(names), config.problem_type
        if problem_type is None:  # the checkpoint was not trained with labels
            problem_type = infer_problem_type(torch.empty(0, dtype=torch.int64), outputs)
        task = task_of(problem_type, [names[number] for number in range(outputs)])
        answers = [Answer("", with_head(task, head_of_config(config, problem_type)), outputs, **options)]
    check_sure(answers, args)
    if (args.top_k > 1 or args.probabilities == "all") and not any(answer.task.probabilities for answer in answers):
        kinds = sorted({answer.task.name for answer in answers})
        raise ValueError(
            f"top_k ({args.top_k}) and probabilities ({args.probabilities}) are for classes, and this model answers "
            f"{kinds}: leave both out."
        )
    return answers


def settings_of(
    run: str, config: MMFusionConfig, source: RowSource, args: Any, data_args: Any, precision: str
) -> dict[str, Any]:
    """All settings that influence the predictions, except the rows themselves."""
    checkpoint = getattr(config, "_commit_hash", None) or run
    if os.path.isdir(run):
        files = [file for file in sorted(Path(run).iterdir()) if file.suffix in OF_MODEL and file.name not in OF_RUN]
        checkpoint = checksum_of_bytes("".join(file.name + checksum_of(file) for file in files).encode())
    return {
        "checkpoint": checkpoint,
        "columns": source.columns.named(),
        "columns of the rows": source.header,
        "separator": source.separator,
        "new columns": [args.prefix, args.top_k, args.probabilities],
        **how_sure_asked(args),
        "per_device_eval_batch_size": args.per_device_eval_batch_size,
        "on_error": data_args.on_error,
        "precision": precision,
        "data_root": source.root,
        "versions": [mm_hf.__version__, torch.__version__],
    }


def begin(
    file: PredictionFile, source: RowSource, answers: list[Answer], settings: dict[str, Any], args: Any, data_args: Any
) -> tuple[int, int, str] | str | None:
    """Opens the output, on the main process.

    Returns:
        the number of finished rows, the number of bad rows among them, and their digest; or an error message; or None
        if nothing is left to do.
    """
    new = {name: kind for answer in answers for name, kind in answer.types.items()}
    if data_args.on_error == "skip":
        new[args.prefix + ERROR] = pa.string()
    try:
        check_names(source.name, source.header, new)
        if file.kind == ".parquet":
            source_types = source.types()
            types = pa.schema([*source_types, *new.items()], source_types.metadata)
        else:
            types = pa.schema([(name, pa.string()) for name in [*source.header, *new]])
        form = form_of(file.kind, types, source.separator, source.marked)

        def same_rows(first: int, digest: str, whole: bool) -> bool:
            if not source.again:  # they are checked when they are read
                return not whole
            rows = iter(source)
            same = pass_over(rows, first, args.per_device_eval_batch_size) == digest
            return same and not (whole and any(True for _ in rows))

        if not file.begin(form, settings, same_rows):
            print(f"{file.path} is complete already.")
            return None
    except (ValueError, OSError) as error:
        return str(error)
    return file.rows, file.bad, file.digest


def check_names(name: str, columns: Iterable[str], new: Collection[str]):
    """Refuses rows that already have a column with the name of a new column.

    Raises:
        ValueError: with the name.
    """
    if taken := [column for column in columns if column in new]:
        raise ValueError(
            f"{name} already has a column {taken[0]!r}, and the predictions need this name: --prefix puts a prefix in "
            "front of the new columns."
        )


def predict_rows(
    predictor: Predictor,
    source: RowSource,
    file: PredictionFile,
    args: Any,
    data_args: Any,
    first: int,
    bad: int,
    digest: str,
):
    """Predicts all rows after the first ones, which are done (see `begin`). Each process predicts its own batches. The
    rows are written in their original order.

    Batch `n` goes to process `n` modulo the number of processes. So the batches, and every digit, are the same for any
    number of processes.

    Raises:
        ValueError: a row is bad, or too many rows are bad.
    """
    accelerator, main = predictor.accelerator, predictor.accelerator.is_main_process
    size, error_column = args.per_device_eval_batch_size, args.prefix + ERROR
    skip, kept = data_args.on_error == "skip", kept_of(source, file) if main else None
    look = not (skip and data_args.max_bad_fraction == 1)  # all rows may be bad
    ranks = accelerator.process_index, accelerator.num_processes
    knows = any(READERS[name].knows_values for name in predictor.collator.parts)
    count = partial(unseen_values, collator=predictor.collator) if main and knows else None
    batches = RowBatches(source, size, *ranks, first, digest, kept, look, count)
    workers = args.dataloader_num_workers
    loader = DataLoader(
        GivenRows(),
        batch_sampler=batches,
        collate_fn=predictor.collator,
        num_workers=workers,
        worker_init_fn=import_again,
    )
    summary = Summary(predictor.answers, file.summary)
    file.summary = summary.state
    unseen = file.summary.setdefault(UNSEEN, {})  # after a kill, the counting continues
    if first and main:
        print(f"{first:,} rows are done already; continuing after them", flush=True)
    began = noted = time.monotonic()
    bar = progress_bar(total=source.count() if main else None, initial=first, unit="row", disable=not main)
    done = first
    try:
        for batch_answers in rounds(iter(loader), predictor, data_args.on_error):
            for answered, reasons in batch_answers:
                if main:
                    rows, digest = batches.waiting.popleft()
                    join_unseen(unseen, batches.counted.popleft() if knows else {})
                    add_answers(rows, answered, reasons, done, predictor.answers, summary)
                    for place, row in enumerate(rows if skip else ()):
                        check_names(f"Row {done + place}", row, [error_column])
                        row[error_column] = reasons.get(done + place)
                    file.bad = bad + len(reasons)
                    file.add(rows, digest)
                    bar.update(len(rows))
                done, bad = done + len(answered[0]), bad + len(reasons)
            if main and time.monotonic() - noted > NOTED:
                file.note()
                noted = time.monotonic()
            if done >= CHECKED:
                check_bad(done, bad, data_args.max_bad_fraction)
        check_bad(done, bad, data_args.max_bad_fraction)
    except BaseException:
        bar.close()
        if main and file.noted:
            print(f"{file.noted:,} rows are in {file.folder}. The same command continues there.", file=sys.stderr)
        raise
    bar.close()
    if main:
        file.finish()
        seconds = time.monotonic() - began
        print(*summary.lines(), *unseen_lines(unseen, done), sep="\n")
        print(f"{done:,} rows, {bad:,} of them bad, in {seconds:.1f} s ({(done - first) / seconds:,.0f} per second)")
        print(f"written: {file.path}", flush=True)


def kept_of(source: RowSource, file: PredictionFile) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function that says what is kept of a row until it is written. In a file without types, classes are written
    by name."""
    if file.kind == ".parquet":
        return file.form.kept
    return lambda row: file.form.kept(source.named(row))


def add_answers(
    rows: list[dict[str, Any]],
    answered: list[list[list[Any]]],
    reasons: dict[int, str],
    first: int,
    answers: list[Answer],
    summary: Summary,
):
    """Adds the predictions of each task to the rows, and counts them. A bad row gets no prediction. `reasons` names
    the bad rows by their number; the first of `rows` has the number `first`.

    Raises:
        ValueError: a row already has a column with the name of a new column.
    """
    for answer, values in zip(answers, answered):
        columns = list(answer.types)
        for place, row in enumerate(rows):
            if not row.keys().isdisjoint(columns):  # of JSON rows, only the first ones were checked before
                check_names(f"Row {first + place}", row, columns)
            if first + place in reasons:
                row.update(dict.fromkeys(columns))
            else:
                row.update(zip(columns, values[place]))
                summary.add(answer, values[place])


def rounds(loader: Iterator[dict[str, Any]], predictor: Predictor, on_error: str) -> Iterator[list[Any]]:
    """The answers of all processes, one batch per process, in the order of the batches, until no batch is left.

    A process that finds an error sends it to all processes, and all raise it together. Otherwise the others would wait
    for it.

    Raises:
        ValueError: the rows have an error, or a row is bad and `on_error` is `"raise"`.
    """
    while True:
        fault, answered = None, None
        try:
            batch = next(loader, None)
            answered = None if batch is None else predictor(batch)
        except (ValueError, OSError) as error:
            if predictor.accelerator.num_processes == 1:
                raise
            fault = " ".join(str(error).split())
        gathered = gather_object([(fault, answered)])
        for told, answer in gathered:
            if told is not None:
                raise ValueError(told)
            if answer is not None and answer[1] and on_error == "raise":
                row, reason = min(answer[1].items())
                raise ValueError(
                    f"row {row} (counted from 0): {reason} (--on_error skip keeps such rows, with an empty prediction "
                    "and the reason.)"
                )
        if not any(answer for _, answer in gathered):
            return
        yield [answer for _, answer in gathered if answer is not None]


def check_bad(rows: int, bad: int, most: float):
    """Stops if the share of bad rows is above `most`. All processes count the bad rows.

    Raises:
        ValueError: with the number of bad rows and the limit.
    """
    if bad > most * rows:
        raise ValueError(
            f"{bad:,} of the first {rows:,} rows are bad, but max_bad_fraction is {most}: --max_bad_fraction 1 "
            "accepts any number of bad rows."
        )


def script():
    """The command line."""
    run_script(main, MEASURING)


if __name__ == "__main__":
    script()
