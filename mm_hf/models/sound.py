# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Sounds: read from files or memory, cut to the length that an encoder takes, and converted to frames or waves."""

import io
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor

from .files import regular_file
from .item_parts import moments
from .modality import Modality, register_modality
from .raw_rows import arguments_of_call, columns_of, holds_numbers, is_one
from .table_schema import is_missing


SAMPLING_RATES = range(1000, 768001)  # the allowed rates; a wrong header could demand a thousand gigabytes
MAX_SECONDS = 3600
HIGHEST_RATE = 192_000  # the length limit holds up to this rate; above it, the number of samples is limited
MAX_CHANNELS = 64
BLOCK = 2**20  # samples that are read at a time
MAX_TAPS = 1_000_000  # of the resampling filter; rates without a common divisor need 20 taps per hertz
FRAMES_A_SECOND = 100  # of the spectrograms that AST takes
NOT_FINITE = "the sound has samples that are not finite numbers, the first of them {}."


def load_sound(source: Any, sampling_rate: int) -> np.ndarray:
    """Reads a sound as one channel at a given sampling rate.

    Args:
        source: the path or the bytes of a file that libsndfile reads (wav, flac, ogg, mp3), or a dict of `bytes` and
            `path`; or samples, `(S,)` or `(channels, S)`, as a dict of `array` (or `raw`) and `sampling_rate`, or as
            an array or tensor at `sampling_rate`.
        sampling_rate: the rate of the result; sounds at another rate are resampled with a polyphase filter.

    Returns:
        `(S,)` float32; several channels are averaged.

    Raises:
        ValueError: it is empty, not a sound, not a regular file, too long, has too many channels, or has samples that
            are not finite; or the two rates would need too large a filter.
        ImportError: soundfile or scipy is not installed.
    """
    if isinstance(source, Mapping) and source and set(source) <= {"bytes", "path"}:
        if source.get("bytes") is None and source.get("path") is None:
            raise ValueError(f"this is not a sound, because it has neither bytes nor a path: {source!r:.80}.")
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    samples: Any
    rate: Any  # a source may contain anything; `check_rate` checks it
    if isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        samples, rate = read_file(source)
    elif isinstance(source, Mapping):
        samples, rate = source.get("array", source.get("raw")), source.get("sampling_rate")
        if samples is None or isinstance(rate, bool) or not isinstance(rate, (int, float, np.integer, np.floating)):
            raise ValueError(f"samples need an array and a sampling_rate, got {sorted(source)} and {rate!r}.")
    else:
        samples, rate = source, sampling_rate
    if isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()
    check_rate(rate)
    rate, samples = int(rate), np.asarray(samples)
    if samples.ndim not in (1, 2) or samples.dtype.kind != "f" or not samples.size:
        raise ValueError(
            "the sound is empty, or its samples are not floats in one or two dimensions: "
            f"{samples.dtype} of shape {samples.shape}."
        )
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        raise ValueError(f"samples of several channels must be (channels, samples), got shape {samples.shape}.")
    check_length(samples.shape[-1], rate, 1 if samples.ndim == 1 else len(samples))
    with np.errstate(over="ignore", invalid="ignore"):  # values that are too large become infinite, and are refused
        samples = samples.astype(np.float32)
        samples = samples if samples.ndim == 1 else samples.mean(0)
    if not np.isfinite(samples).all():
        raise ValueError(NOT_FINITE.format(samples[~np.isfinite(samples)][0]))
    return samples if rate == sampling_rate else resampled(samples, rate, sampling_rate)


def read_file(source: Any) -> tuple[np.ndarray, int]:
    """The samples of a file, `(S,)` float32, with averaged channels, and their sampling rate; see `load_sound`."""
    try:  # an import inside `try` is not listed as a requirement for the users of a checkpoint
        import soundfile
    except ImportError as error:
        raise ImportError("Reading sound files needs `pip install soundfile`.") from error
    path = None if isinstance(source, (bytes, bytearray, memoryview)) else regular_file(source, "sound")
    try:
        with soundfile.SoundFile(io.BytesIO(source) if path is None else path) as file:
            check_rate(file.samplerate)
            check_length(file.frames, file.samplerate, file.channels)
            blocks = [np.zeros(0, np.float32)]  # reading all channels at once would need much more memory
            with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are refused later
                for block in file.blocks(BLOCK, dtype="float32", always_2d=True):
                    blocks.append(block.T.mean(0))  # (BLOCK,)
            return np.concatenate(blocks), file.samplerate
    except (soundfile.LibsndfileError, TypeError, MemoryError) as error:  # TypeError: a raw file has no header
        # The full message contains the path.
        reason = getattr(error, "error_string", error) if path is None else error
        raise ValueError(f"the sound cannot be read: {reason}") from None


def check_rate(rate: Any):
    """Refuses a sampling rate that is out of range."""
    if rate not in SAMPLING_RATES:
        raise ValueError(
            f"the sampling rate must be a whole number from {SAMPLING_RATES[0]} to {SAMPLING_RATES[-1]}, got {rate}."
        )


