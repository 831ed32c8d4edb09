"""The keys of a recipe that say what is built."""

from dataclasses import dataclass, fields
from typing import Any

from ..models.head_table import HEAD_TABLE, RETRIEVAL  # noqa: F401
from ..models.names import shown
from .recipe_files import parse_yaml
from .values import check_least, checked_value, option


DEFAULT_VISION_ENCODER = "google/vit-base-patch16-224"
DEFAULT_TEXT_ENCODER = "google-bert/bert-base-uncased"
DEFAULT_AUDIO_ENCODER = "openai/whisper-tiny"
AUTO = "auto"  # a value of `fusion`


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


def encoder_option(beside: str, usual: str) -> Any:
    """The key that names an encoder."""
    words = f"Hub id or folder; left out beside {beside}, as MM_HF_ENCODERS says, else {usual}."
    return option(None, words, usual=usual)


@dataclass
class ModelArguments:
    """What is built."""

    init_from: str | None = option(
        None,
        "Folder of a run or checkpoint, or Hub id: start from its encoders, projections, fusion, and its "
        "head where labels have the same names. Keys of these that are left out are as there.",
    )
    encoders: str | None = option(
        None,
        'Hub ids or folders by modality, as "{vision: google/vit-base-patch16-224}"; short forms: '
        "vision_encoder, text_encoder, audio_encoder.",
        forms=(dict[str, str],),
    )
    vision_encoder: str | None = encoder_option("an image_column", DEFAULT_VISION_ENCODER)
    text_encoder: str | None = encoder_option("a text_column", DEFAULT_TEXT_ENCODER)
    audio_encoder: str | None = encoder_option("an audio_column", DEFAULT_AUDIO_ENCODER)
    max_audio_seconds: int | None = option(
        None,
        "Longer sounds are cut; Whisper's encoder, which takes 30, is cut to these seconds too.",
        needs="audio_encoder",
    )
    series_rnn_type: str = option(
        "lstm", "The encoder of a series_column, as wide as the fusion.", choices=["lstm", "gru"]
    )
    fusion: str = option(
        "cross_attention",
        "A fusion of the registry; auto: tries all for a few steps each on what frozen encoders give, and trains the "
        "one that is best on validation; linear: a straight line, fitted without steps.",
    )
    query_modality: str | None = option(
        None,
        "The modality whose tokens ask the others, such as text; left out, the text, else the modality with the "
        "fewest tokens (a table asks pictures).",
    )
    fusion_hidden_size: int | None = option(None, "Fusion width; left out, the width of the text encoder.")
    fusion_layers: int = option(4, "Fusion blocks.")
    fusion_heads: int | None = option(None, "Attention heads; left out, one every 64 of width.")
    fusion_dropout: float = option(0.1, "Dropout in the fusion's residual branches.")
    memory_layers: int = option(0, "cross_attention: self-attention blocks over a picture's tokens before.")
    distance_bias: bool = option(False, "In those blocks let heads prefer near or far tokens (feature maps alone).")
    num_latents: int = option(4, "bottleneck: latents that the modalities share.")
    classifier_dropout: float = option(0.1, "Dropout before the last layer, or of what a decoder is shown.")
    vision_feature_layer: list[int] | None = option(  # noqa: RUF009 (it gives a field)
        None, "Indices into the vision encoder's hidden_states; left out, its last state."
    )
    vision_feature_join: str = option(
        "tokens",
        "Several feature layers side by side as tokens, or folded into those of the coarsest (channels).",
        choices=["tokens", "channels"],
    )
    pooling: str | None = option(
        None,
        "How one vector is read from the tokens of an encoder: cls, last or mean; left out, by encoder. "
        'Also by modality: "{audio: mean}".',
        forms=(dict[str, str],),
    )
    text_pooling: str | None = option(None, "Likewise, of the text encoder alone.")
    long_text: str | None = option(
        None,
        "What becomes of texts that are longer than the encoder reads: cut; or windows, each in a place of its own; "
        "left out, they are cut.",
        choices=["cut", "windows"],
        needs="text_encoder",
    )
    text_windows: int | None = option(None, "Windows of a text at most; left out, 4.", needs="text_encoder")
    image_size: int | None = option(
        None, "Side in pixels that images are resized to; left out, the encoder's own.", needs="vision_encoder"
    )
    image_background: str | None = option(
        None, "Ground that transparent pixels are shown on, black or #rrggbb; left out, white."
    )
    num_frames: int = option(8, "Frames of each video, at even distances, that go through the vision encoder.")
    freeze_encoders: bool = option(
        False,
        'Train projections, fusion and head alone. Also a list of modalities, "[vision]", or by '
        'modality: "{default: true, text: false}".',
        forms=(list[str], dict[str, bool]),
    )
    trained_layers: str | None = option(
        None, 'Encoders of which the top layers alone train, and how many, as "{vision: 2}".', forms=(dict[str, int],)
    )
    modality_dropout: float = option(
        0.0,
        'Chance that a row trains without a modality. Also by modality: "{text: 0.5}".',
        forms=(dict[str, object],),  # the config says what each may be
    )
    gradient_checkpointing: bool = option(False, "Recompute activations, to save memory.")
    attn_implementation: str | None = option(None, "sdpa (default), eager, flex_attention…")
    lora: str | None = option(
        None,
        "Train low-rank adapters (Hu et al. 2022) in place of the weights of: vision, text, encoders, fusion or all.",
        choices=["vision", "text", "encoders", "fusion", "all"],
    )
    lora_rank: int = option(8, "Rank of the adapters.")
    lora_alpha: float | None = option(None, "Their scale; left out, twice the rank.")
    lora_dropout: float = option(0.0, "Dropout before the adapters.")
    task: str | None = option(
        None,
        "The head: question_answering, left out where a row has picture, text and one label, or "
        "classification; multi_task where there are several columns of labels; retrieval learns from pairs of "
        "text and picture or sound, without labels; generation writes the text that the label column holds; ctc "
        "writes it down from the sound, letter by letter.",
        choices=[head.task for head in HEAD_TABLE],
    )
    decoder: str | None = option(
        None, "generation: Hub id or folder of what writes; left out, the text encoder's weights."
    )
    decoder_layers: int | None = option(
        None, "generation: keep as many of the decoder's lowest layers; left out, all."
    )
    freeze_decoder_embeddings: bool = option(
        False, "generation: keep the decoder's word embeddings as they are; for few or short texts."
    )
    tokenizer: str | None = option(
        None,
        "ctc: what it writes in: letters or words of the training texts, or the Hub id or folder of a "
        "tokenizer; left out, letters, or beside a text_encoder that one's tokens.",
    )
    ctc_stride: int = option(1, "ctc: tokens of the sound (Whisper has 50 a second) averaged into one that writes.")
    max_target_length: int = option(
        64, "generation: tokens that a text to be written is cut to, and that it may have."
    )
    num_beams: int = option(1, "generation: beams of the search; 1: greedy.")
    projection_dim: int = option(256, "retrieval: width of the embeddings.")
    matching_weight: float = option(
        1.0, "retrieval: weight of the loss of matching, for reranking; 0: embeddings alone."
    )
    task_weighting: str = option(
        "fixed",
        "Losses of several tasks are summed by fixed weights, or by learned ones (uncertainty; Kendall et al. 2018).",
        choices=["fixed", "uncertainty"],
    )
    task_weights: str | None = option(
        None, 'The fixed weights by column of labels, as "{tone: 0.5}"; left out, 1.', forms=(dict[str, float],)
    )

    def __post_init__(self):
        check_least(self, 1, "lora_rank", "ctc_stride", "num_frames", "decoder_layers", "num_beams")
        check_least(self, 2, "max_target_length", "text_windows")
        if self.text_windows is not None and self.long_text != "windows":
            raise ValueError(
                f"text_windows is {self.text_windows}, and long_text {self.long_text!r}: it is for long_text windows."
            )
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
