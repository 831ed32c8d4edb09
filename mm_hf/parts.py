"""Starts a new model from an old one: takes over from a checkpoint all parts that the new model has too. Says for each
part where its weights come from."""

import os
from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
from torch import nn

from .blocks import carry, copy_weights
from .heads import HEADS, listed, load_heads, of_heads
from .models.configuration_mm_fusion import MMFusionConfig
from .models.fusion import Fusion
from .models.modeling_mm_fusion import MMFusionModel
from .models.pooled_fusions import DeepCrossFusion, GatedFusion, LateFusion, PooledFusion, SumFusion
from .models.pretrained_mm_fusion import MMFusionPreTrainedModel
from .models.tasks import TaskWeighting
from .models.token_fusions import BottleneckFusion, CrossAttentionFusion, TokenFusion


CLASSES: dict[str, type[MMFusionPreTrainedModel]] = {"MMFusionModel": MMFusionModel}
CLASSES |= {head.__name__: head for head in HEADS.values()}


def class_of(config: MMFusionConfig, source: Any) -> type[MMFusionPreTrainedModel]:
    """The class that a checkpoint was saved from."""
    name = (config.architectures or [MMFusionModel.__name__])[0]
    if name not in CLASSES:
        raise ValueError(f"{source} is a checkpoint of the class {name}; it must be one of {', '.join(CLASSES)}.")
    return CLASSES[name]