def check_length(samples: int, rate: int, channels: int):
    """Refuses a sound that is too long, or has too many channels."""
    most = MAX_SECONDS * min(rate, HIGHEST_RATE)
    if samples > most:
        raise ValueError(
            f"the sound has {samples} samples, {samples / rate:.6g} seconds; the limit is {most / rate:.6g} seconds: "
            "cut it first."
        )
    if channels > MAX_CHANNELS:
        raise ValueError(f"the sound has {channels} channels; the limit is {MAX_CHANNELS}: mix it down first.")


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Resamples `(S,)` float32 to another rate; both rates in samples per second.

    Raises:
        ValueError: the common divisor of the two is so small that the filter would be too large.
    """
    common = math.gcd(rate, wanted)
    taps = 20 * max(rate, wanted) // common + 1
    if taps > MAX_TAPS:
        raise ValueError(
            f"resampling from {rate} to {wanted} needs a filter of {taps} numbers; at most {MAX_TAPS} are allowed: "
            "convert the sound to a usual rate first, such as 16000 or 48000."
        )
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise ImportError(f"Resampling from {rate} to {wanted} needs `pip install scipy`.") from error
    return resample_poly(samples, wanted // common, rate // common).astype(np.float32)


def limit_seconds(extractor, seconds: int):
    """Makes a feature extractor cut sounds to this many seconds; Whisper's also pads all sounds to it."""
    if not isinstance(seconds, int) or seconds < 1:
        raise ValueError(f"max_audio_seconds must be a whole number of at least 1, got {seconds}.")
    extractor.max_audio_seconds = seconds
    if hasattr(extractor, "chunk_length"):
        extractor.chunk_length = seconds
        extractor.n_samples = seconds * extractor.sampling_rate
        extractor.nb_max_frames = extractor.n_samples // extractor.hop_length


def samples_of(sound: Any, sampling_rate: int) -> np.ndarray:
    """A sound, see `MMFusionProcessor`, as `(S,)` float32 at the sampling rate of the feature extractor. Refuses
    values that no feature extractor can use."""
    if isinstance(sound, (str, bytes, os.PathLike, Mapping)):
        sound = load_sound(sound, sampling_rate)
    values = np.asarray(sound.detach().float().cpu() if isinstance(sound, torch.Tensor) else sound)
    if values.ndim != 1 or not len(values) or values.dtype.kind != "f":
        raise ValueError(
            f"a sound is a list of floats, one channel and not empty; got {values.dtype} of shape {values.shape}. "
            "Use None if there is no sound."
        )
    with np.errstate(over="ignore"):  # values that are too large become infinite, and are refused
        samples = values.astype(np.float32)
    if not np.isfinite(samples).all():
        raise ValueError(NOT_FINITE.format(samples[~np.isfinite(samples)][0]))
    return samples


