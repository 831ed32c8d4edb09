"""Which known rows a row is like, by what is seen of it: with their weights anything can be expected of it.

The weights are those of a random forest: two rows are alike as often as they share a leaf (Meinshausen 2006,
https://jmlr.org/papers/v7/meinshausen06a.html, which takes quantiles by them; Athey, Tibshirani and Wager 2019, arXiv
1610.01271). One forest serves all that is asked about a row, so that two things are compared on the same neighbours:
that one modality costs a little more than another is then not lost in the noise of two regressions.
"""

from typing import Any

import numpy as np


TREES = 60
LEAST_ROWS = 40  # below it all rows are alike: more could not be checked
LEAST_LEAF = 5
LEAVES = 30  # of a tree, about, where there are many rows
BETTER = 0.99  # more is looked at where that leaves less than this share of the error


class Alike:
    """Weights of known rows.

    Each known row is weighed by the trees that have not learned it. What is looked at is chosen by how well that does:
    nothing (all rows count alike), how sure the answer is, or the fused vector too. So noise is not taken for
    knowledge.

    Args:
        features: of N rows, how sure the answer is `(N, F)` and vectors `(N, D)`, see `CoalitionAnswers.features`.
        targets: `(N, K)`, what the forest learns to tell apart; rows of which none is finite are not known.
        seed: of the forest.

    Attributes:
        looks_at: "nothing", "sureness" or "everything".
        weights: `(N, N)` float32, of each row those of the known rows, its own left out.
    """

    def __init__(self, features: tuple[np.ndarray, np.ndarray], targets: np.ndarray, seed: int = 0):
        self.rows = len(targets)
        self.known = np.flatnonzero(np.isfinite(targets).any(1))
        if not len(self.known):
            raise ValueError("There is no row to learn from.")
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
        """What is looked at, `(N, F)`."""
        sure, vectors = features
        return {"nothing": sure[:, :0], "sureness": sure}.get(looks_at, np.concatenate([sure, vectors], 1))

    def _grow(self, seen: np.ndarray, targets: np.ndarray, seed: int) -> list[tuple[Any, np.ndarray, np.ndarray]]:
        """Of each tree itself, which of all rows it has learned, and their leaves; none where nothing is seen."""
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
        """Weights `(n, N)` for n rows; with `apart` these are the N rows, and no tree counts for what it learned."""
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
        """Of other rows the weights of the known ones, `(n, N)`."""
        return self._weights(self._select(self.looks_at, features), self.trees, apart=False)


def mean_of(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The weighted mean of values `(N,)` over the rows where they are finite, `(n,)`; NaN where none counts."""
    finite = np.isfinite(values)
    total = weights @ finite.astype(np.float32)
    summed = weights @ np.where(finite, values, 0)
    return np.divide(summed, total, out=np.full(len(weights), np.nan), where=total > 1e-9)
