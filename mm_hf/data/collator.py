"""Makes a batch from rows. It decodes every distinct picture once and tokenizes every distinct text once."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch

from ..models.modality import modality_of
from ..models.processing_mm_fusion import MMFusionProcessor
from ..models.retrieval_mm_fusion import ITEMS
from ..models.tasks import TEXTS, label_kind_of
from ..models.text import Text
from .augmentation import ImageAugmentation
from .bad_rows import check_on_error
from .feature_cache import FeatureCache
from .item_files import file_name_of
from .labels import label_tensor, weight_of
from .modalities import READERS, reader_of
from .plain_rows import knows_its_place, read_plain
from .rows import EPOCH, POSITION, BadRowError, Columns
from .targets import texts_of_tokens, texts_to_write


@dataclass
class MultimodalCollator:
    """Makes a batch of model inputs from rows. The rows come from `Rows`, or from a plain data set, for the Trainer of
    transformers with `remove_unused_columns=False`.

    Rows of a plain data set (of `datasets`, or dicts) may also hold decoded pictures and sounds: PIL images, arrays,
    dicts of `array` and `sampling_rate`. Such rows do not know their number. A bad row is therefore named by its place
    in the batch, and its random numbers come from torch's generator. The Trainer of transformers has one collator for
    training and evaluation, so augmentation also changes the rows of the evaluation.

    Args:
        processor: prepares each distinct item.
        columns: says what each column is used for. The `ModalityReader` of each modality knows how to read its items.
        label2id, problem_type: see `label_tensor`; dicts by column where `columns.label` is a list. With the problem
            type of a model that writes, the labels are texts to write, see `classes_to_write`.
        absent: modalities to leave out, by name: in the rows with these ids, or (None) in every row. For baselines
            that see only the other modalities, and to measure the effect of a missing modality.
        cache: features of frozen encoders. Items in the cache go into the batch as `encoder_states`.
        on_error: `"raise"` stops at a bad row. `"skip"` keeps the row in the batch, so that shapes and processes stay
            in step, but treats its bad part as absent and masks its label.
        root: see `resolve_path`.
        augment: changes pictures at random. Only for training.
        token_dropout: the share of the tokens of a text that become the mask token (the unknown token if the
            tokenizer has no mask token). Special tokens are kept. Only for training.
        speed_perturbation: how much faster or slower sounds are played, see `change_speed`. Only for training.
        extra_augment: for modalities from outside the package, by name, how the reader changes items at random. Only
            for training.
        max_target_length: the largest number of tokens of a text to write, including its end; None: no limit.
        target_end: put an end token after each text to write. CTC (`MMFusionForCTC`) needs none.
        pair_ids: add the ids of texts and of pictures or sounds. Equal items have equal ids in every process. For
            models that compare pairs.
        num_frames: frames of a video, see `load_frames`. They become images of the video's row.
        table_names: for table columns that are a `ClassLabel`, the names of their classes.
        seed: the seed of all random numbers. They depend only on the seed, the epoch and the first row of the item in
            the batch. So neither resuming a run nor the number of workers changes them.

    Returns of a call:
        a dict with

        - `<modality>_index` of each modality, `(B,)`, or `(B, K)` where a row has K > 1 places for the modality. The
          places share one pool of items.
        - the processor's tensors for the distinct items, or `encoder_states`.
        - `labels`, and `sample_weight` `(B,)` where a column holds weights. Both are dicts by column where
          `columns.label` is a list.
        - `row_ids` `(B,)`, where rows know their ids.
        - `stream_position`, for rows of a stream: the epoch, and the number of rows read in it up to the
          end of this batch.
        - `bad_rows`, where rows are bad: their entries (see `BadRowError`).
        - `<modality>_ids` `(B,)` int64 of both modalities, with `pair_ids`; -1 for no item.

    Raises:
        ValueError: settings that do not fit together: an augmentation of a modality that was encoded before or that
            the data lack, or token dropout with a tokenizer that has neither a mask token nor an unknown token.
    """

    processor: MMFusionProcessor
    columns: Columns
    label2id: dict[str, Any] | None = None
    problem_type: str | dict[str, str] | None = None
    absent: Mapping[str, Collection[int] | None] = field(default_factory=dict)
    cache: FeatureCache | None = None
    on_error: str = "raise"
    root: str | None = None
    augment: ImageAugmentation | None = None
    token_dropout: float = 0.0
    speed_perturbation: float = 0.0
    extra_augment: Mapping[str, Any] | None = None
    max_target_length: int | None = 64
    target_end: bool = True
    pair_ids: bool = False
    num_frames: int = 8
    table_names: Mapping[str, list[str]] = field(default_factory=dict)
    seed: int = 0
    parts: dict[str, list[str]] = field(init=False)  # the columns of each modality, one for each place in a row
    epoch: int = field(init=False, default=0)

    def __post_init__(self):
        check_on_error(self.on_error)
        # For each modality, the item that was decoded last, with its key. One item may fill several places.
        self.last_decoded: dict[str, tuple[str | None, Any]] = {}
        # Modalities from outside come after those of the library, in the order in which the data name them. The random
        # numbers of an item depend on this order. They must not depend on what else was imported.
        library = [name for name in READERS if not modality_of(name).extra]
        names = dict.fromkeys([*library, *self.columns.extra, *READERS])
        self.parts = {name: reader_of(name).columns(self.columns, self) for name in names}
        for modality in self.parts:
            reader_of(modality).check(self)
        places = {modality: len(columns) for modality, columns in self.parts.items() if columns}
        if self.pair_ids and places not in ({Text.name: 1, item: 1} for item in ITEMS):
            raise ValueError(f"pair_ids needs one column of texts and one of {list(ITEMS)}, got {self.parts}.")

    def set_epoch(self, epoch: int):
        """Sets the epoch, on which the random numbers depend. Call it before the loader starts its workers. Rows of a
        stream bring their own `epoch`."""
        self.epoch = epoch

    def unchanging(self) -> "MultimodalCollator":
        """The same collator without random changes of items: for rows that are measured."""
        keys = {"extra_augment", *(reader.augmentation for reader in READERS.values())}
        usual: dict[str, Any] = {setting.name: setting.default for setting in fields(self) if setting.name in keys}
        return replace(self, **usual)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        if not rows:
            raise ValueError("A batch needs at least one row.")
        plain, labelled = not all(knows_its_place(row, self.columns.files) for row in rows), True
        if plain:
            draws = any(reader_of(modality).changes(self) for modality in self.parts)
            rows, labelled = read_plain(rows, self.columns, draws)
        bad: list[BadRowError] = []
        indices: dict[str, torch.Tensor] = {}
        data: dict[str, torch.Tensor] = {}
        states: dict[str, Any] = {}
        for modality, columns in self.parts.items():
            if not columns:
                continue
            index, items, keys = self._distinct(rows, modality, bad)
            if self.pair_ids:
                indices[f"{modality}_ids"] = torch.tensor([-1 if key is None else id_of(key) for key in keys])
            if items and (cache := self.cache_of(modality)) is not None:
                states[modality] = cache.states(modality, list(items))
                states[modality].index = index
                continue
            indices[f"{modality}_index"] = index
            if items:
                generators = [generator for _, generator in items.values() if generator is not None]
                data.update(reader_of(modality).prepare([item for item, _ in items.values()], generators, self))
        labels = self._labels(rows, bad) if labelled and self.columns.label is not None else {}
        batch: dict[str, Any] = {**indices, **data, **labels}
        if not plain:
            batch["row_ids"] = torch.tensor([row["row_id"] for row in rows])
        if EPOCH in rows[-1] and POSITION in rows[-1]:
            batch["stream_position"] = (rows[-1][EPOCH], rows[-1][POSITION] + 1)
        if bad:
            batch["bad_rows"] = [error.entry for error in bad]
        return {**batch, "encoder_states": states} if states else batch

    def item_key(self, row: dict[str, Any], modality: str, column: str | None = None) -> str | None:
        """The key that identifies an item of a modality; None where the row has no item.

        Args:
            row: as `Rows` gives it.
            modality: its name.
            column: one of the modality's columns; None: the first.

        Raises:
            BadRowError: an empty text; a value that is not a text or a picture; or, in a table's column of numbers, a
                value that is not a number.
        """
        return reader_of(modality).key(row, self.parts[modality][0] if column is None else column, self)

    def item_keys(self, row: dict[str, Any], modality: str, bad: list[BadRowError] | None = None) -> list[str | None]:
        """The key of each column of a modality, see `item_key`. Where bad rows are skipped, a bad value gives None,
        and its error is added to `bad`.

        Raises:
            BadRowError: a bad row, where bad rows are not skipped.
        """
        reader, keys = reader_of(modality), []
        for column in self.parts[modality]:
            try:
                keys.append(reader.key(row, column, self))
            except BadRowError as error:
                self._note(error, bad)
                keys.append(None)
        return keys

    def prepare_items(
        self, modality: str, rows: list[dict[str, Any]], columns: list[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """Runs the processor on the items of these rows without any augmentation. The items must be distinct.

        Args:
            rows: as `Rows` gives them.
            columns: the column that holds the item, for each row; None: the modality's first column.
        """
        columns = [self.parts[modality][0]] * len(rows) if columns is None else columns
        reader = reader_of(modality)
        return reader.prepare([reader.load(row, column, self) for row, column in zip(rows, columns)], [], self)

    def targets(self, rows: list[dict[str, Any]], bad: list[BadRowError] | None = None) -> torch.Tensor:
        """The tokens of the texts to write, see `MMFusionProcessor.target_ids`.

        Args:
            rows: as `Rows` gives them.
            bad: collects bad labels; None: a bad label raises.
        """
        (column,) = self.columns.labels
        names = None if self.label2id is None else [*self.label2id, None]  # index -1 means a missing class
        texts = texts_to_write(rows, column, names, bad)
        return self.processor.target_ids(texts, self.max_target_length, self.target_end)

    def texts_of(self, tokens: torch.Tensor) -> list[str | None]:
        """Decodes tokens into texts with the tokenizer. None for a row without tokens.

        Args:
            tokens: `(N, S)` int64: labels (-100 for none), or the output of a model without its start token.
        """
        return texts_of_tokens(tokens, self.processor.tokenizer, self.target_end)

    def _labels(self, rows: list[dict[str, Any]], bad: list[BadRowError]) -> dict[str, Any]:
        """`labels` and `sample_weight` of a batch; the labels of bad rows are masked."""
        columns, noted = self.columns, bad if self.on_error == "skip" else None
        several = isinstance(columns.label, list)
        labels, weights = {}, {}
        for column in columns.labels:
            of_column = (
                (self.label2id or {}).get(column) if several else self.label2id,
                self.problem_type.get(column) if isinstance(self.problem_type, dict) else self.problem_type,
            )
            if label_kind_of(of_column[1]) == TEXTS:
                labels[column] = self.targets(rows, noted)
            else:
                labels[column] = label_tensor(rows, column, *of_column, noted)
        for column, weight in columns.weights.items():
            weights[column] = torch.tensor([self._weight(row, column, weight, bad) for row in rows])
        faulty = {(error.entry["split"], error.entry["row"]) for error in bad}
        masked = torch.tensor([(row["split"], row["row_id"]) in faulty for row in rows])
        for values in labels.values():
            values[masked] = float("nan") if values.is_floating_point() else -100
        inputs: dict[str, Any] = {"labels": labels, "sample_weight": weights}
        return {name: values if several else values[columns.label] for name, values in inputs.items() if values}

    def _weight(self, row: dict[str, Any], label: str, column: str, bad: list[BadRowError]) -> float:
        """How much a row counts, see `weight_of`. A bad row counts 0."""
        try:
            return weight_of(row, label, column)
        except BadRowError as error:
            self._note(error, bad)
            return 0.0

    def cache_of(self, modality: str) -> FeatureCache | None:
        """The cache, if it holds the features of a modality; else None."""
        return self.cache if self.cache is not None and modality in self.cache.modalities else None

    def _note(self, error: BadRowError, bad: list[BadRowError] | None):
        """Raises the error, or adds it to `bad`."""
        if self.on_error == "raise":
            raise error
        if bad is not None:
            bad.append(error)

    def _distinct(
        self, rows: list[dict[str, Any]], modality: str, bad: list[BadRowError]
    ) -> tuple[torch.Tensor, dict[str, tuple], list[str | None]]:
        """Finds the distinct items of a batch and loads each of them once. A bad item is noted for every row that has
        it.

        Returns:
            the index `(B,)` or `(B, K)`; by key the item (None if its features are cached) and the generator of its
            random numbers (None where nothing is random), which belongs to the first row and column that hold the
            item; and the key of each row, None where it has no item.
        """
        columns, reader = self.parts[modality], reader_of(modality)
        places = [(row, column) for row in rows for column in columns]
        without = self.absent.get(modality, ())
        keys: list[str | None] = []
        for row in rows:
            left_out = without is None or row["row_id"] in without
            keys += [None] * len(columns) if left_out else self.item_keys(row, modality, bad)
        cache, changes = self.cache_of(modality), reader.changes(self)
        reasons = {} if cache is None else dict(cache.bad.get(modality, {}))
        items: dict[str, tuple] = {}
        for key, (row, column) in zip(keys, places):
            if key is None or key in items:
                continue
            if key not in reasons:
                try:
                    item = None if cache is not None else reader.load(row, column, self)
                    generator = self._generator(row, modality, column) if changes else None
                    items[key] = (item if generator is None else reader.augment(item, generator, self)), generator
                    continue
                except BadRowError as error:
                    reasons[key] = error.entry["reason"]
            blamed = reader.blamed(column, self.columns)
            if blamed is not None:
                self._note(BadRowError(row, blamed, reasons[key], file_name_of(row.get(blamed))), bad)
        order = {key: number for number, key in enumerate(items)}
        index = torch.tensor([-1 if key is None else order.get(key, -1) for key in keys])
        usable = [key if key in order else None for key in keys]
        return (index.reshape(len(rows), -1) if len(columns) > 1 else index), items, usable

    def _generator(self, row: dict[str, Any], modality: str, column: str) -> np.random.Generator:
        """The source of all random numbers of an item. The global generators are not used."""
        place = (list(self.parts).index(modality), self.parts[modality].index(column))
        return np.random.default_rng([self.seed, row.get(EPOCH, self.epoch), row["row_id"], *place])


def id_of(key: str) -> int:
    """A number for a key: the first 63 bits of its hash. It is the same in every process."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
