"""The recipe keys about the model."""

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
    """The dict for a key whose flag is a text such as "{tone: 0.5}".

    Raises:
        ValueError: the text is no dict, or the dict has values of another type.
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
    words = f"Hub id or folder; left out although there is {beside}, the one in MM_HF_ENCODERS, else {usual}."
    return option(None, words, usual=usual)


@dataclass
class ModelArguments:
    """The model."""

    init_from: str | None = option(
        None,
        "Folder of a run or checkpoint, or Hub id: start from its encoders, projections and fusion, and from its head "
        "if labels have the same names. Keys about these that are left out are taken from the checkpoint.",
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
        "Longer sounds are cut to so many seconds; Whisper's encoder, which takes 30 seconds, is shortened too.",
        needs="audio_encoder",
    )
    series_rnn_type: str = option(
        "lstm", "The encoder for a series_column; it has the width of the fusion.", choices=["lstm", "gru"]
    )
    fusion: str = option(
        "cross_attention",
        "A registered fusion. auto: tries all of them for a few steps each, with frozen encoders, and trains the one "
        "that is best on validation. linear: a linear model, fitted without steps.",
    )
    query_modality: str | None = option(
        None,
        "The modality whose tokens are the queries in the attention, such as text; left out, the text, else the "
        "modality with the fewest tokens (with a table and pictures, the table).",
    )
    fusion_hidden_size: int | None = option(None, "Fusion width; left out, the width of the text encoder.")
    fusion_layers: int = option(4, "Fusion blocks.")
    fusion_heads: int | None = option(None, "Attention heads; left out, one per 64 of width.")
    fusion_dropout: float = option(0.1, "Dropout in the fusion's residual branches.")
    memory_layers: int = option(
        0, "cross_attention: self-attention blocks over a picture's tokens, before the fusion."
    )
    distance_bias: bool = option(
        False, "In the memory_layers, heads may prefer near or far tokens (only for feature maps)."
    )
    num_latents: int = option(4, "bottleneck: number of latents that the modalities share.")
    classifier_dropout: float = option(0.1, "Dropout before the last layer, or on the input of a decoder.")
    vision_feature_layer: list[int] | None = option(  # noqa: RUF009 (it gives a field)
        None, "Indices into the vision encoder's hidden_states; left out, its last state."
    )
    vision_feature_join: str = option(
        "tokens",
        "How several feature layers are joined: as more tokens, or as more channels of the coarsest layer's tokens.",
        choices=["tokens", "channels"],
    )
    pooling: str | None = option(
        None,
        "How one vector is computed from the tokens of an encoder: cls, last or mean; left out, it depends on the "
        'encoder. Also by modality: "{audio: mean}".',
        forms=(dict[str, str],),
    )
    text_pooling: str | None = option(None, "The same, for the text encoder only.")
    long_text: str | None = option(
        None,
        "What to do with texts that are longer than the encoder can read: cut them, or split them into windows; left "
        "out, cut.",
        choices=["cut", "windows"],
        needs="text_encoder",
    )
    text_windows: int | None = option(None, "At most so many windows per text; left out, 4.", needs="text_encoder")
    image_size: int | None = option(
        None, "Images are resized to this side in pixels; left out, the encoder's own size.", needs="vision_encoder"
    )
    image_background: str | None = option(
        None, "Background color for transparent pixels, black or #rrggbb; left out, white."
    )
    num_frames: int = option(8, "Evenly spaced frames of each video that the vision encoder reads.")
    freeze_encoders: bool = option(
        False,
        'Train only projections, fusion and head. Also a list of modalities, "[vision]", or by '
        'modality: "{default: true, text: false}".',
        forms=(list[str], dict[str, bool]),
    )
    trained_layers: str | None = option(
        None, 'Encoders that train only their top layers, and how many, as "{vision: 2}".', forms=(dict[str, int],)
    )
    modality_dropout: float = option(
        0.0,
        'Probability that a training row loses a modality. Also by modality: "{text: 0.5}".',
        forms=(dict[str, object],),  # the config checks the values
    )
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass, to save memory.")
    attn_implementation: str | None = option(None, "sdpa (default), eager, flex_attention…")
    lora: str | None = option(
        None,
        "Train low-rank adapters (Hu et al. 2022) instead of the weights of: vision, text, encoders, fusion or all.",
        choices=["vision", "text", "encoders", "fusion", "all"],
    )
    lora_rank: int = option(8, "Rank of the adapters.")
    lora_alpha: float | None = option(None, "Scale of the adapters; left out, twice the rank.")
    lora_dropout: float = option(0.0, "Dropout before the adapters.")
    task: str | None = option(
        None,
        "The head: question_answering, the default for rows with picture, text and one label; classification; "
        "multi_task, the default for several label columns; retrieval learns from pairs of text and picture or sound, "
        "without labels; generation writes the text in the label column; ctc transcribes the sound, letter by letter.",
        choices=[head.task for head in HEAD_TABLE],
    )
    decoder: str | None = option(
        None, "generation: Hub id or folder of the decoder; left out, the text encoder's weights."
    )
    decoder_layers: int | None = option(
        None, "generation: keep only so many of the decoder's lowest layers; left out, all."
    )
    freeze_decoder_embeddings: bool = option(
        False, "generation: do not train the decoder's word embeddings; for few or short texts."
    )
    tokenizer: str | None = option(
        None,
        "ctc: the output tokens: letters or words of the training texts, or the Hub id or folder of a tokenizer; left "
        "out, letters, or with a text_encoder its tokens.",
    )
    ctc_stride: int = option(
        1, "ctc: so many tokens of the sound (Whisper has 50 per second) are averaged into one output token."
    )
    max_target_length: int = option(
        64, "generation: longer label texts are cut to so many tokens; outputs stop there."
    )
    num_beams: int = option(1, "generation: beams of the beam search; 1: greedy decoding.")
    projection_dim: int = option(256, "retrieval: width of the embeddings.")
    matching_weight: float = option(
        1.0, "retrieval: weight of the matching loss, which is for reranking; 0: embeddings only."
    )
    task_weighting: str = option(
        "fixed",
        "Losses of several tasks are summed with fixed weights, or with learned ones (uncertainty; Kendall et al. "
        "2018).",
        choices=["fixed", "uncertainty"],
    )
    task_weights: str | None = option(
        None, 'The fixed weights by label column, as "{tone: 0.5}"; left out, 1.', forms=(dict[str, float],)
    )

    def __post_init__(self):
        check_least(self, 1, "lora_rank", "ctc_stride", "num_frames", "decoder_layers", "num_beams")
        check_least(self, 2, "max_target_length", "text_windows")
        if self.text_windows is not None and self.long_text != "windows":
            raise ValueError(
                f"text_windows is {self.text_windows}, but long_text is {self.long_text!r}: text_windows needs "
                "long_text windows."
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
            raise ValueError(
                f"trained_layers must be of the form {{vision: 2}} with numbers of at least 1, got {strange[0]}."
            )
        if trained_layers and self.lora in ("encoders", "all", *trained_layers):
            raise ValueError(
                f"lora is {self.lora!r}, which trains adapters instead of an encoder's own weights, but "
                f"trained_layers is {self.trained_layers}, which trains these weights: leave one of the two out."
            )
