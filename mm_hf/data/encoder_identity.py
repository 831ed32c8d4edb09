"""What the features of an encoder depend on, apart from its items and how these are prepared."""

import importlib.metadata
from typing import Any

import torch
import xxhash
from torch import nn

from ..models.modeling_mm_fusion import MMFusionModel


# Keys of a config that do not change features: where it came from, and what the encoder does not do here.
NO_MATTER = {
    *("_name_or_path", "_commit_hash", "transformers_version", "architectures", "auto_map", "id2label", "label2id"),
    *("problem_type", "output_hidden_states", "output_attentions", "return_dict", "torch_dtype", "dtype"),
}
LIBRARIES = ("torch", "transformers", "tokenizers", "pillow", "numpy", "torchvision")


def identity_of(model: MMFusionModel, modality: str) -> dict[str, Any]:
    """Everything of an encoder that its features depend on, as JSON: its present weights, its config, which of its
    layers are read and how, the kind of device, and the versions of the libraries that compute the features.

    Args:
        model: the model with the encoder.
        modality: the name of the encoder's modality.
    """
    encoder: Any = model.encoders[modality]
    layers = model.feature_layers[modality]
    config = {key: value for key, value in encoder.config.to_dict().items() if key not in NO_MATTER}
    identity = {
        "modality": modality,
        "class": f"{type(encoder).__module__}.{type(encoder).__qualname__}",
        "config": plain(config),
        "weights": weights_of(encoder),
        "layers": None if layers is None else list(layers),
        "encoding": plain(model.config.encoding(modality)),
        "attention": getattr(encoder.config, "_attn_implementation", None),
        "device": model.device.type,
        "precision": torch.get_float32_matmul_precision(),
    }
    return {**identity, "versions": {name: version_of(name) for name in LIBRARIES}}


def weights_of(module: nn.Module) -> str:
    """A hash of all parameters and buffers with their names, dtypes and shapes."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()], key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            content: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            digest.update(content)
    return digest.hexdigest()


def version_of(library: str) -> str | None:
    """The version of an installed library; None if it is not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def plain(value: Any) -> Any:
    """A value as JSON has it. It is the same for a config that was built and one that was read."""
    if isinstance(value, dict):
        kept = {str(key): plain(one) for key, one in value.items() if str(key) not in NO_MATTER}
        return {key: one for key, one in kept.items() if one is not None}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
