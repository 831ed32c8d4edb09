# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Time series of numbers, such as sensor readings: the scale of their channels, learned from the training rows. Their
encoder is `RecurrentModel`.

Notation used for tensor shapes: `U` series; `S` steps of the longest; `C` channels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch

from .config_checks import has_finite, shown
from .finite import FARTHEST, LARGEST
from .item_parts import moments
from .modality import Modality, register_modality
from .raw_rows import columns_of, entries_of, is_one
from .table_schema import is_missing


@dataclass
class SeriesScaler:
    """Scales each channel of a series to mean 0 and deviation 1 over the training rows. The processor saves it.

    Args:
        means, stds: of each channel that the encoder reads.
        widths: for each place of a row, the number of channels of its series, if these numbers differ. Places with
            equal numbers share their channels; places with another number have separate channels. In each series, the
            channels of other places are set to the mean. None: all places have all channels.
    """

    means: list[float]
    stds: list[float]
    widths: list[int] | None = None

    model_input_names = ["series_values", "series_attention_mask"]  # not a dataclass field: the same for all

    def __post_init__(self):
        sized = has_finite(self.means) and has_finite(self.stds, len(self.means)) and min(self.stds, default=1) > 0
        if not sized or not len(self.means):
            raise ValueError(
                "series_scaler: each channel needs a finite mean and a deviation above 0, as many means as stds; got "
                f"{shown(self.means)} and {shown(self.stds)}."
            )
        self.means, self.stds = [float(mean) for mean in self.means], [float(std) for std in self.stds]
        if self.widths is not None:
            whole = isinstance(self.widths, (list, tuple)) and all(type(width) is int for width in self.widths)
            if not whole or min(self.widths, default=0) < 1 or sum(set(self.widths)) != self.channels:
                raise ValueError(
                    "series_scaler: widths must be the number of channels of each place, and its distinct values must "
                    f"sum to the number of means, {self.channels}; got {shown(self.widths)}."
                )
            self.widths = list(self.widths)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SeriesScaler":
        """Makes a scaler from the result of `to_dict`, also after JSON.

        Raises:
            ValueError: the keys are not those of a scaler, or the values are not numbers.
        """
        if not {"means", "stds"} <= set(values) <= {"means", "stds", "widths"}:
            raise ValueError(
                f"series_scaler needs the keys means and stds, and may have widths; got {shown(list(values))}."
            )
        return cls(**values)

    @property
    def channels(self) -> int:
        """Numbers per step, as the encoder reads them."""
        return len(self.means)

    @property
    def channels_of(self) -> dict[int, slice]:
        """By the number of channels of a series, the channels of the encoder that it uses."""
        starts, start = {}, 0
        for width in dict.fromkeys(self.widths or [self.channels]):
            starts[width] = slice(start, start + width)
            start += width
        return starts

    @classmethod
    def fit(cls, series: Iterable[Any]) -> "SeriesScaler":
        """Learns means and deviations. Missing values do not count, and a constant channel keeps its scale.

        Args:
            series: of the training rows, `(S, C)` each; None for rows without one.

        Raises:
            ValueError: there is no series, a value is not a series, the numbers of channels differ, or a channel has
                no value.
        """
        steps = [as_steps(values) for values in series if values is not None]
        if not steps:
            raise ValueError("series_scaler: no training row has a series.")
        if len(widths := sorted({values.shape[1] for values in steps})) > 1:
            raise ValueError(f"All series must have the same number of channels, got {widths}.")
        every = np.concatenate(steps)
        if empty := np.isnan(every).all(0).nonzero()[0].tolist():
            raise ValueError(f"Channels {empty} have no value in any training row: leave them out.")
        changes = np.nanmax(every, axis=0) > np.nanmin(every, axis=0)  # a constant has only rounding as deviation
        return cls(np.nanmean(every, axis=0).tolist(), np.where(changes, np.nanstd(every, axis=0), 1.0).tolist())

    def check(self, series: Any) -> np.ndarray:
        """One series, standardised, `(S, C)` float32. Missing values (NaN) are set to the mean, and values more than
        `FARTHEST` deviations from it are cut to that.

        Raises:
            ValueError: it is empty, not a series, has another number of channels, or has infinite numbers.
        """
        values, places = as_steps(series), self.channels_of
        if values.shape[1] not in places:
            raise ValueError(f"a series has {' or '.join(map(str, places))} channels here, got shape {values.shape}.")
        of_place = places[values.shape[1]]
        scaled = np.zeros((len(values), self.channels))
        scaled[:, of_place] = np.nan_to_num((values - self.means[of_place]) / self.stds[of_place], nan=0.0)
        return scaled.clip(-FARTHEST, FARTHEST).astype(np.float32)

    def __call__(self, series: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Makes tensors from series.

        Returns:
            `series_values` `(U, S, C)` float32, padded with zeros, and `series_attention_mask` `(U, S)` int64, 1 for
            a step.

        Raises:
            ValueError: see `check`.
        """
        return padded_series([self.check(values) for values in series])

    def to_dict(self) -> dict[str, Any]:
        """The form for JSON; without `widths` if all series have all channels, as in older releases."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def padded_series(series: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """Tensors of standardised series, see `SeriesScaler`."""
    mask = [torch.ones(len(values), dtype=torch.int64) for values in series]
    return {
        "series_values": torch.nn.utils.rnn.pad_sequence(list(map(torch.from_numpy, series)), batch_first=True),
        "series_attention_mask": torch.nn.utils.rnn.pad_sequence(mask, batch_first=True),
    }


def has_no_steps(series: Any) -> bool:
    """Whether a row has no series: None, a series without steps, or one with only gaps."""
    if series is None:
        return True
    try:
        values = to_numbers(series)
    except ValueError:
        return False
    return bool(np.isnan(values).all())


def as_steps(series: Any) -> np.ndarray:
    """A series as `(S, C)` float64; a list of single numbers has one channel.

    Raises:
        ValueError: it is empty or not rectangular, or has numbers that are infinite or beyond `LARGEST`.
    """
    values = to_numbers(series)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or not values.size:
        raise ValueError(
            f"a series is a list of steps, each a list of numbers, NaN for a missing one; got shape {values.shape}."
        )
    if (np.abs(values) > LARGEST).any():
        raise ValueError(
            f"a series is a list of steps, each a list of finite numbers: one is {np.nanmax(np.abs(values)):g}."
        )
    return values


def to_numbers(series: Any) -> np.ndarray:
    """Any numbers as float64; an array that has this type is not copied.

    Raises:
        ValueError: they are not numbers, or the steps have different lengths.
    """
    if type(series) is np.ndarray and series.dtype == np.float64:
        return series
    try:
        if isinstance(series, torch.Tensor):
            series = series.detach().double().cpu()
        elif isinstance(series, (list, tuple)) and any(isinstance(step, torch.Tensor) for step in series):
            series = [step.detach().double().cpu().numpy() for step in series]
        values = np.asarray(series)
        if values.dtype.kind not in "biufO":
            raise ValueError(f"these are {values.dtype.name}")
        return values.astype(np.float64)
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ValueError(f"a series is a list of steps, each a list of numbers: {error!s:.80}.") from None


@register_modality
class Series(Modality):
    """Time series of numbers, such as readings of sensors."""

    name = "series"
    order = 4
    inputs = ("series_values", "series_attention_mask")
    renamed = {"series_values": "input_features", "series_attention_mask": "attention_mask"}
    floats = ("series_values",)
    model_type = "mm_fusion_recurrent"
    argument = "series"
    part = "series_scaler"
    part_class = SeriesScaler
    item = "series"
    items = "series"
    row_keys = ("series",)

    def dummy_inputs(self, config, device=None, dtype=None):
        return {"series_values": torch.zeros(1, 4, config.input_size, device=device, dtype=dtype)}

    def has_one_size(self, config):
        return False

    def is_item(self, value):
        """Whether these are numbers nested one or two deep; deeper ones are several series."""
        return depth_of_numbers(value) <= 2

    def is_single(self, value):
        """Whether this is an array, a tensor or a table of one or two dimensions, a list of numbers or of lists of
        numbers. (In a list of arrays each array is a series.)"""
        if isinstance(value, (list, tuple)):
            first = next((entry for entry in value if not is_missing(entry)), None)
            return isinstance(first[0] if isinstance(first, (list, tuple)) and first else first, Real)
        return is_one(value) or columns_of(value) is not None or (is_array_of_numbers(value) and value.ndim < 3)

    def list_rows(self, value):
        if not isinstance(value, (list, tuple)) and not self.is_single(value):
            value = entries_of(value)
        return super().list_rows(value)

    def check(self, item, processor, settings):
        """Standardises a series; None if it has no steps, or only gaps."""
        values = to_numbers(item)
        return None if np.isnan(values).all() else processor.series_scaler.check(values)

    def prepare(self, items, processor, settings):
        """See `padded_series`."""
        return padded_series(items)

    def parts(self, shapes, mask, config, item=None, processor=None):
        """Moments, counted in steps."""
        return moments("series", shapes[0][0], mask, None if item is None else len(as_steps(item)))

    def compared(self, parts, config):
        scaler, taken = parts.get(self.part), getattr(config, "input_size", None)
        return [] if scaler is None or taken is None else [("channels of a series", scaler.channels, taken)]

    def load_item(self, processor, source):
        values = to_numbers(source)
        return None if np.isnan(values).all() else as_steps(values)


def is_array_of_numbers(value: Any) -> bool:
    """Whether a value is an array or a tensor of numbers, not of objects."""
    return isinstance(value, (np.ndarray, torch.Tensor)) and str(value.dtype) != "object"


def depth_of_numbers(value: Any) -> int:
    """How deep the numbers of a list or an array are nested; the first entry that is present and not empty decides.
    For a table it is two."""
    if is_one(value):
        return 0
    if columns_of(value) is not None:
        return 2
    if isinstance(value, (list, tuple, np.ndarray)) and not is_array_of_numbers(value):
        present = (entry for entry in value if not is_missing(entry))
        first = next((entry for entry in present if not isinstance(entry, (list, tuple)) or entry), None)
        return 1 + (0 if first is None else depth_of_numbers(first))
    return getattr(value, "ndim", 0)
