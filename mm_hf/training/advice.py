"""What a run may want to know before it begins: what it costs to train pretrained encoders without a GPU."""

import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from datasets import IterableDataset

from ..data import Rows
from ..data.modalities.text import LOOKED_AT
from ..data.rows import SOURCE_ROW
from ..models.modality import modality_of
from ..models.text import UNKNOWN_LENGTH
from .run import Run


FEW_ROWS = 500
ROWS = 4  # that the encoders are timed on: enough for a ratio, and some seconds at most at base size


def advise_on_freezing(run: Run):
    """Says what `--freeze_encoders true` would save; nothing where there is a GPU, or no pretrained encoder trains as
    a whole. The encoders are timed on the first rows of the training part: forward and backward, as they are trained,
    and forward alone, as frozen ones run. Weights, gradients and random numbers stay as they are."""
    names = training_encoders(run)
    if run.accelerator.device.type != "cpu" or not run.accelerator.is_main_process or not names:
        return
    of_encoders = sum(p.numel() for name in names for p in run.model.base_model.encoders[name].parameters())
    total = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    run.say(
        f"There is no GPU, and {of_encoders / 1e6:.2f} of the {total / 1e6:.2f} M parameters that train are in the "
        f"pretrained encoders ({', '.join(names)})."
    )
    seconds = seconds_of_encoders(run, names)
    if seconds is not None:
        both, forward = seconds
        run.say(
            f"Timed once on {ROWS} rows, these take {both:.2g} s forward and backward, and {forward:.2g} s forward "
            f"alone: {both / forward:.1f} times as long."
        )
    words = "--freeze_encoders true saves their backward in every step"
    if run.data_args.cache_features and not run.data_args.streaming:
        words += ", and their forward too: --cache_features keeps what they give, and each item is encoded once"
    run.say(f"{words}. What it does to the score, only a run tells.")


def advise_on_folds(run: Run):
    """Says what `--folds` would bring where rows are few."""
    dataset, test = run.splits["train"], run.splits.get("test")
    if run.data_args.folds is not None or isinstance(dataset, IterableDataset) or test is None:
        return
    if len(dataset) < FEW_ROWS and SOURCE_ROW in test.column_names and not run.searches:
        run.say(
            f"{len(dataset):,} rows to learn from are few, and a score on {len(test):,} rows is a rough one: "
            "--folds 5 measures all rows, each by a model that has not learned it, in some five times the time."
        )


def advise_on_long_texts(run: Run):
    """Says how many of the first training texts are longer than the encoder reads, and what becomes of them."""
    dataset, tokenizer = run.splits["train"], run.processor.tokenizer
    if isinstance(dataset, IterableDataset) or tokenizer is None or not run.accelerator.is_main_process:
        return
    limit = tokenizer.model_max_length
    for column in run.columns.texts if limit < UNKNOWN_LENGTH else []:
        texts = [text for text in dataset.select(range(min(LOOKED_AT, len(dataset))))[column] if isinstance(text, str)]
        long = [text for text in texts if len(text) > limit // 4]  # a token may stand for several letters
        lengths = [len(ids) for ids in tokenizer(long, verbose=False)["input_ids"]] if long else []
        if over := sum(length > limit for length in lengths):
            windows = run.processor.text_windows
            become = f"become up to {windows} windows" if windows else "are cut: --long_text windows reads them whole"
            run.say(f"{over:,} of {len(texts):,} texts in {column!r} have more than {limit} tokens, and {become}")


def training_encoders(run: Run) -> list[str]:
    """The modalities whose pretrained encoder trains as a whole: no adapters, no top layers alone."""
    whole = []
    for name in (name for name in run.model.config.modalities if modality_of(name).pretrained):
        parameters = list(run.model.base_model.encoders[name].parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        if 2 * trained > sum(p.numel() for p in parameters):
            whole.append(name)
    return whole


def seconds_of_encoders(run: Run, names: list[str]) -> tuple[float, float] | None:
    """Seconds of forward and backward, and of forward alone, through some encoders; None where the first rows have
    nothing for them."""
    dataset = run.splits["train"]
    if isinstance(dataset, IterableDataset):
        rows = [{**row, "row_id": number, "split": "train"} for number, row in enumerate(dataset.take(ROWS))]
    else:
        rows = Rows(dataset, "train").__getitems__(list(range(min(ROWS, len(dataset)))))
    batch = replace(run.collator, on_error="skip")(rows)
    keys = [key for name in names for key in modality_of(name).inputs if key in batch]
    if not keys:
        return None
    inputs = {key: batch[key].to(run.accelerator.device) for key in keys}
    indices: dict[str, Any] = {name: batch.get(f"{name}_index") for name in names}
    training = run.model.training
    run.model.eval()  # no dropout: the same work, without random numbers
    seconds: list[float] = []
    levels: list[torch.Tensor] = []
    try:
        with torch.random.fork_rng(devices=[]):
            for backward in (False, False, True):  # the first one only warms up
                began = time.perf_counter()
                with nullcontext() if backward else torch.no_grad():
                    states = run.model.base_model.encode(indices, **inputs)
                    levels = [level for name in names for level in states[name].levels]
                    if backward and levels:
                        torch.autograd.backward([level.sum() for level in levels])
                seconds.append(time.perf_counter() - began)
    finally:
        run.model.zero_grad(set_to_none=True)
        run.model.train(training)
    return (seconds[2], seconds[1]) if levels else None
