"""Turn the Free Spoken Digit Dataset into a `datasets.DatasetDict` with train, validation and test.

    mm_hf prepare fsdd fsdd.zip data/fsdd
    FSDD_ZIP=fsdd.zip mm_hf prepare fsdd data/fsdd

FSDD_ZIP is the archive of the recordings, as the project publishes it, or a zip of its folder `recordings`. It has
3,000 wav files, 8 kHz, mono: 50 takes of each digit by each of six speakers. Each row has `audio` (the file's bytes),
    `digit` (0
to 9, a class), `word` (zero to nine), `speaker` and `take`. The test part is the project's own: takes 0 to 4. Some of
the other 45 takes become the validation part.
"""

import argparse
import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from .common import SETTINGS, PreparationError, builder_parser, built, folder_in_place


RECORDING = re.compile(r"(?:^|/)(\d)_([a-z]+)_(\d+)\.wav$")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RECORDINGS, TEST_TAKES = 3000, range(5)
LARGEST_RECORDING = 1_000_000  # bytes; the longest recording has 36,000
WRITTEN = ("train", "validation", "test", "dataset_dict.json", "README.md", SETTINGS)
FEATURES = Features(
    {
        "audio": {"bytes": Value("binary"), "path": Value("string")},
        "digit": ClassLabel(names=[str(digit) for digit in range(10)]),
        "word": Value("string"),
        "speaker": Value("string"),
        "take": Value("int32"),
        "row_id": Value("int64"),
    }
)

CARD = """---
license: cc-by-sa-4.0
language: en
task_categories:
- audio-classification
- automatic-speech-recognition
---

# Free Spoken Digit Dataset

The recordings of the [Free Spoken Digit Dataset](https://github.com/Jakobovski/free-spoken-digit-dataset) (Jackson et
al., DOI 10.5281/zenodo.1342401; CC-BY-SA-4.0), unchanged. The rows were made by `mm_hf prepare fsdd` of mm_hf.

| part | recordings | takes |
|---|---|---|
{rows}

Speakers: {speakers}. The test part is the project's own. It has the same speakers as the training part.
"""


def read_recordings(archive: Path) -> list[dict[str, Any]]:
    """All recordings of the archive, ordered by digit, speaker and take. Nothing is written to disk."""
    rows = []
    try:
        with zipfile.ZipFile(archive) as files:
            for entry in files.infolist():
                match = RECORDING.search(entry.filename)
                if match is None:
                    continue
                if entry.file_size > LARGEST_RECORDING:
                    raise PreparationError(
                        f"{entry.filename} of {archive} has {entry.file_size} bytes, expected at most "
                        f"{LARGEST_RECORDING}"
                    )
                digit, speaker, take = int(match[1]), match[2], int(match[3])
                sound = {"bytes": files.read(entry), "path": Path(entry.filename).name}
                rows.append({"audio": sound, "digit": digit, "word": WORDS[digit], "speaker": speaker, "take": take})
    except (OSError, zipfile.BadZipFile) as error:
        raise PreparationError(f"{archive} cannot be read as a zip archive: {error}") from error
    rows.sort(key=lambda row: (row["digit"], row["speaker"], row["take"]))
    if len(rows) != RECORDINGS:
        raise PreparationError(f"{archive} has {len(rows)} recordings, expected {RECORDINGS}")
    return rows


def build(archive: Path, validation_takes: int) -> DatasetDict:
    """Reads the archive and splits it by takes."""
    rows = read_recordings(archive)
    takes = sorted({row["take"] for row in rows} - set(TEST_TAKES))
    if not 0 < validation_takes < len(takes):
        raise PreparationError(
            f"validation_takes is {validation_takes} of {len(takes)}, but allowed are 1 to {len(takes) - 1}"
        )
    of_part = {
        "train": takes[validation_takes:],
        "validation": takes[:validation_takes],
        "test": list(TEST_TAKES),
    }
    rows = [{**row, "row_id": number} for number, row in enumerate(rows)]
    return DatasetDict(
        {
            part: Dataset.from_list([row for row in rows if row["take"] in chosen], features=FEATURES)
            for part, chosen in of_part.items()
        }
    )


def write(archive: Path, output: Path, settings: Mapping[str, Any]) -> DatasetDict:
    """Builds the data set and writes it to `output`, with its card and settings."""
    with folder_in_place(output, WRITTEN) as folder:
        splits = build(archive, settings["validation_takes"])
        splits.save_to_disk(folder)
        lines = [
            f"| {part} | {len(rows)} | {min(rows['take'])} to {max(rows['take'])} |" for part, rows in splits.items()
        ]
        speakers = ", ".join(sorted(set(splits["train"]["speaker"][:])))
        card = CARD.format(rows="\n".join(lines), speakers=speakers)
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return splits


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    archive = "ZIP?", "archive of the recordings; default: the environment variable FSDD_ZIP"
    parser = builder_parser("fsdd", __doc__.split("\n")[0], source=archive)
    parser.add_argument(
        "--validation_takes", type=int, default=5, help="takes of each digit by each speaker to use for validation"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    options = parse_arguments(arguments)
    archive = options.source or (Path(os.environ["FSDD_ZIP"]) if os.environ.get("FSDD_ZIP") else None)
    settings = {"validation_takes": options.validation_takes}

    def write_all(folder: Path, settings: dict[str, Any]) -> DatasetDict:
        if archive is None:
            raise PreparationError("no archive: give its path before OUT, or set the environment variable FSDD_ZIP")
        return write(archive, folder, settings)

    def describe(splits: DatasetDict) -> list[tuple[str, int]]:
        return [(part, len(rows)) for part, rows in splits.items()]

    built(options, settings, WRITTEN, write_all, describe, "{:<12}{:>6} recordings")
