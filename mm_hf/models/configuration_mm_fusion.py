# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Configurations of mm_hf: one for the fusion, and a composite one for the whole model."""

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
from .series import Series  # noqa: F401  importing registers a modality; these are all modalities of the package
from .sound import Sound  # noqa: F401
from .tabular import TabularConfig
from .tasks import TaskHead, read_tasks, task_head_of
from .text import Text
from .versions import warn_of_other_versions
from .vision import Vision


# The fusion width if the config of the query's encoder names none (feature maps).
DEFAULT_WIDTH = 256


class FusionSizes(NamedTuple):
    """The sizes of a fusion: its width D, the number of attention heads, the inner width of feed-forward parts, and
    the standard deviation of the initial weights."""

    width: int
    heads: int
    inner_width: int
    std: float


@told_in_one_line
@strict
class FusionModuleConfig(PreTrainedConfig):
    r"""The fusion: its type, width and depth.

    Args:
        fusion_type (`str`, defaults to `"cross_attention"`): a name in the registry of fusions.
        query_modality (`str`, *optional*): the modality whose tokens are the query, for fusions that have one. Left
            out: text if present, else the first modality of the model.
        hidden_size (`int`, *optional*): the fusion width D. Left out, the width of the query modality's encoder, as in
            ALBEF (Li et al. 2021) and BLIP, or 256 if that config does not name one width.
        num_hidden_layers (`int`, defaults to 4): the number of fusion blocks.
        num_attention_heads (`int`, *optional*): left out, one head per 64 of the width.
        intermediate_size (`int`, *optional*): inner width of the feed-forward parts; left out, 4 times the width.
        hidden_act (`str`), hidden_dropout_prob (`float`), layer_norm_eps (`float`): as in BERT.
        initializer_range (`float`, *optional*): standard deviation of the initial weights of projections, fusion and
            head. Left out, `hidden_size ** -0.5` (LeCun et al. 1998, section 4.6). BERT's 0.02 is for a width of 768:
            at width 64 all attention scores start almost equal, which delays learning.
        attention_probs_dropout_prob (`float`, defaults to 0): 0, unlike BERT, because fast attention on the CPU has no
            dropout.
        memory_layers (`int`, defaults to 0): for `"cross_attention"`: blocks of self-attention among the tokens of
            each distinct image (each item of the modalities that are not the query), before the query attends to them.
            They are part of the memory, so rows that share an image share them.
        distance_bias (`bool`, defaults to `False`): in those blocks, add a multiple of the distance between two tokens
            in the picture to their attention score. Requires one picture per row. See `DistanceBias`.
        num_latents (`int`, defaults to 4): for `"bottleneck"`: latents through which modalities exchange information.
        output_norm (`bool`, defaults to `False`): normalise the vector that the head reads, and start classification
            heads at half the usual weights. The first losses are then close to the loss of a guess, for every fusion.
            (Without it they are up to three times that, because most fusions end in a sum.) `from_encoders_pretrained`
            turns it on.
        modality_dropout (`float` or `dict[str, float]`, defaults to 0): the probability, drawn for every row and
            modality in training, that a present item is replaced by the learned absent token. A row with several
            images loses all of them at once. No row ever loses all modalities.
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
        """Computes the widths that follow from `hidden_size`, once it is known."""
        if self.hidden_size is None:
            return
        if self.num_attention_heads is None:
            self.num_attention_heads = max(1, self.hidden_size // 64)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.initializer_range is None:
            self.initializer_range = self.hidden_size**-0.5

    def sizes(self) -> FusionSizes:
        """The sizes to build a fusion with.

        Raises:
            ValueError: `hidden_size` is not known yet.
        """
        sizes: Any = (self.hidden_size, self.num_attention_heads, self.intermediate_size, self.initializer_range)
        if None in sizes:
            raise ValueError(
                "fusion_module_config: hidden_size is not known, so the fusion cannot be built: set it, or make this "
                "config part of a MMFusionConfig, which takes the width from an encoder."
            )
        return FusionSizes(*sizes)

    def check_numbers(self):
        """Checks that each number is in its range, and that the weights fit into a machine's memory."""
        check_ranges(self, FUSION_RANGES, "fusion_module_config: ")
        check_activation("fusion_module_config: hidden_act", self.hidden_act)
        if self.hidden_size is not None:
            width, inner = self.hidden_size, self.intermediate_size or 4 * self.hidden_size
            layers = self.num_hidden_layers + self.memory_layers
            check_parameters(layers * (8 * width**2 + 2 * width * inner), "fusion_module_config")

    def validate_architecture(self):
        """Checks that the heads divide the width evenly, that the settings fit the type of fusion, and that the
        dropout rates are probabilities."""
        if self.memory_layers < 0 or (self.memory_layers and self.fusion_type != "cross_attention"):
            raise ValueError(
                "fusion_module_config: memory_layers must be 0, except for cross_attention, where it may be above 0; "
                f"got {self.memory_layers} for {self.fusion_type}."
            )
        if self.distance_bias and not self.memory_layers:
            raise ValueError("fusion_module_config: distance_bias needs memory_layers of at least 1, got 0.")
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
    """The attribute `sub_configs` of `MMFusionConfig`: through it the library reaches every part (to set its dtype and
    its attention). For a config object it also contains the modalities from outside the package."""

    def __get__(self, config: "MMFusionConfig | None", owner: type) -> dict[str, Any]:
        classes = {key: spec.config_class for key, spec in cast(Any, owner).sub_configs_defaults.items()}
        extra = () if config is None else config.__dict__.get("extra_configs") or ()
        return {**classes, **{modality_of(name).config_key: AutoConfig for name in extra}}


