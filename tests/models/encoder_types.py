"""Tiny configs of all types that the library lists for classifying images, sounds and texts.

Fields that many configs share are made small by their names; what is left is in `SPECIAL`.
"""

import inspect
import re
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny_models as tiny
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.models.auto import modeling_auto

from mm_hf import MMFusionForClassification
from mm_hf.models.configuration_mm_fusion import part_of_composite
from mm_hf.models.dry_run import dry_run
from mm_hf.models.encoders import model_from_config
from mm_hf.models.encoding import run_encoder
from mm_hf.models.modality import modality_of
from mm_hf.models.probing import longest_text, try_encoder


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
    "perceiver": {"num_latents": 4, "d_latents": 32, "num_self_attends_per_block": 1, "num_blocks": 1},
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
            elif (
                name in FIELDS
                and type(value) in (int, float, tuple, list)
                and (isinstance(value, (tuple, list)) == isinstance(FIELDS[name], (tuple, list)))
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


# --- Trying one


@dataclass
class Trial:
    """What came of a type.

    Args:
        modality, model_type: which.
        verdict: `"passes"`, `"fails"`, or `"cannot"` of a type that does not read the modality as mm_hf gives it, or
            that needs a library which is not installed.
        reason: why it does not pass.
        findings: the keys that `from_encoders_pretrained` wrote.
        difference: the largest one between the logits of a row alone and in a batch, over both sides of padding.
    """

    modality: str
    model_type: str
    verdict: str
    reason: str = ""
    findings: dict[str, Any] = field(default_factory=dict)
    difference: float = 0.0


def learn_statistics(source):
    """Gives batch norms the statistics of what goes through them: with those of new ones, small signals vanish on
    their way through a deep network."""
    norms = [module for module in source.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    if norms:
        for norm in norms:
            norm.momentum = None  # the mean of all batches, of which there is one
        images = torch.randn(8, *modality_of("vision").dummy_inputs(source.config)["pixel_values"].shape[1:])
        with torch.no_grad():
            source.train()(pixel_values=images)
        source.eval()


def rows_of(modality: str, config) -> list[dict[str, torch.Tensor]]:
    """Three rows, each alone, with a mask where the encoder reads items of any length: of three lengths."""
    generator = torch.Generator().manual_seed(1)
    if modality == "text":
        ids = [torch.randint(5, 60, (1, length), generator=generator) for length in (9, 6, 12)]
        return [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    dummy = modality_of(modality).dummy_inputs(config)
    if modality == "vision" or hasattr(config, "num_mel_bins"):  # of one length: Whisper, AST
        return [
            {name: torch.randn(value.shape, generator=generator) for name, value in dummy.items()} for _ in range(3)
        ]
    ((name, value),) = dummy.items()
    lengths = (1100, 830, 1400) if value.ndim == 2 else (24, 17, 30)
    waves = [torch.randn(1, length, *value.shape[2:], generator=generator) for length in lengths]
    return [{name: wave, "audio_attention_mask": torch.ones(wave.shape[:2], dtype=torch.int64)} for wave in waves]


def padded(rows: list[dict[str, torch.Tensor]], side: str) -> dict[str, torch.Tensor]:
    """The rows as one batch; in the padding of texts stands a real token, which the mask hides."""
    batch = {}
    for name in rows[0]:
        longest = max(row[name].shape[1] for row in rows)
        parts = []
        for row in rows:
            values = row[name]
            missing = longest - values.shape[1]
            filling = values[:, :1].expand(-1, missing, *values.shape[2:])
            if name != "input_ids":
                filling = torch.zeros_like(filling)
            parts.append(torch.cat([values, filling] if side == "right" else [filling, values], dim=1))
        batch[name] = torch.cat(parts)
    return batch


def try_type(modality: str, model_type: str, folder: Path) -> Trial:
    """Builds a model over a saved encoder of this type, takes a step, saves, loads, and compares rows alone with rows
    in a batch."""
    trial = Trial(modality, model_type, "fails")
    try:
        config = tiny_config(model_type)
        torch.manual_seed(0)
        source = model_from_config(part_of_composite(config, modality))
        if modality == "vision":
            learn_statistics(source)
        source.save_pretrained(folder / "source")
    except ImportError as error:
        library = re.search(r"requires the (\w+) library", str(error))
        trial.verdict, trial.reason = "cannot", f"needs {library[1]}" if library else str(error)
        return trial
    try:
        torch.manual_seed(0)
        model = MMFusionForClassification.from_encoders_pretrained(
            **{modality: folder / "source"},
            num_labels=3,
            classifier_dropout=0.0,
            fusion_module_config=tiny.fusion_settings(num_hidden_layers=1),
        )
    except ValueError as error:
        if "which reads" in str(error) or "mm_hf does not make them" in str(error):
            trial.verdict, trial.reason = "cannot", str(error)
            return trial
        raise
    settings = model.config
    trial.findings = {"pooling": settings.poolings[modality]} | {
        key: getattr(settings, key) for key in ("encode_by_length", "seeded_encoders") if getattr(settings, key)
    }
    encoder = model.model.encoders[modality]
    rows = rows_of(modality, encoder.config)
    batch = padded(rows, "right")
    if not settings.seeded_encoders:
        compare_with_source(model, modality, folder / "source", rows[0])
    take_step(model, batch)
    with torch.no_grad():
        expected = model.eval()(**batch).logits
        model.save_pretrained(folder / "fused")
        dry_run.cache_clear()  # as in a process of its own
        loaded, info = MMFusionForClassification.from_pretrained(folder / "fused", output_loading_info=True)
        lost = {key: info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]}
        assert not lost, f"saved and loaded, weights are lost: {lost}"
        MMFusionForClassification.from_pretrained(folder / "fused")  # what is whole is not refused
        again = loaded(**batch).logits
        assert torch.isfinite(again).all(), "logits that are no finite numbers"
        spread = expected.std(0).max().item()
        assert spread > 1e-4, f"the logits do not depend on the item: they differ by {spread:.1e}"
        difference = (again - expected).abs().max().item()
        assert difference <= 1e-5, f"saved and loaded, the logits differ by {difference:.1e}"
        alone = torch.cat([model(**row).logits for row in rows])
        for side in ("right", "left"):
            difference = (model(**padded(rows, side)).logits - alone).abs().max().item()
            trial.difference = max(trial.difference, difference)
            assert difference <= 1e-5, f"padded on the {side}, the logits of a row differ by {difference:.1e}"
    if modality == "text":
        longest = longest_text(settings.text_config)
        trial.findings["longest_text"] = "no end" if longest is None else longest
        ids = torch.full((1, longest if longest and longest < 1000 else 3 * POSITIONS), 7)
        with torch.no_grad():
            run_encoder(encoder, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, None)
    trial.verdict = "passes"
    return trial


@torch.no_grad()
def compare_with_source(model, modality, folder, row):
    """The states of the encoder are those of the library's own model: nothing that matters was left out."""
    config = AutoConfig.from_pretrained(folder)
    if getattr(config, "languages", None):  # X-MOD
        config.default_language = config.languages[0]
    source = type(model_from_config(config)).from_pretrained(folder, config=config).eval()
    if config.is_encoder_decoder:
        source = source.get_encoder()
    accepted = inspect.signature(source.forward).parameters
    if modality == "text":
        assert not try_encoder(source, modality).blind, "no token knows of any other without a kernel for CUDA"
    inputs = {name.removeprefix("audio_"): value for name, value in row.items()}
    outputs = source(**{name: value for name, value in inputs.items() if name in accepted})
    expected = outputs.feature_maps[-1] if "feature_maps" in outputs else outputs.last_hidden_state
    (level,) = model.eval().model.encode(**row)[modality].levels
    difference = (level.reshape(-1).sort().values - expected.reshape(-1).sort().values).abs().max().item()
    assert difference <= 1e-4 * expected.abs().max(), f"the states differ from the source's by {difference:.1e}"


def take_step(model, batch):
    """One step of SGD: every parameter that trains has a gradient, most of the encoder's one that is not zero."""
    model.train()
    model(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    lacking = [name for name, p in trained.items() if p.grad is None]
    assert not lacking, f"{len(lacking)} parameters have no gradient, such as {lacking[:2]}"
    moved = [p.grad.abs().max() > 0 for name, p in trained.items() if "encoders." in name]
    assert sum(moved) > 0.5 * len(moved), f"{sum(moved)} of {len(moved)} parameters of the encoder have a gradient"
    with torch.no_grad():
        for parameter in trained.values():
            parameter -= 0.01 * parameter.grad / parameter.grad.norm().clamp(min=1.0)


def try_all(types: list[tuple[str, str]]) -> list[Trial]:
    """Tries types one after another; what breaks is a failure with its reason."""
    trials = []
    for modality, model_type in types:
        with tempfile.TemporaryDirectory() as folder:
            try:
                trials.append(try_type(modality, model_type, Path(folder)))
            except Exception as error:
                reason = f"{type(error).__name__}: {error}".removeprefix("AssertionError: ").splitlines()[0]
                trials.append(Trial(modality, model_type, "fails", reason))
    return trials


# --- The page of the docs

MARK = "<!-- written by the test -->\n"


def table(trials: list[Trial]) -> str:
    """What stands behind the mark in `docs/encoders.md`."""
    lines = []
    for modality, key in MAPPINGS.items():
        own = [trial for trial in trials if trial.modality == modality]
        able = [trial for trial in own if trial.verdict != "cannot"]
        passing = [trial for trial in able if trial.verdict == "passes"]
        name = key.removesuffix("_NAMES")
        lines.append(f"- {modality}: {len(passing)} of {len(able)} pass, of the {len(own)} types in `{name}`")
    rows = ["| modality | type | verdict | pooled at | longest text of 40 positions | found out | reason |"]
    rows.append("|---|---|---|---|---|---|---|")
    for trial in trials:
        found = dict(trial.findings)
        pooling, longest = found.pop("pooling", ""), found.pop("longest_text", "")
        cells = [trial.modality, trial.model_type, trial.verdict, pooling, longest, ", ".join(found), trial.reason]
        rows.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    counts, types = "\n".join(lines), "\n".join(rows)
    return f"With transformers {transformers.__version__}:\n\n{counts}\n\n{types}\n"
