# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Time series of numbers, such as readings of sensors: what their channels are like, learned from the training rows.
`RecurrentModel` is their encoder.

Notation used for tensor shapes: `U` series; `S` steps of the longest; `C` channels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch


LARGEST = 1e30  # deviations from the mean: far below what overflows in half a model, far above what is meant


@dataclass
class SeriesScaler:
    """Brings each channel of a series to mean 0 and deviation 1 of the training rows. The processor saves it.

    Args:
        means, stds: of each channel.
    """

    means: list[float]
    stds: list[float]

    model_input_names = ["series_values", "series_attention_mask"]  # no field: the same for all

    def __post_init__(self):
        self.means, self.stds = [float(mean) for mean in self.means], [float(std) for std in self.stds]
        if not self.means or len(self.means) != len(self.stds) or not all(std > 0 for std in self.stds):
            raise ValueError(f"Each channel needs a mean and a deviation above 0, got {self.means} and {self.stds}.")

    @property
    def channels(self) -> int:
        """Numbers a step."""
        return len(self.means)

    @classmethod
    def fit(cls, series: Iterable[Any]) -> "SeriesScaler":
        """Learns means and deviations; what is missing does not count, and a channel that never changes is left at
        its size.

        Args:
            series: of the training rows, `(S, C)` each; None for rows without one.

        Raises:
            ValueError: no series at all, one that is none, numbers of channels that differ, or a channel without any
                value.
        """
        steps = [as_steps(values) for values in series if values is not None]
        if not steps:
            raise ValueError("No training row has a series.")
        if len(widths := sorted({values.shape[1] for values in steps})) > 1:
            raise ValueError(f"All series must have one number of channels, got {widths}.")
        every = np.concatenate(steps)
        if empty := np.isnan(every).all(0).nonzero()[0].tolist():
            raise ValueError(f"Channels {empty} have no value in any training row.")
        stds = np.nanstd(every, axis=0)
        return cls(np.nanmean(every, axis=0).tolist(), np.where(stds > 0, stds, 1.0).tolist())

    def check(self, series: Any) -> np.ndarray:
        """One series, standardised, `(S, C)` float32; what is missing (NaN) is at the mean.

        Raises:
            ValueError: it is empty, no series, of another number of channels, or has a number that is not finite.
        """
        values = as_steps(series)
        if values.shape[1] != self.channels:
            raise ValueError(f"a series has {self.channels} channels here, got shape {values.shape}.")
        values = np.nan_to_num((values - self.means) / self.stds, nan=0.0)
        if not (np.abs(values) < LARGEST).all():
            raise ValueError("the series has numbers that are too large.")
        return values.astype(np.float32)

    def __call__(self, series: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Makes tensors of series.

        Returns:
            `series_values` `(U, S, C)` float32, padded with zeros, and `series_attention_mask` `(U, S)` int64, 1 for
            a step.

        Raises:
            ValueError: see `check`.
        """
        checked = [torch.from_numpy(self.check(values)) for values in series]
        mask = [torch.ones(len(values), dtype=torch.int64) for values in checked]
        return {
            "series_values": torch.nn.utils.rnn.pad_sequence(checked, batch_first=True),
            "series_attention_mask": torch.nn.utils.rnn.pad_sequence(mask, batch_first=True),
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def has_no_steps(series: Any) -> bool:
    """Whether a row has no series: None, or one without a step, or with nothing in any."""
    if series is None or (isinstance(series, float) and np.isnan(series)):
        return True
    return hasattr(series, "__len__") and len(series) == 0


def as_steps(series: Any) -> np.ndarray:
    """A series as `(S, C)` float64; one of single numbers has one channel.

    Raises:
        ValueError: it is empty or no rectangle of numbers, or has infinite ones.
    """
    try:
        values = np.asarray(series.detach().cpu() if isinstance(series, torch.Tensor) else series, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a series is a list of steps, each a list of numbers: {error}.") from None
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or not values.size or np.isinf(values).any():
        raise ValueError(
            "a series is a list of steps, each a list of finite numbers, NaN for what is missing; got shape "
            f"{values.shape}{', with infinite numbers' if np.isinf(values).any() else ''}."
        )
    return values


__all__ = ["SeriesScaler"]
