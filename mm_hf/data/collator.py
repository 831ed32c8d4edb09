"""From rows to a batch: every distinct picture decoded once, every distinct text tokenized once."""

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
    """Makes a batch of the model's inputs from rows as `Rows` gives them, or as a plain data set does, for the
    library's own Trainer with `remove_unused_columns=False`.

    Rows of a plain data set (of `datasets`, or dicts) may hold decoded pictures and sounds too: PIL images, arrays,
    dicts of `array` and `sampling_rate`. They do not know their number: a bad one is named by its place in the batch,
    and what is drawn at random for it comes from torch's generator. The library's Trainer has one collator for
    training and evaluation: what augments changes the rows of both.

    Args:
        processor: prepares each distinct item.
        columns: which column plays which part; how their items are read, the `ModalityReader` of each modality knows.
        label2id, problem_type: see `label_tensor`; where `columns.label` is a list, dicts by column. With
            that of a model that writes the labels are texts that are to be written, see `classes_to_write`.
        absent: modalities to leave out, by name: of the rows with these ids, or (None) of every row. For baselines
            that see the others alone, and to measure what a missing one costs.
        cache: features of frozen encoders; items it holds go in as `encoder_states`.
        on_error: `"raise"` stops at a bad row; `"skip"` keeps its place in the batch, so that shapes and processes
            stay in step, but takes its bad part for absent and masks its label.
        root: see `resolve_path`.
        augment: changes pictures at random: for training alone.
        token_dropout: share of the tokens of a text, special ones aside, that become the mask token (or the unknown
            one, where the tokenizer has no mask): for training alone.
        speed_perturbation: how much faster or slower sounds are played, see `change_speed`: for training alone.
        extra_augment: by modality from outside how its reader changes items at random: for training alone.
        max_target_length: tokens that a text to be written is cut to, its end included; None: not at all.
        target_end: a token ends each text that is to be written; CTC (`MMFusionForCTC`) needs none.
        pair_ids: give the ids of texts and of pictures or sounds, by which equal ones are known on whatever process:
            for models that compare pairs.
        num_frames: frames of a video, see `load_frames`; they are images of its row.
        table_names: of columns of the table that are a `ClassLabel` the names of their classes.
        seed: of all that is drawn at random. That depends on the seed, the epoch and the first row of the item in the
            batch and on nothing else, so that neither a resumed run nor the number of workers changes it.

    Returns of a call:
        a dict with `<modality>_index` `(B,)` of each modality (`(B, K)` where a row has K > 1 places for it, which
        share one pool of items), the processor's tensors for the distinct items (or `encoder_states`), `labels`,
        `sample_weight` `(B,)` where a column holds weights, `row_ids` `(B,)` where rows know them; for rows of a
        stream `stream_position`, epoch and number of rows read in it by the end of this batch; where rows are bad
        `bad_rows`, their entries (see `BadRowError`). Where `columns.label` is a list, `labels` and `sample_weight`
        are dicts by column. With `pair_ids`, `<modality>_ids` `(B,)` int64 of both, -1 for none.

    Raises:
        ValueError: settings that do not fit together: an augmentation of what was encoded before or is not there, or
            a tokenizer without a token to put in the place of dropped ones.
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
    parts: dict[str, list[str]] = field(init=False)  # the places of each modality in a row, by their columns
    epoch: int = field(init=False, default=0)

    def __post_init__(self):
        check_on_error(self.on_error)
        # Of each modality the item that was decoded last, with its key, where one of them fills several places.
        self.last_decoded: dict[str, tuple[str | None, Any]] = {}
        # Those from outside stand behind the library's, as the data names them: what is drawn at random depends on
        # the place, and not on what else was imported.
        library = [name for name in READERS if not modality_of(name).extra]
        names = dict.fromkeys([*library, *self.columns.extra, *READERS])
        self.parts = {name: reader_of(name).columns(self.columns, self) for name in names}
        for modality in self.parts:
            reader_of(modality).check(self)
        places = {modality: len(columns) for modality, columns in self.parts.items() if columns}
        if self.pair_ids and places not in ({Text.name: 1, item: 1} for item in ITEMS):
            raise ValueError(f"pair_ids needs a column of texts and one of {list(ITEMS)}, got {self.parts}.")

    def set_epoch(self, epoch: int):
        """Tells the epoch to what is drawn at random. Call it before the loader starts its workers; rows of a stream
        bring their own `epoch`."""
        self.epoch = epoch

    def unchanging(self) -> "MultimodalCollator":
        """The same without what changes items at random: for rows that are measured."""
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
        """What tells the items of a modality apart; None where the row has none.

        Args:
            column: one of the modality's; None: the first.

        Raises:
            BadRowError: an empty text, or what is no text, no picture, or no number in a table's column of them.
        """
        return reader_of(modality).key(row, self.parts[modality][0] if column is None else column, self)

    def item_keys(self, row: dict[str, Any], modality: str, bad: list[BadRowError] | None = None) -> list[str | None]:
        """The key of each column of a modality, see `item_key`; None also where the row is bad and bad rows are
        skipped: those are put into `bad`.

        Raises:
            BadRowError: a bad row where these are not skipped.
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
        """Runs the processor on the items of these rows, which are distinct, without any augmentation.

        Args:
            rows: as `Rows` gives them.
            columns: which column of each row holds the item; None: the modality's first.
        """
        columns = [self.parts[modality][0]] * len(rows) if columns is None else columns
        reader = reader_of(modality)
        return reader.prepare([reader.load(row, column, self) for row, column in zip(rows, columns)], [], self)

    def targets(self, rows: list[dict[str, Any]], bad: list[BadRowError] | None = None) -> torch.Tensor:
        """The tokens of the texts that are to be written, see `MMFusionProcessor.target_ids`.

        Args:
            rows: as `Rows` gives them.
            bad: where bad ones are put; None: they raise.
        """
        (column,) = self.columns.labels
        names = None if self.label2id is None else [*self.label2id, None]  # -1 is a missing class
        texts = texts_to_write(rows, column, names, bad)
        return self.processor.target_ids(texts, self.max_target_length, self.target_end)

    def texts_of(self, tokens: torch.Tensor) -> list[str | None]:
        """The texts that tokens stand for, as the tokenizer spells them; None where there are none at all.

        Args:
            tokens: `(N, S)` int64, labels (-100 for none) or what a model wrote, without its start.
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
        """How much a row counts, see `weight_of`; a bad one does not."""
        try:
            return weight_of(row, label, column)
        except BadRowError as error:
            self._note(error, bad)
            return 0.0

    def cache_of(self, modality: str) -> FeatureCache | None:
        """The cache, where it holds the features of a modality."""
        return self.cache if self.cache is not None and modality in self.cache.modalities else None

    def _note(self, error: BadRowError, bad: list[BadRowError] | None):
        """Raises, or takes the bad row down."""
        if self.on_error == "raise":
            raise error
        if bad is not None:
            bad.append(error)

    def _distinct(
        self, rows: list[dict[str, Any]], modality: str, bad: list[BadRowError]
    ) -> tuple[torch.Tensor, dict[str, tuple], list[str | None]]:
        """Finds and loads the distinct items of a batch, each once, and notes the bad ones for every row that has
        them.

        Returns:
            the index `(B,)` or `(B, K)`; by key the item (None if its features are cached) with the generator of what
            is random about it, that of the first row and column that hold it (None where nothing is); and the key of
            each row, None where it has no item.
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
        """All that is random about an item comes from here, and none of it from the global generators."""
        place = (list(self.parts).index(modality), self.parts[modality].index(column))
        return np.random.default_rng([self.seed, row.get(EPOCH, self.epoch), row["row_id"], *place])


def id_of(key: str) -> int:
    """A number for a key, the same in every process: the first 63 bits of its hash."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
