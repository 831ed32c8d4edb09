# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""The base of all model classes: initial weights, building from pretrained encoders, checkpoints and their files."""

import dataclasses
import os
from collections.abc import Collection
from contextlib import nullcontext
from typing import Any, cast

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData
from torch import nn
from transformers import AutoConfig
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from .asking import modality_that_asks
from .checkpoint_files import checksums_of_what_is_written
from .configuration_mm_fusion import FusionModuleConfig, MMFusionConfig, check_source, part_of_composite
from .encoders import base_model_of, cut_to_seconds, load_encoder_weights
from .evidence import EvidenceMixin
from .freezing import FreezingMixin
from .head_table import AUTO_MAP, AUTO_MAP_OF, CUSTOM_PIPELINES
from .how_sure import ConfidenceMixin
from .modality import MODALITIES, modality_of
from .names import did_you_mean, nearest
from .probing import keep_all_patches, pooling_of, probe_encoder, takes_pictures_of
from .sound import Sound
from .strict_loading import LOADING, load_strictly
from .tasks import NUMBERS, TEXTS, TaskHead
from .text import Text
from .versions import versions_here
from .vision import Vision


logger = logging.get_logger(__name__)

# The arguments of `from_encoders_pretrained` that go to the loading of each encoder, and of the whole model.
HUB_KEYS = ("revision", "token", "subfolder", "cache_dir", "local_files_only", "force_download", "trust_remote_code")
LOADING_KEYS = ("dtype", "device_map", "max_memory", "quantization_config", "attn_implementation")


