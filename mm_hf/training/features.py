"""The features of frozen encoders, kept so that each item is encoded once: on disk for all runs, or in memory for
this one."""

import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import gather_object

from ..data import CacheTooLargeError, FeatureCache, MultimodalCollator, Rows
from ..data.contents import FileDigests, digests_of
from ..data.encoder_identity import identity_of
from ..data.feature_store import FeatureStore, StoreError
from ..data.modalities import READERS, reader_of
from ..data.rows import ROW_ID
from ..data.stored_items import StoredItems
from ..models.freezing import holds_adapters
from ..models.modality import modality_of
from ..models.processing_mm_fusion import MMFusionProcessor
from .data_arguments import CACHE_LIMIT, NO_FOLDER, DatasetArguments
from .evaluator import Evaluator
from .fingerprint import keys_of_processor


MEMO = "files.sqlite"  # of the cache's folder, see `FileDigests`
AT_ONCE = 4  # pictures that a CPU encodes together: MobileNetV2 takes half the time a picture that it takes of 64
LAST_CALL = ("tokenizer.padding", "tokenizer.truncation")  # of a tokenizer, what it was last called with


@dataclass
class PrepareItems:
    """Turns items of rows into the model's inputs, here or in another process.

    Args:
        collator: has the processor, and no cache.
        modality: of the items.
    """

    collator: MultimodalCollator
    modality: str

    def __call__(self, items: list[tuple[dict[str, Any], str]]) -> dict[str, torch.Tensor]:
        """Inputs of items, each given by its row and its column."""
        rows, columns = [row for row, _ in items], [column for _, column in items]
        return self.collator.prepare_items(self.modality, rows, columns)


def build_cache(
    run: Evaluator, modalities: list[str], data_args: DatasetArguments | None = None, new: bool = False
) -> FeatureCache | None:
    """Encodes every distinct item of some modalities once, those that lie on disk not at all.

    Args:
        run: its model encodes the items of all its parts.
        modalities: with frozen encoders.
        data_args: where and how features are kept; None: in memory, as they are.
        new: keep them on disk where `data_args` says nothing, and encode a few at once. A run of before goes on as it
            began, bit for bit.

    Returns:
        the features; None where no modality's would fit.
    """
    if not modalities:
        return None
    args = DatasetArguments() if data_args is None else data_args
    dtype = None if args.cache_dtype is None else getattr(torch, args.cache_dtype)
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    cache = FeatureCache(
        run.model.base_model.eval(),
        processes=local_processes,
        on_error=run.bad_rows.on_error,
        dtype=dtype,
        workers=args.encoding_workers,
        at_once=AT_ONCE if new and run.accelerator.device.type == "cpu" else None,
    )
    store = None
    if args.cache_dir != NO_FOLDER and (new or args.cache_dir is not None):
        limit = CACHE_LIMIT if args.cache_limit is None else args.cache_limit
        store = FeatureStore(args.cache_dir, int(limit * 1e9))
    for modality in modalities:
        items, contents = places_of_items(run, modality)
        stored = None
        if store is not None and contents is not None:
            stored = open_items(run, store, cache, modality, contents)
        for kept in [stored, None] if stored is not None else [None]:
            if fill(run, cache, modality, items, kept):
                break
    return cache if cache.modalities else None


def places_of_items(
    run: Evaluator, modality: str
) -> tuple[dict[str, tuple[str, int, str]], dict[str, tuple[str, ...]] | None]:
    """Where each distinct item of a modality is found, since the items themselves would fill the memory: its part, row
    and column by its key. And what it is made of, see `ModalityReader.contents`; None where its features may lie in
    memory alone."""
    reader, columns = reader_of(modality), run.collator.parts[modality]
    stored = modality_of(modality).pretrained and not holds_adapters(run.model.base_model.encoders[modality])
    places: dict[str, tuple[str, int, str]] = {}
    contents: dict[str, tuple[str, ...]] = {}
    for split, dataset in run.splits.items():
        for row in Rows(dataset, split):
            for key, column in zip(run.collator.item_keys(row, modality), columns):
                if key is None or key in places:
                    continue
                places[key] = split, row[ROW_ID], column
                made_of = reader.contents(row, column, key, run.collator) if stored else None
                if made_of is None:
                    stored = False
                else:
                    contents[key] = made_of
    return places, contents if stored else None


