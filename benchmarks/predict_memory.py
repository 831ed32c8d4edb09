"""Memory and time of `mm_hf predict` over many rows: memory must not grow with the number of rows.

Makes a CSV of texts, numbers and small pictures (about a hundred distinct ones), predicts it with a tiny checkpoint
from the tests, and records the memory of the process after every thousand rows.

    python benchmarks/predict_memory.py FOLDER --rows 100000
"""

import argparse
import csv
import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from mm_hf.commands import predict
from mm_hf.commands.prediction.output import PredictionFile


CHECKPOINT = Path(__file__).parents[1] / "tests/data/checkpoints/heads/classification"
WORDS = ("what", "colour", "is", "the", "house", "red", "green", "blue", "big", "small", "?", "a,b", 'say "so"', "007")
PICTURES = 300
FIRST = 1000  # memory must not grow after so many rows


def make_rows(folder: Path, rows: int) -> Path:
    """Makes a CSV, with its pictures beside it. A few rows have no picture."""
    draw = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photos/{number}.png")
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "photo", "text", "note"])
        for number in range(rows):
            picture = int(draw.integers(PICTURES + 10))
            text = " ".join(draw.choice(WORDS, int(draw.integers(2, 12))))
            photo = f"photos/{picture}.png" if picture < PICTURES else ""
            writer.writerow([f"{number:07}", photo, text, f"line\nbreak {number}" if number % 50 == 0 else "ü"])
    return folder / "rows.csv"


def words_of(table: Path, output: Path, *more: str) -> list[str]:
    """The command's words."""
    columns = ["--image_column", "photo", "--text_column", "text"]
    return [str(CHECKPOINT), str(table), "-o", str(output), *columns, *more]


def main():
    """Makes the rows, predicts them, and prints memory and time as JSON in the last line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    args = parser.parse_args()
    table = make_rows(args.folder, args.rows)
    process, seen, add = psutil.Process(), {}, PredictionFile.add

    def add_and_look(self, rows, digest):
        add(self, rows, digest)
        seen[self.rows] = process.memory_info().rss / 2**20

    PredictionFile.add = add_and_look
    sys.argv = ["mm_hf predict", *words_of(table, args.folder / "out.csv", "--overwrite")]
    began = time.monotonic()
    predict.script()
    seconds = time.monotonic() - began
    first = next(memory for rows, memory in seen.items() if rows >= FIRST)
    later = [memory for rows, memory in seen.items() if rows >= FIRST]
    marks = {
        mark: round(next(seen[rows] for rows in seen if rows >= mark), 1)
        for mark in range(0, args.rows + 1, args.rows // 10)
    }
    print(
        json.dumps(
            {
                "seconds": round(seconds, 1),
                "rows_a_second": round(args.rows / seconds),
                "mb_by_rows": marks,
                "growth_mb": round(max(later) - first, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
