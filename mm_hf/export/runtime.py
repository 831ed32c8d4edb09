"""Answers of an exported model, without torch, transformers or mm_hf: this file and the folder that it lies in.

It needs onnxruntime, numpy, tokenizers (for texts), Pillow (for pictures) and soundfile (for files of sounds):

    from runtime import Model
    model = Model("exported")  # the folder
    model({"image": "cat.png", "text": "a caption"})  # one row, or a list of them
    python exported/runtime.py '{"image": "cat.png", "text": "a caption"}'

Rows and answers are those of the pipelines of mm_hf: a row is a dict of `image`, `text` (or `question`), `audio`,
`table`, `series` …, any of which may be missing or None. manifest.json says what this model reads and answers. What
was exported as programs of torch runs too, where torch is there.

Notation used for shapes: `B` rows, `U` distinct items, `T` tokens, `K` places of a row, `S` steps or samples.
"""

import io
import json
import math
import os
import re
import stat
import sys
import warnings
from datetime import date, datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np


class RowError(ValueError):
    """What a row has that cannot be read."""


def regular_file(path, what):
    """The path of a regular file: a pipe would wait for ever, and a device never ends."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        raise RowError(f"the {what} cannot be read: there is no file {os.fspath(path)!r:.300}.") from None
    if not stat.S_ISREG(mode):
        raise RowError(f"the {what} cannot be read: {os.fspath(path)!r:.300} is no regular file.")
    return path


def is_missing(value):
    """Whether there is no value: None, NaN, or what pandas has for it."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating, np.datetime64)) and value != value


# ---- Pictures

FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "MPO", "DIB", "ICO", "PPM", "QOI"),
    *("PCX", "SGI", "TGA"),
)
MAX_ASPECT = 1000
ORIENTATION = 0x0112  # the key in EXIF data
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # by orientation what Pillow's `transpose` does to make it upright
SIDEWAYS = (5, 6, 7, 8)


class Pictures:
    """Opens pictures as in training, upright and without transparency, and makes pixels of them."""

    def __init__(self, settings, folder):
        from PIL import Image

        Image.init()  # or the list of formats is not complete
        self.pil, self.settings = Image, settings

    def load(self, source):
        """A path, the bytes of a file, a dict of `bytes` and `path`, a picture of Pillow, or an array `(H, W)` or
        `(H, W, C)`."""
        channels = self.settings["channels"]
        if isinstance(source, np.ndarray):
            source = self.pil.fromarray(eight_bits(source))
        if isinstance(source, self.pil.Image):
            return self.meaning(source, channels)
        if isinstance(source, dict):
            source = source.get("path") if source.get("bytes") is None else source["bytes"]
        if isinstance(source, (bytes, bytearray, memoryview)):
            source = io.BytesIO(source)
        elif isinstance(source, (str, os.PathLike)):
            source = regular_file(source, "picture")
        else:
            raise RowError(f"this is no picture: {source!r:.80}.")
        try:
            with self.pil.open(source, formats=[name for name in FORMATS if name in self.pil.OPEN]) as image:
                if self.settings["least"] is not None and image.format in ("JPEG", "MPO"):
                    width, height = self.settings["least"]  # enough: the decoder leaves out what does not show
                    sideways = orientation_of(image) in SIDEWAYS
                    image.draft(None, (height, width) if sideways else (width, height))
                return self.meaning(image, channels)
        except RowError:
            raise
        except Exception as error:  # Pillow raises a dozen types for broken files
            reason = " ".join(str(error).split())
            raise RowError(
                f"the picture cannot be read ({type(error).__name__}: {reason:.200}). Read are JPEG, PNG and the like."
            ) from None

    def meaning(self, image, channels):
        """A picture upright, in 8 bits, without transparency, of mode `RGB` or `L`."""
        if max(image.size) > MAX_ASPECT * min(image.size):
            raise RowError(
                f"the picture has {image.size[0]} × {image.size[1]} pixels: one side may be {MAX_ASPECT} times the "
                "other at most."
            )
        image.load()
        ground, kind = self.settings["background"], image.format
        turn = TURNS.get(orientation_of(image))
        turned = image if turn is None else image.transpose(turn)
        if image.mode.startswith("I") or image.mode == "F":
            values = np.asarray(turned)
            values = values.astype(np.uint16) if kind == "PPM" and image.mode == "I" else values
            plain, hidden = self.pil.fromarray(eight_bits(values)), image.info.get("transparency")
            if ground is not None and isinstance(hidden, int):
                mask = self.pil.fromarray(255 * (values != hidden).astype(np.uint8))
                plain = self.on_ground(plain.convert("RGB"), mask)
        elif ground is not None and turned.has_transparency_data:
            whole = (turned.convert("LA") if turned.mode == "La" else turned).convert("RGBA")
            plain = self.on_ground(whole.convert("RGB"), whole.getchannel("A"))
        else:
            plain = turned if turned.mode in ("L", "RGB") else turned.convert("RGB")
        return plain.convert("L" if channels == 1 else "RGB")

    def on_ground(self, picture, mask):
        """A picture on the ground that its transparent pixels show."""
        shown = self.pil.new("RGB", picture.size, tuple(self.settings["background"]))
        shown.paste(picture, mask=mask)
        return shown

    def inputs(self, images):
        """`pixel_values` `(U, C, H, W)`."""
        return {self.settings["input"]: np.stack([self.pixels(image) for image in images])}

    def pixels(self, image):
        """What the image processor makes of one picture: resized, cut, scaled, normalised; `(C, H, W)` float32."""
        settings = self.settings
        if settings["size"] is not None:
            image = image.resize(self.size_of(*image.size), resample=settings["resample"], reducing_gap=None)
        values = np.asarray(image)
        values = values[:, :, None] if values.ndim == 2 else values
        if settings["crop"] is not None:
            values = center_crop(values, *settings["crop"])
        values = values.astype(np.float32)
        if settings["rescale"] is not None:
            values = values * np.float32(settings["rescale"])
        if settings["mean"] is not None:
            values = (values - np.float32(settings["mean"])) / np.float32(settings["std"])
        return values.transpose(2, 0, 1).astype(np.float32)

    def size_of(self, width, height):
        """The width and height that a picture is resized to."""
        size = self.settings["size"]
        if "shortest_edge" not in size:
            return size["width"], size["height"]
        short, long = min(width, height), max(width, height)
        edge = size["shortest_edge"]
        new_long = int(edge * long / short)
        if size.get("longest_edge") is not None and new_long > size["longest_edge"]:
            edge, new_long = int(size["longest_edge"] * edge / new_long), size["longest_edge"]
        return (edge, new_long) if width <= height else (new_long, edge)


