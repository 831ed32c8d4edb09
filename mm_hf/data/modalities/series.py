"""Time series of a row, such as readings of sensors."""

import hashlib
import io
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ...models.recurrent import RecurrentConfig
from ...models.series import Series, SeriesScaler, as_steps, has_no_steps
from ..looks import Evidence
from ..rows import SOURCE_ROW, BadRowError, Rows
from ..shown import SERIES, shown_series
from .linear import step_features
from .reader import ModalityReader, reader_of, register_reader


if TYPE_CHECKING:
    from ..collator import MultimodalCollator


LEAST_SHARE = 0.05  # one of several columns needs at least this share of the deviation of all of them together


@register_reader
class SeriesReader(ModalityReader):
    """Time series, each in its place. Places with different numbers of channels have separate channels in the
    encoder."""

    name = Series.name
    column_keys = ("series_column",)
    lists = True
    needs_all_rows = True
    shown_as = Series.name

    def kind_of(self, part):
        """A time series."""
        return SERIES

    def looks(self, sample):
        """Lists of numbers, or of steps that are lists of numbers."""
        lists = [value for value in sample.values if isinstance(value, (list, tuple, np.ndarray))]
        if not lists or len(lists) < sample.count or not any(map(len, lists)):
            return None
        try:
            steps = [as_steps(value) for value in lists if len(value)]
        except ValueError:
            return None
        lengths, channels = [len(values) for values in steps], Counter(values.shape[1] for values in steps)
        why = f"lists of {min(lengths):,} to {max(lengths):,} steps of {channels.most_common(1)[0][0]} number(s)"
        return Evidence(self.name, self.name, why, 0.9)

    def fit(self, splits, columns, *, on_error="raise", **settings):
        """Learns mean and scale of the channels. In each column, the most common number of channels counts. Series
        with another number of channels are bad.

        Raises:
            BadRowError: a row does not hold a series, and bad rows are not skipped.
            ValueError: no row has a series; or columns with equally many channels do not fit on one scale.
        """
        names, train = self.data_columns(columns), splits["train"]
        by_column: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for row in Rows(train.select_columns([*names, *({SOURCE_ROW} & set(train.column_names))]), "train"):
            for column in names:
                try:
                    if not has_no_steps(row[column]):
                        by_column[column].append(as_steps(row[column]))
                except ValueError as error:
                    if on_error == "raise":
                        raise BadRowError(row, column, str(error)) from None
        for column, series in by_column.items():
            most = Counter(values.shape[1] for values in series).most_common(1)
            by_column[column] = [values for values in series if values.shape[1] == most[0][0]]
        widths = {column: series[0].shape[1] for column, series in by_column.items() if series}
        scalers = {}
        for width in dict.fromkeys(widths.values()):
            alike = [column for column in widths if widths[column] == width]
            scalers[width] = SeriesScaler.fit(values for column in alike for values in by_column[column])
            for column in alike if len(alike) > 1 else ():
                check_same_scale(column, np.concatenate(by_column[column]), scalers[width])
        if len(scalers) < 2:
            return next(iter(scalers.values())) if scalers else SeriesScaler.fit([])
        if empty := sorted(set(names) - set(widths)):
            raise ValueError(f"No training row has a series in {empty}: leave the column out.")
        means, stds = (
            [value for each in scalers.values() for value in getattr(each, key)] for key in ("means", "stds")
        )
        return SeriesScaler(means, stds, [widths[column] for column in names])

    def fresh_config(self, part, hidden_size, *, series_rnn_type, **settings):
        """A recurrent encoder."""
        return RecurrentConfig(rnn_type=series_rnn_type, input_size=part.channels, hidden_size=hidden_size)

    def linear_features(self, items):
        """Statistics of the channels: the encoder has learned nothing yet."""
        return step_features(items)

    def line_refused(self, encoder):
        """The encoder gives other features than these statistics."""
        return "its linear model uses mean, deviation, minimum, maximum and last value of the channels"

    def key(self, row, column, collator):
        """A hash of the series as the model sees it."""
        if has_no_steps(row[column]):
            return None
        try:
            check_channels(row[column], column, collator)
            return hashlib.sha256(collator.processor.series_scaler.check(row[column]).tobytes()).hexdigest()
        except ValueError as error:
            raise BadRowError(row, column, str(error)) from None

    def load(self, row, column, collator):
        """Its steps."""
        return as_steps(row[column])

    def draw(self, row, collator):
        """The first series."""
        for column in self.data_columns(collator.columns):
            if not has_no_steps(row[column]):
                return picture_of_series(collator.processor.series_scaler.check(row[column]))
        return None

    def from_request(self, value, key):
        """A list of steps."""
        if not isinstance(value, list):
            raise ValueError(f"{key} must be a list of steps, each a list of numbers; got {value!r:.80}.")
        return super().from_request(value, key)

    def amounts(self, item, key):
        """Its steps."""
        return {"steps": len(item)}

    def request_schema(self, processor, key):
        """Steps with as many numbers as there are channels; null for a missing number."""
        widths = list(processor.series_scaler.channels_of)
        number = {"type": "number", "nullable": True}
        step = {"type": "array", "items": number, "minItems": min(widths), "maxItems": max(widths)}
        return {"type": "array", "minItems": 1, "items": {"anyOf": [step, number]} if 1 in widths else step}

    def request_example(self, processor, key):
        """Four steps at the means."""
        means, channels = processor.series_scaler.means, next(iter(processor.series_scaler.channels_of.values()))
        return [[round(mean, 3) for mean in means[channels]]] * 4

    def shown_item(self, item, collator):
        """Its steps, as the data have them."""
        return shown_series(item)


def check_channels(series: Any, column: str, collator: "MultimodalCollator"):
    """Checks that a series has the number of channels of its place.

    Raises:
        ValueError: it has another number. The message names both.
    """
    widths = collator.processor.series_scaler.widths
    if widths is None:
        return
    names = reader_of(Series.name).data_columns(collator.columns)
    width = widths[names.index(column)] if len(names) == len(widths) else None
    if width is not None and as_steps(series).shape[1] != width:
        raise ValueError(f"a series has {width} channels in this place, got shape {as_steps(series).shape}.")


def check_same_scale(column: str, steps: np.ndarray, scaler: SeriesScaler):
    """Raises if the readings of a column, `(S, C)` of all training rows, are too small for the scale that it shares
    with other columns."""
    for channel, (values, scale) in enumerate(zip(steps.T, scaler.stds)):
        values = values[~np.isnan(values)]
        if len(values) and 0 < values.std() < LEAST_SHARE * scale:
            raise ValueError(
                f"The columns of series share one scale, and channel {channel} of {column!r} is too small for it: its "
                f"standard deviation is {values.std():.3g}, but {scale:.3g} for all columns together. Convert them to "
                "one unit, or join them into one column with more channels, because each channel has a separate scale."
            )


def picture_of_series(values: np.ndarray) -> Image.Image:
    """The channels of a time series, `(S, C)` float, as lines in a square picture. Time goes to the right."""
    from matplotlib.figure import Figure

    figure, drawn = Figure(figsize=(2.24, 2.24), layout="constrained"), io.BytesIO()
    axes = figure.subplots()
    axes.plot(values, linewidth=0.8)
    axes.axis("off")
    figure.savefig(drawn, dpi=100, format="png")
    return Image.open(drawn).convert("RGB")
