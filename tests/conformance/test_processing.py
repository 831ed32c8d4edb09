# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""transformers' own common tests of processors, with a real tokenizer, image processor and feature extractor, all
made here."""

import unittest

from transformers import BertTokenizer, WhisperFeatureExtractor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers_tests.test_processing_common import ProcessorTesterMixin

from mm_hf import MMFusionProcessor


class MMFusionProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = MMFusionProcessor
    audio_unstructured_max_length = 300  # samples: the library's 76 are too few for Whisper's window of 400

    @classmethod
    def _setup_tokenizer(cls):
        letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lower", "newer", "upper", "older", "longer", "string"]
        tokens = [*words, *letters, *(f"##{letter}" for letter in letters)]
        return BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}, model_max_length=512)

    @classmethod
    def _setup_image_processor(cls):
        return ViTImageProcessorPil(size={"height": 32, "width": 32})

    @classmethod
    def _setup_feature_extractor(cls):
        return WhisperFeatureExtractor(feature_size=8, chunk_length=1)

    def test_subprocessor_defaults_3_audio(self):
        """As in the library, whose test takes the mask for the text's."""
        processor, sounds = self.get_processor(), self.prepare_audio_inputs(batch_size=2)
        found = processor(audio=sounds)
        expected = processor.feature_extractor(sounds, return_attention_mask=True, return_tensors="pt")
        assert set(found) == {"input_features", "audio_attention_mask"}
        assert found["input_features"].equal(expected["input_features"])
        assert found["audio_attention_mask"].equal(expected["attention_mask"])

    def test_processor_text_has_no_visual(self):
        """As in the library, which gives a list of images for each row: our rows have one image, or None."""
        processor = self.get_processor()
        images, texts = self.prepare_images_inputs(batch_size=3), self.prepare_text_inputs(batch_size=3)
        complete = processor(images=images, text=texts)
        lacking = processor(images=[None, *images[1:]], text=texts)
        assert lacking["input_ids"].tolist() == complete["input_ids"].tolist()
        assert lacking["vision_index"].tolist() == [-1, 0, 1]
        assert lacking["pixel_values"].equal(complete["pixel_values"][1:])
