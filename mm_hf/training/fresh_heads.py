"""The head of a run that starts from a checkpoint and knows none of its labels: fitted before the run trains.

A last layer that starts from nothing moves by no more than the rate a step, and pulls what was learned before with it
while it does. Fitted first, on what the rest makes of the rows, it neither costs epochs nor harms (LP-FT: Kumar et al.
2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", section 4).
"""

import warnings
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from datasets import IterableDataset
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from .. import MMFusionPreTrainedModel
from ..data import BatchLoader, Rows
from ..heads import Head, title_of
from ..progress_bar import progress_bar
from .run import Run


MOST_ROWS = 10_000  # more say little more about one layer
STRENGTH = 0.1  # of a row against the penalty on the weights, `C` of scikit-learn
NOT_LABELS = ("row_ids", "bad_rows", "stream_position", "labels", "sample_weight")


def fit_fresh_heads(model: MMFusionPreTrainedModel, heads: dict[Any, Head], run: Run) -> dict[str, str]:
    """Fits last layers, in place, to the labels of the training rows; all else stays as it is. One process calls it.

    Args:
        model: as the run starts with it, but for these heads.
        heads: by task, or the label of the only one, those that know none of their labels; those from outside whose
            last layer is another than `nn.Linear` are passed over.
        run: the run, whose collator makes the batches.

    Returns:
        by the line that says that a head is fresh the line in its place; nothing of a stream, whose rows come later.
    """
    linear = {task: head for task, head in heads.items() if isinstance(head.layer, torch.nn.Linear)}
    if not linear or isinstance(run.splits["train"], IterableDataset):
        return {}
    vectors, labels = vectors_of(model, linear, run)
    balanced = run.train_args.imbalance in ("class_weights", "balanced_sampler", "logit_adjustment")
    lines = {}
    for task, head in linear.items():
        targets = labels[task] if isinstance(labels, dict) else labels
        if rows := fit(head, vectors[task].numpy(), targets.numpy(), "balanced" if balanced else None):
            fresh = f"{title_of(task, head)}: fresh"
            lines[fresh] = f"{fresh}, fitted to {rows:,} training rows as a linear model, before all of it trains"
    return lines


@torch.no_grad()
def vectors_of(model: torch.nn.Module, heads: dict[Any, Head], run: Run) -> tuple[dict[Any, Any], Any]:
    """What each of some heads reads of the training rows, `(N, D)`, and the labels, as `label_tensor` gives them."""
    dataset, device = run.splits["train"], run.accelerator.device
    if len(dataset) > MOST_ROWS:
        drawn = np.random.default_rng(run.train_args.seed).choice(len(dataset), MOST_ROWS, replace=False)
        dataset = dataset.select(np.sort(drawn))
    batches = BatchLoader(Rows(dataset, "train"), run.collator, run.train_args.per_device_eval_batch_size, train=False)
    seen: dict[Any, list[torch.Tensor]] = {task: [] for task in heads}
    hooks = [
        head.layer.register_forward_pre_hook(lambda _, inputs, seen=seen[task]: seen.append(inputs[0].float().cpu()))
        for task, head in heads.items()
    ]
    model.to(device).eval()
    labels: list[Any] = []
    try:
        for batch in progress_bar(batches, desc="fitting the head", leave=False):
            if "labels" not in batch:  # all of its rows are bad
                continue
            labels.append(batch["labels"])
            model(**send_to_device({key: value for key, value in batch.items() if key not in NOT_LABELS}, device))
    finally:
        for hook in hooks:
            hook.remove()
    model.to("cpu")
    vectors = {task: torch.cat(parts) for task, parts in seen.items()}
    if isinstance(labels[0], dict):
        return vectors, {task: torch.cat([part[task] for part in labels]) for task in labels[0]}
    return vectors, torch.cat(labels)


def fit(head: Head, vectors: np.ndarray, labels: np.ndarray, class_weight: str | None) -> int:
    """Fits one layer, in place; outputs without an example stay out of the way.

    Args:
        head: whose layer it is.
        vectors: `(N, D)` float32.
        labels: `(N,)` int64, -100 for none, or `(N,)` or `(N, C)` floats, NaN for none.
        class_weight: see scikit-learn's `LogisticRegression`.

    Returns:
        how many rows it was fitted to, 0 where there is nothing to fit.
    """
    known = labels != -100 if labels.dtype.kind == "i" else ~np.isnan(labels.reshape(len(labels), -1)).all(1)
    vectors, labels = vectors[known], labels[known]
    if len(vectors) < 2:
        return 0
    scaler = StandardScaler().fit(vectors)
    inputs = scaler.transform(vectors)
    fitted: dict[int, tuple[np.ndarray, float]] = {}  # by output
    if head.kind == "numbers":
        mean, scale = (np.asarray(values) for values in (head.mean or [0.0], head.scale or [1.0]))
        targets = (labels.reshape(len(labels), -1) - mean) / scale
        for output, column in enumerate(targets.T):
            labelled = ~np.isnan(column)
            model = Ridge(alpha=len(inputs) ** 0.5 / STRENGTH).fit(inputs[labelled], column[labelled])
            fitted[output] = model.coef_, model.intercept_
    elif labels.dtype.kind == "i":
        classes = np.unique(labels)
        if len(classes) < 2:
            return 0
        model = classify(inputs, labels, class_weight)
        coefficients, intercepts = model.coef_, model.intercept_
        if len(classes) == 2:  # one row, of the second class
            coefficients, intercepts = (
                np.concatenate([-coefficients, coefficients]) / 2,
                np.r_[-intercepts, intercepts] / 2,
            )
        fitted = dict.fromkeys(range(head.layer.out_features), (np.zeros(inputs.shape[1]), intercepts.min()))
        fitted |= dict(zip(classes.tolist(), zip(coefficients, intercepts)))  # the others have no row
    else:
        for output, column in enumerate(labels.T):
            labelled = ~np.isnan(column)
            if len(np.unique(column[labelled] > 0.5)) == 2:
                model = classify(inputs[labelled], column[labelled] > 0.5, class_weight)
                fitted[output] = model.coef_[0], model.intercept_[0]
    with torch.no_grad():
        for output, (weight, bias) in fitted.items():
            weight = weight / scaler.scale_
            head.layer.weight[output] = torch.from_numpy(weight)
            head.layer.bias[output] = float(bias - weight @ scaler.mean_)
    return len(vectors)


def classify(inputs: np.ndarray, labels: np.ndarray, class_weight: str | None) -> LogisticRegression:
    """A logistic regression; one that has not quite arrived will do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=STRENGTH, max_iter=200, class_weight=class_weight).fit(inputs, labels)
