"""What train.py and finetune.py share before they train: the arguments checked, the run's folder claimed, the data
looked at, the model built."""

import os
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, ProjectConfiguration, gather_object, set_seed
from datasets import Dataset, IterableDataset, List
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

from .. import (
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionForCTC,
    MMFusionForMultiTask,
    MMFusionForQuestionAnswering,
    MMFusionForRetrieval,
    MMFusionPreTrainedModel,
    MMFusionProcessor,
)
from ..adapters import add_lora, merge_lora
from ..checkpoints import list_checkpoints
from ..data import (
    BadRowError,
    BadRows,
    CacheTooLargeError,
    Columns,
    FeatureCache,
    MultimodalCollator,
    Rows,
    classes_to_write,
    data_root_of,
    describe,
    label_statistics,
    labels_of,
    letter_tokenizer,
    load_splits,
    names_of_classes,
    normalise_labels,
    summary_lines,
    word_tokenizer,
)
from ..data.column_types import STRINGS, count_values
from ..data.decoding import find_picture
from ..data.files_read import cache_folder, files_of
from ..data.loading import SOURCE_ROW, rows_by_path
from ..models.configuration_mm_fusion import PRETRAINED_MODALITIES, part_of_composite
from ..models.ctc_mm_fusion import CTC
from ..models.finite import is_code, kind_of_texts, read_number
from ..models.generation_mm_fusion import GENERATION
from ..models.losses import count_labels
from ..models.names import did_you_mean
from ..models.probing import longest_text
from ..models.recurrent import RecurrentConfig
from ..models.series import SeriesScaler, as_steps, has_no_steps
from ..models.tabular import TableSchema, TabularConfig
from .arguments import (
    DataArguments,
    ModelArguments,
    parse_arguments,
)
from .checks import check_arguments
from .fingerprint import Fingerprint, frozen_sources
from .run import RETRIEVAL, Run
from .run_folder import claim_run_folder, is_begun, read_recipe_of, read_rows_of
from .same_data import check_same_data
from .start import Start, given_keys, open_start
from .start_parts import keep_start, processor_from


HEADS: dict[str, type[MMFusionPreTrainedModel]] = {
    "question_answering": MMFusionForQuestionAnswering,
    "classification": MMFusionForClassification,
    "multi_task": MMFusionForMultiTask,
    RETRIEVAL: MMFusionForRetrieval,
    GENERATION: MMFusionForConditionalGeneration,
    CTC: MMFusionForCTC,
}
AS_WRITTEN = "as written"  # what rows.json says of runs that read cells so
# Of a stream, whose rows are not known before they come, the first ones tell what its numbers are like.
FITTED_ROWS = 1000
OWN_TOKENIZERS = {"letters": letter_tokenizer, "words": word_tokenizer}


