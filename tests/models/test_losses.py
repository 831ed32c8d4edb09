"""What shapes the training loss: each setting against torch or its formula, and the loss as it was without them."""

import math

import pytest
import tiny_models as tiny
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from mm_hf import MMFusionConfig, MMFusionForClassification
from mm_hf.models.losses import classification_loss, mixup


SINGLE, MULTI = "single_label_classification", "multi_label_classification"
NAN = math.nan
ROWS, CLASSES = 6, 4
LOGITS = 3 * torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(0))
HARD = torch.tensor([2, -100, 0, 3, 1, -100])
HERE = HARD >= 0
SOFT = torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(1)).softmax(-1)
SOFT[[1, 5]] = NAN
MANY = torch.tensor(
    [[1, 0, 1, 0], [NAN] * 4, [0, 0, 0, 1], [0.3, 1, NAN, 0.5], [1, 1, 1, 1], [NAN] * 4], dtype=torch.float32
)
WEIGHTS = [0.5, 2.0, 1.0, 0.25]
TARGETS = {"hard": (SINGLE, HARD), "soft": (SINGLE, SOFT), "several": (MULTI, MANY)}


def reference(problem_type, labels, smoothing=0.0, weights=None, gamma=0.0, priors=None):
    """The formulas of the docstrings, entry by entry in double precision; the sum over rows."""
    weights = [1.0] * CLASSES if weights is None else weights
    total = 0.0
    for row in range(ROWS):
        z = LOGITS[row].double()
        if priors is not None:
            z = z + torch.tensor(priors, dtype=torch.float64).log()
        for c in range(CLASSES):
            q = float(labels[row] == c) if labels.ndim == 1 else labels[row, c].item()
            if (labels.ndim == 1 and labels[row] == -100) or math.isnan(q):
                continue
            if problem_type == SINGLE:
                p = (z[c].exp() / z.exp().sum()).item()
                q = q * (1 - smoothing) + smoothing / CLASSES
                total -= weights[c] * (1 - p) ** gamma * q * math.log(p)
            else:
                p = 1 / (1 + math.exp(-z[c]))
                q = q * (1 - smoothing) + smoothing / 2
                yes, no = (1 - p) ** gamma * q * math.log(p), p**gamma * (1 - q) * math.log(1 - p)
                total -= weights[c] * (yes + no)
    return total


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("targets", TARGETS)
def test_settings_go_together(targets, smoothing, weights, gamma):
    problem_type, labels = TARGETS[targets]
    settings = {"label_smoothing": smoothing, "class_weights": weights, "focal_gamma": gamma}
    loss = classification_loss(LOGITS, labels, problem_type, **settings)
    expected = reference(problem_type, labels, smoothing, weights, gamma)
    assert loss.item() == pytest.approx(expected / 4, rel=1e-5)  # four of the six rows have a label
    # The count that the caller knows takes the place of the labelled rows, whatever the weights.
    items = 8 if labels.ndim == 1 else 8 * CLASSES
    part = classification_loss(LOGITS, labels, problem_type, num_items_in_batch=torch.tensor(items), **settings)
    torch.testing.assert_close(part, loss / 2)


def test_against_torch():
    labels, weights = HARD[HERE], torch.tensor(WEIGHTS)
    summed = cross_entropy(LOGITS[HERE], labels, weight=weights, label_smoothing=0.2, reduction="sum")
    loss = classification_loss(LOGITS, HARD, SINGLE, label_smoothing=0.2, class_weights=WEIGHTS)
    torch.testing.assert_close(loss, summed / 4)
    full = MANY.nan_to_num()
    loss = classification_loss(LOGITS, full, MULTI, class_weights=WEIGHTS)
    torch.testing.assert_close(loss, binary_cross_entropy_with_logits(LOGITS, full, weights, reduction="sum") / ROWS)
    # A row's loss is that of its class, times one weight.
    rows = cross_entropy(LOGITS[HERE], labels, reduction="none") * weights[labels]
    torch.testing.assert_close(classification_loss(LOGITS, HARD, SINGLE, class_weights=WEIGHTS), rows.sum() / 4)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_hard_targets_are_soft_ones_at_the_corners(gamma):
    soft = one_hot(HARD.clamp(min=0), CLASSES).float()
    soft[~HERE] = NAN
    settings = {"label_smoothing": 0.1, "class_weights": WEIGHTS, "focal_gamma": gamma, "class_priors": [1, 2, 3, 4]}
    losses = [classification_loss(LOGITS, labels, SINGLE, **settings) for labels in (HARD, soft)]
    torch.testing.assert_close(*losses)


