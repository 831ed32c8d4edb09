"""The keys of a recipe, which are the flags of the scripts too. Where TrainingArguments has a key, its name is used.

`mm_hf train recipe.yaml --learning_rate 1e-3`: the file first, then the flags; a flag wins, and an unknown key is
refused. A recipe that names another one as its `base`, from its own folder, takes over all keys that it does not have.
"""

from argparse import ArgumentTypeError
from dataclasses import dataclass, field, fields
from typing import Any

from ..models.names import did_you_mean, shown
from .flags import ArgumentParser
from .recipe_files import RECIPE_ENDINGS, parse_yaml, read_recipe
from .recipe_or_data import name_of_data, recipe_or_data
from .values import checked_value, checked_values, truth


DEFAULT_VISION_ENCODER = "google/vit-base-patch16-224"
DEFAULT_TEXT_ENCODER = "google-bert/bert-base-uncased"
DEFAULT_AUDIO_ENCODER = "openai/whisper-tiny"


def check_range(name: str, value: float, low: float, high: float):
    """Raises ValueError where a value is not between two others."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, got {value}.")


def by_name(name: str, of: type, form: str, value: Any) -> dict[str, Any] | None:
    """A key whose flag is a text such as "{tone: 0.5}", as the dict that it stands for.

    Raises:
        ValueError: it stands for none, or for one of other values.
    """
    if isinstance(value, str):
        try:
            value = parse_yaml(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        value = {} if value is None else value
    if not isinstance(value, dict | None):
        raise ValueError(f"{name} must be of the form {form}, got {shown(value)}.")
    return None if value is None else checked_value(name, dict[str, of], value)


@dataclass
class ModelArguments:
    """What is built."""

    init_from: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a run or checkpoint, or Hub id: start from its encoders, projections, fusion, and its "
            "head where labels have the same names. Keys of these that are left out are as there."
        },
    )
    vision_encoder: str | None = field(
        default=None,
        metadata={"help": f"Hub id or folder; left out beside an image_column, {DEFAULT_VISION_ENCODER}."},
    )
    text_encoder: str | None = field(
        default=None, metadata={"help": f"Hub id or folder; left out beside a text_column, {DEFAULT_TEXT_ENCODER}."}
    )
    audio_encoder: str | None = field(
        default=None, metadata={"help": f"Hub id or folder; left out beside an audio_column, {DEFAULT_AUDIO_ENCODER}."}
    )
    max_audio_seconds: int | None = field(
        default=None,
        metadata={"help": "Longer sounds are cut; Whisper's encoder, which takes 30, is cut to these seconds too."},
    )
    series_rnn_type: str = field(
        default="lstm",
        metadata={"help": "The encoder of a series_column, as wide as the fusion.", "choices": ["lstm", "gru"]},
    )
    fusion: str = field(default="cross_attention", metadata={"help": "A fusion of the registry."})
    fusion_hidden_size: int | None = field(
        default=None, metadata={"help": "Fusion width; left out, the width of the text encoder."}
    )
    fusion_layers: int = field(default=4, metadata={"help": "Fusion blocks."})
    fusion_heads: int | None = field(
        default=None, metadata={"help": "Attention heads; left out, one every 64 of width."}
    )
    fusion_dropout: float = field(default=0.1, metadata={"help": "Dropout in the fusion's residual branches."})
    memory_layers: int = field(
        default=0, metadata={"help": "cross_attention: self-attention blocks over a picture's tokens before."}
    )
    distance_bias: bool = field(
        default=False, metadata={"help": "In those blocks let heads prefer near or far tokens (feature maps alone)."}
    )
    num_latents: int = field(default=4, metadata={"help": "bottleneck: latents that the modalities share."})
    classifier_dropout: float = field(
        default=0.1, metadata={"help": "Dropout before the last layer, or of what a decoder is shown."}
    )
    vision_feature_layer: list[int] | None = field(
        default=None, metadata={"help": "Indices into the vision encoder's hidden_states; left out, its last state."}
    )
    vision_feature_join: str = field(
        default="tokens",
        metadata={
            "help": "Several feature layers side by side as tokens, or folded into those of the coarsest (channels).",
            "choices": ["tokens", "channels"],
        },
    )
    text_pooling: str | None = field(default=None, metadata={"help": "cls, last or mean; left out, by encoder."})
    image_size: int | None = field(
        default=None, metadata={"help": "Side in pixels that images are resized to; left out, the encoder's own."}
    )
    image_background: str | None = field(
        default=None,
        metadata={"help": "Ground that transparent pixels are shown on, black or #rrggbb; left out, white."},
    )
    num_frames: int = field(
        default=8, metadata={"help": "Frames of each video, at even distances, that go through the vision encoder."}
    )
    freeze_encoders: bool = field(
        default=False,
        metadata={
            "help": "Train projections, fusion and head alone. In a recipe also a list of modalities: [vision]."
        },
    )
    trained_layers: str | None = field(
        default=None,
        metadata={"help": 'Encoders of which the top layers alone train, and how many, as "{vision: 2}".'},
    )
    modality_dropout: float = field(
        default=0.0,
        metadata={"help": "Chance that a row trains without a modality. In a recipe also by modality: {text: 0.5}."},
    )
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Recompute activations, to save memory."})
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa (default), eager, flex_attention…"})
    lora: str | None = field(
        default=None,
        metadata={
            "help": "Train low-rank adapters (Hu et al. 2022) in place of the weights of: "
            "vision, text, encoders, fusion or all.",
            "choices": ["vision", "text", "encoders", "fusion", "all"],
        },
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of the adapters."})
    lora_alpha: float | None = field(default=None, metadata={"help": "Their scale; left out, twice the rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapters."})
    task: str | None = field(
        default=None,
        metadata={
            "help": "The head: question_answering, left out where a row has picture, text and one label, or "
            "classification; multi_task where there are several columns of labels; retrieval learns from pairs of "
            "text and picture or sound, without labels; generation writes the text that the label column holds; ctc "
            "writes it down from the sound, letter by letter.",
            "choices": ["question_answering", "classification", "multi_task", "retrieval", "generation", "ctc"],
        },
    )
    decoder: str | None = field(
        default=None,
        metadata={"help": "generation: Hub id or folder of what writes; left out, the text encoder's weights."},
    )
    decoder_layers: int | None = field(
        default=None, metadata={"help": "generation: keep as many of the decoder's lowest layers; left out, all."}
    )
    freeze_decoder_embeddings: bool = field(
        default=False,
        metadata={"help": "generation: keep the decoder's word embeddings as they are; for few or short texts."},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "ctc: what it writes in: letters or words of the training texts, or the Hub id or folder of a "
            "tokenizer; left out, letters, or beside a text_encoder that one's tokens."
        },
    )
    ctc_stride: int = field(
        default=1,
        metadata={"help": "ctc: tokens of the sound (Whisper has 50 a second) averaged into one that writes."},
    )
    max_target_length: int = field(
        default=64, metadata={"help": "generation: tokens that a text to be written is cut to, and that it may have."}
    )
    num_beams: int = field(default=1, metadata={"help": "generation: beams of the search; 1: greedy."})
    projection_dim: int = field(default=256, metadata={"help": "retrieval: width of the embeddings."})
    matching_weight: float = field(
        default=1.0,
        metadata={"help": "retrieval: weight of the loss of matching, for reranking; 0: embeddings alone."},
    )
    task_weighting: str = field(
        default="fixed",
        metadata={
            "help": "Losses of several tasks are summed by fixed weights, or by learned ones (uncertainty; Kendall et "
            "al. 2018).",
            "choices": ["fixed", "uncertainty"],
        },
    )
    task_weights: str | None = field(
        default=None,
        metadata={"help": 'The fixed weights by column of labels, as "{tone: 0.5}"; left out, 1.'},
    )

    def __post_init__(self):
        least_of = dict.fromkeys(("lora_rank", "ctc_stride", "num_frames", "decoder_layers", "num_beams"), 1)
        for name, least in {**least_of, "max_target_length": 2}.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.lora_alpha is not None and not self.lora_alpha > 0:
            raise ValueError(f"lora_alpha must be above 0, got {self.lora_alpha}.")
        for name, of, form in (("task_weights", float, "{tone: 0.5}"), ("trained_layers", int, "{vision: 2}")):
            setattr(self, name, by_name(name, of, form, getattr(self, name)))
        if strange := [layers for layers in (self.trained_layers or {}).values() if layers < 1]:
            raise ValueError(f"trained_layers must be of the form {{vision: 2}}, 1 and more; got {strange[0]}.")
        if self.trained_layers and self.lora in ("encoders", "all", *self.trained_layers):
            raise ValueError(
                f"lora is {self.lora!r}, where adapters train in place of an encoder's own weights, and "
                f"trained_layers {self.trained_layers} lets those train: leave one out."
            )


@dataclass
class DatasetArguments:
    """A data set and its columns: what training and evaluation both have to be told."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "A .csv, .jsonl or .parquet file; a folder of save_to_disk, of pictures with metadata, or of such "
            "files; WebDataset shards (shards/*.tar); or a Hub id."
        },
    )
    data_root: str | None = field(
        default=None,
        metadata={"help": "Folder that image paths are relative to and cannot leave; left out, the data's."},
    )
    image_column: list[str] | None = field(default=None, metadata={"help": "Column of the pictures, or several."})
    image_id_column: str | None = field(
        default=None, metadata={"help": "Column whose equal values mean the same picture; its rows share a batch."}
    )
    text_column: str | None = field(default=None, metadata={"help": "Column of the texts."})
    audio_column: str | None = field(
        default=None,
        metadata={"help": "Column of the sounds: datasets.Audio, bytes, or paths to wav, flac, ogg, mp3."},
    )
    video_column: str | None = field(
        default=None,
        metadata={"help": "Column of the videos: paths or bytes of files that PyAV reads, or lists of pictures."},
    )
    table_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns of a table: numbers (standardised), strings, classes; what is empty is missing."},
    )
    series_column: str | None = field(
        default=None,
        metadata={"help": "Column of time series: lists of steps, each a list of numbers, which are standardised."},
    )
    label_column: list[str] | None = field(
        default=None,
        metadata={
            "help": "Column of the labels, or several: one task each, learned together.",
            "aliases": ["--label"],
        },
    )
    kind_column: str | None = field(default=None, metadata={"help": "Column that metrics are split by."})
    on_error: str = field(
        default="raise",
        metadata={
            "help": "raise: a bad row stops the run; skip: it is left out and listed in bad_rows.jsonl.",
            "choices": ["raise", "skip"],
        },
    )
    max_bad_fraction: float = field(
        default=0.05, metadata={"help": "Share of bad rows in a part above which the run stops all the same."}
    )
    cache_features: bool = field(
        default=True,
        metadata={
            "help": "Keep the features of frozen encoders in memory: each item is encoded once. A picture takes 14 KB "
            "in the easy_vqa recipe and 600 KB with ViT-B, on every process; what would not fit is not kept."
        },
    )

    def __post_init__(self):
        check_range("max_bad_fraction", self.max_bad_fraction, 0, 1)
        if isinstance(self.label_column, list) and len(self.label_column) == 1:
            self.label_column = self.label_column[0]


