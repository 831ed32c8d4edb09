"""Low-rank adapters (LoRA, Hu et al. 2022) through PEFT: add them, save them alone, merge them into the weights.

The adapters go into the model itself (`peft.inject_adapter_in_model`), without PEFT's wrapper around it. The model
keeps its class and its `forward`, so training, evaluation and serving work as without adapters. A model with adapters
cannot be saved with `save_pretrained`, because the checkpoint would contain PEFT's names. Call `merge_lora` first, or
use `save_lora`.
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


# PEFT's file name, and the prefix that `PeftModel` puts before the names, so that PEFT can read what is saved here.
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
    """Adds LoRA to the linear layers and the ungrouped convolutions of the pretrained parts.

    In a part with adapters only the adapters train, and the parameters of the fusion that are in no such layer (gates,
    norms). All new parts (projections, absent tokens, head; the fusion, unless it gets adapters) train in full.
    Encoders without adapters stay as they are, frozen or training. An encoder with adapters must let gradients pass,
    taken out of `config.freeze_encoders` until `merge_lora`.

    Args:
        model: a model of mm_hf; it is changed in place.
        where: `"encoders"` for all encoders, the name of one modality, `"fusion"`, or `"all"` for encoders and fusion.
        rank: the rank of the adapters.
        alpha: the adapters' output is multiplied by `alpha / rank`; left out, `2 * rank`.
        dropout: the dropout on the adapters' inputs.

    Returns:
        the same model, with adapters.

    Raises:
        ValueError: the place is unknown, it has no layer that can be adapted, or the model has adapters already.
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
    """Names of the modules that `add_lora` adapts in one place of the model.

    Two kinds of convolutions are left out: those with groups (a depthwise one has only a few weights per channel), and
    those that read pixels (stems, patch embeddings).
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
        raise ValueError(f"{where!r} has no linear layer and no ungrouped convolution: LoRA cannot be added there.")
    return targets


def inject(model: MMFusionPreTrainedModel, lora_config: Any):
    """Adds the adapters of a PEFT config to the model, and sets which other parameters train."""
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
            base.untrained.add(name)  # so `apply_freezing` does not change them
    for name, parameter in model.named_parameters():
        own_name = name.removeprefix("" if base is model else f"{model.base_model_prefix}.")
        kept = id(parameter) in trained and id(parameter) not in weights and not own_name.startswith(frozen)
        parameter.requires_grad_(is_lora(name) or kept)
    base.config.freeze_encoders = [name for name in base.config.frozen_encoders if name not in adapted]
    partly = {name: n for name, n in (base.config.trained_layers or {}).items() if name not in adapted}
    base.config.trained_layers = partly or None  # an encoder with adapters is in training mode as a whole
    base.modules_in_training = {name: paths for name, paths in base.modules_in_training.items() if name in partly}
    base.applied_freezing = freezing_of(base.config)
    model.train(model.training)


def adapted_layers(module: nn.Module) -> dict[str, Any]:
    """PEFT's layers, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}


def is_lora(name: str) -> bool:
    """Whether this is the name of an adapter's parameter."""
    return ".lora_" in name


def require_lora(model: MMFusionPreTrainedModel):
    """Raises a ValueError if the model has no adapters."""
    if not hasattr(model, "peft_config"):
        raise ValueError(f"This {type(model).__name__} has no adapters: call add_lora or load_lora first.")


def merge_lora(model: MMFusionPreTrainedModel) -> MMFusionPreTrainedModel:
    """Adds the adapters to the weights and removes them. The model is then an ordinary one again: it has its old names
    and its frozen encoders, and the same parameters train as before `add_lora`.

    Raises:
        ValueError: the model has no adapters, or they are not finite.
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
    """Saves the adapters and everything else that trains (projections, fusion, head), without the encoders' weights.

    The files are in PEFT's format, `adapter_config.json` and `adapter_model.safetensors`, so that
    `peft.PeftModel.from_pretrained(model, folder)` can read them too.
    """
    require_lora(model)
    tensors = {PEFT_PREFIX + name: tensor.contiguous() for name, tensor in kept_tensors(model).items()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(tensors, Path(folder, ADAPTER_FILE))
    model.peft_config["default"].save_pretrained(str(folder))


def kept_tensors(model: MMFusionPreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors that training changes: adapters (under PEFT's names), parameters, and running statistics."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors |= {name: p.detach() for name, p in model.named_parameters() if p.requires_grad and not is_lora(name)}
    if not model.base_model.config.freeze_batch_norm:
        tensors |= {name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()}
    return tensors


def load_lora(model: MMFusionPreTrainedModel, folder: str | Path) -> MMFusionPreTrainedModel:
    """Loads what `save_lora` saved, into a model with the same encoders. The model can then train on.

    Returns:
        the same model.

    Raises:
        ValueError: the model has adapters already, or its parts have other names or shapes. The model is unchanged.
    """
    from peft import PeftConfig, set_peft_model_state_dict

    inject(model, PeftConfig.from_pretrained(str(folder)))
    tensors = load_file(Path(folder, ADAPTER_FILE))
    tensors = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()}
    kept = kept_tensors(model)
    known = {**model.state_dict(), **kept}
    differing = [name for name in tensors if name not in known or known[name].shape != tensors[name].shape]
    # An encoder that trains in this model may have been frozen in the saved one.
    differing += [name for name in kept if name not in tensors and (is_lora(name) or "encoders." not in name)]
    if differing:
        merge_lora(model)  # the adapters are still zero, so this only removes them
        raise ValueError(f"{folder} does not fit this model: {len(differing)} weights differ, e.g. {differing[0]!r}.")
    set_peft_model_state_dict(model, tensors)
    return model


def trainable_fraction(model: nn.Module) -> float:
    """The share of the parameters that train, from 0 to 1."""
    return count(model, lambda parameter: parameter.requires_grad) / count(model, lambda parameter: True)


def count(model: nn.Module, chosen: Callable[[nn.Parameter], bool]) -> int:
    """The number of values in the chosen parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if chosen(parameter))
