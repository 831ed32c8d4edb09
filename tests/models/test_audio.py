"""Sound as a modality: every kind of encoder, absent sounds, padding, and Whisper's encoder cut to the clip."""

import pytest
import tiny_models as tiny
import torch
from transformers import AutoModel, WhisperModel

from mm_hf import MMFusionConfig, MMFusionModel
from mm_hf.models.encoders import POSITIONS_A_SECOND, cut_to_seconds
from mm_hf.models.modality import modality_of


@pytest.mark.parametrize(
    ("audio", "expected"),
    [
        ("whisper", [[1] * 10, [1] * 6 + [0] * 4, [1] * 8 + [0] * 2]),  # two frames a token
        ("lstm", [[1] * 20, [1] * 12 + [0] * 8, [1] * 16 + [0] * 4]),
        ("wav2vec2", [[1] * 19, [1] * 11 + [0] * 8, [1] * 15 + [0] * 4]),  # (200 - 10) / 5 + 1 = 39, (39 - 3) / 2 + 1
    ],
)
@torch.no_grad()
def test_the_mask_of_tokens(audio, expected):
    model = tiny.model(MMFusionModel, vision=None, text=None, audio=audio)
    states = model.encode(**tiny.sounds(audio))["audio"]
    assert states.mask.tolist() == expected
    assert states.levels[0].shape[1] == len(expected[0])


def test_an_odd_frame_belongs_to_a_token():
    mask = torch.tensor([[1, 1, 1, 0, 0, 0]])
    assert modality_of("audio").token_mask(torch.nn.Identity(), mask, 3).tolist() == [[1, 1, 0]]


@torch.no_grad()
def test_whisper_is_cut_to_the_clip(tmp_path):
    config = tiny.AUDIO_CONFIGS["whisper"]()
    config.max_source_positions = 3 * POSITIONS_A_SECOND
    torch.manual_seed(0)
    source = WhisperModel(config)
    source.save_pretrained(tmp_path / "whisper")
    settings = tiny.fusion_settings()
    model = MMFusionModel.from_encoders_pretrained(
        audio=tmp_path / "whisper", max_audio_seconds=1, fusion_module_config=settings
    ).eval()
    positions = model.encoders.audio.embed_positions.weight
    assert torch.equal(positions, source.encoder.embed_positions.weight[:POSITIONS_A_SECOND])
    assert not positions.requires_grad
    sounds = {"input_features": torch.randn(2, 8, 2 * POSITIONS_A_SECOND)}
    config.max_source_positions = POSITIONS_A_SECOND
    short = WhisperModel(config).encoder.eval()
    weights = source.encoder.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][:POSITIONS_A_SECOND]
    short.load_state_dict(weights)
    expected = short(**sounds).last_hidden_state
    torch.testing.assert_close(model.encode(**sounds)["audio"].levels[0], expected, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path / "fused")
    again = AutoModel.from_pretrained(tmp_path / "fused")
    assert torch.equal(again(**sounds).pooler_output, model(**sounds).pooler_output)
    with pytest.raises(ValueError, match=r"\b1 .*\b3 .*\b4\b"):
        MMFusionModel.from_encoders_pretrained(
            audio=tmp_path / "whisper", max_audio_seconds=4, fusion_module_config=settings
        )


def test_encoders_of_any_length_are_left_as_they_are():
    config = tiny.AUDIO_CONFIGS["wav2vec2"]()
    before = config.to_dict()
    cut_to_seconds(config, 2)
    assert config.to_dict() == before


def test_a_text_encoder_is_none_of_sound():
    with pytest.raises(ValueError, match=r"audio.*'bert'.*'input_ids'"):
        MMFusionModel(MMFusionConfig(audio_config=tiny.TEXT_CONFIGS["bert"]()))
