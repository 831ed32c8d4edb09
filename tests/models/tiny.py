"""Tiny random models: for shapes and invariants. Their weights are large, so that what should matter does."""

import torch
from transformers import (
    ASTConfig,
    BertConfig,
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    ConvNextConfig,
    DeiTConfig,
    Dinov2Config,
    DistilBertConfig,
    MobileNetV2Config,
    ModernBertConfig,
    ResNetConfig,
    RobertaConfig,
    SiglipConfig,
    SiglipVisionConfig,
    SwinConfig,
    T5Config,
    ViTConfig,
    Wav2Vec2Config,
    WhisperConfig,
)

from mm_hf import MMFusionConfig, MMFusionForClassification
from mm_hf.models.recurrent import RecurrentConfig


VOCABULARY = 60
IMAGE_SIZE = 32
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}
PATCHES = {**SMALL, "image_size": IMAGE_SIZE, "patch_size": 8}
WORDS = {**SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": 40}
ROBERTA = {**WORDS, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
SPECIAL_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

VISION_CONFIGS = {
    "vit": lambda: ViTConfig(**PATCHES),
    "deit": lambda: DeiTConfig(**PATCHES),
    "dinov2": lambda: Dinov2Config(**PATCHES, mlp_ratio=2),
    "swin": lambda: SwinConfig(
        image_size=IMAGE_SIZE, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
    ),
    "convnext": lambda: ConvNextConfig(image_size=IMAGE_SIZE, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
    "resnet": lambda: ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 1, 1], layer_type="basic"),
    "mobilenet_v2": lambda: MobileNetV2Config(image_size=IMAGE_SIZE, depth_multiplier=0.25, tf_padding=False),
    "clip": lambda: CLIPVisionConfig(**PATCHES),
    "siglip": lambda: SiglipVisionConfig(**PATCHES),
}
TEXT_CONFIGS = {
    "bert": lambda: BertConfig(**WORDS),
    "distilbert": lambda: DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=40
    ),
    "roberta": lambda: RobertaConfig(**ROBERTA),
    "modernbert": lambda: ModernBertConfig(**WORDS, **SPECIAL_IDS, cls_token_id=1, sep_token_id=2),
    "clip_text": lambda: CLIPTextConfig(**WORDS, **SPECIAL_IDS),
    "t5": lambda: T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2),
    "lstm": lambda: RecurrentConfig(vocab_size=VOCABULARY, embedding_size=16, hidden_size=32, num_hidden_layers=2),
    "gru": lambda: RecurrentConfig(
        rnn_type="gru", vocab_size=VOCABULARY, embedding_size=16, hidden_size=32, bidirectional=False
    ),
}
AUDIO_CONFIGS = {
    "whisper": lambda: WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=8,
        max_source_positions=10,
        init_std=0.2,
        **SPECIAL_IDS,
        decoder_start_token_id=1,
    ),
    "wav2vec2": lambda: Wav2Vec2Config(
        **SMALL,
        conv_dim=(16, 16),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        feat_proj_dropout=0.0,
        activation_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=0.0,
    ),
    "ast": lambda: ASTConfig(**SMALL, num_mel_bins=16, max_length=32, patch_size=8, frequency_stride=8, time_stride=8),
    "lstm": lambda: RecurrentConfig(input_size=8, hidden_size=32),
}
DUAL_CONFIGS = {
    "clip": lambda: CLIPConfig(text_config={**WORDS, **SPECIAL_IDS}, vision_config=PATCHES, projection_dim=16),
    "siglip": lambda: SiglipConfig(text_config={**WORDS, **SPECIAL_IDS}, vision_config=PATCHES),
}


def fusion_settings(fusion: str = "cross_attention", **changes) -> dict:
    """Fusion parameters of a tiny model, without dropout."""
    return {
        "fusion_type": fusion,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "initializer_range": 0.2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **changes,
    }


def config(
    vision: str | None = "vit",
    text: str | None = "bert",
    fusion: str = "cross_attention",
    settings=None,
    audio: str | None = None,
    **kwargs,
) -> MMFusionConfig:
    """Config of a tiny model. `settings` change the fusion, everything else the whole."""
    result = MMFusionConfig(
        vision_config=None if vision is None else VISION_CONFIGS[vision](),
        text_config=None if text is None else TEXT_CONFIGS[text](),
        audio_config=None if audio is None else AUDIO_CONFIGS[audio](),
        fusion_module_config=fusion_settings(fusion, **(settings or {})),
        **{"num_labels": 5, "classifier_dropout": 0.0, **kwargs},
    )
    for part in (result.vision_config, result.text_config):
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
            if hasattr(part, name):
                setattr(part, name, 0.0)
    return result


def open_gates(model, value: float = 0.5):
    """Sets all gates: behind one at zero no gradient passes."""
    for name, parameter in model.named_parameters():
        if name.endswith("gates"):
            parameter.data.fill_(value)
    return model


def model(cls=MMFusionForClassification, seed: int = 0, implementation: str | None = None, **kwargs):
    """A tiny model in eval mode, its gates open; `kwargs` as in `config`."""
    torch.manual_seed(seed)
    settings = config(**kwargs)
    if implementation is not None:
        settings._attn_implementation = implementation
    return open_gates(cls(settings)).eval()


def texts(lengths, seed: int = 0, pad_token_id: int = 0, pad_to: int = 0) -> dict[str, torch.Tensor]:
    """Random token ids of the given lengths; each ends in 2, the end of a text."""
    generator = torch.Generator().manual_seed(seed)
    width = max([*lengths, pad_to])
    input_ids = torch.full((len(lengths), width), pad_token_id)
    for row, length in enumerate(lengths):
        input_ids[row, :length] = torch.randint(5, VOCABULARY, (length,), generator=generator)
        input_ids[row, length - 1] = 2
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    return {"input_ids": input_ids, "attention_mask": mask.long()}


def images(count: int, seed: int = 1) -> dict[str, torch.Tensor]:
    """Random images."""
    generator = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)}


def batch(lengths=(6, 4, 7, 5), **kwargs) -> dict[str, torch.Tensor]:
    """Texts and as many images."""
    return {**texts(lengths, **kwargs), **images(len(lengths))}


def sounds(audio: str, lengths=(20, 12, 16), pad_to: int = 20, seed: int = 2) -> dict[str, torch.Tensor]:
    """Random sounds of the given lengths in frames, in the form that an encoder takes; waves have 10 samples a frame.
    What is behind the end is noise too, and masked where the encoder knows masks."""
    generator = torch.Generator().manual_seed(seed)
    if audio == "ast":
        return {"input_values": torch.randn(len(lengths), 32, 16, generator=generator)}
    mask = torch.arange(pad_to) < torch.tensor(lengths)[:, None]
    frames = torch.stack([torch.randn(100, 8, generator=generator)[:pad_to] for _ in lengths])  # (U, S, F)
    if audio == "lstm":
        return {"input_features": frames, "audio_attention_mask": mask.long()}
    if audio == "whisper":
        return {"input_features": frames.transpose(1, 2), "audio_attention_mask": mask.long()}
    waves = torch.stack([torch.randn(1000, generator=generator)[: 10 * pad_to] for _ in lengths])  # (U, S)
    mask = mask.repeat_interleave(10, dim=1)
    return {"input_values": waves * mask, "audio_attention_mask": mask.long()}
