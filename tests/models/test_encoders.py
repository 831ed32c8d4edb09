"""Towers of every kind: they train, they are saved, and they say what the model they come from says."""

import pytest
import tiny_models as tiny
import torch
from PIL import Image
from skimage import data
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
)

from mm_hf import EncoderStates, MMFusionForClassification, MMFusionModel, MMFusionProcessor
from mm_hf.models.projection import fold_factors


TOWERS = [(vision, "bert") for vision in tiny.VISION_CONFIGS] + [
    ("vit", text) for text in tiny.TEXT_CONFIGS if text != "bert"
]


def inputs_for(text: str, **kwargs) -> dict[str, torch.Tensor]:
    return tiny.batch(pad_token_id=1 if text == "roberta" else 0, **kwargs)


def as_tokens(level: torch.Tensor) -> torch.Tensor:
    return level.flatten(2).transpose(1, 2) if level.ndim == 4 else level


def source_model(config, seed: int = 3, auto=AutoModel):
    """A model of the library with random weights."""
    torch.manual_seed(seed)
    return auto.from_config(config).eval()


def from_encoders(cls=MMFusionModel, **kwargs):
    """A tiny fusion over encoders that were saved."""
    settings = tiny.fusion_settings(kwargs.pop("fusion", "cross_attention"))
    return cls.from_encoders_pretrained(fusion_module_config=settings, **kwargs).eval()


@pytest.mark.parametrize(("vision", "text"), TOWERS)
def test_towers_train_and_are_saved(vision, text, tmp_path):
    model, inputs = tiny.model(vision=vision, text=text).train(), inputs_for(text)
    inputs["vision_index"], inputs["text_index"] = torch.tensor([0, -1, 1, 2]), torch.tensor([0, 1, -1, 2])
    labels = torch.tensor([0, 1, 2, 3])
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert len(trained) > 0.8 * len(list(model.parameters()))
    for modality in ("vision", "text"):
        gradients = [p.grad.abs().max() for name, p in trained.items() if f"encoders.{modality}." in name]
        assert sum(gradient > 0 for gradient in gradients) > 0.8 * len(gradients)
    with torch.no_grad():
        for parameter in trained.values():
            parameter -= 0.01 * parameter.grad
        model.eval()
        expected = model(**inputs).logits
    model.save_pretrained(tmp_path)
    loaded, info = MMFusionForClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        # The same weights; convolutions round differently with where in memory these lie.
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
        torch.testing.assert_close(
            loaded(**inputs).logits, expected, rtol=0, atol=0 if vision != "mobilenet_v2" else 1e-5
        )
        assert expected.std(0).min() > 1e-3


@pytest.mark.parametrize(("vision", "text"), TOWERS)
@torch.no_grad()
def test_padding_changes_nothing_in_any_tower(vision, text):
    model = tiny.model(vision=vision, text=text)
    short, long = model(**inputs_for(text)).logits, model(**inputs_for(text, pad_to=15)).logits
    assert (short - long).abs().max() <= 1e-5


