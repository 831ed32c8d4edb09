"""Reads the items of each modality from rows of data. There is one file per modality."""

# ruff: noqa: F401

from .reader import READERS, ModalityReader, key_of_part, reader_of, reader_of_part, register_reader
from .series import SeriesReader
from .sound import SoundReader
from .table import TableReader
from .text import TextReader
from .vision import VisionReader
