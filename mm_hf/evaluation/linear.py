"""Linear models on given features, fitted by scikit-learn. Their strength of regularisation is chosen on validation.

Every score is compared with such a linear model, the floor (baseline) `linear`. Features are standardised by the
training rows, and then every modality gets the same weight. Otherwise, with one strength for all, the five thousand
features of four photos would dominate the four features of a table (houses: an RMSE of .264 instead of .210). The
learned weights are in the unit of the features, so that a linear model is one matrix and one bias. scikit-learn is
imported only where it is used, because the import takes a second.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .comparisons import lower_is_better


# The strongest comes first, so that it is chosen among equal scores.
RIDGES = tuple(10.0**power for power in range(6, -3, -1))  # alpha: a larger one is stronger
COSTS = tuple(10.0**power for power in range(-5, 3))  # C of a logistic regression: a smaller one is stronger
HALF_STEP = 10**0.5  # half a step between two strengths, tried around the best one
PATIENCE = 2  # of a logistic regression, see `choose`
NEVER = -1e4  # the logit of a class without training rows
ITERATIONS = 100  # limit for a logistic regression; validation measures it in this state


@dataclass
class LinearRows:
    """Rows of one part in the form that a linear model needs.

    Args:
        features: `(N, F)` float32.
        labels: as from `Task.label_tensor`. For a search, ids by modality.
        by_modality: the same features for each modality alone.
        groups: `(F,)` int64, the number of the modality of each feature; None: there is one modality.
    """

    features: np.ndarray
    labels: Any
    by_modality: dict[str, np.ndarray]
    groups: np.ndarray | None = None

    def chosen(self, present: torch.Tensor) -> "LinearRows":
        """Some of the rows, selected by `present`, `(N,)` bool."""
        labels = self.labels
        rows, several = present.numpy(), isinstance(labels, dict)
        labels = {name: values[present] for name, values in labels.items()} if several else labels[present]
        by_modality = {name: values[rows] for name, values in self.by_modality.items()}
        return LinearRows(self.features[rows], labels, by_modality, self.groups)


@dataclass
class Line:
    """A linear model.

    Args:
        weights: `(F, C)` float64.
        bias: `(C,)` float64.
        strength: `alpha` of a ridge regression, `C` of a logistic regression.
        stopped_early: it stopped after `ITERATIONS`, before it converged. Validation measures it in this state.
    """

    weights: np.ndarray
    bias: np.ndarray
    strength: float
    stopped_early: bool = False

    def __call__(self, features: np.ndarray) -> torch.Tensor:
        """Its answers, `(N, C)` float32: logits, or numbers in the unit of the labels."""
        return torch.from_numpy(features.astype(np.float64) @ self.weights + self.bias).float()


@dataclass
class LinearAnswer:
    """The answers of a linear floor (baseline).

    Args:
        predictions: for the test rows, in the same form as those of a model (see `Predictions`).
        words: a description of how it was made.
        strength: see `Line`; None if there is no strength to choose.
        line: the linear model; None if the floor keeps no weights.
    """

    predictions: Any
    words: str
    strength: float | None = None
    line: Line | None = None


def score_of(task: Any, labels: torch.Tensor, outputs: int) -> Callable[[torch.Tensor], float]:
    """A function that scores logits by the first metric of a task; higher is better.

    Args:
        task: see `mm_hf.tasks.Task`.
        labels: of the measured rows. All rows have a label.
        outputs: C, the number of outputs of the logits.
    """
    metric, targets = task.metrics(outputs)[task.first_metric], task.targets(labels)
    sign = -1 if lower_is_better(task.first_metric) else 1
    return lambda logits: sign * metric(task.answers(logits), targets).item()


def choose(
    fit: Callable[[float], Line],
    strengths: Sequence[float],
    score: Callable[[Line], float],
    patience: int | None = None,
) -> Line:
    """The linear model with the best score.

    Args:
        fit: learns a linear model with a given strength from the training rows.
        strengths: the strongest first. Among equal scores the first one is chosen. The strengths half a step above and
            below the best one are tried as well.
        score: measures on the validation rows; higher is better.
        patience: stop after so many strengths in sequence that are worse than the best, because weaker ones take
            longer; None: try all.
    """
    best, best_score, since = None, -np.inf, 0
    for strength in strengths:
        line = fit(strength)
        value = score(line)
        if best is None or value > best_score:
            best, best_score, since = line, value, 0
        else:  # several strong ones may give equal scores
            since = since + 1 if value < best_score else 0
        if since == patience:
            break
    if best is None:
        raise ValueError("choose needs at least one strength, got none.")
    middle = best.strength
    for strength in (middle * HALF_STEP, middle / HALF_STEP):
        line = fit(strength)
        if (value := score(line)) > best_score:
            best, best_score = line, value
    return best


def fit_scaler(features: np.ndarray, groups: np.ndarray | None = None) -> Any:
    """scikit-learn's `StandardScaler`, with a change that gives all modalities equal weight. The variances of each
    modality have the same sum. The total is the number of features that vary, as without this change.

    Args:
        features: `(N, F)` float64 of the training rows.
        groups: see `LinearRows`.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    groups = np.zeros(features.shape[1], dtype=np.int64) if groups is None else groups
    varying = np.bincount(groups, weights=scaler.var_ > 0)
    share = np.where(varying > 0, varying * (varying > 0).sum() / max(varying.sum(), 1), 1.0)
    scaler.scale_ = scaler.scale_ * np.sqrt(share)[groups]
    return scaler


