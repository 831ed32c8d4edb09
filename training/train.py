"""Trains a fusion of two encoders with Accelerate, measures it, and leaves one Hub checkpoint.

    python training/train.py training/recipes/easy_vqa.yaml
    accelerate launch training/train.py training/recipes/easy_vqa.yaml --learning_rate 1e-3

A run leaves in its folder the checkpoint (weights, config, processor, code), results.json, curves.png,
predictions.png and the model card, README.md.
"""

import dataclasses
import json
import sys
import time
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device, set_seed
from datasets import DatasetDict
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_scheduler
from transformers.utils import logging


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `accelerate launch training/train.py` puts only training/ on the path

from mm_hf import MMFusionForClassification, MMFusionForQuestionAnswering, MMFusionProcessor  # noqa: E402
from mm_hf.data import (  # noqa: E402
    Columns,
    FeatureCache,
    GroupedBatchSampler,
    MultimodalCollator,
    Rows,
    label_names,
    load_splits,
)
from mm_hf.data.collator import label_tensor  # noqa: E402
from mm_hf.evaluation import classification_metrics, majority_accuracy  # noqa: E402
from mm_hf.models.losses import count_labels  # noqa: E402
from mm_hf.trainer import parameter_groups  # noqa: E402
from training.arguments import DataArguments, ModelArguments, TrainArguments, parse_arguments  # noqa: E402
from training.run_folder import git_commit, hardware, versions, write_run  # noqa: E402


HEADS = {"question_answering": MMFusionForQuestionAnswering, "classification": MMFusionForClassification}


def main():
    """The whole run, from top to bottom."""
    name, model_args, data_args, train_args = parse_arguments(__doc__.split("\n")[0])
    output_dir = Path(train_args.output_dir or ROOT / "runs" / name)
    accelerator = Accelerator(mixed_precision=train_args.mixed_precision)
    logging.disable_progress_bar()  # of loading weights: seconds
    say = partial(print, flush=True) if accelerator.is_main_process else lambda *args: None
    say(f"{accelerator.num_processes} process(es) on {accelerator.device}, {torch.get_num_threads()} threads each")

    # Data
    started = time.perf_counter()
    columns = Columns(
        image=data_args.image_column,
        image_id=data_args.image_id_column,
        text=data_args.text_column,
        label=data_args.label_column,
        kind=data_args.kind_column,
    )
    check_arguments(model_args, data_args)
    splits = load_splits(data_args.dataset, columns)
    missing = {"train", "validation", "test"} - set(splits)
    if missing:
        raise ValueError(f"{data_args.dataset} needs splits train, validation and test; it has {list(splits)}.")
    names = label_names(splits, columns.label)
    label2id = {name: number for number, name in enumerate(names)} if names else None
    problem_type = "single_label_classification" if names else "regression"
    check_labels(splits, columns, label2id, problem_type)
    say(f"{data_args.dataset}: {', '.join(f'{split} {len(rows)}' for split, rows in splits.items())} rows")
    say(f"labels: {names}")

    # Model. The same seed on every process: all start from the same weights.
    build = partial(build_model, model_args, label2id, problem_type)
    set_seed(train_args.seed)
    processor = build_processor(model_args, data_args)
    model = build().to(accelerator.device)
    sizes = [
        sum(p.numel() for p in model.parameters() if p.requires_grad or not trains) / 1e6 for trains in (True, False)
    ]
    say(f"{type(model).__name__}: {sizes[1]:.1f} M parameters, {sizes[0]:.1f} M of them train")
    cache = None
    if data_args.cache_features:
        cache = build_cache(model, processor, columns, splits, progress=accelerator.is_main_process)
    collator = MultimodalCollator(processor, columns, label2id, problem_type, cache=cache)
    seconds = {"prepare": time.perf_counter() - started}

    # Training
    started = time.perf_counter()
    history = fit(accelerator, model, collator, splits, train_args)
    seconds["train"] = time.perf_counter() - started
    if accelerator.is_main_process:  # before anything else can fail
        model.save_pretrained(output_dir)
        processor.save_pretrained(output_dir)

    # Test, once, with the model that was best on validation
    started = time.perf_counter()
    logits, report = evaluate(accelerator, model, collator, splits, "test", train_args)
    results = {"metrics": report["metrics"], "by_kind": report["by_kind"], "floors": {}}
    seconds["evaluate"] = time.perf_counter() - started
    say(f"test: {json.dumps(report['metrics'])}")

    if train_args.floors:
        started = time.perf_counter()
        results["floors"] = measure_floors(accelerator, build, model, collator, splits, train_args)
        seconds["floors"] = time.perf_counter() - started

    results |= {
        "seed": train_args.seed,
        "seconds": {key: round(value, 1) for key, value in seconds.items()},
        "num_processes": accelerator.num_processes,
        "commit": git_commit(ROOT),
        "versions": versions(),
        "hardware": hardware(),
        "recipe": {"name": name, **vars(model_args), **vars(data_args), **vars(train_args)},
    }
    if accelerator.is_main_process:
        write_run(output_dir, ROOT, model, collator, splits, logits, results, history)
    accelerator.end_training()


