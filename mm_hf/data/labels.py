"""Labels in the form that the loss needs."""

import math
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from ..models.finite import LARGEST_IN_LOSS, by_number, read_number
from ..models.names import did_you_mean
from ..models.tasks import NUMBERS, SEVERAL, label_kind_of
from .class_names import LISTED_LABELS
from .column_types import MAX_NUMBER_CLASSES
from .rows import BadRowError, is_absent


logger = logging.get_logger(__name__)


def label_tensor(
    rows: list[dict[str, Any]],
    column: str,
    label2id: dict[str, int] | None = None,
    problem_type: str | None = None,
    bad: list[BadRowError] | None = None,
) -> torch.Tensor:
    """Labels in the form that the loss needs. A missing class is -100, a missing number is NaN.

    Args:
        rows: as `Rows` gives them.
        column: the column of the labels: names in `label2id`, classes (-1 is what datasets writes for a missing one),
            booleans, numbers, or lists of any of these. None and NaN are missing.
        label2id: the numbers of the classes by name; None: labels are numbers.
        problem_type: the problem type of a `TaskHead`, which says what its labels are. Numbers and several labels
            become floats; None: labels stay as they are. Several labels with `label2id` are lists of names or classes,
            or one value in [0, 1] per class (soft targets, as in VQA v2; Goyal et al. 2017).
        bad: collects bad labels, which then count as missing; None: a bad label raises.

    Returns:
        `(B,)` int64, or `(B,)` or `(B, C)` float32.

    Raises:
        BadRowError: a label that is not in the list, or a value that is not a label.
    """
    kind = label_kind_of(problem_type)
    several, numbers = kind == SEVERAL, kind == NUMBERS
    label2id = None if numbers else label2id  # transformers also names the output of a regression
    values: list[Any] = []
    width: int | None = None  # the length of the lists; 0 for single numbers
    for row in rows:
        value = row[column].tolist() if isinstance(row[column], (np.generic, np.ndarray)) else row[column]
        try:
            if value is None or (label2id is not None and is_absent(value)):
                values.append(None)
                continue
            if label2id is None:
                value = read_numbers(value, texts=numbers)
            else:
                value = read_classes(value, label2id) if several else read_class(value, label2id)
            length = len(value) if isinstance(value, list) else 0
            if width not in (None, length):
                raise ValueError(f"label {value} has {length} numbers, but others have {width} (0: it is not a list).")
            width = length
            values.append(value)
        except ValueError as reason:
            error = BadRowError(row, column, str(reason))
            if bad is None:
                raise error from None
            bad.append(error)
            values.append(None)
    if several and label2id is not None:
        width = len(label2id)
    if width or several or numbers or any(isinstance(value, float) for value in values):
        missing: Any = [math.nan] * width if width else math.nan
        return torch.tensor([missing if value is None else value for value in values], dtype=torch.float32)
    return torch.tensor([-100 if value is None else value for value in values])


def read_class(value: Any, label2id: dict[str, int]) -> int:
    """The number of a class. -100 for -1, which datasets writes for a missing class."""
    if isinstance(value, str):
        if value not in label2id and (name := by_number(value, label2id)) is not None:
            logger.warning_once(
                f"Label {value!r:.80} is read as {name!r}, because the model learned its classes as numbers."
            )
            return label2id[name]
        if value not in label2id:
            names = ", ".join(repr(name) for name in list(label2id)[:LISTED_LABELS])
            more = f", … ({len(label2id)} in all)" if len(label2id) > LISTED_LABELS else ""
            meant = did_you_mean(value, label2id) if len(label2id) <= MAX_NUMBER_CLASSES else ""
            raise ValueError(f"label {value!r} is not in the list [{names}{more}].{meant}")
        return label2id[value]
    number = int(value) if isinstance(value, (int, float)) and value == value // 1 else None
    if number is None or not -1 <= number < len(label2id):
        raise ValueError(f"label {value!r:.80} is not in 0…{len(label2id) - 1}.")
    return -100 if number == -1 else number


