"""A modality from outside the package, and several places for items of any modality: what the model makes of them."""

import copy
import json
import pickle

import pytest
import tiny_models as tiny
import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import PreTrainedModel

from mm_hf import (
    MMFusionConfig,
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionForCTC,
    MMFusionForMultiTask,
    MMFusionForRetrieval,
    MMFusionModel,
)
from mm_hf.models.modality import MODALITIES, Modality, modality_of, register_modality


POINTS = torch.tensor([[0.5, -1.0], [2.0, 0.25], [-1.5, 1.0]])


# A modality from outside


@strict
class PointConfig(PreTrainedConfig):
    model_type = "test_point"
    hidden_size: int = 16


class PointModel(PreTrainedModel):
    config_class = PointConfig
    base_model_prefix = "point"
    main_input_name = "point_values"
    _auto_class = None

    def __init__(self, config):
        super().__init__(config)
        self.linear = nn.Linear(2, config.hidden_size)
        self.post_init()

    def forward(self, point_values=None, **kwargs):
        return BaseModelOutput(last_hidden_state=self.linear(point_values)[:, None])


class Point(Modality):
    name = "point"
    inputs = ("point_values",)
    floats = ("point_values",)
    model_type = PointConfig.model_type
    argument = part = "point"
    row_keys = ("point",)
    extra = True

    def dummy_inputs(self, config, device=None, dtype=None):
        return {"point_values": torch.zeros(1, 2, device=device, dtype=dtype)}


AutoConfig.register(PointConfig.model_type, PointConfig, exist_ok=True)
AutoModel.register(PointConfig, PointModel, exist_ok=True)


@pytest.fixture
def point():
    register_modality(Point)
    yield modality_of("point")
    del MODALITIES["point"]


def with_point(cls=MMFusionForClassification, **kwargs):
    return tiny.model(cls, extra_configs={"point": PointConfig()}, **kwargs)


def same(one, other, tolerance=1e-5):
    torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


def test_it_asks_where_the_config_says_so(point):
    model = tiny.model(vision=None, settings={"query_modality": "point"}, extra_configs={"point": PointConfig()})
    assert model(**tiny.texts((4, 5, 6)), point_values=POINTS).logits.shape == (3, 5)
    alone = MMFusionModel(MMFusionConfig(extra_configs={"point": PointConfig()}))
    assert alone.config.fusion_module_config.query_modality == "point"
    assert alone(point_values=POINTS).pooler_output.shape == (3, 16)


@pytest.mark.parametrize("cls", [MMFusionForMultiTask, MMFusionForConditionalGeneration])
def test_heads_hand_it_on(point, cls):
    if cls is MMFusionForMultiTask:
        kind = {"problem_type": "single_label_classification", "labels": ["a", "b", "c"]}
        model = with_point(cls, tasks={"kind": kind})
        outputs = model(**tiny.texts((4, 5, 6)), point_values=POINTS)
        assert outputs.logits["kind"].shape == (3, 3)
        return
    decoder = {**tiny.WORDS, "model_type": "bert", "is_decoder": True}
    model = with_point(cls, decoder_config=decoder, decoder_start_token_id=1, eos_token_id=2, pad_token_id=0)
    labels = torch.tensor([[5, 2], [6, 2], [7, 2]])
    assert model(**tiny.texts((4, 5, 6)), point_values=POINTS, labels=labels).loss.isfinite()
    assert len(model.generate(**tiny.texts((4, 5, 6)), point_values=POINTS, max_new_tokens=3)) == 3


def test_what_is_no_input_is_refused(point):
    model, inputs = with_point(), tiny.batch((4, 5, 6))
    for name in ("point_value", "points_index", "spot_values"):
        with pytest.raises(ValueError, match=f"{name}.*point_values"):
            model(**inputs, **{name: POINTS})
    with pytest.raises(ValueError, match="point_values"):  # of a model that has no points
        tiny.model()(**inputs, point_values=POINTS)
    with pytest.raises(ValueError, match="point_values"):
        model(**inputs, point_values=POINTS.tolist())


def test_it_comes_back(point, tmp_path):
    model, inputs = with_point(), {**tiny.batch((6, 4, 7)), "point_values": POINTS}
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["extra_configs"]["point"]["model_type"] == "test_point"
    assert not (tmp_path / "test_modality.py").exists()  # its code does not travel
    again = MMFusionForClassification.from_pretrained(tmp_path)
    assert torch.equal(model(**inputs).logits, again(**inputs).logits)
    assert again.config.modalities == model.config.modalities
    assert again.config.point_config.hidden_size == 16
    half = MMFusionForClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half(**inputs).logits.dtype == torch.bfloat16


def test_a_pretrained_one(point, tmp_path, monkeypatch):
    monkeypatch.setattr(Point, "pretrained", True)
    torch.manual_seed(1)
    PointModel(PointConfig(hidden_size=24)).save_pretrained(tmp_path)
    model = MMFusionForClassification.from_encoders_pretrained(point=str(tmp_path), freeze_encoders=True)
    assert model.config.modalities == model.config.frozen_encoders == ["point"]
    expected = PointModel.from_pretrained(tmp_path).state_dict()
    torch.testing.assert_close(dict(model.model.encoders["point"].state_dict()), dict(expected))
    assert model.config.extra_configs["point"] is model.config.point_config


