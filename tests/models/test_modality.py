"""A modality from outside the package, and several places for items of any modality: what the model makes of them."""

import copy
import json
import pickle

import pytest
import tiny_models as tiny
import torch
from modality_cases import example

from mm_hf import (
    MMFusionConfig,
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionForCTC,
    MMFusionForMultiTask,
    MMFusionForRetrieval,
    MMFusionModel,
)
from mm_hf.models.modality import MODALITIES, register_modality


PLACES = torch.tensor([[0.5, -1.0, 0.1], [0.2, 0.25, -0.3], [-0.5, 1.0, 0.4]])


# A modality from outside


@pytest.fixture(scope="module")
def place(imported):
    """That of `examples/custom_modality.py`."""
    return imported("custom_modality")


def place_config(hidden_size: int = 16):
    return example().PlaceConfig(hidden_size=hidden_size)


def with_place(cls=MMFusionForClassification, **kwargs):
    return tiny.model(cls, extra_configs={"place": place_config()}, **kwargs)


def same(one, other, tolerance=1e-5):
    torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


def test_it_asks_where_the_config_says_so(place):
    model = tiny.model(vision=None, settings={"query_modality": "place"}, extra_configs={"place": place_config()})
    assert model(**tiny.texts((4, 5, 6)), place_values=PLACES).logits.shape == (3, 5)
    alone = MMFusionModel(MMFusionConfig(extra_configs={"place": place_config()}))
    assert alone.config.fusion_module_config.query_modality == "place"
    assert alone(place_values=PLACES).pooler_output.shape == (3, 16)


@pytest.mark.parametrize("cls", [MMFusionForMultiTask, MMFusionForConditionalGeneration])
def test_heads_hand_it_on(place, cls):
    if cls is MMFusionForMultiTask:
        kind = {"problem_type": "single_label_classification", "labels": ["a", "b", "c"]}
        model = with_place(cls, tasks={"kind": kind})
        outputs = model(**tiny.texts((4, 5, 6)), place_values=PLACES)
        assert outputs.logits["kind"].shape == (3, 3)
        return
    decoder = {**tiny.WORDS, "model_type": "bert", "is_decoder": True}
    model = with_place(cls, decoder_config=decoder, decoder_start_token_id=1, eos_token_id=2, pad_token_id=0)
    labels = torch.tensor([[5, 2], [6, 2], [7, 2]])
    assert model(**tiny.texts((4, 5, 6)), place_values=PLACES, labels=labels).loss.isfinite()
    assert len(model.generate(**tiny.texts((4, 5, 6)), place_values=PLACES, max_new_tokens=3)) == 3


def test_what_is_no_input_is_refused(place):
    model, inputs = with_place(), tiny.batch((4, 5, 6))
    for name in ("place_value", "places_index", "spot_values"):
        with pytest.raises(ValueError, match=f"{name}.*place_values"):
            model(**inputs, **{name: PLACES})
    with pytest.raises(ValueError, match="place_values"):  # of a model that has no places
        tiny.model()(**inputs, place_values=PLACES)
    with pytest.raises(ValueError, match="place_values"):
        model(**inputs, place_values=PLACES.tolist())


def test_it_comes_back(place, tmp_path):
    with_place().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["extra_configs"]["place"]["model_type"] == "example_place"
    assert not (tmp_path / "custom_modality.py").exists()  # its code does not travel
    assert MMFusionConfig.from_pretrained(tmp_path).place_config.hidden_size == 16


def test_a_pretrained_one(place, tmp_path, monkeypatch):
    monkeypatch.setattr(place.Place, "pretrained", True)
    torch.manual_seed(1)
    place.PlaceModel(place_config(24)).save_pretrained(tmp_path)
    model = MMFusionForClassification.from_encoders_pretrained(place=str(tmp_path), freeze_encoders=True)
    assert model.config.modalities == model.config.frozen_encoders == ["place"]
    expected = place.PlaceModel.from_pretrained(tmp_path).state_dict()
    torch.testing.assert_close(dict(model.model.encoders["place"].state_dict()), dict(expected))
    assert model.config.extra_configs["place"] is model.config.place_config


def test_nobody_registered_it(place, tmp_path, monkeypatch):
    with_place().save_pretrained(tmp_path)
    monkeypatch.delitem(MODALITIES, "place")
    with pytest.raises(ValueError, match=r"'place'.*--import"):
        MMFusionForClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="places_"):
        MMFusionConfig(extra_configs={"places_": place_config()})


def test_configs_are_copied(place):
    config = tiny.config(extra_configs={"place": {"hidden_size": 24}})
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), MMFusionConfig(**config.to_dict())):
        assert other.to_dict() == config.to_dict()
        assert isinstance(other.encoder_config("place"), place.PlaceConfig)
        assert other.place_config.hidden_size == 24
        assert other.place_config is not config.place_config
    model = with_place()
    torch.testing.assert_close(copy.deepcopy(model).state_dict(), model.state_dict())


def test_several_stand_in_the_order_of_their_names(place):
    class Area(place.Place):
        name = "area"
        inputs = ("area_values",)
        renamed = {"area_values": "place_values"}
        floats = inputs

        def dummy_inputs(self, config, device=None, dtype=None):
            return {"area_values": torch.zeros(1, 3, device=device, dtype=dtype)}

    register_modality(Area)
    try:
        config = tiny.config(extra_configs={"place": place_config(), "area": place_config()})
        assert config.modalities == ["vision", "text", "area", "place"]
        model = MMFusionForClassification(config)
        assert model(**tiny.batch((4, 5, 6)), place_values=PLACES, area_values=PLACES).logits.shape == (3, 5)
    finally:
        del MODALITIES["area"]


def test_where_its_config_goes(place):
    with pytest.raises(ValueError, match=r"extra_configs.*place"):
        MMFusionConfig(place_config=place_config())
    with pytest.raises(ValueError, match="text_config"):
        MMFusionConfig(extra_configs={"text": place_config()})
    with pytest.raises(ValueError, match="no_such_type"):
        MMFusionConfig(extra_configs={"place": {"model_type": "no_such_type"}})


def test_names_and_inputs_that_are_taken(place):
    for changes in ({"name": "text"}, {"name": "a place"}, {"name": "other", "inputs": ("pixel_values",)}):
        with pytest.raises(ValueError, match=changes["name"]):
            register_modality(type("Other", (place.Place,), changes))


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
        with pytest.raises(ValueError, match=r"MMFusionForRetrieval.*\b2\b"):
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
