"""Freezing and thawing: config, gradients, and modes agree, whatever was called in which order."""

import copy
import logging

import encoder_types
import pytest
import tiny_models as tiny
import torch
from torch import nn
from transformers import BartConfig, BertConfig, GPT2Config, Trainer, TrainerCallback, TrainingArguments, get_scheduler

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
from mm_hf.models.configuration_mm_fusion import part_of_composite
from mm_hf.models.freezing import is_of_peft
from mm_hf.models.recurrent import RecurrentConfig
from mm_hf.optim import parameter_groups, unfreeze_gradually


LABELS = {"labels": torch.tensor([0, 1, 2, 3])}


def batch(absent: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """Four rows; one has no picture, another no text, so that all that is new takes part; `absent` have no item."""
    inputs = {**tiny.batch(), "text_index": torch.tensor([0, 1, -1, 3]), "vision_index": torch.tensor([0, -1, 2, 3])}
    for name, keys in (("text", ("input_ids", "attention_mask")), ("vision", ("pixel_values",))):
        if name in absent:
            inputs = {key: value for key, value in inputs.items() if key not in (*keys, f"{name}_index")}
    return inputs


def names(model, flag=lambda parameter: parameter.requires_grad) -> set[str]:
    return {name for name, parameter in model.named_parameters() if flag(parameter)}


def with_gradient(model, inputs) -> set[str]:
    """The parameters that get a gradient."""
    model.zero_grad()
    model(**inputs).loss.backward()
    return names(model, lambda parameter: parameter.grad is not None)


def check(model, encoders: set[str], inputs=None):
    """A training step reaches exactly what is new and these parameters of the encoders; all else, buffers too, stays
    as it is, bit for bit; modules are in training mode where all they have trains, and nowhere else."""
    new = {name for name, _ in model.named_parameters() if "encoders." not in name}
    inputs = {**batch(), **LABELS} if inputs is None else inputs
    assert names(model) == new | encoders
    model.train()
    assert names(model) == new | encoders
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert with_gradient(model, inputs) == new | encoders
    torch.optim.AdamW(model.parameters(), lr=1e-2).step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    buffers = changed & {name for name, _ in model.named_buffers()}
    assert all(model.get_submodule(name.rpartition(".")[0]).training for name in buffers)
    assert changed - buffers <= new | encoders
    learned = {name for name in new | encoders if model.get_parameter(name).grad.any()}
    assert learned <= changed
    assert len(learned & encoders) >= 0.5 * len(encoders)
    check_modes(model)
    model.eval()
    assert not any(module.training for module in model.modules())


def check_modes(model):
    """In training mode: of the encoders exactly the modules whose parameters all train (but for those that never do),
    and what is within them."""
    base = model.base_model
    untrained = {id(p) for name, p in base.named_parameters() if name in base.untrained}
    for encoder in base.encoders.values():
        for path, module in encoder.named_modules():
            own = [parameter for parameter in module.parameters() if id(parameter) not in untrained]
            norm = isinstance(module, nn.modules.batchnorm._BatchNorm) and model.config.freeze_batch_norm
            if own and not norm:
                assert module.training == all(p.requires_grad for p in own), path
            if isinstance(module, nn.Dropout):
                parent = encoder.get_submodule(path.rpartition(".")[0])
                assert module.training == parent.training, path
    assert model.base_model.fusion.training


# --- What trains of which encoder

BART = {"vocab_size": tiny.VOCABULARY, "d_model": 32, "encoder_layers": 3, "decoder_layers": 1, "init_std": 0.2}
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
BART |= {"max_position_embeddings": 40, "dropout": 0.0, **tiny.SPECIAL_IDS}
GPT2 = {"vocab_size": tiny.VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 40}
OTHER_TEXTS = {
    "bart": lambda: BartConfig(**BART),
    "gpt2": lambda: GPT2Config(**GPT2, embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0, **tiny.SPECIAL_IDS),
}
# Modality, type, how many layers, and the beginnings of the names of what then trains.
TOPS = [
    ("vision", "resnet", 1, ("encoder.stages.2.",)),
    ("vision", "resnet", 3, ("encoder.stages.",)),
    ("vision", "mobilenet_v2", 2, ("layer.14.", "layer.15.", "conv_1x1.")),
    ("vision", "convnext", 2, ("encoder.stages.2.", "encoder.stages.3.")),
    ("vision", "swin", 1, ("encoder.layers.1.", "layernorm.")),
    ("vision", "dinov2", 1, ("encoder.layer.1.", "layernorm.")),
    ("text", "bert", 1, ("encoder.layer.1.",)),
    ("text", "bert", 2, ("encoder.layer.",)),
    ("text", "distilbert", 1, ("transformer.layer.1.",)),
    ("text", "modernbert", 1, ("layers.1.", "final_norm.")),
    ("text", "t5", 1, ("block.1.", "final_layer_norm.")),
    ("text", "lstm", 1, ("layers.1.",)),
    ("text", "bart", 2, ("layers.1.", "layers.2.")),  # and not its norm of the embeddings, which is defined behind
    ("text", "gpt2", 1, ("h.2.", "ln_f.")),
    ("audio", "whisper", 1, ("layers.1.", "layer_norm.")),
    ("audio", "wav2vec2", 1, ("encoder.layers.1.", "encoder.layer_norm.")),  # which is defined before the layers
]


def build(modality: str, kind: str, **kwargs) -> MMFusionForClassification:
    settings = {"vision": None, "text": None, "audio": None}
    if kind in OTHER_TEXTS:
        config = tiny.config(**{**settings, "text": "bert"}, **kwargs)
        config.text_config = OTHER_TEXTS[kind]()
        torch.manual_seed(0)
        return tiny.open_gates(MMFusionForClassification(config)).eval()
    return tiny.model(**{**settings, modality: kind}, **kwargs)


@pytest.mark.parametrize(
    ("modality", "kind", "layers", "beginnings"),
    [pytest.param(*top, marks=pytest.mark.slow if place % 2 else ()) for place, top in enumerate(TOPS)],
)
def test_the_top_layers(modality, kind, layers, beginnings):
    model = build(modality, kind, freeze_encoders=True, freeze_batch_norm=False)
    encoder = model.model.encoders[modality]
    untrained = {name.removeprefix(f"encoders.{modality}.") for name in model.model.untrained}
    own = {name for name, _ in encoder.named_parameters() if name.startswith(beginnings)} - untrained
    assert own
    assert model.unfreeze(modality, layers=layers) is model
    assert model.config.frozen_encoders == []
    assert model.config.trained_layers == {modality: layers}
    rows = {"vision": tiny.images(4), "text": tiny.texts((6, 4, 7, 5))}
    inputs = rows[modality] if modality in rows else tiny.sounds(kind, (20, 12, 16, 18))
    index = {f"{modality}_index": torch.tensor([0, 1, 2, -1])}
    check(model, {f"model.encoders.{modality}.{name}" for name in own}, {**inputs, **index, **LABELS})


@pytest.fixture
def real(encoders) -> MMFusionForClassification:
    torch.manual_seed(0)
    model = MMFusionForClassification.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2",
        text=encoders / "minilm-l6",
        audio=encoders / "whisper-tiny-en",
        max_audio_seconds=1,
        num_labels=4,
        freeze_encoders=["text"],
        trained_layers={"vision": 3, "audio": 1},
        freeze_batch_norm=False,
        classifier_dropout=0.0,
        fusion_module_config={"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
    )
    return tiny.open_gates(model)


def test_real_encoders(real, tmp_path):
    beginnings = tuple(
        f"model.encoders.vision.{part}" for part in ("layer.13.", "layer.14.", "layer.15.", "conv_1x1.")
    )
    beginnings += ("model.encoders.audio.layers.3.", "model.encoders.audio.layer_norm.")
    own = {name for name, _ in real.named_parameters() if name.startswith(beginnings)}
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "input_ids": torch.randint(1000, 20000, (4, 6), generator=generator),
        "pixel_values": torch.randn(4, 3, 64, 64, generator=generator),
        "input_features": torch.randn(4, 80, 100, generator=generator),
        **{f"{name}_index": torch.tensor([0, -1, 2, 3]).roll(k) for k, name in enumerate(("text", "vision", "audio"))},
        **LABELS,
    }
    check(real, own, inputs)
    real.save_pretrained(tmp_path)
    loaded = MMFusionForClassification.from_pretrained(tmp_path)
    assert loaded.config.trained_layers == {"vision": 3, "audio": 1}
    check(loaded, own, inputs)


