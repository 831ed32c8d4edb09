"""Spoken numbers of two to five digits, joined from real recordings of one speaker.

    mm_hf prepare spoken_numbers data/fsdd data/spoken_numbers

It is made from the output of `mm_hf prepare fsdd`. The recordings of each speaker and part are shuffled and divided
into groups of two to five. Each group is joined with pauses of 0.05 to 0.2 seconds. This is done three times in the
training part and once in the others, and no recording is in two parts. Each row has `audio` (wav, with the sampling
rate of the recordings), `text` (three seven one), `number` (371), `digits` (how many) and `speaker`.
"""

import io
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import soundfile
from datasets import Dataset, DatasetDict, Features, Value

from .common import PreparationError, build_dataset


ROUNDS = {"train": 3}
DIGITS, PAUSE = (2, 5), (0.05, 0.2)  # digits of a number; seconds between two digits
FEATURES = Features(
    {
        "audio": {"bytes": Value("binary"), "path": Value("string")},
        "text": Value("string"),
        "number": Value("string"),
        "digits": Value("int32"),
        "speaker": Value("string"),
        "row_id": Value("int64"),
    }
)

CARD = """---
license: cc-by-sa-4.0
language: en
task_categories:
- automatic-speech-recognition
---

# Spoken numbers

Made by `mm_hf prepare spoken_numbers` of mm_hf (seed {seed}) from the recordings of the
[Free Spoken Digit Dataset](https://github.com/Jakobovski/free-spoken-digit-dataset) (Jackson et al., CC-BY-SA-4.0):
two to five recordings of one speaker are joined, with pauses of 0.05 to 0.2 seconds. {rows} rows. The voices are real,
but nobody spoke these numbers in one breath.
"""


def join(sounds: list[bytes], draw: random.Random) -> bytes:
    """Joins several wav files into one, with pauses between them."""
    read = [soundfile.read(io.BytesIO(sound), dtype="int16") for sound in sounds]
    if len(rates := {rate for _, rate in read}) != 1:
        raise PreparationError(f"the recordings have the sampling rates {sorted(rates)}, expected a single rate")
    (rate,) = rates
    pieces = [read[0][0]]
    for samples, _ in read[1:]:
        pieces += [np.zeros(round(draw.uniform(*PAUSE) * rate), dtype="int16"), samples]
    file = io.BytesIO()
    soundfile.write(file, np.concatenate(pieces), rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def numbers(part: Dataset, rounds: int, seed: int) -> Dataset:
    """The spoken numbers of one part."""
    draw = random.Random(seed)
    columns = part.select_columns(["digit", "word", "speaker"])[:]
    rows: list[dict[str, Any]] = []
    for speaker in sorted(set(columns["speaker"])):
        places = [place for place, name in enumerate(columns["speaker"]) if name == speaker]
        for _ in range(rounds):
            draw.shuffle(places)
            start = 0
            while len(places) - start >= DIGITS[0]:
                chosen = places[start : start + draw.randint(*DIGITS)]
                start += len(chosen)
                rows.append(
                    {
                        "audio": {"bytes": join([sound["bytes"] for sound in part[chosen]["audio"]], draw)},
                        "text": " ".join(columns["word"][place] for place in chosen),
                        "number": "".join(str(columns["digit"][place]) for place in chosen),
                        "digits": len(chosen),
                        "speaker": speaker,
                        "row_id": len(rows),
                    }
                )
                rows[-1]["audio"]["path"] = f"{rows[-1]['number']}_{speaker}_{len(rows)}.wav"
    return Dataset.from_list(rows, features=FEATURES)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""

    def build(parts: DatasetDict, seed: int) -> DatasetDict:
        return DatasetDict({name: numbers(part, ROUNDS.get(name, 1), seed) for name, part in parts.items()})

    build_dataset("spoken_numbers", __doc__, "fsdd", build, CARD, arguments)
