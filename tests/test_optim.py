"""Parameter groups by layer, gradual unfreezing, averaged weights, and the guard against what is not finite."""

import contextlib
import io
import json

import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, PvtConfig, SwinConfig, get_scheduler
from transformers.trainer_utils import SchedulerType

from mm_hf import MMFusionForClassification, MMFusionForConditionalGeneration, MMFusionForMultiTask, MMFusionModel
from mm_hf.models.dry_run import build_encoder
from mm_hf.optim import (
    EMA,
    NonFiniteGuard,
    NonFiniteLossError,
    encoder_layers,
    parameter_groups,
    unfreeze_gradually,
)


@pytest.fixture(scope="module")
def pretrained(encoders):
    """MobileNetV2 and MiniLM, both training. Tests leave it as it is."""
    torch.manual_seed(0)
    return MMFusionForClassification.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2",
        text=encoders / "minilm-l6",
        num_labels=2,
        fusion_module_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    )


def real_batch(rows: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(1000, 20000, (rows, 6), generator=generator),
        "pixel_values": torch.randn(rows, 3, 64, 64, generator=generator),
        "labels": torch.arange(rows) % 2,
    }


def settings_by_name(model, groups, *keys) -> dict[str, tuple]:
    of = {id(p): tuple(group[key] for key in keys) for group in groups for p in group["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters() if id(p) in of}


# --- Parameter groups


def test_every_parameter_that_trains_is_in_one_group(pretrained):
    groups = parameter_groups(pretrained, 1e-3, 0.1, {"text": 1e-5, "fusion": 1e-2}, layer_decay=0.5)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in pretrained.parameters() if p.requires_grad)
    assert len({group["name"] for group in groups}) == len(groups)


def test_parts_of_the_head_have_rates_of_their_own():
    writer = tiny.model(
        MMFusionForConditionalGeneration,
        decoder_config=BertConfig(**tiny.WORDS),
        decoder_start_token_id=1,
        eos_token_id=2,
    )
    groups = parameter_groups(writer, 1e-3, 0.1, {"decoder": 1e-4})
    by_rate = {rate: {id(p) for g in groups if g["lr"] == rate for p in g["params"]} for rate in (1e-3, 1e-4)}
    assert by_rate[1e-4] == {id(p) for p in writer.decoder.parameters()}
    assert by_rate[1e-3] == {id(p) for p in writer.parameters()} - by_rate[1e-4]
    assert {g["module"] for g in groups} == {"decoder", "all", "vision", "text"}
    tasks = {"a": {"problem_type": "regression"}, "b": {"problem_type": "regression"}}
    several = tiny.model(MMFusionForMultiTask, tasks=tasks, task_weighting="uncertainty")
    (own,) = (g for g in parameter_groups(several, 1e-3, 0.1, {"task_weighting": 1e-2}) if g["lr"] == 1e-2)
    assert own["params"] == [several.task_weighting.log_variances]
    assert own["weight_decay"] == 0
    with pytest.raises(ValueError, match=r"'decoders'.*'decoder'"):
        parameter_groups(writer, 1e-3, 0.1, {"decoders": 1e-4})


def test_layers_of_the_real_encoders(pretrained):
    groups = parameter_groups(pretrained, 1e-3, 0.1, {"text": 1e-4, "fusion": 1e-2}, layer_decay=0.5)
    found = settings_by_name(pretrained, groups, "module", "layer", "lr", "weight_decay")
    text, vision = "model.encoders.text.", "model.encoders.vision."
    expected = {
        f"{text}embeddings.word_embeddings.weight": ("text", 0, 1e-4 * 0.5**6, 0.0),
        f"{text}embeddings.LayerNorm.bias": ("text", 0, 1e-4 * 0.5**6, 0.0),
        f"{text}encoder.layer.0.attention.self.query.weight": ("text", 1, 1e-4 * 0.5**5, 0.1),
        f"{text}encoder.layer.3.output.dense.bias": ("text", 4, 1e-4 * 0.5**2, 0.0),
        f"{text}encoder.layer.5.output.dense.weight": ("text", 6, 1e-4, 0.1),
        f"{vision}conv_stem.first_conv.convolution.weight": ("vision", 0, 1e-3 * 0.5**16, 0.1),
        f"{vision}layer.0.expand_1x1.convolution.weight": ("vision", 1, 1e-3 * 0.5**15, 0.1),
        f"{vision}layer.15.reduce_1x1.normalization.weight": ("vision", 16, 1e-3, 0.0),
        f"{vision}conv_1x1.convolution.weight": ("vision", 16, 1e-3, 0.1),
        "model.fusion.layers.0.mlp.0.weight": ("fusion", None, 1e-2, 0.1),
        "model.fusion.layers.0.gates": ("fusion", None, 1e-2, 0.0),
        "model.projections.vision.absent_token": ("all", None, 1e-3, 0.0),
        "classifier.weight": ("all", None, 1e-3, 0.1),
    }
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("vision", "depth", "lowest", "highest"),
    [
        ("vit", 2, "embeddings.cls_token", "layernorm.weight"),
        ("resnet", 3, "embedder.embedder.convolution.weight", "encoder.stages.2."),
        ("convnext", 4, "embeddings.patch_embeddings.weight", "encoder.stages.3.downsampling_layer"),
        ("swin", 2, "embeddings.norm.weight", "layernorm.weight"),
        ("clip", 2, "pre_layrnorm.weight", "encoder.layers.1."),
        ("dinov2", 2, "embeddings.position_embeddings", "encoder.layer.1."),
    ],
)
def test_layers_of_other_encoders(vision, depth, lowest, highest):
    encoder = tiny.model(vision=vision).model.encoders["vision"]
    layers, top = encoder_layers(encoder)
    assert set(layers) == {name for name, _ in encoder.named_parameters()}
    assert top == depth
    assert set(layers.values()) == set(range(depth + 1))
    assert {layer for name, layer in layers.items() if name.startswith(lowest)} == {0}
    assert {layer for name, layer in layers.items() if name.startswith(highest)} == {depth}


