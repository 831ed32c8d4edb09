# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Sounds: read from files or memory, and cut to what an encoder takes."""

import io
import math
import os
from typing import Any

import numpy as np


SAMPLING_RATES = range(1000, 768001)  # what sounds have; a false header may ask for a thousand gigabytes


def load_sound(source: Any, sampling_rate: int) -> np.ndarray:
    """Reads a sound: one channel, at some sampling rate.

    Args:
        source: the path or the bytes of a file that libsndfile reads (wav, flac, ogg, mp3); or samples, `(S,)` or
            `(channels, S)`, as a dict of `array` (or `raw`) and `sampling_rate`, or as an array at `sampling_rate`.
        sampling_rate: that is wanted; others are resampled with a polyphase filter.

    Returns:
        `(S,)` float32; several channels are averaged.

    Raises:
        ValueError: it is empty or no sound, or has samples that are no finite numbers.
        ImportError: soundfile or scipy is not installed.
    """
    if isinstance(source, (str, os.PathLike, bytes)):
        try:  # the library asks users of a checkpoint for all that is imported in any other way
            import soundfile
        except ImportError as error:
            raise ImportError("Reading files of sounds needs `pip install soundfile`.") from error
        if not isinstance(source, bytes) and not os.path.exists(source):  # of which libsndfile says "system error"
            raise ValueError(f"the sound cannot be read: there is no file {os.fspath(source)!r}.")
        file = io.BytesIO(source) if isinstance(source, bytes) else os.fspath(source)
        try:
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, TypeError, MemoryError) as error:  # TypeError: a raw file has no header
            reason = (
                getattr(error, "error_string", error) if isinstance(source, bytes) else error
            )  # else with its path
            raise ValueError(f"the sound cannot be read: {reason}") from None
        samples = samples.T  # (channels, S)
    elif isinstance(source, dict):
        samples, rate = source.get("array", source.get("raw")), source.get("sampling_rate")
        if samples is None or isinstance(rate, bool) or not isinstance(rate, (int, float, np.integer, np.floating)):
            raise ValueError(f"samples need an array and a sampling_rate, got {sorted(source)} and {rate!r}.")
    else:
        samples, rate = source, sampling_rate
    if rate not in SAMPLING_RATES:
        raise ValueError(
            f"the sampling rate must be a whole number from {SAMPLING_RATES[0]} to {SAMPLING_RATES[-1]}, got {rate}."
        )
    rate, samples = int(rate), np.asarray(samples)
    if samples.ndim not in (1, 2) or samples.dtype.kind != "f" or not samples.size:
        raise ValueError(
            "the sound is empty, or its samples are no floats in one or two dimensions: "
            f"{samples.dtype} of shape {samples.shape}."
        )
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        raise ValueError(f"samples of several channels must be (channels, samples), got shape {samples.shape}.")
    with np.errstate(over="ignore"):  # what is too large is infinite then, and refused
        samples = samples.astype(np.float32)
    samples = samples if samples.ndim == 1 else samples.mean(0)
    if not np.isfinite(samples).all():
        raise ValueError("the sound has samples that are no finite numbers.")
    if rate != sampling_rate:
        try:
            from scipy.signal import resample_poly
        except ImportError as error:
            raise ImportError(f"Resampling from {rate} to {sampling_rate} needs `pip install scipy`.") from error
        common = math.gcd(rate, sampling_rate)
        samples = resample_poly(samples, sampling_rate // common, rate // common).astype(np.float32)
    return samples


def limit_seconds(extractor, seconds: int):
    """Makes a feature extractor cut sounds to some seconds; Whisper's also pads all to them."""
    if not isinstance(seconds, int) or seconds < 1:
        raise ValueError(f"max_audio_seconds must be a whole number from 1 up, got {seconds}.")
    extractor.max_audio_seconds = seconds
    if hasattr(extractor, "chunk_length"):
        extractor.chunk_length = seconds
        extractor.n_samples = seconds * extractor.sampling_rate
        extractor.nb_max_frames = extractor.n_samples // extractor.hop_length


__all__ = ["limit_seconds", "load_sound"]
