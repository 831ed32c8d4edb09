"""Straight lines: linear models on features that are given, by scikit-learn, their strength chosen on validation.

Every score is held against one. Features are standardised by the training rows, and then every modality weighs the
same: with one strength for all, the five thousand numbers of four photos would drown the four of a table (houses: an
RMSE of .264 in place of .210). What is learned is written in the unit of the features, so that a line is a matrix and
a bias. scikit-learn is imported where it is used: it takes a second.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .comparisons import lower_is_better


# From the strongest on, so that of equal scores the strongest stays.
RIDGES = tuple(10.0**power for power in range(6, -3, -1))  # alpha: a larger one is stronger
COSTS = tuple(10.0**power for power in range(-5, 3))  # C of a logistic regression: a smaller one is stronger
HALF_STEP = 10**0.5  # between two of these, tried around the best
PATIENCE = 2  # of a logistic regression, see `choose`
NEVER = -1e4  # the logit of a class that no training row has
ITERATIONS = 100  # of a logistic regression: validation judges it as it is then


@dataclass
class LinearRows:
    """Rows of one part as a linear model takes them.

    Args:
        features: `(N, F)` float32.
        labels: as `Task.label_tensor` gives them; of a search, ids by modality.
        by_modality: the same features of each modality alone.
        groups: `(F,)` int64, of each feature the number of its modality; None: all are of one.
    """

    features: np.ndarray
    labels: Any
    by_modality: dict[str, np.ndarray]
    groups: np.ndarray | None = None

    def chosen(self, present: torch.Tensor) -> "LinearRows":
        """Some of the rows, `(N,)` bool."""
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
        strength: `alpha` of a ridge, `C` of a logistic regression.
        stopped_early: after `ITERATIONS`, before scikit-learn was done; validation judges it as it is then.
    """

    weights: np.ndarray
    bias: np.ndarray
    strength: float
    stopped_early: bool = False

    def __call__(self, features: np.ndarray) -> torch.Tensor:
        """What it answers, `(N, C)` float32: logits, or numbers in the unit of the labels."""
        return torch.from_numpy(features.astype(np.float64) @ self.weights + self.bias).float()


@dataclass
class LinearAnswer:
    """What a linear floor answers.

    Args:
        predictions: of the test rows, in the shape of a model's (see `Predictions`).
        words: how it was made.
        strength: see `Line`; None where there is none to choose.
        line: the model itself; None of one that keeps no weights.
    """

    predictions: Any
    words: str
    strength: float | None = None
    line: Line | None = None


def score_of(task: Any, labels: torch.Tensor, outputs: int) -> Callable[[torch.Tensor], float]:
    """By the first metric of a task how good logits are, higher is better.

    Args:
        task: see `mm_hf.tasks.Task`.
        labels: of the rows that are measured, all there.
        outputs: C, of the logits.
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
    """The line whose score is the best.

    Args:
        fit: learns a line of a strength from the training rows.
        strengths: from the strongest on: of equal scores the first one stays. Those half a step to either side of the
            best one are tried too.
        score: on the validation rows, higher is better.
        patience: how many in a row may be worse than the best before weaker ones, which take longer, are left out;
            None: all are tried.
    """
    best, best_score, since = None, -np.inf, 0
    for strength in strengths:
        line = fit(strength)
        value = score(line)
        if best is None or value > best_score:
            best, best_score, since = line, value, 0
        else:  # strong ones may all give the same answer
            since = since + 1 if value < best_score else 0
        if since == patience:
            break
    if best is None:
        raise ValueError("A line needs at least one strength to choose from.")
    middle = best.strength
    for strength in (middle * HALF_STEP, middle / HALF_STEP):
        line = fit(strength)
        if (value := score(line)) > best_score:
            best, best_score = line, value
    return best


def fit_scaler(features: np.ndarray, groups: np.ndarray | None = None) -> Any:
    """scikit-learn's `StandardScaler` of some features, whose deviations also make the modalities alike: the variances
    of each add up to the same sum, and all of them to the number of features that vary, as they would without.

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
    """A line that was learned on standardised features.

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
        targets: `(N, C)`, theirs.
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
        targets: `(N,)`, the number of each one's class.
        classes: how many there are; one that no training row has is never answered.
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
            both = len(known) == 2  # scikit-learn then has the second class alone
            weights[:, known] = np.concatenate([0 * learned.coef_, learned.coef_]).T if both else learned.coef_.T
            bias[known] = np.append(0, learned.intercept_) if both else learned.intercept_
            early = bool(learned.n_iter_.max() >= ITERATIONS)
        return in_unit_of_features(scaler, weights, bias, strength, early)

    return choose(fit, COSTS, score, PATIENCE)


def fit_labels(
    features: np.ndarray, targets: np.ndarray, score: Callable[[Line], float], groups: np.ndarray | None = None
) -> Line:
    """A logistic regression for each of several labels: one against the rest, all of the same strength.

    Args:
        features: `(N, F)` of the training rows.
        targets: `(N, C)` of 0 and 1, theirs.
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
    """scikit-learn's, fitted. It warns of an early stop, and of classes that are nearly as many as the rows: the line
    says the one itself (`stopped_early`), and the summary of the data the other."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LogisticRegression(C=strength, max_iter=ITERATIONS).fit(inputs, targets)


def unit(vectors: np.ndarray) -> torch.Tensor:
    """Vectors of length 1, float32; a zero vector stays one."""
    return torch.nn.functional.normalize(torch.from_numpy(np.asarray(vectors, dtype=np.float32)), dim=-1)


def nearest(known: np.ndarray, asked: np.ndarray) -> torch.Tensor:
    """Of each row that is asked for the known one with the largest cosine, `(N,)` int64.

    Args:
        known: `(M, F)`.
        asked: `(N, F)`.
    """
    to, places = unit(known), []
    for part in unit(asked).split(1000):
        places.append((part @ to.T).argmax(-1))
    return torch.cat(places)