@pytest.mark.parametrize(("vision", "text"), TOWERS)
@torch.no_grad()
def test_towers_are_those_of_their_source(vision, text, tmp_path):
    sources = {
        "vision": source_model(tiny.VISION_CONFIGS[vision](), seed=3),
        "text": source_model(tiny.TEXT_CONFIGS[text](), seed=4),
    }
    for name, source in sources.items():
        source.save_pretrained(tmp_path / name)
    model = from_encoders(vision=tmp_path / "vision", text=tmp_path / "text")
    inputs = inputs_for(text)
    words = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    encoded = model.encode(**inputs)
    text_source = sources["text"].get_encoder() if text == "t5" else sources["text"]
    for name, expected in (
        ("vision", sources["vision"](pixel_values=inputs["pixel_values"]).last_hidden_state),
        ("text", text_source(**words).last_hidden_state),
    ):
        (level,) = encoded[name].levels
        torch.testing.assert_close(as_tokens(level), as_tokens(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", sorted(tiny.DUAL_CONFIGS))
@torch.no_grad()
def test_dual_encoders_give_their_part(family, tmp_path):
    dual = source_model(tiny.DUAL_CONFIGS[family]())
    dual.save_pretrained(tmp_path)
    inputs = tiny.batch()
    model = from_encoders(vision=tmp_path, text=tmp_path)
    encoded = model.encode(**inputs)
    pixel_values = inputs.pop("pixel_values")
    for name, expected in (
        ("vision", dual.vision_model(pixel_values=pixel_values).last_hidden_state),
        ("text", dual.text_model(**inputs).last_hidden_state),
    ):
        torch.testing.assert_close(encoded[name].levels[0], expected, rtol=1e-5, atol=1e-5)
    assert model.config.poolings == {"vision": "mean", "text": "last"}
    model.save_pretrained(tmp_path / "fused")
    again = AutoModel.from_pretrained(tmp_path / "fused")
    expected = model(pixel_values=pixel_values, **inputs).pooler_output
    assert torch.equal(again(pixel_values=pixel_values, **inputs).pooler_output, expected)


@pytest.mark.parametrize(
    ("modality", "name", "auto"),
    [
        ("vision", "vit", AutoModelForImageClassification),
        ("vision", "resnet", AutoModelForImageClassification),
        ("text", "bert", AutoModelForSequenceClassification),
        ("text", "bert", AutoModelForMaskedLM),
        ("text", "distilbert", AutoModelForMaskedLM),
    ],
)
@torch.no_grad()
def test_an_encoder_with_a_head_on(modality, name, auto, tmp_path):
    config = {"vision": tiny.VISION_CONFIGS, "text": tiny.TEXT_CONFIGS}[modality][name]()
    source = source_model(config, auto=auto)
    source.save_pretrained(tmp_path)
    model = from_encoders(**{modality: tmp_path})
    inputs = tiny.images(2) if modality == "vision" else tiny.texts((6, 4))
    (level,) = model.encode(**inputs)[modality].levels
    torch.testing.assert_close(level, source.base_model(**inputs).last_hidden_state, rtol=1e-5, atol=1e-5)
    assert not any("classifier" in key or "cls." in key for key in model.state_dict())


@pytest.mark.parametrize(
    ("modality", "name", "reads"), [("vision", "bert", "input_ids"), ("text", "vit", "pixel_values")]
)
def test_an_encoder_of_the_wrong_modality(modality, name, reads, tmp_path):
    config = (tiny.TEXT_CONFIGS if modality == "vision" else tiny.VISION_CONFIGS)[name]()
    source_model(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{modality}.*'{name}'.*'{reads}'"):
        from_encoders(**{modality: tmp_path})


def test_an_encoder_that_is_not_there(tmp_path):
    message = "vision: .*nowhere'.*'name'.*'namespace/name'"
    with pytest.raises(OSError, match=message):
        from_encoders(vision=str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match=message):
        MMFusionProcessor.from_encoders_pretrained(vision=tmp_path / "nowhere")
    with pytest.raises(OSError, match=r"decoder: .*nowhere'"):
        MMFusionProcessor.from_encoders_pretrained(decoder=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"\['vision', 'text', 'audio'\]"):
        from_encoders()


def test_an_encoder_whose_weights_are_missing(tmp_path):
    source = source_model(tiny.TEXT_CONFIGS["bert"]())
    weights = source.state_dict()
    weights.pop("encoder.layer.1.output.dense.weight")
    source.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"text.* 1 .*layer\.1\.output\.dense\.weight"):
        from_encoders(text=tmp_path)


# --- Feature layers

LEVELS = ["vit", "dinov2", "swin", "resnet", "convnext", "mobilenet_v2", "clip"]


@pytest.mark.parametrize("layers", [0, 1, -1, -2, [1, -1], [-1, 1], [0, 1]], ids=str)
@pytest.mark.parametrize("name", LEVELS)
@torch.no_grad()
def test_feature_layers_are_those_of_the_source(name, layers, tmp_path):
    source = source_model(tiny.VISION_CONFIGS[name]())
    source.save_pretrained(tmp_path)
    model = from_encoders(vision=tmp_path, vision_feature_layer=layers)
    inputs = tiny.images(2)
    outputs = source(**inputs, output_hidden_states=True)
    states = getattr(outputs, "reshaped_hidden_states", None) or outputs.hidden_states
    encoded = model.encode(**inputs)["vision"]
    wanted = layers if isinstance(layers, list) else [layers]
    assert len(encoded.levels) == len(wanted)
    for level, layer in zip(encoded.levels, wanted, strict=True):
        torch.testing.assert_close(level, states[layer], rtol=1e-5, atol=1e-5)
    tokens = model.project({"vision": encoded})["vision"].tokens
    assert tokens.shape[1] == sum(as_tokens(level).shape[1] for level in encoded.levels)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", LEVELS)
def test_layers_above_the_last_used_one_are_dropped(name, layer, tmp_path):
    whole = tiny.model(vision=name, vision_feature_layer=-1)
    model = tiny.model(vision=name, vision_feature_layer=layer).train()
    size, reduced = (sum(p.numel() for p in m.model.encoders["vision"].parameters()) for m in (whole, model))
    assert reduced < 0.8 * size
    model(**tiny.batch(), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    assert not [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    model.eval().save_pretrained(tmp_path)
    loaded, info = MMFusionForClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        assert torch.equal(loaded(**tiny.batch()).logits, model(**tiny.batch()).logits)


def test_vit_keeps_the_layers_it_needs():
    # Of the first layer's input the library knows only where that layer is there.
    for layer, kept in ((0, 1), (1, 1), (2, 2), (-2, 1), ([0, -1], 2)):
        model = tiny.model(vision_feature_layer=layer)
        blocks = {
            key.split("layers.")[1][0] for key in model.model.encoders["vision"].state_dict() if "layers." in key
        }
        assert len(blocks) == kept, layer


@pytest.mark.parametrize(("layer", "named"), [(3, "3"), (-4, "-4"), ([1, 9], "9")])
def test_a_feature_layer_out_of_range(layer, named):
    with pytest.raises(ValueError, match=rf"\[{named}\].*vision.*\(vit\).*\b3 .*-3 to 2"):
        tiny.model(vision_feature_layer=layer)


def test_feature_layers_need_vision():
    with pytest.raises(ValueError, match=r"vision_feature_layer.*\b1, .*vision_config"):
        tiny.config(vision=None, vision_feature_layer=1)


@torch.no_grad()
def test_positions_tell_the_cells_of_a_grid():
    """Feature maps know no place: two pictures that differ in order alone must differ for the fusion."""
    model = tiny.model(MMFusionModel, vision="resnet")
    states = model.encode(**tiny.batch())
    level = states["vision"].levels[0]
    states["vision"].levels = (level.roll(1, dims=-1),)
    changed = model.fuse(states, return_tokens=False).pooled
    states["vision"].levels = (level,)
    assert level.shape[-1] > 1 or level.shape[-2] > 1 or pytest.fail("a grid of one cell has no order")
    assert (model.fuse(states, return_tokens=False).pooled - changed).abs().max() > 1e-3


# --- Several feature layers


@torch.no_grad()
def test_layers_joined_by_channels_are_one_grid():
    """A finer level is folded into the places of the coarsest one: each token sees its own part of the picture, and no
    number is lost."""
    model = tiny.model(MMFusionModel, vision="resnet", vision_feature_layer=[1, 2], vision_feature_join="channels")
    projection = model.projections["vision"]
    states = model.encode(**tiny.batch())
    fine, coarse = states["vision"].levels
    assert (fine.shape[1:], coarse.shape[1:]) == ((8, 8, 8), (16, 4, 4))
    assert [linear.in_features for linear in projection.levels] == [8 * 4, 16]
    expected, coordinates = projection.project(states["vision"])
    assert expected.shape == (4, 16, 32)
    assert coordinates.shape == (16, 2)
    assert coordinates[6].tolist() == [0.375, 0.625]  # second row, third column
    for row, column in ((0, 0), (3, 5), (7, 7)):
        changed = fine.clone()
        changed[:, :, row, column] += 1
        tokens, _ = projection.project(EncoderStates(levels=(changed, coarse)))
        different = (tokens - expected).abs().amax((0, 2)) > 1e-4
        assert different.nonzero().flatten().tolist() == [row // 2 * 4 + column // 2]


def test_layers_that_do_not_line_up():
    with pytest.raises(ValueError, match=r"'channels'.*\(8, 8, 8\), \(17, 32\)"):
        fold_factors([(8, 8, 8), (17, 32)])
    with pytest.raises(ValueError, match=r"\(8, 7, 7\), \(16, 4, 4\)"):
        fold_factors([(8, 7, 7), (16, 4, 4)])
    assert fold_factors([(8, 14, 7), (4, 4 * 14, 4 * 7)]) == [1, 4]
    assert fold_factors([(17, 32), (17, 32)]) == [1, 1]
    model = tiny.model(MMFusionModel, vision="resnet", vision_feature_layer=[1, 2], vision_feature_join="channels")
    with pytest.raises(ValueError, match=r"\(9, 9\).*\b2: .*image_size"):
        model(pixel_values=torch.zeros(1, 3, 36, 36))


# --- The two real encoders


@pytest.fixture(scope="module")
def real(encoders):
    torch.manual_seed(0)
    return from_encoders(vision=encoders / "mobilenet-v2", text=encoders / "minilm-l6")


@pytest.fixture(scope="module")
def photographs(encoders):
    processor = AutoImageProcessor.from_pretrained(encoders / "mobilenet-v2")
    return processor([Image.fromarray(getattr(data, name)()) for name in ("chelsea", "coffee")], return_tensors="pt")


@torch.no_grad()
def test_real_towers_are_those_of_their_source(real, encoders, photographs):
    words = AutoTokenizer.from_pretrained(encoders / "minilm-l6")(
        ["a cat", "what is it?"], padding=True, return_tensors="pt"
    )
    encoded = real.encode(**photographs, **words)
    vision, text = (AutoModel.from_pretrained(encoders / name) for name in ("mobilenet-v2", "minilm-l6"))
    for name, expected in (("vision", vision(**photographs)), ("text", text(**words))):
        (level,) = encoded[name].levels
        torch.testing.assert_close(level, expected.last_hidden_state, rtol=1e-4, atol=1e-4)
    assert not any("pooler" in key or "classifier" in key for key in real.state_dict())
    assert real.config.base_models == ["sentence-transformers/all-MiniLM-L6-v2"]


@torch.no_grad()
def test_real_features_of_two_levels(encoders, photographs):
    model = from_encoders(vision=encoders / "mobilenet-v2", vision_feature_layer=[5, 12])
    states = AutoModel.from_pretrained(encoders / "mobilenet-v2")(
        **photographs, output_hidden_states=True
    ).hidden_states
    levels = model.encode(**photographs)["vision"].levels
    for level, layer in zip(levels, (5, 12), strict=True):
        torch.testing.assert_close(level, states[layer], rtol=1e-4, atol=1e-4)
    assert not any("conv_1x1" in key for key in model.state_dict())


@torch.no_grad()
def test_shared_items_equal_repeated_items_in_real_towers(real, photographs, encoders):
    """Bit for bit in fp32."""
    tokenizer = AutoTokenizer.from_pretrained(encoders / "minilm-l6")
    words = tokenizer(["what is it?", "is there a cat, or a cup?"], padding=True, return_tensors="pt")
    text_index, vision_index = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    shared = real(**words, **photographs, text_index=text_index, vision_index=vision_index)
    repeated = real(
        **{key: value[text_index] for key, value in words.items()},
        pixel_values=photographs["pixel_values"][vision_index],
    )
    assert torch.equal(shared.pooler_output, repeated.pooler_output)


# --- What is passed through


def test_loading_arguments_are_passed_through(encoders):
    model = from_encoders(
        vision=encoders,
        text=encoders,
        subfolder={"vision": "mobilenet-v2", "text": "minilm-l6"},
        local_files_only=True,
        dtype=torch.bfloat16,
        attn_implementation="eager",
    )
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.encoders["text"].config._attn_implementation == "eager"
    assert model.config.fusion_module_config._attn_implementation == "eager"
    source = BertModel.from_pretrained(encoders / "minilm-l6", dtype=torch.bfloat16).state_dict()
    key = "encoder.layer.3.attention.self.query.weight"
    assert torch.equal(model.encoders["text"].state_dict()[key], source[key])


def test_device_map_is_passed_through(encoders):
    model = from_encoders(text=encoders / "minilm-l6", device_map="cpu")
    assert {p.device.type for p in model.parameters()} == {"cpu"}


WITHOUT_ATTENTION = ("convnext", "resnet", "mobilenet_v2", "lstm", "gru")


def test_encoders_keep_the_config_objects_of_the_whole():
    """Else `set_attn_implementation` would not reach them."""
    for vision, text in TOWERS:
        model = tiny.model(vision=vision, text=text, implementation="eager").model
        expected = {name: "eager" if name in WITHOUT_ATTENTION else "sdpa" for name in (vision, text)}
        model.set_attn_implementation("sdpa")
        assert model.config.vision_config._attn_implementation == expected[vision], vision
        if text != "t5":
            assert model.encoders["text"].config is model.config.text_config
        assert model.encoders["vision"].config is model.config.vision_config
        own = {
            module.config._attn_implementation
            for module in model.encoders["text"].modules()
            if hasattr(module, "config")
        }
        assert own == {expected[text]}, text


def test_loading_a_fusion_as_an_encoder(tmp_path):
    tiny.model(MMFusionModel).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "mm_fusion"
    with pytest.raises(ValueError, match="lacks 37 weights"):
        from_encoders(text=tmp_path)


def test_saved_names_are_the_models_own(tmp_path):
    """The Trainer restores its best model from the file without translating names of older releases, as ViT has
    them."""
    from safetensors.torch import load_file

    model = tiny.model()
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