def test_nobody_registered_it(point, tmp_path):
    with_point().save_pretrained(tmp_path)
    del MODALITIES["point"]
    try:
        with pytest.raises(ValueError, match=r"'point'.*--import"):
            MMFusionForClassification.from_pretrained(tmp_path)
        with pytest.raises(ValueError, match="points"):
            MMFusionConfig(extra_configs={"points": PointConfig()})
    finally:
        register_modality(Point)


def test_configs_are_copied(point):
    config = tiny.config(extra_configs={"point": {"hidden_size": 24}})
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), MMFusionConfig(**config.to_dict())):
        assert other.to_dict() == config.to_dict()
        assert isinstance(other.encoder_config("point"), PointConfig)
        assert other.point_config.hidden_size == 24
        assert other.point_config is not config.point_config
    model = with_point()
    torch.testing.assert_close(copy.deepcopy(model).state_dict(), model.state_dict())


def test_several_stand_in_the_order_of_their_names(point):
    class Place(Point):
        name = "area"
        inputs = ("area_values",)
        renamed = {"area_values": "point_values"}
        floats = inputs

        def dummy_inputs(self, config, device=None, dtype=None):
            return {"area_values": torch.zeros(1, 2, device=device, dtype=dtype)}

    register_modality(Place)
    try:
        config = tiny.config(extra_configs={"point": PointConfig(), "area": PointConfig()})
        assert config.modalities == ["vision", "text", "area", "point"]
        model = MMFusionForClassification(config)
        assert model(**tiny.batch((4, 5, 6)), point_values=POINTS, area_values=POINTS).logits.shape == (3, 5)
    finally:
        del MODALITIES["area"]


def test_where_its_config_goes(point):
    with pytest.raises(ValueError, match=r"extra_configs.*point"):
        MMFusionConfig(point_config=PointConfig())
    with pytest.raises(ValueError, match="text_config"):
        MMFusionConfig(extra_configs={"text": PointConfig()})
    with pytest.raises(ValueError, match="no_such_type"):
        MMFusionConfig(extra_configs={"point": {"model_type": "no_such_type"}})


def test_names_and_inputs_that_are_taken(point):
    for changes in ({"name": "text"}, {"name": "a point"}, {"name": "other", "inputs": ("pixel_values",)}):
        with pytest.raises(ValueError, match=changes["name"]):
            register_modality(type("Other", (Point,), changes))


# Places


TEXTS = (6, 4, 7, 5, 3)
# Title and body: both, one of them in two rows (either), none, and the same text in both.
INDEX = torch.tensor([[0, 1], [2, -1], [-1, 3], [-1, -1], [4, 4]])


def reviews(**kwargs):
    return tiny.model(places={"text": 2}, **kwargs)


def rows_of_reviews(**kwargs):
    return {**tiny.texts(TEXTS, **kwargs), **tiny.images(5), "text_index": INDEX}


@torch.no_grad()
def test_places_of_texts_are_those_of_pictures():
    """One projection makes both: with its weights and states the tokens are equal."""
    model = tiny.model(num_images=2, places={"text": 2})
    assert [model.config.places_of(name) for name in model.config.modalities] == [2, 2]
    projections = model.model.projections
    projections["vision"].load_state_dict(projections["text"].state_dict())
    projections["vision"].pooling = projections["text"].pooling
    states = model.model.encode({"text": INDEX}, **tiny.texts(TEXTS))["text"]
    one, other = projections["text"](states, INDEX), projections["vision"](states, INDEX)
    for key in ("tokens", "mask", "index", "pooled", "places"):
        assert torch.equal(getattr(one, key), getattr(other, key)), key


def test_how_many_places():
    with pytest.raises(ValueError, match=r"\(5, 2\).*1.*`places`"):
        tiny.model()(**rows_of_reviews())
    table = {"model_type": "mm_fusion_tabular", "num_numerical": 2}
    for places, told in (
        ({"txt": 2}, "txt.*'text'"),
        ({"text": 0}, "text.*1.*0"),
        ({"tabular": 2}, "tabular.*1.*2"),
        ({"vision": 2}, "num_images"),
        ({"text": "2"}, "places"),
    ):
        with pytest.raises(ValueError, match=told):
            tiny.config(places=places, tabular_config=table)


def test_who_has_one_place():
    settings = {"query_modality": "text"}
    for places in ({"num_images": 2}, {"places": {"text": 2}}):
        with pytest.raises(ValueError, match=r"one item a row.*2"):
            tiny.model(MMFusionForRetrieval, settings=settings, **places)
    heard = {"vision": None, "audio": "wav2vec2", "vocab_size": 9, "pad_token_id": 0}
    with pytest.raises(ValueError, match=r"audio.*2"):
        tiny.model(MMFusionForCTC, **heard, places={"audio": 2})
    model = tiny.model(MMFusionForCTC, **heard, places={"text": 2})  # what stands beside the sound
    beside = {**tiny.texts((4, 5, 6)), "text_index": torch.tensor([[0, 1], [2, -1], [-1, -1]])}
    assert len(model(**tiny.sounds("wav2vec2"), **beside).logits) == 3


def test_configs_without_the_new_keys_are_what_they_were(tmp_path):
    for places in (None, {}, {"text": 1}):
        config = tiny.config(places=places, extra_configs=None)
        config.save_pretrained(tmp_path)
        stored = json.loads((tmp_path / "config.json").read_text())
        assert not {"places", "extra_configs"} & set(stored)
        assert not {"places", "extra_configs"} & set(config.to_dict())
    assert json.loads(tiny.config(places={"text": 2}).to_json_string())["places"] == {"text": 2}
