"""What a score must be held against: answers without a look at the row, wrong pairs, and rows that lost a part."""

from collections.abc import Hashable, Sequence

import numpy as np
import torch

from .metrics import CLASSES, has_label, targets_of


def majority_answer(labels: torch.Tensor, problem_type: str, outputs: int) -> torch.Tensor:
    """The best answer that looks at no row: the most frequent class; of several labels those that together have the
    best F1 (micro) over these rows, which is the first metric; or the mean, which has the best RMSE.

    Args:
        labels: as `classification_metrics` takes them; rows without a label do not count.
        problem_type: see `classification_loss`.
        outputs: C, of the logits.

    Returns:
        what `answers_of` would give for one row: `()` or `(C,)`.
    """
    known = labels[has_label(labels, problem_type)]
    if problem_type in CLASSES:
        return known.bincount(minlength=outputs).argmax()
    if problem_type == "regression":
        return known.reshape(len(known), -1).double().mean(0).float()
    share, order = targets_of(known, problem_type).double().mean(0).sort(descending=True, stable=True)
    chosen = torch.arange(1, len(share) + 1)
    best = (2 * share.cumsum(0) / (chosen + share.sum())).argmax()  # F1 of the most frequent one, two, three…
    return torch.zeros(len(share), dtype=torch.int64).scatter(0, order[: best + 1], 1)


def median_answer(labels: torch.Tensor) -> torch.Tensor:
    """The number that is best for the MAE of a regression without a look at the row, `(C,)`: the median of each
    output.

    Args:
        labels: as `classification_metrics` takes them; rows without a label do not count.
    """
    known = labels[has_label(labels, "regression")]
    values = known.reshape(len(known), -1).double().numpy()
    return torch.from_numpy(np.median(values, axis=0)).float()


def constant_logits(answer: torch.Tensor, problem_type: str, rows: int, outputs: int) -> torch.Tensor:
    """The logits of a model that answers alike whatever it sees, `(N, C)` float32.

    Args:
        answer: see `majority_answer`; not of written texts.
        problem_type: see `classification_loss`.
        rows, outputs: N and C.
    """
    if problem_type == "single_label_classification":
        answer = torch.nn.functional.one_hot(answer, outputs)
    elif problem_type == "multi_label_classification":
        answer = 2 * answer - 1
    return answer.float().expand(rows, outputs)


def derangement(items: Sequence[Hashable | None], seed: int) -> list[int]:
    """An order in which each row gets the item of another row, and its own item only where more than half of the rows
    share it.

    The rows are sorted by item, the items in an order drawn from the seed, and each row takes the item that stands as
    many rows further on as the most frequent item has. Every item comes as often as before. Rows without one keep
    that.

    Args:
        items: what each row has; equal ones are the same item, None is none.
        seed: of the order.

    Returns:
        for each row the row whose item it gets.
    """
    generator = np.random.default_rng(seed)
    by_item: dict[Hashable, list[int]] = {}
    for row in generator.permutation(len(items)).tolist():
        if items[row] is not None:
            by_item.setdefault(items[row], []).append(row)
    rows = [row for group in by_item.values() for row in group]
    shift = max(map(len, by_item.values()), default=0)
    order = list(range(len(items)))
    for place, row in enumerate(rows):
        order[row] = rows[(place + shift) % len(rows)]
    return order


def rows_without(count: int, share: float, seed: int | Sequence[int]) -> frozenset[int]:
    """Rows drawn to lose something: those of a smaller share are among those of a larger one.

    Args:
        count: of all rows.
        share: in [0, 1].
        seed: of the draw.
    """
    order = np.random.default_rng(seed).permutation(count)
    return frozenset(order[: round(share * count)].tolist())
