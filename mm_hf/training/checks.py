"""Checks that the keys of a recipe fit together, before anything is loaded."""

import os
from dataclasses import fields
from typing import Any

from transformers.integrations import get_available_reporting_integrations

from ..data.modalities import reader_of
from ..models.head_table import MULTI_TASK
from ..models.names import did_you_mean
from ..models.tasks import task_head_of
from ..prepare.places import how_to_make
from ..tasks import TASKS, Task, task_of, task_of_head
from .by_modality import (
    DEFAULT,
    check_columns,
    columns_by_modality,
    encoder_of,
    key_in_use,
    listed,
    modalities,
    poolings_of,
    pretrained_modalities,
    usual_key,
)
from .data_arguments import DataArguments
from .default_encoders import default_encoder
from .linear_recipe import settle_linear
from .model_arguments import ModelArguments
from .train_arguments import TrainArguments


def check_arguments(script: str, model_args: ModelArguments, data_args: DataArguments, train_args: TrainArguments):
    """Raises an error if a key is missing or keys do not fit together, and fills in the default encoders. This happens
    before anything is loaded."""
    choose_encoders(model_args, data_args)
    choose_frozen(model_args, data_args)
    settle_linear(model_args, data_args, train_args)
    check_places(model_args, data_args)
    asks, rows_have = model_args.query_modality, list(columns_by_modality(data_args))
    if asks is not None and asks not in rows_have:
        raise ValueError(
            f"query_modality is {asks!r}, but the rows have {rows_have}: name one of them, or leave it out."
            + did_you_mean(asks, rows_have)
        )
    known = task_of_head(model_args.task)
    needed: dict[str, object] = {"dataset": data_args.dataset, **(known or Task).needed(model_args, data_args)}
    named = columns_by_modality(data_args)
    check_columns(data_args)
    for name in pretrained_modalities():
        if encoder_of(model_args, name) is not None:
            needed[usual_key(name)] = named.get(name)
    if not named and not any(encoder_of(model_args, name) for name in pretrained_modalities()):
        needed[" or ".join(dict.fromkeys(map(usual_key, modalities())))] = None
    for key, value in needed.items():
        if not value:
            raise ValueError(f"{key} is missing: give it in the recipe or as --{key.split()[0]}.")
    for group in (model_args, data_args):
        for field in fields(group):
            value, encoder = getattr(group, field.name), field.metadata.get("needs")
            if encoder is not None and value != field.default and getattr(model_args, encoder) is None:
                raise ValueError(
                    f"{field.name} is {value}, but there is no {encoder}: name one, or leave {field.name} out."
                )
    if data_args.image_id_column is not None and data_args.image_id_column in (data_args.image_column or []):
        raise ValueError(
            f"image_id_column is {data_args.image_id_column!r}, which is the column of the pictures: name a column of "
            "ids, or leave it out."
        )
    check_table(data_args, writes=known is not None and known.writes)
    lengths = model_args.text_encoder is not None or (known is not None and known.writes)
    if train_args.train_sampling_strategy == "group_by_length" and not lengths:
        raise ValueError(
            "train_sampling_strategy is group_by_length, but there is no text_encoder: name one, or choose random."
        )
    check_tasks(model_args, data_args, train_args)
    trackers = ["none", *get_available_reporting_integrations()]
    if train_args.report_to not in trackers:
        raise ValueError(f"report_to must be one of the installed trackers, {trackers}, got {train_args.report_to!r}.")
    if script == "finetune.py" and train_args.save_steps not in (None, train_args.eval_steps):
        raise ValueError(
            f"save_steps is {train_args.save_steps}. The Trainer chooses the best model among its checkpoints, so "
            "mm_hf finetune saves after every evaluation (eval_steps). Leave save_steps out, or use mm_hf train, "
            "which can save in between."
        )
    classes = list(dict.fromkeys(head for task in TASKS.values() if not task.by_head for head in task.heads))
    if train_args.gradient_modulation and (train_args.torch_compile or model_args.task not in (None, *classes)):
        raise ValueError(
            f"gradient_modulation needs a task with classes, {classes}, and a model that is not compiled. Here task "
            f"is {model_args.task} and torch_compile is {train_args.torch_compile}."
        )
    if data_args.folds is not None and (data_args.streaming or (known is not None and not known.needs_labels)):
        why = "a stream cannot be split" if data_args.streaming else "a search is measured within the rows of one part"
        raise ValueError(f"folds is {data_args.folds}, but {why}: leave folds out.")
    if data_args.streaming:
        if train_args.max_steps < 1 or train_args.eval_steps is None:
            raise ValueError("A stream has no known end: with streaming, give max_steps and eval_steps.")
        if train_args.imbalance not in (None, "focal_loss") or train_args.train_sampling_strategy != "random":
            raise ValueError(
                "With streaming, rows are not known in advance: imbalance can only be focal_loss, and "
                f"train_sampling_strategy can only be random; got {train_args.imbalance}, "
                f"{train_args.train_sampling_strategy}."
            )