KINDS = [("text", name) for name in ("deberta-v2", "mpnet", "opt", "albert", "zamba", "t5gemma", "funnel", "fnet")]
KINDS += [("vision", "pvt"), ("vision", "bit"), ("audio", "wav2vec2-conformer")]


def try_type(modality: str, model_type: str) -> str:
    """Lets the top layer train: "thaws" where exactly that gets gradients, below which none flows; "refused" where it
    has none that can be told."""
    part = part_of_composite(encoder_types.tiny_config(model_type), modality)
    config = MMFusionConfig(
        **{f"{modality}_config": part}, num_labels=4, fusion_module_config=tiny.fusion_settings(num_hidden_layers=1)
    )
    torch.manual_seed(0)
    model = tiny.open_gates(MMFusionForClassification(config))
    encoder = model.model.encoders[modality]
    try:
        model.unfreeze(modality, layers=1)
    except ValueError as error:
        if "leave layers out" not in str(error):
            raise
        assert len(names(encoder)) == len(names(encoder, lambda p: True)) - len(model.model.untrained)
        return "refused"
    own = {f"model.encoders.{modality}.{name}" for name in names(encoder)}
    assert own
    assert not own & {f"model.{name}" for name in model.model.untrained}
    words = [m for m in encoder.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == 64]
    embeddings = {id(parameter) for module in words for parameter in module.parameters()}
    assert not [name for name in own if id(model.get_parameter(name)) in embeddings]
    rows = encoder_types.rows_of(modality, encoder.config)
    inputs = {**encoder_types.padded(rows, "right"), f"{modality}_index": torch.tensor([0, 1, 2, -1]), **LABELS}
    check(model, own, inputs)
    return "thaws"