def test_a_stage_with_many_blocks_is_not_taken_for_the_stack():
    config = SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 4, 1], num_heads=[2, 2, 2], window_size=2)
    layers, depth = encoder_layers(build_encoder(config, "vision", None)[0])
    assert depth == 3
    assert layers["encoder.layers.1.blocks.2.layernorm_before.weight"] == 2


def test_lists_beside_the_stack_belong_to_it():
    config = PvtConfig(
        image_size=64, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], mlp_ratios=[1] * 4
    )
    layers, depth = encoder_layers(build_encoder(config, "vision", None)[0])
    stages = {}
    for name, layer in layers.items():
        if name.startswith(("encoder.patch_embeddings.", "encoder.block.")):
            stages.setdefault(int(name.split(".")[2]), set()).add(layer)
    assert depth == 4
    assert stages == {stage: {stage + 1} for stage in range(4)}


def test_a_list_of_the_same_length_elsewhere_is_no_part_of_the_stack():
    encoder = nn.ModuleDict(
        {
            "features": nn.ModuleDict({"convolutions": nn.ModuleList(nn.Linear(2, 2) for _ in range(3))}),
            "encoder": nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(3, 3) for _ in range(3))}),
        }
    )
    layers, _ = encoder_layers(encoder)
    assert {layer for name, layer in layers.items() if name.startswith("features.")} == {0}
    assert layers["encoder.layers.2.weight"] == 3


def test_an_encoder_without_a_stack_is_one_layer():
    assert encoder_layers(nn.GRU(3, 4))[1] == 1
    assert set(encoder_layers(nn.GRU(3, 4))[0].values()) == {1}


def test_groups_of_a_model_without_head():
    model = tiny.model(MMFusionModel, vision=None)
    groups = parameter_groups(model, 1e-3, learning_rates={"text": 1e-5}, layer_decay=0.1)
    found = settings_by_name(model, groups, "lr")
    assert found["encoders.text.encoder.layer.0.output.dense.weight"] == pytest.approx((1e-6,))
    assert found["fusion.norm.weight"] == (1e-3,)


