"""PEFT's own ways to put adapters into a model of mm_hf: they learn, whether its encoders are frozen or not."""

import copy

import pytest
import tiny_models as tiny
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from mm_hf import MMFusionForClassification, MMFusionForConditionalGeneration, MMFusionModel
from mm_hf.data.feature_cache import FeatureCache


peft = pytest.importorskip("peft")

LABELS = {"labels": torch.tensor([0, 1, 2, 3])}
TARGETS = ["query", "value", "q_proj"]  # of BERT, ViT and the fusion


@pytest.fixture(autouse=True)
def any_peft(monkeypatch):
    """transformers 5.24 asks `add_adapter` for a peft that is not yet out: what it calls is older."""
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "0.18.0")


def config(**kwargs) -> "peft.LoraConfig":
    return peft.LoraConfig(**{"r": 2, "target_modules": TARGETS, **kwargs})


def wrapped(model, **kwargs):
    return peft.get_peft_model(model, config(**kwargs))


def for_classes(model, **kwargs):
    return wrapped(model, task_type="SEQ_CLS", **kwargs)


def added(model, **kwargs):
    model.add_adapter(config(**kwargs))
    return model


WAYS = {"get_peft_model": wrapped, "task_type": for_classes, "add_adapter": added}


def names(model, flag=lambda parameter: parameter.requires_grad) -> set[str]:
    return {name for name, parameter in model.named_parameters() if flag(parameter)}


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(**tiny.batch()).logits


def step(model, inputs=None) -> set[str]:
    """One step of training; the names of the parameters with a gradient."""
    model.train()
    model.zero_grad()
    model(**(inputs or tiny.batch()), **LABELS).loss.backward()
    found = names(model, lambda parameter: parameter.grad is not None)
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5).step()
    return found


@pytest.mark.parametrize("freeze", [True, False, ["vision"], ["text"], "text in part"])
@pytest.mark.parametrize("way", WAYS)
def test_adapters_learn_and_nothing_else(way, freeze, tmp_path):
    def build():
        if freeze == "text in part":
            return tiny.model(freeze_encoders=["vision"], trained_layers={"text": 1})
        return tiny.model(freeze_encoders=freeze)

    plain = build()
    expected = logits(plain)
    model = WAYS[way](plain)
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    asked = names(model)
    for part in ("encoders.text", "encoders.vision", "fusion"):
        assert any(f"{part}." in name and ".lora_A." in name for name in asked), part
    assert all(".lora_" in name or ".modules_to_save." in name for name in asked)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert step(model) == step(model) == asked
    assert {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])} == asked
    trained = logits(model)
    assert (trained - expected).abs().max() > 1e-2
    # A batch without pictures: on every process all that trains takes part.
    assert step(model, tiny.texts((6, 4, 7, 5))) == asked
    trained = logits(model)

    model.save_pretrained(tmp_path)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {file.name for file in tmp_path.iterdir()}
    fresh = build()
    if way == "add_adapter":
        fresh.load_adapter(str(tmp_path))
    else:
        fresh = peft.PeftModel.from_pretrained(fresh, tmp_path)
    torch.testing.assert_close(logits(fresh), trained, rtol=1e-5, atol=1e-5)
    if way == "add_adapter":
        return
    merged = model.merge_and_unload()
    assert type(merged) is MMFusionForClassification
    torch.testing.assert_close(logits(merged), trained, rtol=1e-4, atol=1e-4)
    merged.requires_grad_(True).apply_freezing()  # PEFT leaves all frozen
    assert names(merged) == names(build())
    assert [module.training for module in merged.train().modules()] == [
        module.training for module in build().train().modules()
    ]
    merged.save_pretrained(tmp_path / "merged")
    loaded = MMFusionForClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(loaded), trained, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("freeze", [True, False])
