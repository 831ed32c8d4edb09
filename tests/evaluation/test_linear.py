"""Linear models on real rows that scikit-learn brings: they are those of a pipeline written by hand, and validation
alone chooses their strength."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mm_hf.data.modalities import reader_of
from mm_hf.evaluation import compare, retrieval_metrics, verdict
from mm_hf.evaluation.comparisons import is_beaten, what_to_try
from mm_hf.evaluation.linear import (
    COSTS,
    ITERATIONS,
    NEVER,
    RIDGES,
    Line,
    LinearRows,
    choose,
    fit_labels,
    fit_scaler,
    nearest,
)
from mm_hf.evaluation.paired import paired_differences
from mm_hf.evaluation.ranking import recall_of_rows
from mm_hf.tasks import Ctc, Generation, MultiLabel, Regression, Retrieval, SingleLabel


def cut(features, labels) -> list[LinearRows]:
    """Train, validation and test, drawn at random."""
    order = np.random.default_rng(0).permutation(len(features))
    parts = np.split(order, [int(0.5 * len(order)), int(0.75 * len(order))])
    labels = torch.as_tensor(labels)
    return [LinearRows(features[part].astype(np.float32), labels[part], {}) for part in parts]


@pytest.fixture(scope="module")
def diabetes() -> list[LinearRows]:
    features, labels = load_diabetes(return_X_y=True)
    return cut(np.hstack([features, features**2]), labels.astype(np.float32))


@pytest.fixture(scope="module")
def wine() -> list[LinearRows]:
    return cut(*load_wine(return_X_y=True))


def test_numbers_are_a_ridge_regression(diabetes):
    train, validation, test = diabetes
    answer = Regression("progression").linear_answer(train, validation, test)
    errors = {}
    for alpha in (*RIDGES, answer.strength):
        by_hand = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(train.features.astype(float), train.labels)
        errors[alpha] = np.square(by_hand.predict(validation.features) - validation.labels.numpy()).mean()
    assert np.allclose(by_hand.predict(test.features), answer.predictions[:, 0], atol=0.02)
    assert errors[answer.strength] <= min(errors.values()) * (1 + 1e-5)
    assert np.allclose(answer.predictions, answer.line(test.features))


def test_classes_are_a_logistic_regression(wine):
    train, validation, test = wine
    answer = SingleLabel("cultivar", ["a", "b", "c"]).linear_answer(train, validation, test)
    by_hand = make_pipeline(StandardScaler(), LogisticRegression(C=answer.strength, max_iter=ITERATIONS))
    by_hand.fit(train.features, train.labels)
    assert (by_hand.predict(test.features) == answer.predictions.argmax(-1).numpy()).all()
    logits = by_hand.decision_function(test.features)
    assert np.allclose(logits, answer.predictions, atol=1e-2)
    assert (answer.predictions.argmax(-1) == test.labels).float().mean() > 0.9


def test_validation_chooses_the_strength_and_test_does_not(diabetes):
    """Labels of test that are another's change nothing; those of validation do."""
    train, validation, test = diabetes
    task = Regression("progression")
    expected = task.linear_answer(train, validation, test)
    shuffled = LinearRows(test.features, test.labels[torch.randperm(len(test.labels))] * 7, {})
    again = task.linear_answer(train, validation, shuffled)
    assert again.strength == expected.strength
    assert torch.equal(again.predictions, expected.predictions)
    # A validation part whose labels have nothing to do with its features asks for the strongest one.
    noise = LinearRows(validation.features, train.labels.mean() + 0 * validation.labels, {})
    assert task.linear_answer(train, noise, test).strength >= max(RIDGES) > expected.strength


def test_validation_labels_are_not_learned_from(wine):
    """Of one strength the line is that of the training rows alone."""
    train, validation, test = wine
    task = SingleLabel("cultivar", ["a", "b", "c"])
    other = LinearRows(validation.features, validation.labels.flip(0), {})
    found = {}
    for part in (validation, other):
        answer = task.linear_answer(train, part, test)
        found[answer.strength] = answer.predictions
    for strength, predictions in found.items():
        by_hand = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS))
        logits = by_hand.fit(train.features, train.labels).decision_function(test.features)
        assert np.allclose(logits, predictions, atol=1e-2)


