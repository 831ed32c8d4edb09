"""The keys of a recipe that say how it learns. Where TrainingArguments has a key, its name is used."""

from argparse import SUPPRESS, ArgumentTypeError
from dataclasses import dataclass, fields
from typing import Any

from .by_modality import modalities, pretrained_modalities
from .values import check_least, check_range, option, truth


PRESETS = ("fast", "balanced", "best")


@dataclass
class TrainArguments:
    """How it learns."""

    output_dir: str | None = option(None, "Folder of the run; left out, runs/ and the name of the recipe or data.")
    overwrite_output_dir: bool = option(False, "Start anew in a folder that holds a run; not to take up a killed one.")
    allow_changes: str = option(
        "false",
        "true: resume though keys of the recipe changed that may (the message names which may); data: "
        "also though rows, preprocessing or frozen encoders changed.",
        nargs="?",
        const="true",
    )
    seed: int = option(0, "Of weights, order and dropout.")
    defaults_version: int = option(
        3,
        "What is done where the recipe says nothing: 3 as now, 2 without what suits the rows and a machine without a "
        "GPU, with JPEGs decoded in full and features in memory, 1 as runs did before this key was there. (A run that "
        "was begun goes on as it began.)",
        choices=[1, 2, 3],
    )
    preset: str | None = option(
        None,
        "Settings for the keys that are left out: fast (one vector a modality, frozen encoders), balanced (as without "
        "this key), best (deeper, longer, averaged weights).",
        choices=list(PRESETS),
    )
    learning_rate: float = option(
        1e-4,
        "Of projections, fusion and head. Also by modality, of the encoders: "
        '"{default: 1e-4, encoders: 2e-5, vision: 1e-5}"; short forms: encoder_learning_rate, '
        "vision_learning_rate…",
        forms=(dict[str, float],),
    )
    encoder_learning_rate: float | None = option(None, "Of the encoders; left out, a fifth of learning_rate (METER).")
    vision_learning_rate: float | None = option(None, "Of the vision encoder alone.")
    text_learning_rate: float | None = option(None, "Of the text encoder alone.")
    audio_learning_rate: float | None = option(None, "Of the audio encoder alone.")
    series_learning_rate: float | None = option(None, "Of the encoder of time series; left out, learning_rate.")
    tabular_learning_rate: float | None = option(
        None, "Of the table's encoder, which starts from nothing; left out, learning_rate."
    )
    # What learning_rate says of encoders from outside the package.
    extra_learning_rates: str | None = option(None, SUPPRESS, forms=(dict[str, float],))
    decoder_learning_rate: float | None = option(None, "generation: of the decoder; left out, as of the encoders.")
    layer_decay: float = option(1.0, "Each layer of an encoder learns at this share of the rate of the one above it.")
    unfreeze_epochs: float | None = option(
        None, "Gradual unfreezing: epochs until the encoders' next layer, from the top, starts to learn."
    )
    weight_decay: float = option(0.01, "Of matrices, by AdamW.")
    num_train_epochs: float = option(3.0, "Passes over the training part.")
    max_steps: int = option(-1, "Optimizer steps, in place of epochs, if above 0.")
    max_train_seconds: float | None = option(None, "Stop training after this wall time.")
    per_device_train_batch_size: int = option(32, "Rows a process and step.")
    per_device_eval_batch_size: int = option(128, "Rows a process and evaluation step.")
    gradient_accumulation_steps: int = option(1, "Batches a step.")
    train_sampling_strategy: str = option(
        "random",
        "group_by_length: rows with texts (of generation, also texts to write) of like length share a "
        "batch, which saves padding.",
        choices=["random", "group_by_length"],
    )
    imbalance: str | None = option(
        None,
        "What to do about rare classes: class_weights, focal_loss (Lin et al. 2017), balanced_sampler or "
        "logit_adjustment (Menon et al. 2021).",
        choices=["class_weights", "focal_loss", "balanced_sampler", "logit_adjustment"],
    )
    focal_gamma: float = option(2.0, "Of the focal loss.")
    label_smoothing_factor: float = option(0.0, "Share of the label given to all classes.")
    mixup_alpha: float = option(0.0, "Above 0: mix fused rows and their labels.")
    gradient_modulation: float = option(
        0.0, "Above 0: hold back the modality that is ahead, so strongly (OGM-GE, Peng et al. 2022); try 0.3."
    )
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm; 0: not.")
    max_nonfinite: int = option(
        10, "Skipped steps in a row, whose loss is not finite, before the run stops (not with fp16)."
    )
    warmup_ratio: float = option(0.05, "Share of the steps in which the rate rises.")
    lr_scheduler_type: str = option(
        "cosine",
        "As in TrainingArguments, those that need no more keys.",
        choices=["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"],
    )
    optim: str = option("adamw_torch_fused", "adamw_torch_fused or sgd.", choices=["adamw_torch_fused", "sgd"])
    ema_decay: float | None = option(None, "Measure and keep a moving average of the weights, such as 0.999.")
    early_stopping_patience: int | None = option(
        None, "Stop after this many evaluations in a row without a better score."
    )
    bf16: bool = option(False, "Mixed precision in bfloat16.")
    fp16: bool = option(False, "Mixed precision in float16, on a GPU.")
    torch_compile: bool = option(False, "Compile the model: minutes before the first step.")
    dataloader_num_workers: int = option(0, "Processes that prepare batches.")
    logging_steps: int = option(10, "Steps between two points of the loss curve.")
    eval_steps: int | None = option(None, "Steps between two evaluations; left out, at the end of every epoch.")
    save_steps: int | None = option(None, "Steps between two checkpoints; left out, after every evaluation.")
    save_total_limit: int = option(2, "Checkpoints that are kept.")
    report_to: str = option("tensorboard", "Tracker: tensorboard (in the run's folder), wandb… or none.")
    predict_with_generate: bool = option(
        True,
        "generation: choose the model by what it writes of the validation part; else by how often it "
        "takes the right next token, which is quicker.",
    )
    evidence: bool | None = option(
        None,
        "Say in the card what the answers rest on: what each modality gave to those to 100 test rows. Left out, true "
        "from defaults_version 3 on.",
    )
    floors: bool = option(True, "Measure the floors beside the score.")
    floor_budget: float = option(
        0.25, "Epochs, steps and seconds of models that see one modality alone, as a share of the run's."
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
        sizes = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        steps = ("logging_steps", "eval_steps", "save_steps", "save_total_limit", "max_nonfinite")
        check_least(self, 1, *sizes, *steps, "early_stopping_patience")
        for name in ("num_train_epochs", "max_train_seconds", "unfreeze_epochs", "layer_decay", "floor_budget"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        extra: Any = self.extra_learning_rates or {}
        if not isinstance(extra, dict) or any(rate < 0 for rate in extra.values()):
            raise ValueError(f"learning_rate must be at least 0 for each modality, got {extra!r:.80}.")
        check_least(self, 0, *(key.name for key in fields(self) if key.name.endswith("learning_rate")))
        check_least(self, 0, "gradient_modulation", "weight_decay", "max_grad_norm", "focal_gamma", "mixup_alpha")
        check_least(self, 0, "ema_decay")
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
        rates = {}
        for name in (*modalities(), "decoder"):
            rate = getattr(self, f"{name}_learning_rate", extra.get(name))
            usual = common if name in pretrained else self.learning_rate  # the others start from nothing
            rates[name] = usual if rate is None else rate
        return rates
