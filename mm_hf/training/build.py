"""Builds the processor, the head and the model of a recipe."""

from dataclasses import replace
from typing import Any, cast

from transformers import AutoConfig

from .. import MMFusionPreTrainedModel, MMFusionProcessor
from ..adapters import add_lora, merge_lora
from ..data import Columns
from ..data.modalities import READERS, reader_of
from ..models.configuration_mm_fusion import part_of_composite
from ..models.finite import together
from ..models.head_table import MULTI_TASK
from ..models.image_processors import DRAFT
from ..models.linear_fusion import LINEAR
from ..models.modality import MODALITIES, modality_of
from ..models.names import did_you_mean
from ..models.probing import longest_text
from ..models.tabular import Table
from ..models.text import Text
from ..models.vision import Vision
from .by_modality import columns_by_modality, encoder_of, places_of, poolings_of, pretrained_modalities, windows_asked
from .data_arguments import DataArguments
from .heads import HEADS
from .linear_recipe import linear_settings
from .model_arguments import ModelArguments
from .run import Run
from .splits import AS_MEANT, columns_in_use, load_parts
from .start import Start
from .start_parts import processor_from


def fit_settings(data_args: DataArguments, cells: str | None) -> dict[str, Any]:
    """The settings in a recipe for those parts of a processor that are learned from the training rows; see
    `ModalityReader.fit`. For `cells` see `cells_of_run`."""
    keys = ("on_error", "category_columns", "decimal", "date_format")
    given = {key: getattr(data_args, key) for key in keys}
    return {"as_written": cells is not None, "formats": cells == AS_MEANT, **given}


def fit_parts(data_args: DataArguments, splits: Any, cells: str | None) -> dict[str, Any]:
    """The parts of a processor that are learned from the training rows, as arguments for it.

    Raises:
        ValueError: some columns cannot be read as they are; the message lists all of them.
    """
    columns = columns_in_use(data_args)
    fitted: dict[str, Any] = {}
    refused: list[ValueError] = []
    for name, reader in READERS.items():
        if not reader.data_columns(columns):
            continue
        modality = modality_of(name)
        try:
            part = reader.fit(splits, columns, **fit_settings(data_args, cells))
        except ValueError as error:
            refused.append(error)
            continue
        if modality.extra:
            fitted.setdefault("extra_parts", {})[name] = part
        elif part is not None:
            fitted[modality.part] = part
    if refused:
        raise together(refused)
    return fitted


def with_other_refusals(
    error: ValueError, data_args: DataArguments, columns: Columns, seed: int, cells: str | None
) -> ValueError:
    """An error about the labels, together with the errors about other columns that would come after it is fixed.
    Arguments as for `load_parts`."""
    try:
        fit_parts(data_args, load_parts(data_args, replace(columns, label=None, weight=None), seed, [], cells), cells)
    except ValueError as other:
        return together([error, other])
    except Exception:  # the labels have to be fixed first
        return error
    return error


def build_processor(
    model_args: ModelArguments,
    data_args: DataArguments,
    splits: Any,
    cells: str | None,
    defaults_version: int,
    start: Start | None = None,
) -> MMFusionProcessor:
    """The encoders' own processors, with the sizes that the recipe asks for, and the statistics of table columns and
    of time series channels in the training part. Bad values in these are ignored here: `check_rows` reports them. A
    run that starts from a checkpoint uses the checkpoint's processor, as far as it fits."""
    encoders = {name: encoder_of(model_args, name) for name in pretrained_modalities()}
    fitted = fit_parts(data_args, splits, cells)
    background = model_args.image_background or ("white" if defaults_version > 1 else None)
    draft = (
        (DRAFT if defaults_version > 2 else None) if data_args.image_draft is None else data_args.image_draft or None
    )
    if start is not None:
        schema, scaler = (fitted.get(part) for part in ("table_schema", "series_scaler"))
        extra = fitted.get("extra_parts", {})
        return processor_from(start, model_args, data_args, schema, scaler, background, extra, draft)
    processor = MMFusionProcessor.from_encoders_pretrained(
        **encoders,
        decoder=model_args.decoder,
        max_audio_seconds=model_args.max_audio_seconds,
        image_size=model_args.image_size,
        image_background=background,
        image_draft=draft,
        text_windows=windows_asked(model_args),
        **fitted,
    )
    if data_args.max_text_length is not None:
        longest = data_args.max_text_length
        if model_args.text_encoder is not None:  # a text cannot be longer than the encoder has positions
            config = part_of_composite(AutoConfig.from_pretrained(model_args.text_encoder), Text.name)
            longest = min(longest, longest_text(config) or longest)
        processor.tokenizer.model_max_length = longest
    return processor


