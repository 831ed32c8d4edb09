"""Captions word by word: given a picture and the words so far, which word comes next?

    mm_hf prepare caption_steps data/openmoji data/caption_steps

It is made from the output of `mm_hf prepare openmoji`. Each name, in lower case, gives one row per word and one row
for its end, with `.` as the row's `next`. `so_far` starts with `a picture of`, so that no text is empty. The
vocabulary has the words that occur at least twice in the names of the training part. A row with another next word has
no `next`. To write a caption, ask for the next word until the answer is the end.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict

from .common import build_dataset


START, END = "a picture of", "."
MIN_COUNT = 2

CARD = """---
license: cc-by-sa-4.0
language: en
task_categories:
- image-to-text
---

# OpenMoji, captions word by word

Made by `mm_hf prepare caption_steps` of mm_hf from its OpenMoji data set, with the same licences: pictures
CC-BY-SA-4.0 (OpenMoji), names BSD-3-Clause (`emoji`). {rows} rows, each with a picture and the words of its name so
far. The vocabulary has {words} words. {unknown} rows of the test part have a next word that is not in the vocabulary,
so they have no label.
"""


def words_of(part: Dataset) -> list[list[str]]:
    """The words of each name, followed by the end mark."""
    return [[*name.lower().split(), END] for name in part["name"][:]]


def steps(part: Dataset, vocabulary: list[str]) -> Dataset:
    """Makes one row per word of each name."""
    known = {word: number for number, word in enumerate(vocabulary)}
    places: list[int] = []
    columns: dict[str, list[Any]] = {"so_far": [], "next": []}
    for place, words in enumerate(words_of(part)):
        for count, word in enumerate(words):
            places.append(place)
            columns["so_far"].append(" ".join([START, *words[:count]]))
            columns["next"].append(known.get(word))
    rows = part.select_columns(["image", "name", "category"]).select(places)
    for name, values in columns.items():
        rows = rows.add_column(name, values)
    return rows.add_column("row_id", list(range(len(rows)))).cast_column("next", ClassLabel(names=vocabulary))


def build(parts: DatasetDict, seed: int) -> DatasetDict:
    """Builds all parts, with the vocabulary of the training part. Nothing is random, so `seed` has no effect."""
    counts = Counter(word for words in words_of(parts["train"]) for word in words)
    vocabulary = sorted(word for word, count in counts.items() if count >= MIN_COUNT)
    return DatasetDict({name: steps(part, vocabulary) for name, part in parts.items()})


def figures(parts: DatasetDict) -> dict[str, int]:
    """Figures for the card, in addition to the number of rows."""
    unknown = sum(label in (None, -1) for label in parts["test"]["next"][:])
    return {"words": len(parts["train"].features["next"].names), "unknown": unknown}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    build_dataset("caption_steps", __doc__, "openmoji", build, CARD, arguments, figures)