def in_unit_of_features(
    scaler: Any, weights: np.ndarray, bias: np.ndarray, strength: float, stopped_early: bool = False
) -> Line:
    """Converts a linear model on standardised features to one on the original features.

    Args:
        scaler: see `fit_scaler`.
        weights: `(F, C)`.
        bias: `(C,)`.
        strength, stopped_early: see `Line`.
    """
    weights = weights / scaler.scale_[:, None]
    return Line(weights, bias - scaler.mean_ @ weights, strength, stopped_early)


def fit_numbers(
    features: np.ndarray, targets: np.ndarray, score: Callable[[Line], float], groups: np.ndarray | None = None
) -> Line:
    """A ridge regression of standardised numbers.

    Args:
        features: `(N, F)` of the training rows.
        targets: `(N, C)`, of the training rows.
        score: see `choose`.
        groups: see `LinearRows`.
    """
    from sklearn.linear_model import Ridge

    features = features.astype(np.float64)
    scaler = fit_scaler(features, groups)
    inputs = scaler.transform(features)
    mean, scale = targets.mean(0), targets.std(0)
    scale = np.where(scale > 0, scale, 1.0)

    def fit(strength: float) -> Line:
        ridge = Ridge(alpha=strength).fit(inputs, (targets - mean) / scale)
        weights = np.reshape(ridge.coef_, (len(mean), -1)).T * scale
        return in_unit_of_features(scaler, weights, np.reshape(ridge.intercept_, -1) * scale + mean, strength)

    return choose(fit, RIDGES, score)


def fit_classes(
    features: np.ndarray,
    targets: np.ndarray,
    classes: int,
    score: Callable[[Line], float],
    groups: np.ndarray | None = None,
) -> Line:
    """A logistic regression of one of several classes.

    Args:
        features: `(N, F)` of the training rows.
        targets: `(N,)`, the class numbers of the training rows.
        classes: the number of classes. A class without training rows is never answered.
        score: see `choose`.
        groups: see `LinearRows`.
    """
    features = features.astype(np.float64)
    scaler = fit_scaler(features, groups)
    inputs, known = scaler.transform(features), np.unique(targets)

    def fit(strength: float) -> Line:
        weights, bias, early = np.zeros((inputs.shape[1], classes)), np.full(classes, NEVER), False
        if len(known) == 1:
            bias[known] = 0.0
        else:
            learned = logistic(strength, inputs, targets)
            both = len(known) == 2  # scikit-learn then gives only the second class
            weights[:, known] = np.concatenate([0 * learned.coef_, learned.coef_]).T if both else learned.coef_.T
            bias[known] = np.append(0, learned.intercept_) if both else learned.intercept_
            early = bool(learned.n_iter_.max() >= ITERATIONS)
        return in_unit_of_features(scaler, weights, bias, strength, early)

    return choose(fit, COSTS, score, PATIENCE)


def fit_labels(
    features: np.ndarray, targets: np.ndarray, score: Callable[[Line], float], groups: np.ndarray | None = None
) -> Line:
    """A logistic regression for each of several labels (one against the rest), all with the same strength.

    Args:
        features: `(N, F)` of the training rows.
        targets: `(N, C)` of 0 and 1, of the training rows.
        score: see `choose`.
        groups: see `LinearRows`.
    """
    features = features.astype(np.float64)
    scaler = fit_scaler(features, groups)
    inputs = scaler.transform(features)

    def fit(strength: float) -> Line:
        weights, bias, early = np.zeros((inputs.shape[1], targets.shape[1])), np.zeros(targets.shape[1]), False
        for label, values in enumerate(targets.T):
            if len(np.unique(values)) == 1:
                bias[label] = -NEVER if values[0] else NEVER
                continue
            learned = logistic(strength, inputs, values)
            weights[:, label], bias[label] = learned.coef_[0], learned.intercept_[0]
            early |= bool(learned.n_iter_.max() >= ITERATIONS)
        return in_unit_of_features(scaler, weights, bias, strength, early)

    return choose(fit, COSTS, score, PATIENCE)


def logistic(strength: float, inputs: np.ndarray, targets: np.ndarray) -> Any:
    """A fitted logistic regression of scikit-learn. Two of its warnings are hidden, because they are reported
    elsewhere: an early stop by `stopped_early`, and classes with few rows by the summary of the data."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LogisticRegression(C=strength, max_iter=ITERATIONS).fit(inputs, targets)


def unit(vectors: np.ndarray) -> torch.Tensor:
    """Vectors scaled to length 1, float32. A zero vector stays zero."""
    return torch.nn.functional.normalize(torch.from_numpy(np.asarray(vectors, dtype=np.float32)), dim=-1)


def nearest(known: np.ndarray, asked: np.ndarray) -> torch.Tensor:
    """For each asked vector the known vector with the largest cosine similarity, `(N,)` int64.

    Args:
        known: `(M, F)`.
        asked: `(N, F)`.
    """
    to, places = unit(known), []
    for part in unit(asked).split(1000):
        places.append((part @ to.T).argmax(-1))
    return torch.cat(places)
