"""LoRA: what it reaches, what trains, and that nothing of it is left in a merged model."""

import copy

import pytest
import tiny_models as tiny
import torch
from torch import nn

from mm_hf import MMFusionForClassification, MMFusionModel
from mm_hf.adapters import add_lora, load_lora, lora_targets, merge_lora, save_lora, trainable_fraction


peft = pytest.importorskip("peft")

LABELS = {"labels": torch.tensor([0, 1, 2, 3])}


@pytest.fixture
def pretrained(encoders):
    torch.manual_seed(0)
    model = MMFusionForClassification.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2",
        text=encoders / "minilm-l6",
        freeze_encoders=True,
        num_labels=4,
        fusion_module_config={"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    )
    return tiny.open_gates(model)


def real_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(1000, 20000, (4, 6), generator=generator),
        "pixel_values": torch.randn(4, 3, 64, 64, generator=generator),
    }


def train(model, batch, steps: int = 3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        model(**batch, **LABELS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def logits(model, batch):
    return model.eval()(**batch).logits


def training_names(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_targets():
    model = tiny.model(vision="mobilenet_v2")
    convolutions = {
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and not name.endswith("first_conv.convolution")
    }
    assert len(convolutions) == 34  # two in each of 16 blocks, one in the stem, the last one
    assert set(lora_targets(model, "vision")) == convolutions
    text, fusion = lora_targets(model, "text"), lora_targets(model, "fusion")
    assert len(text) == 2 * 6
    assert all(name.startswith("model.encoders.text.encoder.layer.") for name in text)
    assert all(name.startswith("model.fusion.") for name in fusion)
    assert set(lora_targets(model, "encoders")) == {*convolutions, *text}
    assert set(lora_targets(model, "all")) == {*convolutions, *text, *fusion}
    assert lora_targets(tiny.model(vision="vit"), "vision")[0] == "model.encoders.vision.layers.0.attention.q_proj"


@pytest.mark.parametrize("where", ["text", "vision", "encoders", "fusion", "all"])
def test_what_trains(where):
    model = tiny.model(vision="mobilenet_v2", freeze_encoders=True)
    before = training_names(model)
    targets = lora_targets(model, where)
    assert add_lora(model, where, rank=2) is model
    adapters = {f"{name}.lora_{part}.default.weight" for name in targets for part in "AB"}
    weights = {f"{name}.{key}" for name in targets for key in ("weight", "bias")}
    expected = (before - weights) | adapters
    assert training_names(model) == expected
    # Neither the mode nor freezing anew brings the encoders' own weights back.
    model.train()
    model.model.apply_freezing()
    assert training_names(model) == expected
    encoders = {"encoders": {"text", "vision"}, "all": {"text", "vision"}, "fusion": set()}.get(where, {where})
    for name, encoder in model.model.encoders.items():
        assert encoder.training == (name in encoders)
        assert (name in model.config.frozen_encoders) == (name not in encoders)
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    if where in ("fusion", "all"):
        assert {"model.fusion.layers.0.gates", "model.fusion.norm.weight"} <= expected
    # Every parameter that trains takes part, so that DDP does not wait for one.
    batch = {**tiny.batch(), "vision_index": torch.tensor([0, 1, -1, 3])}
    model(**batch, **LABELS).loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == expected


def test_an_encoder_that_trained_does_so_through_its_adapters_alone():
    model = add_lora(tiny.model(freeze_encoders=False), "text", rank=2)
    text = {name for name in training_names(model) if name.startswith("model.encoders.text.")}
    assert text
    assert all(".lora_" in name for name in text)
    assert any(name.startswith("model.encoders.vision.") for name in training_names(model))


def test_an_encoder_without_adapters_trains_on():
    model = tiny.model(freeze_encoders=["text"])
    vision = {name for name in training_names(model) if name.startswith("model.encoders.vision.")}
    add_lora(model, "text")
    assert vision
    assert vision <= training_names(model)
    merge_lora(model)
    assert model.config.freeze_encoders == ["text"]


@pytest.mark.parametrize("freeze", [True, False, ["vision"]])
def test_merged_model_is_an_ordinary_one(freeze, tmp_path):
    model = tiny.model(vision="mobilenet_v2", freeze_encoders=freeze)
    plain = copy.deepcopy(model)
    add_lora(model, "all", rank=2)
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    batch = tiny.batch()
    expected = logits(model, batch)
    assert (expected - logits(plain, batch)).abs().max() > 1e-2
    merge_lora(model)
    torch.testing.assert_close(logits(model, batch), expected, rtol=1e-5, atol=1e-5)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert training_names(model) == training_names(plain)
    assert model.config.to_dict() == plain.config.to_dict()
    assert vars(model).keys() == vars(plain).keys()
    for left, right in zip(model.train().modules(), plain.train().modules(), strict=True):
        assert type(left) is type(right)
        assert left.training == right.training
    model.model.apply_freezing()
    assert training_names(model) == training_names(plain)
    model.save_pretrained(tmp_path)
    loaded = MMFusionForClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, batch), logits(model, batch))
    assert training_names(loaded) == training_names(plain)


def test_real_encoders(pretrained, tmp_path):
    """A few steps change nothing in the towers but adapters; kept apart, merged and reloaded, they answer alike."""
    before = {name: tensor.clone() for name, tensor in pretrained.state_dict().items()}
    torch.manual_seed(0)
    add_lora(pretrained, "encoders", rank=8)
    assert 0.02 < trainable_fraction(pretrained) <= 0.05
    start = {name: p.detach().clone() for name, p in pretrained.named_parameters()}
    batch = real_batch()
    train(pretrained, batch)
    changed = {name for name, p in pretrained.named_parameters() if not torch.equal(p, start[name])}
    lora = {name for name in start if ".lora_" in name}
    assert {name for name in changed if "encoders." in name} == lora
    assert "classifier.weight" in changed
    answers = logits(pretrained, batch)

    save_lora(pretrained, tmp_path / "adapters")
    size = (tmp_path / "adapters" / "adapter_model.safetensors").stat().st_size
    assert size < 4 * 1.1 * sum(p.numel() for p in pretrained.parameters() if p.requires_grad)
    merge_lora(pretrained)
    assert {name: tensor.shape for name, tensor in pretrained.state_dict().items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    torch.testing.assert_close(logits(pretrained, batch), answers, rtol=1e-5, atol=1e-5)
    pretrained.save_pretrained(tmp_path / "merged")
    loaded = MMFusionForClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(loaded, batch), answers, rtol=1e-5, atol=1e-5)

    pretrained.load_state_dict(before)
    assert training_names(load_lora(pretrained, tmp_path / "adapters")) == {n for n in start if n in changed} | {
        name for name in start if name.endswith("absent_token")
    }
    assert torch.equal(logits(pretrained, batch), answers)


def test_peft_reads_what_is_saved(tmp_path):
    model = tiny.model()
    plain = copy.deepcopy(model)
    train(add_lora(model, "encoders", rank=2), tiny.batch())
    save_lora(model, tmp_path)
    before = logits(plain, tiny.batch())
    wrapped = peft.PeftModel.from_pretrained(plain, tmp_path)
    torch.testing.assert_close(logits(wrapped, tiny.batch()), logits(model, tiny.batch()), rtol=1e-5, atol=1e-5)
    assert (logits(wrapped, tiny.batch()) - before).abs().max() > 1e-2


def test_loaded_adapters_train_on_as_they_would_have(tmp_path):
    model = tiny.model(freeze_encoders=["vision"])
    plain = copy.deepcopy(model)
    train(add_lora(model, "text", rank=2), tiny.batch())
    save_lora(model, tmp_path)
    load_lora(plain, tmp_path)
    for each in (model, plain):
        torch.manual_seed(0)
        train(each, tiny.batch())
    assert torch.equal(logits(plain, tiny.batch()), logits(model, tiny.batch()))


def test_running_statistics_are_kept_where_they_change(tmp_path):
    model = tiny.model(vision="resnet", freeze_batch_norm=False)
    plain = copy.deepcopy(model)
    train(add_lora(model, "vision", rank=2), tiny.batch())
    save_lora(model, tmp_path)
    assert torch.equal(logits(load_lora(plain, tmp_path), tiny.batch()), logits(model, tiny.batch()))


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"num_labels": 3}, "classifier"),
        ({"vision": None}, "vision"),
        ({"text": "distilbert"}, "lora_"),
        ({"settings": {"num_hidden_layers": 3}}, "fusion.layers.2"),
    ],
)
def test_adapters_of_another_model(changes, culprit, tmp_path):
    save_lora(add_lora(tiny.model(), "text", rank=2), tmp_path)
    other = tiny.model(**changes)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match=rf"(\b\d+ weights.*'.*{culprit}|not found)"):
        load_lora(other, tmp_path)
    after = other.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_frozen_there_and_training_here(tmp_path):
    model = add_lora(tiny.model(freeze_encoders=True), "text", rank=2)
    save_lora(train(model, tiny.batch()), tmp_path)
    loaded = load_lora(tiny.model(), tmp_path)
    torch.testing.assert_close(logits(loaded, tiny.batch()), logits(model, tiny.batch()), rtol=1e-5, atol=1e-5)