def test_without_settings_the_loss_is_as_it_was():
    """Bit for bit."""
    expected = cross_entropy(LOGITS, HARD, reduction="none").sum() / 4
    assert torch.equal(classification_loss(LOGITS, HARD, SINGLE), expected)
    expected = (cross_entropy(LOGITS, SOFT.nan_to_num(), reduction="none") * HERE).sum() / 4
    assert torch.equal(classification_loss(LOGITS, SOFT, SINGLE), expected)
    expected = binary_cross_entropy_with_logits(LOGITS, MANY.nan_to_num(), reduction="none") * ~MANY.isnan()
    assert torch.equal(classification_loss(LOGITS, MANY, MULTI), expected.sum(-1).sum() / 4)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("targets", TARGETS)
def test_focal_gradients_are_finite_where_nothing_is_left_to_learn(targets, gamma):
    problem_type, labels = TARGETS[targets]
    logits = (LOGITS * 1000).requires_grad_()
    loss = classification_loss(logits, labels, problem_type, focal_gamma=gamma)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert (logits.grad[~HERE] == 0).all()


@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_class_priors_adjust_the_logits(targets):
    _, labels = TARGETS[targets]
    priors = [0.7, 0.2, 0.05, 0.05]
    logits = LOGITS.clone().requires_grad_()
    loss = classification_loss(logits, labels, SINGLE, class_priors=priors)
    assert loss.item() == pytest.approx(reference(SINGLE, labels, priors=priors) / 4, rel=1e-5)
    loss.backward()
    q = one_hot(HARD.clamp(min=0), CLASSES).float() if targets == "hard" else SOFT.nan_to_num()
    adjusted = LOGITS.exp() * torch.tensor(priors)
    expected = (adjusted / adjusted.sum(-1, keepdim=True) - q) * HERE[:, None] / 4
    torch.testing.assert_close(logits.grad, expected)
    counts = classification_loss(LOGITS, labels, SINGLE, class_priors=[140, 40, 10, 10])
    torch.testing.assert_close(counts, loss.detach())  # only ratios matter


# --- What is refused


@pytest.mark.parametrize(
    ("problem_type", "setting"),
    [
        ("regression", {"label_smoothing": 0.1}),
        ("regression", {"class_weights": WEIGHTS}),
        ("regression", {"focal_gamma": 2.0}),
        ("regression", {"class_priors": WEIGHTS}),
        (MULTI, {"class_priors": WEIGHTS}),
    ],
)
def test_settings_that_a_problem_does_not_have(problem_type, setting):
    name = next(iter(setting))
    with pytest.raises(ValueError, match=rf"^{name} is .*, but problem_type is '{problem_type}'"):
        classification_loss(LOGITS, torch.zeros(ROWS, CLASSES), problem_type, **setting)
    with pytest.raises(ValueError, match=rf"^{name} is .*, but problem_type is '{problem_type}'"):
        tiny.config(num_labels=CLASSES, problem_type=problem_type, **setting)
    tiny.config(num_labels=CLASSES, problem_type=SINGLE, **setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing.*\[0, 1\).*1\.0"),
        ({"label_smoothing": -0.1}, r"label_smoothing.*\[0, 1\).*-0\.1"),
        ({"focal_gamma": -1.0}, r"focal_gamma.*\b0 .*-1\.0"),
        ({"mixup_alpha": NAN}, r"mixup_alpha.*\b0 .*nan"),
        ({"class_weights": [1.0, 2.0]}, r"class_weights.*\b4 .*\b2\b"),
        ({"class_priors": [0.5, 0.5, 0.0, 0.0]}, r"class_priors.*\[0\.5"),
        ({"class_weights": [1, 1, 1, math.inf]}, r"class_weights.*\[1, "),
    ],
)
def test_wrong_values_are_refused(setting, message):
    for parts in ({}, {"text_config": tiny.TEXT_CONFIGS["bert"]()}):
        with pytest.raises(ValueError, match=f"^{message}"):
            MMFusionConfig(num_labels=4, **parts, **setting)