def test_peft_models(pretrained, encoders):
    peft = pytest.importorskip("peft")
    model = MMFusionForClassification.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2", text=encoders / "minilm-l6", num_labels=2
    )
    targets = r".*encoders\.(text\..*(query|value)|vision\..*(expand|reduce)_1x1\.convolution)"
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets))
    groups = parameter_groups(wrapped, 1e-3, 0.1, {"text": 1e-4}, layer_decay=0.5)
    found = settings_by_name(wrapped, groups, "module", "layer", "lr")
    assert set(found) == {name for name, p in wrapped.named_parameters() if p.requires_grad}
    text, vision = "base_model.model.model.encoders.text.", "base_model.model.model.encoders.vision."
    query = "attention.self.query.lora_A.default.weight"
    assert found[f"{text}encoder.layer.5.{query}"] == ("text", 6, 1e-4)
    assert found[f"{text}encoder.layer.0.{query}"] == ("text", 1, 1e-4 * 0.5**5)
    assert found[f"{vision}layer.15.reduce_1x1.convolution.lora_B.default.weight"] == ("vision", 16, 1e-3)
    assert found[f"{vision}conv_stem.reduce_1x1.convolution.lora_A.default.weight"] == ("vision", 0, 1e-3 * 0.5**16)


def test_misspelt_module(pretrained):
    with pytest.raises(ValueError, match=r"'visoin'.*'vision'"):
        parameter_groups(pretrained, 1e-3, learning_rates={"visoin": 1e-5})


@pytest.mark.parametrize("layer_decay", [0.0, -0.5, 1.5])
def test_layer_decay_out_of_range(pretrained, layer_decay):
    with pytest.raises(ValueError, match=rf"layer_decay.*\b1, .*{layer_decay}"):
        parameter_groups(pretrained, 1e-3, layer_decay=layer_decay)


# --- Gradual unfreezing

NOT_LAMBDA = {"reduce_lr_on_plateau", "greedy"}
SPECIFIC = {"cosine_with_min_lr": {"min_lr": 0.0}, "cosine_warmup_with_min_lr": {"min_lr": 0.0}}
SPECIFIC["warmup_stable_decay"] = {"num_decay_steps": 5}


def schedule(optimizer, name="linear", total=20):
    return get_scheduler(name, optimizer, 0, total, scheduler_specific_kwargs=SPECIFIC.get(str(name), {}))


def unfreezing(model, steps_per_stage=2, **kwargs):
    groups = parameter_groups(model, 1e-2, 0.1, layer_decay=0.9)
    optimizer = torch.optim.AdamW(groups, lr=1e-2, **kwargs)
    scheduler = schedule(optimizer)
    unfreeze_gradually(scheduler, groups, steps_per_stage)
    return optimizer, scheduler


def changed(model, before) -> set[str]:
    return {name for name, p in model.named_parameters() if not torch.equal(before[name], p)}