@pytest.mark.parametrize(("modality", "model_type"), KINDS)
def test_one_type_of_each_kind(modality, model_type):
    assert try_type(modality, model_type) == "thaws"


@pytest.mark.parametrize("model_type", ["reformer", "markuplm"])
def test_types_whose_layers_cannot_be_told_are_refused(model_type):
    assert try_type("text", model_type) == "refused"


@pytest.mark.slow
def test_every_type():
    """All but a few that cannot be built here thaw from the top, or say that they do not."""
    found, failed = {}, []
    for modality, model_type in encoder_types.all_types():
        try:
            found[modality, model_type] = try_type(modality, model_type)
        except Exception as error:
            failed.append((modality, model_type, f"{type(error).__name__}: {error}".splitlines()[0]))
    assert [key for key, verdict in found.items() if verdict == "refused"] == [
        ("text", "markuplm"),
        ("text", "reformer"),
    ]
    assert len(failed) <= 0.06 * len(found), failed


# --- Calls one after the other


CALLS = {
    "one": (False, [("freeze", ("vision",), {})], ["vision"], None),
    "two": (False, [("freeze", ("vision", "text"), {})], ["vision", "text"], None),
    "all": (False, [("freeze", (), {})], ["vision", "text"], None),
    "one more": (["text"], [("freeze", ("vision",), {})], ["vision", "text"], None),
    "thaw one": (True, [("unfreeze", ("vision",), {})], ["text"], None),
    "thaw all": (True, [("unfreeze", (), {})], [], None),
    "thaw a part": (True, [("unfreeze", ("text",), {"layers": 1})], ["vision"], {"text": 1}),
    "a part of each": (True, [("unfreeze", (), {"layers": 1})], [], {"vision": 1, "text": 1}),
    "a part of what trained": (False, [("unfreeze", ("text",), {"layers": 1})], [], {"text": 1}),
    "a part, then none": (
        True,
        [("unfreeze", ("text",), {"layers": 1}), ("freeze", ("text",), {})],
        ["vision", "text"],
        None,
    ),
    "a part, then all": (
        True,
        [("unfreeze", ("text",), {"layers": 1}), ("unfreeze", ("text",), {})],
        ["vision"],
        None,
    ),
    "a part, then more": (
        True,
        [("unfreeze", ("vision",), {"layers": 1}), ("unfreeze", ("vision",), {"layers": 2})],
        ["text"],
        {"vision": 2},
    ),
    "two parts, one after the other": (
        True,
        [("unfreeze", ("text",), {"layers": 2}), ("unfreeze", ("vision",), {"layers": 1})],
        [],
        {"vision": 1, "text": 2},
    ),
    "there and back": (False, [("freeze", (), {}), ("unfreeze", (), {})], [], None),
}
STACKS = {"vision": "encoder.stages.", "text": "encoder.layer."}  # of ResNet's three stages, of BERT's two layers
DEPTHS = {"vision": 3, "text": 2}


