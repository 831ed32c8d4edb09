"""From rows to a batch: every distinct picture decoded once, every distinct text tokenized once."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..models.processing_mm_fusion import MMFusionProcessor
from ..models.retrieval_mm_fusion import ITEMS
from ..models.series import as_steps
from ..models.tasks import TEXTS, label_kind_of
from .augmentation import ImageAugmentation, change_speed, drop_tokens, mask_token_of
from .bad_rows import check_on_error
from .decoding import decode_image, decode_sound, decode_video, file_name_of
from .feature_cache import FeatureCache
from .item_keys import file_key, id_of, series_key, table_key, table_values, text_key, video_key
from .labels import label_tensor, weight_of
from .plain_rows import knows_its_place, read_plain
from .rows import EPOCH, POSITION, BadRowError, Columns
from .targets import texts_of_tokens, texts_to_write


TABLE = "table"  # stands for all columns of the table, which make one item


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
        columns: which column plays which part.
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
        max_target_length: tokens that a text to be written is cut to, its end included; None: not at all.
        target_end: a token ends each text that is to be written; CTC (`MMFusionForCTC`) needs none.
        pair_ids: give the ids of texts and of pictures or sounds, by which equal ones are known on whatever process:
            for models that compare pairs.
        num_frames: frames of a video, see `load_frames`; they are the images of its row.
        table_names: of columns of the table that are a `ClassLabel` the names of their classes.
        seed: of all three. What is drawn depends on the seed, the epoch and the first row of the item in the batch and
            on nothing else, so that neither a resumed run nor the number of workers changes it.

    Returns of a call:
        a dict with `vision_index`, `text_index` `(B,)` (`(B, K)` where there are K > 1 columns of pictures, which
        share one pool of items), the processor's tensors for the distinct items (or `encoder_states`), `labels`,
        `sample_weight` `(B,)` where a column holds weights, `row_ids` `(B,)` where rows know them; for rows of a
        stream `stream_position`, epoch and number of rows read in it by the end of this batch; where rows are bad
        `bad_rows`, their entries (see `BadRowError`). Where `columns.label` is a list, `labels` and `sample_weight`
        are dicts by column. With `pair_ids`, `text_ids` and `vision_ids` or `audio_ids` `(B,)` int64, -1 for none.

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
    max_target_length: int | None = 64
    target_end: bool = True
    pair_ids: bool = False
    num_frames: int = 8
    table_names: Mapping[str, list[str]] = field(default_factory=dict)
    seed: int = 0
    parts: dict[str, list[str]] = field(init=False)  # the columns of each modality
    epoch: int = field(init=False, default=0)

    def __post_init__(self):
        check_on_error(self.on_error)
        text = self.columns.text
        audio = self.columns.audio
        frames = [] if self.columns.video is None else [f"{self.columns.video}#{k}" for k in range(self.num_frames)]
        # The last video by its key: its frames are asked for one after another.
        self._video: tuple[str | None, list[Image.Image]] | None = None
        self.parts = {
            "vision": self.columns.images or frames,
            "text": [] if text is None else [text],
            "audio": [] if audio is None else [audio],
            "tabular": [TABLE] if self.columns.table else [],
            "series": [] if self.columns.series is None else [self.columns.series],
        }
        if not 0 <= self.token_dropout < 1:
            raise ValueError(f"token_dropout must be in [0, 1), got {self.token_dropout}.")
        if not 0 <= self.speed_perturbation < 1:
            raise ValueError(f"speed_perturbation must be in [0, 1), got {self.speed_perturbation}.")
        asked = {
            "vision": ("augment", self.augment),
            "text": ("token_dropout", self.token_dropout or None),
            "audio": ("speed_perturbation", self.speed_perturbation or None),
        }
        for modality, (name, value) in asked.items():
            if value is None:
                continue
            if not self.parts[modality]:
                raise ValueError(f"{name} is {value}, but no column holds {modality}.")
            if self._cache_of(modality) is not None:
                raise ValueError(
                    f"{name} is {value}, but the {modality} features are cached, encoded once and for all: give up "
                    f"one of {name} and the feature cache."
                )
        there = {modality: len(columns) for modality, columns in self.parts.items() if columns}
        if self.pair_ids and there not in ({"text": 1, item: 1} for item in ITEMS):
            raise ValueError(f"pair_ids needs a column of texts and one of {list(ITEMS)}, got {self.parts}.")
        if self.token_dropout and mask_token_of(self.processor.tokenizer) is None:
            raise ValueError("token_dropout needs a tokenizer with a mask token or an unknown token.")

    def set_epoch(self, epoch: int):
        """Tells the epoch to what is drawn at random. Call it before the loader starts its workers; rows of a stream
        bring their own `epoch`."""
        self.epoch = epoch

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        if not rows:
            raise ValueError("A batch needs at least one row.")
        plain, labelled = not all(knows_its_place(row, self.columns.files) for row in rows), True
        if plain:
            draws = self.augment is not None or self.token_dropout > 0 or self.speed_perturbation > 0
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
            if items and (cache := self._cache_of(modality)) is not None:
                states[modality] = cache.states(modality, list(items))
                states[modality].index = index
                continue
            indices[f"{modality}_index"] = index
            if items:
                data.update(self._process(modality, [item for item, _, _ in items.values()]))
            if items and modality == "text" and self.token_dropout:
                generators = [self._generator(row, "text", column) for _, row, column in items.values()]
                tokenizer = self.processor.tokenizer
                data["input_ids"] = drop_tokens(data["input_ids"], tokenizer, self.token_dropout, generators)
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
            row: as `Rows` gives it.
            modality: its name.
            column: one of the modality's; None: the first.

        Raises:
            BadRowError: an empty text, or what is no text, no picture, or no number in a table's column of them.
        """
        if modality == "tabular":
            return table_key(row, self.table_row(row), self.processor.table_schema)
        column = self.parts[modality][0] if column is None else column
        if modality == "series":
            return series_key(row, column, self.processor.series_scaler)
        if modality == "text":
            return text_key(row, column)
        if modality == "audio":
            return file_key(row, column, "sound")
        if self.columns.video is not None:
            video = video_key(row, self.columns.video)
            return None if video is None else f"{video}{column.removeprefix(self.columns.video)}"
        return file_key(row, column, "picture", self.columns.image_id if len(self.columns.images) == 1 else None)

    def table_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The columns of the table that have a value, classes by their names."""
        return table_values(row, self.columns.table, self.processor.table_schema, self.table_names)

    def frames_of(self, row: dict[str, Any]) -> list[Image.Image]:
        """The frames that stand for the video of a row; see `decode_video`.

        Raises:
            ValueError: no column holds videos.
            BadRowError: a video that cannot be read.
        """
        column = self.columns.video
        if column is None:
            raise ValueError(
                f"There are no frames without a column of videos; the columns are {self.columns.named()}."
            )
        key = video_key(row, column)
        if self._video is None or self._video[0] != key:
            ground = self.processor.image_background
            self._video = key, decode_video(row, column, self.root, self.num_frames, ground)
        return self._video[1]

    def item_keys(self, row: dict[str, Any], modality: str, bad: list[BadRowError] | None = None) -> list[str | None]:
        """The key of each column of a modality, see `item_key`; None also where the row is bad and bad rows are
        skipped: those are put into `bad`.

        Raises:
            BadRowError: a bad row where these are not skipped.
        """
        keys = []
        for column in self.parts[modality]:
            try:
                keys.append(self.item_key(row, modality, column))
            except BadRowError as error:
                self._note(error, bad)
                keys.append(None)
        return keys

    def prepare_items(
        self, modality: str, rows: list[dict[str, Any]], columns: list[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """Runs the processor on the items of these rows, which are distinct, without any augmentation.

        Args:
            modality: its name.
            rows: as `Rows` gives them.
            columns: which column of each row holds the item; None: the modality's first.

        Raises:
            BadRowError: a picture that cannot be read.
        """
        columns = [self.parts[modality][0]] * len(rows) if columns is None else columns
        return self._process(modality, [self._load(row, modality, column) for row, column in zip(rows, columns)])

    def targets(self, rows: list[dict[str, Any]], bad: list[BadRowError] | None = None) -> torch.Tensor:
        """The tokens of the texts that are to be written, see `MMFusionProcessor.target_ids`.

        Args:
            rows: as `Rows` gives them.
            bad: where bad ones are put; None: they raise.

        Raises:
            BadRowError: an empty text, or what is no text.
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
        found: dict[str, Any] = {"labels": labels, "sample_weight": weights}
        return {name: values if several else values[columns.label] for name, values in found.items() if values}

    def _weight(self, row: dict[str, Any], label: str, column: str, bad: list[BadRowError]) -> float:
        """How much a row counts, see `weight_of`; a bad one does not."""
        try:
            return weight_of(row, label, column)
        except BadRowError as error:
            self._note(error, bad)
            return 0.0

    def _cache_of(self, modality: str) -> FeatureCache | None:
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
            the index `(B,)` or `(B, K)`; by key the item (None if its features are cached) with the first row and
            column that hold it; and the key of each row, None where it has no item.
        """
        columns = self.parts[modality]
        places = [(row, column) for row in rows for column in columns]
        without = self.absent.get(modality, ())
        keys: list[str | None] = []
        for row in rows:
            left_out = without is None or row["row_id"] in without
            keys += [None] * len(columns) if left_out else self.item_keys(row, modality, bad)
        cache = self._cache_of(modality)
        reasons = {} if cache is None else dict(cache.bad.get(modality, {}))
        items: dict[str, tuple] = {}
        for key, (row, column) in zip(keys, places):
            if key is None or key in items:
                continue
            if key not in reasons:
                try:
                    item = None if cache is not None else self._load(row, modality, column)
                    if item is not None and modality == "vision" and self.augment is not None:
                        item = self.augment(item, self._generator(row, modality, column))
                    if item is not None and modality == "audio" and self.speed_perturbation:
                        item = change_speed(item, self.speed_perturbation, self._generator(row, modality, column))
                    items[key] = item, row, column
                    continue
                except BadRowError as error:
                    reasons[key] = error.entry["reason"]
            video = self.columns.video if modality == "vision" else None
            if video is not None:
                if not column.endswith("#0"):  # it is told once for all frames of a video
                    continue
                column = video
            self._note(BadRowError(row, column, reasons[key], file_name_of(row.get(column))), bad)
        order = {key: number for number, key in enumerate(items)}
        index = torch.tensor([-1 if key is None else order.get(key, -1) for key in keys])
        usable = [key if key in order else None for key in keys]
        return (index.reshape(len(rows), -1) if len(columns) > 1 else index), items, usable

    def _load(self, row: dict[str, Any], modality: str, column: str) -> Any:
        """What the processor takes: the decoded picture or sound, the text, or the columns of the table."""
        if modality == "vision" and self.columns.video is not None:
            return self.frames_of(row)[self.parts["vision"].index(column)]
        if modality == "vision":
            return decode_image(row, column, self.root, self.processor.image_background)
        if modality == "audio":
            return decode_sound(row, column, self.root, self.processor.feature_extractor.sampling_rate)
        if modality == "series":
            return as_steps(row[column])
        return self.table_row(row) if modality == "tabular" else row[column]

    def _process(self, modality: str, items: list) -> dict[str, torch.Tensor]:
        if modality == "vision":
            return dict(self.processor(images=items))
        if modality == "audio":
            return dict(self.processor(audio=items, sampling_rate=self.processor.feature_extractor.sampling_rate))
        if modality == "tabular":
            return dict(self.processor(table=items))
        return dict(self.processor(series=items) if modality == "series" else self.processor(text=items))

    def _generator(self, row: dict[str, Any], modality: str, column: str) -> np.random.Generator:
        """All that is random about an item comes from here, and none of it from the global generators."""
        place = (list(self.parts).index(modality), self.parts[modality].index(column))
        return np.random.default_rng([self.seed, row.get(EPOCH, self.epoch), row["row_id"], *place])