def set_up(description: str, script: str, words: list[str] | None = None) -> Run | None:
    """Reads the command line, looks at the data, says what it understood, and builds the model.

    Args:
        description: of the script.
        script: its name.
        words: in place of those of the command line.

    Returns:
        the run; None where this very run is complete already.
    """
    name, model_args, data_args, train_args = parse_arguments(description, words)
    output_dir = Path(train_args.output_dir or Path("runs", name))
    start = None
    if model_args.init_from is not None:
        start = open_start(model_args, data_args, output_dir, train_args.overwrite_output_dir, given_keys(words))
    check_arguments(script, model_args, data_args, train_args)
    accelerator = Accelerator(
        mixed_precision=train_args.mixed_precision,
        log_with=None if train_args.report_to == "none" else train_args.report_to,
        project_config=ProjectConfiguration(str(output_dir), logging_dir=str(output_dir)),
    )
    if script == "train.py" and accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError(
            f"train.py keeps whole weights on every process, and {accelerator.distributed_type.value} cuts them up: "
            "start finetune.py with this configuration."
        )
    if train_args.gradient_modulation and accelerator.distributed_type in (
        DistributedType.FSDP,
        DistributedType.DEEPSPEED,
    ):
        raise ValueError(
            f"gradient_modulation needs whole gradients, which {accelerator.distributed_type.value} cuts."
        )
    if train_args.fp16 and accelerator.device.type == "cpu":
        raise ValueError("fp16 is true, but there is no GPU: on the CPU use bf16.")
    logging.disable_progress_bar()  # of loading weights: seconds
    if is_begun(output_dir) and not train_args.overwrite_output_dir:  # an older run goes on as it began
        begun = read_recipe_of(output_dir).get("defaults_version", train_args.defaults_version)
        train_args.defaults_version = min(begun, train_args.defaults_version)
    recipe = {"script": script, "num_processes": accelerator.num_processes}
    recipe |= {**vars(model_args), **vars(data_args), **vars(train_args)}
    overwrite, allow_changes = train_args.overwrite_output_dir, train_args.allow_changes
    if not claim_run_folder(accelerator, output_dir, recipe, overwrite, allow_changes):
        return None

    columns = Columns(
        image=data_args.image_column,
        image_id=data_args.image_id_column,
        text=data_args.text_column,
        audio=data_args.audio_column,
        video=data_args.video_column,
        table=data_args.table_columns or [],
        series=data_args.series_column,
        label=data_args.label_column,
        kind=data_args.kind_column,
        weight=data_args.weight_column,
    )
    as_written = train_args.defaults_version > 1 and reads_as_written(output_dir)
    to_write = columns.labels if model_args.task in (GENERATION, CTC) else []
    with accelerator.local_main_process_first():  # the others find what it prepared
        loaded = load_parts(data_args, columns, train_args.seed, as_text=to_write, as_written=as_written)
    splits = loaded
    without_classes = model_args.task in (RETRIEVAL, GENERATION, CTC)
    names, problem_type = ({}, {}) if without_classes else labels_by_column(splits, columns, data_args)
    splits = normalise_labels(splits, names) if names else splits
    label2id: dict[str, Any] = {
        column: {label: number for number, label in enumerate(found)} if found else None
        for column, found in names.items()
    }
    if model_args.task in (GENERATION, CTC):
        problem_type, label2id = GENERATION, classes_to_write(splits["train"].features, columns.label)
        names = None if label2id is None else list(label2id)
        splits = normalise_labels(splits, {columns.label: names}) if names else splits
    elif model_args.task == RETRIEVAL:
        names, problem_type, label2id = None, RETRIEVAL, None
    elif not isinstance(columns.label, list):
        names, problem_type, label2id = (found[columns.label] for found in (names, problem_type, label2id))
    run = Run(
        name,
        output_dir,
        accelerator,
        model_args,
        data_args,
        train_args,
        columns,
        splits,
        label2id,
        problem_type,
        processor=build_processor(model_args, data_args, splits, as_written, train_args.defaults_version, start),
        bad_rows=BadRows(data_args.max_bad_fraction, data_args.on_error),
        start=start,
    )
    if run.transcribes and run.processor.tokenizer is None:
        run.processor.tokenizer = build_tokenizer(run, names)
    rows = {part: len(dataset) for part, dataset in splits.items() if isinstance(dataset, Dataset)}
    data = {"rows": rows, "classes": names} | ({"cells": AS_WRITTEN} if as_written else {})
    root = data_root_of(data_args.dataset, data_args.data_root)
    fingerprint = partial(
        Fingerprint, loaded, columns, data_args.dataset, root, run.processor, frozen_sources(model_args)
    )
    check_same_data(accelerator, output_dir, recipe, data, fingerprint, allow_changes)
    run.say(
        f"{accelerator.num_processes} process(es) on {accelerator.device}, {torch.get_num_threads()} threads each\n"
        f"{data_args.dataset}:"
    )
    if accelerator.is_main_process:
        tokenizer = run.processor.tokenizer if columns.text or run.writes else None
        run.say("\n".join(summary_lines(describe(splits, columns, names, problem_type, tokenizer, root))))
        for line in lines_of_table(splits, data_args) if as_written else []:
            run.say(line)
    table_names = names_of_classes(splits["train"].features, columns.table)
    for part, dataset in splits.items():
        if names_of_classes(dataset.features, columns.table) != table_names:
            raise ValueError(
                f"The classes of the table_columns of part {part!r} are not those of train: {table_names}."
            )
    run.collator = MultimodalCollator(
        run.processor,
        columns,
        label2id,
        problem_type,
        on_error=data_args.on_error,
        root=root,
        max_target_length=None if run.transcribes else model_args.max_target_length,
        target_end=not run.transcribes,
        pair_ids=run.searches,
        num_frames=model_args.num_frames,
        table_names=table_names,
    )
    check_rows(run)

    losses = [loss_arguments(task, bool(run.tasks)) for task in run.alone()]
    if start is not None:
        set_seed(train_args.seed)
        if accelerator.is_main_process:
            keep_start(start, run, head_of(run), head_arguments(run, losses))
        accelerator.wait_for_everyone()
        run.say("\n".join([f"started from {start.source}:", *(f"  {line}" for line in start.lines)]))
    # The same seed on every process: all start from the same weights.
    set_seed(train_args.seed)
    run.build = partial(build_model, run, losses=losses)
    run.model = run.build().to(accelerator.device)
    trainable, total = (
        sum(p.numel() for p in run.model.parameters() if p.requires_grad or count_all) / 1e6
        for count_all in (False, True)
    )
    run.say(f"{type(run.model).__name__}: {total:.1f} M parameters, {trainable:.2f} M of them train")
    run.collator = replace(run.collator, cache=build_cache(run))
    return run