def training(frozen: list[str], parts: dict[str, int] | None) -> set[str]:
    """The encoders' parameters that are to train, said by names alone."""
    model = tiny.model(vision="resnet")
    found = set()
    for name, depth in DEPTHS.items():
        for key, _ in model.model.encoders[name].named_parameters():
            layer = key.removeprefix(STACKS[name]).split(".")[0] if key.startswith(STACKS[name]) else "-1"
            whole = name not in frozen and name not in (parts or {})
            if whole or (name in (parts or {}) and int(layer) >= depth - parts[name]):
                found.add(f"model.encoders.{name}.{key}")
    return found


@pytest.mark.parametrize("case", CALLS)
def test_calls(case, tmp_path):
    start, calls, frozen, parts = CALLS[case]
    model = tiny.model(vision="resnet", freeze_encoders=start, freeze_batch_norm=False)
    for method, chosen, options in calls:
        assert getattr(model, method)(*chosen, **options) is model
    expected = training(frozen, parts)
    assert model.config.frozen_encoders == frozen
    assert model.config.trained_layers == parts
    model.save_pretrained(tmp_path)
    adapted = copy.deepcopy(model)
    for each in (copy.deepcopy(model), MMFusionForClassification.from_pretrained(tmp_path)):
        assert each.config.frozen_encoders == frozen
        assert each.config.trained_layers == parts
        check(each, expected)
    adapters = pytest.importorskip("mm_hf.adapters")
    pytest.importorskip("peft")
    adapters.add_lora(adapted, "text" if frozen else "encoders", rank=2)
    assert with_gradient(adapted.train(), {**batch(), **LABELS}) == names(adapted)
    adapters.merge_lora(adapted)
    assert adapted.config.frozen_encoders == frozen
    assert adapted.config.trained_layers == parts
    check(adapted, expected)


def test_without_items_all_that_trains_takes_part():
    """On every process, whatever its rows have."""
    for parts, absent in (({"vision": 1}, "vision"), ({"text": 1}, "text")):
        model = tiny.model(
            vision="resnet", trained_layers=parts, freeze_encoders=[n for n in DEPTHS if n not in parts]
        )
        inputs = {**batch((absent,)), **LABELS}
        present = next(name for name in DEPTHS if name != absent)
        inputs[f"{present}_index"] = torch.tensor([0, 1, 2, 3])
        expected = training([present], parts)
        found = with_gradient(model.train(), inputs)
        assert {name for name in found if "encoders." in name} == expected
        assert all(model.get_parameter(name).grad.abs().max() == 0 for name in expected)


