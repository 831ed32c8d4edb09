"""The parts of a run that starts from a checkpoint: its processor, its config and its model."""

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoTokenizer

from .. import (
    MMFusionConfig,
    MMFusionForConditionalGeneration,
    MMFusionForCTC,
    MMFusionForRetrieval,
    MMFusionModel,
    MMFusionPreTrainedModel,
    MMFusionProcessor,
    RecurrentConfig,
    SeriesScaler,
    TableSchema,
    TabularConfig,
)
from ..checkpoints import begin, publish, writing
from ..data.modalities import reader_of
from ..data.rows import SOURCE_ROW
from ..heads import of_heads, title_of
from ..models.configuration_mm_fusion import part_of_composite
from ..models.modality import MODALITIES
from ..models.probing import longest_text
from ..models.series import Series
from ..models.sound import Sound, limit_seconds
from ..models.table_schema import KNOWN, UNKNOWN
from ..models.tabular import Table
from ..models.text import Text
from ..models.vision import Vision
from ..parts import class_of, load_parts
from ..tasks import task_of_head
from .by_modality import encoder_of, places_of, poolings_of, pretrained_modalities, windows_asked
from .data_arguments import DataArguments
from .fresh_heads import fit_fresh_heads
from .heads import task_of_class
from .model_arguments import ModelArguments
from .run import Run
from .splits import seed_of_cut
from .start import ABOUT, Start, row_modalities


# Config keys about encoders, projections and fusion. All other keys belong to the head, or are set by the recipe.
OF_BASE = (
    *("fusion_module_config", "vision_feature_layer", "vision_feature_join", "freeze_batch_norm", "pooling"),
    *("interpolate_pos_encoding", "encode_by_length", "seeded_encoders", "classifier_dropout"),
    *("logit_scale_init_value", "base_models"),
)
# Recipe keys about the split into parts.
OF_THE_CUT = (
    *("split_seed", "validation_fraction", "test_fraction", "group_column", "time_column"),
    *("image_column", "image_id_column", "audio_column", "video_column"),
)
OTHER_UNIT = 10  # standard deviations that a mean is off, or the factor between two of them: perhaps another unit


# The processor


def processor_from(
    start: Start,
    model_args: ModelArguments,
    data_args: DataArguments,
    table: Any,
    series: Any,
    background: Any,
    extra: Mapping[str, Any] = MappingProxyType({}),
    draft: float | None = None,
) -> MMFusionProcessor:
    """The checkpoint's processor, adapted to the new rows.

    Args:
        start: the start of the run.
        model_args, data_args: its recipe.
        table, series: schema and scaler that were fitted on the new rows; None if there are none.
        background: background color for transparent pixels.
        extra: by modality from outside, the part that was fitted on the new rows.
        draft: for a new vision encoder, see `image_draft` of `MMFusionProcessor`. The checkpoint's encoder keeps its
            own value, unless the recipe has another.
    """
    if start.kept:
        return start.processor
    old, modalities = start.processor, row_modalities(data_args)
    parts: dict[str, Any] = {
        modality.part: getattr(old, modality.part)
        for name, modality in MODALITIES.items()
        if name in modalities and name in start.config.modalities and modality.pretrained and not modality.extra
    }
    parts["extra_parts"] = {name: choose_extra(start, name, part) for name, part in extra.items()} or None
    if Vision.name in modalities and old.image_processor is not None:
        asked = model_args.image_background
        parts["image_background"] = old.image_background if asked is None else asked
        parts["image_channels"] = old.image_channels
        parts["image_draft"] = old.image_draft if data_args.image_draft is None else draft
    if "feature_extractor" in parts and model_args.max_audio_seconds is not None:
        limit_seconds(parts["feature_extractor"], model_args.max_audio_seconds)
    known = task_of_head(model_args.task)
    writes = known is not None and known.decodes
    if writes and task_of_class(start.head) is known:
        parts["tokenizer"] = old.tokenizer
    new = {name: encoder_of(model_args, name) for name in new_encoders(start, data_args)}
    decoder = model_args.decoder if writes and "tokenizer" not in parts and Text.name not in new else None
    parts["table_schema"], parts["series_scaler"] = choose_table(start, table), choose_series(start, series)
    if new or decoder:
        fresh = MMFusionProcessor.from_encoders_pretrained(
            **new,
            decoder=decoder,
            max_audio_seconds=model_args.max_audio_seconds if Sound.name in new else None,
            image_size=model_args.image_size if Vision.name in new else None,
            image_background=background,
            image_draft=draft,
        )  # only the parts of new encoders; the fitted parts are in `parts`
        if Text.name in new and parts.get("tokenizer") is not None:
            check_words(fresh.tokenizer, old.tokenizer, f"text_encoder {new[Text.name]}", start.name)
        settings = ("image_background", "image_channels", "image_draft")
        for part in ("image_processor", "tokenizer", "feature_extractor", *settings):
            if parts.get(part) is None:
                parts[part] = getattr(fresh, part)
    windows = windows_asked(model_args) if parts.get("tokenizer") is not None and Text.name in modalities else None
    processor = MMFusionProcessor(**parts, text_windows=windows)
    if data_args.max_text_length is not None and processor.tokenizer is not None:
        config: Any = None if Text.name in new else start.config.text_config
        if config is None and model_args.text_encoder is not None:
            config = part_of_composite(AutoConfig.from_pretrained(model_args.text_encoder), Text.name)
        longest = None if config is None else longest_text(config)  # a text cannot have more tokens than positions
        processor.tokenizer.model_max_length = min(data_args.max_text_length, longest or data_args.max_text_length)
    return processor


