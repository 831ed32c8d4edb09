# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Configurations of mm_hf: one for the fusion, one composite for the whole model."""

import copy
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from huggingface_hub.dataclasses import strict
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .confidence import Confidence
from .config_checks import (
    FUSION_RANGES,
    MAX_IMAGES,
    MAX_LAYERS,
    MODEL_RANGES,
    build_part,
    check_activation,
    check_given,
    check_num_labels,
    check_number,
    check_parameters,
    check_part,
    check_ranges,
    read_labels,
    told_in_one_line,
)
from .config_rules import check_architecture, check_common, check_losses, without_labels
from .files import read_json
from .losses import LOSS_SETTINGS
from .modality import MODALITIES, modality_of
from .other_labels import for_other_labels
from .recurrent import RecurrentConfig
from .series import Series  # noqa: F401  importing registers a modality; these are all of the library's
from .sound import Sound  # noqa: F401
from .tabular import TabularConfig
from .tasks import TaskHead, read_tasks, task_head_of
from .text import Text
from .versions import warn_of_other_versions
from .vision import Vision


# The fusion width where the query's encoder names none in its config (feature maps).
DEFAULT_WIDTH = 256


class FusionSizes(NamedTuple):
    """Of a fusion: its width D, the heads of attention, the inner width of feed-forward parts, and the standard
    deviation of the first weights."""

    width: int
    heads: int
    inner_width: int
    std: float