def test_of_equal_scores_the_strongest_stays():
    tried = []

    def fit(strength):
        tried.append(strength)
        return Line(np.zeros((1, 1)), np.zeros(1), strength)

    assert choose(fit, COSTS, lambda line: 0.5, 2).strength == min(COSTS)
    assert tried[: len(COSTS)] == list(COSTS)
    assert sorted(tried[len(COSTS) :]) == pytest.approx([10**-5.5, 10**-4.5])
    tried.clear()
    assert choose(fit, RIDGES, lambda line: -abs(np.log10(line.strength) - 2), 2).strength == 100
    assert tried[:-2] == [strength for strength in RIDGES if strength >= 1]
    # Strong ones that all answer the most frequent class do not end it.
    assert choose(fit, COSTS, lambda line: float(line.strength == max(COSTS)), 2).strength == max(COSTS)


def test_no_modality_drowns_another():
    """Two numbers that tell all beside 2,000 that tell nothing: each of the two modalities weighs the same."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(200, 2002))
    labels = (features[:, :2].sum(1) + 3).astype(np.float32)
    groups, scores = np.repeat([0, 1], [2, 2000]), []
    for known in (groups, None):
        train, validation, test = cut(features, labels)
        train.groups = known
        answer = Regression("sum").linear_answer(train, validation, test)
        scores.append((answer.predictions[:, 0] - test.labels).square().mean().sqrt().item())
    assert scores[0] < 0.2
    assert scores[1] > 0.8
    train.features[:, 1] = 7.0  # what does not vary does not count
    inputs = fit_scaler(train.features.astype(np.float64), groups).transform(train.features)
    assert inputs[:, :2].var(0).sum() == pytest.approx(2001 / 2)
    assert inputs[:, 2:].var(0).sum() == pytest.approx(2001 / 2)


def test_classes_that_training_lacks_are_never_answered(wine):
    train, validation, test = wine
    for known in ([0, 1], [1]):
        seen = train.chosen(torch.isin(train.labels, torch.tensor(known)))
        answer = SingleLabel("cultivar", ["a", "b", "c", "d"]).linear_answer(seen, validation, test)
        assert answer.predictions.shape == (len(test.labels), 4)
        assert set(answer.predictions.argmax(-1).tolist()) <= set(known)


def test_several_labels_are_one_against_the_rest(wine):
    train, validation, test = wine
    parts = [LinearRows(part.features, torch.eye(3)[part.labels], {}) for part in (train, validation, test)]
    answer = MultiLabel("cultivars", ["a", "b", "c"]).linear_answer(*parts)
    for label in range(3):
        by_hand = make_pipeline(StandardScaler(), LogisticRegression(C=answer.strength, max_iter=ITERATIONS))
        by_hand.fit(train.features, train.labels == label)
        assert np.allclose(by_hand.decision_function(test.features), answer.predictions[:, label], atol=1e-2)
    line = fit_labels(train.features, np.tile([0, 1], (len(train.labels), 1)), lambda line: 0.0)
    assert line.bias.tolist() == [NEVER, -NEVER]


def test_a_search_maps_what_it_searches_to_its_text():
    """Texts are a linear map of the pictures, and noise: it finds them, and chance would not."""
    torch.manual_seed(0)
    pictures = torch.randn(300, 20)
    texts = pictures @ torch.randn(20, 12) + 0.3 * torch.randn(300, 12) + 5
    ids = {name: torch.arange(300) for name in ("text", "image")}
    parts = []
    for part in (slice(0, 150), slice(150, 220), slice(220, 300)):
        by_modality = {"text": texts[part].numpy(), "vision": pictures[part].numpy()}
        parts.append(LinearRows(np.zeros((1, 1)), {name: each[part] for name, each in ids.items()}, by_modality))
    task = Retrieval()
    answer = task.linear_answer(*parts)
    found = task.measure(answer.predictions, parts[2].labels)["metrics"]
    assert found["mean_recall"] > 0.9
    assert answer.strength in RIDGES
    measure = recall_of_rows((answer.predictions, answer.predictions), parts[2].labels)
    assert measure(torch.arange(80), 0) == pytest.approx(found["mean_recall"], abs=1e-6)


def test_rows_that_share_a_picture_ask_once():
    torch.manual_seed(0)
    embeddings = {name: torch.nn.functional.normalize(torch.randn(6, 4), dim=-1) for name in ("text", "vision")}
    ids = {"vision": torch.tensor([0, 0, 0, 1, 2, -1]), "text": torch.arange(6)}
    embeddings["vision"] = embeddings["vision"][[0, 0, 0, 3, 4, 5]]
    measure = recall_of_rows((embeddings, embeddings), ids)
    expected = retrieval_metrics(embeddings, ids)["metrics"]["mean_recall"]
    assert measure(torch.arange(6), 1) == pytest.approx(expected, abs=1e-6)


def test_texts_are_those_of_the_nearest_row():
    known = np.eye(3, dtype=np.float32)
    asked = np.array([[0, 5, 1], [2, 0, 0]], dtype=np.float32)
    assert nearest(known, asked).tolist() == [1, 0]
    train = LinearRows(known, torch.tensor([[7, 2], [8, 2], [9, 2]]), {"vision": known, "text": known[::-1].copy()})
    test = LinearRows(asked, torch.zeros(2, 2), {"vision": asked, "text": asked})
    answer = Generation("caption").linear_answer(train, train, test)
    assert answer.predictions.tolist() == [[8, 2], [7, 2]]  # by the pictures, not by the texts
    assert Ctc("said").linear_answer(train, train, test) is None


# What is said


def beside(model: torch.Tensor, line: torch.Tensor, truth: torch.Tensor) -> dict:
    """The comparison of a model with the line, as a run makes it."""
    measure = SingleLabel("x", ["a", "b"]).measurer((model, line), truth, lambda tokens: [])
    figures = {}
    for place, name in enumerate("ab"):
        figures[name] = measure(torch.arange(len(truth)), place)
    (entry,) = compare({"accuracy": figures["a"]}, [("linear", "accuracy", figures["b"])])
    paired = paired_differences(lambda rows, place: {"accuracy": measure(rows, place)}, torch.arange(len(truth)))
    return {**entry, "paired": paired["accuracy"]}


def logits(right: int, truth: torch.Tensor) -> torch.Tensor:
    """Answers of which the first ones are right."""
    said = torch.where(torch.arange(len(truth)) < right, truth, 1 - truth)
    return torch.eye(2)[said]


def test_words_when_a_line_does_as_well():
    truth = torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(0))
    clear = beside(logits(190, truth), logits(120, truth), truth)
    close = beside(logits(191, truth), logits(190, truth), truth)
    worse = beside(logits(120, truth), logits(190, truth), truth)
    assert is_beaten(clear)
    words = verdict([clear])
    assert "NOT" not in words
    assert "To try" not in words
    for found in (close, worse):
        assert not is_beaten(found)
        words = verdict([found])
        assert ("NOT beyond" if found is close else "does NOT beat") in words
        assert "a linear model" in words
        assert f"{found['value']:.4f}" in words
        assert "--fusion linear" in words.rpartition("To try")[2]
    assert close["beaten"]  # by a row, and that is within the interval
    assert "--fusion linear" not in what_to_try([{**worse, "keeps_line": False}])  # of a search, or of texts
    assert "more rows" in what_to_try([{**worse, "keeps_line": False}])
    assert "more rows" in what_to_try([{"floor": "price_linear", "constant": False}])
    assert "learning rate" in what_to_try([{"floor": "majority", "constant": True}])
    assert what_to_try([]) == ""


def test_no_line_is_written_into_dates():
    """Their parts share a token."""
    config = SimpleNamespace(date_sizes=[5])
    assert "dates" in reader_of("tabular").line_refused(SimpleNamespace(config=config))
    config.date_sizes = None
    assert reader_of("tabular").line_refused(SimpleNamespace(config=config)) is None