def choose_encoders(model_args: ModelArguments, data_args: DataArguments):
    """Fills in the encoders that are not named, and prints which ones are used."""
    if strange := sorted(set(model_args.encoders or {}) - {*pretrained_modalities()}):
        raise ValueError(
            f"encoders names {strange}, but these encoders start from random weights. Only the encoders of "
            f"{pretrained_modalities()} can be named."
        )
    named = columns_by_modality(data_args)
    for modality in pretrained_modalities():
        key = f"{modality}_encoder"
        if modality in named and encoder_of(model_args, modality) is None:
            encoder, source = default_encoder(modality)
            setattr(model_args, key, encoder)
            if int(os.environ.get("RANK", 0)) == 0:
                print(f"{key} is {encoder}, {source}", flush=True)


def choose_frozen(model_args: ModelArguments, data_args: DataArguments):
    """Makes a list of the frozen encoders where the recipe has a dict, and checks the names in `pooling`."""
    named = [name for name in pretrained_modalities() if name in columns_by_modality(data_args)]
    frozen: Any = model_args.freeze_encoders
    if isinstance(frozen, dict):
        chosen: Any = [name for name in named if frozen.get(name, frozen[DEFAULT])]
        model_args.freeze_encoders = chosen or False
    poolings_of(model_args, list(columns_by_modality(data_args)))


def check_places(model_args: ModelArguments, data_args: DataArguments):
    """Says how to make the encoders and data of the demonstrations if they are not there."""
    places = {f"{name}_encoder": encoder_of(model_args, name) for name in pretrained_modalities()}
    places |= {"decoder": model_args.decoder, "tokenizer": model_args.tokenizer}
    commands = {key: how_to_make(place) for key, place in {**places, "dataset": data_args.dataset}.items()}
    if missing := {key: command for key, command in commands.items() if command is not None}:
        named = ", ".join(f"{key} {places.get(key, data_args.dataset)!r}" for key in missing)
        make = " and ".join(f"`{command}`" for command in dict.fromkeys(missing.values()))
        raise ValueError(f"there is no folder here for {named}. Make it with {make}, or name your own.")


def check_table(data_args: DataArguments, writes: bool = False):
    """Refuses settings that do not fit the columns. If the task `writes` texts, one column of texts may be both input
    and label."""
    columns, labels = data_args.table_columns or [], data_args.label_column or []
    if unknown := sorted(set(data_args.category_columns or []) - set(columns)):
        raise ValueError(
            f"category_columns names {unknown}, but table_columns is {columns}.{did_you_mean(unknown[0], columns)}"
        )
    for name, named in columns_by_modality(data_args).items():
        key, reader = key_in_use(data_args, name), reader_of(name)
        told = sorted(set(named) & set(listed(labels)))
        if told and (reader.needs_all_rows or not (writes or reader.files)):  # a file is no label: its type shows that
            raise ValueError(f"{key} names {told}, which label_column names too: leave it out of {key}.")
        if data_args.streaming and reader.needs_all_rows:
            raise ValueError(
                f"{key} does not work with streaming: its statistics are computed from all training rows. Leave one "
                "of the two out."
            )


def check_tasks(model_args: ModelArguments, data_args: DataArguments, train_args: TrainArguments):
    """Refuses settings that do not work with a search or with several label columns, and those that need these."""
    labels, known = data_args.label_column, task_of_head(model_args.task)
    named = data_args.problem_type
    for problem_type in named.values() if isinstance(named, dict) else [named]:
        if problem_type is not None:
            task_head_of(problem_type, texts=False)  # refuses types that a column of labels cannot have
            task_of(problem_type).check_recipe(model_args, data_args, train_args)
    for task in TASKS.values():
        if task is known:
            task.check_recipe(model_args, data_args, train_args)
        else:
            task.check_others(model_args, train_args)
    if isinstance(labels, list):
        if len(set(labels)) < len(labels):
            raise ValueError(f"label_column names a column twice: {labels}.")
        if model_args.task not in (None, MULTI_TASK):
            raise ValueError(f"task is {model_args.task}, which needs one label_column, got {labels}.")
        if train_args.imbalance == "balanced_sampler":
            raise ValueError(
                f"imbalance is balanced_sampler, which draws rows by one label, but label_column is {labels}: name "
                "one column, or another imbalance."
            )
        return
    several: dict[str, object] = {
        "task_weights": model_args.task_weights,
        "task_weighting": model_args.task_weighting != "fixed",
        f"task {MULTI_TASK}": model_args.task == MULTI_TASK,
    }
    several |= {key: isinstance(getattr(data_args, key), dict) for key in ("weight_column", "problem_type")}
    for key, given in several.items():
        if given:
            raise ValueError(f"{key} by task needs several columns of labels, got label_column {labels!r}.")
