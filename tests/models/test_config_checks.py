"""What a config, a schema of a table or a scaler of series may hold: told in one line, before memory is taken."""

import copy
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tiny_models as tiny
from transformers import BertConfig, CLIPConfig, ViTConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from mm_hf import (
    FusionModuleConfig,
    MMFusionConfig,
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionModel,
    MMFusionProcessor,
)
from mm_hf.models.config_checks import FUSION_RANGES, MODEL_RANGES, ConfigError, check_part, read_labels
from mm_hf.models.files import read_json
from mm_hf.models.recurrent import RecurrentConfig
from mm_hf.models.series import SeriesScaler
from mm_hf.models.tabular import TableSchema, TabularConfig
from mm_hf.models.tasks import read_tasks


REPOSITORY = Path(__file__).parents[2]
STORED = REPOSITORY / "tests/data/checkpoints/heads"
NAN, INF = float("nan"), float("inf")
WORDS = tiny.WORDS


def refused(action, *parts: str) -> str:
    """That an action is refused with a ValueError of one line, which holds all parts."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    for part in parts:
        assert part in message
    return message


def model_config(**kwargs) -> MMFusionConfig:
    return MMFusionConfig(text_config=BertConfig(**WORDS), vision_config=ViTConfig(**tiny.PATCHES), **kwargs)


def fusion(**kwargs) -> MMFusionConfig:
    return model_config(fusion_module_config=kwargs)


def text(**kwargs) -> MMFusionConfig:
    return MMFusionConfig(text_config=BertConfig(**{**WORDS, **kwargs}))


# --- Every number


CONFIGS = {
    "fusion": (FusionModuleConfig, fusion, FUSION_RANGES),
    "model": (MMFusionConfig, model_config, MODEL_RANGES),
    "recurrent": (RecurrentConfig, RecurrentConfig, None),
    "tabular": (TabularConfig, lambda **kwargs: TabularConfig(**{"num_numerical": 1, **kwargs}), None),
}
# The ids of tokens are those of a vocabulary that only the decoder knows; layers are counted from the end, too.
NO_SIZES = ("decoder_start_token_id", "eos_token_id", "pad_token_id", "vision_feature_layer")


def numeric_fields(config_class) -> list[tuple[str, tuple]]:
    """Those of the class itself that hold one number, and the types that they may have."""
    own = {key.name for key in fields(config_class)} - {key.name for key in fields(config_class.__mro__[1])}
    found = []
    for key in fields(config_class):
        kinds = get_args(key.type) or (key.type,)
        if key.name in own and key.name not in NO_SIZES and {int, float} & set(kinds):
            found.append((key.name, kinds))
    return found


NUMBERS = [(name, *field) for name, (config_class, _, _) in CONFIGS.items() for field in numeric_fields(config_class)]


@pytest.mark.parametrize(("config", "name", "kinds"), NUMBERS)
def test_no_number_is_absurd(config, name, kinds):
    """Whatever keys there are: a new one without a range fails here."""
    make = CONFIGS[config][1]
    values = [True, "four", [4], -(10**40) if int in kinds else -1e40, 10**40 if int in kinds else 1e40]
    values += [NAN, INF, -INF] if float in kinds else [1.5]
    for value in values:
        refused(lambda value=value: make(**{name: value}), name)


def test_the_tables_name_every_number_and_no_other():
    for name, (config_class, _, ranges) in CONFIGS.items():
        if ranges is not None:
            known = {key for key, _ in numeric_fields(config_class)}
            assert set(ranges) <= known, name
            assert known - set(ranges) <= {"modality_dropout"}, name  # which has a check of its own


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: fusion(num_hidden_layers=-1), ("num_hidden_layers must be at least 0, got -1",)),
        (lambda: fusion(num_hidden_layers=1000), ("num_hidden_layers must be at most 999, got 1000",)),
        (lambda: fusion(num_attention_heads=0), ("num_attention_heads must be at least 1, got 0",)),
        (lambda: fusion(num_attention_heads=-2), ("num_attention_heads must be at least 1, got -2",)),
        (lambda: fusion(hidden_size=0), ("hidden_size must be at least 1, got 0",)),
        (lambda: fusion(hidden_size=-32), ("hidden_size must be at least 1, got -32",)),
        (lambda: fusion(hidden_size=10**6), ("hidden_size must be at most 65,536, got 1000000",)),
        (lambda: fusion(intermediate_size=0), ("intermediate_size must be at least 1, got 0",)),
        (lambda: fusion(layer_norm_eps=-1e-5), ("layer_norm_eps must be from 0 to 1, got -1e-05",)),
        (lambda: fusion(layer_norm_eps=NAN), ("layer_norm_eps must be from 0 to 1, got nan",)),
        (lambda: fusion(initializer_range=-0.1), ("initializer_range must be at least 0, got -0.1",)),
        (lambda: fusion(hidden_dropout_prob=1.5), ("hidden_dropout_prob must be from 0 to 1, got 1.5",)),
        (lambda: fusion(hidden_act="gleu"), ("hidden_act", "'gleu'", "Did you mean 'gelu'")),
        (lambda: fusion(memory_layers=1000), ("memory_layers must be at most 999, got 1000",)),
        (lambda: fusion(hidden_size=65536, num_hidden_layers=100), ("fusion_module_config", "6,872 billion", "200")),
        (
            lambda: fusion(num_hidden_layers=True),
            ("fusion_module_config: num_hidden_layers must be of type int", "bool"),
        ),
        (lambda: model_config(num_images=10**9), ("num_images must be at most 10,000, got 1000000000",)),
        (lambda: model_config(classifier_dropout=-0.1), ("classifier_dropout must be from 0 to 1, got -0.1",)),
        (lambda: model_config(projection_dim=10**9), ("projection_dim must be at most 65,536",)),
        (lambda: model_config(logit_scale_init_value=100), ("logit_scale_init_value must be at most 80, got 100",)),
        (lambda: model_config(ctc_stride=10**9), ("ctc_stride must be at most",)),
        (lambda: model_config(vocab_size=-1), ("vocab_size must be at least 1, got -1",)),
        (lambda: model_config(vision_feature_layer=[]), ("vision_feature_layer", "[]")),
        (
            lambda: model_config(freeze_encoders="vision"),
            ("freeze_encoders must be of type bool | list[str]", "'vision'"),
        ),
        (lambda: model_config(freeze_encoders={"vision": True}), ("freeze_encoders", "dict")),
        (lambda: model_config(problem_type="guessing"), ("problem_type must be one of", "'regression'", "'guessing'")),
        (lambda: model_config(problem_type="regresion"), ("Did you mean 'regression'",)),
        (lambda: model_config(architectures="MMFusionModel"), ("architectures must be a list", "'MMFusionModel'")),
        (lambda: model_config(dtype="float33"), ("dtype", "float32", "'float33'")),
        (lambda: model_config(dtype="load"), ("dtype", "'load'")),
        (lambda: RecurrentConfig(pad_token_id=10**6), ("pad_token_id must be at most 30,521, got 1000000",)),
        (lambda: TabularConfig(vocab_sizes=[5, 10**12]), ("vocab_sizes must be at most", "1000000000000")),
    ],
)
def test_numbers_and_names(make, parts):
    refused(make, *parts)


def test_what_people_use_is_taken():
    """Bounds that are too narrow would be worse than none."""
    for kwargs in (
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 48},
        {"hidden_size": 16384, "num_attention_heads": 128, "num_hidden_layers": 1},
        {"layer_norm_eps": 1e-12},
        {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 1},
        {"initializer_range": 0.0},
        {"hidden_act": "quick_gelu"},
    ):
        fusion(**kwargs)
    assert model_config(num_images=1000).num_images == 1000
    many = {number: f"class {number}" for number in range(30_000)}
    assert model_config(id2label=many).num_labels == 30_000
    assert model_config(num_labels=0).num_labels == 0  # a model without a head
    assert model_config().id2label == {0: "LABEL_0", 1: "LABEL_1"}


@pytest.mark.slow
def test_the_library_s_own_configs_are_taken():
    """All types that it knows, at their defaults."""
    logging.set_verbosity_error()
    checked = 0
    for model_type in CONFIG_MAPPING:
        try:
            config = CONFIG_MAPPING[model_type]()
        except Exception:  # it has no defaults
            continue
        check_part(model_type, config)
        checked += 1
    logging.set_verbosity_warning()
    assert checked > 300


# --- Encoders


ENCODERS = {
    "layers": ({"num_hidden_layers": 10**9}, ("text_config.num_hidden_layers must be at most 999", "1000000000")),
    "negative layers": ({"num_hidden_layers": -1}, ("text_config.num_hidden_layers must be at least 0, got -1",)),
    "heads": ({"num_attention_heads": 0}, ("text_config.num_attention_heads must be at least 1, got 0",)),
    "width": ({"hidden_size": -32}, ("text_config.hidden_size must be at least 1, got -32",)),
    "words": ({"vocab_size": -1}, ("text_config.vocab_size must be at least 1, got -1",)),
    "many words": ({"vocab_size": 10**12}, ("text_config.vocab_size must be at most", "1000000000000")),
    "eps": ({"layer_norm_eps": NAN}, ("text_config.layer_norm_eps", "nan")),
    "negative eps": ({"layer_norm_eps": -1e-3}, ("text_config.layer_norm_eps must be from 0 to 1, got -0.001",)),
    "dropout": ({"hidden_dropout_prob": 2}, ("text_config.hidden_dropout_prob must be from 0 to 1, got 2",)),
    "range": ({"initializer_range": INF}, ("text_config.initializer_range", "inf")),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_numbers_of_an_encoder(kind):
    kwargs, parts = ENCODERS[kind]
    refused(lambda: text(**kwargs), *parts)
    refused(lambda: MMFusionConfig(text_config={"model_type": "bert", **WORDS, **kwargs}), *parts)


@pytest.mark.parametrize(
    ("kwargs", "parts"),
    [
        ({"text_config": "bert"}, ("text_config must be of type", "str 'bert'")),
        ({"text_config": ["bert"]}, ("text_config must be of type", "list ['bert']")),
        ({"text_config": {"model_type": "brt"}}, ("text_config", "'brt'", "Did you mean 'bert'")),
        ({"text_config": {"model_type": ["bert"]}}, ("text_config", "['bert']")),
        ({"text_config": {"hidden_size": "wide"}}, ("text_config", "hidden_size", "'wide'")),
        ({"text_config": {"num_labels": 10**9}}, ("text_config.num_labels must be at most 100,000",)),
        (
            {"vision_config": {"model_type": "clip", "text_config": {"num_labels": 10**9}}},
            ("vision_config.text_config.num_labels",),
        ),
        ({"fusion_module_config": []}, ("fusion_module_config", "list []")),
        ({"fusion_module_config": {"num_labels": 10**9}}, ("fusion_module_config.num_labels",)),
        ({"decoder_config": 3}, ("decoder_config", "int 3")),
    ],
)
def test_parts_of_the_wrong_kind(kwargs, parts):
    refused(lambda: MMFusionConfig(**kwargs), *parts)


@pytest.mark.parametrize(
    "build",
    [
        lambda: MMFusionModel(text(type_vocab_size=10**12)),
        lambda: MMFusionModel(text(type_vocab_size=10**30)),
        lambda: MMFusionModel(text(max_position_embeddings=10**12)),
        lambda: MMFusionModel(text(intermediate_size=10**9, hidden_size=2048, num_attention_heads=2)),
        lambda: MMFusionModel(MMFusionConfig(vision_config=ViTConfig(**{**tiny.PATCHES, "image_size": 10**8}))),
    ],
)
def test_an_encoder_that_no_machine_holds(build):
    refused(build, "encoder", "parameters")


def test_a_decoder_that_no_machine_holds():
    config = model_config(
        decoder_config=BertConfig(**{**WORDS, "type_vocab_size": 10**12}), decoder_start_token_id=1, eos_token_id=2
    )
    refused(lambda: MMFusionForConditionalGeneration(config), "decoder_config", "32,000 billion")


def test_an_activation_that_is_none():
    refused(lambda: MMFusionModel(text(hidden_act="foo")), "text encoder (bert)", "'foo'")


def test_what_is_changed_later_is_looked_at_again(tmp_path):
    config = model_config()
    config.num_images = 10**9
    refused(lambda: MMFusionModel(config), "num_images must be at most 10,000")
    refused(lambda: config.save_pretrained(tmp_path), "num_images must be at most 10,000")
    model_config().save_pretrained(tmp_path)
    refused(lambda: MMFusionConfig.from_pretrained(tmp_path, num_images=10**9), "num_images must be at most 10,000")
    refused(lambda: setattr(model_config(), "num_images", "two"), "num_images must be of type int, got str 'two'")


def test_a_composite_gives_its_part_all_the_same():
    composite = CLIPConfig(text_config={**WORDS, **tiny.SPECIAL_IDS}, vision_config=tiny.PATCHES, projection_dim=16)
    assert MMFusionConfig(vision_config=composite.to_dict()).vision_config.hidden_size == 32


# --- Labels


LABELS = {
    "a gap": ({"id2label": {0: "a", 2: "b"}}, ("id2label", "0 to 1", "[1, 2]")),
    "not from 0": ({"id2label": {1: "a", 2: "b"}}, ("id2label", "[0, 2]")),
    "a name twice": ({"id2label": {0: "a", 1: "b", 2: "a"}}, ("id2label", "0 and 2", "'a'")),
    "numbers for names": ({"id2label": {0: 1, 1: 2}}, ("id2label", "text", "1")),
    "words for numbers": ({"id2label": {"one": "a"}}, ("id2label", "'one'")),
    "two spellings": ({"id2label": {"0": "a", "00": "b"}}, ("id2label", "'00'")),
    "a list": ({"id2label": ["a", "b"]}, ("id2label must be a dict", "['a', 'b']")),
    "a list of numbers": ({"label2id": [0, 1]}, ("label2id must be a dict", "[0, 1]")),
    "two answers": (
        {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}},
        ("label2id and id2label disagree about 'a': 1 and 0",),
    ),
    "other names": ({"id2label": {0: "a"}, "label2id": {"b": 0}}, ("label2id and id2label disagree about 'b'",)),
    "a number twice": ({"label2id": {"a": 0, "b": 0}}, ("label2id", "several names")),
    "a million": ({"num_labels": 10**6}, ("num_labels must be at most 100,000, got 1000000",)),
    "a million names": (
        {"id2label": dict.fromkeys(range(100_001), "a")},
        ("labels in id2label must be at most 100,000, got 100001",),
    ),
    "below none": ({"num_labels": -1}, ("num_labels must be at least 0, got -1",)),
    "true": ({"num_labels": True}, ("num_labels must be a whole number, got bool True",)),
    "decimals": ({"num_labels": 2.5}, ("num_labels must be a whole number, got float 2.5",)),
    "a text": ({"num_labels": "3"}, ("num_labels must be a whole number, got str '3'",)),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_are_none(kind):
    kwargs, parts = LABELS[kind]
    refused(lambda: model_config(**kwargs), *parts)


@pytest.mark.parametrize("kind", ["a gap", "not from 0", "a name twice", "words for numbers", "two answers"])
def test_labels_in_a_file(kind, tmp_path):
    model_config().save_pretrained(tmp_path)
    kwargs, parts = LABELS[kind]
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **kwargs}))
    refused(lambda: MMFusionConfig.from_pretrained(tmp_path), *parts)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"id2label": {0: "a", 1: "b", 2: "c"}},
        {"id2label": {"0": "a", "1": "b", "2": "c"}},
        {"id2label": {2: "c", 0: "a", 1: "b"}},
        {"label2id": {"a": 0, "b": 1, "c": 2}},
        {"label2id": {"a": "0", "b": "1", "c": "2"}},
        {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}},
        # What a config has whose names were changed by hand.
        {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}},
        {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {}},
        {"id2label": {0: "a", 1: "b", 2: "c"}, "num_labels": 3},
    ],
)
def test_numbers_and_names_of_labels_follow_each_other(kwargs, tmp_path):
    config = model_config(**kwargs)
    for _ in range(2):
        assert config.id2label == {0: "a", 1: "b", 2: "c"}
        assert config.label2id == {"a": 0, "b": 1, "c": 2}
        assert config.num_labels == 3
        config.save_pretrained(tmp_path)
        config = MMFusionConfig.from_pretrained(tmp_path)


def test_names_that_are_set_later(tmp_path):
    config = model_config(num_labels=4)
    config.id2label = {0: "no", 1: "yes"}
    assert (config.num_labels, config.label2id) == (2, {"no": 0, "yes": 1})
    refused(lambda: setattr(config, "id2label", {0: "no", 2: "yes"}), "id2label", "[1, 2]")
    assert config.id2label == {0: "no", 1: "yes"}
    config.num_labels = 3
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    config.label2id = {"no": 0, "yes": 1, "perhaps": 2}
    refused(lambda: config.save_pretrained(tmp_path), "disagree about 'no'")
    model_config(num_labels=3).save_pretrained(tmp_path)
    assert MMFusionConfig.from_pretrained(tmp_path, id2label={0: "a", 1: "b"}).label2id == {"a": 0, "b": 1}
    assert MMFusionConfig.from_pretrained(tmp_path, label2id={"a": 0, "b": 1}).id2label == {0: "a", 1: "b"}
    assert read_labels(None, None) == (None, None)


def test_a_classifier_needs_a_label():
    refused(lambda: MMFusionForClassification(model_config(num_labels=0)), "num_labels", "got 0")


# --- Tasks


TONE = {"problem_type": "single_label_classification", "labels": ["low", "high"]}
PRICE = {"problem_type": "regression"}
TASKS = {
    "no dict": ({"tone": ["low"]}, ("'tone'", "['low']")),
    "a text for labels": ({"tone": {**TONE, "labels": "low"}}, ("'tone'", "list of different names", "'low'")),
    "numbers for labels": ({"tone": {**TONE, "labels": [1, 2]}}, ("'tone'", "[1, 2]")),
    "labels twice": ({"tone": {**TONE, "labels": ["low", "low"]}}, ("'tone'", "different names")),
    "a text for a number": ({"price": {**PRICE, "num_labels": "3"}}, ("'price': num_labels", "'3'")),
    "true": ({"price": {**PRICE, "num_labels": True}}, ("'price': num_labels", "bool True")),
    "a million": ({"price": {**PRICE, "num_labels": 10**6}}, ("'price': num_labels must be at most 100,000",)),
    "a true weight": ({"price": {**PRICE, "weight": True}}, ("'price': weight", "True")),
    "no weight": ({"price": {**PRICE, "weight": NAN}}, ("'price': weight", "nan")),
    "smoothing": ({"tone": {**TONE, "label_smoothing": "a"}}, ("'tone': label_smoothing", "finite number", "'a'")),
    "weights": (
        {"tone": {**TONE, "class_weights": "ab"}},
        ("'tone': class_weights", "list of finite numbers", "'ab'"),
    ),
    "a mean": ({"price": {**PRICE, "label_mean": 3, "label_scale": [1]}}, ("'price': label_mean", "3")),
    "no scale": ({"price": {**PRICE, "label_mean": [3], "label_scale": [NAN]}}, ("'price': label_scale", "nan")),
}


@pytest.mark.parametrize("kind", TASKS)
def test_tasks_that_are_none(kind):
    tasks, parts = TASKS[kind]
    refused(lambda: read_tasks(tasks), *parts)


# --- Tables and series


SCHEMAS = {
    "std 0": ({"numerical": {"a": [1, 0]}}, ("'a'", "above 0", "[1, 0]")),
    "std below 0": ({"numerical": {"a": [1, -2.0]}}, ("'a'", "[1, -2.0]")),
    "std NaN": ({"numerical": {"a": [1, NAN]}}, ("'a'", "nan")),
    "std inf": ({"numerical": {"a": [1, INF]}}, ("'a'", "inf")),
    "mean NaN": ({"numerical": {"a": [NAN, 1]}}, ("'a'", "nan")),
    "mean inf": ({"numerical": {"a": [-INF, 1]}}, ("'a'", "-inf")),
    "a huge mean": ({"numerical": {"a": [10**400, 1]}}, ("'a'", "finite")),
    "three": ({"numerical": {"a": [1, 1, 1]}}, ("'a'", "[1, 1, 1]")),
    "a text": ({"numerical": {"a": "12"}}, ("'a'", "'12'")),
    "texts": ({"numerical": {"a": ["1", "2"]}}, ("'a'", "['1', '2']")),
    "true": ({"numerical": {"a": [True, 1]}}, ("'a'", "True")),
    "no dict": ({"numerical": [1, 2]}, ("numerical", "dict", "[1, 2]")),
    "categories twice": ({"categorical": {"b": ["x", "y", "x"]}}, ("'b'", "'x'", "more than once")),
    "a text of categories": ({"categorical": {"b": "xy"}}, ("'b'", "'xy'")),
    "numbers": ({"categorical": {"b": [1, 2]}}, ("'b'", "[1, 2]")),
    "farthest": ({"numerical": {"a": [0, 1]}, "farthest": -1}, ("farthest", "-1")),
    "farthest NaN": ({"numerical": {"a": [0, 1]}, "farthest": NAN}, ("farthest", "nan")),
    "as written": ({"numerical": {"a": [0, 1]}, "as_written": "yes"}, ("as_written", "'yes'")),
    "another key": ({"numerical": {"a": [0, 1]}, "farhest": 1}, ("'farhest'", "Did you mean 'farthest'")),
}
SCALERS = {
    "std 0": ({"means": [0, 0], "stds": [1, 0]}, ("above 0", "[1, 0]")),
    "std NaN": ({"means": [0], "stds": [NAN]}, ("nan",)),
    "mean inf": ({"means": [INF], "stds": [1]}, ("inf",)),
    "channels": ({"means": [0, 0], "stds": [1]}, ("[0, 0]", "[1]")),
    "none": ({"means": [], "stds": []}, ("[]",)),
    "a text": ({"means": "ab", "stds": [1, 1]}, ("'ab'",)),
    "true": ({"means": [True], "stds": [1]}, ("True",)),
    "nothing": ({"means": None, "stds": [1]}, ("None",)),
    "another key": ({"means": [0], "stds": [1], "steps": 3}, ("steps",)),
    "a key less": ({"means": [0]}, ("stds",)),
}


@pytest.mark.parametrize(
    ("key", "values", "parts"),
    [
        *[pytest.param("table_schema", *case, id=f"table: {name}") for name, case in SCHEMAS.items()],
        *[pytest.param("series_scaler", *case, id=f"series: {name}") for name, case in SCALERS.items()],
        ("table_schema", [1], ("table_schema", "[1]")),
        ("series_scaler", "x", ("series_scaler", "'x'")),
        ("image_channels", "x", ("image_channels", "'x'")),
        ("image_channels", 0, ("image_channels", "0")),
    ],
)
def test_parts_of_a_processor(key, values, parts, tmp_path):
    """As they are made, and as they come back from a file."""
    scaler = {"means": [0.0], "stds": [1.0]}
    refused(lambda: MMFusionProcessor(**{"series_scaler": scaler, key: values}), *parts)
    MMFusionProcessor(series_scaler=scaler).save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: values}))
    if values != {"means": [0]}:
        of_file = ("processor_config.json", "NaN") if "NaN" in file.read_text() else parts
        refused(lambda: MMFusionProcessor.from_pretrained(tmp_path), *of_file)


def test_arrays_are_numbers_too():
    scaler = SeriesScaler(np.array([1.0, 2.0], dtype=np.float32), np.array([1, 2]))
    assert scaler == SeriesScaler([1.0, 2.0], [1.0, 2.0])
    schema = TableSchema({"a": (np.float32(1), np.float64(2))}, {"b": np.array(["x", "y"])})
    assert schema == TableSchema({"a": (1.0, 2.0)}, {"b": ["x", "y"]})


# --- Files


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ("damaged",)),
        ('{"a": 1', ("damaged",)),
        (b"\xff\xfe\x00", ("damaged",)),
        ("[1]", ("must hold a dict, but it holds a list",)),
        ('"text"', ("must hold a dict, but it holds a str",)),
        ('{"x": 1' + "0" * 5000 + "}", ("damaged", "digits")),
        ('{"x": ' + nested(100_000) + "}", ("deep",)),
        ('{"x": ' + nested(500) + "}", ("deep",)),
        ('{"x": ' + nested(70) + "}", ("deep",)),
    ],
)
def test_json_that_cannot_be_read(content, parts, tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (
        lambda: read_json(file),
        lambda: MMFusionConfig.from_pretrained(tmp_path),
        lambda: MMFusionModel.from_pretrained(tmp_path),
    ):
        refused(read, "config.json", *parts)


def test_json_that_can_be_read(tmp_path):
    file = tmp_path / "some.json"
    for value in ({}, {"a": {"b": [1, None]}}, {"x": json.loads(nested(60))}):
        file.write_text(json.dumps(value))
        assert read_json(file) == value
    file.write_text('\ufeff{"loss": Infinity}', encoding="utf-8")  # what results hold may be infinite
    assert read_json(file) == {"loss": math.inf}


@pytest.mark.parametrize("content", ["[1]", '"text"', '{"x": ' + nested(500) + "}", '{"x": ' + nested(100_000) + "}"])
def test_a_processor_s_file_that_cannot_be_read(content, tmp_path):
    (tmp_path / "processor_config.json").write_text(content)
    refused(lambda: MMFusionProcessor.from_pretrained(tmp_path), "processor_config.json", "deep")


# --- Memory


TERABYTES = """
import json, pathlib, resource, sys
import mm_hf
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refused = []
for change in json.loads(sys.argv[1]):
    config = json.loads(pathlib.Path(sys.argv[2]).read_text())
    for key, value in change.items():
        inner = config
        *path, last = key.split(".")
        for name in path:
            inner = inner[name]
        inner[last] = value
    if "num_labels" in change:
        config.pop("id2label", None), config.pop("label2id", None)
    folder = pathlib.Path(sys.argv[3])
    (folder / "config.json").write_text(json.dumps(config))
    for build in (lambda: mm_hf.MMFusionForClassification.from_pretrained(folder),
                  lambda: mm_hf.MMFusionForClassification(mm_hf.MMFusionConfig.from_pretrained(folder))):
        try:
            build()
        except ValueError as error:
            refused.append(str(error))
        else:
            refused.append("")
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"refused": refused, "megabytes": grown / 1024}))
"""


def test_a_config_that_asks_for_terabytes_takes_no_memory(tmp_path):
    changes = [
        {"num_images": 10**9},
        {"num_labels": 10**6},
        {"text_config.vocab_size": 10**12},
        {"text_config.type_vocab_size": 10**11},
        {"text_config.num_hidden_layers": 10**6},
        {"fusion_module_config.hidden_size": 65536, "fusion_module_config.num_hidden_layers": 900},
    ]
    folder = shutil.copytree(STORED / "classification", tmp_path / "checkpoint")
    done = subprocess.run(
        [sys.executable, "-c", TERABYTES, json.dumps(changes), STORED / "classification/config.json", folder],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["refused"]) == 2 * len(changes)
    for message, change in zip(found["refused"], [change for change in changes for _ in range(2)]):
        assert message, change
        assert "\n" not in message
    assert found["megabytes"] < 200


def test_errors_can_be_copied():
    """Loader workers send theirs to the main process."""
    assert str(copy.deepcopy(ConfigError("a\nmessage"))) == "a message"
