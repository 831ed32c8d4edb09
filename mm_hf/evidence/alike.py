"""Finds known rows that are similar to a row. The expected value of any quantity is a weighted mean over them.

The weights come from a random forest: two rows are similar if they often share a leaf (Meinshausen 2006,
https://jmlr.org/papers/v7/meinshausen06a.html, which estimates quantiles with them; Athey, Tibshirani and Wager 2019,
arXiv 1610.01271). One forest serves all questions about a row. So two quantities are compared on the same neighbours,
and a small difference between two modalities is not lost in the noise of two regressions.
"""

from typing import Any

import numpy as np


TREES = 60
LEAST_ROWS = 40  # with fewer rows, all rows count equally, because more could not be checked
LEAST_LEAF = 5
LEAVES = 30  # approximate number of leaves per tree, if there are many rows
BETTER = 0.99  # more features are used only if the error falls below this share of the previous error


class Alike:
    """Weights of known rows.

    The weights for a known row come from the trees that were not trained on it. There are three choices of features:
    none (all rows count equally), the certainty of the answer, or the certainty and the fused vector. The choice with
    the smallest error is taken, so that noise is not used.

    Args:
        features: of N rows, the certainty of the answer `(N, F)` and vectors `(N, D)`, see
            `CoalitionAnswers.features`.
        targets: `(N, K)`, the targets of the forest. Rows without a finite target are not known.
        seed: of the forest.

    Attributes:
        looks_at: "nothing", "sureness" or "everything".
        weights: `(N, N)` float32, for each row the weights of the known rows without the row itself.
    """

    def __init__(self, features: tuple[np.ndarray, np.ndarray], targets: np.ndarray, seed: int = 0):
        self.rows = len(targets)
        self.known = np.flatnonzero(np.isfinite(targets).any(1))
        if not len(self.known):
            raise ValueError(f"None of {self.rows} rows has a finite target, so there is no row to learn from.")
        choices = ["nothing"]
        if len(self.known) >= LEAST_ROWS and features[0].shape[1]:
            choices += ["sureness", "everything"]
        best = np.inf
        for looks_at in choices:
            trees = self._grow(self._select(looks_at, features), targets, seed)
            weights = self._weights(self._select(looks_at, features), trees, apart=True)
            expected = np.stack([mean_of(weights, target) for target in targets.T], 1)
            error = float(np.nansum(np.square(expected - targets)))
            if error < best * (BETTER if best < np.inf else 1):
                best, self.looks_at, self.trees, self.weights = error, looks_at, trees, weights

    @staticmethod
    def _select(looks_at: str, features: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The chosen features, `(N, F)`."""
        sure, vectors = features
        return {"nothing": sure[:, :0], "sureness": sure}.get(looks_at, np.concatenate([sure, vectors], 1))

    def _grow(self, seen: np.ndarray, targets: np.ndarray, seed: int) -> list[tuple[Any, np.ndarray, np.ndarray]]:
        """The trees, each with the numbers of its training rows and their leaves; no trees if there are no
        features."""
        if not seen.shape[1]:
            return []
        from sklearn.ensemble import RandomForestRegressor

        means = np.nansum(targets, 0) / np.isfinite(targets).sum(0).clip(min=1)
        filled = np.where(np.isfinite(targets), targets, means)[self.known]
        leaf = max(LEAST_LEAF, len(self.known) // LEAVES)
        forest = RandomForestRegressor(TREES, min_samples_leaf=leaf, max_features=0.5, random_state=seed)
        forest.fit(seen[self.known], filled[:, 0] if filled.shape[1] == 1 else filled)
        learned = [self.known[np.unique(drawn)] for drawn in forest.estimators_samples_]
        return [(tree, rows, tree.apply(seen[rows])) for tree, rows in zip(forest.estimators_, learned)]

    def _weights(self, seen: np.ndarray, trees: list[tuple[Any, np.ndarray, np.ndarray]], apart: bool) -> np.ndarray:
        """Weights `(n, N)` for n rows. With `apart`, these are the N known rows, and a tree does not count for its own
        training rows."""
        weights = np.zeros((len(seen), self.rows), dtype=np.float32)
        if not trees:
            weights[:, self.known] = 1
            if apart and len(self.known) > 1:
                np.fill_diagonal(weights, 0)
        for tree, learned, leaves in trees:
            asked = np.ones(len(seen), dtype=bool)
            if apart:
                asked[learned] = False
            same = tree.apply(seen[asked])[:, None] == leaves[None, :]
            weights[np.ix_(asked, learned)] += same / same.sum(1, keepdims=True)
        return weights / weights.sum(1, keepdims=True).clip(min=1e-9)

    def of(self, features: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """For other rows, the weights of the known rows, `(n, N)`."""
        return self._weights(self._select(self.looks_at, features), self.trees, apart=False)


def mean_of(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The weighted mean of values `(N,)` over the rows where they are finite, `(n,)`; NaN if all weights are 0."""
    finite = np.isfinite(values)
    total = weights @ finite.astype(np.float32)
    summed = weights @ np.where(finite, values, 0)
    return np.divide(summed, total, out=np.full(len(weights), np.nan), where=total > 1e-9)
