"""Time series of a row, such as readings of sensors."""

import hashlib
import io
from collections import Counter

import numpy as np
from PIL import Image

from ...models.recurrent import RecurrentConfig
from ...models.series import Series, SeriesScaler, as_steps, has_no_steps
from ..rows import SOURCE_ROW, BadRowError, Rows
from .reader import ModalityReader, register_reader


@register_reader
class SeriesReader(ModalityReader):
    """Time series, each in its place, all of the same channels."""

    name = Series.name
    column_keys = ("series_column",)
    lists = True
    needs_all_rows = True
    shown_as = Series.name

    def fit(self, splits, columns, *, on_error="raise", **settings):
        """What the channels are like. Series of another number of channels than most are bad ones.

        Raises:
            BadRowError: a row that holds no series, where bad rows are not skipped.
            ValueError: no row has one.
        """
        names, train = self.data_columns(columns), splits["train"]
        found = []
        for row in Rows(train.select_columns([*names, *({SOURCE_ROW} & set(train.column_names))]), "train"):
            for column in names:
                try:
                    if not has_no_steps(row[column]):
                        found.append(as_steps(row[column]))
                except ValueError as error:
                    if on_error == "raise":
                        raise BadRowError(row, column, str(error)) from None
        channels = Counter(values.shape[1] for values in found).most_common(1)
        return SeriesScaler.fit(values for values in found if values.shape[1] == channels[0][0])

    def fresh_config(self, part, hidden_size, *, series_rnn_type, **settings):
        """A recurrent encoder."""
        return RecurrentConfig(rnn_type=series_rnn_type, input_size=part.channels, hidden_size=hidden_size)

    def key(self, row, column, collator):
        """A hash of the series as the model sees it.

        Raises:
            BadRowError: what is no series, or has other channels than the scaler.
        """
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


def picture_of_series(values: np.ndarray) -> Image.Image:
    """The channels of a time series as lines, time to the right, in a square picture.

    Args:
        values: `(S, C)` float.
    """
    from matplotlib.figure import Figure

    figure, drawn = Figure(figsize=(2.24, 2.24), layout="constrained"), io.BytesIO()
    axes = figure.subplots()
    axes.plot(values, linewidth=0.8)
    axes.axis("off")
    figure.savefig(drawn, dpi=100, format="png")
    return Image.open(drawn).convert("RGB")
