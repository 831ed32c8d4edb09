"""Describes each part of a processor as JSON, so that `runtime.py` can prepare the raw items of a row.

Made-up items, short and long ones, show which input sizes of an encoder vary. They also serve to check that the
runtime prepares items in the same way as the processor.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..models.image import color_of
from ..models.image_processors import OTHER_SIZES, channels_made, picture_settings
from ..models.modality import Modality
from ..models.names import shown
from ..models.text import UNKNOWN_LENGTH


TOKENIZER = "tokenizer.json"
Settings = dict[str, Any]
# Steps of image processors that the runtime does not support.
OTHER_STEPS = ("do_pad", "do_flip_channel_order", "do_reduce_labels", "do_color_quantize", "do_thumbnail", "crop_pct")


def picture_preparation(modality: Modality, processor: Any, folder: Path) -> Settings:
    """Settings of an image processor that resizes, crops the centre, rescales and normalises.

    Raises:
        NotImplementedError: the image processor has other steps.
    """
    part = processor.image_processor

    def of(name: str) -> Any:
        value: Any = getattr(part, name, None)
        return dict(value) if type(value).__name__ == "SizeDict" else value  # of the library, a dict in all but name

    others = [name for name in (*OTHER_SIZES, *OTHER_STEPS) if of(name) and name != "patch_size"]
    size = {key: value for key, value in (of("size") or {}).items() if value is not None}
    known = set(size) in ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})
    if others or (of("do_resize") and not known):
        raise NotImplementedError(
            f"{type(part).__name__} uses {others or shown(size)}, which runtime.py does not support. It can resize to "
            "a height and width or to a shortest edge, crop the centre, rescale and normalise: serve the checkpoint "
            "with torch."
        )
    channels = channels_made(part, {}, processor.image_channels)
    mean, std = [of(name) if of("do_normalize") else None for name in ("image_mean", "image_std")]
    if channels == 1 and mean is not None and std is not None:
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    pictures = picture_settings(processor)
    crop = of("crop_size")
    return {
        "kind": "pictures",
        "input": modality.inputs[0],
        "channels": channels,
        "background": None if pictures["background"] is None else list(color_of(pictures["background"]) or ()),
        "least": None if pictures["least"] is None else list(pictures["least"]),
        "size": size if of("do_resize") else None,
        "resample": int(of("resample") or 0) if of("do_resize") else None,
        "crop": [crop["height"], crop["width"]] if of("do_center_crop") and crop else None,
        "rescale": of("rescale_factor") if of("do_rescale") else None,
        "mean": mean if mean is None or isinstance(mean, list) else list(np.broadcast_to(mean, channels)),
        "std": std if std is None or isinstance(std, list) else list(np.broadcast_to(std, channels)),
    }


def text_preparation(modality: Modality, processor: Any, folder: Path) -> Settings:
    """Settings of a tokenizer of the library `tokenizers`. Its file is written too."""
    return {**tokenizer_settings(processor, folder), "inputs": modality.made_inputs(processor.tokenizer)}


def tokenizer_settings(processor: Any, folder: Path) -> Settings:
    """Writes the file of a tokenizer, and gives its other settings.

    Raises:
        NotImplementedError: the tokenizer is written in Python.
    """
    tokenizer = processor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        raise NotImplementedError(
            f"{type(tokenizer).__name__} is written in Python, but runtime.py supports only tokenizers of the library "
            "`tokenizers`: use the fast version of the tokenizer."
        )
    (folder / TOKENIZER).write_text(backend.to_str(), encoding="utf-8")
    longest = tokenizer.model_max_length
    return {
        "kind": "texts",
        "file": TOKENIZER,
        "max_length": None if longest is None or longest > UNKNOWN_LENGTH else int(longest),
        "truncation_side": tokenizer.truncation_side,
        "windows": processor.text_windows,
        "pad_id": int(tokenizer.pad_token_id or 0),
        "pad_type_id": int(getattr(tokenizer, "pad_token_type_id", 0) or 0),
        "unk_id": tokenizer.unk_token_id,
        "clean_up": bool(getattr(tokenizer, "clean_up_tokenization_spaces", False)),
    }


def sound_preparation(modality: Modality, processor: Any, folder: Path) -> Settings:
    """Settings of feature extractors that give waves (Wav2Vec2) or the frames of Whisper, Speech2Text or AST.

    Raises:
        NotImplementedError: the feature extractor is another one.
    """
    part, inputs = processor.feature_extractor, modality.made_inputs(processor.feature_extractor)
    name = type(part).__name__.removesuffix("FeatureExtractor")
    common = {
        "kind": "sounds",
        "rate": part.sampling_rate,
        "max_seconds": getattr(part, "max_audio_seconds", None),
        "padding_value": float(part.padding_value),
        "input": next(each for each in inputs if each in modality.floats),
        "mask": next(iter(modality.renamed)),
        "inputs": inputs,
        "channels_first": False,
        "normalize": bool(getattr(part, "do_normalize", False)),
    }
    if name == "Wav2Vec2":
        return {**common, "make": "wave"}
    kinds = {"Whisper": "log_mel", "Speech2Text": "filter_banks", "AST": "patches"}
    if name not in kinds or getattr(part, "dither", None) or not hasattr(part, "mel_filters"):
        raise NotImplementedError(
            f"runtime.py does not support {type(part).__name__}; it supports {['Wav2Vec2', *kinds]}, without dither: "
            "serve the checkpoint with torch."
        )
    whisper = name == "Whisper"
    if name == "AST":  # it has a fixed number of frames, and gives no mask
        common["inputs"] = [common["input"]]
    window = torch.hann_window(part.n_fft).numpy() if whisper else np.asarray(part.window)
    file = f"{modality.name}.npz"
    np.savez(folder / file, window=window, mel_filters=np.asarray(part.mel_filters))
    return {
        **common,
        "make": kinds[name],
        "arrays": file,
        "hop": part.hop_length if whisper else 160,
        "fft_length": part.n_fft if whisper else 512,
        "center": whisper,
        "preemphasis": None if whisper else 0.97,
        "remove_dc_offset": not whisper,
        "floor": 1e-10 if whisper else 1.192092955078125e-07,
        "channels_first": whisper,
        "samples": getattr(part, "n_samples", None),
        "frames": getattr(part, "max_length", None),
        "mean": getattr(part, "mean", None),
        "std": getattr(part, "std", None),
        "normalize_means": getattr(part, "do_ceptral_normalize", False) and part.normalize_means,
        "normalize_vars": getattr(part, "do_ceptral_normalize", False) and part.normalize_vars,
    }


def table_preparation(modality: Modality, processor: Any, folder: Path) -> Settings:
    """Settings for the columns of a table."""
    schema = processor.table_schema
    names = list(modality.inputs)
    has_columns = [bool(schema.numerical or schema.dates), bool(schema.categorical)]
    return {
        "kind": "columns",
        "schema": schema.to_dict(),
        "names": names,
        "inputs": [name for name, made in zip(names, has_columns) if made],
    }


def series_preparation(modality: Modality, processor: Any, folder: Path) -> Settings:
    """Settings for the channels of time series."""
    scaler = processor.series_scaler
    values = {"means": scaler.means, "stds": scaler.stds, "widths": scaler.widths}
    return {"kind": "steps", "names": list(modality.inputs), **values}


# The function that describes each part of a processor.
PREPARATIONS: dict[str, Callable[[Modality, Any, Path], Settings]] = {
    "image_processor": picture_preparation,
    "tokenizer": text_preparation,
    "feature_extractor": sound_preparation,
    "table_schema": table_preparation,
    "series_scaler": series_preparation,
}


def preparation_of(modality: Modality, processor: Any, folder: Path) -> Settings | None:
    """How items of a modality are prepared; None for a modality from outside the package, because only its own code
    can prepare them."""
    return None if modality.extra else PREPARATIONS[modality.part](modality, processor, folder)


def made_up_items(modality: Modality, processor: Any, count: int, size: int) -> list[Any]:
    """Different raw items, as in the row of a pipeline. A larger `size`, of at least 1, gives longer items."""
    draw = np.random.default_rng(size)
    return [MADE_UP[modality.part](processor, draw, size, number) for number in range(count)]


def made_up_picture(processor: Any, draw: np.random.Generator, size: int, number: int) -> Any:
    """Blurred noise. Sharp pixels would be resized slightly differently by each library."""
    width, height = 96 + 16 * size * (1 + number % 2), 96 + 16 * size * (2 - number % 2)
    noise = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def made_up_text(processor: Any, draw: np.random.Generator, size: int, number: int) -> str:
    """Words of the vocabulary."""
    words = sorted(word for word in processor.tokenizer.get_vocab() if word.isalpha() and word.isascii()) or ["a"]
    return " ".join(words[place] for place in draw.integers(0, len(words), 2 * size + number))


def made_up_sound(processor: Any, draw: np.random.Generator, size: int, number: int) -> Mapping[str, Any]:
    """Noise of some tenths of a second."""
    rate = processor.feature_extractor.sampling_rate
    samples = draw.standard_normal(int(rate * 0.1 * (size + number))).astype(np.float32) / 10
    return {"array": samples, "sampling_rate": rate}


def made_up_table(processor: Any, draw: np.random.Generator, size: int, number: int) -> Mapping[str, Any]:
    """Numbers near the mean, known categories, dates near the mean, and a gap."""
    schema = processor.table_schema
    row: dict[str, Any] = {name: float(mean + std * draw.normal()) for name, (mean, std) in schema.numerical.items()}
    row |= {name: values[number % len(values)] if values else "?" for name, values in schema.categorical.items()}
    for name, column in schema.dates.items():
        row[name] = str(np.datetime64("1970-01-01") + np.timedelta64(math.floor(column.mean), "D"))
    if len(row) > 1 and number % 2:
        row[next(iter(row))] = None
    return row


def made_up_series(processor: Any, draw: np.random.Generator, size: int, number: int) -> list:
    """Steps near the mean."""
    scaler = processor.series_scaler
    width = (scaler.widths or [scaler.channels])[0]
    return draw.normal(scaler.means[:width], scaler.stds[:width], (size + number + 1, width)).tolist()


MADE_UP: dict[str, Callable[[Any, np.random.Generator, int, int], Any]] = {
    "image_processor": made_up_picture,
    "tokenizer": made_up_text,
    "feature_extractor": made_up_sound,
    "table_schema": made_up_table,
    "series_scaler": made_up_series,
}
