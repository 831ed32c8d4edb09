"""Runs the commands that the README shows, and keeps their output: tests/test_readme.py compares the README with it.

    HOUSES_ZIP=Houses-dataset.zip python benchmarks/front_page.py       # after `make quickstart`; about 5 minutes

It writes a table of houses like one from a spreadsheet, with four photographs per row. It trains on the table with the
defaults, and predicts and explains eight held-out houses. It also asks the run of `make quickstart` about a circle,
with transformers only. The encoders are the ones from `make data`. The output goes into
benchmarks/results/front_page.json.
"""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from mm_hf.prepare.houses import INFO, PHOTOGRAPHS, VARIABLE
from mm_hf.prepare.photographs import photograph_files
from mm_hf.training.provenance import commit_or_version
from mm_hf.training.run_folder import write_json


ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "benchmarks/results/front_page.json"
KEPT_APART = 8  # held-out houses that are predicted
COMMANDS = (
    "mm_hf train houses.csv --label price",
    "mm_hf predict runs/houses new.csv -o prices.csv",
    "mm_hf explain runs/houses new.csv",
)
ASK = """
from transformers import pipeline
answer = pipeline("visual-question-answering", model={run!r}, trust_remote_code=True)
print(answer({{"image": "circle.png", "question": "what color is the shape?"}}, top_k=2))
"""


def write_rows(source: str, folder: Path):
    """Writes `houses.csv`, `new.csv` and the photographs that they name."""
    photographs = folder / "photos"
    photographs.mkdir()
    rows = []
    with photograph_files(Path(source), VARIABLE) as files:
        lines = files.text(INFO).splitlines()
        for number, line in enumerate(filter(str.strip, lines), start=1):
            names = [f"{number}_{room}.jpg" for room in PHOTOGRAPHS]
            for name in names:
                (photographs / name).write_bytes(files.read(name))
            rows.append([*(f"photos/{name}" for name in names), *line.split()])
    header = [*PHOTOGRAPHS, "beds", "baths", "area", "zip", "price"]
    for name, chosen, width in (("houses.csv", rows[:-KEPT_APART], 9), ("new.csv", rows[-KEPT_APART:], 8)):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(row[:width] for row in (header, *chosen))


def run(words: list[str], folder: Path, **environment: str) -> list[str]:
    """The lines that a command prints, without progress lines."""
    told = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(words, cwd=folder, env=told, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(words)} ended with {done.returncode}")
    return [line.rstrip() for line in done.stdout.splitlines() if line.strip()]


def main():
    """The whole script."""
    source, vqa = os.environ.get(VARIABLE), ROOT / "runs/easy_vqa"
    if source is None or not vqa.is_dir():
        sys.exit(
            f"{VARIABLE} names the archive of the Houses data set, and `make quickstart` makes {vqa}: both are needed"
        )
    said: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_rows(str(Path(source).resolve()), folder)
        encoders = folder / "encoders.yaml"
        named = {"vision": "mobilenet-v2", "text": "minilm-l6"}
        encoders.write_text("".join(f"{kind}: {ROOT / 'data/encoders' / name}\n" for kind, name in named.items()))
        for command in COMMANDS:
            words = [sys.executable, "-m", *shlex.split(command)]
            lines = run(words, folder, MM_HF_ENCODERS=str(encoders), MM_HF_CACHE=str(folder / "cache"))
            said[command] = [line for line in lines if str(folder) not in line and str(ROOT) not in line]
        with (folder / "prices.csv").open(newline="", encoding="utf-8") as file:  # the rows must not be published
            said["prices.csv"] = [row["prediction"] for row in csv.DictReader(file)]
        picture = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), fill="blue")
        picture.save(folder / "circle.png")
        lines = run([sys.executable, "-c", ASK.format(run=str(vqa))], folder, HF_MODULES_CACHE=str(folder / "modules"))
        said["pipeline"] = [line for line in lines if re.match(r"\[\{'score'", line)]
    write_json(REPORT, {"said": said, "commit": commit_or_version()})
    print(json.dumps(said, indent=2))


if __name__ == "__main__":
    main()