# --- In the model


SETTINGS = {
    "label_smoothing": 0.1,
    "class_weights": [1, 2.5, 1.0, 0.5, 1.0],
    "focal_gamma": 2,
    "class_priors": [5, 4, 3, 2, 1.5],
    "mixup_alpha": 0.3,
}
LABELS = torch.tensor([0, 4, 2, 1])


def test_settings_are_saved(tmp_path):
    tiny.config(**SETTINGS).save_pretrained(tmp_path)
    loaded = MMFusionConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in SETTINGS} == SETTINGS


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "mixup_alpha"])
def test_settings_shape_the_training_loss_alone(name):
    """In eval mode the loss is the plain one, and the logits are the plain ones in both."""
    model, plain = tiny.model(**{name: SETTINGS[name]}), tiny.model()
    inputs = {**tiny.batch(), "labels": LABELS}
    outputs, expected = model(**inputs), plain(**inputs)
    assert torch.equal(outputs.loss, expected.loss)
    trained = model.train()(**inputs, num_items_in_batch=torch.tensor(8))
    torch.testing.assert_close(trained.logits, expected.logits)
    own = classification_loss(expected.logits, LABELS, SINGLE, 8, **{name: SETTINGS[name]})
    torch.testing.assert_close(trained.loss, own)
    assert abs(own - expected.loss / 2) > 1e-3


def test_settings_of_an_inferred_problem_are_checked():
    model = tiny.model(num_labels=1, focal_gamma=1.0)
    inputs = {**tiny.batch(), "labels": torch.rand(4)}
    model(**inputs)
    with pytest.raises(ValueError, match=r"focal_gamma is 1.0, but problem_type is 'regression'"):
        model.train()(**inputs)


# --- Mixup


@pytest.mark.parametrize("labels", [HARD, SOFT, MANY, SOFT[:, 0]], ids=["hard", "soft", "several", "numbers"])
def test_mixup_pairs_rows_that_have_labels(labels):
    pooled = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(2))
    partners = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, chosen, share = mixup(pooled, labels, 0.4)
        others = labels[chosen]
        assert 0 <= share <= 1
        assert torch.equal(mixed[~HERE], pooled[~HERE])
        missing = others.isnan().reshape(ROWS, -1).all(1) if others.is_floating_point() else others == -100
        assert torch.equal(missing, ~HERE)
        # The partner is found again from the vector alone: its label must be the one that came.
        for row in HERE.nonzero().flatten().tolist():
            rest = (mixed[row] - share * pooled[row]) / max(1 - share, 1e-6)
            partner = (pooled - rest).norm(dim=-1).argmin().item()
            if share < 0.99:
                partners.add((row, partner))
                assert torch.equal(others[row].nan_to_num(), labels[partner].nan_to_num())
        # The sum of all vectors is that of the rows: partners are a permutation.
        torch.testing.assert_close(mixed.sum(0), pooled.sum(0), atol=1e-4, rtol=1e-4)
    assert len(partners) == 16  # every labelled row meets every other, itself included