ENDS = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
DECODER = {**tiny.WORDS, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TASKS = {
    "kind": {"problem_type": "single_label_classification", "labels": ["a", "b", "c"]},
    "tone": {"problem_type": "regression"},
}
CLASSES = {
    MMFusionModel: ({}, {}),
    MMFusionForClassification: ({}, LABELS),
    MMFusionForQuestionAnswering: ({}, LABELS),
    MMFusionForMultiTask: ({"tasks": TASKS}, {"labels": {"kind": torch.tensor([0, 1, 2, 0]), "tone": torch.rand(4)}}),
    MMFusionForRetrieval: ({"projection_dim": 8}, {}),
    MMFusionForConditionalGeneration: (
        {"decoder_config": lambda: BertConfig(**DECODER), **ENDS},
        {"labels": torch.tensor([[7, 8, 2], [9, 2, -100], [5, 6, 2], [7, 2, -100]])},
    ),
    MMFusionForCTC: (
        {"audio": "whisper", "vocab_size": 9, "pad_token_id": 0},
        {"labels": torch.tensor([[1, 2], [3, -100], [4, 5], [1, -100]]), **tiny.sounds("whisper", (20, 12, 16, 18))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class(cls, tmp_path):
    settings, more = CLASSES[cls]
    settings = {key: value() if callable(value) else value for key, value in settings.items()}
    model = tiny.model(cls, freeze_encoders=True, **settings).train()
    modalities = model.config.modalities
    assert model.config.frozen_encoders == modalities
    inputs = {**tiny.batch(), **more}

    def trained(model) -> set[str]:
        outputs = model(**inputs)
        model.zero_grad()
        (outputs.pooler_output.sum() if cls is MMFusionModel else outputs.loss).backward()
        found = names(model, lambda parameter: parameter.grad is not None)
        assert found <= names(model)
        return {name.partition("encoders.")[2] for name in found if "encoders." in name}

    text = {f"text.{name}" for name, _ in model.base_model.encoders["text"].named_parameters()}
    assert trained(model) == set()
    top = {name for name in text if ".layer.1." in name}
    assert trained(model.unfreeze("text", layers=1)) == top
    model.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path).train()
    assert loaded.config.trained_layers == {"text": 1}
    assert loaded.config.frozen_encoders == [name for name in modalities if name != "text"]
    assert trained(loaded) == top
    assert trained(loaded.unfreeze("text")) == text
    everything = {key.partition("encoders.")[2] for key, p in model.named_parameters() if "encoders." in key}
    everything -= {name.partition("encoders.")[2] for name in model.base_model.untrained}
    assert trained(loaded.unfreeze()) == everything
    assert trained(loaded.freeze()) == set()
    assert trained(tiny.model(cls, **settings).train().freeze("text")) == everything - text


def test_dropout_above_and_none_below():
    config = tiny.config(freeze_encoders=["vision"], trained_layers={"text": 1})
    config.text_config.hidden_dropout_prob = 0.5
    model = MMFusionForClassification(config).train()
    encoder, seen = model.model.encoders["text"], {0: [], 1: []}
    for number in seen:
        encoder.encoder.layer[number].register_forward_hook(lambda m, i, out, n=number: seen[n].append(out))
    for _ in range(2):
        model(**tiny.batch())
    assert torch.equal(*seen[0])
    assert not torch.equal(*seen[1])


def test_feature_layers_and_checkpointing():
    """The last layer used is the top one; recomputing activations changes no gradient."""
    model = tiny.model(
        vision="clip", vision_feature_layer=[0, 1], freeze_encoders=["text"], trained_layers={"vision": 1}
    )
    own = {name for name in names(model) if "encoders." in name}
    assert own
    assert all(".encoder.layers.0." in name for name in own)
    check(copy.deepcopy(model), own)
    plain, model = copy.deepcopy(model), model.train()
    model.gradient_checkpointing_enable()
    inputs = {**batch(), **LABELS}
    assert with_gradient(model, inputs) == with_gradient(plain.train(), inputs)
    for name in own:
        torch.testing.assert_close(model.get_parameter(name).grad, plain.get_parameter(name).grad)


def test_freezing_wins_where_a_checkpoint_is_loaded_frozen(tmp_path):
    tiny.model(trained_layers={"text": 1}).save_pretrained(tmp_path)
    loaded = MMFusionForClassification.from_pretrained(tmp_path, freeze_encoders=True)
    assert loaded.config.frozen_encoders == ["vision", "text"]
    assert loaded.config.trained_layers is None
    check(loaded, set())


def test_tables_and_series(tmp_path):
    settings = tiny.fusion_settings()
    model = MMFusionForClassification(
        MMFusionConfig(
            tabular_config=TabularConfig(num_numerical=3),
            series_config=RecurrentConfig(input_size=2, hidden_size=16),
            text_config=tiny.TEXT_CONFIGS["bert"](),
            num_labels=4,
            fusion_module_config=settings,
        )
    )
    assert model.freeze().config.frozen_encoders == ["text"]
    assert model.freeze("tabular").config.frozen_encoders == ["text", "tabular"]
    model.save_pretrained(tmp_path)
    model = MMFusionForClassification.from_pretrained(tmp_path)
    assert not any(name.startswith("model.encoders.tabular") for name in names(model))
    assert model.unfreeze(layers=1).config.frozen_encoders == ["tabular"]
    assert model.config.trained_layers == {"text": 1}
    assert model.unfreeze().config.frozen_encoders == []
    for name in ("tabular", "series"):
        with pytest.raises(ValueError, match=rf"\['text'\].*'{name}'.*unfreeze\('{name}'\)"):
            model.unfreeze(name, layers=1)


# --- What is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.freeze("visoin"), r"freeze .*\['visoin'\].*\['vision', 'text'\].*'vision'"),
        (lambda model: model.unfreeze("text", "sound"), r"unfreeze .*\['sound'\].*\['vision', 'text'\]"),
        (lambda model: model.unfreeze("text", layers=3), r"text .* 1 to 2.* 3\b"),
        (lambda model: model.unfreeze("vision", "text", layers=3), r"text .* 1 to 2.* 3\b"),
        (lambda model: model.unfreeze("vision", layers=0), r"vision .* 1 to 3.* 0\b"),
        (lambda model: model.unfreeze("vision", layers=-1), r"1 to 3.*got -1"),
        (lambda model: model.unfreeze("vision", layers=True), r"1 to 3.*got True"),
        (lambda model: model.unfreeze("vision", layers=1.0), r"1 to 3.*got 1\.0"),
        (lambda model: model.unfreeze(layers=3), r"text .* 1 to 2.* 3\b"),
    ],
)
def test_what_is_refused_changes_nothing(call, message):
    model = tiny.model(vision="resnet", freeze_encoders=["vision"])
    before, config = names(model), model.config.to_dict()
    with pytest.raises(ValueError, match=message):
        call(model)
    assert names(model) == before
    assert model.config.to_dict() == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trained_layers": {"sound": 1}}, r"trained_layers.*\['sound'\].*\['vision', 'text'\]"),
        ({"trained_layers": {"text": 0}}, r"trained_layers.* text .*1, .*\b0\b"),
        ({"trained_layers": {"text": -1}}, r"trained_layers.* text .*1, .*-1\b"),
        ({"trained_layers": {"text": 1}, "freeze_encoders": True}, r"freeze_encoders=\['vision'\]"),
        ({"trained_layers": {"text": 1}, "freeze_encoders": ["text"]}, r"\['text'\].*freeze_encoders=False"),
        ({"trained_layers": {"text": 9}}, r"text .* 1 to 2.* 9\b"),
    ],
)
def test_configs_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        MMFusionForClassification(tiny.config(**settings))