@told_in_one_line
@strict
class MMFusionConfig(PreTrainedConfig):
    r"""The config of a model that fuses the tokens of one encoder per modality.

    Each sub-config is optional and may be of any type that `AutoConfig` knows. From composite ones (CLIP, SigLIP) the
    part for the modality is used. The label names of an encoder's own head are removed. Building a model from a config
    downloads nothing.

    Args:
        vision_config, text_config, audio_config, tabular_config, series_config (`PreTrainedConfig` or `dict`,
            *optional*): the encoders.
        extra_configs (`dict[str, PreTrainedConfig or dict]`, *optional*): the encoders of modalities from outside the
            package, by name (see `Modality`). They come after the others, sorted by name; each is also the attribute
            `<name>_config`.
        fusion_module_config (`FusionModuleConfig` or `dict`, *optional*): the fusion. (The library keeps the shorter
            name `fusion_config` for fused kernels.)
        vision_feature_layer (`int` or `list[int]`, *optional*): index (or indices) into the vision encoder's
            `hidden_states`: the tokens of these layers are used. The name is that of LLaVA (Liu et al. 2023). Several
            layers are each projected and then joined. Left out: `last_hidden_state`. Layers above the last one used
            are not built.
        vision_feature_join (`str`, defaults to `"tokens"`): how several feature layers are joined: `"tokens"` side by
            side, or `"channels"`, as LLaVA does: one token for each place of the coarsest layer; the places of finer
            layers are folded into it (space to depth). Fewer tokens, with the same numbers in them.
        freeze_encoders (`bool` or `list[str]`, defaults to `False`): modalities whose encoder does not train: it stays
            in eval mode, and its forward runs without gradients. `True` means all encoders except tables and series,
            which start from random weights.
        trained_layers (`dict[str, int]`, *optional*): modalities whose encoder trains in part, and how many of its top
            layers train: the layers below stay in eval mode and get no gradient. Such an encoder is not frozen.
            `unfreeze` writes this key, and defines what a layer is.
        freeze_batch_norm (`bool`, defaults to `True`): keep the running statistics of the encoders' batch norms as
            they are, in training too. Pretrained statistics are better than those of small batches, and two processes
            then run the same network. Turn it off for a CNN that starts from random weights.
        pooling (`dict[str, str]`, *optional*): how one vector is read from the tokens of a modality: `"cls"` (the
            first), `"last"` (the last one that is not padding) or `"mean"`. Left out: the first for text encoders, the
            last for encoders that pool there (CLIP, SigLIP), the mean for all others. First and last are found by the
            mask. `from_encoders_pretrained` tries a text encoder once. For a causal one (GPT-2, Llama…), whose first
            token sees no other token, it sets `"last"`.
        interpolate_pos_encoding (`bool`, defaults to `False`): stretch the vision encoder's learned positions to the
            size of the pictures, for encoders that can (ViT, CLIP, SigLIP, Swin…). Pictures may then have another size
            than in its pretraining.
        encode_by_length (`list[str]`, *optional*): text or audio, if padding changes the encoder's output in spite of
            the mask (FNet, ConvBERT, Wav2Vec2 with group norm…): items of one length are then encoded together,
            without padding. `from_encoders_pretrained` finds out.
        seeded_encoders (`list[str]`, *optional*): modalities whose encoder draws random numbers in eval mode too
            (Reformer's hashing): it then draws the same ones in every call. `from_encoders_pretrained` finds out.
        num_images (`int`, defaults to 1): the number of image places per row, such as front and back view. Above 1
            each place has a learned embedding, and `vision_index` is `(B, num_images)`. (A fusion that sees only
            pooled vectors, such as `"concat"`, cannot tell the places apart.)
        num_frames (`int`, *optional*): how many of these places, counted from the last, are the frames of a video, if
            a row has both pictures and a video; left out: all of them are pictures, or all of them frames.
        places (`dict[str, int]`, *optional*): the same for other modalities, by name: `{"text": 2}` for title and
            body. A table has one place.
        classifier_dropout (`float`, defaults to 0.1): dropout before the last layer of a head, or on the input of a
            decoder's cross-attention.
        label_smoothing (`float`, defaults to 0): share of the target that is spread over all classes, or with several
            labels over yes and no (Szegedy et al. 2016, section 7). This key and the next four change only the
            training loss: in eval mode the loss is the plain one, so that runs can be compared.
        class_weights (`list[float]`, *optional*): one per class; the loss of a row is multiplied by the weight of its
            class; with several labels, the loss of each label by its own weight. The sum is still divided by the
            number of labelled rows: weights that average 1 over the training rows keep the size of the loss.
        focal_gamma (`float`, defaults to 0): gamma of the focal loss (Lin et al. 2017, equation 4), which gives less
            weight to rows that are already right; the paper uses 2.
        class_priors (`list[float]`, *optional*): share (or count) of each class in the training rows. Its logarithm
            is added to the logits in the loss (logit adjustment, Menon et al. 2021, equation 10), for single labels.
            The returned logits are the plain ones, in which rare classes are not at a disadvantage.
        mixup_alpha (`float`, defaults to 0): alpha of mixup (Zhang et al. 2018) of the fused vectors, as manifold
            mixup (Verma et al. 2019) does: see `mixup`. The logits of a training step then belong to mixed rows.
        label_mean, label_scale (`list[float]`, *optional*): for a regression: mean and standard deviation of the
            labels in the training rows, one per output. The head learns labels with mean 0 and deviation 1, and the
            loss is computed on them; the logits are in the unit of the labels. Left out: the head learns the labels as
            they are, which works only if they are about that size. `label_statistics` of `mm_hf.data` computes them.
        confidence (`dict`, *optional*): what was learned on validation rows: `temperature` (logits are divided by it
            before they become probabilities; the returned logits are the plain ones), and `thresholds` of sets and
            intervals; see `Confidence`. `mm_hf evaluate --calibrate` writes it; with several tasks, each task has its
            own. Left out: the model is not calibrated. Further training makes it invalid.
        tasks (`dict[str, dict]`, *optional*): for `MMFusionForMultiTask`: by name, what each head answers, see
            `read_tasks`. They are sorted by name.
        task_weighting (`str`, defaults to `"fixed"`): how the losses of the tasks are summed: `"fixed"` by their
            weights, or `"uncertainty"`, by learned weights (see `TaskWeighting`).
        projection_dim (`int`, defaults to 256), logit_scale_init_value (`float`): for `MMFusionForRetrieval`: the
            width of the embeddings, and the logarithm of the initial factor of similarities, as in CLIP.
        matching_weight (`float`, defaults to 1): for the same class: the weight of the image-text matching loss beside
            the contrastive one; 0 trains only the embeddings.
        decoder_config (`PreTrainedConfig` or `dict`, *optional*): for `MMFusionForConditionalGeneration`: the decoder,
            of any type that `AutoModelForCausalLM` knows and that supports cross-attention. A copy is kept, with
            `is_decoder` and `add_cross_attention` set.
        decoder_start_token_id, eos_token_id, pad_token_id (`int`, *optional*): for the same class: the tokens that
            start and end a text (for BERT CLS and SEP), and the padding after its end. Left out: the decoder's
            `bos_token_id`, `eos_token_id`, `pad_token_id`.
        freeze_decoder_embeddings (`bool`, defaults to `False`): for the same class: do not train the decoder's word
            embeddings, which are also its last layer. A step is then shorter if the vocabulary is large, and words
            that no training text contains keep their meaning.
        vocab_size (`int`, *optional*): for `MMFusionForCTC`: the number of tokens that it can write, with the blank,
            which is `pad_token_id`.
        ctc_stride (`int`, defaults to 1): for the same class: how many tokens of the sound are averaged for one token
            of the text. Letters need a fine grid; a small set of words is easier to tell apart by a third of a second
            than by a fiftieth.
        base_models (`list[str]`, *optional*): Hub ids of the encoders, for the model card.
        versions (`dict[str, str]`, *optional*): the versions of mm_hf, torch and transformers that wrote the
            checkpoint. Saving a model writes them; loading with another major version warns.

    Raises:
        ValueError: the model lacks the feature layer, the query modality or the frozen modality; a setting of the loss
            is out of its range or not defined for `problem_type`; or `read_tasks` refuses the tasks.

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

    problem_type: str | None = None  # type: ignore[assignment]  # the library allows only its own three
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
        # The caller's objects stay as they were: values that depend on the encoders are filled in on a copy.
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
        """Makes configs from the values of `extra_configs`, in a new dict sorted by name, an order that JSON keeps.
        Refuses a modality that is not registered, a modality of the package, and a modality's config among the other
        keys, which are not fields of a config."""
        for name, modality in MODALITIES.items():
            if modality.extra and modality.config_key in others:
                raise ValueError(
                    f"{modality.config_key} goes into extra_configs={{{name!r}: …}}: {name} is not part of mm_hf."
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
        """Gives the encoder's config of a modality from outside as `<name>_config`, as for the package's own."""
        extra = self.__dict__.get("extra_configs") or {}
        if name.removesuffix("_config") in extra and name.endswith("_config"):
            return extra[name.removesuffix("_config")]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """See the library's method. One difference: keys of later releases are left out if nobody set them, so that
        a config.json stays the same."""
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
        """Refuses the config of another kind of model, for which the library would only warn. Warns about other
        versions, see `warn_of_other_versions`. If labels, problem or tasks are changed, drops the settings that belong
        to the old ones, see `for_other_labels`."""
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"This is a checkpoint of model type {model_type!r}, not {cls.model_type!r}: use "
                "`from_encoders_pretrained` for an encoder, and `from_pretrained` for a checkpoint of mm_hf."
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
        config.validate_architecture()  # after the changes too
        # An older checkpoint has no such key; its config names the transformers version that wrote it.
        warn_of_other_versions({"transformers": config_dict.get("transformers_version"), **(config.versions or {})})
        return loaded

    @classmethod
    def _dict_from_json_file(cls, json_file):
        """As in the library, but with a clear error if a file is nested too deeply or holds no dict."""
        return read_json(json_file)

    def __setattr__(self, name, value):
        """Sets a value. If it is new label names, `label2id` is updated."""
        if name == "problem_type" and value is not None and getattr(self, "_post_init_done", False):
            task_head_of(value, texts=False)
        if name == "id2label" and value is not None and getattr(self, "_post_init_done", False):
            value, numbers = read_labels(value, None)
            super().__setattr__("label2id", numbers)
        super().__setattr__(name, value)

    @property
    def num_labels(self) -> int | None:
        """See the library's property. One difference: an impossible number of labels is refused before a name is made
        for each."""
        return super().num_labels

    @num_labels.setter
    def num_labels(self, num_labels: int):
        check_num_labels(num_labels)
        PreTrainedConfig.num_labels.fset(self, num_labels)  # type: ignore[attr-defined]

    def complete_decoder(self):
        """Sets the decoder up for generation with cross-attention to the memory, and fills in the tokens that start
        and end its texts."""
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
        """See the library's method: the decoder's config, if there is a decoder and the encoder's is not asked for.
        `generate` reads it."""
        if self.decoder_config is not None and (decoder or not encoder):
            return self.decoder_config
        return super().get_text_config(decoder=decoder, encoder=encoder)

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities that this model has: those of the package in its order, then those from outside,
        sorted by name."""
        of_library = [name for name, modality in MODALITIES.items() if not modality.extra]
        return [*(name for name in of_library if self.encoder_config(name) is not None), *(self.extra_configs or ())]

    def encoder_config(self, name: str) -> Any:
        """The config of a modality's encoder; None if the model has none."""
        return getattr(self, modality_of(name).config_key, None)

    def places_of(self, name: str) -> int:
        """How many items of a modality a row can have."""
        return self.num_images if name == Vision.name else (self.places or {}).get(name, 1)

    @property
    def frozen_encoders(self) -> list[str]:
        """Names of the modalities whose encoder does not train."""
        if isinstance(self.freeze_encoders, bool):
            return [name for name in self.modalities if self.freeze_encoders and modality_of(name).pretrained]
        return list(self.freeze_encoders)

    @property
    def poolings(self) -> dict[str, str]:
        """For each modality, how one vector is read from its tokens."""
        default = {name: modality_of(name).pooling(self.encoder_config(name)) for name in self.modalities}
        return {**default, **(self.pooling or {})}

    @property
    def feature_layers(self) -> dict[str, list[int] | None]:
        """For each modality, the indices into `hidden_states` that are used, or None for `last_hidden_state`."""
        vision = self.vision_feature_layer
        vision = [vision] if isinstance(vision, int) else vision
        return {name: vision if name == Vision.name else None for name in self.modalities}

    def encoding(self, name: str) -> dict[str, bool]:
        """Options for running the encoder of a modality, as arguments of `encode_items`."""
        return {
            "interpolate": self.interpolate_pos_encoding,
            "by_length": name in (self.encode_by_length or ()),
            "seeded": name in (self.seeded_encoders or ()),
        }

    @property
    def loss_settings(self) -> dict[str, Any]:
        """The settings of the training loss, as arguments of `classification_loss`."""
        return {name: getattr(self, name) for name in LOSS_SETTINGS}

    @property
    def task_heads(self) -> dict[str, TaskHead]:
        """The tasks by name."""
        return read_tasks(self.tasks or {})

    def set_confidence(self, confidences: Mapping[str | None, Confidence]):
        """Keeps what was learned on validation rows about the answers.

        Args:
            confidences: by task, None for a single task. The confidence of a task that is left out is removed.
        """
        sole = confidences.get(None)
        self.confidence = None if sole is None else sole.as_key()
        if self.tasks is not None:  # new dicts, because the old ones may belong to the caller
            plain = {
                name: {key: value for key, value in task.items() if key != "confidence"}
                for name, task in self.tasks.items()
            }
            known = {name: {"confidence": confidences[name].as_key()} for name in plain if name in confidences}
            self.tasks = {name: {**task, **known.get(name, {})} for name, task in plain.items()}

    @property
    def has_confidence(self) -> bool:
        """Whether any task has been calibrated on validation rows."""
        return self.confidence is not None or any(task.get("confidence") for task in (self.tasks or {}).values())

    def check_parts(self):
        """Checks the numbers in the configs of encoders and decoder."""
        for key in self.sub_configs:
            if key != "fusion_module_config" and getattr(self, key) is not None:
                check_part(key, getattr(self, key))

    def validate_architecture(self):
        """Checks the numbers, the names of modalities and the labels in the config. The library calls it too, when a
        config is made and before it is saved."""
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
        """Checks how many layers of which encoder train; whether it has that many is checked when it is built."""
        for name, layers in (self.trained_layers or {}).items():
            if not modality_of(name).pretrained:
                known = [name for name, modality in MODALITIES.items() if modality.pretrained]
                raise ValueError(
                    f"trained_layers is for the pretrained encoders, {known}; got {name!r}, "
                    "whose encoder starts from random weights and always trains as a whole."
                )
            check_number(f"trained_layers of {name}", layers, 1, MAX_LAYERS)
        if both := [name for name in self.trained_layers or {} if name in self.frozen_encoders]:
            rest = [name for name in self.frozen_encoders if name not in both]
            raise ValueError(
                f"freeze_encoders freezes {self.frozen_encoders}, but trained_layers trains the top of {both}: remove "
                f"{both} from freeze_encoders (freeze_encoders={rest or False})."
            )

    def check_places(self):
        """Checks the number of places of each modality."""
        if self.num_frames is not None:
            check_number("num_frames", self.num_frames, 1, self.num_images - 1)
        for name, count in (self.places or {}).items():
            check_number(f"places of {name}", count, 1, MAX_IMAGES)
            if name == Vision.name:
                raise ValueError(f"The places of {name} are num_images: set num_images={count}, not places.")
            if count > 1 and not modality_of(name).several_places:
                raise ValueError(f"places of {name} must be 1, because a row has only one; got {count}.")


def part_of_composite(config: PreTrainedConfig, modality: str) -> PreTrainedConfig:
    """The part of a dual encoder's config (CLIP, SigLIP…) that one modality uses; other configs are returned as they
    are."""
    part = getattr(config, modality_of(modality).config_key, None)
    return part if isinstance(part, PreTrainedConfig) else config


def check_source(name: str, source: str | os.PathLike):
    """Reports a misspelt folder before the Hub is asked: raises an OSError if the source (the value of the argument
    `name`) is not a folder and cannot be a Hub id."""
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