def orientation_of(image):
    """As its EXIF data say; 1 where these are broken."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # no reason to lose the picture
        return 1


def eight_bits(values):
    """Pixels scaled to uint8 by their kind: truth values, integers of 8, 16 or 32 bits, floats from 0 to 1, 255 or
    65535; see `eight_bits` of mm_hf."""
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return values
    if kind == "b":
        return 255 * values.astype(np.uint8)
    low, high = float(values.min()), float(values.max())
    if kind == "f":
        top = next((top for top in (1, 255, 65535) if high <= 1.1 * top), None)
        low += 0.1 * max(high, 0)
    elif values.dtype == np.uint16:
        top = 65535
    else:
        top = next((top for top in (255, 65535, 2**31 - 1, 2**32 - 1) if high <= top), None)
        top = 2**32 - 1 if values.dtype == np.uint32 and top == 2**31 - 1 else top
    guessed = top is not None and (kind == "f" or top > 65535) and top != 1
    if kind not in "uif" or top is None or not np.isfinite(high) or low < 0 or (guessed and high < top / 16):
        raise RowError(f"the picture has pixels from {low:.6g} to {high:.6g} ({values.dtype}): scale it.")
    return np.clip(np.rint(values.astype(np.float64) * (255 / top)), 0, 255).astype(np.uint8)


def center_crop(values, height, width):
    """The middle of a picture `(H, W, C)`; one that is smaller stands in the middle of zeros."""
    top, left = (values.shape[0] - height) // 2, (values.shape[1] - width) // 2
    if top >= 0 and left >= 0:
        return values[top : top + height, left : left + width]
    tall, wide = max(height, values.shape[0]), max(width, values.shape[1])
    padded = np.zeros((tall, wide, values.shape[2]), values.dtype)
    above, before = math.ceil((tall - values.shape[0]) / 2), math.ceil((wide - values.shape[1]) / 2)
    padded[above : above + values.shape[0], before : before + values.shape[1]] = values
    top, left = max(0, top + above), max(0, left + before)
    return padded[top : top + height, left : left + width]


# ---- Texts


class Texts:
    """Makes tokens of texts, cut to what the encoder reads, and texts of tokens."""

    def __init__(self, settings, folder):
        from tokenizers import Tokenizer

        self.settings = settings
        self.tokenizer = Tokenizer.from_file(str(folder / settings["file"]))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.whole = None
        if settings["max_length"] is not None:
            if settings["windows"]:
                self.whole = Tokenizer.from_file(str(folder / settings["file"]))
                self.whole.no_truncation()
            self.tokenizer.enable_truncation(settings["max_length"], direction=settings["truncation_side"])

    def load(self, source):
        """A text, or the list of its windows where the model reads long texts so."""
        if not isinstance(source, str) or not source.strip():
            raise RowError(f"the text is empty or no string ({source!r:.80}); None means that there is none.")
        try:
            source.encode()
        except UnicodeEncodeError:
            raise RowError(f"the text has a lone surrogate, and so is no valid Unicode ({source!r:.80}).") from None
        return source

    def inputs(self, texts):
        """`input_ids`, `attention_mask` and `token_type_ids`, those that the model has, `(U, T)` int64."""
        encoded = self.tokenizer.encode_batch(list(texts))
        length = max(1, *(len(each.ids) for each in encoded))
        made = {
            "input_ids": np.full((len(texts), length), self.settings["pad_id"], np.int64),
            "attention_mask": np.zeros((len(texts), length), np.int64),
            "token_type_ids": np.full((len(texts), length), self.settings["pad_type_id"], np.int64),
        }
        for row, each in enumerate(encoded):
            ids = each.ids
            if not ids:  # no word in it is known
                if self.settings["unk_id"] is None:
                    raise RowError(f"The text {texts[row]!r:.80} has no token.")
                ids = [self.settings["unk_id"]]
            made["input_ids"][row, : len(ids)], made["attention_mask"][row, : len(ids)] = ids, 1
            if each.ids:
                made["token_type_ids"][row, : len(ids)] = each.type_ids
        return {name: made[name] for name in self.settings["inputs"]}

    def windows(self, text):
        """A text as windows of at most as many tokens as the encoder reads, see `windows_of` of mm_hf."""
        whole, count = self.whole, self.settings["windows"]
        room = self.settings["max_length"] - whole.num_special_tokens_to_add(False)
        if len(text.encode("utf-8", "surrogatepass")) <= room:
            return [text]
        offsets = whole.encode(text, add_special_tokens=False).offsets
        offsets = [(start, end) for start, end in offsets if end > start]
        if len(offsets) <= room:
            return [text]

        def begins_word(at):
            start = offsets[at][0]
            return start == 0 or text[start - 1].isspace() or text[start].isspace()

        windows: list[str] = []
        begin = 0
        while len(windows) < count:
            end = min(begin + room, len(offsets))
            if end < len(offsets):  # back to the end of a word
                end = next((at for at in range(end, end - room // 4, -1) if begins_word(at)), end)
            windows.append(text[offsets[begin][0] : offsets[end - 1][1]])
            if end == len(offsets):
                break
            nominal = end - room // 8
            begin = max(begin + 1, next((at for at in range(nominal, end + 1) if begins_word(at)), nominal))
        return windows

    def decode(self, ids):
        """The text of tokens."""
        text = self.tokenizer.decode([int(number) for number in ids], skip_special_tokens=True)
        if self.settings["clean_up"]:
            for mark in (".", "?", "!", ",", "'"):
                text = text.replace(f" {mark}" if mark != "'" else " ' ", mark)
            for short in ("n't", "'m", "'s", "'ve", "'re"):
                text = text.replace(f" {short}", short)
        return text.strip()


# ---- Sounds

SAMPLING_RATES = range(1000, 768001)
MAX_SECONDS = 3600
HIGHEST_RATE = 192_000
MAX_CHANNELS = 64
MAX_TAPS = 1_000_000


class Sounds:
    """Reads sounds at the rate of the encoder, and makes waves or frames of them."""

    def __init__(self, settings, folder):
        self.settings = settings
        file = settings.get("arrays")
        self.arrays = dict(np.load(folder / file, allow_pickle=False)) if file else {}

    def load(self, source):
        """`(S,)` float32, of a path, the bytes of a file, a dict of `array` and `sampling_rate` or of `bytes` and
        `path`, or an array at the encoder's rate."""
        wanted = self.settings["rate"]
        if isinstance(source, dict) and set(source) <= {"bytes", "path"}:
            source = source.get("path") if source.get("bytes") is None else source["bytes"]
        if isinstance(source, (str, bytes, bytearray, memoryview, os.PathLike)):
            samples, rate = read_sound(source)
        elif isinstance(source, dict):
            samples, rate = source.get("array", source.get("raw")), source.get("sampling_rate")
            if samples is None or isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)):
                raise RowError(f"samples need an array and a sampling_rate, got {sorted(source)} and {rate!r:.80}.")
        else:
            samples, rate = source, wanted
        samples = np.asarray(samples)
        if samples.ndim not in (1, 2) or samples.dtype.kind != "f" or not samples.size:
            raise RowError(f"the sound is empty or no floats: {samples.dtype} of shape {samples.shape}.")
        if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
            raise RowError(f"samples of several channels must be (channels, samples), got {samples.shape}.")
        check_sound(samples.shape[-1], rate, 1 if samples.ndim == 1 else len(samples))
        with np.errstate(over="ignore", invalid="ignore"):
            samples = samples.astype(np.float32)
            samples = samples if samples.ndim == 1 else samples.mean(0)
        if not np.isfinite(samples).all():
            raise RowError("the sound has samples that are no finite numbers.")
        return samples if rate == wanted else resampled(samples, int(rate), wanted)

    def inputs(self, sounds):
        """What the feature extractor makes of sounds, and the mask of what is heard."""
        settings, least = self.settings, self.settings["rate"] // 25
        if settings["max_seconds"] is not None:
            sounds = [sound[: settings["max_seconds"] * settings["rate"]] for sound in sounds]
        sounds = [np.pad(sound, (0, max(0, least - len(sound)))) for sound in sounds]
        features, lengths = zip(*(getattr(self, settings["make"])(sound) for sound in sounds))
        longest = max(len(each) for each in features)
        values = np.full((len(sounds), longest, *features[0].shape[1:]), settings["padding_value"], np.float32)
        mask = np.zeros((len(sounds), longest), np.int64)
        for row, (each, length) in enumerate(zip(features, lengths)):
            values[row, : len(each)], mask[row, :length] = each, 1
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        values = values.swapaxes(1, 2) if settings["channels_first"] else values
        made = {settings["input"]: np.ascontiguousarray(values), settings["mask"]: mask}
        return {name: made[name] for name in settings["inputs"]}

    def wave(self, sound):
        """Of Wav2Vec2 and its kin: `(S,)`, of mean 0 and deviation 1."""
        if self.settings["normalize"]:
            sound = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
        return sound.astype(np.float32), len(sound)

    def log_mel(self, sound):
        """Of Whisper: `(frames, mel bands)` of one length whatever the sound's."""
        samples, hop = self.settings["samples"], self.settings["hop"]
        length = min(len(sound), samples)
        sound = np.pad(sound[:samples], (0, samples - length))
        frames = np.log10(np.maximum(self.spectrogram(sound), self.settings["floor"]))[:-1]
        return ((np.maximum(frames, frames.max() - 8.0) + 4.0) / 4.0).astype(np.float32), math.ceil(length / hop)

    def filter_banks(self, sound):
        """Of Speech2Text: `(frames, mel bands)`, each band of mean 0 and deviation 1 over the sound."""
        frames = np.log(np.maximum(self.spectrogram(sound * 2**15), self.settings["floor"])).astype(np.float32)
        if self.settings["normalize_means"]:
            frames = frames - frames.mean(0)
        if self.settings["normalize_vars"]:
            frames = frames / np.sqrt(np.square(frames - frames.mean(0)).mean(0))
        return frames.astype(np.float32), len(frames)

    def patches(self, sound):
        """Of AST: `(frames, mel bands)` of one length whatever the sound's."""
        most = self.settings["frames"]
        frames = np.log(np.maximum(self.spectrogram(sound), self.settings["floor"])).astype(np.float32)[:most]
        frames = np.pad(frames, ((0, most - len(frames)), (0, 0)))
        if self.settings["normalize"]:
            frames = (frames - self.settings["mean"]) / (self.settings["std"] * 2)
        return frames.astype(np.float32), most

    def spectrogram(self, sound):
        """Powers in mel bands, `(frames, mel bands)` float64."""
        window, hop, settings = self.arrays["window"].astype(np.float64), self.settings["hop"], self.settings
        length, sound = len(window), sound.astype(np.float64)
        if settings["center"]:
            sound = np.pad(sound, length // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(sound, length)[::hop].copy()
        if settings["remove_dc_offset"]:
            frames -= frames.mean(1, keepdims=True)
        if settings["preemphasis"]:
            frames[:, 1:] -= settings["preemphasis"] * frames[:, :-1]
            frames[:, 0] *= 1 - settings["preemphasis"]
        powers = np.abs(np.fft.rfft(frames * window, settings["fft_length"])) ** 2
        return powers @ self.arrays["mel_filters"].astype(np.float64)


def read_sound(source):
    """The samples of a file, `(S,)` float32, channels averaged, and their sampling rate."""
    import soundfile

    path = None if isinstance(source, (bytes, bytearray, memoryview)) else regular_file(source, "sound")
    try:
        with soundfile.SoundFile(io.BytesIO(source) if path is None else path) as file:
            check_sound(file.frames, file.samplerate, file.channels)
            blocks = [np.zeros(0, np.float32)]
            with np.errstate(over="ignore", invalid="ignore"):
                blocks += [block.T.mean(0) for block in file.blocks(2**20, dtype="float32", always_2d=True)]
            return np.concatenate(blocks), file.samplerate
    except (soundfile.LibsndfileError, TypeError, MemoryError) as error:
        raise RowError(f"the sound cannot be read: {getattr(error, 'error_string', error)}") from None


def check_sound(samples, rate, channels):
    """Refuses a rate that no sound has, and a sound that is too long or has too many channels."""
    if rate not in SAMPLING_RATES or samples > MAX_SECONDS * min(rate, HIGHEST_RATE) or channels > MAX_CHANNELS:
        raise RowError(
            f"the sound has {samples} samples, {channels} channels and a sampling rate of {rate}; read are up to "
            f"{MAX_SECONDS} seconds, {MAX_CHANNELS} channels, and rates from {SAMPLING_RATES[0]} to "
            f"{SAMPLING_RATES[-1]}."
        )


def resampled(samples, rate, wanted):
    """Samples at another rate, by a polyphase filter with Kaiser's window: what scipy's `resample_poly` does."""
    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    half = 10 * max(up, down)
    if 2 * half + 1 > MAX_TAPS:
        raise RowError(
            f"resampling from {rate} to {wanted} needs too large a filter: bring it to a usual rate before."
        )
    taps = np.sinc((np.arange(2 * half + 1) - half) / max(up, down)) * np.kaiser(2 * half + 1, 5.0)
    taps = (taps / taps.sum() * up).astype(np.float32)
    count = -(-len(samples) * up // down)
    rounds = -(-len(taps) // up)  # taps that meet a sample, of each phase
    taps = np.pad(taps, (0, rounds * up - len(taps))).reshape(rounds, up)
    padded = np.pad(samples, (rounds, rounds))
    made = np.empty(count, np.float32)
    for start in range(0, count, 2**16):  # a block at a time: each needs `rounds` numbers
        places = np.arange(start, min(start + 2**16, count)) * down + half
        nearest = np.minimum(places // up, len(samples) + rounds - 1)
        seen = padded[nearest[:, None] + rounds - np.arange(rounds)]
        made[start : start + len(places)] = (seen * taps[:, places % up].T).sum(1)
    return made


# ---- Tables

MISSING, UNKNOWN, KNOWN = 0, 1, 2  # ids of a column of categories
LARGEST = 1e30
DAY = 24 * 60 * 60
PLAIN = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)", re.ASCII | re.IGNORECASE)
CODE = re.compile(r"[+-]?0\d+", re.ASCII)
UNITS = "%‰$€£¥"
WRITTEN = re.compile(
    r"[+-]?\s*[$€£¥]?[\s\u00a0]*[+-]?(\d{1,3}([,.' \u00a0\u202f]\d{3})+([.,]\d+)?|\d+([.,]\d+)?)"
    r"[\s\u00a0\u202f]*[%‰$€£¥]?",
    re.ASCII,
)
GROUPS = r"[1-9]\d{{0,2}}(?P<parted>[{}' \u00a0\u202f])\d{{3}}(?:(?P=parted)\d{{3}})*"
MARKED = {
    mark: re.compile(rf"[+-]?(?:{GROUPS.format(other)}|\d+)(?:[{mark}]\d+)?", re.ASCII)
    for mark, other in ((",", "."), (".", ","))
}
ISO = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2})?(?:[.,](\d{1,9}))?(?: ?(Z|[+-]\d{2}(?::?\d{2})?))?)?", re.ASCII
)
PADDED = re.compile(r"\d\d[./]\d\d[./]\d\d(?!\d)", re.ASCII)


