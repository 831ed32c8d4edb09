# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""transformers' own common tests of models and configs, for every class, with towers of tokens and of feature maps."""

import unittest
from inspect import Parameter, Signature, signature
from unittest.mock import patch

import pytest
import torch
from transformers import BertConfig, MobileNetV2Config, ViTConfig, WhisperConfig
from transformers.models.auto import modeling_auto
from transformers.utils import logging
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor, random_attention_mask

from mm_hf import (
    MMFusionConfig,
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionForCTC,
    MMFusionForMultiTask,
    MMFusionForQuestionAnswering,
    MMFusionForRetrieval,
    MMFusionModel,
    TabularConfig,
)
from mm_hf.models.attention import MMFusionAttention
from mm_hf.models.configuration_mm_fusion import FusionModuleConfig
from mm_hf.models.pretrained_mm_fusion import MMFusionPreTrainedModel
from mm_hf.models.recurrent import RecurrentConfig


HEADS = (MMFusionForClassification, MMFusionForQuestionAnswering)
TASKS = {
    "kind": {"problem_type": "single_label_classification", "labels": ["a", "b", "c"]},
    "tone": {"problem_type": "regression"},
}


class MMFusionModelTester:
    """Makes tiny configs and inputs, under the names that the common tests read."""

    is_training = True
    batch_size = 4
    seq_length = 7
    vocab_size = 99
    image_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    hidden_size = 32

    def __init__(self, vision: dict):
        self.vision = vision
        self.attn_implementation = None

    def bert_config(self) -> BertConfig:
        return BertConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            max_position_embeddings=64,
        )

    def get_config(self) -> MMFusionConfig:
        fusion_module_config = {
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": 37,
        }
        return MMFusionConfig(
            **self.vision,
            text_config=self.bert_config().to_dict(),
            fusion_module_config=fusion_module_config,
            num_labels=3,
            tasks=TASKS,
            attn_implementation=self.attn_implementation,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[MMFusionConfig, dict]:
        inputs = {
            "input_ids": ids_tensor([self.batch_size, self.seq_length], self.vocab_size),
            "attention_mask": random_attention_mask([self.batch_size, self.seq_length]),
            "pixel_values": floats_tensor([self.batch_size, 3, self.image_size, self.image_size]),
        }
        return self.get_config(), inputs


class MMFusionCommonTests(ModelTesterMixin):
    """The common tests, and those of them that are to be met in another way.

    `vision` holds the arguments of `MMFusionConfig` that make the vision tower.
    """

    inputs_maker = MMFusionModelTester
    all_model_classes = (MMFusionModel, *HEADS, MMFusionForMultiTask, MMFusionForRetrieval)
    additional_model_inputs = ["pixel_values"]
    _is_composite = True

    def setUp(self):
        self.model_tester = self.inputs_maker(self.vision)
        logging.set_verbosity_warning()  # some tests read what is logged; scripts that ran before may be silent
        # The common tests look into the library's own tables for what a class does…
        tables = {"MODEL_MAPPING_NAMES": [MMFusionModel], "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": HEADS}
        for table, classes in tables.items():
            names = {f"mm_fusion_{number}": kind.__name__ for number, kind in enumerate(classes)}
            self.patch(patch.dict(getattr(modeling_auto, table), names))
        # …and into signatures for what it takes. Heads hand theirs on to the model, which alone lists its inputs.
        others = (MMFusionForMultiTask, MMFusionForRetrieval, MMFusionForConditionalGeneration, MMFusionForCTC)
        for forward in (kind.forward for kind in (*HEADS, *others)):
            listed = {**signature(MMFusionModel.forward).parameters, **signature(forward).parameters}
            parameters = [
                value if name == "self" else value.replace(kind=Parameter.KEYWORD_ONLY)
                for name, value in listed.items()
                if value.kind is not Parameter.VAR_KEYWORD
            ]
            self.patch(patch.object(forward, "__signature__", Signature(parameters), create=True))

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and model_class is MMFusionForCTC:
            inputs["labels"] = torch.ones(len(inputs["input_ids"]), 2, dtype=torch.long)
        if return_labels and model_class is MMFusionForMultiTask:
            rows = len(inputs["input_ids"])
            inputs["labels"] = {"kind": torch.zeros(rows, dtype=torch.long), "tone": torch.zeros(rows)}
        return inputs

    def patch(self, patcher):
        """Applies a patch until the test is over."""
        patcher.start()
        self.addCleanup(patcher.stop)

    def only(self, *model_classes):
        """Has the test look at these classes only."""
        return patch.object(self, "all_model_classes", model_classes)

    def test_config(self):
        ConfigTester(self, config_class=MMFusionConfig, has_text_modality=False).run_common_tests()

    def test_config_with_encoders(self):
        # Not all of them: in JSON the configs of encoders hold only what differs from their defaults.
        parts = self.model_tester.get_config()
        parts = {key: getattr(parts, key) for key in parts.sub_configs}
        tester = ConfigTester(self, config_class=MMFusionConfig, has_text_modality=False, **parts)
        tester.create_and_test_config_to_json_file()
        tester.create_and_test_config_from_and_save_pretrained()
        tester.create_and_test_config_from_and_save_pretrained_subfolder()
        tester.create_and_test_config_from_and_save_pretrained_composite()
        tester.create_and_test_config_with_num_labels()
        tester.check_config_can_be_init_without_params()

    def test_capture_outputs_decorator(self):
        """Asks for attention weights, which our models refuse where the implementation has none."""
        self.model_tester.attn_implementation = "eager"
        super().test_capture_outputs_decorator()

    def test_model_outputs_equivalence(self):
        """Asks for attention weights too, and subtracts what it compares: masks have to be numbers for that."""
        self.model_tester.attn_implementation = "eager"
        fuse = MMFusionModel.fuse

        def fuse_with_numbers(*args, **kwargs):
            fused = fuse(*args, **kwargs)
            fused.mask = None if fused.mask is None else fused.mask.long()
            return fused

        with patch.object(MMFusionModel, "fuse", fuse_with_numbers):
            super().test_model_outputs_equivalence()

    def test_determinism(self):
        """Compares what a model gives first, as a tensor: that of several tasks is a dict."""
        with self.only(MMFusionModel, *HEADS):
            super().test_determinism()
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = MMFusionForMultiTask(config).eval()
        with torch.no_grad():
            first, second = (model(**inputs).logits for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in TASKS)

    def test_reverse_loading_mapping(self):
        """With the names of older releases, which our models write when asked alone: the library's Trainer does not
        translate them when it restores the best model."""
        save = MMFusionPreTrainedModel.save_pretrained

        def with_old_names(model, folder, **kwargs):
            save(model, folder, save_original_format=True, **kwargs)

        with patch.object(MMFusionPreTrainedModel, "save_pretrained", with_old_names):
            super().test_reverse_loading_mapping()

    def test_load_with_mismatched_shapes(self):
        """Changes the config on its way, and so is right for one class only: each has a run of its own."""
        for head in HEADS:
            with self.only(head):
                super().test_load_with_mismatched_shapes()

    def test_sdpa_can_dispatch_non_composite_models(self):
        """Skips itself for composite models, though it holds for ours."""
        with patch.object(self, "_is_composite", False):
            super().test_sdpa_can_dispatch_non_composite_models()

    def test_sdpa_can_dispatch_composite_models(self):
        """As in the library, which looks for towers under other names, and has composite models rewrite the test."""
        config = self.model_tester.get_config()
        for model_class in self.all_model_classes:
            for requested in (None, "sdpa", "eager"):
                config._attn_implementation = requested
                model = model_class._from_config(config, attn_implementation=requested).base_model
                for name, encoder in model.encoders.items():
                    expected = "sdpa" if encoder._supports_sdpa and requested != "eager" else "eager"
                    assert encoder.config._attn_implementation == expected, name
                layers = [module for module in model.fusion.modules() if isinstance(module, MMFusionAttention)]
                assert layers
                assert {layer.config._attn_implementation for layer in layers} == {requested or "sdpa"}

    def refuse_sdpa_with_attentions(self):
        """Stands for the test of eager against sdpa that asks both for attention weights: sdpa has none, and our
        models say so."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            if model_class is MMFusionForRetrieval:  # it gives none
                continue
            model = model_class._from_config(config, attn_implementation="sdpa")
            with pytest.raises(ValueError, match=r"attn_implementation='eager'.*'sdpa'"):
                model(**inputs, output_attentions=True)


def but_for_retrieval(test):
    """The same test for all other classes."""

    def run(self, *args, **kwargs):
        with self.only(*(kind for kind in self.all_model_classes if kind is not MMFusionForRetrieval)):
            test(self, *args, **kwargs)

    return run


# It gives embeddings, as tensors, and no states of its encoders or of the fusion, which it does not run to search.
STATES = ("test_attention_outputs", "test_can_capture_specific_layers_hidden_states", "test_hidden_states_output")
STATES += ("test_get_text_features", "test_get_image_features")
for name in dir(ModelTesterMixin):
    if name.startswith(STATES) and getattr(ModelTesterMixin, name) is not None:
        setattr(MMFusionCommonTests, name, but_for_retrieval(getattr(ModelTesterMixin, name)))


for name in dir(ModelTesterMixin):  # the names are numbered by the library
    if name.startswith("test_eager_matches_sdpa_inference") and name.endswith("output_attentions"):
        setattr(MMFusionCommonTests, name, MMFusionCommonTests.refuse_sdpa_with_attentions)


class MMFusionViTTest(MMFusionCommonTests, unittest.TestCase):
    # Question answering is classification, several tasks are several heads: both are in the slow tests.
    all_model_classes = (MMFusionModel, MMFusionForClassification, MMFusionForRetrieval)
    vision = {
        "vision_config": ViTConfig(
            image_size=32,
            patch_size=16,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=37,
        ).to_dict()
    }


@pytest.mark.slow  # the second tower: `make test-slow`
class MMFusionMobileNetV2Test(MMFusionCommonTests, unittest.TestCase):
    # The layers above the seventh are cut off: the full depth takes twice the time.
    vision = {
        "vision_config": MobileNetV2Config(image_size=32, depth_multiplier=0.25, tf_padding=False).to_dict(),
        "vision_feature_layer": [4, 6],
    }


class MMFusionSoundTester(MMFusionModelTester):
    """Text and sound."""

    def get_config(self) -> MMFusionConfig:
        config = super().get_config()
        config.vocab_size, config.pad_token_id = 20, 0
        return config

    def prepare_config_and_inputs_for_common(self) -> tuple[MMFusionConfig, dict]:
        config, inputs = super().prepare_config_and_inputs_for_common()
        del inputs["pixel_values"]
        frames = 2 * config.audio_config.max_source_positions
        inputs["input_features"] = floats_tensor([self.batch_size, config.audio_config.num_mel_bins, frames])
        return config, inputs


@pytest.mark.slow
class MMFusionWhisperTest(MMFusionCommonTests, unittest.TestCase):
    all_model_classes = (MMFusionModel, MMFusionForClassification, MMFusionForMultiTask, MMFusionForCTC)
    additional_model_inputs = ["input_features"]
    inputs_maker = MMFusionSoundTester
    # Of classes outside the library it initialises no module without parameters of its own, as Whisper's encoder is,
    # which sets its positions then. From a checkpoint they come with all others.
    test_can_init_all_missing_weights = None
    vision = {
        "audio_config": WhisperConfig(
            vocab_size=99,
            d_model=32,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=37,
            decoder_ffn_dim=37,
            num_mel_bins=8,
            max_source_positions=10,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        ).to_dict()
    }


class MMFusionTableTester(MMFusionModelTester):
    """Text and a table."""

    def prepare_config_and_inputs_for_common(self) -> tuple[MMFusionConfig, dict]:
        config, inputs = super().prepare_config_and_inputs_for_common()
        del inputs["pixel_values"]
        inputs["numerical_values"] = floats_tensor([self.batch_size, 3])
        inputs["categorical_ids"] = ids_tensor([self.batch_size, 2], 5)
        return config, inputs


@pytest.mark.slow
class MMFusionTableTest(MMFusionCommonTests, unittest.TestCase):
    all_model_classes = (MMFusionModel, MMFusionForClassification, MMFusionForMultiTask)
    additional_model_inputs = ["numerical_values", "categorical_ids"]
    inputs_maker = MMFusionTableTester
    vision = {"tabular_config": TabularConfig(num_numerical=3, vocab_sizes=[5, 5], hidden_size=32).to_dict()}


class MMFusionSeriesTester(MMFusionModelTester):
    """Text and a time series."""

    def prepare_config_and_inputs_for_common(self) -> tuple[MMFusionConfig, dict]:
        config, inputs = super().prepare_config_and_inputs_for_common()
        del inputs["pixel_values"]
        inputs["series_values"] = floats_tensor([self.batch_size, 6, 3])
        return config, inputs


@pytest.mark.slow
class MMFusionSeriesTest(MMFusionCommonTests, unittest.TestCase):
    all_model_classes = (MMFusionModel, MMFusionForClassification, MMFusionForMultiTask)
    additional_model_inputs = ["series_values"]
    inputs_maker = MMFusionSeriesTester
    vision = {"series_config": RecurrentConfig(input_size=3, hidden_size=32).to_dict()}


class MMFusionGenerationTester(MMFusionModelTester):
    """The same with a decoder, and what it has written up to now."""

    def get_config(self) -> MMFusionConfig:
        config = super().get_config()
        ends = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        given = {key: getattr(config, key) for key in ("vision_config", "text_config", "fusion_module_config")}
        return MMFusionConfig(
            **given, **ends, decoder_config=self.bert_config().to_dict(), attn_implementation=self.attn_implementation
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[MMFusionConfig, dict]:
        config, inputs = super().prepare_config_and_inputs_for_common()
        inputs["decoder_input_ids"] = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        return config, inputs


class MMFusionGenerationTest(GenerationTesterMixin, MMFusionCommonTests, unittest.TestCase):
    is_encoder_decoder = True
    all_model_classes = (MMFusionForConditionalGeneration,)
    all_generative_model_classes = (MMFusionForConditionalGeneration,)
    vision = MMFusionViTTest.vision
    inputs_maker = MMFusionGenerationTester

    # Of the config, which the other classes test, and of heads with a number of labels.
    test_config = test_config_with_encoders = test_load_with_mismatched_shapes = None
    # It replaces those for several classes.
    test_determinism = ModelTesterMixin.test_determinism

    def setUp(self):
        super().setUp()
        names = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        self.patch(patch.dict(names, {"mm_fusion": MMFusionForConditionalGeneration.__name__}))

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        return {**inputs, "labels": inputs["decoder_input_ids"]} if return_labels else inputs

    def test_attention_outputs(self):
        """The decoder looks at more tokens than the query has, which the library's test takes for one number."""
        self.model_tester.attn_implementation = "eager"
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = MMFusionForConditionalGeneration(config).eval()
        outputs = model(**inputs, output_attentions=True)
        written, asked = self.model_tester.seq_length, self.model_tester.seq_length
        memory = outputs.encoder_last_hidden_state.shape[1]
        for attentions, shape in (
            (outputs.encoder_attentions, (asked, asked)),
            (outputs.decoder_attentions, (written, written)),
            (outputs.cross_attentions, (written, memory)),
        ):
            assert len(attentions) == self.model_tester.num_hidden_layers
            for weights in attentions:
                assert weights.shape[1:] == (self.model_tester.num_attention_heads, *shape)
                torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


class FusionModuleConfigTest(unittest.TestCase):
    def test_config(self):
        ConfigTester(self, FusionModuleConfig, has_text_modality=False, hidden_size=64).run_common_tests()
