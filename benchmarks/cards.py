"""Keeps what a run shows of itself: its card in model_cards/, and its picture of predictions, small, in
model_cards/pictures/. The site's gallery shows both.

    python benchmarks/cards.py runs/easy_vqa                   # the card and the picture of the recipe's name
    python benchmarks/cards.py runs/easy_vqa --picture_only    # where the card is that of another run

The picture says of which run it is: its EXIF description has the first metric of the run's card, and the commit of the
code.
"""

import argparse
import json
import shutil
from pathlib import Path

import yaml
from PIL import Image


ROOT = Path(__file__).resolve().parent.parent
CARDS = ROOT / "model_cards"
DESCRIPTION = 0x010E  # of EXIF
WIDTH, LARGEST = 880, 150_000  # pixels; bytes


def keep_picture(run: Path, name: str) -> Path | None:
    """Writes the predictions of a run, small. None: the run drew none."""
    source = run / "predictions.png"
    if not source.exists():
        return None
    code = json.loads((run / "results.json").read_text(encoding="utf-8"))["commit"]
    front = yaml.safe_load((run / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    metric = front["model-index"][0]["results"][0]["metrics"][0]
    picture = Image.open(source).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(ground, picture).convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    exif = Image.Exif()
    exif[DESCRIPTION] = f"{metric['type']} {metric['value']:.4g}, code {code[:7]}"
    file = CARDS / f"pictures/{name}.webp"
    file.parent.mkdir(exist_ok=True)
    for quality in (85, 70, 55, 40):
        picture.save(file, quality=quality, method=6, exif=exif)
        if file.stat().st_size < LARGEST:
            return file
    raise ValueError(f"{file} has {file.stat().st_size} bytes, and may have {LARGEST}.")


def keep_card(run: Path, name: str):
    """Copies the card of a run, and writes its picture."""
    shutil.copy(run / "README.md", CARDS / f"{name}.md")
    keep_picture(run, name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--name", help="of the card; left out, that of the folder")
    parser.add_argument("--picture_only", action="store_true", help="leave the card as it is")
    given = parser.parse_args()
    (keep_picture if given.picture_only else keep_card)(given.run, given.name or given.run.name)
