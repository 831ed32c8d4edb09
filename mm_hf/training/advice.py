"""Advice before a run begins: what training costs without a GPU, and what it costs to train encoders there."""

import time
from contextlib import nullcontext
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from datasets import IterableDataset

from ..data import Rows
from ..data.modalities.text import LOOKED_AT
from ..data.rows import SOURCE_ROW
from ..models.modality import modality_of
from ..models.modeling_outputs import EncoderStates
from ..models.text import UNKNOWN_LENGTH
from .run import Run


FEW_ROWS = 500
ROWS = 4  # the encoders are timed on so many rows: enough for a ratio, and a few seconds at most at base size


def advise_on_freezing(run: Run):
    """Says what `--freeze_encoders true` would save. Says nothing if there is a GPU, or if no pretrained encoder
    trains as a whole. The encoders are timed on the first rows of the training part: once with forward and backward
    (training), once with forward only (frozen). Weights, gradients and random numbers do not change."""
    names = training_encoders(run)
    if run.accelerator.device.type != "cpu" or not run.accelerator.is_main_process or not names:
        return
    of_encoders = sum(p.numel() for name in names for p in run.model.base_model.encoders[name].parameters())
    total = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    run.say(
        f"There is no GPU. {of_encoders / 1e6:.2f} M of the {total / 1e6:.2f} M trainable parameters are in the "
        f"pretrained encoders ({', '.join(names)})."
    )
    seconds = seconds_of_encoders(run, names)
    if seconds is not None:
        both, forward = seconds
        run.say(
            f"Timed once on {ROWS} rows: forward and backward take {both:.2g} s, and forward alone {forward:.2g} s. "
            f"Training these encoders takes {both / forward:.1f} times as long as running them."
        )
    words = "--freeze_encoders true saves their backward pass in every step"
    if run.data_args.cache_features and not run.data_args.streaming:
        words += ". It also saves their forward pass: --cache_features keeps features, so each item is encoded once"
    run.say(f"{words}. Only a run shows how this changes the score.")


def advise_on_folds(run: Run):
    """Suggests `--folds` where there are few rows."""
    dataset, test = run.splits["train"], run.splits.get("test")
    if run.data_args.folds is not None or isinstance(dataset, IterableDataset) or test is None:
        return
    if len(dataset) < FEW_ROWS and SOURCE_ROW in test.column_names and not run.searches:
        run.say(
            f"There are only {len(dataset):,} training rows, and a score on {len(test):,} test rows is rough. "
            "--folds 5 measures all rows, each by a model that was not trained on it. It takes about five times as "
            "long."
        )


