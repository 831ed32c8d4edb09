"""BasicMotions: ten seconds of six sensors on a wrist, labelled with what the person is doing.

    mm_hf prepare basic_motions data/basic_motions

The data are from the UEA archive of multivariate time series (Bagnall et al. 2018, arXiv 1811.00075), in the copy of
the package `aeon`. Four students were recorded with three axes of acceleration and three of rotation at 10 Hz, 100
steps per recording. They stand, walk, run or play badminton. The archive's test part of 40 recordings is kept. Of its
40 training recordings, 2 of each activity, drawn with a seed, become the validation part. Each row has `readings`
(steps × 6 numbers) and `activity`.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from .common import PreparationError, build_dataset, package_path


PACKAGE, FILE = "aeon==1.6.0", "aeon/datasets/data/BasicMotions/BasicMotions_{}.ts"
SENSORS = 6
HELD_OUT = 2  # recordings of each activity for validation

CARD = """---
language: en
task_categories:
- time-series-forecasting
---

# BasicMotions

Written by `mm_hf prepare basic_motions` of mm_hf (seed {seed}) from the files in the package `aeon`
(BSD-3-Clause): recordings of four students at the University of Leicester, from the
[UEA archive](https://www.timeseriesclassification.com) (Bagnall et al. 2018). {rows} recordings.
"""


def read(file: Path) -> list[tuple[list[list[float]], str]]:
    """The recordings of a `.ts` file, `(S, 6)` each, with their activities."""
    recordings = []
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines[lines.index("@data") + 1 :], start=lines.index("@data") + 2):
        *sensors, activity = line.strip().split(":")
        series = [[float(value) for value in sensor.split(",")] for sensor in sensors]
        if len(series) != SENSORS or len({len(values) for values in series}) != 1:
            lengths = [len(values) for values in series]
            raise PreparationError(f"{file}, line {number}: {SENSORS} sensors of equal length expected, got {lengths}")
        recordings.append(([list(step) for step in zip(*series)], activity))
    return recordings


def build(parts: None, seed: int) -> DatasetDict:
    """Builds the three parts."""
    known, test = (read(package_path(PACKAGE, FILE.format(part))) for part in ("TRAIN", "TEST"))
    names = sorted({activity for _, activity in known})
    draw, held_out = random.Random(seed), set()
    for name in names:
        held_out.update(draw.sample([place for place, (_, label) in enumerate(known) if label == name], HELD_OUT))
    chosen = {
        "train": [row for place, row in enumerate(known) if place not in held_out],
        "validation": [row for place, row in enumerate(known) if place in held_out],
        "test": test,
    }
    features = Features(
        {"readings": List(List(Value("float32"))), "activity": ClassLabel(names=names), "row_id": Value("int64")}
    )
    return DatasetDict(
        {
            part: Dataset.from_dict(
                {
                    "readings": [readings for readings, _ in rows],
                    "activity": [activity for _, activity in rows],
                    "row_id": list(range(len(rows))),
                },
                features=features,
            )
            for part, rows in chosen.items()
        }
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    build_dataset("basic_motions", __doc__, None, build, CARD, arguments)