def reads_as_written(output_dir: Path) -> bool:
    """Whether a run reads cells as they are written (see `read_csv`): not where it began before that was so, and would
    otherwise find other classes and columns when it goes on."""
    file = output_dir / "rows.json"
    if not file.exists() or not list_checkpoints(output_dir):
        return True
    return read_rows_of(output_dir).get("cells") == AS_WRITTEN


def load_parts(
    data_args: DataArguments, columns: Columns, seed: int, as_text: list[str], as_written: bool
) -> dict[str, Dataset | IterableDataset]:
    """Training, validation and test part; of a stream, the latter two are stored on disk first. For `as_text` and
    `as_written` see `load_splits`."""
    splits = load_splits(
        data_args.dataset,
        columns,
        data_root=data_args.data_root,
        streaming=data_args.streaming,
        validation_fraction=data_args.validation_fraction,
        test_fraction=data_args.test_fraction,
        group_column=data_args.group_column,
        seed=seed,
        as_text=as_text,
        measured=True,
        as_written=as_written,
    )
    missing = {"train", "validation", "test"} - set(splits)
    if missing:
        raise ValueError(
            f"{data_args.dataset} needs the parts train, validation and test; it has {list(splits)}. "
            "validation_fraction and test_fraction cut them from train."
        )
    parts = {name: splits[name] for name in ("train", "validation", "test")}
    for name, part in parts.items():
        if name != "train" and isinstance(part, IterableDataset):
            cache = cache_folder(files_of(data_args.dataset))
            parts[name] = Dataset.from_generator(partial(iter, part), features=part.features, cache_dir=cache)
    return parts