def read_classes(value: Any, label2id: dict[str, int]) -> list[float]:
    """One value per class, from a list of names or classes, or from a list of such values.

    Raises:
        ValueError: not a list, not one of the classes, or values that are not one per class in [0, 1].
    """
    if not isinstance(value, list):
        raise ValueError(f"label {value!r:.80} is not a list; several labels need a list of names or classes.")
    if value and all(isinstance(entry, (bool, float)) for entry in value):
        if len(value) != len(label2id) or not all(0 <= entry <= 1 for entry in value):
            raise ValueError(f"label {value!r:.80} must have {len(label2id)} values in [0, 1], one per class.")
        return [float(entry) for entry in value]
    targets = [0.0] * len(label2id)
    for entry in value:
        number = read_class(entry, label2id)
        if number < 0:
            raise ValueError(f"label {entry!r} is not in 0…{len(label2id) - 1}.")
        targets[number] = 1.0
    return targets


def read_numbers(value: Any, texts: bool = False) -> Any:
    """A number, or a list of numbers. None in a list becomes NaN.

    Args:
        value: a number, or a list of numbers.
        texts: accept a text that spells a number, see `read_number`.

    Raises:
        ValueError: not a number, or a number that is too large to train on in float32, see `LARGEST_IN_LOSS`.
    """
    if isinstance(value, list):
        return [math.nan if entry is None else float(read_numbers(entry, texts)) for entry in value]
    if isinstance(value, str):
        number = read_number(value) if texts else None
        if number is None:
            why = "is not a number" if texts else "has no number: there is no list of labels"
            raise ValueError(f"label {value!r:.80} {why}.")
        value = number
    if not isinstance(value, (int, float, Decimal)):
        raise ValueError(f"label {value!r:.80} is not a number.")
    if value != value:
        return math.nan
    if not is_finite(value):
        raise ValueError(f"label {value!r:.80} must be a finite number of at most {LARGEST_IN_LOSS:g} (in float32).")
    return float(value) if isinstance(value, Decimal) else int(value) if isinstance(value, bool) else value


def is_finite(value: Any) -> bool:
    """Whether a number can be used in training, as a label or a weight; see `LARGEST_IN_LOSS`."""
    return -LARGEST_IN_LOSS <= value <= LARGEST_IN_LOSS


def weight_of(row: dict[str, Any], label: str, column: str) -> float:
    """How much a row counts in the loss. 0 if it has neither a label nor a weight."""
    value = row[column]
    if is_absent(value) and is_absent(row[label]):
        return 0.0
    number: Any = read_number(value) if isinstance(value, str) else value
    real = isinstance(number, (Real, Decimal, np.bool_))
    if not real or not 0 <= number <= LARGEST_IN_LOSS:
        reason = f"a weight must be a number from 0 up, got {value!r:.80} (at most {LARGEST_IN_LOSS:g}, in float32)."
        raise BadRowError(row, column, reason)
    return float(number)


def label_statistics(labels: Any) -> dict[str, list[float]]:
    """Statistics that the config of a regression needs: mean and standard deviation of the labels in the training
    rows. With them a model learns numbers in any unit.

    Args:
        labels: `(N,)` or `(N, C)` numbers: a list, a column of `datasets` or pandas, an array or a tensor. None and
            NaN are missing labels.

    Returns:
        `label_mean` and `label_scale`, one number per output. If all labels are equal, the scale is 1.

    Example:

    ```python
    >>> scale = label_statistics(train["price"])
    >>> model = MMFusionForClassification.from_encoders_pretrained(..., num_labels=1, **scale)
    ```
    """
    if not isinstance(labels, torch.Tensor):
        labels = torch.from_numpy(np.array(list(labels), dtype=np.float64))  # None becomes NaN
    columns = labels.double().reshape(len(labels), -1).T
    known = [column[~column.isnan()] for column in columns]
    means = [column.mean().item() if len(column) else 0.0 for column in known]
    stds = [column.std(correction=0).item() if len(column) else 0.0 for column in known]
    # If all labels are equal, a deviation that is not zero is only a rounding error.
    alike = [not len(column) or bool(column.min() == column.max()) for column in known]
    return {"label_mean": means, "label_scale": [1.0 if same else std for same, std in zip(alike, stds)]}