def open_items(
    run: Evaluator, store: FeatureStore, cache: FeatureCache, modality: str, contents: dict[str, tuple[str, ...]]
) -> StoredItems | None:
    """The features on disk of the items of a modality; None, with a line that says why, where the disk takes none.

    Args:
        run: whose items they are.
        store: of the features.
        cache: with the model.
        modality: of the items.
        contents: see `places_of_items`.
    """
    encoder: Any = cache.model.encoders[modality]
    identity = {**identity_of(cache.model, modality), "processor": preprocessing_of(run.processor, modality)}
    identity["kept_in"] = str(cache.dtype or encoder.dtype)
    try:
        features = store.open(identity, f"{modality} {encoder.config._name_or_path or type(encoder).__name__}")
    except StoreError as error:
        run.say(f"{modality} features are kept in memory: {error}")
        return None
    digests = digests_of(contents, FileDigests(store.folder.parent / MEMO))
    rank, processes = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return StoredItems(store, features, digests, rank, processes, run.say)


def preprocessing_of(processor: MMFusionProcessor, modality: str) -> dict[str, Any]:
    """What a processor does to the items of a modality, by the keys of its files."""
    kind = modality_of(modality)
    part = processor.part_of(kind)
    settings = {name: getattr(processor, name) for name in kind.settings}
    keys = keys_of_processor(MMFusionProcessor(**{kind.part: part}, **settings))
    settings = {key: value for key, value in keys.items() if not key.startswith(LAST_CALL)}
    return {**settings, "class": type(part).__name__}


def fill(
    run: Evaluator,
    cache: FeatureCache,
    modality: str,
    items: dict[str, tuple[str, int, str]],
    stored: StoredItems | None,
) -> bool:
    """Encodes the items of a modality that are not there yet.

    Args:
        run, cache, modality: whose they are.
        items: see `places_of_items`.
        stored: where on disk they are kept; None: in memory.

    Returns:
        whether all processes have all features. Where one has not, none does: free memory and disks differ.

    Raises:
        BadRowError: an item that cannot be read, on all processes alike, unless these are skipped.
        ValueError: likewise, features that `cache_dtype` cannot hold.
    """
    rows = {split: Rows(dataset, split) for split, dataset in run.splits.items()}
    columns = reader_of(modality).data_columns(run.columns)
    others = {name for reader in READERS.values() for name in reader.data_columns(run.columns)} - {*columns}

    def fetch(places: list[tuple[str, int, str]]) -> list[tuple[dict[str, Any], str]]:
        chosen = [(rows[split][row], column) for split, row, column in places]
        return [({name: row[name] for name in row if name not in others}, column) for row, column in chosen]

    prepare = PrepareItems(replace(run.collator, cache=None), modality)
    failure: Exception | None = None
    try:
        cache.fill(
            modality,
            items.items(),
            prepare,
            progress=run.accelerator.is_main_process,
            fetch=fetch,
            stored=stored,
        )
    except ValueError as error:
        failure = error
    bad = cache.bad.get(modality, {})
    failures, all_bad = zip(*gather_object([(failure, bad)]))
    for error in failures:
        if error is not None and not isinstance(error, (CacheTooLargeError, StoreError)):
            raise error
    if reason := next((error for error in failures if error is not None), None):
        cache.drop(modality)
        what = "kept in memory" if stored is not None else "not kept"
        run.say(f"{modality} features are {what}: {reason}")
        return False
    if stored is not None and stored.world_size > 1:  # what the others encoded
        for others in all_bad:
            bad.update(others)
        stored.features.refresh()
        stored.features.check(stored.digests.values())
        lacking = [key for key in items if key not in bad and stored.lacks([key])]
        if any(gather_object([len(lacking)])):
            stored.rank, stored.world_size = 0, 1
            return fill(run, cache, modality, items, stored)
    return True
