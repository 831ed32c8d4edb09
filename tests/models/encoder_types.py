"""Tiny configs of all types that the library lists for classifying images, sounds and texts.

Fields that many configs share are made small by their names; what is left is in `SPECIAL`.
"""

import re
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

from mm_hf import MMFusionForClassification
from mm_hf.models.configuration_mm_fusion import part_of_composite
from mm_hf.models.encoders import dummy_inputs, model_from_config


def fusion_settings(**changes):
    return {"num_attention_heads": 2, "intermediate_size": 48, "initializer_range": 0.2, "hidden_dropout_prob": 0.0, **changes}


MAPPINGS = {
    "vision": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "audio": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "text": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
}
VOCABULARY = 64
POSITIONS = 40

# Fields of many configs, and what they are here: all in proportion to a width of 32 in two heads of 16.
WIDTH = ("hidden_size", "d_model", "n_embd", "emb_dim", "dim", "word_embed_proj_dim", "pooler_hidden_size")
WIDTH += ("pooler_output_size", "hidden_dim", "output_hidden_size", "attention_hidden_size", "lru_width")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
LAYERS += ("num_decoder_layers",)
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "num_key_value_heads")
HEADS += ("decoder_attention_heads", "num_kv_heads", "linear_num_key_heads", "linear_num_value_heads")
HEAD_WIDTH = ("head_dim", "d_kv", "d_head", "kv_channels", "attention_head_size", "v_head_dim", "qk_rope_head_dim")
HEAD_WIDTH += ("qk_nope_head_dim", "linear_key_head_dim", "linear_value_head_dim", "attention_head_dim")
INNER = ("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "d_inner", "dff")
INNER += ("ffn_hidden_size", "feed_forward_size", "moe_intermediate_size", "shared_expert_intermediate_size")
POSITION = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
FIELDS: dict[str, Any] = {
    **dict.fromkeys(WIDTH, 32),
    **dict.fromkeys(LAYERS, 2),
    **dict.fromkeys(HEADS, 2),
    **dict.fromkeys(HEAD_WIDTH, 16),
    **dict.fromkeys(INNER, 48),
    **dict.fromkeys(POSITION, POSITIONS),
    **dict.fromkeys(EXPERTS, 4),
    "vocab_size": VOCABULARY,
    "image_size": 64,
    "patch_size": 16,
    "num_experts_per_tok": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "mask_token_id": 3,
    "decoder_start_token_id": 1,
    "initializer_range": 0.2,
    "init_std": 0.2,
    "embedding_size": 32,
    "mamba_d_state": 8,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
    "coordinate_size": 4,
    "shape_size": 8,
    "block_size": 4,
}
# Everything that drops or draws in training: a step must have a gradient everywhere.
DROPOUTS = ("dropout", "dropout_rate", "drop_path_rate", "attn_pdrop", "resid_pdrop", "embd_pdrop")
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
SPECIAL: dict[str, dict[str, Any]] = {
    "bit": {"num_groups": 4},
    "convnext": {"patch_size": 4},
    "convnextv2": {"patch_size": 4},
    "cvt": {
        "embed_dim": (16, 16, 32),
        "depth": (1, 2, 3),
        "num_heads": (1, 2, 2),
        "drop_path_rate": (0.0, 0.0, 0.0),
    },
    "donut-swin": {"patch_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4},
    "efficientnet": {
        "hidden_dim": 1280,
        "kernel_sizes": [3, 3],
        "in_channels": [32, 16],
        "out_channels": [16, 32],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2],
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
    },
    "focalnet": {"patch_size": 4, "embed_dim": 8, "focal_levels": (1, 1, 1, 1), "focal_windows": (3, 3, 3, 3)},
    "hgnet_v2": {
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 16, 16, 16],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [16, 16, 16, 32],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [1, 1, 1, 1],
    },
    "hiera": {
        "image_size": (64, 64),
        "embed_dim": 16,
        "num_heads": (1, 1, 2, 2),
        "masked_unit_size": (8, 8),
    },
    "levit": {
        "hidden_sizes": (16, 24, 32),
        "num_attention_heads": (1, 2, 2),
        "depths": (1, 1, 1),
        "key_dim": (8, 8, 8),
        "image_size": 64,
    },
    "mobilenet_v1": {"depth_multiplier": 0.25, "tf_padding": False},
    "mobilenet_v2": {"depth_multiplier": 0.25, "tf_padding": False},
    "mobilevit": {
        "hidden_sizes": (16, 24, 32),
        "neck_hidden_sizes": (8, 8, 16, 16, 24, 24, 32),
        "patch_size": 2,
    },
    "mobilevitv2": {"width_multiplier": 0.25, "patch_size": 2},
    "pp_lcnet": {"scale": 0.25},
    "pvt": {"num_attention_heads": [1, 2, 2, 2]},
    "pvt_v2": {"num_attention_heads": [1, 2, 2, 2], "num_channels": 3},
    "swiftformer": {"embed_dims": [8, 16, 16, 32]},
    "swin": {"patch_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4},
    "swinv2": {"patch_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4},
    "textnet": {
        "hidden_sizes": (8, 8, 16, 16, 32),
        "stem_out_channels": 8,
        "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3]], [[3, 1]], [[1, 3]]],
        "conv_layer_strides": [[2], [2], [2], [1]],
    },
    "audio-spectrogram-transformer": {"num_mel_bins": 16, "max_length": 32, "patch_size": 8},
    "axk1": {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 4]}}
    },
    "ctrl": {"dff": 48},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "deepseek_v3": {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 0, "mask_token_id": 3, "token_dropout": True},
    "funnel": {"block_sizes": (1, 1)},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "gptj": {"rotary_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "lilt": {"max_2d_position_embeddings": 64, "hidden_size": 48},
    "longformer": {"attention_window": 4},
    "luke": {"entity_vocab_size": 16, "entity_emb_size": 16},
    "markuplm": {"max_depth": 4, "max_xpath_tag_unit_embeddings": 220, "max_xpath_subs_unit_embeddings": 1004},
    "ministral": {"head_dim": 16},
    "mistral4": {"head_dim": 32, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "qwen3_5": {"text_config": {"layer_types": ["linear_attention", "full_attention"]}},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "reformer": {
        "axial_pos_shape": (8, 8),
        "axial_pos_embds_dim": (16, 16),
        "max_position_embeddings": 64,
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 2,
    },
    "roc_bert": {"pronunciation_vocab_size": 16, "shape_vocab_size": 16, "enable_pronunciation": True},
    "zamba": {
        "num_hidden_layers": 5,
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid"],
        "attention_hidden_size": 64,
        "attention_head_dim": 32,
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "n_mamba_heads": 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 32,
        "chunk_size": 8,
    },
    "whisper": {"num_mel_bins": 8, "max_source_positions": 50, "d_model": 32},
    "wav2vec2-bert": {"feature_projection_input_dim": 8},
}


def tiny_config(model_type: str):
    """A tiny config of a type; of composite ones, of their parts too."""
    config_class = CONFIG_MAPPING[model_type]
    return shrink(config_class, SPECIAL.get(model_type, {}))


def shrink(config_class, special: dict[str, Any]):
    """A config of a class with its shared fields small."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        default = config_class()
        changes: dict[str, Any] = {}
        for name, value in vars(default).items():
            if name in config_class.sub_configs and value is not None:
                changes[name] = shrink(type(value), special.get(name, {})).to_dict()
            elif name in FIELDS and type(value) in (int, float, tuple, list) and (
                isinstance(value, (tuple, list)) == isinstance(FIELDS[name], (tuple, list))
            ):
                changes[name] = FIELDS[name]
            elif name in STAGES and isinstance(value, (tuple, list)):
                changes[name] = STAGES[name][: len(value)]
            elif isinstance(value, float) and (name in DROPOUTS or name.endswith(("dropout", "dropout_prob"))):
                changes[name] = 0.0
        return config_class(**{**changes, **{k: v for k, v in special.items() if k not in config_class.sub_configs}})


def all_types() -> list[tuple[str, str]]:
    """Pairs of modality and type, those that are listed for several modalities once for each."""
    return [(modality, name) for modality, key in MAPPINGS.items() for name in getattr(modeling_auto, key)]
