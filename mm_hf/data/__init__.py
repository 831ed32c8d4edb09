"""From rows of a `datasets.Dataset` to batches of the model."""

from .collator import MultimodalCollator
from .feature_cache import FeatureCache
from .loading import Columns, Rows, label_names, load_splits
from .samplers import GroupedBatchSampler


__all__ = [
    "Columns",
    "FeatureCache",
    "GroupedBatchSampler",
    "MultimodalCollator",
    "Rows",
    "label_names",
    "load_splits",
]
