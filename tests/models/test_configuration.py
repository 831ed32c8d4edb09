"""The config: it survives JSON, needs no network, and refuses what it cannot be."""

import json
import socket

import pytest
import tiny_models as tiny
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, BertConfig, CLIPTextConfig, CLIPVisionConfig, ResNetConfig, ViTConfig

from mm_hf import FusionModuleConfig, MMFusionConfig, MMFusionForClassification, MMFusionModel, MMFusionProcessor


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"text": None},
        {"vision": None},
        {"vision": "clip", "text": "clip_text"},
        {
            "vision": "resnet",
            "text": "modernbert",
            "fusion": "concat",
            "settings": {"modality_dropout": {"vision": 0.5}, "query_modality": "vision"},
            "vision_feature_layer": [1, -1],
            "freeze_encoders": ["text"],
            "freeze_batch_norm": False,
            "pooling": {"text": "mean"},
            "problem_type": "regression",
            "num_labels": 2,
            "id2label": {0: "no", 1: "yes"},
            "base_models": ["me/one"],
        },
    ],
    ids=["both", "vision", "text", "clip", "everything"],
)
def test_json_round_trip(kwargs, tmp_path, no_network):
    config = tiny.config(**kwargs)
    config.save_pretrained(tmp_path)
    for loaded in (MMFusionConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is MMFusionConfig
        assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
        assert loaded.modalities == config.modalities
        assert loaded.poolings == config.poolings
        assert loaded.frozen_encoders == config.frozen_encoders
        assert loaded.feature_layers == config.feature_layers
        assert type(loaded.fusion_module_config) is FusionModuleConfig
        assert type(loaded.vision_config) is type(config.vision_config)


def test_everything_that_was_asked_for_is_there():
    config = tiny.config(freeze_encoders=["text"], pooling={"text": "mean"}, vision_feature_layer=1, vision="clip")
    assert config.modalities == ["vision", "text"]
    assert config.frozen_encoders == ["text"]
    assert config.poolings == {"vision": "mean", "text": "mean"}
    assert config.feature_layers == {"vision": [1], "text": None}
    assert tiny.config(freeze_encoders=True).frozen_encoders == ["vision", "text"]
    assert tiny.config(text="clip_text").poolings["text"] == "last"
    assert tiny.config().poolings["text"] == "cls"


def test_building_downloads_nothing(no_network):
    for fusion in ("cross_attention", "concat"):
        MMFusionModel(tiny.config(fusion=fusion))


def test_absent_encoders_stay_absent():
    """None is no default encoder."""
    config = MMFusionConfig(text_config=BertConfig(**tiny.WORDS))
    assert config.vision_config is None
    assert config.modalities == ["text"]
    assert "vision_config" not in config.to_dict() or config.to_dict()["vision_config"] is None
    with pytest.raises(ValueError, match=r"vision_config.*text_config"):
        MMFusionModel(MMFusionConfig())


def test_widths_follow_the_encoder_that_asks():
    assert MMFusionConfig(text_config=BertConfig(), vision_config=ViTConfig()).fusion_module_config.hidden_size == 768
    fusion = MMFusionConfig(vision_config=ResNetConfig()).fusion_module_config
    assert (fusion.hidden_size, fusion.num_attention_heads, fusion.intermediate_size) == (256, 4, 1024)
    assert fusion.query_modality == "vision"
    small = MMFusionConfig(text_config=BertConfig(**tiny.WORDS), vision_config=ResNetConfig()).fusion_module_config
    assert (small.hidden_size, small.num_attention_heads, small.query_modality) == (32, 2, "text")
    t5 = MMFusionConfig(text_config=tiny.TEXT_CONFIGS["t5"]()).fusion_module_config
    assert t5.hidden_size == 32


def test_a_fusion_has_its_sizes_once_its_width_is_known():
    assert FusionModuleConfig(hidden_size=128).sizes() == (128, 2, 512, 128**-0.5)
    with pytest.raises(ValueError, match="hidden_size"):
        FusionModuleConfig().sizes()


def test_what_is_filled_in_is_filled_in_on_a_copy():
    fusion, text = FusionModuleConfig(), BertConfig(**tiny.WORDS)
    config = MMFusionConfig(text_config=text, fusion_module_config=fusion)
    assert fusion.hidden_size is None
    assert config.fusion_module_config.hidden_size == 32
    assert config.text_config is text


@pytest.mark.parametrize("form", ["object", "dict"])
def test_composites_give_their_part(form):
    composite = tiny.DUAL_CONFIGS["clip"]()
    given = composite if form == "object" else composite.to_dict()
    config = MMFusionConfig(vision_config=given, text_config=given)
    assert type(config.vision_config) is CLIPVisionConfig
    assert type(config.text_config) is CLIPTextConfig


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"settings": {"query_modality": "sound"}}, r"query_modality.*\['sound'\].*\['vision', 'text'\]"),
        ({"text": None, "settings": {"query_modality": "text"}}, r"query_modality.*\['text'\].*\['vision'\]"),
        ({"settings": {"modality_dropout": 1.0}}, r"modality_dropout.*\[0, 1\).*\b1\.0"),
        (
            {"settings": {"modality_dropout": {"text": -0.1}}},
            r"modality_dropout.*text.*\[0, 1\).*-0\.1",
        ),
        ({"settings": {"modality_dropout": {"sound": 0.1}}}, r"modality_dropout.*\['sound'\]"),
        (
            {"settings": {"num_attention_heads": 5}},
            r"hidden_size .32.*num_attention_heads .5",
        ),
        (
            {"settings": {"hidden_size": None, "num_attention_heads": 5}},
            r"hidden_size .32.*num_attention_heads .5",
        ),
        ({"freeze_encoders": ["sound"]}, r"freeze_encoders.*\['sound'\]"),
        ({"pooling": {"sound": "cls"}}, r"pooling.*\['sound'\]"),
        ({"settings": {"memory_layers": -1}}, r"memory_layers.*\b0\b.*cross_attention.*-1"),
        ({"fusion": "concat", "settings": {"memory_layers": 1}}, r"memory_layers.*\b1 .*concat"),
        ({"settings": {"distance_bias": True}}, "distance_bias.*memory_layers"),
        ({"settings": {"num_latents": 0}}, r"num_latents.*\b1, .*\b0\b"),
        (
            {"vision_feature_join": "sum"},
            r"vision_feature_join.*\('tokens', 'channels'\).*'sum'",
        ),
        ({"pooling": {"text": "max"}}, r"pooling.*text.*'cls', 'last', 'mean'.*'max'"),
    ],
)
def test_errors_name_what_came_and_what_is_allowed(kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny.config(**kwargs)


def test_errors_in_a_file(tmp_path):
    """What was edited by hand is checked as well."""
    tiny.config().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"query_modality": "text"', '"query_modality": "sound"'))
    with pytest.raises(ValueError, match=r"query_modality.*\['sound'\]"):
        AutoConfig.from_pretrained(tmp_path)


def test_wrong_types():
    with pytest.raises(StrictDataclassFieldValidationError, match="num_hidden_layers"):
        FusionModuleConfig(num_hidden_layers="four")


def test_unknown_fusion():
    with pytest.raises(ValueError, match=r"'telepathy'.*\['bottleneck', 'co_attention'"):
        MMFusionModel(tiny.config(fusion="telepathy"))


@pytest.mark.parametrize("loader", [MMFusionConfig, MMFusionForClassification])
def test_checkpoint_of_another_model(loader, tmp_path):
    BertConfig(**tiny.WORDS).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'bert'.*'mm_fusion'.*from_encoders_pretrained"):
        loader.from_pretrained(tmp_path)


def test_checkpoint_that_is_not_there(tmp_path):
    for loader in (MMFusionConfig, MMFusionForClassification, MMFusionProcessor):
        with pytest.raises((OSError, ValueError), match="nowhere"):
            loader.from_pretrained(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"freeze_encoder": True}, "MMFusionConfig.*'freeze_encoder'"),
        ({"fusion_module_config": {"num_layers": 9}}, "FusionModuleConfig.*'num_layers'"),
    ],
)
def test_misspelt_keys_are_refused(kwargs, message, encoders):
    with pytest.raises(ValueError, match=message):
        MMFusionModel.from_encoders_pretrained(text=encoders / "minilm-l6", **kwargs)