class Tables:
    """Makes numbers of a row's columns, as the training rows tell what they mean."""

    def __init__(self, settings, folder):
        self.settings, self.schema = settings, settings["schema"]
        names = ("numerical", "dates", "categorical")
        self.numerical, self.dates, self.categorical = (self.schema.get(name) or {} for name in names)
        self.columns = [*self.numerical, *self.dates, *self.categorical]
        self.marks, self.farthest = self.schema.get("marks") or {}, self.schema.get("farthest")
        self.as_written = self.schema.get("as_written", False)

    def load(self, source):
        """A row, checked; None where it has nothing but gaps."""
        if not isinstance(source, dict):
            raise RowError(f"a table's row is a dict of columns, got {source!r:.80}.")
        for name, value in source.items():
            if name not in self.columns or isinstance(value, (list, tuple, dict, np.ndarray)):
                raise RowError(
                    f"Column {name!r}: the table has one value for each of {self.columns}, got {value!r:.80}."
                )
            if self.is_gap(value) or name in self.categorical:
                continue
            if name in self.dates:
                if self.date_of(name, value) is None:
                    raise RowError(f"Column {name!r}: this must be a date or time, got {value!r:.80}.")
                continue
            number, (mean, std) = self.number(name, value), self.numerical[name]
            size = None if number is None else abs(number if self.farthest is not None else (number - mean) / std)
            if size is None or not size < LARGEST:
                raise RowError(f"Column {name!r}: this must be a finite number, got {value!r:.80}.")
        return None if all(map(self.is_gap, source.values())) else source

    def inputs(self, rows):
        """`numerical_values` `(U, N)` float32, NaN for what is missing, and `categorical_ids` `(U, K)` int64."""
        numbers = [[*self.numbers_of(row), *self.parts_of_dates(row)] for row in rows]
        ids = [[self.id_of(name, row.get(name)) for name in self.categorical] for row in rows]
        values = np.array(numbers, np.float64).reshape(len(rows), -1)
        if self.farthest is not None:
            values = values.clip(-self.farthest, self.farthest)
        made = dict(zip(self.settings["names"], (values.astype(np.float32), np.array(ids, np.int64))))
        return {name: made[name] for name in self.settings["inputs"]}

    def is_gap(self, value):
        """Whether a cell has no value; a blank text is one too."""
        return is_missing(value) or (self.as_written and isinstance(value, str) and not value.strip())

    def numbers_of(self, row):
        """The columns of numbers, standardised."""
        for name, (mean, std) in self.numerical.items():
            value = row.get(name)
            yield math.nan if self.is_gap(value) else (self.number(name, value) - mean) / std

    def number(self, name, value):
        """A cell as a number; None where it is none."""
        if isinstance(value, str):
            return read_marked(value, self.marks.get(name))
        if isinstance(value, (bool, np.bool_)):
            return None
        try:
            return float(value)
        except OverflowError:
            return math.inf
        except (TypeError, ValueError):
            return None

    def date_of(self, name, value):
        """A cell as a date; None where it is none."""
        return read_date(value, self.dates[name]["format"])

    def parts_of_dates(self, row):
        """The columns of dates as numbers: distance from the mean, place in the year, in the week and in the day."""
        for name, column in self.dates.items():
            value = row.get(name)
            moment = None if self.is_gap(value) else self.date_of(name, value)
            if moment is None:
                yield from [math.nan] * (7 if column.get("hours") else 5)
                continue
            day = (moment.hour * 60 * 60 + moment.minute * 60 + moment.second) / DAY
            turns = [(moment.timetuple().tm_yday - 1 + day) / 365.25, (moment.weekday() + day) / 7]
            known = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
            yield (known.timestamp() / DAY - column["mean"]) / column["std"]
            for turn in [*turns, *([day] if column.get("hours") else [])]:
                yield from (math.sin(2 * math.pi * turn), math.cos(2 * math.pi * turn))

    def id_of(self, name, value):
        """The id of a category."""
        if self.is_gap(value):
            return MISSING
        text, known = category(value), self.categorical[name]
        if text not in known and not self.as_written:  # digits that were numbers once: "007" and "7.0" are "7"
            number = float(text) if PLAIN.fullmatch(text.strip()) else math.inf
            whole = abs(number) < 2**53 and number == int(number) and not any(map(CODE.fullmatch, known))
            text = str(int(number)) if whole else text
        return KNOWN + known.index(text) if text in known else UNKNOWN