@dataclass
class DataArguments(DatasetArguments):
    """What it learns from."""

    group_column: str | None = field(
        default=None, metadata={"help": "Rows with equal values go to the same part; left out, those of one picture."}
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of the rows that becomes the validation part where the data has none."}
    )
    test_fraction: float = field(default=0.1, metadata={"help": "Likewise the test part."})
    weight_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of how much each row counts in the training loss, from 0 up. In a recipe also by column "
            "of labels: {tone: trust}."
        },
    )
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": "single_label_classification, multi_label_classification or regression; left out, by the labels. "
            "In a recipe also by column of labels: {tone: regression}.",
            "choices": ["single_label_classification", "multi_label_classification", "regression"],
        },
    )
    category_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Those of the table_columns whose numbers are categories, such as ids."},
    )
    max_text_length: int | None = field(default=None, metadata={"help": "Tokens a text is cut to."})
    streaming: bool = field(
        default=False, metadata={"help": "Read the training part while it trains, not before. Needs max_steps."}
    )
    shuffle_buffer: int = field(default=1000, metadata={"help": "Rows that are mixed with streaming."})
    augment: list[str] | None = field(
        default=None,
        metadata={"help": "Change training pictures by: crop, flip, color. Flip only where no left is asked."},
    )
    token_dropout: float = field(default=0.0, metadata={"help": "Chance that a training text loses a token."})
    speed_perturbation: float = field(
        default=0.0,
        metadata={"help": "Play training sounds up to this share faster or slower, such as 0.2: for unknown voices."},
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("validation_fraction", "test_fraction"):
            check_range(name, getattr(self, name), 0, 1)
        for name in ("token_dropout", "speed_perturbation"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}.")


@dataclass
class TrainArguments:
    """How it learns."""

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of the run; left out, runs/ and the name of the recipe or data."}
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Start anew in a folder that holds a run; not to take up a killed one."},
    )
    allow_changes: str = field(
        default="false",
        metadata={
            "nargs": "?",
            "const": "true",
            "help": "true: resume though keys of the recipe changed that may (the message names which may); data: "
            "also though rows, preprocessing or frozen encoders changed.",
        },
    )
    seed: int = field(default=0, metadata={"help": "Of weights, order and dropout."})
    defaults_version: int = field(
        default=2,
        metadata={
            "help": "What is done where the recipe says nothing: 1 as runs did before this key was there "
            "(one of them goes on so by itself), 2 as now.",
            "choices": [1, 2],
        },
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "Of projections, fusion and head."})
    encoder_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the encoders; left out, a fifth of learning_rate (METER)."}
    )
    vision_learning_rate: float | None = field(default=None, metadata={"help": "Of the vision encoder alone."})
    text_learning_rate: float | None = field(default=None, metadata={"help": "Of the text encoder alone."})
    audio_learning_rate: float | None = field(default=None, metadata={"help": "Of the audio encoder alone."})
    series_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the encoder of time series; left out, learning_rate."}
    )
    tabular_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the table's encoder, which starts from nothing; left out, learning_rate."}
    )
    decoder_learning_rate: float | None = field(
        default=None, metadata={"help": "generation: of the decoder; left out, as of the encoders."}
    )
    layer_decay: float = field(
        default=1.0,
        metadata={"help": "Each layer of an encoder learns at this share of the rate of the one above it."},
    )
    unfreeze_epochs: float | None = field(
        default=None,
        metadata={"help": "Gradual unfreezing: epochs until the encoders' next layer, from the top, starts to learn."},
    )
    weight_decay: float = field(default=0.01, metadata={"help": "Of matrices, by AdamW."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the training part."})
    max_steps: int = field(default=-1, metadata={"help": "Optimizer steps, in place of epochs, if above 0."})
    max_train_seconds: float | None = field(default=None, metadata={"help": "Stop training after this wall time."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Rows a process and step."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Rows a process and evaluation step."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches a step."})
    train_sampling_strategy: str = field(
        default="random",
        metadata={
            "help": "group_by_length: rows with texts (of generation, also texts to write) of like length share a "
            "batch, which saves padding.",
            "choices": ["random", "group_by_length"],
        },
    )
    imbalance: str | None = field(
        default=None,
        metadata={
            "help": "What to do about rare classes: class_weights, focal_loss (Lin et al. 2017), balanced_sampler or "
            "logit_adjustment (Menon et al. 2021).",
            "choices": ["class_weights", "focal_loss", "balanced_sampler", "logit_adjustment"],
        },
    )
    focal_gamma: float = field(default=2.0, metadata={"help": "Of the focal loss."})
    label_smoothing_factor: float = field(default=0.0, metadata={"help": "Share of the label given to all classes."})
    mixup_alpha: float = field(default=0.0, metadata={"help": "Above 0: mix fused rows and their labels."})
    gradient_modulation: float = field(
        default=0.0,
        metadata={
            "help": "Above 0: hold back the modality that is ahead, so strongly (OGM-GE, Peng et al. 2022); try 0.3."
        },
    )
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradients are clipped to this norm; 0: not."})
    max_nonfinite: int = field(
        default=10,
        metadata={"help": "Skipped steps in a row, whose loss is not finite, before the run stops (not with fp16)."},
    )
    warmup_ratio: float = field(default=0.05, metadata={"help": "Share of the steps in which the rate rises."})
    lr_scheduler_type: str = field(
        default="cosine",
        metadata={
            "help": "As in TrainingArguments, those that need no more keys.",
            "choices": ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"],
        },
    )
    optim: str = field(
        default="adamw_torch_fused",
        metadata={"help": "adamw_torch_fused or sgd.", "choices": ["adamw_torch_fused", "sgd"]},
    )
    ema_decay: float | None = field(
        default=None, metadata={"help": "Measure and keep a moving average of the weights, such as 0.999."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations in a row without a better score."}
    )
    bf16: bool = field(default=False, metadata={"help": "Mixed precision in bfloat16."})
    fp16: bool = field(default=False, metadata={"help": "Mixed precision in float16, on a GPU."})
    torch_compile: bool = field(default=False, metadata={"help": "Compile the model: minutes before the first step."})
    dataloader_num_workers: int = field(default=0, metadata={"help": "Processes that prepare batches."})
    logging_steps: int = field(default=10, metadata={"help": "Steps between two points of the loss curve."})
    eval_steps: int | None = field(
        default=None, metadata={"help": "Steps between two evaluations; left out, at the end of every epoch."}
    )
    save_steps: int | None = field(
        default=None, metadata={"help": "Steps between two checkpoints; left out, after every evaluation."}
    )
    save_total_limit: int = field(default=2, metadata={"help": "Checkpoints that are kept."})
    report_to: str = field(
        default="tensorboard", metadata={"help": "Tracker: tensorboard (in the run's folder), wandb… or none."}
    )
    predict_with_generate: bool = field(
        default=True,
        metadata={
            "help": "generation: choose the model by what it writes of the validation part; else by how often it "
            "takes the right next token, which is quicker."
        },
    )
    floors: bool = field(default=True, metadata={"help": "Measure the floors beside the score."})
    floor_budget: float = field(
        default=0.25,
        metadata={"help": "Epochs, steps and seconds of models that see one modality alone, as a share of the run's."},
    )

    def __post_init__(self):
        if self.allow_changes != "data":
            try:
                self.allow_changes = truth(self.allow_changes)
            except ArgumentTypeError:
                raise ValueError(f"allow_changes must be true, false or data, got {self.allow_changes!r}.") from None
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 are both true: choose one.")
        at_least_one = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        at_least_one += ("logging_steps", "eval_steps", "save_steps", "save_total_limit", "max_nonfinite")
        at_least_one += ("early_stopping_patience",)
        for name in at_least_one:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("num_train_epochs", "max_train_seconds", "unfreeze_epochs", "layer_decay", "floor_budget"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        not_negative = ("learning_rate", "encoder_learning_rate", "vision_learning_rate", "text_learning_rate")
        not_negative += (
            "audio_learning_rate",
            "tabular_learning_rate",
            "series_learning_rate",
            "decoder_learning_rate",
            "gradient_modulation",
        )
        for name in (*not_negative, "weight_decay", "max_grad_norm", "focal_gamma", "mixup_alpha", "ema_decay"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        for name in ("label_smoothing_factor", "ema_decay"):
            if getattr(self, name) is not None and not getattr(self, name) < 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}.")
        check_range("layer_decay", self.layer_decay, 0, 1)
        check_range("warmup_ratio", self.warmup_ratio, 0, 1)

    @property
    def mixed_precision(self) -> str | None:
        """As Accelerate names it; None leaves it to `accelerate launch`."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else None

    @property
    def encoder_learning_rates(self) -> dict[str, float]:
        """By modality, and of the decoder."""
        from ..models.configuration_mm_fusion import MODALITY_CONFIGS, PRETRAINED_MODALITIES  # loads transformers

        common = self.learning_rate / 5 if self.encoder_learning_rate is None else self.encoder_learning_rate
        own = {name: getattr(self, f"{name}_learning_rate") for name in (*MODALITY_CONFIGS, "decoder")}
        for name in set(MODALITY_CONFIGS) - set(PRETRAINED_MODALITIES):  # which start from nothing
            own[name] = self.learning_rate if own[name] is None else own[name]
        return {name: common if rate is None else rate for name, rate in own.items()}


# What a key may also be in a recipe, and not as a flag.
FORMS = {
    "freeze_encoders": list[str],
    "modality_dropout": dict[str, object],  # the config says what each may be
    "problem_type": dict[str, str],
    "weight_column": dict[str, str],
    "task_weights": dict[str, float],
    "trained_layers": dict[str, int],
}
ALL_ARGUMENTS = (ModelArguments, DataArguments, TrainArguments)


def training_parser(description: str, prog: str) -> ArgumentParser:
    """The flags of `mm_hf train` and `mm_hf finetune`."""
    usage = f"{prog} [RECIPE.yaml | DATA] [flags]"
    parser = ArgumentParser(ALL_ARGUMENTS, prog=prog, usage=usage, description=description)
    parser.add_argument(
        "source",
        nargs="?",
        metavar="RECIPE.yaml | DATA",
        help="a YAML file with any of the keys below, or the name of a packaged one (mm_hf recipes list); what does "
        "not end in .yaml or .yml is the data, as --dataset",
    )
    return parser


def parse_arguments(
    description: str, words: list[str] | None = None, prog: str = "mm_hf train"
) -> tuple[str, ModelArguments, DataArguments, TrainArguments]:
    """Reads the recipe or the name of the data that stands first on the command line, if one does, and the flags.

    Args:
        description: of the script, for its help.
        words: in place of those of the command line.
        prog: what the script is called.

    Returns:
        the run's name (that of the recipe, else that of the data; `run` where only flags are given), and the three
        groups of arguments.

    Raises:
        SystemExit: with one line, for an unknown key or a value that does not fit.
    """
    parser = training_parser(description, prog)
    parsed, others = parser.parse_known_args(words)
    source, known = parsed.source, {key.name for group in ALL_ARGUMENTS for key in fields(group)}
    if flags := [word.split("=")[0] for word in others if word.startswith("--")]:
        # Said before the recipe is read, since the flag's value may have been taken for one.
        parser.error(f"unknown flag {flags[0]}.{did_you_mean(flags[0][2:], parser.names())}")
    if others:
        parser.error(
            f"{source!r:.80} and {others[0]!r:.80} both stand for the recipe or the data: name the data of a "
            "recipe as --dataset."
        )
    name = "run"
    try:
        recipe, data = recipe_or_data(source)
        if recipe is not None:
            values = read_recipe(recipe)
            if unknown := sorted(map(str, set(values) - known)):
                meant = did_you_mean(unknown[0], known)
                raise ValueError(f"unknown key {unknown[0]!r:.80}.{meant}")
            if isinstance(values.get("allow_changes"), bool):  # these are two of its words
                values["allow_changes"] = str(values["allow_changes"]).lower()
            parser.set_defaults(**checked_values(values, ALL_ARGUMENTS, FORMS))
            name = recipe.name.rsplit(".", 1)[0]
    except (OSError, ValueError) as error:
        parser.error(f"recipe {source}: {error}" if source.endswith(RECIPE_ENDINGS) else str(error))
    if data is not None:
        if parsed.dataset not in (None, data):
            parser.error(f"the data are named twice, as {data!r} and as --dataset {parsed.dataset!r}: keep one.")
        parser.set_defaults(dataset=data)
        name = name_of_data(data)
    try:
        model_args, data_args, train_args, _ = parser.parse_args_into_dataclasses(words)
    except ValueError as error:
        parser.error(str(error))
    return name, model_args, data_args, train_args
