# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The model: one encoder per modality, a fusion, and a head, or one head per task.

Notation used for tensor shapes: see `modeling_outputs`.
"""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForVisualQuestionAnswering
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple

from .configuration_mm_fusion import FusionModuleConfig, MMFusionConfig
from .dry_run import build_encoder
from .encoding import encode_items
from .freezing import (
    bring_in_line,
    check_checkpointing,
    freezing_of,
    look_at_given,
    look_for_changes,
    runs_frozen,
    set_modes,
)
from .fusion import Fusion, build_fusion, projection_class_of
from .inputs import check_labels, check_model_inputs
from .linear_fusion import LinearFusion  # noqa: F401  importing registers the fusions
from .losses import count_labels, mixup, warn_of_unit
from .modality import MODALITIES, modality_of
from .modeling_outputs import (
    EncoderStates,
    FusedStates,
    FusionMemory,
    MMFusionClassifierOutput,
    MMFusionModelOutput,
    MMFusionMultiTaskOutput,
    TokenStates,
)
from .names import did_you_mean
from .pooled_fusions import PooledFusion  # noqa: F401  importing registers the fusions
from .pretrained_mm_fusion import MMFusionPreTrainedModel
from .tasks import NUMBERS, TaskHead, TaskTensors, TaskWeighting, head_of_config, module_name, told_by_labels
from .token_fusions import TokenFusion  # noqa: F401
from .vision import Vision


# Inputs of `MMFusionModel.forward` that are not tensors.
NO_TENSORS = ("encoder_states", "token_states", "memory", "return_tokens", "output_attentions", "output_hidden_states")


class MMFusionModel(MMFusionPreTrainedModel):
    """Encoders and fusion, without a head.

    Its `forward` is `encode` followed by `fuse`. Both can be called separately, and states that were encoded before
    can be given as `encoder_states` instead of the raw inputs.
    """

    def __init__(self, config: MMFusionConfig):
        super().__init__(config)
        config.validate_architecture()  # again, because it may have changed, and before memory is used
        if not config.modalities:
            keys = [modality.config_key for modality in MODALITIES.values() if not modality.extra]
            raise ValueError(f"The config needs at least one of {[*keys, 'extra_configs']}, all are None.")
        extra = [modality_of(name) for name in config.extra_configs or {}]
        # Inputs of modalities from outside, which `forward` does not name, and all inputs that it takes.
        self.extra_inputs = [name for modality in extra for name in (*modality.inputs, modality.index_name)]
        self.input_names = [*FORWARD_INPUTS, *self.extra_inputs]
        fusion_module_config = config.fusion_module_config
        self.encoders = nn.ModuleDict()
        self.projections = nn.ModuleDict()
        self.feature_layers: dict[str, list[int] | None] = {}
        self.level_shapes: dict[str, list[tuple[int, ...]]] = {}  # for one item, see `build_encoder`
        self.untrained: set[str] = set()  # parameters that no token depends on, and that could not be removed
        self.modules_in_training: dict[str, list[str]] = {}  # for encoders that train in part, see `set_modes`
        self.applied_freezing = freezing_of(config)
        self.warned_of: set[str] = set()  # warnings that were given once
        for name in config.modalities:
            encoder, level_shapes, layers = build_encoder(
                config.encoder_config(name), name, config.feature_layers[name]
            )
            self.encoders[name] = encoder
            self.feature_layers[name], self.level_shapes[name] = layers, level_shapes
            self.untrained.update(
                f"encoders.{name}.{key}" for key, p in encoder.named_parameters() if not p.requires_grad
            )
            self.projections[name] = projection_class_of(fusion_module_config.fusion_type)(
                level_shapes,
                fusion_module_config.sizes().width,
                fusion_module_config.layer_norm_eps,
                config.poolings[name],
                places=config.places_of(name),
                join=config.vision_feature_join if name == Vision.name else "tokens",
            )
            if name == Vision.name and fusion_module_config.distance_bias and any(len(s) != 3 for s in level_shapes):
                raise ValueError(
                    "distance_bias needs the places of the tokens: use a vision encoder with a feature map (ResNet, "
                    f"MobileNet, ConvNeXt, Swin…); {config.vision_config.model_type!r} returns a sequence."
                )
        if fusion_module_config._attn_implementation is None:
            fusion_module_config._attn_implementation = config._attn_implementation
        self.fusion: Fusion = build_fusion(
            cast(FusionModuleConfig, fusion_module_config), config.modalities, config.poolings
        )
        self.post_init()
        self.apply_freezing()

    def apply_freezing(self):
        """Updates `requires_grad` and the mode of each encoder from `config.freeze_encoders` and
        `config.trained_layers`: call it after a change of these. `freeze` and `unfreeze` do both."""
        bring_in_line(self)

    def train(self, mode: bool = True):
        """Sets the mode. Frozen encoders, the lower layers of encoders that train in part, and batch norms under
        `config.freeze_batch_norm` always stay in eval mode."""
        super().train(mode)
        set_modes(self, mode)
        return self

    def encode(
        self,
        indices: dict[str, torch.Tensor | None] | None = None,
        encoder_states: dict[str, EncoderStates] | None = None,
        **inputs: torch.Tensor | None,
    ) -> dict[str, EncoderStates]:
        """Runs each modality's encoder on its distinct items.

        Args:
            indices: by modality `(B,)` int64, the item of each row, -1 for a row without one; `(B, K)` if a row has
                several places for items.
            encoder_states: modalities that were encoded before; they are returned, with the index if one is given
                here.
            inputs: the inputs of `forward` by their names, `(U, …)`.

        Returns:
            states by modality. A modality without items has no levels. But if its encoder trains, it has one dummy
            item that no row uses, so that every parameter takes part on every process.

        Raises:
            ValueError: no modality has a row, or the modalities have different numbers of rows.
        """
        indices, given = dict(indices or {}), encoder_states or {}
        for name in (*indices, *given):
            if name not in MODALITIES:
                raise ValueError(
                    f"There is no modality {name!r}; this model has {list(self.encoders)}."
                    f"{did_you_mean(name, self.encoders)}"
                )
        counts = {}
        for name in self.encoders:
            items = next((inputs[key] for key in modality_of(name).inputs if inputs.get(key) is not None), None)
            if name in given:
                indices[name] = given[name].index if indices.get(name) is None else indices[name]
                levels = given[name].levels
                items = levels[0] if levels else None
            if (index := indices.get(name)) is not None:
                counts[name] = len(index)
            elif items is not None and len(items):
                counts[name] = len(items)
        if len(set(counts.values())) != 1:
            raise ValueError(
                f"All modalities need the same number of rows, and at least one of {list(self.encoders)} must be "
                f"given: got rows {counts}. Give `<modality>_index` if rows share items or lack them."
            )
        if self.training and torch.is_grad_enabled():
            look_for_changes(self)
        absent = torch.full((next(iter(counts.values())),), -1, device=self.device)
        states = {}
        for name, encoder in self.encoders.items():
            index = indices.get(name) if name in counts else absent
            if name in given:
                states[name] = EncoderStates(levels=given[name].levels, mask=given[name].mask, index=index)
                if self.training and name not in self.config.frozen_encoders:
                    look_at_given(self, name, given[name].levels)
                continue
            frozen = runs_frozen(self, name)
            if self.training and not frozen:
                check_checkpointing(self, name)
            states[name] = encode_items(
                cast(PreTrainedModel, encoder),
                name,
                {key: inputs.get(key) for key in modality_of(name).inputs},
                self.feature_layers[name],
                index,
                frozen=frozen,
                **self.config.encoding(name),
            )
        return states

    def project(self, encoder_states: dict[str, EncoderStates]) -> dict[str, TokenStates]:
        """Projects encoder states to the fusion width. In training, present items are replaced by the absent token at
        the rates of `fusion_module_config.modality_dropout`."""
        indices: Mapping[str, torch.Tensor | None] = {name: states.index for name, states in encoder_states.items()}
        if self.training and self.config.fusion_module_config.modality_dropout:
            indices = self._drop_modalities(encoder_states)
        return {name: self.projections[name](states, indices[name]) for name, states in encoder_states.items()}

    def _drop_modalities(self, encoder_states: dict[str, EncoderStates]) -> dict[str, torch.Tensor]:
        """Draws for every row and modality whether all its items are dropped. A row that would lose all its modalities
        keeps all."""
        rates = self.config.fusion_module_config.modality_dropout
        indices = {
            name: torch.arange(states.count(), device=self.device) if states.index is None else states.index
            for name, states in encoder_states.items()
        }
        kept = {}
        for name, index in indices.items():
            rate = rates.get(name, 0.0) if isinstance(rates, dict) else rates
            present = index >= 0 if index.ndim == 1 else (index >= 0).any(1)
            kept[name] = present & (torch.rand(present.shape, device=index.device) >= rate)
        emptied = ~torch.stack(list(kept.values())).any(0)
        for name, index in indices.items():
            stays = kept[name] | emptied
            indices[name] = index.where(stays if index.ndim == 1 else stays[:, None], -1)
        return indices

    def prepare(self, encoder_states: dict[str, EncoderStates]) -> FusionMemory:
        """Computes, once per distinct item, what the fusion needs of the modalities that are not the query. Give the
        result to `fuse` or `forward` as `memory`, with any number of queries.

        Raises:
            NotImplementedError: the fusion's memory depends on the query.
        """
        names = [name for name in encoder_states if name != self.config.fusion_module_config.query_modality]
        return self.fusion.prepare(self.project({name: encoder_states[name] for name in names}))

    def fuse(
        self,
        encoder_states: dict[str, EncoderStates],
        memory: FusionMemory | None = None,
        memory_index: torch.Tensor | None = None,
        **kwargs,
    ) -> FusedStates:
        """Projects and fuses the result of `encode`. Modalities in `memory` (the result of `prepare`) are taken from
        there. `memory_index` is `(B,)` int64, the memory's row for each row; None: row i uses row i. For the other
        arguments see `Fusion.forward`."""
        if memory is not None:
            self._check_memory_rows(encoder_states, memory, memory_index)
            encoder_states = {name: states for name, states in encoder_states.items() if name not in memory.states}
        return self.fuse_tokens(self.project(encoder_states), memory, memory_index, **kwargs)

    def fuse_tokens(
        self,
        token_states: dict[str, TokenStates],
        memory: FusionMemory | None = None,
        memory_index: torch.Tensor | None = None,
        **kwargs,
    ) -> FusedStates:
        """Fuses the result of `project`, or states with other tokens (see `ModalityProjection.with_tokens`); for the
        arguments see `fuse`."""
        return self.fusion(token_states, memory=memory, memory_index=memory_index, **kwargs)

    def _check_memory_rows(self, encoder_states, memory: FusionMemory, memory_index: torch.Tensor | None):
        """Raises if query and memory have different numbers of rows; the message names the lengths."""
        query = encoder_states[self.config.fusion_module_config.query_modality]
        rows = len(query.levels[0]) if query.index is None else len(query.index)
        if memory_index is not None:
            what, count = "memory_index", len(memory_index)
        else:
            what = "memory"
            count = max(len(s.tokens) if s.index is None else len(s.index) for s in memory.states.values())
        if count != rows:
            raise ValueError(f"The query has {rows} rows, but {what} has {count}: give each row one in memory_index.")

    def _check_token_states(self, token_states, encoder_states, memory: FusionMemory | None, inputs: dict[str, Any]):
        """Refuses token states that lack a modality, and inputs that would be ignored beside them."""
        of_memory = [] if memory is None else list(memory.states)
        if sorted([*token_states, *of_memory]) != sorted(self.encoders):
            raise ValueError(f"token_states must have each of {list(self.encoders)}; got {list(token_states)}.")
        beside = [name for name, value in {"encoder_states": encoder_states, **inputs}.items() if value is not None]
        if beside:
            raise ValueError(f"token_states replace all inputs; leave out {beside}.")

    def check_inputs(self, inputs: dict[str, Any]):
        """Refuses arguments that are not inputs of `forward`: raw rows, batches that are not unpacked, tensors under
        other names. `row_ids` are allowed: the collator adds them for training code."""
        check_model_inputs(inputs, self.input_names, {"row_ids", *NO_TENSORS})

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        text_index: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        vision_index: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        audio_attention_mask: torch.Tensor | None = None,
        audio_index: torch.Tensor | None = None,
        numerical_values: torch.Tensor | None = None,
        categorical_ids: torch.Tensor | None = None,
        tabular_index: torch.Tensor | None = None,
        series_values: torch.Tensor | None = None,
        series_attention_mask: torch.Tensor | None = None,
        series_index: torch.Tensor | None = None,
        encoder_states: dict[str, EncoderStates] | None = None,
        memory: FusionMemory | None = None,
        memory_index: torch.Tensor | None = None,
        return_tokens: bool = True,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        token_states: dict[str, TokenStates] | None = None,
        **kwargs,
    ) -> MMFusionModelOutput:
        """Encodes and fuses.

        Args:
            input_ids: `(U, T)` int64, distinct texts.
            attention_mask: `(U, T)`, 1 for a token, 0 for padding.
            token_type_ids: `(U, T)` int64, for encoders that have them.
            inputs_embeds: `(U, T, H)` float, instead of `input_ids`.
            text_index: `(B,)` int64, the text of each row, -1 for a row without one; None: row i has text i. Or
                `(B, K)`, if `config.places` has several; the same holds for the other indices.
            pixel_values: `(U, C, H, W)` float, distinct images.
            vision_index: `(B,)` int64, the image of each row, as `text_index`; or `(B, K)`, the images of each row in
                their places, up to `config.num_images`.
            input_features: `(U, F, S)` float, distinct sounds as frames of `F` numbers (Whisper); `(U, S, F)` for a
                recurrent encoder.
            input_values: `(U, S)` float, distinct sounds as waves (Wav2Vec2), or `(U, S, F)` as frames (AST).
            audio_attention_mask: `(U, S)`, 1 for sound, 0 for padding.
            audio_index: `(B,)` int64, the sound of each row, as `text_index`.
            numerical_values: `(U, N)` float, the columns of numbers of distinct rows of a table, standardised, NaN for
                missing values.
            categorical_ids: `(U, K)` int64, their columns of categories: 0 for missing values, 1 for unknown values.
            tabular_index: `(B,)` int64, the row of the table of each row, as `text_index`.
            series_values: `(U, S, C)` float, distinct time series of `C` channels, standardised.
            series_attention_mask: `(U, S)`, 1 for a step, 0 for padding.
            series_index: `(B,)` int64, the series of each row, as `text_index`.
            encoder_states: an earlier result of `encode`, for modalities without raw inputs here.
            memory, memory_index: see `fuse`.
            return_tokens: return the tokens too, not only the pooled vector.
            output_attentions: return the fusion's attention weights; needs `attn_implementation="eager"`.
            output_hidden_states: return the query's tokens after each block; a list of indices selects some.
            token_states: the result of `project`, for every modality, instead of all inputs before it.
            kwargs: the inputs and the index of modalities from outside, see `extra_configs`; all others go to the
                attention functions, and must not be tensors.

        Raises:
            ValueError: a tensor has a name that is not an input; attention weights are requested but the attention
                implementation has none; for others see `encode`.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "inputs_embeds": inputs_embeds,
            "text_index": text_index,
            "pixel_values": pixel_values,
            "vision_index": vision_index,
            "input_features": input_features,
            "input_values": input_values,
            "audio_attention_mask": audio_attention_mask,
            "audio_index": audio_index,
            "numerical_values": numerical_values,
            "categorical_ids": categorical_ids,
            "tabular_index": tabular_index,
            "series_values": series_values,
            "series_attention_mask": series_attention_mask,
            "series_index": series_index,
            **{name: kwargs.pop(name) for name in self.extra_inputs if name in kwargs},
        }
        self.check_inputs({**inputs, **kwargs})
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        implementation = self.config.fusion_module_config._attn_implementation
        if output_attentions and implementation != "eager":
            raise ValueError(
                f"output_attentions needs attn_implementation='eager', got {implementation!r}: call "
                "model.set_attn_implementation('eager') first."
            )
        options: dict[str, Any] = {
            "return_tokens": return_tokens,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
        }
        if token_states is None:
            indices = {name: inputs.pop(modality_of(name).index_name, None) for name in self.encoders}
            encoded = self.encode(indices, encoder_states, **inputs)
            fused = self.fuse(encoded, memory, memory_index, **options, **kwargs)
        else:
            self._check_token_states(token_states, encoder_states, memory, inputs)
            fused = self.fuse_tokens(token_states, memory, memory_index, **options, **kwargs)
        return MMFusionModelOutput.of(fused)


