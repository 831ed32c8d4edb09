"""What training switches: modality dropout, frozen encoders, frozen batch norms, and losses with their labels."""

import math

import pytest
import tiny_models as tiny
import torch
from torch import nn

from mm_hf import MMFusionForClassification, MMFusionForQuestionAnswering, MMFusionModel
from mm_hf.models.losses import classification_loss, infer_problem_type


ROWS = 400


def many_rows(vision_absent: int = 0) -> dict[str, torch.Tensor]:
    """Many rows over few items; the first `vision_absent` rows have no image."""
    rows = torch.arange(ROWS)
    vision_index = torch.where(rows < vision_absent, -1, rows % 2)
    return {**tiny.texts((6, 4, 7)), **tiny.images(2), "text_index": rows % 3, "vision_index": vision_index}


def projected_absence(model, inputs) -> dict[str, torch.Tensor]:
    """For each modality which rows the fusion sees without it."""
    indices = {"text": inputs["text_index"], "vision": inputs["vision_index"]}
    encoded = model.encode(indices, **{key: value for key, value in inputs.items() if not key.endswith("index")})
    return {name: state.index == 0 for name, state in model.project(encoded).items()}


# --- Modality dropout


def test_modality_dropout_is_drawn_for_every_row():
    model = tiny.model(MMFusionModel, settings={"modality_dropout": 0.5}).train()
    torch.manual_seed(0)
    absent = projected_absence(model, many_rows())
    assert not (absent["vision"] & absent["text"]).any()  # no row loses all
    # Of four equally likely outcomes one loses the image, one the text, one neither, and one, both, is given back.
    for name in ("vision", "text"):
        assert 60 < absent[name].sum() < 140, name
    again = projected_absence(model, many_rows())
    assert not torch.equal(absent["vision"], again["vision"])


def test_modality_dropout_leaves_rows_their_last_modality():
    model = tiny.model(MMFusionModel, settings={"modality_dropout": 0.9}).train()
    absent = projected_absence(model, many_rows(vision_absent=200))
    assert absent["vision"][:200].all()
    assert not absent["text"][:200].any()
    assert absent["text"][200:].any()
    assert not (absent["vision"] & absent["text"]).any()


def test_modality_dropout_by_modality():
    model = tiny.model(MMFusionModel, settings={"modality_dropout": {"vision": 0.5}}).train()
    absent = projected_absence(model, many_rows())
    assert 140 < absent["vision"].sum() < 260
    assert not absent["text"].any()


def test_no_modality_dropout_in_evaluation():
    model = tiny.model(MMFusionModel, settings={"modality_dropout": 0.9})
    assert not any(absent.any() for absent in projected_absence(model, many_rows()).values())
    with torch.no_grad():
        assert torch.equal(model(**tiny.batch()).pooler_output, model(**tiny.batch()).pooler_output)


def test_dropped_modalities_train_the_absent_tokens():
    model = tiny.model(settings={"modality_dropout": 0.5}).train()
    torch.manual_seed(0)
    model(**many_rows(), labels=torch.arange(ROWS) % 5).loss.backward()
    for name in ("vision", "text"):
        assert model.model.projections[name].absent_token.grad.abs().max() > 0


def test_modality_dropout_without_indices():
    model = tiny.model(settings={"modality_dropout": 0.5}).train()
    torch.manual_seed(0)
    assert not torch.equal(model(**tiny.batch()).logits, model(**tiny.batch()).logits)


# --- Frozen encoders and batch norms


def trainable(module) -> bool:
    flags = {p.requires_grad for p in module.parameters()}
    assert len(flags) == 1, "partly frozen"
    return flags.pop()