@pytest.mark.parametrize("settings", [{"fusion_type": "concat"}, FusionModuleConfig(fusion_type="concat")])
def test_the_fusion_may_be_named_in_its_config(settings, encoders):
    model = MMFusionModel.from_encoders_pretrained(text=encoders / "minilm-l6", fusion_module_config=settings)
    assert model.config.fusion_module_config.fusion_type == "concat"


NAMES = {number: f"a long name of class {number}" for number in range(1000)}


def with_names(config):
    """As the config of an encoder that came with its own head."""
    config.id2label, config.label2id = dict(NAMES), {name: number for number, name in NAMES.items()}
    config.problem_type = "single_label_classification"
    return config


def test_the_labels_of_an_encoders_own_head_are_left_out(tmp_path):
    """The object that is given keeps them; a checkpoint of before loads with them, and is saved without."""
    vision, text = with_names(ViTConfig(**tiny.PATCHES)), BertConfig(**tiny.WORDS, num_labels=3)
    config = MMFusionConfig(vision_config=vision, text_config=text, num_labels=5, base_models=["me/one"])
    assert (len(vision.id2label), vision.problem_type) == (1000, "single_label_classification")
    assert "a long name" not in config.to_json_string()
    assert (config.num_labels, config.base_models) == (5, ["me/one"])
    plain = MMFusionConfig(
        vision_config=ViTConfig(**tiny.PATCHES),
        text_config=BertConfig(**tiny.WORDS),
        num_labels=5,
        base_models=["me/one"],
    )
    assert config.to_dict() == plain.to_dict()
    before = {**plain.to_dict(), "vision_config": vision.to_dict(), "architectures": ["MMFusionForClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(before, default=str))
    large = (tmp_path / "config.json").stat().st_size
    loaded = MMFusionConfig.from_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").stat().st_size < large / 5
    assert MMFusionConfig.from_pretrained(tmp_path).vision_config.num_labels == 2
    assert MMFusionModel(loaded).encoders["vision"].config is loaded.vision_config
