"""Tiny random models: for shapes and invariants. Their weights are large, so that what should matter does."""

import torch
from transformers import (
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
    vision: str | None = "vit", text: str | None = "bert", fusion: str = "cross_attention", settings=None, **kwargs
) -> MMFusionConfig:
    """Config of a tiny model. `settings` change the fusion, everything else the whole."""
    result = MMFusionConfig(
        vision_config=None if vision is None else VISION_CONFIGS[vision](),
        text_config=None if text is None else TEXT_CONFIGS[text](),
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