def test_with_adapters_it_is_refused():
    pytest.importorskip("peft")
    from mm_hf.adapters import add_lora, merge_lora

    model = add_lora(tiny.model(freeze_encoders=True), "text", rank=2)
    for call in (model.freeze, model.unfreeze):
        with pytest.raises(ValueError, match=r"\['text'\].*merge_lora"):
            call("vision")
    assert merge_lora(model).unfreeze("text").config.frozen_encoders == ["vision"]


# --- What is told


@pytest.fixture
def told(caplog, monkeypatch) -> list[str]:
    """The warnings of mm_hf, as they come."""
    monkeypatch.setattr(logging.getLogger("mm_hf"), "propagate", True)
    found = []

    class Taken(logging.Handler):
        def emit(self, record):
            if record.levelno >= logging.WARNING:
                found.append(record.getMessage())

    handler = Taken()
    logger = logging.getLogger("mm_hf.models.freezing")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def steps(model, count: int = 3, optimizer=None):
    """Trains."""
    model.train()
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(count):
        model(**batch(), **LABELS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def by_hand(model):
    for parameter in model.model.encoders["vision"].layers[1].parameters():
        parameter.requires_grad_(True)


def by_config(model):
    model.config.freeze_encoders = ["text"]


def frozen_by_config(model):
    model.unfreeze()
    model.config.freeze_encoders = True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (by_hand, r"16 of \d+ parameters of the vision encoder.*model\.unfreeze\('vision'\)"),
        (lambda model: model.requires_grad_(True), r"parameters of the vision encoder.*model\.unfreeze\('vision'\)"),
        (by_config, r"freezes \['text'\].*set up for \['vision', 'text'\].*apply_freezing"),
        (frozen_by_config, r"freezes \['vision', 'text'\].*set up for \[\].*apply_freezing"),
    ],
)
def test_what_would_not_learn_is_told_once(change, message, told):
    import re

    model = tiny.model(freeze_encoders=True)
    steps(model)
    assert told == []
    change(model)
    steps(model)
    matching = [text for text in told if re.search(message, text)]
    assert len(matching) == 1, told
    assert len(told) == len(set(told)) <= 2
    before = len(told)
    model.eval()
    model(**batch())
    steps(model)
    assert len(told) == before


