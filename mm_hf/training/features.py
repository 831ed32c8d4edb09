"""The features of frozen encoders, kept so that each item is encoded once."""

import os
from functools import partial
from typing import Any

from accelerate.utils import gather_object

from ..data import CacheTooLargeError, FeatureCache, Rows
from .evaluator import Evaluator


def build_cache(run: Evaluator, modalities: list[str]) -> FeatureCache | None:
    """Encodes every distinct item of some modalities with frozen encoders once, those of all parts of the run; None
    where no modality's features would fit into the memory."""
    if not modalities:
        return None
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    cache = FeatureCache(run.model.base_model.eval(), processes=local_processes, on_error=run.bad_rows.on_error)
    rows = {split: Rows(dataset, split) for split, dataset in run.splits.items()}

    def prepare(modality, places):
        chosen = [rows[split][row] for split, row, _ in places]
        return run.collator.prepare_items(modality, chosen, [column for _, _, column in places])

    for modality in modalities:
        # Where each item is found: the pictures themselves would fill the memory.
        items: dict[Any, tuple[str, int, str]] = {}
        for split, part in rows.items():
            for row in part:
                for key, column in zip(run.collator.item_keys(row, modality), run.collator.parts[modality]):
                    if key is not None:
                        items.setdefault(key, (split, row["row_id"], column))
        too_large = ""
        try:
            cache.fill(modality, items.items(), partial(prepare, modality), progress=run.accelerator.is_main_process)
        except CacheTooLargeError as error:
            too_large = str(error)
        if any(reasons := gather_object([too_large])):  # free memory differs: all processes do as one must
            run.say(f"features are not kept: {next(filter(None, reasons))}")
            cache.drop(modality)
    return cache if cache.modalities else None
