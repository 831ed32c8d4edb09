"""The recipe keys about the training. A key that TrainingArguments also has uses the same name."""

from argparse import SUPPRESS, ArgumentTypeError
from dataclasses import dataclass, fields
from typing import Any

from .by_modality import modalities, pretrained_modalities
from .values import check_least, check_range, option, truth


PRESETS = ("fast", "balanced", "best")


@dataclass
class TrainArguments:
    """The training."""

    output_dir: str | None = option(None, "Folder of the run; left out, runs/ and the name of the recipe or data.")
    overwrite_output_dir: bool = option(
        False, "Start again from the beginning in a folder that holds a run. Do not use it to resume a killed run."
    )
    allow_changes: str = option(
        "false",
        "true: resume although some keys of the recipe have changed (the error message says for which keys this is "
        "allowed). data: resume although rows, preprocessing or frozen encoders have changed too.",
        nargs="?",
        const="true",
    )
    seed: int = option(0, "Seed of initial weights, order of rows and dropout.")
    defaults_version: int = option(
        3,
        "Version of the defaults for keys that are left out. 3: the present defaults. 2: without the settings that "
        "depend on the rows and on the GPU, with JPEGs decoded in full and features in memory. 1: the behaviour from "
        "before this key existed. A resumed run keeps the version that it was started with.",
        choices=[1, 2, 3],
    )
    preset: str | None = option(
        None,
        "Settings for the keys that are left out: fast (one vector per modality, frozen encoders), balanced (the same "
        "as without this key), best (more layers, more epochs, averaged weights).",
        choices=list(PRESETS),
    )
    learning_rate: float = option(
        1e-4,
        "Learning rate of projections, fusion and head. Also by modality, for the encoders: "
        '"{default: 1e-4, encoders: 2e-5, vision: 1e-5}"; short forms: encoder_learning_rate, '
        "vision_learning_rate…",
        forms=(dict[str, float],),
    )
    encoder_learning_rate: float | None = option(
        None, "Learning rate of all encoders; left out, a fifth of learning_rate (METER)."
    )
    vision_learning_rate: float | None = option(None, "Learning rate of the vision encoder.")
    text_learning_rate: float | None = option(None, "Learning rate of the text encoder.")
    audio_learning_rate: float | None = option(None, "Learning rate of the audio encoder.")
    series_learning_rate: float | None = option(
        None, "Learning rate of the encoder of time series; left out, learning_rate."
    )
    tabular_learning_rate: float | None = option(
        None, "Learning rate of the table's encoder, which is not pretrained; left out, learning_rate."
    )
    # The values of learning_rate for encoders from outside the package.
    extra_learning_rates: str | None = option(None, SUPPRESS, forms=(dict[str, float],))
    decoder_learning_rate: float | None = option(
        None, "generation: learning rate of the decoder; left out, the same as for the encoders."
    )
    layer_decay: float = option(
        1.0, "The learning rate of each encoder layer is this share of the rate of the layer above it."
    )
    unfreeze_epochs: float | None = option(
        None, "Gradual unfreezing from the top: after each so many epochs one more encoder layer starts to train."
    )
    weight_decay: float = option(0.01, "Weight decay of matrices in AdamW.")
    num_train_epochs: float = option(3.0, "Epochs: passes over the training part.")
    max_steps: int = option(-1, "If above 0: the number of optimizer steps, instead of num_train_epochs.")
    max_train_seconds: float | None = option(None, "Stop training after this wall time in seconds.")
    per_device_train_batch_size: int = option(32, "Rows per process and batch in training.")
    per_device_eval_batch_size: int = option(128, "Rows per process and batch in evaluation.")
    gradient_accumulation_steps: int = option(1, "Batches per optimizer step.")
    train_sampling_strategy: str = option(
        "random",
        "group_by_length: rows with texts of similar length share a batch, which saves padding. For generation the "
        "label texts count too.",
        choices=["random", "group_by_length"],
    )
    imbalance: str | None = option(
        None,
        "Method for rare classes: class_weights, focal_loss (Lin et al. 2017), balanced_sampler or "
        "logit_adjustment (Menon et al. 2021).",
        choices=["class_weights", "focal_loss", "balanced_sampler", "logit_adjustment"],
    )
    focal_gamma: float = option(2.0, "The exponent gamma of focal_loss.")
    label_smoothing_factor: float = option(0.0, "Label smoothing: the share of a label that all classes get.")
    mixup_alpha: float = option(0.0, "Above 0: mixup of fused rows and their labels, with this alpha.")
    gradient_modulation: float = option(
        0.0,
        "Above 0: reduce the gradients of the modality that learns fastest, by this strength (OGM-GE, Peng et al. "
        "2022); try 0.3.",
    )
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm; 0: no clipping.")
    max_nonfinite: int = option(
        10, "The run stops after so many skipped steps in a row, with a loss that is not finite (not with fp16)."
    )
    warmup_ratio: float = option(0.05, "Share of the steps for warmup, in which the learning rate rises.")
    lr_scheduler_type: str = option(
        "cosine",
        "Schedule of the learning rate, as in TrainingArguments.",
        choices=["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"],
    )
    optim: str = option("adamw_torch_fused", "adamw_torch_fused or sgd.", choices=["adamw_torch_fused", "sgd"])
    ema_decay: float | None = option(
        None, "Measure and keep an exponential moving average of the weights with this decay, such as 0.999."
    )
    early_stopping_patience: int | None = option(
        None, "Stop after this many evaluations in a row without a better score."
    )
    bf16: bool = option(False, "Mixed precision in bfloat16.")
    fp16: bool = option(False, "Mixed precision in float16, on a GPU.")
    torch_compile: bool = option(False, "Compile the model; this takes minutes before the first step.")
    dataloader_num_workers: int = option(0, "Processes that prepare batches.")
    logging_steps: int = option(10, "Steps between two points of the loss curve.")
    eval_steps: int | None = option(None, "Steps between two evaluations; left out, at the end of every epoch.")
    save_steps: int | None = option(None, "Steps between two checkpoints; left out, after every evaluation.")
    save_total_limit: int = option(2, "Number of checkpoints to keep.")
    report_to: str = option("tensorboard", "Tracker: tensorboard (in the run's folder), wandb… or none.")
    predict_with_generate: bool = option(
        True,
        "generation: select the best weights by the texts that the model generates for the validation part. false: by "
        "how often it predicts the right next token, which is faster.",
    )
    evidence: bool | None = option(
        None,
        "Show in the model card what the answers depend on: the effect of each modality on the answers to 100 test "
        "rows. Left out, true with defaults_version 3.",
    )
    calibrate: bool | None = option(
        None,
        "Learn from the validation part how sure answers are (temperature, sets, intervals), and keep that in the "
        "config; answers do not change. Left out, true if there are 200 validation rows (with defaults_version 3).",
    )
    floors: bool = option(True, "Measure floors: simple baselines to compare the score with.")
    floor_budget: float = option(
        0.25, "Epochs, steps and seconds of the floors that see only one modality, as a share of the run's."
    )

    def __post_init__(self):
        if self.allow_changes != "data":
            try:
                allowed: Any = truth(self.allow_changes)
                self.allow_changes = allowed
            except ArgumentTypeError:
                raise ValueError(f"allow_changes must be true, false or data, got {self.allow_changes!r}.") from None
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 are both true: set only one of them.")
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
        """The value for Accelerate; None: `accelerate launch` decides."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else None

    @property
    def encoder_learning_rates(self) -> dict[str, float]:
        """The learning rates by modality, and of the decoder."""
        pretrained = [*pretrained_modalities(), "decoder"]
        common = self.learning_rate / 5 if self.encoder_learning_rate is None else self.encoder_learning_rate
        extra: Any = self.extra_learning_rates or {}
        rates = {}
        for name in (*modalities(), "decoder"):
            rate = getattr(self, f"{name}_learning_rate", extra.get(name))
            usual = common if name in pretrained else self.learning_rate  # the other encoders are not pretrained
            rates[name] = usual if rate is None else rate
        return rates