@pytest.mark.parametrize(
    ("freeze", "frozen"), [(True, {"vision", "text"}), (["text"], {"text"}), (["vision"], {"vision"}), (False, set())]
)
def test_frozen_encoders(freeze, frozen, tmp_path):
    model = tiny.model(freeze_encoders=freeze)
    model.save_pretrained(tmp_path)
    loaded = MMFusionForClassification.from_pretrained(tmp_path)
    for each in (model, loaded):
        for mode in (True, False, True):
            each.train(mode)
            for name, encoder in each.model.encoders.items():
                assert trainable(encoder) == (name not in frozen)
                assert {module.training for module in encoder.modules()} == {mode and name not in frozen}
        assert each.model.fusion.training
        assert trainable(each.model.projections)
        before = {name: p.clone() for name, p in each.named_parameters()}
        each(**tiny.batch(), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
        torch.optim.SGD([p for p in each.parameters() if p.requires_grad], lr=0.1).step()
        for name in ("vision", "text"):
            own = [key for key in before if f"encoders.{name}." in key]
            assert all((each.get_parameter(key).grad is None) == (name in frozen) for key in own)
            changed = [key for key in own if not torch.equal(before[key], each.get_parameter(key))]
            assert bool(changed) == (name not in frozen)


def test_frozen_encoders_run_without_gradients_and_dropout():
    config = tiny.config(freeze_encoders=True)
    config.text_config.hidden_dropout_prob = 0.5
    model = MMFusionModel(config).train()
    states = [model.encode(**tiny.batch()) for _ in range(2)]
    assert not states[0]["text"].levels[0].requires_grad
    assert torch.equal(states[0]["text"].levels[0], states[1]["text"].levels[0])


def test_freezing_can_be_changed():
    model = tiny.model(freeze_encoders=True).train()
    model.config.freeze_encoders = ["vision"]
    model.model.apply_freezing()
    assert trainable(model.model.encoders["text"])
    assert not trainable(model.model.encoders["vision"])
    assert model.model.encoders["text"].training
    assert not model.model.encoders["vision"].training


def statistics(model) -> list[torch.Tensor]:
    norms = [module for module in model.model.encoders.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    return [norm.running_mean.clone() for norm in norms]


@pytest.mark.parametrize(("frozen", "moves"), [(True, False), (False, True)])
def test_frozen_batch_norms(frozen, moves):
    model = tiny.model(vision="resnet", freeze_batch_norm=frozen)
    before = statistics(model)
    model.train()
    model(**tiny.batch(), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    assert all(torch.equal(one, other) for one, other in zip(before, statistics(model), strict=True)) is not moves
    # Their weights train all the same.
    assert all(
        p.grad is not None for name, p in model.named_parameters() if "normalization" in name and p.requires_grad
    )
    model.eval()
    assert not any(module.training for module in model.modules())


def test_frozen_batch_norms_keep_rows_apart():
    model = tiny.model(vision="resnet").train()
    inputs = tiny.batch()
    alone = model(**{key: value[:1] for key, value in inputs.items()}).logits
    assert (model(**inputs).logits[:1] - alone).abs().max() <= 1e-5


# --- Word embeddings


@torch.no_grad()
def test_token_embeddings_grow(tmp_path):
    model, inputs = tiny.model(), tiny.batch()
    expected = model(**inputs).logits
    model.resize_token_embeddings(tiny.VOCABULARY + 3)
    assert model.config.text_config.vocab_size == tiny.VOCABULARY + 3
    assert model.get_input_embeddings() is model.model.encoders["text"].get_input_embeddings()
    assert model.get_input_embeddings().num_embeddings == tiny.VOCABULARY + 3
    assert torch.equal(model(**inputs).logits, expected)
    inputs["input_ids"][0, 1] = tiny.VOCABULARY + 2
    changed = model(**inputs).logits
    model.save_pretrained(tmp_path)
    assert torch.equal(MMFusionForClassification.from_pretrained(tmp_path)(**inputs).logits, changed)


@torch.no_grad()
def test_inputs_embeds_in_place_of_ids():
    model, inputs = tiny.model(), tiny.batch()
    expected = model(**inputs).logits
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
    assert torch.equal(model(**inputs).logits, expected)


def test_no_word_embeddings_without_text():
    with pytest.raises(NotImplementedError, match=r"text.*\['vision'\]"):
        tiny.model(text=None).get_input_embeddings()


# --- Losses

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -1.0], [3.0, 0.0, 0.0], [-1.0, 1.0, 1.0]])
NAN = math.nan


def expected_loss(problem_type, labels, rows):
    """The mean over labelled rows, said in other words than the code under test."""
    total = 0.0
    for row in rows:
        logits, label = LOGITS[row].double(), labels[row]
        if problem_type == "single_label_classification":
            target = nn.functional.one_hot(label, 3).double() if label.ndim == 0 else label.double()
            total -= (target * logits.log_softmax(-1)).sum()
        elif problem_type == "multi_label_classification":
            here = ~label.isnan()
            p = logits.sigmoid()[here]
            target = label[here].double()
            total -= (target * p.log() + (1 - target) * (1 - p).log()).sum()
        else:
            here = ~label.isnan()
            total += ((logits - label)[here] ** 2).mean()
    return total / len(rows)