class MMFusionPreTrainedModel(FreezingMixin, EvidenceMixin, ConfidenceMixin, PreTrainedModel):
    """Loading, saving and initial weights of all classes of mm_hf."""

    config_class = MMFusionConfig
    config: MMFusionConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = [kind.row_keys[0] for kind in (Vision, Text, Sound)]  # the library's names for them
    supports_gradient_checkpointing = True
    _no_split_modules = ["MMFusionCrossAttentionBlock"]
    _supports_sdpa = True
    # Flash attention's unpadding uses the keys' mask for the queries too, which is wrong for cross-attention.
    _supports_flash_attn = False
    _supports_flex_attn = True
    _supports_attention_backend = True

    # Further pretrained parts of `from_encoders_pretrained`, beside the encoders, and their config keys.
    other_parts: dict[str, str] = {}

    @torch.no_grad()
    def _init_weights(self, module):
        std = self.config.fusion_module_config.sizes().std
        if hasattr(module, "init_own_parameters"):
            module.init_own_parameters(std)
        elif isinstance(module, nn.Linear):
            # A regression starts from zero (Dosovitskiy et al. 2021, section 3.2, start all heads so). Targets may be
            # far smaller than the output of random weights, and with few rows the model would never lose that noise.
            if any(module is head for head in self.regression_heads()):
                std = 0.0
            elif self.config.fusion_module_config.output_norm and any(module is head for head in self.class_heads()):
                std = std / 2
            init.normal_(module.weight, mean=0.0, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    def post_init(self):
        """See the library's method. The difference: layers that an encoder shares (Zamba's) are recorded as shared.
        The library only looks at direct children, so it would miss the encoders."""
        super().post_init()
        names = {name for name, _ in self.named_parameters(remove_duplicate=False)}
        for prefix, module in self.named_modules():
            if isinstance(module, PreTrainedModel) and module is not self:
                tied = {f"{prefix}.{key}": f"{prefix}.{value}" for key, value in module.all_tied_weights_keys.items()}
                self.all_tied_weights_keys.update({key: value for key, value in tied.items() if {key, value} <= names})

    def last_layers(self) -> dict[str | None, tuple[nn.Module, TaskHead]]:
        """By task, the layer that answers and the meaning of its outputs; the key of a single task is None."""
        return {}

    def regression_heads(self) -> list[nn.Module]:
        """The last layers that predict numbers, not scores of classes."""
        return [layer for layer, head in self.last_layers().values() if head.label_kind == NUMBERS]

    def class_heads(self) -> list[nn.Module]:
        """The last layers that predict scores of classes from the fused vector."""
        layers = [layer for layer, head in self.last_layers().values() if head.label_kind != TEXTS]
        return [layer for layer in layers if all(layer is not other for other in self.regression_heads())]

    @property
    def base_model(self) -> Any:
        """The encoders and the fusion, without a head."""
        return getattr(self, self.base_model_prefix, self)

    def set_attn_implementation(self, attn_implementation: str | dict, **kwargs):
        """Sets the attention implementation. The difference from the library's method: encoders that have no choice
        (ConvNeXt, ResNet) keep theirs, where the library raises."""
        if isinstance(attn_implementation, str):
            chosen: dict[str, Any] = dict.fromkeys(["", *self.config.sub_configs], attn_implementation)
            for name, encoder in self.base_model.encoders.items():
                if not (encoder._supports_sdpa or encoder._supports_flash_attn):
                    chosen[modality_of(name).config_key] = encoder.config._attn_implementation
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
        if Text.name not in encoders:
            raise NotImplementedError(f"This model has no text encoder; it has {list(encoders)}.")
        return cast(PreTrainedModel, encoders[Text.name])

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Loads a checkpoint of mm_hf. The differences from the library's method: frozen encoders stay frozen, and the
        checkpoint must be complete, unless `output_loading_info`, `ignore_mismatched_sizes`, `state_dict` or
        `quantization_config` is given.

        Raises:
            ValueError: weights have changed since they were saved (`checksums.json`) or are not finite; or, if the
                class is the saved one, tensors are missing, unknown, or of another type or size.
            OSError: the checkpoint does not exist, or a file of it cannot be read.
        """
        loaded = load_strictly(super().from_pretrained, pretrained_model_name_or_path, model_args, kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.apply_freezing()
        return loaded

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, *args, **kwargs):
        """The library's step from files to weights. The difference: the files are checked first."""
        if state_dict is None and (loading := LOADING.get()) is not None:
            loading.before_weights(model, checkpoint_files, load_config)
        return PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kwargs
        )

    def apply_freezing(self):
        """Updates `requires_grad` from the frozen encoders of the config: call it after they were changed."""
        self.base_model.apply_freezing()

    @classmethod
    def from_encoders_pretrained(
        cls,
        *,
        fusion: str | None = None,
        query_modality: str | None = None,
        max_audio_seconds: int | None = None,
        image_size: int | None = None,
        try_encoders: bool = True,
        **kwargs: Any,
    ) -> "MMFusionPreTrainedModel":
        """Builds a model from pretrained encoders; projections, fusion and head start from random weights.

        Each encoder is run on a few short inputs, to find out what its config does not say. The results are written to
        the config keys `pooling`, `encode_by_length`, `seeded_encoders` and `interpolate_pos_encoding`, unless they
        are given: see `MMFusionConfig`. A ViT-MAE masks nothing, and T5 and similar encoders are averaged.

        Args:
            vision, text, audio (`str`): for each modality, the Hub id or local folder of any model with such an
                encoder: an encoder alone, a model with a head, a dual encoder (its part is used) or an
                encoder-decoder (its encoder is used).
            fusion (`str`, *optional*): a name in the registry of fusions, instead of
                `fusion_module_config["fusion_type"]`; `"cross_attention"` if neither is given. (Its output is
                normalised unless `fusion_module_config["output_norm"]` is false.)
            query_modality (`str`, *optional*): the modality whose tokens are the query; left out, see
                `modality_that_asks`. It does not set the width; `fusion_module_config["query_modality"]` does.
            max_audio_seconds (`int`, *optional*): length of the longest sound: Whisper's encoder takes sounds of one
                fixed length, and is cut to this length instead of 30 seconds. Give the processor the same value.
                (Wav2Vec2 and similar encoders lose their SpecAugment, which fails on short sounds.)
            image_size (`int`, *optional*): height and width of the pictures, if they differ from those that the
                vision encoder was trained with. Give the processor the same value.
            try_encoders (`bool`, defaults to `True`): run the encoders as described above; `False` leaves these keys
                as they are given, and builds the same model as earlier releases.
            revision, token, subfolder, cache_dir, local_files_only, force_download, trust_remote_code: as in
                `from_pretrained`; one value for all encoders, or a dict by modality.
            dtype, device_map, max_memory, quantization_config, attn_implementation: as in `from_pretrained`, for the
                whole model.
            kwargs: all others go into `MMFusionConfig` (`num_labels`, `freeze_encoders`,
                `vision_feature_layer`, `fusion_module_config={"hidden_size": 256}`, `tabular_config`,
                `series_config`…).

        Raises:
            ValueError: no encoder is given, an encoder does not read its modality or pictures of `image_size`, or its
                checkpoint lacks weights.
            OSError: the folder or Hub id does not exist.
        """
        pretrained = {name: kind.config_key for name, kind in MODALITIES.items() if kind.pretrained}
        parts = {**pretrained, **cls.other_parts}
        of_config = [field.name for field in dataclasses.fields(MMFusionConfig)]
        for key in kwargs:  # unknown names are reported below, when the parts have taken their arguments
            meant = None if key in of_config else nearest(key, parts, cutoff=0.8)
            if meant not in (None, key) and isinstance(kwargs[key], (str, os.PathLike)):
                raise ValueError(
                    f"from_encoders_pretrained has no {key!r}; it has {list(parts)}. Did you mean {meant!r}?"
                )
        sources = {name: source for name in parts if (source := kwargs.pop(name, None)) is not None}
        others = [kind.config_key for kind in MODALITIES.values() if not (kind.pretrained or kind.extra)]
        untrained = [*others, "extra_configs"]
        if not set(sources) & set(pretrained) and all(kwargs.get(key) is None for key in untrained):
            raise ValueError(
                f"from_encoders_pretrained needs an encoder for at least one of {list(pretrained)}, or one of "
                f"{untrained}."
            )
        hub_kwargs = {key: kwargs.pop(key) for key in HUB_KEYS if key in kwargs}
        loading_kwargs = {key: kwargs.pop(key) for key in LOADING_KEYS if key in kwargs}
        configs: dict[str, Any] = {}
        for name, source in sources.items():
            check_source(name, source)
            source_config = AutoConfig.from_pretrained(source, **settings_of_part(hub_kwargs, name))
            part = part_of_composite(source_config, name) if name in pretrained else source_config
            if os.path.isdir(source):  # a local path has no meaning where the checkpoint is loaded later
                part.name_or_path = base_model_of(source) or ""
            configs[parts[name]] = part
        if "audio_config" in configs:
            cut_to_seconds(configs["audio_config"], max_audio_seconds)
            # Wav2Vec2 and similar: SpecAugment masks ten tokens at a time, and fails on a batch of shorter sounds.
            if getattr(configs["audio_config"], "apply_spec_augment", False):
                configs["audio_config"].apply_spec_augment = False
        if "vision_config" in configs:
            if try_encoders:
                keep_all_patches(configs["vision_config"])
        elif image_size is not None:
            raise ValueError(f"image_size is {image_size}, but there is no vision encoder: leave image_size out.")
        cls.adapt_part_configs(configs, kwargs)
        fusion_module_config = kwargs.pop("fusion_module_config", None) or {}
        if isinstance(fusion_module_config, FusionModuleConfig):
            fields = [field.name for field in dataclasses.fields(FusionModuleConfig)]
            fusion_module_config = {name: getattr(fusion_module_config, name) for name in fields}
        fusion_module_config = {"output_norm": True, **fusion_module_config}
        if fusion is not None:
            fusion_module_config["fusion_type"] = fusion
        for given, config_class in ((kwargs, MMFusionConfig), (fusion_module_config, FusionModuleConfig)):
            known = {field.name for field in dataclasses.fields(config_class)} | {"num_labels", "model_type"}
            if unknown := sorted(key for key in set(given) - known if given[key] is not None):
                meant = did_you_mean(unknown[0], {*known, *parts, *HUB_KEYS, *LOADING_KEYS})
                raise ValueError(f"{config_class.__name__} has no {unknown[0]!r}; it has {sorted(known)}.{meant}")
        outside = [name for name in sources if name in pretrained and modality_of(name).extra]
        if outside:
            extra = {name: configs.pop(parts[name]) for name in outside}
            kwargs["extra_configs"] = {**(kwargs.get("extra_configs") or {}), **extra}
        base_models = [base_model_of(source) for source in sources.values()]
        config = MMFusionConfig(
            **configs,
            fusion_module_config=fusion_module_config,
            base_models=list(dict.fromkeys(name for name in base_models if name)),
            **kwargs,
        )

        if query_modality is None and "query_modality" not in fusion_module_config:
            query_modality = modality_that_asks(config)
        if query_modality is not None:
            config.fusion_module_config.query_modality = query_modality
            config.validate_architecture()

        with torch.device("meta"):
            skeleton = cls(config)
        state_dict = {}
        for name, source in sources.items():
            encoder = skeleton.pretrained_part(name)
            weights, whole = load_encoder_weights(
                encoder, source, dtype=loading_kwargs.get("dtype"), **settings_of_part(hub_kwargs, name)
            )
            prefix = next(path for path, module in skeleton.named_modules() if module is encoder)
            lacking = [key for key in encoder.state_dict() if key not in weights]
            if lacking and name in pretrained:
                raise ValueError(
                    f"The {name} encoder from {source} lacks {len(lacking)} weights, such as {lacking[:3]}."
                )
            state_dict.update({f"{prefix}.{key}": weights[key] for key in encoder.state_dict() if key in weights})
            if name in pretrained:
                settled = [key for key in ("encode_by_length", "seeded_encoders") if kwargs.get(key) is not None]
                if try_encoders:
                    keep_findings(config, name, whole, settled)
                if name == Vision.name and image_size is not None and takes_pictures_of(whole, image_size):
                    config.interpolate_pos_encoding = True
            del whole

        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # no warnings about the new weights of fusion and head
        try:
            return cls.from_pretrained(None, config=config, state_dict=state_dict, **loading_kwargs)
        finally:
            logging.set_verbosity(verbosity)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Resizes the vocabulary of the text encoder, and of the decoder of a model that generates: they share one
        tokenizer. See the library's method.

        Args:
            new_num_tokens: `len(processor.tokenizer)` after tokens were added to it.
            pad_to_multiple_of, mean_resizing: as in the library.

        Returns:
            the word embeddings of the text encoder, or of the decoder if there is no text encoder.

        Raises:
            NotImplementedError: the model has neither.
        """
        parts = self.parts_with_words()
        if not parts:
            raise NotImplementedError(f"This model reads and writes no text: it has {self.config.modalities}.")
        resized = []
        for part, config in parts:
            embeddings = part.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
            resized.append(cast(nn.Embedding, embeddings))
            if new_num_tokens is not None or pad_to_multiple_of is not None:
                self.vocab_size = embeddings.weight.shape[0]  # as the library does
                for part_config in (part.config, config):
                    part_config.get_text_config().vocab_size = self.vocab_size
        self.apply_freezing()
        return resized[0]

    def parts_with_words(self) -> list[tuple[PreTrainedModel, Any]]:
        """The parts that use the vocabulary of the processor's tokenizer, and the sub-config of each."""
        return [(self._text_encoder(), self.config.text_config)] if Text.name in self.base_model.encoders else []

    @classmethod
    def adapt_part_configs(cls, configs: dict[str, Any], kwargs: dict[str, Any]):
        """Changes the configs of pretrained parts, by their keys, before the model is built. Takes the arguments for
        that out of the arguments of `from_encoders_pretrained`."""

    def pretrained_part(self, name: str) -> PreTrainedModel:
        """The module of an encoder, or of one of `other_parts`."""
        return cast(PreTrainedModel, self.base_model.encoders[name])

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        **kwargs,
    ):
        """Saves weights, config, code, `checksums.json` and, if there is none yet, a model card. See the library's
        method.

        Raises:
            ValueError: `push_to_hub` is set; use the method of that name.
        """
        if push_to_hub:
            raise ValueError("Call model.push_to_hub(repo_id, processor=processor), which uploads the processor too.")
        # The config of a loaded checkpoint names its old location; the code is copied, so the new one is named.
        self.config.auto_map = {**AUTO_MAP, **AUTO_MAP_OF.get(type(self).__name__, {})}
        self.config.custom_pipelines = CUSTOM_PIPELINES.get(type(self).__name__, {})
        self.config.versions = versions_here()
        # The library writes names of older releases for some encoders (ViT). The Trainer would not find them when it
        # restores the best model.
        kwargs.setdefault("save_original_format", False)
        # If each process writes a part of the weights, it is not known when they are complete.
        alone = is_main_process and not kwargs.get("distributed_checkpoint") and not os.path.isfile(save_directory)
        with checksums_of_what_is_written(save_directory) if alone else nullcontext():
            super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process and not os.path.exists(card := os.path.join(save_directory, "README.md")):
            self.model_card().save(card)

    def push_to_hub(self, repo_id: str, *, processor=None, private: bool | None = None, token=None, **kwargs) -> str:
        """Uploads everything that `save_pretrained` writes, with the card, and the processor if it is given.

        Args:
            repo_id: `"user/name"` on the Hub; it is created if it does not exist.
            processor: the model's `MMFusionProcessor`: without it the checkpoint cannot take raw rows.
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
        """A card with only the information in the config; training writes a fuller one."""
        pipelines = list(CUSTOM_PIPELINES.get(type(self).__name__, {}))
        data = ModelCardData(
            library_name="transformers",
            tags=["mm_hf", "multimodal", *self.config.modalities],
            base_model=self.config.base_models or None,
            pipeline_tag=next((tag for tag in pipelines if tag == "visual-question-answering"), None),
        )
        fusion = self.config.fusion_module_config
        encoders = [f"{name}: `{self.config.encoder_config(name).model_type}`" for name in self.config.modalities]
        text = (
            f"# {type(self).__name__}\n\nEncoders ({', '.join(encoders)}), fused by `{fusion.fusion_type}` "
            f"({fusion.num_hidden_layers} layers, width {fusion.hidden_size}), made with mm_hf.\n\n"
            "No evaluation is recorded with this checkpoint.\n"
        )
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")

    @staticmethod
    def travelling_code():
        """Names the files that every checkpoint needs but no modelling code imports: the library copies the files that
        it finds imported in the text of this file."""
        from .pipelines_mm_fusion import MMFusionClassificationPipeline
        from .processing_mm_fusion import MMFusionProcessor

        return MMFusionProcessor, MMFusionClassificationPipeline


def settings_of_part(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings for one part, where values may be dicts by part; None is left out."""
    values = {key: value.get(name) if isinstance(value, dict) else value for key, value in settings.items()}
    return {key: value for key, value in values.items() if value is not None}


def keep_findings(config: MMFusionConfig, name: str, encoder: PreTrainedModel, given: Collection[str] = ()):
    """Runs the whole encoder of a modality, with its weights, to find out properties that its config does not contain.
    Writes them into the model's config, except the keys that the caller has given."""
    findings = probe_encoder(encoder, name)
    if name not in (config.pooling or {}):
        pooling = pooling_of(config.encoder_config(name), findings)
        if pooling is not None:
            config.pooling = {**(config.pooling or {}), name: pooling}
    for key, needed in (("encode_by_length", findings.by_length), ("seeded_encoders", findings.random)):
        if needed and key not in given:
            setattr(config, key, [*(getattr(config, key) or []), name])


__all__ = ["MMFusionPreTrainedModel"]
