"""Sound as a modality: every kind of encoder, absent sounds, padding, and Whisper's encoder cut to the clip."""

import pytest
import tiny_models as tiny
import torch
from transformers import AutoModel, WhisperModel

from mm_hf import MMFusionConfig, MMFusionForClassification, MMFusionModel
from mm_hf.models.encoders import POSITIONS_A_SECOND, cut_to_seconds
from mm_hf.models.modality import modality_of


@pytest.fixture(params=sorted(tiny.AUDIO_CONFIGS))
def audio(request) -> str:
    return request.param


def model_of(audio: str, cls=MMFusionForClassification, **kwargs):
    return tiny.model(cls, **{"vision": None, "audio": audio, **kwargs})


def inputs_of(audio: str, **kwargs) -> dict[str, torch.Tensor]:
    """Four rows: two share a sound, one has none."""
    index = torch.tensor([0, 1, -1, 0])
    return {**tiny.texts((6, 4, 7, 5)), **tiny.sounds(audio, **kwargs), "audio_index": index}


def test_it_trains_and_is_saved(audio, tmp_path):
    model, inputs = model_of(audio).train(), inputs_of(audio)
    loss = model(**inputs, labels=torch.tensor([0, 1, 2, 3])).loss
    loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    gradients = [p.grad.abs().max() for name, p in trained.items() if "encoders.audio." in name]
    assert sum(gradient > 0 for gradient in gradients) > 0.8 * len(gradients) > 0
    model.eval().save_pretrained(tmp_path)
    loaded, info = MMFusionForClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-6)


@torch.no_grad()
def test_what_is_said_counts(audio):
    model, inputs = model_of(audio), inputs_of(audio)
    name = "input_features" if "input_features" in inputs else "input_values"
    before = model(**inputs).logits
    changed = inputs[name].clone()
    changed[1, 2:] += 1.0 if changed.ndim == 3 else torch.randn(changed[1, 2:].shape)
    after = model(**{**inputs, name: changed}).logits
    moved = (after - before).abs().amax(1)
    assert moved[1] > 1e-3
    assert moved[[0, 2, 3]].max() <= 1e-5


@torch.no_grad()
def test_shared_sounds_equal_repeated_ones(audio):
    model, inputs = model_of(audio), inputs_of(audio)
    order = inputs["audio_index"].clamp(min=0)
    repeated = {
        name: value[order] if name.startswith(("input_v", "input_f", "audio_attention")) else value
        for name, value in inputs.items()
    }
    repeated["audio_index"] = torch.tensor([0, 1, -1, 3])
    torch.testing.assert_close(model(**repeated).logits, model(**inputs).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_absent_in_all_rows_in_three_ways(audio):
    model, texts = model_of(audio).double(), tiny.texts((6, 4, 7, 5))
    none = torch.full((4,), -1)
    expected = model(**texts).logits
    for inputs in ({"audio_index": none}, {**tiny.sounds(audio), "audio_index": none}):
        torch.testing.assert_close(model(**texts, **inputs).logits, expected, rtol=0, atol=1e-6)


def test_absent_in_all_rows_trains_every_parameter(audio):
    model = model_of(audio).train()
    loss = model(**tiny.texts((6, 4)), audio_index=torch.tensor([-1, -1]), labels=torch.tensor([0, 1])).loss
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@torch.no_grad()
def test_a_sound_alone(audio):
    logits = model_of(audio, text=None)(**tiny.sounds(audio)).logits
    assert logits.shape == (3, 5)
    assert logits.std(0).min() > 1e-3


@pytest.mark.parametrize("fusion", ["cross_attention", "concat", "bottleneck"])
@pytest.mark.parametrize("audio", ["wav2vec2", "lstm"])  # the others take sounds of one length
@torch.no_grad()
def test_padding_changes_nothing(audio, fusion):
    model = model_of(audio, fusion=fusion)
    short, long = (model(**inputs_of(audio, pad_to=length)).logits for length in (20, 34))
    torch.testing.assert_close(short, long, rtol=0, atol=1e-5)


@torch.no_grad()
def test_three_modalities():
    model = tiny.model(audio="whisper")
    inputs = {**inputs_of("whisper"), **tiny.images(4), "vision_index": torch.tensor([0, -1, 2, 3])}
    assert model.config.modalities == ["vision", "text", "audio"]
    assert set(model.model.encode({"audio": inputs["audio_index"]}, **tiny.sounds("whisper"))) == {
        *model.config.modalities
    }
    everything = model(**inputs).logits
    for name in ("audio_index", "vision_index", "text_index"):
        without = model(**{**inputs, name: torch.full((4,), -1)}).logits
        assert (everything - without).abs().amax(1)[[0, 3]].min() > 1e-3


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
    model = model_of(audio, MMFusionModel, text=None)
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