CASES = {
    "classes": ("single_label_classification", torch.tensor([2, 0, 1, 1]), [0, 1, 2, 3]),
    "classes, some rows without": ("single_label_classification", torch.tensor([2, -100, 1, -100]), [0, 2]),
    "soft classes": (
        "single_label_classification",
        torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5], [NAN, NAN, NAN]]),
        [0, 1, 2],
    ),
    "several labels": (
        "multi_label_classification",
        torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.3, 0.0, 0.9], [1.0, 1.0, 1.0]]),
        [0, 1, 2, 3],
    ),
    "several labels, some unknown": (
        "multi_label_classification",
        torch.tensor([[1.0, NAN, 1.0], [NAN, NAN, NAN], [0.3, 0.0, 0.9], [1.0, 1.0, NAN]]),
        [0, 2, 3],
    ),
    "regression": ("regression", torch.tensor([[1.0, 2.0, 3.0]] * 4), [0, 1, 2, 3]),
    "regression, some unknown": (
        "regression",
        torch.tensor([[1.0, NAN, 3.0], [NAN, NAN, NAN], [0.0, 0.0, 0.0], [NAN, NAN, 2.0]]),
        [0, 2, 3],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_losses(case):
    problem_type, labels, rows = CASES[case]
    loss = classification_loss(LOGITS, labels, problem_type)
    torch.testing.assert_close(loss.double(), expected_loss(problem_type, labels, rows))
    # Over several processes or steps, the labels of all of them divide: here those of 8 rows.
    items = 8 * (labels.shape[1] if labels.ndim == 2 else 1)
    part = classification_loss(LOGITS, labels, problem_type, num_items_in_batch=torch.tensor(items))
    torch.testing.assert_close(part, loss * len(rows) / 8)


@pytest.mark.parametrize("case", CASES)
def test_rows_without_label_have_no_gradient(case):
    problem_type, labels, rows = CASES[case]
    logits = LOGITS.clone().requires_grad_()
    classification_loss(logits, labels, problem_type).backward()
    moved = logits.grad.abs().sum(-1) > 0
    assert moved.nonzero().flatten().tolist() == rows
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("single_label_classification", torch.full((4,), -100)),
        ("single_label_classification", torch.full((4, 5), NAN)),
        ("multi_label_classification", torch.full((4, 5), NAN)),
        ("regression", torch.full((4, 5), NAN)),
    ],
)
def test_no_label_at_all(problem_type, labels):
    model = tiny.model(problem_type=problem_type).train()
    loss = model(**tiny.batch(), labels=labels).loss
    assert loss.item() == 0
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() == 0, name


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("single_label_classification", torch.tensor([0, 1, 2])),
        ("single_label_classification", torch.rand(4, 2)),
        ("single_label_classification", torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0]])),
        ("multi_label_classification", torch.tensor([0, 1, 2, 0])),
        ("multi_label_classification", torch.rand(4, 4)),
        ("multi_label_classification", torch.rand(3, 4)),
        ("regression", torch.rand(4)),
        ("regression", torch.rand(3, 3)),
    ],
)
def test_labels_of_the_wrong_shape(problem_type, labels):
    with pytest.raises(ValueError, match="labels"):
        classification_loss(LOGITS, labels, problem_type)


def test_unknown_problem_type():
    with pytest.raises(ValueError, match=r"regression.*'ranking'"):
        classification_loss(LOGITS, torch.tensor([0, 1, 2, 0]), "ranking")


@pytest.mark.parametrize(
    ("labels", "num_labels", "expected"),
    [
        (torch.tensor([0, 1]), 3, "single_label_classification"),
        (torch.rand(2, 3), 3, "multi_label_classification"),
        (torch.rand(2), 1, "regression"),
        (torch.tensor([1, 2]), 1, "regression"),
    ],
)
def test_the_problem_is_inferred(labels, num_labels, expected):
    assert infer_problem_type(labels, num_labels) == expected
    model = tiny.model(MMFusionForQuestionAnswering, num_labels=num_labels)
    assert model.config.problem_type is None
    outputs = model(**tiny.batch((6, 4)), labels=labels)
    assert model.config.problem_type == expected
    torch.testing.assert_close(outputs.loss, classification_loss(outputs.logits, labels, expected))


def test_one_output_takes_one_number_a_row():
    logits = torch.tensor([[1.0], [2.0]])
    assert classification_loss(logits, torch.tensor([0.0, 0.0]), "regression").item() == 2.5


def test_tuple_outputs():
    model, inputs = tiny.model(), tiny.batch()
    loss, logits = model(**inputs, labels=torch.tensor([0, 1, 2, 3]), return_dict=False)[:2]
    assert loss.shape == ()
    assert logits.shape == (4, 5)


def test_a_few_steps_learn():
    """From the start that users have: closed gates, weights of .02."""
    torch.manual_seed(0)
    config = tiny.config(settings={"initializer_range": 0.02}, freeze_encoders=True)
    model = MMFusionForClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    # The label is whether word and picture go together: neither alone says it.
    inputs = {**tiny.texts((6, 6)), **tiny.images(2)}
    inputs |= {"text_index": torch.tensor([0, 0, 1, 1]), "vision_index": torch.tensor([0, 1, 0, 1])}
    labels = torch.tensor([0, 1, 1, 0])
    for _ in range(50):
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert all(layer.gates.abs().max() > 1e-3 for layer in model.model.fusion.layers)


def test_a_regression_starts_from_zero(tmp_path):
    """Until it has learned something it says nothing, whatever the row; what it learned is kept."""
    inputs = tiny.batch()
    model = tiny.model(num_labels=1).train()
    assert model(**inputs).logits.tolist() == [[0.0]] * 4
    assert tiny.model(num_labels=2)(**inputs).logits.abs().min() > 0
    for _ in range(2):  # in the first step nothing but the head learns
        model(**inputs, labels=torch.tensor([1.0, 2.0, 3.0, 4.0])).loss.backward()
        torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert model.model.fusion.readout[0].weight.grad.abs().max() > 0
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again(**inputs).logits, model.eval()(**inputs).logits)
    assert again(**inputs).logits.abs().min() > 0
