"""What the answers to a part of the data depend on (the effect of each modality), for reports and cards."""

import math
from dataclasses import replace
from typing import Any

from accelerate.utils import DistributedType
from datasets import Dataset, IterableDataset

from ..data import Rows
from ..evidence.rows import (
    FEWEST,
    Explainer,
    candidates,
    choose_rows,
    encode_background,
    explain_rows,
    rows_that_stand_in,
)
from ..evidence.summary import summary_of
from .evaluator import Evaluator


WRITING = 4  # a generated text costs so many times more than a class, so fewer rows are used by this factor


def rests_on(
    run: Evaluator, split: str, train: Dataset | IterableDataset | None, most: int, seed: int = 0
) -> dict[str, Any] | None:
    """The effect of each modality on the answers to some rows, by column of labels (see `summary_of`), with
    `background`, the number of rows with items that replace others. Only the main process calls it.

    Args:
        run: the run, with its model.
        split: the part.
        train: training rows; their items replace others. If it is None or a stream, rows of the part itself are used.
        most: at most so many rows, drawn at random.
        seed: of the random rows.

    Returns:
        None if it cannot be measured: there is only one modality, the model only compares embeddings, or the weights
        are split between processes.
    """
    model: Any = run.accelerator.unwrap_model(run.model)
    rows = run.rows(split)
    modalities = [name for name in model.config.modalities if run.collator.parts[name]]
    cut_up = run.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    compares = run.searches and not model.config.matching_weight
    if len(modalities) < 2 or cut_up or compares or not len(rows):
        return None
    collator = replace(run.collator, on_error="skip")
    train_rows = Rows(train, "train") if isinstance(train, Dataset) else rows
    wanted = FEWEST if run.writes else rows_that_stand_in(len(modalities))
    was_training = model.training
    model.eval()
    chosen = train_rows.__getitems__(choose_rows(len(train_rows), candidates(wanted), seed))
    cache = collator.cache if train is run.splits.get("train") else None  # the cache only holds the run's own parts
    background = encode_background(model, replace(collator, cache=cache), chosen, wanted)
    tasks: Any = {task.column if run.several else None: task for task in run.tasks}
    explainer = Explainer(model, collator, tasks, background)
    drawn = choose_rows(len(rows), math.ceil(most / WRITING) if run.writes else most, seed)
    records = explain_rows(explainer, rows.__getitems__(drawn), items=False)
    model.train(was_training)
    summary = summary_of(records, seed=seed)
    if summary is None:
        return None
    about = explainer.about()
    column = None if run.several or run.searches else run.label
    return {column if task == "" and column else task: {**about, **part} for task, part in summary.items()}
