"""Low-rank adapters (LoRA, Hu et al. 2022) through PEFT: put in, trained, kept alone, merged into the weights.

The adapters go into the model itself (`peft.inject_adapter_in_model`), without PEFT's wrapper around it: it keeps its
class and its `forward`, and what trains, measures or serves a model of mm_hf does so with adapters too. With adapters
in it, it is not saved by `save_pretrained`, whose checkpoint would have PEFT's names in it: `merge_lora` first, or
`save_lora`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .models.freezing import freezing_of
from .models.modeling_mm_fusion import MMFusionModel
from .models.pretrained_mm_fusion import MMFusionPreTrainedModel


# PEFT's own file, and what its `PeftModel` puts before the names in it, so that it can read what is saved here.
ADAPTER_FILE = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."


@dataclass
class StateBeforeAdapters:
    """What `merge_lora` restores."""

    freeze_encoders: bool | list[str]
    trained_layers: dict[str, int] | None
    modules_in_training: dict[str, list[str]]
    untrained: set[str]
    trained: set[str]


def add_lora(
    model: MMFusionPreTrainedModel, where: str, rank: int = 8, alpha: float | None = None, dropout: float = 0.0
) -> MMFusionPreTrainedModel:
    """Puts LoRA into the linear layers and ungrouped convolutions of pretrained parts.

    A part that gets adapters trains through them alone, but for what in the fusion is neither (gates, norms). All that
    is new (projections, absent tokens, head; the fusion, unless it is adapted) trains in full. Encoders without
    adapters stay as they are, frozen or training. An encoder with adapters must let gradients through, so it leaves
    `config.freeze_encoders` until `merge_lora`.

    Args:
        model: a model of mm_hf; it is changed in place.
        where: `"encoders"` for all of them, one modality, `"fusion"`, or `"all"` for encoders and fusion.
        rank: of the adapters.
        alpha: they count `alpha / rank` times; left out, `2 * rank`.
        dropout: of the adapters' inputs.

    Returns:
        the same model.

    Raises:
        ValueError: an unknown place, a place without a layer that can be adapted, or a model with adapters.
    """
    from peft import LoraConfig

    targets = lora_targets(model, where)
    config = LoraConfig(
        r=rank,
        lora_alpha=cast(int, 2 * rank if alpha is None else alpha),
        lora_dropout=dropout,
        target_modules="|".join(re.escape(name) for name in targets),  # a list would match the ends of names too
    )
    inject(model, config)
    return model


def lora_targets(model: MMFusionPreTrainedModel, where: str) -> list[str]:
    """Names of the modules that `add_lora` adapts in one place.

    Convolutions with groups (depthwise ones have a handful of weights a channel) and those that read pixels (stems,
    patch embeddings) are left out.
    """
    base = model.base_model
    places = {"encoders": base.config.modalities, "fusion": [], "all": base.config.modalities}
    places |= {name: [name] for name in base.config.modalities}
    if where not in places:
        raise ValueError(f"LoRA can go into {sorted(places)}, got {where!r}.")
    parts: dict[str, nn.Module] = {f"encoders.{name}": base.encoders[name] for name in places[where]}
    if where in ("fusion", "all"):
        parts["fusion"] = base.fusion
    prefix = "" if base is model else f"{model.base_model_prefix}."
    targets = []
    for part, module in parts.items():
        channels = getattr(module.config, "num_channels", None)
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear) or (
                isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.in_channels != channels
            ):
                targets.append(f"{prefix}{part}.{name}")
    if not targets:
        raise ValueError(f"There is no linear layer and no ungrouped convolution in {where!r} to put LoRA into.")
    return targets


def inject(model: MMFusionPreTrainedModel, lora_config: Any):
    """Puts the adapters of a PEFT config into the model and says what trains beside them."""
    from peft import inject_adapter_in_model

    if hasattr(model, "peft_config"):
        raise ValueError("This model has adapters already: call merge_lora first.")
    base = model.base_model
    before = StateBeforeAdapters(
        freeze_encoders=base.config.freeze_encoders,
        trained_layers=base.config.trained_layers,
        modules_in_training=base.modules_in_training,
        untrained=set(base.untrained),
        trained={name for name, parameter in model.named_parameters() if parameter.requires_grad},
    )
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    inject_adapter_in_model(lora_config, model)
    cast(Any, model).state_before_adapters = before

    layers = adapted_layers(model)
    weights = {id(parameter) for layer in layers.values() for parameter in layer.get_base_layer().parameters()}
    adapted = [name for name, encoder in base.encoders.items() if adapted_layers(encoder)]
    frozen = tuple(f"encoders.{name}." for name in adapted)
    for name, _ in base.named_parameters():
        if name.startswith(frozen) and not is_lora(name):
            base.untrained.add(name)  # `apply_freezing` leaves them alone then
    for name, parameter in model.named_parameters():
        own_name = name.removeprefix("" if base is model else f"{model.base_model_prefix}.")
        kept = id(parameter) in trained and id(parameter) not in weights and not own_name.startswith(frozen)
        parameter.requires_grad_(is_lora(name) or kept)
    base.config.freeze_encoders = [name for name in base.config.frozen_encoders if name not in adapted]
    partly = {name: n for name, n in (base.config.trained_layers or {}).items() if name not in adapted}
    base.config.trained_layers = partly or None  # with adapters, all of an encoder is in training mode
    base.modules_in_training = {name: paths for name, paths in base.modules_in_training.items() if name in partly}
    base.applied_freezing = freezing_of(base.config)
    model.train(model.training)


def adapted_layers(module: nn.Module) -> dict[str, Any]:
    """PEFT's layers by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}


