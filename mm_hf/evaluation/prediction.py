"""Running a model over a part of a data set, on any number of processes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from tqdm.auto import tqdm

from ..models.losses import count_labels


@dataclass
class Predictions:
    """What a model said, each row once, in the order of the rows.

    Args:
        row_ids: `(N,)` int64.
        logits: `(N, C)` float32.
        labels: as `label_tensor` gives them, None where the batches have none.
        loss: mean over the labels; None without labels.
        bad_rows: particulars of rows that could not be used.
    """

    row_ids: torch.Tensor
    logits: torch.Tensor
    labels: torch.Tensor | None
    loss: float | None
    bad_rows: list[dict[str, Any]]


@torch.no_grad()
def predict(
    model: torch.nn.Module,
    batches: Iterable[dict[str, Any]],
    accelerator: Accelerator,
    progress: bool = True,
    title: str = "evaluating",
) -> Predictions:
    """Runs the model over batches, each process over its own, and gathers what all of them gave.

    Rows are told apart by their ids: processes may have any number of them, and one that two have counts once.

    Args:
        model: a head; it is left in eval mode.
        batches: as `MultimodalCollator` makes them.
        accelerator: of the run.
        progress: show a bar.
        title: of the bar.
    """
    model.eval()
    parts: list[tuple] = []
    loss, count, bad_rows = 0.0, 0, []
    for batch in tqdm(batches, desc=title, leave=False, disable=not (progress and accelerator.is_local_main_process)):
        batch = dict(batch)
        row_ids, labels = batch.pop("row_ids"), batch.get("labels")
        bad_rows += batch.pop("bad_rows", [])
        batch.pop("stream_position", None)
        with accelerator.autocast():
            outputs = model(**send_to_device(batch, accelerator.device))
        if labels is not None:
            labels = labels.cpu()
            counted = count_labels(labels)
            loss, count = loss + outputs.loss.item() * counted, count + counted
        parts.append((row_ids.cpu(), outputs.logits.float().cpu(), labels))
    parts = gather_object(parts)
    totals = gather_object([(loss, count, bad_rows)])
    loss, count = sum(total[0] for total in totals), sum(total[1] for total in totals)
    row_ids, logits = (torch.cat([part[place] for part in parts]) for place in (0, 1))
    labels = None if parts[0][2] is None else torch.cat([part[2] for part in parts])
    order = torch.from_numpy(np.unique(row_ids.numpy(), return_index=True)[1])
    return Predictions(
        row_ids=row_ids[order],
        logits=logits[order],
        labels=None if labels is None else labels[order],
        loss=loss / count if count else None,
        bad_rows=[row for total in totals for row in total[2]],
    )