# The arguments of `forward`, looked up once.
FORWARD_INPUTS = list(inspect.signature(MMFusionModel.forward).parameters)[1:-1]


class MMFusionForClassification(MMFusionPreTrainedModel):
    """A classifier over all modalities. With `problem_type` also for several labels at once, or a regression."""

    def __init__(self, config: MMFusionConfig):
        super().__init__(config)
        if not config.num_labels:
            raise ValueError(f"{type(self).__name__} needs num_labels of at least 1, got {config.num_labels}.")
        self.num_labels = config.num_labels
        self.model = MMFusionModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        head = self.task_head
        self.classifier = head.layer(config.fusion_module_config.sizes().width, head.num_outputs)
        self._looked_at_labels = False  # whether the size of a regression's labels was checked
        self.post_init()

    @property
    def task_head(self) -> TaskHead:
        """The task of the head; before the first labels, the task that fits its number of outputs."""
        return head_of_config(self.config)

    def last_layers(self) -> dict[str | None, tuple[nn.Module, TaskHead]]:
        return {None: (self.classifier, self.task_head)}

    def regression_heads(self) -> list[nn.Module]:
        numbers = self.config.num_labels == 1 or self.config.label_mean is not None
        return [self.classifier] if numbers else []

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        sample_weight: torch.Tensor | None = None,
        **inputs,
    ) -> MMFusionClassifierOutput:
        """Classifies.

        Args:
            input_ids: see `MMFusionModel.forward`.
            labels: see `classification_loss`. In training the config shapes the loss (`label_smoothing`,
                `class_weights`, `focal_gamma`, `class_priors`, `mixup_alpha`); in eval mode it is the plain one.
            num_items_in_batch: labelled rows of the global batch, see `classification_loss`.
            sample_weight: `(B,)` float, the weight of each row in the loss, only in training.
            inputs: all other inputs of `MMFusionModel.forward`.
        """
        self.void_confidence()
        outputs = self.model(input_ids=input_ids, **{"return_tokens": False, **inputs})
        pooled, partners, share = outputs.pooler_output, None, 1.0
        if labels is not None:
            check_labels(labels)
        if self.training and self.config.mixup_alpha and labels is not None:
            pooled, partners, share = mixup(pooled, labels, self.config.mixup_alpha)
        scores = self.classifier(self.dropout(pooled))
        loss = None
        if labels is not None:
            loss = self._loss(scores, labels, num_items_in_batch, sample_weight)
            if partners is not None:
                sample_weight = None if sample_weight is None else sample_weight[partners]
                other = self._loss(scores, labels[partners], num_items_in_batch, sample_weight)
                loss = share * loss + (1 - share) * other
        return MMFusionClassifierOutput(
            loss=loss,
            logits=self.task_head.in_unit(scores),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )

    def _loss(self, scores, labels, num_items_in_batch, sample_weight) -> torch.Tensor:
        """The loss of this problem, shaped by the config in training."""
        head = head_of_config(self.config, self.config.problem_type or told_by_labels(self.config, labels))
        if self.training and not self._looked_at_labels and head.label_kind == NUMBERS:
            self._looked_at_labels = True
            if head.label_mean is None:
                warn_of_unit(labels)
        loss = head.loss(scores, labels, num_items_in_batch, sample_weight, self.training)
        self.config.problem_type = head.name  # set when the labels have turned out to fit it
        return loss