def test_modes(freeze):
    """A frozen encoder stays in eval mode around adapters whose dropout is on; nothing brings its weights back."""
    plain = tiny.model(freeze_encoders=freeze)
    model = wrapped(plain, lora_dropout=0.5).train()
    asked = names(model)
    for encoder in plain.model.encoders.values():
        for path, module in encoder.named_modules():
            of_adapter = ".lora_" in path or path.endswith(tuple(f".{target}" for target in TARGETS))
            assert module.training == (of_adapter or not freeze), path
    assert any(isinstance(m, nn.Dropout) and m.p == 0.5 and m.training for m in plain.model.encoders.modules())
    plain.apply_freezing()
    assert names(model) == asked
    assert step(model) == asked
    model.eval()
    assert not any(module.training for module in model.modules())


def test_frozen_batch_norms_stay_so():
    plain = tiny.model(vision="mobilenet_v2", freeze_encoders=True, freeze_batch_norm=False)
    model = peft.get_peft_model(plain, peft.LoraConfig(r=2, target_modules=r".*vision.*reduce_1x1\.convolution"))
    before = {name: tensor.clone() for name, tensor in plain.named_buffers()}
    assert step(model) == names(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.named_buffers())


def test_biases_and_copies_learn_too():
    plain = tiny.model(freeze_encoders=True)
    copies = ["word_embeddings", "layernorm"]  # of BERT and of ViT
    model = wrapped(plain, target_modules=["query", "q_proj"], bias="all", modules_to_save=copies)
    asked = names(model)
    for part in ("text.embeddings.word_embeddings.modules_to_save", "vision.layernorm.modules_to_save"):
        assert any(part in name for name in asked)
    assert any(name.endswith("encoders.text.encoder.layer.1.output.dense.bias") for name in asked)
    assert step(model) == asked


def test_other_adapters():
    for made in (peft.IA3Config(target_modules=["value"], feedforward_modules=[]), config(use_dora=True)):
        model = peft.get_peft_model(tiny.model(freeze_encoders=True), made)
        expected = logits(model)
        assert step(model) == names(model)
        step(model)
        assert (logits(model) - expected).abs().max() > 1e-3


def test_a_model_without_head_and_one_that_writes():
    base = tiny.model(MMFusionModel, freeze_encoders=True)
    model = wrapped(base).train()
    model(**tiny.batch()).pooler_output.sum().backward()
    assert names(model, lambda parameter: parameter.grad is not None) == names(model)
    decoder = tiny.TEXT_CONFIGS["bert"]()
    ends = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = tiny.model(MMFusionForConditionalGeneration, decoder_config=decoder, freeze_encoders=True, **ends)
    model.add_adapter(config())
    asked = names(model)
    model.apply_freezing()
    assert names(model) == asked
    model.train()(**tiny.batch(), labels=torch.tensor([[7, 8, 2]] * 4)).loss.backward()
    assert names(model, lambda parameter: parameter.grad is not None) == asked


@pytest.mark.parametrize("method", ["freeze", "unfreeze"])
def test_freezing_around_adapters_is_refused(method):
    model = added(tiny.model(freeze_encoders=["vision"]))
    before, changed = names(model), copy.deepcopy(model.config.to_dict())
    with pytest.raises(ValueError, match=r"\['vision', 'text'\].*merge_and_unload"):
        getattr(model, method)("text")
    assert names(model) == before
    assert model.config.to_dict() == changed


def test_features_of_an_encoder_whose_adapters_learn_are_not_kept():
    model = tiny.model(MMFusionModel, freeze_encoders=True)
    wrapped(model, target_modules=["query"])
    cache = FeatureCache(model)
    with pytest.raises(ValueError, match=r"text.*merge_and_unload"):
        cache.fill("text", [], lambda items: {})


@pytest.mark.parametrize("way", WAYS)
def test_the_librarys_trainer(way, tmp_path):
    torch.manual_seed(0)
    model = WAYS[way](tiny.model(freeze_encoders=True), modules_to_save=["classifier"])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rows = [{name: value[row] for name, value in {**tiny.batch(), **LABELS}.items()} for row in range(4)] * 4
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        gradient_checkpointing=True,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
    )
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    start = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < start
    changed = {name for name, p in model.named_parameters() if not torch.equal(before[name], p)}
    assert changed == names(model)
    assert any("encoders.vision" in name for name in changed)
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "adapter_model.safetensors").exists()
