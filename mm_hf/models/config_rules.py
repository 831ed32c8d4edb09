# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Checks that the keys of a model's config fit together: names of modalities, settings of the loss, tasks, labels."""

import copy
import math
from typing import Any

import torch

from .confidence import read_confidence
from .config_checks import ConfigError, shown
from .losses import LOSS_SETTINGS, check_loss_ranges
from .modality import MODALITIES, modality_of
from .names import did_you_mean
from .tasks import TASK_WEIGHTINGS, check_scale, check_settings, read_tasks, task_head_of
from .vision import Vision


POOLINGS = ("cls", "last", "mean")
FEATURE_JOINS = ("tokens", "channels")
NO_LABELS = {0: "LABEL_0", 1: "LABEL_1"}  # the library uses these if a config names none, and does not save them


def check_common(config: Any):
    """Refuses values of the wrong type under the keys that all configs of the library have; the library does not
    check them."""
    for name in ("id2label", "label2id"):
        if not isinstance(getattr(config, name), (dict, type(None))):
            kind = "numbers to names" if name == "id2label" else "names to numbers"
            raise ConfigError(f"{name} must be a dict of {kind}, got {shown(getattr(config, name))}.")
    if config.problem_type is not None:
        try:
            task_head_of(config.problem_type, texts=False)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    names = config.architectures
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ConfigError(f"architectures must be a list of names, got {shown(names)}.")
    if isinstance(config.dtype, str) and not isinstance(getattr(torch, config.dtype, None), torch.dtype):
        raise ConfigError(f"dtype must be the name of a torch dtype, such as float32, got {config.dtype!r:.80}.")


def without_labels(config: Any) -> Any:
    """The config of an encoder or decoder without the labels of a head that it once had. No token depends on them, and
    ImageNet's 1,000 names are 40 of the 53 KB of a config.json. The same object if it has none, else a copy."""
    extra = [name for name in ("problem_type", "task_specific_params") if getattr(config, name, None) is not None]
    if not extra and config.id2label in (None, NO_LABELS):
        return config
    config = copy.deepcopy(config)
    for name in extra:
        setattr(config, name, None)
    config.id2label, config.label2id = dict(NO_LABELS), {name: number for number, name in NO_LABELS.items()}
    return config


def check_losses(config: Any):
    """Checks the settings of the loss: their ranges, one value per class, and whether the problem has such a setting.
    Sorts the tasks by name."""
    if not 0 <= config.mixup_alpha < math.inf:
        raise ValueError(f"mixup_alpha must be 0 (off) or a positive number, got {config.mixup_alpha}.")
    check_loss_ranges(config.loss_settings, config.num_labels)
    if config.problem_type is not None:
        check_settings(config.problem_type, config.loss_settings)
    check_scale(config.problem_type, config.label_mean, config.label_scale, config.num_labels)
    read_confidence(config.confidence)
    if not 0 <= config.matching_weight < math.inf or config.projection_dim < 1:
        raise ValueError(
            "matching_weight must be a finite number of at least 0 and projection_dim at least 1, got "
            f"{config.matching_weight} and {config.projection_dim}."
        )
    if config.task_weighting not in TASK_WEIGHTINGS:
        meant = did_you_mean(config.task_weighting, TASK_WEIGHTINGS)
        raise ValueError(f"task_weighting must be one of {TASK_WEIGHTINGS}, got {config.task_weighting!r}.{meant}")
    if config.tasks is None:
        return
    # JSON sorts its keys: in any other order, a loaded checkpoint would have its tasks in a different order.
    config.tasks = {name: config.tasks[name] for name in sorted(config.tasks)}
    weighted = [name for name, task in read_tasks(config.tasks).items() if task.weight != 1]
    if weighted and config.task_weighting == "uncertainty":
        raise ValueError(
            f"task_weighting 'uncertainty' learns the weights, but {weighted} have a weight of their own: remove it."
        )
    if set_for_one := [name for name in (*LOSS_SETTINGS, "label_mean", "confidence") if getattr(config, name)]:
        raise ValueError(f"{set_for_one[0]} is for a single task: with several tasks, set it in each task.")


def check_architecture(config: Any):
    """Checks the names of modalities in the config."""
    fusion, dropout = config.fusion_module_config, config.fusion_module_config.modality_dropout
    by_modality = ("trained_layers", "pooling", "encode_by_length", "seeded_encoders", "places")
    named = {
        "fusion_module_config.query_modality": [fusion.query_modality],
        "freeze_encoders": config.frozen_encoders,
        "fusion_module_config.modality_dropout": dropout if isinstance(dropout, dict) else {},
        **{key: getattr(config, key) or () for key in by_modality},
    }
    for key, names in named.items():
        unknown = [name for name in names if name not in config.modalities]
        if unknown:
            raise ValueError(
                f"{key} names {unknown}, but this model has the modalities {config.modalities}."
                f"{did_you_mean(unknown[0], config.modalities)}"
            )
    for name, pooling in (config.pooling or {}).items():
        if pooling not in POOLINGS:
            meant = did_you_mean(pooling, POOLINGS)
            raise ValueError(f"pooling of {name} must be one of {POOLINGS}, got {pooling!r}.{meant}")
    if strange := [name for name in config.encode_by_length or () if not modality_of(name).has_lengths]:
        known = [name for name, modality in MODALITIES.items() if modality.has_lengths]
        raise ValueError(f"encode_by_length is for {' and '.join(known)}, which have lengths; got {sorted(strange)}.")
    if config.vision_feature_join not in FEATURE_JOINS:
        meant = did_you_mean(config.vision_feature_join, FEATURE_JOINS)
        raise ValueError(
            f"vision_feature_join must be one of {FEATURE_JOINS}, got {config.vision_feature_join!r}.{meant}"
        )
    if config.vision_feature_layer == []:
        raise ValueError(
            "vision_feature_layer must name at least one layer, got []; left out, the last state is used."
        )
    if config.vision_feature_layer is not None and config.vision_config is None:
        raise ValueError(f"vision_feature_layer is {config.vision_feature_layer}, but there is no vision_config.")
    if config.num_images < 1 or (config.num_images > 1 and config.vision_config is None):
        most = "1, since there is no vision_config" if config.vision_config is None else "1 or more"
        raise ValueError(f"num_images must be {most}, got {config.num_images}.")
    check_memory(config)


def check_memory(config: Any):
    """Checks that the settings of the fusion's memory have something to work on."""
    fusion = config.fusion_module_config
    memory = [name for name in config.modalities if name != fusion.query_modality]
    if fusion.memory_layers and not memory:
        raise ValueError(
            f"fusion_module_config.memory_layers is {fusion.memory_layers}, but the only modality is the query, "
            f"{fusion.query_modality}: set memory_layers to 0, or add a modality."
        )
    if fusion.distance_bias and (config.num_images > 1 or Vision.name not in memory):
        raise ValueError(
            "fusion_module_config.distance_bias needs one picture per row, and another modality as the query; got "
            f"num_images {config.num_images}, modalities {config.modalities}, query_modality {fusion.query_modality}."
        )
