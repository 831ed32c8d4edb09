"""From rows to a batch: every distinct picture decoded once, every distinct text tokenized once."""

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from ..models.finite import LARGEST_IN_LOSS, read_number
from ..models.generation_mm_fusion import GENERATION
from ..models.inputs import fault_of_text, fault_of_unicode
from ..models.names import did_you_mean
from ..models.processing_mm_fusion import MMFusionProcessor
from ..models.retrieval_mm_fusion import ITEMS
from ..models.series import as_steps, has_no_steps
from ..models.sound import load_sound
from ..models.table_schema import TableError, is_missing
from ..models.text import decode_as_written, ends_of_text
from ..models.video import load_frames
from .augmentation import ImageAugmentation, change_speed
from .bad_rows import check_on_error
from .decoding import decode_image, decode_sound, decode_video, picture_file, video_key
from .feature_cache import FeatureCache
from .labels import label_tensor
from .loading import BadRowError, Columns, is_absent


logger = logging.get_logger(__name__)

TABLE = "table"  # stands for all columns of the table, which make one item
BATCH = "this batch"  # the split of rows that do not know where they come from
ORIENTATION = 0x0112  # the key in EXIF data


def id_of(key: str) -> int:
    """A number for what tells an item apart, the same in every process: the first 63 bits of its hash."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


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
            `GENERATION` the labels are texts that are to be written, see `classes_to_write`.
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
        self._video: tuple[str | None, list[Image.Image]] | None = (
            None  # the last one, whose frames come one after another
        )
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
            if self._is_cached(modality):
                raise ValueError(
                    f"{name} is {value}, but the {modality} features are cached, encoded once and for all: give up "
                    f"one of {name} and the feature cache."
                )
        there = {modality: len(columns) for modality, columns in self.parts.items() if columns}
        if self.pair_ids and there not in ({"text": 1, item: 1} for item in ITEMS):
            raise ValueError(f"pair_ids needs a column of texts and one of {list(ITEMS)}, got {self.parts}.")
        if self.token_dropout and self._mask_token_id is None:
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
            rows, labelled = self._read_plain(rows)
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
            if items and self._is_cached(modality):
                states[modality] = self.cache.states(modality, list(items))
                states[modality].index = index
                continue
            indices[f"{modality}_index"] = index
            if items:
                data.update(self._process(modality, [item for item, _, _ in items.values()]))
            if items and modality == "text" and self.token_dropout:
                places = [(row, column) for _, row, column in items.values()]
                data["input_ids"] = self._drop_tokens(data["input_ids"], places)
        labels = self._labels(rows, bad) if labelled and self.columns.label is not None else {}
        batch: dict[str, Any] = {**indices, **data, **labels}
        if not plain:
            batch["row_ids"] = torch.tensor([row["row_id"] for row in rows])
        if "epoch" in rows[-1] and "position" in rows[-1]:
            batch["stream_position"] = (rows[-1]["epoch"], rows[-1]["position"] + 1)
        if bad:
            batch["bad_rows"] = [error.entry for error in bad]
        return {**batch, "encoder_states": states} if states else batch

    def _read_plain(self, rows: list[Any]) -> tuple[list[dict[str, Any]], bool]:
        """Rows of a plain data set as `Rows` gives them, and whether they have labels.

        Raises:
            ValueError: rows that are no dicts, or lack a column.
        """
        columns = self.columns
        needed = {column for part, column in columns.named() if part not in ("label", "weight", "kind")}
        of_labels = {*columns.labels, *columns.weights.values()}
        for place, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise ValueError(f"Row {place} of {BATCH} must be a dict of columns, got {row!r:.80}.")
            if missing := sorted(needed - set(row)):
                raise ValueError(
                    f"Row {place} of {BATCH} has no column {missing[0]!r}, which Columns names; it has {list(row)}."
                    f"{did_you_mean(missing[0], row)} The library's Trainer drops columns unless "
                    "remove_unused_columns=False."
                )
        there = {column for column in of_labels if all(column in row for row in rows)}
        if there and there != of_labels:
            raise ValueError(f"Rows have the columns {sorted(there)}, but not {sorted(of_labels - there)}, of labels.")
        if of_labels and not there:
            known = list(rows[0])
            logger.warning_once(
                f"The rows have no column of labels {sorted(of_labels)}, and are taken for rows without; they have "
                f"{known}.{did_you_mean(sorted(of_labels)[0], known)} This is said once."
            )
        draws = self.augment is not None or self.token_dropout or self.speed_perturbation
        drawn = {"epoch": int(torch.randint(2**31, ()))} if draws else {}
        files = set(columns.files)
        return [
            {
                **{name: as_file(row[name]) if name in files else as_plain(row[name]) for name in needed | there},
                **drawn,
                "row_id": place,
                "split": BATCH,
            }
            for place, row in enumerate(rows)
        ], bool(there)

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
            return self._table_key(row)
        column = self.parts[modality][0] if column is None else column
        if modality == "series":
            return self._series_key(row, row[column])
        if modality == "vision" and self.columns.video is not None:
            video = self._video_key(row)
            return None if video is None else f"{video}{column.removeprefix(self.columns.video)}"
        value = row[column]
        if is_absent(value):
            return None
        if modality == "text":
            if not isinstance(value, str) or not value.strip():
                raise BadRowError(row, column, f"the text is empty or no text ({value!r:.80}); None means absent.")
            if fault := fault_of_text(value):
                raise BadRowError(row, column, fault)
            return value
        file = picture_file(value)
        if is_decoded(value):
            try:
                return fingerprint(value)
            except Exception as error:  # Pillow raises a dozen types, and decodes here at the latest
                raise BadRowError(row, column, f"this cannot be read ({type(error).__name__}: {error}).") from None
        if not isinstance(value, dict) or (value.get("bytes") is None and file is None):
            what = {"vision": "picture", "audio": "sound"}[modality]
            raise BadRowError(row, column, f"this is no {what}, with neither bytes nor a path: {value!r:.80}.")
        if modality == "vision" and len(self.columns.images) == 1 and self.columns.image_id is not None:
            image_id = row[self.columns.image_id]
            if not is_absent(image_id):
                return f"{row['split']}:{image_id}"
        content = value["bytes"] if value.get("bytes") is not None else file.encode()
        return hashlib.sha256(content).hexdigest()

    def table_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The columns of the table that have a value, classes by their names."""
        schema = self.processor.table_schema
        found = {name: row[name] for name in self.columns.table if not schema.is_missing(row[name])}
        for name in set(found) & set(self.table_names):
            number = found.pop(name)
            if number != -1:  # what datasets writes for a missing class
                found[name] = self.table_names[name][number]
        return found

    def _table_key(self, row: dict[str, Any]) -> str | None:
        """See `item_key`."""
        values = self.table_row(row)
        try:
            self.processor.table_schema.check(values)
        except TableError as error:
            raise BadRowError(row, error.column, error.reason) from None
        return repr(sorted(values.items())) if values else None

    def _series_key(self, row: dict[str, Any], value: Any) -> str | None:
        """See `item_key`."""
        if has_no_steps(value):
            return None
        try:
            return hashlib.sha256(self.processor.series_scaler.check(value).tobytes()).hexdigest()
        except ValueError as error:
            raise BadRowError(row, self.columns.series, str(error)) from None

    def frames_of(self, row: dict[str, Any]) -> list[Image.Image]:
        """The frames that stand for the video of a row; see `decode_video`."""
        key = self._video_key(row)
        if self._video is None or self._video[0] != key:
            value = row[self.columns.video]
            if isinstance(value, list) and any(map(is_decoded, value)):
                frames = load_frames([self._picture({**row, "frame": one}, "frame") for one in value], self.num_frames)
            else:
                ground = self.processor.image_background
                frames = decode_video(row, self.columns.video, self.root, self.num_frames, ground)
            self._video = key, frames
        return self._video[1]

    def _video_key(self, row: dict[str, Any]) -> str | None:
        """What tells videos apart; see `video_key`."""
        value = row[self.columns.video]
        if isinstance(value, list) and any(map(is_decoded, value)):
            keys = [fingerprint(one) if is_decoded(one) else repr(one) for one in value]
            return hashlib.sha256("".join(keys).encode()).hexdigest()
        return video_key(row, self.columns.video)

    def _picture(self, row: dict[str, Any], column: str) -> Any:
        """A picture of a row, decoded."""
        return decode_image(row, column, self.root, self.processor.image_background)

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
        texts: list[str | None] = []
        for row in rows:
            value = None if is_absent(row[column]) else row[column]
            if names is not None and isinstance(value, int):
                value = names[value]
            fault = None
            if value is not None and not (isinstance(value, str) and value.strip()):
                fault = f"this is no text to write ({value!r:.80}); None means absent."
            elif value is not None:
                fault = fault_of_unicode(value)
            if fault is not None:
                error = BadRowError(row, column, fault)
                if bad is None:
                    raise error
                bad.append(error)
                value = None
            texts.append(value)
        return self.processor.target_ids(texts, self.max_target_length, self.target_end)

    def texts_of(self, tokens: torch.Tensor) -> list[str | None]:
        """The texts that tokens stand for, as the tokenizer spells them; None where there are none at all.

        Args:
            tokens: `(N, S)` int64, labels (-100 for none) or what a model wrote, without its start.
        """
        tokenizer = self.processor.tokenizer
        _, end, pad = ends_of_text(tokenizer) if self.target_end else (None, None, tokenizer.pad_token_id)
        found: list[str | None] = []
        for row in tokens.tolist():
            if row and all(token == -100 for token in row):
                found.append(None)
                continue
            row = row[: row.index(end)] if end in row else row
            written = [token for token in row if token not in (-100, pad)]
            found.append(decode_as_written(tokenizer, written).strip())
        return found

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
            if self.problem_type == GENERATION:
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
        """How much a row counts; 0 where it has neither label nor weight."""
        value = row[column]
        if is_absent(value) and is_absent(row[label]):
            return 0.0
        number = read_number(value) if isinstance(value, str) else value
        real = isinstance(number, (Real, Decimal, np.bool_))
        if not real or not 0 <= number <= LARGEST_IN_LOSS:
            reason = f"a weight is a number from 0 up, got {value!r:.80} (at most {LARGEST_IN_LOSS:g}, in float32)."
            self._note(BadRowError(row, column, reason), bad)
            return 0.0
        return float(number)

    def _is_cached(self, modality: str) -> bool:
        return self.cache is not None and modality in self.cache.modalities

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
        cached = self._is_cached(modality)
        reasons = dict(self.cache.bad.get(modality, {})) if cached else {}
        items: dict[str, tuple] = {}
        for key, (row, column) in zip(keys, places):
            if key is None or key in items:
                continue
            if key not in reasons:
                try:
                    item = None if cached else self._load(row, modality, column)
                    if item is not None and modality == "vision" and self.augment is not None:
                        item = self.augment(item, self._generator(row, modality, column))
                    if item is not None and modality == "audio" and self.speed_perturbation:
                        item = change_speed(item, self.speed_perturbation, self._generator(row, modality, column))
                    items[key] = item, row, column
                    continue
                except BadRowError as error:
                    reasons[key] = error.entry["reason"]
            if modality == "vision" and self.columns.video is not None:
                if not column.endswith("#0"):  # it is told once for all frames of a video
                    continue
                column = self.columns.video
            self._note(BadRowError(row, column, reasons[key], picture_file(row.get(column))), bad)
        order = {key: number for number, key in enumerate(items)}
        index = torch.tensor([order.get(key, -1) for key in keys])
        usable = [key if key in order else None for key in keys]
        return (index.reshape(len(rows), -1) if len(columns) > 1 else index), items, usable

    def _load(self, row: dict[str, Any], modality: str, column: str) -> Any:
        """What the processor takes: the decoded picture or sound, the text, or the columns of the table."""
        if modality == "vision" and self.columns.video is not None:
            return self.frames_of(row)[self.parts["vision"].index(column)]
        if modality == "vision":
            return self._picture(row, column)
        if modality == "audio" and is_decoded(row[column]):
            try:
                return load_sound(row[column], self.processor.feature_extractor.sampling_rate)
            except ValueError as error:
                raise BadRowError(row, column, " ".join(str(error).split())) from None
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
        return np.random.default_rng([self.seed, row.get("epoch", self.epoch), row["row_id"], *place])

    @property
    def _mask_token_id(self) -> int | None:
        """The token that stands for a dropped one."""
        tokenizer = self.processor.tokenizer
        return tokenizer.unk_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id

    def _drop_tokens(self, input_ids: torch.Tensor, places: list[tuple[dict[str, Any], str]]) -> torch.Tensor:
        """Masks tokens at random; special tokens, padding among them, stay.

        Args:
            input_ids: `(U, T)` int64.
            places: first row and column of each text.

        Returns:
            `(U, T)` int64.
        """
        special = torch.isin(input_ids, torch.tensor(self.processor.tokenizer.all_special_ids))
        input_ids = input_ids.clone()
        for text, fixed, (row, column) in zip(input_ids, special, places):
            words = (~fixed).nonzero()[:, 0]
            drawn = self._generator(row, "text", column).random(len(words))
            text[words[torch.from_numpy(drawn < self.token_dropout)]] = self._mask_token_id
        return input_ids