def check_words(tokenizer: Any, of_processor: Any, what: str, name: str):
    """Refuses an encoder or decoder with another vocabulary than the processor has.

    Raises:
        ValueError: a token has another number, or is missing.
    """
    known, vocabulary = of_processor.get_vocab(), tokenizer.get_vocab()
    other = [token for token, number in vocabulary.items() if known.get(token) != number]
    if other or len(known) > len(vocabulary):
        raise ValueError(
            f"{what} has a vocabulary of {len(vocabulary)} tokens, and {name} has another vocabulary, of {len(known)} "
            "tokens. A processor has one tokenizer: choose one with the same vocabulary."
        )


def new_encoders(start: Start, data_args: DataArguments) -> list[str]:
    """The modalities with a pretrained encoder that the checkpoint does not have."""
    modalities = row_modalities(data_args)
    return [name for name in pretrained_modalities() if name in modalities and name not in start.config.modalities]


def choose_table(start: Start, schema: TableSchema | None) -> TableSchema | None:
    """The checkpoint's schema if the new rows have the same columns of the same kinds; else that of the new rows."""
    old = start.processor.table_schema
    if schema is None or old is None:
        return schema
    for kind in ("numerical", "categorical", "dates"):
        columns, others = sorted(getattr(schema, kind)), sorted(getattr(old, kind))
        if columns != others:
            start.fresh.append(Table.name)
            start.lines.append(
                f"table: fitted to the new rows, because {start.name} has the {kind} columns {others}, not {columns}"
            )
            return schema
    start.lines.append(f"table: means, standard deviations and categories from {start.name}")
    for name, now in schema.numerical.items():
        start.lines += line_of_unit(start, name, now, old.numerical[name])
    for name, values in schema.categorical.items():
        known = dict.fromkeys(old.categorical[name], KNOWN)
        if unknown := [value for value in values if old._category_id(value, known) == UNKNOWN]:
            start.lines.append(
                f"  {len(unknown)} of {len(values)} categories of {name} are new to {start.name}, such as "
                f"{unknown[0]!r}"
            )
    # The formats of dates and numbers come from the new rows.
    dates = {name: replace(column, format=schema.dates[name].format) for name, column in old.dates.items()}
    return replace(old, dates=dates, marks=schema.marks)


def line_of_unit(start: Start, what: str, now: tuple[float, float], before: tuple[float, float]) -> list[str]:
    """A warning if these means and standard deviations look as if the numbers were in different units."""
    (mean, std), (old_mean, old_std) = now, before
    if abs(mean - old_mean) <= OTHER_UNIT * old_std and 1 / OTHER_UNIT < std / old_std < OTHER_UNIT:
        return []
    return [
        f"  {what} has mean {mean:g} and standard deviation {std:g} here, but {old_mean:g} and {old_std:g} in "
        f"{start.name}. Is it in another unit?"
    ]


