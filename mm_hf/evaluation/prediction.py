"""Runs a model over a part of a data set, with any number of processes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import concatenate, gather_object, recursively_apply, send_to_device
from torch.nn.functional import pad

from ..models.ctc_mm_fusion import MMFusionForCTC
from ..models.generation_mm_fusion import MMFusionForConditionalGeneration
from ..models.losses import count_labels
from ..models.retrieval_mm_fusion import ITEMS
from ..models.text import Text
from ..progress_bar import progress_bar


# The modalities of a model for search, with their names in its outputs.
SEARCHED = {Text.name: Text.name, **ITEMS}


@dataclass
class Predictions:
    """The outputs of a model, each row once, in the order of the rows.

    Args:
        row_ids: `(N,)` int64.
        logits: `(N, C)` float32. For several tasks, by name. For a model for search, the embeddings, `(N, E)` of
            `"text"` and of `"image"` or `"audio"`. For a model that writes, the tokens, `(N, S)` int64, without the
            start token, with padding after the end.
        labels: as from `label_tensor`; None if the batches have none. For several tasks, by name. For a model for
            search, the ids of both modalities, `(N,)` int64. For a model that writes, the tokens, `(N, S')` int64,
            -100 for none.
        loss: the mean over the labels. For several tasks, the sum of these means with the model's weights. None
            without labels.
        task_losses: the contribution of each task to the loss; None without labels or with a single task.
        bad_rows: the entries of rows that could not be used.
    """

    row_ids: torch.Tensor
    logits: Any
    labels: Any
    loss: float | None
    task_losses: dict[str, float] | None
    bad_rows: list[dict[str, Any]]


@torch.no_grad()
def predict(
    model: torch.nn.Module,
    batches: Iterable[dict[str, Any]],
    accelerator: Accelerator,
    progress: bool = True,
    title: str = "evaluating",
    generate: dict[str, Any] | None = None,
) -> Predictions:
    """Runs the model over batches, each process over its own batches, and gathers the outputs of all processes.

    Rows are identified by their ids. Processes may have different numbers of rows. A row that two processes have
    counts once.

    Args:
        model: a model with a head. It is left in eval mode.
        batches: as `MultimodalCollator` makes them.
        accelerator: of the processes.
        progress: show a progress bar.
        title: the title of the bar.
        generate: for a model that writes, arguments of its `generate`; {}: the defaults of the model. None: it does
            not write. The tokens are then the most likely next tokens after each token of the true text. (A CTC model
            always writes, because it does not use previous tokens.)
    """
    model.eval()
    writer = model if isinstance(model, (MMFusionForConditionalGeneration, MMFusionForCTC)) else None
    parts: list[tuple] = []
    losses: list[dict[str, tuple[float, float]]] = []  # for each batch, by task: the loss and its number of labels
    bad_rows = []
    for batch in progress_bar(
        batches, desc=title, leave=False, disable=not (progress and accelerator.is_local_main_process)
    ):
        batch = dict(batch)
        row_ids, labels = batch.pop("row_ids"), batch.get("labels")
        ids = {name: batch[f"{modality}_ids"] for modality, name in SEARCHED.items() if f"{modality}_ids" in batch}
        bad_rows += batch.pop("bad_rows", [])
        batch.pop("stream_position", None)
        batch = send_to_device(batch, accelerator.device)
        with accelerator.autocast():
            said: Any
            if writer is None:
                outputs = model(**batch)
                said = {name: outputs[f"{name}_embeds"] for name in ids} if ids else outputs.logits
                said = recursively_apply(torch.Tensor.float, said)
            else:
                outputs, said = write(writer, batch, generate)
        if labels is not None:
            several = isinstance(labels, dict)
            of_batch, counted = (outputs.task_losses, labels) if several else ({"": outputs.loss}, {"": labels})
            losses.append({name: (of_batch[name].item(), count_labels(counted[name])) for name in counted})
        parts.append(send_to_device((row_ids, said, ids or labels), "cpu"))
    parts = gather_object(parts)
    if writer is not None:
        parts = of_one_length(parts, writer.config.pad_token_id)
    totals = gather_object([(losses, bad_rows)])
    row_ids, logits = (concatenate([part[place] for part in parts]) for place in (0, 1))
    labels = None if parts[0][2] is None else concatenate([part[2] for part in parts])
    order = torch.from_numpy(np.unique(row_ids.numpy(), return_index=True)[1])
    row_ids, logits, labels = recursively_apply(lambda values: values[order], (row_ids, logits, labels))
    means = mean_losses([batch for total in totals for batch in total[0]])
    return Predictions(
        row_ids=row_ids,
        logits=logits,
        labels=labels,
        loss=sum(means.values()) if means else None,
        task_losses=means if means and isinstance(labels, dict) else None,
        bad_rows=[row for total in totals for row in total[1]],
    )


def write(
    model: MMFusionForConditionalGeneration | MMFusionForCTC, batch: dict[str, Any], generate: dict[str, Any] | None
) -> tuple[Any, torch.Tensor]:
    """The output of a model that writes, if there are labels, and its tokens `(B, S)`. The inputs are encoded once for
    both. See `predict`."""
    labels = batch.pop("labels", None)
    batch.pop("sample_weight", None)
    encoded = model.get_encoder()(**batch)
    outputs = None if labels is None else model(encoder_outputs=encoded, labels=labels)
    if isinstance(model, MMFusionForCTC):
        return outputs, model.generate(encoder_outputs=encoded, **(generate or {}))
    if generate is not None:
        return outputs, model.generate(encoder_outputs=encoded, **generate)[:, 1:]
    if outputs is None:
        raise ValueError("generate is None, but the batch has no labels to compare with: set generate to {}.")
    return outputs, outputs.logits.argmax(-1)


def of_one_length(parts: list[tuple], pad_token_id: int | None) -> list[tuple]:
    """Batches of tokens and labels, padded to the length of the longest."""
    longest = [max((part[place].shape[1] for part in parts if part[place] is not None), default=0) for place in (1, 2)]

    def padded(values: torch.Tensor | None, place: int, value: int | None) -> torch.Tensor | None:
        return None if values is None else pad(values, (0, longest[place] - values.shape[1]), value=value)

    return [(rows, padded(tokens, 0, pad_token_id), padded(labels, 1, -100)) for rows, tokens, labels in parts]


def mean_losses(batches: list[dict[str, tuple[float, float]]]) -> dict[str, float]:
    """By task, the mean loss over its labels, from the mean of each batch and its number of labels. Empty if there are
    no labels."""
    means = {}
    for name in batches[0] if batches else []:
        if count := sum(batch[name][1] for batch in batches):
            means[name] = sum(batch[name][0] * batch[name][1] for batch in batches) / count
    return means