def head_arguments(run: Run, losses: list[dict[str, Any]]) -> dict[str, Any]:
    """What the head of a run predicts, in the form of the model's config. `losses`: `Task.loss_arguments` of each of
    its tasks."""
    args = run.model_args
    if not run.several:
        return {**run.task.head_arguments(run), **losses[0]}
    columns, weights = run.columns.labels, cast(dict[str, float], args.task_weights or {})
    if unknown := set(weights) - set(columns):
        meant = did_you_mean(sorted(unknown)[0], columns)
        raise ValueError(f"task_weights names {sorted(unknown)}, but the columns of labels are {columns}.{meant}")
    tasks: dict[str, dict[str, Any]] = {}
    for task, settings in zip(run.tasks, losses):
        name = str(task.column)
        tasks[name] = {"problem_type": task.name, "weight": weights.get(name, 1.0), **settings}
        tasks[name] |= {"labels": list(task.names)} if task.names else {}
    return {"tasks": tasks, "task_weighting": args.task_weighting}


def head_of(run: Run) -> type[MMFusionPreTrainedModel]:
    """The class of the recipe's model."""
    if run.several:
        return HEADS[MULTI_TASK]
    return HEADS[run.model_args.task or run.task.head(run.columns)]


def build_model(run: Run, losses: list[dict[str, Any]]) -> MMFusionPreTrainedModel:
    """The recipe's model at the start of training; arguments as for `head_arguments`."""
    args = run.model_args
    if run.start is not None:
        given = {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
        model = run.start.load(**given)
    else:
        model = build_fresh(run, losses)
    for task in run.tasks:
        task.set_up(model, args)
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if args.lora is not None:
        add_lora(model, args.lora, rank=args.lora_rank, alpha=args.lora_alpha, dropout=args.lora_dropout)
    return model


def build_fresh(run: Run, losses: list[dict[str, Any]]) -> MMFusionPreTrainedModel:
    """The recipe's model with pretrained encoders, a fresh fusion and a fresh head; arguments as for
    `head_arguments`."""
    args = run.model_args
    head = head_arguments(run, losses)
    line = linear_settings(head) if args.fusion == LINEAR else {}
    width = line.get("hidden_size") or args.fusion_hidden_size or 64
    return head_of(run).from_encoders_pretrained(
        **{name: encoder_of(args, name) for name in pretrained_modalities()},
        **fresh_configs(run.processor, width, args),
        max_audio_seconds=args.max_audio_seconds,
        image_size=args.image_size,
        try_encoders=run.train_args.defaults_version > 1,
        fusion=args.fusion,
        query_modality=args.query_modality or asked_before(run),
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
            **line,
        },
        vision_feature_layer=args.vision_feature_layer,
        vision_feature_join=args.vision_feature_join,
        pooling=poolings_of(args, columns_by_modality(run.data_args)),
        freeze_encoders=args.freeze_encoders,
        trained_layers=args.trained_layers,
        classifier_dropout=args.classifier_dropout,
        **places_of(run.collator.parts, run.columns),
        **({"attn_implementation": args.attn_implementation} if args.attn_implementation else {}),
        mixup_alpha=run.train_args.mixup_alpha,
        **head,
    )


def asked_before(run: Run) -> str | None:
    """The query modality that runs used before version 3 of the defaults: the first one, but the table instead of
    pictures. None if the model or the head chooses it."""
    modalities = list(columns_by_modality(run.data_args))
    chosen_by_head = any(task.transcribes for task in run.tasks)
    if run.train_args.defaults_version != 2 or Text.name in modalities or chosen_by_head:
        return None
    return Table.name if modalities[0] == Vision.name and Table.name in modalities else modalities[0]


def fresh_configs(processor: MMFusionProcessor, width: int, args: ModelArguments) -> dict[str, Any]:
    """The configs of encoders that start from random weights, in the form that a model takes: one for each modality
    that the processor has a part for, with tokens of this width."""
    configs: dict[str, Any] = {}
    for name, modality in MODALITIES.items():
        extra = getattr(processor, "extra_parts", None) or {}
        part = extra.get(name) if modality.extra else getattr(processor, modality.part)
        if modality.pretrained or (name not in extra if modality.extra else part is None):
            continue
        config = reader_of(name).fresh_config(part, width, series_rnn_type=args.series_rnn_type)
        if modality.extra:
            configs.setdefault("extra_configs", {})[name] = config
        else:
            configs[modality.config_key] = config
    return configs


def merge_adapters(run: Run, model: MMFusionPreTrainedModel):
    """Merges low-rank adapters into the weights, so that the checkpoint is an ordinary one."""
    if run.model_args.lora is not None:
        merge_lora(model)
