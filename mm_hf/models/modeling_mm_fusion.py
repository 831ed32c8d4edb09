# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The model: one encoder a modality, a fusion, a head.

Notation used for tensor shapes: see `modeling_outputs`.
"""

import dataclasses
import inspect
import os
from typing import Any, cast

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForVisualQuestionAnswering,
)
from transformers import (
    initialization as init,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple, logging

from .configuration_mm_fusion import (
    AUTO_MAP,
    AUTO_MAP_OF,
    CUSTOM_PIPELINES,
    MODALITY_CONFIGS,
    FusionModuleConfig,
    MMFusionConfig,
    part_of_composite,
)
from .encoders import (
    MODALITY_INPUTS,
    base_model_of,
    build_encoder,
    encode_items,
    load_encoder_weights,
)
from .fusion import Fusion, build_fusion
from .losses import classification_loss, infer_problem_type, mixup
from .modeling_outputs import (
    EncoderStates,
    FusedStates,
    FusionMemory,
    MMFusionClassifierOutput,
    MMFusionModelOutput,
    TokenStates,
)
from .pooled_fusions import PooledFusion  # noqa: F401  importing registers the fusions
from .projection import ModalityProjection
from .token_fusions import TokenFusion  # noqa: F401


logger = logging.get_logger(__name__)

# What `from_encoders_pretrained` hands to the loading of each encoder, and to the loading of the whole model.
HUB_KEYS = ("revision", "token", "subfolder", "cache_dir", "local_files_only", "force_download", "trust_remote_code")
LOADING_KEYS = ("dtype", "device_map", "max_memory", "quantization_config", "attn_implementation")


class MMFusionPreTrainedModel(PreTrainedModel):
    """Loading, saving and initial weights of all classes of mm_hf."""

    config_class = MMFusionConfig
    config: MMFusionConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["MMFusionCrossAttentionBlock"]
    _supports_sdpa = True
    # Flash attention's unpadding takes the queries to be padded as the keys are, which is wrong for cross-attention.
    _supports_flash_attn = False
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module):
        std = self.config.fusion_module_config.initializer_range
        if isinstance(module, nn.Linear):
            # A regression starts from zero (as Dosovitskiy et al. 2021, section 3.2, start all heads): targets may be
            # far smaller than what random weights give, and from few rows that noise is never unlearned.
            regresses = any(module is head for head in self.regression_heads())
            init.normal_(module.weight, mean=0.0, std=0.0 if regresses else std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif hasattr(module, "init_own_parameters"):
            module.init_own_parameters(std)

    def regression_heads(self) -> list[nn.Module]:
        """The last layers that give numbers, not scores of classes."""
        return []

    @property
    def base_model(self) -> "MMFusionModel":
        """The encoders and the fusion, without a head."""
        return cast(MMFusionModel, getattr(self, self.base_model_prefix, self))

    def set_attn_implementation(self, attn_implementation: str | dict, **kwargs):
        """Chooses the attention. See the library's method; what differs: encoders that have no choice (ConvNeXt,
        ResNet) keep what they have, where the library raises."""
        if isinstance(attn_implementation, str):
            chosen: dict[str, Any] = dict.fromkeys(["", *self.config.sub_configs], attn_implementation)
            for name, encoder in self.base_model.encoders.items():
                if not (encoder._supports_sdpa or encoder._supports_flash_attn):
                    chosen[MODALITY_CONFIGS[name]] = encoder.config._attn_implementation
            attn_implementation = chosen
        super().set_attn_implementation(attn_implementation, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """The text encoder's word embeddings."""
        return self._text_encoder().get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replaces the text encoder's word embeddings."""
        self._text_encoder().set_input_embeddings(value)

    def _text_encoder(self) -> PreTrainedModel:
        encoders = self.base_model.encoders
        if "text" not in encoders:
            raise NotImplementedError(f"This model has no text encoder, but {list(encoders)}.")
        return cast(PreTrainedModel, encoders["text"])

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Loads a checkpoint of mm_hf. See the library's method; what differs: encoders that the config freezes stay
        so."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.base_model.apply_freezing()
        return loaded

    @classmethod
    def from_encoders_pretrained(cls, *, fusion: str | None = None, **kwargs: Any) -> "MMFusionPreTrainedModel":
        """Builds a model from pretrained encoders; projections, fusion and head start from random weights.

        Args:
            vision, text (`str`): for each modality the Hub id or local folder of any model with such an encoder:
                the encoder alone, a model with a head, a dual encoder (its part is taken) or an encoder-decoder (its
                encoder is taken).
            fusion (`str`, *optional*): a name in the registry of fusions, in place of
                `fusion_module_config["fusion_type"]`; `"cross_attention"` where neither is given.
            revision, token, subfolder, cache_dir, local_files_only, force_download, trust_remote_code: as in
                `from_pretrained`; one value for all encoders, or a dict by modality.
            dtype, device_map, max_memory, quantization_config, attn_implementation: as in `from_pretrained`, for the
                whole model.
            kwargs: everything else goes into `MMFusionConfig` (`num_labels`, `freeze_encoders`,
                `vision_feature_layer`, `fusion_module_config={"hidden_size": 256}`…).

        Raises:
            ValueError: no encoder, an encoder that does not read the modality, or weights that its checkpoint lacks.
            OSError: no such folder or Hub id.
        """
        sources = {name: kwargs.pop(name, None) for name in MODALITY_CONFIGS}
        sources = {name: source for name, source in sources.items() if source is not None}
        if not sources:
            raise ValueError(
                f"from_encoders_pretrained needs an encoder for at least one of {list(MODALITY_CONFIGS)}."
            )
        hub_kwargs = {key: kwargs.pop(key) for key in HUB_KEYS if key in kwargs}
        loading_kwargs = {key: kwargs.pop(key) for key in LOADING_KEYS if key in kwargs}

        def hub_kwargs_of(name):
            values = {key: value.get(name) if isinstance(value, dict) else value for key, value in hub_kwargs.items()}
            return {key: value for key, value in values.items() if value is not None}

        configs: dict[str, Any] = {
            MODALITY_CONFIGS[name]: part_of_composite(AutoConfig.from_pretrained(source, **hub_kwargs_of(name)), name)
            for name, source in sources.items()
        }
        for name, source in sources.items():
            if os.path.isdir(source):  # a path on this machine means nothing where the checkpoint goes
                configs[MODALITY_CONFIGS[name]].name_or_path = base_model_of(source) or ""
        fusion_module_config = kwargs.pop("fusion_module_config", None) or {}
        if isinstance(fusion_module_config, FusionModuleConfig):
            fields = [field.name for field in dataclasses.fields(FusionModuleConfig)]
            fusion_module_config = {name: getattr(fusion_module_config, name) for name in fields}
        if fusion is not None:
            fusion_module_config = {**fusion_module_config, "fusion_type": fusion}
        for given, config_class in ((kwargs, MMFusionConfig), (fusion_module_config, FusionModuleConfig)):
            known = {field.name for field in dataclasses.fields(config_class)} | {"num_labels", "model_type"}
            if unknown := sorted(key for key in set(given) - known if given[key] is not None):
                raise ValueError(f"{config_class.__name__} has no {unknown[0]!r}; it has {sorted(known)}.")
        base_models = [base_model_of(source) for source in sources.values()]
        config = MMFusionConfig(
            **configs,
            fusion_module_config=fusion_module_config,
            base_models=[name for name in base_models if name],
            **kwargs,
        )

        with torch.device("meta"):
            skeleton = cls(config)
        state_dict = {}
        for name, source in sources.items():
            encoder = cast(PreTrainedModel, skeleton.base_model.encoders[name])
            weights = load_encoder_weights(encoder, source, dtype=loading_kwargs.get("dtype"), **hub_kwargs_of(name))
            prefix = next(path for path, module in skeleton.named_modules() if module is encoder)
            lacking = [key for key in encoder.state_dict() if key not in weights]
            if lacking:
                raise ValueError(
                    f"The {name} encoder from {source} lacks {len(lacking)} weights, such as {lacking[:3]}."
                )
            state_dict.update({f"{prefix}.{key}": weights[key] for key in encoder.state_dict()})

        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # that fusion and head are new is no news
        try:
            return cls.from_pretrained(None, config=config, state_dict=state_dict, **loading_kwargs)
        finally:
            logging.set_verbosity(verbosity)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        **kwargs,
    ):
        """Saves weights, config, the code and, where there is none yet, a model card. See the library's method.

        Raises:
            ValueError: `push_to_hub`, which goes through the method of that name.
        """
        if push_to_hub:
            raise ValueError("Call model.push_to_hub(repo_id, processor=processor), which uploads the processor too.")
        # A checkpoint that was loaded from elsewhere names its first home here; the code is copied, so it is at home
        # now.
        self.config.auto_map = {**AUTO_MAP, **AUTO_MAP_OF.get(type(self).__name__, {})}
        self.config.custom_pipelines = CUSTOM_PIPELINES.get(type(self).__name__, {})
        # Names of older releases, which the library writes for some encoders (ViT), are lost on the Trainer when it
        # restores the best model.
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        card_file = os.path.join(save_directory, "README.md")
        if is_main_process and not os.path.exists(card_file):
            self.model_card().save(card_file)

    def push_to_hub(self, repo_id: str, *, processor=None, private: bool | None = None, token=None, **kwargs) -> str:
        """Uploads all that `save_pretrained` writes, the card included, and the processor where it is given.

        Args:
            repo_id: `"user/name"` on the Hub; created if it is not there.
            processor: the `MMFusionProcessor` that belongs to the model: without it the checkpoint takes no raw rows.
            private, token: as in the library.
            kwargs: for `HfApi.upload_folder` (`commit_message`, `revision`, `create_pr`…).
        """
        import tempfile

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            if processor is not None:
                processor.save_pretrained(folder)
            return api.upload_folder(repo_id=repo_id, folder_path=folder, **kwargs)

    def model_card(self) -> ModelCard:
        """The card of a model of which no more is known than its config; training writes a fuller one."""
        pipelines = list(CUSTOM_PIPELINES.get(type(self).__name__, {}))
        data = ModelCardData(
            library_name="transformers",
            tags=["mm_hf", "multimodal", *self.config.modalities],
            base_model=self.config.base_models or None,
            pipeline_tag=next((tag for tag in pipelines if tag == "visual-question-answering"), None),
        )
        fusion = self.config.fusion_module_config
        encoders = [
            f"{name}: `{getattr(self.config, MODALITY_CONFIGS[name]).model_type}`" for name in self.config.modalities
        ]
        text = (
            f"# {type(self).__name__}\n\nEncoders ({', '.join(encoders)}), fused by `{fusion.fusion_type}` "
            f"({fusion.num_hidden_layers} layers, width {fusion.hidden_size}), made with mm_hf.\n\n"
            "No evaluation is recorded with this checkpoint.\n"
        )
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")

    @staticmethod
    def travelling_code():
        """Names the files that no modelling code imports but every checkpoint needs: the library copies what it finds
        imported in the text of this file."""
        from .pipelines_mm_fusion import MMFusionClassificationPipeline
        from .processing_mm_fusion import MMFusionProcessor

        return MMFusionProcessor, MMFusionClassificationPipeline