def check_arguments(model_args: ModelArguments, data_args: DataArguments):
    """Says what is missing or does not fit together, before anything is loaded."""
    needed = {"dataset": data_args.dataset, "label_column": data_args.label_column}
    for encoder, column in (("vision_encoder", "image_column"), ("text_encoder", "text_column")):
        if getattr(model_args, encoder) is not None:
            needed[column] = getattr(data_args, column)
        elif getattr(data_args, column) is not None:
            needed[encoder] = None
    for key, value in needed.items():
        if value is None:
            raise ValueError(f"{key} is missing: give it in the recipe or as --{key}.")
    for key, value, encoder in (
        ("image_size", model_args.image_size, "vision_encoder"),
        ("max_text_length", data_args.max_text_length, "text_encoder"),
    ):
        if value is not None and getattr(model_args, encoder) is None:
            raise ValueError(f"{key} is {value}, but there is no {encoder}.")


def check_labels(splits: DatasetDict, columns: Columns, label2id: dict[str, int] | None, problem_type: str):
    """Looks at every label, so that a bad one stops the run before the training and not after it."""
    for split, dataset in splits.items():
        rows = [{columns.label: v, "row_id": i, "split": split} for i, v in enumerate(dataset[columns.label])]
        labels = label_tensor(rows, columns.label, label2id, problem_type)
        if count_labels(labels) == 0:
            raise ValueError(f"No row of split {split!r} has a label in column {columns.label!r}.")


def build_processor(model_args: ModelArguments, data_args: DataArguments) -> MMFusionProcessor:
    """The encoders' own processors, with the sizes that the recipe asks for."""
    encoders = {"vision": model_args.vision_encoder, "text": model_args.text_encoder}
    processor = MMFusionProcessor.from_encoders_pretrained(**encoders)
    if model_args.image_size is not None:
        processor.image_processor.size = {"height": model_args.image_size, "width": model_args.image_size}
        processor.image_processor.do_center_crop = False
    if data_args.max_text_length is not None:
        processor.tokenizer.model_max_length = data_args.max_text_length
    return processor


def build_model(
    model_args: ModelArguments, label2id: dict[str, int] | None, problem_type: str
) -> MMFusionForClassification:
    """The recipe's model with fresh fusion and head."""
    labels = {"num_labels": 1}
    if label2id is not None:
        id2label = {number: name for name, number in label2id.items()}
        labels = {"id2label": id2label, "label2id": label2id, "num_labels": len(label2id)}
    model = HEADS[model_args.task].from_encoders_pretrained(
        vision=model_args.vision_encoder,
        text=model_args.text_encoder,
        fusion=model_args.fusion,
        fusion_module_config={
            "hidden_size": model_args.fusion_hidden_size,
            "num_hidden_layers": model_args.fusion_layers,
            "num_attention_heads": model_args.fusion_heads,
            "hidden_dropout_prob": model_args.fusion_dropout,
            "modality_dropout": model_args.modality_dropout,
        },
        vision_feature_layer=model_args.vision_feature_layer,
        pooling={"text": model_args.text_pooling} if model_args.text_pooling else None,
        freeze_encoders=model_args.freeze_encoders,
        **({"attn_implementation": model_args.attn_implementation} if model_args.attn_implementation else {}),
        problem_type=problem_type,
        **labels,
    )
    if model_args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model


