"""From rows to a batch: every distinct picture decoded once, every distinct text tokenized once."""

import hashlib
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..models.processing_mm_fusion import MMFusionProcessor, distinct_items
from .feature_cache import FeatureCache
from .loading import BadRowError, Columns


def decode_image(row: dict[str, Any], column: str) -> Image.Image:
    """Decodes the picture of a row, to RGB.

    Raises:
        BadRowError: it is missing or broken.
    """
    value = row[column]
    try:
        source = io.BytesIO(value["bytes"]) if value.get("bytes") is not None else value["path"]
        return Image.open(source).convert("RGB")
    except FileNotFoundError:
        raise BadRowError(row, column, f"there is no file {value['path']!r}.") from None
    except Exception as error:  # Pillow raises a dozen types for broken files
        raise BadRowError(row, column, f"the picture cannot be read ({type(error).__name__}: {error}).") from None


@dataclass
class MultimodalCollator:
    """Makes a batch of the model's inputs from rows as `Rows` gives them.

    Args:
        processor: prepares each distinct item.
        columns: which column plays which part.
        label2id, problem_type: see `label_tensor`.
        absent: modalities to leave out of every row, for baselines that see the others alone.
        cache: features of frozen encoders; items it holds go in as `encoder_states`.

    Returns of a call:
        a dict with `vision_index`, `text_index` `(B,)`, the processor's tensors for the distinct items (or
        `encoder_states`), `labels` and `row_ids` `(B,)`.
    """

    processor: MMFusionProcessor
    columns: Columns
    label2id: dict[str, int] | None = None
    problem_type: str | None = None
    absent: frozenset[str] = frozenset()
    cache: FeatureCache | None = None
    names: dict[str, str | None] = field(init=False)

    def __post_init__(self):
        self.names = {"vision": self.columns.image, "text": self.columns.text}

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        if not rows:
            raise ValueError("A batch needs at least one row.")
        indices, data, states = {}, {}, {}
        for modality, column in self.names.items():
            if column is None:
                continue
            keys = [None if modality in self.absent else self.item_key(row, modality) for row in rows]
            distinct, index = distinct_items(keys, deduplicate=True)
            indices[f"{modality}_index"] = torch.tensor(index)
            if not distinct:
                continue
            if self.cache is not None and modality in self.cache.modalities:
                states[modality] = self.cache.states(modality, distinct)
                states[modality].index = indices.pop(f"{modality}_index")
                continue
            first = dict(reversed(list(zip(index, rows))))  # the first row of each item
            data.update(self.prepare_items(modality, [first[place] for place in range(len(distinct))]))
        labels = (
            {}
            if self.columns.label is None
            else {"labels": label_tensor(rows, self.columns.label, self.label2id, self.problem_type)}
        )
        batch = {**indices, **data, **labels, "row_ids": torch.tensor([row["row_id"] for row in rows])}
        return {**batch, "encoder_states": states} if states else batch

    def item_key(self, row: dict[str, Any], modality: str) -> str | None:
        """What tells the items of a modality apart; None where the row has none.

        Raises:
            BadRowError: an empty text.
        """
        column = self.names[modality]
        value = row[column]
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return None
        if modality == "text":
            if not isinstance(value, str) or not value.strip():
                raise BadRowError(row, column, f"the text is empty or no text ({value!r}); None means absent.")
            return value
        if self.columns.image_id is not None and row[self.columns.image_id] is not None:
            return f"{row['split']}:{row[self.columns.image_id]}"
        content = value["bytes"] if value.get("bytes") is not None else str(value["path"]).encode()
        return hashlib.sha256(content).hexdigest()

    def prepare_items(self, modality: str, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Runs the processor on the items of these rows, which are distinct."""
        column = self.names[modality]
        if modality == "vision":
            return dict(self.processor(images=[decode_image(row, column) for row in rows]))
        return dict(self.processor(text=[row[column] for row in rows]))


def label_tensor(
    rows: list[dict[str, Any]], column: str, label2id: dict[str, int] | None = None, problem_type: str | None = None
) -> torch.Tensor:
    """Labels as the loss takes them: -100 for a class that is missing, NaN for a number that is.

    Args:
        rows: as `Rows` gives them.
        column: of the labels: names in `label2id`, classes (-1 is what datasets writes for a missing one), numbers,
            or lists of numbers.
        label2id: numbers of the classes.
        problem_type: regression and several labels take numbers as floats; None: as they are.

    Returns:
        `(B,)` int64, or `(B,)` or `(B, C)` float32.

    Raises:
        BadRowError: a label that is not in the list.
    """
    values = [row[column] for row in rows]
    if label2id is not None:
        for place, (row, value) in enumerate(zip(rows, values)):
            if isinstance(value, str) and value not in label2id:
                raise BadRowError(row, column, f"label {value!r} is not in the list {list(label2id)}.")
            if isinstance(value, int) and not -1 <= value < len(label2id):
                raise BadRowError(row, column, f"label {value} is not in 0…{len(label2id) - 1}.")
            values[place] = label2id[value] if isinstance(value, str) else -100 if value in (None, -1) else int(value)
        return torch.tensor(values)
    present = next((value for value in values if value is not None), None)
    if isinstance(present, str):
        row = next(row for row in rows if row[column] is not None)
        raise BadRowError(row, column, f"label {present!r} has no number: there is no list of labels.")
    if isinstance(present, (float, list)) or problem_type not in (None, "single_label_classification"):
        missing: Any = [float("nan")] * len(present) if isinstance(present, list) else float("nan")
        return torch.tensor([missing if value is None else value for value in values], dtype=torch.float32)
    return torch.tensor([-100 if value is None else value for value in values])