def knows_its_place(row: Any, files: list[str]) -> bool:
    """Whether a row is as `Rows` or a stream gives it: with its number, its part, and the files as they are."""
    if not (isinstance(row, dict) and isinstance(row.get("row_id"), int) and isinstance(row.get("split"), str)):
        return False
    return all(is_absent(row.get(name)) or isinstance(row[name], (dict, list)) for name in files)


def as_plain(value: Any) -> Any:
    """A value of a plain data set without the types of numpy and torch; None for what is missing."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    elif isinstance(value, torch.Tensor):
        value = value.detach().cpu().tolist()
    return None if is_missing(value) else value


def as_file(value: Any) -> Any:
    """A picture, sound or video of a plain data set: paths and bytes as the struct of both, what is decoded as it is,
    None for what is missing."""
    if is_missing(value) or (isinstance(value, (str, bytes)) and not value):
        return None
    if isinstance(value, (str, os.PathLike)):
        return {"bytes": None, "path": os.fspath(value)}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value), "path": None}
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return [as_file(frame) for frame in value] if isinstance(value, (list, tuple)) else value


def is_decoded(value: Any) -> bool:
    """Whether a row holds a picture or sound itself, and no file of it."""
    samples = isinstance(value, Mapping) and bool({"array", "raw"} & set(value))
    return samples or isinstance(value, (Image.Image, np.ndarray))


def fingerprint(value: Any) -> str:
    """What tells decoded pictures and sounds apart: a hash of all that they show or say."""
    about: tuple[Any, ...]
    if isinstance(value, Image.Image):
        about = (value.mode, value.size, value.getpalette(), value.info.get("transparency"))
        content, about = value.tobytes(), (*about, value.getexif().get(ORIENTATION))
    elif isinstance(value, Mapping):
        samples = np.asarray(value.get("array", value.get("raw")))
        content, about = samples.tobytes(), (samples.dtype, samples.shape, value.get("sampling_rate"))
    else:
        content, about = value.tobytes(), (value.dtype, value.shape)
    return hashlib.sha256(repr(about).encode() + content).hexdigest()