def is_lora(name: str) -> bool:
    """Whether a parameter of this name is an adapter's."""
    return ".lora_" in name


def require_lora(model: MMFusionPreTrainedModel):
    """Raises a ValueError where there are no adapters."""
    if not hasattr(model, "peft_config"):
        raise ValueError(f"This {type(model).__name__} has no adapters: call add_lora or load_lora first.")


def merge_lora(model: MMFusionPreTrainedModel) -> MMFusionPreTrainedModel:
    """Adds the adapters to the weights and removes them: behind it the model is an ordinary one again, with its names,
    its frozen encoders and what trained before.

    Raises:
        ValueError: no adapters, or adapters that are not finite.
    """
    require_lora(model)
    for name, layer in adapted_layers(model).items():
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    before: StateBeforeAdapters = cast(Any, model).state_before_adapters
    del model.peft_config, model.state_before_adapters
    base: MMFusionModel = model.base_model
    base.config.freeze_encoders, base.untrained = before.freeze_encoders, before.untrained
    base.config.trained_layers, base.modules_in_training = before.trained_layers, before.modules_in_training
    base.applied_freezing = freezing_of(base.config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in before.trained)
    model.train(model.training)
    return model


def save_lora(model: MMFusionPreTrainedModel, folder: str | Path):
    """Keeps the adapters and all else that trains (projections, fusion, head), without the encoders' own weights.

    The files are PEFT's, `adapter_config.json` and `adapter_model.safetensors`, so that
    `peft.PeftModel.from_pretrained(model, folder)` reads them as well.
    """
    require_lora(model)
    tensors = {PEFT_PREFIX + name: tensor.contiguous() for name, tensor in kept_tensors(model).items()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(tensors, Path(folder, ADAPTER_FILE))
    model.peft_config["default"].save_pretrained(str(folder))


def kept_tensors(model: MMFusionPreTrainedModel) -> dict[str, torch.Tensor]:
    """What training changes: adapters (under PEFT's names for them), parameters, and running statistics."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors |= {name: p.detach() for name, p in model.named_parameters() if p.requires_grad and not is_lora(name)}
    if not model.base_model.config.freeze_batch_norm:
        tensors |= {name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()}
    return tensors


def load_lora(model: MMFusionPreTrainedModel, folder: str | Path) -> MMFusionPreTrainedModel:
    """Puts in what `save_lora` kept, into a model from the same encoders; it can train on.

    Returns:
        the same model.

    Raises:
        ValueError: a model with adapters, or one whose parts have other names or shapes; it stays as it was.
    """
    from peft import PeftConfig, set_peft_model_state_dict

    inject(model, PeftConfig.from_pretrained(str(folder)))
    tensors = load_file(Path(folder, ADAPTER_FILE))
    tensors = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()}
    kept = kept_tensors(model)
    known = {**model.state_dict(), **kept}
    differing = [name for name in tensors if name not in known or known[name].shape != tensors[name].shape]
    # An encoder that trains here may have been frozen there.
    differing += [name for name in kept if name not in tensors and (is_lora(name) or "encoders." not in name)]
    if differing:
        merge_lora(model)  # they are all zero yet
        raise ValueError(f"{folder} does not fit this model in {len(differing)} weights, such as {differing[0]!r}.")
    set_peft_model_state_dict(model, tensors)
    return model


def trainable_fraction(model: nn.Module) -> float:
    """The share of the parameters that train, from 0 to 1."""
    return count(model, lambda parameter: parameter.requires_grad) / count(model, lambda parameter: True)


def count(model: nn.Module, chosen: Callable[[nn.Parameter], bool]) -> int:
    """How many numbers are in the chosen parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if chosen(parameter))