def labels_by_column(
    splits: dict[str, Dataset | IterableDataset], columns: Columns, data_args: DataArguments
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each column of labels means: the names of its classes, and the problem type.

    Raises:
        ValueError: see `labels_of`; a problem type for a column that holds no labels.
    """
    asked = data_args.problem_type
    asked = dict(asked) if isinstance(asked, dict) else dict.fromkeys(columns.labels, asked)
    if unknown := set(asked) - set(columns.labels):
        meant = did_you_mean(sorted(unknown)[0], columns.labels)
        raise ValueError(
            f"problem_type names {sorted(unknown)}, but the columns of labels are {columns.labels}.{meant}"
        )
    found = {column: labels_of(splits, column, asked.get(column)) for column in columns.labels}
    for column, (classes, _) in found.items():
        if classes is not None and len(classes) == 1:
            raise ValueError(
                f"Column {column!r} has a single class, {classes[0]!r}: there is nothing to learn. Name another label."
            )
    names = {column: classes for column, (classes, _) in found.items()}
    return names, {column: problem_type for column, (_, problem_type) in found.items()}


def check_rows(run: Run):
    """Looks at every label, text and path of a picture, so that a bad one stops the run before the training and not
    after it. What a picture holds is seen when it is read."""
    bad: list[BadRowError] | None = [] if run.data_args.on_error == "skip" else None
    for split, dataset in run.splits.items():
        if isinstance(dataset, IterableDataset):
            continue
        for alone in [] if run.searches else run.alone():
            if count_labels(alone.labels(split)) == 0:
                raise ValueError(f"No row of split {split!r} has a label in column {alone.columns.label!r}.")
        parts = run.collator.parts
        for modality, columns in {**parts, "tabular": run.columns.table, "vision": [], "audio": []}.items():
            for row in run.all_rows(split, columns) if columns else []:
                run.collator.item_keys(row, modality, bad)
        for column in run.columns.files:
            if isinstance(dataset.features[column], List):  # the pictures of videos are looked at when they are read
                continue
            for row in rows_by_path(dataset, split, column):
                try:
                    find_picture(row, column, run.collator.root)
                except BadRowError as error:
                    if bad is None:
                        raise
                    bad.append(error)
    run.note_bad_rows([error.entry for error in bad or []])


def loss_arguments(run: Run, among_others: bool = False) -> dict[str, Any]:
    """What the recipe asks of the loss of a run with one task, as the model's config takes it. Of a regression among
    other tasks it asks for nothing but the scale of its labels."""
    args = run.train_args
    if run.searches:
        return {}
    losses: dict[str, Any] = {}
    if run.problem_type == "regression" and args.defaults_version > 1:
        losses |= label_statistics(run.labels("train", FITTED_ROWS))
    if among_others and run.problem_type == "regression":
        return losses
    losses["label_smoothing"] = args.label_smoothing_factor
    if args.imbalance == "focal_loss":
        losses["focal_gamma"] = args.focal_gamma
    if args.imbalance in ("class_weights", "logit_adjustment"):
        if run.problem_type != "single_label_classification":
            raise ValueError(f"imbalance {args.imbalance} is for one label a row; the problem is {run.problem_type}.")
        labels = run.labels("train")
        counts = labels[labels != -100].bincount(minlength=len(run.label2id)).clamp(min=1).double()
        if args.imbalance == "class_weights":
            losses["class_weights"] = (counts.sum() / (len(counts) * counts)).tolist()
        else:
            losses["class_priors"] = (counts / counts.sum()).tolist()
    return losses


def texts_of_table(splits: Any, data_args: DataArguments) -> dict[str, Counter]:
    """By column of the table that holds texts, and is not named in `category_columns`, how often each comes, in all
    parts."""
    found = {}
    for name in sorted(set(data_args.table_columns or []) - set(data_args.category_columns or [])):
        parts = [part for part in splits.values() if getattr(part.features[name], "dtype", None) in STRINGS]
        if parts:
            found[name] = sum((count_values(part, name) for part in parts), Counter())
    return found


def lines_of_table(splits: Any, data_args: DataArguments) -> list[str]:
    """What the texts of a table are taken for, where that is not plain to see, for the terminal."""
    lines = []
    for name, counts in texts_of_table(splits, data_args).items():
        spelled = sum(count for text, count in counts.items() if read_number(text) is not None and not is_code(text))
        if kind_of_texts(counts) == "numbers":
            lines.append(
                f"  table     {name} is read as numbers; what is none makes a bad row (else: category_columns)"
            )
        elif 2 * spelled > counts.total():
            of_all = f"{spelled:,} of {counts.total():,} values"
            lines.append(f"  table     {name} is read as categories, though {of_all} are texts that spell numbers")
        else:
            known = count_values(splits["train"], name)
            once = sum(count for count in known.values() if count == 1)
            if 2 * once > known.total():
                lines.append(
                    f"  table     {name}: {once:,} of {known.total():,} training values come once, and tell nothing: "
                    "they are unknown categories (dates and ids are not read as numbers)"
                )
    return lines


def build_processor(
    model_args: ModelArguments,
    data_args: DataArguments,
    splits: Any,
    as_written: bool,
    defaults_version: int,
    start: Start | None = None,
) -> MMFusionProcessor:
    """The encoders' own processors, with the sizes that the recipe asks for, and what the columns of the table and the
    channels of time series are like in the training part. Bad values of these are passed over: `check_rows` tells
    them. Of a run that starts from a checkpoint, the processor of that, as far as it fits."""
    encoders = {name: getattr(model_args, f"{name}_encoder") for name in PRETRAINED_MODALITIES}
    schema, train = None, splits["train"]
    if data_args.table_columns:
        names = names_of_classes(train.features, data_args.table_columns)
        table: dict[str, list] = {name: train[name][:] for name in data_args.table_columns}
        for name, classes in names.items():
            table[name] = [None if number in (None, -1) else classes[number] for number in table[name]]
        texts = texts_of_table(splits, data_args) if as_written else {}
        schema = TableSchema.fit(
            table,
            data_args.category_columns or (),
            numbers=[name for name, counts in texts.items() if kind_of_texts(counts) == "numbers"],
            on_error="skip",
            as_before=not as_written,
        )
    scaler = fit_series(train, data_args) if data_args.series_column else None
    background = model_args.image_background or ("white" if defaults_version > 1 else None)
    if start is not None:
        return processor_from(start, model_args, data_args, schema, scaler, background)
    processor = MMFusionProcessor.from_encoders_pretrained(
        **encoders,
        decoder=model_args.decoder,
        max_audio_seconds=model_args.max_audio_seconds,
        image_size=model_args.image_size,
        table_schema=schema,
        series_scaler=scaler,
        image_background=background,
    )
    if data_args.max_text_length is not None:
        longest = data_args.max_text_length
        if model_args.text_encoder is not None:  # nothing is longer than what the encoder can place
            config = part_of_composite(AutoConfig.from_pretrained(model_args.text_encoder), "text")
            longest = min(longest, longest_text(config) or longest)
        processor.tokenizer.model_max_length = longest
    return processor


def fit_series(train: Dataset, data_args: DataArguments) -> SeriesScaler:
    """What the channels of the time series are like. Rows of another number of channels than most are bad ones, which
    `check_rows` tells.

    Raises:
        BadRowError: a row that holds no series, where bad rows are not skipped.
        ValueError: no row has one.
    """
    column = data_args.series_column
    rows = Rows(train.select_columns([column, *({SOURCE_ROW} & set(train.column_names))]), "train")
    found = []
    for start in range(0, len(rows), 1000):
        for row in rows.__getitems__(range(start, min(start + 1000, len(rows)))):
            try:
                if not has_no_steps(row[column]):
                    found.append(as_steps(row[column]))
            except ValueError as error:
                if data_args.on_error == "raise":
                    raise BadRowError(row, column, str(error)) from None
    channels = Counter(values.shape[1] for values in found).most_common(1)
    return SeriesScaler.fit(values for values in found if values.shape[1] == channels[0][0])


def build_tokenizer(run: Run, names: list[str] | None) -> Any:
    """The tokens that CTC writes in, where there is no text encoder.

    Args:
        run: the run.
        names: of the classes that are written, None where the rows have texts.
    """
    asked = run.model_args.tokenizer or "letters"
    if asked not in OWN_TOKENIZERS:
        return AutoTokenizer.from_pretrained(asked)
    texts = run.splits["train"][run.columns.label][:]
    if names is not None:
        texts = [names[number] for number in texts if number is not None and number >= 0]
    if strange := [text for text in texts if text is not None and not isinstance(text, str)]:
        raise ValueError(f"label_column {run.columns.label!r} holds {strange[0]!r}, and ctc writes texts.")
    return OWN_TOKENIZERS[asked]([text for text in texts if isinstance(text, str)])


def head_arguments(run: Run, losses: list[dict[str, Any]]) -> dict[str, Any]:
    """What the head answers, as the model's config takes it.

    Args:
        run: the run.
        losses: `loss_arguments` of each of its tasks.
    """
    args = run.model_args
    if run.searches:
        return {"projection_dim": args.projection_dim, "matching_weight": args.matching_weight}
    if run.transcribes:
        tokenizer = run.processor.tokenizer
        size = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        return {**size, "ctc_stride": run.model_args.ctc_stride}
    if run.writes:
        keys = ("decoder", "decoder_layers", "freeze_decoder_embeddings")
        return {**{key: getattr(args, key) for key in keys}, **losses[0]}
    if not run.tasks:
        labels: dict[str, Any] = {"num_labels": 1}
        if run.label2id is not None:
            id2label = {number: name for name, number in run.label2id.items()}
            labels = {"id2label": id2label, "label2id": run.label2id, "num_labels": len(id2label)}
        return {"problem_type": run.problem_type, **losses[0], **labels}
    weights = run.model_args.task_weights or {}
    if unknown := set(weights) - set(run.tasks):
        meant = did_you_mean(sorted(unknown)[0], run.tasks)
        raise ValueError(f"task_weights names {sorted(unknown)}, but the columns of labels are {run.tasks}.{meant}")
    tasks = {}
    for task, settings in zip(run.alone(), losses):
        name = task.columns.label
        tasks[name] = {"problem_type": task.problem_type, "weight": weights.get(name, 1.0), **settings}
        tasks[name] |= {} if task.label2id is None else {"labels": list(task.label2id)}
    return {"tasks": tasks, "task_weighting": run.model_args.task_weighting}


def head_of(run: Run) -> type[MMFusionPreTrainedModel]:
    """The class of the recipe's model."""
    seen = run.columns.image or run.columns.video
    answers = seen and run.columns.text and run.problem_type == "single_label_classification"
    task = run.model_args.task or ("question_answering" if answers else "classification")
    return HEADS["multi_task" if run.tasks else task]


def build_model(run: Run, losses: list[dict[str, Any]]) -> MMFusionPreTrainedModel:
    """The recipe's model as it starts; arguments as for `head_arguments`."""
    args = run.model_args
    if run.start is not None:
        given = {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
        model = run.start.load(**given)
    else:
        model = build_fresh(run, losses)
    if run.writes and not run.transcribes:
        model.generation_config.update(max_new_tokens=args.max_target_length, num_beams=args.num_beams)
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if args.lora is not None:
        add_lora(model, args.lora, rank=args.lora_rank, alpha=args.lora_alpha, dropout=args.lora_dropout)
    return model


def build_fresh(run: Run, losses: list[dict[str, Any]]) -> MMFusionPreTrainedModel:
    """The recipe's model of pretrained encoders, with fresh fusion and head; arguments as for `head_arguments`."""
    args = run.model_args
    schema, scaler, width = run.processor.table_schema, run.processor.series_scaler, args.fusion_hidden_size or 64
    own: dict[str, Any] = {}  # encoders that start from nothing
    if schema is not None:
        own["tabular_config"] = TabularConfig.from_schema(schema, hidden_size=width)
    if scaler is not None:
        own["series_config"] = RecurrentConfig(
            rnn_type=args.series_rnn_type, input_size=scaler.channels, hidden_size=width
        )
    return head_of(run).from_encoders_pretrained(
        **{name: getattr(args, f"{name}_encoder") for name in PRETRAINED_MODALITIES},
        **own,
        max_audio_seconds=args.max_audio_seconds,
        image_size=args.image_size,
        try_encoders=run.train_args.defaults_version > 1,
        fusion=args.fusion,
        fusion_module_config={
            "hidden_size": args.fusion_hidden_size,
            "num_hidden_layers": args.fusion_layers,
            "num_attention_heads": args.fusion_heads,
            "hidden_dropout_prob": args.fusion_dropout,
            "modality_dropout": args.modality_dropout,
            "memory_layers": args.memory_layers,
            "distance_bias": args.distance_bias,
            "num_latents": args.num_latents,
            **({} if run.train_args.defaults_version > 1 else {"output_norm": False, "query_modality": None}),
        },
        vision_feature_layer=args.vision_feature_layer,
        vision_feature_join=args.vision_feature_join,
        pooling={"text": args.text_pooling} if args.text_pooling else None,
        freeze_encoders=args.freeze_encoders,
        trained_layers=args.trained_layers,
        classifier_dropout=args.classifier_dropout,
        num_images=max(1, len(run.collator.parts["vision"])),
        **({"attn_implementation": args.attn_implementation} if args.attn_implementation else {}),
        mixup_alpha=run.train_args.mixup_alpha,
        **head_arguments(run, losses),
    )


def merge_adapters(run: Run, model: MMFusionPreTrainedModel):
    """Takes low-rank adapters into the weights, so that the checkpoint is an ordinary one."""
    if run.model_args.lora is not None:
        merge_lora(model)


def build_cache(run: Run) -> FeatureCache | None:
    """Encodes every distinct item of the frozen encoders once; None where that is not asked for or would not fit."""
    changing = {
        "vision": bool(run.data_args.augment),
        "text": run.data_args.token_dropout > 0,
        "audio": run.data_args.speed_perturbation > 0,
    }
    modalities = [name for name in run.model.config.frozen_encoders if not changing.get(name)]
    if not run.data_args.cache_features or run.data_args.streaming or not modalities:
        return None
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    cache = FeatureCache(run.model.base_model.eval(), processes=local_processes, on_error=run.data_args.on_error)
    rows = {split: Rows(dataset, split) for split, dataset in run.splits.items()}

    def prepare(modality, places):
        chosen = [rows[split][row] for split, row, _ in places]
        return run.collator.prepare_items(modality, chosen, [column for _, _, column in places])

    for modality in modalities:
        items = {}  # where each item is found: the pictures themselves would fill the memory
        for split, part in rows.items():
            for start in range(0, len(part), 1000):
                for row in part.__getitems__(range(start, min(start + 1000, len(part)))):
                    for key, column in zip(run.collator.item_keys(row, modality), run.collator.parts[modality]):
                        if key is not None:
                            items.setdefault(key, (split, row["row_id"], column))
        too_large = ""
        try:
            cache.fill(modality, items.items(), partial(prepare, modality), progress=run.accelerator.is_main_process)
        except CacheTooLargeError as error:
            too_large = str(error)
        if any(reasons := gather_object([too_large])):  # free memory differs: all processes do as one must
            run.say(f"features are not kept: {next(filter(None, reasons))}")
            cache.drop(modality)
    return cache if cache.modalities else None