def lora(where):
    def change(model):
        pytest.importorskip("peft")
        from mm_hf.adapters import add_lora

        add_lora(model, where, rank=2)

    return change


def peft_adapters(model):
    peft = pytest.importorskip("peft")
    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query", "value", "q_proj"]))


def lora_and_back(model):
    from mm_hf.adapters import merge_lora

    lora("encoders")(model)
    merge_lora(model)


def adapters_merged(model):
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query", "value"]))
    wrapped.merge_and_unload().requires_grad_(True).apply_freezing()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: None,
        lambda model: model.unfreeze(),
        lambda model: model.unfreeze("text", layers=1),
        lambda model: model.freeze("text"),
        lora("text"),
        lora("all"),
        lora_and_back,
        peft_adapters,
        adapters_merged,
        lambda model: model.unfreeze("vision").gradient_checkpointing_enable(),
    ],
)
@pytest.mark.parametrize("start", [True, False, ["vision"]])
def test_no_false_alarm(change, start, told):
    model = tiny.model(freeze_encoders=start)
    change(model)
    steps(model)
    steps(copy.deepcopy(model))
    assert told == []


def test_no_false_alarm_from_layers_that_wait(told):
    model = tiny.model(freeze_encoders=["vision"])
    groups = parameter_groups(model, 1e-3)
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    unfreeze_gradually(get_scheduler("linear", optimizer, 0, 20), groups, 2)
    steps(model, 3, optimizer)
    assert told == []


@pytest.mark.slow
def test_no_false_alarm_when_compiled(told):
    model = tiny.model(freeze_encoders=["vision"])
    compiled = torch.compile(model.train(), backend="eager")
    for change in (lambda: None, lambda: model.unfreeze("vision", layers=1), lambda: model.freeze("text")):
        change()
        assert with_gradient(compiled, {**batch(), **LABELS}) == {f"_orig_mod.{name}" for name in names(model)}
    assert told == []


@pytest.mark.parametrize("kind", ["part", "adapters"])
def test_checkpointing_that_loses_gradients_is_refused(kind):
    model = tiny.model(vision=None, text=None, audio="wav2vec2", freeze_encoders=kind == "adapters").train()
    if kind == "part":
        model.unfreeze("audio", layers=1)
    else:
        peft = pytest.importorskip("peft")
        peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"])).train()
    inputs = {**tiny.sounds("wav2vec2", (20, 12, 16, 18)), **LABELS}
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match=r"audio.*use_reentrant=False"):
        model(**inputs)
    model.gradient_checkpointing_enable()
    found = with_gradient(model, inputs)
    assert {name for name in found if "encoders." in name} == {name for name in names(model) if "encoders." in name}
    assert len(found) > 2


