"""The cached features of frozen encoders: each item is encoded once. They are kept on disk for all runs, or in memory
for the present run."""

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


MEMO = "files.sqlite"  # in the folder of the cache, see `FileDigests`
AT_ONCE = 4  # pictures that a CPU encodes together: per picture, MobileNetV2 takes half the time that it takes with 64
LAST_CALL = ("tokenizer.padding", "tokenizer.truncation")  # settings of a tokenizer that come from its last call


@dataclass
class PrepareItems:
    """Turns items of rows into the model's inputs, in this or in another process.

    Args:
        collator: has the processor, and no cache.
        modality: the modality of the items.
    """

    collator: MultimodalCollator
    modality: str

    def __call__(self, items: list[tuple[dict[str, Any], str]]) -> dict[str, torch.Tensor]:
        """The inputs for items; each item is given by its row and its column."""
        rows, columns = [row for row, _ in items], [column for _, column in items]
        return self.collator.prepare_items(self.modality, rows, columns)


def build_cache(
    run: Evaluator, modalities: list[str], data_args: DatasetArguments | None = None, new: bool = False
) -> FeatureCache | None:
    """Encodes every distinct item of some modalities once. Items with features on disk are not encoded.

    Args:
        run: its model encodes the items of all its parts.
        modalities: modalities with frozen encoders.
        data_args: where and how features are kept; None: in memory, in the encoder's dtype.
        new: keep features on disk if `data_args` does not say, and encode a few items at once. It is false for runs of
            older versions, so that these continue with the same bits.

    Returns:
        the features; None if the features of no modality fit.
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
    """Finds each distinct item of a modality.

    Returns:
        by key the part, row and column of each item (the items themselves would fill the memory); and by key the
        contents of each item, see `ModalityReader.contents`. The latter is None if the features may only be kept in
        memory.
    """
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
    """Opens the features on disk for the items of a modality. If the disk cannot be used, prints why and returns None.

    Args:
        run: has the items.
        store: holds the features.
        cache: holds the model.
        modality: the modality of the items.
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
    """The settings of a processor for the items of a modality, by the keys of its files."""
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
    """Encodes the items of a modality that have no features yet.

    Args:
        run, cache, modality: the run, its cache, and the modality of the items.
        items: see `places_of_items`.
        stored: the place on disk; None: features are kept in memory.

    Returns:
        whether all processes have all features. If one process lacks some, all processes drop theirs: free memory and
        disks may differ between processes.

    Raises:
        BadRowError: an item cannot be read, and bad rows are not skipped. It is raised on all processes.
        ValueError: `cache_dtype` cannot hold the features. It is raised on all processes.
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
    if stored is not None and stored.world_size > 1:  # take over what the other processes encoded
        for others in all_bad:
            bad.update(others)
        stored.features.refresh()
        stored.features.check(stored.digests.values())
        lacking = [key for key in items if key not in bad and stored.lacks([key])]
        if any(gather_object([len(lacking)])):
            stored.rank, stored.world_size = 0, 1
            return fill(run, cache, modality, items, stored)
    return True