@pytest.mark.parametrize("fused", [True, False])
def test_layers_that_wait_keep_their_weights(fused):
    model = tiny.model(vision="resnet", freeze_batch_norm=False)  # 3 stages; the text encoder has 2 layers
    optimizer, scheduler = unfreezing(model, fused=fused)
    places = settings_by_name(model, optimizer.param_groups, "module", "layer")
    stages = []
    for step in range(10):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        model(**tiny.batch(), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        moved = changed(model, before)
        stages.append({places[name] for name in moved if places[name][1] is not None})
        waiting = {name for name, (module, layer) in places.items() if layer is not None} - moved
        if step < 2:
            always = {name for name, (_, layer) in places.items() if layer is None}
            assert moved == {name for name in always if "absent_token" not in name}  # no row lacks a modality
        if step >= 8:
            assert not waiting
    tops = {"text": 2, "vision": 3}
    for step, stage in enumerate(stages):
        expected = {(name, top - k) for name, top in tops.items() for k in range(top + 1) if step >= 2 * (k + 1)}
        assert stage == expected, step


def test_rates_behind_their_start_are_those_of_the_schedule():
    model = tiny.model()
    optimizer, scheduler = unfreezing(model)
    plain = torch.optim.AdamW(parameter_groups(model, 1e-2, 0.1, layer_decay=0.9), lr=1e-2)
    other = schedule(plain)
    for step in range(20):
        for group, reference in zip(optimizer.param_groups, plain.param_groups):
            waits = group["layer"] is not None and step < 2 * (2 - group["layer"] + 1)
            assert group["lr"] == (0.0 if waits else reference["lr"])
        assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        for each in (optimizer, plain, scheduler, other):
            each.step()


@pytest.mark.parametrize("name", [kind.value for kind in SchedulerType])
def test_schedules_of_the_library(name):
    model = tiny.model(vision=None)
    groups = parameter_groups(model, 1e-2)
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    scheduler = schedule(optimizer, name)
    if name in NOT_LAMBDA:
        with pytest.raises(ValueError, match=f"LambdaLR.*{type(scheduler).__name__}.*lr_scheduler_type"):
            unfreeze_gradually(scheduler, groups, 2)
        return
    unfreeze_gradually(scheduler, groups, 2)
    rates = []
    for _ in range(3):
        rates.append(next(group["lr"] for group in optimizer.param_groups if group["layer"] == 2))
        optimizer.step()
        scheduler.step()
    assert rates[:2] == [0.0, 0.0]
    assert rates[2] > 0


def test_a_run_resumes_in_its_stage():
    """The state goes through a file that is loaded without unpickling; the stages come from the step alone."""
    model = tiny.model()
    optimizer, scheduler = unfreezing(model)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    file = io.BytesIO()
    torch.save({"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other_optimizer, other = unfreezing(model)
    other_optimizer.load_state_dict(state["optimizer"])
    other.load_state_dict(state["scheduler"])
    for _ in range(8):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert [group["lr"] for group in other_optimizer.param_groups] == rates
        for each in (optimizer, scheduler, other_optimizer, other):
            each.step()
    assert all(rate > 0 for rate in rates)


def test_unfreezing_needs_its_groups():
    model = tiny.model()
    optimizer = torch.optim.AdamW([{"params": list(model.parameters())}], lr=1e-2)
    scheduler = schedule(optimizer)
    with pytest.raises(ValueError, match=r"parameter_groups.*\b1\b.*\b0\b"):
        unfreeze_gradually(scheduler, optimizer.param_groups, 2)
    with pytest.raises(ValueError, match=r"\b1, .*\b0\b"):
        unfreeze_gradually(scheduler, optimizer.param_groups, 0)


# --- Averaged weights


def train_steps(model, steps, after, batch):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(steps):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        after(step)


def test_average_equals_a_plain_loop(encoders):
    torch.manual_seed(0)
    model = MMFusionForClassification.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2",
        text=encoders / "minilm-l6",
        freeze_encoders=["text"],
        num_labels=2,
        fusion_module_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    )
    ema = EMA(model, 0.3)
    expected = {name: p.detach().double().clone() for name, p in model.named_parameters() if p.requires_grad}

    def after(step):
        ema.update()
        decay = [1 / 10, 2 / 11, 3 / 12, 0.3, 0.3][step]  # (1 + t) / (10 + t) until that is past 0.3
        for name in expected:
            expected[name] = decay * expected[name] + (1 - decay) * model.get_parameter(name).detach().double()

    train_steps(model, 5, after, real_batch())
    assert ema.num_updates == 5
    assert set(ema.tensors()) == set(expected)
    assert not any("encoders.text" in name for name in expected)
    for name, average in ema.tensors().items():
        torch.testing.assert_close(average.double(), expected[name], rtol=1e-6, atol=1e-7)
    assert any(not torch.equal(model.get_parameter(name), average) for name, average in ema.tensors().items())


def test_averages_are_swapped_in_and_back():
    model = tiny.model()
    ema = EMA(model, 0.5)
    train_steps(model, 3, lambda step: ema.update(), {**tiny.batch(), "labels": torch.tensor([0, 1, 2, 3])})
    own = {name: p.detach().clone() for name, p in model.named_parameters()}
    with contextlib.suppress(KeyError), ema.applied():
        assert all(torch.equal(model.get_parameter(name), average) for name, average in ema.tensors().items())
        assert changed(model, own)
        raise KeyError
    assert not changed(model, own)


def test_averages_are_kept_in_float32():
    """In bfloat16 a thousandth of a difference would be lost."""
    model = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.constant_(model.weight, 1.0)
    ema = EMA(model, 0.999)
    ema.num_updates = 10**6
    nn.init.constant_(model.weight, 2.0)
    ema.update()
    assert ema.tensors()["weight"].item() == pytest.approx(1.001)
    with ema.applied():
        assert model.weight.dtype == torch.bfloat16


def test_state_of_averages_is_kept_as_safetensors(tmp_path):
    model = tiny.model(freeze_encoders=["vision"])
    ema = EMA(model, 0.9)
    batch = {**tiny.batch(), "labels": torch.tensor([0, 1, 2, 3])}
    train_steps(model, 2, lambda step: ema.update(), batch)
    save_file(ema.state_dict(), tmp_path / "ema.safetensors")
    other = EMA(model, 0.9)
    other.load_state_dict(load_file(tmp_path / "ema.safetensors"))
    train_steps(model, 2, lambda step: (ema.update(), other.update()), batch)
    assert other.num_updates == ema.num_updates == 4
    assert all(torch.equal(other.tensors()[name], average) for name, average in ema.tensors().items())
    with pytest.raises(ValueError, match=r"'model\.encoders\.vision"):
        EMA(tiny.model(), 0.9).load_state_dict(ema.state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=f"decay.*1, .*{decay}"):
        EMA(nn.Linear(1, 1), decay)


# --- What is not finite


def backward(model, poison=None):
    model.zero_grad()
    model(torch.ones(1, 3)).sum().backward()
    if poison is not None:
        model.weight.grad[0, 0] = poison


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_steps_that_are_not_finite_change_nothing(tmp_path, poison):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    guard = NonFiniteGuard(3, tmp_path)
    backward(model)
    assert guard.check(model, 1, [1, 2])
    optimizer.step()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in (2, 3):
        backward(model, poison)
        assert not guard.check(model, step, torch.tensor([step, 7]))
        optimizer.step()
        assert not changed(model, before)
    assert (guard.total, guard.in_a_row) == (2, 2)
    rows = [{"step": 2, "row_ids": [2, 7]}, {"step": 3, "row_ids": [3, 7]}]
    assert json.loads((tmp_path / "nonfinite_rows.json").read_text()) == rows
    backward(model)
    assert guard.check(model, 4)
    optimizer.step()
    assert changed(model, before)
    assert (guard.total, guard.in_a_row) == (2, 0)


def test_too_many_in_a_row_stop_the_run(tmp_path):
    model = nn.Linear(3, 2)
    guard = NonFiniteGuard(2, tmp_path / "run", rank=1)
    file = tmp_path / "run" / "nonfinite_rows.rank1.json"
    for step, norm in enumerate([float("nan"), 1.0, torch.tensor(float("inf"))]):
        assert guard.check(model, step, [step], norm=norm) == (step == 1)
    with pytest.raises(NonFiniteLossError, match=rf"^2 .*\b3\b.*{file}"):
        guard.check(model, 3, [8], norm=float("nan"))
    assert json.loads(file.read_text()) == [{"step": 2, "row_ids": [2]}, {"step": 3, "row_ids": [8]}]
    assert guard.total == 3
    assert issubclass(NonFiniteLossError, ValueError)


def test_the_guard_resumes(tmp_path):
    guard, other = NonFiniteGuard(2, tmp_path), NonFiniteGuard(2, tmp_path)
    guard.check(nn.Linear(1, 1), 5, [3], norm=float("nan"))
    file = io.BytesIO()
    torch.save(guard.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert (other.total, other.in_a_row) == (1, 1)
    with pytest.raises(NonFiniteLossError):
        other.check(nn.Linear(1, 1), 6, [4], norm=float("nan"))
    with pytest.raises(ValueError, match=r"max_nonfinite.*\b1, .*\b0\b"):
        NonFiniteGuard(0, tmp_path)