def test_gradient_checkpointing():
    model = add_lora(tiny.model(freeze_encoders=True), "encoders", rank=2)
    model.gradient_checkpointing_enable()
    model.train()
    model(**tiny.batch(), **LABELS).loss.backward()
    assert all(p.grad.abs().max() > 0 for name, p in model.named_parameters() if ".lora_B" in name)


def test_model_without_head():
    model = add_lora(tiny.model(MMFusionModel, vision=None, freeze_encoders=True), "text", rank=2)
    assert "encoders.text.encoder.layer.0.output.dense.lora_A.default.weight" in training_names(model)
    assert "fusion.norm.weight" in training_names(model)
    assert not any(name.endswith("base_layer.weight") for name in training_names(model))


def test_errors(tmp_path):
    model = tiny.model(vision=None)
    with pytest.raises(ValueError, match=r"\['all', 'encoders', 'fusion', 'text'\].*'vision'"):
        add_lora(model, "vision")
    for call in (lambda: merge_lora(model), lambda: save_lora(model, tmp_path)):
        with pytest.raises(ValueError, match=r"MMFusionForClassification.*add_lora.*load_lora"):
            call()
    save_lora(add_lora(model, "text"), tmp_path)
    with pytest.raises(ValueError, match="merge_lora"):
        add_lora(model, "fusion")
    with pytest.raises(ValueError, match="merge_lora"):
        load_lora(model, tmp_path)