def test_mixup_draws_one_beta_share_a_batch():
    torch.manual_seed(0)
    shares = torch.tensor([mixup(LOGITS, HARD, 0.2)[2] for _ in range(4000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.01)


@pytest.mark.parametrize(
    ("labels", "problem_type"),
    [
        (torch.tensor([0, -100, 2, 1]), SINGLE),
        (torch.tensor([[1.0] * 5, [NAN] * 5, [0.0] * 5, [0.3] * 5]), MULTI),
        (torch.tensor([[1.0] * 5, [NAN] * 5, [0.0] * 5, [0.3] * 5]), "regression"),
    ],
)
def test_mixup_in_training(labels, problem_type):
    model = tiny.model(mixup_alpha=1.0, problem_type=problem_type).train()
    inputs = tiny.batch()
    torch.manual_seed(3)
    outputs = model(**inputs, labels=labels)
    pooled = model.model(**inputs).pooler_output
    torch.manual_seed(3)
    share = torch.distributions.Beta(1.0, 1.0).sample()
    order = torch.tensor([0, 2, 3])[torch.randperm(3)]
    assert order.tolist() != [0, 2, 3]
    partners = torch.tensor([order[0], 1, order[1], order[2]])
    logits = model.classifier(share * pooled + (1 - share) * pooled[partners])
    torch.testing.assert_close(outputs.logits, logits)
    parts = [classification_loss(logits, each, problem_type) for each in (labels, labels[partners])]
    torch.testing.assert_close(outputs.loss, share * parts[0] + (1 - share) * parts[1])


def test_mixup_needs_training_and_labels():
    model, plain = tiny.model(mixup_alpha=1.0), tiny.model()
    inputs = tiny.batch()
    assert torch.equal(model(**inputs, labels=LABELS).logits, plain(**inputs).logits)
    assert torch.equal(model.train()(**inputs).logits, plain.train()(**inputs).logits)
    assert not torch.equal(model(**inputs, labels=LABELS).logits, plain(**inputs, labels=LABELS).logits)
    with pytest.raises(ValueError, match=r"mixup.*\b4 .*int64.*\(3,\)"):
        model(**inputs, labels=LABELS[:3])


def test_no_random_number_is_drawn_without_mixup():
    states = []
    for labels in (None, LABELS):
        model = tiny.model(**{**SETTINGS, "mixup_alpha": 0.0}).train()
        torch.manual_seed(0)
        model(**tiny.batch(), labels=labels)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_batch_without_labels_trains_nothing():
    model = tiny.model(**SETTINGS).train()
    loss = model(**tiny.batch(), labels=torch.full((4,), -100)).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and (p.grad == 0).all() for p in model.parameters() if p.requires_grad)


def test_all_settings_together_learn():
    torch.manual_seed(0)
    model = MMFusionForClassification(tiny.config(**SETTINGS, freeze_encoders=True)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    inputs = tiny.batch()
    for _ in range(40):
        optimizer.zero_grad()
        model(**inputs, labels=LABELS).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert torch.equal(model.eval()(**inputs).logits.argmax(-1), LABELS)


# --- Weights of rows


@pytest.mark.parametrize("targets", TARGETS)
def test_rows_count_by_their_weight(targets):
    problem_type, labels = TARGETS[targets]
    weights = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.5, 4.0])
    alone = [classification_loss(LOGITS[[row]], labels[[row]], problem_type) for row in range(ROWS)]  # 0 without label
    found = classification_loss(LOGITS, labels, problem_type, sample_weight=weights)
    torch.testing.assert_close(found, (torch.stack(alone) * weights).sum() / HERE.sum())
    with pytest.raises(ValueError, match=r"sample_weight.*\(6,\).*\(1,\)"):
        classification_loss(LOGITS, labels, problem_type, sample_weight=weights[:1])


def test_weights_count_in_training_alone_and_with_mixup():
    inputs = {**tiny.batch(), "labels": torch.tensor([0, 1, 2, 0])}
    model = tiny.model(MMFusionForClassification, num_labels=3, classifier_dropout=0.0)
    none = torch.zeros(4)
    assert model.eval()(**inputs, sample_weight=none).loss == model(**inputs).loss > 0
    for alpha in (0.0, 0.4):
        model.config.mixup_alpha = alpha
        assert model.train()(**inputs, sample_weight=none).loss == 0
        torch.manual_seed(0)
        plain = model(**inputs).loss
        torch.manual_seed(0)
        torch.testing.assert_close(model(**inputs, sample_weight=none + 2).loss, 2 * plain)
