"""What a recipe is built into: the processor, the tokenizer of CTC, the head and its losses, the model."""

from collections import Counter
from typing import Any

from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer

from .. import MMFusionPreTrainedModel, MMFusionProcessor
from ..adapters import add_lora, merge_lora
from ..data import BadRowError, Columns, Rows, label_statistics, letter_tokenizer, names_of_classes, word_tokenizer
from ..data.rows import SOURCE_ROW
from ..models.configuration_mm_fusion import part_of_composite
from ..models.finite import kind_of_texts
from ..models.names import did_you_mean
from ..models.probing import longest_text
from ..models.recurrent import RecurrentConfig
from ..models.series import SeriesScaler, as_steps, has_no_steps
from ..models.tabular import TableSchema, TabularConfig
from ..models.text import Text
from .by_modality import columns_by_modality, encoder_of, places_of, poolings_of, pretrained_modalities
from .data_arguments import DataArguments
from .heads import HEADS
from .model_arguments import ModelArguments
from .run import Run
from .splits import texts_of_table
from .start import Start
from .start_parts import processor_from


# Of a stream, whose rows are not known before they come, the first ones tell what its numbers are like.
FITTED_ROWS = 1000
OWN_TOKENIZERS = {"letters": letter_tokenizer, "words": word_tokenizer}


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
    encoders = {name: encoder_of(model_args, name) for name in pretrained_modalities()}
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
    scaler = fit_series(train, data_args.series_column, data_args.on_error) if data_args.series_column else None
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
            config = part_of_composite(AutoConfig.from_pretrained(model_args.text_encoder), Text.name)
            longest = min(longest, longest_text(config) or longest)
        processor.tokenizer.model_max_length = longest
    return processor


def fit_series(train: Dataset, column: str, on_error: str) -> SeriesScaler:
    """What the channels of a column of time series are like. Rows of another number of channels than most are bad
    ones, which `check_rows` tells.

    Raises:
        BadRowError: a row that holds no series, where bad rows are not skipped.
        ValueError: no row has one.
    """
    rows = Rows(train.select_columns([column, *({SOURCE_ROW} & set(train.column_names))]), "train")
    found = []
    for row in rows:
        try:
            if not has_no_steps(row[column]):
                found.append(as_steps(row[column]))
        except ValueError as error:
            if on_error == "raise":
                raise BadRowError(row, column, str(error)) from None
    channels = Counter(values.shape[1] for values in found).most_common(1)
    return SeriesScaler.fit(values for values in found if values.shape[1] == channels[0][0])


def build_tokenizer(asked: str | None, train: Dataset, columns: Columns, names: list[str] | None) -> Any:
    """The tokens that CTC writes in, where there is no text encoder.

    Args:
        asked: the recipe's `tokenizer`.
        train: the training part.
        columns: that of the labels holds what is to be written.
        names: of the classes that are written, None where the rows have texts.
    """
    (column,) = columns.labels
    asked = asked or "letters"
    if asked not in OWN_TOKENIZERS:
        return AutoTokenizer.from_pretrained(asked)
    texts = train[column][:]
    if names is not None:
        texts = [names[number] for number in texts if number is not None and number >= 0]
    if strange := [text for text in texts if text is not None and not isinstance(text, str)]:
        raise ValueError(f"label_column {column!r} holds {strange[0]!r}, and ctc writes texts.")
    return OWN_TOKENIZERS[asked]([text for text in texts if isinstance(text, str)])


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
        counts = labels[labels != -100].bincount(minlength=len(run.label2id or {})).clamp(min=1).double()
        if args.imbalance == "class_weights":
            losses["class_weights"] = (counts.sum() / (len(counts) * counts)).tolist()
        else:
            losses["class_priors"] = (counts / counts.sum()).tolist()
    return losses


def head_arguments(run: Run, losses: list[dict[str, Any]]) -> dict[str, Any]:
    """What the head answers, as the model's config takes it.

    Args:
        run: with its data.
        losses: `loss_arguments` of each of its tasks.
    """
    args = run.model_args
    if run.searches:
        return {"projection_dim": args.projection_dim, "matching_weight": args.matching_weight}
    if run.transcribes:
        tokenizer = run.processor.tokenizer
        size = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        return {**size, "ctc_stride": args.ctc_stride}
    if run.writes:
        keys = ("decoder", "decoder_layers", "freeze_decoder_embeddings")
        return {**{key: getattr(args, key) for key in keys}, **losses[0]}
    if not run.tasks:
        labels: dict[str, Any] = {"num_labels": 1}
        if run.label2id is not None:
            id2label = {number: name for name, number in run.label2id.items()}
            labels = {"id2label": id2label, "label2id": run.label2id, "num_labels": len(id2label)}
        return {"problem_type": run.problem_type, **losses[0], **labels}
    weights: Any = args.task_weights or {}
    if unknown := set(weights) - set(run.tasks):
        meant = did_you_mean(sorted(unknown)[0], run.tasks)
        raise ValueError(f"task_weights names {sorted(unknown)}, but the columns of labels are {run.tasks}.{meant}")
    tasks = {}
    for task, settings in zip(run.alone(), losses):
        name = task.label
        tasks[name] = {"problem_type": task.problem_type, "weight": weights.get(name, 1.0), **settings}
        tasks[name] |= {} if task.label2id is None else {"labels": list(task.label2id)}
    return {"tasks": tasks, "task_weighting": args.task_weighting}


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
        **{name: encoder_of(args, name) for name in pretrained_modalities()},
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
        pooling=poolings_of(args, columns_by_modality(run.data_args)),
        freeze_encoders=args.freeze_encoders,
        trained_layers=args.trained_layers,
        classifier_dropout=args.classifier_dropout,
        **places_of(run.collator.parts),
        **({"attn_implementation": args.attn_implementation} if args.attn_implementation else {}),
        mixup_alpha=run.train_args.mixup_alpha,
        **head_arguments(run, losses),
    )


def merge_adapters(run: Run, model: MMFusionPreTrainedModel):
    """Takes low-rank adapters into the weights, so that the checkpoint is an ordinary one."""
    if run.model_args.lora is not None:
        merge_lora(model)