def category(value):
    """A category as a string; whole numbers are spelled alike, whether or not they were read as floats."""
    if not isinstance(value, (str, bool, np.bool_)):
        number = float(value)
        if math.isfinite(number) and number == int(number):
            return str(int(value))
    return str(bool(value)) if isinstance(value, np.bool_) else str(value)


def read_marked(text, mark):
    """The number that a text spells, where `mark` begins its decimals and ends with the sign of its unit; None where
    it is none."""
    text = text.strip()
    if mark is not None and len(mark) > 1:
        unit, mark = mark[1:], mark[:1]
        signs = [letter for letter in text if letter in UNITS]
        if signs == [unit] and WRITTEN.fullmatch(text):
            text = re.sub(r"^([+-]?)\s+", r"\1", text.replace(unit, "", 1).strip())
    if mark is None or not MARKED[mark].fullmatch(text):
        return float(text) if PLAIN.fullmatch(text) else None
    whole, _, decimals = text.partition(mark)
    return float(f"{re.sub(r'[^0-9+-]', '', whole)}.{decimals or 0}")


def read_date(value, form):
    """A date or time, or a text that is one in this form or in ISO 8601; None for anything else."""
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, np.datetime64):
        exact = value.astype("datetime64[us]").item()
        return exact if isinstance(exact, datetime) else None
    if not isinstance(value, str) or len(value) > 40:
        return None
    text, iso = value.strip(), ISO.fullmatch(value.strip())
    try:
        if iso is not None:
            day, minute, second, fraction, zone = iso.groups()
            zone = {None: "", "Z": "+00:00"}.get(zone, f"{zone[:3]}:{zone[3:].strip(':') or '00'}" if zone else "")
            clock = f"T{minute}{second or ':00'}.{(fraction or '').ljust(6, '0')[:6]}{zone}" if minute else ""
            return datetime.fromisoformat(day + clock)
        if form == "ISO 8601" or ("%y" in form and "b" not in form and not PADDED.match(text)):
            return None
        return datetime.strptime(text, form)
    except ValueError:
        return None


