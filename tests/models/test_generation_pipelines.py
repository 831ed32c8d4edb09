"""Pipelines of models that write: what they take, and which settings reach `generate`. With the real processors; what
strangers get of them is in `test_hub.py`."""

import pytest
import torch
from PIL import Image

from mm_hf import (
    MMFusionForConditionalGeneration,
    MMFusionFreeAnswerPipeline,
    MMFusionGenerationPipeline,
    MMFusionProcessor,
)


SMALL_FUSION = {"hidden_size": 32, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def parts(encoders):
    """A model that looks where it is shown something, and its processor."""
    sources = {"vision": encoders / "mobilenet-v2", "text": encoders / "minilm-l6"}
    torch.manual_seed(0)
    model = MMFusionForConditionalGeneration.from_encoders_pretrained(
        **sources, decoder_layers=1, fusion_module_config=SMALL_FUSION
    ).eval()
    for name, parameter in model.decoder.named_parameters():
        if "crossattention" in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config.update(max_new_tokens=5)
    return {"model": model, "processor": MMFusionProcessor.from_encoders_pretrained(**sources)}


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.linear_gradient("L").convert("RGB").resize((64, 64))


def pipe(cls, parts, **kwargs):
    return cls(**parts, task="image-to-text", **kwargs)


@pytest.fixture(scope="module")
def write(parts) -> MMFusionGenerationPipeline:
    return pipe(MMFusionGenerationPipeline, parts)


@pytest.fixture
def settings(parts, monkeypatch) -> list[dict]:
    """What each call of `generate` was told, apart from the inputs."""
    calls, generate = [], parts["model"].generate

    def listen(**kwargs):
        calls.append({key: kwargs[key] for key in ("max_new_tokens", "num_beams", "length_penalty") if key in kwargs})
        return generate(**kwargs)

    monkeypatch.setattr(parts["model"], "generate", listen)
    return calls


def test_an_image_alone(write, picture, tmp_path):
    path = str(tmp_path / "picture.png")
    picture.save(path)
    (expected,) = write({"image": picture})
    assert set(expected) == {"score", "generated_text"}
    assert expected["generated_text"]
    for found in ([write(path)], write([picture, path]), list(write(image for image in (picture, path)))):
        for (entry,) in found:
            assert entry["generated_text"] == expected["generated_text"]
            assert entry["score"] == pytest.approx(expected["score"], rel=1e-4)


def test_settings_of_a_call(write, picture, settings):
    write(picture)
    write(picture, max_new_tokens=2, generate_kwargs={"num_beams": 2, "length_penalty": 2.0})
    write(picture)
    assert settings == [{}, {"max_new_tokens": 2, "num_beams": 2, "length_penalty": 2.0}, {}]


def test_settings_that_the_pipeline_was_made_with(parts, picture, settings):
    short = pipe(MMFusionGenerationPipeline, parts, max_new_tokens=2, generate_kwargs={"length_penalty": 2.0})
    short(picture)
    short(picture, num_beams=2)
    short(picture, max_new_tokens=3)
    short(picture)
    made = {"max_new_tokens": 2, "length_penalty": 2.0}
    assert settings == [made, {**made, "num_beams": 2}, {**made, "max_new_tokens": 3}, made]


@torch.no_grad()
def test_padding_behind_an_end_has_no_part_in_the_score(write, parts, picture):
    """Also where the caller says what ends a text: rows that end early wait for the others of their batch."""
    rows = [{"image": picture}, {"text": "who?"}]
    first, second = (
        parts["model"].generate(**parts["processor"](**inputs))[0].tolist()
        for inputs in ({"images": [picture]}, {"text": ["who?"]})
    )
    end = next(token for token in first[2:] if token not in second)  # the first row ends early, the second does not
    kwargs = {"generate_kwargs": {"eos_token_id": [parts["model"].config.eos_token_id, end]}}
    apart = [write(row, **kwargs)[0] for row in rows]
    together = [row[0] for row in write(rows, batch_size=2, **kwargs)]
    assert [entry["generated_text"] for entry in together] == [entry["generated_text"] for entry in apart]
    assert [entry["score"] for entry in together] == pytest.approx([entry["score"] for entry in apart], rel=1e-3)


def test_rows_of_a_batch_share_what_is_equal(parts, picture):
    answer = pipe(MMFusionFreeAnswerPipeline, parts)
    seen, hooks = {}, []
    for name, key in (("vision", "pixel_values"), ("text", "input_ids")):
        hooks.append(
            parts["model"]
            .model.encoders[name]
            .register_forward_pre_hook(
                lambda _, args, kwargs, name=name, key=key: seen.setdefault(name, []).append(len(kwargs[key])),
                with_kwargs=True,
            )
        )
    try:
        answers = answer(picture, ["who?", "what?", "who?"], batch_size=3)
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == {"vision": [1], "text": [2]}
    assert answers[0] == answers[2]
    assert [set(entry) for row in answers for entry in row] == [{"score", "answer"}] * 3


def test_an_image_for_a_model_without_vision_is_refused(encoders, picture):
    model = MMFusionForConditionalGeneration.from_encoders_pretrained(
        text=encoders / "minilm-l6", decoder_layers=1, fusion_module_config=SMALL_FUSION
    )
    parts = {"model": model, "processor": MMFusionProcessor.from_encoders_pretrained(text=encoders / "minilm-l6")}
    with pytest.raises(ValueError, match=r"image .*\['text'\]"):
        pipe(MMFusionGenerationPipeline, parts)(picture)
