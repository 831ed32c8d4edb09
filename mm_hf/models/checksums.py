# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Checksums of files. They find damage, not malice: whoever can change a file can change its checksum too."""

import os


try:
    import xxhash
except ImportError:  # it is installed with datasets, which a process that only predicts may lack
    xxhash = None  # type: ignore[assignment]

CHUNK = 2**18  # bytes that are read at a time: little memory, and small enough for the cache of a core


def can_check() -> bool:
    """Whether checksums can be computed here."""
    return xxhash is not None


def checksum_of(path: str | os.PathLike) -> str:
    """The xxh3 of a file, 64 bits as 16 hexadecimal digits (https://xxhash.com).

    Raises:
        ImportError: xxhash is not installed, see `can_check`.
        OSError: the file cannot be read.
    """
    if xxhash is None:
        raise ImportError("Checksums need xxhash: pip install xxhash.")
    digest = xxhash.xxh3_64()
    chunk = memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(chunk):
            digest.update(chunk[:size])
    return digest.hexdigest()


def checksum_of_bytes(values) -> str:
    """The same for bytes, or for an array in one contiguous piece of memory."""
    if xxhash is None:
        raise ImportError("Checksums need xxhash: pip install xxhash.")
    return xxhash.xxh3_64(values).hexdigest()