# ---- Time series

FARTHEST = 1e4


class Series:
    """Brings each channel of a series to mean 0 and deviation 1 of the training rows."""

    def __init__(self, settings, folder):
        self.settings = settings
        self.means, self.stds = np.array(settings["means"]), np.array(settings["stds"])
        self.channels, start = {}, 0  # by the channels that a series has those of the encoder that it fills
        for width in dict.fromkeys(settings["widths"] or [len(self.means)]):
            self.channels[width] = slice(start, start + width)
            start += width

    def load(self, source):
        """`(S, C)` float32, standardised, of a list of steps or an array; None where all of it is missing."""
        try:
            values = np.asarray(source, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise RowError(f"a series is a list of steps, each a list of numbers: {error!s:.80}.") from None
        if np.isnan(values).all():
            return None
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or values.shape[1] not in self.channels or (np.abs(values) > LARGEST).any():
            raise RowError(
                f"a series is finite steps of {' or '.join(map(str, self.channels))} channels, got {values.shape}."
            )
        place = self.channels[values.shape[1]]
        scaled = np.zeros((len(values), len(self.means)))
        scaled[:, place] = np.nan_to_num((values - self.means[place]) / self.stds[place], nan=0.0)
        return scaled.clip(-FARTHEST, FARTHEST).astype(np.float32)

    def inputs(self, series):
        """`series_values` `(U, S, C)` and `series_attention_mask` `(U, S)`."""
        longest = max(map(len, series))
        values = np.zeros((len(series), longest, series[0].shape[1]), np.float32)
        mask = np.zeros((len(series), longest), np.int64)
        for row, each in enumerate(series):
            values[row, : len(each)], mask[row, : len(each)] = each, 1
        return dict(zip(self.settings["names"], (values, mask)))


PREPARERS: dict[str, Any] = {
    "pictures": Pictures,
    "texts": Texts,
    "sounds": Sounds,
    "columns": Tables,
    "steps": Series,
}


# ---- The model


class OnnxGraph:
    """A graph in onnxruntime, on the CPU."""

    def __init__(self, path, names, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [value.name for value in self.session.get_inputs()]  # of `names` those that it looks at
        self.outputs = [value.name for value in self.session.get_outputs()]

    def __call__(self, inputs):
        return dict(zip(self.outputs, self.session.run(None, {name: inputs[name] for name in self.names})))


class TorchGraph:
    """A program of torch.export."""

    def __init__(self, path, names, threads):
        import torch

        self.names, self.torch, self.program = names, torch, torch.export.load(str(path)).module()
        if threads is not None:
            torch.set_num_threads(threads)

    def __call__(self, inputs):
        with self.torch.no_grad():
            outputs = self.program(**{name: self.torch.from_numpy(inputs[name]) for name in self.names})
        return {name: value.numpy() for name, value in outputs.items()}


BACKENDS: dict[str, Any] = {".onnx": OnnxGraph, ".pt2": TorchGraph}


def warn_of_other_versions(made):
    """Warns where a package that answers has another major version than the one that the export was tried with."""
    for name in ("onnxruntime", "numpy", "tokenizers"):
        try:
            here = version(name)
        except PackageNotFoundError:
            continue
        if name in made and major_of(made[name]) != major_of(here):
            warnings.warn(
                f"This export was tried with {name} {made[name]}, and here is {here}: its answers may differ. "
                "Install that version, or export it again.",
                stacklevel=3,
            )


def major_of(text):
    """The part of a version that says what is compatible: the first number, of versions below 1 the first two."""
    numbers = text.split(".")
    return numbers[:2] if numbers[0] == "0" else numbers[:1]


class Model:
    """An exported model.

    Args:
        folder: what `mm_hf export` wrote; left out, the one that this file lies in.
        threads: of onnxruntime, within one graph; left out, as many as the machine has cores.
    """

    def __init__(self, folder=None, threads=None):
        self.folder = Path(__file__).parent if folder is None else Path(folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        if self.manifest["format"] != 1:
            raise ValueError(f"{self.folder} has format {self.manifest['format']}, and this file reads 1.")
        warn_of_other_versions(self.manifest.get("versions", {}))
        self.modalities, self.answers = self.manifest["modalities"], self.manifest["answers"]
        self.preparers = {
            modality["name"]: PREPARERS[modality["prepare"]["kind"]](modality["prepare"], self.folder)
            for modality in self.modalities
            if modality["prepare"] is not None
        }
        self.writer = Texts(self.manifest["tokenizer"], self.folder) if self.manifest["tokenizer"] else None
        self.graphs = {
            name: BACKENDS[Path(graph["file"]).suffix](self.folder / graph["file"], graph["inputs"], threads)
            for name, graph in self.manifest["graphs"].items()
        }
        self.keys = {key: modality for modality in self.modalities for key in modality["row_keys"]}

    def __call__(self, rows, batch_size=32, on_error="raise", **asked):
        """Answers one row, or a list of them.

        Args:
            rows: dicts of what each row has.
            batch_size: rows that go through the graphs together.
            on_error: "raise" stops at a row that cannot be read; "skip" answers it with None.
            asked: of classes and numbers `top_k` (5; None for all), `coverage` and `abstain_below`; of models that
                write `max_new_tokens`. They mean what they do in mm_hf's pipelines.

        Raises:
            RowError: a row that cannot be read, by its number.
            TypeError: an argument that this model does not take.
        """
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}.")
        if isinstance(rows, dict):
            return self([rows], batch_size, on_error, **asked)[0]
        answers = []
        for start in range(0, len(rows), batch_size):
            loaded: dict[Any, Any] = {}
            numbers, batch = [], []
            for number, row in enumerate(rows[start : start + batch_size], start=start):
                try:
                    batch.append(self.load(row, loaded))
                    numbers.append(number - start)
                except RowError as error:
                    if on_error == "raise":
                        raise RowError(f"Row {number}: {error}") from None
            answered = [None] * len(rows[start : start + batch_size])
            if batch:
                for place, answer in zip(numbers, self.answer(self.feeds(batch), len(batch), **asked)):
                    if answer is None and on_error == "raise":
                        raise RowError(f"Row {start + place}: the model's answer is no finite number.")
                    answered[place] = answer
            answers += answered
        return answers

    # ---- From rows to what the fusion reads

    def load(self, row, loaded):
        """By modality what a row has in its places, None for a place without; items that rows of a batch share are
        loaded once, and kept in `loaded`."""
        if not isinstance(row, dict):
            raise RowError(f"A row must be a dict with keys out of {list(self.keys)}, got {row!r:.200}.")
        items = {modality["name"]: [None] * modality["places"] for modality in self.modalities}
        for key, value in row.items():
            if key not in self.keys:
                raise RowError(f"A row must be a dict with keys out of {list(self.keys)}, got {key!r}.")
            if is_missing(value):
                continue
            modality = self.keys[key]
            places, start = self.places_of(modality, key, value)
            if any(item is not None for item in items[modality["name"]][start : start + len(places)]):
                raise RowError(f"A row has one of {modality['row_keys']}, not several.")
            for place, source in enumerate(places, start=start):
                if not is_missing(source):
                    items[modality["name"]][place] = self.load_item(modality["name"], source, loaded)
        if all(item is None for places in items.values() for item in places):
            raise RowError(f"A row needs at least one of {list(self.keys)}.")
        return items

    def places_of(self, modality, key, value):
        """What a row has under a key as a list, one entry a place, and the place that it begins in."""
        most, frames = modality["places"] - modality["frames"], modality["frames"] or modality["places"]
        preparer = self.preparers.get(modality["name"])
        if key == modality["frames_key"]:
            if not isinstance(value, (list, tuple)) or not value:
                raise RowError("a video is a list of its frames here: decode the file before.")
            chosen = [value[(2 * part + 1) * len(value) // (2 * frames)] for part in range(frames)]
            return chosen, modality["places"] - frames
        listed = modality["lists_are_places"] or isinstance(preparer, Texts)
        several = isinstance(value, (list, tuple)) and (most > 1 or listed)
        if several and not listed:  # numbers in lists are one item
            several = depth(value) > modality["depth"]
        sources = list(value) if several else [value]
        if getattr(preparer, "whole", None) is not None:  # long texts are windows
            count = preparer.settings["windows"]
            windows = [[None] if is_missing(text) else preparer.windows(preparer.load(text)) for text in sources]
            sources = [part for each in windows for part in [*each, *[None] * (count - len(each))]]
        if len(sources) > most:
            raise RowError(f"the row has {len(sources)} under {key!r}, and this model looks at {most}.")
        return sources, 0

    def load_item(self, name, source, loaded):
        """One item, loaded once a batch."""
        if name not in self.preparers:
            raise RowError(f"this file does not know how items of {name!r} are prepared.")
        same = source if isinstance(source, (str, bytes, os.PathLike)) else id(source)
        if (name, same) not in loaded:
            loaded[name, same] = (self.preparers[name].load(source), source)  # kept, so that no other has its id
        return None if loaded[name, same][0] is None else (same, loaded[name, same][0])

    def feeds(self, batch):
        """What the fusion reads of loaded rows: of each modality the index of its items, and what its encoder gave."""
        feeds = {}
        for modality in self.modalities:
            name, known = modality["name"], {}
            items: list[Any] = []
            index = np.full((len(batch), modality["places"]), -1, np.int64)
            for row, places in enumerate(batch):
                for place, item in enumerate(places[name]):
                    if item is not None:
                        if item[0] not in known:
                            known[item[0]] = len(items)
                            items.append(item[1])
                        index[row, place] = known[item[0]]
            feeds[modality["index"]] = index if modality["places"] > 1 else index[:, 0]
            inputs = self.preparers[name].inputs(items) if items else {}
            feeds |= self.encode(modality, inputs)
        return feeds

    def encode(self, modality, inputs):
        """What an encoder gives of distinct items; without any, an item of zeros that no row uses."""
        if not inputs:
            dummy = {level["name"]: np.zeros(level["dummy"], np.float32) for level in modality["levels"]}
            mask = modality["mask"]
            return dummy if mask is None else {**dummy, mask: np.ones(modality["levels"][0]["dummy"][:2], np.int64)}
        graph = self.graphs[modality["graph"]]
        if not modality["by_length"]:
            return graph(inputs)
        # Padding would change what this encoder gives: items of each length go through it alone.
        mask = inputs[modality["mask_input"]]
        lengths = np.maximum((mask * np.arange(1, mask.shape[1] + 1)).max(1), 1)
        parts = []
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            cut = {
                name: value[rows][:, :length] if value.shape[:2] == mask.shape else value[rows]
                for name, value in inputs.items()
            }
            parts.append((rows, graph(cut)))
        joined = {}
        for name in parts[0][1]:
            shapes = np.array([part[name].shape[1:] for _, part in parts])
            joined[name] = np.zeros((len(mask), *shapes.max(0)), parts[0][1][name].dtype)
            for rows, part in parts:
                value = np.ones_like(part[name]) if name == modality["mask"] else part[name]
                place: Any = (rows, *(slice(0, size) for size in value.shape[1:]))
                joined[name][place] = value
        return joined

    # ---- From there to answers

    def answer(self, feeds, rows, **asked):
        """The answers to so many rows."""
        kind = self.answers["kind"]
        if kind == "embeddings":
            return self.embeddings(feeds, rows, **asked)
        outputs = self.graphs["fuse"](feeds)
        if kind == "moments":
            return self.heard(outputs, **asked)
        if kind == "written":
            return self.written(outputs, rows, **asked)
        return [self.best_of_row(outputs, row, **asked) for row in range(rows)]

    def best_of_row(self, outputs, row, top_k=5, coverage=None, abstain_below=None):
        """The best labels of one row, of several tasks by task; None where they are no finite numbers."""
        best = {}
        for task in self.answers["tasks"]:
            logits = outputs[task["output"]][row].astype(np.float32)
            if not np.isfinite(logits).all():
                return None
            best[task["name"]] = best_answers(logits, task, self.answers["label_key"], top_k, coverage, abstain_below)
        return best[None] if list(best) == [None] else best

    def embeddings(self, feeds, rows):
        """Of each row the embeddings of what it has, and of two their inner product; None where they are no finite
        numbers."""
        answers: list[dict | None] = []
        for row in range(rows):
            answer = {}
            for modality in self.modalities:
                place = int(feeds[modality["index"]].reshape(rows, -1)[row, 0])
                if place >= 0:
                    answer[modality["row_keys"][0]] = feeds[modality["embedding"]][place]
            values = list(answer.values())
            if not all(np.isfinite(value).all() for value in values):
                answers.append(None)
                continue
            lists = {key: value.tolist() for key, value in answer.items()}
            answers.append({**lists, "similarity": float(values[0] @ values[1])} if len(values) == 2 else lists)
        return answers

    def match(self, rows):
        """Of a model for search how likely text and item of each row belong together, by its fusion: `(B,)`."""
        if self.answers["kind"] != "embeddings" or "fuse" not in self.graphs:
            raise ValueError("this model was not trained to say what belongs together.")
        loaded: dict[Any, Any] = {}
        feeds = self.feeds([self.load(row, loaded) for row in rows])
        return 1 / (1 + np.exp(-self.graphs["fuse"](feeds)["match"].astype(np.float64)))

    def heard(self, outputs, max_new_tokens=None):
        """Of CTC the text of each row; None where the numbers are not finite."""
        key = self.answers["label_key"]
        return [
            None if ids is None else {key: self.writer.decode(ids[:max_new_tokens])}
            for ids in self.tokens_heard(outputs)
        ]

    def tokens_heard(self, outputs):
        """Of CTC the tokens of each row: repeats joined, blanks left out; None where the numbers are not finite."""
        tokens = []
        for logits, mask in zip(outputs["logits"], outputs["memory_mask"]):
            heard = logits[mask.astype(bool)]
            best = heard.argmax(-1)
            best = best[np.concatenate([[True], best[1:] != best[:-1]])] if len(best) else best
            tokens.append(best[best != self.answers["blank"]] if np.isfinite(heard).all() else None)
        return tokens

    def written(self, outputs, rows, max_new_tokens=None):
        """Of a decoder the likeliest next token until the end, for each row, and the probability of the whole; None
        where that is no number."""
        ids, scores = self.write(outputs, rows, max_new_tokens)
        key, answers = self.answers["label_key"], []
        for each, score in zip(ids, scores):
            said = {key: self.writer.decode(each)}
            answer = said if self.answers["text_alone"] else [{"score": float(score), **said}]
            answers.append(answer if np.isfinite(score) else None)
        return answers

    def write(self, outputs, rows, max_new_tokens=None):
        """The tokens `(B, S)` that are written, without the start, padding behind the end; and their probability."""
        settings, step = self.answers, self.graphs["step"]
        most = settings["max_new_tokens"] if max_new_tokens is None else max_new_tokens
        cache = {name: np.zeros((rows, *shape), np.float32) for name, shape in settings["cache"].items()}
        token = np.full((rows, 1), settings["start"], np.int64)
        ids, scores, ended = np.zeros((rows, 0), np.int64), np.zeros(rows), np.zeros(rows, bool)
        while ids.shape[1] < most and not ended.all():
            try:
                made = step({"decoder_input_ids": token, **outputs, **cache})
            except Exception as error:
                if settings["positions"] is None or ids.shape[1] < settings["positions"]:
                    raise
                raise ValueError(
                    f"max_new_tokens is {most}, and the decoder has {settings['positions']} positions: ask for fewer."
                ) from error
            logits = made.pop("logits").astype(np.float64)
            best = np.where(ended, settings["pad"], logits.argmax(-1))
            top = logits.max(-1, keepdims=True)
            scores += np.where(ended, 0.0, -np.log(np.exp(logits - top).sum(-1)))
            token = best[:, None].astype(np.int64)
            cache = {name.replace("next_", "self_", 1): value for name, value in made.items()}
            ids, ended = np.concatenate([ids, token], axis=1), ended | np.isin(best, settings["ends"])
        return ids, np.exp(scores)


def best_answers(logits, task, label_key, top_k, coverage, abstain_below):
    """The best labels of one row, as mm_hf's pipelines give them."""
    kind, tempered = task["kind"], logits / np.float32(task["temperature"])
    if kind == "numbers":
        scores = logits
    elif kind == "several":
        scores = 1 / (1 + np.exp(-tempered))
    else:
        scores = np.exp(tempered - tempered.max())
        scores = scores / scores.sum()
    count = len(scores) if top_k is None else min(top_k, len(scores))
    if coverage is not None:
        threshold = threshold_of(task, coverage)
        if kind == "several":
            count = int((np.logaddexp(0, -tempered.astype(np.float64)) <= threshold).sum())
        elif kind == "classes":
            exact = tempered.astype(np.float64)
            unlikely = exact.max() + np.log(np.exp(exact - exact.max()).sum()) - exact
            count = max(1, int((unlikely <= threshold).sum()))
    if kind == "classes" and abstain_below is not None and scores.max() < abstain_below:
        count = 0
    best = np.argsort(-scores, kind="stable")[:count]
    answers = [{"score": float(scores[place]), label_key: task["labels"][place]} for place in best]
    if coverage is not None and kind == "numbers":
        for answer, place in zip(answers, best):
            width = threshold * (task["label_scale"][place] if task["label_scale"] else 1.0)
            answer |= {"low": float(logits[place]) - width, "high": float(logits[place]) + width}
    return answers


def threshold_of(task, coverage):
    """The score up to which an answer belongs to the set of a coverage."""
    known = [pair for pair in task["thresholds"] if pair[0] >= coverage - 1e-9]
    if not known or not coverage >= 0.5:
        raise ValueError(
            f"coverage {coverage} is out of what this model was calibrated for: "
            f"{[pair[0] for pair in task['thresholds']] or 'nothing'}."
        )
    return known[0][1]


def depth(value):
    """How deep the numbers of a list or an array lie."""
    if isinstance(value, (list, tuple)):
        first = next((entry for entry in value if not is_missing(entry)), None)
        return 1 + (0 if first is None else depth(first))
    return getattr(value, "ndim", 0)


def main(words):
    """The command line: a row as JSON, or rows as JSON lines on standard input."""
    rows = [json.loads(word) for word in words] or [json.loads(line) for line in sys.stdin if line.strip()]
    for answer in Model()(rows):
        print(json.dumps(answer, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1:])
