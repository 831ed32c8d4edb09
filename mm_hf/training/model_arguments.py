"""The keys of a recipe that say what is built."""

from dataclasses import dataclass, field, fields
from typing import Any

from ..models.head_table import HEAD_TABLE, RETRIEVAL  # noqa: F401
from ..models.names import shown
from .recipe_files import parse_yaml
from .values import checked_value


DEFAULT_VISION_ENCODER = "google/vit-base-patch16-224"
DEFAULT_TEXT_ENCODER = "google-bert/bert-base-uncased"
DEFAULT_AUDIO_ENCODER = "openai/whisper-tiny"


def by_name(name: str, hint: Any, form: str, value: Any) -> dict[str, Any] | None:
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
    return None if value is None else checked_value(name, hint, value)


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
    encoders: str | None = field(
        default=None,
        metadata={
            "help": 'Hub ids or folders by modality, as "{vision: google/vit-base-patch16-224}"; short forms: '
            "vision_encoder, text_encoder, audio_encoder.",
            "forms": (dict[str, str],),
        },
    )
    vision_encoder: str | None = field(
        default=None,
        metadata={
            "help": f"Hub id or folder; left out beside an image_column, "
            f"as MM_HF_ENCODERS says, else {DEFAULT_VISION_ENCODER}.",
            "usual": DEFAULT_VISION_ENCODER,
        },
    )
    text_encoder: str | None = field(
        default=None,
        metadata={
            "help": f"Hub id or folder; left out beside a text_column, "
            f"as MM_HF_ENCODERS says, else {DEFAULT_TEXT_ENCODER}.",
            "usual": DEFAULT_TEXT_ENCODER,
        },
    )
    audio_encoder: str | None = field(
        default=None,
        metadata={
            "help": f"Hub id or folder; left out beside an audio_column, "
            f"as MM_HF_ENCODERS says, else {DEFAULT_AUDIO_ENCODER}.",
            "usual": DEFAULT_AUDIO_ENCODER,
        },
    )
    max_audio_seconds: int | None = field(
        default=None,
        metadata={
            "help": "Longer sounds are cut; Whisper's encoder, which takes 30, is cut to these seconds too.",
            "needs": "audio_encoder",
        },
    )
    series_rnn_type: str = field(
        default="lstm",
        metadata={"help": "The encoder of a series_column, as wide as the fusion.", "choices": ["lstm", "gru"]},
    )
    fusion: str = field(
        default="cross_attention",
        metadata={"help": "A fusion of the registry; linear: a straight line, fitted without steps."},
    )
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
    pooling: str | None = field(
        default=None,
        metadata={
            "help": "How one vector is read from the tokens of an encoder: cls, last or mean; left out, by encoder. "
            'Also by modality: "{audio: mean}".',
            "forms": (dict[str, str],),
        },
    )
    text_pooling: str | None = field(default=None, metadata={"help": "Likewise, of the text encoder alone."})
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Side in pixels that images are resized to; left out, the encoder's own.",
            "needs": "vision_encoder",
        },
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
            "help": 'Train projections, fusion and head alone. Also a list of modalities, "[vision]", or by '
            'modality: "{default: true, text: false}".',
            "forms": (list[str], dict[str, bool]),
        },
    )
    trained_layers: str | None = field(
        default=None,
        metadata={
            "help": 'Encoders of which the top layers alone train, and how many, as "{vision: 2}".',
            "forms": (dict[str, int],),
        },
    )
    modality_dropout: float = field(
        default=0.0,
        metadata={
            "help": 'Chance that a row trains without a modality. Also by modality: "{text: 0.5}".',
            "forms": (dict[str, object],),  # the config says what each may be
        },
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
            "choices": [head.task for head in HEAD_TABLE],
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
        metadata={
            "help": 'The fixed weights by column of labels, as "{tone: 0.5}"; left out, 1.',
            "forms": (dict[str, float],),
        },
    )

    def __post_init__(self):
        least_of = dict.fromkeys(("lora_rank", "ctc_stride", "num_frames", "decoder_layers", "num_beams"), 1)
        for name, least in {**least_of, "max_target_length": 2}.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.lora_alpha is not None and not self.lora_alpha > 0:
            raise ValueError(f"lora_alpha must be above 0, got {self.lora_alpha}.")
        examples = {"task_weights": "{tone: 0.5}", "trained_layers": "{vision: 2}"}
        for key in fields(self):
            if key.name in examples:
                (hint,) = key.metadata["forms"]
                setattr(self, key.name, by_name(key.name, hint, examples[key.name], getattr(self, key.name)))
        trained_layers: Any = self.trained_layers or {}
        if strange := [layers for layers in trained_layers.values() if layers < 1]:
            raise ValueError(f"trained_layers must be of the form {{vision: 2}}, 1 and more; got {strange[0]}.")
        if trained_layers and self.lora in ("encoders", "all", *trained_layers):
            raise ValueError(
                f"lora is {self.lora!r}, where adapters train in place of an encoder's own weights, and "
                f"trained_layers {self.trained_layers} lets those train: leave one out."
            )