def load_parts(
    model: MMFusionPreTrainedModel,
    checkpoint: str | os.PathLike | MMFusionPreTrainedModel,
    *,
    name: str | None = None,
    fresh: Collection[str] = (),
    column: str | None = None,
    checkpoint_column: str | None = None,
    tokens: Sequence[str] | None = None,
    checkpoint_tokens: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[str]:
    """Copies into a model, in place, the weights of a checkpoint that have the same meaning in both.

    Encoders and projections are matched by modality. A fusion is taken over if its type is the same; from layers that
    join modalities, the blocks of the modalities that both models have. A head is matched by its labels: each class
    with the same name takes over its row of weight and bias. With several tasks, the names of the tasks must agree
    first. A head of numbers is taken over if the label is the same column, in the unit of that label, whatever
    `label_mean` and `label_scale` the two models have. All else stays as it is in the model, and the lines say so.

    Args:
        model: changed in place; without adapters.
        checkpoint: a folder, a Hub id, or a model in memory, of any class of mm_hf.
        name: the name of the checkpoint in the lines; left out, the last part of its path.
        fresh: modalities that are not taken over even if both models have them, because their columns now mean
            something else.
        column, checkpoint_column: the label column of the model and of the checkpoint, for models with a single label.
            A head of numbers is taken over only if the two are equal.
        tokens, checkpoint_tokens: for CTC models: the tokens that they write, in the order of their ids.
        kwargs: arguments of `from_pretrained` (`revision`, `token`…).

    Returns:
        lines such as "head: 2 of 3 labels from a (cat, dog); fresh: bird".

    Raises:
        ValueError: a model has adapters, or the checkpoint is not one of mm_hf.
        OSError: the checkpoint does not exist.
    """
    for given in (model, checkpoint):
        if hasattr(given, "peft_config"):
            raise ValueError(f"This {type(given).__name__} has adapters: call merge_lora first.")
    if isinstance(checkpoint, MMFusionPreTrainedModel):
        old, name = checkpoint, name or type(checkpoint).__name__
    else:
        config = MMFusionConfig.from_pretrained(checkpoint, **kwargs)
        old = class_of(config, checkpoint).from_pretrained(checkpoint, **kwargs)
        name = name or os.path.basename(os.path.normpath(checkpoint))
    with torch.no_grad():
        lines, taken = load_base(model.base_model, old.base_model, name, fresh)
        heads = of_heads(model, column, tokens), of_heads(old, checkpoint_column, checkpoint_tokens)
        lines += load_heads(*heads, name)
        settled = [head.layer for both in heads for head in both.values()]
        lines += load_others(model, old, name, taken, settled)
        weighting, other = (getattr(one, "task_weighting", None) for one in (model, old))
        if weighting is not None and other is not None:
            tasks, old_tasks = list(model.config.task_heads), list(old.config.task_heads)
            carry(cast(Any, weighting).log_variances, cast(Any, other).log_variances, {0: tasks}, {0: old_tasks})
    return lines


# Encoders, projections, fusion


def load_base(model: MMFusionModel, old: MMFusionModel, name: str, fresh: Collection[str]) -> tuple[list[str], set]:
    """See `load_parts`; returns its lines, and the modalities whose encoder was taken over."""
    lines, taken = [], set()
    for modality, encoder in model.encoders.items():
        if modality not in old.encoders:
            lines.append(f"{modality} encoder: not from {name}, which has none; its projection is fresh")
        elif modality in fresh:
            lines.append(f"{modality} encoder and projection: fresh")
        elif not copy_weights(encoder.state_dict(), old.encoders[modality].state_dict()):
            kinds = encoder.config.model_type, old.encoders[modality].config.model_type
            lines.append(f"{modality} encoder: not from {name}, whose {kinds[1]} does not fit ({kinds[0]})")
        else:
            taken.add(modality)
            lines.append(f"{modality} encoder: from {name}")
            lines += load_projection(model.projections[modality], old.projections[modality], modality, name)
    lines += [f"{modality} encoder of {name}: not used" for modality in old.encoders if modality not in model.encoders]
    return [*lines, load_fusion(model.fusion, old.fusion, name, set(old.encoders) - taken)], taken


def load_projection(projection: Any, old: Any, modality: str, name: str) -> list[str]:
    """Takes over a projection. If the numbers of places per row differ, takes over the places that both have."""
    weights, others = dict(projection.state_dict()), dict(old.state_dict())
    places, old_places = weights.pop("place_embeddings", None), others.pop("place_embeddings", None)
    if not copy_weights(weights, others):
        return [f"{modality} projection: fresh, the one of {name} has other shapes"]
    line = f"{modality} projection: from {name}"
    if places is not None:
        both = min(projection.places, old.places if old_places is not None else 0)
        if both:
            places[:both].copy_(old_places[:both])
        line += f", {both} of {projection.places} places; the others are fresh" if both < projection.places else ""
    if old_places is not None and old.places > projection.places:
        unused = old.places - (projection.places if places is not None else 0)
        line += f"; of {name} not used: {unused} of {old.places} places"
    return [line]


def load_fusion(fusion: Fusion, old: Fusion, name: str, strange: Collection[str]) -> str:
    """Takes over a fusion. `strange`: modalities of the checkpoint whose encoders were not taken over. The parameters
    that the fusion has for them have no meaning for other encoders."""
    kinds = fusion.config.fusion_type, old.config.fusion_type
    if type(fusion) is not type(old):
        return f"fusion: fresh, {name} has {kinds[1]!r}, not {kinds[0]!r}"
    same = fusion.modalities == old.modalities and fusion.config.query_modality == old.config.query_modality
    known = isinstance(fusion, (PooledFusion, TokenFusion))
    if not known and (not same or strange):
        return f"fusion: fresh, {name} fuses {old.modalities}, not {fusion.modalities}"
    others = {common_name(old, key): (key, value) for key, value in old.state_dict().items()}
    names = {*fusion.modalities, *old.modalities}
    fresh, parts = [], set()
    for key, value in fusion.state_dict().items():
        common, missing = common_name(fusion, key), None
        if common in others and not set(common.split(".")) & set(strange) & names:
            old_key, old_value = others[common]
            axes = (blocks_of(fusion, key), blocks_of(old, old_key)) if known else ({}, {})
            kept = {axis: [part for part in axes[1][axis] if not part & set(strange)] for axis in axes[1]}
            missing = carry(value, old_value, *axes, allowed=kept)
        if missing is None:
            fresh.append(common)
        else:
            parts |= missing
    if fresh and len(fresh) == len(fusion.state_dict()):
        return f"fusion: fresh, the one of {name} has other shapes"
    singles = {modality for part in parts if len(part) == 1 for modality in part}
    lacking = {*singles, *(" times ".join(sorted(part)) for part in parts if not part & singles)}
    lacking |= {part_of(key, names) for key in fresh}
    common_names = {common_name(fusion, key) for key in fusion.state_dict()}
    unused = {part_of(key, names) for key in others if key not in common_names} - (set(old.modalities) & set(strange))
    line = f"fusion: from {name}" + (f"; fresh: what it has for {listed(sorted(lacking))}" if lacking else "")
    return line + (f"; of {name} not used: {listed(sorted(unused))}" if unused else "")


def part_of(key: str, modalities: Collection[str]) -> str:
    """The modality that a parameter of a fusion belongs to, or else the part of the fusion."""
    path = key.split(".")
    return next((part for part in path if part in modalities), ".".join(path[:2]))


def common_name(fusion: Fusion, key: str) -> str:
    """A parameter's name, in which the number of a modality is replaced by its name."""
    first, *rest = key.split(".")
    if isinstance(fusion, GatedFusion) and first in ("features", "gate_scores"):
        return ".".join([first, fusion.modalities[int(rest[0])], *rest[1:]])
    return key


def blocks_of(fusion: Fusion, key: str) -> dict[int, list[frozenset[str]]]:
    """For a parameter with one block per modality: per axis, the modalities of each block (one modality, or two for
    the product of two). All blocks of an axis have the same size."""
    each = [frozenset([name]) for name in fusion.modalities]
    if key == "weights" and isinstance(fusion, (SumFusion, LateFusion)):
        return {0: each}
    if isinstance(fusion, GatedFusion) and key.startswith("gate_scores.") and key.endswith("weight"):
        return {1: each}
    if isinstance(fusion, DeepCrossFusion) and key.startswith("layers."):
        if ".cross." in key:
            return {0: each, 1: each} if key.endswith("weight") else {0: each}
        return {1: each} if key == "layers.0.deep.weight" else {}
    if key != "readout.0.weight":
        return {}
    if isinstance(fusion, DeepCrossFusion):
        deep = [frozenset(["deep"])] if len(fusion.layers) else [part | {"deep"} for part in each]
        return {1: [*each, *deep]}
    if not isinstance(fusion, TokenFusion):
        return {1: each}
    asks, answers = fusion.query_modality, fusion.memory_modalities
    read = [frozenset([name]) for name in (asks, *answers)] + [frozenset([asks, name]) for name in answers]
    if isinstance(fusion, CrossAttentionFusion):
        return {1: [*read, frozenset(["blocks"])]}
    of_blocks = [part | {"blocks"} for part in each]
    return {1: [*read, *of_blocks, *([frozenset(["latents"])] if isinstance(fusion, BottleneckFusion) else [])]}


def load_others(
    model: MMFusionPreTrainedModel,
    old: MMFusionPreTrainedModel,
    name: str,
    taken: Collection[str],
    heads: Collection[nn.Module],
) -> list[str]:
    """Takes over the layers between the fusion and the last layer, and a decoder, if both models are of one kind.
    `taken`: modalities whose encoder was taken over. `heads`: the last layers of both models, which are already
    done."""
    parts, others = parts_beside(model, heads), parts_beside(old, heads)
    alike = any(isinstance(model, kind) and isinstance(old, kind) for kind in HEADS.values())
    loaded, fresh = [], []
    for key, part in parts.items():
        of_modality = key.removeprefix("embeddings.")
        if not alike or key not in others or (key != of_modality and of_modality not in taken):
            fresh.append(key)
        elif isinstance(part, nn.Parameter):
            part.copy_(others[key])
            loaded.append(key)
        else:
            (loaded if copy_weights(part.state_dict(), others[key].state_dict()) else fresh).append(key)
    unused = [key for key in others if key not in loaded]
    lines = [f"{', '.join(loaded)}: from {name}"] if loaded else []
    lines += [f"{', '.join(fresh)}: fresh"] if fresh else []
    return lines + ([f"{', '.join(unused)} of {name}: not used"] if unused else [])


def parts_beside(model: MMFusionPreTrainedModel, heads: Collection[nn.Module]) -> dict[str, Any]:
    """All modules and parameters of a model except its base and some heads; embeddings by modality."""
    parts: dict[str, Any] = dict(model.named_parameters(recurse=False))
    for key, module in model.named_children():
        settled = isinstance(module, TaskWeighting) or any(module is head for head in heads)
        if settled or module is model.base_model or model.base_model is model:
            continue
        if isinstance(module, nn.ModuleDict):
            members = {f"{key}.{place}": part for place, part in module.items()}
            parts |= {place: part for place, part in members.items() if all(part is not head for head in heads)}
        elif next(module.parameters(), None) is not None:
            parts[key] = module
    return parts