def build_cache(model, processor, columns: Columns, splits: DatasetDict, progress: bool) -> FeatureCache | None:
    """Encodes every distinct item of the frozen encoders once."""
    if not model.config.frozen_encoders:
        return None
    cache = FeatureCache(model.base_model.eval())
    collator = MultimodalCollator(processor, columns)
    rows = {split: Rows(dataset, split) for split, dataset in splits.items()}

    def prepare(modality, places):
        return collator.prepare_items(modality, [rows[split][row] for split, row in places])

    for modality in model.config.frozen_encoders:
        items = {}  # where each item is found: the pictures themselves would fill the memory
        for split, part in rows.items():
            for start in range(0, len(part), 1000):
                for row in part.__getitems__(range(start, min(start + 1000, len(part)))):
                    key = collator.item_key(row, modality)
                    if key is not None:
                        items.setdefault(key, (split, row["row_id"]))
        cache.fill(modality, items.items(), partial(prepare, modality), progress=progress)
    return cache


def build_loader(
    accelerator: Accelerator, collator: MultimodalCollator, splits: DatasetDict, split: str, args, train: bool
):
    """Batches of one split for this process; rows of one picture stay together."""
    groups = splits[split][collator.columns.image_id] if collator.columns.image_id else len(splits[split])
    sampler = GroupedBatchSampler(
        groups,
        args.per_device_train_batch_size if train else args.per_device_eval_batch_size,
        shuffle=train,
        seed=args.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        drop_last=train,
    )
    loader = DataLoader(
        Rows(splits[split], split),
        batch_sampler=sampler,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
    )
    return sampler, loader