def advise_on_long_texts(run: Run):
    """Says how many of the first training texts are longer than the encoder can read, and what happens to them."""
    dataset, tokenizer = run.splits["train"], run.processor.tokenizer
    if isinstance(dataset, IterableDataset) or tokenizer is None or not run.accelerator.is_main_process:
        return
    limit = tokenizer.model_max_length
    for column in run.columns.texts if limit < UNKNOWN_LENGTH else []:
        texts = [text for text in dataset.select(range(min(LOOKED_AT, len(dataset))))[column] if isinstance(text, str)]
        long = [text for text in texts if len(text) > limit // 4]  # one token may be several letters
        lengths = [len(ids) for ids in tokenizer(long, verbose=False)["input_ids"]] if long else []
        if over := sum(length > limit for length in lengths):
            windows = run.processor.text_windows
            become = f"become up to {windows} windows" if windows else "are cut; --long_text windows reads them whole"
            run.say(f"{over:,} of {len(texts):,} texts in {column!r} have more than {limit} tokens. They {become}")


def training_encoders(run: Run) -> list[str]:
    """The modalities whose pretrained encoder trains as a whole: without adapters, and not only its top layers."""
    whole = []
    for name in (name for name in run.model.config.modalities if modality_of(name).pretrained):
        parameters = list(run.model.base_model.encoders[name].parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        if 2 * trained > sum(p.numel() for p in parameters):
            whole.append(name)
    return whole


def seconds_of_encoders(run: Run, names: list[str]) -> tuple[float, float] | None:
    """Seconds of forward and backward, and of forward alone, through some encoders. None if the first rows have no
    items for them."""
    batch = first_batch(run)
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
            for backward in (False, False, True):  # the first pass only warms up
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


def first_batch(run: Run) -> dict[str, Any]:
    """The first `ROWS` rows of the training part as a batch. Bad rows are left out."""
    dataset = run.splits["train"]
    if isinstance(dataset, IterableDataset):
        rows = [{**row, "row_id": number, "split": "train"} for number, row in enumerate(dataset.take(ROWS))]
    else:
        rows = Rows(dataset, "train").__getitems__(list(range(min(ROWS, len(dataset)))))
    return replace(run.collator, on_error="skip")(rows)


def say_estimate(run: Run):
    """Says how long an epoch will take without a GPU. The time is measured on a few rows, with the cached features.
    Says nothing if there is a GPU, a stream, or an encoder that trains. All processes call it, because the loss of a
    search exchanges pairs between them."""
    part = run.splits["train"]
    trains = set(training_encoders(run))
    if run.accelerator.device.type != "cpu" or isinstance(part, IterableDataset) or trains:
        return
    args = run.train_args
    encoding, stepping = seconds_of_a_step(run, args.per_device_train_batch_size)
    batches = -(-len(part) // (args.per_device_train_batch_size * run.world_size))
    epoch = batches * stepping + encoding * len(part)
    epochs = (
        args.max_steps * args.gradient_accumulation_steps / batches if args.max_steps > 0 else args.num_train_epochs
    )
    quicker = "" if args.preset == "fast" else "--preset fast, "
    run.say(
        f"timed on {ROWS} rows: an epoch of {batches:,} batches takes about {duration(epoch)}, and {epochs:g} epochs "
        f"take about {duration(epochs * epoch)}; evaluation takes more time. Quicker: {quicker}--max_train_seconds "
        "300."
    )


def seconds_of_a_step(run: Run, size: int) -> tuple[float, float]:
    """Two times: seconds to load one row and to encode what is not cached of it, and seconds of forward and backward
    of one batch on top of the encoders. Weights, gradients and random numbers do not change."""
    model, training = run.model, run.model.training
    warned = set(model.base_model.warned_of)  # the model warns of states without a gradient; here that is intended
    model.base_model.warned_of |= set(model.config.modalities)
    model.eval()  # no dropout: the same work, without random numbers
    asked = {"return_loss": True} if "return_loss" in signature(model.forward).parameters else {}
    try:
        with torch.random.fork_rng(devices=[]):
            first_batch(run)  # warms up
            began = time.perf_counter()
            batch = first_batch(run)
            kinds = [modality_of(name) for name in model.config.modalities]
            indices: dict[str, Any] = {kind.name: batch.pop(kind.index_name, None) for kind in kinds}
            inputs = {key: batch.pop(key) for kind in kinds for key in kind.inputs if key in batch}
            states = {
                name: state if indices.get(name) is None else replace(state, index=indices[name])
                for name, state in batch.pop("encoder_states", {}).items()
            }
            if len(states) < len(kinds):
                with torch.no_grad():
                    states = model.base_model.encode(indices, encoder_states=states, **inputs)
            encoding = (time.perf_counter() - began) / ROWS
            copies = max(1, size // ROWS)
            states = {name: repeated_states(state, copies) for name, state in states.items()}
            others = ("row_ids", "bad_rows")
            batch = {key: repeated(value, copies) for key, value in batch.items() if key not in others}
            seconds = 0.0
            for _ in range(2):  # the first pass only warms up
                began = time.perf_counter()
                model(encoder_states=states, **batch, **asked).loss.backward()
                seconds = time.perf_counter() - began
    finally:
        model.base_model.warned_of = warned
        model.zero_grad(set_to_none=True)
        model.train(training)
    return encoding, seconds


def repeated(value: Any, copies: int) -> Any:
    """Repeats tensors that have one entry per row: a tensor, or a dict of tensors."""
    if isinstance(value, dict):
        return {key: repeated(part, copies) for key, part in value.items()}
    return value.repeat(copies, *[1] * (value.ndim - 1)) if isinstance(value, torch.Tensor) and value.ndim else value


def repeated_states(states: EncoderStates, copies: int) -> EncoderStates:
    """Repeats the items of encoder states. Each copy is used by its own rows."""
    if states.levels is None:
        return EncoderStates(index=repeated(states.index, copies))
    items, index = states.count(), states.index
    if index is None:
        index = torch.arange(items)
    index = torch.cat([torch.where(index < 0, index, index + copy * items) for copy in range(copies)])
    levels = tuple(repeated(level, copies) for level in states.levels)
    return EncoderStates(levels=levels, mask=repeated(states.mask, copies), index=index)


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours, for people."""
    return (
        f"{seconds:.2g} s"
        if seconds < 100
        else f"{seconds / 60:.2g} min"
        if seconds < 6000
        else f"{seconds / 3600:.2g} h"
    )
