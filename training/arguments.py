"""The keys of a recipe, which are the flags of the scripts too. Where TrainingArguments has a key, its name is used.

`train.py recipe.yaml --learning_rate 1e-3`: the file first, then the flags; a flag wins, and an unknown key is
refused.
"""

from dataclasses import dataclass, field, fields

import yaml
from transformers import HfArgumentParser


@dataclass
class ModelArguments:
    """What is built."""

    vision_encoder: str | None = field(default=None, metadata={"help": "Hub id or folder of the vision encoder."})
    text_encoder: str | None = field(default=None, metadata={"help": "Hub id or folder of the text encoder."})
    fusion: str = field(default="cross_attention", metadata={"help": "A fusion of the registry."})
    fusion_hidden_size: int | None = field(
        default=None, metadata={"help": "Fusion width; left out, the width of the text encoder."}
    )
    fusion_layers: int = field(default=4, metadata={"help": "Fusion blocks."})
    fusion_heads: int | None = field(
        default=None, metadata={"help": "Attention heads; left out, one every 64 of width."}
    )
    fusion_dropout: float = field(default=0.1, metadata={"help": "Dropout in the fusion's residual branches."})
    vision_feature_layer: list[int] | None = field(
        default=None, metadata={"help": "Indices into the vision encoder's hidden_states; left out, its last state."}
    )
    text_pooling: str | None = field(default=None, metadata={"help": "cls, last or mean; left out, by encoder."})
    image_size: int | None = field(
        default=None, metadata={"help": "Side in pixels that images are resized to; left out, the encoder's own."}
    )
    freeze_encoders: bool = field(default=False, metadata={"help": "Train projections, fusion and head alone."})
    modality_dropout: float = field(default=0.0, metadata={"help": "Chance that a row trains without a modality."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Recompute activations, to save memory."})
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa (default), eager, flex_attention…"})
    task: str = field(
        default="question_answering",
        metadata={
            "help": "The head: question_answering or classification.",
            "choices": ["question_answering", "classification"],
        },
    )


@dataclass
class DataArguments:
    """What it learns from."""

    dataset: str | None = field(default=None, metadata={"help": "Folder of save_to_disk, or Hub id."})
    image_column: str | None = field(default=None, metadata={"help": "Column of the pictures."})
    image_id_column: str | None = field(
        default=None, metadata={"help": "Column whose equal values mean the same picture; its rows share a batch."}
    )
    text_column: str | None = field(default=None, metadata={"help": "Column of the texts."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the labels."})
    kind_column: str | None = field(default=None, metadata={"help": "Column that metrics are split by."})
    max_text_length: int | None = field(default=None, metadata={"help": "Tokens a text is cut to."})
    cache_features: bool = field(
        default=True,
        metadata={
            "help": "Keep the features of frozen encoders in memory: each item is encoded once. A picture takes 14 KB "
            "in the easy_vqa recipe and 600 KB with ViT-B, on every process: turn it off for large sets."
        },
    )


@dataclass
class TrainArguments:
    """How it learns."""

    output_dir: str | None = field(default=None, metadata={"help": "Folder of the run; left out, runs/<recipe name>."})
    seed: int = field(default=0, metadata={"help": "Of weights, order and dropout."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Of projections, fusion and head."})
    encoder_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the encoders; left out, a fifth of learning_rate (METER)."}
    )
    vision_learning_rate: float | None = field(default=None, metadata={"help": "Of the vision encoder alone."})
    text_learning_rate: float | None = field(default=None, metadata={"help": "Of the text encoder alone."})
    weight_decay: float = field(default=0.01, metadata={"help": "Of matrices, by AdamW."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the training part."})
    max_steps: int = field(default=-1, metadata={"help": "Optimizer steps, in place of epochs, if above 0."})
    max_train_seconds: float | None = field(default=None, metadata={"help": "Stop training after this wall time."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Rows a process and step."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Rows a process and evaluation step."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches a step."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradients are clipped to this norm; 0: not."})
    warmup_ratio: float = field(default=0.05, metadata={"help": "Share of the steps in which the rate rises."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "As in TrainingArguments."})
    bf16: bool = field(default=False, metadata={"help": "Mixed precision in bfloat16."})
    fp16: bool = field(default=False, metadata={"help": "Mixed precision in float16, on a GPU."})
    dataloader_num_workers: int = field(default=0, metadata={"help": "Processes that prepare batches."})
    logging_steps: int = field(default=10, metadata={"help": "Steps between two points of the loss curve."})
    floors: bool = field(default=True, metadata={"help": "Measure the floors beside the score."})
    floor_budget: float = field(
        default=0.25, metadata={"help": "Epochs of the models that see one modality alone, as a share of the run's."}
    )

    def __post_init__(self):
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 are both true: choose one.")
        at_least_one = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        at_least_one += ("logging_steps",)
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")

    @property
    def mixed_precision(self) -> str | None:
        """As Accelerate names it; None leaves it to `accelerate launch`."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else None

    @property
    def encoder_learning_rates(self) -> dict[str, float]:
        """By modality."""
        common = self.learning_rate / 5 if self.encoder_learning_rate is None else self.encoder_learning_rate
        own = {"vision": self.vision_learning_rate, "text": self.text_learning_rate}
        return {name: common if rate is None else rate for name, rate in own.items()}


ALL_ARGUMENTS = (ModelArguments, DataArguments, TrainArguments)


def parse_arguments(description: str) -> tuple[str, ModelArguments, DataArguments, TrainArguments]:
    """Reads the recipe named first on the command line, if one is, and the flags.

    Returns:
        the recipe's name (`run` without one), and the three groups of arguments.

    Raises:
        SystemExit: with one line, for an unknown key or a value that does not fit.
    """
    parser = HfArgumentParser(ALL_ARGUMENTS, description=description, allow_abbrev=False)
    parser.add_argument("recipe", nargs="?", help="A YAML file with any of these keys.")
    recipe = parser.parse_known_args()[0].recipe
    known = {key.name for group in ALL_ARGUMENTS for key in fields(group)}
    if recipe is not None:
        try:
            with open(recipe, encoding="utf-8") as file:
                values = yaml.safe_load(file) or {}
        except (OSError, yaml.YAMLError) as error:
            parser.error(f"recipe {recipe}: {error}")
        if not isinstance(values, dict):
            parser.error(f"recipe {recipe}: needed are lines of `key: value`, got {type(values).__name__}.")
        unknown = sorted(set(values) - known)
        if unknown:
            parser.error(f"recipe {recipe}: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}.")
        # argparse converts defaults that are strings as it does flags: 1e-3, a string to YAML, becomes a number.
        parser.set_defaults(
            **{k: str(v) if isinstance(v, (int, float)) and not isinstance(v, bool) else v for k, v in values.items()}
        )
    try:
        model_args, data_args, train_args, _ = parser.parse_args_into_dataclasses()
    except ValueError as error:
        parser.error(str(error))
    name = "run" if recipe is None else recipe.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return name, model_args, data_args, train_args
