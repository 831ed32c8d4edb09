"""From rows of a `datasets.Dataset` to batches of the model."""

# ruff: noqa: F401

from .augmentation import ImageAugmentation, parse_augmentations
from .bad_rows import BadRows
from .batch_loader import BatchLoader
from .class_names import names_of_classes, normalise_labels
from .collator import MultimodalCollator
from .feature_cache import CacheTooLargeError, FeatureCache
from .labels import label_statistics, label_tensor
from .problem_types import classes_to_write, labels_of
from .rows import BadRowError, Columns, Rows, resolve_path
from .samplers import GroupedBatchSampler, balanced_weights
from .sources import data_root_of, load_splits
from .streaming import StreamBatches
from .summary import describe, summary_lines
from .tokenizers import letter_tokenizer, read_word_vectors, word_tokenizer
