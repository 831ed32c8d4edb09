"""Turn the `easy-vqa` package into a `datasets.DatasetDict` on disk.

    pip install --no-deps easy-vqa==1.0
    mm_hf prepare easy_vqa data/easy_vqa

easy-VQA (Victor Zhou, 2019, https://github.com/vzhou842/easy-VQA) asks about one coloured shape in a 64x64 picture.
Every answer is one of 13. The official test split is kept. The validation split is taken from the official train split
by image, not by question. Each picture has about ten questions, so a split by question would have most validation
pictures in training as well.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from ..progress_bar import progress_bar
from .common import (
    SETTINGS,
    PreparationError,
    builder_parser,
    built,
    check_sha256,
    folder_in_place,
    package_licence,
    package_path,
)


PACKAGE = "easy-vqa==1.0"
DATA = "easy_vqa/data"
SHA256 = {
    "answers.txt": "f004fd115e14db5f70a3a4e1b06d89fd76d45d7446a62d12b50ed1ac2a1a824c",
    "train/questions.json": "bb67697636aed0e65631d4266824aebeae5c833b0f37ed781e20752e85617ec5",
    "test/questions.json": "0d4630a51bafec65343e2f6af9cdd20cf8eae214344ef57636202eec409553f7",
}
KINDS = {
    **dict.fromkeys(("yes", "no"), "yes/no"),
    **dict.fromkeys(("circle", "rectangle", "triangle"), "shape"),
    **dict.fromkeys(("black", "blue", "brown", "gray", "green", "red", "teal", "yellow"), "color"),
}
WRITTEN = ("dataset_dict.json", "train", "validation", "test", "README.md", "LICENSE", SETTINGS)

CARD = """---
license: mit
language: en
pretty_name: easy-VQA
task_categories:
- visual-question-answering
size_categories:
- 10K<n<100K
---

# easy-VQA

Questions about one coloured shape in a 64x64 picture, by Victor Zhou (2019), MIT licence, from
https://github.com/vzhou842/easy-VQA, as shipped in the Python package `{package}`.

Written by `mm_hf prepare easy_vqa` with `--seed {seed} --validation_fraction {validation_fraction}`.
Load it with `datasets.load_from_disk`.

| split | questions | images | from |
|---|---|---|---|
{rows}

The validation split was cut from the official train split by image: no picture is in both.

| column | content |
|---|---|
| `image` | the picture, PNG, RGB |
| `image_id` | official split and number, such as `train/123`; the questions of one image are adjacent |
| `question` | text |
| `answer` | class label, 13 answers in the package's order |
| `kind` | `yes/no`, `color` or `shape`, by the answer |
| `row_id` | position in the package's question lists, train then test |
"""


def read_answers(path: Path) -> list[str]:
    """The answers in the order of the package."""
    answers = path.read_text(encoding="utf-8").split()
    if sorted(answers) != sorted(KINDS):
        raise PreparationError(f"{path} lists the answers {sorted(answers)}, expected {sorted(KINDS)}")
    return answers


def read_split(folder: Path, answers: Sequence[str], first_row_id: int) -> Dataset:
    """Reads one official split, with one row per question, in the order of its images.

    The folder holds `questions.json`, a list of [question, answer, image number], and `images/NUMBER.png`.
    """
    questions = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    # The sort is stable, so the questions of one image keep the order of the package.
    order = sorted(range(len(questions)), key=lambda position: questions[position][2])
    features = Features(
        {
            "image": Image(mode="RGB"),
            "image_id": Value("string"),
            "question": Value("string"),
            "answer": ClassLabel(names=list(answers)),
            "kind": Value("string"),
            "row_id": Value("int64"),
        }
    )
    pictures: dict[int, bytes] = {}
    columns: dict[str, list] = {name: [] for name in features}
    for position in progress_bar(order, desc=f"reading {folder.name}", unit=" questions"):
        question, answer, number = questions[position]
        if number not in pictures:
            path = folder / "images" / f"{number}.png"
            if not path.is_file():
                raise PreparationError(
                    f"question {position} of the {folder.name} split needs {path}, which is missing: "
                    f"run `pip install --no-deps --force-reinstall {PACKAGE}`"
                )
            pictures[number] = path.read_bytes()
        columns["image"].append({"bytes": pictures[number], "path": None})
        columns["image_id"].append(f"{folder.name}/{number}")
        columns["question"].append(question)
        columns["answer"].append(answer)
        columns["kind"].append(KINDS[answer])
        columns["row_id"].append(first_row_id + position)
    return Dataset.from_dict(columns, features=features)


def split_by_image(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits off a share of the images, rounded to whole images, each with all its questions.

    Returns:
        the remaining rows and the rows split off, both in their old order. The same seed and fraction give the same
        parts on every machine.
    """
    image_ids = dataset["image_id"][:]
    images = list(dict.fromkeys(image_ids))
    count = round(len(images) * fraction)
    if not 0 < count < len(images):
        raise PreparationError(
            f"validation_fraction {fraction} gives {count} of {len(images)} images to validation; "
            f"allowed are 1 to {len(images) - 1}"
        )
    drawn = set(random.Random(seed).sample(images, count))
    stays = [row for row, image_id in enumerate(image_ids) if image_id not in drawn]
    cut = [row for row, image_id in enumerate(image_ids) if image_id in drawn]
    return dataset.select(stays), dataset.select(cut)


def build(validation_fraction: float, seed: int) -> DatasetDict:
    """Reads the installed package and splits it into train, validation and test."""
    data = package_path(PACKAGE, DATA)
    for name, expected in SHA256.items():
        check_sha256(package_path(PACKAGE, f"{DATA}/{name}"), expected)
    answers = read_answers(data / "answers.txt")
    official_train = read_split(data / "train", answers, first_row_id=0)
    test = read_split(data / "test", answers, first_row_id=len(official_train))
    train, validation = split_by_image(official_train, validation_fraction, seed)
    return DatasetDict(train=train, validation=validation, test=test)


def describe(splits: DatasetDict) -> list[tuple[str, int, int, str]]:
    """Name, questions, images and origin of each split."""
    return [
        (name, len(rows), len(set(rows["image_id"][:])), "official test" if name == "test" else "official train")
        for name, rows in splits.items()
    ]


def write(output: Path, settings: Mapping[str, Any]) -> DatasetDict:
    """Builds the data set and writes it to `output`, with its card, licence and settings."""
    with folder_in_place(output, WRITTEN) as folder:
        splits = build(settings["validation_fraction"], settings["seed"])
        splits.save_to_disk(folder)
        rows = "\n".join(
            f"| {name} | {questions} | {images} | {origin} |" for name, questions, images, origin in describe(splits)
        )
        (folder / "README.md").write_text(CARD.format(rows=rows, **settings), encoding="utf-8")
        (folder / "LICENSE").write_text(package_licence(PACKAGE), encoding="utf-8")
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return splits


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = builder_parser(
        "easy_vqa",
        "Turn the easy-vqa package into a datasets.DatasetDict with train, validation and test.",
        f"Needs `pip install --no-deps {PACKAGE}`. Downloads nothing.",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed for choosing the validation images")
    parser.add_argument(
        "--validation_fraction", type=float, default=0.1, help="share of the official train images for validation"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    options = parse_arguments(arguments)
    settings = {"package": PACKAGE, "seed": options.seed, "validation_fraction": options.validation_fraction}
    titles = ("split", "questions", "images", "from")
    built(options, settings, WRITTEN, write, describe, "{:<12}{:>10}{:>8}  {}", titles)