@told_in_one_line
@strict
class FusionModuleConfig(PreTrainedConfig):
    r"""The fusion: which one, how wide, how deep.

    Args:
        fusion_type (`str`, defaults to `"cross_attention"`): a name in the registry of fusions.
        query_modality (`str`, *optional*): the modality whose tokens ask, for fusions that have one. Text where
            present, else the first modality of the model.
        hidden_size (`int`, *optional*): the fusion width D. Left out, the width of the query modality's encoder, as in
            ALBEF (Li et al. 2021) and BLIP, or 256 where its config does not name one width.
        num_hidden_layers (`int`, defaults to 4): fusion blocks.
        num_attention_heads (`int`, *optional*): left out, one for every 64 of the width.
        intermediate_size (`int`, *optional*): inner width of the feed-forward parts; left out, 4 times the width.
        hidden_act (`str`), hidden_dropout_prob (`float`), layer_norm_eps (`float`): as in BERT.
        initializer_range (`float`, *optional*): standard deviation of the first weights of projections, fusion and
            head. Left out, `hidden_size ** -0.5` (LeCun et al. 1998, section 4.6). BERT's 0.02 is for a width of 768:
            at 64 it makes all attention scores alike, and learning waits for them to grow apart.
        attention_probs_dropout_prob (`float`, defaults to 0): unlike BERT's, since fast attention on the CPU has none.
        memory_layers (`int`, defaults to 0): for `"cross_attention"`: blocks of self-attention among the tokens of
            each distinct image (of each item of the modalities that do not ask) before the query looks at them. They
            are part of the memory, so rows that share an image share them.
        distance_bias (`bool`, defaults to `False`): in those blocks, add to the attention of one token to another a
            multiple of their distance in the picture, of which a row has one. See `DistanceBias`.
        num_latents (`int`, defaults to 4): for `"bottleneck"`: latents through which modalities exchange.
        output_norm (`bool`, defaults to `False`): normalise the vector that the head reads, and start heads of classes
            at half the weights: the first losses are then about those of a guess, for every fusion. (Without it they
            are up to three times that, since most fusions end in a sum.) `from_encoders_pretrained` turns it on.
        modality_dropout (`float` or `dict[str, float]`, defaults to 0): the probability, drawn for every row and
            modality in training, that a present item is replaced by the learned absent token. A row with several
            images loses all of them at once, and no row ever loses all modalities.
    """

    model_type = "mm_fusion_module"
    base_config_key = "fusion_module_config"

    fusion_type: str = "cross_attention"
    query_modality: str | None = None
    hidden_size: int | None = None
    num_hidden_layers: int = 4
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float | None = None
    memory_layers: int = 0
    distance_bias: bool = False
    num_latents: int = 4
    output_norm: bool = False
    modality_dropout: float | int | dict = 0.0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.check_numbers()
        self.derive_widths()
        self.validate_architecture()  # the library's own call would wrap the error

    def derive_widths(self):
        """Fills in the widths that follow from `hidden_size`, once that is known."""
        if self.hidden_size is None:
            return
        if self.num_attention_heads is None:
            self.num_attention_heads = max(1, self.hidden_size // 64)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.initializer_range is None:
            self.initializer_range = self.hidden_size**-0.5

    def sizes(self) -> FusionSizes:
        """The sizes that a fusion is built with.

        Raises:
            ValueError: `hidden_size` is not known yet.
        """
        sizes: Any = (self.hidden_size, self.num_attention_heads, self.intermediate_size, self.initializer_range)
        if None in sizes:
            raise ValueError(
                "fusion_module_config: hidden_size is not known, so no fusion can be built: give it, or make this "
                "config part of a MMFusionConfig, which takes it from an encoder's."
            )
        return FusionSizes(*sizes)

    def check_numbers(self):
        """Checks that each number is one that a fusion can have, and that all weights together can be held."""
        check_ranges(self, FUSION_RANGES, "fusion_module_config: ")
        check_activation("fusion_module_config: hidden_act", self.hidden_act)
        if self.hidden_size is not None:
            width, inner = self.hidden_size, self.intermediate_size or 4 * self.hidden_size
            layers = self.num_hidden_layers + self.memory_layers
            check_parameters(layers * (8 * width**2 + 2 * width * inner), "fusion_module_config")

    def validate_architecture(self):
        """Checks that the heads share the width evenly, the settings of single fusions, and that the dropout rates are
        probabilities."""
        if self.memory_layers < 0 or (self.memory_layers and self.fusion_type != "cross_attention"):
            raise ValueError(
                "fusion_module_config: memory_layers must be 0, or above for cross_attention; got "
                f"{self.memory_layers} for {self.fusion_type}."
            )
        if self.distance_bias and not self.memory_layers:
            raise ValueError("fusion_module_config: distance_bias is for the memory_layers, of which there are none.")
        width, heads = self.hidden_size, self.num_attention_heads
        if width is not None and heads is not None and width % heads:
            raise ValueError(
                f"fusion_module_config: hidden_size ({width}) must be a multiple of num_attention_heads ({heads})."
            )
        rates = self.modality_dropout
        for name, rate in (rates if isinstance(rates, dict) else {"every modality": rates}).items():
            if not (isinstance(rate, (int, float)) and 0 <= rate < 1):
                raise ValueError(f"fusion_module_config: modality_dropout of {name} must be in [0, 1), got {rate!r}.")


class SubConfigs:
    """The attribute `sub_configs` of `MMFusionConfig`, by which the library reaches every part (to set its dtype and
    its attention): of a config those of modalities from outside too."""

    def __get__(self, config: "MMFusionConfig | None", owner: type) -> dict[str, Any]:
        classes = {key: spec.config_class for key, spec in cast(Any, owner).sub_configs_defaults.items()}
        extra = () if config is None else config.__dict__.get("extra_configs") or ()
        return {**classes, **{modality_of(name).config_key: AutoConfig for name in extra}}


@told_in_one_line
@strict
class MMFusionConfig(PreTrainedConfig):
    r"""A model that fuses the tokens of one encoder per modality.

    Each sub-config is optional and may be of any type that `AutoConfig` knows; composite ones (CLIP, SigLIP) give
    their part, and the names of labels that an encoder's own head had are left out. Building a model from a config
    downloads nothing.

    Args:
        vision_config, text_config, audio_config, tabular_config, series_config (`PreTrainedConfig` or `dict`,
            *optional*): the encoders.
        extra_configs (`dict[str, PreTrainedConfig or dict]`, *optional*): those of modalities from outside the
            package, by name (see `Modality`). They stand behind the others, in the order of their names; an attribute
            `<name>_config` has each too.
        fusion_module_config (`FusionModuleConfig` or `dict`, *optional*): the fusion. (The library keeps the shorter
            name `fusion_config` for fused kernels.)
        vision_feature_layer (`int` or `list[int]`, *optional*): index (indices) into the vision encoder's
            `hidden_states` whose tokens are used, as LLaVA (Liu et al. 2023) names it; several are each projected and
            joined. Left out: `last_hidden_state`. Layers above the last one used are not built.
        vision_feature_join (`str`, defaults to `"tokens"`): how several feature layers are joined: `"tokens"` side by
            side, or `"channels"`, as LLaVA does: one token for each place of the coarsest layer, into which the places
            of finer ones are folded (space to depth). Fewer tokens, and the same numbers in them.
        freeze_encoders (`bool` or `list[str]`, defaults to `False`): modalities whose encoder does not train: it stays
            in eval mode, and its forward runs without gradients. `True` means all but those of tables and series,
            which start from random weights.
        trained_layers (`dict[str, int]`, *optional*): modalities whose encoder trains in part, and how many of its top
            layers do: those below stay in eval mode and get no gradient. Such an encoder is not frozen. See
            `unfreeze`, which writes it, for what a layer is.
        freeze_batch_norm (`bool`, defaults to `True`): keep the running statistics of the encoders' batch norms as
            they are in training too. Pretrained ones are worth more than those of small batches, and two processes
            then see the same network. Turn it off for a CNN that starts from random weights.
        pooling (`dict[str, str]`, *optional*): how one vector is read from the tokens of a modality: `"cls"` (the
            first), `"last"` (the last that is not padding) or `"mean"`. Left out: the first for text encoders, the
            last for those that pool there (CLIP, SigLIP), the mean for all others. First and last go by the mask.
            `from_encoders_pretrained` tries a text encoder once, and writes `"last"` for a causal one (GPT-2, Llama…),
            whose first token knows of no other.
        interpolate_pos_encoding (`bool`, defaults to `False`): stretch the vision encoder's learned positions to the
            size of the pictures, for encoders that can (ViT, CLIP, SigLIP, Swin…): pictures of another size than it
            was trained with.
        encode_by_length (`list[str]`, *optional*): of text and audio those whose encoder lets padding change what it
            gives (FNet, ConvBERT, Wav2Vec2 with group norm…), mask or no mask: items of one length go through it
            together, without padding. `from_encoders_pretrained` finds out.
        seeded_encoders (`list[str]`, *optional*): modalities whose encoder draws at random in eval mode too
            (Reformer's hashing): it draws the same there in every call. `from_encoders_pretrained` finds out.
        num_images (`int`, defaults to 1): places for images that a row has, as front and back view. Above 1 each place
            has a learned embedding, and `vision_index` is `(B, num_images)`. (A fusion that sees nothing but pooled
            vectors, such as `"concat"`, cannot tell the places apart.)
        num_frames (`int`, *optional*): of these the last so many are the frames of a video, where a row has pictures
            beside it; left out: all of them are pictures, or all of them frames.
        places (`dict[str, int]`, *optional*): the same for other modalities, by name: `{"text": 2}` for title and
            body. A table has one place.
        classifier_dropout (`float`, defaults to 0.1): dropout before the last layer of a head, or of what a decoder is
            shown.
        label_smoothing (`float`, defaults to 0): share of the target spread over all classes, or for several labels
            over yes and no (Szegedy et al. 2016, section 7). This and the four below shape the training loss alone: in
            eval mode the loss is the plain one, which compares between runs.
        class_weights (`list[float]`, *optional*): one a class; the loss of a row is multiplied by that of its class,
            with several labels that of each label by its own. The sum is still divided by the number of labelled
            rows: weights that average 1 over the training rows keep the size of the loss.
        focal_gamma (`float`, defaults to 0): gamma of the focal loss (Lin et al. 2017, equation 4), which gives less
            weight to what is right already; 2 is the paper's.
        class_priors (`list[float]`, *optional*): share (or count) of each class in the training rows; the log of it
            is added to the logits in the loss (logit adjustment, Menon et al. 2021, equation 10), for single labels.
            The logits that come out are the plain ones, in which rare classes are not at a disadvantage.
        mixup_alpha (`float`, defaults to 0): alpha of mixup (Zhang et al. 2018) of the fused vectors, as manifold
            mixup (Verma et al. 2019) does: see `mixup`. The logits of a training step are then those of mixed rows.
        label_mean, label_scale (`list[float]`, *optional*): of a regression: mean and deviation of the labels in the
            training rows, one an output. The head learns them at mean 0 and deviation 1, and the loss is of those; the
            logits are in the unit of the labels. Left out: the head learns the labels as they are, which is for labels
            of about that size alone. `label_statistics` of `mm_hf.data` finds them.
        confidence (`dict`, *optional*): what validation rows say about the answers: `temperature`, by which logits are
            divided before they are made probabilities (the logits that come out are the plain ones), and `thresholds`
            of sets and intervals; see `Confidence`. `mm_hf evaluate --calibrate` writes it; with tasks, each has its
            own among its keys. Left out: nobody looked. Weights that train on make it void.
        tasks (`dict[str, dict]`, *optional*): for `MMFusionForMultiTask`: by name what each head answers, see
            `read_tasks`. Kept in the order of their names.
        task_weighting (`str`, defaults to `"fixed"`): how the losses of the tasks are summed: `"fixed"` by their
            weights, or `"uncertainty"`, by weights that are learned (see `TaskWeighting`).
        projection_dim (`int`, defaults to 256), logit_scale_init_value (`float`): for `MMFusionForRetrieval`: width of
            the embeddings, and the logarithm of what similarities are multiplied by at the start, as in CLIP.
        matching_weight (`float`, defaults to 1): there, the weight of the loss of image-text matching beside the
            contrastive one; 0 trains the embeddings alone.
        decoder_config (`PreTrainedConfig` or `dict`, *optional*): for `MMFusionForConditionalGeneration`: what writes,
            of any type that `AutoModelForCausalLM` knows and that can take cross-attention. A copy is kept, with
            `is_decoder` and `add_cross_attention` set.
        decoder_start_token_id, eos_token_id, pad_token_id (`int`, *optional*): there, what a text starts and ends
            with, for BERT CLS and SEP, and what follows its end. Left out: the decoder's `bos_token_id`,
            `eos_token_id`, `pad_token_id`.
        freeze_decoder_embeddings (`bool`, defaults to `False`): there, keep the decoder's word embeddings, which are
            its last layer too, as they were pretrained: a step is shorter where the vocabulary is large, and words
            that no training text has keep their meaning.
        vocab_size (`int`, *optional*): for `MMFusionForCTC`: tokens that it can write, the blank among them, which is
            `pad_token_id`.
        ctc_stride (`int`, defaults to 1): there, tokens of the sound that are averaged before one token of the text is
            read from them. Letters need a fine grid; words that are few are better told apart by a third of a second
            than by a fiftieth.
        base_models (`list[str]`, *optional*): Hub ids of the encoders, for the model card.
        versions (`dict[str, str]`, *optional*): of mm_hf, torch and transformers, that wrote the checkpoint. Saving a
            model writes it; loading under another major version warns.

    Raises:
        ValueError: a feature layer, a query modality or a frozen modality that the model does not have; a setting of
            the loss that is out of its range or not defined for `problem_type`; tasks that `read_tasks` refuses.

    Example:

    ```python
    >>> from transformers import BertConfig, ViTConfig
    >>> from mm_hf import MMFusionConfig, MMFusionModel
    >>> config = MMFusionConfig(vision_config=ViTConfig(), text_config=BertConfig())
    >>> model = MMFusionModel(config)
    ```
    """

    model_type = "mm_fusion"
    sub_configs = SubConfigs()
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit", optional=True),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True),
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="whisper", optional=True),
        "tabular_config": SubConfigSpec(config_class=AutoConfig, model_type=TabularConfig.model_type, optional=True),
        "series_config": SubConfigSpec(config_class=AutoConfig, model_type=RecurrentConfig.model_type, optional=True),
        "fusion_module_config": SubConfigSpec(config_class=FusionModuleConfig),
        "decoder_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True),
    }

    problem_type: str | None = None  # type: ignore[assignment]  # the library allows its three alone
    vision_config: PreTrainedConfig | dict | None = None
    text_config: PreTrainedConfig | dict | None = None
    audio_config: PreTrainedConfig | dict | None = None
    tabular_config: PreTrainedConfig | dict | None = None
    series_config: PreTrainedConfig | dict | None = None
    extra_configs: dict | None = None
    fusion_module_config: FusionModuleConfig | dict | None = None
    vision_feature_layer: int | list[int] | None = None
    vision_feature_join: str = "tokens"
    freeze_encoders: bool | list[str] = False
    trained_layers: dict[str, int] | None = None
    freeze_batch_norm: bool = True
    pooling: dict[str, str] | None = None
    interpolate_pos_encoding: bool = False
    encode_by_length: list[str] | None = None
    seeded_encoders: list[str] | None = None
    num_images: int = 1
    num_frames: int | None = None
    places: dict[str, int] | None = None
    classifier_dropout: float | int = 0.1
    label_smoothing: float | int = 0.0
    class_weights: list[float | int] | None = None
    focal_gamma: float | int = 0.0
    class_priors: list[float | int] | None = None
    mixup_alpha: float | int = 0.0
    label_mean: list[float | int] | None = None
    label_scale: list[float | int] | None = None
    confidence: dict | None = None
    tasks: dict[str, dict] | None = None
    task_weighting: str = "fixed"
    projection_dim: int = 256
    logit_scale_init_value: float | int = 2.6592
    matching_weight: float | int = 1.0
    decoder_config: PreTrainedConfig | dict | None = None
    decoder_start_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    freeze_decoder_embeddings: bool = False
    vocab_size: int | None = None
    ctc_stride: int = 1
    base_models: list[str] | None = None
    versions: dict[str, str] | None = None

    def __post_init__(self, **kwargs):
        check_given(kwargs)
        check_common(self)
        self.id2label, self.label2id = read_labels(self.id2label, self.label2id)
        # The caller's objects stay as they were: what the encoders decide is filled in on a copy.
        for key in ("fusion_module_config", "decoder_config"):
            if isinstance(getattr(self, key), PreTrainedConfig):
                setattr(self, key, copy.deepcopy(getattr(self, key)))
        for key, spec in self.sub_configs_defaults.items():
            if getattr(self, key) is not None or not spec.optional:
                setattr(self, key, build_part(key, spec, getattr(self, key)))
        self.build_extra_configs(kwargs)
        super().__post_init__(**kwargs)
        if self.decoder_config is not None:
            self.decoder_config = without_labels(self.decoder_config)
            self.complete_decoder()
        extra: Any = self.extra_configs
        for name in self.modalities:
            part = without_labels(part_of_composite(self.encoder_config(name), name))
            if modality_of(name).extra:
                extra[name] = part
            else:
                setattr(self, modality_of(name).config_key, part)
        self.check_parts()
        check_losses(self)
        if not self.modalities:
            self.validate_architecture()
            return
        fusion = self.fusion_module_config
        if fusion.query_modality is None:
            fusion.query_modality = Text.name if Text.name in self.modalities else self.modalities[0]
        if fusion.hidden_size is None:
            query_config = self.encoder_config(fusion.query_modality) if fusion.query_modality in MODALITIES else None
            width = getattr(query_config, "hidden_size", None) or getattr(query_config, "d_model", None)
            fusion.hidden_size = width if isinstance(width, int) else DEFAULT_WIDTH
            if fusion.hidden_size % 64 and fusion.num_attention_heads is None:
                fusion.num_attention_heads = getattr(query_config, "num_attention_heads", 1)
            fusion.check_numbers()
            fusion.derive_widths()
            fusion.validate_architecture()
        self.validate_architecture()  # the library's own call would wrap the error
        self.places = {name: count for name, count in (self.places or {}).items() if count > 1} or None

    def build_extra_configs(self, others: dict[str, Any]):
        """Makes configs of what `extra_configs` has, in a dict of its own, by the order of the names, which JSON
        keeps. Refuses a modality that nobody registered, one of the library's, or one among the other keys, which are
        no fields of a config."""
        for name, modality in MODALITIES.items():
            if modality.extra and modality.config_key in others:
                raise ValueError(
                    f"{modality.config_key} goes into extra_configs={{{name!r}: …}}: {name} is no modality of mm_hf."
                )
        given, extra = self.extra_configs or {}, {}
        for name in sorted(given):
            modality = modality_of(name)
            if not modality.extra:
                raise ValueError(f"extra_configs is for modalities from outside; {name} has {modality.config_key}.")
            spec = SubConfigSpec(config_class=AutoConfig, model_type=modality.model_type or "")
            extra[name] = build_part(f"extra_configs[{name!r}]", spec, given[name])
        self.extra_configs = extra or None

    def __getattr__(self, name):
        """An encoder's config of a modality from outside, as those of the library are reached."""
        extra = self.__dict__.get("extra_configs") or {}
        if name.removesuffix("_config") in extra and name.endswith("_config"):
            return extra[name.removesuffix("_config")]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """See the library's method; what differs: keys that came later are not there where nobody gave them, so that
        a config.json is what it was."""
        values = super().to_dict()
        for key in ("extra_configs", "num_frames", "places", "confidence", "versions"):
            if values.get(key) is None:
                values.pop(key, None)
        for name, config in (self.extra_configs or {}).items():
            values["extra_configs"][name] = config.to_diff_dict()
            del values["extra_configs"][name]["transformers_version"]
        return values

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """Refuses the config of another model, which the library would only warn of; warns of other versions, see
        `warn_of_other_versions`. With other labels, another problem or other tasks drops what the checkpoint has for
        its own, see `for_other_labels`."""
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"This is a checkpoint of model type {model_type!r}, not {cls.model_type!r}: an encoder goes to "
                "`from_encoders_pretrained`, and `from_pretrained` takes what mm_hf saved."
            )
        for values in (config_dict, kwargs):
            check_given(values)
        if kwargs.get("label2id") is not None and kwargs.get("id2label") is None:
            kwargs["id2label"], _ = read_labels(None, kwargs["label2id"])
        frozen_now = kwargs.get("freeze_encoders") and "trained_layers" not in kwargs
        loaded = super().from_dict(for_other_labels(config_dict, kwargs), **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        if frozen_now:
            trained = {
                name: n for name, n in (config.trained_layers or {}).items() if name not in config.frozen_encoders
            }
            config.trained_layers = trained or None
        config.validate_architecture()  # what was changed, too
        # A checkpoint of before the key says with which transformers it was written.
        warn_of_other_versions({"transformers": config_dict.get("transformers_version"), **(config.versions or {})})
        return loaded

    @classmethod
    def _dict_from_json_file(cls, json_file):
        """As in the library, whose error is about itself where a file is nested too deeply or holds no dict."""
        return read_json(json_file)

    def __setattr__(self, name, value):
        """Sets a value. With new names of labels, their numbers by name follow."""
        if name == "problem_type" and value is not None and getattr(self, "_post_init_done", False):
            task_head_of(value, texts=False)
        if name == "id2label" and value is not None and getattr(self, "_post_init_done", False):
            value, numbers = read_labels(value, None)
            super().__setattr__("label2id", numbers)
        super().__setattr__(name, value)

    @property
    def num_labels(self) -> int | None:
        """See the library's property; what differs: a number of labels that nobody has is refused before there is a
        name for each."""
        return super().num_labels

    @num_labels.setter
    def num_labels(self, num_labels: int):
        check_num_labels(num_labels)
        PreTrainedConfig.num_labels.fset(self, num_labels)  # type: ignore[attr-defined]

    def complete_decoder(self):
        """Makes the decoder one that writes and that looks at the memory, and fills in what its texts start and end
        with."""
        decoder = self.decoder_config
        decoder.is_decoder = decoder.add_cross_attention = self.is_encoder_decoder = True
        ends = {
            "decoder_start_token_id": "bos_token_id",
            "eos_token_id": "eos_token_id",
            "pad_token_id": "pad_token_id",
        }
        for key, of_decoder in ends.items():
            token = getattr(decoder, of_decoder, None)
            if getattr(self, key) is None and isinstance(token, int):
                setattr(self, key, token)
        if self.pad_token_id is None:
            self.pad_token_id = self.eos_token_id

    def get_text_config(self, decoder=None, encoder=None):
        """See the library's method: the decoder's, where there is one and it is not the encoder's that is asked for.
        `generate` reads it."""
        if self.decoder_config is not None and (decoder or not encoder):
            return self.decoder_config
        return super().get_text_config(decoder=decoder, encoder=encoder)

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities that this model has: those of the library in its order, then those from outside by
        their names."""
        of_library = [name for name, modality in MODALITIES.items() if not modality.extra]
        return [*(name for name in of_library if self.encoder_config(name) is not None), *(self.extra_configs or ())]

    def encoder_config(self, name: str) -> Any:
        """The config of a modality's encoder; None where the model has none."""
        return getattr(self, modality_of(name).config_key, None)

    def places_of(self, name: str) -> int:
        """How many items of a modality a row has a place for."""
        return self.num_images if name == Vision.name else (self.places or {}).get(name, 1)

    @property
    def frozen_encoders(self) -> list[str]:
        """Names of the modalities whose encoder does not train."""
        if isinstance(self.freeze_encoders, bool):
            return [name for name in self.modalities if self.freeze_encoders and modality_of(name).pretrained]
        return list(self.freeze_encoders)

    @property
    def poolings(self) -> dict[str, str]:
        """For each modality how one vector is read from its tokens."""
        default = {name: modality_of(name).pooling(self.encoder_config(name)) for name in self.modalities}
        return {**default, **(self.pooling or {})}

    @property
    def feature_layers(self) -> dict[str, list[int] | None]:
        """For each modality the indices into `hidden_states` that are used, or None for `last_hidden_state`."""
        vision = self.vision_feature_layer
        vision = [vision] if isinstance(vision, int) else vision
        return {name: vision if name == Vision.name else None for name in self.modalities}

    def encoding(self, name: str) -> dict[str, bool]:
        """How the encoder of a modality is run, as `encode_items` takes it."""
        return {
            "interpolate": self.interpolate_pos_encoding,
            "by_length": name in (self.encode_by_length or ()),
            "seeded": name in (self.seeded_encoders or ()),
        }

    @property
    def loss_settings(self) -> dict[str, Any]:
        """What shapes the training loss, as `classification_loss` takes it."""
        return {name: getattr(self, name) for name in LOSS_SETTINGS}

    @property
    def task_heads(self) -> dict[str, TaskHead]:
        """The tasks by name."""
        return read_tasks(self.tasks or {})

    def set_confidence(self, confidences: Mapping[str | None, Confidence]):
        """Keeps what validation rows say about the answers.

        Args:
            confidences: by task, None for the only one. A task that is left out has none from now on.
        """
        sole = confidences.get(None)
        self.confidence = None if sole is None else sole.as_key()
        if self.tasks is not None:  # anew: the dicts may be the caller's
            plain = {
                name: {key: value for key, value in task.items() if key != "confidence"}
                for name, task in self.tasks.items()
            }
            known = {name: {"confidence": confidences[name].as_key()} for name in plain if name in confidences}
            self.tasks = {name: {**task, **known.get(name, {})} for name, task in plain.items()}

    @property
    def has_confidence(self) -> bool:
        """Whether validation rows say something about the answers of some task."""
        return self.confidence is not None or any(task.get("confidence") for task in (self.tasks or {}).values())

    def check_parts(self):
        """Checks the numbers in the configs of encoders and decoder."""
        for key in self.sub_configs:
            if key != "fusion_module_config" and getattr(self, key) is not None:
                check_part(key, getattr(self, key))

    def validate_architecture(self):
        """Checks the numbers, the names of modalities and the labels that stand in the config. The library calls it
        too, when a config is made and before one is saved."""
        check_common(self)
        read_labels(self.id2label, self.label2id)
        self.check_parts()
        if self.modalities:
            check_architecture(self)
            self.check_trained_layers()
            self.check_places()
            self.fusion_module_config.check_numbers()
        check_ranges(self, MODEL_RANGES)

    def check_trained_layers(self):
        """Checks how many layers are to train of which encoder; that it has so many is seen when it is built."""
        for name, layers in (self.trained_layers or {}).items():
            if not modality_of(name).pretrained:
                known = [name for name, modality in MODALITIES.items() if modality.pretrained]
                raise ValueError(
                    f"trained_layers is for the pretrained encoders, {known}; got {name!r}, "
                    "whose encoder starts from random weights and trains as a whole."
                )
            check_number(f"trained_layers of {name}", layers, 1, MAX_LAYERS)
        if both := [name for name in self.trained_layers or {} if name in self.frozen_encoders]:
            rest = [name for name in self.frozen_encoders if name not in both]
            raise ValueError(
                f"freeze_encoders freezes {self.frozen_encoders}, and trained_layers trains the top of {both}: leave "
                f"the latter out of the former (freeze_encoders={rest or False})."
            )

    def check_places(self):
        """Checks how many places there are of which modality."""
        if self.num_frames is not None:
            check_number("num_frames", self.num_frames, 1, self.num_images - 1)
        for name, count in (self.places or {}).items():
            check_number(f"places of {name}", count, 1, MAX_IMAGES)
            if name == Vision.name:
                raise ValueError(f"The places of {name} are num_images: give {count} there, and not in places.")
            if count > 1 and not modality_of(name).several_places:
                raise ValueError(f"places of {name} must be 1, which all rows have; got {count}.")


def part_of_composite(config: PreTrainedConfig, modality: str) -> PreTrainedConfig:
    """Gives the part of a dual encoder's config (CLIP, SigLIP…) that one modality uses; other configs as they are."""
    part = getattr(config, modality_of(modality).config_key, None)
    return part if isinstance(part, PreTrainedConfig) else config


def check_source(name: str, source: str | os.PathLike):
    """Tells a misspelt folder, which the argument `name` has, before the Hub is asked for it: raises an OSError for
    what is neither a folder nor could be a Hub id."""
    if os.path.isdir(source):
        return
    try:
        validate_repo_id(os.fspath(source))
    except HFValidationError:
        raise OSError(
            f"{name}: there is no folder {os.fspath(source)!r}, and a Hub id is 'name' or 'namespace/name'."
        ) from None


AutoConfig.register(MMFusionConfig.model_type, MMFusionConfig, exist_ok=True)
MMFusionConfig.register_for_auto_class()

__all__ = ["FusionModuleConfig", "MMFusionConfig"]