class MMFusionModel(MMFusionPreTrainedModel):
    """Encoders and fusion, without a head.

    Its `forward` is `encode` and `fuse`; both can be called apart, and what was encoded before goes in as
    `encoder_states` in place of the raw inputs.
    """

    def __init__(self, config: MMFusionConfig):
        super().__init__(config)
        if not config.modalities:
            raise ValueError(f"The config needs at least one of {list(MODALITY_CONFIGS.values())}, all are None.")
        fusion_module_config = config.fusion_module_config
        self.encoders = nn.ModuleDict()
        self.projections = nn.ModuleDict()
        self.feature_layers: dict[str, list[int] | None] = {}
        self.untrained: set[str] = set()  # parameters that no token depends on, and that could not be removed
        for name in config.modalities:
            encoder, level_shapes, layers = build_encoder(
                getattr(config, MODALITY_CONFIGS[name]), name, config.feature_layers[name]
            )
            self.encoders[name] = encoder
            self.feature_layers[name] = layers
            self.untrained.update(
                f"encoders.{name}.{key}" for key, p in encoder.named_parameters() if not p.requires_grad
            )
            self.projections[name] = ModalityProjection(
                level_shapes,
                fusion_module_config.hidden_size,
                fusion_module_config.layer_norm_eps,
                config.poolings[name],
                places=config.num_images if name == "vision" else 1,
                join=config.vision_feature_join if name == "vision" else "tokens",
            )
            if name == "vision" and fusion_module_config.distance_bias and any(len(s) != 3 for s in level_shapes):
                raise ValueError(
                    "distance_bias needs to know where tokens are: a vision encoder that gives a feature map (ResNet, "
                    f"MobileNet, ConvNeXt, Swin…), not a sequence as {config.vision_config.model_type!r} does."
                )
        if fusion_module_config._attn_implementation is None:
            fusion_module_config._attn_implementation = config._attn_implementation
        self.fusion: Fusion = build_fusion(
            cast(FusionModuleConfig, fusion_module_config), config.modalities, config.poolings
        )
        self.post_init()
        self.apply_freezing()

    def apply_freezing(self):
        """Brings `requires_grad` and the mode of each encoder in line with `config.freeze_encoders`: call it after
        that was changed."""
        for name, encoder in self.encoders.items():
            encoder.requires_grad_(name not in self.config.frozen_encoders)
        for name, parameter in self.named_parameters():
            if name in self.untrained:
                parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True):
        """Sets the mode; frozen encoders, and batch norms under `config.freeze_batch_norm`, stay in eval mode."""
        super().train(mode)
        for name, encoder in self.encoders.items():
            if name in self.config.frozen_encoders:
                encoder.eval()
            elif self.config.freeze_batch_norm:
                for module in encoder.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.eval()
        return self

    def encode(
        self,
        indices: dict[str, torch.Tensor | None] | None = None,
        encoder_states: dict[str, EncoderStates] | None = None,
        **inputs: torch.Tensor | None,
    ) -> dict[str, EncoderStates]:
        """Runs each modality's encoder on its distinct items.

        Args:
            indices: by modality `(B,)` int64, the item of each row, -1 where the row has none; `(B, K)` for the images
                of rows with several.
            encoder_states: modalities that were encoded before: passed on, with the index given here if there is one.
            inputs: the inputs of `forward` by their names, `(U, …)`.

        Returns:
            by modality. One that has no item has no levels either, unless its encoder trains: then it holds one dummy
            item that no row uses, so that every parameter takes part on every process.

        Raises:
            ValueError: no modality has a row, or their numbers of rows differ.
        """
        indices, given = dict(indices or {}), encoder_states or {}
        counts = {}
        for name in self.encoders:
            items = next((inputs[key] for key in MODALITY_INPUTS[name] if inputs.get(key) is not None), None)
            if name in given:
                indices[name] = given[name].index if indices.get(name) is None else indices[name]
                items = given[name].levels[0] if given[name].levels else None
            if indices.get(name) is not None:
                counts[name] = len(indices[name])
            elif items is not None and len(items):
                counts[name] = len(items)
        if len(set(counts.values())) != 1:
            raise ValueError(
                f"All modalities need the same number of rows, and one of {list(self.encoders)} must be there: got "
                f"rows {counts}. Give `<modality>_index` where rows share items or lack them."
            )
        absent = torch.full((next(iter(counts.values())),), -1, device=self.device)
        states = {}
        for name, encoder in self.encoders.items():
            index = indices.get(name) if name in counts else absent
            if name in given:
                states[name] = EncoderStates(levels=given[name].levels, mask=given[name].mask, index=index)
                continue
            states[name] = encode_items(
                cast(PreTrainedModel, encoder),
                name,
                {key: inputs.get(key) for key in MODALITY_INPUTS[name]},
                self.feature_layers[name],
                index,
                frozen=name in self.config.frozen_encoders,
            )
        return states

    def project(self, encoder_states: dict[str, EncoderStates]) -> dict[str, TokenStates]:
        """Brings encoder states to the fusion width. In training, present items give way to the absent token at the
        rates of `fusion_module_config.modality_dropout`."""
        indices = {name: states.index for name, states in encoder_states.items()}
        if self.training and self.config.fusion_module_config.modality_dropout:
            indices = self._drop_modalities(encoder_states)
        return {name: self.projections[name](states, indices[name]) for name, states in encoder_states.items()}

    def _drop_modalities(self, encoder_states: dict[str, EncoderStates]) -> dict[str, torch.Tensor]:
        """Draws for every row and modality whether it is dropped, with all of its items; a row that would lose all it
        has keeps all."""
        rates = self.config.fusion_module_config.modality_dropout
        indices = {
            name: torch.arange(len(states.levels[0]), device=self.device) if states.index is None else states.index
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
        """Computes, once per distinct item, what the fusion needs of the modalities that do not ask: to be handed to
        `fuse` or `forward` as `memory` with as many queries as there are.

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
        """Projects and fuses what `encode` gave.

        Args:
            encoder_states: by modality; those that `memory` holds are not looked at.
            memory: what `prepare` gave.
            memory_index: `(B,)` int64, the memory's row for each row; None: row i uses row i.
            kwargs: see `Fusion.forward`.
        """
        if memory is not None:
            self._check_memory_rows(encoder_states, memory, memory_index)
            encoder_states = {name: states for name, states in encoder_states.items() if name not in memory.states}
        return self.fusion(self.project(encoder_states), memory=memory, memory_index=memory_index, **kwargs)

    def _check_memory_rows(self, encoder_states, memory: FusionMemory, memory_index: torch.Tensor | None):
        """Says which lengths do not fit, where the query has other rows than the memory."""
        query = encoder_states[self.config.fusion_module_config.query_modality]
        rows = len(query.levels[0]) if query.index is None else len(query.index)
        if memory_index is not None:
            what, count = "memory_index", len(memory_index)
        else:
            what = "memory"
            count = max(len(s.tokens) if s.index is None else len(s.index) for s in memory.states.values())
        if count != rows:
            raise ValueError(f"The query has {rows} rows, but {what} has {count}: give each row one in memory_index.")

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
        encoder_states: dict[str, EncoderStates] | None = None,
        memory: FusionMemory | None = None,
        memory_index: torch.Tensor | None = None,
        return_tokens: bool = True,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        **kwargs,
    ) -> MMFusionModelOutput:
        """Encodes and fuses.

        Args:
            input_ids: `(U, T)` int64, distinct texts.
            attention_mask: `(U, T)`, 1 for a token, 0 for padding.
            token_type_ids: `(U, T)` int64, for encoders that have them.
            inputs_embeds: `(U, T, H)` float, in place of `input_ids`.
            text_index: `(B,)` int64, the text of each row, -1 where the row has none; None: row i has text i.
            pixel_values: `(U, C, H, W)` float, distinct images.
            vision_index: `(B,)` int64, likewise; or `(B, K)`, the images of each row in their places, up to
                `config.num_images` of them.
            encoder_states: what `encode` gave before, for modalities whose raw inputs are left out.
            memory, memory_index: see `fuse`.
            return_tokens: give the tokens too, not the pooled vector alone.
            output_attentions: give the fusion's attention weights; needs `attn_implementation="eager"`.
            output_hidden_states: give the query's tokens after each block; indices select some.
            kwargs: for the attention functions; none of them a tensor.

        Raises:
            ValueError: a tensor under a name that is no input; attention weights asked of an implementation that has
                none; see `encode` for the others.
        """
        others = kwargs.keys() - {"row_ids"}  # which the collator adds for whoever trains
        if unknown := [name for name in others if isinstance(kwargs[name], torch.Tensor)]:
            known = list(inspect.signature(MMFusionModel.forward).parameters)[1:-1]
            raise ValueError(f"The model has no input {unknown}; it has {known}, and heads have 'labels'.")
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
        encoded = self.encode(
            {"text": text_index, "vision": vision_index},
            encoder_states,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
        )
        fused = self.fuse(
            encoded,
            memory,
            memory_index,
            return_tokens=return_tokens,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            **kwargs,
        )
        ids = fused.modality_ids
        return MMFusionModelOutput(
            last_hidden_state=fused.tokens,
            pooler_output=fused.pooled,
            attention_mask=fused.mask,
            modality_ids=None if ids is None else ids.expand(len(fused.pooled), -1),
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
            cross_attentions=fused.cross_attentions,
        )


class MMFusionForClassification(MMFusionPreTrainedModel):
    """A classifier, or with `problem_type` several labels at once, or a regression, over all modalities."""

    def __init__(self, config: MMFusionConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = MMFusionModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.fusion_module_config.hidden_size, config.num_labels)
        self.post_init()

    def regression_heads(self) -> list[nn.Module]:
        """See the method of the base class."""
        return [self.classifier] if self.config.num_labels == 1 else []

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
            num_items_in_batch: labelled rows of the global batch, see there.
            sample_weight: `(B,)` float, how much each row counts in the loss, in training alone.
            inputs: all other inputs of `MMFusionModel.forward`.
        """
        outputs = self.model(input_ids=input_ids, **{"return_tokens": False, **inputs})
        pooled, partners, share = outputs.pooler_output, None, 1.0
        if self.training and self.config.mixup_alpha and labels is not None:
            pooled, partners, share = mixup(pooled, labels, self.config.mixup_alpha)
        logits = self.classifier(self.dropout(pooled))
        loss = None
        if labels is not None:
            loss = self._loss(logits, labels, num_items_in_batch, sample_weight)
        if partners is not None:
            sample_weight = None if sample_weight is None else sample_weight[partners]
            other = self._loss(logits, labels[partners], num_items_in_batch, sample_weight)
            loss = share * loss + (1 - share) * other
        return MMFusionClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )

    def _loss(self, logits, labels, num_items_in_batch, sample_weight) -> torch.Tensor:
        """The loss of this problem, shaped by the config in training."""
        if self.config.problem_type is None:
            self.config.problem_type = infer_problem_type(labels, self.num_labels)
        if not self.training:
            return classification_loss(logits, labels, self.config.problem_type, num_items_in_batch)
        return classification_loss(
            logits, labels, self.config.problem_type, num_items_in_batch, sample_weight, **self.config.loss_settings
        )


class MMFusionForQuestionAnswering(MMFusionForClassification):
    """Visual question answering with the answers as classes (Antol et al. 2015): hard ones, or the soft scores of VQA
    v2 as `(B, num_labels)` floats."""


AutoModel.register(MMFusionConfig, MMFusionModel, exist_ok=True)
AutoModelForSequenceClassification.register(MMFusionConfig, MMFusionForClassification, exist_ok=True)
AutoModelForVisualQuestionAnswering.register(MMFusionConfig, MMFusionForQuestionAnswering, exist_ok=True)
MMFusionModel.register_for_auto_class("AutoModel")
MMFusionForClassification.register_for_auto_class("AutoModelForSequenceClassification")
MMFusionForQuestionAnswering.register_for_auto_class("AutoModelForVisualQuestionAnswering")

__all__ = ["MMFusionForClassification", "MMFusionForQuestionAnswering", "MMFusionModel", "MMFusionPreTrainedModel"]