class MMFusionForQuestionAnswering(MMFusionForClassification):
    """Visual question answering with the answers as classes (Antol et al. 2015): one class per row, or the soft scores
    of VQA v2 as `(B, num_labels)` floats."""


class MMFusionForMultiTask(MMFusionPreTrainedModel):
    """One head for each of `config.tasks` on one fused vector: classes, several labels and numbers in any mix.

    The training loss is the sum of the tasks' losses, each of which is a mean over the rows that have a label of its
    task. The weights are fixed (one network shared by all, Caruana 1997), or learned, see `TaskWeighting`.
    """

    def __init__(self, config: MMFusionConfig):
        super().__init__(config)
        if config.tasks is None:
            raise ValueError("MMFusionForMultiTask needs config.tasks, the tasks of its heads; it is None.")
        self.tasks = config.task_heads
        self.model = MMFusionModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        width = config.fusion_module_config.sizes().width
        self.heads = nn.ModuleDict(
            {module_name(name): task.layer(width, task.num_outputs) for name, task in self.tasks.items()}
        )
        self.task_weighting = TaskWeighting(self.tasks) if config.task_weighting == "uncertainty" else None
        self.post_init()

    def last_layers(self) -> dict[str | None, tuple[nn.Module, TaskHead]]:
        return {name: (self.heads[module_name(name)], task) for name, task in self.tasks.items()}

    def set_confidence(self, confidences):
        super().set_confidence(confidences)
        self.tasks = self.config.task_heads

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        labels: TaskTensors | None = None,
        num_items_in_batch: TaskTensors | None = None,
        sample_weight: torch.Tensor | TaskTensors | None = None,
        **inputs,
    ) -> MMFusionMultiTaskOutput:
        """Answers all questions.

        Args:
            input_ids: see `MMFusionModel.forward`.
            labels: by task, as `classification_loss` takes them: -100 or NaN for a row without a label. A task that is
                left out has no labels in any row. In training the settings of each task shape its loss, and
                `config.mixup_alpha` mixes rows that have a label of any task; in eval mode the loss is the plain one,
                with fixed weights.
            num_items_in_batch: by task, the labelled rows of the global batch, see `classification_loss`.
            sample_weight: `(B,)` float, the weight of each row in the loss, only in training; or by task.
            inputs: all other inputs of `MMFusionModel.forward`.

        Raises:
            ValueError: labels of a task that the model does not have.
        """
        self.void_confidence()
        outputs = self.model(input_ids=input_ids, **{"return_tokens": False, **inputs})
        pooled, partners, share = outputs.pooler_output, None, 1.0
        for given in (labels, num_items_in_batch, sample_weight):
            unknown = [name for name in given if name not in self.tasks] if isinstance(given, Mapping) else []
            if unknown:
                meant = did_you_mean(unknown[0], self.tasks)
                raise ValueError(f"The model has no task {unknown[0]!r}; it has {list(self.tasks)}.{meant}")
        if labels is not None and not isinstance(labels, Mapping):
            raise ValueError(f"labels must be a dict by task, of {list(self.tasks)}; got {type(labels).__name__}.")
        for name, label in (labels or {}).items():
            check_labels(label, f"labels[{name!r}]")
        if self.training and self.config.mixup_alpha and labels:
            pooled, partners, share = mixup(pooled, labels, self.config.mixup_alpha)
        pooled = self.dropout(pooled)
        scores = {name: self.heads[module_name(name)](pooled) for name in self.tasks}
        losses = None
        if labels is not None:
            losses_of = partial(self._losses, scores, labels, num_items_in_batch, sample_weight)
            losses = losses_of()
            if partners is not None:
                others = losses_of(partners)
                losses = {name: share * loss + (1 - share) * others[name] for name, loss in losses.items()}
            if self.training and self.task_weighting is not None:
                losses = self.task_weighting(losses, self._shares(labels, num_items_in_batch))
            else:
                losses = {name: task.weight * losses[name] for name, task in self.tasks.items()}
        return MMFusionMultiTaskOutput(
            loss=None if losses is None else torch.stack(list(losses.values())).sum(),
            task_losses=losses,
            logits={name: task.in_unit(scores[name]) for name, task in self.tasks.items()},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )

    def _losses(
        self,
        scores: TaskTensors,
        labels: TaskTensors,
        counts: TaskTensors | None,
        sample_weight: torch.Tensor | TaskTensors | None,
        partners: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The loss of each task, without weights; with `partners`, for the labels of those rows. The loss of a task
        without labels is zero with zero gradients, so that its head takes part on every process."""
        losses = {}
        for name, task in self.tasks.items():
            if name not in labels:
                losses[name] = scores[name].sum() * 0.0
                continue
            weights = sample_weight.get(name) if isinstance(sample_weight, Mapping) else sample_weight
            label = labels[name]
            if partners is not None:
                label, weights = label[partners], None if weights is None else weights[partners]
            # Without any label the sum is zero, whatever the divisor is.
            count = None if counts is None else counts[name] + (counts[name] == 0)
            losses[name] = task.loss(scores[name], label, count, weights, self.training)
        return losses

    def _shares(self, labels: TaskTensors, counts: TaskTensors | None) -> dict[str, torch.Tensor | float]:
        """The share of the global batch's labels that are in this batch, see `TaskWeighting`."""
        in_batch = {name: count_labels(labels[name]) if name in labels else 0 for name in self.tasks}
        return {name: count and (1.0 if counts is None else count / counts[name]) for name, count in in_batch.items()}


# Of two classes the library takes the one that `config.architectures` names, or the first one if it names none.
AutoModel.register(MMFusionConfig, (MMFusionModel, MMFusionForMultiTask), exist_ok=True)
AutoModelForSequenceClassification.register(MMFusionConfig, MMFusionForClassification, exist_ok=True)
AutoModelForVisualQuestionAnswering.register(MMFusionConfig, MMFusionForQuestionAnswering, exist_ok=True)
MMFusionModel.register_for_auto_class("AutoModel")
MMFusionForMultiTask.register_for_auto_class("AutoModel")
MMFusionForClassification.register_for_auto_class("AutoModelForSequenceClassification")
MMFusionForQuestionAnswering.register_for_auto_class("AutoModelForVisualQuestionAnswering")

__all__ = ["MMFusionForClassification", "MMFusionForMultiTask", "MMFusionForQuestionAnswering", "MMFusionModel"]
