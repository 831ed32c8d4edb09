"""The keys of a recipe that say how it learns. Where TrainingArguments has a key, its name is used."""

from argparse import SUPPRESS, ArgumentTypeError
from dataclasses import dataclass, field, fields
from typing import Any

from .by_modality import modalities, pretrained_modalities
from .values import check_range, truth


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
        default=3,
        metadata={
            "help": "What is done where the recipe says nothing: 1 as runs did before this key was there "
            "(one of them goes on so by itself), 2 as runs did that decoded JPEGs in full and kept features in "
            "memory, 3 as now.",
            "choices": [1, 2, 3],
        },
    )
    learning_rate: float = field(
        default=1e-4,
        metadata={
            "help": "Of projections, fusion and head. Also by modality, of the encoders: "
            '"{default: 1e-4, encoders: 2e-5, vision: 1e-5}"; short forms: encoder_learning_rate, '
            "vision_learning_rate…",
            "forms": (dict[str, float],),
        },
    )
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
    extra_learning_rates: str | None = field(  # what learning_rate says of encoders from outside the package
        default=None, metadata={"help": SUPPRESS, "forms": (dict[str, float],)}
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
                allowed: Any = truth(self.allow_changes)
                self.allow_changes = allowed
            except ArgumentTypeError:
                raise ValueError(f"allow_changes must be true, false or data, got {self.allow_changes!r}.") from None
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 are both true: choose one.")
        at_least_one = (
            *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
            *("logging_steps", "eval_steps", "save_steps", "save_total_limit", "max_nonfinite"),
            "early_stopping_patience",
        )
        for name in at_least_one:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("num_train_epochs", "max_train_seconds", "unfreeze_epochs", "layer_decay", "floor_budget"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        extra: Any = self.extra_learning_rates or {}
        if not isinstance(extra, dict) or any(rate < 0 for rate in extra.values()):
            raise ValueError(f"learning_rate must be at least 0 for each modality, got {extra!r:.80}.")
        not_negative = (
            *(key.name for key in fields(self) if key.name.endswith("learning_rate")),
            *("gradient_modulation", "weight_decay", "max_grad_norm", "focal_gamma", "mixup_alpha", "ema_decay"),
        )
        for name in not_negative:
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
        pretrained = [*pretrained_modalities(), "decoder"]
        common = self.learning_rate / 5 if self.encoder_learning_rate is None else self.encoder_learning_rate
        extra: Any = self.extra_learning_rates or {}
        found = {}
        for name in (*modalities(), "decoder"):
            rate = getattr(self, f"{name}_learning_rate", extra.get(name))
            usual = common if name in pretrained else self.learning_rate  # the others start from nothing
            found[name] = usual if rate is None else rate
        return found
