"""Opens a run: reads and checks the recipe, claims the folder, loads the data, builds the model."""

from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, ProjectConfiguration, set_seed
from datasets import Dataset, IterableDataset
from transformers.utils import logging

from ..data import BadRowError, BadRows, MultimodalCollator, data_root_of, describe, names_of_classes, summary_lines
from ..data.modalities import READERS
from ..models.modality import modality_of
from ..tasks import by_column, task_of_head
from .advice import advise_on_folds, advise_on_freezing, advise_on_long_texts, say_estimate
from .build import build_model, build_processor, fit_settings, head_arguments, head_of, with_other_refusals
from .by_modality import check_values_used
from .calibrate import check_calibration
from .checks import check_arguments
from .exits import goes_on_in
from .features import build_cache
from .fingerprint import Fingerprint, frozen_sources
from .model_arguments import AUTO
from .presets import settings_for, take_over, told
from .recipe import given_keys, parse_arguments, recipe_of
from .run import Run
from .run_folder import CHOSEN, claim_run_folder, is_begun, read_recipe_of
from .same_data import check_same_data
from .search_fusions import TRIED, check_search
from .splits import AS_MEANT, cells_of_run, check_rows, columns_in_use, load_parts, read_labels, seed_of_cut
from .start import open_start
from .start_parts import keep_start
from .train_arguments import TrainArguments
from .understood import understand_columns


