"""Fits a fresh head before training, for a run that starts from a checkpoint with none of the new labels.

A fresh last layer needs many steps to reach useful weights, and its gradients distort the pretrained features
meanwhile. Here the last layer is fitted first, on the features that the rest of the model computes for the rows. That
saves epochs and avoids the distortion (LP-FT: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and
Underperform Out-of-Distribution", section 4).
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


MOST_ROWS = 10_000  # more rows add little to the fit of one layer
STRENGTH = 0.1  # weight of the rows against the penalty on the weights, `C` of scikit-learn
NOT_LABELS = ("row_ids", "bad_rows", "stream_position", "labels", "sample_weight")


def fit_fresh_heads(model: MMFusionPreTrainedModel, heads: dict[Any, Head], run: Run) -> dict[str, str]:
    """Fits last layers, in place, to the labels of the training rows; nothing else changes. One process calls it.

    Args:
        model: the model that the run starts with.
        heads: by task (or by the label column of the only task) the heads that know none of their labels. Heads from
            outside with another last layer than `nn.Linear` are skipped.
        run: the run; its collator makes the batches.

    Returns:
        for each line that says that a head is fresh, the line that replaces it; an empty dict for a stream, whose rows
        are not known in advance.
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
            lines[fresh] = f"{fresh}, fitted to {rows:,} training rows as a linear model before the training"
    return lines


@torch.no_grad()
def vectors_of(model: torch.nn.Module, heads: dict[Any, Head], run: Run) -> tuple[dict[Any, Any], Any]:
    """The input of each head's last layer for the training rows, `(N, D)`, and the labels, as from `label_tensor`."""
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
    """Fits one layer, in place. Outputs without an example get a low score.

    Args:
        head: the head with this layer.
        vectors: `(N, D)` float32.
        labels: `(N,)` int64 with -100 for a missing label, or `(N,)` or `(N, C)` floats with NaN for a missing label.
        class_weight: see scikit-learn's `LogisticRegression`.

    Returns:
        the number of rows in the fit; 0 if there is nothing to fit.
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
        if len(classes) == 2:  # scikit-learn gives one row of coefficients, for the second class
            coefficients, intercepts = (
                np.concatenate([-coefficients, coefficients]) / 2,
                np.r_[-intercepts, intercepts] / 2,
            )
        fitted = dict.fromkeys(range(head.layer.out_features), (np.zeros(inputs.shape[1]), intercepts.min()))
        fitted |= dict(zip(classes.tolist(), zip(coefficients, intercepts)))  # the other classes have no examples
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
    """A logistic regression. It is used even if it has not fully converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=STRENGTH, max_iter=200, class_weight=class_weight).fit(inputs, labels)