def choose_series(start: Start, scaler: SeriesScaler | None) -> SeriesScaler | None:
    """The checkpoint's scaler if the new series have the same number of channels; else the scaler of the new rows."""
    old = start.processor.series_scaler
    if scaler is None or old is None:
        return scaler
    if scaler.channels_of != old.channels_of:
        start.fresh.append(Series.name)
        start.lines.append(
            f"series: fitted to the new rows, because {start.name} has series of "
            f"{' and '.join(map(str, old.channels_of))} channels, not {' and '.join(map(str, scaler.channels_of))}"
        )
        return scaler
    start.lines.append(f"series: means and standard deviations from {start.name}")
    for channel, now in enumerate(zip(scaler.means, scaler.stds)):
        start.lines += line_of_unit(start, f"channel {channel}", now, (old.means[channel], old.stds[channel]))
    return old


def choose_extra(start: Start, name: str, part: Any) -> Any:
    """The processor part of a modality from outside: the checkpoint's, or else the one fitted on the new rows."""
    if name not in start.config.modalities:
        return part
    old = start.processor.extra_parts.get(name)
    if old is not None:
        start.lines.append(f"{name}: {type(old).__name__} from {start.name}")
    return old


# The model


def keep_start(start: Start, run: Run, head: type[MMFusionPreTrainedModel], head_arguments: dict[str, Any]):
    """Makes the model that a run starts with, of class `head`, and keeps it in the run's folder. One process calls it.
    `head_arguments`: the settings of the head, for the config."""
    if start.kept:
        return
    model = make_model(start, run, head, head_arguments)
    with writing(start.folder):
        staged = begin(start.folder)
        model.save_pretrained(staged)
        run.processor.save_pretrained(staged)
        about = {"source": start.source, "name": start.name, "settled": start.settled, "lines": start.lines}
        (staged / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        publish(start.folder)


def make_model(
    start: Start, run: Run, head: type[MMFusionPreTrainedModel], head_arguments: dict[str, Any]
) -> MMFusionPreTrainedModel:
    """The model that a run starts with: the parts of the checkpoint, pretrained encoders for the modalities that it
    lacks, and a head. Adds lines to `start.lines` that say where each part comes from. Arguments as for
    `keep_start`."""
    args, source_head = run.model_args, start.head
    donors = {name: donor_of(name, run) for name in new_encoders(start, run.data_args)}
    decoder = None
    head_arguments = dict(head_arguments)
    if head is MMFusionForConditionalGeneration:
        asked = {key: head_arguments.pop(key) for key in ("decoder", "decoder_layers")}
        of_decoder = start.config
        if source_head != head.__name__:
            decoder = donor_of_decoder(start, run, asked["decoder"], asked["decoder_layers"])
            of_decoder = decoder.config
        keys = ("decoder_config", "decoder_start_token_id", "eos_token_id", "pad_token_id")
        head_arguments |= {key: getattr(of_decoder, key) for key in keys}
    config = config_of(start, run, head, {name: donor.config for name, donor in donors.items()}, head_arguments)
    model = head(config).float()
    old = class_of(start.config, start.source).from_pretrained(start.source, dtype=torch.float32)
    labels = (run.data_args.label_column, start.recipe.get("label_column"))
    columns = [label if isinstance(label, str) else None for label in labels]
    tokens = [
        processor.tokenizer and processor.tokenizer.convert_ids_to_tokens(range(len(processor.tokenizer)))
        for processor in (run.processor, start.processor)
    ]
    lines = load_parts(
        model,
        old,
        name=start.name,
        fresh=start.fresh,
        column=columns[0],
        checkpoint_column=columns[1],
        tokens=tokens[0],
        checkpoint_tokens=tokens[1],
    )
    for name, donor in donors.items():
        model.base_model.encoders[name].load_state_dict(donor.encoders[name].state_dict())
        source = Path(str(encoder_of(args, name))).name
        lines = with_line(
            lines, name, f"{name} encoder: from {source}; {start.name} has none; its projection is fresh"
        )
    for name in set(config.modalities) - set(start.config.modalities) - set(donors):
        lines = with_line(lines, name, f"{name} encoder and projection: fresh, {start.name} has none")
    if decoder is not None:
        model.decoder.load_state_dict(decoder.decoder.state_dict())
        lines.append("decoder: pretrained, its cross-attention is fresh")
    heads = of_heads(model, columns[0], None)
    fresh = {task: last for task, last in heads.items() if f"{title_of(task, last)}: fresh" in lines}
    fitted = fit_fresh_heads(model, {task: last for task, last in fresh.items() if last.kind != "tokens"}, run)
    start.lines += [*(fitted.get(line, line) for line in lines), *lines_of_cut(start, run)]
    return model


def with_line(lines: list[str], modality: str, line: str) -> list[str]:
    """The lines, with the one about this modality's encoder replaced."""
    return [line if other.startswith(f"{modality} encoder:") else other for other in lines]


def donor_of(name: str, run: Run) -> MMFusionModel:
    """A model that only holds one pretrained encoder, which the checkpoint does not have."""
    args = run.model_args
    settings: dict[str, Any] = {"pooling": poolings_of(args, [name])}
    if name == Vision.name:
        settings |= {"image_size": args.image_size, "vision_feature_layer": args.vision_feature_layer}
        settings["vision_feature_join"] = args.vision_feature_join
    elif name == Sound.name:
        settings["max_audio_seconds"] = args.max_audio_seconds
    small = {"fusion_type": "concat", "hidden_size": 8, "num_hidden_layers": 0}
    donor = MMFusionModel.from_encoders_pretrained(
        **{name: encoder_of(args, name)},
        **settings,
        fusion_module_config=small,
        try_encoders=run.train_args.defaults_version > 1,
        dtype=torch.float32,
    )
    return cast(MMFusionModel, donor)


def donor_of_decoder(start: Start, run: Run, decoder: str | None, layers: int | None) -> Any:
    """A small model that holds a pretrained decoder.

    Raises:
        ValueError: no decoder is named, or its vocabulary differs from the processor's.
    """
    source = decoder or run.model_args.text_encoder
    if source is None or not (os.path.isdir(source) or decoder or "/" in source):
        raise ValueError(
            f"decoder is missing: {start.name} has no decoder, and does not say where its vocabulary comes from. Name "
            "one as --decoder."
        )
    model: Any = MMFusionForConditionalGeneration.from_encoders_pretrained(
        decoder=source,
        decoder_layers=layers,
        tabular_config=TabularConfig(num_numerical=1, hidden_size=8),
        fusion_module_config={"hidden_size": 8, "num_hidden_layers": 0, "num_attention_heads": 1},
        dtype=torch.float32,
    )
    check_words(AutoTokenizer.from_pretrained(source), run.processor.tokenizer, f"decoder {source}", start.name)
    return model


def config_of(
    start: Start,
    run: Run,
    head: type[MMFusionPreTrainedModel],
    donors: dict[str, MMFusionConfig],
    head_arguments: dict[str, Any],
) -> MMFusionConfig:
    """The config of the model that a run starts with. `donors` are the configs, by modality, of encoders that the
    checkpoint does not have; the other arguments are as for `make_model`."""
    args, old, processor = run.model_args, start.config, run.processor
    modalities = row_modalities(run.data_args)
    values = {key: copy.deepcopy(getattr(old, key)) for key in OF_BASE}
    fusion = values["fusion_module_config"]
    for name, modality in MODALITIES.items():
        if modality.extra:
            continue
        encoder_config = donors.get(name, old).encoder_config(name)
        values[modality.config_key] = copy.deepcopy(encoder_config) if name in modalities else None
        if values[modality.config_key] is not None:
            values[modality.config_key].dtype = None  # removes the checkpoint's dtype; training uses float32
    if Table.name in modalities and (old.tabular_config is None or Table.name in start.fresh):
        values["tabular_config"] = TabularConfig.from_schema(processor.table_schema, hidden_size=fusion.hidden_size)
    if Series.name in modalities and (old.series_config is None or Series.name in start.fresh):
        values["series_config"] = RecurrentConfig(
            rnn_type=args.series_rnn_type, input_size=processor.series_scaler.channels, hidden_size=fusion.hidden_size
        )
    values["extra_configs"] = extra_configs_of(start, run) or None
    if Vision.name not in modalities:
        values |= {"vision_feature_layer": None, "vision_feature_join": "tokens", "interpolate_pos_encoding": False}
    for donor in donors.values():
        if donor.vision_config is not None:
            keys = ("vision_feature_layer", "vision_feature_join", "interpolate_pos_encoding")
            values |= {key: getattr(donor, key) for key in keys}
        values["pooling"] = {**(values["pooling"] or {}), **(donor.pooling or {})}
        for key in ("encode_by_length", "seeded_encoders", "base_models"):
            values[key] = list(dict.fromkeys([*(values[key] or []), *(getattr(donor, key) or [])]))
    values["pooling"] = {name: how for name, how in (values["pooling"] or {}).items() if name in modalities} or None
    for key in ("encode_by_length", "seeded_encoders"):
        values[key] = [name for name in values[key] or [] if name in modalities] or None
    if not os.path.isdir(start.source):
        values["base_models"] = [start.source, *(name for name in values["base_models"] or [] if name != start.source)]

    fusion.hidden_dropout_prob, fusion.modality_dropout = args.fusion_dropout, args.modality_dropout
    asks = {MMFusionForCTC: Sound.name, MMFusionForRetrieval: Text.name}.get(head, fusion.query_modality)
    if asks not in modalities:  # the same default as in a model that is built from encoders
        first = modalities[0]
        for_pictures = first == Vision.name and Table.name in modalities
        asks = Text.name if Text.name in modalities else Table.name if for_pictures else first
    fusion.query_modality = asks
    if len(modalities) == 1 and fusion.memory_layers:
        start.lines.append(
            f"fusion: without its {fusion.memory_layers} memory_layers, since {asks} is the only modality"
        )
        fusion.memory_layers, fusion.distance_bias = 0, False
    return MMFusionConfig(
        **{**values, "classifier_dropout": args.classifier_dropout},
        freeze_encoders=args.freeze_encoders,
        trained_layers=cast(Any, args.trained_layers),  # a dict after it was parsed
        **places_of(run.collator.parts, run.columns),
        mixup_alpha=run.train_args.mixup_alpha,
        **head_arguments,
    )


def extra_configs_of(start: Start, run: Run) -> dict[str, Any]:
    """The configs of encoders from outside: the checkpoint's, or a new one if it has none."""
    configs: dict[str, Any] = {}
    for name, part in run.processor.extra_parts.items():
        if name in start.config.modalities:
            configs[name] = copy.deepcopy(start.config.encoder_config(name))
            configs[name].dtype = None  # as for the other encoders
        else:
            width: Any = start.config.fusion_module_config.hidden_size
            rnn_type = run.model_args.series_rnn_type
            configs[name] = reader_of(name).fresh_config(part, width, series_rnn_type=rnn_type)
    return configs


def lines_of_cut(start: Start, run: Run) -> list[str]:
    """A warning if the checkpoint was trained on rows of the same data with another split into parts."""
    recipe, part = start.recipe, run.splits.get("test")
    now = {**vars(run.data_args), **vars(run.train_args)}
    dataset, before = now["dataset"], recipe.get("dataset")
    if part is None or before is None or "seed" not in recipe:
        return []
    if SOURCE_ROW not in part.column_names or os.path.realpath(dataset) != os.path.realpath(before):
        return []
    recipe, now = ({**values, "split_seed": seed_of_cut(values)} for values in (recipe, now))
    if recipe.get("fold") == 0:
        return [
            f"warning: {start.name} was trained on all rows of the same data, also on the test part: the score is "
            "meaningless"
        ]
    other = ["fold"] if recipe.get("fold") != now["fold"] else []
    other += [key for key in OF_THE_CUT if (now[key] or None) != (recipe.get(key) or None)]
    if not other:
        return []
    differences = ", ".join(f"{key} ({recipe.get(key)!r}, now {now[key]!r})" for key in other)
    return [
        f"warning: {start.name} was trained on rows of the same data, which was split into parts with other values of "
        f"{differences}: it may have been trained on rows of the test part, so the score may be too good"
    ]
