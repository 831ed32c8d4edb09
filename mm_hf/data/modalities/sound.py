"""Sounds of a row: speech, or whatever else is heard."""

import io
import math
import wave
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Audio
from PIL import Image

from ...models.files import regular_file
from ...models.recurrent import RecurrentModel
from ...models.sound import Sound, load_sound
from ..file_columns import SOUND, with_files
from ..item_files import contents_of_file, file_key, file_name_of, some_of, source_of
from ..looks import Evidence
from ..plain_rows import is_decoded
from ..rows import BadRowError, resolve_path
from ..shown import MOST_SECONDS, shown_sound
from ..shown import SOUND as SHOWN_SOUND
from .linear import pooled_features, step_features
from .reader import ModalityReader, by_column, of_columns, present, register_reader


WIDE = 640, 128  # size in pixels of a spectrogram as wide as a page


@register_reader
class SoundReader(ModalityReader):
    """Sounds, each in its place."""

    name = Sound.name
    column_keys = ("audio_column",)
    files = True
    cells = "texts"
    augmentation = "speed_perturbation"
    shown_as = "sound"
    captions = 2
    packages = ("scipy", "soundfile")

    def kind_of(self, part):
        """A sound."""
        return SHOWN_SOUND

    def looks(self, sample):
        """Sounds by their type, or by the first bytes of their files."""
        if isinstance(sample.feature, Audio):
            return Evidence(self.name, self.name, f"its type is {type(sample.feature).__name__}", 1.0)
        files = sample.files(is_head_of_sound, "sounds")
        return None if files is None else Evidence(self.name, self.name, files[0], 1.0, files[1])

    def prepare_column(self, split, column, part, root):
        """Sounds as structs of bytes and path."""
        return with_files(split, column, root, "sounds", SOUND)

    def key(self, row, column, collator):
        """A hash of the sound."""
        return file_key(row, column, "sound")

    def contents(self, row, column, key, collator):
        """Its file."""
        return contents_of_file(row, column, collator.root, "sound")

    def load(self, row, column, collator):
        """Its samples at the rate of the feature extractor."""
        return decode_sound(row, column, collator.root, collator.processor.feature_extractor.sampling_rate)

    def undecoded(self, row, column, collator):
        """The file."""
        value = row[column]
        return value if is_decoded(value) else source_of(row, column, collator.root, "sound")

    def linear_features(self, items):
        """The output of the encoder. For a recurrent encoder, which is not pretrained, statistics of the frames."""
        fresh = isinstance(items.model.encoders[self.name], RecurrentModel)
        return step_features(items) if fresh else pooled_features(items)

    def line_refused(self, encoder):
        """A recurrent encoder gives other features than these statistics."""
        return "its linear model uses statistics of the frames" if isinstance(encoder, RecurrentModel) else None

    def augment(self, item, generator, collator):
        """See `change_speed`."""
        return change_speed(item, collator.speed_perturbation, generator)

    def prepare(self, items, generators, collator):
        """Samples have the rate of the feature extractor already."""
        rate = collator.processor.feature_extractor.sampling_rate
        return dict(collator.processor(audio=items, sampling_rate=rate))

    def describe(self, split, columns, root, tokenizer):
        """`sounds`, see `summary.describe`."""
        return {"sounds": by_column({column: describe_sounds(split, column, root) for column in columns.sounds})}

    def lines(self, summary):
        """One line per column."""
        return [sound_line(about, name) for name, about in of_columns(summary["sounds"])]

    def draw(self, row, collator):
        """The spectrogram of the first sound."""
        if columns := present(row, collator.columns.sounds):
            rate = collator.processor.feature_extractor.sampling_rate
            return picture_of_sound(decode_sound(row, columns[0], collator.root, rate), rate)
        return None

    def amounts(self, item, key):
        """Its seconds, according to its header."""
        return {"seconds": seconds_of_file(item)}

    def example_file(self, processor, key):
        """Half a second of silence."""
        file = io.BytesIO()
        with wave.open(file, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(bytes(2 * 4000))
        return file.getvalue()

    def shown_item(self, item, collator):
        """Its beginning, and a wide spectrogram."""
        rate = collator.processor.feature_extractor.sampling_rate
        start = item[: MOST_SECONDS * rate]
        return shown_sound(start, rate, picture_of_sound(start, rate, WIDE))

    def caption(self, row, collator):
        """The names of the files. Empty if there are none."""
        names = [file_name_of(row[column]) for column in collator.columns.sounds]
        return ", ".join(Path(name).name for name in names if name is not None)


def seconds_of_file(content: bytes) -> float:
    """The length of a sound file according to its header. 0 for a file that `load_sound` refuses."""
    try:
        import soundfile

        about = soundfile.info(io.BytesIO(content))
        return about.frames / about.samplerate
    except Exception:  # soundfile raises several types; reading the sound later reports the reason
        return 0.0


def is_head_of_sound(head: bytes) -> bool:
    """Whether these may be the first bytes of a sound: WAV, FLAC, Ogg, MP3."""
    riff = head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE"
    frame = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 in (0xE2, 0xE4, 0xE6)
    return riff or frame or head[:4] in (b"fLaC", b"OggS") or head[:3] == b"ID3"


def decode_sound(row: dict[str, Any], column: str, root: str | None, sampling_rate: int) -> np.ndarray:
    """Decodes the sound of a row to one channel, and resamples it if necessary.

    Args:
        row: as `Rows` gives it.
        column: the column of the sound: a dict of `bytes` and `path`, or samples, see `load_sound`.
        root: the folder of files, see `resolve_path`.
        sampling_rate: the rate of the result, in Hz.

    Returns:
        `(S,)` float32.

    Raises:
        BadRowError: the sound is missing, broken or empty, or its path is outside the root.
    """
    value = row[column]
    decoded = is_decoded(value)
    source = value if decoded else source_of(row, column, root, "sound")
    try:
        return load_sound(source, sampling_rate)
    except (ValueError, OSError) as error:
        file = None if decoded else file_name_of(value)
        raise BadRowError(row, column, " ".join(str(error).split()), file) from None


def change_speed(samples: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Plays a sound faster or slower. The pitch changes too, as if another voice spoke (Ko et al. 2015).

    Args:
        samples: `(S,)` float32.
        strength: the speed is between 1 / (1 + strength) and 1 + strength. Its logarithm is uniform.
        generator: the source of all random numbers.

    Returns:
        `(S / speed,)` float32.
    """
    from scipy.signal import resample_poly

    speed = math.exp(generator.uniform(-1, 1) * math.log1p(strength))
    return resample_poly(samples, 100, max(1, round(100 * speed))).astype(np.float32)


def describe_sounds(split: Any, column: str, root: str | None) -> dict[str, Any]:
    """Lengths of some sounds, spread over the split; see `summary.describe`."""
    seconds = [sound_seconds(sound, root) for sound in some_of(split, column)]
    known = sorted(length for length in seconds if length is not None)
    return {
        "looked_at": len(seconds),
        "unreadable": seconds.count(None),
        "seconds": [known[0], known[len(known) // 2], known[-1]] if known else None,
    }


def sound_seconds(sound: dict[str, Any], root: str | None) -> float | None:
    """The length of a sound in seconds, from its header. None if it cannot be read."""
    import soundfile

    try:
        path = None if sound["bytes"] else regular_file(resolve_path(sound["path"], root), "sound")
        return soundfile.info(io.BytesIO(sound["bytes"]) if path is None else path).duration
    except (RuntimeError, ValueError, TypeError):  # soundfile's errors are RuntimeErrors; training will name the row
        return None


def picture_of_sound(samples: np.ndarray, sampling_rate: int, size: tuple[int, int] = (224, 224)) -> Image.Image:
    """The spectrogram of a sound, samples `(S,)` float, as a picture. Time goes to the right, frequency goes up to
    half the sampling rate. Black means 80 dB below the loudest value, or less."""
    window = sampling_rate // 40  # 25 ms
    padded = np.pad(samples, (0, max(0, window - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[:: max(1, window // 3)]  # (T, window)
    power = np.abs(np.fft.rfft(frames * np.hanning(window))).T[::-1] ** 2
    decibels = 10 * np.log10(np.maximum(power / max(power.max(), 1e-12), 1e-8))
    return Image.fromarray((255 * (1 + decibels / 80)).round().astype(np.uint8)).resize(size).convert("RGB")


def sound_line(sounds: dict[str, Any], name: str) -> str:
    """The result of `describe_sounds` as a line for the terminal, with `name` at its start."""
    lengths = " / ".join(f"{seconds:.1f} s" for seconds in sounds["seconds"] or [])
    text = f"shortest / median / longest {lengths}" if lengths else "none readable"
    return f"  sounds    {name}{text}; unreadable {sounds['unreadable']} of {sounds['looked_at']} looked at"
