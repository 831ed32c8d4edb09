"""Checks that an export gives the same answers as the model. Its own `runtime.py` runs on made-up rows of other sizes
than the rows of tracing. So a graph that is silently wrong is not delivered."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch

from ..models.modality import modality_of
from ..models.pretrained_mm_fusion import MMFusionPreTrainedModel
from ..models.retrieval_mm_fusion import MMFusionForRetrieval
from .graphs import FUSE, FuseGraph, embedding_name, level_name, mask_name
from .preparation import made_up_items


ROWS = 6  # the numbers of rows and items differ from those of tracing
SIZE = 5  # of the made-up items
BOUND = 1e-3  # as a share of the model's largest number; sound filters and resized pictures differ by rounding


def load_runtime(folder: Path) -> Any:
    """The module of an export's own `runtime.py`."""
    spec = importlib.util.spec_from_file_location("mm_hf_runtime_of_an_export", folder / "runtime.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no file must be left in the folder
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    finally:
        sys.dont_write_bytecode = before
    return module


def made_up_rows(model: MMFusionPreTrainedModel, processor: Any) -> list[dict[str, Any]]:
    """Rows as a pipeline takes them. For each modality of the package, one row lacks it, and two rows share an
    item."""
    rows: list[dict[str, Any]] = [{} for _ in range(ROWS)]
    for place, name in enumerate(model.config.modalities):
        modality = modality_of(name)
        if modality.extra:
            continue
        items = made_up_items(modality, processor, ROWS - 1, SIZE)
        for number, row in enumerate(rows):
            if number != 1 + place or len(model.config.modalities) == 1:
                row[modality.row_keys[0]] = items[number % len(items)]
    return [row for row in rows if row]


@torch.no_grad()
def expected_outputs(model: MMFusionPreTrainedModel, processor: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The model's own results for rows: the outputs of `fuse`, and embeddings of distinct items."""
    arguments: dict[str, Any] = {}
    base: Any = model.base_model
    for name in model.config.modalities:
        modality = modality_of(name)
        key = modality.row_keys[0]
        loaded = [modality.load_item(processor, row[key]) if key in row else None for row in rows]
        if any(item is not None for item in loaded):
            same: dict[int, Any] = {}  # rows that share a source share the item
            column = [None if item is None else same.setdefault(id(row[key]), item) for row, item in zip(rows, loaded)]
            arguments |= {modality.argument: column, **modality.told(processor)}
    batch = processor(**arguments, deduplicate=True)
    indices = {name: batch.pop(modality_of(name).index_name, None) for name in base.encoders}
    states = base.encode(indices, **batch)
    fused: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    for name, state in states.items():
        count = len(rows)
        index = torch.arange(count) if state.index is None else state.index
        if base.config.places_of(name) == 1:
            index = index.flatten()
        fused |= {level_name(name, number): level for number, level in enumerate(state.levels or ())}
        fused |= {modality_of(name).index_name: index}
        if state.mask is not None:
            fused[mask_name(name)] = state.mask
        if isinstance(model, MMFusionForRetrieval):
            outputs[embedding_name(name)] = model.embeddings[name](state)
    if not isinstance(model, MMFusionForRetrieval) or model.config.matching_weight:
        outputs |= FuseGraph(model)(**fused)
    return outputs


def largest_difference(model: MMFusionPreTrainedModel, processor: Any, folder: Path) -> float:
    """The largest difference between the numbers of an export and of the model, as a share of the largest number of
    each output (or of 1 if all numbers are smaller).

    Raises:
        ValueError: the outputs have different shapes.
    """
    if any(modality_of(name).extra for name in model.config.modalities):
        return 0.0  # only its own code can make its items
    rows = made_up_rows(model, processor)
    exported = load_runtime(folder).Model(folder)
    loaded: dict[Any, Any] = {}
    feeds = exported.feeds([exported.load(row, loaded) for row in rows])
    given = {**feeds, **(exported.graphs[FUSE](feeds) if FUSE in exported.graphs else {})}
    worst = 0.0
    for name, value in expected_outputs(model, processor, rows).items():
        other = torch.from_numpy(given[name])
        if other.shape != value.shape:
            raise ValueError(
                f"the exported graphs give {name} with shape {tuple(other.shape)}, but the model gives "
                f"{tuple(value.shape)}. Please report the encoders and the fusion of this model."
            )
        distance = (other.double() - value.double()).abs().max().item()
        worst = max(worst, distance / max(1.0, value.double().abs().max().item()))
    return worst


def check_export(model: MMFusionPreTrainedModel, processor: Any, folder: Path, int8: bool = False) -> float:
    """See `largest_difference`.

    Raises:
        ValueError: the difference is above `BOUND`, and the export is not in 8 bits.
    """
    worst = largest_difference(model, processor, folder)
    if not worst <= BOUND and not int8:
        raise ValueError(
            f"the numbers of the exported graphs differ from the model's by a relative {worst:.3g}, and at most "
            f"{BOUND} is allowed: a part of this model does not export correctly. Please report its "
            "encoders and fusion."
        )
    return worst