def prepare_sounds(extractor, sounds: list, audio_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Makes frames or waves of sounds, `(S,)` float32 each, padded to one length, with a mask for the padding.

    Raises:
        ValueError: the given sampling rate of the samples is not the extractor's.
    """
    settings = dict(audio_kwargs)
    needed, said = extractor.sampling_rate, settings.get("sampling_rate")
    if said not in (None, needed):
        raise ValueError(f"Sounds must have a sampling_rate of {needed}, got {said}: resample them.")
    if hasattr(extractor, "chunk_length"):  # Whisper's: all sounds get the length of its encoder
        settings.setdefault("padding", "max_length")
    else:
        settings.setdefault("padding", True)
    if (longest := getattr(extractor, "max_audio_seconds", None)) is not None:
        sounds = [sound[: longest * extractor.sampling_rate] for sound in sounds]
    # Extractors and convolutions need at least a window or two: a shorter sound is filled up with silence.
    least = extractor.sampling_rate // 25
    sounds = [np.pad(sound, (0, max(0, least - len(sound)))) for sound in sounds]
    prepared = dict(extractor(sounds, **settings))
    for name in ("input_features", "input_values"):  # normalising silence gives 0 / 0
        if isinstance(prepared.get(name), torch.Tensor):
            prepared[name] = prepared[name].nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return prepared


@register_modality
class Sound(Modality):
    """Sounds, as waves or as frames of a spectrogram."""

    name = "audio"
    order = 2
    inputs = ("input_features", "input_values", "audio_attention_mask")
    renamed = {"audio_attention_mask": "attention_mask"}
    floats = ("input_features", "input_values")
    pretrained = True
    has_lengths = True
    model_type = "whisper"
    argument = "audio"
    part = "feature_extractor"
    part_class = AutoFeatureExtractor
    kwargs_key = "audio_kwargs"
    item = "sound"
    items = "sounds"
    row_keys = ("audio",)
    meant = ("sound", "speech")

    def dummy_inputs(self, config, device=None, dtype=None):
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        if getattr(config, "input_size", None):  # a recurrent encoder of frames
            return {"input_features": zeros(1, 4, config.input_size)}
        if hasattr(config, "feature_projection_input_dim"):  # Wav2Vec2-BERT
            return {"input_features": zeros(1, 16, config.feature_projection_input_dim)}
        if hasattr(config, "max_source_positions") and hasattr(config, "num_mel_bins"):
            # Whisper: two frames a position
            return {"input_features": zeros(1, config.num_mel_bins, 2 * config.max_source_positions)}
        if hasattr(config, "num_mel_bins"):  # AST
            return {"input_values": zeros(1, config.max_length, config.num_mel_bins)}
        return {"input_values": zeros(1, 4000)}  # waves: Wav2Vec2 and similar

    def has_one_size(self, config):
        """Yes for Whisper and AST."""
        sized = hasattr(config, "max_source_positions") or hasattr(config, "max_length")
        return sized and hasattr(config, "num_mel_bins")

    def probe_items(self, encoder):
        """With a mask if sounds may have any length; Whisper's and AST's have one length."""
        (item,) = super().probe_items(encoder)
        (values,), config = item.values(), encoder.config
        if not self.has_one_size(config):
            item["attention_mask"] = torch.ones(values.shape[:2], dtype=torch.long, device=encoder.device)
        return [item]

    def token_mask(self, encoder, mask, tokens):
        """Which tokens contain some of the sound itself, and not only padding."""
        mask_of_tokens = getattr(encoder, "_get_feature_vector_attention_mask", None)
        if mask_of_tokens is not None:  # Wav2Vec2 and similar know the strides of their convolutions
            return mask_of_tokens(tokens, mask.long()).long()
        return mask[:, :: max(1, round(mask.shape[1] / tokens))][:, :tokens].long()

    def is_item(self, value):
        """A file, samples, or a struct of these."""
        return is_one_sound(value) or holds_numbers(value)

    def is_single(self, value):
        """Numbers that are all NaN are several rows without a sound, as pandas writes them."""
        return is_one_sound(value)

    def check(self, item, processor, settings):
        """See `samples_of`."""
        return samples_of(item, processor.feature_extractor.sampling_rate)

    def prepare(self, items, processor, settings):
        """See `prepare_sounds`."""
        return self.by_model_names(prepare_sounds(processor.feature_extractor, items, settings))

    def made_inputs(self, part):
        """With the mask, which some extractors do not list, but make on request."""
        return list(dict.fromkeys([*super().made_inputs(part), *self.renamed]))

    def part_arguments(self, part):
        return arguments_of_call(part)

    def parts_of_encoder(self, source, settings, read_config, **kwargs):
        extractor = AutoFeatureExtractor.from_pretrained(source, **kwargs)
        if settings["max_audio_seconds"] is not None:
            limit_seconds(extractor, settings["max_audio_seconds"])
        return {self.part: extractor}

    def parts(self, shapes, mask, config, item=None, processor=None):
        """Moments, counted in seconds."""
        extractor, seconds = getattr(processor, self.part, None), None
        if item is not None and extractor is not None:
            seconds = len(samples_of(item, extractor.sampling_rate)) / extractor.sampling_rate
            seconds = min([seconds, *filter(None, [getattr(extractor, "max_audio_seconds", None)])])
        tokens = shapes[0][0]
        if not hasattr(config, "time_stride"):
            return moments("sound", tokens, mask, seconds)
        # AST's tokens: two for the whole sound, then the patches of each band of frequencies, in order of time.
        across = (config.max_length - config.patch_size) // config.time_stride + 1
        length = config.max_length / FRAMES_A_SECOND
        heard = torch.arange(across) * length / across < (length if seconds is None else seconds)
        parts = moments("sound", across, heard, length if seconds is None else min(seconds, length))
        bands = parts.tokens.repeat((tokens - 2) // across)
        return replace(parts, tokens=torch.cat([torch.full((tokens - len(bands),), -1), bands]))

    def load(self, processor, config, key, value):
        """Lists of samples are the channels of one sound, if a row of the model has only one sound."""
        if self.places(config) == 1 and isinstance(value, (list, tuple)) and not any(map(is_one, value)):
            return self.load_item(processor, value), value
        return super().load(processor, config, key, value)

    def load_item(self, processor, source):
        return load_sound(source, processor.feature_extractor.sampling_rate)

    def told(self, processor):
        return {"sampling_rate": processor.feature_extractor.sampling_rate}


def is_one_sound(value: Any) -> bool:
    """Whether a value is one sound and not several: a file, samples, or a struct of these."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return not value.ndim or str(value.dtype) != "object"
    if is_one(value):
        return True
    dtype = getattr(value, "dtype", None)
    if dtype is not None and columns_of(value) is None:
        return getattr(dtype, "kind", "O") in "iufb" and not all(map(is_missing, value))  # a series of pandas
    several = isinstance(value, (list, tuple)) and bool(value)
    return several and all(isinstance(entry, Real) for entry in value) and not all(map(is_missing, value))