def fit(
    accelerator: Accelerator, model, collator: MultimodalCollator, splits: DatasetDict, args: TrainArguments
) -> dict:
    """Trains, and leaves in `model` the weights that were best on validation.

    Returns:
        points of (step, value) by name.
    """
    sampler, loader = build_loader(accelerator, collator, splits, "train", args, train=True)
    steps_per_epoch = -(-len(loader) // args.gradient_accumulation_steps)
    if steps_per_epoch == 0:
        raise ValueError(f"The training part has {len(splits['train'])} rows: too few for a single batch.")
    total = args.max_steps if args.max_steps > 0 else max(1, round(args.num_train_epochs * steps_per_epoch))
    set_seed(args.seed + accelerator.process_index)  # dropout differs between processes
    rates = {name: rate for name, rate in args.encoder_learning_rates.items() if name in model.config.modalities}
    optimizer = torch.optim.AdamW(
        parameter_groups(model, args.learning_rate, args.weight_decay, rates), lr=args.learning_rate, fused=True
    )
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, round(args.warmup_ratio * total), total)
    prepared, optimizer = accelerator.prepare(model, optimizer)

    history: dict[str, list] = {"loss": [], "validation": [], "learning rate": []}
    best, best_weights = None, None
    started, step, logged, epoch, running, stop = time.perf_counter(), 0, 0, 0, [], False
    bar = tqdm(total=total, desc="training", disable=not accelerator.is_main_process)
    while not stop:
        sampler.set_epoch(epoch)
        model.train()
        batches = iter(loader)
        while not stop and (window := [batch for _, batch in zip(range(args.gradient_accumulation_steps), batches)]):
            # The loss is divided by the labelled rows of all processes and batches of the step, and DDP averages.
            overtime = args.max_train_seconds is not None and time.perf_counter() - started > args.max_train_seconds
            count = sum(count_labels(batch["labels"]) for batch in window)
            count, overtime = accelerator.reduce(
                torch.tensor([float(count), float(overtime)], device=accelerator.device)
            ).tolist()
            for number, batch in enumerate(window):
                batch = send_to_device(batch, accelerator.device)
                batch.pop("row_ids")
                last = number == len(window) - 1
                with accelerator.no_sync(prepared) if not last else accelerator.autocast():
                    with accelerator.autocast():
                        loss = prepared(**batch, num_items_in_batch=max(count, 1) / accelerator.num_processes).loss
                    accelerator.backward(loss)
                running.append(loss.detach())
            if args.max_grad_norm > 0:
                accelerator.clip_grad_norm_(prepared.parameters(), args.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            step += 1
            bar.update()
            stop = step >= total or overtime > 0
            if step % args.logging_steps == 0 or stop:
                loss = accelerator.reduce(torch.stack(running).sum(), reduction="mean").item() / (step - logged)
                logged = step
                history["loss"].append((step, loss))
                history["learning rate"].append((step, scheduler.get_last_lr()[0]))
                bar.set_postfix(loss=f"{loss:.4f}", validation="-" if best is None else f"{best:.4f}")
                running = []
        _, report = evaluate(accelerator, model, collator, splits, "validation", args)
        metric, score = next(iter(report["metrics"].items()))
        score = -score if metric == "rmse" else score
        history["validation"].append((step, report["metrics"][metric]))
        if best is None or score > best:
            best = score
            best_weights = {n: p.detach().cpu().clone() for n, p in model.named_parameters() if p.requires_grad}
        epoch += 1
    bar.close()
    if step < total and accelerator.is_main_process:
        print(f"stopped after {step} of {total} steps: max_train_seconds is {args.max_train_seconds}", flush=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in best_weights:
                parameter.copy_(best_weights[name])
    accelerator.free_memory(prepared, optimizer)
    return history


@torch.no_grad()
def evaluate(accelerator: Accelerator, model, collator: MultimodalCollator, splits: DatasetDict, split: str, args):
    """Runs the model over a split, each process over its part, every row once.

    Returns:
        the logits `(N, C)` in the order of the rows, and what `classification_metrics` gives.
    """
    model.eval()
    _, loader = build_loader(accelerator, collator, splits, split, args, train=False)
    parts = []
    for batch in loader:
        row_ids = batch.pop("row_ids")
        labels = batch.pop("labels")
        with accelerator.autocast():
            logits = model(**send_to_device(batch, accelerator.device)).logits
        parts.append((row_ids, logits.float().cpu(), labels))
    parts = gather_object(parts)
    row_ids, logits, labels = (torch.cat(column) for column in zip(*parts))
    order = row_ids.argsort()
    kinds = splits[split][collator.columns.kind] if collator.columns.kind else None
    report = classification_metrics(logits[order], labels[order], model.config.problem_type, kinds)
    return logits[order], report


def measure_floors(accelerator, build, model, collator: MultimodalCollator, splits: DatasetDict, args) -> dict:
    """What the score must be held against: the most frequent label, each modality alone, and wrong pairs.

    The models that see one modality alone are trained as the model was, on a smaller budget, with the other absent.
    """
    label, floors = collator.columns.label, {}
    if model.config.problem_type == "single_label_classification":
        floors["majority"] = majority_accuracy(splits["train"][label], splits["test"][label])
    names = {"text": "text_only", "vision": "image_only"}
    for modality in model.config.modalities if len(model.config.modalities) > 1 else []:
        others = frozenset(model.config.modalities) - {modality}
        alone = dataclasses.replace(collator, absent=others)
        budget = type(args)(**vars(args))
        budget.num_train_epochs, budget.max_steps = args.num_train_epochs * args.floor_budget, -1
        if args.max_steps > 0:
            budget.max_steps = max(1, round(args.max_steps * args.floor_budget))
        set_seed(args.seed)
        floor_model = build().to(accelerator.device)
        fit(accelerator, floor_model, alone, splits, budget)
        _, report = evaluate(accelerator, floor_model, alone, splits, "test", args)
        floors[names[modality]] = next(iter(report["metrics"].values()))
    if {"vision", "text"} <= set(model.config.modalities):
        shuffled = DatasetDict({"test": with_wrong_images(splits["test"], collator.columns, args.seed)})
        _, report = evaluate(accelerator, model, collator, shuffled, "test", args)
        floors["shuffled_pairs"] = next(iter(report["metrics"].values()))
    return floors


def with_wrong_images(split, columns: Columns, seed: int):
    """The split with its pictures dealt out anew, so that each question meets a picture drawn at random."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed)).tolist()
    moved = [name for name in (columns.image, columns.image_id) if name is not None]
    others = split.remove_columns(moved)
    for name in moved:
        others = others.add_column(name, split[order][name], feature=split.features[name])
    return others


def run():
    """`main`, with one line in place of a traceback where what the user gave is wrong. Anything else is a fault of
    ours."""
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit("error: " + " ".join(str(error).split()))


if __name__ == "__main__":
    run()
