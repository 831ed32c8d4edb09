"""How the items of each modality come out of rows of data: one file a modality."""

from .reader import READERS, ModalityReader, reader_of, register_reader


__all__ = ["READERS", "ModalityReader", "reader_of", "register_reader"]