def test_states_of_before_are_told(told):
    model = tiny.model(freeze_encoders=["vision"]).train()
    with torch.no_grad():
        states = model.model.encode(**tiny.batch())
    for _ in range(2):
        model(encoder_states={"vision": states["vision"]}, **tiny.texts((6, 4, 7, 5)))
    assert told == []
    for _ in range(2):
        model(encoder_states=states)
    (text,) = told
    assert "text encoder" in text
    assert "model.freeze('text')" in text
    model = tiny.model()
    model.train()(encoder_states=model.model.encode(**tiny.batch()), **LABELS).loss.backward()
    assert len(told) == 1


# --- In the middle of a training


@pytest.mark.parametrize("made_of", ["all", "what trains", "added later", "two"])
def test_the_optimizer_of_before(made_of, told):
    """One that was made of all parameters lets thawed ones learn; that another does not is told."""
    model = tiny.model(freeze_encoders=True)
    parameters = [p for p in model.parameters() if made_of == "all" or p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    steps(model, 2, optimizer)
    model.unfreeze("text", layers=1)
    thawed = {name for name in names(model) if "encoders." in name}
    if made_of == "added later":
        optimizer.add_param_group({"params": [model.get_parameter(name) for name in sorted(thawed)]})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    steps(model, 5, optimizer)
    if made_of == "two":
        assert len(told) == 1
        told.clear()
        model.freeze().unfreeze("text", layers=1)
        second = torch.optim.AdamW([model.get_parameter(name) for name in sorted(thawed)], lr=1e-2)
        for _ in range(3):
            optimizer.step()
            second.step()
        steps(model, 2, second)
    changed = {name for name in thawed if not torch.equal(before[name], model.get_parameter(name))}
    if made_of == "what trains":
        assert changed == set()
        (text,) = told
        assert f"{len(thawed)} parameters" in text
        assert "add_param_group" in text
    else:
        assert changed == thawed
        assert told == []


class Thaw(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 2:
            model.unfreeze("text", layers=1)


def stock_trainer(model, folder, steps=6, **kwargs) -> Trainer:
    inputs = {**tiny.batch(), **LABELS}
    rows = [{key: value[row] for key, value in inputs.items()} for row in range(4)] * 6
    arguments = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    return Trainer(model, arguments, train_dataset=rows, **kwargs)


@pytest.mark.parametrize("own", [True, False])
def test_the_librarys_trainer_thaws_in_a_callback(own, told, tmp_path):
    model = tiny.model(freeze_encoders=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = (torch.optim.AdamW(model.parameters(), lr=1e-2), None) if own else (None, None)
    stock_trainer(model, tmp_path, callbacks=[Thaw()], optimizers=optimizers).train()
    changed = {name for name, p in model.named_parameters() if not torch.equal(before[name], p)}
    top = {name for name in before if "encoders.text.encoder.layer.1." in name}
    assert {name for name in changed if "encoders." in name} == (top if own else set())
    assert len(told) == (0 if own else 1)
    assert model.config.trained_layers == {"text": 1}


def test_parameters_that_processes_would_not_share_are_refused(tmp_path):
    model = tiny.model(freeze_encoders=True)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model.train())
        steps(wrapped, 1)
        model.unfreeze("text", layers=1)
        with pytest.raises(ValueError, match=r"\d+ .*DistributedDataParallel.*\d+"):
            wrapped(**batch(), **LABELS)
        steps(nn.parallel.DistributedDataParallel(model.train()), 1)
        assert model.model.encoders["text"].encoder.layer[1].output.dense.weight.requires_grad
    finally:
        torch.distributed.destroy_process_group()


def test_modules_of_peft_are_known_by_their_package():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny.model(), peft.LoraConfig(r=2, target_modules=["query"]))
    assert sum(is_of_peft(module) for module in model.base_model.model.modules()) == 2
    assert not any(is_of_peft(module) for module in tiny.model().modules())
