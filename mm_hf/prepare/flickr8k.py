"""Turn Flickr8k into a `datasets.DatasetDict`: one row per caption of a photograph, split by photograph at random.

    mm_hf prepare flickr8k FLICKR.zip data/flickr8k
    FLICKR_ZIP=FLICKR.zip mm_hf prepare flickr8k data/flickr8k --train 600 --validation 100 --test 100 --seed 1

FLICKR_ZIP is Flickr8k (Hodosh, Young and Hockenmaier 2013) in its usual layout, or a part of it, as a folder or a zip:
`captions.txt`, a table of `image` (a file name) and `caption`, and the photographs in `Images/`. Each row has `image`,
`caption`, `photo` (the file name, the same for all its captions) and `caption_number`. All captions of a photograph
are in one part, one after the other. The data set is for research and teaching. Do not pass it on.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, Image, Value

from .common import SETTINGS, PreparationError, builder_parser, built, folder_in_place
from .photographs import PhotographFiles, photograph_files, some_of


VARIABLE = "FLICKR_ZIP"
CAPTIONS = "captions.txt"
WRITTEN = ("train", "validation", "test", "dataset_dict.json", "README.md", SETTINGS)
FEATURES = Features(
    {
        "image": Image(),
        "caption": Value("string"),
        "photo": Value("string"),
        "caption_number": Value("int32"),
        "row_id": Value("int64"),
    }
)

CARD = """---
license: other
license_name: research-and-teaching-only
language: en
task_categories:
- image-to-text
- text-to-image
pretty_name: Flickr8k
---

# Flickr8k

Photographs with captions by people, from Hodosh, Young and Hockenmaier, "Framing image description as a ranking task"
(2013). The content is unchanged. The rows were made by `mm_hf prepare flickr8k --seed {seed}` of mm_hf. **For research
and teaching. Cite the paper. Do not pass the data on, including these rows.**

| part | photographs | captions |
|---|---|---|
{rows}

| column | content |
|---|---|
| `image` | the photograph, the same in all its rows |
| `caption` | one of its captions, as written |
| `photo` | the name of its file; rows of one photograph are in one part, one after the other |
| `caption_number` | from 0, in the order of `captions.txt` |
| `row_id` | position in `captions.txt` |
"""


def read_captions(files: PhotographFiles) -> dict[str, list[tuple[int, str]]]:
    """The captions of each photograph, with their positions. Photographs and captions are in the order of the file.

    Raises:
        PreparationError: the file is not such a table, a caption is empty, or a photograph is missing.
    """
    rows = csv.reader(files.text(CAPTIONS).splitlines())
    header = [name.strip() for name in next(rows, [])]
    if header != ["image", "caption"]:
        raise PreparationError(f"{CAPTIONS} of {files.source} has the columns {header}, expected image and caption")
    captions: dict[str, list[tuple[int, str]]] = {}
    for number, row in enumerate(rows):
        if len(row) != 2 or not all(word.strip() for word in row):
            raise PreparationError(f"row {number} of {CAPTIONS} is {str(row)[:80]}, expected a file and a caption")
        captions.setdefault(row[0].strip(), []).append((number, row[1].strip()))
    missing = set(captions) - set(files.paths)
    if missing:
        raise PreparationError(
            f"{files.source} has captions of {len(captions)} photographs, but {len(missing)} of these files are "
            f"missing: {some_of(missing)}"
        )
    return captions


def parts_of(photos: Sequence[str], settings: dict[str, Any]) -> dict[str, list[str]]:
    """Draws the photographs of each part. In each part they keep their order.

    Raises:
        PreparationError: a part would be empty, or there are too few photographs.
    """
    held_out = settings["validation"] + settings["test"]
    train = len(photos) - held_out if settings["train"] is None else settings["train"]
    sizes = {"train": train, "validation": settings["validation"], "test": settings["test"]}
    if min(sizes.values()) < 1 or sum(sizes.values()) > len(photos):
        wanted = ", ".join(f"--{name} {size}" for name, size in sizes.items())
        raise PreparationError(
            f"there are {len(photos)} photographs, but you ask for {wanted}; each part needs 1 or more"
        )
    order = np.random.default_rng(settings["seed"]).permutation(len(photos))
    # Test and validation are drawn first, so they do not depend on the size of the training part.
    ends = np.cumsum([sizes["test"], sizes["validation"], sizes["train"]])
    drawn = dict(zip(("test", "validation", "train"), np.split(order[: ends[-1]], ends[:-1])))
    return {name: [photos[place] for place in sorted(drawn[name].tolist())] for name in sizes}


def build(files: PhotographFiles, settings: dict[str, Any]) -> DatasetDict:
    """Reads captions and photographs, and splits them."""
    captions = read_captions(files)
    splits = {}
    for part, photos in parts_of(list(captions), settings).items():
        columns: dict[str, list] = {name: [] for name in FEATURES}
        for photo in photos:
            picture = files.photograph(photo)
            for number, (row_id, caption) in enumerate(captions[photo]):
                for name, value in zip(FEATURES, (picture, caption, photo, number, row_id), strict=True):
                    columns[name].append(value)
        splits[part] = Dataset.from_dict(columns, features=FEATURES)
    return DatasetDict(splits)


def describe(splits: DatasetDict) -> list[tuple[str, int, int]]:
    """Name, photographs and captions of each part."""
    return [(part, len(set(rows["photo"][:])), len(rows)) for part, rows in splits.items()]


def write(files: PhotographFiles, output: Path, settings: dict[str, Any]) -> DatasetDict:
    """Builds the data set and writes it to `output`, with its card and settings."""
    with folder_in_place(output, WRITTEN) as folder:
        splits = build(files, settings)
        splits.save_to_disk(folder)
        lines = [f"| {part} | {photos} | {captions} |" for part, photos, captions in describe(splits)]
        card = CARD.format(rows="\n".join(lines), seed=settings["seed"])
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return splits


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    archive = "ZIP?", f"folder or archive of the photographs; default: the environment variable {VARIABLE}"
    parser = builder_parser("flickr8k", __doc__.split("\n")[0], source=archive)
    parser.add_argument("--train", type=int, help="photographs of the training part; default: all others")
    parser.add_argument("--validation", type=int, default=100, help="photographs of the validation part")
    parser.add_argument("--test", type=int, default=100, help="photographs of the test part")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random split")
    options = parser.parse_args(arguments)
    settings = {name: getattr(options, name) for name in ("train", "validation", "test", "seed")}

    def write_all(folder: Path, settings: dict[str, Any]) -> DatasetDict:
        with photograph_files(options.source, VARIABLE) as files:
            return write(files, folder, settings)

    built(options, settings, WRITTEN, write_all, describe, "{:<12}{:>12}{:>10}", ("part", "photographs", "captions"))
