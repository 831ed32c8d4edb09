"""Time series of a row, such as readings of sensors."""

import hashlib
import io
from collections import Counter

import numpy as np
from PIL import Image

from ...models.recurrent import RecurrentConfig
from ...models.series import Series, SeriesScaler, as_steps, has_no_steps
from ..looks import Evidence
from ..rows import SOURCE_ROW, BadRowError, Rows
from .reader import ModalityReader, register_reader


LEAST_SHARE = 0.05  # of the deviation of all columns together, that one of several columns needs


@register_reader
class SeriesReader(ModalityReader):
    """Time series, each in its place, all of the same channels."""

    name = Series.name
    column_keys = ("series_column",)
    lists = True
    needs_all_rows = True
    shown_as = Series.name

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
        """What the channels are like. Series of another number of channels than most of their column are bad ones.

        Raises:
            BadRowError: a row that holds no series, where bad rows are not skipped.
            ValueError: no row has one; or several columns do not go together in one encoder.
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
        if len(set(widths.values())) > 1:
            raise ValueError(
                f"The columns of series share one encoder, and have {widths} channels: they need equally many. Join "
                "them into one column of more channels, or leave one out."
            )
        scaler = SeriesScaler.fit(values for series in by_column.values() for values in series)
        for column in widths if len(widths) > 1 else ():
            check_same_scale(column, np.concatenate(by_column[column]), scaler)
        return scaler

    def fresh_config(self, part, hidden_size, *, series_rnn_type, **settings):
        """A recurrent encoder."""
        return RecurrentConfig(rnn_type=series_rnn_type, input_size=part.channels, hidden_size=hidden_size)

    def key(self, row, column, collator):
        """A hash of the series as the model sees it."""
        if has_no_steps(row[column]):
            return None
        try:
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


def check_same_scale(column: str, steps: np.ndarray, scaler: SeriesScaler):
    """Refuses a column whose readings, `(S, C)` of all training rows, would all but vanish beside those of the others,
    which share its scale."""
    for channel, (values, scale) in enumerate(zip(steps.T, scaler.stds)):
        values = values[~np.isnan(values)]
        if len(values) and 0 < values.std() < LEAST_SHARE * scale:
            raise ValueError(
                f"The columns of series share one scale, and channel {channel} of {column!r} would vanish in it: its "
                f"standard deviation is {values.std():.3g}, that of all columns together {scale:.3g}. Bring them to "
                "one unit, or join them into one column of more channels, each of which has a scale of its own."
            )


def picture_of_series(values: np.ndarray) -> Image.Image:
    """The channels of a time series, `(S, C)` float, as lines, time to the right, in a square picture."""
    from matplotlib.figure import Figure

    figure, drawn = Figure(figsize=(2.24, 2.24), layout="constrained"), io.BytesIO()
    axes = figure.subplots()
    axes.plot(values, linewidth=0.8)
    axes.axis("off")
    figure.savefig(drawn, dpi=100, format="png")
    return Image.open(drawn).convert("RGB")