def open_run(description: str, script: str, words: list[str] | None = None) -> Run | None:
    """Reads the command line (or `words` in its place), reads the data, prints a summary of it, and builds the model.
    If the folder holds this run already, the run resumes with its first settings. Returns None if that run is
    complete."""
    name, model_args, data_args, train_args = parse_arguments(description, words, f"mm_hf {Path(script).stem}")
    output_dir = Path(train_args.output_dir or Path("runs", name))
    understood = understand_columns(model_args, data_args, output_dir, train_args.overwrite_output_dir)
    start, given = None, given_keys(words)
    if model_args.init_from is not None:
        start = open_start(model_args, data_args, output_dir, train_args.overwrite_output_dir, given)
    check_arguments(script, model_args, data_args, train_args)
    chosen: dict[str, Any] | None = None  # settings chosen for the rows and the machine; a resumed run keeps them
    accelerator = open_accelerator(script, train_args, output_dir)
    logging.disable_progress_bar()  # the bar of loading weights, which takes only seconds
    if not is_begun(output_dir) or train_args.overwrite_output_dir:
        check_values_used(model_args, data_args, train_args)
    else:  # an older run keeps its first settings
        begun = read_recipe_of(output_dir)
        version = begun.get("defaults_version", train_args.defaults_version)
        train_args.defaults_version = min(version, train_args.defaults_version)
        chosen = begun.get(CHOSEN, {})
        take_over({key: value for key, value in chosen.items() if key not in given}, model_args, train_args)
    recipe = {"script": script, "num_processes": accelerator.num_processes, **({CHOSEN: chosen} if chosen else {})}
    recipe |= recipe_of(model_args, data_args, train_args)
    overwrite, allow_changes = train_args.overwrite_output_dir, train_args.allow_changes
    goes_on_in(output_dir)
    if not claim_run_folder(accelerator, output_dir, recipe, overwrite, allow_changes):
        return None
    if accelerator.is_main_process and understood is not None:
        understood.keep(output_dir)

    known = task_of_head(model_args.task)
    writes = known is not None and known.writes
    columns = replace(columns_in_use(data_args), weight=data_args.weight_column)
    cells = cells_of_run(output_dir) if train_args.defaults_version > 1 else None
    untimed: list[BadRowError] | None = [] if data_args.on_error == "skip" else None
    with accelerator.local_main_process_first():  # the other processes then find the prepared files
        to_write = columns.labels if writes else []
        try:
            loaded = load_parts(data_args, columns, seed_of_cut(recipe), as_text=to_write, cells=cells, bad=untimed)
            splits, tasks = read_labels(loaded, columns, data_args, model_args.task, sure=cells == AS_MEANT)
        except ValueError as error:
            refused = with_other_refusals(error, data_args, columns, seed_of_cut(recipe), cells)
            raise refused from error.__cause__  # it may be the error itself
    gpu = accelerator.device.type != "cpu"
    train_rows = None if isinstance(splits["train"], IterableDataset) else len(splits["train"])
    asked_to_choose = train_args.defaults_version > 2 or train_args.preset is not None
    if chosen is None and start is None and asked_to_choose:
        of_task = {key: value for task in tasks for key, value in task.without_gpu.items()}
        chosen = settings_for(train_rows, gpu, model_args, train_args, given, accelerator.num_processes, of_task)
        take_over(chosen, model_args, train_args)
        recipe |= recipe_of(model_args, data_args, train_args) | ({CHOSEN: chosen} if chosen else {})
    searches_fusions = model_args.fusion == AUTO
    if searches_fusions:
        check_search(model_args, data_args, tasks)
        model_args.fusion = TRIED[0]  # a placeholder until the search has found one
    names, label2id, problem_type = (
        by_column(columns, tasks, attrgetter(key)) for key in ("names", "numbers", "problem_type")
    )
    processor = build_processor(model_args, data_args, splits, cells, train_args.defaults_version, start)
    for task in tasks:
        task.prepare(processor, model_args, splits["train"])
    transcribes = any(task.transcribes for task in tasks)
    rows = {part: len(dataset) for part, dataset in splits.items() if isinstance(dataset, Dataset)}
    data = {"rows": rows, "classes": names} | ({"cells": cells} if cells else {})
    root = data_root_of(data_args.source, data_args.data_root)
    fingerprint = partial(
        Fingerprint,
        loaded,
        columns,
        data_args.source,
        root,
        processor,
        frozen_sources(model_args),
        data_args.import_files or (),
    )
    check_same_data(accelerator, output_dir, recipe, data, fingerprint, allow_changes)
    table_names = names_of_classes(splits["train"].features, columns.table)
    run = Run(
        name=name,
        output_dir=output_dir,
        accelerator=accelerator,
        columns=columns,
        splits=splits,
        tasks=tasks,
        generates_validation=train_args.predict_with_generate,
        processor=processor,
        collator=MultimodalCollator(
            processor,
            columns,
            label2id,
            problem_type,
            on_error=data_args.on_error,
            root=root,
            max_target_length=None if transcribes else model_args.max_target_length,
            target_end=not transcribes,
            pair_ids=not any(task.needs_labels for task in tasks),
            num_frames=model_args.num_frames,
            table_names=table_names,
        ),
        bad_rows=BadRows(data_args.max_bad_fraction, data_args.on_error),
        batch_size=train_args.per_device_eval_batch_size,
        num_workers=train_args.dataloader_num_workers,
        model_args=model_args,
        data_args=data_args,
        train_args=train_args,
        start=start,
        searches_fusions=searches_fusions,
    )
    run.say(
        f"{accelerator.num_processes} process(es) on {accelerator.device}, {torch.get_num_threads()} threads each\n"
        f"{data_args.source}:"
    )
    if accelerator.is_main_process:
        tokenizer = processor.tokenizer if columns.text or writes else None
        run.say("\n".join(summary_lines(describe(splits, columns, names, problem_type, tokenizer, root))))
        for modality, reader in READERS.items():
            fitted = processor.part_of(modality_of(modality))
            for line in reader.said_of_fit(splits, columns, part=fitted, **fit_settings(data_args, cells)):
                run.say(line)
    if understood is not None and accelerator.is_main_process:
        for line in understood.look_at_parts(loaded, tasks, columns, root, output_dir):
            run.say(line)
    for part, dataset in splits.items():
        if names_of_classes(dataset.features, columns.table) != table_names:
            raise ValueError(
                f"The classes of the table_columns in part {part!r} differ from those in train: {table_names}. All "
                "parts need the same classes."
            )
    run.note_bad_rows([error.entry for error in untimed or []])
    check_rows(run)
    if train_args.calibrate:
        check_calibration(run)

    losses = [alone.task.loss_arguments(alone, run.several) for alone in run.alone()]
    if start is not None:
        set_seed(train_args.seed)
        if accelerator.is_main_process:
            keep_start(start, run, head_of(run), head_arguments(run, losses))
        accelerator.wait_for_everyone()
        run.say("\n".join([f"started from {start.source}:", *(f"  {line}" for line in start.lines)]))
    # All processes use the same seed, so that they start with the same weights.
    set_seed(train_args.seed)
    run.build = partial(build_model, run, losses=losses)
    run.model = run.build().to(accelerator.device)
    trainable, total = (
        sum(p.numel() for p in run.model.parameters() if p.requires_grad or count_all) / 1e6
        for count_all in (False, True)
    )
    run.say(f"{type(run.model).__name__}: {total:.1f} M parameters, {trainable:.2f} M of them trainable")
    if chosen:
        run.say(told(chosen, gpu, train_rows))
    advise_on_freezing(run)
    advise_on_folds(run)
    advise_on_long_texts(run)
    new = train_args.defaults_version > 2
    run.collator = replace(run.collator, cache=build_cache(run, run.kept_features, data_args, new))
    if chosen:
        say_estimate(run)
    return run


def open_accelerator(script: str, train_args: TrainArguments, output_dir: Path) -> Accelerator:
    """Devices, processes and trackers, as set by the recipe and by `accelerate launch`.

    Raises:
        ValueError: the recipe does not fit the devices or the launcher.
    """
    accelerator = Accelerator(
        mixed_precision=train_args.mixed_precision,
        log_with=None if train_args.report_to == "none" else train_args.report_to,
        project_config=ProjectConfiguration(str(output_dir), logging_dir=str(output_dir)),
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        kind = accelerator.distributed_type.value
        if script == "train.py":
            raise ValueError(
                f"mm_hf train needs the whole weights on every process, but {kind} splits them between processes. Use "
                "mm_hf finetune with this configuration (accelerate launch -m mm_hf.training.finetune)."
            )
        if train_args.gradient_modulation:
            raise ValueError(
                f"gradient_modulation needs whole gradients, but {kind} splits them between processes: leave "
                "gradient_modulation out."
            )
    if train_args.fp16 and accelerator.device.type == "cpu":
        raise ValueError("fp16 is true, but there is no GPU: use bf16 on the CPU.")
    return accelerator
