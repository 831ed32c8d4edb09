# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""What all classes share: first weights, building from pretrained encoders, checkpoints and what travels in them."""

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

# What `from_encoders_pretrained` hands to the loading of each encoder, and to the loading of the whole model.
HUB_KEYS = ("revision", "token", "subfolder", "cache_dir", "local_files_only", "force_download", "trust_remote_code")
LOADING_KEYS = ("dtype", "device_map", "max_memory", "quantization_config", "attn_implementation")


class MMFusionPreTrainedModel(FreezingMixin, EvidenceMixin, ConfidenceMixin, PreTrainedModel):
    """Loading, saving and initial weights of all classes of mm_hf."""

    config_class = MMFusionConfig
    config: MMFusionConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = [kind.row_keys[0] for kind in (Vision, Text, Sound)]  # as the library calls them
    supports_gradient_checkpointing = True
    _no_split_modules = ["MMFusionCrossAttentionBlock"]
    _supports_sdpa = True
    # Flash attention's unpadding takes the queries to be padded as the keys are, which is wrong for cross-attention.
    _supports_flash_attn = False
    _supports_flex_attn = True
    _supports_attention_backend = True

    # What `from_encoders_pretrained` takes from elsewhere, beside the encoders, and where the config has it.
    other_parts: dict[str, str] = {}

    @torch.no_grad()
    def _init_weights(self, module):
        std = self.config.fusion_module_config.sizes().std
        if hasattr(module, "init_own_parameters"):
            module.init_own_parameters(std)
        elif isinstance(module, nn.Linear):
            # A regression starts from zero (as Dosovitskiy et al. 2021, section 3.2, start all heads): targets may be
            # far smaller than what random weights give, and from few rows that noise is never unlearned.
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
        """See the library's method; what differs: layers that an encoder shares (Zamba's) are known as shared, where
        the library looks at direct children alone, and misses the encoders."""
        super().post_init()
        names = {name for name, _ in self.named_parameters(remove_duplicate=False)}
        for prefix, module in self.named_modules():
            if isinstance(module, PreTrainedModel) and module is not self:
                tied = {f"{prefix}.{key}": f"{prefix}.{value}" for key, value in module.all_tied_weights_keys.items()}
                self.all_tied_weights_keys.update({key: value for key, value in tied.items() if {key, value} <= names})

    def last_layers(self) -> dict[str | None, tuple[nn.Module, TaskHead]]:
        """By task the layer that answers and what its outputs mean; that of a single task by None."""
        return {}

    def regression_heads(self) -> list[nn.Module]:
        """The last layers that give numbers, not scores of classes."""
        return [layer for layer, head in self.last_layers().values() if head.label_kind == NUMBERS]

    def class_heads(self) -> list[nn.Module]:
        """The last layers that give scores of classes out of the fused vector."""
        layers = [layer for layer, head in self.last_layers().values() if head.label_kind != TEXTS]
        return [layer for layer in layers if all(layer is not other for other in self.regression_heads())]

    @property
    def base_model(self) -> Any:
        """The encoders and the fusion, without a head."""
        return getattr(self, self.base_model_prefix, self)

    def set_attn_implementation(self, attn_implementation: str | dict, **kwargs):
        """Chooses the attention. See the library's method; what differs: encoders that have no choice (ConvNeXt,
        ResNet) keep what they have, where the library raises."""
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
            raise NotImplementedError(f"This model has no text encoder, but {list(encoders)}.")
        return cast(PreTrainedModel, encoders[Text.name])

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Loads a checkpoint of mm_hf. See the library's method; what differs: what the config freezes stays so, and
        the checkpoint has to be whole, unless `output_loading_info`, `ignore_mismatched_sizes`, `state_dict` or
        `quantization_config` is given.

        Raises:
            ValueError: weights that are not what was saved (`checksums.json`) or not finite; and, where the class is
                the one that was saved, tensors that are missing, not known, of another type or of another size.
            OSError: no such checkpoint, or a file of it that cannot be read.
        """
        loaded = load_strictly(super().from_pretrained, pretrained_model_name_or_path, model_args, kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.apply_freezing()
        return loaded

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, *args, **kwargs):
        """The library's step from files to weights; what differs: the files are looked at before."""
        if state_dict is None and (loading := LOADING.get()) is not None:
            loading.before_weights(model, checkpoint_files, load_config)
        return PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kwargs
        )

    def apply_freezing(self):
        """Brings `requires_grad` in line with what the config freezes: call it after that was changed."""
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

        Each encoder is tried on a few short inputs, for what its config does not say, and the config keeps what was
        found: `pooling`, `encode_by_length`, `seeded_encoders` and `interpolate_pos_encoding` of `MMFusionConfig`,
        where they are not given. A ViT-MAE masks nothing, and T5's kin are averaged.

        Args:
            vision, text, audio (`str`): for each modality the Hub id or local folder of any model with such an
                encoder: the encoder alone, a model with a head, a dual encoder (its part is taken) or an
                encoder-decoder (its encoder is taken).
            fusion (`str`, *optional*): a name in the registry of fusions, in place of
                `fusion_module_config["fusion_type"]`; `"cross_attention"` where neither is given. (Its output is
                normalised unless `fusion_module_config["output_norm"]` says no.)
            query_modality (`str`, *optional*): the modality whose tokens ask; left out, see `modality_that_asks`. It
                leaves the width as it is; `fusion_module_config["query_modality"]` sets that too.
            max_audio_seconds (`int`, *optional*): length of the longest sound: Whisper's encoder takes sounds of one
                length, and is cut to this one in place of its 30 seconds. Give the processor the same. (Wav2Vec2 and
                its kin lose their SpecAugment, which stops at short sounds.)
            image_size (`int`, *optional*): height and width of the pictures, where they are not to be those that the
                vision encoder was trained with. Give the processor the same.
            try_encoders (`bool`, defaults to `True`): see above; `False` leaves these keys as they are given, and
                builds the model that earlier releases did.
            revision, token, subfolder, cache_dir, local_files_only, force_download, trust_remote_code: as in
                `from_pretrained`; one value for all encoders, or a dict by modality.
            dtype, device_map, max_memory, quantization_config, attn_implementation: as in `from_pretrained`, for the
                whole model.
            kwargs: everything else goes into `MMFusionConfig` (`num_labels`, `freeze_encoders`,
                `vision_feature_layer`, `fusion_module_config={"hidden_size": 256}`, `tabular_config`,
                `series_config`…).

        Raises:
            ValueError: no encoder, an encoder that does not read the modality or pictures of `image_size`, or weights
                that its checkpoint lacks.
            OSError: no such folder or Hub id.
        """
        pretrained = {name: kind.config_key for name, kind in MODALITIES.items() if kind.pretrained}
        parts = {**pretrained, **cls.other_parts}
        of_config = [field.name for field in dataclasses.fields(MMFusionConfig)]
        for key in kwargs:  # what is no name at all is told below, once the parts have taken what is theirs
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
            if os.path.isdir(source):  # a path on this machine means nothing where the checkpoint goes
                part.name_or_path = base_model_of(source) or ""
            configs[parts[name]] = part
        if "audio_config" in configs:
            cut_to_seconds(configs["audio_config"], max_audio_seconds)
            # Of Wav2Vec2 and its kin: it masks ten tokens at a time, and stops at a batch of sounds that have fewer.
            if getattr(configs["audio_config"], "apply_spec_augment", False):
                configs["audio_config"].apply_spec_augment = False
        if "vision_config" in configs:
            if try_encoders:
                keep_all_patches(configs["vision_config"])
        elif image_size is not None:
            raise ValueError(f"image_size is {image_size}, but there is no vision encoder.")
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
        logging.set_verbosity_error()  # that fusion and head are new is no news
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
        """Gives the text encoder, and the decoder of a model that writes, a vocabulary of another size: they share
        one tokenizer. See the library's method.

        Args:
            new_num_tokens: `len(processor.tokenizer)` after tokens were added to it.
            pad_to_multiple_of, mean_resizing: as there.

        Returns:
            the word embeddings of the text encoder, or of the decoder where there is none.

        Raises:
            NotImplementedError: a model without either.
        """
        parts = self.parts_with_words()
        if not parts:
            raise NotImplementedError(f"This model reads and writes no text: it has {self.config.modalities}.")
        resized = []
        for part, config in parts:
            embeddings = part.resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
            resized.append(cast(nn.Embedding, embeddings))
            if new_num_tokens is not None or pad_to_multiple_of is not None:
                self.vocab_size = embeddings.weight.shape[0]  # as the library sets it
                for part_config in (part.config, config):
                    part_config.get_text_config().vocab_size = self.vocab_size
        self.apply_freezing()
        return resized[0]

    def parts_with_words(self) -> list[tuple[PreTrainedModel, Any]]:
        """The parts whose vocabulary is the processor's tokenizer's, and the sub-config of each."""
        return [(self._text_encoder(), self.config.text_config)] if Text.name in self.base_model.encoders else []

    @classmethod
    def adapt_part_configs(cls, configs: dict[str, Any], kwargs: dict[str, Any]):
        """Changes the configs of pretrained parts, by their keys, before the model is built, and takes what is for
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
        """Saves weights, config, the code, `checksums.json` and, where there is none yet, a model card. See the
        library's method.

        Raises:
            ValueError: `push_to_hub`, which goes through the method of that name.
        """
        if push_to_hub:
            raise ValueError("Call model.push_to_hub(repo_id, processor=processor), which uploads the processor too.")
        # A checkpoint from elsewhere names its first home here; the code is copied, so it is at home now.
        self.config.auto_map = {**AUTO_MAP, **AUTO_MAP_OF.get(type(self).__name__, {})}
        self.config.custom_pipelines = CUSTOM_PIPELINES.get(type(self).__name__, {})
        self.config.versions = versions_here()
        # Names of older releases, which the library writes for some encoders (ViT), are lost on the Trainer when it
        # restores the best model.
        kwargs.setdefault("save_original_format", False)
        # Of weights that each process writes in part nobody knows when they are complete.
        alone = is_main_process and not kwargs.get("distributed_checkpoint") and not os.path.isfile(save_directory)
        with checksums_of_what_is_written(save_directory) if alone else nullcontext():
            super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process and not os.path.exists(card := os.path.join(save_directory, "README.md")):
            self.model_card().save(card)

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
        encoders = [f"{name}: `{self.config.encoder_config(name).model_type}`" for name in self.config.modalities]
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


def settings_of_part(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """What is given for one part, where the values may be dicts by part; None is left out."""
    values = {key: value.get(name) if isinstance(value, dict) else value for key, value in settings.items()}
    return {key: value for key, value in values.items() if value is not None}


def keep_findings(config: MMFusionConfig, name: str, encoder: PreTrainedModel, given: Collection[str] = ()):
    """Tries the whole encoder of a modality, with its weights, and writes into the config of the model what it does
    and its own config does not say, unless it is among the keys that the caller has given."""
    findings = probe_encoder(encoder, name)
    if name not in (config.pooling or {}):
        pooling = pooling_of(config.encoder_config(name), findings)
        if pooling is not None:
            config.pooling = {**(config.pooling or {}), name: pooling}
    for key, needed in (("encode_by_length", findings.by_length), ("seeded_encoders", findings.random)):
        if needed and key not in given:
            setattr(config, key, [*(getattr(config, key) or []), name])


__all__ = ["MMFusionPreTrainedModel"]
