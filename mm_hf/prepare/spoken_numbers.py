"""Spoken numbers of two to five digits, joined from real recordings of one speaker.

    mm_hf prepare spoken_numbers data/fsdd data/spoken_numbers

Made from what `mm_hf prepare fsdd` wrote. The recordings of each speaker and part are shuffled and cut into runs of
two to five, which are joined with pauses of 0.05 to 0.2 seconds: three times over in the training part, once in the
others, so that no recording is in two parts. Each row has `audio` (wav, the recordings' own rate), `text` (three seven
one), `number` (371), `digits` (how many) and `speaker`.
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
DIGITS, PAUSE = (2, 5), (0.05, 0.2)  # seconds
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
two to five recordings of one speaker are joined, with pauses of 0.05 to 0.2 seconds. {rows} rows. They are real
voices, and no real sentences: nobody spoke these numbers in one breath.
"""


def join(sounds: list[bytes], draw: random.Random) -> bytes:
    """One wav file of several, with pauses between them."""
    read = [soundfile.read(io.BytesIO(sound), dtype="int16") for sound in sounds]
    if len(rates := {rate for _, rate in read}) != 1:
        raise PreparationError(f"the recordings have the rates {sorted(rates)}, expected one")
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
